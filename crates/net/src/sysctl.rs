//! Kernel parameters of the calling thread's network namespace.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::Error;

/// Sets a parameter below `/proc/sys` that the kernel must have.
pub(crate) fn set(parameter: &str, value: &'static str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(parameter);
    match fs::File::options().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes())) {
        // An engine works where `/proc/sys` is read-only and somebody else has set everything.
        Err(_) if fs::read(&path).is_ok_and(|now| now.trim_ascii() == value.as_bytes()) => Ok(()),
        Err(source) => Err(Error::Sysctl { path, value, source }),
        Ok(()) => Ok(()),
    }
}

/// Sets a parameter of IPv6. A kernel without IPv6 has none, and what it would forbid cannot happen.
pub(crate) fn set_ipv6(interface: &str, parameter: &str, value: &'static str) -> Result<(), Error> {
    match set(&format!("net/ipv6/conf/{interface}/{parameter}"), value) {
        Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// No IPv6 on an interface, not even a link-local address, and no router may change that. `default` stands for every
/// interface that is made from now on.
pub(crate) fn forbid_ipv6(interface: &str) -> Result<(), Error> {
    set_ipv6(interface, "disable_ipv6", "1")?;
    set_ipv6(interface, "accept_ra", "0")
}
