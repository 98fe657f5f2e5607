//! Rules that hold between several keys of a definition.

use std::ops::Range;

use weft_protocol::{PortMapping, ServiceSpec};

use super::component::Component;
use super::image::ImageRef;
use crate::reader::Section;

/// Reports every violation.
pub(crate) fn across(root: &Section<'_>, spec: &ServiceSpec, components: &[Component]) {
    names(root, components);
    replicas(root, spec, components);
    ports(root, components);
    routes(root, components);
    builds(root, spec);
}

fn names(root: &Section<'_>, components: &[Component]) {
    for (i, component) in components.iter().enumerate() {
        let name = &component.spec.name;
        let before = components.iter().take(i);
        if !name.is_empty() && before.into_iter().any(|other| other.spec.name == *name) {
            let message = format!("two components are called `{name}`");
            let span = component.name_span.clone();
            root.reader.report(root.reader.at(span, message).help("rename one of them"));
        }
    }
}

fn replicas(root: &Section<'_>, spec: &ServiceSpec, components: &[Component]) {
    if spec.replicas < 2 {
        return;
    }
    let several = format!("`replicas = {}`", spec.replicas);
    let at = |span: Range<usize>, message: String, help: &str| {
        root.reader.report(root.reader.at(span, message).help(help));
    };
    for component in components {
        if let Some(port) = component.ports.first() {
            let message = format!(
                "{several} cannot be combined with fixed `ports` (component `{}`)",
                component.spec.name
            );
            at(port.span.clone(), message, "use routes: each replica then gets a port of its own");
        }
        if !component.spec.volumes.is_empty() && !spec.placement.colocate {
            let message = format!(
                "{several} cannot be combined with `volumes` (component `{}`)",
                component.spec.name
            );
            let help = "replicas on different nodes do not share data; run one replica, or set [placement] colocate = true";
            at(component.volumes_span.clone(), message, help);
        }
    }
    if !spec.node.is_empty() && !spec.placement.colocate {
        let help = "remove `node`, or set [placement] colocate = true to run all replicas there";
        at(root.value_span("node"), format!("{several} cannot be combined with `node`"), help);
    }
}

fn ports(root: &Section<'_>, components: &[Component]) {
    let mut seen: Vec<(&PortMapping, &str)> = Vec::new();
    for component in components {
        for port in &component.ports {
            if let Some((other, owner)) = seen.iter().find(|(other, _)| clash(other, &port.value)) {
                let message = format!(
                    "host port {}{} is already taken by component `{owner}`",
                    other.host,
                    if other.udp { "/udp" } else { "" }
                );
                root.reader.report(root.reader.at(port.span.clone(), message));
            } else {
                seen.push((&port.value, &component.spec.name));
            }
        }
    }
}

/// A wildcard address takes the port on every address; an omitted one is the node's to choose,
/// so it clashes only with itself and with wildcards.
fn clash(a: &PortMapping, b: &PortMapping) -> bool {
    let wildcard = |port: &PortMapping| port.host_ip == "0.0.0.0" || port.host_ip == "::";
    a.host == b.host && a.udp == b.udp && (a.host_ip == b.host_ip || wildcard(a) || wildcard(b))
}

fn routes(root: &Section<'_>, components: &[Component]) {
    let mut seen: Vec<(u16, &str, &str)> = Vec::new();
    for component in components {
        for (route, span) in &component.routes {
            // Port 0 stands for one that was refused.
            let taken = seen.iter().find(|(port, host, _)| {
                route.port > 0 && *port == route.port && *host == route.hostname
            });
            if let Some((port, host, owner)) = taken {
                let host = if host.is_empty() { "the service's own name" } else { host };
                let message =
                    format!("port {port} of {host} is already a route of component `{owner}`");
                let help = "give this route another `port` or a `hostname` of its own";
                root.reader.report(root.reader.at(span.clone(), message).help(help));
            } else {
                seen.push((route.port, &route.hostname, &component.spec.name));
            }
        }
    }
}

fn builds(root: &Section<'_>, spec: &ServiceSpec) {
    if spec.build_images.is_empty() {
        return;
    }
    let Some(section) =
        root.table("build", "[build]").and_then(|build| build.table("images", "[build.images]"))
    else {
        return;
    };
    let mut images: Vec<&str> = spec
        .components
        .iter()
        .filter_map(|component| ImageRef::parse(&component.image).ok())
        .map(|image| image.short())
        .collect();
    images.dedup();
    let keys: Vec<&str> = spec.build_images.keys().map(String::as_str).collect();
    for key in &keys {
        if !images.contains(key) {
            let message = format!("`build.images.{key}` is not the image of any component");
            let list = |names: &[&str]| {
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            };
            let help = format!(
                "build.images has: {}; the components' images are: {}",
                list(&keys),
                list(&images)
            );
            let span = section.key_span(key);
            root.reader.report(root.reader.at(span, message).help(help));
        }
    }
}
