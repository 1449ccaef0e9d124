//! Debian's docker-registry from the peers: the reference for registries.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::binaries::workspace_root;
use crate::{loopback, wait_until};

/// A running docker-registry on loopback; ends, and its data goes, when dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    dir: tempfile::TempDir,
    child: Child,
    address: SocketAddr,
}

impl DockerRegistry {
    /// Starts one without accounts, in which manifests can be deleted.
    ///
    /// # Panics
    /// When the peers are not set up, or it does not start.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-peer-").tempdir().expect("a temporary directory");
        let address = loopback::address();
        // The peers see the host's /tmp as /xfer.
        let inside = Path::new("/xfer").join(dir.path().strip_prefix("/tmp").unwrap_or(dir.path()));
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: \
             {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"{address}\"}}\n",
            inside.join("data").display()
        );
        std::fs::write(dir.path().join("config.yml"), config).expect("our directory takes a file");
        let child = Command::new(workspace_root().join("../shared/peers"))
            .args(["sh", "docker-registry", "serve"])
            .arg(inside.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The script has children: all of them end together.
            .process_group(0)
            .spawn()
            .expect("the peers' script runs");
        let registry = Self { dir, child, address };
        let up = || TcpStream::connect(address).is_ok();
        wait_until("docker-registry answers", Duration::from_secs(20), up);
        registry
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process that serves.
    pub fn pid(&self) -> Option<u32> {
        let config = self.dir.path().file_name()?.to_string_lossy().into_owned();
        let all = std::fs::read_dir("/proc").ok()?.flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
        pids.into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.starts_with("docker-registry") && line.contains(&config)
        })
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _already_gone = kill_process_group(group, Signal::KILL);
        }
        let _reaped = self.child.wait();
    }
}
