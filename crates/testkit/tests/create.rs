//! What `create` is told is what the container gets, from nobody else and nothing more.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use serde_json::json;
use wharf_testkit::image::{Builder, Tar, rootfs};
use wharf_testkit::{Cli, Engine, PATIENCE, wait_until};

fn inspect(wharf: &Cli, name: &str, what: &str) -> String {
    wharf.ok(&["inspect", "-f", &format!("{{{{{what}}}}}"), name]).trim().to_owned()
}

/// The environment a container's command sees.
fn environment(wharf: &Cli, arguments: &[&str]) -> BTreeMap<String, String> {
    let text = wharf.ok(arguments);
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().filter_map(pair).collect()
}

/// `WHARF_TEST_LONG=1` makes the ten thousand of the catalogue.
fn rounds() -> usize {
    if std::env::var_os("WHARF_TEST_LONG").is_some() { 5_000 } else { 60 }
}

#[test]
fn en_13_the_environment_is_a_function_of_request_and_image() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    // The engine has inherited everything this test has, with which the runner was generous.
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")));
    let seen = environment(&wharf, &["run", "--rm", "-h", "here", "-e", "MINE=1", "box", "env"]);
    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(names, ["HOME", "HOSTNAME", "MINE", "PATH"]);
    // Two at once from one image never see each other's.
    std::thread::scope(|scope| {
        for side in ["left", "right"] {
            let (api, wharf) = (engine.api(), &wharf);
            scope.spawn(move || {
                for round in 0..rounds() {
                    let own = vec![format!("SIDE={side}"), format!("ONLY_{side}={round}")];
                    let body = json!({"Image": "box", "Cmd": ["env"], "Env": own, "AttachStdout": true});
                    let name = format!("env-{side}-{round}");
                    let made = api.request("POST", &format!("/containers/create?name={name}"), Some(&body));
                    assert_eq!(made.expect("an answer").status, 201);
                    let shown = api.get(&format!("/containers/{name}/json")).expect("an answer");
                    let env = shown["Config"]["Env"].as_array().expect("a list");
                    let mine: Vec<&str> = env.iter().filter_map(|one| one.as_str()).collect();
                    assert_eq!(&mine[..2], &own[..], "{mine:?}");
                    assert!(mine[2..].iter().all(|one| one.starts_with("PATH=")), "{mine:?}");
                    if round % 20 == 0 {
                        let ran = wharf.ok(&["start", "-a", &name]);
                        assert!(ran.contains(&format!("ONLY_{side}={round}\n")), "{ran}");
                        let other = if side == "left" { "ONLY_right" } else { "ONLY_left" };
                        assert!(!ran.contains(other), "{ran}");
                    }
                    let gone = api.request("DELETE", &format!("/containers/{name}"), None);
                    assert_eq!(gone.expect("an answer").status, 204);
                }
            });
        }
    });
}

#[test]
fn en_11_a_working_directory_is_made_inside_the_container_only() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let outside = engine.dir().join("canary");
    std::fs::create_dir(&outside).expect("a fresh directory");
    symlink("/nowhere", outside.join("link")).expect("a fresh link");
    let target = outside.to_str().expect("a plain path").to_owned();
    let mut tar = Tar::new();
    tar.link("w", &target);
    tar.link("up", &format!("../../../../..{target}"));
    tar.link("chain", "/w");
    let image = Builder::new("links:latest", rootfs()).layer(tar.finish());
    engine.load(&image.config("WorkingDir", json!("/w/sub")).build());
    for arguments in [
        &["run", "--rm", "links", "pwd"][..],
        &["run", "--rm", "-w", "/up/sub2", "links", "pwd"],
        &["run", "--rm", "-w", "/chain/a/b", "links", "pwd"],
        &["run", "--rm", "--read-only", "-w", "/w/sub3", "links", "pwd"],
    ] {
        // Made inside or refused; never outside.
        let _either = wharf.run(arguments);
    }
    wharf.ok(&["run", "-d", "--name", "one", "-w", "/", "links", "sleep", "600"]);
    for directory in ["/w/sub4", "/up/sub5", "/proc/self/fd/3", "/proc/self/fd/7"] {
        let ran = wharf.run(&["exec", "-w", directory, "one", "pwd"]);
        assert_ne!(ran.stdout.trim(), target, "{directory}");
    }
    let left: Vec<_> = std::fs::read_dir(&outside).expect("ours").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["link"]);
}

#[test]
fn a_linked_container_has_a_name_and_follows_its_address() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "first", "box", "sleep", "600"]);
    wharf.ok(&["run", "-d", "--name", "base", "-e", "KEY=v", "--expose", "5432", "box", "sleep", "600"]);
    wharf.ok(&["run", "-d", "--name", "app", "--link", "base:my-db", "box", "sleep", "600"]);
    let address = inspect(&wharf, "base", ".NetworkSettings.IPAddress");
    let seen = environment(&wharf, &["exec", "app", "env"]);
    assert_eq!(seen["MY_DB_PORT_5432_TCP_ADDR"], address);
    assert_eq!(seen["MY_DB_NAME"], "/app/my-db");
    assert_eq!(seen["MY_DB_ENV_KEY"], "v");
    let hosts = || wharf.ok(&["exec", "app", "cat", "/etc/hosts"]);
    assert!(hosts().contains(&format!("{address}\tmy-db ")), "{}", hosts());
    // It comes back with another address, while the first one's is taken by somebody else.
    wharf.ok(&["stop", "-t", "0", "base"]);
    wharf.ok(&["run", "-d", "--name", "thief", "box", "sleep", "600"]);
    wharf.ok(&["start", "base"]);
    let new = inspect(&wharf, "base", ".NetworkSettings.IPAddress");
    assert!(hosts().contains(&format!("{new}\tmy-db ")), "{new}: {}", hosts());
    // A rename changes what is shown, a removal takes the link away.
    wharf.ok(&["rename", "base", "moved"]);
    assert_eq!(inspect(&wharf, "app", "json .HostConfig.Links"), "[\"/moved:/app/my-db\"]");
    wharf.ok(&["stop", "-t", "0", "moved"]);
    let said = wharf.fails(1, &["restart", "-t", "0", "app"]);
    assert!(said.contains("Cannot link to a non running container: /moved AS /app/my-db"), "{said}");
    wharf.ok(&["rm", "moved"]);
    wharf.ok(&["start", "app"]);
    assert_eq!(inspect(&wharf, "app", "len .HostConfig.Links"), "0");
}

#[test]
fn shared_namespaces_need_a_partner_that_runs() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    wharf.ok(&["run", "-d", "--name", "host", "-h", "shared", "--ipc", "shareable", "box", "sleep", "600"]);
    wharf.ok(&["create", "--name", "rest", "box", "sleep", "600"]);
    let looping = ["run", "-d", "--name", "looping", "--restart", "always", "box", "false"];
    wharf.ok(&looping);
    wait_until("a restart", PATIENCE, || inspect(&wharf, "looping", ".RestartCount") != "0");
    for mode in ["network", "pid", "ipc"] {
        let flag = format!("--{mode}");
        let said = wharf.fails(125, &["run", "--rm", &flag, "container:rest", "box", "true"]);
        assert!(said.contains("running"), "{mode}: {said}");
    }
    // All three at once, with the name of the one whose network it is, also for later processes.
    let all = ["--network", "container:host", "--pid", "container:host", "--ipc", "container:host"];
    wharf.ok(&[&["run", "-d", "--name", "guest"][..], &all, &["box", "sleep", "601"]].concat());
    assert_eq!(wharf.ok(&["exec", "guest", "hostname"]).trim(), "shared");
    assert_eq!(environment(&wharf, &["exec", "guest", "env"])["HOSTNAME"], "shared");
    let own = |name: &str| wharf.ok(&["exec", name, "cat", "/etc/hosts"]);
    assert_eq!(own("guest"), own("host"));
    let processes = wharf.ok(&["exec", "host", "ps"]);
    assert!(processes.contains("sleep 601"), "{processes}");
    wharf.ok(&["exec", "host", "sh", "-c", "echo said > /dev/shm/word"]);
    assert_eq!(wharf.ok(&["exec", "guest", "cat", "/dev/shm/word"]).trim(), "said");
    // The partner's new name is no obstacle: it was the container that was meant.
    wharf.ok(&["rename", "host", "other"]);
    wharf.ok(&["restart", "-t", "0", "guest"]);
    wharf.ok(&["rm", "-f", "looping"]);
}

#[test]
fn the_name_of_the_host_is_only_read() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let before = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let seen = ["run", "--rm", "--uts", "host", "box", "cat", "/proc/sys/kernel/hostname"];
    assert_eq!(wharf.ok(&seen).trim(), before.trim());
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name"), before);
    let said = wharf.fails(125, &["run", "--rm", "--uts", "host", "-h", "x", "box", "true"]);
    assert!(said.contains("conflicting options: hostname and the UTS mode"), "{said}");
}

#[test]
fn rt_21_parameters_of_the_host_are_out_of_reach() {
    let engine = Engine::with_image();
    let api = engine.api();
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).expect("a parameter");
    let watched = ["kernel/core_pattern", "kernel/sem", "net/ipv4/ip_forward", "vm/swappiness"];
    let before: Vec<String> = watched.iter().map(|name| read(name)).collect();
    for (name, mode) in [
        ("kernel.core_pattern", json!({})),
        ("kernel/core_pattern", json!({})),
        ("net.ipv4/../../kernel/core_pattern", json!({})),
        ("net..ipv4.ip_forward", json!({})),
        ("kernel.sem\nkernel.core_pattern", json!({})),
        ("kernel.shm+max", json!({})),
        ("vm.swappiness", json!({})),
        ("net.ipv4.ip_forward", json!({"NetworkMode": "host"})),
        ("kernel.sem", json!({"IpcMode": "host"})),
        ("fs.mqueue.msg_max", json!({"IpcMode": "host"})),
        ("kernel.domainname", json!({"UTSMode": "host"})),
    ] {
        let mut host = mode.clone();
        host["Sysctls"] = json!({ name: "1" });
        let body = json!({"Image": "box", "Cmd": ["true"], "HostConfig": host});
        let answer = api.request("POST", "/containers/create", Some(&body)).expect("an answer");
        assert_eq!(answer.status, 400, "{name:?} {mode}");
    }
    assert_eq!(watched.iter().map(|name| read(name)).collect::<Vec<_>>(), before);
    let own = engine.wharf().ok(&[
        "run",
        "--rm",
        "--sysctl",
        "kernel.sem=250 32000 100 7",
        "box",
        "cat",
        "/proc/sys/kernel/sem",
    ]);
    assert!(own.trim().ends_with('7'), "{own}");
}

#[test]
fn a_list_has_the_fields_that_are_asked_for() {
    let engine = Engine::with_image();
    let (wharf, api) = (engine.wharf(), engine.api());
    wharf.ok(&["create", "--name", "some", "--label", "a=b", "--annotation", "x=y", "box", "true"]);
    let list = |target: &str| api.get(target).expect("the engine answers");
    let full = list("/containers/json?all=1");
    let some = list("/containers/json?all=1&fields=Names,State,Unheard");
    assert_eq!(some, json!([{"Names": full[0]["Names"], "State": full[0]["State"]}]));
    assert_eq!(full[0]["HostConfig"]["Annotations"], json!({"x": "y"}));
    let old = list("/v1.45/containers/json?all=1");
    assert_eq!(old[0]["HostConfig"], json!({"NetworkMode": "bridge"}));
    assert_eq!(list("/system/df")["Containers"][0]["Names"], full[0]["Names"]);
    assert_eq!(list("/containers/json?fields=Id"), json!([]));
    // Formats that name columns, and those that look at all of it, show the same.
    let shown = |format: &str| wharf.ok(&["ps", "-a", "--format", format]);
    assert_eq!(shown("{{.Names}} {{.Label \"a\"}} {{.Networks}}"), "some b bridge");
    assert_eq!(shown("{{with .}}{{.Names}} {{.Label \"a\"}} {{.Networks}}{{end}}"), "some b bridge");
    assert!(full[0]["Id"].as_str().is_some_and(|id| id.starts_with(&wharf.ok(&["ps", "-aq"]))));
}

/// Docker's `--read-only` holds for the files that the engine makes for a container, too.
#[test]
fn a_read_only_container_cannot_write_to_its_own_hosts_file() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    for file in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
        let write = format!("echo >> {file}");
        assert_eq!(wharf.run(&["run", "--rm", "box", "sh", "-c", &write]).code, 0, "{file}");
        let said = wharf.fails(1, &["run", "--rm", "--read-only", "box", "sh", "-c", &write]);
        assert!(said.contains("Read-only file system"), "{file}: {said}");
    }
}

/// The commonest mistake with mounts is named as people know it.
#[test]
fn a_file_on_a_directory_and_the_other_way_round_are_named() {
    let engine = Engine::with_image();
    let wharf = engine.wharf();
    let (file, dir) = (engine.dir().join("f"), engine.dir().join("d"));
    std::fs::write(&file, "").expect("room");
    std::fs::create_dir(&dir).expect("room");
    for (source, target) in [(&file, "/etc"), (&dir, "/etc/passwd")] {
        let said = wharf
            .fails(125, &["run", "--rm", "-v", &format!("{}:{target}", source.display()), "box", "true"]);
        assert!(said.contains("Are you trying to mount a directory onto a file (or vice-versa)?"), "{said}");
        assert!(said.contains(target) && said.contains(&source.display().to_string()), "{said}");
    }
}

/// An image that was removed by force is not a damaged store: the container works on, and a commit says what is missing.
#[test]
fn a_container_outlives_its_image_and_says_so_when_it_is_committed() {
    let engine = Engine::with_image();
    let (wharf, api) = (engine.wharf(), engine.api());
    wharf.ok(&["create", "--name", "one", "box", "sleep", "600"]);
    wharf.ok(&["rmi", "-f", "box"]);
    wharf.ok(&["start", "one"]);
    assert_eq!(wharf.ok(&["exec", "one", "echo", "alive"]), "alive");
    let refused = api.request("POST", "/commit?container=one", None).expect("an answer");
    assert_eq!(refused.status, 404, "{}", refused.message());
    assert!(refused.message().contains("No such image"), "{}", refused.message());
}
