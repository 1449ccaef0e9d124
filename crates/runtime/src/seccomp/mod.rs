//! From `linux.seccomp`, or the built-in profile, to a filter.

mod docker;
mod document;

pub(crate) use document::docker_default as docker_default_document;

use crate::Seccomp;
use crate::error::{Error, Result};
use crate::spec::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, Spec,
};
use std::rc::Rc;
use wharf_linux::capability::Set;
use wharf_linux::seccomp::{
    ARCH_AARCH64, ARCH_ARM, ARCH_X86, ARCH_X86_64, Action, ArchRules, Compare, Condition, LoadFlags, Policy,
    Program, Rule, X32_BIT, compile,
};

/// A filter ready to load.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) program: Program,
    pub(crate) flags: LoadFlags,
}

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// The filter of a process with these capabilities; `None` if the configuration has none.
pub(crate) fn filter(choice: Seccomp, spec: &Spec, capabilities: Set) -> Result<Option<Filter>> {
    match choice {
        Seccomp::DockerDefault => docker_default(capabilities).map(Some),
        Seccomp::FromSpec => {
            spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()).map(from_spec).transpose()
        }
    }
}

fn docker_default(capabilities: Set) -> Result<Filter> {
    let mut builder = Builder::new(Action::Errno(EPERM), native_arches());
    docker::build(capabilities, &mut builder);
    builder.finish(default_flags())
}

fn native_arches() -> &'static [Abi] {
    if cfg!(target_arch = "aarch64") { &[Abi::Aarch64, Abi::Arm] } else { &[Abi::X86_64, Abi::X86, Abi::X32] }
}

/// Without flags the mitigation of speculative store bypass stays as the process has it, as runc does.
fn default_flags() -> LoadFlags {
    LoadFlags { spec_allow: true, ..LoadFlags::default() }
}

fn from_spec(seccomp: &LinuxSeccomp) -> Result<Filter> {
    if seccomp.listener_path().is_some() {
        return Err(Error::invalid("linux.seccomp.listenerPath is not supported"));
    }
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut abis = Vec::new();
    for arch in seccomp.architectures().iter().flatten() {
        match abi(*arch) {
            Some(abi) if !abis.contains(&abi) => abis.push(abi),
            // Architectures of other machines cannot occur here.
            _ => {}
        }
    }
    if !abis.contains(&native_arches()[0]) {
        abis.push(native_arches()[0]);
    }
    let mut builder = Builder::new(default, &abis);
    for syscall in seccomp.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret())?;
        let conditions: Vec<_> = syscall.args().iter().flatten().map(condition).collect::<Result<_>>()?;
        if syscall.names().is_empty() {
            return Err(Error::invalid("a rule of linux.seccomp names no system call"));
        }
        builder.rule(&mut syscall.names().iter().map(String::as_str), conditions, action);
    }
    builder.finish(flags(seccomp.flags().as_deref())?)
}

fn flags(list: Option<&[LinuxSeccompFilterFlag]>) -> Result<LoadFlags> {
    let Some(list) = list else { return Ok(default_flags()) };
    let mut flags = LoadFlags::default();
    for flag in list {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flags.log = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flags.spec_allow = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => flags.wait_killable = true,
            // The process has one thread when the filter is loaded.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => {}
        }
    }
    Ok(flags)
}

fn action(action: LinuxSeccompAction, number: Option<u32>) -> Result<Action> {
    let small = |default: u16| match number {
        None => Ok(default),
        Some(n) => u16::try_from(n).ok().filter(|n| *n <= 4095).ok_or_else(|| {
            Error::invalid(format!("errnoRet {n} of linux.seccomp is not an error number (0 to 4095)"))
        }),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(small(EPERM)?),
        LinuxSeccompAction::ScmpActTrace => Action::Trace(small(EPERM)?),
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::invalid("SCMP_ACT_NOTIFY needs a listener, which is not supported"));
        }
    })
}

fn condition(arg: &crate::spec::LinuxSeccompArg) -> Result<Condition> {
    let argument = u8::try_from(arg.index())
        .ok()
        .filter(|n| *n < 6)
        .ok_or_else(|| Error::invalid(format!("linux.seccomp speaks of argument {}", arg.index())))?;
    let value = arg.value();
    let (compare, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Compare::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (Compare::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (Compare::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (Compare::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (Compare::GreaterOrEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (Compare::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (Compare::Masked(value), arg.value_two().unwrap_or(0)),
    };
    Ok(Condition { argument, compare, value })
}

/// A system call table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abi {
    X86_64,
    X32,
    X86,
    Aarch64,
    Arm,
}

fn abi(arch: Arch) -> Option<Abi> {
    let abi = match arch {
        Arch::ScmpArchNative => native_arches()[0],
        Arch::ScmpArchX86_64 => Abi::X86_64,
        Arch::ScmpArchX32 => Abi::X32,
        Arch::ScmpArchX86 => Abi::X86,
        Arch::ScmpArchAarch64 => Abi::Aarch64,
        Arch::ScmpArchArm => Abi::Arm,
        _ => return None,
    };
    native_arches().contains(&abi).then_some(abi)
}

impl Abi {
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => ARCH_X86_64,
            Self::X86 => ARCH_X86,
            Self::Aarch64 => ARCH_AARCH64,
            Self::Arm => ARCH_ARM,
        }
    }

    /// Every call of the table with its number. x32's is derived from the 64-bit one.
    fn calls(self) -> Vec<(&'static str, u32)> {
        match self {
            Self::X86_64 | Self::X32 => {
                syscalls::x86_64::Sysno::iter().map(|s| (s.name(), s as u32)).collect()
            }
            Self::X86 => syscalls::x86::Sysno::iter().map(|s| (s.name(), s as u32)).collect(),
            Self::Aarch64 => syscalls::aarch64::Sysno::iter().map(|s| (s.name(), s as u32)).collect(),
            Self::Arm => syscalls::arm::Sysno::iter().map(|s| (s.name(), s as u32)).collect(),
        }
    }
}

/// Numbers by name: a profile asks for some four hundred names in each table, on the start path of every container.
struct Table {
    slots: Vec<Option<(&'static str, u32)>>,
}

impl Table {
    fn new(abi: Abi) -> Self {
        let calls = abi.calls();
        let mut slots = vec![None; (calls.len() * 3).next_power_of_two()];
        for (name, number) in calls {
            let mut at = Self::hash(name) & (slots.len() - 1);
            while slots[at].is_some() {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = Some((name, number));
        }
        Self { slots }
    }

    fn number(&self, name: &str) -> Option<u32> {
        let mut at = Self::hash(name) & (self.slots.len() - 1);
        while let Some((known, number)) = self.slots[at] {
            if known == name {
                return Some(number);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }

    fn hash(name: &str) -> usize {
        // FNV-1a: short keys, no adversary gains anything from collisions.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        (hash >> 32) as usize
    }
}

/// x32 shares the 64-bit table with a bit set, except for calls with structures of other sizes, from 512 on.
fn x32_number(name: &str, shared: Option<u32>) -> Option<u32> {
    const OWN: [&str; 36] = [
        "rt_sigaction",
        "rt_sigreturn",
        "ioctl",
        "readv",
        "writev",
        "recvfrom",
        "sendmsg",
        "recvmsg",
        "execve",
        "ptrace",
        "rt_sigpending",
        "rt_sigtimedwait",
        "rt_sigqueueinfo",
        "sigaltstack",
        "timer_create",
        "mq_notify",
        "kexec_load",
        "waitid",
        "set_robust_list",
        "get_robust_list",
        "vmsplice",
        "move_pages",
        "preadv",
        "pwritev",
        "rt_tgsigqueueinfo",
        "recvmmsg",
        "sendmmsg",
        "process_vm_readv",
        "process_vm_writev",
        "setsockopt",
        "getsockopt",
        "io_setup",
        "io_submit",
        "execveat",
        "preadv2",
        "pwritev2",
    ];
    let own = OWN.iter().position(|own| *own == name).map(|index| 512 + index as u32);
    own.or(shared).map(|number| number | X32_BIT)
}

/// Something that takes the rules of a profile.
trait Rules {
    /// Adds a rule. Profiles name calls of many architectures and newer kernels: an unknown name says nothing.
    fn rule(&mut self, names: &mut dyn Iterator<Item = &str>, conditions: Vec<Condition>, action: Action);
}

/// Collects rules.
struct Builder {
    default: Action,
    rules: Vec<Rule>,
    abis: Vec<AbiCalls>,
}

struct AbiCalls {
    abi: Abi,
    /// Shared by the 64-bit and the x32 ABI.
    numbers: Rc<Table>,
    /// Numbers with the index of a rule.
    calls: Vec<(u32, usize)>,
}

impl Builder {
    fn new(default: Action, abis: &[Abi]) -> Self {
        let mut list: Vec<AbiCalls> = Vec::new();
        for abi in abis {
            let same = list.iter().find(|known| known.abi.audit() == abi.audit());
            let numbers = same.map_or_else(|| Rc::new(Table::new(*abi)), |known| Rc::clone(&known.numbers));
            list.push(AbiCalls { abi: *abi, numbers, calls: Vec::with_capacity(512) });
        }
        Self { default, rules: Vec::new(), abis: list }
    }

    fn finish(self, flags: LoadFlags) -> Result<Filter> {
        let default = self.default;
        let mut arches: Vec<ArchRules> = Vec::new();
        for AbiCalls { abi, calls, .. } in self.abis {
            let newest = calls.iter().map(|(number, _)| *number).max();
            let range_end = if abi == Abi::X86_64 { X32_BIT - 1 } else { u32::MAX };
            let mut ranges = Vec::new();
            // Calls newer than all the profile knows do not exist for the container: programs then use older ones,
            // where another error would make them give up.
            if let (Some(newest), Action::Errno(_) | Action::KillThread | Action::KillProcess | Action::Trap) =
                (newest, default)
                && newest < range_end
            {
                ranges.push((newest + 1, range_end, Action::Errno(ENOSYS)));
            }
            match arches.iter_mut().find(|a| a.arch == abi.audit()) {
                Some(arch) => {
                    arch.calls.extend(calls);
                    arch.ranges.extend(ranges);
                }
                None => arches.push(ArchRules { arch: abi.audit(), calls, ranges }),
            }
        }
        // The 64-bit table without x32: those numbers are refused, not unknown.
        for arch in arches.iter_mut().filter(|a| a.arch == ARCH_X86_64) {
            if !arch.calls.iter().any(|(n, _)| n & X32_BIT != 0) && default != Action::Allow {
                arch.ranges.push((X32_BIT, u32::MAX, Action::KillThread));
            }
        }
        let policy = Policy { default, other_arch: Action::KillThread, rules: self.rules, arches };
        let program = compile(&policy).map_err(|e| Error::invalid(format!("linux.seccomp: {e}")))?;
        Ok(Filter { program, flags })
    }
}

impl Rules for Builder {
    fn rule(&mut self, names: &mut dyn Iterator<Item = &str>, conditions: Vec<Condition>, action: Action) {
        let index = self.rules.len();
        self.rules.push(Rule { conditions, action });
        for name in names {
            for AbiCalls { abi, numbers, calls } in &mut self.abis {
                let number = numbers.number(name);
                let number = if *abi == Abi::X32 { x32_number(name, number) } else { number };
                calls.extend(number.map(|number| (number, index)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
