//! The on-disk format, as far as layers use it: little-endian structures of fixed size, all at even places.
//!
//! EROFS addresses data by 32-bit block numbers and inodes by 32-byte slots ([`Nid`]) from a base block. With blocks of
//! 512 bytes, the unit of tar, the data of every file in a tar stream begins at a block.

use std::io;

/// Base-two logarithm of the block size.
pub(super) const BLOCK_BITS: u8 = 9;
/// The block size; directories are divided into blocks of this size too.
pub(super) const BLOCK: usize = 1 << BLOCK_BITS;
/// Where the superblock lies.
pub(super) const SUPERBLOCK_AT: u64 = 1024;
/// Its size.
pub(super) const SUPERBLOCK: usize = 128;
/// What the kernel reports for a mount of this type.
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
/// Inodes begin at multiples of this.
pub(super) const SLOT: u64 = 32;
/// Size of an inode that has room for every field.
pub(super) const INODE: usize = 64;
/// Size of a directory entry without its name.
pub(super) const DIRENT: usize = 12;
/// Longest name.
pub(super) const MAX_NAME: usize = 255;

/// A place in the table of inodes, in slots.
pub(super) type Nid = u32;

/// Puts little-endian fields one after the other.
struct Fields<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Fields<'_> {
    fn put(&mut self, field: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
        self
    }

    fn skip(&mut self, bytes: usize) -> &mut Self {
        self.at += bytes;
        self
    }
}

/// What the kernel needs to know to mount an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// The root directory; only 16 bits are there for it.
    pub(super) root: u16,
    pub(super) inodes: u64,
    /// Size of the whole image in blocks.
    pub(super) blocks: u32,
    /// The block the slots are counted from.
    pub(super) table: u32,
    /// Tells images apart: overlayfs wants its layers to differ.
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    pub(super) fn to_bytes(&self) -> [u8; SUPERBLOCK] {
        let mut bytes = [0; SUPERBLOCK];
        let mut fields = Fields { bytes: &mut bytes, at: 0 };
        fields
            .put(&MAGIC.to_le_bytes())
            .skip(4) // checksum: not used
            .skip(4) // compatible features: none
            .put(&[BLOCK_BITS, 0])
            .put(&self.root.to_le_bytes())
            .put(&self.inodes.to_le_bytes())
            .skip(12) // times of short inodes
            .put(&self.blocks.to_le_bytes())
            .put(&self.table.to_le_bytes())
            .skip(4) // shared attributes: none
            .put(&self.uuid);
        // A volume name and incompatible features follow: none.
        bytes
    }
}

impl Superblock {
    /// What [`Superblock::to_bytes`] was given.
    pub(super) fn from_bytes(bytes: &[u8; SUPERBLOCK]) -> Option<Self> {
        if word(bytes, 0)? != MAGIC || bytes[12] != BLOCK_BITS {
            return None;
        }
        Some(Self {
            root: half(bytes, 14)?,
            inodes: long(bytes, 16)?,
            blocks: word(bytes, 36)?,
            table: word(bytes, 40)?,
            uuid: *bytes[48..].first_chunk()?,
        })
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Where an inode's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// In consecutive blocks.
    At(u32),
    /// Behind the inode, in the same block.
    Inline,
    /// Nowhere: a device, with the number the kernel encodes it as; zero for a FIFO.
    Device(u32),
}

/// Everything about a file but its names, data and attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inode {
    /// With the type of the file.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) data: Data,
    /// Bytes of attributes behind it, as [`xattrs`] gives them.
    pub(super) xattrs: usize,
    /// A number for 32-bit programs.
    pub(super) serial: u32,
}

/// The fields of an inode that may be changed later: where they begin and what they are.
pub(super) const MODE_AT: u64 = 4;
pub(super) const OWNER_AT: u64 = 24;

/// Owner, group and times as they lie at [`OWNER_AT`].
pub(super) fn owner_and_times(uid: u32, gid: u32, mtime: (i64, u32)) -> [u8; 20] {
    let mut bytes = [0; 20];
    Fields { bytes: &mut bytes, at: 0 }
        .put(&uid.to_le_bytes())
        .put(&gid.to_le_bytes())
        .put(&mtime.0.to_le_bytes())
        .put(&mtime.1.to_le_bytes());
    bytes
}

impl Inode {
    const LONG: u16 = 1;
    const LONG_INLINE: u16 = Self::LONG | 2 << 1;

    pub(super) fn to_bytes(self) -> [u8; INODE] {
        let (format, place) = match self.data {
            Data::At(block) => (Self::LONG, block),
            Data::Inline => (Self::LONG_INLINE, 0),
            Data::Device(number) => (Self::LONG, number),
        };
        let mut bytes = [0; INODE];
        Fields { bytes: &mut bytes, at: 0 }
            .put(&format.to_le_bytes())
            .put(&xattr_count(self.xattrs).to_le_bytes())
            .put(&self.mode.to_le_bytes())
            .skip(2)
            .put(&self.size.to_le_bytes())
            .put(&place.to_le_bytes())
            .put(&self.serial.to_le_bytes())
            .put(&owner_and_times(self.uid, self.gid, self.mtime))
            .put(&self.links.to_le_bytes());
        bytes
    }
}

impl Inode {
    /// What [`Inode::to_bytes`] was given.
    pub(super) fn from_bytes(bytes: &[u8; INODE]) -> Option<Self> {
        let mode = half(bytes, 4)?;
        let place = word(bytes, 16)?;
        let has_data = matches!(file_type(mode), 1 | 2 | 7);
        let data = match half(bytes, 0)? {
            Self::LONG if has_data => Data::At(place),
            Self::LONG if file_type(mode) != 0 => Data::Device(place),
            Self::LONG_INLINE if has_data => Data::Inline,
            _ => return None,
        };
        let xattrs = usize::from(half(bytes, 2)?).checked_sub(1).map_or(0, |units| XATTR_HEADER + 4 * units);
        Some(Self {
            mode,
            uid: word(bytes, 24)?,
            gid: word(bytes, 28)?,
            mtime: (long(bytes, 32)?.cast_signed(), word(bytes, 40)?),
            links: word(bytes, 44)?,
            size: long(bytes, 8)?,
            data,
            xattrs,
            serial: word(bytes, 20)?,
        })
    }
}

/// The attributes' size as an inode states it: four-byte units, the header counting as one.
fn xattr_count(bytes: usize) -> u16 {
    if bytes == 0 { 0 } else { ((bytes - XATTR_HEADER) / 4 + 1) as u16 }
}

const XATTR_HEADER: usize = 12;
/// More than this an inode cannot state.
pub(super) const MAX_XATTRS: usize = XATTR_HEADER + 4 * (u16::MAX as usize - 1);

/// Attributes as they lie behind an inode; `None` if the format has no place for them.
pub(super) fn xattrs<'a>(list: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Vec<u8>> {
    const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
    let mut bytes = vec![0; XATTR_HEADER];
    for (name, value) in list {
        let (index, name) =
            PREFIXES.iter().find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)))?;
        bytes.push(u8::try_from(name.len()).ok()?);
        bytes.push(index);
        bytes.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    match bytes.len() {
        XATTR_HEADER => Some(Vec::new()),
        length if length <= MAX_XATTRS => Some(bytes),
        _ => None,
    }
}

/// The type of a file as directories state it.
pub(super) fn file_type(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o120_000 => 7,
        _ => 0,
    }
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: Nid,
    pub(super) file_type: u8,
}

/// Divides the names of a directory into blocks: how many bytes it has in the end.
#[derive(Debug, Default)]
pub(super) struct DirectorySize {
    full: u64,
    used: usize,
}

impl DirectorySize {
    pub(super) fn add(&mut self, name: &[u8]) {
        let length = DIRENT + name.len();
        if self.used + length > BLOCK {
            self.full += 1;
            self.used = 0;
        }
        self.used += length;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.full * BLOCK as u64 + self.used as u64
    }
}

/// Writes a directory whose entries come in ascending order of their names.
pub(super) fn write_directory<'a>(
    entries: impl Iterator<Item = Dirent<'a>>,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let mut block: Vec<Dirent<'a>> = Vec::new();
    let mut used = 0;
    for entry in entries {
        let length = DIRENT + entry.name.len();
        if used + length > BLOCK {
            write_directory_block(&block, out)?;
            out.write_all(&[0; BLOCK][used..])?;
            block.clear();
            used = 0;
        }
        block.push(entry);
        used += length;
    }
    write_directory_block(&block, out)
}

fn write_directory_block(entries: &[Dirent<'_>], out: &mut dyn io::Write) -> io::Result<()> {
    let mut name_at = entries.len() * DIRENT;
    for entry in entries {
        let mut bytes = [0; DIRENT];
        Fields { bytes: &mut bytes, at: 0 }
            .put(&u64::from(entry.nid).to_le_bytes())
            .put(&(name_at as u16).to_le_bytes())
            .put(&[entry.file_type]);
        out.write_all(&bytes)?;
        name_at += entry.name.len();
    }
    entries.iter().try_for_each(|entry| out.write_all(entry.name))
}

/// The first name of a block of a directory.
pub(super) fn first_in_block(block: &[u8]) -> Option<&[u8]> {
    let name_at = |index: usize| half(block, index * DIRENT + 8).map(usize::from);
    let start = name_at(0)?;
    let end = if start / DIRENT > 1 { name_at(1)? } else { block.len() };
    // Behind the last name there may be zeros.
    block.get(start..end)?.split(|byte| *byte == 0).next()
}

/// Looks for a name in one block of a directory. The outer `None` says that it is none.
pub(super) fn find_in_block(block: &[u8], name: &[u8]) -> Option<Option<Nid>> {
    let name_at = |index: usize| half(block, index * DIRENT + 8).map(usize::from);
    let count = name_at(0)? / DIRENT;
    for index in 0..count {
        let end = if index + 1 < count { name_at(index + 1)? } else { block.len() };
        let found = block.get(name_at(index)?..end)?;
        // Behind the last name there may be zeros.
        if found.strip_prefix(name).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == 0)) {
            return Some(Some(Nid::try_from(long(block, index * DIRENT)?).ok()?));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_as_large_as_its_size_says_and_its_blocks_begin_with_entries() {
        let names: Vec<Vec<u8>> =
            (0..1000).map(|number| format!("{number:0>0$}", 1 + number % 255).into_bytes()).collect();
        let mut sorted = names.clone();
        sorted.sort();
        let mut size = DirectorySize::default();
        sorted.iter().for_each(|name| size.add(name));
        let mut bytes = Vec::new();
        let entries = sorted.iter().map(|name| Dirent { name, nid: 7, file_type: 1 });
        write_directory(entries, &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, size.bytes());

        for name in &sorted {
            let found = bytes.chunks(BLOCK).find_map(|block| find_in_block(block, name).unwrap());
            assert_eq!(found, Some(7), "{}", String::from_utf8_lossy(name));
        }
        let missing = bytes.chunks(BLOCK).find_map(|block| find_in_block(block, b"0000000x").unwrap());
        assert_eq!(missing, None);
    }

    #[test]
    fn attributes_that_have_no_place_are_refused() {
        let with = |name: &'static str, length: usize| {
            let value = vec![b'x'; length];
            xattrs([(name.as_bytes(), &value[..])].into_iter())
        };
        assert_eq!(with("user.a", 1).unwrap().len(), 12 + 8);
        assert!(with("user.a", 65_535).is_some());
        assert!(with("user.a", 65_536).is_none());
        assert!(with("system.posix_acl_access", 4).is_none());
        assert_eq!(xattrs(std::iter::empty()).unwrap(), Vec::<u8>::new());
        let value = vec![0; 65_000];
        assert!(xattrs((0..5).map(|_| (&b"user.a"[..], &value[..]))).is_none());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let superblock = Superblock { root: 3, inodes: 1 << 40, blocks: 5, table: 6, uuid: [7; 16] };
        assert_eq!(Superblock::from_bytes(&superblock.to_bytes()), Some(superblock));
        for (mode, data, xattrs) in [
            (0o100_644, Data::At(9), 0),
            (0o040_755, Data::Inline, 12 + 8),
            (0o120_777, Data::Inline, MAX_XATTRS),
            (0o020_600, Data::Device(0x103), 16),
            (0o010_600, Data::Device(0), 0),
        ] {
            let inode = Inode {
                mode,
                uid: 1,
                gid: u32::MAX - 1,
                mtime: (-2, 3),
                links: 4,
                size: 5,
                data,
                xattrs,
                serial: 6,
            };
            assert_eq!(Inode::from_bytes(&inode.to_bytes()), Some(inode));
        }
        assert_eq!(Inode::from_bytes(&[0; INODE]), None);
        assert_eq!(Superblock::from_bytes(&[0; SUPERBLOCK]), None);
    }
}
