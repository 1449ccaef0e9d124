//! The driver `fluentd`: the forward protocol, MessagePack over TCP, TLS or a unix socket.
//!
//! Without acknowledgements each record is a message of its own, as Docker sends it. With `fluentd-request-ack` a batch
//! is one message with an id that the receiver repeats when it has it; until then the batch is sent again, with the
//! same id.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wharf_shim::spool::Stream;

use super::facts::{Facts, TAG};
use super::messages::Message;
use super::partial_id;
use super::tail::{Batch, Encode};
use super::values::{self, Unit, Url};
use super::wire::{Connection, Place, TlsFiles};

/// The names of its options.
pub(super) const OPTIONS: [&str; 9] = [
    "fluentd-address",
    "fluentd-async",
    "fluentd-async-reconnect-interval",
    "fluentd-buffer-limit",
    "fluentd-max-retries",
    "fluentd-request-ack",
    "fluentd-retry-wait",
    "fluentd-sub-second-precision",
    "fluentd-write-timeout",
];
const PORT: u16 = 24224;
const HERE: &str = "127.0.0.1";

/// Its options, read. Those about the memory buffer and its retries mean nothing here: the spool is the buffer, and it
/// is tried until it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(super) place: Place,
    /// The container starts whether or not the receiver is there.
    pub(super) asynchronous: bool,
    pub(super) acknowledged: bool,
    precise: bool,
}

impl Options {
    /// # Errors
    /// Docker's text.
    pub(super) fn read(options: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = |name: &str| options.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let flag = |name: &str| text(name).map_or(Ok(false), values::boolean);
        let place = place(text("fluentd-address").unwrap_or_default())?;
        if let Some(limit) = text("fluentd-buffer-limit") {
            values::size(limit, Unit::Binary)?;
        }
        if let Some(wait) = text("fluentd-retry-wait") {
            values::duration(wait)?;
        }
        if let Some(retries) = text("fluentd-max-retries") {
            retries
                .parse::<u64>()
                .map_err(|_| format!("strconv.ParseUint: parsing {retries:?}: invalid syntax"))?;
        }
        let asynchronous = flag("fluentd-async")?;
        let named = "fluentd-async-reconnect-interval";
        if let Some(interval) = text(named) {
            let read =
                values::duration(interval).map_err(|error| format!("invalid value for {named}: {error}"))?;
            if !(100..=10_000).contains(&read.as_millis()) {
                return Err(format!(
                    "invalid value for {named}: value ({interval:?}) must be between 100ms and 10s"
                ));
            }
        }
        let precise = flag("fluentd-sub-second-precision")?;
        let acknowledged = flag("fluentd-request-ack")?;
        if let Some(timeout) = text("fluentd-write-timeout") {
            values::duration(timeout).map_err(|error| {
                format!("invalid value for fluentd-write-timeout: value must be a duration: {error}")
            })?;
        }
        Ok(Self { place, asynchronous, acknowledged, precise })
    }
}

fn place(address: &str) -> Result<Place, String> {
    let wrong = |error: String| format!("invalid fluentd-address ({address}): {error}");
    if address.is_empty() {
        return Ok(Place::Tcp { host: HERE.into(), port: PORT });
    }
    let url = if address.contains("://") { address.to_owned() } else { format!("tcp://{address}") };
    let url = Url::parse(&url).map_err(wrong)?;
    if url.scheme == "unix" {
        return match url.path.as_str() {
            "" => Err(wrong("path is empty".into())),
            path => Ok(Place::Unix(PathBuf::from(path))),
        };
    }
    if !matches!(url.scheme.as_str(), "tcp" | "tls") {
        return Err(wrong(format!("unsupported scheme: '{}'", url.scheme)));
    }
    if !url.path.is_empty() {
        return Err(wrong("should not contain a path element".into()));
    }
    let host = if url.host.is_empty() { HERE.to_owned() } else { url.host };
    let port = url.port.unwrap_or(PORT);
    Ok(match url.scheme.as_str() {
        "tls" => Place::Tls { host, port, files: TlsFiles::default() },
        _ => Place::Tcp { host, port },
    })
}

/// Messages as records.
pub(super) struct Encoder {
    id: String,
    tag: String,
    /// The pairs that are the same in all records, packed, and how many.
    fixed: Vec<u8>,
    fixed_pairs: usize,
    precise: bool,
    /// A record is an element of a larger message.
    inner: bool,
}

impl Encoder {
    pub(super) fn new(facts: &Facts, options: &Options) -> Result<Self, String> {
        let mut pairs = facts.chosen(str::to_owned)?;
        // What is the driver's own wins over labels of that name.
        pairs.insert("container_id".into(), facts.id.clone());
        pairs.insert("container_name".into(), format!("/{}", facts.name));
        for own in ["source", "log", "partial_message", "partial_id", "partial_ordinal", "partial_last"] {
            pairs.remove(own);
        }
        let mut fixed = Vec::new();
        for (name, value) in &pairs {
            string(&mut fixed, name.as_bytes());
            string(&mut fixed, value.as_bytes());
        }
        Ok(Self {
            id: facts.id.clone(),
            tag: facts.tag(TAG)?,
            fixed,
            fixed_pairs: pairs.len(),
            precise: options.precise,
            inner: options.acknowledged,
        })
    }

    /// The tag and what comes around records in an acknowledged message: its beginning.
    fn head(tag: &str, records: usize, out: &mut Vec<u8>) {
        out.push(0x93);
        string(out, tag.as_bytes());
        out.push(0xdd);
        out.extend_from_slice(&(records as u32).to_be_bytes());
    }
}

impl Encode for Encoder {
    fn encode(&mut self, message: &Message<'_>, _number: u64, out: &mut Vec<u8>) {
        if self.inner {
            out.push(0x92);
        } else {
            out.push(0x94);
            string(out, self.tag.as_bytes());
        }
        let seconds = message.time_ns.div_euclid(1_000_000_000);
        let nanoseconds = message.time_ns.rem_euclid(1_000_000_000);
        if self.precise {
            out.extend_from_slice(&[0xd7, 0]);
            out.extend_from_slice(&(seconds as u32).to_be_bytes());
            out.extend_from_slice(&(nanoseconds as u32).to_be_bytes());
        } else {
            out.push(0xd3);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        let pairs = self.fixed_pairs + 2 + if message.partial.is_some() { 4 } else { 0 };
        out.push(0xde);
        out.extend_from_slice(&(pairs as u16).to_be_bytes());
        out.extend_from_slice(&self.fixed);
        let source: &[u8] = match message.stream {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        };
        let mut pair = |name: &str, value: &[u8]| {
            string(out, name.as_bytes());
            string(out, value);
        };
        pair("source", source);
        pair("log", message.bytes);
        if let Some(partial) = message.partial {
            pair("partial_message", b"true");
            pair("partial_id", partial_id(&self.id, message).as_bytes());
            pair("partial_ordinal", partial.ordinal.to_string().as_bytes());
            pair("partial_last", partial.last.to_string().as_bytes());
        }
        if !self.inner {
            out.push(0x80);
        }
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        length @ 0..32 => out.push(0xa0 | length as u8),
        length @ 32..0x100 => out.extend_from_slice(&[0xd9, length as u8]),
        length @ 0x100..0x1_0000 => {
            out.push(0xda);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0xdb);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

/// Sends a batch as one message and waits for its acknowledgement.
pub(super) async fn send_acknowledged(
    connection: &mut Connection,
    facts: &Facts,
    batch: &Batch,
) -> Result<(), String> {
    let chunk = format!("{}-{}", facts.short_id(), batch.first);
    let mut message = Vec::with_capacity(batch.bytes.len() + 128);
    Encoder::head(&facts.tag(TAG)?, batch.ends.len(), &mut message);
    message.extend_from_slice(&batch.bytes);
    message.push(0x81);
    string(&mut message, b"chunk");
    string(&mut message, chunk.as_bytes());
    connection.write(&message).await?;
    let acknowledged = connection.answer(acknowledgement).await?;
    if acknowledged == chunk.as_bytes() {
        Ok(())
    } else {
        Err(format!("the receiver acknowledged {:?}, not {chunk:?}", String::from_utf8_lossy(&acknowledged)))
    }
}

/// The id in an acknowledgement, `{"ack": id}`; `None` while it is not whole.
pub(crate) fn acknowledgement(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    const WRONG: &str = "the receiver's answer is no acknowledgement";
    let Some((head, mut rest)) = bytes.split_first() else { return Ok(None) };
    if *head != 0x81 {
        return Err(WRONG.into());
    }
    let mut take = || -> Result<Option<&[u8]>, String> {
        let Some((kind, after)) = rest.split_first() else { return Ok(None) };
        let (digits, fixed) = match kind {
            0xa0..=0xbf => (0, usize::from(kind & 0x1f)),
            0xd9 | 0xc4 => (1, 0),
            0xda | 0xc5 => (2, 0),
            _ => return Err(WRONG.into()),
        };
        let Some((number, after)) = after.split_at_checked(digits) else { return Ok(None) };
        let length = number.iter().fold(fixed, |length, byte| length << 8 | usize::from(*byte));
        let Some((text, after)) = after.split_at_checked(length) else { return Ok(None) };
        rest = after;
        Ok(Some(text))
    };
    match take()? {
        None => return Ok(None),
        Some(b"ack") => {}
        Some(_) => return Err(WRONG.into()),
    }
    Ok(take()?.map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::some;
    use super::super::messages::Partial;
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<Options, String> {
        Options::read(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn addresses_are_read_as_docker_does() {
        let address = |text: &str| options(&[("fluentd-address", text)]).map(|options| options.place);
        let tcp = |host: &str, port| Ok(Place::Tcp { host: host.into(), port });
        assert_eq!(address(""), tcp("127.0.0.1", 24224));
        assert_eq!(address("h"), tcp("h", 24224));
        assert_eq!(address("tcp://h:1"), tcp("h", 1));
        assert_eq!(address("unix:///run/x"), Ok(Place::Unix("/run/x".into())));
        for (bad, reason) in [
            ("foo:x", "parse \"tcp://foo:x\": invalid port \":x\" after host"),
            ("bogus://x", "unsupported scheme: 'bogus'"),
            ("udp://x:1", "unsupported scheme: 'udp'"),
            ("tcp://x/path", "should not contain a path element"),
        ] {
            assert_eq!(address(bad).unwrap_err(), format!("invalid fluentd-address ({bad}): {reason}"));
        }
        let refusal = |name: &str, value: &str| options(&[(name, value)]).unwrap_err();
        assert_eq!(refusal("fluentd-async", "x"), "strconv.ParseBool: parsing \"x\": invalid syntax");
        assert_eq!(refusal("fluentd-buffer-limit", "x"), "invalid size: 'x'");
        assert_eq!(
            refusal("fluentd-async-reconnect-interval", "1ms"),
            "invalid value for fluentd-async-reconnect-interval: value (\"1ms\") must be between 100ms and 10s"
        );
    }

    #[test]
    fn records_are_packed_as_the_protocol_has_them() {
        let message = Message {
            stream: Stream::Stdout,
            time_ns: 1_000_000_002_000_000_005,
            bytes: b"hi",
            partial: None,
        };
        let packed = |pairs: &[(&str, &str)], message: &Message<'_>| {
            let mut out = Vec::new();
            let facts = some(&[("tag", "t"), ("labels", "tier")]);
            Encoder::new(&facts, &options(pairs).unwrap()).unwrap().encode(message, 0, &mut out);
            out
        };
        let plain = packed(&[], &message);
        assert_eq!(plain[..12], *b"\x94\xa1t\xd3\0\0\0\0\x3b\x9a\xca\x02");
        assert_eq!(plain[12..15], [0xde, 0, 5]);
        assert!(plain.ends_with(b"\xa4tier\xa11\xa6source\xa6stdout\xa3log\xa2hi\x80"), "{plain:?}");
        let precise = packed(&[("fluentd-sub-second-precision", "true")], &message);
        assert_eq!(precise[3..13], *b"\xd7\0\x3b\x9a\xca\x02\0\0\0\x05");
        let partial = Message { partial: Some(Partial { ordinal: 2, last: true }), ..message };
        let partial = packed(&[("fluentd-request-ack", "true")], &partial);
        assert_eq!(partial[..2], [0x92, 0xd3]);
        assert!(partial.ends_with(b"\xafpartial_ordinal\xa12\xacpartial_last\xa4true"));
    }

    #[test]
    fn acknowledgements_are_read_and_other_answers_refused() {
        let whole = b"\x81\xa3ack\xa5ab-12";
        for cut in 0..whole.len() {
            assert_eq!(acknowledgement(&whole[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(acknowledgement(whole), Ok(Some(b"ab-12".to_vec())));
        assert_eq!(acknowledgement(b"\x81\xd9\x03ack\xda\0\x01x"), Ok(Some(b"x".to_vec())));
        for bad in [&b"x"[..], b"\x82", b"\x81\xa3acx\xa1x", b"\x81\xa3ack\x01"] {
            assert!(acknowledgement(bad).is_err(), "{bad:?}");
        }
    }
}
