//! Where an engine lives and how it behaves.

use std::path::{Path, PathBuf};

use wharf_image::Concurrency;

use crate::{ContainerDefaults, Remap, Runtimes};
pub use wharf_image::LayerStorage;
use wharf_model::spec::LogSpec;

/// Everything an engine is told at start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// State that survives a reboot; mode 0710.
    pub data_root: PathBuf,
    /// State that does not: sockets and per-container runtime state.
    pub exec_root: PathBuf,
    /// Directory with `wharf-shim` and `wharf-hello`.
    pub libexec: PathBuf,
    /// Leave containers running at shutdown.
    pub live_restore: bool,
    /// How layers are kept on disk.
    pub layers: LayerStorage,
    /// Shown by `info`.
    pub debug: bool,
    /// Name of the default bridge, instead of a derived one.
    pub bridge: Option<String>,
    /// Subnet of the default bridge as `address/prefix`, instead of a chosen one.
    pub subnet: Option<String>,
    /// How registries are reached.
    pub registries: wharf_registry::Config,
    /// How much is transferred at the same time.
    pub transfers: Concurrency,
    /// Bytes on disk beyond which unused images are removed.
    pub image_budget: Option<u64>,
    /// Labels of this engine, `name=value`.
    pub labels: Vec<String>,
    /// Directories of files that describe devices (CDI), the more important last.
    pub cdi_dirs: Vec<PathBuf>,
    /// What containers get that do not ask for something else.
    pub defaults: ContainerDefaults,
    /// Log driver of containers that name none, and its options.
    pub log: LogSpec,
    /// Where plugins are looked for.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long a mount or a volume plugin may take.
    pub volume_patience: std::time::Duration,
    /// Whose ids the users of containers are; the host's without it.
    pub remap: Option<Remap>,
    /// What makes containers.
    pub runtimes: Runtimes,
}

/// Docker's directories of plugins.
pub const PLUGIN_DIRS: &[&str] = &["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"];
/// How long a mount or a volume plugin may take if nothing else is said.
pub const VOLUME_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The default exec root: the engine there owns the plain names (`wharf0`, table `wharf`).
const DEFAULT_EXEC_ROOT: &str = "/run/wharf";

impl EngineConfig {
    /// What tells this engine's kernel objects from those of its neighbours: empty for the default engine, else six
    /// digits derived from the exec root.
    #[must_use]
    pub fn instance(&self) -> String {
        if self.exec_root == Path::new(DEFAULT_EXEC_ROOT) {
            return String::new();
        }
        // FNV-1a: stable across builds, and six digits only have to differ between a handful of engines.
        let hash = self
            .exec_root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{:06x}", hash & 0xff_ffff)
    }

    /// Parent cgroup of this engine's containers.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        match self.instance() {
            suffix if suffix.is_empty() => "/wharf".to_owned(),
            suffix => format!("/wharf-{suffix}"),
        }
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.data_root.join("containers")
    }

    pub(crate) fn volumes_dir(&self) -> PathBuf {
        self.data_root.join("volumes")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.exec_root.join("containers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_engine_has_plain_names() {
        let at = |exec_root: &str| EngineConfig {
            data_root: "/d".into(),
            exec_root: exec_root.into(),
            libexec: "/l".into(),
            live_restore: true,
            layers: LayerStorage::default(),
            debug: false,
            bridge: None,
            subnet: None,
            registries: wharf_registry::Config::default(),
            transfers: Concurrency::default(),
            image_budget: None,
            labels: Vec::new(),
            cdi_dirs: Vec::new(),
            defaults: ContainerDefaults::default(),
            log: LogSpec::default(),
            plugin_dirs: Vec::new(),
            volume_patience: VOLUME_PATIENCE,
            remap: None,
            runtimes: Runtimes::default(),
        };
        assert_eq!(at("/run/wharf").cgroup_parent(), "/wharf");
        assert_ne!(at("/tmp/a").instance(), at("/tmp/b").instance());
        assert_eq!(at("/tmp/a").instance().len(), 6);
    }
}
