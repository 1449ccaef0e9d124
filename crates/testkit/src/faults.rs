//! Deaths and failures at a chosen system call, from outside the program that is tested.
//!
//! A [`Supervisor`] starts programs under a system call filter that asks it about every call that changes something or may
//! fail for want of something, in all threads and all descendants. It counts those of one [`Role`] and, at a given number,
//! kills the process before the call is done ([`Plan::Kill`]) or lets the call fail ([`Plan::Fail`]). The programs are the
//! ones we ship: nothing is compiled into them for this (docs/adr/0013).
//!
//! What counts: for deaths every call that changes what others can see (files, mounts, namespaces, processes, signals,
//! messages); for an error number every call that may plausibly fail with it. `ENOSPC` means calls that take room on a
//! disk, `EAGAIN` calls that make processes, and so on: [`Wanted`].

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use syscalls::x86_64::Sysno;
use wharf_linux::seccomp::{self, Action, Call, Listener, LoadFlags, Policy, Rule};

/// Which of the processes that were started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The program that was started itself.
    Program,
    /// The shim of a container.
    Shim,
    /// A child of a shim that has not yet become the container's program: the runtime inside the container.
    Init,
}

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: its changes are counted.
    Count,
    /// The calls that may fail so are counted.
    CountFor(Errno),
    /// It is killed before its `n`-th change.
    Kill(u64),
    /// From the `at`-th on, this many calls fail.
    Fail {
        /// With what.
        errno: Errno,
        /// The first that fails.
        at: u64,
        /// How many.
        times: u64,
    },
}

/// What came of a plan.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Calls that counted.
    pub seen: u64,
    /// Calls that failed, or deaths.
    pub hits: u64,
    /// The first of them, for people.
    pub first: String,
    /// The process it was in; 0 before there was one.
    pub process: i32,
}

#[derive(Debug)]
struct Armed {
    role: Role,
    plan: Plan,
    outcome: Outcome,
}

/// One that decides about the system calls of the programs it starts.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    armed: Arc<Mutex<Option<Armed>>>,
}

impl Supervisor {
    /// One that lets everything go on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a program under supervision.
    ///
    /// # Panics
    /// When the kernel has no filters that ask.
    pub fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
        let (sender, receiver) = mpsc::channel::<(Listener, u32)>();
        let this = self.clone();
        // The filter is the spawning thread's, and that thread is gone afterwards.
        std::thread::scope(|scope| {
            let spawned = scope.spawn(move || {
                let flags = LoadFlags { listener: true, wait_killable: true, ..LoadFlags::default() };
                let listener = seccomp::load(&filter(), flags).expect("root may filter its calls");
                let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
                sender.send((listener.expect("it was asked for").into(), own)).expect("the other end waits");
                command.spawn()
            });
            let (listener, spawner) = receiver.recv().expect("the thread sends it");
            // Ends with the last process that has the filter.
            std::thread::spawn(move || this.serve(&listener, spawner));
            spawned.join().expect("it does not panic")
        })
    }

    /// From now on the calls of processes in this role count.
    pub fn arm(&self, role: Role, plan: Plan) {
        *self.lock() = Some(Armed { role, plan, outcome: Outcome::default() });
    }

    /// What has happened so far.
    pub fn outcome(&self) -> Outcome {
        self.lock().as_ref().map(|armed| armed.outcome.clone()).unwrap_or_default()
    }

    /// Everything goes on from now on; answers what happened.
    pub fn disarm(&self) -> Outcome {
        self.lock().take().map(|armed| armed.outcome).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, listener: &Listener, spawner: u32) {
        while let Ok(Some(call)) = listener.receive() {
            // A fork in this process holds the locks of the allocator while it waits: no allocation for it.
            let decision = if call.thread == spawner { Decision::Proceed } else { self.decide(&call) };
            // A caller that has died needs no answer, and one that was killed gets none: it must not do the call.
            let _gone = match decision {
                Decision::Fail(errno) => listener.refuse(&call, errno.raw_os_error()),
                Decision::Proceed => listener.proceed(&call),
                Decision::Killed => Ok(()),
            };
        }
    }

    fn decide(&self, call: &Call) -> Decision {
        let mut armed = self.lock();
        match armed.as_mut() {
            Some(armed) => armed.decide(call).unwrap_or(Decision::Proceed),
            None => Decision::Proceed,
        }
    }
}

/// What becomes of a call.
enum Decision {
    Proceed,
    Fail(Errno),
    Killed,
}

impl Armed {
    /// `None` for calls that do not count.
    fn decide(&mut self, call: &Call) -> Option<Decision> {
        let wanted = match self.plan {
            Plan::Count | Plan::Kill(_) => Wanted::Changes,
            Plan::CountFor(errno) | Plan::Fail { errno, .. } => Wanted::of(errno),
        };
        let seen = Seen::new(call)?;
        if !wanted.includes(&seen) || seen.role()? != self.role {
            return None;
        }
        self.outcome.seen += 1;
        let number = self.outcome.seen;
        let decision = match self.plan {
            Plan::Kill(at) if number == at => {
                let process = Pid::from_raw(seen.process()?)?;
                kill_process(process, Signal::KILL).ok()?;
                Decision::Killed
            }
            Plan::Fail { errno, at, times } if number >= at && number - at < times => Decision::Fail(errno),
            _ => return None,
        };
        self.outcome.hits += 1;
        if self.outcome.hits == 1 {
            self.outcome.process = seen.process().unwrap_or(0);
            self.outcome.first = seen.describe();
        }
        Some(decision)
    }
}

/// Which calls count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Those that change what others can see.
    Changes,
    /// Those that touch a disk.
    Disk,
    /// Those that take room on a disk.
    Room,
    /// Those that make descriptors.
    Descriptors,
    /// Those for which the kernel allocates much.
    Memory,
    /// Those of files that a signal may interrupt.
    Interruptible,
    /// Those that make processes and threads.
    Processes,
}

const OPENS: &[Sysno] = &[Sysno::open, Sysno::openat, Sysno::openat2, Sysno::creat];
const WRITES: &[Sysno] = &[
    Sysno::write,
    Sysno::pwrite64,
    Sysno::writev,
    Sysno::pwritev,
    Sysno::pwritev2,
    Sysno::ftruncate,
    Sysno::fallocate,
    Sysno::copy_file_range,
    Sysno::sendfile,
];
const READS: &[Sysno] = &[Sysno::read, Sysno::pread64, Sysno::getdents64];
const SYNCS: &[Sysno] = &[Sysno::fsync, Sysno::fdatasync, Sysno::syncfs];
const ENTRIES: &[Sysno] = &[
    Sysno::mkdir,
    Sysno::mkdirat,
    Sysno::mknod,
    Sysno::mknodat,
    Sysno::symlink,
    Sysno::symlinkat,
    Sysno::link,
    Sysno::linkat,
    Sysno::rename,
    Sysno::renameat,
    Sysno::renameat2,
];
const REMOVALS: &[Sysno] = &[Sysno::unlink, Sysno::unlinkat, Sysno::rmdir];
const METADATA: &[Sysno] = &[
    Sysno::chmod,
    Sysno::fchmod,
    Sysno::fchmodat,
    Sysno::chown,
    Sysno::fchown,
    Sysno::lchown,
    Sysno::fchownat,
    Sysno::utimensat,
    Sysno::setxattr,
    Sysno::lsetxattr,
    Sysno::fsetxattr,
    Sysno::truncate,
];
const MOUNTS: &[Sysno] = &[
    Sysno::mount,
    Sysno::umount2,
    Sysno::pivot_root,
    Sysno::move_mount,
    Sysno::fsmount,
    Sysno::fsconfig,
    Sysno::open_tree,
    Sysno::mount_setattr,
];
const PROCESSES: &[Sysno] = &[Sysno::clone, Sysno::clone3, Sysno::fork, Sysno::vfork, Sysno::unshare];
const PROGRAMS: &[Sysno] = &[Sysno::execve, Sysno::execveat, Sysno::setns];
const SIGNALS: &[Sysno] = &[Sysno::kill, Sysno::tgkill, Sysno::pidfd_send_signal];
const MESSAGES: &[Sysno] = &[Sysno::sendto, Sysno::sendmsg, Sysno::bind, Sysno::connect];
const SOURCES: &[Sysno] = &[
    Sysno::socket,
    Sysno::socketpair,
    Sysno::accept4,
    Sysno::pipe2,
    Sysno::dup,
    Sysno::eventfd2,
    Sysno::epoll_create1,
    Sysno::memfd_create,
    Sysno::pidfd_open,
    Sysno::fsopen,
    Sysno::timerfd_create,
    Sysno::inotify_init1,
];

/// Everything somebody may want.
const ALL: &[&[Sysno]] = &[
    OPENS, WRITES, READS, SYNCS, ENTRIES, REMOVALS, METADATA, MOUNTS, PROCESSES, PROGRAMS, SIGNALS, MESSAGES,
    SOURCES,
];

impl Wanted {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::IO => Self::Disk,
            Errno::NOSPC => Self::Room,
            Errno::MFILE => Self::Descriptors,
            Errno::NOMEM => Self::Memory,
            Errno::INTR => Self::Interruptible,
            Errno::AGAIN => Self::Processes,
            other => panic!("nothing is known of calls that fail with {other}"),
        }
    }

    fn includes(self, seen: &Seen) -> bool {
        let one_of = |lists: &[&[Sysno]]| lists.iter().any(|list| list.contains(&seen.call));
        let file = || !one_of(&[WRITES, READS]) || seen.is_of_a_file();
        match self {
            Self::Changes => {
                one_of(&[SYNCS, ENTRIES, REMOVALS, METADATA, MOUNTS, PROGRAMS, SIGNALS, MESSAGES])
                    || one_of(&[OPENS]) && seen.opens_for_writing()
                    || one_of(&[WRITES]) && seen.is_of_a_file_or_socket()
                    || one_of(&[PROCESSES]) && !seen.makes_a_thread()
            }
            Self::Disk => {
                one_of(&[OPENS, WRITES, READS, SYNCS, ENTRIES, REMOVALS, METADATA, MOUNTS]) && file()
            }
            Self::Room => {
                one_of(&[WRITES, ENTRIES, METADATA, MOUNTS]) && file()
                    || one_of(&[OPENS]) && seen.opens_for_writing()
            }
            // A connection that cannot be accepted waits in the kernel: nobody could answer it.
            Self::Descriptors => {
                one_of(&[OPENS, SOURCES]) && seen.call != Sysno::accept4 || seen.call == Sysno::fsmount
            }
            Self::Memory => {
                one_of(&[OPENS, ENTRIES, MOUNTS, PROCESSES, SOURCES]) && seen.call != Sysno::accept4
                    || seen.call == Sysno::execve
            }
            Self::Interruptible => one_of(&[OPENS, WRITES, READS, SYNCS]) && file(),
            Self::Processes => one_of(&[PROCESSES]),
        }
    }
}

/// A call and what can be learnt about it while its caller waits.
struct Seen<'a> {
    raw: &'a Call,
    call: Sysno,
}

impl<'a> Seen<'a> {
    fn new(raw: &'a Call) -> Option<Self> {
        Some(Self { raw, call: Sysno::new(usize::try_from(raw.number).ok()?)? })
    }

    fn status(&self, field: &str) -> Option<i32> {
        status(self.raw.thread, field)
    }

    fn process(&self) -> Option<i32> {
        self.status("Tgid:")
    }

    /// Found by the command line, which a fork shares with its parent.
    fn role(&self) -> Option<Role> {
        let is_shim = |process: i32| {
            fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.starts_with(b"wharf-shim\0"))
        };
        let (process, parent) = (self.process()?, self.status("PPid:")?);
        match (is_shim(process), is_shim(parent)) {
            (true, true) => Some(Role::Init),
            (true, false) => Some(Role::Shim),
            // What a shim has started is the container's own program.
            (false, true) => None,
            (false, false) => (parent == std::process::id() as i32).then_some(Role::Program),
        }
    }

    fn target(&self) -> String {
        let link = fs::read_link(format!("/proc/{}/fd/{}", self.raw.thread, self.raw.arguments[0] as i32));
        link.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn is_of_a_file(&self) -> bool {
        let target = self.target();
        target.starts_with('/') && !["/dev/", "/proc/"].iter().any(|start| target.starts_with(start))
    }

    fn is_of_a_file_or_socket(&self) -> bool {
        let target = self.target();
        target.starts_with('/') && !target.starts_with("/dev/") || target.starts_with("socket:")
    }

    /// Eight bytes of the caller's memory.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        let memory = fs::File::open(format!("/proc/{}/mem", self.raw.thread)).ok()?;
        memory.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    fn opens_for_writing(&self) -> bool {
        let arguments = self.raw.arguments;
        let flags = match self.call {
            Sysno::creat => return true,
            Sysno::open => arguments[1],
            Sysno::openat => arguments[2],
            _ => self.word(arguments[2]).unwrap_or(0),
        };
        // O_WRONLY, O_RDWR, O_CREAT, O_TRUNC.
        flags & 0o1103 != 0
    }

    fn makes_a_thread(&self) -> bool {
        /// `CLONE_THREAD`.
        const THREAD: u64 = 0x1_0000;
        let flags = match self.call {
            Sysno::clone => self.raw.arguments[0],
            Sysno::clone3 => self.word(self.raw.arguments[0]).unwrap_or(0),
            _ => 0,
        };
        flags & THREAD != 0
    }

    /// The text at an address.
    fn text(&self, address: u64) -> Option<String> {
        let memory = fs::File::open(format!("/proc/{}/mem", self.raw.thread)).ok()?;
        let mut bytes = vec![0; 200];
        let read = memory.read_at(&mut bytes, address).ok()?;
        let end = bytes[..read].iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn describe(&self) -> String {
        let lists = [OPENS, ENTRIES, REMOVALS, METADATA];
        let what = if [READS, WRITES, SYNCS, MESSAGES].iter().any(|list| list.contains(&self.call)) {
            self.target()
        } else if lists.iter().any(|list| list.contains(&self.call)) {
            let at = usize::from(self.call.name().contains("at") && self.call != Sysno::creat);
            let place = if at == 1 { self.target() } else { String::new() };
            format!("{} {}", place, self.text(self.raw.arguments[at]).unwrap_or_default())
        } else {
            String::new()
        };
        format!("{} {what}", self.call.name())
    }
}

/// A field of a thread's `status`.
fn status(thread: u32, field: &str) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}

fn filter() -> seccomp::Program {
    let calls = ALL.iter().flat_map(|list| list.iter()).map(|call| (call.id() as u32, 0)).collect();
    let policy = Policy {
        default: Action::Allow,
        other_arch: Action::Allow,
        rules: vec![Rule { conditions: Vec::new(), action: Action::Notify }],
        arches: vec![seccomp::ArchRules { arch: seccomp::ARCH_X86_64, calls, ranges: Vec::new() }],
    };
    seccomp::compile(&policy).expect("a short list of calls")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(dir: &std::path::Path) -> Command {
        let mut command = Command::new(crate::image::busybox());
        command.args(["sh", "-c", "echo one >one; echo two >two; echo three >three"]).current_dir(dir);
        command
    }

    #[test]
    fn a_process_is_killed_before_the_call_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        supervisor.arm(Role::Program, Plan::Count);
        let whole = supervisor.spawn(&mut touch(dir.path())).unwrap().wait().unwrap();
        assert!(whole.success());
        let all = supervisor.disarm().seen;
        assert!(all >= 6, "three opens and three writes at least, not {all}");
        for name in ["one", "two", "three"] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        supervisor.arm(Role::Program, Plan::Kill(all - 1));
        let killed = supervisor.spawn(&mut touch(dir.path())).unwrap().wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(9));
        let outcome = supervisor.disarm();
        assert_eq!((outcome.seen, outcome.hits), (all - 1, 1), "{outcome:?}");
        assert!(dir.path().join("two").exists());
        assert!(!dir.path().join("three").exists(), "{outcome:?}");
    }

    #[test]
    fn a_full_disk_is_told_to_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        supervisor.arm(Role::Program, Plan::Fail { errno: Errno::NOSPC, at: 1, times: u64::MAX });
        let failed = supervisor.spawn(&mut touch(dir.path())).unwrap().wait().unwrap();
        assert!(!failed.success());
        let outcome = supervisor.disarm();
        assert!(outcome.hits >= 3, "{outcome:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
