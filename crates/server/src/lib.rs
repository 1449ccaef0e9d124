//! The Docker Engine API over the engine: decode, call, encode.
//!
//! A request goes through [`versions`] (the version leaves the path and becomes a value), then to its route in
//! [`routes`], whose handler of some fifteen lines decodes ([`request`], [`convert`], and [`adapt`] for old versions),
//! makes one call of the engine, and encodes ([`convert`], [`adapt`], [`shape`]). Errors of any layer become
//! [`error::Failure`] and have their status there. Nothing of HTTP reaches the engine, nothing of the engine's state is
//! kept here.
//!
//! Limits: a head has at most 64 KiB and 100 fields, and five minutes to arrive (one over the network); a JSON body has at
//! most 4 MiB and a minute; a door has so many connections ([`serve`](serve::serve)); archives and output are passed on
//! piece by piece, as the other side takes them, so a slow client holds one piece. A client that leaves ends what was
//! done for it: its answer, and with it the engine's stream, is dropped.

mod adapt;
mod authorize;
mod convert;
mod drain;
mod error;
mod guard;
mod hijack;
mod request;
mod response;
mod routes;
mod serve;
mod shape;
mod shapes;
mod stream;
mod tls;
mod unambiguous;
mod versions;

pub use authorize::Authorization;
pub use serve::{Door, serve};
pub use tls::{Certificates, Tls, TlsFiles};
pub use versions::router;
