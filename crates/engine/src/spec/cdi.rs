//! Devices of the container device interface (CDI 0.8): a vendor's files say what a container needs for a device.
//!
//! The files are the administrator's, and what they say is done as root: only regular files of root that nobody else can
//! write are read, with a limit on size and number. They are read at every start, so a change needs no restart. Of two
//! files that describe one device the one in the later directory counts; in the same directory nobody's does.
//!
//! Nothing of an image or of a request gets into the files' own words: a request only names devices (RT-22).

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    MountBuilder, Spec,
};
use serde::Deserialize;
use wharf_linux::hostfs;
use wharf_model::spec::{DeviceRequest, HostSpec};

use super::invalid_spec;
use crate::{Error, Result};

/// The most that is read of one file.
const FILE: u64 = 1024 * 1024;
/// The most files of one directory.
const FILES: usize = 256;
/// The most edits of one kind in one file.
const EDITS: usize = 4096;
/// What NVIDIA's and other vendors' drivers call parts of a graphics processor; each comes with the device.
const GPU_CAPABILITIES: [&str; 9] =
    ["gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display", "ngx"];
/// Versions of the specification whose words are all known here.
const VERSIONS: [&str; 8] = ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0"];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<HookEdit>,
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    additional_gids: Vec<u32>,
    intel_rdt: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    path: String,
    #[serde(default)]
    host_path: String,
    #[serde(default, rename = "type")]
    kind: String,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    #[serde(default)]
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HookEdit {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// All files of all directories, later directories last.
struct Registry(Vec<Vec<File>>);

/// What requested devices change, in order.
#[derive(Debug, Default)]
pub(crate) struct Injection(Vec<Edits>);

impl Injection {
    /// Finds the devices a container asks for.
    pub(crate) fn find(host: &HostSpec, directories: &[PathBuf]) -> Result<Self> {
        if host.device_requests.is_empty() {
            return Ok(Self::default());
        }
        let registry = Registry::read(directories);
        let mut names = Vec::new();
        for request in &host.device_requests {
            names.extend(registry.select(request)?);
        }
        registry.edits(&names)
    }

    /// Supplementary groups of the container's processes.
    pub(crate) fn groups(&self) -> Vec<String> {
        let gids = self.0.iter().flat_map(|edits| &edits.additional_gids);
        gids.filter(|gid| **gid != 0).map(ToString::to_string).collect()
    }

    /// Changes a configuration.
    pub(crate) fn apply(&self, spec: &mut Spec) -> Result<()> {
        for edits in &self.0 {
            set_environment(spec, &edits.env);
            for node in &edits.device_nodes {
                add_node(spec, node)?;
            }
            for mount in &edits.mounts {
                add_mount(spec, mount)?;
            }
            for hook in &edits.hooks {
                add_hook(spec, hook)?;
            }
        }
        Ok(())
    }
}

impl Registry {
    fn read(directories: &[PathBuf]) -> Self {
        let read = |directory: &PathBuf| {
            let mut names = hostfs::read_dir(directory).unwrap_or_default();
            names.sort();
            let files = names.into_iter().map(|name| directory.join(name));
            let files = files.filter(|path| {
                path.extension().is_some_and(|end| ["json", "yaml", "yml"].iter().any(|known| end == *known))
            });
            let good = |path: PathBuf| {
                // One bad file must not take the others' devices away.
                parse(&path)
                    .inspect_err(
                        |reason| tracing::warn!(path = %path.display(), %reason, "a CDI file is not used"),
                    )
                    .ok()
            };
            files.take(FILES).filter_map(good).collect()
        };
        Self(directories.iter().map(read).collect())
    }

    /// The file that describes a device, and its device.
    fn resolve(&self, name: &str) -> Option<(&File, &Device)> {
        let (kind, device) = name.split_once('=')?;
        self.0.iter().rev().find_map(|files| {
            let files = files.iter().filter(|file| file.kind == kind);
            let mut found = files.flat_map(|file| {
                file.devices.iter().filter(|own| own.name == device).map(move |own| (file, own))
            });
            // Two of the same rank: whose it is cannot be told.
            found.next().map(|first| found.next().is_none().then_some(first))
        })?
    }

    /// The names a request comes to.
    fn select(&self, request: &DeviceRequest) -> Result<Vec<String>> {
        let failed = |text: &str| Err(Error::System(text.to_owned()));
        if request.driver == "cdi" {
            return match request {
                _ if request.count != 0 => failed("unexpected count in CDI device request"),
                _ if !request.options.is_empty() => failed("unexpected options in CDI device request"),
                _ => Ok(request.device_ids.clone()),
            };
        }
        let all = |set: &Vec<String>| format!("[{}]", set.join(" "));
        let none = || {
            Error::System(format!(
                "could not select device driver {:?} with capabilities: [{}]",
                request.driver,
                request.capabilities.iter().map(all).collect::<Vec<_>>().join(" ")
            ))
        };
        let known = |set: &Vec<String>| {
            set.iter().any(|one| one == "gpu")
                && set.iter().all(|one| GPU_CAPABILITIES.contains(&one.as_str()))
        };
        if !request.capabilities.iter().any(known) {
            return Err(none());
        }
        let (kind, devices) = self.graphics(&request.driver).ok_or_else(none)?;
        let full = |name: &String| format!("{kind}={name}");
        if !request.device_ids.is_empty() {
            if request.count != 0 {
                return failed("cannot set both Count and DeviceIDs on device request");
            }
            return Ok(request.device_ids.iter().map(full).collect());
        }
        // Vendors describe a device under several names (index, id); the indices are each of them once.
        let indices: Vec<String> =
            devices.iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())).cloned().collect();
        let single = if indices.is_empty() {
            devices.iter().filter(|name| *name != "all").cloned().collect()
        } else {
            indices
        };
        match usize::try_from(request.count) {
            Err(_) if devices.iter().any(|name| name == "all") => Ok(vec![format!("{kind}=all")]),
            Err(_) => Ok(single.iter().map(full).collect()),
            Ok(count) if count > single.len() => Err(Error::System(format!(
                "could not select {count} devices of {kind}: there are {}",
                single.len()
            ))),
            Ok(count) => Ok(single.iter().take(count).map(full).collect()),
        }
    }

    /// The kind of graphics processors that `driver` means, and the names of its devices.
    fn graphics(&self, driver: &str) -> Option<(&str, Vec<String>)> {
        let mut kinds: Vec<&str> = self
            .0
            .iter()
            .flatten()
            .map(|file| file.kind.as_str())
            .filter(|kind| kind.ends_with("/gpu"))
            .collect();
        // NVIDIA's first, as `--gpus` was made for them.
        kinds.sort_by_key(|kind| (*kind != "nvidia.com/gpu", *kind));
        let wanted = |kind: &&str| driver.is_empty() || kind.split('.').next() == Some(driver);
        let kind = kinds.into_iter().find(wanted)?;
        let files = self.0.iter().flatten().filter(|file| file.kind == kind);
        let mut names: Vec<String> =
            files.flat_map(|file| file.devices.iter().map(|device| device.name.clone())).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names.dedup();
        Some((kind, names))
    }

    /// What the devices need: once for each file, then for each device.
    fn edits(&self, names: &[String]) -> Result<Injection> {
        let missing: Vec<&str> =
            names.iter().filter(|name| self.resolve(name).is_none()).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(Error::System(format!(
                "CDI device injection failed: unresolvable CDI devices {}",
                missing.join(", ")
            )));
        }
        let (mut edits, mut seen): (Vec<Edits>, Vec<*const File>) = (Vec::new(), Vec::new());
        for (file, device) in names.iter().filter_map(|name| self.resolve(name)) {
            let this: *const File = file;
            if !seen.contains(&this) {
                seen.push(this);
                edits.push(file.container_edits.clone());
            }
            edits.push(device.container_edits.clone());
        }
        Ok(Injection(edits))
    }
}

/// Reads and checks one file.
fn parse(path: &Path) -> std::result::Result<File, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err("it must be a regular file of root that nobody else can write".into());
    }
    let bytes = hostfs::read_bounded(path, FILE).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|error| error.to_string())?;
    let file: File = if path.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?
    };
    check(&file).map(|()| file)
}

fn check(file: &File) -> std::result::Result<(), String> {
    if !VERSIONS.contains(&file.cdi_version.trim_start_matches('v')) {
        return Err(format!("its version {:?} is not known", file.cdi_version));
    }
    let word = |text: &str, more: &[u8]| {
        let bytes = text.as_bytes();
        text.len() <= 255
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || more.contains(byte))
    };
    let kind = file.kind.split_once('/');
    if !kind.is_some_and(|(vendor, class)| word(vendor, b"_-.") && word(class, b"_-")) {
        return Err(format!("{:?} is not a kind such as vendor.com/class", file.kind));
    }
    if file.devices.len() > EDITS {
        return Err(format!("it has more than {EDITS} devices"));
    }
    check_edits(&file.container_edits)?;
    let mut names = std::collections::BTreeSet::new();
    for device in &file.devices {
        if !word(&device.name, b"_-.:") {
            return Err(format!("{:?} is not the name of a device", device.name));
        }
        if !names.insert(&device.name) {
            return Err(format!("it has the device {:?} twice", device.name));
        }
        check_edits(&device.container_edits)?;
    }
    Ok(())
}

fn check_edits(edits: &Edits) -> std::result::Result<(), String> {
    let Edits { env, device_nodes, mounts, hooks, additional_gids, intel_rdt } = edits;
    if intel_rdt.is_some() {
        return Err("intelRdt is not supported".into());
    }
    if [env.len(), device_nodes.len(), mounts.len(), hooks.len(), additional_gids.len()]
        .iter()
        .any(|n| *n > EDITS)
    {
        return Err(format!("it has more than {EDITS} edits of one kind"));
    }
    let absolute = |path: &str| path.starts_with('/') && !path.contains('\0');
    if let Some(bad) = env.iter().find(|one| one.find('=').is_none_or(|at| at == 0)) {
        return Err(format!("{bad:?} is not an environment variable"));
    }
    for node in device_nodes {
        if !absolute(&node.path) || !(node.host_path.is_empty() || absolute(&node.host_path)) {
            return Err(format!("the path of the device {:?} is not absolute", node.path));
        }
        if !["", "b", "c", "u", "p"].contains(&node.kind.as_str())
            || !node.permissions.bytes().all(|byte| b"rwm".contains(&byte))
        {
            return Err(format!("the device {:?} has an unknown type or permission", node.path));
        }
    }
    for mount in mounts {
        if !absolute(&mount.container_path) || mount.host_path.is_empty() {
            return Err(format!("the mount {:?} needs both paths", mount.container_path));
        }
    }
    for hook in hooks {
        if !absolute(&hook.path) || slot(&mut Hooks::default(), &hook.hook_name).is_none() {
            return Err(format!("the hook {:?} of {:?} is not known", hook.hook_name, hook.path));
        }
    }
    Ok(())
}

fn set_environment(spec: &mut Spec, wanted: &[String]) {
    let Some(process) = spec.process_mut() else { return };
    let mut env = process.env().clone().unwrap_or_default();
    let name = |variable: &str| variable.split('=').next().unwrap_or(variable).to_owned();
    for variable in wanted {
        env.retain(|have| name(have) != name(variable));
        env.push(variable.clone());
    }
    process.set_env(Some(env));
}

/// Makes the device and lets the container use it. What the file leaves out is as on the host.
fn add_node(spec: &mut Spec, node: &Node) -> Result<()> {
    let device = node_device(node)?;
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|have| have.path() != device.path());
    if matches!(device.typ(), LinuxDeviceType::B | LinuxDeviceType::C) {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(device.typ())
            .major(device.major())
            .minor(device.minor())
            .access(access)
            .build()
            .map_err(invalid_spec)?;
        let mut resources = linux.resources().clone().unwrap_or_default();
        let mut rules = resources.devices().clone().unwrap_or_default();
        rules.push(rule);
        resources.set_devices(Some(rules));
        linux.set_resources(Some(resources));
    }
    devices.push(device);
    linux.set_devices(Some(devices));
    Ok(())
}

fn node_device(node: &Node) -> Result<LinuxDevice> {
    let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let found = std::fs::metadata(host);
    let on_host = found.as_ref().ok().and_then(|found| {
        let kind = match found.file_type() {
            kind if kind.is_char_device() => LinuxDeviceType::C,
            kind if kind.is_block_device() => LinuxDeviceType::B,
            kind if kind.is_fifo() => LinuxDeviceType::P,
            _ => return None,
        };
        let number = found.rdev();
        Some((kind, i64::from(rustix::fs::major(number)), i64::from(rustix::fs::minor(number)), found.mode()))
    });
    let kind = match node.kind.as_str() {
        "b" => Some(LinuxDeviceType::B),
        "c" => Some(LinuxDeviceType::C),
        "u" => Some(LinuxDeviceType::U),
        "p" => Some(LinuxDeviceType::P),
        _ => None,
    };
    let told = kind.zip(node.major).zip(node.minor).map(|((kind, major), minor)| (kind, major, minor, 0o666));
    let Some((kind, major, minor, mode)) = told.or(on_host) else {
        return Err(Error::System(format!(
            "CDI device injection failed: failed to stat CDI host device {host:?}: {}",
            found.map_or_else(|_| "no such file or directory", |_| "not a device node")
        )));
    };
    LinuxDeviceBuilder::default()
        .path(&node.path)
        .typ(kind)
        .major(major)
        .minor(minor)
        .file_mode(node.file_mode.unwrap_or(mode) & 0o7777)
        .uid(node.uid.unwrap_or(0))
        .gid(node.gid.unwrap_or(0))
        .build()
        .map_err(invalid_spec)
}

fn add_mount(spec: &mut Spec, wanted: &Mount) -> Result<()> {
    let kind = if matches!(wanted.kind.as_str(), "" | "none") { "bind" } else { &wanted.kind };
    let mut options = wanted.options.clone();
    if kind == "bind" && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.push("rbind".to_owned());
    }
    let mount = MountBuilder::default()
        .destination(&wanted.container_path)
        .source(&wanted.host_path)
        .typ(kind)
        .options(options)
        .build()
        .map_err(invalid_spec)?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.retain(|have| have.destination() != mount.destination());
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn add_hook(spec: &mut Spec, wanted: &HookEdit) -> Result<()> {
    let mut hook =
        HookBuilder::default().path(&wanted.path).args(wanted.args.clone()).env(wanted.env.clone());
    if let Some(timeout) = wanted.timeout {
        hook = hook.timeout(timeout);
    }
    let hook = hook.build().map_err(invalid_spec)?;
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    if let Some(list) = slot(&mut hooks, &wanted.hook_name) {
        list.get_or_insert_default().push(hook);
    }
    spec.set_hooks(Some(hooks));
    Ok(())
}

/// The list of hooks of that name.
fn slot<'a>(hooks: &'a mut Hooks, name: &str) -> Option<&'a mut Option<Vec<Hook>>> {
    Some(match name {
        #[allow(deprecated)]
        "prestart" => hooks.prestart_mut(),
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        "poststop" => hooks.poststop_mut(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: &str, names: &[&str]) -> File {
        let devices: Vec<_> = names
            .iter()
            .map(|name| format!(r#"{{"name":"{name}","containerEdits":{{"env":["D{name}=1"]}}}}"#))
            .collect();
        let text = format!(
            r#"{{"cdiVersion":"0.6.0","kind":"{kind}","devices":[{}],"containerEdits":{{"env":["ALL=1"]}}}}"#,
            devices.join(",")
        );
        serde_json::from_str(&text).unwrap()
    }

    fn gpus(count: i64, ids: &[&str]) -> DeviceRequest {
        DeviceRequest {
            count,
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            capabilities: vec![vec!["gpu".into()]],
            ..DeviceRequest::default()
        }
    }

    #[test]
    fn graphics_processors_are_found_by_count_and_name() {
        let registry = Registry(vec![vec![file("nvidia.com/gpu", &["1", "0", "all", "GPU-abc"])]]);
        assert_eq!(registry.select(&gpus(-1, &[])).unwrap(), ["nvidia.com/gpu=all"]);
        assert_eq!(registry.select(&gpus(1, &[])).unwrap(), ["nvidia.com/gpu=0"]);
        assert_eq!(registry.select(&gpus(0, &["GPU-abc"])).unwrap(), ["nvidia.com/gpu=GPU-abc"]);
        assert!(registry.select(&gpus(3, &[])).unwrap_err().to_string().contains("there are 2"));
        let amd = DeviceRequest { driver: "amd".into(), ..gpus(-1, &[]) };
        assert_eq!(
            registry.select(&amd).unwrap_err().to_string(),
            "could not select device driver \"amd\" with capabilities: [[gpu]]"
        );
        assert_eq!(
            Registry(Vec::new()).select(&gpus(-1, &[])).unwrap_err().to_string(),
            "could not select device driver \"\" with capabilities: [[gpu]]"
        );
    }

    #[test]
    fn the_later_directory_counts_and_equals_cancel_each_other() {
        let one = || file("v.com/d", &["a"]);
        let registry = Registry(vec![vec![one()], vec![file("v.com/d", &["a", "b"])]]);
        assert_eq!(registry.resolve("v.com/d=a").unwrap().0.devices.len(), 2);
        let registry = Registry(vec![vec![one(), one()]]);
        let error = registry.edits(&["v.com/d=a".into(), "bogus".into()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "CDI device injection failed: unresolvable CDI devices v.com/d=a, bogus"
        );
        // What belongs to the whole file comes once.
        let registry = Registry(vec![vec![file("v.com/d", &["a", "b"])]]);
        let found = registry.edits(&["v.com/d=a".into(), "v.com/d=b".into()]).unwrap();
        let env: Vec<_> = found.0.iter().flat_map(|edits| edits.env.iter().map(String::as_str)).collect();
        assert_eq!(env, ["ALL=1", "Da=1", "Db=1"]);
    }

    #[test]
    fn files_that_make_no_sense_are_refused() {
        let with = |edits: &str| {
            let text = format!(
                r#"{{"cdiVersion":"0.8.0","kind":"v.com/d","devices":[{{"name":"a","containerEdits":{edits}}}]}}"#
            );
            serde_json::from_str::<File>(&text)
                .map_err(|error| error.to_string())
                .and_then(|file| check(&file))
        };
        with(r#"{"env":["A=1"],"additionalGIDs":[7],"hooks":[{"hookName":"poststop","path":"/x"}]}"#)
            .unwrap();
        for bad in [
            r#"{"env":["=1"]}"#,
            r#"{"deviceNodes":[{"path":"dev/x"}]}"#,
            r#"{"deviceNodes":[{"path":"/dev/x","permissions":"rx"}]}"#,
            r#"{"mounts":[{"hostPath":"","containerPath":"/x"}]}"#,
            r#"{"hooks":[{"hookName":"nonsense","path":"/x"}]}"#,
            r#"{"privileged":true}"#,
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
        for (version, kind, name) in [
            ("9.0.0", "v.com/d", "a"),
            ("0.6.0", "nokind", "a"),
            ("0.6.0", "v.com/d", "../a"),
            ("0.6.0", "v.com/d", ""),
        ] {
            let text =
                format!(r#"{{"cdiVersion":"{version}","kind":"{kind}","devices":[{{"name":"{name}"}}]}}"#);
            let file: File = serde_json::from_str(&text).unwrap();
            assert!(check(&file).is_err(), "{text}");
        }
    }

    #[test]
    fn yaml_is_read_as_vendors_write_it() {
        let text = "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ncontainerEdits:\n  env:\n  - NVIDIA_VISIBLE_DEVICES=void\n  \
                    hooks:\n  - args: [nvidia-ctk, hook]\n    hookName: createContainer\n    path: /usr/bin/nvidia-ctk\ndevices:\n\
                    - name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n      major: 195\n";
        let file: File = serde_saphyr::from_str(text).unwrap();
        check(&file).unwrap();
        assert_eq!(file.devices[0].container_edits.device_nodes[0].major, Some(195));
    }
}
