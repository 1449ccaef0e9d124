//! The same command lines with Docker's program and ours, on the same real engine: equal output, equal exit status.

mod support;

use support::reference::{IMAGE, Reference};

#[test]
fn listings_look_the_same() {
    let Some(reference) = Reference::find() else { return };
    let container = reference.container(&[
        "-p",
        "127.0.0.1::80",
        "--label",
        "a=b",
        "--label",
        "c.d=e",
        IMAGE,
        "sleep",
        "600",
    ]);
    let filter = format!("name={}", container.name);
    for format in [
        "table",
        "json",
        "raw",
        "{{.ID}} {{.Label \"a\"}} {{.Platform}}",
        "{{json .}}",
        "table {{.Names}}\\t{{.Size}}",
        "table {{.ID}}\t{{.Label \"c.d\"}}",
        "table {{upper .Names}}\\t{{truncate .Image 3}}",
        "{{printf \"%-40s|\" .Names}}{{.Ports}}",
        "{{if eq .State \"running\"}}R{{else}}S{{end}}",
        "{{split .Names \"-\"}} {{pad .Names 2 2}}| {{len .Names}}",
        "{{.Foo}}",
        "{{.Foo",
    ] {
        reference.compare(&["ps", "--filter", &filter, "--format", format]);
    }
    for args in [&["-a"][..], &["-q"], &["-as", "--no-trunc"], &["-q", "--format", "json"]] {
        reference.compare(&[&["ps", "--filter", &filter], args].concat());
    }
    let image = format!("reference={IMAGE}");
    for args in [
        &[][..],
        &["-q"],
        &["--digests", "--no-trunc"],
        &["--format", "{{.Repository}}:{{.Tag}} {{.Size}}"],
        &["--format", "raw"],
    ] {
        reference.compare(&[&["images", "-f", &image], args].concat());
    }
    reference.compare(&["history", IMAGE]);
    reference.compare(&["history", "--no-trunc", "-H=false", IMAGE]);
    reference.compare(&["network", "ls", "-f", "type=builtin"]);
    reference.compare(&["port", &container.name, "99"]);
    reference.compare(&["top", &container.name, "-o", "pid,comm"]);
}

#[test]
fn inspect_shows_the_same() {
    let Some(reference) = Reference::find() else { return };
    let container = reference.container(&[
        "-p",
        "127.0.0.1::80",
        "--label",
        "a=b",
        "-v",
        "/tmp:/t",
        IMAGE,
        "sleep",
        "600",
    ]);
    let name = container.name.as_str();
    for format in [
        "{{.State.Status}} {{.Foo}}",
        "{{.Id}}",
        "{{.ID}} {{.Name}}",
        "{{.Config.Labels.zzz}}|{{.State.Health}}|{{.HostConfig.Binds}}|{{.HostConfig.CapAdd}}",
        "{{json .Mounts}}",
        "{{.Foo",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}} {{index .Config.Labels \"a\"}}",
        "{{.SizeRw}} {{.HostConfig.Memory}} {{.HostConfig.Init}}",
        "{{.State.Foo.Bar}}",
        "{{json .Config}}",
        "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{(index $conf 0).HostPort}} {{end}}",
        "{{range .Mounts}}{{.Type}} {{.Name}} {{.Source}}{{println}}{{end}}",
        "{{join .Config.Cmd \" \"}} {{.Path}} {{.Args}} {{index .Args 0}}",
        "{{index .Args 7}}",
        "{{if gt .State.Pid 0}}up{{end}}{{.HostConfig.LogConfig.Config}}",
        "json",
    ] {
        reference.compare(&["inspect", "-f", format, name]);
    }
    for args in [
        &["inspect", name][..],
        &["inspect", name, "wharf-nosuch"],
        &["inspect", "wharf-nosuch", "-f", "{{.Id}}"],
        &["inspect", "--type", "image", name],
        &["inspect", "--type", "foo", name],
        &["container", "inspect", "wharf-nosuch"],
        &["image", "inspect", IMAGE],
        &["image", "inspect", "wharf-nosuch"],
        &["volume", "inspect", "wharf-nosuch"],
        &["network", "inspect", "none"],
        &["inspect", IMAGE],
    ] {
        reference.compare(args);
    }
}

#[test]
fn refusals_read_the_same() {
    let Some(reference) = Reference::find() else { return };
    let lines = "logs wharf-nosuch|start wharf-nosuch|stop wharf-nosuch|kill wharf-nosuch|rm wharf-nosuch|rm -f wharf-nosuch\
        |rename wharf-nosuch x|wait wharf-nosuch|exec wharf-nosuch true|attach wharf-nosuch|port wharf-nosuch|top wharf-nosuch\
        |stats --no-stream wharf-nosuch|history wharf-nosuch|save wharf-nosuch|tag wharf-nosuch x|rmi wharf-nosuch|rmi -f wharf-nosuch\
        |volume rm wharf-nosuch|volume rm -f wharf-nosuch|ps --filter foo=bar|ps --filter foo|network ls -f foo=bar|events --since x\
        |load -i /nonexistent|load -i /etc/passwd|import nosuch.tar|tag x Bad:x|rm|exec|stop|ps foo|run|run --foo\
        |kill -s foo wharf-nosuch|volume create x --name y|images --format {{.Foo}}|images --format {{.Foo";
    for line in lines.split('|') {
        reference.compare(&line.split_whitespace().collect::<Vec<_>>());
    }
}

#[test]
fn wrong_containers_are_refused_alike() {
    let Some(reference) = Reference::find() else { return };
    let lines = "--pull never wharf-nosuch|-e =x IMAGE|-l =x IMAGE|--env-file /nonexistent IMAGE|--device x IMAGE\
        |--device /dev/null:/x:q IMAGE|--device-cgroup-rule x IMAGE|--add-host x IMAGE|--add-host x:y IMAGE|--dns x IMAGE\
        |--sysctl x IMAGE|--security-opt x IMAGE|--security-opt seccomp=/nonex IMAGE|--security-opt seccomp=/etc/passwd IMAGE\
        |--pid x IMAGE|--uts x IMAGE|--userns x IMAGE|--cgroupns x IMAGE|--ipc x IMAGE|--restart x IMAGE|--restart on-failure:x IMAGE\
        |--restart always:2 IMAGE|--restart :2 IMAGE|--restart always --rm IMAGE|--no-healthcheck --health-cmd x IMAGE\
        |--health-interval=-1s IMAGE|--health-interval=1 IMAGE|--memory-swappiness 200 IMAGE|--log-driver none --log-opt a=b IMAGE\
        |--storage-opt a IMAGE|--blkio-weight-device x IMAGE|--device-read-bps /dev/x:1q IMAGE|--mac-address x IMAGE\
        |--network name=foo,x=bar IMAGE|--gpus x IMAGE|--cidfile /etc/passwd IMAGE|--expose x IMAGE|--expose 80:80 IMAGE\
        |--link a:b:c IMAGE|--volumes-from x IMAGE|--stop-signal x IMAGE|--oom-score-adj 2000 IMAGE|-m 1m IMAGE|-m abc IMAGE\
        |--memory-swap -2 IMAGE|--isolation x IMAGE|--cpus x IMAGE|--cpus 9999 IMAGE|Bad:Name:x|--mount foo IMAGE\
        |--mount type=bind,src=/nonexist,dst=/x IMAGE|--mount type=foo,dst=/x IMAGE|-p foo IMAGE|-p 99999:1 IMAGE|-v :/x IMAGE\
        |-v /a:/b:foo IMAGE|-v a/b:/x IMAGE|--ulimit x IMAGE|--ulimit nofile=3:2 IMAGE|--pull foo IMAGE|--platform x/y/z/k IMAGE\
        |--name|-zz|--init=maybe IMAGE|--blkio-weight 70000 IMAGE|--workdir rel IMAGE|--shm-size x IMAGE";
    for line in lines.split('|') {
        let args: Vec<&str> =
            line.split_whitespace().map(|word| if word == "IMAGE" { IMAGE } else { word }).collect();
        reference.compare(&[&["create"], args.as_slice()].concat());
        reference.compare(&[&["run", "--rm"], args.as_slice()].concat());
    }
}

#[test]
fn containers_run_alike() {
    let Some(reference) = Reference::find() else { return };
    let scripts: [&[&str]; 20] = [
        &[IMAGE, "sh", "-c", "echo a; exit 9"],
        &[IMAGE, "sh", "-c", "echo b >&2"],
        &[IMAGE, "nosuch"],
        &[IMAGE, "/"],
        &[IMAGE, "/etc/passwd"],
        &[IMAGE, "sh", "-c", "kill -TERM $$"],
        &["--env", "WHARF_NO_VALUE", "--env", "A=1", "-e", "HOSTNAME=h", IMAGE, "env"],
        &["--hostname", "h1", IMAGE, "hostname"],
        &["--read-only", IMAGE, "touch", "/x"],
        &["--tmpfs", "/t:size=1m", IMAGE, "df", "/t"],
        &["--ulimit", "nofile=100", IMAGE, "sh", "-c", "ulimit -n"],
        &["-i", IMAGE, "cat"],
        &["-a", "stdout", IMAGE, "sh", "-c", "echo a; echo b >&2"],
        &["--mount", "type=tmpfs,dst=/m,tmpfs-size=1m,tmpfs-mode=700", IMAGE, "stat", "-c", "%a", "/m"],
        &["-v", "/tmp:/t:ro", IMAGE, "touch", "/t/x"],
        &["--add-host", "foo:1.2.3.4", IMAGE, "grep", "foo", "/etc/hosts"],
        &["--network", "none", IMAGE, "ifconfig"],
        &["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges", IMAGE, "true"],
        &["-it", IMAGE],
        &["-t", IMAGE, "echo", "hi"],
    ];
    for script in scripts {
        reference.compare_with_input(&[&["run", "--rm"], script].concat(), b"data\n");
    }
}

#[test]
fn exec_and_logs_are_alike() {
    let Some(reference) = Reference::find() else { return };
    let container = reference.container(&[IMAGE, "sh", "-c", "echo one; echo two; exec sleep 600"]);
    let name = container.name.as_str();
    let lines: [&[&str]; 14] = [
        &["exec", name, "sh", "-c", "echo o; exit 3"],
        &["exec", name, "nosuch"],
        &["exec", name, "/"],
        &["exec", "-w", "/nonex", name, "true"],
        &["exec", "-u", "nosuch", name, "true"],
        &["exec", "-it", name, "true"],
        &["exec", "-e", "B=2", "-u", "65534", name, "env"],
        &["exec", "-d", name, "true"],
        &["exec", "-i", name, "cat"],
        &["logs", name],
        &["logs", "-n", "1", name],
        &["logs", "--until", "1h", name],
        &["rm", name],
        &["unpause", name],
    ];
    for line in lines {
        reference.compare_with_input(line, b"input\n");
    }
}

#[test]
fn archives_travel() {
    let Some(reference) = Reference::find() else { return };
    let archive = std::env::temp_dir().join(format!("wharf-cli-{}.tar", std::process::id()));
    let archive = archive.to_str().unwrap();
    reference.compare(&["save", IMAGE, "-o", archive]);
    reference.compare(&["load", "-i", archive]);
    let bytes = std::fs::read(archive).unwrap();
    std::fs::remove_file(archive).unwrap();
    reference.compare_with_input(&["load", "-q"], &bytes);
    let saved = reference.wharf().args(["save", IMAGE]).output().unwrap();
    assert_eq!(saved.stdout.len(), bytes.len());
}

#[test]
fn registries_are_refused_alike() {
    let Some(reference) = Reference::find() else { return };
    // Port 1 of this machine is nobody's, so whatever gets as far as a registry is refused at once.
    let digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let lines = "pull|pull a b|pull -a a:b|pull Bad|pull x@sha256:44|pull --platform x/y/z/k a|pull 127.0.0.1:1/x|pull -q 127.0.0.1:1/x:1\
        |pull -a 127.0.0.1:1/x|image pull 127.0.0.1:1/x@DIGEST|push|push -a a:b|push Bad|push wharf-nosuch|push -q 127.0.0.1:1/wharf-nosuch\
        |push x@DIGEST|push --platform x/y/z/k a|push --platform linux/amd64 wharf-nosuch|push --platform * a|search|search --limit 200 x\
        |search -f x y|search -f bad=x y|search --format {{.X x|login|login --password-stdin|login -p x --password-stdin\
        |login -p x 127.0.0.1:1|login -u x -p y 127.0.0.1:1|login -u x 127.0.0.1:1|create --pull always 127.0.0.1:1/x\
        |run --rm 127.0.0.1:1/x|run --rm -q 127.0.0.1:1/x|create -q 127.0.0.1:1/x|create --platform foo IMAGE\
        |history --platform foo IMAGE|history --platform linux/s390x IMAGE|save --platform foo IMAGE|load --platform foo\
        |rmi --platform foo IMAGE|image inspect --platform foo IMAGE|image inspect --platform linux/s390x IMAGE\
        |images -f dangling=x|images -f foo=1|images -f before=wharf-nosuch|images --tree -q|image prune -f --filter foo=x\
        |image prune -f --filter until=x|import --platform foo nosuch|import - Bad|tag IMAGE x@DIGEST";
    for line in lines.split('|') {
        let line = line.replace("IMAGE", IMAGE).replace("DIGEST", digest);
        reference.compare(&line.split_whitespace().collect::<Vec<_>>());
    }
}

#[test]
fn lists_of_manifests_are_refused_alike() {
    let Some(reference) = Reference::find() else { return };
    let lines = "inspect|create x|rm|push|annotate x|foo|create Bad x|create x Bad|push Bad|rm Bad|rm a b|inspect Bad|inspect a b\
        |annotate Bad x|annotate x Bad|annotate x y --arch amd64|push x|inspect a b c|push -z x";
    for line in lines.split('|') {
        reference.compare(&[&["manifest"], line.split_whitespace().collect::<Vec<_>>().as_slice()].concat());
    }
}
