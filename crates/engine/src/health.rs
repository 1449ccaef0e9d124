//! Health checks as the engine sees them: wishes checked at create, results of the shim kept in the record and told to
//! the world, and what is done about an unhealthy container.
//!
//! The shim probes (see its own `health`); an engine that dies misses nothing, because it reads the shim's record when
//! it comes back. The row is written when the status changes; single results are the shim's to keep.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wharf_linux::hostfs;
use wharf_model::ContainerSpec;
use wharf_model::spec::{Healthcheck, RestartName};
use wharf_shim::health::{
    HEALTH_FILE, HealthConfig, HealthRecord, HealthResult, HealthStatus, MAX_RECORD, Probe,
};
use wharf_shim::protocol::{Event, Purpose, Request};

use crate::blocking::blocking;
use crate::containers::{Container, Phase, Record};
use crate::{Engine, Error, HealthView, ProbeView, Result};

/// What is done when the container becomes unhealthy; given by the request, never by an image.
pub(crate) const ON_FAILURE: &str = "wharf.health.on-failure";

const SECOND: i64 = 1_000_000_000;
const INTERVAL: i64 = 30 * SECOND;
const TIMEOUT: i64 = 30 * SECOND;
const START_INTERVAL: i64 = 5 * SECOND;
const RETRIES: u32 = 3;
/// The longest path of a page.
const MAX_PATH: usize = 2048;
/// How long a shim may take to hear that its container is frozen; it would find out by itself.
const HOLD_DEADLINE: Duration = Duration::from_secs(2);

/// What the record has of a container's health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HealthState {
    pub(crate) status: HealthStatus,
    pub(crate) failing_streak: u32,
    /// Results of this run and, as with Docker, of those before.
    pub(crate) log: Vec<HealthResult>,
    /// Results of this run that are in `log` or were.
    pub(crate) count: u64,
}

/// What is done about an unhealthy container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// It is said.
    #[default]
    None,
    /// It is ended and started again, with the pauses of the restart policies.
    Restart,
    /// It is stopped, as by a person.
    Stop,
    /// It is killed; its restart policy decides what follows.
    Kill,
}

/// How the container is to be probed; `None` where it is not.
pub(crate) fn config(spec: &ContainerSpec) -> Result<Option<HealthConfig>> {
    let Some(check) = &spec.healthcheck else { return Ok(None) };
    let Some(probe) = probe(check, &spec.shell)? else { return Ok(None) };
    let or = |nanos: i64, default: i64| (if nanos <= 0 { default } else { nanos }).unsigned_abs();
    Ok(Some(HealthConfig {
        probe,
        interval_ns: or(check.interval, INTERVAL),
        start_interval_ns: or(check.start_interval, START_INTERVAL),
        start_period_ns: or(check.start_period, 0),
        timeout_ns: or(check.timeout, TIMEOUT),
        retries: u32::try_from(check.retries).ok().filter(|retries| *retries > 0).unwrap_or(RETRIES),
    }))
}

/// As with Docker, a kind that is not known means no probe; and so does a command that is empty.
fn probe(check: &Healthcheck, shell: &[String]) -> Result<Option<Probe>> {
    let Some((kind, rest)) = check.test.split_first() else { return Ok(None) };
    let single = || match rest {
        [one] => Ok(one.as_str()),
        _ => Err(Error::Invalid(format!("invalid health check: {kind} takes one argument"))),
    };
    Ok(match kind.as_str() {
        "CMD" | "CMD-SHELL" if rest.first().is_none_or(String::is_empty) => None,
        "CMD" => Some(Probe::Command { args: rest.to_vec() }),
        "CMD-SHELL" => {
            let default = ["/bin/sh", "-c"].map(str::to_owned);
            let shell = if shell.is_empty() { &default[..] } else { shell };
            Some(Probe::Command { args: shell.iter().chain(rest).cloned().collect() })
        }
        "HTTP" => Some(http(single()?)?),
        "TCP" => Some(Probe::Tcp { addresses: addresses(single()?, None)? }),
        "UNIX" => {
            let path = single()?;
            let plain = path.starts_with('/') && path.len() <= MAX_PATH && !path.contains('\0');
            if !plain {
                return Err(Error::Invalid(format!(
                    "invalid health check: {path:?} is not the absolute path of a socket in the container"
                )));
            }
            Some(Probe::Unix { path: path.into() })
        }
        _ => None,
    })
}

/// `[http://][HOST][:PORT][/PATH]`.
fn http(text: &str) -> Result<Probe> {
    let invalid = |why: &str| Error::Invalid(format!("invalid health check: {text:?}: {why}"));
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err(invalid("only http:// is probed; use a command for anything else")),
        None => text,
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    if path.len() > MAX_PATH || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("the path has characters that must be encoded, or is too long"));
    }
    let addresses = addresses(host, Some(80))?;
    let name =
        if host.is_empty() || host.starts_with(':') { format!("localhost{host}") } else { host.to_owned() };
    Ok(Probe::Http { addresses, host: name, path })
}

/// `[HOST:]PORT`; names other than `localhost` would need a resolver in the container's network.
fn addresses(text: &str, default: Option<u16>) -> Result<Vec<SocketAddr>> {
    let invalid = |why: &str| Error::Invalid(format!("invalid health check: {text:?}: {why}"));
    let (host, port) = match (text.rsplit_once(':'), default) {
        (Some((host, port)), _) if !text.ends_with(']') => (host, port.parse().ok()),
        (_, Some(default)) => (text, Some(default)),
        (_, None) => ("", text.parse().ok()),
    };
    let port = port.filter(|port: &u16| *port != 0);
    let port = port.ok_or_else(|| invalid("there is no port between 1 and 65535"))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok(match bare {
        "" | "localhost" => vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
        literal => match literal.parse::<IpAddr>() {
            Ok(address) => vec![(address, port).into()],
            Err(_) => {
                return Err(invalid("names are not looked up; leave the host out, or give its address"));
            }
        },
    })
}

/// What the annotation asks for.
pub(crate) fn on_failure(spec: &ContainerSpec) -> Result<OnFailure> {
    match spec.host.annotations.get(ON_FAILURE).map_or("none", String::as_str) {
        "none" => Ok(OnFailure::None),
        "restart" => Ok(OnFailure::Restart),
        "stop" => Ok(OnFailure::Stop),
        "kill" => Ok(OnFailure::Kill),
        other => Err(Error::Invalid(format!(
            "invalid annotation {ON_FAILURE}={other}: must be one of none, restart, stop, kill"
        ))),
    }
}

/// Checks the wishes about health.
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    config(spec)?;
    if on_failure(spec)? == OnFailure::Restart && spec.host.auto_remove {
        return Err(Error::Invalid(
            "can't restart an unhealthy container that is removed when it ends".into(),
        ));
    }
    Ok(())
}

impl HealthState {
    /// A run begins: only the past results stay.
    pub(crate) fn begin(&mut self) {
        (self.status, self.failing_streak, self.count) = (HealthStatus::Starting, 0, 0);
    }

    /// Adds a result of this run; false when it is there already.
    fn add(&mut self, count: u64, status: HealthStatus, streak: u32, result: HealthResult) -> bool {
        if count <= self.count {
            return false;
        }
        let mut log = HealthRecord { log: std::mem::take(&mut self.log), ..HealthRecord::default() };
        log.push(result);
        *self = Self { status, failing_streak: streak, log: log.log, count };
        true
    }

    /// Takes over what a shim has kept of this run.
    fn take_over(&mut self, kept: HealthRecord) {
        let first = kept.log.first().map_or(i64::MAX, |result| result.start_ns);
        let mut log = HealthRecord::default();
        let past = self.log.iter().filter(|result| result.start_ns < first).cloned();
        past.chain(kept.log).for_each(|result| log.push(result));
        let (status, failing_streak, count) = (kept.status, kept.failing_streak, kept.count);
        *self = Self { status, failing_streak, log: log.log, count };
    }

    /// As inspect shows it.
    pub(crate) fn view(&self) -> HealthView {
        let time = |nanos: i64| Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
        let probe = |result: &HealthResult| ProbeView {
            start: time(result.start_ns),
            end: time(result.end_ns),
            exit_code: result.exit_code,
            output: result.output.clone(),
        };
        HealthView {
            status: self.status,
            failing_streak: self.failing_streak,
            log: self.log.iter().map(probe).collect(),
        }
    }
}

impl Record {
    /// A run begins: its health is not known yet.
    pub(crate) fn begin_health(&mut self) {
        match config(&self.spec) {
            Ok(Some(_)) => self.health.get_or_insert_default().begin(),
            _ => self.health = None,
        }
    }
}

impl Engine {
    /// A shim tells about the health of its container.
    pub(crate) async fn health_event(&self, container: &Arc<Container>, event: Event) {
        match event {
            Event::ProbeStarted { id } => {
                for step in ["exec_create", "exec_start"] {
                    let command = command(container);
                    self.emit(container, &format!("{step}: {command}"), &[("execID", id.clone())]);
                }
            }
            Event::Health { count, status, failing_streak, result, exec } => {
                if let Some((id, code)) = exec {
                    self.emit(container, "exec_die", &[("execID", id), ("exitCode", code.to_string())]);
                }
                let before = {
                    let mut record = container.record();
                    let state = record.health.get_or_insert_default();
                    let before = state.status;
                    if !state.add(count, status, failing_streak, result) {
                        return;
                    }
                    before
                };
                if status != before {
                    self.health_changed(container, status).await;
                }
            }
            _ => {}
        }
    }

    async fn health_changed(&self, container: &Arc<Container>, status: HealthStatus) {
        if let Err(error) = self.save(container).await {
            tracing::error!(container = %container.id, %error, "cannot record the container's health");
        }
        self.emit(container, &format!("health_status: {}", status.as_str()), &[]);
        if status == HealthStatus::Unhealthy {
            self.clone().unhealthy(container.clone());
        }
    }

    /// What a shim found out while no engine listened; its container runs, or has ended.
    pub(crate) async fn catch_up_on_health(&self, container: &Arc<Container>, running: bool) {
        if !matches!(config(&container.record().spec), Ok(Some(_))) {
            return;
        }
        let file = self.inner.config.run_dir().join(container.id.as_str()).join(HEALTH_FILE);
        let read = blocking(move || {
            let bytes = hostfs::read_bounded(&file, MAX_RECORD).ok();
            Ok(bytes.and_then(|bytes| serde_json::from_slice::<HealthRecord>(&bytes).ok()))
        });
        let kept = read.await.unwrap_or_default();
        let (before, now) = {
            let mut record = container.record();
            let state = record.health.get_or_insert_default();
            let before = state.status;
            match kept {
                Some(kept) => state.take_over(kept),
                None => state.begin(),
            }
            (before, state.status)
        };
        if running && (now != before || now == HealthStatus::Unhealthy) {
            self.health_changed(container, now).await;
        }
    }

    /// Tells the shim that its container is frozen, or goes on.
    pub(crate) async fn hold_health(&self, container: &Container, hold: bool) {
        if container.record().health.is_none() {
            return;
        }
        let Ok(link) = container.running_link() else { return };
        // A shim that does not answer, or is too old to understand, looks at the control group by itself.
        let _told = tokio::time::timeout(HOLD_DEADLINE, link.ask(Request::HoldHealth { hold }, &[])).await;
    }

    /// Does what is to be done about an unhealthy container.
    fn unhealthy(self, container: Arc<Container>) {
        let action = on_failure(&container.record().spec).unwrap_or_default();
        let run = container.progress.borrow().run;
        if action == OnFailure::None {
            return;
        }
        tokio::spawn(async move {
            let change = container.change.lock().await;
            let still = {
                let record = container.record();
                let unhealthy = |health: &HealthState| health.status == HealthStatus::Unhealthy;
                record.phase == Phase::Running
                    && record.health.as_deref().is_some_and(unhealthy)
                    && container.progress.borrow().run == run
            };
            if !still || *self.inner.closing.borrow() {
                return;
            }
            tracing::info!(container = %container.id, ?action, "the container is unhealthy");
            let done = match action {
                OnFailure::None => Ok(()),
                OnFailure::Restart => self.end_to_restart(&container, change).await,
                OnFailure::Stop => self.stop(&container, change, None, None, Purpose::Unhealthy).await,
                OnFailure::Kill => self.force(&container, Purpose::Unhealthy).await,
            };
            if let Err(error) = done {
                tracing::warn!(container = %container.id, %error, "cannot act on an unhealthy container");
            }
        });
    }
}

/// The check's command, as events name it.
fn command(container: &Container) -> String {
    match config(&container.record().spec) {
        Ok(Some(HealthConfig { probe: Probe::Command { args }, .. })) => args.join(" "),
        _ => String::new(),
    }
}

/// Whether the policy lets an unhealthy container be started once more.
pub(crate) fn may_restart(record: &Record) -> bool {
    let policy = &record.spec.host.restart_policy;
    let tries = policy.maximum_retry_count;
    policy.name != RestartName::OnFailure || tries <= 0 || i64::from(record.restart_count) < tries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(test: &[&str]) -> Result<Option<Probe>> {
        in_shell(test, &[])
    }

    fn in_shell(test: &[&str], shell: &[&str]) -> Result<Option<Probe>> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        probe(&Healthcheck { test: owned(test), ..Healthcheck::default() }, &owned(shell))
    }

    fn result(start_ns: i64) -> HealthResult {
        HealthResult { start_ns, end_ns: start_ns, exit_code: 0, output: String::new() }
    }

    #[test]
    fn a_line_is_given_to_the_shell_of_the_container() {
        let found = in_shell(&["CMD-SHELL", "a || b"], &["/bin/bash", "-xc"]).unwrap();
        let args = ["/bin/bash", "-xc", "a || b"].map(str::to_owned).to_vec();
        assert_eq!(found, Some(Probe::Command { args }));
    }

    #[test]
    fn commands_are_as_docker_has_them() {
        let args = |test: &[&str]| match of(test) {
            Ok(Some(Probe::Command { args })) => args.join(" "),
            other => panic!("{other:?}"),
        };
        assert_eq!(args(&["CMD", "a", "b c"]), "a b c");
        assert_eq!(args(&["CMD-SHELL", "a || b"]), "/bin/sh -c a || b");
        for none in [&[][..], &["NONE"], &["NONE", "x"], &["FOO", "x"], &["CMD"], &["CMD-SHELL", ""]] {
            assert_eq!(of(none).unwrap(), None, "{none:?}");
        }
    }

    #[test]
    fn native_probes_name_their_target() {
        let http = |text: &str| match of(&["HTTP", text]) {
            Ok(Some(Probe::Http { addresses, host, path })) => format!("{addresses:?} {host} {path}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(http("http://:8080/path?a=b"), "[127.0.0.1:8080, [::1]:8080] localhost:8080 /path?a=b");
        assert_eq!(http("http://localhost"), "[127.0.0.1:80, [::1]:80] localhost /");
        assert_eq!(http("10.1.2.3:81?x"), "[10.1.2.3:81] 10.1.2.3:81 /?x");
        assert_eq!(http("http://[::1]/"), "[[::1]:80] [::1] /");
        assert_eq!(http("http://[::1]:8/"), "[[::1]:8] [::1]:8 /");
        let tcp = |text: &str| match of(&["TCP", text]) {
            Ok(Some(Probe::Tcp { addresses })) => format!("{addresses:?}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(tcp("8080"), "[127.0.0.1:8080, [::1]:8080]");
        assert_eq!(tcp(":8080"), "[127.0.0.1:8080, [::1]:8080]");
        assert_eq!(tcp("[fe80::1]:9"), "[[fe80::1]:9]");
        assert_eq!(of(&["UNIX", "/run/x"]).unwrap(), Some(Probe::Unix { path: "/run/x".into() }));
    }

    #[test]
    fn targets_that_make_no_sense_are_refused() {
        for bad in [
            &["HTTP"][..],
            &["HTTP", "https://:443/"],
            &["HTTP", "http://web:80/"],
            &["HTTP", "http://:0/"],
            &["HTTP", "http://:80/a b"],
            &["HTTP", "http://:80/a\r\nX: y"],
            &["HTTP", "http://a\r\nb:80/"],
            &["TCP", ""],
            &["TCP", "x"],
            &["TCP", "70000"],
            &["TCP", "1", "2"],
            &["UNIX", "run/x"],
            &["UNIX", "/a\0b"],
        ] {
            assert!(matches!(of(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn defaults_are_docker_s() {
        let check = Healthcheck { test: vec!["CMD".into(), "x".into()], ..Healthcheck::default() };
        let spec = ContainerSpec { healthcheck: Some(check), ..ContainerSpec::default() };
        let config = config(&spec).unwrap().unwrap();
        assert_eq!((config.interval_ns, config.timeout_ns), (30_000_000_000, 30_000_000_000));
        assert_eq!((config.start_period_ns, config.start_interval_ns, config.retries), (0, 5_000_000_000, 3));
    }

    #[test]
    fn what_is_done_is_one_of_four_and_not_both_restart_and_removal() {
        let mut spec = ContainerSpec::default();
        assert_eq!(on_failure(&spec).unwrap(), OnFailure::None);
        spec.host.annotations.insert(ON_FAILURE.into(), "restart".into());
        check(&spec).unwrap();
        spec.host.auto_remove = true;
        check(&spec).unwrap_err();
        spec.host.annotations.insert(ON_FAILURE.into(), "reboot".into());
        assert!(on_failure(&spec).unwrap_err().to_string().contains("must be one of"));
    }

    #[test]
    fn results_are_counted_once_and_the_past_stays() {
        let mut state = HealthState::default();
        assert!(state.add(1, HealthStatus::Healthy, 0, result(1)));
        assert!(!state.add(1, HealthStatus::Unhealthy, 1, result(1)));
        state.begin();
        assert!(state.add(1, HealthStatus::Healthy, 0, result(2)), "a new run counts anew");
        let log = vec![result(2), result(3), result(4), result(5)];
        state.take_over(HealthRecord { count: 4, status: HealthStatus::Unhealthy, failing_streak: 2, log });
        let starts: Vec<i64> = state.log.iter().map(|result| result.start_ns).collect();
        assert_eq!(starts, [1, 2, 3, 4, 5]);
        assert_eq!((state.status, state.failing_streak, state.count), (HealthStatus::Unhealthy, 2, 4));
    }
}
