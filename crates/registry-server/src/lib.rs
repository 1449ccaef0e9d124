//! A registry: the server end of the distribution specification, over a small storage trait.
