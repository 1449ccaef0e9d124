//! From a process that is in place (namespaces, cgroups, root) to the container's program: limits, identity,
//! directory, standard streams, environment, labels, filter, capabilities, `execve`.
//!
//! Split in two: [`Program::prepare`] does what can be done ahead and can fail with a useful message,
//! [`Prepared::run`] what must come last. Only the latter takes rights away.

use crate::capabilities;
use crate::channel::{Channel, Message};
use crate::command;
use crate::error::{Context, Error, Result};
use crate::procfs::Procfs;
use crate::reaper;
use crate::root::Root;
use crate::seccomp::Filter;
use crate::spec::{LinuxPersonalityDomain, PosixRlimitType, Process, Spec};
use crate::user::{self, Identity};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Gid, Mode, Uid};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use wharf_linux::capability::{self, Sets};
use wharf_linux::process::{self, Birth, StringVector};
use wharf_linux::seccomp;

/// Exit status of a process that could not become the program; the reason goes through the channel.
pub(crate) const FAILED: i32 = 1;

/// What to run and as whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    pub(crate) process: &'a Process,
    pub(crate) user: Option<&'a str>,
    pub(crate) groups: &'a [String],
    pub(crate) create_cwd: bool,
    pub(crate) default_home: bool,
    pub(crate) init: bool,
    /// Whether the kernel shall kill the program when the caller dies.
    pub(crate) die_with_parent: bool,
    pub(crate) preserve_fds: u32,
    pub(crate) filter: Option<&'a Filter>,
    /// Execution domain, see personality(2).
    pub(crate) domain: Option<u64>,
    pub(crate) sets: Sets,
}

/// The sets of a process, also what the built-in filter depends on.
pub(crate) fn capability_sets(process: &Process) -> Sets {
    capabilities::sets(process.capabilities().as_ref())
}

/// The execution domain of a configuration.
pub(crate) fn domain(spec: &Spec) -> Option<u64> {
    const PER_LINUX32: u64 = 0x8;
    let personality = spec.linux().as_ref().and_then(|l| l.personality().as_ref())?;
    Some(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    })
}

/// A program that only needs to be run.
pub(crate) struct Prepared<'a> {
    program: Program<'a>,
    identity: Identity,
    file: CString,
    args: StringVector,
    env: StringVector,
    command: &'a str,
}

impl<'a> Program<'a> {
    /// Everything that does not take rights away.
    pub(crate) fn prepare(self, root: &Root, terminal: bool) -> Result<Prepared<'a>> {
        let process = self.process;
        let args = process.args().as_deref().unwrap_or_default();
        let Some(command) = args.first() else {
            return Err(Error::invalid("process.args is empty: there is no command to run"));
        };
        let mut env = process.env().clone().unwrap_or_default();
        let wants_home = self.default_home && !env.iter().any(|pair| pair.starts_with("HOME="));
        let identity = user::identify(root, process.user(), self.user, self.groups, wants_home)?;
        if wants_home {
            let home = identity.home.as_deref().filter(|home| !home.is_empty()).unwrap_or("/");
            env.push(format!("HOME={home}"));
        }
        own_streams(&identity, terminal)?;
        enter_directory(root, process.cwd(), self.create_cwd)?;
        let file = command::find(root, command, &env, process.cwd())?;
        let strings = |list: &[String], what: &str| {
            let converted =
                list.iter().map(|text| CString::new(text.as_str())).collect::<std::result::Result<_, _>>();
            converted
                .map(StringVector::new)
                .map_err(|_| Error::invalid(format!("{what} has a NUL character in it")))
        };
        let (args, env) = (strings(args, "process.args")?, strings(&env, "process.env")?);
        Ok(Prepared { program: self, identity, file, args, env, command })
    }
}

impl Prepared<'_> {
    /// Asks the security module for the program's label, which takes effect at `execve`.
    pub(crate) fn label(&self, procfs: &Procfs) -> Result<()> {
        set_labels(procfs, self.program.process)
    }

    /// Gives up every right the program shall not have and becomes it. Returns only with the reason why not.
    pub(crate) fn run(self, channel: &Channel) -> Error {
        if !self.program.init {
            return self.become_command(channel);
        }
        let signals = process::block_signals().context(|| "block signals".into());
        let command = signals.and_then(|()| {
            let command = || {
                reaper::separate();
                let _ = channel.send(&Message::Failed(self.become_command(channel)));
                FAILED
            };
            process::spawn(Birth::default(), command).context(|| "start the command below its init".into())
        });
        match command.and_then(|child| self.drop_rights(channel).map(|()| child)) {
            Ok(child) => process::exit(reaper::run(&child)),
            Err(error) => error,
        }
    }

    fn become_command(&self, channel: &Channel) -> Error {
        match self.drop_rights(channel) {
            Ok(()) => self.execute(),
            Err(error) => error,
        }
    }

    /// Becomes the program with the rights it has. Returns only with the reason why not.
    pub(crate) fn execute(&self) -> Error {
        if let Err(error) = process::reset_signals() {
            return Error::io("reset signals", error);
        }
        let error = process::execve(&self.file, &self.args, &self.env);
        if error.raw_os_error() == Some(libc::ENOEXEC) {
            self.end_as_foreign();
        }
        command::refusal(self.command, &error)
    }

    /// Whether the process can still fork, start a session and report a failure once it has the program's filter.
    pub(crate) fn filter_lets_us_fork(&self) -> bool {
        const ARCH: u32 =
            if cfg!(target_arch = "aarch64") { seccomp::ARCH_AARCH64 } else { seccomp::ARCH_X86_64 };
        const FORK: u64 = (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64;
        let needed = [
            (libc::SYS_clone, FORK),
            (libc::SYS_setsid, 0),
            (libc::SYS_ioctl, 0),
            (libc::SYS_rt_sigaction, 0),
            (libc::SYS_rt_sigprocmask, 0),
            (libc::SYS_capset, 0),
            (libc::SYS_capget, 0),
            (libc::SYS_prctl, 0),
            (libc::SYS_setgroups, 0),
            (libc::SYS_setresgid, 0),
            (libc::SYS_setresuid, 0),
            (libc::SYS_umask, 0),
            (libc::SYS_brk, 0),
            (libc::SYS_mmap, 0),
            (libc::SYS_munmap, 0),
            (libc::SYS_close, 0),
            (libc::SYS_sendmsg, 0),
            (libc::SYS_write, 0),
            (libc::SYS_execve, 0),
            (libc::SYS_exit_group, 0),
        ];
        let Some(filter) = self.program.filter else { return true };
        needed.iter().all(|(number, first)| {
            let answer = seccomp::evaluate(&filter.program, ARCH, *number as u32, [*first, 0, 0, 0, 0, 0]);
            answer == seccomp::Action::Allow.code() || answer == seccomp::Action::Log.code()
        })
    }

    /// A program for another machine counts as started, and ends at once: with Docker it is the container that says so
    /// and exits with 255, and not the start that fails.
    fn end_as_foreign(&self) -> ! {
        let words = format!("exec {}: exec format error\n", self.command);
        // Nobody may be there to read it; the exit code stays.
        let _ = rustix::io::write(rustix::stdio::stderr(), words.as_bytes());
        process::exit(255)
    }

    /// Takes on the program's limits, identity, capabilities and filter.
    pub(crate) fn drop_rights(&self, channel: &Channel) -> Result<()> {
        let process = self.program.process;
        let first_foreign = 3 + self.program.preserve_fds;
        process::close_on_exec_from(first_foreign).context(|| "mark descriptors close-on-exec".into())?;
        set_limits(process)?;
        if let Some(domain) = self.program.domain {
            process::set_personality(domain).context(|| "set the execution domain".into())?;
        }
        process::new_session_keyring(c"_ses")
            .or_else(ignore_missing)
            .context(|| "join a session keyring".into())?;
        let quiet = process.no_new_privileges().unwrap_or(false);
        if quiet {
            rustix::thread::set_no_new_privs(true).context(|| "set no_new_privs".into())?;
        }
        // Loading a filter takes CAP_SYS_ADMIN or no_new_privs. With the latter it comes last, and then has to allow
        // the fewest of our own calls.
        if !quiet {
            self.load_filter()?;
        }
        self.become_identity()?;
        if self.program.die_with_parent {
            die_with_parent(channel)?;
        }
        if quiet {
            self.load_filter()?;
        }
        rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
        Ok(())
    }

    fn load_filter(&self) -> Result<()> {
        let Some(filter) = self.program.filter else { return Ok(()) };
        seccomp::load(&filter.program, filter.flags).map(drop).context(|| "load the seccomp filter".into())
    }

    fn become_identity(&self) -> Result<()> {
        let sets = self.program.sets;
        capability::limit_bounding(sets.bounding).context(|| "limit the capability bounding set".into())?;
        capability::keep_over_setuid(true).context(|| "keep capabilities".into())?;
        let (uid, gid) = (Uid::from_raw(self.identity.uid), Gid::from_raw(self.identity.gid));
        let groups: Vec<_> = self.identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups).context(|| "set supplementary groups".into())?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .context(|| format!("set the group id {}", gid.as_raw()))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
            .context(|| format!("set the user id {}", uid.as_raw()))?;
        capability::keep_over_setuid(false).context(|| "drop capabilities".into())?;
        capability::apply(&sets).context(|| "set capabilities".into())
    }
}

/// Kernels without keyrings, and filters of an outer container, have no session keyring to leave.
fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Ok(()),
        _ => Err(error),
    }
}

/// Has the kernel kill us when our parent dies, so that nothing runs that nobody looks after. A change of identity
/// would undo it, so this comes after.
fn die_with_parent(channel: &Channel) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context(|| "tie the container to its parent".into())?;
    // It may have died before this; only its end of the channel can tell, as its process id is not visible here.
    let mut end = [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::empty())];
    // An error is that of a system call filter which forbids this: then only that small window stays open.
    match rustix::event::poll(&mut end, Some(&Timespec::default())) {
        Ok(1..) => Err(Error::io("start", std::io::Error::other("the parent process is gone"))),
        Ok(0) | Err(_) => Ok(()),
    }
}

/// Closes every descriptor behind the standard streams and the `preserved` ones but `keep`. For a child that uses no
/// other.
pub(crate) fn close_all_except(preserved: u32, keep: Vec<i32>) -> Result<()> {
    let mut keep: Vec<u32> = keep.into_iter().filter_map(|fd| u32::try_from(fd).ok()).collect();
    keep.sort_unstable();
    process::close_all_except(3 + preserved, &keep).context(|| "close descriptors".into())
}

/// Puts three descriptors in the place of the standard streams.
pub(crate) fn install_streams(streams: [BorrowedFd<'_>; 3]) -> Result<()> {
    // Those that are in the way of another one are moved up first.
    let lifted: Vec<Option<OwnedFd>> = streams
        .iter()
        .map(|fd| (fd.as_raw_fd() < 3).then(|| rustix::io::fcntl_dupfd_cloexec(fd, 3)).transpose())
        .collect::<std::result::Result<_, _>>()
        .context(|| "duplicate a standard stream".into())?;
    let source = |index: usize| lifted[index].as_ref().map_or(streams[index], std::os::fd::AsFd::as_fd);
    rustix::stdio::dup2_stdin(source(0))
        .and_then(|()| rustix::stdio::dup2_stdout(source(1)))
        .and_then(|()| rustix::stdio::dup2_stderr(source(2)))
        .context(|| "set up the standard streams".into())
}

/// Makes the container's user the owner of its pipes and its terminal, so that it can open them again by name. Files
/// and devices of the host are left alone.
fn own_streams(identity: &Identity, terminal: bool) -> Result<()> {
    if identity.uid == 0 && identity.gid == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = rustix::fs::fstat(fd).context(|| "stat a standard stream".into())?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Fifo {
            rustix::fs::fchown(fd, Some(uid), Some(gid)).context(|| "own a standard stream".into())?;
        } else if terminal && kind == FileType::CharacterDevice && rustix::termios::isatty(fd) {
            // The group stays: it is tty's, and lets others write to the terminal.
            rustix::fs::fchown(fd, Some(uid), None).context(|| "own the terminal".into())?;
        }
    }
    Ok(())
}

fn enter_directory(root: &Root, cwd: &Path, create: bool) -> Result<()> {
    let failed = |e: std::io::Error| Error::WorkingDirectory {
        cwd: cwd.to_owned(),
        reason: match e.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".into(),
            std::io::ErrorKind::NotADirectory => "not a directory".into(),
            std::io::ErrorKind::PermissionDenied => "permission denied".into(),
            _ => e.to_string().to_lowercase(),
        },
    };
    if !cwd.is_absolute() {
        return Err(Error::WorkingDirectory {
            cwd: cwd.to_owned(),
            reason: "it is not an absolute path".into(),
        });
    }
    let dir = if create { root.make_dir(cwd) } else { root.find(cwd) }.map_err(failed)?;
    // Resolved in the root without magic links, so it cannot be a descriptor of the host in disguise.
    rustix::process::fchdir(&dir).map_err(|e| failed(e.into()))
}

/// Raises the hard limits to what the process shall have, where only the host's root may: before a user namespace.
pub(crate) fn raise_hard_limits(process: &Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let (name, number) = limit_number(limit.typ());
        process::raise_hard_limit(number, limit.hard())
            .context(|| format!("raise the hard limit of {name} to {}", limit.hard()))?;
    }
    Ok(())
}

fn set_limits(process: &Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let (name, number) = limit_number(limit.typ());
        process::set_limit(number, limit.soft(), limit.hard()).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => Error::io(
                format!(
                    "set {name} to {}:{}: raising a hard limit needs CAP_SYS_RESOURCE",
                    limit.soft(),
                    limit.hard()
                ),
                e,
            ),
            _ => Error::io(format!("set {name} to {}:{}", limit.soft(), limit.hard()), e),
        })?;
    }
    Ok(())
}

const fn limit_number(kind: PosixRlimitType) -> (&'static str, u32) {
    match kind {
        PosixRlimitType::RlimitCpu => ("RLIMIT_CPU", 0),
        PosixRlimitType::RlimitFsize => ("RLIMIT_FSIZE", 1),
        PosixRlimitType::RlimitData => ("RLIMIT_DATA", 2),
        PosixRlimitType::RlimitStack => ("RLIMIT_STACK", 3),
        PosixRlimitType::RlimitCore => ("RLIMIT_CORE", 4),
        PosixRlimitType::RlimitRss => ("RLIMIT_RSS", 5),
        PosixRlimitType::RlimitNproc => ("RLIMIT_NPROC", 6),
        PosixRlimitType::RlimitNofile => ("RLIMIT_NOFILE", 7),
        PosixRlimitType::RlimitMemlock => ("RLIMIT_MEMLOCK", 8),
        PosixRlimitType::RlimitAs => ("RLIMIT_AS", 9),
        PosixRlimitType::RlimitLocks => ("RLIMIT_LOCKS", 10),
        PosixRlimitType::RlimitSigpending => ("RLIMIT_SIGPENDING", 11),
        PosixRlimitType::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", 12),
        PosixRlimitType::RlimitNice => ("RLIMIT_NICE", 13),
        PosixRlimitType::RlimitRtprio => ("RLIMIT_RTPRIO", 14),
        PosixRlimitType::RlimitRttime => ("RLIMIT_RTTIME", 15),
    }
}

/// Asks the security module for the program's label. A label that the host cannot give is an error, never skipped.
fn set_labels(procfs: &Procfs, process: &Process) -> Result<()> {
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|p| !p.is_empty()) {
        let file = ["attr/apparmor/exec", "attr/exec"]
            .into_iter()
            .find(|f| procfs.has_own(f))
            .unwrap_or("attr/exec");
        procfs.write_own(file, &format!("exec {profile}"))?;
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|l| !l.is_empty()) {
        procfs.write_own("attr/exec", label)?;
    }
    Ok(())
}
