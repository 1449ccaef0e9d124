//! `wharf-registry`: serves a registry.

fn main() {}
