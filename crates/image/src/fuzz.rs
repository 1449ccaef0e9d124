//! What reads foreign bytes, for `fuzz/`.

use std::path::Path;

use crate::layer::{FILES, Format, Soundness};
use crate::{Limits, Result};
use wharf_linux::hostfs;

/// Unpacks a tar into a new directory `place/fs`.
///
/// # Errors
/// Whatever is wrong with the tar.
pub fn unpack(tar: &[u8], place: &Path, limits: &Limits) -> Result<()> {
    hostfs::create_dir_all(&place.join(FILES), 0o700)?;
    Format::Directory.layers().unpack(&mut &*tar, place, limits).map(drop)
}

/// Writes an image for a tar; panics if what was written cannot be read or is not sound.
///
/// # Errors
/// Whatever is wrong with the tar.
pub fn erofs(tar: &[u8], place: &Path, limits: &Limits) -> Result<()> {
    hostfs::create_dir_all(&place.join(FILES), 0o700)?;
    let layers = Format::Erofs.layers();
    let unpacked = layers.unpack(&mut &*tar, place, limits)?;
    if unpacked.format == Format::Erofs {
        layers.sync(&[place.to_owned()])?;
        let sound = layers.verify(place, &wharf_content::digest_of(tar))?;
        assert_eq!(sound, Soundness::Sound);
        let below = layers.below(place)?;
        for implied in &unpacked.implied {
            let found = below.directory(&implied.path).map(|found| found.is_some());
            assert!(found.is_ok_and(|found| found), "{}", implied.path.display());
        }
    }
    Ok(())
}
