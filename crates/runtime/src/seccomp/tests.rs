use super::*;
use std::str::FromStr;
use wharf_linux::capability::Set;
use wharf_linux::seccomp::evaluate;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
/// Docker's default capabilities.
const DEFAULT: Set = Set(0xa804_25fb);

fn ask(filter: &Filter, abi: Abi, name: &str, first: u64) -> u32 {
    let shared = syscalls::x86_64::Sysno::from_str(name).ok().map(|s| s as u32);
    let number = match abi {
        Abi::X32 => x32_number(name, shared),
        Abi::X86 => syscalls::x86::Sysno::from_str(name).ok().map(|s| s as u32),
        _ => shared,
    };
    evaluate(&filter.program, abi.audit(), number.unwrap(), [first, 0, 0, 0, 0, 0])
}

#[test]
fn rt_19_the_default_filter_refuses_what_docker_refuses() {
    let filter = docker_default(DEFAULT).unwrap();
    let refused = [
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "userfaultfd",
        "mount",
        "umount2",
        "setns",
        "unshare",
        "pivot_root",
        "open_by_handle_at",
        "perf_event_open",
        "kexec_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "swapoff",
        "settimeofday",
        "clock_settime",
        "iopl",
        "ioperm",
        "acct",
        "quotactl",
        "move_pages",
        "mbind",
        "set_mempolicy",
        "fsopen",
        "fsconfig",
        "fsmount",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "sethostname",
        "setdomainname",
        "syslog",
        "vhangup",
        "kcmp",
        "process_madvise",
        "pidfd_getfd",
        "fanotify_init",
        "lookup_dcookie",
    ];
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        for name in refused {
            assert_eq!(ask(&filter, abi, name, 0), ERRNO | 1, "{abi:?} {name}");
        }
        assert_eq!(ask(&filter, abi, "clone3", 0), ERRNO | 38, "{abi:?}");
        for name in ["read", "execve", "openat", "futex", "ptrace", "chroot", "seccomp", "prctl", "mknod"] {
            assert_eq!(ask(&filter, abi, name, 0), ALLOW, "{abi:?} {name}");
        }
        for flag in [0x2_0000_u64, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
        {
            assert_eq!(ask(&filter, abi, "clone", flag | 17), ERRNO | 1, "{abi:?} clone {flag:#x}");
        }
        assert_eq!(ask(&filter, abi, "clone", 0x01_20_00_11), ALLOW, "{abi:?}");
        for family in 0..64 {
            let expected = if family == 38 || family == 40 { ERRNO | 1 } else { ALLOW };
            assert_eq!(ask(&filter, abi, "socket", family), expected, "{abi:?} socket {family}");
        }
        for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            assert_eq!(ask(&filter, abi, "personality", persona), ALLOW);
        }
        assert_eq!(ask(&filter, abi, "personality", 0x4_0000), ERRNO | 1);
    }
    // Calls that are newer than the profile are unknown, not forbidden.
    assert_eq!(evaluate(&filter.program, ARCH_X86_64, 2000, [0; 6]), ERRNO | 38);
    assert_eq!(evaluate(&filter.program, 0xdead_beef, 0, [0; 6]), 0);
}

#[test]
fn capabilities_open_their_calls() {
    let with = |number: u8| docker_default(Set(DEFAULT.0 | 1 << number)).unwrap();
    let admin = with(21);
    for name in ["mount", "unshare", "setns", "clone3", "bpf", "sethostname"] {
        assert_eq!(ask(&admin, Abi::X86_64, name, 0x1000_0000), ALLOW, "{name}");
    }
    assert_eq!(ask(&admin, Abi::X86_64, "clone", 0x1000_0000), ALLOW);
    for (number, name) in
        [(2, "open_by_handle_at"), (19, "kcmp"), (25, "settimeofday"), (34, "syslog"), (39, "bpf")]
    {
        assert_eq!(ask(&with(number), Abi::X86_64, name, 0), ALLOW, "{name}");
        assert_eq!(ask(&with(number), Abi::X86_64, "mount", 0), ERRNO | 1);
    }
    let none = docker_default(Set(0)).unwrap();
    assert_eq!(ask(&none, Abi::X86_64, "chroot", 0), ERRNO | 1);
}

fn profile(json: &str) -> Result<Filter> {
    let spec =
        serde_json::from_str(&format!(r#"{{"ociVersion":"1.0.2","linux":{{"seccomp":{json}}}}}"#)).unwrap();
    filter(Seccomp::FromSpec, &spec, DEFAULT).map(Option::unwrap)
}

#[test]
fn profiles_of_a_configuration() {
    let filter = profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_MIPS"],
        "syscalls":[{"names":["getcwd","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
        {"names":["chmod"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":511,"valueTwo":0,"op":"SCMP_CMP_EQ"}]}]}"#,
    )
    .unwrap();
    assert_eq!(ask(&filter, Abi::X86_64, "getcwd", 0), ERRNO | 13);
    assert_eq!(ask(&filter, Abi::X86, "getcwd", 0), ERRNO | 13);
    assert_eq!(ask(&filter, Abi::X86_64, "chmod", 0), ALLOW);
    assert_eq!(evaluate(&filter.program, ARCH_X86_64, 90, [0, 511, 0, 0, 0, 0]), 0x8000_0000);
    // An allowing profile has no opinion on what it does not know.
    assert_eq!(evaluate(&filter.program, ARCH_X86_64, 2000, [0; 6]), ALLOW);
}

#[test]
fn bad_profiles_are_refused() {
    let bad = [
        r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#,
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":70000}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
            "args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
    ];
    for json in bad {
        assert!(profile(json).is_err(), "{json}");
    }
}
