//! What a caller that has another runtime make the container must do beforehand, because no configuration can say it:
//! Docker's users by name, the built-in profile, the overlay.

use crate::error::{Context, Error, Result};
use crate::root::Root;
use crate::spec::{LinuxSeccomp, Process, User};
use crate::{Rootfs, command, program, reaper, rootfs, seccomp, user};
use rustix::mount::MountPropagationFlags;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use wharf_linux::mount;
use wharf_linux::namespace::{self, Namespaces};
use wharf_linux::process::{self, Birth, StringVector};

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Number of the user.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory in the passwd file.
    pub home: Option<String>,
}

/// Looks a user up in the files below `root`, which may be anybody's: every name is resolved beneath it.
pub fn account(root: OwnedFd, user: &User, requested: Option<&str>, groups: &[String]) -> Result<Account> {
    let found = user::identify(&Root::from_fd(root), user, requested, groups, true)?;
    Ok(Account { uid: found.uid, gid: found.gid, groups: found.groups, home: found.home })
}

/// The built-in equal of Docker's default profile, for a process with these capabilities.
pub fn default_profile(process: &Process) -> Result<LinuxSeccomp> {
    seccomp::docker_default_document(program::capability_sets(process).bounding)
}

/// Gives the calling process, which has one thread, a mount namespace of its own, which still sees what is mounted and
/// unmounted on the host, and whose mounts nobody else sees: it ends with the last process that is in it. Mounts the
/// root file system there.
pub fn mount_apart(root: Rootfs<'_>) -> Result<()> {
    let Rootfs::Overlay { mountpoint, .. } = root else { return Ok(()) };
    namespace::unshare(Namespaces::MOUNT).context(|| "make a mount namespace".into())?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", slave).context(|| "keep mounts from the host".into())?;
    let tree = rootfs::capture_root(root, mountpoint)?;
    // Making the overlay has left us there.
    rustix::process::chdir(c"/").context(|| "go to the root directory".into())?;
    let failed = |e| Error::mount(mountpoint, format!("attach the root file system: {e}"));
    let place = wharf_linux::hostfs::open_dir(mountpoint).map_err(|e| failed(e.source))?;
    mount::attach(tree.into_tree(), place).map_err(failed)
}

/// Runs a command as the first process of a container does with `--init`; gives the status to exit with.
pub fn run_as_init(command: &[String]) -> i32 {
    match start_below(command) {
        Ok(child) => reaper::run(&child),
        Err(error) => complain(&error),
    }
}

fn start_below(words: &[String]) -> Result<process::Child> {
    process::block_signals().context(|| "block signals".into())?;
    let become_command = || -> Result<i32> {
        reaper::separate();
        process::reset_signals().context(|| "reset signals".into())?;
        let name = words.first().ok_or_else(|| Error::invalid("there is no command to run"))?;
        let env: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
        let root = Root::open().context(|| "open the root directory".into())?;
        let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let file = command::find(&root, name, &env, &cwd)?;
        let strings = |list: &[String]| {
            let strings = list.iter().map(|text| CString::new(text.as_str()));
            strings.collect::<std::result::Result<_, _>>().map(StringVector::new)
        };
        let (Ok(args), Ok(env)) = (strings(words), strings(&env)) else {
            return Err(Error::invalid("the command has a NUL character in it"));
        };
        Err(command::refusal(name, &process::execve(&file, &args, &env)))
    };
    process::spawn(Birth::default(), || become_command().unwrap_or_else(|error| complain(&error)))
        .context(|| "start the command below its init".into())
}

/// Says why there is no command, where the container's output goes; gives the status a shell would.
fn complain(error: &Error) -> i32 {
    let _nobody = rustix::io::write(rustix::stdio::stderr(), format!("{error}\n").as_bytes());
    match error {
        Error::CommandNotFound { .. } => 127,
        Error::CommandNotExecutable { .. } => 126,
        _ => 1,
    }
}
