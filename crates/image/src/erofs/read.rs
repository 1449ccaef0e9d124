//! Looking up directories in an image without mounting it: what a layer above has to know of this one.
//!
//! Reads only what [`super::write`] wrote; anything else is damage.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::format::{
    BLOCK, Data, INODE, Inode, Nid, SLOT, SUPERBLOCK, SUPERBLOCK_AT, Superblock, find_in_block,
    first_in_block,
};
use super::tree::DIRECTORY;
use crate::layer::{Below, Inherited};

/// An opened image.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    root: Nid,
    table: u64,
}

impl Image {
    pub(super) fn open(file: File) -> io::Result<Self> {
        let mut bytes = [0; SUPERBLOCK];
        file.read_exact_at(&mut bytes, SUPERBLOCK_AT)?;
        let superblock = Superblock::from_bytes(&bytes).ok_or_else(|| damaged("superblock"))?;
        Ok(Self { file, root: superblock.root.into(), table: u64::from(superblock.table) * BLOCK as u64 })
    }

    fn inode(&self, nid: Nid) -> io::Result<(Inode, u64)> {
        let at = self.table + u64::from(nid) * SLOT;
        let mut bytes = [0; INODE];
        self.file.read_exact_at(&mut bytes, at)?;
        let inode = Inode::from_bytes(&bytes).ok_or_else(|| damaged("inode"))?;
        let data = match inode.data {
            Data::At(block) => u64::from(block) * BLOCK as u64,
            Data::Inline | Data::Device(_) => at + (INODE + inode.xattrs) as u64,
        };
        Ok((inode, data))
    }

    /// The directory at a path, links not followed.
    fn find(&self, path: &Path) -> io::Result<Option<Inode>> {
        let (mut inode, mut data) = self.inode(self.root)?;
        for name in path {
            let Some(nid) = self.entry(inode.size, data, name.as_bytes())? else { return Ok(None) };
            (inode, data) = self.inode(nid)?;
            if inode.mode & 0o170_000 != DIRECTORY {
                return Ok(None);
            }
        }
        Ok(Some(inode))
    }

    fn entry(&self, size: u64, data: u64, name: &[u8]) -> io::Result<Option<Nid>> {
        let mut block = [0; BLOCK];
        // Names ascend, and a directory can have very many: the last block that begins with no later name.
        let (mut first, mut end) = (0, size.div_ceil(BLOCK as u64));
        while first < end {
            let middle = first.midpoint(end);
            let at = middle * BLOCK as u64;
            let length = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
            self.file.read_exact_at(&mut block[..length], data + at)?;
            let begins = first_in_block(&block[..length]).ok_or_else(|| damaged("directory"))?;
            if begins > name {
                end = middle;
            } else {
                let found = find_in_block(&block[..length], name).ok_or_else(|| damaged("directory"))?;
                if found.is_some() {
                    return Ok(found);
                }
                first = middle + 1;
            }
        }
        Ok(None)
    }
}

impl Below for Image {
    fn directory(&self, path: &Path) -> io::Result<Option<Inherited>> {
        Ok(self.find(path)?.map(|inode| Inherited {
            mode: u32::from(inode.mode & 0o7777),
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
        }))
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a damaged {what}; run `wharf system check`"))
}
