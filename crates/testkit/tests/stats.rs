//! What `stats`, `top` and `wait` say is what the kernel says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wharf_testkit::{Cli, Engine, PATIENCE, wait_until};

fn sample(engine: &Engine, name: &str) -> Value {
    engine
        .api()
        .get(&format!("/containers/{name}/stats?stream=false&one-shot=true"))
        .expect("stats are answered")
}

/// The container's directory in a controller's hierarchy (the only one, on v2), by its init.
fn cgroup(cli: &Cli, name: &str, controller: &str) -> PathBuf {
    let pid = cli.ok(&["inspect", "-f", "{{.State.Pid}}", name]);
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let v1 = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|known| known == controller).then_some(path)
    });
    match v1 {
        Some(path) => Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')),
        None => {
            let path = text.lines().find_map(|line| line.strip_prefix("0::")).expect("a v2 group");
            Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))
        }
    }
}

fn number(directory: &Path, files: &[&str]) -> u64 {
    let read = files.iter().find_map(|file| std::fs::read_to_string(directory.join(file)).ok());
    let text = read.unwrap_or_else(|| panic!("{}: none of {files:?}", directory.display()));
    let first = text.split_ascii_whitespace().find_map(|word| word.parse().ok());
    first.unwrap_or_else(|| panic!("no number in {text}"))
}

/// `middle` is within 5 % of the range that was read before and after it.
#[track_caller]
fn within(what: &str, before: u64, middle: &Value, after: u64) {
    let middle = middle.as_u64().unwrap_or_else(|| panic!("{what} is no number: {middle}"));
    let (low, high) = (before.min(after), before.max(after));
    assert!(
        middle * 100 >= low * 95 && middle * 100 <= high * 105,
        "{what}: {middle} is not between {low} and {high}"
    );
}

#[test]
fn figures_are_the_control_groups_own() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    // Fills 20 MiB of memory that stays, uses the processor, has three processes, and writes a file.
    let script = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=20 2>/dev/null; echo x > /file; cat /file; \
                  sleep 1000 & i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo ready; wait";
    wharf.ok(&["run", "-d", "--name", "busy", "-m", "200m", "--pids-limit", "77", "box", "sh", "-c", script]);
    wait_until("the container to have done its work", PATIENCE, || {
        wharf.ok(&["logs", "busy"]).contains("ready")
    });
    let cpu = || number(&cgroup(&wharf, "busy", "cpuacct"), &["cpuacct.usage", "nothing"]);
    let v1 = Path::new("/sys/fs/cgroup/cpuacct").is_dir();
    let memory = || number(&cgroup(&wharf, "busy", "memory"), &["memory.usage_in_bytes", "memory.current"]);
    let pids = || number(&cgroup(&wharf, "busy", "pids"), &["pids.current"]);
    let before = (if v1 { cpu() } else { 0 }, memory(), pids());
    let stats = sample(&engine, "busy");
    let after = (if v1 { cpu() } else { 0 }, memory(), pids());
    if v1 {
        within("processor time", before.0, &stats["cpu_stats"]["cpu_usage"]["total_usage"], after.0);
        assert!(stats["memory_stats"]["stats"]["hierarchical_memory_limit"] == 200 << 20, "{stats:#}");
        let serviced = &stats["blkio_stats"]["io_serviced_recursive"];
        assert!(serviced.is_array() && stats["blkio_stats"]["sectors_recursive"].is_array(), "{serviced}");
    }
    within("memory", before.1, &stats["memory_stats"]["usage"], after.1);
    within("processes", before.2, &stats["pids_stats"]["current"], after.2);
    assert_eq!(stats["pids_stats"]["limit"], 77);
    assert_eq!(stats["memory_stats"]["limit"], 200 << 20);
    // The interface, as the container itself sees it.
    let device = wharf.ok(&["exec", "busy", "sh", "-c", "grep eth0 /proc/net/dev | cut -d: -f2"]);
    let received: u64 =
        device.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    let again = sample(&engine, "busy");
    within("received bytes", received, &again["networks"]["eth0"]["rx_bytes"], received + 200);
    // The command line subtracts the cache, as Docker's does.
    let inactive = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|key| again["memory_stats"]["stats"][*key].as_u64())
        .unwrap_or(0);
    let used = again["memory_stats"]["usage"].as_u64().unwrap_or(0) - inactive;
    let shown = wharf.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "busy"]);
    let mebibytes: f64 = shown.split("MiB").next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let expected = used as f64 / f64::from(1 << 20);
    assert!((mebibytes - expected).abs() < expected * 0.05 + 0.1, "{shown}: expected {expected}");
    assert!(shown.contains("/ 200MiB"), "{shown}");
}

#[test]
fn samples_have_a_past_or_none_and_stopped_containers_a_shape() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "up", "box", "sleep", "1000"]);
    wharf.ok(&["create", "--name", "down", "box"]);
    let never = "0001-01-01T00:00:00Z";
    assert_eq!(sample(&engine, "up")["preread"], never);
    let two = engine.api().get("/containers/up/stats?stream=false").expect("answered");
    assert!(two["preread"].as_str().is_some_and(|time| time > never), "{two:#}");
    assert!(two["precpu_stats"]["system_cpu_usage"].as_u64() < two["cpu_stats"]["system_cpu_usage"].as_u64());
    let down = sample(&engine, "down");
    assert_eq!((&down["read"], &down["memory_stats"]), (&Value::from(never), &serde_json::json!({})));
    assert!(down["blkio_stats"]["io_service_bytes_recursive"].is_null() && down.get("networks").is_none());
    let both = engine
        .api()
        .request("GET", "/containers/up/stats?stream=true&one-shot=true", None)
        .expect("answered");
    assert_eq!((both.status, both.message().as_str()), (400, "cannot have stream=true and one-shot=true"));
    let rows = wharf.ok(&["stats", "--no-stream", "--all", "--format", "{{.Name}} {{.PIDs}}"]);
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.sort_unstable();
    assert_eq!(rows, ["down 0", "up 1"]);
}

#[test]
fn top_has_the_columns_of_ps() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "up", "box", "sh", "-c", "sleep 1000; true"]);
    let pid = wharf.ok(&["inspect", "-f", "{{.State.Pid}}", "up"]);
    let top = |args: &[&str]| -> Vec<Vec<String>> {
        let mut all = vec!["top", "up"];
        all.extend(args);
        let words = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect();
        wharf.ok(&all).lines().map(words).collect()
    };
    wait_until("the second process", PATIENCE, || top(&[]).len() == 3);
    assert_eq!(top(&[])[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(top(&["-o", "pid,comm"])[..2], [vec!["PID", "COMMAND"], vec![pid.as_str(), "sh"]]);
    assert_eq!(top(&["aux"])[0][0], "USER");
    assert_eq!(top(&["-o", "pid=PID,cmd"])[0], ["PID", "CMD"]);
    let no_pid = wharf.fails(1, &["top", "up", "-o", "comm"]);
    assert!(no_pid.contains("Couldn't find PID field in ps output"), "{no_pid}");
    let unknown = wharf.fails(1, &["top", "up", "-nosuch"]);
    assert!(unknown.contains("ps: error: unsupported SysV option"), "{unknown}");
    wharf.ok(&["create", "--name", "down", "box"]);
    assert!(wharf.fails(1, &["top", "down"]).contains("is not running"));
}

/// CVE-2022-1227: a helper that enters the container runs and loads what it finds there.
#[test]
fn en_14_looking_at_a_container_executes_and_loads_nothing_of_it() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    // Everything that a helper might run or load inside is there, poisoned: whoever runs it leaves a mark.
    let script = "mkdir -p /usr/sbin /lib64 /lib/x86_64-linux-gnu /mark; chmod 777 /mark; \
        for f in /bin/ps /usr/bin/ps /usr/bin/top /bin/stats /usr/bin/nsenter /usr/sbin/ip /bin/tar /usr/bin/unpigz; do \
          rm -f $f; printf '#!/bin/sh\\ntouch /mark/ran\\n' > $f; chmod 755 $f; done; \
        echo 'passwd: evil' > /etc/nsswitch.conf; echo /lib/evil.so > /etc/ld.so.preload; \
        printf 'not a library' > /lib/evil.so; printf x > /lib/x86_64-linux-gnu/libnss_evil.so.2; echo ready; \
        exec sleep 1000";
    wharf.ok(&["run", "-d", "--name", "poisoned", "box", "sh", "-c", script]);
    wait_until("the trap to be set", PATIENCE, || wharf.ok(&["logs", "poisoned"]).contains("ready"));
    let pid = engine.pid().expect("the engine runs");
    for args in [
        &["top", "poisoned"][..],
        &["top", "poisoned", "-eo", "pid,user,args"],
        &["stats", "--no-stream", "poisoned"],
        &["diff", "poisoned"],
        &["cp", "poisoned:/etc/passwd", "-"],
        &["logs", "poisoned"],
        &["inspect", "-s", "poisoned"],
        &["ps", "-as"],
        &["why", "poisoned"],
        &["system", "df", "-v"],
    ] {
        wharf.ok(args);
    }
    let mark = wharf.ok(&["exec", "poisoned", "ls", "/mark"]);
    assert_eq!(mark, "", "something of the container was executed");
    // And nothing of it is mapped into the engine, whose own files are all of the host's.
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the engine runs");
    let foreign = maps
        .lines()
        .find(|line| line.contains("/fs/") || line.contains("evil") || line.contains("snapshots"));
    assert_eq!(foreign, None);
}

/// A wait for container `ww` that the engine has taken: its headers are there.
struct Waiting(BufReader<UnixStream>);

impl Waiting {
    fn new(engine: &Engine, condition: &str) -> Self {
        let mut stream = UnixStream::connect(engine.socket()).expect("the engine listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let request = format!(
            "POST /containers/ww/wait?condition={condition} HTTP/1.1\r\nHost: w\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the engine reads");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).expect("headers") > 2 {
            line.clear();
        }
        Self(reader)
    }

    /// The exit code it ends with.
    fn end(mut self) -> i64 {
        let mut body = String::new();
        self.0.read_to_string(&mut body).expect("an answer");
        let begin = body.find('{').expect("a document");
        let end = body.rfind('}').expect("a document");
        let document: Value = serde_json::from_str(&body[begin..=end]).expect("JSON");
        document["StatusCode"].as_i64().expect("a number")
    }
}

#[test]
fn waits_end_by_their_condition() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["create", "--name", "ww", "box", "sh", "-c", "exit 7"]);
    // Docker: a container that never ran is not running.
    assert_eq!(Waiting::new(&engine, "not-running").end(), 0);
    let bad = engine.api().request("POST", "/containers/ww/wait?condition=foo", None).expect("answered");
    assert_eq!((bad.status, bad.message().as_str()), (400, "invalid condition: \"foo\""));
    let (next, removed) = (Waiting::new(&engine, "next-exit"), Waiting::new(&engine, "removed"));
    wharf.ok(&["start", "ww"]);
    assert_eq!(next.end(), 7);
    wharf.ok(&["rm", "ww"]);
    assert_eq!(removed.end(), 7);
    wharf.ok(&["run", "-d", "--name", "xx", "box", "sh", "-c", "exit 3"]);
    wharf.ok(&["run", "-d", "--name", "yy", "box", "sh", "-c", "exit 4"]);
    assert_eq!(wharf.ok(&["wait", "xx", "yy"]), "3\n4");
}
