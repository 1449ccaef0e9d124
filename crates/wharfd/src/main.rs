//! Binary under construction.
fn main() {}
