//! `attach` and `resize`.

use std::path::PathBuf;

use wharf_shim::protocol::Request;
use wharf_shim::spool::{self, Entry, Position, Reader};

use super::Phase;
use crate::blocking::blocking;
use crate::logs::spool_error;
use crate::session::{DetachKeys, Input, OutputStream, Session, Source, Until, chunk, expect_ok, pump};
use crate::{AttachOptions, Engine, Error, OutputChunk, Result};

/// Bytes handed on per read.
const BATCH: usize = 256 * 1024;

impl Engine {
    /// Joins a container's streams. Of one that does not run yet, the next run's.
    ///
    /// # Errors
    /// [`Error::Conflict`] for a frozen or restarting container, [`Error::Invalid`] for bad detach keys.
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<Session> {
        let container = self.find(name)?;
        let (tty, open_stdin, once, phase) = {
            let record = container.record();
            (record.spec.tty, record.spec.open_stdin, record.spec.stdin_once, record.phase)
        };
        match phase {
            Phase::Paused => {
                return Err(Error::Conflict(format!(
                    "container {name} is paused, unpause the container before attach"
                )));
            }
            Phase::Restarting => {
                return Err(Error::Conflict(format!(
                    "container {name} is restarting, wait until the container is running"
                )));
            }
            _ => {}
        }
        let keys = DetachKeys::parse(options.detach_keys.as_deref())?;
        let until = {
            let progress = container.progress.borrow();
            match (options.stream, progress.running) {
                (false, _) => Until::Now,
                (true, true) => Until::RunEnds,
                (true, false) => Until::RunAfter(progress.run),
            }
        };
        let directory = self.inner.config.containers_dir().join(container.id.as_str()).join("log");
        let from = if options.logs { spool::Origin::Start } else { spool::Origin::End };
        let (stdout, stderr) = (options.stdout, options.stderr);
        let source = blocking(move || AttachSource::open(directory, from, stdout, stderr)).await?;
        let (sender, output) = OutputStream::new();
        let input = (options.stdin && options.stream && open_stdin)
            .then(|| Input::to_container(container.clone(), once, tty.then_some(keys)));
        let (engine, subject) = (self.clone(), container.clone());
        let input = input.map(|input| input.on_detach(move || engine.emit(&subject, "detach", &[])));
        self.emit(&container, "attach", &[]);
        tokio::spawn(pump(Box::new(source), container, sender, until, true));
        Ok(Session { tty, output, input })
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it does not run.
    pub async fn resize_container(&self, name: &str, rows: u16, cols: u16) -> Result<()> {
        let container = self.find(name)?;
        let link = container.running_link()?;
        if container.record().spec.tty {
            link.ask(Request::Resize { exec: None, rows, cols }, &[]).await.and_then(expect_ok)?;
        }
        self.emit(&container, "resize", &[("height", rows.to_string()), ("width", cols.to_string())]);
        Ok(())
    }
}

/// Records as they are, without lines.
struct AttachSource {
    directory: PathBuf,
    from: spool::Origin,
    /// `None` until there is a spool.
    reader: Option<Reader>,
    stdout: bool,
    stderr: bool,
}

impl AttachSource {
    fn open(directory: PathBuf, from: spool::Origin, stdout: bool, stderr: bool) -> Result<Self> {
        let mut source = Self { directory, from, reader: None, stdout, stderr };
        source.open_reader()?;
        Ok(source)
    }

    fn open_reader(&mut self) -> Result<()> {
        self.reader = match Reader::open_at(&self.directory, self.from) {
            Ok(reader) => Some(reader),
            Err(error) if error.is_missing() => {
                // Everything that a later first look finds is new.
                self.from = spool::Origin::Start;
                None
            }
            Err(error) => return Err(spool_error(&error)),
        };
        Ok(())
    }
}

impl Source for AttachSource {
    fn read(&mut self) -> Result<Vec<OutputChunk>> {
        if self.reader.is_none() {
            self.open_reader()?;
        }
        let Some(reader) = &mut self.reader else { return Ok(Vec::new()) };
        let mut chunks = Vec::new();
        let mut taken = 0;
        // Records of an unwanted stream are skipped without end: an empty answer means that there is no more.
        while taken < BATCH || chunks.is_empty() {
            match reader.next().map_err(|error| spool_error(&error))? {
                None => break,
                Some(Entry::Record(record)) => {
                    taken += record.bytes.len();
                    let wanted = match record.stream {
                        spool::Stream::Stdout => self.stdout,
                        spool::Stream::Stderr => self.stderr,
                    };
                    if wanted {
                        chunks.push(chunk(record.stream, record.bytes.to_vec()));
                    }
                }
                Some(Entry::Gap { .. }) => {}
            }
        }
        Ok(chunks)
    }

    fn finish(&mut self) -> Result<Vec<OutputChunk>> {
        Ok(Vec::new())
    }

    fn position(&self) -> Position {
        self.reader.as_ref().map(Reader::position).unwrap_or_default()
    }
}
