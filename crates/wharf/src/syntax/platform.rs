//! `--platform os[/architecture[/variant]]`, in the spellings people use, made into the one the API knows.

use serde::{Deserialize, Serialize};

use super::Parsed;

/// What a part of a platform looks like, in the words of errors.
const COMPONENT: &str = "^[A-Za-z0-9_.-]+$";

/// The same for the operating system, which may have its version in parentheses.
const SYSTEM: &str = r"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.-]*)\\))?$";

/// Operating systems that are known without an architecture beside them.
const SYSTEMS: [&str; 18] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
    "zos",
];

/// Architectures that are known without an operating system beside them.
const ARCHITECTURES: [&str; 28] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
    "i386",
    "x86_64",
    "aarch64",
    "armhf",
];

/// A platform. As JSON it is what the API and the documents of images have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub(crate) os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub(crate) os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

impl Platform {
    /// The form a query of the API has it in.
    pub(crate) fn document(&self) -> String {
        // A record of strings always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let system = if self.os.is_empty() { "unknown" } else { &self.os };
        let parts = [system, &self.architecture, &self.variant];
        f.write_str(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
    }
}

/// Reads a platform.
pub(crate) fn parse(text: &str) -> Parsed<Platform> {
    if text.contains('*') {
        return Err(format!("{text:?}: wildcards not yet supported: invalid argument"));
    }
    let parts: Vec<&str> = text.split('/').take(4).collect();
    let (os, os_version) = system(parts[0]).ok_or_else(|| {
        format!("{:?} is an invalid OS component of {text:?}: OSAndVersion specifier component must match \"{SYSTEM}\": invalid argument", parts[0])
    })?;
    if let Some(part) = parts[1..].iter().find(|part| !is_component(part)) {
        return Err(format!(
            "{part:?} is an invalid component of {text:?}: platform specifier component must match \"{COMPONENT}\": invalid argument"
        ));
    }
    let platform = |os: &str, (architecture, variant): (String, String)| Platform {
        os: os.to_owned(),
        os_version: os_version.to_owned(),
        architecture,
        variant,
        ..Platform::default()
    };
    let known_system = system_name(os);
    match parts[..] {
        [_] if SYSTEMS.contains(&known_system.as_str()) => {
            Ok(platform(&known_system, usual_variant(architecture(std::env::consts::ARCH, ""))))
        }
        [word] => {
            let (architecture, variant) = architecture(word, "");
            match ARCHITECTURES.contains(&architecture.as_str()) {
                true => Ok(platform("linux", usual_variant((architecture, variant)))),
                false => Err(format!("{text:?}: unknown operating system or architecture: invalid argument")),
            }
        }
        [_, word] => Ok(platform(&known_system, usual_variant(architecture(word, "")))),
        [_, word, variant] => Ok(platform(&known_system, architecture(word, variant))),
        _ => Err(format!("{text:?}: cannot parse platform specifier: invalid argument")),
    }
}

fn is_component(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// The name and the version of an operating system.
fn system(part: &str) -> Option<(&str, &str)> {
    let (name, version) = match part.split_once('(') {
        Some((name, rest)) => (name, rest.strip_suffix(')')?),
        None => (part, ""),
    };
    let fits = is_component(name) && !name.contains('.') && (version.is_empty() || is_component(version));
    fits.then_some((name, version))
}

fn system_name(name: &str) -> String {
    match name.to_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

/// An architecture and its variant by their usual names.
fn architecture(name: &str, variant: &str) -> (String, String) {
    let (name, variant) = (name.to_lowercase(), variant.to_lowercase());
    let (name, variant) = match (name.as_str(), variant.as_str()) {
        ("i386" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8") => ("arm64", "v8"),
        ("aarch64" | "arm64", "9") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "8") => ("arm", "v8"),
        (name, variant) => (name, variant),
    };
    (name.to_owned(), variant.to_owned())
}

/// A variant that goes without saying is not said.
fn usual_variant((architecture, variant): (String, String)) -> (String, String) {
    let unsaid = matches!((architecture.as_str(), variant.as_str()), ("arm", "v7") | ("arm64", "v8"));
    (architecture, if unsaid { String::new() } else { variant })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_one_spelling() {
        let host = parse(std::env::consts::ARCH).unwrap().architecture;
        // What Docker's program sends for each of them.
        let cases = [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("arm", "linux/arm"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("LINUX/AMD64", "linux/amd64"),
            ("i386", "linux/386"),
            ("armhf", "linux/arm"),
            ("armel", "linux/arm/v6"),
            ("macos/arm64", "darwin/arm64"),
            ("foo/bar", "foo/bar"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap().to_string(), expected, "{text}");
        }
        assert_eq!(parse("windows").unwrap().to_string(), format!("windows/{host}"));
        assert_eq!(
            parse("windows(10.0.1)/amd64").unwrap().document(),
            r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1"}"#
        );
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        let reason = |text| parse(text).unwrap_err();
        assert_eq!(reason("foo"), r#""foo": unknown operating system or architecture: invalid argument"#);
        assert_eq!(reason("x/y/z/k"), r#""x/y/z/k": cannot parse platform specifier: invalid argument"#);
        assert_eq!(reason("linux/*"), r#""linux/*": wildcards not yet supported: invalid argument"#);
        assert_eq!(
            reason("linux/a b"),
            r#""a b" is an invalid component of "linux/a b": platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument"#
        );
        assert_eq!(
            reason("linux("),
            r#""linux(" is an invalid OS component of "linux(": OSAndVersion specifier component must match "^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.-]*)\\))?$": invalid argument"#
        );
    }
}
