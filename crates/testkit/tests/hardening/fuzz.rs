//! Requests made of what the API knows and bent: null for each field, wrong kinds, cut bodies, wild queries.
//!
//! `WHARF_TEST_FUZZ` says how many (1,000,000 for the long form), `WHARF_TEST_FUZZ_CLIENTS` from how many clients at once,
//! `WHARF_TEST_SEED` repeats the choices of a run.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_testkit::Engine;
use wharf_testkit::random::Random;

use super::wire::Wire;

/// An example of everything `create` takes.
fn container() -> Value {
    json!({
        "Image": "box", "Cmd": ["true"], "Entrypoint": ["sh"], "Env": ["A=b"], "Labels": {"a": "b"}, "Hostname": "h",
        "User": "0", "WorkingDir": "/", "Tty": false, "OpenStdin": true, "StdinOnce": false, "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/v": {}}, "StopSignal": "SIGTERM", "StopTimeout": 1, "Shell": ["sh"], "NetworkDisabled": false,
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000, "Timeout": 1_000_000_000, "Retries": 3,
            "StartPeriod": 0, "StartInterval": 1_000_000_000},
        "HostConfig": {
            "Binds": ["vol:/data:ro"], "Memory": 67_108_864, "MemorySwap": -1, "NanoCpus": 500_000_000, "CpuShares": 2,
            "CpusetCpus": "0", "PidsLimit": 10, "BlkioWeight": 0, "OomScoreAdj": 0, "ShmSize": 65536, "AutoRemove": false,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"],
            "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "Sysctls": {"net.ipv4.ip_forward": "1"},
            "Tmpfs": {"/t": "size=1m"}, "ExtraHosts": ["a:1.2.3.4"], "Dns": ["1.1.1.1"], "DnsSearch": ["x"],
            "DnsOptions": ["ndots:1"], "SecurityOpt": ["no-new-privileges"], "GroupAdd": ["1"], "Init": true,
            "LogConfig": {"Type": "local", "Config": {"max-size": "1m"}}, "NetworkMode": "none", "IpcMode": "private",
            "PidMode": "", "UTSMode": "", "CgroupnsMode": "private", "UsernsMode": "", "Privileged": false,
            "ReadonlyRootfs": true, "PublishAllPorts": false, "Links": [], "VolumesFrom": [], "Isolation": "",
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}, "Runtime": "", "Annotations": {"a": "b"},
            "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}],
            "DeviceRequests": [{"Driver": "cdi", "Count": 0, "DeviceIDs": ["a.b/c=d"], "Capabilities": [["x"]], "Options": {}}],
            "BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 10}], "BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}],
            "Mounts": [{"Type": "volume", "Source": "vol", "Target": "/m", "ReadOnly": true, "VolumeOptions": {"NoCopy": true,
                "Labels": {"a": "b"}, "Subpath": "", "DriverConfig": {"Name": "local", "Options": {}}}},
                {"Type": "tmpfs", "Target": "/n", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 511, "Options": [["noexec"]]}}],
            "MaskedPaths": ["/x"], "ReadonlyPaths": ["/y"], "StorageOpt": {}, "ConsoleSize": [1, 1], "CgroupParent": ""
        },
        "NetworkingConfig": {"EndpointsConfig": {"none": {"IPAMConfig": {"IPv4Address": ""}, "Aliases": ["x"], "MacAddress": ""}}}
    })
}

/// Method, path, keys of its query, an example of its body. `{c}`, `{i}`, `{v}`, `{n}`, `{x}` and `{r}` stand for a
/// container, an image, a volume, a network, an exec and an image elsewhere.
fn endpoints() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let (none, container) = (Value::Null, container());
    vec![
        ("POST", "/containers/create", "name,platform", container.clone()),
        ("POST", "/containers/create", "name,platform", container),
        ("GET", "/containers/json", "all,limit,size,filters", none.clone()),
        ("GET", "/containers/{c}/json", "size", none.clone()),
        ("GET", "/containers/{c}/top", "ps_args", none.clone()),
        ("GET", "/containers/{c}/logs", "stdout,stderr,since,until,timestamps,tail,details", none.clone()),
        ("GET", "/containers/{c}/changes", "", none.clone()),
        ("GET", "/containers/{c}/export", "", none.clone()),
        ("GET", "/containers/{c}/stats", "one-shot", none.clone()),
        ("POST", "/containers/{c}/resize", "h,w", none.clone()),
        ("POST", "/containers/{c}/start", "detachKeys", json!({})),
        ("POST", "/containers/{c}/stop", "signal,t", none.clone()),
        ("POST", "/containers/{c}/restart", "signal,t", none.clone()),
        ("POST", "/containers/{c}/kill", "signal", none.clone()),
        (
            "POST",
            "/containers/{c}/update",
            "",
            json!({"Memory": 67_108_864, "CpuShares": 3, "PidsLimit": 5, "NanoCpus": 0,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "CpusetCpus": "0", "BlkioWeight": 10, "MemorySwap": -1}),
        ),
        ("POST", "/containers/{c}/rename", "name", none.clone()),
        ("POST", "/containers/{c}/pause", "", none.clone()),
        ("POST", "/containers/{c}/unpause", "", none.clone()),
        ("POST", "/containers/{c}/attach", "logs,stdout,stderr,detachKeys", none.clone()),
        ("GET", "/containers/{c}/attach/ws", "logs,stdout,detachKeys", none.clone()),
        (
            "POST",
            "/containers/{c}/exec",
            "",
            json!({"Cmd": ["true"], "Env": ["A=b"], "User": "0", "WorkingDir": "/", "Tty": false,
            "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Privileged": false, "DetachKeys": "ctrl-p",
            "ConsoleSize": [1, 1]}),
        ),
        ("POST", "/exec/{x}/start", "", json!({"Detach": true, "Tty": false, "ConsoleSize": [10, 10]})),
        ("POST", "/exec/{x}/resize", "h,w", none.clone()),
        ("GET", "/exec/{x}/json", "", none.clone()),
        ("DELETE", "/containers/{c}", "v,force,link", none.clone()),
        ("HEAD", "/containers/{c}/archive", "path", none.clone()),
        ("GET", "/containers/{c}/archive", "path", none.clone()),
        ("PUT", "/containers/{c}/archive", "path,noOverwriteDirNonDir,copyUIDGID", json!("no tar")),
        ("POST", "/containers/prune", "filters", none.clone()),
        (
            "POST",
            "/commit",
            "container,repo,tag,comment,author,pause,changes",
            json!({"Cmd": ["x"], "Env": ["A=b"],
            "Labels": {"a": "b"}, "ExposedPorts": {"1/udp": {}}, "Healthcheck": {"Test": ["NONE"]}}),
        ),
        ("GET", "/images/json", "all,filters,shared-size,digests,manifests", none.clone()),
        ("GET", "/images/{i}/json", "manifests,platform", none.clone()),
        ("GET", "/images/{i}/history", "platform", none.clone()),
        ("POST", "/images/{i}/tag", "repo,tag", none.clone()),
        ("POST", "/images/{r}/push", "tag,platform", none.clone()),
        ("DELETE", "/images/nope{i}", "force,noprune,platforms", none.clone()),
        ("GET", "/images/search", "limit,filters", none.clone()),
        ("POST", "/images/load", "quiet,platform", json!("no tar")),
        ("POST", "/images/create", "repo,tag,message,changes,platform", json!("no tar")),
        ("GET", "/distribution/{r}/json", "", none.clone()),
        ("GET", "/volumes", "filters", none.clone()),
        (
            "POST",
            "/volumes/create",
            "",
            json!({"Name": "vol", "Driver": "local", "DriverOpts": {"type": "tmpfs"}, "Labels": {"a": "b"}}),
        ),
        ("GET", "/volumes/{v}", "", none.clone()),
        ("DELETE", "/volumes/{v}", "force", none.clone()),
        ("POST", "/volumes/prune", "filters", none.clone()),
        ("GET", "/networks", "filters", none.clone()),
        ("GET", "/networks/{n}", "verbose,scope", none.clone()),
        (
            "POST",
            "/networks/create",
            "",
            json!({"Name": "net", "Driver": "bridge", "Internal": true, "Labels": {"a": "b"},
            "IPAM": {"Driver": "default", "Config": [{"Subnet": "x"}], "Options": {}}, "Options": {}, "EnableIPv6": false}),
        ),
        (
            "POST",
            "/networks/{n}/connect",
            "",
            json!({"Container": "c", "EndpointConfig": {"Aliases": ["x"]}}),
        ),
        ("GET", "/info", "", none.clone()),
        ("GET", "/version", "", none.clone()),
        ("GET", "/system/df", "type,verbose", none.clone()),
        ("GET", "/plugins", "filters", none.clone()),
        (
            "POST",
            "/auth",
            "",
            json!({"username": "u", "password": "p", "serveraddress": "127.0.0.1:9", "email": ""}),
        ),
        ("GET", "/events", "since,until,filters", none.clone()),
        ("GET", "/swarm", "", none.clone()),
        ("GET", "/wharf/containers/{c}/why", "", none),
    ]
}

/// Values that queries get.
const WILD: &[&str] = &[
    "",
    "0",
    "1",
    "true",
    "-1",
    "99999999999999999999999",
    "1e9",
    "NaN",
    "%00",
    "%ff%fe",
    "..%2f..%2fetc",
    "/",
    "a/b",
    "%7B%7D",
    "%5B%5D",
    "null",
    "%7B%22label%22%3Anull%7D",
    "%7B%22label%22%3A%5B%22a%3Db%22%5D%7D",
    "%7B%22x%22%3A%7B%22y%22%3A1%7D%7D",
    "%7B%22status%22%3A%5B%22running%22%5D%7D",
    "%22",
    "2024-01-02T03:04:05Z",
    "1.5",
    "-1.5",
    "SIGKILL",
    "0x9",
    "65",
    "ctrl-",
    "ctrl-p,ctrl-q",
    "%F0%9F%90%B3",
    "%0d%0aX-Evil:%20y",
    "linux/amd64",
    "%7B%22os%22%3A%22linux%22%7D",
    "all",
    "name%20with%20spaces",
];

/// Names that paths get, beside those that are there.
const NAMES: &[&str] = &[
    "nope",
    "%00",
    "..",
    "a%2fb",
    "%ff",
    "-x",
    "0000",
    "sha256:0",
    "x%20y",
    "{c}",
    "%F0%9F%90%B3",
    ".",
    "@",
    ":",
];

/// What was found, by its kind: how often, and the first example.
type Findings = Mutex<BTreeMap<String, (u64, String)>>;

pub(crate) fn run(engine: &Engine) {
    let number =
        |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let count = number("WHARF_TEST_FUZZ", 250);
    let clients = number("WHARF_TEST_FUZZ_CLIENTS", if count > 10_000 { 4 } else { 1 });
    let mut random = Random::from_env("WHARF_TEST_SEED");
    let (findings, exec, done) = (Findings::default(), RwLock::new(furnish(engine)), AtomicU64::new(0));
    let since = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (findings, exec, done, random) = (&findings, &exec, &done, random.fork(client));
            scope.spawn(move || {
                let mut wire = Wire::new(&engine.socket());
                let mut random = random;
                let endpoints = endpoints();
                for _ in 0..count.div_ceil(clients) {
                    let exec_id = exec.read().expect("no panic while it is held").clone();
                    one(engine, &mut wire, &endpoints, &exec_id, &mut random, findings);
                    let number = done.fetch_add(1, Ordering::Relaxed) + 1;
                    // What was made is removed from time to time, or the long form would fill the machine.
                    if number % 200 == 0 {
                        *exec.write().expect("as above") = furnish(engine);
                    }
                    if number % 10_000 == 0 {
                        println!("{number} requests after {:?}", since.elapsed());
                        report(findings);
                    }
                }
            });
        }
    });
    println!("{} requests, {clients} clients, {:?}", done.load(Ordering::Relaxed), since.elapsed());
    report(&findings);
    let log = engine.log();
    let panic = log.lines().find(|line| line.contains("panicked")).unwrap_or_default();
    assert_eq!(panic, "");
    engine.api().get("/info").expect("the engine answers");
    let findings = findings.into_inner().expect("no panic while it is held");
    let bad: Vec<_> = findings.iter().filter(|(kind, _)| !kind.starts_with("silent")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

fn report(findings: &Findings) {
    for (kind, (times, example)) in &*findings.lock().expect("no panic while it is held") {
        println!("{times} x {kind}: {}", example.chars().take(300).collect::<String>());
    }
}

/// Makes sure that there is what requests are about, and nothing else; the id of an exec.
fn furnish(engine: &Engine) -> String {
    let api = engine.api();
    let post = |path: &str, body: Value| api.request("POST", path, Some(&body));
    let list = api.get("/containers/json?all=1").unwrap_or_default();
    for container in list.as_array().into_iter().flatten() {
        if container["Names"][0] != "/fuzz" {
            let path = format!("/containers/{}?force=1&v=1", container["Id"].as_str().unwrap_or_default());
            let _gone_already = api.request("DELETE", &path, None);
        }
    }
    for kind in ["images", "volumes"] {
        let _others =
            api.request("POST", &format!("/{kind}/prune?filters=%7B%22all%22:%5B%22true%22%5D%7D"), None);
    }
    let _there = post("/volumes/create", json!({"Name": "vol"}));
    let _there = api.request("POST", "/images/box/tag?repo=127.0.0.1:9/box", None);
    let sleeper = json!({"Image": "box", "Cmd": ["sleep", "100000"], "StopSignal": "KILL"});
    for path in ["/containers/create?name=fuzz", "/containers/fuzz/unpause", "/containers/fuzz/start"] {
        let _fine_already = post(path, sleeper.clone());
    }
    let made = post("/containers/fuzz/exec", json!({"Cmd": ["true"]}));
    made.map(|answer| answer.json()["Id"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

/// Sends one request and judges the answer.
fn one(
    engine: &Engine,
    wire: &mut Wire,
    endpoints: &[(&'static str, &'static str, &'static str, Value)],
    exec: &str,
    random: &mut Random,
    findings: &Findings,
) {
    let (method, path, keys, example) = &endpoints[random.between(0, endpoints.len() as u64) as usize];
    let target = target(path, keys, exec, random);
    let body = body(example, random);
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // A registry that refuses is tried again for a while.
    let patience = Duration::from_millis(if path.starts_with("/distribution") { 20 } else { 400 });
    let answer = wire.ask(&[head.as_bytes(), &body].concat(), patience);
    let shown = || format!("{method} {target} {}", String::from_utf8_lossy(&body));
    let find = |what: &str| {
        let mut findings = findings.lock().expect("no panic while it is held");
        findings.entry(format!("{what}: {method} {path}")).or_insert_with(|| (0, shown())).0 += 1;
    };
    // Whoever hears nothing for a while asked for something that takes long; but no connection is dropped without a word.
    if answer.silent {
        find("silent");
    } else if answer.status == 0 {
        assert!(!engine.has_died(), "the engine died: {}\n{}", shown(), engine.log_tail());
        find("closed");
    }
    // An answer to HEAD has no words.
    if answer.status == 500 && *method != "HEAD" {
        let message: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let text = message["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default();
        if text.is_empty() || text.contains("panicked") || text.contains("internal task") {
            find(&format!("500 {text}"));
        } else if !is_logged(engine, &text.chars().take(60).collect::<String>()) {
            find(&format!("500 that is not in the log: {text}"));
        }
    }
}

/// Whether the last lines of the log have this text.
fn is_logged(engine: &Engine, text: &str) -> bool {
    let mut log = std::fs::File::open(engine.dir().join("wharfd.log")).expect("the log is there");
    let length = log.seek(SeekFrom::End(0)).expect("a file has an end");
    log.seek(SeekFrom::Start(length.saturating_sub(1 << 20))).expect("within the file");
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes).expect("readable");
    String::from_utf8_lossy(&bytes).contains(text)
}

fn target(path: &str, keys: &str, exec: &str, random: &mut Random) -> String {
    let mut pick = |own: &str| {
        if random.one_in(3) {
            NAMES[random.between(0, NAMES.len() as u64) as usize].to_owned()
        } else {
            own.to_owned()
        }
    };
    let (container, image, volume, network, exec, remote) =
        (pick("fuzz"), pick("box"), pick("vol"), pick("bridge"), pick(exec), pick("box"));
    let mut target = path
        .replace("{c}", &container)
        .replace("{i}", &image)
        .replace("{v}", &volume)
        .replace("{n}", &network)
        .replace("{x}", &exec)
        // Nobody's registry: it refuses at once.
        .replace("{r}", &format!("127.0.0.1:9/{remote}"))
        .replace(['{', '}'], "");
    let mut first = true;
    for key in keys.split(',').filter(|key| !key.is_empty()) {
        if random.one_in(2) {
            target.push(if first { '?' } else { '&' });
            first = false;
            target.push_str(&format!("{key}={}", WILD[random.between(0, WILD.len() as u64) as usize]));
        }
    }
    if path.starts_with("/events") {
        // Else it goes on for ever.
        target.push_str(if first { "?until=1" } else { "&until=1" });
    }
    if path.starts_with("/containers/{c}/stats") {
        target.push_str(if first { "?stream=0" } else { "&stream=0" });
    }
    let versions = ["", "/v1.24", "/v1.44", "/v1.51"];
    format!("{}{target}", versions[random.between(0, versions.len() as u64) as usize])
}

fn body(example: &Value, random: &mut Random) -> Vec<u8> {
    if example.is_null() {
        return if random.one_in(20) { b"{\"x\":".to_vec() } else { Vec::new() };
    }
    let mut document = example.clone();
    for _ in 0..random.between(0, 4) {
        bend(&mut document, random);
    }
    let mut bytes = document.to_string().into_bytes();
    if random.one_in(10) {
        bytes.truncate(random.between(0, bytes.len() as u64 + 1) as usize);
    }
    if random.one_in(20) && !bytes.is_empty() {
        let at = random.between(0, bytes.len() as u64) as usize;
        bytes[at] = random.next() as u8;
    }
    if random.one_in(50) {
        bytes = format!("{}1{}", "[".repeat(5000), "]".repeat(5000)).into_bytes();
    }
    bytes
}

/// Changes one field, somewhere.
fn bend(document: &mut Value, random: &mut Random) {
    let inside = !random.one_in(4);
    match document {
        Value::Object(fields) if inside && !fields.is_empty() => {
            let at = random.between(0, fields.len() as u64) as usize;
            if let Some(value) = fields.values_mut().nth(at) {
                bend(value, random);
            }
        }
        Value::Array(items) if inside && !items.is_empty() => {
            let at = random.between(0, items.len() as u64) as usize;
            bend(&mut items[at], random);
        }
        other => *other = odd(random),
    }
}

fn odd(random: &mut Random) -> Value {
    match random.between(0, 14) {
        0..=3 => Value::Null,
        4 => json!(i64::MAX),
        5 => json!(i64::MIN),
        6 => json!(-1),
        7 => json!(1.5),
        8 => json!("x".repeat(random.between(0, 5000) as usize)),
        9 => json!("\u{0}\u{1f433}/../\n"),
        10 => json!([]),
        11 => json!({}),
        12 => json!([null, {"": null}]),
        _ => json!(true),
    }
}
