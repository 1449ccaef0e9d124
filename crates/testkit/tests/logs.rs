//! Log drivers and `logs` from outside: receivers that come, go and hang; files that must have every line once; rotation
//! and compression. What a session can show is in the recorded sessions `logs` and `logdrivers`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use wharf_testkit::{Cli, Engine, EngineBuilder, PATIENCE, image, wait_until};

/// Lines `1` to `count`, with a pause now and then.
fn counting(count: u32) -> String {
    format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo $i; [ $((i%100)) = 0 ] && usleep 10000; done")
}

fn numbers(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|number| number.to_string()).collect()
}

/// The `log` texts of documents, one a line.
fn logged(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a document a line"))
        .map(|document| document["log"].as_str().expect("a text").trim_end().to_owned())
        .collect()
}

fn log_path(cli: &Cli, name: &str) -> PathBuf {
    PathBuf::from(cli.ok(&["inspect", "-f", "{{.LogPath}}", name]))
}

fn spool(engine: &Engine, cli: &Cli, name: &str) -> PathBuf {
    let id = cli.ok(&["inspect", "-f", "{{.Id}}", name]);
    engine.data_root().join("containers").join(id).join("log")
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("readable").path());
    let mut found: Vec<PathBuf> =
        all.filter(|path| path.to_str().is_some_and(|path| path.ends_with(suffix))).collect();
    found.sort();
    found
}

/// A TCP receiver that keeps all it gets.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<u8>>>,
}

impl Receiver {
    fn new() -> Self {
        Self::on(wharf_testkit::loopback::tcp())
    }

    fn on(listener: TcpListener) -> Self {
        let port = listener.local_addr().expect("bound").port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), kept) = (stream, Arc::clone(&kept)) else { return };
                std::thread::spawn(move || {
                    let mut piece = [0; 65536];
                    while let Ok(count @ 1..) = stream.read(&mut piece) {
                        kept.lock().expect("nobody panics here").extend_from_slice(&piece[..count]);
                    }
                });
            }
        });
        Self { port, got }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.got.lock().expect("nobody panics here")).into_owned()
    }
}

#[test]
fn a_file_has_every_line_once_however_often_the_engine_is_killed() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    cli.ok(&[
        "run",
        "-d",
        "--name",
        "subject",
        "--log-driver",
        "json-file",
        "box",
        "sh",
        "-c",
        &counting(6_000),
    ]);
    let path = log_path(&cli, "subject");
    for round in 1..5 {
        wait_until("more lines in the file", PATIENCE, || {
            fs::read_to_string(&path).is_ok_and(|text| text.lines().count() > round * 700)
        });
        engine.kill();
        engine.start();
    }
    assert_eq!(cli.ok(&["wait", "subject"]), "0");
    wait_until("the last line in the file", PATIENCE, || {
        fs::read_to_string(&path).is_ok_and(|text| text.contains("\"6000\\n\""))
    });
    assert_eq!(logged(&fs::read_to_string(&path).expect("the file is there")), numbers(1, 6_000));
    assert_eq!(cli.ok(&["logs", "subject"]).lines().count(), 6_000);
    cli.ok(&["rm", "subject"]);
    assert!(!path.exists());
}

#[test]
fn files_rotate_and_are_compressed_as_docker_names_them() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let options = ["--log-driver", "json-file", "--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
    let run = |name: &str, more: &[&str]| {
        let mut args = vec!["run", "--name", name];
        args.extend(options);
        args.extend(more);
        args.extend(["box", "seq", "1", "3000"]);
        cli.ok(&args);
        log_path(&cli, name)
    };
    let path = run("plain", &[]);
    let name = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let mut all = Vec::new();
    for suffix in [".2", ".1", ""] {
        all.extend(logged(&fs::read_to_string(name(&path, suffix)).expect("a rotated file")));
    }
    assert!(all.len() < 1_500, "{} lines are kept", all.len());
    assert_eq!(all, numbers(3_001 - all.len() as u32, 3_000));
    assert!(!name(&path, ".3").exists());
    let path = run("packed", &["--log-opt", "compress=true"]);
    assert!(name(&path, ".1.gz").exists() && name(&path, ".2.gz").exists() && !name(&path, ".1").exists());
    assert!(cli.ok(&["logs", "packed"]).ends_with("2999\n3000"));
}

#[test]
fn logs_read_on_through_rotation_and_compression() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let line = "printf '%0300d\\n' $i";
    let script = format!("i=0; while [ $i -lt 4000 ]; do i=$((i+1)); {line}; done; sleep 600");
    let options = ["--log-opt", "max-size=200k", "--log-opt", "max-file=4"];
    cli.ok(&[&["run", "-d", "--name", "subject"], &options[..], &["box", "sh", "-c", &script]].concat());
    let directory = spool(&engine, &cli, "subject");
    wait_until("the last line", PATIENCE, || {
        cli.ok(&["logs", "-n", "1", "subject"]).trim_start_matches('0') == "4000"
    });
    wait_until("closed segments to be compressed", PATIENCE, || files(&directory, ".spool.zst").len() == 3);
    assert_eq!(files(&directory, ".spool").len(), 1);
    let last = |args: &[&str]| -> Vec<u32> {
        let text = cli.ok(&[&["logs"], args, &["subject"]].concat());
        text.lines().map(|line| line.parse().expect("a number")).collect()
    };
    let all = last(&[]);
    assert!(all.len() > 2_000, "{}", all.len());
    assert_eq!(all, (4_001 - all.len() as u32..=4_000).collect::<Vec<_>>());
    assert_eq!(last(&["--tail", "1500"]), (2_501..=4_000).collect::<Vec<_>>());
    assert_eq!(last(&["--since", "1h"]), all);
    assert!(last(&["--until", "1h"]).is_empty());
    // Positions mean the same before and after: a follower of everything sees the same.
    engine.kill();
    engine.start();
    assert_eq!(last(&[]), all);
    cli.ok(&["rm", "-f", "subject"]);
}

#[test]
fn a_hanging_receiver_holds_up_its_container_and_nothing_else() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    // Takes connections and never reads.
    let hangs = wharf_testkit::loopback::tcp();
    let address = format!("syslog-address=tcp://{}", hangs.local_addr().expect("bound"));
    let driver = ["--log-driver", "syslog", "--log-opt", &address];
    let small = ["--log-opt", "cache-max-size=1m", "--log-opt", "cache-max-file=2"];
    let run = |name: &str, more: &[&str]| {
        let command = ["box", "sh", "-c", "seq 1 4000000 && echo done"];
        cli.ok(&[&["run", "-d", "--name", name], &driver[..], &small, more, &command].concat());
    };
    run("waits", &[]);
    run("goes-on", &["--log-opt", "mode=non-blocking"]);
    assert_eq!(engine.wharf().with_deadline(Duration::from_secs(120)).ok(&["wait", "goes-on"]), "0");
    assert_eq!(cli.ok(&["logs", "-n", "1", "goes-on"]), "done");
    // What was written stops growing, far from its end.
    let mut last = String::new();
    wait_until("the container to be held up", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        let now = cli.ok(&["logs", "-n", "1", "waits"]);
        std::mem::replace(&mut last, now.clone()) == now && !now.is_empty()
    });
    assert!(last.parse::<u32>().expect("a number") < 3_000_000, "{last}");
    assert_eq!(cli.ok(&["inspect", "-f", "{{.State.Running}}", "waits"]), "true");
    let since = Instant::now();
    assert_eq!(cli.ok(&["exec", "waits", "echo", "here"]), "here");
    cli.ok(&["run", "--rm", "box", "true"]);
    cli.ok(&["stop", "-t", "1", "waits"]);
    cli.ok(&["rm", "waits", "goes-on"]);
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
}

#[test]
fn a_receiver_that_was_away_gets_what_it_missed() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let listener = wharf_testkit::loopback::tcp();
    let address = listener.local_addr().expect("bound");
    let option = format!("syslog-address=tcp://{address}");
    let options = ["--log-driver", "syslog", "--log-opt", &option, "--log-opt", "tag={{.Name}}"];
    let script = "echo first; while [ ! -e /told/now ]; do usleep 10000; done; echo second; sleep 600";
    let told = engine.dir().join("told");
    fs::create_dir(&told).expect("a fresh directory");
    let bind = format!("{}:/told", told.display());
    cli.ok(&[&["run", "-d", "--name", "subject", "-v", &bind], &options[..], &["box", "sh", "-c", script]]
        .concat());
    let (mut stream, _) = listener.accept().expect("the driver connects");
    let mut bytes = [0; 200];
    let count = stream.read(&mut bytes).expect("the first line");
    let line = String::from_utf8_lossy(&bytes[..count]).into_owned();
    assert!(line.starts_with("<30>") && line.contains(" subject[") && line.ends_with(": first\n"), "{line}");
    drop((stream, listener));
    engine.kill();
    fs::write(told.join("now"), "").expect("writable");
    engine.start();
    wait_until("the second line in the spool", PATIENCE, || cli.ok(&["logs", "subject"]) == "first\nsecond");
    let receiver = Receiver::on(TcpListener::bind(address).expect("the same port"));
    wait_until("what was missed", PATIENCE, || receiver.text().ends_with(": second\n"));
    // The engine may have been killed between sending the first line and noting it.
    assert!(receiver.text().lines().count() <= 2, "{}", receiver.text());
    cli.ok(&["rm", "-f", "subject"]);
}

#[test]
fn syslog_lines_come_over_every_kind_of_socket() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let run = |address: &str, format: &str| {
        let options = [
            "--log-driver",
            "syslog",
            "--log-opt",
            &format!("syslog-address={address}"),
            "--log-opt",
            &format!("syslog-format={format}"),
            "--log-opt",
            "syslog-facility=local3",
            "--log-opt",
            "tag=t",
        ];
        let script = "echo out; sleep 0.5; echo err >&2";
        cli.ok(&[&["run", "--rm"], &options[..], &["box", "sh", "-c", script]].concat());
    };
    let check = |first: &[u8], second: &[u8]| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(text(first).starts_with("<158>") && text(first).ends_with("out\n"), "{}", text(first));
        assert!(text(second).starts_with("<155>") && text(second).ends_with("err\n"), "{}", text(second));
    };
    let mut lines = [[0; 500]; 2];
    let udp = wharf_testkit::loopback::udp();
    udp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    run(&format!("udp://{}", udp.local_addr().expect("bound")), "rfc3164");
    let sizes = lines.each_mut().map(|line| udp.recv(line).expect("a datagram"));
    check(&lines[0][..sizes[0]], &lines[1][..sizes[1]]);

    let path = engine.dir().join("dgram");
    let unix = UnixDatagram::bind(&path).expect("a socket");
    unix.set_read_timeout(Some(PATIENCE)).expect("a socket");
    run(&format!("unixgram://{}", path.display()), "rfc5424");
    let sizes = lines.each_mut().map(|line| unix.recv(line).expect("a datagram"));
    check(&lines[0][..sizes[0]], &lines[1][..sizes[1]]);

    let receiver = Receiver::new();
    run(&format!("tcp://127.0.0.1:{}", receiver.port), "rfc5424micro");
    wait_until("both lines", PATIENCE, || receiver.text().ends_with("err\n"));
    let text = receiver.text();
    let (first, second) = text.split_once('\n').expect("two lines");
    check(format!("{first}\n").as_bytes(), second.as_bytes());
    assert!(first.starts_with("<158>1 20") && first.contains("Z "), "{first}");
}

/// A value of the forward protocol, as text: a reader of its own, so that a mistake of the driver shows.
fn unpack(bytes: &mut &[u8]) -> Option<Value> {
    let kind = *bytes.split_off_first()?;
    let mut number = |digits: usize| -> Option<u64> {
        Some(bytes.split_off(..digits)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (container, length) = match kind {
        0x00..=0x7f => return Some(kind.into()),
        0x80..=0x8f => ('m', u64::from(kind & 0x0f)),
        0x90..=0x9f => ('a', u64::from(kind & 0x0f)),
        0xa0..=0xbf => ('s', u64::from(kind & 0x1f)),
        0xd3 => return Some(number(8)?.into()),
        0xd7 => return Some(serde_json::json!({"ext": number(1)?, "time": number(8)?})),
        0xd9 => ('s', number(1)?),
        0xda => ('s', number(2)?),
        0xdb => ('s', number(4)?),
        0xdd => ('a', number(4)?),
        0xde => ('m', number(2)?),
        other => panic!("{other:#x} is not of the forward protocol"),
    };
    match container {
        's' => Some(String::from_utf8_lossy(bytes.split_off(..length as usize)?).into_owned().into()),
        'a' => (0..length).map(|_| unpack(bytes)).collect::<Option<Vec<_>>>().map(Value::from),
        _ => {
            let pair = |_| Some((unpack(bytes)?.as_str()?.to_owned(), unpack(bytes)?));
            (0..length).map(pair).collect::<Option<serde_json::Map<_, _>>>().map(Value::from)
        }
    }
}

fn unpack_all(mut bytes: &[u8]) -> Vec<Value> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        match unpack(&mut bytes) {
            Some(value) => all.push(value),
            None => break,
        }
    }
    all
}

#[test]
fn fluentd_gets_every_record_with_what_is_known_of_it() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let receiver = Receiver::new();
    let option = format!("fluentd-address=127.0.0.1:{}", receiver.port);
    let mut args =
        vec!["run", "-d", "--name", "subject", "--label", "tier=1", "-e", "MODE=fast", "--log-driver"];
    for option in ["fluentd", &option, "tag=docker.{{.Name}}", "labels=tier", "env-regex=^MO"] {
        args.extend(if option == "fluentd" { vec![option] } else { vec!["--log-opt", option] });
    }
    let script = format!("head -c 20000 /dev/zero | tr '\\0' x; echo; {}", counting(3_000));
    cli.ok(&[&args[..], &["box", "sh", "-c", &script]].concat());
    let id = cli.ok(&["inspect", "-f", "{{.Id}}", "subject"]);
    let records = || unpack_all(&receiver.got.lock().expect("nobody panics here"));
    wait_until("some records", PATIENCE, || records().len() > 500);
    engine.kill();
    engine.start();
    assert_eq!(cli.ok(&["wait", "subject"]), "0");
    wait_until("the last record", PATIENCE, || records().last().is_some_and(|last| last[2]["log"] == "3000"));
    let mut lines: Vec<String> = Vec::new();
    for record in records() {
        assert_eq!(record[0], "docker.subject");
        assert!(record[1].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{record}");
        let fields = &record[2];
        for (name, wanted) in [
            ("container_id", id.as_str()),
            ("container_name", "/subject"),
            ("source", "stdout"),
            ("tier", "1"),
            ("MODE", "fast"),
        ] {
            assert_eq!(fields[name], wanted, "{name}");
        }
        let text = fields["log"].as_str().expect("a text");
        if fields["partial_message"] == "true" {
            let last = fields["partial_last"] == "true";
            assert_eq!(text.len(), if last { 20_000 - 16_384 } else { 16_384 });
        } else {
            lines.push(text.to_owned());
        }
    }
    // A batch may come twice when the engine is killed between sending and noting it; nothing may be missing.
    lines.dedup();
    let mut sorted: Vec<u32> = lines.iter().map(|line| line.parse().expect("a number")).collect();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, (1..=3_000).collect::<Vec<_>>());
    assert_eq!(cli.ok(&["logs", "-n", "1", "subject"]), "3000");
    cli.ok(&["rm", "subject"]);
}

#[test]
fn fluentd_records_count_as_delivered_when_they_are_acknowledged() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let listener = wharf_testkit::loopback::tcp();
    let option = format!("fluentd-address=tcp://{}", listener.local_addr().expect("bound"));
    let mut args = vec!["run", "-d", "--name", "subject", "--log-driver", "fluentd"];
    for option in [&option, "fluentd-request-ack=true", "fluentd-sub-second-precision=true"] {
        args.extend(["--log-opt", option]);
    }
    cli.ok(&[&args[..], &["box", "sh", "-c", "echo one; sleep 600"]].concat());
    let message = |stream: &mut TcpStream| -> Value {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut bytes = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).expect("a message");
            assert!(count > 0, "the connection ended");
            bytes.extend_from_slice(&piece[..count]);
            if let Some(message) = unpack_all(&bytes).into_iter().next() {
                return message;
            }
        }
    };
    // The first connection is the one that `start` made; it ends without an acknowledgement.
    let (mut first, _) = listener.accept().expect("the driver connects");
    let unacknowledged = message(&mut first);
    drop(first);
    let (mut second, _) = listener.accept().expect("the driver connects again");
    let again = message(&mut second);
    assert_eq!(again, unacknowledged, "the same message with the same id");
    assert_eq!(again[1][0][1]["log"], "one");
    assert_eq!(again[1][0][0]["ext"], 0);
    let chunk = again[2]["chunk"].as_str().expect("an id");
    let mut answer = b"\x81\xa3ack\xd9".to_vec();
    answer.push(chunk.len() as u8);
    answer.extend_from_slice(chunk.as_bytes());
    second.write_all(&answer).expect("the driver waits for it");
    cli.ok(&["rm", "-f", "subject"]);
}

#[test]
fn the_engines_own_defaults_are_for_containers_that_name_no_driver() {
    let engine = EngineBuilder::default()
        .argument("--log-driver=json-file")
        .argument("--log-opt=max-size=10k")
        .argument("--log-opt=max-file=2")
        .start();
    engine.load(&image::archive());
    let cli = engine.wharf();
    assert_eq!(cli.ok(&["info", "-f", "{{.LoggingDriver}}"]), "json-file");
    let config = |name: &str| cli.ok(&["inspect", "-f", "{{json .HostConfig.LogConfig}}", name]);
    cli.ok(&["create", "--name", "default", "box"]);
    assert_eq!(config("default"), r#"{"Type":"json-file","Config":{"max-file":"2","max-size":"10k"}}"#);
    cli.ok(&["create", "--name", "other", "--log-driver", "local", "box"]);
    assert_eq!(config("other"), r#"{"Type":"local","Config":{}}"#);
    let refusal = cli.fails(1, &["create", "--log-driver", "awslogs", "box"]);
    assert!(
        refusal.contains("error looking up logging plugin awslogs: plugin \"awslogs\" not found"),
        "{refusal}"
    );
}

#[test]
fn sh_04_no_foreign_file_is_ever_read_or_written_as_a_log() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let canary = engine.dir().join("canary");
    fs::write(&canary, "canary").expect("writable");
    let create = |name: &str| {
        cli.ok(&["create", "--name", name, "--log-driver", "json-file", "box", "echo", "hello"]);
        spool(&engine, &cli, name)
    };
    // A link in the place of the file: the container runs, its output is in the spool, the host's file is untouched.
    let directory = create("link");
    let id = cli.ok(&["inspect", "-f", "{{.Id}}", "link"]);
    let file = directory.parent().expect("the container's").join(format!("{id}-json.log"));
    std::os::unix::fs::symlink(&canary, &file).expect("ours");
    cli.ok(&["start", "-a", "link"]);
    assert_eq!(fs::read_to_string(&canary).expect("there"), "canary");
    // Segments that are links or FIFOs are refused, not followed or waited for.
    for (name, make) in [("l", true), ("f", false)] {
        let name = format!("segment-{name}");
        let directory = create(&name);
        fs::create_dir(&directory).expect("not there before the first start");
        let segment = directory.join("0000000000.spool");
        if make {
            std::os::unix::fs::symlink(&canary, &segment).expect("ours");
        } else {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, &segment, rustix::fs::FileType::Fifo, mode, 0)
                .expect("ours");
        }
        let answer = cli.run(&["logs", &name]);
        assert!(!answer.stdout.contains("canary") && !answer.stderr.contains("canary\n"), "{answer:?}");
        assert_ne!(cli.run(&["start", &name]).code, 0);
        assert_eq!(fs::read_to_string(&canary).expect("there"), "canary");
    }
    for path in ["../../etc/passwd", "..%2f..%2fetc%2fpasswd"] {
        let answer = engine.api().request("GET", &format!("/containers/{path}/logs?stdout=1"), None);
        assert!(answer.is_ok_and(|answer| answer.status >= 400));
    }
}
