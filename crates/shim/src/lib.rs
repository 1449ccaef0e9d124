//! The per-container monitor: its process, its protocol and the output spool.
