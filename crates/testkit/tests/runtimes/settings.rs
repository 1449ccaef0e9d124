//! Which runtimes there are, and who says so.

use super::*;

fn hangup(engine: &Engine) {
    let pid = engine.pid().expect("it runs") as i32;
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::HUP).expect("ours");
}

#[test]
fn runtimes_come_and_go_with_the_settings_file() {
    let dir = tempfile::Builder::new().prefix("wt-rt-").tempdir().expect("a temporary directory");
    let file = dir.path().join("daemon.json");
    let write = |settings: &Value| std::fs::write(&file, settings.to_string()).expect("ours");
    write(&json!({}));
    let engine =
        EngineBuilder::default().argument("--config-file").argument(&file.display().to_string()).start();
    engine.load(&image::archive());
    let (wharf, api) = (engine.wharf(), engine.api());
    let info = || -> Value { api.get("/info").expect("an answer") };
    assert_eq!(info()["DefaultRuntime"], "wharf");
    assert_eq!(info()["Runtimes"]["runc"]["path"], "wharf-runtime");
    for name in ["wharf", "runc", "io.containerd.runc.v2"] {
        wharf.ok(&["run", "--rm", "--runtime", name, "box", "true"]);
    }
    let unknown = wharf.run(&["create", "--runtime", "ours", "box"]);
    assert!(unknown.stderr.contains("unknown or invalid runtime name: ours"), "{}", unknown.stderr);
    let body = json!({"Image": "box", "HostConfig": {"Runtime": "ours"}});
    assert_eq!(api.request("POST", "/containers/create", Some(&body)).expect("an answer").status, 400);

    let ours = binary("wharf-runtime").display().to_string();
    write(
        &json!({"runtimes": {"ours": {"path": ours, "runtimeArgs": ["--debug"]}}, "default-runtime": "ours"}),
    );
    hangup(&engine);
    wait_until("the new runtime", PATIENCE, || info()["DefaultRuntime"] == "ours");
    assert_eq!(info()["Runtimes"]["ours"], json!({"path": ours, "runtimeArgs": ["--debug"]}));
    let id = wharf.ok(&["run", "-d", "--name", "subject", "box", "sleep", "600"]);
    assert_eq!(field(&wharf, "subject", ".HostConfig.Runtime"), "ours");
    assert!(run_dir(&engine, &id).join("oci").exists(), "the other runtime has made it");

    // Nonsense changes nothing.
    write(&json!({"runtimes": {}, "default-runtime": "nope"}));
    hangup(&engine);
    wait_until("the refusal", PATIENCE, || {
        engine.log().contains("specified default runtime 'nope' does not exist")
    });
    assert_eq!(info()["DefaultRuntime"], "ours");

    // Without it, what it has made goes on, and is not started again.
    write(&json!({}));
    hangup(&engine);
    wait_until("the old settings", PATIENCE, || info()["DefaultRuntime"] == "wharf");
    assert_eq!(wharf.ok(&["exec", "subject", "echo", "on"]), "on");
    wharf.ok(&["stop", "-t", "0", "subject"]);
    let gone = wharf.run(&["start", "subject"]);
    assert!(gone.stderr.contains("unknown or invalid runtime name: ours"), "{}", gone.stderr);
    wharf.ok(&["rm", "subject"]);
}

#[test]
fn the_default_runtime_is_for_containers_that_ask_for_none() {
    let ours = format!("--add-runtime=ours={}", binary("wharf-runtime").display());
    let engine = EngineBuilder::default().argument(&ours).argument("--default-runtime=ours").start();
    engine.load(&image::archive());
    let wharf = engine.wharf();
    let made_by = |flags: &[&str]| {
        let id = wharf.ok(&[&["run", "-d"], flags, &["box", "sleep", "600"]].concat());
        let foreign = run_dir(&engine, &id).join("oci").exists();
        let name = field(&wharf, &id, ".HostConfig.Runtime");
        wharf.ok(&["rm", "-f", &id]);
        (name, foreign)
    };
    assert_eq!(made_by(&[]), ("ours".to_owned(), true));
    assert_eq!(made_by(&["--runtime", "runc"]), ("runc".to_owned(), false));
    assert_eq!(made_by(&["--runtime", "wharf"]), ("wharf".to_owned(), false));
}
