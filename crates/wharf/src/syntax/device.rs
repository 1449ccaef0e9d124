//! Devices: `--device`, `--device-cgroup-rule`, `--gpus`, and the per-device limits on block I/O.

use wharf_api::models::{DeviceMapping, DeviceRequest, ResourcesBlkioWeightDevice, ThrottleDevice};

use super::{Parsed, csv, units::Bytes};

/// What a `--device` asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Device {
    /// A device node of the host.
    Node(DeviceMapping),
    /// A device of a vendor's interface, `vendor.com/class=name`.
    Interface(String),
}

/// Reads `host[:container][:permissions]`.
pub(crate) fn parse(text: &str) -> Parsed<Device> {
    if !text.starts_with('/') && text.contains('/') && text.contains('=') {
        return Ok(Device::Interface(text.to_owned()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |part: &str| !part.is_empty() && part.chars().all(|c| "rwm".contains(c));
    let (host, container, mode) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if is_mode(mode) => (*host, *host, *mode),
        [host, container] => (*host, *container, "rwm"),
        [host, container, mode] if is_mode(mode) => (*host, *container, *mode),
        [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if let Some(relative) = [host, container].into_iter().find(|path| !path.starts_with('/')) {
        return Err(format!("{relative} is not an absolute path"));
    }
    Ok(Device::Node(DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(container.to_owned()),
        cgroup_permissions: Some(mode.to_owned()),
    }))
}

/// Checks `type major:minor permissions`.
pub(crate) fn cgroup_rule(text: &str) -> Parsed<String> {
    let number =
        |part: &str| part == "*" || (!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let valid = match text.split(' ').collect::<Vec<_>>().as_slice() {
        [kind, numbers, mode] => {
            let numbers =
                numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor));
            ["a", "c", "b"].contains(kind)
                && numbers
                && (1..=3).contains(&mode.len())
                && mode.chars().all(|c| "rwm".contains(c))
        }
        _ => false,
    };
    if valid { Ok(text.to_owned()) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

fn path_and_value(text: &str) -> Parsed<(&str, &str)> {
    let (path, value) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, value))
}

/// Reads `path:weight`.
pub(crate) fn weight(text: &str) -> Parsed<ResourcesBlkioWeightDevice> {
    let (path, value) = path_and_value(text)?;
    let weight = value.parse::<usize>().map_err(|_| format!("invalid weight for device: {text}"))?;
    if weight > 0 && !(10..=1000).contains(&weight) {
        return Err(format!("invalid weight for device: {text}"));
    }
    Ok(ResourcesBlkioWeightDevice { path: Some(path.to_owned()), weight: Some(weight) })
}

/// Reads `path:bytes` a second.
pub(crate) fn byte_rate(text: &str) -> Parsed<ThrottleDevice> {
    let (path, value) = path_and_value(text)?;
    let rate = value.parse::<Bytes>().map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    })?;
    Ok(ThrottleDevice { path: Some(path.to_owned()), rate: Some(rate.0) })
}

/// Reads `path:operations` a second.
pub(crate) fn operation_rate(text: &str) -> Parsed<ThrottleDevice> {
    let (path, value) = path_and_value(text)?;
    let rate = value.parse::<u32>().map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"
        )
    })?;
    Ok(ThrottleDevice { path: Some(path.to_owned()), rate: Some(rate.into()) })
}

/// Reads `all`, a count, or `count=…,device=…,capabilities=…,driver=…,options=…`.
pub(crate) fn gpus(text: &str) -> Parsed<DeviceRequest> {
    let count = |value: &str| match value {
        "all" => Ok(-1),
        number => number.parse::<i64>().map_err(|_| {
            format!("invalid count ({value}): value must be either \"all\" or an integer: invalid syntax")
        }),
    };
    let list = |value: &str| value.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut request = DeviceRequest::default();
    let mut capabilities = vec!["gpu".to_owned()];
    for field in csv::fields(text)? {
        match field.split_once('=').unwrap_or(("count", &field)) {
            ("driver", value) => request.driver = Some(value.to_owned()),
            ("count", value) => request.count = Some(count(value)?),
            ("device", value) => request.device_ids = Some(list(value)),
            ("capabilities", value) => capabilities.extend(list(value)),
            ("options", value) => {
                let pairs = list(value).into_iter().map(|pair| match pair.split_once('=') {
                    Some((key, value)) => (key.to_owned(), value.to_owned()),
                    None => (pair, String::new()),
                });
                request.options = Some(pairs.collect());
            }
            (key, _) => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if request.count.is_none() && request.device_ids.is_none() {
        request.count = Some(1);
    }
    request.capabilities = Some(vec![capabilities]);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let node = |text| match parse(text).unwrap() {
            Device::Node(node) => [node.path_on_host, node.path_in_container, node.cgroup_permissions]
                .map(Option::unwrap)
                .join(" "),
            Device::Interface(name) => name,
        };
        assert_eq!(node("/dev/null"), "/dev/null /dev/null rwm");
        assert_eq!(node("/dev/null:r"), "/dev/null /dev/null r");
        assert_eq!(node("/dev/null:/dev/x:rw"), "/dev/null /dev/x rw");
        assert_eq!(node("vendor.com/gpu=all"), "vendor.com/gpu=all");
        assert_eq!(parse("x").unwrap_err(), "x is not an absolute path");
        assert_eq!(parse("/dev/null:/x:q").unwrap_err(), "bad mode specified: q");
    }

    #[test]
    fn rules_and_rates() {
        assert!(cgroup_rule("c 1:* rwm").is_ok());
        assert_eq!(cgroup_rule("x").unwrap_err(), "invalid device cgroup format 'x'");
        assert_eq!(byte_rate("/dev/sda:1mb").unwrap().rate, Some(1 << 20));
        assert_eq!(byte_rate("x").unwrap_err(), "bad format: x");
        assert_eq!(operation_rate("x:1").unwrap_err(), "bad format for device path: x:1");
        assert_eq!(weight("/dev/sda:5").unwrap_err(), "invalid weight for device: /dev/sda:5");
    }

    #[test]
    fn graphics_processors() {
        let request = gpus("\"device=0,1\",driver=nvidia").unwrap();
        assert_eq!(request.device_ids, Some(vec!["0".into(), "1".into()]));
        assert_eq!(gpus("all").unwrap().count, Some(-1));
        assert!(gpus("x").unwrap_err().starts_with("invalid count (x)"));
    }
}
