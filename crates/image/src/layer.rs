//! How a layer's files are kept in `snapshots/<n>`: the seam between images and the file systems they lie on.
//!
//! Every format takes the same tar streams and shows the same files at `<n>/fs` once it is attached; a conformance
//! suite (`tests/layers.rs`) holds them to it. Which format a layer has is in its row. A format may hand a layer that
//! it cannot express to another: what counts is [`UnpackedLayer::format`].

use std::fmt;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use wharf_linux::hostfs;
use wharf_model::Digest;

use crate::directory::Directories;
use crate::erofs::Erofs;
use crate::limits::Limits;
use crate::{Error, Images, Result, records};

/// The name of the directory that shows a layer's files.
pub(crate) const FILES: &str = "fs";

/// What the row of a layer says about its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A directory with the files in it.
    Directory,
    /// One file with a file system in it, mounted when needed.
    Erofs,
}

impl Format {
    /// Its name in the database.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Erofs => "erofs",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self> {
        [Self::Directory, Self::Erofs].into_iter().find(|format| format.name() == name).ok_or_else(|| {
            Error::Damaged(format!("a layer has the format {name:?}, which this version does not know"))
        })
    }

    pub(crate) fn layers(self) -> &'static dyn LayerFormat {
        match self {
            Self::Directory => &Directories,
            Self::Erofs => &Erofs,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One way to keep layers. `place` is always the layer's own `snapshots/<n>`, which has an empty `fs` to begin with.
pub(crate) trait LayerFormat: Sync {
    /// Takes in a tar stream and whatever follows it, to the last byte.
    fn unpack(&self, tar: &mut dyn BufRead, place: &Path, limits: &Limits) -> Result<UnpackedLayer>;

    /// Gives directories of a layer that was just unpacked the metadata they have below.
    fn describe(&self, place: &Path, directories: &[(&Implied, Inherited)]) -> Result<()>;

    /// A look at the directories of a layer, for one above it.
    fn below(&self, place: &Path) -> Result<Box<dyn Below>>;

    /// Makes these layers durable.
    fn sync(&self, places: &[PathBuf]) -> Result<()>;

    /// Shows the files at `<place>/fs`, if they are not there already.
    fn attach(&self, place: &Path) -> Result<()>;

    /// Undoes [`LayerFormat::attach`]. Containers that use the layer keep it.
    fn detach(&self, place: &Path) -> Result<()>;

    /// The tar stream the layer was made from, if the format keeps it.
    fn stream(&self, place: &Path) -> Result<Option<Box<dyn Read>>>;

    /// Compares what is on disk with the digest of the uncompressed layer.
    fn verify(&self, place: &Path, diff: &Digest) -> Result<Soundness>;
}

/// The directories of a layer, whether it is attached or not.
pub(crate) trait Below {
    /// The directory at `path`, if it is one.
    fn directory(&self, path: &Path) -> io::Result<Option<Inherited>>;
}

/// What is to be known of an unpacked layer.
#[derive(Debug)]
pub(crate) struct UnpackedLayer {
    pub(crate) format: Format,
    /// Directories that entries needed and the layer does not describe (the root is the empty path): their metadata is
    /// that of the layers below.
    pub(crate) implied: Vec<Implied>,
    /// Bytes of its files and links, each counted once.
    pub(crate) size: u64,
    /// It hides everything below it.
    pub(crate) opaque_root: bool,
    /// The tar stream said that it is over.
    pub(crate) has_end_mark: bool,
}

/// A directory without a description.
#[derive(Debug)]
pub(crate) struct Implied {
    pub(crate) path: PathBuf,
    /// Where its metadata lies, for formats that have such a place.
    pub(crate) at: u64,
}

/// What a directory takes over from below.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inherited {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
}

/// What a look at the bytes of a layer found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Soundness {
    /// Every byte is as it was.
    Sound,
    /// What is wrong.
    Damaged(String),
    /// The format does not keep what would be needed to tell.
    Unknown,
}

/// Gives the `implied` directories of the layer at `place` the metadata of the topmost of the layers `below` that has
/// them.
pub(crate) fn inherit(
    format: Format,
    place: &Path,
    implied: &[Implied],
    below: &[(Format, PathBuf)],
) -> Result<()> {
    let below =
        below.iter().map(|(format, place)| format.layers().below(place)).collect::<Result<Vec<_>>>()?;
    let mut directories = Vec::new();
    for implied in implied {
        for layer in &below {
            let found = layer
                .directory(&implied.path)
                .map_err(|error| hostfs::Error::new("look for a directory below", &implied.path, error))?;
            if let Some(inherited) = found {
                directories.push((implied, inherited));
                break;
            }
        }
    }
    if directories.is_empty() { Ok(()) } else { format.layers().describe(place, &directories) }
}

impl Images {
    /// Compares the layers on disk with their digests; returns those that differ and in what. Layers that are
    /// directories cannot be compared.
    ///
    /// # Errors
    /// [`Error::Store`] when a layer cannot be read.
    pub fn damaged_layers(&self) -> Result<Vec<(Digest, String)>> {
        let mut damaged = Vec::new();
        for row in self.inner.db.read(records::layers)? {
            let soundness = row.format.layers().verify(&self.inner.place_of(row.directory), &row.diff)?;
            if let Soundness::Damaged(what) = soundness {
                damaged.push((row.chain, what));
            }
        }
        Ok(damaged)
    }
}

/// Reads what follows an archive: it belongs to the digest too.
pub(crate) fn drain(input: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let taken = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(rest) => rest.len(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        input.consume(taken);
    }
}
