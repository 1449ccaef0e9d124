//! Processes: clone, pidfds, exec, and the protected copy of our own executable.
//!
//! A child made by [`spawn`] goes on running this program's code in a copy of its memory, so the caller must be
//! single-threaded: a lock that another thread held at that moment (the allocator's, say) would stay locked in the
//! child for ever. `spawn` verifies this and refuses otherwise.

use crate::namespace::{Namespaces, check};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A child process, not yet waited for.
#[derive(Debug)]
pub struct Child {
    /// Its process id in the caller's pid namespace.
    pub pid: i32,
    /// A descriptor that stands for exactly this process.
    pub pidfd: OwnedFd,
}

/// How a child is to be born.
#[derive(Debug, Clone, Copy, Default)]
pub struct Birth<'a> {
    /// New namespaces for it.
    pub namespaces: Namespaces,
    /// Directory of the v2 cgroup it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Make it a child of the caller's parent.
    pub sibling: bool,
}

/// `libc` has it truncated to an int.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Exit status of a child whose code panicked.
const PANICKED: i32 = 70;

/// Clones the calling process. The child runs `code`, then exits with its result without running destructors or
/// `atexit` handlers of its parent.
pub fn spawn(birth: Birth<'_>, code: impl FnOnce() -> i32) -> io::Result<Child> {
    if !single_threaded()? {
        return Err(io::Error::other(
            "a process with more than one thread cannot start a container: use a process of its own",
        ));
    }
    let mut pidfd: libc::c_int = -1;
    let mut flags = birth.namespaces.bits() | libc::CLONE_PIDFD as u64;
    let mut exit_signal = libc::SIGCHLD as u64;
    if birth.sibling {
        flags |= libc::CLONE_PARENT as u64;
        exit_signal = 0; // it inherits our own; naming one is an error
    }
    // SAFETY: no CLONE_VM, so the child gets its own copy of everything, stack included, as fork gives it; the process
    // has one thread, so no lock is held by a thread that the child lacks. `pidfd` outlives the call.
    let pid = unsafe {
        match birth.cgroup {
            Some(dir) => clone3_into(flags, exit_signal, dir, &raw mut pidfd),
            // The older call where it suffices: filters that let processes fork let it pass.
            None => libc::syscall(libc::SYS_clone, flags | exit_signal, 0, &raw mut pidfd, 0, 0),
        }
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            BORN_SINGLE.store(true, Ordering::Relaxed);
            let status = catch_unwind(AssertUnwindSafe(code)).unwrap_or(PANICKED);
            // SAFETY: ends the child at once; nothing of the parent's state is touched.
            unsafe { libc::_exit(status) }
        }
        // SAFETY: the kernel stored a new descriptor that nobody else owns.
        pid => Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// # Safety
/// As for fork: the caller must be able to go on in a copy of itself.
unsafe fn clone3_into(
    flags: u64,
    exit_signal: u64,
    cgroup: BorrowedFd<'_>,
    pidfd: *mut libc::c_int,
) -> libc::c_long {
    // SAFETY: clone_args is plain data for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | CLONE_INTO_CGROUP;
    args.exit_signal = exit_signal;
    args.pidfd = pidfd as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: the struct has the size that is passed; the rest is the caller's promise.
    unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) }
}

/// Set in a process that [`spawn`] made. It has one thread as long as its code, which is ours, starts none; and it may
/// see the `/proc` of a container, which is not to be asked.
static BORN_SINGLE: AtomicBool = AtomicBool::new(false);

/// Whether the calling process has one thread.
fn single_threaded() -> io::Result<bool> {
    if BORN_SINGLE.load(Ordering::Relaxed) {
        return Ok(true);
    }
    // A directory's links: itself, its name, and one for each thread below.
    Ok(rustix::fs::stat(c"/proc/self/task")?.st_nlink == 3)
}

/// Ends the calling process at once, without destructors and `atexit` handlers.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// The signal that tells of a child's end.
pub const SIGCHLD: i32 = libc::SIGCHLD;

/// Changes what `ps` shows as the process's command line and name. The new text must fit in the old one's place, and
/// is cut if it does not.
pub fn set_command_line(text: &str) -> io::Result<()> {
    let length: usize = std::env::args_os().map(|arg| arg.len() + 1).sum();
    let name = CString::new(text)?;
    rustix::thread::set_name(&name)?;
    let cut = &name.as_bytes()[..name.as_bytes().len().min(length.saturating_sub(1))];
    // SAFETY: `program_invocation_name` points to argv[0], and the kernel lays the arguments out one after the other,
    // `length` bytes in all, in memory that is ours to write. std has copied what it wants of it or counts to NUL.
    unsafe {
        let start = program_invocation_name;
        if !start.is_null() {
            std::ptr::write_bytes(start, 0, length);
            std::ptr::copy_nonoverlapping(cut.as_ptr().cast(), start, cut.len());
        }
    }
    Ok(())
}

unsafe extern "C" {
    static program_invocation_name: *mut libc::c_char;
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

/// Waits for a child and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED))?
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))?;
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signaled(signal.unwrap_or(libc::SIGKILL)),
    })
}

/// Sends a signal to exactly the process behind a pidfd.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed; the others are numbers.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
}

/// Sends a signal to a process by number.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) }))
}

/// Opens a process by number.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// A null-terminated vector of C strings, as `execve` wants it.
#[derive(Debug)]
pub struct StringVector {
    // The pointers point into `_strings`, whose heap blocks do not move when the vector of them does.
    pointers: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl StringVector {
    /// Collects the strings.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
        Self { pointers, _strings: strings }
    }
}

/// Replaces the process by the program at `path`; returns only if that failed.
pub fn execve(path: &CStr, args: &StringVector, env: &StringVector) -> io::Error {
    // SAFETY: `path` and the vectors are NUL- and null-terminated and live across the call.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces the process by the program open as `fd`; returns only if that failed.
pub fn fexecve(fd: impl AsFd, args: &StringVector, env: &StringVector) -> io::Error {
    // SAFETY: as for `execve`; the empty path with AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Opens an executable such that no process can ever write to the file through the descriptor or through the
/// `/proc/<pid>/exe` of a process started from it: a clone of its mount that is read-only and attached nowhere.
pub fn protected_exe(path: &Path) -> io::Result<OwnedFd> {
    let tree = crate::mount::clone_tree(rustix::fs::CWD, path, false)?;
    crate::mount::set_attributes(&tree, crate::mount::Attributes::READ_ONLY, Default::default(), false)?;
    Ok(tree)
}

/// Goes on as the same program started from a [`protected_exe`] of itself, unless it already runs from a file that
/// cannot be written. Call it first thing in `main`, before threads or descriptors exist.
pub fn reexec_protected() -> io::Result<()> {
    use rustix::fs::StatVfsMountFlags;
    let exe = Path::new("/proc/self/exe");
    if rustix::fs::statvfs(exe)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let protected = protected_exe(exe)?;
    let args = std::env::args_os().map(|a| CString::new(a.into_encoded_bytes())).collect::<Result<_, _>>()?;
    let env = std::env::vars_os()
        .map(|(k, v)| {
            let mut pair = k.into_encoded_bytes();
            pair.push(b'=');
            pair.extend(v.into_encoded_bytes());
            CString::new(pair)
        })
        .collect::<Result<_, _>>()?;
    Err(fexecve(protected, &StringVector::new(args), &StringVector::new(env)))
}

/// Keeps other processes of our user from tracing us or reading our memory and descriptors. Children inherit it until
/// they execute a program.
pub fn set_undumpable() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())
}

/// Gives every signal its default action and an empty mask, as a new program should find them.
pub fn reset_signals() -> io::Result<()> {
    // SAFETY: zeroed sigaction and sigset_t mean default action, no flags, empty set; they outlive the calls.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP, 32, 33].contains(s)) {
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
        }
        let empty: libc::sigset_t = std::mem::zeroed();
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()).into())
    }
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Closes every descriptor from `first` on except `keep` (sorted). Meant for a child that owns nothing but `keep`.
pub fn close_all_except(first: u32, keep: &[u32]) -> io::Result<()> {
    let mut from = first;
    for &fd in keep.iter().filter(|fd| **fd >= first) {
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the caller's contract says that nothing it still uses is in the range.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Gives the process a new session keyring, so that it holds none of its parent's keys.
pub fn new_session_keyring(name: &CStr) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
}

/// Sets one resource limit by the kernel's number. `u64::MAX` is no limit.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the struct outlives the call; no old value is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
}

/// Waits for the next signal of any kind. Signals must be blocked: see [`block_signals`].
pub fn next_signal() -> io::Result<i32> {
    // SAFETY: the set is initialised by sigfillset; no siginfo is asked for.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        let signal = libc::sigwaitinfo(&raw const all, std::ptr::null_mut());
        if signal < 0 { Err(io::Error::last_os_error()) } else { Ok(signal) }
    }
}

/// Blocks every signal that can be blocked.
pub fn block_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigfillset and outlives the call.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()).into())
    }
}

/// Waits for any child without blocking: its pid and how it ended, or `None` if none has ended.
pub fn reap_any() -> io::Result<Option<(i32, Ended)>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid if libc::WIFSIGNALED(status) => Ok(Some((pid, Ended::Signaled(libc::WTERMSIG(status))))),
        pid => Ok(Some((pid, Ended::Exited(libc::WEXITSTATUS(status))))),
    }
}

/// The next child that has ended, without reaping it; `None` if none has.
pub fn ended_child() -> io::Result<Option<i32>> {
    // SAFETY: siginfo_t is plain data for which all zeroes is a valid value, and outlives the call; `si_pid` reads what
    // the kernel wrote there, or our zero.
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        check(libc::waitid(libc::P_ALL, 0, &raw mut info, options).into())?;
        info.si_pid()
    };
    Ok((pid != 0).then_some(pid))
}

/// Reaps the child with this number, which has ended.
pub fn reap(pid: i32) -> io::Result<()> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))?;
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(())
}

/// Makes orphans among our descendants our children, instead of the machine's init's.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into())
}

/// A descriptor that is readable when a child has ended; SIGCHLD is blocked from now on, also in children that do not
/// [`reset_signals`]. What is read from it means nothing.
pub fn child_news() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset and outlives the calls; the descriptor is new and nobody else's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        check(fd.into())?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets the execution domain (personality).
pub fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) })
}

/// How a child ended, if it has, and reaps it then.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), options))?;
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signaled(signal.unwrap_or(libc::SIGKILL)),
    }))
}

/// Bytes written to a unix socket that its other end has not read yet, or to a TCP socket that are not acknowledged
/// (`SIOCOUTQ`, unix(7), tcp(7)). Of a unix socket it counts the buffers, so it is zero exactly when all is read.
///
/// # Errors
/// The kernel's reason.
pub fn unread(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one integer to where the pointer shows, and that integer outlives the call.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// A user namespace with these maps (lines of `uid_map` and `gid_map`), which lives as long as its descriptor. Any
/// process may make one, also one with threads: the child that it takes does nothing but wait for its end.
pub fn user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let mut pidfd: libc::c_int = -1;
    let parent = i64::from(std::process::id());
    let flags = (libc::CLONE_NEWUSER | libc::CLONE_PIDFD | libc::SIGCHLD) as u64;
    // SAFETY: without CLONE_VM this is a fork; the child makes system calls only, none of which touches memory that
    // another thread may have had in use. `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    if pid == 0 {
        // SAFETY: no pointers are passed. It ends with its parent, also if that has died already.
        unsafe {
            libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            while libc::syscall(libc::SYS_getppid) == parent {
                libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
            }
            libc::syscall(libc::SYS_exit_group, 0);
        }
        std::process::abort();
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let made = (|| {
        let proc = |file: &str| format!("/proc/{pid}/{file}");
        // One write with everything, or the kernel takes the first part for the whole.
        std::fs::write(proc("uid_map"), uid_map)?;
        std::fs::write(proc("gid_map"), gid_map)?;
        Ok(OwnedFd::from(std::fs::File::open(proc("ns/user"))?))
    })();
    let _a_zombie_takes_none = signal(pidfd.as_fd(), libc::SIGKILL);
    let _reaped = wait(pidfd.as_fd());
    made
}

/// Makes the calling thread's access to files that of another user, with all the capabilities it has: what it makes
/// belongs to that user. For file systems that show the owners of files as others, where root itself is nobody.
pub fn act_as(uid: u32, gid: u32) -> io::Result<()> {
    let current = |call, id: u32| {
        // SAFETY: takes no pointers. The kernel answers the old id; an id of -1 changes nothing.
        unsafe {
            libc::syscall(call, id);
            libc::syscall(call, u32::MAX) as u32
        }
    };
    if current(libc::SYS_setfsgid, gid) != gid || current(libc::SYS_setfsuid, uid) != uid {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    // A file system user who is not root loses the capabilities over files.
    let sets = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets { effective: sets.permitted, ..sets },
    )?;
    Ok(())
}

/// Raises a hard limit of the calling process to at least `hard`; the soft one stays.
pub fn raise_hard_limit(resource: u32, hard: u64) -> io::Result<()> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct outlives the call; no new value is given.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::null::<libc::rlimit64>(), &raw mut now)
    })?;
    if hard <= now.rlim_max { Ok(()) } else { set_limit(resource, now.rlim_cur, hard) }
}
