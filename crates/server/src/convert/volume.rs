//! Volumes as the wire has them.

use wharf_api::models::{Volume, VolumeScopeEnum, VolumeUsageData};
use wharf_engine::VolumeView;

use crate::convert::{size, unordered};

/// One volume.
pub(crate) fn to_model(view: VolumeView) -> Volume {
    Volume {
        name: view.name,
        driver: view.driver,
        mountpoint: view.mountpoint,
        // Docker shows whole seconds here.
        created_at: Some(format!("{:.0}", view.created)),
        labels: unordered(view.labels),
        scope: Some(VolumeScopeEnum::LOCAL),
        options: unordered(view.options),
        status: None,
        cluster_volume: None,
        usage_data: None,
    }
}

/// One volume with its size and the number of containers that use it.
pub(crate) fn with_usage(view: VolumeView, bytes: u64, users: usize) -> Volume {
    let usage = VolumeUsageData { size: size(bytes), ref_count: size(users as u64) };
    Volume { usage_data: Some(usage), ..to_model(view) }
}
