//! What an engine and a shim say to each other: types and codec, no I/O.
//!
//! # Transport
//! A `SOCK_SEQPACKET` unix socket. One packet is one JSON document of at most [`MAX_MESSAGE`] bytes and carries at
//! most [`MAX_FDS`] descriptors (`SCM_RIGHTS`). The first connection is the shim's descriptor 0; every later engine
//! connects to `<run_dir>/shim.sock`. All connections have the same rights; several may be open at once.
//!
//! # Conversation
//! An engine sends [`Envelope<Request>`] with a `seq` of its choosing and gets exactly one [`Message::Reply`] with
//! that `seq`. Replies of one connection come in the order of its requests, but [`Request::Exec`] is answered when the
//! process runs or has failed to, which others overtake. [`Message::Event`]s come in between at any time. A message the shim cannot decode is answered with [`FailureKind::InvalidArgument`] (`seq` 0 when even
//! that was unreadable); the connection stays up.
//!
//! ```text
//! shim                                            engine
//!   Event::Created{pid}  + pidfd      ───▶          on descriptor 0 only; or Event::Failed, then EOF
//!                                     ◀───          Start + sockets to hold
//!   Reply::Started | Reply::Error     ───▶          after an Error everything is undone, then EOF
//!                                     ◀───          Hello, Exec, Signal, Resize, OpenStdin, Subscribe, … any order
//!   Event::Output{end}                ───▶          subscribers only, coalesced
//!   Event::ExecExited{id, status}     ───▶          every connection
//!   Event::Health{status, …}          ───▶          every connection, after each probe
//!   Event::Exited{status, end}        ───▶          every connection, once; exit.json is on disk before; it may be
//!                                                   the first to tell a subscriber of the last output
//!   EOF                               ───▶          the cgroup is gone
//! ```
//! EOF of descriptor 0 before `Start` makes the shim undo everything and leave; after `Start` a connection may go at
//! any time. EOF without `exit.json` in the run directory means the shim itself was killed (and the container with it).
//!
//! # Compatibility
//! A running shim outlives an engine upgrade, so a newer engine meets older shims: [`Request::Hello`] tells versions
//! apart, unknown JSON fields are ignored, new fields get a default.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::health::{HealthConfig, HealthResult, HealthStatus};
use crate::spool::Position;

/// The version of the protocol and of [`ShimConfig`] spoken by this crate.
pub const VERSION: u32 = 1;
/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most descriptors one message may carry (the kernel's own limit is 253).
pub const MAX_FDS: usize = 250;
/// The largest OCI process document accepted by [`Request::Exec`].
pub const MAX_PROCESS: u64 = 4 * 1024 * 1024;

/// Name of the control socket in the run directory.
pub const SOCKET_FILE: &str = "shim.sock";
/// Name of the [`ExitRecord`] in the run directory.
pub const EXIT_FILE: &str = "exit.json";
/// Name of the file with the shim's process id in the run directory.
pub const PID_FILE: &str = "shim.pid";

/// Name of a file in the run directory that is locked (flock(2)) as long as somebody may kill what is in the container's
/// control group: the next start waits for it. Only with a foreign runtime.
pub const GUARD_FILE: &str = "guard.lock";

/// The whole environment a shim should be started with: the C library's per-thread cache of freed memory, made for
/// speed, would hold on to some hundred KiB for nothing.
pub const ENVIRONMENT: [(&str, &str); 1] = [("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")];

/// Everything a shim needs to know, in a JSON file named on its command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimConfig {
    /// [`VERSION`].
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// The OCI bundle, with `config.json`.
    pub bundle: PathBuf,
    /// An existing directory of mode 0700 for the socket, the process id and the exit record.
    pub run_dir: PathBuf,
    /// The directory of the output spool; made (0700) if missing.
    pub log_dir: PathBuf,
    /// A spool segment is closed before it grows beyond this.
    pub log_segment_bytes: u64,
    /// How many spool segments are kept.
    pub log_segments: u32,
    /// A log driver has dealt with everything before this, and must miss nothing: while it is more than half of the
    /// spool's capacity behind ([`Request::Release`] moves it), the container's output is not read, whether or not an
    /// engine is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_hold: Option<Position>,
    /// The overlay the init mounts as its root; without it the bundle's own root is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<OverlayRoot>,
    /// Use the built-in default seccomp profile instead of the one in the spec.
    #[serde(default)]
    pub seccomp_default: bool,
    /// `user[:group]`, resolved inside the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Supplementary groups, names or numbers, resolved inside the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Make a missing working directory.
    #[serde(default)]
    pub create_cwd: bool,
    /// Set `HOME` from the container's passwd file if the environment lacks it.
    #[serde(default)]
    pub default_home: bool,
    /// Run a reaping, signal-forwarding init as PID 1.
    #[serde(default)]
    pub init: bool,
    /// Keep a pipe to the container's standard input open (a terminal always has one).
    #[serde(default)]
    pub open_stdin: bool,
    /// Terminal rows at start, 0 for the default.
    #[serde(default)]
    pub rows: u16,
    /// Terminal columns at start, 0 for the default.
    #[serde(default)]
    pub cols: u16,
    /// How the container is probed, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthConfig>,
    /// The program that makes the container, instead of the built-in runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ForeignRuntime>,
}

/// A program with runc's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignRuntime {
    /// Its name, for people.
    pub name: String,
    /// The program, absolute.
    pub path: PathBuf,
    /// Arguments before all others.
    #[serde(default)]
    pub args: Vec<String>,
    /// How long each of its commands may take.
    pub patience_ms: u64,
    /// What is mounted in the container for `--init`: a copy of this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_program: Option<PathBuf>,
}

/// An overlay root; the layer names are relative to `base`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayRoot {
    /// The directory all other names are relative to.
    pub base: PathBuf,
    /// Read-only layers, topmost first.
    pub lower: Vec<String>,
    /// The writable layer.
    pub upper: String,
    /// Overlayfs's work directory.
    pub work: String,
    /// Where the init mounts it, in its own mount namespace.
    pub mountpoint: PathBuf,
}

/// A numbered message body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by the asker, repeated in the reply.
    pub seq: u64,
    /// What is said.
    pub body: T,
}

/// What an engine asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Who are you and how is the container? Answered by [`Reply::Hello`].
    Hello {
        /// The asker's [`VERSION`].
        version: u32,
    },
    /// Open the gate: the container's program starts. Descriptors are held open for the container's life (port
    /// reservations). Answered by [`Reply::Started`].
    Start,
    /// Hold more descriptors open for the container's life, for those that do not fit into `Start`.
    Hold,
    /// Give copies of the descriptors held for the container's life, leaving out the first ones: as many as fit into a
    /// message. Answered by [`Reply::Held`].
    Held {
        /// How many to leave out.
        skip: usize,
    },
    /// Send a signal to the init, or to one exec'ed process.
    Signal {
        /// The exec, or the container's init.
        #[serde(default)]
        exec: Option<String>,
        /// The signal's number.
        signal: i32,
        /// What it is for; part of what is known about the end.
        #[serde(default)]
        purpose: Purpose,
    },
    /// SIGKILL to every process in the container's cgroup.
    KillAll,
    /// Run one more process in the container. Descriptors: the OCI process document (a memfd of at most
    /// [`MAX_PROCESS`] bytes), then either none (terminal, or everything `/dev/null`) or exactly stdin, stdout and
    /// stderr. Answered by [`Reply::ExecStarted`].
    Exec {
        /// Names the process in later requests and in [`Event::ExecExited`].
        id: String,
        /// Give it a new pseudo-terminal; its master is in the reply.
        #[serde(default)]
        terminal: bool,
        /// Terminal rows, 0 for the default.
        #[serde(default)]
        rows: u16,
        /// Terminal columns, 0 for the default.
        #[serde(default)]
        cols: u16,
        /// Nobody will look: with a terminal, the shim keeps the master and discards what comes.
        #[serde(default)]
        detach: bool,
        /// `user[:group]`, resolved inside the container.
        #[serde(default)]
        user: Option<String>,
        /// Supplementary groups.
        #[serde(default)]
        groups: Vec<String>,
        /// Set `HOME` from the container's passwd file if the environment lacks it.
        #[serde(default)]
        default_home: bool,
        /// Use the built-in default seccomp profile instead of the one in the spec.
        #[serde(default)]
        seccomp_default: bool,
    },
    /// Set the size of the container's terminal, or of an exec's. An exec's terminal is known to the shim as long
    /// as the connection that asked for the exec is up.
    Resize {
        /// The exec, or the container.
        #[serde(default)]
        exec: Option<String>,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Ask for the container's standard input: the reply carries one non-blocking descriptor (the pipe's write end,
    /// or the terminal's master).
    OpenStdin {
        /// The shim lets go of its own write end when this connection ends, so that the container sees EOF.
        once: bool,
    },
    /// The shim lets go of its own write end of the pipe now. No effect on a terminal.
    CloseStdin,
    /// Send [`Event::Output`] to this connection from now on, the first at once.
    Subscribe {
        /// This subscriber sends [`Request::Ack`]s; the shim stops reading the container's output while the
        /// subscriber is more than half of the spool's capacity behind. Counted from the spool's end as it is now.
        acknowledge: bool,
    },
    /// No more [`Event::Output`], no more back-pressure from this connection.
    Unsubscribe,
    /// An acknowledging subscriber has dealt with everything before `position`.
    Ack {
        /// Where the subscriber's reader stands.
        position: Position,
    },
    /// The log driver has dealt with everything before `position`, durably; see [`ShimConfig::log_hold`].
    Release {
        /// Where its reader stands.
        position: Position,
    },
    /// The container is frozen (or no longer): no probe is begun, and what becomes of one that runs is not counted.
    HoldHealth {
        /// Frozen.
        hold: bool,
    },
    /// After the exit, or before the start: leave now. Refused while the container runs.
    Shutdown,
}

/// What a shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Ok,
    /// Who I am.
    Hello {
        /// The shim's [`VERSION`].
        version: u32,
        /// The container's id.
        id: String,
        /// The init's process id.
        pid: i32,
        /// How far the container is.
        state: ShimState,
        /// When its program started, nanoseconds since 1970; 0 before.
        started_at_ns: i64,
        /// The end of the spool.
        end: Position,
    },
    /// The container's program runs.
    Started {
        /// Nanoseconds since 1970.
        at_ns: i64,
    },
    /// The process runs; with a terminal (and not detached) one descriptor comes along, its non-blocking master.
    ExecStarted {
        /// Its process id.
        pid: i32,
    },
    /// Descriptors come along.
    Held {
        /// How many are held in all.
        total: usize,
    },
    /// It did not work.
    Error {
        /// Why, for programs.
        kind: FailureKind,
        /// Why, for people.
        message: String,
    },
}

/// How far a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShimState {
    /// Waiting for [`Request::Start`].
    Created,
    /// Its program runs.
    Running,
    /// It has ended.
    Exited(ExitStatus),
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The command does not exist in the container (exit code 127).
    NotFound,
    /// The command exists and cannot be executed (exit code 126).
    NotExecutable,
    /// The request makes no sense: bad user, bad number, malformed document.
    InvalidArgument,
    /// No running exec has that id.
    NoSuchExec,
    /// The container is not running (any more, or yet).
    NotRunning,
    /// The system refused; the message says what.
    Internal,
}

/// What a shim says unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The init and its namespaces exist, and wait for [`Request::Start`]. Carries the init's pidfd.
    Created {
        /// The init's process id.
        pid: i32,
    },
    /// The container could not be made; everything is undone and the shim leaves.
    Failed {
        /// Why, for programs.
        kind: FailureKind,
        /// Why, for people.
        message: String,
    },
    /// The spool has grown.
    Output {
        /// Its end.
        end: Position,
    },
    /// The spool has begun a new segment: those before it are closed. To every connection, coalesced.
    Rotated {
        /// The number of the segment that grows now.
        segment: u64,
    },
    /// The container has ended, its output is complete, its exit record on disk.
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The end of its output.
        end: Position,
    },
    /// The kernel has killed processes of the running container because it was out of memory.
    OutOfMemory {
        /// How many so far.
        kills: u64,
    },
    /// An exec'ed process has ended.
    ExecExited {
        /// Its id.
        id: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A health check's command is on its way into the container.
    ProbeStarted {
        /// An id as execs have.
        id: String,
    },
    /// A health check has ended; the health record on disk has it.
    Health {
        /// Results so far.
        count: u64,
        /// How the container is.
        status: HealthStatus,
        /// Failures since the last success.
        failing_streak: u32,
        /// What came of this one.
        result: HealthResult,
        /// The command's id and how it ended, if it ran.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exec: Option<(String, i32)>,
    },
}

/// What travels from shim to engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to a request.
    Reply(Envelope<Reply>),
    /// Something that happened.
    Event(Event),
}

/// What an engine sends a signal for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Somebody asked for this signal.
    Kill,
    /// Somebody asked for the end.
    Stop,
    /// Somebody asked for a new start.
    Restart,
    /// Somebody asked for the removal of a running container.
    Remove,
    /// The engine shuts down.
    Shutdown,
    /// The health check failed.
    Unhealthy,
    /// Not told, or told by a newer engine.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A signal that the shim sent to the init because an engine asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Its number.
    pub signal: i32,
    /// What for.
    pub purpose: Purpose,
    /// When, nanoseconds since 1970.
    pub at_ns: i64,
}

/// What the shim saw of the reasons for an end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// How many processes of the container the kernel killed because it was out of memory.
    #[serde(default)]
    pub oom_kills: u64,
    /// The kernel wrote a core dump.
    #[serde(default)]
    pub core_dumped: bool,
    /// The last signal an engine had sent to the init.
    #[serde(default)]
    pub sent: Option<Sent>,
    /// The one before the last.
    #[serde(default)]
    pub sent_before: Option<Sent>,
}

impl Evidence {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// 0 to 255; 128 + n after signal n.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed a process of the container because it was out of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Nanoseconds since 1970.
    pub finished_at_ns: i64,
    /// What else was seen; of an exec nothing.
    #[serde(default, skip_serializing_if = "Evidence::is_nothing")]
    pub evidence: Evidence,
}

/// The content of `exit.json`: written (atomically) once the output is complete, before [`Event::Exited`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// The init's process id, while it lived.
    pub pid: i32,
    /// When the program started, nanoseconds since 1970.
    pub started_at_ns: i64,
    /// How it ended.
    pub status: ExitStatus,
    /// The end of its output in the spool.
    pub end: Position,
}

/// Why a message could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a shim message has {length} bytes, more than {MAX_MESSAGE}")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// Not JSON, or not of this protocol.
    #[error("a shim message is malformed: {source}")]
    Malformed {
        /// The message's number, if that much was readable.
        seq: Option<u64>,
        /// What the parser says.
        source: serde_json::Error,
    },
}

/// One message as bytes.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = serde_json::to_vec(message).map_err(|source| CodecError::Malformed { seq: None, source })?;
    if bytes.len() > MAX_MESSAGE { Err(CodecError::TooLong { length: bytes.len() }) } else { Ok(bytes) }
}

/// A message from an engine.
pub fn decode_request(bytes: &[u8]) -> Result<Envelope<Request>, CodecError> {
    decode(bytes)
}

/// A message from a shim.
pub fn decode_message(bytes: &[u8]) -> Result<Message, CodecError> {
    decode(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLong { length: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|source| CodecError::Malformed {
        seq: serde_json::from_slice::<Numbered>(bytes).ok().map(|n| n.seq),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        vec![
            Request::Hello { version: VERSION },
            Request::Start,
            Request::Hold,
            Request::Signal { exec: Some("e".into()), signal: 15, purpose: Purpose::Stop },
            Request::KillAll,
            Request::Exec {
                id: "e".into(),
                terminal: true,
                rows: 24,
                cols: 80,
                detach: false,
                user: Some("root:0".into()),
                groups: vec!["audio".into()],
                default_home: true,
                seccomp_default: true,
            },
            Request::Resize { exec: None, rows: 1, cols: 2 },
            Request::OpenStdin { once: true },
            Request::CloseStdin,
            Request::Subscribe { acknowledge: true },
            Request::Unsubscribe,
            Request::Ack { position: Position { segment: 1, offset: u64::MAX } },
            Request::Release { position: Position::default() },
            Request::HoldHealth { hold: true },
            Request::Shutdown,
        ]
    }

    #[test]
    fn every_request_survives_the_journey() {
        for (seq, body) in requests().into_iter().enumerate() {
            let envelope = Envelope { seq: seq as u64, body };
            assert_eq!(decode_request(&encode(&envelope).unwrap()).unwrap(), envelope);
        }
    }

    #[test]
    fn messages_look_the_same_to_every_version() {
        let status = ExitStatus {
            code: 137,
            signal: Some(9),
            oom_killed: true,
            finished_at_ns: 5,
            evidence: Evidence::default(),
        };
        let end = Position { segment: 2, offset: 3 };
        let seen = encode(&Message::Event(Event::Exited { status, end })).unwrap();
        assert_eq!(
            String::from_utf8(seen).unwrap(),
            r#"{"event":{"exited":{"status":{"code":137,"signal":9,"oom_killed":true,"finished_at_ns":5},"end":{"segment":2,"offset":3}}}}"#
        );
        let newer = br#"{"seq":7,"body":{"signal":{"signal":9,"purpose":"boredom"}}}"#;
        let signal = Request::Signal { exec: None, signal: 9, purpose: Purpose::Unknown };
        assert_eq!(decode_request(newer).unwrap().body, signal);
        let unknown_field = br#"{"seq":7,"body":{"open_stdin":{"once":true,"later":1}},"more":[]}"#;
        assert_eq!(decode_request(unknown_field).unwrap().body, Request::OpenStdin { once: true });
        let start = encode(&Envelope { seq: 1, body: Request::Start }).unwrap();
        assert_eq!(String::from_utf8(start).unwrap(), r#"{"seq":1,"body":"start"}"#);
    }

    #[test]
    fn the_worst_result_of_a_probe_fits() {
        let output = "\u{1}".repeat(crate::health::MAX_OUTPUT + 64);
        let result = HealthResult { start_ns: i64::MIN, end_ns: i64::MIN, exit_code: -1, output };
        let mut record = crate::health::HealthRecord::default();
        (0..9).for_each(|_| record.push(result.clone()));
        assert_eq!(record.log.len(), crate::health::MAX_LOG);
        assert!(serde_json::to_vec(&record).unwrap().len() < crate::health::MAX_RECORD as usize);
        let (status, exec) = (HealthStatus::Unhealthy, Some(("f".repeat(64), 255)));
        let event = Event::Health { count: u64::MAX, status, failing_streak: u32::MAX, result, exec };
        assert!(encode(&Message::Event(event)).is_ok());
    }

    #[test]
    fn what_is_not_understood_keeps_its_number() {
        let unknown = br#"{"seq":7,"body":{"fly":{}}}"#;
        assert!(matches!(decode_request(unknown), Err(CodecError::Malformed { seq: Some(7), .. })));
        assert!(matches!(decode_request(b"hello"), Err(CodecError::Malformed { seq: None, .. })));
        let long = vec![b' '; MAX_MESSAGE + 1];
        assert!(matches!(decode_request(&long), Err(CodecError::TooLong { .. })));
        let long = Request::Signal { exec: Some("x".repeat(MAX_MESSAGE)), signal: 1, purpose: Purpose::Kill };
        assert!(matches!(encode(&Envelope { seq: 1, body: long }), Err(CodecError::TooLong { .. })));
    }

    /// Mutations of real messages, and nests as deep as a message can hold.
    #[test]
    fn any_bytes_are_decoded_or_refused() {
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut random = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit as u64) as usize
        };
        let seeds: Vec<Vec<u8>> =
            requests().into_iter().map(|body| encode(&Envelope { seq: 3, body }).unwrap()).collect();
        for _ in 0..4_000 {
            let mut bytes = seeds[random(seeds.len())].clone();
            for _ in 0..=random(5) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes.insert(at, b"{}[]\",:0-"[random(9)]),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let _either = decode_request(&bytes);
            let _either = decode_message(&bytes);
        }
        assert!(decode_request(&[b'['; MAX_MESSAGE]).is_err());
        assert!(decode_request(br#"{"seq":1e999,"body":"start"}"#).is_err());
    }
}
