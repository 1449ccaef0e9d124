//! `info` and `system df`.

use std::path::Path;

use jiff::Timestamp;
use wharf_linux::{cgroup, hostfs};
use wharf_model::Filters;

use crate::blocking::blocking;
use crate::containers::Phase;
use crate::{DiskUsage, Engine, Result, SystemView};

impl Engine {
    /// Facts about this engine and its machine.
    ///
    /// # Errors
    /// When the image store cannot be read.
    pub async fn system(&self) -> Result<SystemView> {
        let mut counts = (0, 0, 0, 0);
        for container in self.inner.containers.all() {
            counts.0 += 1;
            match container.record().phase {
                Phase::Running | Phase::Restarting => counts.1 += 1,
                Phase::Paused => counts.2 += 1,
                Phase::Created | Phase::Exited | Phase::Removing => counts.3 += 1,
            }
        }
        let engine = self.clone();
        let event_listeners = self.inner.events.listeners();
        blocking(move || {
            let (inner, live) = (&engine.inner, engine.live());
            let uname = rustix::system::uname();
            let (operating_system, os_version) = operating_system();
            Ok(SystemView {
                id: inner.id.clone(),
                containers: counts,
                images: inner.images.list()?.len(),
                cdi_dirs: inner.config.cdi_dirs.iter().map(|dir| dir.display().to_string()).collect(),
                data_root: inner.config.data_root.display().to_string(),
                hostname: uname.nodename().to_string_lossy().into_owned(),
                kernel: uname.release().to_string_lossy().into_owned(),
                operating_system,
                os_version,
                architecture: uname.machine().to_string_lossy().into_owned(),
                cpus: u32::try_from(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
                    .unwrap_or(1),
                memory: memory_total(),
                cgroup_version: if matches!(cgroup::detect(), Ok(cgroup::Mode::V2)) { "2" } else { "1" },
                backing_filesystem: backing_filesystem(&inner.config.data_root),
                live_restore: live.config.live_restore,
                debug: live.config.debug,
                remapped: inner.config.remap.is_some(),
                runtimes: live.config.runtimes.clone(),
                labels: live.config.labels.clone(),
                insecure_registries: live.config.registries.insecure.clone(),
                registry_mirrors: live.config.registries.mirrors.clone(),
                log_driver: crate::logs::default_driver(&inner.config.log).to_owned(),
                descriptors: hostfs::read_dir(Path::new("/proc/self/fd")).map_or(0, |names| names.len()),
                event_listeners,
                time: Timestamp::now(),
            })
        })
        .await
    }

    /// What images and volumes take on disk.
    ///
    /// # Errors
    /// When the image store or a directory cannot be read.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let images = self.list_images(true, Filters::default()).await?;
        let engine = self.clone();
        let (volumes, store) = blocking(move || {
            let mut volumes = Vec::new();
            for volume in engine.volumes()? {
                let size = files_size(Path::new(&volume.mountpoint));
                let users = engine.volume_users(&volume.name).len();
                volumes.push((volume, size, users));
            }
            Ok((volumes, engine.inner.images.usage()?))
        })
        .await?;
        Ok(DiskUsage { images, layers_size: store.bytes, shared: store.shared, volumes })
    }
}

/// Bytes in a directory's files, as Docker counts them: without the directories themselves. What cannot be read counts
/// nothing.
pub(crate) fn files_size(path: &Path) -> u64 {
    let counted = hostfs::open_dir(path)
        .and_then(|directory| wharf_linux::tree::files_size(std::os::fd::AsFd::as_fd(&directory)));
    counted.unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "cannot add up a directory's size");
        0
    })
}

/// Bytes of memory of the machine.
pub(crate) fn memory_total() -> u64 {
    let info = rustix::system::sysinfo();
    // The type of the field differs between architectures.
    #[allow(clippy::useless_conversion, reason = "c_ulong is u32 on some targets")]
    let total = u64::from(info.totalram);
    total * u64::from(info.mem_unit)
}

/// Name and version from os-release(5).
fn operating_system() -> (String, String) {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| hostfs::read_to_string(Path::new(path)).ok())
        .unwrap_or_default();
    let value = |key: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    let name = value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| "Linux".to_owned());
    (name, value("VERSION_ID").unwrap_or_default())
}

/// The name of the file system under a directory, by its magic number (statfs(2)).
fn backing_filesystem(path: &Path) -> String {
    let magic = rustix::fs::statfs(path).map_or(0, |stat| stat.f_type);
    match magic {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x794c_7630 => "overlayfs",
        _ => "<unknown>",
    }
    .to_owned()
}
