//! The typed kernel: namespaces, mounts, cgroups, capabilities, seccomp, processes, netlink, confined files. The only crate with unsafe code.
#![allow(unsafe_code)]

pub mod capability;
pub mod cgroup;
pub mod confined;
pub mod copy;
pub mod daemon;
pub mod hostfs;
pub mod idmap;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod powercut;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod seqpacket;
pub mod tree;
