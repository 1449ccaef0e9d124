//! `exec`: further processes have the container's confinement, their own wishes, and an end that is told.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_testkit::image::{Builder, Tar, rootfs};
use wharf_testkit::{Api, Engine, PATIENCE, wait_until};

fn post(api: &Api, path: &str, body: &Value) -> (u16, Value) {
    let answer = api.request("POST", path, Some(body)).expect("an answer");
    let status = answer.status;
    (status, if answer.body.is_empty() { Value::Null } else { answer.json() })
}

fn session(api: &Api, container: &str, body: &Value) -> String {
    let (status, made) = post(api, &format!("/containers/{container}/exec"), body);
    assert_eq!(status, 201, "{made}");
    made["Id"].as_str().expect("an id").to_owned()
}

fn shown(api: &Api, id: &str) -> Value {
    api.get(&format!("/exec/{id}/json")).expect("an answer")
}

#[test]
fn a_session_is_shown_from_its_making_to_its_end() {
    let engine = Engine::with_image();
    let (wharf, api) = (engine.wharf(), engine.api());
    wharf.ok(&["run", "-d", "--name", "one", "box", "sleep", "600"]);
    let wish = json!({"Cmd": ["sh", "-c", "until test -e /go; do usleep 10000; done; exit 7"], "Tty": true,
        "AttachStdin": true, "DetachKeys": "ctrl-x,a", "Privileged": true, "User": "guest", "ConsoleSize": [10, 20]});
    let id = session(&api, "one", &wish);
    let made = shown(&api, &id);
    assert_eq!((&made["Running"], &made["ExitCode"], &made["Pid"]), (&json!(false), &Value::Null, &json!(0)));
    assert_eq!(made["ProcessConfig"]["entrypoint"], "sh");
    assert_eq!(made["ProcessConfig"]["user"], "guest");
    assert_eq!((&made["DetachKeys"], &made["OpenStdin"]), (&json!("GGE="), &json!(true)));
    assert_eq!(post(&api, &format!("/exec/{id}/start"), &json!({"Detach": true, "Tty": true})).0, 200);
    let runs = shown(&api, &id);
    assert_eq!(runs["Running"], true);
    assert!(runs["Pid"].as_i64().is_some_and(|pid| pid > 1));
    let (status, said) = post(&api, &format!("/exec/{id}/start"), &json!({"Detach": true}));
    assert_eq!((status, said["message"].as_str().unwrap_or("").ends_with("is already running")), (409, true));
    let resized = api.request("POST", &format!("/exec/{id}/resize?h=30&w=90"), None).expect("an answer");
    assert_eq!(resized.status, 200);
    wharf.ok(&["exec", "one", "touch", "/go"]);
    wait_until("the session to end", PATIENCE, || shown(&api, &id)["ExitCode"] == 7);
    let (status, said) = post(&api, &format!("/exec/{id}/start"), &json!({"Detach": true}));
    assert_eq!((status, said["message"].as_str().unwrap_or("").ends_with("has already run")), (409, true));
}

#[test]
fn what_cannot_run_says_why_with_the_code_of_a_shell() {
    let engine = Engine::with_image();
    let (wharf, api) = (engine.wharf(), engine.api());
    wharf.ok(&["run", "-d", "--name", "one", "box", "sleep", "600"]);
    for (wish, code, reason) in [
        (json!({"Cmd": ["nosuch"]}), 127, "exec: \"nosuch\": executable file not found in $PATH"),
        (json!({"Cmd": [""]}), 127, "executable file not found in $PATH"),
        (json!({"Cmd": ["/etc"]}), 126, "exec: \"/etc\": "),
        (json!({"Cmd": ["/etc/notes"]}), 126, "exec: \"/etc/notes\": permission denied"),
        (json!({"Cmd": ["pwd"], "WorkingDir": "/nowhere"}), 127, "no such file or directory"),
    ] {
        let id = session(&api, "one", &wish);
        let (status, said) = post(&api, &format!("/exec/{id}/start"), &json!({"Detach": true}));
        let message = said["message"].as_str().unwrap_or_default();
        assert_eq!(status, 400, "{wish}: {message}");
        assert!(message.starts_with("OCI runtime exec failed: exec failed: "), "{message}");
        assert!(message.contains(reason), "{wish}: {message}");
        assert_eq!(shown(&api, &id)["ExitCode"], code, "{wish}");
    }
    for (wish, reason) in [
        (json!({"Cmd": []}), "No exec command specified"),
        (json!({"Cmd": ["id"], "User": "nobody-here"}), "unable to find user nobody-here"),
        (json!({"Cmd": ["id"], "User": "-1"}), "uids and gids must be in range 0-2147483647"),
        (json!({"Cmd": ["id"], "User": "4294967296"}), "uids and gids must be in range 0-2147483647"),
        (
            json!({"Cmd": ["id"], "User": "0:99999999999999999999"}),
            "uids and gids must be in range 0-2147483647",
        ),
    ] {
        let (status, said) = post(&api, "/containers/one/exec", &wish);
        assert_eq!(status, 400, "{wish}");
        assert!(said["message"].as_str().is_some_and(|text| text.contains(reason)), "{wish}: {said}");
    }
}

#[test]
fn a_frozen_or_ended_container_is_joined_by_nobody() {
    let engine = Engine::with_image();
    let (wharf, api) = (engine.wharf(), engine.api());
    wharf.ok(&["run", "-d", "--name", "one", "box", "sleep", "600"]);
    let waiting = session(&api, "one", &json!({"Cmd": ["true"]}));
    let running = session(&api, "one", &json!({"Cmd": ["sleep", "600"]}));
    assert_eq!(post(&api, &format!("/exec/{running}/start"), &json!({"Detach": true})).0, 200);
    wharf.ok(&["pause", "one"]);
    let since = Instant::now();
    assert_eq!(post(&api, "/containers/one/exec", &json!({"Cmd": ["true"]})).0, 409);
    let (status, said) = post(&api, &format!("/exec/{waiting}/start"), &json!({"Detach": true}));
    assert_eq!(status, 409, "{said}");
    assert!(since.elapsed() < Duration::from_secs(20), "asked and did not wait for the thaw");
    wharf.ok(&["unpause", "one"]);
    wharf.ok(&["stop", "-t", "0", "one"]);
    // What ran has ended with its container; what never ran is gone.
    assert_eq!(shown(&api, &running)["ExitCode"], 137);
    assert_eq!(post(&api, &format!("/exec/{waiting}/start"), &json!({"Detach": true})).0, 404);
    assert_eq!(post(&api, "/containers/one/exec", &json!({"Cmd": ["true"]})).0, 409);
    wharf.ok(&["start", "one"]);
    assert_eq!(wharf.ok(&["exec", "one", "echo", "again"]).trim(), "again");
}

/// What a process may do, as the kernel tells it.
const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid)' /proc/self/status";

#[test]
fn rt_14_15_19_20_an_exec_has_what_the_first_process_has() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    for (name, flags) in [
        ("plain", &[][..]),
        ("user", &["-u", "guest"]),
        ("number", &["-u", "1000:7", "--group-add", "crew"]),
        ("added", &["--cap-add", "NET_ADMIN", "-u", "1000"]),
        ("dropped", &["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]),
        ("open", &["--privileged"]),
    ] {
        let script = format!("{STATUS}; sleep 600");
        wharf.ok(&[&["run", "-d", "--name", name], flags, &["box", "sh", "-c", &script]].concat());
        let mut first = String::new();
        wait_until("the first process to speak", PATIENCE, || {
            first = wharf.ok(&["logs", name]);
            first.contains("Seccomp:")
        });
        assert_eq!(wharf.ok(&["exec", name, "sh", "-c", STATUS]), first, "{name}");
        assert!(first.contains("CapInh:\t0000000000000000") && first.contains("CapAmb:\t0000000000000000"));
        let probe = "cat /proc/kcore /proc/keys /sys/firmware/* 2>/dev/null | wc -c; \
                     (echo 1 > /proc/sys/kernel/sysrq) 2>/dev/null && echo written; unshare -U true 2>&1; true";
        let again = wharf.ok(&["exec", name, "sh", "-c", probe]);
        if name != "open" {
            assert!(again.starts_with('0') && !again.contains("written"), "{name}: {again}");
        }
    }
    // Privileges of the exec alone, and for it alone.
    let all = wharf.ok(&["exec", "--privileged", "plain", "grep", "CapEff", "/proc/self/status"]);
    assert!(all.contains("ffffff"), "{all}");
    let other = wharf.ok(&["exec", "plain", "grep", "CapEff", "/proc/self/status"]);
    assert_eq!(other.trim(), "CapEff:\t00000000a80425fb");
}

#[test]
fn rt_16_names_of_digits_and_large_numbers_are_nobody() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let names = ["-1", "+1", "00", "2147483648", "4294967295", "4294967296", "\u{661}"];
    let lines: String = names.iter().map(|name| format!("{name}:x:0:0::/:/bin/sh\n")).collect();
    let mut tar = Tar::new();
    tar.file("etc/passwd", 0o644, format!("root:x:0:0::/root:/bin/sh\n{lines}").as_bytes());
    engine.load(&Builder::new("names:latest", rootfs()).layer(tar.finish()).build());
    wharf.ok(&["run", "-d", "--name", "one", "-u", "1000", "names", "sleep", "600"]);
    for name in ["-1", "2147483648", "4294967295", "4294967296"] {
        assert_ne!(wharf.run(&["exec", "-u", name, "one", "true"]).code, 0, "exec as {name}");
        assert_ne!(wharf.run(&["run", "--rm", "-u", name, "names", "true"]).code, 0, "run as {name}");
    }
    assert_eq!(wharf.ok(&["exec", "-u", "1:2", "one", "sh", "-c", "id -u; id -g"]), "1\n2");
}

/// A socket that is closed while it holds what the client wrote breaks at the other end: the client would see an error
/// instead of the end, and `docker exec -i` would answer 1 instead of the exit code.
#[test]
fn a_session_whose_input_nobody_reads_ends_like_any_other() {
    let engine = Engine::with_image();
    let (wharf, api) = (engine.wharf(), engine.api());
    wharf.ok(&["run", "-d", "--name", "one", "box", "sleep", "600"]);
    for cmd in [json!(["sh", "-c", "echo said; usleep 300000; exit 3"]), json!(["nosuch"])] {
        let id = session(&api, "one", &json!({"Cmd": cmd, "AttachStdin": true, "AttachStdout": true}));
        let mut stream = UnixStream::connect(engine.socket()).expect("the engine listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let body = "{\"Detach\":false,\"Tty\":false}";
        let request = format!(
            "POST /exec/{id}/start HTTP/1.1\r\nHost: wharf\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("room");
        let mut writer = stream.try_clone().expect("a descriptor");
        // Something is on its way when the process ends, and the client reads nothing before that.
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    if writer.write_all(&[b'x'; 65536]).is_err() {
                        return;
                    }
                }
            });
            wait_until("the session to end", PATIENCE, || !shown(&api, &id)["ExitCode"].is_null());
            // The end of the process comes before that of its session.
            std::thread::sleep(Duration::from_millis(200));
            ended.store(true, Ordering::Relaxed);
        });
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("the end of the output, not an error");
        let text = String::from_utf8_lossy(&said).into_owned();
        assert!(text.starts_with("HTTP/1.1 101"), "{text}");
        assert!(text.contains("said") || text.contains("executable file not found"), "{text}");
    }
}

/// Who looks after a container that has too many processes gets in, and so do its health checks: only they cannot start
/// any further ones.
#[test]
fn a_container_that_may_have_no_more_processes_is_still_joined() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let script = "for i in 1 2 3 4; do sleep 1000 & done; echo ready; wait";
    let check = ["--health-cmd", "test -e /full", "--health-interval", "100ms", "--health-retries", "100000"];
    wharf.ok(&[&["run", "-d", "--name", "one"][..], &check, &["box", "sh", "-c", script]].concat());
    wait_until("its processes to run", PATIENCE, || wharf.ok(&["logs", "one"]) == "ready");
    wharf.ok(&["update", "--pids-limit", "5", "one"]);
    wharf.ok(&["exec", "one", "touch", "/full"]);
    let groups = wharf.ok(&["exec", "one", "cat", "/proc/self/cgroup"]);
    let id = wharf.ok(&["inspect", "-f", "{{.Id}}", "one"]);
    assert!(groups.lines().all(|line| line.ends_with(&id) || line.ends_with(":/")), "{groups}");
    assert!(!groups.lines().any(|line| line.contains(":pids:") && !line.ends_with(&id)), "{groups}");
    let said = wharf.run(&["exec", "-u", "guest", "one", "sh", "-c", "echo in; true | true"]);
    assert!(said.stdout.contains("in") && said.stderr.contains("can't fork"), "{said:?}");
    assert!(wharf.ok(&["exec", "-t", "one", "tty"]).starts_with("/dev/pts/"));
    let health = || wharf.ok(&["inspect", "-f", "{{.State.Health.Status}}", "one"]);
    wait_until("a health check", PATIENCE, || health() == "healthy");
}
