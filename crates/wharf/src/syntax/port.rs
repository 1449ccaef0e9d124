//! `-p [[ip:]host:]container[/protocol]`, with ranges, and `--expose`.

use std::{collections::BTreeMap, net::IpAddr};

use wharf_api::models::PortBinding;

use super::Parsed;

/// Bindings by container port, such as `80/tcp`.
pub(crate) type Bindings = BTreeMap<String, Vec<PortBinding>>;

/// Adds the ports of one `-p` to `bindings`.
pub(crate) fn publish(text: &str, bindings: &mut Bindings) -> Parsed<()> {
    let spec = if text.contains('=') { long_form(text)? } else { text.to_owned() };
    let (ports, protocol) = match spec.rsplit_once('/') {
        Some((ports, protocol)) => (ports, protocol.to_lowercase()),
        None => (spec.as_str(), "tcp".to_owned()),
    };
    let parts: Vec<&str> = ports.split(':').collect();
    let (address, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [address @ .., host, container] => (address.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let address = host_address(&address)?;
    if container.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let hosts = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    if let Some((low, high)) = hosts
        && high - low != last - first
        && last != first
    {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    for port in first..=last {
        let host_port = match hosts {
            None => String::new(),
            // One container port and several host ports: the engine picks one that is free.
            Some((low, high)) if first == last && low != high => format!("{low}-{high}"),
            Some((low, _)) => (low + (port - first)).to_string(),
        };
        let binding = PortBinding { host_ip: Some(address.clone()), host_port: Some(host_port) };
        bindings.entry(format!("{port}/{protocol}")).or_default().push(binding);
    }
    Ok(())
}

/// The ports of one `--expose`, such as `80/tcp`.
pub(crate) fn expose(text: &str) -> Parsed<Vec<String>> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = |part: &str| {
        part.parse::<u16>().map_err(|_| {
            format!("invalid range format for --expose: {text}, error: strconv.ParseUint: parsing {part:?}: invalid syntax")
        })
    };
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(ports)?, number(ports)?),
    };
    if last < first {
        return Err(format!(
            "invalid range format for --expose: {text}, error: invalid range specified for port: {ports}"
        ));
    }
    Ok((first..=last).map(|port| format!("{port}/{}", protocol.to_lowercase())).collect())
}

/// `target=80,published=8080,protocol=tcp` in the short form.
fn long_form(text: &str) -> Parsed<String> {
    let (mut target, mut published, mut protocol) = ("", "", "");
    for part in text.split(',') {
        match part.split_once('=').ok_or_else(|| format!("invalid field: {part}"))? {
            ("target", value) => target = value,
            ("published", value) => published = value,
            ("protocol", value) => protocol = value,
            // Docker leaves out what it does not know here.
            _ => {}
        }
    }
    let protocol = if protocol.is_empty() { "tcp" } else { protocol };
    Ok(format!("{published}:{target}/{protocol}"))
}

fn host_address(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(_) => Ok(bare.to_owned()),
        Err(_) => Err(format!("invalid IP address: {bare}")),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(text: &str) -> Parsed<Vec<String>> {
        let mut bindings = Bindings::new();
        publish(text, &mut bindings)?;
        let show = |(port, all): (&String, &Vec<PortBinding>)| {
            let binding = &all[0];
            let (ip, host) = (binding.host_ip.clone().unwrap(), binding.host_port.clone().unwrap());
            format!("{ip}:{host}->{port}")
        };
        Ok(bindings.iter().map(show).collect())
    }

    #[test]
    fn ports() {
        let good: [(&str, &[&str]); 9] = [
            ("80", &[":->80/tcp"]),
            ("8080:80/UDP", &[":8080->80/udp"]),
            ("127.0.0.1::80", &["127.0.0.1:->80/tcp"]),
            ("[::1]:8080:80", &["::1:8080->80/tcp"]),
            ("::1:8080:80", &["::1:8080->80/tcp"]),
            ("8080-8081:80-81", &[":8080->80/tcp", ":8081->81/tcp"]),
            ("8080-8090:80", &[":8080-8090->80/tcp"]),
            ("target=80,published=8080,mode=host", &[":8080->80/tcp"]),
            ("80-81", &[":->80/tcp", ":->81/tcp"]),
        ];
        for (text, expected) in good {
            assert_eq!(published(text).unwrap(), expected, "{text}");
        }
        let bad = [
            ("foo", "invalid containerPort: foo"),
            ("foo:80", "invalid hostPort: foo"),
            ("1.2.3.400:80:80", "invalid IP address: 1.2.3.400"),
            ("80:80:80:80", "invalid IP address: 80:80"),
            ("80-81:90-95", "invalid ranges specified for container and host Ports: 90-95 and 80-81"),
            ("80/foo", "invalid proto: foo"),
            ("80:", "no port specified: 80:<empty>"),
            ("70000:80", "invalid hostPort: 70000"),
            ("81-80", "invalid containerPort: 81-80"),
        ];
        for (text, reason) in bad {
            assert_eq!(published(text).unwrap_err(), reason, "{text}");
        }
    }

    #[test]
    fn exposed_ports() {
        assert_eq!(expose("80-81/udp").unwrap(), ["80/udp", "81/udp"]);
        assert_eq!(expose("80:80").unwrap_err(), "invalid port format for --expose: 80:80");
        assert_eq!(
            expose("x").unwrap_err(),
            "invalid range format for --expose: x, error: strconv.ParseUint: parsing \"x\": invalid syntax"
        );
    }
}
