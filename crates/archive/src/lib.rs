//! Tar streams, and trees of files as tar streams.
//!
//! - [`tar`] reads streams strictly and writes them whole.
//! - [`pack`] turns files into entries, [`extract`](mod@extract) entries into files. Both reach files by descriptor
//!   only: a tree belongs to whoever runs in it, and a stream to whoever wrote it.
//!
//! The engine packs containers' files (`cp`, `export`, `commit`) and extracts what a client sends; the command line
//! packs the user's files and extracts what an engine sends. Neither trusts the other.

pub mod extract;
pub mod pack;
pub mod tar;
