//! What an image has at the place of a new volume is copied into the volume, as with Docker.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use wharf_image::SnapshotMounts;
use wharf_linux::confined::Root;
use wharf_linux::{copy, hostfs};

use crate::Result;

/// Fills the volume in `data` if it is empty and the image has a directory at `target`: with what is in that, and with
/// its owner and mode. Whatever links lead there, they are followed within the image (EN-07).
pub(crate) fn fill(layers: &SnapshotMounts, data: &Path, target: &str) -> Result<()> {
    if !hostfs::read_dir(data)?.is_empty() {
        return Ok(());
    }
    let root = Root::from_fd(layers.image_tree()?, Path::new("the image"));
    let source = match root.open_at(Path::new(target), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(source) => source,
        // Nothing there, or a file: the volume stays empty.
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    Ok(copy::tree(source.as_fd(), hostfs::open_dir(data)?)?)
}
