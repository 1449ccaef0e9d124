//! `load`: images out of an archive, all or none.
//!
//! The archive is read once, from front to back, although its manifests mostly come last: whatever looks like a layer
//! is stored and unpacked as it comes, whatever is small is remembered, and only then is decided what the archive
//! means. Names of entries are keys of a map here and never paths. What no manifest needs goes away again.

mod archive;
mod docker;
mod legacy;
pub(crate) mod oci;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};

use wharf_model::{Digest, Reference};

use crate::commit::NewImage;
use crate::compress::{Compression, Decoder};
use crate::pipe::CHUNK;
use crate::{Error, Images, LoadProgress, Loaded, Result};

use archive::Archive;

impl Images {
    /// Reads a docker-archive or oci-archive, plain or compressed as a whole.
    ///
    /// # Errors
    /// [`Error::Archive`], [`Error::Mismatch`] or [`Error::Limit`] when the archive is damaged, hostile or of no known
    /// kind; nothing of it is kept then.
    pub fn load(&self, input: &mut dyn Read, on: &mut dyn FnMut(LoadProgress)) -> Result<Vec<Loaded>> {
        let _lease = self.inner.lease();
        let mut input = BufReader::with_capacity(CHUNK, input);
        let start = input.fill_buf().map_err(Error::input)?;
        if start.is_empty() {
            return Err(Error::archive("invalid archive", "it is empty"));
        }
        let compression = Compression::detect(start, "archive")?;
        let decoder = Decoder::new(Box::new(input), compression, &self.inner.limits)?;
        let mut archive = Archive::read(&self.inner, decoder, on)?;

        let images = if archive.has("manifest.json") {
            docker::images(&mut archive)?
        } else if archive.has("index.json") {
            oci::images(&mut archive)?
        } else if archive.has("repositories") {
            legacy::images(&mut archive)?
        } else {
            return Err(Error::archive(
                "invalid archive",
                "it has no manifest.json and no index.json: not written by `docker save` or an OCI tool; \
                 a root filesystem is imported with `import`",
            ));
        };
        check_names(&images)?;
        self.inner.commit(archive.into_staged(), images)
    }
}

/// One name cannot mean two images of the same archive.
fn check_names(images: &[NewImage]) -> Result<()> {
    let mut seen: HashMap<&Reference, Digest> = HashMap::new();
    for image in images {
        let id = wharf_content::digest_of(&image.config);
        for name in &image.names {
            if seen.insert(name, id).is_some_and(|other| other != id) {
                return Err(Error::archive(
                    "invalid archive",
                    format!("it gives the name {} to two images", name.familiar()),
                ));
            }
        }
    }
    Ok(())
}

/// A name found in an archive, held to the same rules as one a user types.
fn archived_name(text: &str) -> Result<Reference> {
    match Reference::parse_normalized(text) {
        Ok(name) if name.digest().is_none() => Ok(name.or_latest()),
        Ok(_) => Err(Error::archive("invalid archive", format!("the name {text:?} has a digest"))),
        Err(error) => Err(Error::archive("invalid archive", format!("the name {text:?}: {error}"))),
    }
}
