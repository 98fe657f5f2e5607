//! The small languages inside strings: ports, volumes, environment, users, labels, host names.

use std::net::IpAddr;

use weft_protocol::{PortMapping, RestartPolicy, VolumeMapping};

/// `host:container`, `ip:host:container`, with `/tcp` or `/udp`.
pub(crate) fn port(text: &str) -> Result<PortMapping, String> {
    let bad = |why: &str| {
        Err(format!(
            "`{text}`: {why}; write host:container or ip:host:container, then /tcp or /udp if needed"
        ))
    };
    let (body, udp) = match text.rsplit_once('/') {
        None => (text, false),
        Some((body, "tcp")) => (body, false),
        Some((body, "udp")) => (body, true),
        Some((_, other)) => return bad(&format!("`{other}` is not a protocol")),
    };
    let Some((front, container)) = body.rsplit_once(':') else {
        return bad("a port mapping has two numbers");
    };
    let (ip, host) = match front.rsplit_once(':') {
        None => ("", front),
        Some((ip, host)) => (ip, host),
    };
    let number = |digits: &str| {
        digits.parse::<u16>().ok().filter(|n| *n > 0 && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    let Some(host) = number(host) else {
        return bad(&format!("`{host}` is not a port from 1 to 65535"));
    };
    let Some(container) = number(container) else {
        return bad(&format!("`{container}` is not a port from 1 to 65535"));
    };
    let host_ip = if front.contains(':') {
        let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        match bare.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) if bare == ip => {
                return bad("an IPv6 address stands in brackets");
            }
            Ok(address) => address.to_string(),
            Err(_) => return bad(&format!("`{ip}` is not an IP address")),
        }
    } else {
        String::new()
    };
    Ok(PortMapping { host_ip, host, container, udp })
}

/// The text [`port`] reads back.
pub(crate) fn port_text(port: &PortMapping) -> String {
    let ip = match port.host_ip.as_str() {
        "" => String::new(),
        v6 if v6.contains(':') => format!("[{v6}]:"),
        v4 => format!("{v4}:"),
    };
    format!("{ip}{}:{}{}", port.host, port.container, if port.udp { "/udp" } else { "" })
}

/// `host:container[:options]`, both absolute and without `..`.
pub(crate) fn volume(text: &str) -> Result<VolumeMapping, String> {
    let bad =
        |why: &str| Err(format!("`{text}`: {why}; write host:container or host:container:options"));
    let mut parts = text.split(':');
    let (Some(host), Some(container)) = (parts.next(), parts.next()) else {
        return bad("a volume has two paths");
    };
    let options = match (parts.next(), parts.next()) {
        (None, _) => "",
        (Some(""), _) => return bad("nothing after the last colon"),
        (Some(options), None) => options,
        _ => return bad("too many colons"),
    };
    for (side, path) in [("host", host), ("container", container)] {
        if !path.starts_with('/') {
            return bad(&format!("the {side} path `{path}` is not absolute"));
        }
        if climbs(path) {
            return bad(&format!("the {side} path `{path}` contains `..`"));
        }
    }
    Ok(VolumeMapping { host: host.into(), container: container.into(), options: options.into() })
}

/// The text [`volume`] reads back.
pub(crate) fn volume_text(volume: &VolumeMapping) -> String {
    let options = if volume.options.is_empty() { "" } else { ":" };
    format!("{}:{}{options}{}", volume.host, volume.container, volume.options)
}

/// Whether a path has a `..` component.
pub(crate) fn climbs(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// A path below some directory: not empty, not absolute, no `..`.
pub(crate) fn relative(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("a path is empty".to_owned())
    } else if text.starts_with('/') {
        Err(format!("`{text}` must be relative, without a leading `/`"))
    } else if climbs(text) {
        Err(format!("`{text}` must not contain `..`"))
    } else {
        Ok(text.to_owned())
    }
}

/// `KEY=VALUE`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("an entry has no `=`; write KEY=VALUE".to_owned());
    };
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{key}` is not the name of a variable; write KEY=VALUE"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `uid[:gid]` or `name[:group]`.
pub(crate) fn user(text: &str) -> Result<String, String> {
    let mut parts = text.split(':');
    let good = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-$".contains(&b))
    };
    let (first, second, third) = (parts.next(), parts.next(), parts.next());
    if first.is_some_and(good) && second.is_none_or(good) && third.is_none() {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a user: write uid, uid:gid, name or name:group"))
    }
}

/// One word without spaces, as engines name networks.
pub(crate) fn network(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-:/=,".contains(c);
    if !text.is_empty() && text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the name of a network"))
    }
}

/// `no`, `on-failure[:n]`, `always`, `unless-stopped`.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, String> {
    let wrong = || {
        let near = crate::nearest(text, ["no", "on-failure", "always", "unless-stopped"])
            .map(|near| format!(" (did you mean `{near}`?)"))
            .unwrap_or_default();
        format!(
            "`{text}` is not a restart policy: write no, on-failure, on-failure:<n>, always or unless-stopped{near}"
        )
    };
    match text {
        "no" => Ok(RestartPolicy::No),
        "on-failure" => Ok(RestartPolicy::OnFailure(None)),
        "always" => Ok(RestartPolicy::Always),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        _ => {
            let count = text.strip_prefix("on-failure:").ok_or_else(wrong)?;
            let digits = count.bytes().all(|b| b.is_ascii_digit());
            match count.parse::<u32>() {
                Ok(n) if n > 0 && digits => Ok(RestartPolicy::OnFailure(Some(n))),
                _ => Err(format!("`{count}` in `{text}` must be a whole number of at least 1")),
            }
        }
    }
}

/// The text [`restart`] reads back.
pub(crate) fn restart_text(policy: RestartPolicy) -> String {
    match policy {
        RestartPolicy::No => "no".to_owned(),
        RestartPolicy::OnFailure(None) => "on-failure".to_owned(),
        RestartPolicy::OnFailure(Some(n)) => format!("on-failure:{n}"),
        RestartPolicy::Always => "always".to_owned(),
        RestartPolicy::UnlessStopped => "unless-stopped".to_owned(),
    }
}

/// A DNS name, returned in lower case.
pub(crate) fn hostname(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!(
            "`{text}` is not a DNS name: labels of letters, digits and hyphens, joined by dots"
        ))
    }
}

/// `[a-z][a-z0-9_-]*`, at most 48 characters.
pub(crate) fn route_name(text: &str) -> Result<String, String> {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if first && text.len() <= 48 && text.bytes().all(rest) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not the name of a route: a lower-case letter, then letters, digits, `_` and `-`, at most 48"
        ))
    }
}

/// A service's, component's or node's name.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if weft_protocol::valid_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` must be 1 to 48 lower-case letters, digits and hyphens, starting and ending with a letter or digit"
        ))
    }
}

/// `key`, `key=value` or, in placement, `key!=value`.
pub(crate) fn label_expression(text: &str) -> Result<String, String> {
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
    };
    let (key, value) = match text.split_once("!=").or_else(|| text.split_once('=')) {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    if word(key) && value.is_none_or(word) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a label expression: write ssd, zone=a or arch!=arm64"))
    }
}

/// `full`, `cli`, `grpc` or `exec: <argv>`.
pub(crate) fn snapshot_method(text: &str) -> Result<String, String> {
    let exec = text.strip_prefix("exec:").is_some_and(|argv| !argv.trim().is_empty());
    if exec || ["full", "cli", "grpc"].contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a snapshot method: write full, cli, grpc or `exec: <command>`"
        ))
    }
}
