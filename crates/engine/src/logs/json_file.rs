//! The driver `json-file`: Docker's format on disk, one document a line.
//!
//! # Layout
//! `containers/<id>/<id>-json.log` and, with rotation, `.1` (newest) to `.<n-1>`, each perhaps with `.gz`.
//!
//! # Exactly once
//! The cursor names the file by its inode, and how much of it counts. Bytes first, then the cursor: after a death what
//! is behind that length is cut off and written again. A rotation renames, makes the new file and then moves the
//! cursor; if the file of the cursor is found as `.1`, what the new file holds does not count yet.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use wharf_linux::hostfs;
use wharf_shim::spool::Stream;

use super::cursor::FileMark;
use super::facts::Facts;
use super::messages::Message;
use super::options::JsonFile;
use super::tail::{Batch, Encode, Tail};

/// Read and write by root, read by its group, as Docker's.
const MODE: Mode = Mode::from_raw_mode(0o640);

/// The file's name in the container's directory.
pub(crate) fn name(id: &str) -> String {
    format!("{id}-json.log")
}

/// Messages as documents.
pub(super) struct Encoder {
    /// `,"attrs":{…}`, or nothing.
    attributes: String,
    /// The last time as text: lines that were read together have the same.
    time: (i64, String),
}

impl Encoder {
    pub(super) fn new(facts: &Facts) -> Result<Self, String> {
        let attributes = facts.attributes()?;
        let mut text = String::new();
        if !attributes.is_empty() {
            let json = serde_json::to_string(&attributes).map_err(|error| error.to_string())?;
            text = format!(",\"attrs\":{}", harmless(&json));
        }
        Ok(Self { attributes: text, time: (i64::MIN, String::new()) })
    }
}

/// JSON that may stand inside of HTML, as Go writes it: these characters occur in strings only.
fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", character as u32))
            }
            other => out.push(other),
        }
    }
    out
}

impl Encode for Encoder {
    fn encode(&mut self, message: &Message<'_>, _number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"log\":\"");
        escape(message.bytes, out);
        if message.ends() {
            out.extend_from_slice(b"\\n");
        }
        let stream: &[u8] = match message.stream {
            Stream::Stdout => b"\",\"stream\":\"stdout\"",
            Stream::Stderr => b"\",\"stream\":\"stderr\"",
        };
        out.extend_from_slice(stream);
        out.extend_from_slice(self.attributes.as_bytes());
        if self.time.0 != message.time_ns {
            let time = Timestamp::from_nanosecond(i128::from(message.time_ns)).unwrap_or_default();
            self.time = (message.time_ns, time.to_string());
        }
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(self.time.1.as_bytes());
        out.extend_from_slice(b"\"}\n");
    }
}

/// A string's inside; what is not UTF-8 becomes the replacement character.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid().as_bytes();
        let mut from = 0;
        for (at, byte) in text.iter().enumerate() {
            let short: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                0..0x20 | b'<' | b'>' | b'&' => b"",
                // U+2028 and U+2029 end lines in JavaScript.
                0xe2 if matches!(text.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => {
                    out.extend_from_slice(&text[from..at]);
                    out.extend_from_slice(if text[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                    from = at + 3;
                    continue;
                }
                _ => continue,
            };
            out.extend_from_slice(&text[from..at]);
            from = at + 1;
            if short.is_empty() {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            } else {
                out.extend_from_slice(short);
            }
        }
        out.extend_from_slice(&text[from..]);
        if !chunk.invalid().is_empty() {
            // As Go, one for each byte.
            (0..chunk.invalid().len()).for_each(|_| out.extend_from_slice(b"\\ufffd"));
        }
    }
}

/// The file that grows.
pub(super) struct Sink {
    directory: OwnedFd,
    name: String,
    options: JsonFile,
    file: File,
    mark: FileMark,
}

impl Sink {
    /// Goes on where the cursor says, in the container's `directory`.
    pub(super) fn open(directory: &Path, id: &str, options: JsonFile, tail: &mut Tail) -> io::Result<Self> {
        let mark = tail.file();
        let directory = hostfs::open_dir(directory).map_err(|error| io::Error::other(error.to_string()))?;
        let name = name(id);
        let rotated = format!("{name}.1");
        let interrupted = match open_regular(&directory, &rotated, OFlags::WRONLY)? {
            Some(file) if mark.inode != 0 && file.metadata()?.ino() == mark.inode => {
                cut(&file, mark.size)?;
                true
            }
            _ => false,
        };
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let file = open_regular(&directory, &name, flags)?.ok_or(Errno::NOENT)?;
        let inode = file.metadata()?.ino();
        if interrupted {
            file.set_len(0)?;
        } else if inode == mark.inode {
            cut(&file, mark.size)?;
        }
        let mark = FileMark { inode, size: file.metadata()?.len() };
        tail.begin_file(mark)?;
        Ok(Self { directory, name, options, file, mark })
    }

    /// Which file, and how long it is.
    pub(super) fn mark(&self) -> FileMark {
        self.mark
    }

    /// Writes a batch, rotating where the file is full. Messages before `done` are there already.
    pub(super) fn write(&mut self, batch: &Batch, done: &mut usize, tail: &mut Tail) -> io::Result<()> {
        while *done < batch.ends.len() {
            let mut end = batch.ends.len();
            if let Some(limit) = self.options.max_size {
                if self.mark.size >= limit {
                    self.rotate(*done as u64, tail)?;
                }
                // As many as fit, and the one that does not.
                let room = batch.start(*done) as u64 + (limit - self.mark.size.min(limit - 1));
                end = *done + batch.ends[*done..].partition_point(|end| (*end as u64) < room) + 1;
                end = end.min(batch.ends.len());
            }
            let bytes = &batch.bytes[batch.start(*done)..batch.ends[end - 1]];
            if let Err(error) = self.file.write_all(bytes) {
                // The disk is full: nothing half written stays.
                cut(&self.file, self.mark.size)?;
                return Err(error);
            }
            self.mark.size += bytes.len() as u64;
            *done = end;
        }
        Ok(())
    }

    fn rotate(&mut self, done: u64, tail: &mut Tail) -> io::Result<()> {
        let of = |number: u32, suffix: &str| format!("{}.{number}{suffix}", self.name);
        let last = self.options.max_files.saturating_sub(1).max(1);
        for suffix in ["", ".gz"] {
            remove(&self.directory, &of(last, suffix))?;
            for number in (1..last).rev() {
                rename(&self.directory, &of(number, suffix), &of(number + 1, suffix))?;
            }
        }
        let newest = of(1, "");
        rename(&self.directory, &self.name, &newest)?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        self.file = open_regular(&self.directory, &self.name, flags)?.ok_or(Errno::NOENT)?;
        self.mark = FileMark { inode: self.file.metadata()?.ino(), size: self.file.metadata()?.len() };
        tail.save_part(done, self.mark)?;
        if self.options.max_files == 1 {
            remove(&self.directory, &newest)?;
        } else if self.options.compress {
            self.compress(&newest)?;
        }
        Ok(())
    }

    /// Replaces a rotated file by its compressed form, which appears whole.
    fn compress(&self, name: &str) -> io::Result<()> {
        let Some(mut plain) = open_regular(&self.directory, name, OFlags::RDONLY)? else { return Ok(()) };
        let (temporary, packed) = (format!("{name}.tmp"), format!("{name}.gz"));
        remove(&self.directory, &temporary)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = open_regular(&self.directory, &temporary, flags)?.ok_or(Errno::NOENT)?;
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        io::copy(&mut plain, &mut encoder)?;
        encoder.finish()?;
        rename(&self.directory, &temporary, &packed)?;
        remove(&self.directory, name)
    }
}

fn cut(file: &File, size: u64) -> io::Result<()> {
    if file.metadata()?.len() > size { file.set_len(size) } else { Ok(()) }
}

/// Opens a regular file beneath the directory: no link is followed and no FIFO waited for. `None` if there is none.
fn open_regular(directory: &OwnedFd, name: &str, flags: OFlags) -> io::Result<Option<File>> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(directory, name, flags, MODE) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not a regular file")));
    }
    Ok(Some(File::from(fd)))
}

fn remove(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn rename(directory: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
    match rustix::fs::renameat(directory, from, directory, to) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use wharf_shim::spool::{Limits, Writer};

    use super::super::facts::tests::some;
    use super::super::messages::Partial;
    use super::*;

    #[test]
    fn documents_are_those_of_docker() {
        let mut encoder = Encoder::new(&some(&[("labels", "tier"), ("tag", "{{.Name}}<&>")])).unwrap();
        let mut out = Vec::new();
        let mut add = |bytes: &[u8], partial: Option<Partial>| {
            let message =
                Message { stream: Stream::Stderr, time_ns: 1_700_000_000_120_000_000, bytes, partial };
            encoder.encode(&message, 0, &mut out);
        };
        add(b"\x01\xff<&>\t\"\\\xe2\x80\xa8\xc3\xa9 \xe2\x82", None);
        add(b"part", Some(Partial { ordinal: 1, last: false }));
        add(b"", Some(Partial { ordinal: 2, last: true }));
        let rest = r#""stream":"stderr","attrs":{"tag":"web\u003c\u0026\u003e","tier":"1"},"time":"2023-11-14T22:13:20.12Z"}"#;
        let wanted = [
            r#"{"log":"\u0001\ufffd\u003c\u0026\u003e\u0009\"\\\u2028é \ufffd\ufffd\n","#,
            r#"{"log":"part","#,
            r#"{"log":"\n","#,
        ];
        let wanted: String = wanted.iter().map(|begin| format!("{begin}{rest}\n")).collect();
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }

    const ID: &str = "c0ffee";

    struct Case {
        dir: tempfile::TempDir,
        options: JsonFile,
    }

    impl Case {
        fn new(max_size: Option<u64>, max_files: u32, compress: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let limits = Limits { segment_bytes: 1 << 20, segments: 4 };
            let mut writer = Writer::open(&dir.path().join("log"), limits).unwrap();
            for number in 0..40 {
                writer.append(Stream::Stdout, number, format!("line {number}\n").as_bytes()).unwrap();
            }
            Self { dir, options: JsonFile { max_size, max_files, compress } }
        }

        fn open(&self) -> (Tail, Sink) {
            let mut tail = Tail::open(&self.dir.path().join("log"), "json-file").unwrap();
            let sink = Sink::open(self.dir.path(), ID, self.options, &mut tail).unwrap();
            (tail, sink)
        }

        fn deliver(&self) {
            let (mut tail, mut sink) = self.open();
            let batch = tail.fill(&mut Encoder::new(&Facts::default()).unwrap(), None, true).unwrap();
            sink.write(&batch, &mut 0, &mut tail).unwrap();
            tail.commit(&batch, sink.mark(), true).unwrap();
        }

        /// The numbers of the lines in one of the files.
        fn numbers(&self, suffix: &str) -> Vec<i64> {
            let bytes = fs::read(self.dir.path().join(format!("{}{suffix}", name(ID)))).unwrap_or_default();
            let mut text = String::new();
            if suffix.ends_with(".gz") && !bytes.is_empty() {
                io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
            } else {
                text = String::from_utf8(bytes).unwrap();
            }
            let number = |line: &str| {
                let document: serde_json::Value = serde_json::from_str(line).unwrap();
                document["log"].as_str().unwrap().trim_start_matches("line ").trim_end().parse().unwrap()
            };
            text.lines().map(number).collect()
        }
    }

    #[test]
    fn every_line_is_there_once_whatever_a_death_left() {
        // Killed after writing and before the cursor was moved, anywhere in the batch.
        for done in 0..40 {
            let case = Case::new(None, 1, false);
            let (mut tail, mut sink) = case.open();
            let mut batch = tail.fill(&mut Encoder::new(&Facts::default()).unwrap(), None, true).unwrap();
            batch.ends.truncate(done);
            sink.write(&batch, &mut 0, &mut tail).unwrap();
            drop((tail, sink));
            case.deliver();
            assert_eq!(case.numbers(""), (0..40).collect::<Vec<_>>(), "{done}");
        }
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_survives_a_death() {
        for (max_files, compress) in [(1, false), (3, false), (3, true)] {
            for killed_at in [1, 9, 17, 18, 33] {
                let case = Case::new(Some(500), max_files, compress);
                let (mut tail, mut sink) = case.open();
                let mut batch = tail.fill(&mut Encoder::new(&Facts::default()).unwrap(), None, true).unwrap();
                batch.ends.truncate(killed_at);
                sink.write(&batch, &mut 0, &mut tail).unwrap();
                drop((tail, sink));
                case.deliver();
                let suffix = |number: u32| format!(".{number}{}", if compress { ".gz" } else { "" });
                let mut all = Vec::new();
                for number in (1..max_files).rev() {
                    all.extend(case.numbers(&suffix(number)));
                }
                all.extend(case.numbers(""));
                let first = all[0];
                assert_eq!(all, (first..40).collect::<Vec<_>>(), "{max_files} files, killed at {killed_at}");
                assert!(first < 40 && (max_files > 1 || first > 30), "{first}");
                assert!(case.numbers(&suffix(max_files)).is_empty());
            }
        }
    }

    #[test]
    fn a_rotation_that_was_cut_is_finished() {
        let case = Case::new(Some(500), 3, false);
        case.deliver();
        let before = [case.numbers(".1"), case.numbers("")].concat();
        // Renamed, and killed before the cursor knew of the new file, into which something was written.
        let path = |suffix: &str| case.dir.path().join(format!("{}{suffix}", name(ID)));
        fs::rename(path(".1"), path(".2")).unwrap();
        fs::rename(path(""), path(".1")).unwrap();
        fs::write(path(""), "half").unwrap();
        case.deliver();
        assert_eq!([case.numbers(".2"), case.numbers(".1")].concat(), before);
        assert!(case.numbers("").is_empty());
    }

    #[test]
    fn sh_04_the_file_is_never_a_link_or_a_fifo() {
        let case = Case::new(None, 1, false);
        let canary = case.dir.path().join("canary");
        fs::write(&canary, "canary").unwrap();
        let path = case.dir.path().join(name(ID));
        std::os::unix::fs::symlink(&canary, &path).unwrap();
        let mut tail = Tail::open(&case.dir.path().join("log"), "json-file").unwrap();
        assert!(Sink::open(case.dir.path(), ID, case.options, &mut tail).is_err());
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, MODE, 0).unwrap();
        assert!(Sink::open(case.dir.path(), ID, case.options, &mut tail).is_err());
        assert_eq!(fs::read_to_string(canary).unwrap(), "canary");
    }
}
