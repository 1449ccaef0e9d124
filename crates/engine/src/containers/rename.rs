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
        // Another rename may have been first: the name that was asked for is nobody's now, or somebody else's.
        if !std::sync::Arc::ptr_eq(&self.find(name)?, &container) {
            return Err(Error::NoSuchContainer(name.to_owned()));
        }
        if container.record().name == new {
            return Err(Error::Invalid("Renaming a container with the same name as its current name".into()));
        }
        let old = self.inner.containers.rename(&container, new).map_err(|error| match error {
            Error::NoSuchContainer(_) => Error::NoSuchContainer(name.to_owned()),
            other => other.with_prefix("Error when allocating new name: "),
        })?;
        if let Err(error) = self.save(&container).await {
            self.inner.containers.keep_name(&container, &old, new);
            return Err(error);
        }
        self.inner.containers.keep_name(&container, new, &old);
        self.emit(&container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}
