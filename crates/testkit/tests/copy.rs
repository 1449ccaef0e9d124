//! Copying in and out of containers that do not want the best: rows CP-01 to CP-06. What needs no hostile container is in
//! the recorded session `archive`, what needs no container in the tests of `wharf-archive`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use wharf_testkit::Engine;

const SECRET: &str = "the host's own";

/// A tree of the host that must neither change nor be read.
struct Canary {
    dir: tempfile::TempDir,
    before: (u32, i64, i64),
}

impl Canary {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-canary-").tempdir().expect("a directory");
        fs::write(dir.path().join("f"), SECRET).expect("room for a file");
        fs::set_permissions(dir.path().join("f"), PermissionsExt::from_mode(0o640)).expect("ours to change");
        let before = Self::look(dir.path());
        Self { dir, before }
    }

    fn look(dir: &Path) -> (u32, i64, i64) {
        let meta = fs::metadata(dir.join("f")).expect("the canary is there");
        (meta.mode(), meta.mtime_nsec(), fs::metadata(dir).expect("the canary is there").mtime_nsec())
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().expect("a plain path")
    }

    fn check(&self) {
        assert_eq!(fs::read_to_string(self.dir.path().join("f")).expect("the canary is there"), SECRET);
        assert_eq!(Self::look(self.dir.path()), self.before, "mode and times of the host's files");
        assert_eq!(fs::read_dir(self.dir.path()).expect("the canary is there").count(), 1);
    }
}

#[test]
fn cp_01_links_swapped_in_meanwhile_lead_nowhere() {
    let engine = Engine::with_image();
    let (cli, canary) = (engine.wharf(), Canary::new());
    let here = tempfile::tempdir().expect("a directory");
    let file = here.path().join("f");
    fs::write(&file, "from the client").expect("room for a file");
    // The container swaps a directory with a link to where the host's files are, as fast as it can.
    let swap = format!(
        "mkdir -p /s/real; echo inside > /s/real/f; while :; do ln -s {0} /s/d; rm /s/d; ln -s /../../..{0} /s/d; rm /s/d; \
         mv /s/real /s/d; mv /s/d /s/real; done",
        canary.path()
    );
    cli.ok(&["run", "-d", "--name", "swap", "box", "sh", "-c", &swap]);
    let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
    // `WHARF_TEST_SWAP=60` for the minute that the catalogue asks for.
    let seconds = std::env::var("WHARF_TEST_SWAP").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let mut copies = 0_u32;
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        let out = cli.run(&["cp", "swap:/s/d/f", "-"]);
        assert!(!out.stdout.contains(SECRET));
        let out = cli.run(&["cp", "swap:/s/d/.", "-"]);
        assert!(!out.stdout.contains(SECRET));
        let _either = cli.run(&["cp", &text(&file), "swap:/s/d/"]);
        canary.check();
        copies += 3;
    }
    println!("{copies} copies in {seconds} s");
    assert!(copies > 30, "too few copies to mean anything: {copies}");
    // Stopped, with a link in the place of the directory: the same.
    cli.ok(&["rm", "-f", "swap"]);
    let links =
        format!("ln -s {0} /d; ln -s /proc/1/root{0} /magic; ln -s ../../../..{0} /up", canary.path());
    cli.ok(&["run", "--name", "links", "box", "sh", "-c", &links]);
    for link in ["d", "magic", "up"] {
        let out = cli.run(&["cp", &format!("links:/{link}/f"), "-"]);
        assert!(out.code != 0 && !out.stdout.contains(SECRET), "{link}");
        assert_ne!(cli.run(&["cp", &text(&file), &format!("links:/{link}/f")]).code, 0, "{link}");
        canary.check();
    }
}

#[test]
fn cp_02_nothing_of_the_container_is_run_or_loaded() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    // Every program and library that a helper inside the root would use leaves a mark if it is used.
    let poison = "mkdir -p /lib/x86_64-linux-gnu /usr/bin /etc; for p in tar gzip xz unpigz zstd sh cp; do \
                  printf '#!/bin/busybox sh\\n/bin/busybox touch /used\\n' > /usr/bin/$p; chmod 755 /usr/bin/$p; done; \
                  echo 'passwd: evil' > /etc/nsswitch.conf; echo junk > /etc/ld.so.cache; \
                  for l in libnss_evil.so.2 libnss_files.so.2 libc.so.6; do echo junk > /lib/x86_64-linux-gnu/$l; done; \
                  mkdir /in; touch /ready; sleep 600";
    cli.ok(&["run", "-d", "--name", "poison", "box", "sh", "-c", poison]);
    wharf_testkit::wait_until("the poison is laid", wharf_testkit::PATIENCE, || {
        cli.run(&["exec", "poison", "test", "-e", "/ready"]).code == 0
    });
    let here = tempfile::tempdir().expect("a directory");
    fs::write(here.path().join("f"), "x").expect("room for a file");
    let dir = here.path().to_str().expect("a plain path");
    let pack = |how: &str| cli.shell(&format!("tar -C {dir} -c{how} f | docker cp - poison:/in"), &[]);
    for how in ["", "z"] {
        assert_eq!(pack(how).code, 0, "{how}");
    }
    cli.ok(&["cp", "-a", &format!("{dir}/f"), "poison:/in/g"]);
    cli.ok(&["cp", "poison:/etc", &format!("{dir}/etc")]);
    cli.ok(&["export", "-o", &format!("{dir}/all.tar"), "poison"]);
    assert_ne!(cli.run(&["exec", "poison", "test", "-e", "/used"]).code, 0, "something of the container ran");
    assert_eq!(cli.ok(&["exec", "poison", "cat", "/in/g"]), "x");
    // The mark is one that would have been seen.
    let _whatever = cli.run(&["exec", "poison", "/usr/bin/tar"]);
    assert_eq!(cli.run(&["exec", "poison", "test", "-e", "/used"]).code, 0, "the poison is none");
}

#[test]
fn cp_04_volumes_are_found_behind_the_image_s_links_and_nowhere_else() {
    let engine = Engine::with_image();
    let (cli, canary) = (engine.wharf(), Canary::new());
    // `/var/run` is a link, as in most images: the volume below it must still be found.
    cli.ok(&[
        "run",
        "--name",
        "base",
        "box",
        "sh",
        "-c",
        "mkdir /run; rmdir /var/run 2>/dev/null; ln -s /run /var/run",
    ]);
    cli.ok(&["commit", "base", "linked:1"]);
    cli.ok(&[
        "run",
        "--name",
        "user",
        "-v",
        "behind:/var/run/data",
        "linked:1",
        "sh",
        "-c",
        "echo kept > /var/run/data/f",
    ]);
    for path in ["/var/run/data/f", "/run/data/f"] {
        assert!(cli.ok(&["cp", &format!("user:{path}"), "-"]).contains("kept"), "{path}");
    }
    // The place of a volume is replaced by a link to the host's files after the container has ended.
    cli.ok(&["run", "--name", "evil", "-v", "other:/place/data", "linked:1", "true"]);
    let link = format!("ln -s {} /tmp/l", canary.path());
    cli.ok(&["run", "--name", "evil2", "-v", "other:/data", "linked:1", "sh", "-c", &link]);
    assert_ne!(cli.run(&["cp", "evil2:/tmp/l/f", "-"]).code, 0);
    canary.check();
    // Nothing of it stays in the machine's mount table.
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    assert!(!mounts.contains("/behind/_data"), "a volume is still mounted somewhere");
}

#[test]
fn cp_06_special_files_never_block() {
    let engine = Engine::with_image();
    let cli = engine.wharf();
    let make = "mkdir /s; mkfifo /s/fifo; mknod /s/disk b 7 0; mknod /s/tape c 9 0; ln -s fifo /s/link; mkfifo /etc/x";
    cli.ok(&["run", "--name", "special", "box", "sh", "-c", make]);
    let limited = |command: &str| cli.shell(command, &[]);
    for command in [
        "docker cp special:/s/fifo - | tar -t",
        "docker cp special:/s - | tar -t",
        "docker cp -L special:/s/link - | tar -t",
        "docker export special | tar -t",
        "docker diff special",
        "docker commit special special:1",
    ] {
        assert_eq!(limited(command).code, 0, "{command}");
    }
    let listed = limited("docker cp special:/s - | tar -tv | cut -c1 | sort | uniq | tr -d '\\n'").stdout;
    assert_eq!(listed, "bcdlp");
}

#[test]
fn en_09_an_export_has_nothing_from_behind_swapped_links() {
    let engine = Engine::with_image();
    let (cli, canary) = (engine.wharf(), Canary::new());
    // Directories with something in them, so that a packer has time to be led astray.
    let swap = format!(
        "for i in 1 2 3 4 5 6 7 8 9; do mkdir -p /s/r$i/a/b; echo inside > /s/r$i/f; done; touch /ready; \
         while :; do for i in 1 2 3 4 5 6 7 8 9; do mv /s/r$i /s/x; ln -s {0} /s/r$i; rm /s/r$i; ln -s /../../..{0} /s/r$i; \
         rm /s/r$i; mv /s/x /s/r$i; done; done",
        canary.path()
    );
    cli.ok(&["run", "-d", "--name", "swap", "box", "sh", "-c", &swap]);
    wharf_testkit::wait_until("the swapping begins", wharf_testkit::PATIENCE, || {
        cli.run(&["exec", "swap", "test", "-e", "/ready"]).code == 0
    });
    let until = Instant::now() + Duration::from_secs(3);
    let mut exports = 0_u32;
    while Instant::now() < until || exports == 0 {
        // A file that is gone between its name and its content may break the export off; it must not be another's.
        for command in ["docker export swap", "docker cp swap:/s -"] {
            let found = cli.shell(&format!("{command} | grep -acF \"{SECRET}\""), &[]);
            assert_eq!(found.stdout.trim(), "0", "`{command}` has a file of the host");
        }
        exports += 1;
        canary.check();
    }
    // What a hostile archive would leave outside, an import of it must not: it becomes a layer and stays one.
    let mut tar = wharf_testkit::image::Tar::new();
    tar.link("out", canary.path());
    tar.file("out/f", 0o644, b"from the archive");
    let _refused_or_inside = cli.run_with_input(&["import", "-", "hostile:1"], &tar.finish());
    canary.check();
}
