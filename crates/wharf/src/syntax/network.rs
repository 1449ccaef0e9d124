//! `--network`, and the addresses and names of networking flags.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Parsed, csv};

/// One `--network`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) target: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) driver_options: BTreeMap<String, String>,
    pub(crate) ipv4: String,
    pub(crate) ipv6: String,
    pub(crate) mac: String,
    pub(crate) link_local: Vec<String>,
    pub(crate) gateway_priority: i64,
}

/// Reads a network's name, or `name=…,alias=…,ip=…`.
pub(crate) fn parse(text: &str) -> Parsed<Attachment> {
    let mut attachment = Attachment::default();
    // A bare name has no equals sign; commas do not make it a list.
    if !text.contains('=') {
        attachment.target = text.to_owned();
        return Ok(attachment);
    }
    for field in csv::fields(text)? {
        let (key, value) = field
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field {field}"))?;
        let value = value.trim();
        match key.trim().to_lowercase().as_str() {
            "name" => attachment.target = value.to_owned(),
            "alias" => attachment.aliases.push(value.to_owned()),
            "ip" => attachment.ipv4 = value.to_owned(),
            "ip6" => attachment.ipv6 = value.to_owned(),
            "mac-address" => attachment.mac = value.to_owned(),
            "link-local-ip" => attachment.link_local.push(value.to_owned()),
            "driver-opt" => {
                let (key, value) =
                    value.split_once('=').ok_or("invalid key value pair format in driver options")?;
                attachment.driver_options.insert(key.to_lowercase(), value.to_owned());
            }
            "gw-priority" => {
                attachment.gateway_priority = value
                    .parse()
                    .map_err(|_| format!("invalid gw-priority ({value}): value must be an integer"))?;
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if attachment.target.is_empty() {
        return Err("network name/id is not specified".into());
    }
    Ok(attachment)
}

/// Checks `--add-host name:address` and gives it the form of the API.
pub(crate) fn extra_host(text: &str) -> Parsed<String> {
    let split = match text.split_once('=') {
        Some(parts) => Some(parts),
        None => text.split_once(':'),
    };
    let (name, address) = split
        .filter(|(name, address)| !name.is_empty() && !address.is_empty())
        .ok_or_else(|| format!("bad format for add-host: {text:?}"))?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(format!("{name}:{bare}"))
}

/// Checks `--dns`.
pub(crate) fn address(text: &str) -> Parsed<String> {
    match text.trim().parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

/// Checks `--dns-search`.
pub(crate) fn search_domain(text: &str) -> Parsed<String> {
    let domain = text.trim();
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let valid = domain.len() <= 255
        && domain.contains(|c: char| c.is_ascii_alphabetic())
        && domain.trim_end_matches('.').split('.').all(label);
    if domain == "." || valid { Ok(domain.to_owned()) } else { Err(format!("{text} is not a valid domain")) }
}

/// Whether the text is a hardware address of six bytes.
pub(crate) fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
}

/// Checks `--link name[:alias]`.
pub(crate) fn link(text: &str) -> Parsed<String> {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [""] => Err("empty string specified for links".into()),
        [name] => Ok(format!("{name}:{name}")),
        [_, _] => Ok(text.to_owned()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(parse("foo,bar").unwrap().target, "foo,bar");
        let attachment = parse("name=n,alias=a,alias=b,ip=1.2.3.4,driver-opt=K=v").unwrap();
        assert_eq!(attachment.aliases, ["a", "b"]);
        assert_eq!(attachment.driver_options["k"], "v");
        assert_eq!(parse("name=foo,x=bar").unwrap_err(), "invalid field key x");
        assert_eq!(parse("alias=a").unwrap_err(), "network name/id is not specified");
    }

    #[test]
    fn hosts_and_addresses() {
        assert_eq!(extra_host("a:1.2.3.4").unwrap(), "a:1.2.3.4");
        assert_eq!(extra_host("a=::1").unwrap(), "a:::1");
        assert_eq!(extra_host("a:[::1]").unwrap(), "a:::1");
        assert_eq!(extra_host("a:host-gateway").unwrap(), "a:host-gateway");
        assert_eq!(extra_host("x").unwrap_err(), "bad format for add-host: \"x\"");
        assert_eq!(extra_host("x:y").unwrap_err(), "invalid IP address in add-host: \"y\"");
        assert!(address("::1").is_ok());
        assert_eq!(address("x").unwrap_err(), "IP address is not correctly formatted: x");
        assert!(search_domain("example.com").is_ok());
        assert_eq!(search_domain("a b").unwrap_err(), "a b is not a valid domain");
        assert!(is_mac("92:d0:c6:0a:29:33") && !is_mac("x"));
        assert_eq!(link("a").unwrap(), "a:a");
    }
}
