//! The Docker Engine API over the engine: decode, call, encode.
//!
//! A request goes through [`versions`] (the version leaves the path and becomes a value), then to its route in
//! [`routes`], whose handler of some fifteen lines decodes ([`request`], [`convert`], and [`adapt`] for old versions),
//! makes one call of the engine, and encodes ([`convert`], [`adapt`], [`shape`]). Errors of any layer become
//! [`error::Failure`] and have their status there. Nothing of HTTP reaches the engine, nothing of the engine's state is
//! kept here.
//!
//! Limits: a head has at most 64 KiB and five minutes to arrive; a JSON body has at most 4 MiB; archives and output
//! are passed on piece by piece, as the other side takes them, so a slow client holds one piece. A client that leaves
//! ends what was done for it: its answer, and with it the engine's stream, is dropped.

mod adapt;
mod convert;
mod drain;
mod error;
mod hijack;
mod request;
mod response;
mod routes;
mod serve;
mod shape;
mod shapes;
mod versions;

pub use serve::serve;
pub use versions::router;
