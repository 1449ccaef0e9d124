//! `logs`: lines from the spool.

use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;
use wharf_shim::spool::{self, Lines, Piece, Position, Reader};

use super::{Facts, Settings};
use crate::blocking::blocking;
use crate::session::{OutputStream, Source, Until, chunk, pump};
use crate::{Engine, Error, LogOptions, OutputChunk, Result, Stream};

/// A batch of lines of one stream goes out at this size.
const BATCH: usize = 64 * 1024;
/// Batches per read from disk.
const BATCHES: usize = 8;

impl Engine {
    /// A container's output; the flag says whether it had a terminal.
    ///
    /// # Errors
    /// [`Error::Invalid`] when neither stream is asked for, [`Error::Conflict`] with the log driver `none`.
    pub async fn logs(&self, name: &str, options: LogOptions) -> Result<(bool, OutputStream)> {
        let container = self.find(name)?;
        if !options.stdout && !options.stderr {
            return Err(Error::Invalid("Bad parameters: you must choose at least one stream".into()));
        }
        let (tty, readable, prefix) = {
            let record = container.record();
            let readable = Settings::read(&record.spec.host.log).is_ok_and(|settings| settings.readable);
            let facts = options.details.then(|| Facts::of(&record, String::new()));
            (record.spec.tty, readable, facts.map(|facts| facts.details()).unwrap_or_default())
        };
        if !readable {
            return Err(Error::NotImplemented("configured logging driver does not support reading".into()));
        }
        let directory = self.inner.config.containers_dir().join(container.id.as_str()).join("log");
        let follow = options.follow && container.record().is_running();
        let source = blocking(move || LogSource::open(directory, options, prefix)).await?;
        let (sender, stream) = OutputStream::new();
        let until = if follow { Until::RunEnds } else { Until::Now };
        tokio::spawn(pump(Box::new(source), container, sender, until, false));
        Ok((tty, stream))
    }
}

struct LogSource {
    directory: PathBuf,
    /// `None` until there is a spool: a container that never ran has none.
    lines: Option<Lines>,
    options: LogOptions,
    prefix: String,
    since_ns: i64,
    until_ns: i64,
    /// Past `until`: nothing more will be given.
    done: bool,
}

impl LogSource {
    fn open(directory: PathBuf, options: LogOptions, prefix: String) -> Result<Self> {
        let nanoseconds =
            |time: Option<Timestamp>| time.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
        let mut source = Self {
            directory,
            lines: None,
            prefix,
            since_ns: nanoseconds(options.since).unwrap_or(i64::MIN),
            until_ns: nanoseconds(options.until).unwrap_or(i64::MAX),
            done: false,
            options,
        };
        source.open_lines()?;
        Ok(source)
    }

    fn open_lines(&mut self) -> Result<()> {
        let opened = match self.options.tail {
            Some(count) => spool::tail(&self.directory, count),
            None => Reader::open_at(&self.directory, spool::Origin::Start).map(Lines::new),
        };
        self.lines = match opened {
            Ok(lines) => Some(lines),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(spool_error(&error)),
        };
        Ok(())
    }
}

pub(crate) fn spool_error(error: &spool::SpoolError) -> Error {
    Error::System(format!("the container's output cannot be read: {error}"))
}

/// Lines on their way into chunks of one stream each.
#[derive(Default)]
struct Batches {
    chunks: Vec<OutputChunk>,
    open: Vec<u8>,
    stream: Option<spool::Stream>,
}

impl Batches {
    fn add(&mut self, options: &LogOptions, prefix: &str, line: &spool::Line<'_>, starts: bool) {
        let wanted = match line.stream {
            spool::Stream::Stdout => options.stdout,
            spool::Stream::Stderr => options.stderr,
        };
        if !wanted {
            return;
        }
        if self.stream != Some(line.stream) || self.open.len() + line.bytes.len() > BATCH {
            self.close();
            self.stream = Some(line.stream);
        }
        if starts && options.timestamps {
            write_time(&mut self.open, line.time_ns);
        }
        if starts {
            self.open.extend_from_slice(prefix.as_bytes());
        }
        self.open.extend_from_slice(line.bytes);
    }

    fn close(&mut self) {
        if let Some(stream) = self.stream
            && !self.open.is_empty()
        {
            self.chunks.push(chunk(stream, Bytes::from(std::mem::take(&mut self.open))));
        }
    }

    fn finish(mut self) -> Vec<OutputChunk> {
        self.close();
        self.chunks
    }
}

/// `2026-01-02T03:04:05.123456789Z `, always nine digits, as log readers expect.
fn write_time(out: &mut Vec<u8>, time_ns: i64) {
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or_default();
    // A Vec never refuses.
    let _written = write!(out, "{time:.9} ");
}

impl Source for LogSource {
    fn read(&mut self) -> Result<Vec<OutputChunk>> {
        if self.done {
            return Ok(Vec::new());
        }
        if self.lines.is_none() {
            self.open_lines()?;
        }
        let Some(lines) = &mut self.lines else { return Ok(Vec::new()) };
        let mut batches = Batches::default();
        while batches.chunks.len() < BATCHES {
            match lines.next().map_err(|error| spool_error(&error))? {
                None => break,
                Some(Piece::Line(line)) => {
                    if line.time_ns > self.until_ns {
                        self.done = true;
                        break;
                    }
                    if line.time_ns >= self.since_ns {
                        batches.add(&self.options, &self.prefix, &line, true);
                    }
                }
                Some(Piece::Gap { .. }) => {
                    batches.close();
                    let notice = "wharf: some output is missing here: it was rotated away or damaged\n";
                    batches.chunks.push(OutputChunk {
                        stream: Stream::Stderr,
                        bytes: Bytes::from_static(notice.as_bytes()),
                    });
                }
            }
        }
        Ok(batches.finish())
    }

    fn finish(&mut self) -> Result<Vec<OutputChunk>> {
        let mut batches = Batches::default();
        if let Some(lines) = self.lines.as_mut().filter(|_| !self.done) {
            while let Some(line) = lines.flush() {
                if line.time_ns >= self.since_ns && line.time_ns <= self.until_ns {
                    batches.add(&self.options, &self.prefix, &line, true);
                }
            }
        }
        Ok(batches.finish())
    }

    fn is_over(&self) -> bool {
        self.done
    }

    fn position(&self) -> Position {
        self.lines.as_ref().map(Lines::position).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_have_nine_digits() {
        let mut out = Vec::new();
        super::write_time(&mut out, 1_700_000_000_120_000_000);
        assert_eq!(String::from_utf8(out).unwrap(), "2023-11-14T22:13:20.120000000Z ");
    }
}
