//! The typed kernel: namespaces, mounts, cgroups, capabilities, seccomp, processes, netlink, confined files. The only crate with unsafe code.
#![allow(unsafe_code)]

pub mod cgroup;
pub mod daemon;
pub mod netlink;
pub mod process;
pub mod seqpacket;
