//! The real Docker Engine as an oracle.
//!
//! Off unless `WHARF_TEST_REFERENCE` is set: to `1` for the engine of `../shared/peers` (started when it is not running),
//! or to the `unix://` address of another Docker Engine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::{docker_cli, workspace_root};
use crate::{Api, Cli, PATIENCE, wait_until};

/// A running Docker Engine that tests may use but did not make: they remove what they create there.
#[derive(Debug)]
pub struct Reference {
    socket: PathBuf,
    /// Where the engine sees the host's `/tmp`.
    tmp: PathBuf,
}

impl Reference {
    /// The reference engine, or `None` with a note on standard output when it is switched off.
    ///
    /// # Panics
    /// When it is switched on but cannot be reached.
    pub fn find() -> Option<Self> {
        let wanted = std::env::var("WHARF_TEST_REFERENCE").unwrap_or_default();
        if wanted.is_empty() || wanted == "0" {
            println!("skipped: the real Docker is not asked (set WHARF_TEST_REFERENCE=1)");
            return None;
        }
        let reference = match wanted.strip_prefix("unix://") {
            Some(path) => Self { socket: path.into(), tmp: "/tmp".into() },
            None => Self::peers(),
        };
        assert!(
            Api::new(&reference.socket).is_up(),
            "no Docker Engine answers on {}",
            reference.socket.display()
        );
        Some(reference)
    }

    fn peers() -> Self {
        let root = std::env::var("PEERS").unwrap_or_else(|_| "/opt/peers".to_owned());
        let socket = Path::new(&root).join("run/docker.sock");
        let api = Api::new(&socket);
        if !api.is_up() {
            let script = workspace_root().join("../shared/peers");
            let started = Command::new(&script).arg("dockerd-start").status();
            let started = started.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
            assert!(started.success(), "{} dockerd-start failed", script.display());
            wait_until("the real Docker to answer", PATIENCE, || api.is_up());
        }
        Self { socket, tmp: "/xfer".into() }
    }

    /// The address for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Its API.
    pub fn api(&self) -> Api {
        Api::new(&self.socket)
    }

    /// The real command line on the real engine.
    ///
    /// # Panics
    /// When there is no `docker` on the machine.
    pub fn docker(&self) -> Cli {
        Cli::new(&docker_cli().expect("the reference needs the docker command line"), &self.host())
    }

    /// The name the engine has for a path below the host's `/tmp`.
    pub fn path(&self, host: &Path) -> PathBuf {
        host.strip_prefix("/tmp").map_or_else(|_| host.to_path_buf(), |rest| self.tmp.join(rest))
    }
}
