//! Health checks, run by the shim itself.

use std::fs;
use std::time::Duration;

use wharf_shim::health::{HEALTH_FILE, HealthConfig, HealthRecord, HealthResult, HealthStatus, Probe};
use wharf_shim::protocol::{Event, Reply, Request};

use crate::support::{Case, Plan};

const MILLISECOND: u64 = 1_000_000;

fn command(script: &str) -> HealthConfig {
    HealthConfig {
        probe: Probe::Command { args: ["sh", "-c", script].map(str::to_owned).to_vec() },
        interval_ns: 20 * MILLISECOND,
        start_interval_ns: 20 * MILLISECOND,
        start_period_ns: 0,
        timeout_ns: 20_000 * MILLISECOND,
        retries: 2,
    }
}

impl Plan {
    fn health(mut self, config: HealthConfig) -> Self {
        self.config.health = Some(config);
        self
    }
}

struct News {
    count: u64,
    status: HealthStatus,
    streak: u32,
    result: HealthResult,
    exec: Option<(String, i32)>,
}

impl Case {
    /// The next result, and what was promised of it.
    fn health(&mut self) -> News {
        let mut started = None;
        loop {
            match self.news() {
                Event::ProbeStarted { id } => started = Some(id),
                Event::Health { count, status, failing_streak, result, exec } => {
                    let record = self.health_record().expect("the record is there before the event");
                    assert!(record.count >= count && record.log.len() <= 5);
                    if record.count == count {
                        assert_eq!((record.status, record.failing_streak), (status, failing_streak));
                        assert_eq!(record.log.last(), Some(&result));
                    }
                    // A connection may be younger than the probe.
                    assert!(
                        exec.is_none()
                            || started.is_none()
                            || started == exec.as_ref().map(|(id, _)| id.clone())
                    );
                    assert!(result.start_ns <= result.end_ns);
                    return News { count, status, streak: failing_streak, result, exec };
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn health_record(&self) -> Option<HealthRecord> {
        let bytes = fs::read(self.run_dir().join(HEALTH_FILE)).ok()?;
        Some(serde_json::from_slice(&bytes).expect("it is whole at any time"))
    }

    /// The command lines of all that lives in the container.
    fn commands(&self) -> Vec<String> {
        let command = |pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // A zombie waits for the container's init, which does not reap.
            (!status.contains(") Z ")).then(|| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())?
        };
        let pids = self.cgroup().pids().expect("the cgroup is readable");
        pids.into_iter().filter_map(command).filter(|line| !line.is_empty()).collect()
    }

    /// A file of the container, which a probe makes.
    fn wait_for_file(&self, name: &str) {
        let path = self.rootfs().join(name);
        let since = std::time::Instant::now();
        while !path.exists() {
            assert!(since.elapsed() < crate::support::PATIENCE, "no {name}; {}", self.shim_log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn kill(&mut self) {
        assert_eq!(self.ask(Request::KillAll), Reply::Ok);
        loop {
            match self.news() {
                Event::Exited { .. } => return,
                Event::Health { .. } | Event::ProbeStarted { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_probe_has_the_containers_identity_and_its_output_is_kept() {
    let script = "echo out; echo err >&2; id -u; pwd; echo $COLOUR; grep -E 'CapEff|Seccomp:' /proc/self/status; exit 3";
    let mut plan = Plan::new(&["sleep", "1000"]).health(command(script));
    plan.spec["process"]["cwd"] = "/tmp".into();
    plan.spec["process"]["env"] = serde_json::json!(["PATH=/bin", "COLOUR=green"]);
    plan.config.user = Some("guest".into());
    let mut case = plan.start();
    let first = case.health();
    assert_eq!(first.result.exit_code, 3);
    let wanted = "out\nerr\n1000\n/tmp\ngreen\nCapEff:\t0000000000000000\nSeccomp:\t2\n";
    assert_eq!(first.result.output, wanted);
    assert_eq!((first.count, first.status, first.streak), (1, HealthStatus::Starting, 1));
    assert_eq!(first.exec.map(|(_, code)| code), Some(3));
    let second = case.health();
    assert_eq!((second.count, second.status, second.streak), (2, HealthStatus::Unhealthy, 2));
    assert!(second.result.start_ns >= first.result.end_ns);
    case.kill();
}

#[test]
fn the_last_five_results_stay_after_the_shim() {
    let mut case = Plan::new(&["sleep", "1000"]).health(command("cat /proc/self/stat | wc -c")).start();
    while case.health().count < 7 {}
    case.client = None;
    case.reconnect();
    assert!(case.health().count >= 7, "probes go on without an engine");
    case.kill();
    let record = case.health_record().unwrap();
    assert_eq!((record.log.len(), record.status), (5, HealthStatus::Healthy));
}

#[test]
fn a_command_that_does_not_exist_is_a_failure_with_a_reason() {
    let mut config = command("");
    config.probe = Probe::Command { args: vec!["nosuch".into()] };
    let mut case = Plan::new(&["sleep", "1000"]).health(config).start();
    let news = case.health();
    assert_eq!((news.result.exit_code, news.exec), (-1, None));
    assert_eq!(
        news.result.output,
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": executable file \
         not found in $PATH"
    );
    case.kill();
}

#[test]
fn a_probe_that_takes_too_long_is_killed_with_all_that_came_of_it() {
    let mut config =
        command("sleep 4001 & (sleep 4002 &) ; setsid sleep 4003 & sh -c 'setsid sleep 4004'; sleep 4005");
    config.timeout_ns = 300 * MILLISECOND;
    config.interval_ns = 1_000 * MILLISECOND;
    let mut case = Plan::new(&["sleep", "4000"]).health(config).start();
    let news = case.health();
    assert_eq!(
        (news.result.exit_code, news.result.output.as_str()),
        (-1, "Health check exceeded timeout (300ms)")
    );
    assert_eq!(news.exec.map(|(_, code)| code), Some(137));
    // They are killed, which the kernel may take a moment to carry out.
    let since = std::time::Instant::now();
    let mut left = case.commands();
    while left != ["sleep\x004000\x00"] {
        assert!(since.elapsed() < crate::support::PATIENCE, "{left:?}");
        std::thread::sleep(Duration::from_millis(2));
        left = case.commands();
    }
    case.kill();
}

#[test]
fn there_are_never_two_probes_at_once() {
    let script = "mkdir /tmp/lock || exit 7; usleep 100000; readlink /proc/self; rm -r /tmp/lock";
    let mut config = command(script);
    config.interval_ns = MILLISECOND;
    let mut plan = Plan::new(&["sleep", "1000"]).health(config);
    plan.spec["process"]["env"] = serde_json::json!(["PATH=/bin"]);
    let mut case = plan.start();
    fs::write(case.rootfs().join("bin/mkdir"), "#!/bin/sh\nexec /bin/busybox mkdir \"$@\"\n").unwrap();
    fs::write(case.rootfs().join("bin/rm"), "#!/bin/sh\nexec /bin/busybox rm \"$@\"\n").unwrap();
    for name in ["mkdir", "rm"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(case.rootfs().join("bin").join(name), mode).unwrap();
    }
    let begun = case.health().count;
    while case.health().count < begun + 4 {}
    let record = case.health_record().unwrap();
    assert!(record.log.iter().skip(1).all(|result| result.exit_code == 0), "{record:?}");
    case.kill();
}

#[test]
fn a_frozen_container_is_not_probed_and_a_probe_that_it_stops_does_not_count() {
    let mut config = command(": > /tmp/in; usleep 300000; busybox rm -f /tmp/in");
    config.timeout_ns = 900 * MILLISECOND;
    config.retries = 1;
    let mut case = Plan::new(&["sleep", "1000"]).health(config).start();
    assert_eq!(case.health().status, HealthStatus::Healthy);
    // In the middle of a probe, and nobody has told the shim.
    case.wait_for_file("tmp/in");
    case.cgroup().freeze().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let frozen = case.health_record().unwrap();
    assert_eq!((frozen.status, frozen.failing_streak), (HealthStatus::Healthy, 0));
    case.cgroup().thaw().unwrap();
    let after = case.health();
    assert_eq!((after.status, after.result.exit_code), (HealthStatus::Healthy, 0), "{:?}", after.result);
    assert!(after.count > frozen.count);
    // Told, it begins none, and goes on when told.
    assert_eq!(case.ask(Request::HoldHealth { hold: true }), Reply::Ok);
    let held = case.health_record().unwrap().count;
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(case.health_record().unwrap().count, held);
    assert_eq!(case.ask(Request::HoldHealth { hold: false }), Reply::Ok);
    assert!(case.health().count > held);
    case.kill();
}

#[test]
fn the_end_of_the_container_is_no_failure_of_the_probe() {
    let mut case = Plan::new(&["sleep", "1000"]).health(command(": > /tmp/in; sleep 1000")).start();
    case.wait_for_file("tmp/in");
    case.kill();
    assert_eq!(case.health_record(), None);
    let status = case.gone();
    assert!(status.success());
}

#[test]
fn a_unix_socket_is_found_beneath_the_containers_root() {
    let mut config = command("");
    config.probe = Probe::Unix { path: "/tmp/link/s".into() };
    config.retries = 1;
    let plan = Plan::new(&["sleep", "1000"]).health(config);
    // Absolute in the container: outside it leads nowhere.
    std::os::unix::fs::symlink("/etc", plan.config.bundle.join("rootfs/tmp/link")).unwrap();
    let mut case = plan.start();
    assert_eq!(case.health().result.output, "cannot connect to /tmp/link/s: no such file or directory");
    let socket = case.rootfs().join("etc/s");
    let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let news = loop {
        let news = case.health();
        if news.result.exit_code == 0 {
            break news;
        }
    };
    assert_eq!(
        (news.status, news.result.output.as_str()),
        (HealthStatus::Healthy, "connected to /tmp/link/s")
    );
    assert_eq!(news.exec, None);
    case.kill();
}

#[test]
fn the_network_is_the_containers_own() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = command("");
    config.probe = Probe::Tcp { addresses: vec![listener.local_addr().unwrap()] };
    let mut case = Plan::new(&["sleep", "1000"]).health(config).start();
    let news = case.health();
    assert_eq!(news.result.exit_code, 1, "the host's port is not the container's: {:?}", news.result);
    case.kill();
}
