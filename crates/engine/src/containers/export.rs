//! `export`: a container's own files as one stream. Its volumes and what is mounted in it are left out.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncRead;
use wharf_archive::pack::{Holes, Packer};

use super::tree::Access;
use crate::{Engine, Result, streams};

impl Engine {
    /// The container's file system as a tar stream.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchContainer`], or when its files cannot be mounted.
    pub async fn export_container(&self, name: &str) -> Result<impl AsyncRead + Send + use<>> {
        let container = self.find(name)?;
        let tree = self.tree(&container, Access::Own).await?;
        self.emit(&container, "export", &[]);
        Ok(streams::written("an export", move |writer| {
            let packed = tree.enter(|root| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(root.as_directory().as_fd(), c".", flags, Mode::empty())
                    .map_err(std::io::Error::from)?;
                let mut packer = Packer::new(writer, Holes::Expand);
                packer
                    .beneath(directory, b"")
                    .and_then(|()| packer.finish())
                    .map_err(super::tree::unpackable)?;
                Ok(())
            });
            packed.map_err(|error| std::io::Error::other(error.to_string()))
        }))
    }
}
