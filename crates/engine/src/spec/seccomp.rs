//! A profile given by the caller, in Docker's JSON: conditions on capabilities and architectures are resolved here,
//! what remains is OCI.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: String,
}

/// The OCI form of `profile` for a container with `capabilities` on this machine.
pub(crate) fn resolve(profile: &str, capabilities: &BTreeSet<&'static str>) -> Result<LinuxSeccomp> {
    let invalid =
        |why: &dyn std::fmt::Display| Error::Invalid(format!("Decoding seccomp profile failed: {why}"));
    let profile: Profile = serde_json::from_str(profile).map_err(|error| invalid(&error))?;
    let (native, short) = if cfg!(target_arch = "x86_64") {
        ("SCMP_ARCH_X86_64", "amd64")
    } else {
        ("SCMP_ARCH_AARCH64", "arm64")
    };
    let mut architectures = profile.architectures;
    for map in profile.arch_map.into_iter().filter(|map| map.architecture == native) {
        architectures.push(map.architecture);
        architectures.extend(map.sub_architectures);
    }
    let applies = |rule: &Rule| {
        let has = |name: &String| capabilities.contains(name.as_str());
        let here = |name: &String| name == short;
        let (yes, no) = (&rule.includes, &rule.excludes);
        yes.caps.iter().all(has)
            && (yes.arches.is_empty() || yes.arches.iter().any(here))
            && kernel_at_least(&yes.min_kernel)
            && !no.caps.iter().any(has)
            && !no.arches.iter().any(here)
            && (no.min_kernel.is_empty() || !kernel_at_least(&no.min_kernel))
    };
    let syscalls: Vec<Value> = profile
        .syscalls
        .into_iter()
        .filter(applies)
        .map(|mut rule| {
            if !rule.name.is_empty() {
                rule.names.push(rule.name);
            }
            let mut value = json!({"names": rule.names, "action": rule.action});
            if let Some(errno) = rule.errno_ret {
                value["errnoRet"] = errno.into();
            }
            if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
                value["args"] = args.into();
            }
            value
        })
        .collect();
    let mut oci = json!({"defaultAction": profile.default_action, "architectures": architectures, "syscalls": syscalls});
    if let Some(errno) = profile.default_errno_ret {
        oci["defaultErrnoRet"] = errno.into();
    }
    if !profile.flags.is_empty() {
        oci["flags"] = profile.flags.into();
    }
    serde_json::from_value(oci).map_err(|error| invalid(&error))
}

/// Compares with the running kernel; an empty or unreadable version is met.
fn kernel_at_least(version: &str) -> bool {
    let parse = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let running = rustix::system::uname();
    match (parse(version), parse(&running.release().to_string_lossy())) {
        (Some(wanted), Some(have)) => have >= wanted,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_resolved() {
        let profile = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},
                        {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
                        {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}}]}"#;
        let names = |caps: &[&'static str]| -> Vec<String> {
            let resolved = resolve(profile, &caps.iter().copied().collect()).unwrap();
            resolved.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
        };
        assert_eq!(names(&[]), ["read", "ptrace"]);
        assert_eq!(names(&["CAP_SYS_ADMIN"]), ["read", "mount", "ptrace"]);
        assert!(resolve("{}", &BTreeSet::new()).is_err());
        assert!(resolve("nonsense", &BTreeSet::new()).is_err());
    }
}
