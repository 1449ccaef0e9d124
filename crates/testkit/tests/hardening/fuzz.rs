//! Requests made of what the API knows and bent: null for each field, wrong kinds, cut bodies, wild queries.
//!
//! `WHARF_TEST_FUZZ` says how many (1,000,000 for the long form), `WHARF_TEST_SEED` repeats a run.

use std::time::Duration;

use serde_json::{Value, json};
use wharf_testkit::Engine;
use wharf_testkit::random::Random;

use super::wire::exchange;

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

/// Method, path, keys of its query, an example of its body. `{c}`, `{i}`, `{v}`, `{n}` and `{x}` stand for a container, an
/// image, a volume, a network and an exec.
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
        ("POST", "/images/{i}/push", "tag,platform", none.clone()),
        ("DELETE", "/images/nope{i}", "force,noprune,platforms", none.clone()),
        ("GET", "/images/search", "limit,filters", none.clone()),
        ("POST", "/images/load", "quiet,platform", json!("no tar")),
        ("POST", "/images/create", "repo,tag,message,changes,platform", json!("no tar")),
        ("GET", "/distribution/{i}/json", "", none.clone()),
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

pub(crate) fn run(engine: &Engine) {
    let count: u64 = std::env::var("WHARF_TEST_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(250);
    let mut random = Random::from_env("WHARF_TEST_SEED");
    let wharf = engine.wharf();
    wharf.ok(&["volume", "create", "vol"]);
    wharf.ok(&["run", "-d", "--name", "fuzz", "--restart", "no", "box", "sleep", "100000"]);
    let created = engine
        .api()
        .request("POST", "/containers/fuzz/exec", Some(&json!({"Cmd": ["true"]})))
        .expect("an answer");
    let exec = created.json()["Id"].as_str().unwrap_or_default().to_owned();
    let (pid, endpoints) = (engine.pid(), endpoints());
    for number in 0..count {
        let (method, path, keys, example) = &endpoints[random.between(0, endpoints.len() as u64) as usize];
        let target = target(path, keys, &exec, &mut random);
        let body = body(example, &mut random);
        let request = [
            format!(
                "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes(),
            body.clone(),
        ]
        .concat();
        let answer = exchange(&engine.socket(), &request, Duration::from_millis(400));
        let shown = || format!("request {number}: {method} {target} {}", String::from_utf8_lossy(&body));
        // Whoever hears nothing for a while asked for something that takes long; but no connection is dropped without a word.
        assert!(
            answer.status != 0 || answer.silent,
            "{}: the connection was closed\n{}",
            shown(),
            engine.log_tail()
        );
        if answer.status == 500 {
            let message: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let text =
                message["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
            assert!(
                !text.is_empty() && !text.contains("panicked") && !text.contains("internal task"),
                "{}: {answer:?}",
                shown()
            );
            let logged = text.chars().take(60).collect::<String>();
            assert!(engine.log_tail().contains(&logged), "{}: {text} is not in the log", shown());
        }
        assert_eq!(engine.pid(), pid, "{}", shown());
        if number % 100 == 99 {
            assert!(engine.api().is_up(), "{}", shown());
            // What was made is removed from time to time, or the long form would fill the machine.
            wharf.shell("docker ps -aq --filter label=a | xargs -r docker rm -fv", &[]);
        }
    }
    let log = std::fs::read_to_string(engine.dir().join("wharfd.log")).expect("the log is there");
    assert!(
        !log.contains("panicked"),
        "{}",
        log.lines().find(|line| line.contains("panicked")).unwrap_or_default()
    );
    engine.api().get("/info").expect("the engine answers");
}

fn target(path: &str, keys: &str, exec: &str, random: &mut Random) -> String {
    let mut pick = |own: &str| {
        if random.one_in(3) {
            NAMES[random.between(0, NAMES.len() as u64) as usize].to_owned()
        } else {
            own.to_owned()
        }
    };
    let (container, image, volume, network, exec) =
        (pick("fuzz"), pick("box"), pick("vol"), pick("bridge"), pick(exec));
    let mut target = path
        .replace("{c}", &container)
        .replace("{i}", &image)
        .replace("{v}", &volume)
        .replace("{n}", &network)
        .replace("{x}", &exec)
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
