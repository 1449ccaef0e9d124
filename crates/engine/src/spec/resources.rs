//! Limits, in the form of the OCI configuration.

use std::os::unix::fs::MetadataExt;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxMemory,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};
use wharf_model::spec::{BlkioDevice, HostSpec};

use super::invalid_spec;
use crate::{Error, Result};

pub(super) fn build(host: &HostSpec, devices: Vec<LinuxDeviceCgroup>) -> Result<LinuxResources> {
    let mut resources = LinuxResourcesBuilder::default()
        .devices(devices)
        .memory(memory(host)?)
        .cpu(cpu(host)?)
        .block_io(block_io(host)?);
    if let Some(limit) = host.pids_limit.filter(|limit| *limit != 0) {
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build().map_err(invalid_spec)?);
    }
    resources.build().map_err(invalid_spec)
}

fn memory(host: &HostSpec) -> Result<LinuxMemory> {
    let mut memory = LinuxMemoryBuilder::default();
    if host.memory > 0 {
        memory = memory.limit(host.memory);
    }
    if host.memory_swap != 0 {
        memory = memory.swap(host.memory_swap);
    }
    if host.memory_reservation > 0 {
        memory = memory.reservation(host.memory_reservation);
    }
    if let Some(value) = host.memory_swappiness.and_then(|value| u64::try_from(value).ok()) {
        memory = memory.swappiness(value);
    }
    if host.oom_kill_disable {
        memory = memory.disable_oom_killer(true);
    }
    memory.build().map_err(invalid_spec)
}

fn cpu(host: &HostSpec) -> Result<LinuxCpu> {
    let mut cpu = LinuxCpuBuilder::default();
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    if let Some(shares) = positive(host.cpu_shares) {
        cpu = cpu.shares(shares);
    }
    if host.nano_cpus > 0 {
        // Billionths of a CPU, over a period of 100 ms.
        cpu = cpu.period(100_000_u64).quota(host.nano_cpus / 10_000);
    }
    if let Some(period) = positive(host.cpu_period) {
        cpu = cpu.period(period);
    }
    if host.cpu_quota != 0 {
        cpu = cpu.quota(host.cpu_quota);
    }
    if let Some(period) = positive(host.cpu_realtime_period) {
        cpu = cpu.realtime_period(period);
    }
    if host.cpu_realtime_runtime > 0 {
        cpu = cpu.realtime_runtime(host.cpu_realtime_runtime);
    }
    if !host.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(host.cpuset_cpus.clone());
    }
    if !host.cpuset_mems.is_empty() {
        cpu = cpu.mems(host.cpuset_mems.clone());
    }
    cpu.build().map_err(invalid_spec)
}

fn block_io(host: &HostSpec) -> Result<LinuxBlockIo> {
    let mut block_io = LinuxBlockIoBuilder::default();
    if host.blkio_weight > 0 {
        block_io = block_io.weight(host.blkio_weight);
    }
    let of = |kind: &str| -> Result<Vec<LinuxThrottleDevice>> {
        host.blkio_devices.iter().filter(|device| device.kind == kind).map(throttle).collect()
    };
    let weighted = host.blkio_devices.iter().filter(|device| device.kind == "BlkioWeightDevice");
    block_io
        .weight_device(weighted.map(weight).collect::<Result<Vec<_>>>()?)
        .throttle_read_bps_device(of("BlkioDeviceReadBps")?)
        .throttle_write_bps_device(of("BlkioDeviceWriteBps")?)
        .throttle_read_iops_device(of("BlkioDeviceReadIOps")?)
        .throttle_write_iops_device(of("BlkioDeviceWriteIOps")?)
        .build()
        .map_err(invalid_spec)
}

fn weight(device: &BlkioDevice) -> Result<LinuxWeightDevice> {
    let (major, minor) = numbers(device)?;
    LinuxWeightDeviceBuilder::default()
        .major(major)
        .minor(minor)
        .weight(u16::try_from(device.rate).unwrap_or(u16::MAX))
        .build()
        .map_err(invalid_spec)
}

fn throttle(device: &BlkioDevice) -> Result<LinuxThrottleDevice> {
    let (major, minor) = numbers(device)?;
    LinuxThrottleDeviceBuilder::default()
        .major(major)
        .minor(minor)
        .rate(device.rate)
        .build()
        .map_err(invalid_spec)
}

fn numbers(device: &BlkioDevice) -> Result<(i64, i64)> {
    let found = std::fs::metadata(&device.path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::System(format!("stat {}: no such file or directory", device.path))
        }
        _ => Error::System(format!("stat {}: {error}", device.path)),
    })?;
    Ok((i64::from(rustix::fs::major(found.rdev())), i64::from(rustix::fs::minor(found.rdev()))))
}
