//! Writable directories on top of images, one per container.
//!
//! On the start path: two or three directories and one row, nothing synced. What a power cut loses is a container that
//! had barely begun.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags};
use wharf_linux::confined::{self, Handle, Metadata, Root};
use wharf_linux::{hostfs, tree};
use wharf_model::Digest;
use wharf_state::rusqlite::Connection;

use crate::records;
use crate::{Error, Images, Inner, Result, SnapshotMounts};

impl Images {
    /// A writable snapshot on top of an image.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the image is not there, [`Error::SnapshotExists`] when the key is taken.
    pub fn create_snapshot(&self, key: &str, image: &Digest) -> Result<SnapshotMounts> {
        self.inner.create_snapshot(key, image)
    }

    /// The snapshot made for `key`.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`].
    pub fn snapshot(&self, key: &str) -> Result<SnapshotMounts> {
        self.inner.db.read(|conn| {
            let row = records::snapshot(conn, key)?.ok_or_else(|| Error::NoSnapshot(key.to_owned()))?;
            self.inner.mounts(conn, row.directory, row.top.as_ref())
        })
    }

    /// The keys of all snapshots.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn snapshots(&self) -> Result<Vec<String>> {
        Ok(self.inner.db.read(records::snapshots)?.into_iter().map(|(key, _)| key).collect())
    }

    /// Removes a snapshot; its files go in the background. One that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Store`] when its directory cannot be moved away.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        let inner = &self.inner;
        let removed = inner.db.write(|tx| {
            let Some(row) = records::snapshot(tx, key)? else { return Ok::<_, Error>(None) };
            records::delete_snapshot(tx, key)?;
            // Only if its image was removed from under it is there more to do.
            let layers = match &row.top {
                Some(top) if !records::is_top(tx, top)? => records::delete_unneeded_layers(tx)?,
                _ => Vec::new(),
            };
            Ok(Some((row.directory, layers)))
        })?;
        if let Some((directory, layers)) = removed {
            inner.discard_directory(directory)?;
            inner.discard_layers(&layers)?;
        }
        Ok(())
    }

    /// Bytes a snapshot holds beyond its image: each file counted once, holes counted as Docker does.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], or [`Error::Store`] when it cannot be read.
    pub fn snapshot_size(&self, key: &str) -> Result<u64> {
        let row = self.inner.db.read(|conn| records::snapshot(conn, key))?;
        let row = row.ok_or_else(|| Error::NoSnapshot(key.to_owned()))?;
        let path = self.inner.files_of(row.directory);
        let root = Root::open(&path)?;
        let mut linked = HashSet::new();
        let mut size = 0_u64;
        tree::for_each(root.as_directory(), &mut |stat| {
            let kind = FileType::from_raw_mode(stat.st_mode);
            let counted = kind == FileType::RegularFile || kind == FileType::Symlink;
            if counted && (stat.st_nlink == 1 || linked.insert((stat.st_dev, stat.st_ino))) {
                size = size.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
        })
        .map_err(|error| hostfs::Error { path: path.join(&error.path), ..error })?;
        Ok(size)
    }
}

impl Inner {
    fn create_snapshot(&self, key: &str, image: &Digest) -> Result<SnapshotMounts> {
        let number = self.next_number();
        let made = self.make_snapshot(key, image, number);
        if made.is_err() {
            let directory = self.snapshots.join(number.to_string());
            if let Err(error) = hostfs::remove_dir_all(&directory) {
                tracing::warn!("cannot remove an unfinished snapshot, the next start will: {error}");
            }
        }
        made
    }

    fn make_snapshot(&self, key: &str, image: &Digest, number: i64) -> Result<SnapshotMounts> {
        let directory = self.snapshots.join(number.to_string());
        hostfs::create_dir(&directory, 0o700)?;
        hostfs::create_dir(&directory.join("fs"), 0o755)?;
        hostfs::create_dir(&directory.join("work"), 0o700)?;
        let mounts = self.db.write(|tx| {
            let row = records::image(tx, image)?.ok_or_else(|| Error::NotFound(image.to_string()))?;
            if records::snapshot(tx, key)?.is_some() {
                return Err(Error::SnapshotExists(key.to_owned()));
            }
            records::insert_snapshot(tx, key, number, row.top.as_ref())?;
            records::touch(tx, image)?;
            let mounts = self.mounts(tx, number, row.top.as_ref())?;
            // Within the transaction, so that a failure undoes the row.
            if row.top.is_some() {
                self.copy_root(&mounts)?;
            } else {
                hostfs::create_dir(&directory.join("empty"), 0o755)?;
            }
            Ok(mounts)
        })?;
        Ok(mounts)
    }

    fn mounts(&self, conn: &Connection, number: i64, top: Option<&Digest>) -> Result<SnapshotMounts> {
        let mut lower = Vec::new();
        if let Some(top) = top {
            for layer in records::chain_of(conn, top)? {
                layer.format.layers().attach(&self.place_of(layer.directory))?;
                lower.push(format!("{}/fs", layer.directory));
                if layer.opaque {
                    break;
                }
            }
        } else {
            // Overlayfs wants a lower directory even for an image without files.
            lower.push(format!("{number}/empty"));
        }
        Ok(SnapshotMounts {
            base: self.snapshots.clone(),
            lower,
            upper: format!("{number}/fs"),
            work: format!("{number}/work"),
        })
    }

    /// The merged root shows the metadata of the uppermost directory: make it that of the image.
    fn copy_root(&self, mounts: &SnapshotMounts) -> Result<()> {
        let Some(top) = mounts.lower.first() else { return Ok(()) };
        let top: PathBuf = mounts.base.join(top);
        let stat = std::fs::metadata(&top).map_err(|error| hostfs::Error::new("stat", &top, error))?;
        if stat.uid() == 0 && stat.gid() == 0 && stat.mode() & 0o7777 == 0o755 {
            return Ok(());
        }
        let root = Root::open(&mounts.base.join(&mounts.upper))?;
        let upper =
            root.open_at(std::path::Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let metadata =
            Metadata { uid: stat.uid(), gid: stat.gid(), mode: stat.mode(), times: None, xattrs: &[] };
        confined::apply(upper.as_fd(), Handle::Opened, &metadata).map_err(|error| {
            hostfs::Error::new("set metadata of", &mounts.base.join(&mounts.upper), error)
        })?;
        Ok(())
    }
}
