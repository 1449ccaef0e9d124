//! The built `wharf-shim` as an engine meets it.

mod health;
mod lifecycle;
mod streams;
mod support;
