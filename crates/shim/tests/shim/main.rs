//! The built `wharf-shim` as an engine meets it.

mod lifecycle;
mod streams;
mod support;
