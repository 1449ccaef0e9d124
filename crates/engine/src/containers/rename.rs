//! `rename`.

use wharf_model::user_paths;

use crate::{Engine, Error, Result};

impl Engine {
    /// Gives a container another name.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken, [`Error::Invalid`] when it is no name.
    pub async fn rename_container(&self, name: &str, new: &str) -> Result<()> {
        let container = self.find(name)?;
        let new = new.strip_prefix('/').unwrap_or(new);
        if new.is_empty() {
            return Err(Error::Invalid("Neither old nor new names may be empty".into()));
        }
        if !user_paths::is_name(new) {
            return Err(Error::Invalid(format!(
                "Error when allocating new name: Invalid container name (/{new}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are \
                 allowed"
            )));
        }
        let _change = container.change.lock().await;
        let old = container.record().name.clone();
        if old == new {
            return Err(Error::Invalid("Renaming a container with the same name as its current name".into()));
        }
        let reserved = self.inner.containers.reserve(new, &container.id);
        reserved.map_err(|error| error.with_prefix("Error when allocating new name: "))?;
        new.clone_into(&mut container.record().name);
        if let Err(error) = self.save(&container).await {
            container.record().name = old;
            self.inner.containers.release(new);
            return Err(error);
        }
        self.inner.containers.release(&old);
        self.emit(&container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}
