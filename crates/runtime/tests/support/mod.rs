//! Bundles with a busybox root file system, and the runtime's binary run on them. Everything made is removed again.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

const APPLETS: [&str; 36] = [
    "sh", "cat", "echo", "true", "false", "id", "ls", "mount", "sleep", "stat", "grep", "head", "readlink",
    "mknod", "dd", "touch", "mkdir", "hostname", "kill", "ps", "env", "pwd", "tty", "test", "umount",
    "chmod", "rm", "ln", "sed", "wc", "sort", "tr", "stty", "printf", "basename", "unshare",
];

/// Which capabilities and paths Docker gives a container.
pub(crate) const DOCKER_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A bundle in a scratch directory.
pub(crate) struct Bundle {
    pub(crate) dir: TempDir,
    pub(crate) config: Value,
    pub(crate) id: String,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

impl Bundle {
    /// A bundle whose command is `sh -c script`.
    pub(crate) fn new(script: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-rt-").tempdir().unwrap();
        let root = dir.path().join("rootfs");
        for name in ["bin", "proc", "sys", "dev", "etc", "tmp", "root", "data"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        // The canary of every test about leading us out of the root: nothing in it may ever change.
        std::fs::create_dir(dir.path().join("canary")).unwrap();
        std::fs::write(dir.path().join("canary/file"), "canary").unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox"))
            .expect("/bin/busybox must be there: install Debian's busybox-static");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/var/www:/bin/sh\n")
            .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nwww:x:34:\nwheel:x:10:root,www\nextra:x:77:\n")
            .unwrap();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("wharf-test-{}-{number}", std::process::id());
        let config = config(&id, script);
        Self { dir, config, id }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub(crate) fn canary(&self) -> PathBuf {
        self.path().join("canary")
    }

    /// Adds a mount.
    pub(crate) fn mount(
        &mut self,
        source: impl AsRef<Path>,
        destination: &str,
        kind: &str,
        options: &[&str],
    ) {
        let mount =
            json!({"destination": destination, "type": kind, "source": source.as_ref(), "options": options});
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// The runtime with this bundle's state directory.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        std::fs::write(self.path().join("config.json"), self.config.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf-runtime"));
        command.arg("--root").arg(self.path().join("state")).args(arguments);
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Runs a runtime command to its end.
    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a runtime command that has to succeed; its output.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a runtime command that has to fail; its error.
    pub(crate) fn fail(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded: {}", text(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs the container to its end; what it printed.
    pub(crate) fn run(&self) -> String {
        self.succeed(&["run", &self.id])
    }

    /// Runs the container, which must not come to be; why not.
    pub(crate) fn run_fails(&self) -> String {
        let error = self.fail(&["run", &self.id]);
        assert!(!self.cgroup("memory").exists(), "the cgroup is left behind after: {error}");
        error
    }

    /// Creates and starts the container, which then runs until the bundle is dropped.
    pub(crate) fn start(&self) -> i32 {
        // Its streams must not be ours, or we would wait for them to be closed.
        let status =
            self.command(&["create", &self.id]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success());
        self.succeed(&["start", &self.id]);
        self.state()["pid"].as_i64().unwrap() as i32
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.succeed(&["state", &self.id])).unwrap()
    }

    /// Runs a shell script in the running container.
    pub(crate) fn exec(&self, script: &str) -> String {
        self.succeed(&["exec", &self.id, "sh", "-c", script])
    }

    pub(crate) fn cgroup(&self, controller: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(controller).join(&self.id)
    }

    /// Checks that nothing of the canary changed.
    pub(crate) fn check_canary(&self) {
        let entries: Vec<_> =
            std::fs::read_dir(self.canary()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(entries, ["file"]);
        assert_eq!(std::fs::read_to_string(self.canary().join("file")).unwrap(), "canary");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let output = self.call(&["delete", "--force", &self.id]);
        if !std::thread::panicking() {
            assert!(output.status.success(), "{}", text(&output));
            assert!(!self.cgroup("memory").exists());
        }
    }
}

pub(crate) fn text(output: &Output) -> String {
    let stream = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}: {}{}", output.status, stream(&output.stdout), stream(&output.stderr))
}

/// A configuration such as Docker makes.
fn config(id: &str, script: &str) -> Value {
    let plain = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.2.1",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
            "args": ["sh", "-c", script],
            "env": ["PATH=/usr/local/bin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": DOCKER_CAPABILITIES, "effective": DOCKER_CAPABILITIES, "permitted": DOCKER_CAPABILITIES,
            },
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"},
                {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
