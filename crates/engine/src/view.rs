//! What the engine answers: plain values that an edge turns into its own wire model.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use bytes::Bytes;
use jiff::Timestamp;
use wharf_model::spec::MountKind;
use wharf_model::{ContainerId, ContainerSpec, Digest};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its command runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended and about to be started again by its restart policy.
    Restarting,
    /// Ended.
    Exited,
    /// Being removed.
    Removing,
    /// Could not be removed whole.
    Dead,
}

impl Status {
    /// Docker's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }
}

/// `State` of inspect.
#[derive(Clone, Debug)]
pub struct StateView {
    /// Where it is.
    pub status: Status,
    /// Process id of its init on the host; 0 when not running.
    pub pid: i32,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// The last run ended by the OOM killer.
    pub oom_killed: bool,
    /// Why the last start failed, or what went wrong since.
    pub error: String,
    /// Start of the last run.
    pub started_at: Option<Timestamp>,
    /// End of the last run.
    pub finished_at: Option<Timestamp>,
    /// How its health check went; `None` without one, or before the first start.
    pub health: Option<HealthView>,
}

/// `State.Health` of inspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthView {
    /// How it is.
    pub status: crate::HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last results, oldest first.
    pub log: Vec<ProbeView>,
}

/// One result of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeView {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 is healthy; -1 without an exit code.
    pub exit_code: i32,
    /// What it wrote, or why it has no exit code.
    pub output: String,
}

/// One mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountView {
    /// Kind.
    pub kind: MountKind,
    /// Volume name; empty otherwise.
    pub name: String,
    /// Path on the host; empty for tmpfs.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Driver of a volume; empty otherwise.
    pub driver: String,
    /// Options as given (`ro`, `z`, …).
    pub mode: String,
    /// Writable.
    pub writable: bool,
    /// Propagation; empty for volumes.
    pub propagation: String,
}

/// A container's place on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Network name.
    pub network: String,
    /// Network id.
    pub network_id: String,
    /// Endpoint id; empty while not running.
    pub endpoint_id: String,
    /// Address and prefix length, while running.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Gateway, while running.
    pub gateway: Option<Ipv4Addr>,
    /// MAC address, while running.
    pub mac: Option<[u8; 6]>,
}

/// One published or exposed port as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Port in the container.
    pub port: wharf_model::network::Port,
    /// Host address and port; `None` when only exposed.
    pub host: Option<(std::net::IpAddr, u16)>,
}

/// Everything about one container.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Id.
    pub id: ContainerId,
    /// Name without a slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The program and its arguments.
    pub path: String,
    /// Arguments after the program.
    pub args: Vec<String>,
    /// State.
    pub state: StateView,
    /// Image id (config digest).
    pub image: Digest,
    /// The image's manifest digest, when it is still known.
    pub image_manifest: Option<Digest>,
    /// The wishes, merged with what the image says: `cmd`, `entrypoint`, `env`, `labels`, … are final.
    pub spec: ContainerSpec,
    /// Mounts.
    pub mounts: Vec<MountView>,
    /// Networks.
    pub endpoints: Vec<EndpointView>,
    /// Ports.
    pub ports: Vec<PortView>,
    /// Restarts by policy since the last start by hand.
    pub restart_count: u32,
    /// Exec sessions that exist.
    pub execs: Vec<String>,
    /// Directory of the output spool.
    pub log_path: String,
    /// Files made for it: resolv.conf, hostname, hosts.
    pub resolv_conf_path: String,
    /// See `resolv_conf_path`.
    pub hostname_path: String,
    /// See `resolv_conf_path`.
    pub hosts_path: String,
    /// Bytes in the writable layer and in all layers, when asked for.
    pub size: Option<(u64, u64)>,
    /// Why the last run ended, or the last start failed.
    pub ending: Option<crate::Ending>,
}

/// A container as lists show it, while it is looked at: nothing is copied.
#[derive(Clone)]
pub struct ContainerRow<'a> {
    /// Id.
    pub id: &'a ContainerId,
    /// Name without a slash.
    pub name: &'a str,
    /// When it was made.
    pub created: Timestamp,
    /// Where it is.
    pub status: Status,
    /// Exit code of the last run.
    pub exit_code: i32,
    /// Start of the last run.
    pub started_at: Option<Timestamp>,
    /// End of the last run.
    pub finished_at: Option<Timestamp>,
    /// How its health check went; `None` without one, or before the first start.
    pub health: Option<crate::HealthStatus>,
    /// Image id (config digest).
    pub image: &'a Digest,
    /// The wishes, merged with what the image says.
    pub spec: &'a ContainerSpec,
    /// Mounts.
    pub mounts: Vec<MountView>,
    /// Networks, made when they are asked for.
    pub endpoints: &'a dyn Fn() -> Vec<EndpointView>,
    /// Ports.
    pub ports: Vec<PortView>,
    /// Bytes in the writable layer and in all layers, when asked for.
    pub size: Option<(u64, u64)>,
}

/// Which stream a piece of output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output: any number of bytes of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// Its stream.
    pub stream: Stream,
    /// Its bytes; with timestamps or details already in front of each line if asked for.
    pub bytes: Bytes,
}

/// Which containers `ps` shows.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// The newest n, running or not.
    pub limit: Option<usize>,
    /// Compute sizes.
    pub size: bool,
    /// Filters.
    pub filters: wharf_model::Filters,
}

/// What `logs` shows.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on as output comes.
    pub follow: bool,
    /// RFC 3339 time in front of each line.
    pub timestamps: bool,
    /// Labels and env chosen by log options in front of each line.
    pub details: bool,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Up to this time.
    pub until: Option<Timestamp>,
    /// The last n lines.
    pub tail: Option<u64>,
}

/// What to attach to.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Stream what comes from now on.
    pub stream: bool,
    /// First replay what was written so far.
    pub logs: bool,
    /// Detach key sequence, e.g. `ctrl-p,ctrl-q`; `None` for the default.
    pub detach_keys: Option<String>,
}

/// When `wait` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// At once if it does not run.
    #[default]
    NotRunning,
    /// At the next end.
    NextExit,
    /// When it is removed.
    Removed,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitResult {
    /// Exit code.
    pub code: i32,
}

/// What `exec create` takes.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`; empty for the container's.
    pub user: String,
    /// Directory; empty for the container's.
    pub working_dir: String,
    /// All capabilities, no filter.
    pub privileged: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Attach standard input.
    pub attach_stdin: bool,
    /// Attach standard output.
    pub attach_stdout: bool,
    /// Attach standard error.
    pub attach_stderr: bool,
    /// Detach key sequence.
    pub detach_keys: Option<String>,
    /// Rows and columns at start.
    pub console_size: Option<(u16, u16)>,
}

/// An exec session as inspect shows it.
#[derive(Clone, Debug)]
pub struct ExecView {
    /// Id.
    pub id: wharf_model::ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What was asked for.
    pub spec: ExecSpec,
    /// The keys that detach, if there are others than usual.
    pub detach_keys: Vec<u8>,
    /// Runs now.
    pub running: bool,
    /// Exit code once it has ended.
    pub exit_code: Option<i32>,
    /// Process id on the host; 0 before the start.
    pub pid: i32,
}

/// One sample of a container's use of the machine.
#[derive(Clone, Debug)]
pub struct StatsView {
    /// Container.
    pub id: ContainerId,
    /// Name.
    pub name: String,
    /// When it was read.
    pub read: Timestamp,
    /// The cgroup's figures; `None` when it does not run.
    pub cgroup: Option<wharf_linux::cgroup::Stats>,
    /// CPU time of the whole machine in nanoseconds.
    pub system_cpu_ns: u64,
    /// CPUs that are online.
    pub online_cpus: u32,
    /// Memory of the machine: the limit when there is none.
    pub memory_total: u64,
    /// Per interface: received bytes, packets, errors, drops; sent bytes, packets, errors, drops.
    pub networks: BTreeMap<String, [u64; 8]>,
}

/// `top`: titles and one row a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopView {
    /// Column titles.
    pub titles: Vec<String>,
    /// Rows.
    pub processes: Vec<Vec<String>>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeView {
    /// Name.
    pub name: String,
    /// Driver: `local` or a plugin.
    pub driver: String,
    /// Path of its data on the host.
    pub mountpoint: String,
    /// `local`, or `global` for a plugin whose volumes are the same on other hosts.
    pub scope: String,
    /// When it was made, if its driver knows.
    pub created: Option<Timestamp>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// What its plugin says about it.
    pub status: BTreeMap<String, serde_json::Value>,
}

/// Volumes, and what kept others from being listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeList {
    /// By name.
    pub volumes: Vec<VolumeView>,
    /// For a person.
    pub warnings: Vec<String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// When it was made.
    pub created: Timestamp,
    /// Subnet and gateway.
    pub subnet: Option<(String, Ipv4Addr)>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Containers on it: id, name, endpoint id, MAC, address with prefix.
    pub containers: Vec<(String, String, String, String, String)>,
}

/// An image as lists and inspect show it.
#[derive(Clone, Debug)]
pub struct ImageView {
    /// The image.
    pub image: wharf_image::Image,
    /// Containers made from it.
    pub containers: usize,
}

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names or ids; for images `untagged: …` and `deleted: …` are told apart by the edge through `deleted_images`.
    pub removed: Vec<String>,
    /// Image removals in order.
    pub images: Vec<wharf_image::Removed>,
    /// Bytes freed.
    pub reclaimed: u64,
}

/// Facts for `info`.
#[derive(Clone, Debug)]
pub struct SystemView {
    /// Engine id.
    pub id: String,
    /// Containers by status: all, running, paused, stopped.
    pub containers: (usize, usize, usize, usize),
    /// Number of images.
    pub images: usize,
    /// Directories of files that describe devices.
    pub cdi_dirs: Vec<String>,
    /// Data root.
    pub data_root: String,
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// Operating system name.
    pub operating_system: String,
    /// Operating system version.
    pub os_version: String,
    /// `x86_64`, `aarch64`, …
    pub architecture: String,
    /// CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// `1` or `2`.
    pub cgroup_version: &'static str,
    /// File system under the data root.
    pub backing_filesystem: String,
    /// Live restore is on.
    pub live_restore: bool,
    /// Debug is on.
    pub debug: bool,
    /// Whether containers are in user namespaces.
    pub remapped: bool,
    /// What makes containers.
    pub runtimes: crate::Runtimes,
    /// Labels of the engine.
    pub labels: Vec<String>,
    /// Registries that need no certificate: hosts and address ranges.
    pub insecure_registries: Vec<String>,
    /// Mirrors of `docker.io`.
    pub registry_mirrors: Vec<String>,
    /// The log driver of containers that name none.
    pub log_driver: String,
    /// Open descriptors of the engine.
    pub descriptors: usize,
    /// Clients listening to events.
    pub event_listeners: usize,
    /// The engine's own clock.
    pub time: Timestamp,
}

/// What `system df` adds up, beside the containers' sizes.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// Images with their size and containers.
    pub images: Vec<ImageView>,
    /// Bytes on disk of all images: their blobs and layers, each once.
    pub layers_size: u64,
    /// Of each image, the bytes of layers that other images have too.
    pub shared: HashMap<Digest, u64>,
    /// Volumes with size and number of users.
    pub volumes: Vec<(VolumeView, u64, usize)>,
}
