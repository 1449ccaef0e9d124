//! A scratch engine: `wharfd` with everything of its own in one temporary directory.
//!
//! Each engine takes a *slot*, a number no other test process holds at the same time (an abstract socket name: the kernel
//! frees it when the process dies, however it dies). The slot gives the engine its subnet and the test its host ports.
//! Killing and restarting keep the directory; dropping removes containers, engine and directory and then sweeps.

use std::fs::File;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::binaries::{binary, docker_cli};
use crate::faults::Supervisor;
use crate::leftovers::{Traces, address_in_use};
use crate::{Api, Cli, PATIENCE, image, retry_until};

/// A number held by this process alone until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u16,
    _held: UnixListener,
}

impl Slot {
    /// The lowest free slot.
    ///
    /// # Panics
    /// When all are taken: something leaks engines.
    pub(crate) fn take() -> Self {
        let free = (0..200).find_map(|number| {
            let name = SocketAddr::from_abstract_name(format!("wharf-test-slot-{number}")).ok()?;
            let slot = Self { number, _held: UnixListener::bind_addr(&name).ok()? };
            // What another test has left is that test's failure, not this one's.
            (!address_in_use(&slot.prefix())).then_some(slot)
        });
        free.expect("200 scratch engines at once: are old test processes hanging?")
    }

    /// A host port reserved for this slot; `n` is below 20.
    pub(crate) fn port(&self, n: u16) -> u16 {
        assert!(n < 20, "a slot has 20 ports");
        21_000 + self.number * 20 + n
    }

    /// The start of every address in the slot's subnet.
    fn prefix(&self) -> String {
        format!("10.213.{}.", self.number)
    }
}

/// How to start an [`Engine`].
#[derive(Debug, Default)]
pub struct EngineBuilder {
    arguments: Vec<String>,
    data_root: Option<PathBuf>,
    supervisor: Option<Supervisor>,
    umask: Option<u32>,
    log: Option<PathBuf>,
}

impl EngineBuilder {
    /// One more argument for `wharfd`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Images and containers somewhere else, such as on a small file system of the test's own.
    #[must_use]
    pub fn data_root(mut self, path: &Path) -> Self {
        self.data_root = Some(path.to_path_buf());
        self
    }

    /// Started by one that has this mask for new files.
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = Some(mask);
        self
    }

    /// Its log goes there.
    #[must_use]
    pub fn log(mut self, path: &Path) -> Self {
        self.log = Some(path.to_path_buf());
        self
    }

    /// Under supervision: it and its shims can be made to die or fail at any system call.
    #[must_use]
    pub fn supervised(mut self, supervisor: &Supervisor) -> Self {
        self.supervisor = Some(supervisor.clone());
        self
    }

    /// Starts the engine and waits until it answers.
    ///
    /// # Panics
    /// When it does not; the message has the end of its log.
    pub fn start(self) -> Engine {
        assert!(
            rustix::process::geteuid().is_root(),
            "black-box tests start real containers: run them as root"
        );
        let slot = Slot::take();
        // Short: a socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("wt-").tempdir().expect("a temporary directory");
        let data_root = self.data_root.unwrap_or_else(|| dir.path().join("data"));
        let (arguments, supervisor, umask, log) = (self.arguments, self.supervisor, self.umask, self.log);
        let engine =
            Engine { slot, dir, data_root, arguments, supervisor, umask, log, child: Mutex::new(None) };
        engine.start();
        engine
    }
}

/// A running scratch engine.
#[derive(Debug)]
pub struct Engine {
    slot: Slot,
    dir: tempfile::TempDir,
    data_root: PathBuf,
    arguments: Vec<String>,
    supervisor: Option<Supervisor>,
    umask: Option<u32>,
    log: Option<PathBuf>,
    child: Mutex<Option<Child>>,
}

impl Engine {
    /// An engine with default settings.
    pub fn scratch() -> Self {
        EngineBuilder::default().start()
    }

    /// An engine with default settings and the image [`image::NAME`].
    pub fn with_image() -> Self {
        let engine = Self::scratch();
        engine.load(&image::archive());
        engine
    }

    /// Starts `wharfd` again after [`Engine::kill`] or [`Engine::terminate`] and waits until it answers.
    pub fn start(&self) {
        let mut child = self.child.lock().expect("no test panics while starting an engine");
        assert!(child.is_none(), "the engine is already running");
        let log = self.log.clone().unwrap_or_else(|| self.log_path());
        let log = File::options().create(true).append(true).open(log).expect("a log in our directory");
        let mut command = match self.umask {
            None => Command::new(binary("wharfd")),
            Some(mask) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("umask {mask:03o}; exec \"$0\" \"$@\"")]).arg(binary("wharfd"));
                shell
            }
        };
        command
            .arg("--data-root")
            .arg(&self.data_root)
            .arg("--exec-root")
            .arg(self.exec_root())
            .args(["-H", &self.host(), "--bip", &format!("{}1/24", self.slot.prefix())])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        let started = match &self.supervisor {
            Some(supervisor) => supervisor.spawn(&mut command),
            None => command.spawn(),
        };
        let started = child.insert(started.expect("wharfd runs"));
        let api = self.api();
        retry_until("wharfd to answer", PATIENCE, || {
            let dead = started.try_wait().expect("a child of ours");
            assert!(dead.is_none(), "wharfd ended at once ({dead:?}):\n{}", self.log_tail());
            api.is_up().then_some(())
        });
    }

    /// `kill -9`, and waits for the process to be gone. Containers know nothing of it.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// SIGTERM, the clean way down.
    pub fn terminate(&self) -> ExitStatus {
        self.end(Signal::TERM)
    }

    fn end(&self, signal: Signal) -> ExitStatus {
        let mut child = self.child.lock().expect("as above").take().expect("the engine is running");
        kill_process(Pid::from_child(&child), signal).expect("a child of ours takes signals");
        retry_until("wharfd to end", PATIENCE, || child.try_wait().expect("a child of ours"))
    }

    /// The engine's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().ok()?.as_ref().map(Child::id)
    }

    /// Waits for a process that was killed by others; false when it still runs.
    pub fn has_died(&self) -> bool {
        let mut child = self.child.lock().expect("as above");
        let dead = child.as_mut().is_none_or(|child| child.try_wait().expect("a child of ours").is_some());
        if dead {
            *child = None;
        }
        dead
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The scratch directory; tests may put files of their own into it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where its images and containers are.
    pub fn data_root(&self) -> &Path {
        &self.data_root
    }

    /// Where its sockets and runtime state are.
    pub fn exec_root(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The address for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The API socket.
    pub fn socket(&self) -> PathBuf {
        self.exec_root().join("wharf.sock")
    }

    /// The API.
    pub fn api(&self) -> Api {
        Api::new(&self.socket())
    }

    /// Our command line on this engine.
    pub fn wharf(&self) -> Cli {
        Cli::new(&binary("wharf"), &self.host())
    }

    /// The real docker command line on this engine; `None` with a note where it is not installed.
    pub fn docker(&self) -> Option<Cli> {
        let Some(program) = docker_cli() else {
            println!("skipped: there is no docker command line on this machine");
            return None;
        };
        Some(Cli::new(&program, &self.host()))
    }

    /// A host port for this test alone.
    pub fn port(&self, n: u16) -> u16 {
        self.slot.port(n)
    }

    /// Loads an image archive.
    pub fn load(&self, archive: &[u8]) {
        let output = self.wharf().run_with_input(&["load"], archive);
        assert_eq!(output.code, 0, "load failed: {}{}\n{}", output.stdout, output.stderr, self.log_tail());
    }

    /// The last lines of the engine's log, for messages.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("wharfd.log")
    }

    /// Removes every container and volume through the API, as a user would.
    fn empty(&self) {
        let api = self.api();
        let list = api.get("/containers/json?all=1").unwrap_or_default();
        for container in list.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            let _ = api.request("DELETE", &format!("/containers/{id}?force=1&v=1"), None);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            println!("--- the end of the engine's log:\n{}\n---", self.log_tail());
        }
        let traces = Traces { root: self.dir.path().to_path_buf(), address: self.slot.prefix() };
        // Also after a failed test: what it leaves would disturb the next one.
        let cleaned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if self.pid().is_none() {
                self.start();
            }
            self.empty();
            self.terminate();
        }));
        if failed {
            // The test has its message already.
            traces.kill_processes();
            println!("left after the failure: {:?}", traces.find());
            return;
        }
        if let Err(panic) = cleaned {
            std::panic::resume_unwind(panic);
        }
        let left = left_after_a_while(&traces);
        assert!(
            left.is_empty(),
            "the engine left on this machine:\n{}\n{}",
            left.join("\n"),
            self.log_tail()
        );
    }
}

/// Shims and the kernel take a moment to let go after the engine's answer; what is still there afterwards is a leak.
fn left_after_a_while(traces: &Traces) -> Vec<String> {
    let since = Instant::now();
    loop {
        let left = traces.find();
        if left.is_empty() || since.elapsed() > PATIENCE {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
