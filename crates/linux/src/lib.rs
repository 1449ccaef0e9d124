//! The typed kernel: namespaces, mounts, cgroups, capabilities, seccomp, processes, netlink, confined files. The only crate with unsafe code.
