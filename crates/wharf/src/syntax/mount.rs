//! `--mount type=…,source=…,target=…`.
//!
//! Kinds and propagation modes are not checked here: the engine knows which there are, and refuses others in its own
//! words.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Parsed, csv, units::Bytes};

/// A mount as the API wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    source: String,
    target: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    consistency: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ownership: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_options: Option<ImageOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmpfs_options: Option<TmpfsOptions>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct BindOptions {
    #[serde(skip_serializing_if = "String::is_empty")]
    propagation: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    non_recursive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only_non_recursive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only_force_recursive: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeOptions {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_copy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    subpath: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_config: Option<DriverConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DriverConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageOptions {
    #[serde(skip_serializing_if = "String::is_empty")]
    subpath: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TmpfsOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
}

/// Reads one mount.
pub(crate) fn parse(text: &str) -> Parsed<Mount> {
    let mut mount = Mount { kind: "volume".into(), ..Mount::default() };
    for field in csv::fields(text)? {
        apply(&mut mount, &field)?;
    }
    check(&mount)?;
    Ok(mount)
}

fn apply(mount: &mut Mount, field: &str) -> Parsed<()> {
    let (name, value) = match field.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (field, None),
    };
    let key = name.to_lowercase();
    let boolean = || match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(format!("invalid value for {key}: {other}")),
    };
    match key.as_str() {
        "readonly" | "ro" => {
            mount.read_only = boolean()?;
            return Ok(());
        }
        "volume-nocopy" => {
            mount.volume_options.get_or_insert_default().no_copy = boolean()?;
            return Ok(());
        }
        "bind-nonrecursive" => {
            mount.bind_options.get_or_insert_default().non_recursive = boolean()?;
            return Ok(());
        }
        "idmap" => {
            mount.ownership = field.to_owned();
            return Ok(());
        }
        _ => {}
    }
    let Some(value) = value else { return Err(format!("invalid field '{field}' must be a key=value pair")) };
    let invalid = || format!("invalid value for {key}: {value}");
    match key.as_str() {
        "type" => mount.kind = value.to_lowercase(),
        "source" | "src" => mount.source = absolute(value),
        "target" | "dst" | "destination" => mount.target = value.to_owned(),
        "consistency" => mount.consistency = value.to_lowercase(),
        "bind-propagation" => mount.bind_options.get_or_insert_default().propagation = value.to_lowercase(),
        "bind-recursive" => {
            let options = mount.bind_options.get_or_insert_default();
            match value {
                "enabled" => {}
                "disabled" => options.non_recursive = true,
                "writable" => options.read_only_non_recursive = true,
                "readonly" => options.read_only_force_recursive = true,
                _ => {
                    return Err(format!(
                        "{} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
                        invalid()
                    ));
                }
            }
        }
        "ownership" => mount.ownership = value.to_owned(),
        "volume-subpath" => mount.volume_options.get_or_insert_default().subpath = value.to_owned(),
        "volume-label" => {
            insert(&mut mount.volume_options.get_or_insert_default().labels, value);
        }
        "volume-driver" => driver(mount).name = value.to_owned(),
        "volume-opt" => insert(&mut driver(mount).options, value),
        "image-subpath" => mount.image_options.get_or_insert_default().subpath = value.to_owned(),
        "tmpfs-size" => {
            let size = value.parse::<Bytes>().map_err(|_| invalid())?.0;
            mount.tmpfs_options.get_or_insert_default().size_bytes = Some(size);
        }
        "tmpfs-mode" => {
            let mode = u32::from_str_radix(value, 8).map_err(|_| invalid())?;
            mount.tmpfs_options.get_or_insert_default().mode = Some(mode);
        }
        _ => return Err(format!("unexpected key '{name}' in '{field}'")),
    }
    Ok(())
}

fn driver(mount: &mut Mount) -> &mut DriverConfig {
    mount.volume_options.get_or_insert_default().driver_config.get_or_insert_default()
}

fn insert(map: &mut BTreeMap<String, String>, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    map.insert(key.to_owned(), value.to_owned());
}

/// A path relative to the current directory becomes absolute; anything else may be a volume's name.
pub(super) fn absolute(path: &str) -> String {
    if path != "." && !path.starts_with("./") && path != ".." && !path.starts_with("../") {
        return path.to_owned();
    }
    let Ok(current) = std::env::current_dir() else { return path.to_owned() };
    let mut all = current;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                all.pop();
            }
            part => all.push(part),
        }
    }
    all.to_string_lossy().into_owned()
}

fn check(mount: &Mount) -> Parsed<()> {
    if mount.target.is_empty() {
        return Err("target is required".into());
    }
    let mixed = [
        (mount.volume_options.is_some(), "volume"),
        (mount.image_options.is_some(), "image"),
        (mount.bind_options.is_some(), "bind"),
        (mount.tmpfs_options.is_some(), "tmpfs"),
    ];
    if let Some((_, kind)) = mixed.iter().find(|(given, kind)| *given && *kind != mount.kind) {
        return Err(format!("cannot mix '{kind}-*' options with mount type '{}'", mount.kind));
    }
    let Some(bind) = &mount.bind_options else { return Ok(()) };
    let requires = |option: &str, what: &str| {
        Err(format!("option 'bind-recursive={option}' requires '{what}' to be specified in conjunction"))
    };
    if bind.read_only_non_recursive && !mount.read_only {
        return requires("writable", "readonly");
    }
    if bind.read_only_force_recursive && !mount.read_only {
        return requires("readonly", "readonly");
    }
    if bind.read_only_force_recursive && bind.propagation != "rprivate" {
        return requires("readonly", "bind-propagation=rprivate");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        serde_json::to_string(&parse(text).unwrap()).unwrap()
    }

    #[test]
    fn mounts_become_json() {
        assert_eq!(
            json("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave"),
            r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,"BindOptions":{"Propagation":"rslave"}}"#
        );
        assert_eq!(
            json("source=v,target=/b,volume-opt=o=a,volume-label=l,\"volume-opt=x=a,b\",volume-nocopy=false"),
            r#"{"Type":"volume","Source":"v","Target":"/b","VolumeOptions":{"Labels":{"l":""},"DriverConfig":{"Options":{"o":"a","x":"a,b"}}}}"#
        );
        assert_eq!(
            json("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777"),
            r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1023}}"#
        );
    }

    #[test]
    fn whose_files_are_whose_is_a_word_of_ours() {
        for word in ["auto", "idmap", "idmap=uids=1000-0-1;gids=1000-0-1"] {
            let field = if word == "auto" { "ownership=auto" } else { word };
            assert_eq!(
                json(&format!("type=bind,src=/a,dst=/b,{field}")),
                format!(r#"{{"Type":"bind","Source":"/a","Target":"/b","Ownership":"{word}"}}"#)
            );
        }
    }

    #[test]
    fn mistakes_are_explained() {
        let cases = [
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("type=bind", "target is required"),
            ("target=/x,foo=bar", "unexpected key 'foo' in 'foo=bar'"),
            ("target=/x,ro=maybe", "invalid value for ro: maybe"),
            ("type=bind,target=/x,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
            (
                "type=bind,target=/x,bind-recursive=writable",
                "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction",
            ),
        ];
        for (text, reason) in cases {
            assert_eq!(parse(text).unwrap_err(), reason, "{text}");
        }
    }

    #[test]
    fn relative_sources_are_completed() {
        let current = std::env::current_dir().unwrap();
        assert_eq!(absolute("./x"), current.join("x").to_string_lossy());
        assert_eq!(absolute("name"), "name");
    }
}
