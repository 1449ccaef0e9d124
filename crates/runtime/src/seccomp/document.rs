//! The built-in profile as `linux.seccomp` of a configuration, for runtimes other than this one.

use super::{Rules, docker};
use crate::error::{Error, Result};
use crate::spec::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use oci_spec::OciSpecError;
use wharf_linux::capability::Set;
use wharf_linux::seccomp::{Action, Compare, Condition};

/// The profile for a container with these capabilities.
pub(crate) fn docker_default(capabilities: Set) -> Result<LinuxSeccomp> {
    let mut document = Document(Ok(Vec::new()));
    docker::build(capabilities, &mut document);
    let arches = if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    };
    let syscalls = document.0.map_err(|e| invalid(&e))?;
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(u32::from(super::EPERM))
        .architectures(arches)
        .syscalls(syscalls)
        .build()
        .map_err(|e| invalid(&e))
}

fn invalid(error: &OciSpecError) -> Error {
    Error::invalid(format!("the built-in profile cannot be written down: {error}"))
}

struct Document(std::result::Result<Vec<LinuxSyscall>, OciSpecError>);

impl Rules for Document {
    fn rule(&mut self, names: &mut dyn Iterator<Item = &str>, conditions: Vec<Condition>, action: Action) {
        let names = names.map(str::to_owned).collect();
        let rule = rule(names, &conditions, action);
        match (&mut self.0, rule) {
            (Ok(rules), Ok(rule)) => rules.push(rule),
            (Ok(_), Err(error)) => self.0 = Err(error),
            (Err(_), _) => {}
        }
    }
}

fn rule(
    names: Vec<String>,
    conditions: &[Condition],
    action: Action,
) -> std::result::Result<LinuxSyscall, OciSpecError> {
    let mut rule = LinuxSyscallBuilder::default().names(names);
    rule = match action {
        Action::Errno(number) => rule.action(LinuxSeccompAction::ScmpActErrno).errno_ret(u32::from(number)),
        // The profile knows no other.
        _ => rule.action(LinuxSeccompAction::ScmpActAllow),
    };
    if !conditions.is_empty() {
        rule = rule.args(conditions.iter().map(argument).collect::<std::result::Result<Vec<_>, _>>()?);
    }
    rule.build()
}

fn argument(condition: &Condition) -> std::result::Result<LinuxSeccompArg, OciSpecError> {
    let (operator, value, second) = match condition.compare {
        Compare::Equal => (LinuxSeccompOperator::ScmpCmpEq, condition.value, None),
        Compare::NotEqual => (LinuxSeccompOperator::ScmpCmpNe, condition.value, None),
        Compare::Less => (LinuxSeccompOperator::ScmpCmpLt, condition.value, None),
        Compare::LessOrEqual => (LinuxSeccompOperator::ScmpCmpLe, condition.value, None),
        Compare::Greater => (LinuxSeccompOperator::ScmpCmpGt, condition.value, None),
        Compare::GreaterOrEqual => (LinuxSeccompOperator::ScmpCmpGe, condition.value, None),
        Compare::Masked(mask) => (LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(condition.value)),
    };
    let mut argument = LinuxSeccompArgBuilder::default();
    argument = argument.index(usize::from(condition.argument)).value(value).op(operator);
    if let Some(second) = second {
        argument = argument.value_two(second);
    }
    argument.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read back, the document is the filter that the built-in runtime loads.
    #[test]
    fn the_document_means_what_the_filter_does() {
        for capabilities in [Set(0xa804_25fb), Set(u64::MAX >> 23), Set(0)] {
            let document = docker_default(capabilities).unwrap();
            let text = serde_json::to_string(&document).unwrap();
            let read = super::super::from_spec(&serde_json::from_str(&text).unwrap()).unwrap();
            let own = super::super::docker_default(capabilities).unwrap();
            assert_eq!(format!("{:?}", read.program), format!("{:?}", own.program));
        }
    }
}
