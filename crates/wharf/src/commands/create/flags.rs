//! The flags `create` and `run` share, as given.

use wharf_api::models::{DeviceRequest, ResourcesBlkioWeightDevice, ResourcesUlimits, ThrottleDevice};

use crate::syntax::{
    device, environment,
    mount::{self, Mount},
    network::{self, Attachment},
    security, ulimit,
    units::{Bytes, BytesOrUnlimited, Duration, NanoCpus},
};

/// Everything that describes a container. Values are syntactically right; whether they fit together is checked when
/// they become a request.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainerFlags {
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
    #[command(flatten)]
    pub(crate) storage: StorageFlags,
    #[command(flatten)]
    pub(crate) network: NetworkFlags,
    #[command(flatten)]
    pub(crate) resources: ResourceFlags,
    #[command(flatten)]
    pub(crate) security: SecurityFlags,
    #[command(flatten)]
    pub(crate) lifecycle: LifecycleFlags,
    #[command(flatten)]
    pub(crate) image: ImageFlags,
}

/// What runs, and how it is connected.
#[derive(Debug, clap::Args)]
pub(crate) struct ProcessFlags {
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short = 'a', long, value_parser = attach_stream)]
    pub(crate) attach: Vec<String>,
    /// Keep STDIN open even if nobody is attached
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// Give the process a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// Replace the image's ENTRYPOINT
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short = 'e', long, value_parser = environment::variable)]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long)]
    pub(crate) env_file: Vec<String>,
    /// User to run as (name or UID, perhaps with :group or :GID)
    #[arg(short = 'u', long)]
    pub(crate) user: Option<String>,
    /// Working directory in the container
    #[arg(short = 'w', long)]
    pub(crate) workdir: Option<String>,
    /// Supplementary groups to join
    #[arg(long)]
    pub(crate) group_add: Vec<String>,
    /// Run a small init as PID 1 that passes signals on and reaps processes
    #[arg(long)]
    pub(crate) init: Option<bool>,
    /// Limits of the process (name=soft[:hard])
    #[arg(long, value_parser = ulimit::parse, value_name = "ulimit")]
    pub(crate) ulimit: Vec<ResourcesUlimits>,
}

/// Files and file systems.
#[derive(Debug, clap::Args)]
pub(crate) struct StorageFlags {
    /// Mount a volume or a host directory ([source:]target[:options])
    #[arg(short = 'v', long)]
    pub(crate) volume: Vec<String>,
    /// Mount something, spelled out (type=,source=,target=,...)
    #[arg(long, value_parser = mount::parse, value_name = "mount")]
    pub(crate) mount: Vec<Mount>,
    /// Mount a tmpfs (target[:options])
    #[arg(long)]
    pub(crate) tmpfs: Vec<String>,
    /// Mount the volumes of other containers
    #[arg(long)]
    pub(crate) volumes_from: Vec<String>,
    /// Driver of unnamed volumes
    #[arg(long)]
    pub(crate) volume_driver: Option<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Options of the storage driver
    #[arg(long)]
    pub(crate) storage_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "bytes")]
    pub(crate) shm_size: Option<Bytes>,
    /// Add a device of the host
    #[arg(long)]
    pub(crate) device: Vec<String>,
    /// Add a rule for the devices the container may use
    #[arg(long, value_parser = device::cgroup_rule)]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// Graphics processors to add ("all" for every one)
    #[arg(long, value_parser = device::gpus, value_name = "gpu-request")]
    pub(crate) gpus: Vec<DeviceRequest>,
    /// Let the container talk to the engine
    #[arg(long)]
    pub(crate) use_api_socket: bool,
}

/// Networks, names and ports.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkFlags {
    /// Connect to a network
    #[arg(long, alias = "net", value_parser = network::parse, value_name = "network")]
    pub(crate) network: Vec<Attachment>,
    /// Other names on the network
    #[arg(long, alias = "net-alias")]
    pub(crate) network_alias: Vec<String>,
    /// Publish ports to the host ([[ip:]host:]container[/protocol])
    #[arg(short = 'p', long)]
    pub(crate) publish: Vec<String>,
    /// Publish every exposed port to a free port of the host
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Expose a port or a range of ports
    #[arg(long)]
    pub(crate) expose: Vec<String>,
    /// Host name of the container
    #[arg(short = 'h', long)]
    pub(crate) hostname: Option<String>,
    /// Domain name of the container
    #[arg(long)]
    pub(crate) domainname: Option<String>,
    /// IPv4 address
    #[arg(long)]
    pub(crate) ip: Option<String>,
    /// IPv6 address
    #[arg(long)]
    pub(crate) ip6: Option<String>,
    /// Link-local addresses
    #[arg(long)]
    pub(crate) link_local_ip: Vec<String>,
    /// Hardware address
    #[arg(long)]
    pub(crate) mac_address: Option<String>,
    /// Name servers
    #[arg(long, value_parser = network::address)]
    pub(crate) dns: Vec<String>,
    /// Options of the resolver
    #[arg(long, alias = "dns-opt")]
    pub(crate) dns_option: Vec<String>,
    /// Domains to search
    #[arg(long, value_parser = network::search_domain)]
    pub(crate) dns_search: Vec<String>,
    /// Add a name to /etc/hosts (name:address)
    #[arg(long, value_parser = network::extra_host)]
    pub(crate) add_host: Vec<String>,
    /// Link to another container (legacy)
    #[arg(long, value_parser = network::link)]
    pub(crate) link: Vec<String>,
}

/// How much of the machine the container may use.
#[derive(Debug, clap::Args)]
pub(crate) struct ResourceFlags {
    /// Limit of memory
    #[arg(short = 'm', long, value_name = "bytes")]
    pub(crate) memory: Option<Bytes>,
    /// Soft limit of memory
    #[arg(long, value_name = "bytes")]
    pub(crate) memory_reservation: Option<Bytes>,
    /// Limit of memory and swap together, -1 for no limit
    #[arg(long, value_name = "bytes")]
    pub(crate) memory_swap: Option<BytesOrUnlimited>,
    /// Readiness to swap, 0 to 100
    #[arg(long, default_value_t = -1)]
    pub(crate) memory_swappiness: i64,
    /// Limit of kernel memory (no effect on current kernels)
    #[arg(long, value_name = "bytes")]
    pub(crate) kernel_memory: Option<Bytes>,
    /// Do not kill processes that run out of memory
    #[arg(long)]
    pub(crate) oom_kill_disable: bool,
    /// How readily the kernel kills the container for memory, -1000 to 1000
    #[arg(long, default_value_t = 0)]
    pub(crate) oom_score_adj: i64,
    /// Number of CPUs
    #[arg(long, value_name = "decimal")]
    pub(crate) cpus: Option<NanoCpus>,
    /// Relative weight for CPU time
    #[arg(short = 'c', long, default_value_t = 0)]
    pub(crate) cpu_shares: i64,
    /// Period of the CPU quota in microseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu_period: i64,
    /// CPU quota of each period in microseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu_quota: i64,
    /// Period of real-time scheduling in microseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu_rt_period: i64,
    /// Real-time quota in microseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu_rt_runtime: i64,
    /// CPUs to run on (0-3, 0,1)
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use (0-3, 0,1)
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Number of CPUs (Windows only)
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu_count: i64,
    /// Share of the CPUs in percent (Windows only)
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu_percent: i64,
    /// Limit of processes and threads, -1 for none
    #[arg(long, default_value_t = 0)]
    pub(crate) pids_limit: i64,
    /// Relative weight for block I/O, 10 to 1000, 0 to leave it alone
    #[arg(long, default_value_t = 0)]
    pub(crate) blkio_weight: u16,
    /// Relative weight for block I/O of a device (path:weight)
    #[arg(long, value_parser = device::weight)]
    pub(crate) blkio_weight_device: Vec<ResourcesBlkioWeightDevice>,
    /// Limit of bytes read a second from a device (path:bytes)
    #[arg(long, value_parser = device::byte_rate)]
    pub(crate) device_read_bps: Vec<ThrottleDevice>,
    /// Limit of bytes written a second to a device (path:bytes)
    #[arg(long, value_parser = device::byte_rate)]
    pub(crate) device_write_bps: Vec<ThrottleDevice>,
    /// Limit of reads a second from a device (path:count)
    #[arg(long, value_parser = device::operation_rate)]
    pub(crate) device_read_iops: Vec<ThrottleDevice>,
    /// Limit of writes a second to a device (path:count)
    #[arg(long, value_parser = device::operation_rate)]
    pub(crate) device_write_iops: Vec<ThrottleDevice>,
    /// Limit of I/O bandwidth of the system drive (Windows only)
    #[arg(long, value_name = "bytes")]
    pub(crate) io_maxbandwidth: Option<Bytes>,
    /// Limit of I/O operations of the system drive (Windows only)
    #[arg(long, default_value_t = 0)]
    pub(crate) io_maxiops: u64,
    /// Parent of the container's cgroup
    #[arg(long)]
    pub(crate) cgroup_parent: Option<String>,
}

/// Privileges and namespaces.
#[derive(Debug, clap::Args)]
pub(crate) struct SecurityFlags {
    /// Give the container all privileges
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Add capabilities
    #[arg(long)]
    pub(crate) cap_add: Vec<String>,
    /// Drop capabilities
    #[arg(long)]
    pub(crate) cap_drop: Vec<String>,
    /// Security options (seccomp=FILE, no-new-privileges, ...)
    #[arg(long)]
    pub(crate) security_opt: Vec<String>,
    /// Kernel settings of the container's namespaces
    #[arg(long, value_parser = security::sysctl, value_name = "map")]
    pub(crate) sysctl: Vec<(String, String)>,
    /// IPC namespace to use
    #[arg(long)]
    pub(crate) ipc: Option<String>,
    /// PID namespace to use
    #[arg(long)]
    pub(crate) pid: Option<String>,
    /// UTS namespace to use
    #[arg(long)]
    pub(crate) uts: Option<String>,
    /// User namespace to use
    #[arg(long)]
    pub(crate) userns: Option<String>,
    /// Cgroup namespace to use (host or private)
    #[arg(long)]
    pub(crate) cgroupns: Option<String>,
    /// How to isolate the container (Windows only)
    #[arg(long)]
    pub(crate) isolation: Option<String>,
    /// OCI runtime to use
    #[arg(long)]
    pub(crate) runtime: Option<String>,
}

/// Names, ends, checks and logs.
#[derive(Debug, clap::Args)]
pub(crate) struct LifecycleFlags {
    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Set a label
    #[arg(short = 'l', long, value_parser = environment::label)]
    pub(crate) label: Vec<String>,
    /// Read labels from a file
    #[arg(long)]
    pub(crate) label_file: Vec<String>,
    /// Annotation for the OCI runtime
    #[arg(long, value_parser = environment::pair, value_name = "map")]
    pub(crate) annotation: Vec<(String, String)>,
    /// When to start the container again after it exits
    #[arg(long, default_value = "no")]
    pub(crate) restart: String,
    /// Remove the container and its unnamed volumes when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// Signal that stops the container
    #[arg(long)]
    pub(crate) stop_signal: Option<String>,
    /// Seconds to wait before a stop kills
    #[arg(long)]
    pub(crate) stop_timeout: Option<i64>,
    /// Write the container's ID to a file
    #[arg(long)]
    pub(crate) cidfile: Option<String>,
    /// Command that checks whether the container is healthy
    #[arg(long)]
    pub(crate) health_cmd: Option<String>,
    /// Page that is asked for to check health, without a process: [http://][HOST]:PORT/PATH
    #[arg(long, value_name = "url")]
    pub(crate) health_http: Option<String>,
    /// Port that is connected to, to check health without a process
    #[arg(long, value_name = "port")]
    pub(crate) health_tcp: Option<String>,
    /// Socket in the container that is connected to, to check health without a process
    #[arg(long, value_name = "path")]
    pub(crate) health_unix: Option<String>,
    /// What to do when the container becomes unhealthy: none, restart, stop or kill
    #[arg(long, value_name = "action")]
    pub(crate) health_on_failure: Option<String>,
    /// Time between checks
    #[arg(long, value_name = "duration")]
    pub(crate) health_interval: Option<Duration>,
    /// Failures in a row that mean unhealthy
    #[arg(long, default_value_t = 0)]
    pub(crate) health_retries: i64,
    /// Time between checks while the container starts
    #[arg(long, value_name = "duration")]
    pub(crate) health_start_interval: Option<Duration>,
    /// Time to start before failures count
    #[arg(long, value_name = "duration")]
    pub(crate) health_start_period: Option<Duration>,
    /// Time a check may take
    #[arg(long, value_name = "duration")]
    pub(crate) health_timeout: Option<Duration>,
    /// Switch the image's health check off
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    /// Log driver
    #[arg(long)]
    pub(crate) log_driver: Option<String>,
    /// Options of the log driver
    #[arg(long)]
    pub(crate) log_opt: Vec<String>,
}

/// Which image, and whether to fetch it.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageFlags {
    /// Fetch the image first: always, missing or never
    #[arg(long, default_value = "missing")]
    pub(crate) pull: String,
    /// Platform of the image, if there are several
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Do not show the progress of fetching
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Do not check the image's signature
    #[arg(long, default_value = "true")]
    pub(crate) disable_content_trust: bool,
    #[arg(hide = true)]
    pub(crate) image_and_command: Vec<String>,
}

fn attach_stream(text: &str) -> Result<String, String> {
    let stream = text.to_lowercase();
    match stream.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(stream),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".into()),
    }
}
