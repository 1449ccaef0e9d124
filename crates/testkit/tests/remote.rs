//! The engine from elsewhere: TCP with certificates, ssh, WebSocket; and settings that change while it runs.

#![expect(clippy::print_stdout, reason = "skipped tests are shown to the developer")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use wharf_testkit::{
    Cli, Engine, EngineBuilder, PATIENCE, binary, docker_cli, image, retry_until, wait_until,
};

fn certificate(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name).display().to_string()
}

/// An engine that is also on TCP, and its address there.
fn on_tcp() -> (Engine, String) {
    let files = [("--tlscacert", "ca.pem"), ("--tlscert", "server.pem"), ("--tlskey", "server-key.pem")];
    let mut builder = EngineBuilder::default()
        .argument(&format!("-H=tcp://{}", wharf_testkit::loopback::address()))
        .argument("--tlsverify");
    for (flag, file) in files {
        builder = builder.argument(&format!("{flag}={}", certificate(file)));
    }
    let engine = builder.start();
    let address = tcp_address(&engine);
    (engine, address)
}

fn tcp_address(engine: &Engine) -> String {
    retry_until("the address in the log", PATIENCE, || {
        let log = engine.log_tail();
        let rest = log.split("API listen on tcp://").nth(1)?;
        rest.lines().next().map(|address| address.trim().to_owned())
    })
}

/// `wharf` with TLS flags of these files.
fn over_tls(program: &Cli, address: &str, files: [&str; 3], args: &[&str]) -> wharf_testkit::Output {
    let [ca, cert, key] = files.map(certificate);
    let flags = ["--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    let host = format!("tcp://{address}");
    program.run(&[&["-H", &host], flags.as_slice(), args].concat())
}

const OURS: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

#[test]
fn clients_with_certificates_come_over_tcp() {
    let (engine, address) = on_tcp();
    engine.load(&image::archive());
    let mut programs = vec![engine.wharf()];
    programs.extend(engine.docker());
    for program in &programs {
        let ran = over_tls(program, &address, OURS, &["run", "--rm", "box", "echo", "hello"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "hello\n"), "{}", ran.stderr);
        // Input that ends, output after it, and both streams apart.
        let piped = program.shell(
            "echo in | docker -H $H --tlsverify --tlscacert $CA --tlscert $CERT --tlskey $KEY run --rm -i box \
             sh -c 'cat; echo err >&2; exit 3'",
            &[
                ("H", &format!("tcp://{address}")),
                ("CA", &certificate("ca.pem")),
                ("CERT", &certificate("cert.pem")),
                ("KEY", &certificate("key.pem")),
            ],
        );
        assert_eq!((piped.code, piped.stdout.as_str(), piped.stderr.as_str()), (3, "in\n", "err\n"));
    }
    // The same by environment, as scripts do it.
    let certificates = Path::new(&certificate("ca.pem")).parent().unwrap().display().to_string();
    let host = format!("tcp://{address}");
    let variables =
        [("DOCKER_HOST", host.as_str()), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", &certificates)];
    let ran = programs[0].shell("docker version --format '{{.Server.Os}}'", &variables);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "linux\n"), "{}", ran.stderr);
}

#[test]
fn en_01_clients_of_a_foreign_authority_are_refused() {
    let (engine, address) = on_tcp();
    let wharf = engine.wharf();
    let foreign = over_tls(&wharf, &address, ["ca.pem", "foreign.pem", "foreign-key.pem"], &["ps"]);
    assert_ne!(foreign.code, 0);
    assert!(foreign.stderr.contains("error during connect"), "{}", foreign.stderr);
    // Nor does a client believe an engine that somebody else vouches for.
    let other = over_tls(&wharf, &address, ["foreign.pem", "cert.pem", "key.pem"], &["ps"]);
    assert_ne!(other.code, 0);
    let bare = wharf.run(&["-H", &format!("tcp://{address}"), "ps"]);
    assert_ne!(bare.code, 0);
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("Api-Version"));
}

#[test]
fn en_03_tcp_without_certificates_of_clients_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &["-H", "tcp://0.0.0.0:0", "--tls=false"][..],
        &["-H", "tcp://0.0.0.0:0", "--tlsverify=false"],
        &["-H", "tcp://[::]:0", "--tls", "--tlsverify=false"],
    ] {
        let output = std::process::Command::new(binary("wharfd"))
            .args(["--validate", "--data-root"])
            .arg(dir.path().join("data"))
            .args(arguments)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && message.contains("clients need certificates"),
            "{arguments:?}: {message}"
        );
    }
}

/// A directory with an `ssh` that runs the command here, for the engine's socket, and says how it was called.
fn fake_ssh(engine: &Engine, remote: &Path) -> PathBuf {
    let (dir, bin) = (engine.dir().join("ssh"), engine.dir().join("remote-bin"));
    std::fs::create_dir_all(&dir).expect("it works");
    std::fs::create_dir_all(&bin).expect("it works");
    for name in ["docker", "wharf"] {
        let _ = std::os::unix::fs::symlink(remote, bin.join(name));
    }
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> {0}/calls\nwhile [ \"$1\" != -- ]; do shift; done; shift 2\nexport DOCKER_HOST={1} PATH={2}:$PATH\n\
         exec sh -c \"$*\"\n",
        dir.display(),
        engine.host(),
        bin.display()
    );
    let path = dir.join("ssh");
    std::fs::write(&path, script).expect("it works");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it works");
    dir
}

#[test]
fn ssh_leads_to_the_engine_of_another_machine() {
    let engine = Engine::with_image();
    let ssh = fake_ssh(&engine, &binary("wharf"));
    let mut programs = vec![engine.wharf()];
    // Docker's own program asks for `docker system dial-stdio`, which is ours here.
    programs.extend(docker_cli().map(|program| Cli::new(&program, "ssh://me@elsewhere:2222")));
    for program in programs {
        let script = "export PATH=$FAKE:$PATH DOCKER_HOST=ssh://me@elsewhere:2222; \
                      docker run --rm box echo hello && echo in | docker run --rm -i box cat";
        let ran = program.shell(script, &[("FAKE", ssh.to_str().unwrap())]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "hello\nin\n"), "{}", ran.stderr);
    }
    let calls = std::fs::read_to_string(ssh.join("calls")).unwrap();
    let first = calls.lines().next().unwrap();
    assert!(first.contains("-l me -p 2222") && first.contains("-- elsewhere"), "{first}");
    assert!(first.ends_with("system dial-stdio"), "{first}");
}

/// A real sshd on loopback, with keys of its own; `None` where there is none.
struct Sshd {
    process: std::process::Child,
    /// Has an `ssh` that goes there.
    client: PathBuf,
}

impl Sshd {
    fn start(engine: &Engine) -> Option<Self> {
        let program = std::env::var("WHARF_TEST_SSHD").unwrap_or_else(|_| "/usr/sbin/sshd".to_owned());
        let program = Path::new(&program);
        if !program.exists() || !Path::new("/usr/bin/ssh").exists() {
            println!("skipped: there is no sshd on this machine");
            return None;
        }
        // sshd wants it, and a reboot takes it.
        let _there_already = std::fs::create_dir("/run/sshd");
        let (dir, bin) = (engine.dir().join("sshd"), engine.dir().join("sshd/bin"));
        std::fs::create_dir_all(&bin).expect("a directory");
        std::os::unix::fs::symlink(binary("wharf"), bin.join("wharf")).expect("a link");
        for key in ["host", "user"] {
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(key))
                .status();
            assert!(made.expect("ssh-keygen runs").success());
        }
        let port = engine.port(5);
        let at = dir.display();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\nStrictModes no\n\
             PidFile none\nUsePAM no\nPermitRootLogin prohibit-password\n\
             SetEnv DOCKER_HOST={} PATH={}:/usr/bin:/bin\n",
            engine.host(),
            bin.display()
        );
        let client = format!(
            "IdentityFile {at}/user\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n\
             LogLevel ERROR\nBatchMode yes\n"
        );
        std::fs::write(dir.join("server.conf"), server).expect("room for a file");
        std::fs::write(dir.join("client.conf"), client).expect("room for a file");
        let wrapper = format!("#!/bin/sh\nexec /usr/bin/ssh -F {at}/client.conf \"$@\"\n");
        let wrappers = dir.join("client");
        std::fs::create_dir_all(&wrappers).expect("a directory");
        std::fs::write(wrappers.join("ssh"), wrapper).expect("room for a file");
        std::fs::set_permissions(wrappers.join("ssh"), PermissionsExt::from_mode(0o755)).expect("ours");
        // It closes every descriptor there could be before it runs a command, one by one.
        let process = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 1024; exec \"$0\" -D -e -f \"$1\""])
            .arg(program)
            .arg(dir.join("server.conf"))
            .stderr(std::fs::File::create(dir.join("log")).expect("room for a file"))
            .spawn()
            .expect("sshd runs");
        let sshd = Self { process, client: wrappers };
        wait_until("sshd", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(sshd)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_sshd_is_gone_through() {
    let engine = Engine::with_image();
    let Some(sshd) = Sshd::start(&engine) else { return };
    let host = format!("ssh://root@127.0.0.1:{}", engine.port(5));
    let script = "export PATH=$FAKE:$PATH DOCKER_HOST=$H; docker run --rm box echo hello && \
                  echo in | docker run --rm -i box sh -c 'cat; exit 4'";
    // The login shell of this machine's root may take its time.
    let wharf = engine.wharf().with_deadline(Duration::from_secs(120));
    let client = sshd.client.to_str().expect("a plain path");
    let ran = wharf.shell(script, &[("FAKE", client), ("H", &host)]);
    let log = std::fs::read_to_string(engine.dir().join("sshd/log")).unwrap_or_default();
    assert_eq!((ran.code, ran.stdout.as_str()), (4, "hello\nin\n"), "{}{log}", ran.stderr);
}

#[test]
fn an_ssh_that_fails_is_told() {
    let engine = Engine::scratch();
    let wharf = engine.wharf();
    let dir = engine.dir().join("bad");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("ssh"), "#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
        .unwrap();
    std::fs::set_permissions(dir.join("ssh"), PermissionsExt::from_mode(0o755)).unwrap();
    let ran = wharf.shell("PATH=$D:$PATH docker -H ssh://h ps", &[("D", dir.to_str().unwrap())]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("Permission denied (publickey).\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("error during connect: ssh://h"), "{}", ran.stderr);
}

#[test]
fn dial_stdio_is_the_engine_s_connection() {
    let engine = Engine::scratch();
    let request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = engine.wharf().run_with_input(&["system", "dial-stdio"], request);
    assert!(
        answer.stdout.starts_with("HTTP/1.1 200 OK") && answer.stdout.ends_with("OK"),
        "{}",
        answer.stdout
    );
}

#[test]
fn a_client_that_has_nothing_more_to_say_gets_its_answer() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "-i", "--name", "asked", "box", "sh", "-c", "read line; exit 5"]);
    let mut stream = std::os::unix::net::UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"POST /v1.51/containers/asked/wait HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    // The head of the answer comes at once: the engine knows of the end of the input when it has been sent.
    let mut head = [0; 15];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    assert_eq!(wharf.run_with_input(&["attach", "asked"], b"\n").code, 5);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"StatusCode\":5"), "{rest}");
}

/// One frame of a client, masked as it must be.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).expect("it works")];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The next frame of the server: opcode and payload.
fn next_frame(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("it works");
    let mut length = usize::from(head[1]);
    if length == 126 {
        let mut long = [0; 2];
        stream.read_exact(&mut long).expect("it works");
        length = usize::from(u16::from_be_bytes(long));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).expect("it works");
    (head[0] & 0x0f, payload)
}

#[test]
fn a_web_socket_carries_input_and_output() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "-i", "--name", "cc", "box", "sh", "-c", "read line; echo got $line"]);
    let mut stream = std::os::unix::net::UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        stream,
        "GET /v1.51/containers/cc/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    // The example of RFC 6455.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    stream.write_all(&frame(9, b"ping")).unwrap();
    assert_eq!(next_frame(&mut reader), (10, b"ping".to_vec()));
    stream.write_all(&frame(1, b"hello\n")).unwrap();
    assert_eq!(next_frame(&mut reader), (2, b"got hello\n".to_vec()));
    assert_eq!(next_frame(&mut reader).0, 8, "the end of the process closes the connection");
    let missing = engine.api().request("GET", "/containers/nope/attach/ws", None).unwrap();
    assert_eq!(missing.status, 404);
    let plain = engine.api().request("GET", "/containers/cc/attach/ws", None).unwrap();
    assert_eq!(plain.status, 400);
}

#[test]
fn settings_change_on_sighup_or_stay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("daemon.json");
    std::fs::write(&file, r#"{"labels": ["stage=one"]}"#).unwrap();
    let engine = EngineBuilder::default().argument(&format!("--config-file={}", file.display())).start();
    engine.load(&image::archive());
    let labels = || engine.api().get("/info").unwrap()["Labels"].clone();
    assert_eq!(labels(), serde_json::json!(["stage=one"]));
    let pid = Pid::from_raw(i32::try_from(engine.pid().unwrap()).unwrap()).unwrap();
    let changed = r#"{"labels": ["stage=two"], "debug": true, "insecure-registries": ["reg.test:5000"],
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 128, "Hard": 256}}}"#;
    std::fs::write(&file, changed).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    wait_until("the new labels", PATIENCE, || labels() == serde_json::json!(["stage=two"]));
    let info = engine.api().get("/info").unwrap();
    assert_eq!(info["Debug"], true);
    assert_eq!(info["RegistryConfig"]["IndexConfigs"]["reg.test:5000"]["Secure"], false);
    let wharf = engine.wharf();
    assert_eq!(wharf.ok(&["run", "--rm", "box", "sh", "-c", "ulimit -Sn; ulimit -Hn"]), "128\n256");
    assert_eq!(wharf.ok(&["run", "--rm", "--ulimit", "nofile=64", "box", "sh", "-c", "ulimit -n"]), "64");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let events =
        wharf.ok(&["events", "--since", "1", "--until", &now.to_string(), "--filter", "type=daemon"]);
    assert!(events.contains("daemon reload") && events.contains(r#"labels=["stage=two"]"#), "{events}");
    // A mistake changes nothing at all.
    std::fs::write(&file, r#"{"labels": ["stage=three"], "default-ulimits": {"nofil": {"Soft": 1}}}"#)
        .unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    wait_until("the complaint", PATIENCE, || engine.log_tail().contains("nothing is changed"));
    assert_eq!(labels(), serde_json::json!(["stage=two"]));
}

/// A registry that only searches; answers each request and goes on until the test ends.
fn index(catalogue_only: bool) -> String {
    let listener = wharf_testkit::loopback::tcp();
    let address = listener.local_addr().expect("it works").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("it works"));
            // TLS is not spoken here.
            if reader.fill_buf().is_ok_and(|bytes| bytes.first() == Some(&0x16)) {
                continue;
            }
            let _ = reader.read_line(&mut line);
            let mut head = line.clone();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|count| count > 0) {}
            let (status, body) = if line.starts_with("GET /v1/search?q=app&n=") && !catalogue_only {
                (
                    "200 OK",
                    r#"{"results":[{"name":"team/app","description":"one","star_count":7,"is_official":false},
                    {"name":"app","description":"two","star_count":3,"is_official":true}]}"#,
                )
            } else if line.starts_with("GET /v2/_catalog") {
                ("200 OK", r#"{"repositories":["base","team/app","zapp"]}"#)
            } else {
                ("404 Not Found", "{}")
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

#[test]
fn registries_are_searched() {
    let engine = Engine::scratch();
    let wharf = engine.wharf();
    let registry = index(false);
    let search = |extra: &[&str], address: &str| {
        let term = format!("{address}/app");
        wharf
            .ok(&[&["search", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}"], extra, &[&term]]
                .concat())
    };
    assert_eq!(search(&[], &registry), "team/app 7 \napp 3 [OK]");
    assert_eq!(search(&["--filter", "is-official=true"], &registry), "app 3 [OK]");
    assert_eq!(search(&["--filter", "stars=5"], &registry), "team/app 7");
    assert_eq!(search(&[], &index(true)), "team/app 0 \nzapp 0");
    for (query, status) in [
        ("term=x&limit=101", 400),
        ("term=x&limit=q", 400),
        ("term=x&filters=%7B%22foo%22%3A%5B%22a%22%5D%7D", 400),
        ("term=https%3A%2F%2Fx%2Fy", 400),
    ] {
        let answer = engine.api().request("GET", &format!("/images/search?{query}"), None).unwrap();
        assert_eq!(answer.status, status, "{query}: {}", answer.message());
    }
}
