//! `start`: files, shim, network, gate.
//!
//! Steps and how each is undone: prepare files (the next start or the removal overwrites them) → spawn the shim
//! (closing its socket makes it undo everything it did) → attach the network (`detach`) → open the gate. The row says
//! `running` only after the command runs; if the engine dies in between, the shim sees its socket close and leaves, or,
//! once the gate is open, `recover` finds it running.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use wharf_linux::{hostfs, seqpacket};
use wharf_model::network::NetworkMode;
use wharf_net::{Attached, EndpointRequest, HostPort, PortRequest};
use wharf_shim::protocol::{Event, OverlayRoot, Reply, Request, ShimConfig, VERSION};

use super::modes::Joined;
use super::{Container, Phase, Record};
use crate::blocking::blocking;
use crate::child::{self, ShimProcess};
use crate::link::{Events, Link, failure};
use crate::logs::Settings;
use crate::spec::cdi::Injection;
use crate::spec::{self, SeccompOption, Surroundings};
use crate::{Engine, Error, Result, files};

/// How long a shim may take until the container's namespaces exist.
const DEADLINE: Duration = Duration::from_secs(60);

impl Engine {
    /// Starts a container.
    ///
    /// # Errors
    /// [`Error::NotModified`] when it runs already, [`Error::Start`] when its command cannot run.
    pub async fn start_container(&self, name: &str) -> Result<()> {
        let container = self.find(name)?;
        let _change = self.change_to_start(&container, name).await?;
        self.begin_anew(&container)?;
        self.start(&container).await
    }

    /// Makes the record of a container that a person starts ready for that; the caller holds `change`.
    ///
    /// # Errors
    /// [`Error::NotModified`] when it runs already, [`Error::Conflict`] when it cannot be started.
    pub(super) fn begin_anew(&self, container: &Container) -> Result<()> {
        let mut record = container.record();
        match record.phase {
            // One in the pause before its restart counts as running: it is started by its policy.
            Phase::Running | Phase::Restarting => {
                return Err(Error::NotModified(format!("container {} is running", container.id)));
            }
            Phase::Paused => {
                return Err(Error::Conflict("cannot start a paused container, try unpause instead".into()));
            }
            Phase::Removing => {
                return Err(Error::Conflict("container is marked for removal and cannot be started".into()));
            }
            Phase::Created | Phase::Exited => {}
        }
        record.start_anew();
        record.launched_at = Some(Timestamp::now());
        Ok(())
    }

    /// Starts a container whose `change` the caller holds.
    pub(crate) async fn start(&self, container: &Arc<Container>) -> Result<()> {
        self.settled(container).await?;
        let launched = {
            // Nobody may have the files mounted elsewhere when the container mounts them.
            let _files = container.files.write().await;
            self.launch(container).await
        };
        match launched {
            Ok(()) => Ok(()),
            Err(error) => {
                self.release_volumes(container).await;
                self.start_failed(container, &error).await;
                Err(error)
            }
        }
    }

    async fn launch(&self, container: &Arc<Container>) -> Result<()> {
        let log = self.prepare_log(container).await?;
        let joined = self.join(container)?;
        self.refresh_links(container)?;
        self.hold_volumes(container).await?;
        let looked_at = container.record().clone();
        spec::mounts::check_sources(self, &looked_at).await?;
        let (engine, record) = (self.clone(), container.record().clone());
        let spawned = blocking(move || {
            let (control, command) = engine.prepare(&record, joined, &log)?;
            Ok((control, child::spawn(command)?))
        });
        let (control, child) = spawned.await?;
        let child = ShimProcess::watch(child)?;
        let (link, mut events) = Link::new(control)?;
        let result = self.wire_and_open(container, &link, &mut events).await;
        match result {
            Ok(started) => {
                self.began(container, &link, &started).await;
                self.clone().supervise(container.clone(), link, events, Some(child));
                Ok(())
            }
            Err(error) => {
                link.close();
                // Its end is the proof that everything it made is gone, unless somebody killed it.
                reap(child).await;
                self.sweep_cgroup(container).await;
                self.detach(container).await;
                Err(error)
            }
        }
    }

    /// From the shim's first word to the running command.
    async fn wire_and_open(
        &self,
        container: &Arc<Container>,
        link: &Arc<Link>,
        events: &mut Events,
    ) -> Result<Started> {
        let pid = created(events).await?;
        let (engine, record) = (self.clone(), container.record().clone());
        let attached = match blocking(move || engine.attach_network(&record, pid)).await {
            Ok(attached) => attached,
            Err(error) => return Err(cause(link, pid, error).await),
        };
        let opened = async {
            container.followers.subscribe(link).await?;
            let held: Vec<BorrowedFd<'_>> =
                attached.iter().flat_map(|attached| attached.reservations.iter()).map(AsFd::as_fd).collect();
            let mut packets = held.chunks(wharf_shim::protocol::MAX_FDS);
            let first = packets.next().unwrap_or_default();
            for more in packets {
                link.ask(Request::Hold, more).await?;
            }
            match link.ask(Request::Start, first).await?.0 {
                Reply::Started { at_ns } => Ok(at_ns),
                other => Err(Error::System(format!("the shim answered {other:?} to a start"))),
            }
        };
        match opened.await {
            Ok(at_ns) => Ok(Started { pid, at_ns, endpoint: attached.map(|attached| attached.endpoint) }),
            Err(error) => Err(error),
        }
    }

    async fn began(&self, container: &Arc<Container>, link: &Arc<Link>, started: &Started) {
        container.set_link(Some(link.clone()));
        {
            let mut record = container.record();
            record.phase = Phase::Running;
            record.pid = started.pid;
            record.started_at = timestamp(started.at_ns);
            record.exit_code = 0;
            record.oom_killed = false;
            record.error.clear();
            record.oom_kills = 0;
            record.restart_at = None;
            record.begin_health();
            record.endpoint.clone_from(&started.endpoint);
        }
        container.progress.send_modify(|progress| {
            progress.run += 1;
            progress.complete = false;
            progress.running = true;
            progress.busy = true;
            progress.restarting = false;
        });
        self.follow_log(container);
        // The container runs whether or not this can be written; `recover` would find it by its shim.
        if let Err(error) = self.save(container).await {
            tracing::error!(container = %container.id, %error, "cannot record that the container runs");
        }
        let record = container.record().clone();
        self.tell_mounts(&record, true);
        self.tell_network(&record, true);
        self.emit(container, "start", &[]);
    }

    async fn start_failed(&self, container: &Arc<Container>, error: &Error) {
        let code = if let Error::Start { exit_code, .. } = error { *exit_code } else { 128 };
        let ending = self.explain_start(container, error, code).await;
        let (remove, again) = {
            let mut record = container.record();
            record.error = error.to_string();
            record.ending = Some(ending.clone());
            record.exit_code = code;
            record.pid = 0;
            record.endpoint = None;
            // What is missing may come back (a port, a mount, another container), so the policy tries again.
            let again = record.phase == Phase::Restarting && record.wants_restart(code);
            if again {
                record.plan_another(Timestamp::now());
            } else if record.phase == Phase::Restarting {
                record.phase = Phase::Exited;
            }
            (record.spec.host.auto_remove, again)
        };
        container.progress.send_modify(|progress| {
            // Not an exit: who waits for the next one goes on waiting, as with Docker.
            progress.exit = Some(code);
            progress.restarting = again;
        });
        self.inner.endings.add(ending);
        self.keep_endings().await;
        let record = container.record().clone();
        self.tell_network(&record, false);
        self.tell_mounts(&record, false);
        if let Err(error) = self.save(container).await {
            tracing::error!(container = %container.id, %error, "cannot record a failed start");
        }
        if again {
            self.clone().restart_later(container.clone());
        }
        if remove && let Err(error) = self.remove(container, true).await {
            tracing::error!(container = %container.id, %error, "cannot remove a container that did not start");
        }
    }

    /// Writes everything the shim reads; answers its configuration file and the command that runs it.
    fn prepare(&self, record: &Record, joined: Joined, log: &Settings) -> Result<(OwnedFd, Command)> {
        let config = &self.inner.config;
        let directory = config.containers_dir().join(record.id.as_str());
        let run_dir = config.run_dir().join(record.id.as_str());
        crate::runtimes::wait_for_guard(&run_dir)?;
        hostfs::remove_dir_all(&run_dir)?;
        hostfs::create_dir(&run_dir, 0o700)?;
        hostfs::create_dir_all(&directory.join("root"), 0o700)?;
        if joined.files.is_none() {
            files::write(&directory, record)?;
        }
        let injection = Injection::find(&record.spec.host, &config.cdi_dirs)?;
        let mut groups = record.spec.host.group_add.clone();
        groups.extend(injection.groups());
        let runtime = self.foreign_runtime(&record.spec.host.runtime)?;
        let mut around = self.surroundings(record, &directory, joined, injection)?;
        around.foreign_runtime = runtime.as_ref().map(|runtime| runtime.name.clone());
        let spec = spec::build(record, &around)?;
        let json =
            |error: serde_json::Error| Error::System(format!("cannot encode the configuration: {error}"));
        hostfs::write(&directory.join("config.json"), &serde_json::to_vec(&spec).map_err(json)?)?;
        let layers = self.inner.images.snapshot(record.id.as_str())?;
        let security = spec::options(&record.spec.host)?;
        let host = &record.spec.host;
        let log_dir = directory.join("log");
        let shim = ShimConfig {
            version: VERSION,
            id: record.id.to_string(),
            bundle: directory.clone(),
            run_dir,
            log_segment_bytes: log.spool.segment_bytes,
            log_segments: log.spool.segments,
            log_hold: self.log_hold(&log_dir, log)?,
            log_dir,
            rootfs: Some(OverlayRoot {
                base: layers.base,
                lower: layers.lower,
                upper: layers.upper,
                work: layers.work,
                mountpoint: directory.join("root"),
            }),
            seccomp_default: security.seccomp == SeccompOption::Default && !host.privileged,
            // Empty is root, with root's groups in the image.
            user: Some(record.spec.user.clone()),
            groups,
            create_cwd: true,
            default_home: true,
            init: host.init.unwrap_or(false),
            open_stdin: record.spec.open_stdin,
            rows: host.console_size.0,
            cols: host.console_size.1,
            health: crate::health::config(&record.spec)?,
            runtime,
        };
        let file = directory.join("shim.json");
        hostfs::write(&file, &serde_json::to_vec(&shim).map_err(json)?)?;
        let log = hostfs::append(&directory.join("shim.log"), 0o600)?;
        let (ours, theirs) = seqpacket::socketpair()?;
        Ok((ours, self.shim_command(&file, theirs, log)))
    }

    fn shim_command(&self, file: &std::path::Path, control: OwnedFd, log: File) -> Command {
        use std::os::fd::AsRawFd;
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(format!("/proc/self/fd/{}", self.inner.shim.as_raw_fd()));
        command.arg0("wharf-shim").arg("run").arg(file);
        command.stdin(Stdio::from(control)).stdout(Stdio::null()).stderr(Stdio::from(log));
        // No `current_dir` and nothing else that std cannot give to posix_spawn: a fork would copy the engine's page
        // tables, which costs more than all the rest of a start.
        command.env_clear().envs(wharf_shim::protocol::ENVIRONMENT);
        command
    }

    fn surroundings(
        &self,
        record: &Record,
        directory: &std::path::Path,
        joined: Joined,
        injection: Injection,
    ) -> Result<Surroundings> {
        Ok(Surroundings {
            files: joined.files.unwrap_or_else(|| directory.to_path_buf()),
            cgroup: self.cgroup_path(record),
            network: joined.network,
            ipc: joined.ipc,
            pid: joined.pid,
            injection,
            id_maps: self.id_maps(record, joined.user.as_ref().map(|user| &user.ids))?,
            user: joined.user,
            images: self.image_layers(record)?,
            foreign_runtime: None,
        })
    }

    /// The container's cgroup.
    pub(crate) fn cgroup_path(&self, record: &Record) -> String {
        let parent = match record.spec.host.cgroup_parent.as_str() {
            "" => self.inner.config.cgroup_parent(),
            parent => format!("/{}", parent.trim_matches('/')),
        };
        format!("{parent}/{}", record.id)
    }

    /// Gives the new namespace its place on the network.
    fn attach_network(&self, record: &Record, pid: i32) -> Result<Option<Attached>> {
        let spec = &record.spec;
        let namespace = || hostfs::open(std::path::Path::new(&format!("/proc/{pid}/ns/net")));
        match spec.host.network_mode {
            _ if spec.network_disabled => {
                self.inner.network.loopback(namespace()?.as_fd())?;
                return Ok(None);
            }
            NetworkMode::Bridge { .. } => {}
            NetworkMode::Named(ref name) => {
                return Err(Error::NotFound(format!(
                    "failed to set up container networking: network {name} not found"
                )));
            }
            NetworkMode::None => {
                self.inner.network.loopback(namespace()?.as_fd())?;
                return Ok(None);
            }
            _ => return Ok(None),
        }
        let netns = namespace()?;
        let mac = match spec.mac_address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error| Error::Invalid(format!("{error}")))?),
        };
        let attached = self.inner.network.attach(&EndpointRequest {
            container: record.id.as_str(),
            netns: netns.as_fd(),
            ports: &ports(record)?,
            address: spec.ipv4_address,
            mac,
        });
        let attached = attached.map_err(|error| match error {
            error if is_about_ports(&error) => Error::Publish {
                endpoint: format!("{} ({})", record.name, record.id),
                error: Box::new(error),
            },
            other => Error::Network(other),
        })?;
        let directory = self.inner.config.containers_dir().join(record.id.as_str());
        let (address, gateway) = (attached.endpoint.address, attached.endpoint.gateway);
        files::write_hosts(&directory, record, Some(address), Some(gateway))?;
        self.tell_linked(&record.id, address);
        Ok(Some(attached))
    }

    /// Waits until the last run is cleaned up.
    pub(crate) async fn settled(&self, container: &Arc<Container>) -> Result<()> {
        let run = container.progress.borrow().run;
        self.settled_run(container, run).await
    }

    /// Waits until that run is cleaned up, which it is when another has begun.
    pub(super) async fn settled_run(&self, container: &Arc<Container>, run: u64) -> Result<()> {
        let mut progress = container.progress.subscribe();
        let clean = progress.wait_for(|progress| !progress.busy || progress.run != run);
        let waited = tokio::time::timeout(DEADLINE, clean).await;
        match waited {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Deadline {
                what: format!("cleaning up the last run of container {}", container.id.short()),
                seconds: DEADLINE.as_secs(),
            }),
        }
    }
}

struct Started {
    pid: i32,
    at_ns: i64,
    endpoint: Option<wharf_net::Endpoint>,
}

/// Why the network could not be attached: an init that has failed takes its namespace with it, and its own reason is
/// the one that helps.
async fn cause(link: &Link, pid: i32, error: Error) -> Error {
    // A process that is ending loses its namespaces before it becomes a zombie.
    let ending = matches!(&error, Error::File(file) if file.is_not_found());
    let dead = ending
        || hostfs::read_to_string(std::path::Path::new(&format!("/proc/{pid}/stat"))).map_or(true, |stat| {
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
        });
    if !dead {
        return error;
    }
    // The gate of a dead init cannot open: the answer is its reason.
    link.ask(Request::Start, &[]).await.err().unwrap_or(error)
}

/// Waits for a shim that was told to leave; one that hangs is killed.
async fn reap(mut child: ShimProcess) {
    if tokio::time::timeout(Duration::from_secs(10), child.wait()).await.is_err() {
        tracing::warn!("a shim did not leave in 10 seconds and is killed");
        child.kill();
        child.wait().await;
    }
}

/// Waits for the shim's first word.
async fn created(events: &mut Events) -> Result<i32> {
    let first = tokio::time::timeout(DEADLINE, async {
        loop {
            match events.recv().await {
                Some((Event::Created { pid }, _)) => return Ok(pid),
                Some((Event::Failed { kind, message }, _)) => return Err(failure(kind, message)),
                Some(_) => {}
                None => {
                    return Err(Error::Start {
                        message: "the shim ended before it began".into(),
                        exit_code: 128,
                    });
                }
            }
        }
    });
    first.await.unwrap_or_else(|_| {
        Err(Error::Deadline { what: "making the container's namespaces".into(), seconds: DEADLINE.as_secs() })
    })
}

pub(crate) fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

/// The address a port is published on.
pub(super) fn host_address(text: &str) -> Result<Option<IpAddr>> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| Error::Invalid(format!("invalid IP address: {text:?}"))),
    }
}

/// The ports to publish.
fn ports(record: &Record) -> Result<Vec<PortRequest>> {
    let host = &record.spec.host;
    let mut ports = Vec::new();
    // As with Docker, a binding for a port that is not exposed publishes nothing; `-p` exposes what it publishes.
    for (port, bindings) in
        host.port_bindings.iter().filter(|(port, _)| record.spec.exposed_ports.contains(*port))
    {
        for binding in bindings {
            let host_port = binding
                .port
                .parse()
                .map_err(|error: wharf_net::InvalidHostPort| Error::Invalid(error.to_string()))?;
            ports.push(PortRequest {
                host_ip: host_address(&binding.ip)?,
                host_port,
                container_port: port.number,
                protocol: port.protocol,
            });
        }
    }
    if host.publish_all_ports {
        let bound = |port: &wharf_model::network::Port| host.port_bindings.contains_key(port);
        ports.extend(record.spec.exposed_ports.iter().filter(|port| !bound(port)).map(|port| PortRequest {
            host_ip: None,
            host_port: HostPort::Ephemeral,
            container_port: port.number,
            protocol: port.protocol,
        }));
    }
    Ok(ports)
}

/// The failures that Docker reports as those of an endpoint.
fn is_about_ports(error: &wharf_net::Error) -> bool {
    use wharf_net::Error as Net;
    matches!(
        error,
        Net::PortInUse { .. }
            | Net::PortAllocated { .. }
            | Net::PortsExhausted { .. }
            | Net::NoSuchAddress { .. }
            | Net::Bind { .. }
    )
}
