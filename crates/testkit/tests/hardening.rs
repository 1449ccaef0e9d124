//! The door of the engine against those who should not come in, and those who come in with nonsense: rows EN-01 to EN-06.

#![recursion_limit = "256"]
#![expect(clippy::print_stdout, reason = "a long run says how far it is and what it found")]

#[path = "hardening/fuzz.rs"]
mod fuzz;
#[path = "hardening/plugin.rs"]
mod plugin;
#[path = "hardening/wire.rs"]
mod wire;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use plugin::{Judge, Plugin};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use wharf_testkit::{Engine, EngineBuilder, PATIENCE, image, retry_until, wait_until};
use wire::{exchange, exchange_tcp};

/// An engine and who it asks; the engine goes first.
struct Guarded {
    engine: Engine,
    plugin: Option<Plugin>,
    _dir: tempfile::TempDir,
}

/// An engine that asks a plugin, which judges as `judge` says.
fn with_plugin(judge: Judge) -> Guarded {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("daemon.json");
    std::fs::write(&file, "{}").expect("room for a file");
    let engine = EngineBuilder::default().argument(&format!("--config-file={}", file.display())).start();
    engine.load(&image::archive());
    let plugin = Plugin::start(&engine.exec_root().join("plugins/guard.sock"), judge);
    std::fs::write(&file, r#"{"authorization-plugins": ["guard"]}"#).expect("room for a file");
    let pid = Pid::from_raw(i32::try_from(engine.pid().expect("it runs")).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::HUP).expect("a child of ours");
    wait_until("the plugin to be asked", PATIENCE, || engine.log_tail().contains("were read again"));
    Guarded { engine, plugin: Some(plugin), _dir: dir }
}

fn containers(engine: &Engine) -> usize {
    let list = engine.api().get("/containers/json?all=1").expect("the engine answers");
    list.as_array().map_or(0, Vec::len)
}

/// Requests that would make a privileged container if somebody read them otherwise than the plugin does.
fn disguises() -> Vec<(&'static str, Vec<u8>)> {
    let body = r#"{"Image":"box","Cmd":["true"],"HostConfig":{"Privileged":true}}"#;
    let json = "Content-Type: application/json\r\n";
    let with = |fields: &str, body: &str| {
        format!(
            "POST /v1.51/containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n{body}"
        )
        .into_bytes()
    };
    let sized = |body: &str| with(&format!("{json}Content-Length: {}\r\n", body.len()), body);
    let at = |target: &str| {
        let fields = format!("{json}Content-Length: {}", body.len());
        format!("POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n\r\n{body}")
            .into_bytes()
    };
    let padded = |length: usize| {
        let pad = " ".repeat(length - body.len());
        sized(&format!("{body}{pad}"))
    };
    let length = body.len();
    let chunk = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    vec![
        ("as it is", sized(body)),
        ("no length", with(json, body)),
        ("length zero", with(&format!("{json}Content-Length: 0\r\n"), body)),
        ("chunked", with(&format!("{json}Transfer-Encoding: chunked\r\n"), &chunk)),
        (
            "chunked and a length",
            with(&format!("{json}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"), &chunk),
        ),
        ("two lengths", with(&format!("{json}Content-Length: 2\r\nContent-Length: {length}\r\n"), body)),
        (
            "the same length twice",
            with(&format!("{json}Content-Length: {length}\r\nContent-Length: {length}\r\n"), body),
        ),
        ("just what Docker showed its plugins", padded(1 << 20)),
        ("more than Docker showed its plugins", padded((1 << 20) + 1)),
        ("at the limit", padded(4 << 20)),
        ("over the limit", padded((4 << 20) + 1)),
        ("5 MiB", padded(5 << 20)),
        (
            "said to be compressed",
            with(&format!("{json}Content-Encoding: gzip\r\nContent-Length: {length}\r\n"), body),
        ),
        ("no kind", with(&format!("Content-Length: {length}\r\n"), body)),
        ("another kind", with(&format!("Content-Type: text/plain\r\nContent-Length: {length}\r\n"), body)),
        (
            "a key twice",
            sized(r#"{"Image":"box","Cmd":["true"],"HostConfig":{"Privileged":true},"HostConfig":{}}"#),
        ),
        (
            "a key in two cases",
            sized(
                r#"{"Image":"box","Cmd":["true"],"HostConfig":{"Privileged":true},"hostconfig":{"privileged":false}}"#,
            ),
        ),
        (
            "an inner key in two cases",
            sized(r#"{"Image":"box","Cmd":["true"],"HostConfig":{"Privileged":true,"privileged":false}}"#),
        ),
        ("lower case alone", sized(r#"{"Image":"box","Cmd":["true"],"hostconfig":{"privileged":true}}"#)),
        ("two documents", sized(&format!(r#"{{"Image":"box","Cmd":["true"]}}{body}"#))),
        ("an encoded path", at("/v1.51/containers/%63reate")),
        ("a double slash", at("//containers/create")),
        ("a detour", at("/v1.51/images/../containers/create")),
        ("an absolute target", at("http://x/v1.51/containers/create")),
        ("looks like an archive", at("/containers/create?fromSrc=-&x=/archive")),
    ]
}

#[test]
fn en_01_a_plugin_judges_what_is_executed() {
    let mut guarded = with_plugin(Judge::NoPrivileges);
    let engine = &guarded.engine;
    for (what, request) in disguises() {
        let answer = exchange(&engine.socket(), &request, Duration::from_secs(20));
        assert!(answer.status >= 400, "{what}: {answer:?}");
        let privileged = engine.api().get("/containers/json?all=1").expect("the engine answers");
        for container in privileged.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().expect("an id");
            let inspected = engine.api().get(&format!("/containers/{id}/json")).expect("it is there");
            assert_eq!(inspected["HostConfig"]["Privileged"], false, "{what}");
        }
    }
    assert_eq!(containers(engine), 0);
    let denied = engine.wharf().fails(1, &["create", "--privileged", "box"]);
    assert!(denied.contains("authorization denied by plugin guard: no privileges"), "{denied}");
    engine.wharf().ok(&["create", "--name", "cc", "box", "true"]);
    // Nothing happens while the plugin is away.
    guarded.plugin = None;
    let engine = &guarded.engine;
    let away = engine
        .api()
        .request("POST", "/containers/create", Some(&json!({"Image": "box"})))
        .expect("an answer");
    assert_eq!(away.status, 500, "{}", away.message());
    assert!(away.message().contains("plugin guard failed with error"), "{}", away.message());
    // So that the engine can be emptied.
    let socket = engine.exec_root().join("plugins/guard.sock");
    let plugin = Plugin::start(&socket, Judge::Everything);
    wait_until("the plugin", PATIENCE, || guarded.engine.api().is_up());
    guarded.engine.wharf().ok(&["rm", "cc"]);
    let auth = "POST /images/create?fromImage=127.0.0.1:9/x&tag=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                X-Registry-Auth: c2VjcmV0\r\nContent-Length: 0\r\n\r\n";
    exchange(&guarded.engine.socket(), auth.as_bytes(), Duration::from_secs(20));
    assert_eq!((plugin.saw("c2VjcmV0"), plugin.saw("fromImage") > 0), (0, true), "secrets are not shown");
    guarded.plugin = Some(plugin);
}

#[test]
fn en_01_a_plugin_judges_answers_and_streams_go_on() {
    let guarded = with_plugin(Judge::NoVersion);
    let engine = &guarded.engine;
    let refused = engine.api().request("GET", "/version", None).expect("an answer");
    assert_eq!((refused.status, refused.message().contains("not for you")), (403, true));
    let wharf = engine.wharf();
    assert_eq!(wharf.ok(&["run", "--rm", "box", "echo", "through"]), "through");
    let output = wharf.run_with_input(&["run", "--rm", "-i", "box", "cat"], b"and back");
    assert_eq!((output.code, output.stdout.as_str()), (0, "and back"), "{}", output.stderr);
    let copied = wharf
        .shell("docker create --name cc box true && docker cp /etc/hostname cc:/tmp/ && docker rm cc", &[]);
    assert_eq!(copied.code, 0, "{}", copied.stderr);
}

#[test]
fn en_02_there_are_no_plugins_with_privileges_to_grant() {
    // When there are, privileges that were shown and those that are granted have to be compared exactly.
    let engine = Engine::scratch();
    for path in ["/plugins/pull?remote=x", "/plugins/privileges?remote=x", "/plugins/create"] {
        let method = if path.contains("privileges") { "GET" } else { "POST" };
        let answer = engine.api().request(method, path, None).expect("an answer");
        assert!([404, 501].contains(&answer.status), "{path}: {}", answer.status);
    }
}

/// A loopback engine without TLS, and its address.
fn on_loopback() -> (Engine, String) {
    let engine = EngineBuilder::default()
        .argument(&format!("-H=tcp://{}", wharf_testkit::loopback::address()))
        .argument("--tls=false")
        .start();
    let address = retry_until("the address in the log", PATIENCE, || {
        let log = engine.log_tail();
        let rest = log.split("API listen on tcp://").nth(1)?;
        rest.lines().next().map(|address| address.trim().to_owned())
    });
    (engine, address)
}

#[test]
fn en_03_no_container_reaches_the_api() {
    let certificate =
        |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name);
    let engine = EngineBuilder::default()
        .argument("-H=tcp://0.0.0.0:0")
        .argument(&format!("--tlscacert={}", certificate("ca.pem").display()))
        .argument(&format!("--tlscert={}", certificate("server.pem").display()))
        .argument(&format!("--tlskey={}", certificate("server-key.pem").display()))
        .start();
    engine.load(&image::archive());
    let port = retry_until("the address in the log", PATIENCE, || {
        let log = engine.log_tail();
        let rest = log.split("API listen on tcp://0.0.0.0:").nth(1)?;
        rest.lines().next().map(|port| port.trim().to_owned())
    });
    let wharf = engine.wharf();
    let gateway =
        wharf.ok(&["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]);
    let addresses = std::process::Command::new("hostname").arg("-I").output().expect("hostname runs");
    let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
    let hosts: BTreeSet<&str> = addresses
        .split_whitespace()
        .filter(|address| !address.contains(':'))
        .chain([gateway.as_str(), "127.0.0.1"])
        .collect();
    let hosts = hosts.into_iter().take(4).collect::<Vec<_>>().join(" ");
    for network in ["bridge", "host", "none"] {
        let script = format!(
            "for host in {hosts}; do for port in {port} 2375; do \
             printf 'GET /_ping HTTP/1.0\\r\\nHost: '$host'\\r\\n\\r\\n' | nc -w 1 $host $port; done; done; \
             ls /run/wharf /var/run/docker.sock {} 2>/dev/null; cat /proc/net/unix; true",
            engine.exec_root().display()
        );
        let seen = wharf.ok(&["run", "--rm", "--network", network, "box", "sh", "-c", &script]);
        assert!(!seen.to_lowercase().contains("api-version"), "{network}: {seen}");
        // A name in the list of sockets is none that a container could connect to: the path is not there.
        assert!(
            !seen.lines().any(|line| line.ends_with("wharf.sock") && !line.contains('/')),
            "{network}: {seen}"
        );
    }
}

#[test]
fn en_04_web_pages_and_foreign_names_get_nothing() {
    let (engine, address) = on_loopback();
    engine.load(&image::archive());
    let body = r#"{"Image":"box","Cmd":["true"]}"#;
    let post = |fields: &str| {
        format!(
            "POST /v1.51/containers/create HTTP/1.1\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let json = "Content-Type: application/json\r\n";
    let own = format!("Host: {address}\r\n");
    let cases = [
        ("a foreign host", format!("Host: evil.example\r\n{json}")),
        ("a rebound host", format!("Host: {}.evil.example\r\n{json}", address.replace(':', "-"))),
        ("another address", format!("Host: 127.0.0.2\r\n{json}")),
        ("no host", json.to_owned()),
        ("two hosts", format!("{own}Host: evil.example\r\n{json}")),
        ("an origin", format!("{own}Origin: http://evil.example\r\n{json}")),
        ("our own origin", format!("{own}Origin: http://{address}\r\n{json}")),
        ("no origin worth a name", format!("{own}Origin: null\r\n{json}")),
        ("plain text", format!("{own}Content-Type: text/plain\r\n")),
        ("a form", format!("{own}Content-Type: application/x-www-form-urlencoded\r\n")),
        ("a form with files", format!("{own}Content-Type: multipart/form-data; boundary=x\r\n")),
        ("no kind", own.clone()),
    ];
    for (what, fields) in &cases {
        let answer = exchange_tcp(&address, post(fields).as_bytes(), Duration::from_secs(10));
        assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
        assert!(!answer.head.to_lowercase().contains("access-control-allow"), "{what}: {answer:?}");
    }
    let preflight = format!(
        "OPTIONS /v1.51/containers/create HTTP/1.1\r\n{own}Connection: close\r\nOrigin: http://evil.example\r\n\
         Access-Control-Request-Method: POST\r\n\r\n"
    );
    let answer = exchange_tcp(&address, preflight.as_bytes(), Duration::from_secs(10));
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(containers(&engine), 0);
    for name in [address.clone(), format!("localhost:{}", address.rsplit(':').next().expect("a port"))] {
        let answer = exchange_tcp(
            &address,
            post(&format!("Host: {name}\r\n{json}")).as_bytes(),
            Duration::from_secs(10),
        );
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

/// Every file beneath `dir` that has `needle`, but for those of `except`.
fn files_with(dir: &Path, needle: &str, except: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
        if kind.is_dir() {
            found.extend(files_with(&path, needle, except));
        } else if kind.is_file() {
            let name = path.display().to_string();
            let bytes = std::fs::read(&path).unwrap_or_default();
            let has = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            if has && !except.iter().any(|except| name.contains(except)) {
                found.push(name);
            }
        }
    }
    found
}

#[test]
fn en_05_secrets_are_written_nowhere() {
    const PROXY: &str = "canary-of-the-proxy-7319";
    const LOGIN: &str = "canary-of-the-login-5521";
    const ENVIRONMENT: &str = "canary-of-the-environment-9943";
    let engine = EngineBuilder::default()
        .argument("--log-level=trace")
        .argument(&format!("--http-proxy=http://someone:{PROXY}@127.0.0.1:9"))
        .argument("--no-proxy=127.0.0.1")
        .argument("--max-download-attempts=1")
        .start();
    engine.load(&image::archive());
    let wharf = engine.wharf();
    // Nobody listens there, and at the other a registry that refuses.
    let refusing = plugin::refusing_registry();
    for registry in ["127.0.0.1:9", &refusing] {
        let login =
            wharf.run_with_input(&["login", "-u", "someone", "--password-stdin", registry], LOGIN.as_bytes());
        assert_ne!(login.code, 0);
        assert!(!format!("{}{}", login.stdout, login.stderr).contains(LOGIN));
        let auth = json!({"username": "someone", "password": LOGIN, "serveraddress": registry}).to_string();
        let header = wire::base64(auth.as_bytes());
        for target in [
            format!("/images/create?fromImage={registry}/x&tag=1"),
            format!("/images/{registry}/x/push?tag=1"),
        ] {
            let request = format!(
                "POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Registry-Auth: {header}\r\nContent-Length: 0\r\n\r\n"
            );
            let answer = exchange(&engine.socket(), request.as_bytes(), Duration::from_secs(20));
            assert!(!answer.body.contains(LOGIN), "{answer:?}");
        }
        // The same as a body that cannot be read: the complaint must not repeat it.
        let broken = auth.replace('}', "");
        let request = format!(
            "POST /auth HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{broken}",
            broken.len()
        );
        let answer = exchange(&engine.socket(), request.as_bytes(), Duration::from_secs(20));
        assert!(answer.status >= 400 && !answer.body.contains(LOGIN), "{answer:?}");
    }
    wharf.ok(&["run", "--rm", "-e", &format!("SECRET={ENVIRONMENT}"), "box", "true"]);
    wharf.ok(&["run", "-d", "--name", "cc", "-e", &format!("SECRET={ENVIRONMENT}"), "box", "sleep", "100"]);
    wharf.ok(&["exec", "-e", &format!("SECRET={ENVIRONMENT}"), "cc", "true"]);
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() + 1;
    let events = wharf.ok(&["events", "--since", "1", "--until", &now.to_string(), "--format", "{{json .}}"]);
    let info = wharf.ok(&["info", "--format", "{{json .}}"]);
    engine.kill();
    for secret in [PROXY, LOGIN, &wire::base64(LOGIN.as_bytes())] {
        assert_eq!(files_with(engine.dir(), secret, &[]), [""; 0], "{secret}");
        assert!(!events.contains(secret) && !info.contains(secret), "{secret}");
    }
    // The environment is part of a container's description, and of nothing else.
    let description = ["state.db", "/config.json", "/shim.json"];
    assert_eq!(files_with(engine.dir(), ENVIRONMENT, &description), [""; 0]);
    assert!(!events.contains(ENVIRONMENT), "{events}");
}

#[test]
fn en_06_nonsense_ends_no_engine() {
    let engine = Engine::with_image();
    fuzz::run(&engine);
}

#[test]
fn slow_and_silent_clients_keep_nobody_waiting() {
    use std::io::Write;
    let engine = Engine::scratch();
    // More than may be connected at once, each with half a head.
    let silent: Vec<_> = (0..600)
        .map_while(|_| {
            let mut stream = std::os::unix::net::UnixStream::connect(engine.socket()).ok()?;
            stream.write_all(b"GET /_ping HTTP/1.1\r\nHost:").ok()?;
            Some(stream)
        })
        .collect();
    assert!(silent.len() > 100);
    assert!(engine.api().is_up());
    // Heads without end, and bodies that never come.
    let mut endless = b"GET /_ping HTTP/1.1\r\nHost: x\r\n".to_vec();
    endless.extend((0..20_000).flat_map(|number| format!("X-{number}: {}\r\n", "y".repeat(20)).into_bytes()));
    let answer = exchange(&engine.socket(), &endless, Duration::from_secs(10));
    assert!(answer.status == 431 || answer.status == 400 || answer.status == 0, "{answer:?}");
    let _waiting: Vec<_> = (0..100)
        .map_while(|_| {
            let mut stream = std::os::unix::net::UnixStream::connect(engine.socket()).ok()?;
            let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n{";
            stream.write_all(head.as_bytes()).ok()?;
            Some(stream)
        })
        .collect();
    assert!(engine.api().is_up());
    engine.api().get("/info").expect("the engine answers");
}

#[test]
fn clients_that_stop_reading_or_sending_keep_nobody_waiting() {
    use std::io::Write;
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["create", "--name", "cc", "box", "true"]);
    // More than the engine has threads for its own work.
    let requests = [
        "GET /containers/cc/export HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /images/box/get HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx",
    ];
    let stuck: Vec<_> = (0..75)
        .map(|number| {
            let mut stream =
                std::os::unix::net::UnixStream::connect(engine.socket()).expect("the engine listens");
            stream.write_all(requests[number % 3].as_bytes()).expect("the engine reads");
            stream
        })
        .collect();
    engine.api().get("/info").expect("the engine answers");
    assert_eq!(wharf.ok(&["run", "--rm", "box", "echo", "hello"]), "hello");
    drop(stuck);
}
