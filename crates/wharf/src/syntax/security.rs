//! `--security-opt`, whose seccomp profile is a file of the client's, and `--sysctl`.

use serde_json::Value;

use super::{Parsed, environment::plain};

/// What security options come down to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Security {
    /// The options for the engine, profiles read.
    pub(crate) options: Vec<String>,
    /// Whether the container sees all of `/proc` and `/sys`.
    pub(crate) unconfined_system_paths: bool,
}

/// Reads the options, and the files they name.
pub(crate) fn parse(options: &[String]) -> Parsed<Security> {
    let mut security = Security::default();
    for option in options {
        let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some((key, value)) => (key, value),
            None if option == "no-new-privileges" => (option.as_str(), ""),
            None => return Err(format!("Invalid --security-opt: {option:?}")),
        };
        match (key, value) {
            ("systempaths", "unconfined") => security.unconfined_system_paths = true,
            ("seccomp", profile) if profile != "unconfined" && profile != "builtin" => {
                security.options.push(format!("seccomp={}", seccomp_profile(profile)?));
            }
            _ => security.options.push(option.clone()),
        }
    }
    Ok(security)
}

fn seccomp_profile(path: &str) -> Parsed<String> {
    let text = std::fs::read(path).map_err(|error| {
        format!("opening seccomp profile ({path}) failed: open {path}: {}", plain(&error))
    })?;
    let document: Value = serde_json::from_slice(&text).map_err(|error| {
        // Go names the first character that is no JSON; for other mistakes our parser's words are as good.
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        let reason = match first {
            Some(byte) if error.is_syntax() && error.line() == 1 && !b"{[\"-0123456789tfn".contains(byte) => {
                format!("invalid character '{}' looking for beginning of value", char::from(*byte))
            }
            None => "unexpected end of JSON input".to_owned(),
            _ => error.to_string(),
        };
        format!("compacting json for seccomp profile ({path}) failed: {reason}")
    })?;
    Ok(document.to_string())
}

/// Checks `--sysctl name=value`: only settings that a namespace keeps to itself.
pub(crate) fn sysctl(text: &str) -> Parsed<(String, String)> {
    const NAMES: [&str; 7] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
    ];
    let refused = || format!("sysctl '{text}' is not allowed");
    let (name, value) = text.split_once('=').ok_or_else(refused)?;
    let allowed = NAMES.contains(&name)
        || name == "kernel.shm_rmid_forced"
        || name.starts_with("net.")
        || name.starts_with("fs.mqueue.");
    if allowed { Ok((name.to_owned(), value.to_owned())) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let given = [
            "no-new-privileges",
            "apparmor=x",
            "label:disable",
            "systempaths=unconfined",
            "seccomp=unconfined",
        ];
        let security = parse(&given.map(String::from)).unwrap();
        assert!(security.unconfined_system_paths);
        assert_eq!(
            security.options,
            ["no-new-privileges", "apparmor=x", "label:disable", "seccomp=unconfined"]
        );
        assert_eq!(parse(&["x".into()]).unwrap_err(), "Invalid --security-opt: \"x\"");
        assert_eq!(
            parse(&["seccomp=/nonex".into()]).unwrap_err(),
            "opening seccomp profile (/nonex) failed: open /nonex: no such file or directory"
        );
    }

    #[test]
    fn sysctls() {
        assert!(sysctl("net.ipv4.ip_forward=1").is_ok());
        assert_eq!(sysctl("x").unwrap_err(), "sysctl 'x' is not allowed");
        assert_eq!(sysctl("vm.swappiness=1").unwrap_err(), "sysctl 'vm.swappiness=1' is not allowed");
    }
}
