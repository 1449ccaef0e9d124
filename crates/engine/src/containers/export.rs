//! `export`: a container's own files as one stream. Its volumes and what is mounted in it are left out.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use wharf_archive::pack::{Holes, Packer};

use super::tree::Access;
use crate::{Engine, Error, Result, streams};

impl Engine {
    /// The container's file system as a tar stream.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchContainer`], or when its files cannot be mounted.
    pub async fn export_container(&self, name: &str) -> Result<impl AsyncRead + Send + use<>> {
        let container = self.find(name)?;
        let tree = self.tree(&container, Access::Own).await?;
        let (reached, answer) = oneshot::channel();
        let ids = tree.ids();
        let (writer, reader) = streams::channel();
        streams::paced(move || {
            let mut reached = Some(reached);
            let entered = tree.enter(|root| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(root.as_directory().as_fd(), c".", flags, Mode::empty())
                    .map_err(std::io::Error::from)?;
                if let Some(reached) = reached.take() {
                    let _client_left = reached.send(Ok(()));
                }
                // From here on the answer has begun, and a failure breaks it off.
                streams::write_all("an export", writer, |out| {
                    let mut packer = Packer::new(out, Holes::Expand).seen_from(ids);
                    let packed = packer.beneath(directory, b"").and_then(|()| packer.finish());
                    packed.map(drop).map_err(std::io::Error::other)
                });
                Ok(())
            });
            if let (Err(error), Some(reached)) = (entered, reached) {
                let _client_left = reached.send(Err(error));
            }
        })?;
        answer.await.map_err(|_| Error::System("exporting a container panicked".into()))??;
        self.emit(&container, "export", &[]);
        Ok(reader)
    }
}
