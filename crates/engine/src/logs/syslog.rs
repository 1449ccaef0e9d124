//! The driver `syslog`: RFC 3164 and RFC 5424 lines over UDP, TCP, TLS and unix sockets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use wharf_linux::hostfs;
use wharf_shim::spool::Stream;

use super::facts::{Facts, TAG};
use super::messages::Message;
use super::tail::Encode;
use super::values::Url;
use super::wire::{Place, TlsFiles};

/// The names of its options.
pub(super) const OPTIONS: [&str; 7] = [
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
];
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "",
    "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const DAEMON: u8 = 3;
const PORT: u16 = 514;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// As a local syslog takes it: without a host.
    Local,
    Rfc3164,
    Rfc5424,
    /// With microseconds.
    Rfc5424Micro,
}

/// Its options, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(super) place: Place,
    facility: u8,
    format: Format,
}

impl Options {
    /// # Errors
    /// Docker's text.
    pub(super) fn read(options: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = |name: &str| options.get(name).map_or("", String::as_str);
        let file = |name: &str| Some(text(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
        let tls = TlsFiles {
            authorities: file("syslog-tls-ca-cert"),
            certificate: file("syslog-tls-cert"),
            key: file("syslog-tls-key"),
            // As in Docker the option counts, not its value.
            skip_verify: options.contains_key("syslog-tls-skip-verify"),
        };
        let place = place(text("syslog-address"), tls)?;
        let facility = match text("syslog-facility") {
            "" => DAEMON,
            name => match FACILITIES.iter().position(|facility| *facility == name) {
                Some(number) => number as u8,
                None => name.parse().ok().filter(|number| *number < 24).ok_or("invalid syslog facility")?,
            },
        };
        let format = match text("syslog-format") {
            "" => Format::Local,
            "rfc3164" => Format::Rfc3164,
            "rfc5424" => Format::Rfc5424,
            "rfc5424micro" => Format::Rfc5424Micro,
            _ => return Err("Invalid syslog format".into()),
        };
        Ok(Self { place, facility, format })
    }

    /// `create`'s look at a socket that must be there. (Later it may come and go.)
    ///
    /// # Errors
    /// Docker's text.
    pub(super) fn find_socket(&self) -> Result<(), String> {
        match &self.place {
            Place::Unix(path) | Place::Unixgram(path) if !hostfs::exists(path).unwrap_or(false) => {
                Err(format!("stat {}: no such file or directory", path.display()))
            }
            _ => Ok(()),
        }
    }
}

fn place(address: &str, files: TlsFiles) -> Result<Place, String> {
    if address.is_empty() {
        return Ok(Place::LocalSyslog);
    }
    let url = Url::parse(address)?;
    let (host, port) = (url.host, url.port.unwrap_or(PORT));
    match url.scheme.as_str() {
        "unix" => Ok(Place::Unix(PathBuf::from(url.path))),
        "unixgram" => Ok(Place::Unixgram(PathBuf::from(url.path))),
        "udp" => Ok(Place::Udp { host, port }),
        "tcp" => Ok(Place::Tcp { host, port }),
        "tcp+tls" => Ok(Place::Tls { host, port, files }),
        scheme => Err(format!("unsupported scheme: '{scheme}'")),
    }
}

/// Messages as lines.
pub(super) struct Encoder {
    facility: u8,
    format: Format,
    /// Lines have their length in front, as RFC 5425 wants it, which Docker does with TLS.
    counted: bool,
    tag: String,
    host: String,
    pid: u32,
    line: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(facts: &Facts, options: &Options) -> Result<Self, String> {
        let modern = matches!(options.format, Format::Rfc5424 | Format::Rfc5424Micro);
        Ok(Self {
            facility: options.facility,
            format: options.format,
            counted: modern && matches!(options.place, Place::Tls { .. }),
            // A line break would begin another line, a space another field.
            tag: facts.tag(TAG)?.replace(|c: char| c.is_ascii_control(), " "),
            host: facts.host.clone(),
            pid: std::process::id(),
            line: Vec::new(),
        })
    }
}

impl Encode for Encoder {
    fn encode(&mut self, message: &Message<'_>, _number: u64, out: &mut Vec<u8>) {
        let severity = match message.stream {
            Stream::Stdout => 6,
            Stream::Stderr => 3,
        };
        let priority = self.facility * 8 + severity;
        let time = Timestamp::from_nanosecond(i128::from(message.time_ns)).unwrap_or_default();
        let Self { tag, host, pid, .. } = self;
        let head = match self.format {
            Format::Local => format!("<{priority}>{} {tag}[{pid}]: ", time.strftime("%b %e %H:%M:%S")),
            Format::Rfc3164 => {
                format!("<{priority}>{} {host} {tag}[{pid}]: ", time.strftime("%b %e %H:%M:%S"))
            }
            Format::Rfc5424 => {
                let time = time.strftime("%Y-%m-%dT%H:%M:%SZ");
                format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
            Format::Rfc5424Micro => {
                let time = time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ");
                format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
        };
        self.line.clear();
        self.line.extend_from_slice(head.as_bytes());
        self.line.extend_from_slice(message.bytes);
        self.line.push(b'\n');
        if self.counted {
            out.extend_from_slice(format!("{} ", self.line.len()).as_bytes());
        }
        out.extend_from_slice(&self.line);
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::some;
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<Options, String> {
        Options::read(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn addresses_facilities_and_formats_are_read() {
        let address = |text: &str| options(&[("syslog-address", text)]).map(|options| options.place);
        assert_eq!(address("udp://h"), Ok(Place::Udp { host: "h".into(), port: 514 }));
        assert_eq!(address("tcp://h:7"), Ok(Place::Tcp { host: "h".into(), port: 7 }));
        assert!(matches!(address("tcp+tls://h:7"), Ok(Place::Tls { .. })));
        assert_eq!(address(""), Ok(Place::LocalSyslog));
        assert_eq!(address("foo").unwrap_err(), "unsupported scheme: ''");
        assert_eq!(address("bogus://x").unwrap_err(), "unsupported scheme: 'bogus'");
        let missing = options(&[("syslog-address", "unix:///nonexist")]).unwrap();
        assert_eq!(missing.find_socket().unwrap_err(), "stat /nonexist: no such file or directory");
        let facility = |text: &str| options(&[("syslog-facility", text)]).map(|options| options.facility);
        assert_eq!((facility("local7"), facility("13"), facility("")), (Ok(23), Ok(13), Ok(3)));
        for bad in ["24", "x", "-1"] {
            assert_eq!(facility(bad).unwrap_err(), "invalid syslog facility");
        }
        assert_eq!(options(&[("syslog-format", "x")]).unwrap_err(), "Invalid syslog format");
    }

    #[test]
    fn lines_are_those_of_docker_in_utc() {
        let line = |format: &str, address: &str| {
            let options = options(&[
                ("syslog-format", format),
                ("syslog-address", address),
                ("syslog-facility", "user"),
            ]);
            let facts = some(&[("tag", "{{.Name}}")]);
            let mut out = Vec::new();
            let message = Message {
                stream: Stream::Stderr,
                time_ns: 1_699_305_200_123_456_789,
                bytes: b"hello",
                partial: None,
            };
            Encoder::new(&facts, &options.unwrap()).unwrap().encode(&message, 0, &mut out);
            String::from_utf8(out).unwrap().replace(&std::process::id().to_string(), "PID")
        };
        assert_eq!(line("", "udp://h"), "<11>Nov  6 21:13:20 web[PID]: hello\n");
        assert_eq!(line("rfc3164", "udp://h"), "<11>Nov  6 21:13:20 machine web[PID]: hello\n");
        assert_eq!(line("rfc5424", "udp://h"), "<11>1 2023-11-06T21:13:20Z machine web PID web - hello\n");
        let micro = "<11>1 2023-11-06T21:13:20.123456Z machine web PID web - hello\n";
        assert_eq!(line("rfc5424micro", "tcp://h"), micro);
        assert!(line("rfc5424micro", "tcp+tls://h").ends_with(micro));
        assert_ne!(line("rfc5424micro", "tcp+tls://h"), micro);
    }
}
