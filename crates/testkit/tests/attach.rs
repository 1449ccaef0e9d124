//! Attached clients that leave, stop reading or come in numbers: row SH-03, and what attach promises.
//!
//! `WHARF_TEST_SH03=long` gives the numbers of the catalogue: 5,000 clients, 100,000 sizes, 8 GiB.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;
use wharf_testkit::{Engine, PATIENCE, wait_until};

fn long() -> bool {
    std::env::var("WHARF_TEST_SH03").is_ok_and(|value| value == "long")
}

/// Opens a hijacked connection and reads its headers.
fn hijack(engine: &Engine, path: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(engine.socket()).expect("the engine listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: wharf\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .expect("the engine reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("headers");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Reads until `wanted` has come.
fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !text.contains(wanted) {
        let count = stream.read(&mut piece).expect("more output");
        assert!(count > 0, "ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    text
}

/// Bytes of memory that a process holds alone.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a sum");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

#[test]
fn sh_03_clients_that_leave_cost_nothing() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    cli.ok(&["run", "-dit", "--name", "subject", "box", "cat"]);
    let pid = engine.pid().expect("it runs");
    let attach = |count: usize| {
        for number in 0..count {
            let options = ["stream=1&stdout=1", "stream=1&stdin=1&stdout=1&logs=1", "stream=1&stdin=1"];
            let path = format!("/containers/subject/attach?{}", options[number % options.len()]);
            let mut stream = hijack(&engine, &path, "");
            if number % 5 == 0 {
                stream.write_all(b"x\n").expect("it reads");
            }
            // Killed: nothing more is read or said.
            drop(stream);
        }
    };
    attach(100);
    let resize = |count: usize| {
        for number in 0..count {
            let path = format!("/containers/subject/resize?h={}&w={}", 10 + number % 50, 20 + number % 100);
            assert_eq!(engine.api().request("POST", &path, None).expect("an answer").status, 200);
        }
    };
    resize(100);
    wait_until("the first clients to be forgotten", PATIENCE, || descriptors(pid) < 120);
    let (before, open) = (memory(pid), descriptors(pid));
    let (clients, sizes) = if long() { (5_000, 100_000) } else { (300, 500) };
    attach(clients);
    resize(sizes);
    wait_until("all clients to be forgotten", PATIENCE, || descriptors(pid) <= open + 4);
    wait_until("memory to be given back", PATIENCE, || memory(pid) < before + (8 << 20));
    let shim: u32 = {
        let init = cli.ok(&["inspect", "-f", "{{.State.Pid}}", "subject"]);
        let status = std::fs::read_to_string(format!("/proc/{init}/status")).expect("it runs");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
        parent.trim().parse().expect("a number")
    };
    assert!(descriptors(shim) < 40, "{} descriptors in the shim", descriptors(shim));
    assert!(memory(shim) < 8 << 20, "{} bytes in the shim", memory(shim));
    cli.ok(&["rm", "-f", "subject"]);
}

#[test]
fn sh_03_output_that_nobody_reads_is_not_kept_in_memory() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    cli.ok(&["run", "-d", "--name", "subject", "box", "sleep", "600"]);
    let pid = engine.pid().expect("it runs");
    let before = memory(pid);
    let mebibytes: u64 = if long() { 8 * 1024 } else { 192 };
    let script = format!("dd if=/dev/zero bs=1M count={mebibytes} 2>/dev/null");
    let exec = json!({"AttachStdout": true, "Cmd": ["sh", "-c", script]});
    let made = engine.api().request("POST", "/containers/subject/exec", Some(&exec)).expect("an answer");
    let id = made.json()["Id"].as_str().expect("an id").to_owned();
    let mut stream = hijack(&engine, &format!("/exec/{id}/start"), &json!({"Detach": false}).to_string());
    let mut piece = vec![0; 1 << 20];
    let (mut total, mut most) = (0_u64, 0);
    loop {
        match stream.read(&mut piece).expect("more output") {
            0 => break,
            count => total += count as u64,
        }
        if total >> 23 != (total.saturating_sub(piece.len() as u64)) >> 23 {
            // Slower than what comes.
            std::thread::sleep(Duration::from_millis(5));
            most = most.max(memory(pid));
        }
    }
    assert!(total >= mebibytes << 20, "{total} bytes came");
    assert!(most < before + (48 << 20), "{before} bytes before, {most} at most");
    wait_until("memory to be given back", PATIENCE, || memory(pid) < before + (8 << 20));
    cli.ok(&["rm", "-f", "subject"]);
}

#[test]
fn a_replay_goes_on_where_the_stream_begins() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let script =
        "for i in 1 2 3; do echo old $i; done; while read line; do echo \"new $line\"; done; echo end";
    cli.ok(&["run", "-di", "--name", "subject", "box", "sh", "-c", script]);
    wait_until("the old lines", PATIENCE, || cli.ok(&["logs", "subject"]).ends_with("old 3"));
    let path = "/containers/subject/attach?logs=1&stream=1&stdin=1&stdout=1&stderr=1";
    let (mut first, mut second) = (hijack(&engine, path, ""), hijack(&engine, path, ""));
    first.write_all(b"from the first\n").expect("it reads");
    let seen = read_until(&mut first, "new from the first");
    assert_eq!(seen.matches("old 1").count(), 1, "{seen:?}");
    read_until(&mut second, "new from the first");
    second.write_all(b"from the second\n").expect("it reads");
    read_until(&mut first, "new from the second");
    read_until(&mut second, "new from the second");
    // One client that says no more ends nothing for the other: the container's input stays open.
    first.shutdown(std::net::Shutdown::Write).expect("a socket");
    second.write_all(b"still here\n").expect("it reads");
    read_until(&mut first, "new still here");
    drop((first, second));
    assert_eq!(cli.ok(&["inspect", "-f", "{{.State.Running}}", "subject"]), "true");
    cli.ok(&["rm", "-f", "subject"]);
}

#[test]
fn input_for_one_client_ends_with_it_and_output_comes_to_its_end() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let output =
        cli.run_with_input(&["run", "-i", "--name", "subject", "box", "sh", "-c", "cat; echo end"], b"abc");
    assert_eq!(output.stdout, "abcend\n");
    let spec = json!({"Image": "box", "Cmd": ["sh", "-c", "wc -c; echo end"], "OpenStdin": true, "StdinOnce": true,
        "AttachStdin": true, "AttachStdout": true});
    let api = engine.api();
    let made = api.request("POST", "/containers/create?name=once", Some(&spec)).expect("an answer");
    assert_eq!(made.status, 201);
    // Attached before it runs, as `run` does.
    let mut stream = hijack(&engine, "/containers/once/attach?stream=1&stdin=1&stdout=1", "");
    assert_eq!(api.request("POST", "/containers/once/start", None).expect("an answer").status, 204);
    stream.write_all(&[b'x'; 300_000]).expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("a socket");
    let text = read_until(&mut stream, "end\n");
    assert!(text.contains("300000"), "{text:?}");
    cli.ok(&["rm", "-f", "subject", "once"]);
}

#[test]
fn a_client_that_leaves_by_its_keys_is_told_of_and_a_slow_one_delays_nobody() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    cli.ok(&["run", "-dit", "--name", "subject", "box", "sh", "-c", "cat"]);
    let mut client =
        hijack(&engine, "/containers/subject/attach?stream=1&stdin=1&stdout=1&detachKeys=a,ctrl-b", "");
    client.write_all(b"xa\x02").expect("it reads");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the end");
    let count = |action: &str| {
        let path = format!(
            "/events?since=0&until={}&filters=%7B%22event%22%3A%5B%22{action}%22%5D%7D",
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
                + 1
        );
        let body = engine.api().request("GET", &path, None).expect("an answer").body;
        String::from_utf8_lossy(&body).lines().filter(|line| line.contains(action)).count()
    };
    assert_eq!(count("detach"), 1);
    // Attached, and never reads: others see everything all the same.
    let _silent = hijack(&engine, "/containers/subject/attach?stream=1&stdout=1", "");
    let mut reader = hijack(&engine, "/containers/subject/attach?stream=1&stdin=1&stdout=1", "");
    for number in 0..200 {
        reader.write_all(format!("line {number} {}\r", "y".repeat(500)).as_bytes()).expect("it reads");
        read_until(&mut reader, &format!("line {number} "));
    }
    cli.ok(&["rm", "-f", "subject"]);
}
