//! Which program makes a container: the built-in runtime, or one with runc's command line that somebody has named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use wharf_linux::hostfs;
use wharf_shim::protocol::{ForeignRuntime, GUARD_FILE};

use crate::{Engine, Error, Result};

/// The built-in runtime's own name.
pub const BUILT_IN: &str = "wharf";
/// What clients that name a runtime mean by it: whatever the engine usually takes.
const USUAL: [&str; 2] = ["runc", "io.containerd.runc.v2"];
/// How long a command of another runtime may take if nothing else is said: less than the engine waits for a shim.
pub const RUNTIME_PATIENCE: Duration = Duration::from_secs(40);

/// A guard gives up sooner.
const GUARD: Duration = Duration::from_secs(10);

/// A program that somebody has named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeProgram {
    /// An absolute path, or a name to be looked up in the engine's `PATH`; empty for the built-in runtime.
    pub path: String,
    /// Arguments before all others.
    pub args: Vec<String>,
}

/// All runtimes.
#[derive(Clone, Debug)]
pub struct Runtimes {
    default: String,
    named: BTreeMap<String, RuntimeProgram>,
    patience: Duration,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self { default: BUILT_IN.to_owned(), named: BTreeMap::new(), patience: RUNTIME_PATIENCE }
    }
}

impl Runtimes {
    /// Those of the settings, of which `default` is for containers that ask for none.
    ///
    /// # Errors
    /// [`Error::Invalid`] with Docker's words.
    pub fn new(default: &str, named: BTreeMap<String, RuntimeProgram>, patience: Duration) -> Result<Self> {
        for (name, program) in &named {
            if name == BUILT_IN || name == USUAL[1] {
                return Err(Error::Invalid(format!("runtime name '{name}' is reserved")));
            }
            if program.path.contains('/') && !program.path.starts_with('/') {
                return Err(Error::Invalid(format!(
                    "runtime {name}: the path {} must be absolute, or the name of a program in PATH",
                    program.path
                )));
            }
        }
        let default = if default.is_empty() { BUILT_IN } else { default };
        let runtimes = Self { default: default.to_owned(), named, patience };
        match runtimes.find(default) {
            Ok(_) => Ok(runtimes),
            Err(_) => Err(Error::Invalid(format!("specified default runtime '{default}' does not exist"))),
        }
    }

    /// The one for containers that ask for none.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// Every name, with its program.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, RuntimeProgram> {
        let built_in = || RuntimeProgram { path: "wharf-runtime".to_owned(), args: Vec::new() };
        let usual = std::iter::once(BUILT_IN).chain(USUAL).map(|name| (name.to_owned(), built_in()));
        let mut all: BTreeMap<String, RuntimeProgram> = usual.collect();
        for (name, program) in &self.named {
            let program = if program.path.is_empty() { built_in() } else { program.clone() };
            all.insert(name.clone(), program);
        }
        all
    }

    /// The program of a name, `None` for the built-in runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name.
    pub(crate) fn find(&self, name: &str) -> Result<Option<&RuntimeProgram>> {
        match self.named.get(name) {
            Some(program) => Ok(Some(program).filter(|program| !program.path.is_empty())),
            None if name.is_empty() || name == BUILT_IN || USUAL.contains(&name) => Ok(None),
            None => Err(Error::Invalid(format!("unknown or invalid runtime name: {name}"))),
        }
    }
}

impl Engine {
    /// What the shim of a container with this runtime is told; `None` for the built-in one.
    pub(crate) fn foreign_runtime(&self, name: &str) -> Result<Option<ForeignRuntime>> {
        let live = self.live();
        let runtimes = &live.config.runtimes;
        // It was known when the container was made.
        let program = runtimes.find(name).map_err(|error| Error::System(error.to_string()))?;
        let Some(program) = program else { return Ok(None) };
        let Some(path) = located(&program.path) else {
            return Err(Error::Start {
                message: format!(
                    "OCI runtime create failed: unable to retrieve OCI runtime error: exec: \"{}\": executable file not \
                     found in $PATH",
                    program.path
                ),
                exit_code: 128,
            });
        };
        Ok(Some(ForeignRuntime {
            name: name.to_owned(),
            path,
            args: program.args.clone(),
            patience_ms: u64::try_from(runtimes.patience.as_millis()).unwrap_or(u64::MAX),
            init_program: Some(self.inner.config.libexec.join("wharf-shim")),
        }))
    }
}

/// Waits until nobody is left of the last run who may kill what is in the container's control group.
pub(crate) fn wait_for_guard(run_dir: &Path) -> Result<()> {
    let path = run_dir.join(GUARD_FILE);
    if !hostfs::exists(&path)? {
        return Ok(());
    }
    let file = hostfs::open(&path)?;
    let deadline = Instant::now() + GUARD;
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= deadline {
            let what = "cleaning up after a killed shim".to_owned();
            return Err(Error::Deadline { what, seconds: GUARD.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A program by its path or by its name.
fn located(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| executable(file))
}

fn executable(file: &Path) -> bool {
    file.is_absolute() && file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> BTreeMap<String, RuntimeProgram> {
        let program = RuntimeProgram { path: "/usr/bin/x".to_owned(), args: Vec::new() };
        names.iter().map(|name| ((*name).to_owned(), program.clone())).collect()
    }

    #[test]
    fn the_usual_names_are_the_built_in_runtime_until_somebody_says_otherwise() {
        let runtimes = Runtimes::default();
        for name in ["", "wharf", "runc", "io.containerd.runc.v2"] {
            assert_eq!(runtimes.find(name).unwrap(), None, "{name}");
        }
        let text = runtimes.find("crun").unwrap_err().to_string();
        assert_eq!(text, "unknown or invalid runtime name: crun");
        let runtimes = Runtimes::new("crun", named(&["crun", "runc"]), RUNTIME_PATIENCE).unwrap();
        assert!(runtimes.find("runc").unwrap().is_some() && runtimes.find("wharf").unwrap().is_none());
        assert_eq!(runtimes.all().len(), 4);
        assert_eq!(runtimes.default_name(), "crun");
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_dockers_words() {
        let refused = |default: &str, names: &[&str]| {
            Runtimes::new(default, named(names), RUNTIME_PATIENCE).unwrap_err().to_string()
        };
        assert_eq!(refused("", &["wharf"]), "runtime name 'wharf' is reserved");
        assert_eq!(refused("nope", &["crun"]), "specified default runtime 'nope' does not exist");
        let relative = RuntimeProgram { path: "bin/crun".to_owned(), args: Vec::new() };
        let named = BTreeMap::from([("x".to_owned(), relative)]);
        assert!(Runtimes::new("", named, RUNTIME_PATIENCE).unwrap_err().to_string().contains("absolute"));
    }
}
