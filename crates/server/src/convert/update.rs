//! `POST /containers/{id}/update`: the body as the engine's [`Update`].

use serde_json::{Map, Value};
use wharf_api::models::HostConfig;
use wharf_engine::Update;

use crate::convert::host;
use crate::error::{Failure, Result};
use crate::request::invalid_json;

/// What `update` can change. Docker overlooks everything else a body may have, and so do we.
const FIELDS: [&str; 14] = [
    "BlkioWeight",
    "CpuPeriod",
    "CpuQuota",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "RestartPolicy",
];

/// Reads a body.
pub(crate) fn from_body(body: &Value) -> Result<Update> {
    let none = Map::new();
    let given = match body {
        Value::Object(given) => given,
        Value::Null => &none,
        _ => return Err(Failure::invalid("invalid JSON: expected an object")),
    };
    // Go's decoder takes keys in any case.
    let field = |key: &String| FIELDS.iter().find(|field| field.eq_ignore_ascii_case(key));
    let known: Map<String, Value> = given
        .iter()
        .filter(|(_, value)| !value.is_null())
        .filter_map(|(key, value)| field(key).map(|name| ((*name).to_owned(), value.clone())))
        .collect();
    let known = Value::Object(known);
    host::check_words(&known)?;
    let model: HostConfig = serde_json::from_value(known).map_err(|error| invalid_json(&error))?;
    let policy = model.restart_policy.as_ref().and_then(|policy| policy.name);
    let named = policy.is_some_and(|name| !name.to_string().is_empty());
    let pids_limit = model.pids_limit;
    let limits = host::from_model(model)?;
    let restart_policy = named.then(|| limits.restart_policy.clone());
    Ok(Update { limits, pids_limit, restart_policy })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_model::spec::RestartName;

    use super::*;

    #[test]
    fn only_limits_and_policy_are_read() {
        let update = from_body(&json!({
            "Memory": 67_108_864, "Devices": [{"PathOnHost": "/dev/sda"}], "DeviceCgroupRules": ["a *:* rwm"],
            "Privileged": true, "RestartPolicy": {"Name": "always"}, "PidsLimit": -1, "CpuShares": null
        }))
        .unwrap();
        assert_eq!((update.limits.memory, update.pids_limit), (64 << 20, Some(-1)));
        assert!(update.limits.devices.is_empty() && update.limits.device_cgroup_rules.is_empty());
        assert!(!update.limits.privileged);
        assert_eq!(update.restart_policy.unwrap().name, RestartName::Always);
        assert!(from_body(&json!({"RestartPolicy": {"Name": ""}})).unwrap().restart_policy.is_none());
        assert!(from_body(&json!({"RestartPolicy": {"Name": "x"}})).is_err());
        assert!(from_body(&json!([])).is_err());
    }
}
