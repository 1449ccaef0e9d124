//! The real Docker, to compare with: `WHARF_TEST_REFERENCE` names its socket.
//!
//! Without it the tests that need it say so and pass.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::Run;

/// The image the tests use.
pub(crate) const IMAGE: &str = "wharf-cli-test";

/// A real engine with an image in it, and names of this process' own.
pub(crate) struct Reference {
    host: String,
}

impl Reference {
    /// The engine, if there is one to compare with.
    pub(crate) fn find() -> Option<Self> {
        static READY: OnceLock<()> = OnceLock::new();
        let Some(socket) = std::env::var_os("WHARF_TEST_REFERENCE") else {
            eprintln!("skipped: WHARF_TEST_REFERENCE does not name the socket of a Docker engine");
            return None;
        };
        let reference = Self { host: format!("unix://{}", PathBuf::from(socket).display()) };
        READY.get_or_init(|| reference.make_image());
        Some(reference)
    }

    /// Docker's own command line on the engine.
    pub(crate) fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .stdin(Stdio::null())
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CONFIG", "/nonexistent")
            .env("DOCKER_CLI_HINTS", "false");
        command
    }

    /// Ours on the same engine.
    pub(crate) fn wharf(&self) -> Command {
        let mut command = super::wharf();
        command.env("DOCKER_HOST", &self.host);
        command
    }

    /// A container that goes away with the returned value. `args` follow `docker run -d --name NAME`.
    pub(crate) fn container(&self, args: &[&str]) -> Container<'_> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wharf-cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // It exists even if it cannot be started, so it is removed in any case.
        let container = Container { reference: self, name };
        let output =
            self.docker().args(["run", "-d", "--name", &container.name]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        container
    }

    fn make_image(&self) {
        if self.docker().args(["image", "inspect", IMAGE]).output().unwrap().status.success() {
            return;
        }
        let root = std::env::temp_dir().join(format!("wharf-cli-image-{}", std::process::id()));
        let script = format!(
            "set -e; mkdir -p {0}/bin {0}/etc {0}/tmp; cp -L \"$(command -v busybox)\" {0}/bin/busybox; \
             for a in $({0}/bin/busybox --list); do [ -e {0}/bin/$a ] || ln -s busybox {0}/bin/$a; done; \
             echo 'root:x:0:0:root:/root:/bin/sh' > {0}/etc/passwd; \
             tar -c -C {0} . | docker import -c 'CMD [\"sh\"]' -c 'ENV PATH=/bin' - {IMAGE}; rm -rf {0}",
            root.display()
        );
        let made = Command::new("sh").arg("-c").arg(script).env("DOCKER_HOST", &self.host).output().unwrap();
        assert!(
            made.status.success(),
            "the test image needs a static busybox: {}",
            String::from_utf8_lossy(&made.stderr)
        );
    }

    /// Runs the same command line with both programs and compares everything but ids, times and the program's name.
    #[track_caller]
    pub(crate) fn compare(&self, args: &[&str]) {
        self.compare_with_input(args, b"");
    }

    /// The same, with something on standard input.
    #[track_caller]
    pub(crate) fn compare_with_input(&self, args: &[&str], input: &[u8]) {
        let theirs = normalized(&super::run_with_input(self.docker().args(args), input));
        let ours = normalized(&super::run_with_input(self.wharf().args(args), input));
        assert_eq!(ours, theirs, "left: wharf, right: docker, {args:?}");
    }
}

/// A container of one test.
pub(crate) struct Container<'a> {
    reference: &'a Reference,
    pub(crate) name: String,
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.reference.docker().args(["rm", "-f", &self.name]).output();
    }
}

fn normalized(run: &Run) -> Run {
    Run { code: run.code, stdout: words(&run.stdout), stderr: words(&run.stderr) }
}

/// The text with ids, times and the width of columns made equal.
fn words(text: &str) -> String {
    let line = |line: &str| {
        let mut out: Vec<String> = Vec::new();
        for word in line.split_whitespace() {
            let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            let hex = bare.len() >= 12 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
            let out_word = match bare {
                "docker" | "wharf" => word.replace("docker", "wharf"),
                _ if hex => word.replace(bare, "ID"),
                _ => word.replace("'docker", "'wharf"),
            };
            out.push(out_word);
            // "3 seconds ago", "About a minute ago", "Up 3 seconds": how long is nobody's fault.
            const UNITS: [&str; 6] = ["second", "seconds", "minute", "minutes", "hour", "hours"];
            if UNITS.contains(&bare) {
                out.pop();
                while out.last().is_some_and(|last| {
                    last.parse::<u32>().is_ok()
                        || ["About", "a", "an", "Less", "than"].contains(&last.as_str())
                }) {
                    out.pop();
                }
                out.push("TIME".to_owned());
            }
        }
        out.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
