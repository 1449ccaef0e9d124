//! Volumes as the wire has them.

use serde_json::{Value, json};
use wharf_api::models::{Volume, VolumeScopeEnum, VolumeUsageData};
use wharf_engine::VolumeView;

use crate::convert::{size, unordered};
use crate::response;

/// One volume.
pub(crate) fn to_model(view: VolumeView) -> Volume {
    Volume {
        name: view.name,
        driver: view.driver,
        mountpoint: view.mountpoint,
        // Docker shows whole seconds here.
        created_at: view.created.map(|created| format!("{created:.0}")),
        labels: unordered(view.labels),
        scope: Some(if view.scope == "global" { VolumeScopeEnum::GLOBAL } else { VolumeScopeEnum::LOCAL }),
        options: unordered(view.options),
        status: None,
        cluster_volume: None,
        usage_data: None,
    }
}

/// One volume with what its plugin says about it, which the model has no place for.
pub(crate) fn document(view: VolumeView) -> Value {
    let status = json!(view.status);
    let mut document = response::value(&to_model(view));
    if status.as_object().is_some_and(|status| !status.is_empty()) {
        document["Status"] = status;
    }
    document
}

/// One volume with its size and the number of containers that use it.
pub(crate) fn with_usage(view: VolumeView, bytes: u64, users: usize) -> Volume {
    let usage = VolumeUsageData { size: size(bytes), ref_count: size(users as u64) };
    Volume { usage_data: Some(usage), ..to_model(view) }
}
