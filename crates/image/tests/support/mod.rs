//! EVILTAR (tar streams of any shape), CANARY (a tree that must not change) and a scratch data root.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::missing_panics_doc, clippy::print_stderr, unreachable_pub, reason = "test support")]

pub mod evil;
pub mod fake;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use wharf_image::{Error, Images, ImportOptions, LayerStorage, Limits, Loaded, Options};
use wharf_model::Digest;
use wharf_state::Database;

/// A header with every field open to abuse.
#[derive(Clone, Debug)]
pub struct Header {
    pub name: Vec<u8>,
    pub mode: Vec<u8>,
    pub uid: Vec<u8>,
    pub gid: Vec<u8>,
    pub size: Vec<u8>,
    pub mtime: Vec<u8>,
    pub typeflag: u8,
    pub link: Vec<u8>,
    pub magic: Vec<u8>,
    pub major: Vec<u8>,
    pub minor: Vec<u8>,
    pub prefix: Vec<u8>,
    /// Bytes put over the finished header before the checksum is made.
    pub patches: Vec<(usize, Vec<u8>)>,
    pub bad_checksum: bool,
}

pub fn octal(value: u64, width: usize) -> Vec<u8> {
    format!("{value:0width$o}", width = width - 1).into_bytes()
}

impl Header {
    pub fn new(name: &str, typeflag: u8) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            mode: octal(if typeflag == b'5' { 0o755 } else { 0o644 }, 8),
            uid: octal(0, 8),
            gid: octal(0, 8),
            size: octal(0, 12),
            mtime: octal(1_500_000_000, 12),
            typeflag,
            link: Vec::new(),
            magic: b"ustar\x0000".to_vec(),
            major: octal(0, 8),
            minor: octal(0, 8),
            prefix: Vec::new(),
            patches: Vec::new(),
            bad_checksum: false,
        }
    }

    pub fn size(mut self, size: u64) -> Self {
        self.size = octal(size, 12);
        self
    }

    pub fn link(mut self, target: &str) -> Self {
        self.link = target.as_bytes().to_vec();
        self
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = octal(mode.into(), 8);
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = octal(uid.into(), 8);
        self.gid = octal(gid.into(), 8);
        self
    }

    pub fn patch(mut self, at: usize, bytes: &[u8]) -> Self {
        self.patches.push((at, bytes.to_vec()));
        self
    }

    pub fn block(&self) -> [u8; 512] {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, max: usize, bytes: &[u8]| {
            let length = bytes.len().min(max);
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        put(0, 100, &self.name);
        put(100, 8, &self.mode);
        put(108, 8, &self.uid);
        put(116, 8, &self.gid);
        put(124, 12, &self.size);
        put(136, 12, &self.mtime);
        put(148, 8, b"        ");
        put(156, 1, &[self.typeflag]);
        put(157, 100, &self.link);
        put(257, 8, &self.magic);
        put(329, 8, &self.major);
        put(337, 8, &self.minor);
        put(345, 155, &self.prefix);
        for (at, bytes) in &self.patches {
            put(*at, 512, bytes);
        }
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum::<u32>() + u32::from(self.bad_checksum);
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// A tar stream in the making.
#[derive(Clone, Debug, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn header(self, header: &Header) -> Self {
        self.raw(&header.block())
    }

    /// Data with its padding.
    pub fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.header(&Header::new(name, b'0').size(bytes.len() as u64)).data(bytes)
    }

    pub fn dir(self, name: &str) -> Self {
        self.header(&Header::new(name, b'5'))
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.header(&Header::new(name, b'2').link(target))
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.header(&Header::new(name, b'1').link(target))
    }

    /// A PAX header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.pax_of_type(b'x', records)
    }

    pub fn pax_of_type(self, typeflag: u8, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.header(&Header::new("PaxHeaders/x", typeflag).size(data.len() as u64)).data(&data)
    }

    /// A GNU long name (`L`) or link (`K`) for the next entry.
    pub fn long(self, typeflag: u8, name: &[u8]) -> Self {
        let mut data = name.to_vec();
        data.push(0);
        let mut header = Header::new("././@LongLink", typeflag).size(data.len() as u64);
        header.magic = b"ustar  \0".to_vec();
        self.header(&header).data(&data)
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// A docker-archive of one image with these layers (plain tars), as `docker save` of 2016 to 2023 wrote it.
pub fn docker_archive(name: &str, layers: &[&[u8]]) -> Vec<u8> {
    docker_archive_of(&[(name, layers)])
}

pub fn docker_archive_of(images: &[(&str, &[&[u8]])]) -> Vec<u8> {
    let mut tar = Tar::new();
    let mut items = Vec::new();
    for (number, (name, layers)) in images.iter().enumerate() {
        let mut paths = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let path = format!("{number}{index}/layer.tar");
            tar = tar.file(&path, layer);
            paths.push(format!("{path:?}"));
        }
        let config = config_of(layers);
        tar = tar.file(&format!("{number}.json"), config.as_bytes());
        let tags = if name.is_empty() { "null".to_owned() } else { format!("[{name:?}]") };
        items.push(format!(
            r#"{{"Config":"{number}.json","RepoTags":{tags},"Layers":[{}]}}"#,
            paths.join(",")
        ));
    }
    tar.file("manifest.json", format!("[{}]", items.join(",")).as_bytes()).finish()
}

/// A config for these uncompressed layers.
pub fn config_of(layers: &[&[u8]]) -> String {
    let diffs: Vec<String> =
        layers.iter().map(|layer| format!("\"{}\"", wharf_content::digest_of(layer))).collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2024-05-06T07:08:09Z","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diffs.join(",")
    )
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A data root with a canary beside it.
pub struct Scratch {
    // Goes before its directory does.
    pub images: Images,
    pub dir: tempfile::TempDir,
    canary: BTreeMap<PathBuf, Seen>,
    storage: LayerStorage,
}

impl Scratch {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        Self::at(limits, LayerStorage::Automatic, scratch_directory())
    }

    /// With layers as directories, in memory if possible.
    pub fn of_directories() -> Self {
        Self::at(Limits::default(), LayerStorage::Directories, scratch_directory())
    }

    /// With layers as files, if this machine can mount them.
    pub fn of_images() -> Option<Self> {
        let scratch = Self::on_disk();
        let id = scratch.import(&Tar::new().file("f", b"").finish()).unwrap();
        let supported = scratch.has_image();
        scratch.images.remove(&id.to_string(), false, &|_| Vec::new()).unwrap();
        scratch.images.collect().unwrap();
        if !supported {
            eprintln!("this machine cannot mount EROFS images: they are not tested");
        }
        supported.then_some(scratch)
    }

    /// One for every way to keep layers.
    pub fn of_each_format() -> impl Iterator<Item = Self> {
        std::iter::once_with(|| Some(Self::of_directories()))
            .chain(std::iter::once_with(Self::of_images))
            .flatten()
    }

    /// Whether some layer is a file.
    pub fn has_image(&self) -> bool {
        let layers = fs::read_dir(self.data().join("snapshots")).unwrap();
        layers.flatten().any(|layer| layer.path().join("layer.erofs").exists())
    }

    /// On the disk that temporary files are on, with its real syncs.
    pub fn on_disk() -> Self {
        Self::at(Limits::default(), LayerStorage::Automatic, tempfile::tempdir().unwrap())
    }

    fn at(limits: Limits, storage: LayerStorage, dir: tempfile::TempDir) -> Self {
        make_canary(&dir.path().join("canary"));
        let canary = survey(&dir.path().join("canary"));
        let images = open(&dir.path().join("data"), limits, storage);
        Self { images, dir, canary, storage }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    pub fn import(&self, tar: &[u8]) -> Result<Digest, Error> {
        self.images.import(&mut &tar[..], ImportOptions::default())
    }

    pub fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>, Error> {
        self.images.load(&mut &archive[..], &mut |_| {})
    }

    /// The files of an image's topmost layer.
    pub fn top(&self, image: &Digest) -> PathBuf {
        let key = format!("look-{}", image.short());
        let mounts = self.images.create_snapshot(&key, image).unwrap();
        self.images.remove_snapshot(&key).unwrap();
        mounts.base.join(&mounts.lower[0])
    }

    pub fn check_canary(&self, what: &str) {
        let now = survey(&self.canary());
        assert_eq!(self.canary, now, "{what} changed something outside the root");
    }

    /// Nothing but an empty store is left on disk.
    pub fn check_empty(&self, what: &str) {
        self.images.collect().unwrap();
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new(), "after {what}");
    }

    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for directory in ["content/blobs/sha256", "content/ingest", "snapshots", "snapshots/.trash"] {
            for entry in fs::read_dir(self.data().join(directory)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name() != ".trash" {
                    found.push(Path::new(directory).join(entry.file_name()));
                }
            }
        }
        found.sort();
        found
    }

    /// Opens the data root again, as after a restart of the engine.
    pub fn reopen(&mut self) {
        // The old handle goes first: only one owns a data root.
        let spare = tempfile::tempdir().unwrap();
        self.images = open(spare.path(), Limits::default(), self.storage);
        self.images = open(&self.data(), Limits::default(), self.storage);
    }
}

/// A temporary directory in memory, if there is room and the kernel keeps all attributes there. What these tests do is
/// mostly syncing, and on a disk that others use too each sync waits for their data as well.
fn scratch_directory() -> tempfile::TempDir {
    const ROOM: u64 = 2 << 30;
    let memory = Path::new("/dev/shm");
    let in_memory = || {
        let free = rustix::fs::statvfs(memory).ok().filter(|stat| stat.f_bavail * stat.f_frsize > ROOM);
        let dir = free.and_then(|_| tempfile::tempdir_in(memory).ok())?;
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.path(), "user.test", b"x", flags).ok()?;
        rustix::fs::setxattr(dir.path(), "trusted.test", b"x", flags).ok()?;
        Some(dir)
    };
    in_memory().unwrap_or_else(|| tempfile::tempdir().unwrap())
}

pub fn open(root: &Path, limits: Limits, storage: LayerStorage) -> Images {
    fs::create_dir_all(root).unwrap();
    let db = Database::open(&root.join("state.db")).unwrap();
    Images::open_with(root, db, Options { limits, layers: storage, ..Options::default() }).unwrap()
}

fn make_canary(path: &Path) {
    fs::create_dir_all(path.join("dir/sub")).unwrap();
    fs::write(path.join("secret"), "secret").unwrap();
    fs::write(path.join("dir/file"), "file").unwrap();
    fs::set_permissions(path.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("secret", path.join("link")).unwrap();
    std::os::unix::fs::symlink("dir", path.join("dirlink")).unwrap();
}

/// All that can be seen of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: char,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: (i64, i64),
    pub links: u64,
    pub device: u64,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// A tree with all metadata, by relative path; the root is the empty path.
pub fn survey(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path).unwrap();
        let file_type = metadata.file_type();
        let (kind, content) = if file_type.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                pending.push(relative.join(entry.unwrap().file_name()));
            }
            ('d', Vec::new())
        } else if file_type.is_symlink() {
            ('l', fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else if file_type.is_file() {
            ('f', content_of(&path))
        } else if file_type.is_fifo() {
            ('p', Vec::new())
        } else if file_type.is_char_device() {
            ('c', Vec::new())
        } else {
            ('b', Vec::new())
        };
        seen.insert(
            relative,
            Seen {
                kind,
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                size: if kind == 'd' { 0 } else { metadata.size() },
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                links: if kind == 'd' { 0 } else { metadata.nlink() },
                device: metadata.rdev(),
                content,
                xattrs: xattrs_of(&path, kind),
            },
        );
    }
    seen
}

/// The bytes of a file, or their digest when there are many.
fn content_of(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    if bytes.len() > 64 { wharf_content::digest_of(&bytes).to_string().into_bytes() } else { bytes }
}

pub fn xattrs_of(path: &Path, kind: char) -> BTreeMap<OsString, Vec<u8>> {
    let mut xattrs = BTreeMap::new();
    if kind != 'd' && kind != 'f' {
        return xattrs;
    }
    let mut names = vec![0_u8; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        xattrs.insert(std::ffi::OsStr::from_bytes(name).to_owned(), value);
    }
    xattrs
}
