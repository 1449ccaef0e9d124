//! The OCI runtime, as a library and as the wharf-runtime command.
