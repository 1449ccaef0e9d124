//! A directory.

use std::path::Path;

use super::{Result, Storage};

/// Opens a directory as a storage.
#[derive(Debug)]
pub struct Local;

impl Local {
    /// Opens or creates the storage in `root`.
    ///
    /// # Errors
    /// When the directory cannot be used.
    #[expect(clippy::unused_async, clippy::missing_panics_doc, reason = "the skeleton")]
    pub async fn open(root: &Path) -> Result<Storage> {
        panic!("{}: not yet", root.display())
    }
}
