//! The driver `gelf`: Graylog's documents, compressed in datagrams or one after the other over TCP.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::{Map, Value, json};
use wharf_shim::spool::Stream;

use super::facts::{Facts, TAG};
use super::messages::Message;
use super::tail::{Batch, Encode};
use super::values::{self, Url};
use super::wire::Place;

/// The names of its options.
pub(super) const OPTIONS: [&str; 5] = [
    "gelf-address",
    "gelf-compression-type",
    "gelf-compression-level",
    "gelf-tcp-max-reconnect",
    "gelf-tcp-reconnect-delay",
];
const PORT: u16 = 12201;
/// A longer datagram is sent in chunks.
const CHUNK: usize = 1420;
const CHUNK_HEADER: usize = 12;
/// The protocol's limit; what needs more cannot be sent in datagrams.
const CHUNKS: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zlib,
    None,
}

/// Its options, read. A receiver that is gone is tried until it is back, whatever they say about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(super) place: Place,
    compression: Compression,
    level: u32,
}

impl Options {
    /// # Errors
    /// Docker's text.
    pub(super) fn read(options: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = |name: &str| options.get(name).map(String::as_str);
        let address = text("gelf-address").filter(|text| !text.is_empty());
        let url = Url::parse(address.ok_or("gelf-address is a required parameter")?)?;
        let (host, port) = (url.host, url.port);
        let missing = || format!("gelf: please provide gelf-address as proto://host:port, got {host:?}");
        let port = port.or((!host.is_empty()).then_some(PORT)).ok_or_else(missing)?;
        let udp = match url.scheme.as_str() {
            "udp" => true,
            "tcp" => false,
            _ => return Err("gelf: endpoint needs to be TCP or UDP".into()),
        };
        let only = |name: &str, wanted: bool| match options.contains_key(name) && udp != wanted {
            true => Err(format!("{} is only supported for {}", name, if wanted { "UDP" } else { "TCP" })),
            false => Ok(()),
        };
        only("gelf-compression-type", true)?;
        only("gelf-compression-level", true)?;
        only("gelf-tcp-max-reconnect", false)?;
        only("gelf-tcp-reconnect-delay", false)?;
        for name in ["gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"] {
            if let Some(value) = text(name)
                && !values::integer(value).is_ok_and(|number| number >= 0)
            {
                return Err(format!("{name:?} must be a positive integer"));
            }
        }
        let compression = match text("gelf-compression-type") {
            None | Some("gzip") => Compression::Gzip,
            Some("zlib") => Compression::Zlib,
            Some("none") => Compression::None,
            Some(_) => {
                return Err("unknown value for log opt \"gelf-compression-type\" for gelf log driver".into());
            }
        };
        let level = match text("gelf-compression-level") {
            None => 1,
            Some(text) => match values::integer(text) {
                Ok(-1) => 6,
                Ok(level @ 0..=9) => level as u32,
                _ => {
                    return Err(
                        "unknown value for log opt \"gelf-compression-level\" for gelf log driver".into()
                    );
                }
            },
        };
        let place = if udp { Place::Udp { host, port } } else { Place::Tcp { host, port } };
        let compression = if udp { compression } else { Compression::None };
        Ok(Self { place, compression, level })
    }
}

/// Messages as documents.
pub(super) struct Encoder {
    options: Options,
    fixed: Map<String, Value>,
}

impl Encoder {
    pub(super) fn new(facts: &Facts, options: &Options) -> Result<Self, String> {
        let mut fixed = Map::new();
        for (name, value) in facts.chosen(|name| format!("_{name}"))? {
            fixed.insert(name, json!(value));
        }
        for (name, value) in [
            ("version", "1.1"),
            ("host", &facts.host),
            ("_container_id", &facts.id),
            ("_container_name", &facts.name),
            ("_image_id", &facts.image_id),
            ("_image_name", &facts.image),
            ("_command", &facts.command.join(" ")),
            ("_tag", &facts.tag(TAG)?),
            ("_created", &facts.created.to_string()),
        ] {
            fixed.insert(name.to_owned(), json!(value));
        }
        Ok(Self { options: options.clone(), fixed })
    }
}

impl Encode for Encoder {
    fn encode(&mut self, message: &Message<'_>, _number: u64, out: &mut Vec<u8>) {
        let mut document = self.fixed.clone();
        document.insert("short_message".into(), json!(String::from_utf8_lossy(message.bytes)));
        // Milliseconds, as far as a float of this size is exact.
        document.insert("timestamp".into(), json!(message.time_ns.div_euclid(1_000_000) as f64 / 1000.0));
        let level = match message.stream {
            Stream::Stdout => 6,
            Stream::Stderr => 3,
        };
        document.insert("level".into(), json!(level));
        let text = Value::Object(document).to_string();
        let level = flate2::Compression::new(self.options.level);
        // Writing to memory never fails.
        match self.options.compression {
            Compression::None => out.extend_from_slice(text.as_bytes()),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(&mut *out, level);
                let _written = encoder.write_all(text.as_bytes());
            }
            Compression::Zlib => {
                let mut encoder = flate2::write::ZlibEncoder::new(&mut *out, level);
                let _written = encoder.write_all(text.as_bytes());
            }
        }
        if !matches!(self.options.place, Place::Udp { .. }) {
            out.push(0);
        }
    }
}

/// The documents of a batch from `done` on, as datagrams.
pub(super) fn split(batch: &Batch, done: usize) -> Batch {
    let mut split = Batch::default();
    for index in done..batch.ends.len() {
        for datagram in datagrams(batch.message(index), batch.first + index as u64) {
            split.bytes.extend_from_slice(&datagram);
            split.ends.push(split.bytes.len());
        }
    }
    split
}

/// A document as datagrams: itself, or numbered chunks; none if it would be too many.
fn datagrams(document: &[u8], id: u64) -> Vec<Vec<u8>> {
    if document.len() <= CHUNK {
        return vec![document.to_vec()];
    }
    let pieces: Vec<&[u8]> = document.chunks(CHUNK - CHUNK_HEADER).collect();
    if pieces.len() > CHUNKS {
        return Vec::new();
    }
    let count = pieces.len() as u8;
    let chunk = |(number, piece): (usize, &&[u8])| {
        let mut bytes = vec![0x1e, 0x0f];
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&[number as u8, count]);
        bytes.extend_from_slice(piece);
        bytes
    };
    pieces.iter().enumerate().map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::some;
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<Options, String> {
        Options::read(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn documents_have_dockers_fields() {
        let facts = some(&[("env", "MODE")]);
        let message =
            Message { stream: Stream::Stderr, time_ns: 1_500_000_000, bytes: b"h\xffi", partial: None };
        let mut out = Vec::new();
        let options = options(&[("gelf-address", "tcp://h:1")]).unwrap();
        Encoder::new(&facts, &options).unwrap().encode(&message, 0, &mut out);
        assert_eq!(out.pop(), Some(0));
        let document: Value = serde_json::from_slice(&out).unwrap();
        for (name, wanted) in [
            ("version", json!("1.1")),
            ("host", json!("machine")),
            ("short_message", json!("h\u{fffd}i")),
            ("timestamp", json!(1.5)),
            ("level", json!(3)),
            ("_container_name", json!("web")),
            ("_tag", json!("0123456789ab")),
            ("_MODE", json!("fast")),
        ] {
            assert_eq!(document[name], wanted, "{name}");
        }
    }

    #[test]
    fn options_are_checked() {
        assert_eq!(options(&[]).unwrap_err(), "gelf-address is a required parameter");
        let address = ("gelf-address", "udp://h:1");
        assert_eq!(options(&[address]).unwrap().compression, Compression::Gzip);
        assert!(options(&[address, ("gelf-compression-type", "x")]).is_err());
        assert!(options(&[address, ("gelf-compression-level", "10")]).is_err());
        assert!(options(&[("gelf-address", "tcp://h:1"), ("gelf-compression-level", "1")]).is_err());
        assert_eq!(
            options(&[("gelf-address", "http://h:1")]).unwrap_err(),
            "gelf: endpoint needs to be TCP or UDP"
        );
    }

    #[test]
    fn long_documents_are_cut_into_numbered_chunks() {
        assert_eq!(datagrams(b"short", 1), [b"short"]);
        let document: Vec<u8> = (0..5_000_u32).map(|number| number as u8).collect();
        let chunks = datagrams(&document, 7);
        assert_eq!(chunks.len(), 4);
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk.len() <= CHUNK && chunk[..10] == [0x1e, 0x0f, 0, 0, 0, 0, 0, 0, 0, 7])
        );
        let joined: Vec<u8> = chunks.iter().flat_map(|chunk| chunk[CHUNK_HEADER..].to_vec()).collect();
        assert_eq!(joined, document);
        assert!(datagrams(&vec![0; CHUNK * 200], 1).is_empty());
    }
}
