//! System call filters: rules by architecture, their compilation to BPF, evaluation for tests, loading.
//!
//! The compiled program asks for the architecture, then finds the system call's number in a balanced tree of number
//! ranges. Its depth is the logarithm of the number of ranges, where a list in profile order is walked from the
//! start for every call; and the kernel, which runs each filter once for every number when it is loaded to build its
//! cache of always-allowed calls, does so several times faster. See docs/adr/0002.

mod compile;
mod evaluate;
mod listener;

pub use compile::compile;
pub use evaluate::evaluate;
pub use listener::{Call, Listener};

use crate::namespace::check;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is done.
    Allow,
    /// It is done and logged.
    Log,
    /// It fails with this error number.
    Errno(u16),
    /// A tracer is told, with this number.
    Trace(u16),
    /// The process gets `SIGSYS`.
    Trap,
    /// The thread dies.
    KillThread,
    /// The process dies.
    KillProcess,
    /// A listener decides.
    Notify,
}

impl Action {
    /// The value a filter returns for it.
    pub const fn code(self) -> u32 {
        match self {
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Errno(number) => libc::SECCOMP_RET_ERRNO | number as u32,
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Self::Trace(number) => libc::SECCOMP_RET_TRACE | number as u32,
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Allow => libc::SECCOMP_RET_ALLOW,
        }
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
    /// Equal after masking the argument with this.
    Masked(u64),
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How.
    pub compare: Compare,
    /// With what.
    pub value: u64,
}

/// What to do with a call if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold; none means always.
    pub conditions: Vec<Condition>,
    /// Then this.
    pub action: Action,
}

/// Audit architecture of 64-bit x86, shared by the x32 ABI.
pub const ARCH_X86_64: u32 = 0xc000_003e;
/// Audit architecture of 32-bit x86.
pub const ARCH_X86: u32 = 0x4000_0003;
/// Audit architecture of 64-bit ARM.
pub const ARCH_AARCH64: u32 = 0xc000_00b7;
/// Audit architecture of 32-bit ARM.
pub const ARCH_ARM: u32 = 0x4000_0028;
/// Bit in the number of every x32 system call.
pub const X32_BIT: u32 = 0x4000_0000;

/// What one architecture's system calls are subject to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchRules {
    /// Audit architecture.
    pub arch: u32,
    /// System call numbers with indices into [`Policy::rules`], in any order of numbers. For one number the first
    /// rule whose conditions hold decides.
    pub calls: Vec<(u32, usize)>,
    /// Ranges of numbers (both ends included) and the action for those without rules, instead of the default.
    pub ranges: Vec<(u32, u32, Action)>,
}

/// A whole policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For calls without a rule that holds.
    pub default: Action,
    /// For architectures that are not listed.
    pub other_arch: Action,
    /// Shared by all architectures.
    pub rules: Vec<Rule>,
    /// By architecture.
    pub arches: Vec<ArchRules>,
}

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(pub(crate) Vec<Instruction>);

/// One BPF instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

impl Program {
    /// Number of instructions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no instruction, which no compiled program is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a policy cannot become a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The kernel takes at most 4096 instructions.
    #[error("the filter needs {0} instructions, the kernel takes at most 4096")]
    TooLong(usize),
    /// A condition names an argument beyond the sixth.
    #[error("a condition names argument {0}, system calls have 0 to 5")]
    Argument(u8),
    /// One system call's conditions are more than a jump can cross.
    #[error("the conditions of one rule are too many")]
    TooManyConditions,
}

/// Flags of the load operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadFlags {
    /// Log every action but allow.
    pub log: bool,
    /// Leave speculative store bypass as it is.
    pub spec_allow: bool,
    /// Notified calls can be killed while waiting.
    pub wait_killable: bool,
    /// Give a descriptor for a listener.
    pub listener: bool,
}

/// Puts a filter on the calling thread. It needs `no_new_privs` or `CAP_SYS_ADMIN`, and can never be taken off.
pub fn load(program: &Program, flags: LoadFlags) -> io::Result<Option<OwnedFd>> {
    let bits = [
        (flags.log, libc::SECCOMP_FILTER_FLAG_LOG),
        (flags.spec_allow, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        (flags.listener, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        (flags.wait_killable, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV),
    ];
    let bits = bits.iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: program.0.as_ptr().cast_mut().cast(),
    };
    // SAFETY: Instruction has the layout of sock_filter (u16, u8, u8, u32 in C order) and the kernel only reads it.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, bits, &raw const program) };
    check(result)?;
    // SAFETY: with this flag the result is a new descriptor that nobody else owns.
    Ok(flags.listener.then(|| unsafe { OwnedFd::from_raw_fd(result as i32) }))
}
