//! Layers as directories: what [`crate::unpack`] makes, everywhere and without privileges beyond its own.

use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use wharf_linux::confined::{self, Handle, Metadata, Root};
use wharf_linux::hostfs;
use wharf_model::Digest;

use crate::layer::{Below, FILES, Format, Implied, Inherited, LayerFormat, Soundness, UnpackedLayer, drain};
use crate::limits::Limits;
use crate::unpack::unpack;
use crate::{Error, Result, tar};

/// The format.
#[derive(Debug)]
pub(crate) struct Directories;

impl LayerFormat for Directories {
    fn unpack(&self, tar: &mut dyn BufRead, place: &Path, limits: &Limits) -> Result<UnpackedLayer> {
        let mut reader = tar::Reader::new(&mut *tar);
        let unpacked = unpack(&mut reader, &place.join(FILES), limits)?;
        let has_end_mark = reader.has_end_mark();
        drain(tar).map_err(Error::input)?;
        Ok(UnpackedLayer {
            format: Format::Directory,
            implied: unpacked.implied.into_iter().map(|path| Implied { path, at: 0 }).collect(),
            size: unpacked.size,
            opaque_root: unpacked.opaque_root,
            has_end_mark,
        })
    }

    fn describe(&self, place: &Path, directories: &[(&Implied, Inherited)]) -> Result<()> {
        let files = place.join(FILES);
        let root = Root::open(&files)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        for (implied, from) in directories {
            let directory = root.open_at(&implied.path, flags, Mode::empty())?;
            let time = Timespec { tv_sec: from.mtime.0, tv_nsec: from.mtime.1.into() };
            let times = Some(Timestamps { last_access: time, last_modification: time });
            let metadata = Metadata { uid: from.uid, gid: from.gid, mode: from.mode, times, xattrs: &[] };
            confined::apply(directory.as_fd(), Handle::Opened, &metadata)
                .map_err(|error| hostfs::Error::new("set metadata of", &files.join(&implied.path), error))?;
        }
        Ok(())
    }

    fn below(&self, place: &Path) -> Result<Box<dyn Below>> {
        Ok(Box::new(Root::open(&place.join(FILES))?.without_links()))
    }

    fn sync(&self, places: &[PathBuf]) -> Result<()> {
        // One call for tens of thousands of files; they are all on one file system.
        places.first().map_or(Ok(()), |place| Ok(hostfs::sync_file_system(place)?))
    }

    fn attach(&self, _place: &Path) -> Result<()> {
        Ok(())
    }

    fn detach(&self, _place: &Path) -> Result<()> {
        Ok(())
    }

    fn stream(&self, _place: &Path) -> Result<Option<Box<dyn Read>>> {
        Ok(None)
    }

    fn verify(&self, _place: &Path, _diff: &Digest) -> Result<Soundness> {
        Ok(Soundness::Unknown)
    }
}

impl Below for Root {
    fn directory(&self, path: &Path) -> io::Result<Option<Inherited>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let Ok(directory) = self.open_at(path, flags, Mode::empty()) else { return Ok(None) };
        let stat = rustix::fs::fstat(&directory)?;
        let mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        Ok(Some(Inherited { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime }))
    }
}
