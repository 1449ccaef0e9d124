//! What old versions of the API have differently, as functions on documents. Handlers speak only the newest version;
//! nothing else compares versions of documents.

use serde_json::{Map, Value, json};
use wharf_api::version::ApiVersion;

use crate::error::{Failure, Result};

/// Brings the body of `POST /containers/create` to the newest version: fields a version does not know are ignored, as
/// they were then, and defaults that have changed are made explicit. The body is an object.
pub(crate) fn create_request(body: &mut Value, version: ApiVersion) -> Result<()> {
    let older = |minor: u16| version < ApiVersion::new(minor);
    if older(44) {
        remove(&mut body["Healthcheck"], "StartInterval");
    }
    let host = &mut body["HostConfig"];
    if host.is_null() {
        *host = json!({});
    }
    if !host.is_object() {
        return Err(Failure::invalid("invalid JSON: HostConfig must be an object"));
    }
    if older(25) {
        // Clients removed the container themselves then, and still do.
        host["AutoRemove"] = json!(false);
    }
    if older(40) {
        default_word(host, "IpcMode", "shareable");
    }
    if older(41) {
        default_word(host, "CgroupnsMode", "host");
    }
    if older(43) {
        remove(host, "Annotations");
    }
    if let Some(mounts) = host.get_mut("Mounts").and_then(Value::as_array_mut) {
        mounts.iter_mut().try_for_each(|mount| mount_request(mount, version))?;
    }
    Ok(())
}

fn mount_request(mount: &mut Value, version: ApiVersion) -> Result<()> {
    if !mount.is_object() {
        return Err(Failure::invalid("invalid JSON: a mount must be an object"));
    }
    let older = |minor: u16| version < ApiVersion::new(minor);
    let kind = mount["Type"].as_str().unwrap_or_default().to_owned();
    if older(40) {
        remove(&mut mount["BindOptions"], "NonRecursive");
    }
    if older(42) {
        remove(&mut mount["BindOptions"], "CreateMountpoint");
        // Options of another kind were not refused then.
        for (own, options) in
            [("bind", "BindOptions"), ("volume", "VolumeOptions"), ("tmpfs", "TmpfsOptions")]
        {
            if kind != own {
                remove(mount, options);
            }
        }
    }
    if older(44) && mount["BindOptions"]["ReadOnlyForceRecursive"] == true {
        return Err(Failure::invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"));
    }
    if older(45) && mount["VolumeOptions"]["Subpath"].as_str().is_some_and(|path| !path.is_empty()) {
        return Err(Failure::invalid("VolumeOptions.Subpath needs API v1.45 or newer"));
    }
    if older(46) {
        remove(&mut mount["TmpfsOptions"], "Options");
    }
    if older(48) && kind == "image" {
        return Err(Failure::invalid("Mount type \"Image\" needs API v1.48 or newer"));
    }
    Ok(())
}

/// Gives a container's document what its models no longer have: the default bridge's settings beside `Networks`, and
/// before 1.44 the MAC address in `Config`.
pub(crate) fn container(document: &mut Value, version: ApiVersion) {
    let bridge = document["NetworkSettings"]["Networks"]["bridge"].clone();
    if let Some(settings) = document["NetworkSettings"].as_object_mut() {
        for field in ["EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "MacAddress"] {
            if let Some(value) = bridge.get(field) {
                settings.insert(field.to_owned(), value.clone());
            }
        }
    }
    if version < ApiVersion::new(44)
        && let (Some(mac), Some(config)) = (bridge.get("MacAddress"), document["Config"].as_object_mut())
    {
        config.insert("MacAddress".to_owned(), mac.clone());
    }
}

/// Whether lists of containers show annotations.
pub(crate) fn lists_annotations(version: ApiVersion) -> bool {
    version >= ApiVersion::new(46)
}

/// An image, in lists as in inspect.
pub(crate) fn image(document: &mut Value, version: ApiVersion) {
    image_size(document, version);
    if version < ApiVersion::new(51) && !document["Containers"].is_null() {
        document["Containers"] = json!(-1);
    }
}

/// The size had a second name.
pub(crate) fn image_size(document: &mut Value, version: ApiVersion) {
    if version < ApiVersion::new(44) {
        document["VirtualSize"] = document["Size"].clone();
    }
}

/// An image as inspect shows it: its configuration had the fields of a container's, and before 1.45 there was a second,
/// empty one of the container it was made in.
pub(crate) fn image_inspect(document: &mut Value, version: ApiVersion) {
    image(document, version);
    let legacy = |config: &mut Value| {
        for field in ["AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"] {
            config[field] = json!(false);
        }
        for field in ["Domainname", "Hostname", "Image"] {
            config[field] = json!("");
        }
    };
    if version < ApiVersion::new(50) && document["Config"].is_object() {
        legacy(&mut document["Config"]);
    }
    if version < ApiVersion::new(45) {
        let mut config = json!({"User": "", "WorkingDir": ""});
        for field in ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"] {
            config[field] = Value::Null;
        }
        legacy(&mut config);
        document["ContainerConfig"] = config;
    }
}

/// What is known about the engine: fields that have gone, and without those that came.
pub(crate) fn info(document: &mut Value, version: ApiVersion) {
    let older = |minor: u16| version < ApiVersion::new(minor);
    if older(49) {
        remove(document, "FirewallBackend");
        for field in ["AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames"] {
            document["RegistryConfig"][field] = Value::Null;
        }
    }
    if older(50) {
        document["BridgeNfIptables"] = json!(false);
        document["BridgeNfIp6tables"] = json!(false);
    }
    if older(42) {
        document["KernelMemory"] = json!(true);
    }
    if older(25)
        && let Some(options) = document["SecurityOptions"].as_array_mut()
    {
        for option in options {
            // Names alone, without their settings.
            let name = option.as_str().and_then(|text| text.strip_prefix("name=")).map(str::to_owned);
            if let Some(name) = name.as_deref().and_then(|name| name.split(',').next()) {
                *option = json!(name);
            }
        }
    }
}

/// Gives an event the fields that older clients select by.
pub(crate) fn event(document: &mut Value) {
    let kind = document["Type"].as_str().unwrap_or_default().to_owned();
    if kind != "container" && kind != "image" {
        return;
    }
    document["status"] = document["Action"].clone();
    let id = document["Actor"]["ID"].clone();
    if id.as_str().is_some_and(|id| !id.is_empty()) {
        document["id"] = id;
    }
    let image = document["Actor"]["Attributes"]["image"].clone();
    if kind == "container" && image.is_string() {
        document["from"] = image;
    }
}

fn remove(value: &mut Value, key: &str) {
    let _absent = value.as_object_mut().map(|fields: &mut Map<String, Value>| fields.remove(key));
}

fn default_word(host: &mut Value, key: &str, word: &str) {
    if host[key].as_str().unwrap_or_default().is_empty() {
        host[key] = json!(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(minor: u16, mut body: Value) -> Value {
        create_request(&mut body, ApiVersion::new(minor)).unwrap();
        body
    }

    #[test]
    fn the_newest_version_is_left_alone() {
        let body = json!({"Image": "a", "HostConfig": {"Annotations": {"a": "b"}, "IpcMode": "", "Mounts": [
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Options": [["exec"]]}}]}});
        let after = adapted(51, body.clone());
        assert_eq!(after["HostConfig"]["Annotations"], body["HostConfig"]["Annotations"]);
        assert_eq!(after["HostConfig"]["IpcMode"], "");
        assert_eq!(
            after["HostConfig"]["Mounts"][0]["TmpfsOptions"],
            body["HostConfig"]["Mounts"][0]["TmpfsOptions"]
        );
    }

    #[test]
    fn old_defaults_become_explicit() {
        let host = &adapted(39, json!({"Image": "a"}))["HostConfig"];
        assert_eq!(host["IpcMode"], "shareable");
        assert_eq!(host["CgroupnsMode"], "host");
        assert_eq!(adapted(40, json!({}))["HostConfig"]["IpcMode"], Value::Null);
        let removed = json!({"HostConfig": {"AutoRemove": true}});
        assert_eq!(adapted(24, removed.clone())["HostConfig"]["AutoRemove"], false);
        assert_eq!(adapted(25, removed)["HostConfig"]["AutoRemove"], true);
        let given = adapted(39, json!({"HostConfig": {"IpcMode": "private"}}));
        assert_eq!(given["HostConfig"]["IpcMode"], "private");
    }

    #[test]
    fn fields_of_later_versions_are_ignored_or_refused() {
        let body = json!({"Healthcheck": {"StartInterval": 1}, "HostConfig": {"Annotations": {"a": "b"}, "Mounts": [
            {"Type": "bind", "Source": "/a", "Target": "/b", "VolumeOptions": {}, "BindOptions": {"NonRecursive": true}}
        ]}});
        let after = adapted(39, body);
        assert_eq!(after["Healthcheck"], json!({}));
        assert_eq!(after["HostConfig"].get("Annotations"), None);
        let mount = &after["HostConfig"]["Mounts"][0];
        assert_eq!(mount.get("VolumeOptions"), None);
        assert_eq!(mount["BindOptions"], json!({}));
        let mut subpath =
            json!({"HostConfig": {"Mounts": [{"Type": "volume", "VolumeOptions": {"Subpath": "x"}}]}});
        assert!(create_request(&mut subpath, ApiVersion::new(44)).is_err());
        let forced = json!({"Type": "bind", "BindOptions": {"ReadOnlyForceRecursive": true}});
        let mut forced = json!({"HostConfig": {"Mounts": [forced]}});
        assert!(create_request(&mut forced, ApiVersion::new(43)).is_err());
        create_request(&mut forced, ApiVersion::new(44)).unwrap();
    }

    #[test]
    fn the_default_bridge_is_shown_twice() {
        let mut document = json!({"Config": {}, "NetworkSettings": {"Networks": {"bridge": {
            "IPAddress": "172.17.0.2", "MacAddress": "02:00:00:00:00:01"}}}});
        container(&mut document, ApiVersion::new(43));
        assert_eq!(document["NetworkSettings"]["IPAddress"], "172.17.0.2");
        assert_eq!(document["Config"]["MacAddress"], "02:00:00:00:00:01");
        let mut none = json!({"Config": {}, "NetworkSettings": {"Networks": {"none": {}}}});
        container(&mut none, ApiVersion::MAX);
        assert_eq!(none["NetworkSettings"].get("IPAddress"), None);
        assert_eq!(none["Config"].get("MacAddress"), None);
    }

    #[test]
    fn events_carry_their_old_fields() {
        let mut event_of = json!({"Type": "container", "Action": "start", "Actor": {"ID": "x",
            "Attributes": {"image": "busybox"}}});
        event(&mut event_of);
        assert_eq!(
            (&event_of["status"], &event_of["id"], &event_of["from"]),
            (&json!("start"), &json!("x"), &json!("busybox"))
        );
        let mut volume = json!({"Type": "volume", "Action": "create", "Actor": {"ID": "v"}});
        event(&mut volume);
        assert_eq!(volume.get("status"), None);
    }
}
