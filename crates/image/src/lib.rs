//! Image names, load, save, import, layers and snapshots, and the one collector.

mod error;
mod types;

use std::io::{Read, Write};
use std::path::Path;

use wharf_model::{Digest, Reference};
use wharf_state::Database;

pub use error::{Error, Result};
pub use types::{
    DockerFields, Healthcheck, HistoryEntry, Image, ImportOptions, LoadProgress, Loaded, Pruned, Removed,
    SnapshotMounts, User,
};

/// The images, layers and snapshots of one data root; clones share them.
#[derive(Clone, Debug)]
pub struct Images {
    #[expect(dead_code, reason = "signatures first")]
    db: Database,
}

fn later<T>() -> Result<T> {
    Err(Error::Invalid("not there yet".to_owned()))
}

#[expect(unused_variables, reason = "signatures first")]
impl Images {
    /// Opens or creates `content/` and `snapshots/` beneath `root` and sweeps what a crash left.
    pub fn open(root: &Path, db: Database) -> Result<Self> {
        Ok(Self { db })
    }

    /// Reads a docker-archive or oci-archive, plain or compressed as a whole.
    pub fn load(&self, input: &mut dyn Read, on: &mut dyn FnMut(LoadProgress)) -> Result<Vec<Loaded>> {
        later()
    }

    /// Makes an image of one layer from a root filesystem tar, plain or compressed.
    pub fn import(&self, input: &mut dyn Read, options: ImportOptions) -> Result<Digest> {
        later()
    }

    /// Writes one archive that is both a docker-archive and an OCI image layout.
    pub fn save(&self, names: &[String], out: &mut dyn Write) -> Result<()> {
        later()
    }

    /// Gives an image another name; returns the image that had the name before, if it was another one.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<Option<Digest>> {
        later()
    }

    /// The image that a name, an id or an unambiguous start of an id means.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        later()
    }

    /// Every image, newest first, those without a name too.
    pub fn list(&self) -> Result<Vec<Image>> {
        later()
    }

    /// The steps that made an image, newest first.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        later()
    }

    /// Removes a name, and the image with its last name, by Docker's rules. `users` tells the containers of an image.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        users: &dyn Fn(&Digest) -> Vec<User>,
    ) -> Result<Vec<Removed>> {
        later()
    }

    /// Removes the images no container uses: those without a name, or all.
    pub fn prune(&self, dangling_only: bool, users: &dyn Fn(&Digest) -> Vec<User>) -> Result<Pruned> {
        later()
    }

    /// Makes (or finds) an image whose only file is a static binary, and gives it `name`.
    pub fn builtin(&self, name: &Reference, binary: &Path) -> Result<Digest> {
        later()
    }

    /// A writable snapshot on top of an image.
    pub fn create_snapshot(&self, key: &str, image: &Digest) -> Result<SnapshotMounts> {
        later()
    }

    /// The snapshot made for `key`.
    pub fn snapshot(&self, key: &str) -> Result<SnapshotMounts> {
        later()
    }

    /// Removes a snapshot; its files go in the background. One that is not there is no error.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        later()
    }

    /// Bytes a snapshot holds beyond its image.
    pub fn snapshot_size(&self, key: &str) -> Result<u64> {
        later()
    }

    /// The keys of all snapshots.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        later()
    }

    /// Removes everything that no name, image or snapshot needs, and waits until it is gone.
    pub fn collect(&self) -> Result<()> {
        later()
    }
}
