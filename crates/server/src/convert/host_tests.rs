use serde_json::json;

use super::*;

/// Every field of `HostConfig` that has a meaning on Linux, with a value that is not its default.
fn everything() -> Value {
    // Text, because the macro cannot nest this much.
    let text = r#"{
        "Binds": ["/a:/b:ro"], "ContainerIDFile": "/cid", "NetworkMode": "host", "AutoRemove": true,
        "LogConfig": {"Type": "none", "Config": {"max-size": "1m"}},
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "53/udp": []},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "VolumeDriver": "local", "VolumesFrom": ["a"], "ConsoleSize": [24, 80], "Annotations": {"a": "b"},
        "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"], "CgroupnsMode": "private", "Dns": ["1.1.1.1"],
        "DnsOptions": ["ndots:1"], "DnsSearch": ["example.com"], "ExtraHosts": ["a:1.2.3.4"], "GroupAdd": ["1"],
        "IpcMode": "host", "Links": ["a:b"], "OomScoreAdj": 7, "PidMode": "host", "Privileged": true,
        "PublishAllPorts": true, "ReadonlyRootfs": true, "SecurityOpt": ["no-new-privileges"],
        "StorageOpt": {"size": "1G"}, "Tmpfs": {"/t": "size=1m"}, "UTSMode": "host", "UsernsMode": "host",
        "ShmSize": 1024, "Sysctls": {"net.ipv4.ip_forward": "1"}, "Runtime": "runc", "Isolation": "default", "Cgroup": "x",
        "DeviceRequests": [{"Driver": "cdi", "Count": -1, "DeviceIDs": ["a.b/c=d"], "Capabilities": [["gpu"]],
            "Options": {"a": "b"}}],
        "CpuShares": 1, "Memory": 2, "NanoCpus": 3, "CgroupParent": "/p", "BlkioWeight": 300,
        "BlkioWeightDevice": [{"Path": "/dev/a", "Weight": 10}],
        "BlkioDeviceReadBps": [{"Path": "/dev/a", "Rate": 1}], "BlkioDeviceWriteBps": [{"Path": "/dev/a", "Rate": 2}],
        "BlkioDeviceReadIOps": [{"Path": "/dev/a", "Rate": 3}],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/a", "Rate": 4}],
        "CpuPeriod": 5, "CpuQuota": 6, "CpuRealtimePeriod": 7, "CpuRealtimeRuntime": 8, "CpusetCpus": "0",
        "CpusetMems": "0", "DeviceCgroupRules": ["c 1:3 rwm"],
        "Devices": [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "rw"}],
        "MemoryReservation": 9, "MemorySwap": 10, "MemorySwappiness": 11, "OomKillDisable": true, "PidsLimit": 12,
        "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
        "Mounts": [
            {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "BindOptions": {
                "Propagation": "rshared", "NonRecursive": true, "CreateMountpoint": true,
                "ReadOnlyNonRecursive": true, "ReadOnlyForceRecursive": true}},
            {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"NoCopy": true, "Subpath": "s",
                "Labels": {"a": "b"}, "DriverConfig": {"Name": "local", "Options": {"o": "x"}}}},
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1, "Mode": 511, "Options": [["exec"]]}},
            {"Type": "image", "Source": "i", "Target": "/i", "ImageOptions": {"Subpath": "s"}}
        ],
        "MaskedPaths": ["/m"], "ReadonlyPaths": ["/r"], "Init": true
    }"#;
    serde_json::from_str(text).unwrap()
}

fn parse(host: Value) -> Result<HostSpec> {
    check_words(&host)?;
    from_model(serde_json::from_value(host).unwrap())
}

fn message(host: Value) -> String {
    parse(host).unwrap_err().message
}

#[test]
fn every_field_comes_back_from_inspect() {
    let given = everything();
    let shown = serde_json::to_value(to_model(parse(given.clone()).unwrap())).unwrap();
    for (name, value) in given.as_object().unwrap() {
        assert_eq!(&shown[name], value, "{name}");
    }
    let unknown: Vec<_> =
        shown.as_object().unwrap().keys().filter(|name| given.get(name).is_none()).collect();
    assert!(unknown.is_empty(), "not covered by this test: {unknown:?}");
}

#[test]
fn defaults_are_shown_as_docker_shows_them() {
    let shown = serde_json::to_value(to_model(parse(json!({})).unwrap())).unwrap();
    assert_eq!(shown["RestartPolicy"], json!({"Name": "no", "MaximumRetryCount": 0}));
    assert_eq!(shown["LogConfig"], json!({"Type": "json-file", "Config": {}}));
    assert_eq!(shown["ShmSize"], 67_108_864);
    assert_eq!(shown["NetworkMode"], "bridge");
    assert_eq!(shown["IpcMode"], "private");
    assert_eq!(shown.get("MemorySwappiness"), None);
    assert_eq!(shown.get("Binds"), None);
}

#[test]
fn words_outside_a_set_are_refused_in_dockers_words() {
    for (host, wanted) in [
        (
            json!({"RestartPolicy": {"Name": "foo"}}),
            "invalid restart policy: unknown policy 'foo'; use one of",
        ),
        (
            json!({"RestartPolicy": {"Name": "no", "MaximumRetryCount": 3}}),
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -3}}),
            "invalid restart policy: maximum retry count cannot be negative",
        ),
        (json!({"Isolation": "foo"}), "invalid isolation (foo): linux only supports 'default'"),
        (json!({"CgroupnsMode": "foo"}), "invalid cgroup namespace mode: foo"),
        (
            json!({"Mounts": [{"Type": "foo", "Target": "/x"}]}),
            "invalid mount config for type \"foo\": mount type unknown",
        ),
        (json!({"Mounts": [{"Target": "/x"}]}), "invalid mount config for type \"\": mount type unknown"),
        (
            json!({"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/x", "BindOptions": {"Propagation": "foo"}}]}),
            "invalid mount config for type \"bind\": invalid propagation mode: foo",
        ),
        (
            json!({"Mounts": [{"Type": "tmpfs", "Target": "/x", "BindOptions": {}}]}),
            "BindOptions must not be specified on mount type \"tmpfs\"",
        ),
        (json!({"PortBindings": {"x": []}}), "invalid port specification: \"x\""),
        (json!({"PortBindings": {"80": [{"HostPort": "abc"}]}}), "invalid port specification: \"abc\""),
        (json!({"PortBindings": {"80": [{"HostPort": "9-8"}]}}), "invalid port specification: \"9-8\""),
        (json!({"PortBindings": {"80": [{"HostIp": "abc"}]}}), "invalid IP address: abc"),
    ] {
        let got = message(host.clone());
        assert!(got.starts_with(wanted), "{host}: {got}");
    }
}

#[test]
fn port_ranges_are_single_ports() {
    let texts = |text: &str| port_range(text).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts("80"), ["80/tcp"]);
    assert_eq!(texts("80-82/udp"), ["80/udp", "81/udp", "82/udp"]);
    for bad in ["", "0", "82-80", "80-", "80/x", "1-70000"] {
        assert!(port_range(bad).is_err(), "{bad}");
    }
}

#[test]
fn no_limit_has_several_spellings() {
    for limit in [json!(0), json!(-1), json!(null)] {
        assert_eq!(parse(json!({"PidsLimit": limit})).unwrap().pids_limit, None);
    }
    assert_eq!(parse(json!({"MemorySwappiness": -1})).unwrap().memory_swappiness, None);
}
