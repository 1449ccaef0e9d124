//! The Docker Engine API over the engine: decode, call, encode.
