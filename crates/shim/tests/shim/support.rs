//! A container around the machine's static busybox, run by the built `wharf-shim`.
#![expect(clippy::print_stderr, reason = "the log of a failed test")]
#![expect(clippy::unwrap_used, reason = "what goes wrong in a helper is the test's failure")]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus as ProcessStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use wharf_linux::cgroup::Cgroup;
use wharf_linux::seqpacket;
use wharf_shim::client::{Client, ClientError};
use wharf_shim::protocol::{
    ENVIRONMENT, EXIT_FILE, Event, ExitRecord, ExitStatus, FailureKind, PID_FILE, Reply, Request,
    SOCKET_FILE, ShimConfig, VERSION,
};
use wharf_shim::spool::{Entry, Lines, Origin, Piece, Position, Reader, Stream};

/// Nothing here takes anywhere near as long; a machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const APPLETS: [&str; 24] = [
    "sh", "cat", "echo", "seq", "sleep", "true", "yes", "tail", "stty", "kill", "ls", "ps", "grep", "id",
    "pwd", "setsid", "dd", "head", "test", "mount", "readlink", "printf", "nohup", "usleep",
];

/// A container to be.
pub(crate) struct Plan {
    dir: TempDir,
    pub(crate) config: ShimConfig,
    pub(crate) spec: Value,
    cgroup: String,
}

impl Plan {
    /// A container that runs `args`.
    pub(crate) fn new(args: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("wharf-shim-").tempdir().unwrap();
        let id = format!("shimtest-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = |name: &str| dir.path().join(name);
        for name in ["run", "bundle", "bundle/rootfs", "bundle/rootfs/bin", "bundle/rootfs/proc"] {
            fs::create_dir(path(name)).unwrap();
        }
        for name in ["dev", "tmp", "sys", "etc"] {
            fs::create_dir(path("bundle/rootfs").join(name)).unwrap();
        }
        fs::write(
            path("bundle/rootfs/etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nguest:x:1000:1000::/tmp:/bin/sh\n",
        )
        .unwrap();
        fs::write(path("bundle/rootfs/etc/data"), "not a program\n").unwrap();
        fs::copy(busybox(), path("bundle/rootfs/bin/busybox")).unwrap();
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", path("bundle/rootfs/bin").join(applet)).unwrap();
        }
        let config = ShimConfig {
            version: VERSION,
            id: id.clone(),
            bundle: path("bundle"),
            run_dir: path("run"),
            log_dir: path("log"),
            log_segment_bytes: 16 << 20,
            log_segments: 64,
            log_hold: None,
            rootfs: None,
            seccomp_default: true,
            user: None,
            groups: Vec::new(),
            create_cwd: false,
            default_home: false,
            init: false,
            open_stdin: false,
            rows: 0,
            cols: 0,
            health: None,
            runtime: None,
        };
        let cgroup = format!("/{id}");
        let spec = spec(args, &cgroup);
        Self { dir, config, spec, cgroup }
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub(crate) fn stdin(mut self) -> Self {
        self.config.open_stdin = true;
        self
    }

    pub(crate) fn terminal(mut self, rows: u16, cols: u16) -> Self {
        self.spec["process"]["terminal"] = json!(true);
        (self.config.rows, self.config.cols) = (rows, cols);
        self
    }

    pub(crate) fn log(mut self, segment_bytes: u64, segments: u32) -> Self {
        (self.config.log_segment_bytes, self.config.log_segments) = (segment_bytes, segments);
        self
    }

    /// Without a pid namespace of its own.
    pub(crate) fn host_pids(mut self) -> Self {
        self.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|namespace| namespace["type"] != "pid");
        self
    }

    /// Starts the shim; whatever comes of it is for the caller to see.
    pub(crate) fn launch(self) -> Case {
        fs::write(self.config.bundle.join("config.json"), self.spec.to_string()).unwrap();
        let config = self.dir.path().join("shim.json");
        fs::write(&config, serde_json::to_vec(&self.config).unwrap()).unwrap();
        let (ours, theirs) = seqpacket::socketpair().unwrap();
        let shim = Command::new(env!("CARGO_BIN_EXE_wharf-shim"))
            .arg("run")
            .arg(&config)
            .env_clear()
            .envs(ENVIRONMENT)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(File::create(self.dir.path().join("shim.log")).unwrap())
            .spawn()
            .unwrap();
        Case { plan: self, shim, client: Some(Client::new(ours)), pid: 0, kept: None }
    }

    /// Up to the point where the init waits for `Start`.
    pub(crate) fn create(self) -> Case {
        let mut case = self.launch();
        match case.event() {
            (Event::Created { pid }, fds) => {
                assert_eq!(fds.len(), 1, "the init's pidfd comes along");
                case.pid = pid;
                case
            }
            (other, _) => panic!("{other:?}; {}", case.shim_log()),
        }
    }

    /// Up to a running program.
    pub(crate) fn start(self) -> Case {
        let mut case = self.create();
        match case.ask(Request::Start) {
            Reply::Started { at_ns } => assert!(at_ns > 1_700_000_000_000_000_000),
            other => panic!("{other:?}; {}", case.shim_log()),
        }
        case
    }
}

/// A container and its shim; both are gone when this is dropped.
pub(crate) struct Case {
    plan: Plan,
    pub(crate) shim: Child,
    pub(crate) client: Option<Client>,
    /// The init's.
    pub(crate) pid: i32,
    /// Came while something else was waited for.
    kept: Option<Event>,
}

impl Case {
    pub(crate) fn client(&mut self) -> &mut Client {
        self.client.as_mut().unwrap()
    }

    pub(crate) fn ask(&mut self, request: Request) -> Reply {
        self.ask_with(request, &[]).0
    }

    pub(crate) fn ask_with(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> (Reply, Vec<OwnedFd>) {
        let result = self.client().ask(request, fds, PATIENCE);
        result.unwrap_or_else(|error| panic!("{error}; {}", self.shim_log()))
    }

    pub(crate) fn refused(&mut self, request: Request) -> (FailureKind, String) {
        match self.ask(request) {
            Reply::Error { kind, message } => (kind, message),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn event(&mut self) -> (Event, Vec<OwnedFd>) {
        let result = self.client().event(PATIENCE);
        result.unwrap_or_else(|error| panic!("{error}; {}", self.shim_log()))
    }

    /// The next event that is not about output.
    pub(crate) fn news(&mut self) -> Event {
        if let Some(event) = self.kept.take() {
            return event;
        }
        loop {
            match self.event().0 {
                Event::Output { .. } | Event::Rotated { .. } => {}
                other => return other,
            }
        }
    }

    /// The container's end; everything that is promised of it holds.
    pub(crate) fn exited(&mut self) -> ExitStatus {
        let (status, end) = match self.news() {
            Event::Exited { status, end } => (status, end),
            other => panic!("{other:?}"),
        };
        let record = self.record().expect("the exit record is there before the event");
        assert_eq!((record.status, record.end, record.pid), (status, end, self.pid));
        assert_eq!(Reader::end(&self.plan.config.log_dir).unwrap(), end);
        self.gone();
        status
    }

    /// The shim leaves by itself, and with it all that it made.
    pub(crate) fn gone(&mut self) -> ProcessStatus {
        if let Some(mut client) = self.client.take() {
            loop {
                match client.event(PATIENCE) {
                    Ok(_) => {}
                    Err(ClientError::Gone) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let status = self.shim.wait().unwrap();
        for file in [SOCKET_FILE, PID_FILE] {
            assert!(!self.run_dir().join(file).exists(), "{file}");
        }
        assert!(!self.cgroup().exists(), "the cgroup is gone");
        status
    }

    pub(crate) fn reconnect(&mut self) {
        self.client = Some(Client::connect(&self.run_dir()).unwrap());
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.plan.config.run_dir.clone()
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.plan.config.log_dir.clone()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.plan.config.bundle.join("rootfs")
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        Cgroup::open(&self.plan.cgroup).unwrap()
    }

    pub(crate) fn record(&self) -> Option<ExitRecord> {
        fs::read(self.run_dir().join(EXIT_FILE)).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    pub(crate) fn shim_log(&self) -> String {
        fs::read_to_string(self.plan.dir.path().join("shim.log")).unwrap()
    }

    /// All of one stream in the spool as it is now.
    pub(crate) fn output(&self, stream: Stream) -> String {
        let mut reader = Reader::open_at(&self.log_dir(), Origin::Start).unwrap();
        let mut bytes = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            match entry {
                Entry::Record(record) if record.stream == stream => bytes.extend_from_slice(record.bytes),
                Entry::Record(_) => {}
                Entry::Gap { from, to } => panic!("a gap from {from:?} to {to:?}"),
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Follows the output (after `Subscribe`) until a line contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut lines = Lines::new(Reader::open_at(&self.log_dir(), Origin::Start).unwrap());
        loop {
            while let Some(piece) = lines.next().unwrap() {
                let Piece::Line(line) = piece else { panic!("a gap") };
                let line = String::from_utf8_lossy(line.bytes).into_owned();
                if line.contains(text) {
                    return line;
                }
            }
            // The end may be what tells of the last output.
            let output = || format!("{:?} {:?}", self.output(Stream::Stdout), self.output(Stream::Stderr));
            assert!(self.kept.is_none(), "{:?} before {text:?}: {}", self.kept, output());
            match self.event().0 {
                Event::Output { .. } | Event::Rotated { .. } => {}
                other => self.kept = Some(other),
            }
        }
    }

    /// Subscribed, the position that the newest output event names; waits until it has passed `beyond`.
    pub(crate) fn output_beyond(&mut self, beyond: Position) -> Position {
        loop {
            if let (Event::Output { end }, _) = self.event()
                && end > beyond
            {
                return end;
            }
        }
    }

    /// Asks for an exec with three new pipes (stdin is at its end) and gives its output, once it has ended.
    pub(crate) fn exec(
        &mut self,
        id: &str,
        args: &[&str],
    ) -> Result<(ExitStatus, String), (FailureKind, String)> {
        let null = File::open("/dev/null").unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let document = process_document(args, false);
        let fds = [document.as_fd(), null.as_fd(), writer.as_fd(), writer.as_fd()];
        let (reply, _) = self.ask_with(exec_request(id), &fds);
        drop(writer);
        match reply {
            Reply::ExecStarted { .. } => {}
            Reply::Error { kind, message } => return Err((kind, message)),
            other => panic!("{other:?}"),
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        Ok((self.exec_exited(id), text))
    }

    pub(crate) fn exec_exited(&mut self, wanted: &str) -> ExitStatus {
        match self.news() {
            Event::ExecExited { id, status } if id == wanted => status,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("shim.log: {}", self.shim_log());
        }
        // Our own child, and not yet waited for unless the test did.
        let _ended = self.shim.kill();
        let _status = self.shim.wait();
        let cgroup = self.cgroup();
        if cgroup.exists() {
            let _killed = cgroup.kill_all();
            let _removed = cgroup.delete();
        }
    }
}

pub(crate) fn exec_request(id: &str) -> Request {
    Request::Exec {
        id: id.into(),
        terminal: false,
        rows: 0,
        cols: 0,
        detach: false,
        user: None,
        groups: Vec::new(),
        default_home: false,
        seccomp_default: true,
    }
}

/// A memfd with an OCI process.
pub(crate) fn process_document(args: &[&str], terminal: bool) -> OwnedFd {
    memfd(process(args, terminal).to_string().as_bytes())
}

pub(crate) fn memfd(bytes: &[u8]) -> OwnedFd {
    let fd = rustix::fs::memfd_create("process", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(rustix::io::pwrite(&fd, bytes, 0).unwrap(), bytes.len());
    fd
}

/// Children of a process, by the kernel's own list.
pub(crate) fn children(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

/// Whether a process that is not ours to wait for has ended; waits for it.
pub(crate) fn wait_gone(pid: i32) {
    let Ok(pidfd) = wharf_linux::process::open(pid) else { return };
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 1, "process {pid} is still there");
}

fn busybox() -> &'static Path {
    let candidates = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let found = candidates.into_iter().find(|path| path.is_file());
    found.expect("no busybox on this machine; run `apt-get install busybox-static`")
}

fn process(args: &[&str], terminal: bool) -> Value {
    let capabilities = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"];
    json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": false,
    })
}

fn spec(args: &[&str], cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(args, false),
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "shimtest",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
        },
    })
}
