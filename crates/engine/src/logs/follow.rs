//! The task that follows a container's spool for its log driver.
//!
//! There is at most one per container. It begins with a run (or with an engine that finds something undelivered) and
//! ends when nothing runs and everything is delivered. [`LogFollower::task`] is the lock under which it decides to end, so
//! that a run that begins at that moment gets a new one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use wharf_shim::protocol::Request;
use wharf_shim::spool::Position;

use super::cursor::Cursor;
use super::tail::{Batch, Encode, Hurry, Tail};
use super::wire::{Connection, Place, connect};
use super::{Driver, Facts, JOURNAL, Settings, fluentd, gelf, journald, json_file, syslog};
use crate::blocking::blocking;
use crate::containers::Container;
use crate::session::Follower;
use crate::{Engine, Error, Result};

/// Pauses between tries to reach a receiver; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_LIMIT: Duration = Duration::from_secs(5);
/// How long the end of a run waits for what is written to a file: who waited for the container reads it next.
const FILE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a removal waits for a receiver that takes what it gets, and for one that takes nothing.
const FAREWELL: Duration = Duration::from_secs(10);
const NO_PROGRESS: Duration = Duration::from_secs(2);

/// A container's follower, if it has one.
#[derive(Default)]
pub(crate) struct LogFollower {
    task: Mutex<Option<AbortHandle>>,
    /// A connection that `start` made to see whether the receiver is there.
    prepared: Mutex<Option<Connection>>,
    standing: watch::Sender<Standing>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    active: bool,
    /// The receiver cannot be reached or takes nothing.
    failing: bool,
    /// All output of this run is delivered.
    finished: u64,
    /// Counts what was delivered.
    batches: u64,
}

impl LogFollower {
    fn lock(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepared(&self) -> MutexGuard<'_, Option<Connection>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    fn log_facts(&self, container: &Container) -> Facts {
        let record = container.record();
        let directory = self.inner.config.containers_dir().join(container.id.as_str());
        let path = directory.join(super::json_file_name(container.id.as_str()));
        Facts::of(&record, path.display().to_string())
    }

    /// Before a start: reads all log options and sees whether the receiver is there.
    pub(crate) async fn prepare_log(&self, container: &Arc<Container>) -> Result<Settings> {
        let log = container.record().spec.host.log.clone();
        let refuse = |message: String| Error::Start {
            message: format!(
                "failed to create task for container: failed to initialize logging driver: {message}"
            ),
            exit_code: 128,
        };
        let settings = Settings::read(&log).map_err(refuse)?;
        let facts = self.log_facts(container);
        // Labels and tags are checked even where only `logs` uses them.
        facts.attributes().map_err(refuse)?;
        encoder(&settings.driver, &facts).map_err(refuse)?;
        if settings.driver == Driver::Journald {
            journald::find(std::path::Path::new(JOURNAL)).map_err(refuse)?;
        }
        let place = place(&settings.driver);
        let patient = matches!(&settings.driver, Driver::Fluentd(options) if options.asynchronous);
        if let Some(place) = place
            && !patient
            && container.log.lock().is_none()
        {
            *container.log.prepared() = Some(connect(&place).await.map_err(refuse)?);
        }
        Ok(settings)
    }

    /// Where a shim must hold output back for the driver, from its cursor. Makes the spool's directory.
    pub(crate) fn log_hold(
        &self,
        directory: &std::path::Path,
        settings: &Settings,
    ) -> Result<Option<Position>> {
        let Some(name) = settings.driver.name().filter(|_| settings.blocking) else { return Ok(None) };
        wharf_linux::hostfs::create_dir_all(directory, 0o700)?;
        let (_, mark) = Cursor::open(&directory.join(format!("{name}.cursor")))?;
        Ok(Some(mark.position))
    }

    /// Sees to it that the container's driver gets what is in the spool. Called once it runs, and when an engine finds
    /// it.
    pub(crate) fn follow_log(&self, container: &Arc<Container>) {
        let Ok(settings) = Settings::read(&container.record().spec.host.log) else { return };
        let Some(name) = settings.driver.name() else { return };
        let mut task = container.log.lock();
        if task.is_some() {
            return;
        }
        container.log.standing.send_modify(|standing| {
            standing.active = true;
            standing.failing = false;
        });
        let (engine, container) = (self.clone(), container.clone());
        let follower = container.clone();
        *task = Some(
            tokio::spawn(async move {
                if let Err(error) = engine.run_follower(&follower, settings, name).await {
                    tracing::error!(container = %follower.id, %error, "the log driver {name} gave up");
                }
                let mut task = follower.log.lock();
                *task = None;
                follower.log.standing.send_modify(|standing| standing.active = false);
            })
            .abort_handle(),
        );
    }

    async fn run_follower(
        &self,
        container: &Arc<Container>,
        settings: Settings,
        name: &'static str,
    ) -> Result<()> {
        let directory = self.inner.config.containers_dir().join(container.id.as_str());
        let facts = self.log_facts(container);
        let work = {
            let (facts, settings) = (facts.clone(), settings.clone());
            blocking(move || Work::open(directory, &facts, &settings, name)).await?
        };
        let receiver = Receiver {
            place: place(&settings.driver),
            connection: container.log.prepared().take(),
            settings: settings.clone(),
            facts,
        };
        let mut run = Run {
            container: container.clone(),
            work: Some(work),
            receiver,
            settings,
            released: (0, Position::default()),
        };
        // Woken by the shim from here on.
        let _member = Follower::join(container, false).await;
        let mut progress = container.progress.subscribe();
        loop {
            // Taken before reading: when this says that the run is over, everything it wrote is on disk.
            let state = progress.borrow_and_update().clone();
            let ending = state.complete || !state.running;
            run.deliver_all(&state, ending).await?;
            if ending {
                container.log.standing.send_modify(|standing| standing.finished = state.run);
                let task = container.log.lock();
                if !container.progress.borrow().running {
                    // Without the lock nobody can begin a run that counts on this task.
                    drop_task(task);
                    return Ok(());
                }
            }
            if progress.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Waits until a run's output is in the file that people read next. Files only: receivers may be slow.
    pub(crate) async fn finish_log_file(&self, container: &Arc<Container>) {
        if container.record().spec.host.log.driver != "json-file" {
            return;
        }
        let run = container.progress.borrow().run;
        let mut standing = container.log.standing.subscribe();
        let finished =
            standing.wait_for(|standing| !standing.active || standing.failing || standing.finished == run);
        let _late = tokio::time::timeout(FILE_DEADLINE, finished).await;
    }

    /// Waits until the driver has everything of a container that has ended, unless its receiver takes nothing.
    pub(crate) async fn finish_log(&self, container: &Arc<Container>, patience: Duration) {
        let mut standing = container.log.standing.subscribe();
        let finished = async {
            loop {
                let before = *standing.borrow_and_update();
                if !before.active || before.failing {
                    return;
                }
                let moved =
                    standing.wait_for(|now| !now.active || now.failing || now.batches != before.batches);
                if tokio::time::timeout(NO_PROGRESS, moved).await.is_err() {
                    return;
                }
            }
        };
        let _late = tokio::time::timeout(patience, finished).await;
    }

    /// Ends the follower of a container that is being removed.
    pub(crate) async fn end_log(&self, container: &Arc<Container>) {
        self.finish_log(container, FAREWELL).await;
        if let Some(task) = container.log.lock().take() {
            task.abort();
        }
    }

    /// Has closed segments of a container's spool compressed.
    pub(crate) fn pack_log(&self, container: &Container) {
        let compress =
            Settings::read(&container.record().spec.host.log).is_ok_and(|settings| settings.compress);
        if compress {
            let directory = self.inner.config.containers_dir().join(container.id.as_str()).join("log");
            self.inner.packer.look_at(directory);
        }
    }
}

/// The task's own mark that it ends, made while it holds the lock.
fn drop_task(mut task: MutexGuard<'_, Option<AbortHandle>>) {
    *task = None;
}

impl Driver {
    /// Of the drivers that follow the spool.
    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Local | Self::None => return None,
            Self::JsonFile(_) => "json-file",
            Self::Journald => "journald",
            Self::Syslog(_) => "syslog",
            Self::Fluentd(_) => "fluentd",
            Self::Gelf(_) => "gelf",
        })
    }
}

fn encoder(driver: &Driver, facts: &Facts) -> std::result::Result<Option<Box<dyn Encode>>, String> {
    Ok(Some(match driver {
        Driver::Local | Driver::None => return Ok(None),
        Driver::JsonFile(_) => Box::new(json_file::Encoder::new(facts)?),
        Driver::Journald => Box::new(journald::Encoder::new(facts)?),
        Driver::Syslog(options) => Box::new(syslog::Encoder::new(facts, options)?),
        Driver::Fluentd(options) => Box::new(fluentd::Encoder::new(facts, options)?),
        Driver::Gelf(options) => Box::new(gelf::Encoder::new(facts, options)?),
    }))
}

/// Where the driver's receiver is, if it has one.
fn place(driver: &Driver) -> Option<Place> {
    Some(match driver {
        Driver::Local | Driver::None | Driver::JsonFile(_) => return None,
        Driver::Journald => Place::Unixgram(JOURNAL.into()),
        Driver::Syslog(options) => options.place.clone(),
        Driver::Fluentd(options) => options.place.clone(),
        Driver::Gelf(options) => options.place.clone(),
    })
}

/// What blocks: the spool, the cursor, and the file if there is one.
struct Work {
    tail: Tail,
    encoder: Box<dyn Encode>,
    file: Option<json_file::Sink>,
    /// What the cursor on disk says.
    saved: Position,
    /// Positions further apart than this are written down even without a message in between.
    stride: u64,
    settings: Settings,
}

impl Work {
    fn open(directory: PathBuf, facts: &Facts, settings: &Settings, name: &str) -> Result<Self> {
        let log = directory.join("log");
        wharf_linux::hostfs::create_dir_all(&log, 0o700)?;
        let mut tail = Tail::open(&log, name)?;
        let encoder = encoder(&settings.driver, facts).map_err(Error::System)?;
        let encoder = encoder.ok_or_else(|| Error::System(format!("{name} follows nothing")))?;
        let file = match settings.driver {
            Driver::JsonFile(options) => {
                Some(json_file::Sink::open(&directory, &facts.id, options, &mut tail)?)
            }
            _ => None,
        };
        let (saved, stride) = (tail.position(), settings.spool.capacity() / 8);
        Ok(Self { tail, encoder, file, saved, stride, settings: settings.clone() })
    }

    /// The next messages; those for a file are in it when this answers.
    fn next(&mut self, hurry: Option<Hurry>, ending: bool) -> Result<Batch> {
        let spool = |error: wharf_shim::spool::SpoolError| super::spool_error(&error);
        let batch = self.tail.fill(&mut *self.encoder, hurry, ending).map_err(spool)?;
        if let Some(file) = &mut self.file {
            file.write(&batch, &mut 0, &mut self.tail)?;
        }
        Ok(batch)
    }

    /// A batch is delivered.
    fn commit(&mut self, batch: &Batch) -> Result<()> {
        let mark = self.file.as_ref().map(json_file::Sink::mark).unwrap_or_default();
        let far = self.settings.spool.distance(self.saved, self.tail.end()) >= self.stride;
        let durably = far || batch.gap || batch.dropped > 0 || !batch.ends.is_empty();
        self.tail.commit(batch, mark, durably)?;
        if durably {
            self.saved = self.tail.position();
        }
        Ok(())
    }
}

/// Who gets what does not go into a file.
struct Receiver {
    place: Option<Place>,
    connection: Option<Connection>,
    settings: Settings,
    facts: Facts,
}

impl Receiver {
    async fn send(&mut self, batch: &Batch, done: &mut usize) -> std::result::Result<(), String> {
        let Some(place) = &self.place else { return Ok(()) };
        if self.connection.is_none() {
            self.connection = Some(connect(place).await?);
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let sent = match &self.settings.driver {
            Driver::Fluentd(options) if options.acknowledged => {
                fluentd::send_acknowledged(connection, &self.facts, batch).await
            }
            Driver::Gelf(_) if matches!(place, Place::Udp { .. }) => {
                let chunks = gelf::split(batch, *done);
                connection.send(&chunks, &mut 0).await
            }
            _ => connection.send(batch, done).await,
        };
        if sent.is_err() {
            self.connection = None;
        }
        sent
    }
}

/// One follower at work.
struct Run {
    container: Arc<Container>,
    /// Away while somebody blocks on it.
    work: Option<Work>,
    receiver: Receiver,
    settings: Settings,
    /// What the shim of which run was told last.
    released: (u64, Position),
}

impl Run {
    /// Delivers until the spool has no more.
    async fn deliver_all(&mut self, state: &crate::containers::Progress, ending: bool) -> Result<()> {
        let limits = self.settings.spool;
        let hurry = (!self.settings.blocking).then_some(self.settings.behind).flatten();
        let hurry = hurry.map(|bytes| Hurry { limits, end: state.output, bytes });
        let mut trouble = Trouble::default();
        loop {
            let batch = match self.block(move |work| work.next(hurry, ending)).await? {
                Ok(batch) => batch,
                Err(error) => {
                    trouble.wait(&self.container, &error.to_string()).await;
                    continue;
                }
            };
            if !batch.moved && batch.ends.is_empty() {
                break;
            }
            if batch.gap || batch.dropped > 0 {
                let (dropped, gap) = (batch.dropped, batch.gap);
                tracing::warn!(container = %self.container.id, dropped, gap, "the log driver did not get all output");
            }
            let mut done = 0;
            while let Err(error) = self.receiver.send(&batch, &mut done).await {
                trouble.wait(&self.container, &error).await;
            }
            while let Err(error) = self.commit(&batch).await? {
                trouble.wait(&self.container, &error.to_string()).await;
            }
            self.container.log.standing.send_modify(|standing| standing.batches += 1);
            self.release(state.run).await;
        }
        trouble.over(&self.container);
        Ok(())
    }

    async fn commit(&mut self, batch: &Batch) -> Result<Result<()>> {
        // A few words into the page cache.
        match &mut self.work {
            Some(work) => Ok(work.commit(batch)),
            None => Err(Error::System("the log driver's work is lost".into())),
        }
    }

    async fn block<T: Send + 'static>(
        &mut self,
        step: impl FnOnce(&mut Work) -> Result<T> + Send + 'static,
    ) -> Result<Result<T>> {
        let Some(mut work) = self.work.take() else {
            return Err(Error::System("the log driver's work is lost".into()));
        };
        let (work, result) = blocking(move || {
            let result = step(&mut work);
            Ok((work, result))
        })
        .await?;
        self.work = Some(work);
        Ok(result)
    }

    /// Tells the shim what needs not be held back any more, when it is worth a message.
    async fn release(&mut self, run: u64) {
        let Some(work) = self.work.as_ref().filter(|_| self.settings.blocking) else { return };
        if self.released.0 != run {
            self.released = (run, Position::default());
        }
        let position = work.saved;
        if self.settings.spool.distance(self.released.1, position) < work.stride {
            return;
        }
        if let Some(link) = self.container.link() {
            // A shim that has just left needs no word.
            let _gone = link.ask(Request::Release { position }, &[]).await;
            self.released.1 = position;
        }
    }
}

/// A receiver or a disk that refuses: said once, tried again with growing pauses.
#[derive(Default)]
struct Trouble {
    pause: Option<Duration>,
}

impl Trouble {
    async fn wait(&mut self, container: &Container, error: &str) {
        let pause = match self.pause {
            None => {
                tracing::warn!(container = %container.id, error, "the log driver cannot deliver; output waits in the spool");
                container.log.standing.send_modify(|standing| standing.failing = true);
                PAUSE
            }
            Some(pause) => (pause * 2).min(PAUSE_LIMIT),
        };
        self.pause = Some(pause);
        tokio::time::sleep(pause).await;
    }

    fn over(&mut self, container: &Container) {
        if self.pause.take().is_some() {
            tracing::info!(container = %container.id, "the log driver delivers again");
            container.log.standing.send_modify(|standing| standing.failing = false);
        }
    }
}
