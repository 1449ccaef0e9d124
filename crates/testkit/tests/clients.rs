//! Programs that were written for Docker, unmodified: each starts, uses and removes containers.
//!
//! bollard is a crate and always runs. The others are installed by `make clients` (which `make test` calls) below
//! `target/clients`; where that is not possible the tests say so and are skipped. Every program is also proven on the
//! real Docker (`WHARF_TEST_REFERENCE=1`). Terraform is left out: its provider is in no registry that can be reached.

#![expect(clippy::print_stdout, reason = "what was skipped is said")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wharf_testkit::{Engine, Reference, binary, docker_cli, image, workspace_root};

/// What `make clients` has installed, or `None` with a note.
fn installed() -> Option<PathBuf> {
    let folder = workspace_root().join("target/clients");
    let ready = folder.join("ready").is_file();
    if !ready {
        println!("skipped: `make clients` has not been run, or a package registry cannot be reached");
    }
    ready.then_some(folder)
}

fn script(name: &str) -> PathBuf {
    workspace_root().join("crates/testkit/tests/clients").join(name)
}

/// Runs a program against an engine; it must end well within three minutes.
fn succeeds(command: &mut Command, host: &str) -> String {
    let program = format!("{command:?}");
    let mut limited = Command::new("timeout");
    limited.arg("180").arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited
        .env("DOCKER_HOST", host)
        .env_remove("DOCKER_CONTEXT")
        .stdin(Stdio::null())
        .output()
        .expect("timeout is part of every system");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} on {host}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn python(name: &str, host: &str) {
    let Some(folder) = installed() else { return };
    let said = succeeds(Command::new(folder.join("venv/bin/python")).arg(script(name)), host);
    assert!(said.contains("ok"), "{said}");
}

fn node(name: &str, host: &str) {
    let Some(folder) = installed() else { return };
    let mut command = Command::new("node");
    command.arg(script(name)).env("NODE_PATH", folder.join("node_modules"));
    let said = succeeds(&mut command, host);
    assert!(said.contains("ok"), "{said}");
}

/// The dev containers command line: `up`, `exec` and what it leaves, with a docker program of our choice.
fn dev_container(docker: &Path, host: &str, engine_view: impl Fn(&Path) -> PathBuf) {
    let Some(folder) = installed() else { return };
    let dir = tempfile::Builder::new().prefix("wdev-").tempdir().expect("a temporary directory");
    let workspace = dir.path().join("project");
    std::fs::create_dir_all(workspace.join(".devcontainer")).expect("a fresh directory");
    std::fs::write(workspace.join("note"), "in the workspace").expect("a fresh file");
    let configuration = serde_json::json!({
        "name": "wharf", "image": image::NAME, "updateRemoteUserUID": false, "remoteUser": "root",
        "containerEnv": {"WORD": "mellon"},
        "workspaceMount": format!("source={},target=/work,type=bind", engine_view(&workspace).display()),
        "workspaceFolder": "/work",
        "mounts": [{"source": format!("wdev-{}", std::process::id()), "target": "/cache", "type": "volume"}],
        "postCreateCommand": "echo made > /tmp/made",
        "runArgs": ["--init", "--cap-add=SYS_PTRACE", "--security-opt", "seccomp=unconfined"],
    });
    std::fs::write(workspace.join(".devcontainer/devcontainer.json"), configuration.to_string())
        .expect("a fresh file");
    let run = |verb: &str, rest: &[&str]| {
        let mut command = Command::new("node");
        command.arg(folder.join("node_modules/@devcontainers/cli/devcontainer.js")).arg(verb);
        command.arg("--docker-path").arg(docker).arg("--workspace-folder").arg(&workspace).args(rest);
        command.env("HOME", dir.path());
        succeeds(&mut command, host)
    };
    let up = run("up", &[]);
    assert!(up.contains("\"outcome\":\"success\""), "{up}");
    let said = run("exec", &["sh", "-c", "cat /tmp/made note; echo $WORD; pwd"]);
    assert_eq!(said.split_whitespace().collect::<Vec<_>>().join(" "), "made in the workspacemellon /work");
    // A second `up` finds the container and makes no other.
    run("up", &[]);
    let cli = wharf_testkit::Cli::new(docker, host);
    let label = format!("label=devcontainer.local_folder={}", workspace.display());
    let found = cli.ok(&["ps", "-aq", "--filter", &label]);
    assert_eq!(found.lines().count(), 1, "{found}");
    cli.ok(&["rm", "-fv", found.trim()]);
    cli.ok(&["volume", "rm", &format!("wdev-{}", std::process::id())]);
}

fn reference() -> Option<Reference> {
    let reference = Reference::find()?;
    let loaded = reference.docker().run_with_input(&["load"], &image::archive());
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    Some(reference)
}

macro_rules! on_both {
    ($($name:ident, $real:ident: $run:expr;)*) => {$(
        #[test]
        fn $name() {
            let engine = Engine::with_image();
            $run(&engine.host());
        }

        #[test]
        fn $real() {
            if let Some(reference) = reference() {
                $run(&reference.host());
            }
        }
    )*};
}

on_both! {
    docker_py_works, docker_py_works_on_the_real_docker: |host: &str| python("docker_py.py", host);
    testcontainers_for_python_works, testcontainers_for_python_works_on_the_real_docker:
        |host: &str| python("testcontainers_py.py", host);
    dockerode_works, dockerode_works_on_the_real_docker: |host: &str| node("dockerode.js", host);
    testcontainers_for_node_works, testcontainers_for_node_works_on_the_real_docker:
        |host: &str| node("testcontainers.js", host);
    bollard_works, bollard_works_on_the_real_docker: bollard::works;
}

#[test]
fn dev_containers_work_with_docker_and_with_wharf() {
    let engine = Engine::with_image();
    dev_container(&binary("wharf"), &engine.host(), Path::to_path_buf);
    if let Some(docker) = docker_cli() {
        dev_container(&docker, &engine.host(), Path::to_path_buf);
    }
}

#[test]
fn dev_containers_work_on_the_real_docker() {
    let Some(reference) = reference() else { return };
    let docker = docker_cli().expect("the reference needs the docker command line");
    dev_container(&docker, &reference.host(), |path| reference.path(path));
}

/// bollard, the Rust client that others build on.
mod bollard {
    use bollard::models::{ContainerCreateBody, HostConfig};
    use bollard::query_parameters as query;
    use bollard::{API_DEFAULT_VERSION, Docker, container::LogOutput, exec};
    use futures_util::{StreamExt as _, TryStreamExt as _};
    use tokio::io::AsyncWriteExt as _;

    pub(super) fn works(host: &str) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let docker = Docker::connect_with_unix(host, 60, API_DEFAULT_VERSION).expect("a client");
        runtime.block_on(async {
            let docker = docker.negotiate_version().await.expect("a version both speak");
            let name = format!("client-rs-{}-{}", std::process::id(), host.len());
            let result = tokio::time::timeout(std::time::Duration::from_secs(120), story(&docker, &name));
            let told = result.await;
            let options = query::RemoveContainerOptionsBuilder::new().force(true).build();
            let _gone = docker.remove_container(&name, Some(options)).await;
            told.expect("the story ends in time").expect("every call is answered");
        });
    }

    async fn story(docker: &Docker, name: &str) -> Result<(), bollard::errors::Error> {
        assert_eq!(docker.ping().await?, "OK");
        let options = query::CreateContainerOptionsBuilder::new().name(name).build();
        let body = ContainerCreateBody {
            image: Some("box".to_owned()),
            cmd: Some(["sh", "-c", "read line; echo got $line; exec sleep 600"].map(str::to_owned).to_vec()),
            open_stdin: Some(true),
            host_config: Some(HostConfig { memory: Some(64 << 20), ..Default::default() }),
            ..Default::default()
        };
        let made = docker.create_container(Some(options.clone()), body.clone()).await?;
        assert_eq!(made.id.len(), 64);
        let again = docker.create_container(Some(options), body).await.expect_err("the name is in use");
        assert!(
            matches!(again, bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }),
            "{again}"
        );
        let attach =
            query::AttachContainerOptionsBuilder::new().stdin(true).stdout(true).stream(true).build();
        let mut attached = docker.attach_container(name, Some(attach)).await?;
        docker.start_container(name, None::<query::StartContainerOptions>).await?;
        attached.input.write_all(b"a line\n").await?;
        let first = attached.output.next().await.expect("output")?;
        assert!(
            matches!(&first, LogOutput::StdOut { message } if message.as_ref() == b"got a line\n"),
            "{first:?}"
        );
        executes(docker, name).await?;
        let logs = query::LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let lines: Vec<LogOutput> = docker.logs(name, Some(logs)).try_collect().await?;
        assert_eq!(lines.len(), 1);
        let stats = query::StatsOptionsBuilder::new().stream(false).build();
        let figures = docker.stats(name, Some(stats)).next().await.expect("stats")?;
        assert!(figures.memory_stats.and_then(|memory| memory.usage).is_some_and(|usage| usage > 0));
        let found = docker.inspect_container(name, None::<query::InspectContainerOptions>).await?;
        assert_eq!(found.host_config.and_then(|host| host.memory), Some(64 << 20));
        let stop = query::StopContainerOptionsBuilder::new().t(0).build();
        docker.stop_container(name, Some(stop)).await?;
        let waited = docker.wait_container(name, None::<query::WaitContainerOptions>).next().await;
        let code = match waited.expect("an answer") {
            Ok(answer) => answer.status_code,
            Err(bollard::errors::Error::DockerContainerWaitError { code, .. }) => code,
            Err(error) => return Err(error),
        };
        assert_eq!(code, 137);
        docker.remove_container(name, None::<query::RemoveContainerOptions>).await
    }

    async fn executes(docker: &Docker, name: &str) -> Result<(), bollard::errors::Error> {
        let words = ["sh", "-c", "echo from exec; exit 5"].map(str::to_owned).to_vec();
        let wishes =
            exec::CreateExecOptions { cmd: Some(words), attach_stdout: Some(true), ..Default::default() };
        let id = docker.create_exec(name, wishes).await?.id;
        match docker.start_exec(&id, None).await? {
            exec::StartExecResults::Attached { mut output, .. } => {
                let said = output.next().await.expect("output")?.to_string();
                assert_eq!(said, "from exec\n");
                while output.next().await.is_some() {}
            }
            exec::StartExecResults::Detached => panic!("it was to be attached"),
        }
        assert_eq!(docker.inspect_exec(&id).await?.exit_code, Some(5));
        Ok(())
    }
}
