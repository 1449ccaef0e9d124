//! The driver `journald`: the journal's native protocol, one datagram an entry, with Docker's fields.

use std::path::Path;

use wharf_shim::spool::Stream;

use super::facts::{Facts, TAG};
use super::messages::Message;
use super::partial_id;
use super::tail::Encode;

/// Where the journal listens.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// `start`'s look at the journal. (Later it may come and go.)
///
/// # Errors
/// Docker's text, without a journal on this machine.
pub(super) fn find(socket: &Path) -> Result<(), String> {
    if wharf_linux::hostfs::exists(socket).unwrap_or(false) {
        Ok(())
    } else {
        Err("journald is not enabled on this host".to_owned())
    }
}

/// Messages as entries.
pub(super) struct Encoder {
    id: String,
    /// The fields that are the same in all entries.
    fixed: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(facts: &Facts) -> Result<Self, String> {
        let mut fixed = Vec::new();
        let tag = facts.tag(TAG)?;
        for (name, value) in [
            ("CONTAINER_ID", facts.short_id()),
            ("CONTAINER_ID_FULL", &facts.id),
            ("CONTAINER_NAME", &facts.name),
            ("CONTAINER_TAG", &tag),
            ("IMAGE_NAME", &facts.image),
            ("SYSLOG_IDENTIFIER", &tag),
            // Together with the ordinal it tells an entry that came twice.
            ("CONTAINER_LOG_EPOCH", &facts.id),
        ] {
            field(&mut fixed, name, value.as_bytes());
        }
        for (name, value) in facts.chosen(field_name)? {
            if !name.is_empty() {
                field(&mut fixed, &name, value.as_bytes());
            }
        }
        Ok(Self { id: facts.id.clone(), fixed })
    }
}

impl Encode for Encoder {
    fn encode(&mut self, message: &Message<'_>, number: u64, out: &mut Vec<u8>) {
        field(out, "MESSAGE", message.bytes);
        let priority: &[u8] = match message.stream {
            Stream::Stdout => b"6",
            Stream::Stderr => b"3",
        };
        field(out, "PRIORITY", priority);
        out.extend_from_slice(&self.fixed);
        let time = jiff::Timestamp::from_nanosecond(i128::from(message.time_ns)).unwrap_or_default();
        field(out, "SYSLOG_TIMESTAMP", time.to_string().as_bytes());
        field(out, "CONTAINER_LOG_ORDINAL", (number + 1).to_string().as_bytes());
        if let Some(partial) = message.partial {
            field(out, "CONTAINER_PARTIAL_ID", partial_id(&self.id, message).as_bytes());
            field(out, "CONTAINER_PARTIAL_ORDINAL", partial.ordinal.to_string().as_bytes());
            field(out, "CONTAINER_PARTIAL_LAST", partial.last.to_string().as_bytes());
            if !partial.last {
                field(out, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
        }
    }
}

/// Values with line breaks have their length in front.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Upper case, digits and underscores, and not an underscore first: those are the journal's own.
fn field_name(name: &str) -> String {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(upper).skip_while(|c| *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::some;
    use super::super::messages::Partial;
    use super::*;

    #[test]
    fn entries_have_dockers_fields() {
        let facts = some(&[("labels", "com.team"), ("env", "MODE"), ("tag", "a\nb")]);
        let mut out = Vec::new();
        let message = Message {
            stream: Stream::Stderr,
            time_ns: 1_700_000_000_120_000_000,
            bytes: b"he\xffllo",
            partial: Some(Partial { ordinal: 1, last: false }),
        };
        Encoder::new(&facts).unwrap().encode(&message, 6, &mut out);
        let text = String::from_utf8_lossy(&out);
        for wanted in [
            "MESSAGE=he\u{fffd}llo\nPRIORITY=3\nCONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef",
            "\nCONTAINER_NAME=web\n",
            "\nCONTAINER_TAG\n\x03\0\0\0\0\0\0\0a\nb\nIMAGE_NAME=shop/web:1\n",
            "\nCOM_TEAM=x,y\nMODE=fast\n",
            "\nSYSLOG_TIMESTAMP=2023-11-14T22:13:20.12Z\nCONTAINER_LOG_ORDINAL=7\n",
            "\nCONTAINER_PARTIAL_ORDINAL=1\nCONTAINER_PARTIAL_LAST=false\nCONTAINER_PARTIAL_MESSAGE=true\n",
        ] {
            assert!(text.contains(wanted), "{wanted:?} in {text:?}");
        }
        assert_eq!(field_name("__a.b-C1é"), "A_B_C1_");
    }
}
