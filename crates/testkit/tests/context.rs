//! Contexts: the same store for us and for the docker command line.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use wharf_testkit::{Cli, Engine, binary, docker_cli};

/// Runs a script in which `docker` is this program, with this home and without an engine of its own.
fn run(program: &Cli, home: &Path, script: &str) -> (i32, String) {
    let script = format!("unset DOCKER_HOST; exec 2>&1; cd $HOME; {script}");
    let output = program.shell(&script, &[("HOME", home.to_str().expect("a plain path"))]);
    (output.code, output.stdout)
}

#[test]
fn what_one_program_keeps_the_other_uses() {
    let engine = Engine::scratch();
    let wharf = engine.wharf();
    let Some(docker) = engine.docker() else { return };
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    for (maker, user) in [(&wharf, &docker), (&docker, &wharf)] {
        let home = tempfile::tempdir().unwrap();
        let host = engine.host();
        let made = run(
            maker,
            home.path(),
            &format!("docker context create here --description 'an engine' --docker host={host}"),
        );
        assert_eq!(made, (0, "here\nSuccessfully created context \"here\"\n".to_owned()));
        let tls = format!(
            "docker context create far --docker host=tcp://127.0.0.1:1,ca={0}/ca.pem,cert={0}/cert.pem,key={0}/key.pem",
            certificates.display()
        );
        assert_eq!(run(maker, home.path(), &tls).0, 0);
        assert_eq!(run(user, home.path(), "docker context use here").0, 0);
        assert_eq!(run(maker, home.path(), "docker context show"), (0, "here\n".to_owned()));
        for program in [maker, user] {
            assert_eq!(
                run(program, home.path(), "docker version --format '{{.Server.Os}} {{.Client.Context}}'"),
                (0, "linux here\n".to_owned())
            );
        }
        let inspect = "docker context inspect far here";
        assert_eq!(run(maker, home.path(), inspect), run(user, home.path(), inspect));
        let list = "docker context ls --format '{{.Name}} {{.Current}} {{.Description}} {{.DockerEndpoint}}' | grep -v ^default";
        assert_eq!(run(maker, home.path(), list), run(user, home.path(), list));
        // Out of one, into the other.
        assert_eq!(run(maker, home.path(), "docker context export far - > far.tar").0, 0);
        assert_eq!(run(user, home.path(), "docker context import copy far.tar").0, 0);
        let files = "docker context inspect --format '{{json .TLSMaterial}} {{.Endpoints.docker.Host}}' copy";
        assert_eq!(run(user, home.path(), files), run(maker, home.path(), &files.replace("copy", "far")));
        assert_eq!(run(user, home.path(), "docker context rm -f here").0, 0);
        assert_eq!(run(maker, home.path(), "docker context show"), (0, "default\n".to_owned()));
    }
}

/// A zip file in docker's layout, the same as for the unit tests.
fn zip() -> Vec<u8> {
    let path = wharf_testkit::workspace_root().join("crates/wharf/src/contexts/zip_example.hex");
    let digits: Vec<u8> =
        std::fs::read(path).expect("it is there").into_iter().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(pair, 16).expect("digits")
    };
    digits.chunks(2).map(byte).collect()
}

#[test]
fn a_zip_file_is_imported_from_a_file() {
    let programs: Vec<Cli> = std::iter::once(binary("wharf"))
        .chain(docker_cli())
        .map(|program| Cli::new(&program, "unix:///nowhere"))
        .collect();
    for program in &programs {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("x.zip"), zip()).unwrap();
        std::fs::write(home.path().join("cut.zip"), &zip()[..100]).unwrap();
        let imported = run(program, home.path(), "docker context import zz x.zip");
        assert_eq!(imported, (0, "zz\nSuccessfully imported context \"zz\"\n".to_owned()));
        let shown =
            run(program, home.path(), "docker context inspect -f '{{.Name}} {{json .TLSMaterial}}' zz");
        assert_eq!(shown, (0, "zz {\"docker\":[\"ca.pem\"]}\n".to_owned()));
        let cut = run(program, home.path(), "docker context import z3 cut.zip");
        assert_eq!(cut, (1, "zip: not a valid zip file\n".to_owned()));
    }
}

#[test]
fn mistakes_are_told_in_docker_s_words() {
    let programs: Vec<Cli> = std::iter::once(binary("wharf"))
        .chain(docker_cli())
        .map(|program| Cli::new(&program, "unix:///nowhere"))
        .collect();
    for program in &programs {
        let home = tempfile::tempdir().unwrap();
        for (script, wanted) in [
            ("docker context create x", "context name \"x\" is invalid"),
            ("docker context create aa --docker foo=bar", "unrecognized config key: foo"),
            ("docker context create aa --docker ca=/nope", "open /nope: no such file or directory"),
            ("docker context create default", "\"default\" is a reserved context name"),
            ("docker context use nope", "context \"nope\": context not found: open "),
            ("docker context rm default", "context \"default\" cannot be removed"),
            ("docker context rm nope", "context \"nope\" does not exist"),
            (
                "docker --context nope ps",
                "Failed to initialize: unable to resolve docker endpoint: context \"nope\"",
            ),
            ("docker -c a -H unix:///x ps", "conflicting options: cannot specify both --host and --context"),
            ("echo hi | docker context import xx -", "unexpected EOF"),
            ("docker -H ssh://u:p@h ps", "plain-text password is not supported"),
            ("docker -H http://x ps", "invalid bind address format: http://x"),
            ("docker -H tcp://127.0.0.1:1 --tlsverify ps", "ca.pem: no such file or directory"),
        ] {
            let (code, output) = run(program, home.path(), script);
            assert_ne!(code, 0, "{script}");
            let said_otherwise =
                script.contains("import") && program.command(&[]).get_program() == binary("wharf");
            assert!(said_otherwise || output.contains(wanted), "{script}: {output}");
        }
    }
}

#[test]
fn en_15_plugins_come_from_safe_directories_only() {
    let wharf = Cli::new(&binary("wharf"), "unix:///nowhere");
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join(".docker/cli-plugins");
    std::fs::create_dir_all(&directory).unwrap();
    let plugin = directory.join("docker-hey");
    let script = "#!/bin/sh\nif [ \"$1\" = docker-cli-plugin-metadata ]; then\n\
                  echo '{\"SchemaVersion\":\"0.1.0\",\"Vendor\":\"me\",\"ShortDescription\":\"says hey\"}'; exit; fi\n\
                  echo \"hey $* at $DOCKER_HOST\"; exit 7\n";
    std::fs::write(&plugin, script).unwrap();
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    set(&plugin, 0o755);
    set(&directory, 0o755);
    let found = run(&wharf, home.path(), "docker hey a --b");
    assert_eq!(found, (7, "hey hey a --b at unix:///run/wharf/wharf.sock\n".to_owned()));
    assert!(run(&wharf, home.path(), "docker --help").1.contains("hey*        says hey"));
    set(&directory, 0o777);
    let (code, text) = run(&wharf, home.path(), "docker hey");
    assert_eq!(code, 1);
    assert!(text.contains("are not used") && text.contains("everybody can write to it"), "{text}");
    assert!(!text.contains("hey hey"), "{text}");
    set(&directory, 0o755);
    set(&plugin, 0o777);
    assert_eq!(run(&wharf, home.path(), "docker hey").0, 1);
    set(&plugin, 0o755);
    std::os::unix::fs::chown(&directory, Some(1000), Some(1000)).unwrap();
    assert!(run(&wharf, home.path(), "docker hey").1.contains("belongs to another user"));
}
