//! What the command of a container is, as far as its first bytes tell: why it cannot be executed.
//!
//! The file belongs to the container: it is opened beneath its root by descriptor, never executed, and at most
//! [`HEAD`] bytes plus the program headers are read of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use wharf_linux::confined::Root;

use super::{Cause, Ending};
use crate::containers::Record;

/// Bytes read of a file's beginning.
const HEAD: usize = 4096;
/// Program headers looked at.
const HEADERS: u16 = 64;

/// What is wrong with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing that its bytes tell.
    Nothing,
    /// It is nowhere; these places were looked at.
    Missing { looked: Vec<String> },
    /// A directory or another thing that is no file.
    NoFile { path: String, what: &'static str },
    /// No permission bit for execution.
    NoPermission { path: String, mode: u32 },
    /// An ELF file whose loader is not there.
    Loader { path: String, loader: String },
    /// A script whose interpreter is not there.
    Interpreter { path: String, interpreter: String },
    /// An ELF file for another processor.
    Foreign { path: String, machine: String },
    /// Neither ELF nor a script with `#!`.
    Shapeless { path: String, text: bool },
}

/// Looks at the command of a container whose files are beneath `root`.
pub(crate) fn look(root: &Root, record: &Record) -> Finding {
    let Some(command) = record.command().into_iter().next().filter(|name| !name.is_empty()) else {
        return Finding::Missing { looked: Vec::new() };
    };
    let cwd = Path::new("/").join(&record.spec.working_dir);
    let mut looked = Vec::new();
    for place in places(&command, &record.spec.env, &cwd) {
        match open(root, &place) {
            Ok(Opened::File(file)) => return inside(root, &place, &file),
            // A search by PATH goes on behind what cannot be executed, a path is what it is.
            Ok(Opened::Other(finding)) if command.contains('/') => return finding,
            Ok(Opened::Other(Finding::NoPermission { path, mode })) => {
                return Finding::NoPermission { path, mode };
            }
            Ok(Opened::Other(_)) | Err(_) => looked.push(place.display().to_string()),
        }
    }
    Finding::Missing { looked }
}

fn places(command: &str, env: &[String], cwd: &Path) -> Vec<PathBuf> {
    if command.contains('/') {
        return vec![cwd.join(command)];
    }
    let path = env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':').take(64).map(|dir| cwd.join(dir).join(command)).collect()
}

enum Opened {
    File(File),
    Other(Finding),
}

fn open(root: &Root, path: &Path) -> Result<Opened, wharf_linux::hostfs::Error> {
    let handle = root.open_at(path, OFlags::PATH, Mode::empty())?;
    let shown = path.display().to_string();
    let Ok(stat) = rustix::fs::fstat(&handle) else {
        return Ok(Opened::Other(Finding::NoFile { path: shown, what: "a file that cannot be looked at" }));
    };
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_mode & 0o111 == 0 => {
            return Ok(Opened::Other(Finding::NoPermission { path: shown, mode: stat.st_mode & 0o7777 }));
        }
        FileType::RegularFile => return root.open_regular(path).map(Opened::File),
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Ok(Opened::Other(Finding::NoFile { path: shown, what }))
}

/// What the first bytes tell.
fn inside(root: &Root, path: &Path, file: &File) -> Finding {
    let mut head = vec![0; HEAD];
    let length = read_at(file, &mut head, 0).unwrap_or(0);
    head.truncate(length);
    let shown = path.display().to_string();
    let missing = |name: &str| root.open_at(Path::new(name), OFlags::PATH, Mode::empty()).is_err();
    if head.starts_with(b"\x7fELF") {
        let Some(elf) = Elf::read(&head) else { return Finding::Shapeless { path: shown, text: false } };
        if !elf.runs_here() {
            return Finding::Foreign { path: shown, machine: elf.machine_name() };
        }
        return match elf.loader(file).filter(|loader| missing(loader)) {
            Some(loader) => Finding::Loader { path: shown, loader },
            None => Finding::Nothing,
        };
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        // A carriage return is part of the name, and what makes it unfindable.
        let interpreter = line.trim_matches([' ', '\t']).split([' ', '\t']).next().unwrap_or_default();
        return match missing(interpreter) {
            true => Finding::Interpreter { path: shown, interpreter: interpreter.to_owned() },
            false => Finding::Nothing,
        };
    }
    let text = !head.contains(&0) && !head.is_empty();
    Finding::Shapeless { path: shown, text }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The few fields of an ELF header that matter here (elf(5)).
struct Elf {
    wide: bool,
    big: bool,
    machine: u16,
    headers_at: u64,
    header_size: u16,
    headers: u16,
}

impl Elf {
    fn read(head: &[u8]) -> Option<Self> {
        let (wide, big) = (*head.get(4)? == 2, *head.get(5)? == 2);
        let elf = Self { wide, big, machine: 0, headers_at: 0, header_size: 0, headers: 0 };
        let (at, size, count) = if wide { (32, 54, 56) } else { (28, 42, 44) };
        Some(Self {
            machine: elf.number(head, 18, 2)? as u16,
            headers_at: elf.number(head, at, if wide { 8 } else { 4 })?,
            header_size: elf.number(head, size, 2)? as u16,
            headers: elf.number(head, count, 2)? as u16,
            ..elf
        })
    }

    fn number(&self, bytes: &[u8], at: usize, size: usize) -> Option<u64> {
        let field = bytes.get(at..at + size)?;
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.big { field.iter().fold(0, join) } else { field.iter().rev().fold(0, join) })
    }

    fn runs_here(&self) -> bool {
        match std::env::consts::ARCH {
            "x86_64" => matches!(self.machine, 62 | 3),
            "aarch64" => matches!(self.machine, 183 | 40),
            "riscv64" => self.machine == 243,
            "powerpc64" => self.machine == 21,
            "s390x" => self.machine == 22,
            _ => true,
        }
    }

    fn machine_name(&self) -> String {
        let name = match self.machine {
            3 => "x86 (386)",
            8 => "MIPS",
            20 => "PowerPC",
            21 => "PowerPC 64 (ppc64le)",
            22 => "IBM Z (s390x)",
            40 => "ARM 32 (arm)",
            62 => "x86-64 (amd64)",
            183 => "ARM 64 (arm64)",
            243 => "RISC-V (riscv64)",
            258 => "LoongArch (loong64)",
            other => return format!("machine number {other}"),
        };
        name.to_owned()
    }

    /// The name of the dynamic loader, if the program wants one.
    fn loader(&self, file: &File) -> Option<String> {
        const INTERP: u64 = 3;
        let size = usize::from(self.header_size);
        let (offset_at, length_at, word) = if self.wide { (8, 32, 8) } else { (4, 16, 4) };
        if !(length_at + word..=256).contains(&size) {
            return None;
        }
        let mut table = vec![0; size * usize::from(self.headers.min(HEADERS))];
        let read = read_at(file, &mut table, self.headers_at).ok()?;
        for header in table.get(..read)?.chunks_exact(size) {
            if self.number(header, 0, 4) != Some(INTERP) {
                continue;
            }
            let (at, length) = (self.number(header, offset_at, word)?, self.number(header, length_at, word)?);
            let mut name = vec![0; usize::try_from(length).ok()?.min(HEAD)];
            let read = read_at(file, &mut name, at).ok()?;
            name.truncate(read);
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty());
        }
        None
    }
}

/// Says in an ending what was found.
pub(crate) fn explain(ending: &mut Ending, finding: Finding, wanted: Option<&str>) {
    let ours = std::env::consts::ARCH;
    let (kind, cause, evidence, advice) = match finding {
        Finding::Nothing => return,
        Finding::Missing { looked } if looked.is_empty() => (
            Cause::CommandMissing,
            "There is no command to run.".to_owned(),
            "neither the image nor the command line names one".to_owned(),
            "name one behind the image".to_owned(),
        ),
        Finding::Missing { looked } => (
            Cause::CommandMissing,
            format!("The command \"{}\" does not exist in the container.", first(&ending.command)),
            format!("not there: {}", looked.join(", ")),
            "is it spelled right, and is it in this image? A mount over its directory hides it".to_owned(),
        ),
        Finding::NoFile { path, what } => (
            Cause::CommandNotExecutable,
            format!("The command {path} is {what} and no program."),
            format!("{path} is {what}"),
            "name the program in it".to_owned(),
        ),
        Finding::NoPermission { path, mode } => (
            Cause::CommandNotExecutable,
            format!("The command {path} has no permission to be executed."),
            format!("its mode is {mode:04o}: no x for anybody"),
            "chmod +x before it comes into the image (COPY --chmod=755), or run it by its interpreter: sh FILE"
                .to_owned(),
        ),
        Finding::Loader { path, loader } => (
            Cause::LoaderMissing,
            format!("The program {path} needs the dynamic loader {loader}, which the container does not have."),
            format!("{path} is an ELF file whose PT_INTERP is {loader}; that does not exist"),
            match loader.contains("musl") {
                true => "it was built for musl (Alpine): take such a base image, or build it for this one",
                false => "link it statically, or take a base image with its C library (debian, not alpine or scratch)",
            }
            .to_owned(),
        ),
        Finding::Interpreter { path, interpreter } if interpreter.ends_with('\r') => {
            let name = interpreter.trim_end();
            (
                Cause::InterpreterMissing,
                format!("The script {path} has Windows line ends, so its interpreter \"{name}\\r\" does not exist."),
                format!("its first line is #!{name} with a carriage return behind it"),
                format!("convert it: sed -i 's/\\r$//' {path}; in git, *.sh text eol=lf in .gitattributes"),
            )
        }
        Finding::Interpreter { path, interpreter } => (
            Cause::InterpreterMissing,
            format!("The script {path} needs the interpreter {interpreter}, which the container does not have."),
            format!("its first line is #!{interpreter}; that does not exist"),
            "name an interpreter that the image has (alpine has /bin/sh and no /bin/bash), or install it".to_owned(),
        ),
        Finding::Foreign { path, machine } => (
            Cause::WrongArchitecture,
            format!("The program {path} is for {machine}, and this machine is {ours}."),
            match wanted {
                Some(platform) => format!("its ELF header says {machine}; the container was made for {platform}"),
                None => format!("its ELF header says {machine}"),
            },
            "pull the image for this machine's platform (--platform), or install an emulator (qemu-user, binfmt_misc)"
                .to_owned(),
        ),
        Finding::Shapeless { path, text } => (
            Cause::NotAProgram,
            match text {
                true => format!("The script {path} does not say what shall interpret it."),
                false => format!("The file {path} is no program that Linux knows."),
            },
            format!("it begins neither with #! nor as an ELF file{}", if text { "; it is text" } else { "" }),
            match text {
                true => "begin it with a line like #!/bin/sh, or run it by its interpreter: sh FILE",
                false => "was it cut, or is it packed? compare it with its source",
            }
            .to_owned(),
        ),
    };
    (ending.kind, ending.cause) = (kind, cause);
    ending.evidence.insert(0, evidence);
    ending.advice = vec![advice];
}

fn first(command: &[String]) -> &str {
    command.first().map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16, loader: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        let mut header = vec![0; 56];
        if let Some(loader) = loader {
            header[0..4].copy_from_slice(&3_u32.to_le_bytes());
            header[8..16].copy_from_slice(&120_u64.to_le_bytes());
            header[32..40].copy_from_slice(&(loader.len() as u64 + 1).to_le_bytes());
        }
        bytes.extend(header);
        bytes.extend(loader.unwrap_or_default().bytes());
        bytes.push(0);
        bytes
    }

    fn find(bytes: &[u8]) -> Finding {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("bin")).unwrap();
        std::fs::write(directory.path().join("bin/sh"), b"").unwrap();
        let path = directory.path().join("app");
        std::fs::write(&path, bytes).unwrap();
        let root = Root::open(directory.path()).unwrap();
        inside(&root, Path::new("/app"), &File::open(path).unwrap())
    }

    #[test]
    fn the_first_bytes_tell() {
        let path = || "/app".to_owned();
        let here: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        let there: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        assert_eq!(find(&elf(here, None)), Finding::Nothing);
        assert_eq!(find(&elf(here, Some("/bin/sh"))), Finding::Nothing);
        let loader = "/lib/ld-musl-x86_64.so.1".to_owned();
        assert_eq!(find(&elf(here, Some(&loader))), Finding::Loader { path: path(), loader });
        assert!(matches!(find(&elf(there, None)), Finding::Foreign { .. }));
        assert_eq!(find(b"#! /bin/sh -e\n"), Finding::Nothing);
        let interpreter = |name: &str| Finding::Interpreter { path: path(), interpreter: name.to_owned() };
        assert_eq!(find(b"#!/bin/bash\nls"), interpreter("/bin/bash"));
        assert_eq!(find(b"#!/bin/sh\r\nls\r\n"), interpreter("/bin/sh\r"));
        assert_eq!(find(b"echo hello\n"), Finding::Shapeless { path: path(), text: true });
        assert_eq!(find(b"\0\x01"), Finding::Shapeless { path: path(), text: false });
    }

    /// Headers come from an image: any bytes are looked at without harm.
    #[test]
    fn damaged_headers_are_harmless() {
        let good = elf(62, Some("/lib64/ld-linux-x86-64.so.2"));
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit as u64) as usize
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app");
        let root = Root::open(directory.path()).unwrap();
        for _ in 0..500 {
            let mut bytes = good.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            bytes.truncate(1 + random(bytes.len()));
            std::fs::write(&path, &bytes).unwrap();
            let _any = inside(&root, Path::new("/app"), &File::open(&path).unwrap());
        }
    }
}
