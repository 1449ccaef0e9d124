//! Conversations with an engine, checked against one that does what the test says.

mod support;

use support::{
    fake::{FakeEngine, Reply, Request, frame},
    run, run_with_input,
};

const OK: fn() -> Reply = || Reply::Json(200, "{}".into());

/// The answers of an engine that runs one container to its end.
fn one_container(request: &Request, output: &[u8], status: i32) -> Reply {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/containers/create") => {
            Reply::Json(201, r#"{"Id":"abc","Warnings":["be careful"]}"#.into())
        }
        ("POST", "/containers/abc/attach") => {
            Reply::Hijack(output.to_vec(), request.query.contains("stdin=1"))
        }
        ("POST", "/containers/abc/wait") => {
            Reply::After("/containers/abc/start", format!("{{\"StatusCode\":{status:3}}}"))
        }
        _ => OK(),
    }
}

#[test]
fn run_is_attached_and_waiting_before_the_start() {
    let engine = FakeEngine::start("run", |request| {
        one_container(request, &[frame(1, "out\n"), frame(2, "err\n")].concat(), 7)
    });
    let result = run(engine.wharf().args(["run", "--rm", "--name", "x", "image", "cmd", "-x"]));
    assert_eq!((result.code, result.stdout.as_str()), (7, "out\n"));
    assert_eq!(result.stderr, "WARNING: be careful\nerr\n");
    let requests = engine.requests();
    assert_eq!(requests.len(), 4, "no more round trips than it takes: {requests:?}");
    assert_eq!(requests[0], "POST /containers/create?name=x");
    let mut before_start = requests[1..3].to_vec();
    before_start.sort();
    assert_eq!(
        before_start,
        [
            "POST /containers/abc/attach?stream=1&stdout=1&stderr=1",
            "POST /containers/abc/wait?condition=removed"
        ]
    );
    assert_eq!(requests[3], "POST /containers/abc/start");
}

#[test]
fn input_goes_in_and_its_end_is_seen() {
    let engine = FakeEngine::start("input", |request| one_container(request, &frame(1, "done\n"), 0));
    let input = "line\n".repeat(50_000);
    let result = run_with_input(engine.wharf().args(["run", "-i", "image"]), input.as_bytes());
    assert_eq!((result.code, result.stdout.as_str()), (0, "done\n"));
    assert_eq!(engine.input(), input.as_bytes());
}

#[test]
fn a_detached_run_needs_two_requests() {
    let engine = FakeEngine::start("detached", |request| one_container(request, &[], 0));
    let result = run(engine.wharf().args(["run", "-d", "image"]));
    assert_eq!((result.code, result.stdout.as_str()), (0, "abc\n"));
    assert_eq!(engine.requests(), ["POST /containers/create", "POST /containers/abc/start"]);
}

#[test]
fn a_command_that_cannot_start_has_its_own_exit_status() {
    let refusals = [
        (r#"exec: \"x\": executable file not found in $PATH"#, 127),
        (r#"exec: \"/x\": permission denied"#, 126),
        ("port is already allocated", 125),
    ];
    for (index, (message, code)) in refusals.into_iter().enumerate() {
        let engine =
            FakeEngine::start(&format!("refusal{index}"), move |request| match request.path.as_str() {
                "/containers/abc/start" => Reply::Json(400, format!("{{\"message\":\"{message}\"}}")),
                _ => one_container(request, &[], 0),
            });
        let result = run(engine.wharf().args(["run", "--rm", "image"]));
        assert_eq!(result.code, code, "{message}");
        let text = message.replace('\\', "");
        assert!(
            result
                .stderr
                .contains(&format!("wharf: Error response from daemon: {text}\n\nRun 'wharf run --help'"))
        );
    }
}

#[test]
fn exec_ends_with_the_status_of_its_command() {
    let engine = FakeEngine::start("exec", |request| match request.path.as_str() {
        "/containers/c/exec" => Reply::Json(201, r#"{"Id":"e1"}"#.into()),
        "/exec/e1/start" => Reply::Hijack([frame(2, "e\n"), frame(1, "o\n")].concat(), false),
        _ => Reply::Json(200, r#"{"ExitCode":42}"#.into()),
    });
    let result = run(engine.wharf().args(["exec", "-e", "A=1", "c", "ls", "-l"]));
    assert_eq!((result.code, result.stdout.as_str(), result.stderr.as_str()), (42, "o\n", "e\n"));
    assert_eq!(engine.requests(), ["POST /containers/c/exec", "POST /exec/e1/start", "GET /exec/e1/json"]);
}

#[test]
fn an_older_engine_is_spoken_to_in_its_version() {
    let engine = FakeEngine::start("older", |request| match request.version.as_str() {
        "v1.41" => Reply::Json(200, "[]".into()),
        _ => Reply::Json(
            400,
            r#"{"message":"client version 1.51 is too new. Maximum supported API version is 1.41"}"#.into(),
        ),
    });
    let result = run(engine.wharf().args(["ps", "-q"]));
    assert_eq!((result.code, result.stdout.as_str(), result.stderr.as_str()), (0, "", ""));
}

#[test]
fn several_things_are_done_and_every_failure_is_told() {
    let engine = FakeEngine::start("several", |request| match request.path.as_str() {
        "/containers/a" | "/containers/c" => Reply::Json(204, String::new()),
        _ => Reply::Json(404, r#"{"message":"No such container: b"}"#.into()),
    });
    let result = run(engine.wharf().args(["rm", "a", "b", "c"]));
    assert_eq!((result.code, result.stdout.as_str()), (1, "a\nc\n"));
    assert_eq!(result.stderr, "Error response from daemon: No such container: b\n");
    let forced = run(engine.wharf().args(["rm", "-f", "a", "b"]));
    assert_eq!((forced.code, forced.stdout.as_str()), (0, "a\n"));
}

#[test]
fn the_body_of_a_create_request_says_what_the_flags_say() {
    let engine = FakeEngine::start("body", |request| match request.path.as_str() {
        "/containers/create" => Reply::Json(400, format!("{{\"message\":{:?}}}", request.body)),
        _ => OK(),
    });
    let result = run(engine.wharf().args([
        "create",
        "-m",
        "64m",
        "--cpus",
        "1.5",
        "-p",
        "8080:80",
        "-v",
        "data:/d",
        "--tmpfs",
        "/t:size=1m",
        "--init",
        "--restart",
        "on-failure:3",
        "--label",
        "a=b",
        "-e",
        "X=1",
        "--entrypoint",
        "/e",
        "image",
        "c",
    ]));
    let text = result.stderr.strip_prefix("Error response from daemon: ").unwrap();
    let body: serde_json::Value = serde_json::from_str(text).unwrap();
    let host = &body["HostConfig"];
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["NanoCpus"], 1_500_000_000);
    assert_eq!(host["PortBindings"]["80/tcp"][0]["HostPort"], "8080");
    assert_eq!(host["Binds"][0], "data:/d");
    assert_eq!(host["Tmpfs"]["/t"], "size=1m");
    assert_eq!(host["Init"], true);
    assert_eq!(host["RestartPolicy"]["MaximumRetryCount"], 3);
    assert_eq!(host["NetworkMode"], "default");
    assert_eq!(body["Labels"]["a"], "b");
    assert_eq!(body["Env"][0], "X=1");
    assert_eq!(body["Entrypoint"][0], "/e");
    assert_eq!(body["Cmd"][0], "c");
    assert_eq!(body["ExposedPorts"]["80/tcp"], serde_json::json!({}));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let engine = FakeEngine::start("pipe", |_| {
        let one =
            r#"{"Id":"0123456789abcdef","Names":["/x"],"Image":"i","Command":"c","Created":1,"Status":"Up"}"#;
        Reply::Json(200, format!("[{}]", vec![one; 20_000].join(",")))
    });
    let mut child = engine
        .wharf()
        .args(["ps", "-a"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let result: support::Run = child.wait_with_output().unwrap().into();
    assert_eq!((result.code, result.stderr.as_str()), (141, ""));
}

/// An engine whose check of its store says these lines.
fn checked(name: &str, lines: &'static str) -> FakeEngine {
    FakeEngine::start(name, move |request| match request.path.as_str() {
        "/wharf/check" => Reply::Json(200, lines.to_owned()),
        _ => Reply::Json(404, r#"{"message":"page not found"}"#.into()),
    })
}

const WHOLE: &str = r#"{"status":"Checking","id":"blobs","progressDetail":{"current":1,"total":2}}
    {"aux":{"Summary":{"Blobs":2,"Layers":1,"Images":1,"Bytes":1500}}}"#;

#[test]
fn a_whole_store_is_confirmed() {
    let engine = checked("whole", WHOLE);
    let result = run(engine.wharf().args(["system", "check"]));
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
    assert_eq!(result.stdout, "Checked 1 image, 1 layer and 2 blobs, 1.5kB: 0 damaged, 0 repaired\n");
    assert_eq!(engine.requests(), ["POST /wharf/check"]);
    let quiet = run(engine.wharf().args(["system", "check", "-q"]));
    assert_eq!((quiet.code, quiet.stdout.as_str()), (0, ""));
}

#[test]
fn damage_is_told_and_fails() {
    let engine = checked(
        "damage",
        r#"{"aux":{"Finding":{"Kind":"blob","Id":"sha256:ab","Reason":"it is sha256:cd","Images":["a:1","b:1"]}}}
        {"aux":{"Finding":{"Kind":"layer","Id":"sha256:ef","Reason":"etc/passwd is missing","Repaired":true}}}
        {"aux":{"SomethingNew":{}}}
        {"aux":{"Summary":{"Blobs":2,"Layers":1,"Images":2,"Bytes":0}}}"#,
    );
    let result = run(engine.wharf().args(["system", "check", "--repair"]));
    assert_eq!(result.code, 1);
    assert_eq!(
        result.stdout,
        "blob sha256:ab damaged: it is sha256:cd (of a:1, b:1)\nlayer sha256:ef repaired: etc/passwd is missing\n\
         Checked 2 images, 1 layer and 2 blobs, 0B: 2 damaged, 1 repaired\n"
    );
    assert_eq!(result.stderr, "some damage cannot be repaired: pull or load these images again\n");
    assert_eq!(engine.requests(), ["POST /wharf/check?repair=1"]);
}

#[test]
fn a_check_that_was_cut_is_no_confirmation() {
    let cut = run(checked("cut", r#"{"status":"Checking","id":"blobs"}"#).wharf().args(["system", "check"]));
    assert_eq!((cut.code, cut.stderr.as_str()), (1, "the check ended before everything was checked\n"));
    let other = FakeEngine::start("other", |_| Reply::Json(404, r#"{"message":"page not found"}"#.into()));
    let other = run(other.wharf().args(["system", "check"]));
    assert_eq!((other.code, other.stderr.as_str()), (1, "this engine cannot check what it stores\n"));
}
