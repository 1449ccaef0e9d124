//! Snapshots and layers as trees that are mounted nowhere and gone with their descriptor.

use std::os::fd::OwnedFd;

use wharf_linux::hostfs;
use wharf_linux::mount::{Attributes, Filesystem};

use crate::{Result, SnapshotMounts};

impl SnapshotMounts {
    /// The image's files, read-only.
    ///
    /// # Errors
    /// [`crate::Error::Store`] when the kernel refuses the overlay.
    pub fn image_tree(&self) -> Result<OwnedFd> {
        if let [only] = &self.lower[..] {
            return Ok(hostfs::open_dir(&self.base.join(only))?);
        }
        self.overlay(&[], false)
    }

    /// The container's files, read-only. Safe beside other such trees, not beside a writable one.
    ///
    /// # Errors
    /// As [`SnapshotMounts::image_tree`].
    pub fn tree(&self) -> Result<OwnedFd> {
        self.overlay(&[&self.upper], false)
    }

    /// The container's files. There must be no other writable tree of this snapshot, in a container or elsewhere.
    ///
    /// # Errors
    /// As [`SnapshotMounts::image_tree`].
    pub fn writable_tree(&self) -> Result<OwnedFd> {
        self.overlay(&[], true)
    }

    fn overlay(&self, above: &[&str], writable: bool) -> Result<OwnedFd> {
        let filesystem = Filesystem::new("overlay").map_err(|error| self.failed(None, error))?;
        let failed = |error| self.failed(filesystem.complaint(), error);
        filesystem.set("source", "overlay").map_err(failed)?;
        for layer in above.iter().copied().chain(self.lower.iter().map(String::as_str)) {
            filesystem.set("lowerdir+", self.base.join(layer)).map_err(failed)?;
        }
        if writable {
            filesystem.set("upperdir", self.base.join(&self.upper)).map_err(failed)?;
            filesystem.set("workdir", self.base.join(&self.work)).map_err(failed)?;
            // As the container itself is mounted: what is written is whole in the upper directory.
            for (key, value) in [("redirect_dir", "nofollow"), ("metacopy", "off")] {
                let _unknown = filesystem.set(key, value);
            }
        }
        let attributes = if writable { Attributes::default() } else { Attributes::READ_ONLY };
        let tree =
            if writable { filesystem.mount_writable(attributes) } else { filesystem.mount(attributes) };
        Ok(tree.map_err(failed)?)
    }

    fn failed(&self, complaint: Option<String>, error: std::io::Error) -> hostfs::Error {
        let error = match complaint {
            Some(words) => std::io::Error::other(format!("{words} ({error})")),
            None => error,
        };
        hostfs::Error::new("mount an overlay of", &self.base.join(&self.upper), error)
    }
}
