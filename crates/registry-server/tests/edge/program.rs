//! The program itself: its log, its numbers, its words, and how little it needs.

use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use wharf_testkit::{retry_until, wait_until};

use crate::world::{PATIENCE, Server, basic, program, scratch};

#[test]
fn every_request_has_its_line_and_its_number() {
    let dir = scratch();
    let users = dir.path().join("users");
    let server = Server::start(dir.path(), &["--tokens", "--htpasswd", users.to_str().unwrap()]);
    let log = dir.path().join("access.log");
    let line = |part: &str| {
        retry_until(part, PATIENCE, || {
            let text = std::fs::read_to_string(&log).unwrap();
            text.lines().find(|line| line.contains(part)).map(str::to_owned)
        })
    };
    let alice = basic("alice", "wonder");
    let headers = [("Authorization", &*alice), ("User-Agent", "te\"st"), ("X-Request-Id", "my-1")];
    let answer = server.request("GET", "/token?scope=repository:a:pull", &headers, b"");
    assert_eq!(answer.header("x-request-id"), Some("my-1"));
    let parsed: serde_json::Value = serde_json::from_str(&line("my-1")).unwrap();
    for (field, wanted) in
        [("user", "alice"), ("method", "GET"), ("path", "/token"), ("agent", "te\"st"), ("endpoint", "token")]
    {
        assert_eq!(parsed[field], wanted, "{parsed}");
    }
    assert_eq!((&parsed["status"], &parsed["bytes"]), (&200.into(), &answer.body.len().into()));
    let bad = server.request("GET", "/nowhere", &[("X-Request-Id", "a b\"c")], b"");
    assert_ne!(bad.header("x-request-id"), Some("a b\"c"));

    std::fs::rename(&log, dir.path().join("old.log")).unwrap();
    server.signal(Signal::HUP);
    wait_until("the new file", PATIENCE, || log.exists());
    server.request("GET", "/healthz", &[("X-Request-Id", "my-2")], b"");
    line("my-2");

    let metrics = String::from_utf8(server.get("/metrics").body).unwrap();
    let wanted = "wharf_registry_requests_total{endpoint=\"token\",method=\"GET\",code=\"200\"} 1";
    assert!(metrics.lines().any(|line| line == wanted), "{metrics}");
}

#[test]
fn metrics_can_be_kept_from_the_public() {
    let dir = scratch();
    let server = Server::start(dir.path(), &["--metrics-address", "127.0.0.1:0"]);
    assert_eq!(server.get("/metrics").status, 404);
    let log = server.log();
    let (_, rest) = log.split_once("metrics on http://").unwrap();
    let mut private = std::net::TcpStream::connect(rest.split('/').next().unwrap()).unwrap();
    let answer = crate::world::exchange(&mut private, "GET", "/metrics", &[], b"");
    assert!(String::from_utf8(answer.body).unwrap().contains("wharf_registry_connections "));
}

#[test]
fn a_hashed_password_opens_the_door() {
    let dir = scratch();
    let mut hash = program()
        .args(["hash-password", "carol"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    hash.stdin.take().unwrap().write_all(b"s3cret\n").unwrap();
    let line = hash.wait_with_output().unwrap().stdout;
    std::fs::write(dir.path().join("users"), line).unwrap();
    let users = dir.path().join("users");
    let server = Server::start(dir.path(), &["--tokens", "--htpasswd", users.to_str().unwrap()]);
    let carol = basic("carol", "s3cret");
    assert_eq!(server.request("GET", "/token", &[("Authorization", &carol)], b"").status, 200);
}

#[test]
fn what_stops_it_from_starting_is_said_with_the_way_out() {
    let dir = scratch();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let bad = dir.path().join("bad");
    std::fs::write(&bad, "alice:secret\n").unwrap();
    let bad = bad.to_str().unwrap();
    let data = dir.path().join("data");
    for (args, wanted) in [
        (&["--address", &*taken][..], &*format!("listening on {taken}")),
        (&["--address", "nonsense"], "expected HOST:PORT"),
        (&["--htpasswd", "/nowhere/users"], "open /nowhere/users: No such file"),
        (&["--htpasswd", bad], "hash-password alice"),
        (&["--config", bad], "bad: TOML parse error"),
        (&["--tls-certificate", bad, "--tls-key", bad], "has no certificate"),
        (&["--access-log", "/nowhere/log"], "/nowhere/log"),
    ] {
        let output = program().arg("serve").arg("--data").arg(&data).args(args).output().unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains(wanted), "{args:?}: {words}");
    }
}

#[test]
fn it_needs_nothing_else_in_its_root() {
    let dir = scratch();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_wharf-registry"), root.join("wharf-registry")).unwrap();
    let args = ["/wharf-registry", "serve", "--address", "127.0.0.1:0", "--data", "/data"];
    let mut server = Server::run(Command::new("chroot").arg(&root).args(args));
    assert_eq!(server.get("/readyz").status, 200);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(root.join("data").is_dir());
}
