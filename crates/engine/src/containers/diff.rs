//! `diff`: what a container changed in its files.

use wharf_image::Change;

use crate::blocking::blocking;
use crate::{Engine, Result};

impl Engine {
    /// What differs between a container's files and its image, parents before what is in them. Running containers
    /// may change more meanwhile.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchContainer`], or [`crate::Error::Image`] when the files cannot be read.
    pub async fn container_changes(&self, name: &str) -> Result<Vec<Change>> {
        let container = self.find(name)?;
        let (images, id) = (self.inner.images.clone(), container.id.to_string());
        blocking(move || Ok(images.changes(&id)?)).await
    }
}
