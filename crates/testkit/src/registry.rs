//! A scratch `wharf-registry` on loopback.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::{PATIENCE, binary, loopback, retry_until};

/// A running registry; ends, and its data goes, when dropped.
#[derive(Debug)]
pub struct Registry {
    dir: tempfile::TempDir,
    arguments: Vec<String>,
    child: Mutex<Option<Child>>,
    address: String,
}

impl Registry {
    /// A registry in which everybody may do everything.
    pub fn scratch() -> Self {
        Self::with_arguments(&[])
    }

    /// With more arguments for `wharf-registry serve`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with_arguments(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("wr-").tempdir().expect("a temporary directory");
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let address = loopback::address().to_string();
        let mut registry = Self { dir, arguments, child: Mutex::new(None), address };
        registry.start();
        registry
    }

    /// Starts it again, on the same address, after [`Registry::kill`].
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        let log = self.dir.path().join("log");
        let output = File::create(&log).expect("a log in our directory");
        let child = Command::new(binary("wharf-registry"))
            .args(["serve", "--access-log", "none", "--address", &self.address, "--data"])
            .arg(self.data())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("wharf-registry starts");
        *self.child.lock().expect("no test panics while starting") = Some(child);
        self.address = retry_until("the registry listens", PATIENCE, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("listening on http"))?;
            Some(line.rsplit("://").next()?.trim().to_owned())
        });
    }

    /// Ends it without a chance to tidy up.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&self) {
        let child = self.child.lock().expect("no test panics while killing").take();
        let mut child = child.expect("the registry runs");
        child.kill().expect("our child can be killed");
        child.wait().expect("our child can be awaited");
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().ok()?.as_ref().map(Child::id)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its content is.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory of this test, beside the data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A name of an image in this registry.
    pub fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if self.child.lock().is_ok_and(|child| child.is_some()) {
            self.kill();
        }
    }
}
