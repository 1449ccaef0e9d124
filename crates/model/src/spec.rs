//! What a container shall be: the caller's wishes, validated in form but not yet met with an image or this machine.
//!
//! Field names and meaning follow Docker's `Config` and `HostConfig`; units are in each field's comment. The record in
//! the state database holds this as JSON, so fields may be added with a default but never change meaning.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::network::{NetworkMode, Port};

/// Everything `create` takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The image as the caller named it.
    pub image: String,
    /// Host name; empty for the short id.
    pub hostname: String,
    /// Domain name.
    pub domainname: String,
    /// `user[:group]`, names or numbers; empty for the image's.
    pub user: String,
    /// `NAME=value`; a bare `NAME` removes what the image sets.
    pub env: Vec<String>,
    /// Arguments; `None` for the image's.
    pub cmd: Option<Vec<String>>,
    /// Entrypoint; `None` for the image's, `[""]` or empty to clear it.
    pub entrypoint: Option<Vec<String>>,
    /// Working directory; empty for the image's.
    pub working_dir: String,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub open_stdin: bool,
    /// Close standard input when the first attached client leaves.
    pub stdin_once: bool,
    /// The client meant to attach to standard input (shown by inspect).
    pub attach_stdin: bool,
    /// The client meant to attach to standard output.
    pub attach_stdout: bool,
    /// The client meant to attach to standard error.
    pub attach_stderr: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports the container listens on.
    pub exposed_ports: BTreeSet<Port>,
    /// Paths that get an anonymous volume.
    pub volumes: BTreeSet<String>,
    /// Stop signal; empty for the image's or `SIGTERM`.
    pub stop_signal: String,
    /// Seconds between the stop signal and `SIGKILL`; negative waits for ever.
    pub stop_timeout: Option<i64>,
    /// Health check; `None` for the image's.
    pub healthcheck: Option<Healthcheck>,
    /// MAC address asked for; empty for a derived one.
    pub mac_address: String,
    /// IPv4 address asked for.
    pub ipv4_address: Option<std::net::Ipv4Addr>,
    /// `os/architecture[/variant]` asked for.
    pub platform: Option<String>,
    /// No network at all, whatever the network mode says.
    pub network_disabled: bool,
    /// The shell of the image's shell form; shown by inspect and kept by commit.
    pub shell: Vec<String>,
    /// Triggers of a build; shown by inspect.
    pub on_build: Vec<String>,
    /// What the host gives to it.
    pub host: HostSpec,
}

/// Docker's health check; durations in nanoseconds, 0 for the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", …]`; empty inherits.
    pub test: Vec<String>,
    /// Time between checks.
    pub interval: i64,
    /// Time one check may take.
    pub timeout: i64,
    /// Grace period after the start.
    pub start_period: i64,
    /// Time between checks during the grace period.
    pub start_interval: i64,
    /// Failures in a row that make the container unhealthy.
    pub retries: i64,
}

/// Resources, isolation, mounts and networking.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSpec {
    /// `source:target[:options]` as given by `-v`.
    pub binds: Vec<String>,
    /// Structured mounts.
    pub mounts: Vec<MountSpec>,
    /// Target to options of `--tmpfs`.
    pub tmpfs: BTreeMap<String, String>,
    /// Read-only binds are so at their top only: what clients before API 1.44 expect.
    pub read_only_top: bool,
    /// Containers whose volumes are mounted too.
    pub volumes_from: Vec<String>,
    /// Driver of volumes made on the way.
    pub volume_driver: String,
    /// Network.
    pub network_mode: NetworkMode,
    /// Published ports.
    pub port_bindings: BTreeMap<Port, Vec<HostPort>>,
    /// Publish every exposed port on an ephemeral one.
    pub publish_all_ports: bool,
    /// Restart policy.
    pub restart_policy: RestartPolicy,
    /// Remove the container when it has ended.
    pub auto_remove: bool,
    /// Name servers.
    pub dns: Vec<String>,
    /// `resolv.conf` options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `name:address` lines for the hosts file.
    pub extra_hosts: Vec<String>,
    /// Legacy links.
    pub links: Vec<String>,
    /// Supplementary groups.
    pub group_add: Vec<String>,
    /// Capabilities to add; `ALL` for all.
    pub cap_add: Vec<String>,
    /// Capabilities to drop; `ALL` for all.
    pub cap_drop: Vec<String>,
    /// All devices, all capabilities, no filters.
    pub privileged: bool,
    /// `seccomp=…`, `no-new-privileges`, `apparmor=…`, `label=…`.
    pub security_opt: Vec<String>,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// Paths hidden from the container; `None` for the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; `None` for the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// IPC namespace mode.
    pub ipc_mode: String,
    /// PID namespace mode.
    pub pid_mode: String,
    /// UTS namespace mode.
    pub uts_mode: String,
    /// User namespace mode.
    pub userns_mode: String,
    /// Cgroup namespace mode: `private` or `host`; empty for the default.
    pub cgroupns_mode: String,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Run an init as process 1.
    pub init: Option<bool>,
    /// Size of `/dev/shm` in bytes; 0 for 64 MiB.
    pub shm_size: i64,
    /// Namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Devices.
    pub devices: Vec<DeviceMapping>,
    /// `c 1:3 rwm` rules.
    pub device_cgroup_rules: Vec<String>,
    /// Devices that a driver knows: those of the container device interface, graphics processors.
    pub device_requests: Vec<DeviceRequest>,
    /// Isolation; on Linux there is one, `default`.
    pub isolation: String,
    /// Shown by inspect; without meaning since control groups have namespaces.
    pub cgroup: String,
    /// Memory limit in bytes; 0 for none.
    pub memory: i64,
    /// Memory plus swap in bytes; -1 unlimited, 0 for the default.
    pub memory_swap: i64,
    /// Soft limit in bytes.
    pub memory_reservation: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Disable the OOM killer.
    pub oom_kill_disable: bool,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// CPUs in billionths; 0 for no limit.
    pub nano_cpus: i64,
    /// Relative weight.
    pub cpu_shares: i64,
    /// Period in microseconds.
    pub cpu_period: i64,
    /// Quota in microseconds.
    pub cpu_quota: i64,
    /// Real-time period in microseconds.
    pub cpu_realtime_period: i64,
    /// Real-time runtime in microseconds.
    pub cpu_realtime_runtime: i64,
    /// CPUs allowed.
    pub cpuset_cpus: String,
    /// Memory nodes allowed.
    pub cpuset_mems: String,
    /// Processes allowed; 0 or -1 unlimited.
    pub pids_limit: Option<i64>,
    /// Block I/O weight, 10 to 1000; 0 for the default.
    pub blkio_weight: u16,
    /// Per-device weights and throttles: (kind, path, rate); kinds are Docker's field names.
    pub blkio_devices: Vec<BlkioDevice>,
    /// Log driver and options.
    pub log: LogSpec,
    /// OCI runtime.
    pub runtime: String,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Storage driver options.
    pub storage_opt: BTreeMap<String, String>,
    /// File the client wrote the id to.
    pub container_id_file: String,
    /// Terminal size at start: rows, columns.
    pub console_size: (u16, u16),
}

/// One per-device block I/O rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioDevice {
    /// `BlkioWeightDevice`, `BlkioDeviceReadBps`, `BlkioDeviceWriteBps`, `BlkioDeviceReadIOps`, `BlkioDeviceWriteIOps`.
    pub kind: String,
    /// Device path on the host.
    pub path: String,
    /// Weight, bytes or operations per second.
    pub rate: u64,
}

/// Log driver and options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// Driver; empty for the engine's default.
    pub driver: String,
    /// Options.
    pub options: BTreeMap<String, String>,
}

/// When a container is started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// The rule.
    pub name: RestartName,
    /// Tries for `on-failure`; 0 unlimited.
    pub maximum_retry_count: i64,
}

/// Names of restart policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartName {
    /// Never.
    #[default]
    No,
    /// Whenever it ends.
    Always,
    /// Whenever it ends, unless a person stopped it.
    UnlessStopped,
    /// When it ends with an error.
    OnFailure,
}

impl RestartName {
    /// Docker's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
            Self::OnFailure => "on-failure",
        }
    }
}

/// One published address; empty strings as Docker has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Address on the host; empty for all.
    pub ip: String,
    /// Port or range `8000-8010`; empty for an ephemeral one.
    pub port: String,
}

/// One resource limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// Soft limit; -1 unlimited.
    pub soft: i64,
    /// Hard limit; -1 unlimited.
    pub hard: i64,
}

/// A device of the host in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Path on the host.
    pub path_on_host: String,
    /// Path in the container.
    pub path_in_container: String,
    /// Any of `rwm`.
    pub permissions: String,
}

/// Devices to be found by a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// `cdi`, or empty for whichever driver has the capabilities.
    pub driver: String,
    /// How many; -1 for all.
    pub count: i64,
    /// Which ones.
    pub device_ids: Vec<String>,
    /// Alternatives of capabilities that must all be there.
    pub capabilities: Vec<Vec<String>>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// The kind of a structured mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A directory or file of the host.
    Bind,
    /// A named or anonymous volume.
    #[default]
    Volume,
    /// Memory.
    Tmpfs,
    /// An image, read-only.
    Image,
}

/// One structured mount (`--mount`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountSpec {
    /// Kind.
    pub kind: MountKind,
    /// Host path, volume name or image; empty for an anonymous volume or a tmpfs.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// Bind propagation; empty for `rprivate`.
    pub propagation: String,
    /// Bind without the mounts beneath the source.
    pub non_recursive: bool,
    /// Make a missing bind source.
    pub create_mountpoint: bool,
    /// Read-only for the mounts beneath, too, or fail.
    pub read_only_force_recursive: bool,
    /// Leave the mounts beneath writable.
    pub read_only_non_recursive: bool,
    /// Do not copy image content into a new volume.
    pub no_copy: bool,
    /// Directory inside the volume or image.
    pub subpath: String,
    /// Labels of a volume made on the way.
    pub labels: BTreeMap<String, String>,
    /// Driver of a volume made on the way.
    pub driver: String,
    /// Its options.
    pub driver_options: BTreeMap<String, String>,
    /// Size of a tmpfs in bytes; 0 for the kernel's default.
    pub tmpfs_size: i64,
    /// Mode of a tmpfs; 0 for 1777.
    pub tmpfs_mode: u32,
    /// Further tmpfs options: (name) or (name, value).
    pub tmpfs_options: Vec<Vec<String>>,
    /// Whose files on the host are whose in the container.
    pub ownership: Option<crate::ownership::Ownership>,
}
