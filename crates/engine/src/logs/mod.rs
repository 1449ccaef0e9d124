//! Logs: what becomes of a container's output behind the spool.
//!
//! The spool is the truth (ADR 0006): `logs` reads it ([`read`]), whatever the driver. A driver other than `local` and
//! `none` is a follower ([`follow`]) with a cursor of its own, which takes lines from the spool ([`tail`], [`messages`]),
//! encodes them ([`json_file`], [`journald`], [`syslog`], [`fluentd`], [`gelf`]) and hands them to a file or a connection
//! ([`wire`]). Closed segments are compressed in the background ([`pack`]).
//!
//! # Promises
//! A driver's receiver that is slow or dead holds up nothing but its own follower; in blocking mode the container waits
//! when the follower is half a spool behind, and `stop`, `rm` and `logs` work all the same. After any death of the engine
//! a follower goes on behind what its cursor says was delivered: exactly once into a file, at most one batch twice to a
//! receiver that does not say what it has.

mod cursor;
mod facts;
mod fluentd;
pub(crate) mod follow;
mod gelf;
mod journald;
mod json_file;
mod messages;
mod options;
mod pack;
mod read;
mod syslog;
mod tail;
mod template;
mod values;
mod wire;

pub(crate) use facts::Facts;
pub(crate) use follow::LogFollower;
pub(crate) use json_file::name as json_file_name;
pub use options::{DRIVERS, validate_defaults};
pub(crate) use options::{Driver, Settings, default_driver, merge, validate};
pub(crate) use pack::Packer;
pub(crate) use read::spool_error;

pub(crate) use journald::SOCKET as JOURNAL;

/// One id for all pieces of a line, the same whenever it is asked for.
fn partial_id(container: &str, message: &messages::Message<'_>) -> String {
    crate::containers::derived_id(&format!("{container} {:?} {}", message.stream, message.time_ns))
}

/// Readers of foreign bytes, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz {
    use super::{cursor, fluentd, options, template, values};

    /// What a receiver of the forward protocol answers.
    pub fn acknowledgement(bytes: &[u8]) {
        let _either = fluentd::acknowledgement(bytes);
    }

    /// A cursor's slot.
    pub fn cursor(bytes: &[u8]) {
        cursor::fuzz(bytes);
    }

    /// Values of options, as users write them.
    pub fn option(text: &str) {
        let _either = template::fill(text, |path| Some(template::Value::Text(path.concat())));
        let _either = values::size(text, values::Unit::Decimal);
        let _either = values::duration(text);
        let _either = values::Url::parse(text);
        for (driver, name) in [
            ("syslog", "syslog-address"),
            ("fluentd", "fluentd-address"),
            ("gelf", "gelf-address"),
            ("json-file", "max-size"),
        ] {
            let options = [(name.to_owned(), text.to_owned())].into();
            let _either =
                options::Settings::read(&wharf_model::spec::LogSpec { driver: driver.into(), options });
        }
    }
}
