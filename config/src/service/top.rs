//! Reading the top level of a definition (orchestration §3.1).

use std::collections::BTreeMap;

use weft_protocol::{
    Failover, OnPartition, PlacementRules, ServiceSpec, ShippedFile, Snapshot, Stateful, Tier,
    UpdateOrder, UpdatePolicy,
};

use super::{ParseOptions, check, component, route, values};
use crate::reader::{At, Section};

/// Top-level keys, in the order in which they are written.
pub(crate) const KEYS: [&str; 17] = [
    "name",
    "node",
    "tier",
    "active",
    "version",
    "path",
    "comment",
    "depends_on",
    "replicas",
    "on_partition",
    "placement",
    "failover",
    "build",
    "snapshot",
    "update",
    "files",
    "components",
];

/// Most replicas of one service.
const MOST_REPLICAS: u32 = 10_000;

/// Reads everything; `None` only if there is not even a name to call it by. What is wrong has
/// been reported to the reader.
pub(crate) fn read(root: &Section<'_>, options: ParseOptions<'_>) -> Option<ServiceSpec> {
    root.only(&KEYS, |key| {
        if component::KEYS.contains(&key) {
            Some(format!("`{key}` belongs into a component: put it below [[components]]"))
        } else if route::KEYS.contains(&key) {
            Some(format!("`{key}` belongs into a route: put it below [[components.routes]]"))
        } else {
            match key {
                "component" | "containers" | "services" => {
                    Some("components are written as [[components]]".to_owned())
                }
                "enabled" => Some("use `active`".to_owned()),
                "depends" | "after" => Some("use `depends_on`".to_owned()),
                _ => None,
            }
        }
    });
    if !root.has("name") {
        root.missing("name", "add name = \"<service>\" as the first line");
    }
    let name = root.parsed("name", values::name);
    let version = root.text("version").map(|at| at.value).unwrap_or_default();
    let service_name = name.as_ref().map(|at| at.value.clone()).unwrap_or_default();
    let path = root.text("path").map(|at| at.value);
    if path.as_deref() == Some("") {
        root.error("path", "`path` must not be empty", "leave it out to use the service's name");
    }
    let components = component::read_all(root, &service_name, &version, options);
    let spec = ServiceSpec {
        node: root.parsed("node", values::name).map(|at| at.value).unwrap_or_default(),
        tier: root
            .choice("tier", &[("core", Tier::Core), ("worker", Tier::Worker)])
            .map(|at| at.value)
            .unwrap_or_default(),
        active: root.boolean("active").unwrap_or(true),
        version,
        path: path.unwrap_or_else(|| service_name.clone()),
        comment: root.text("comment").map(|at| at.value).unwrap_or_default(),
        depends_on: depends_on(root, &service_name),
        replicas: root.small("replicas", 1..=MOST_REPLICAS).unwrap_or(1),
        on_partition: root
            .choice("on_partition", &[("keep", OnPartition::Keep), ("stop", OnPartition::Stop)])
            .map(|at| at.value)
            .unwrap_or_default(),
        placement: placement(root),
        failover: root
            .table("failover", "[failover]")
            .map(|section| failover(&section))
            .unwrap_or_default(),
        build_images: build_images(root),
        snapshot: snapshot(root),
        update: update(root),
        files: files(root),
        components: components.iter().map(|component| component.spec.clone()).collect(),
        name: service_name,
    };
    check::across(root, &spec, &components);
    name.map(|_| spec)
}

fn depends_on(root: &Section<'_>, service: &str) -> Vec<String> {
    let entries = root.each("depends_on", |text| {
        if text == service && !service.is_empty() {
            return Err(format!("`{text}` cannot depend on itself"));
        }
        values::name(text)
    });
    without_repeats(root, "depends_on", entries)
}

fn files(root: &Section<'_>) -> Vec<ShippedFile> {
    let entries = root.each("files", values::relative);
    let paths = without_repeats(root, "files", entries);
    paths.into_iter().map(ShippedFile::named).collect()
}

/// Reports entries that are there twice.
pub(crate) fn without_repeats(
    section: &Section<'_>,
    key: &str,
    entries: Vec<At<String>>,
) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for entry in entries {
        if out.contains(&entry.value) {
            let message = format!("`{key}` lists `{}` twice", entry.value);
            section.reader.report(section.reader.at(entry.span, message));
        } else {
            out.push(entry.value);
        }
    }
    out
}

fn placement(root: &Section<'_>) -> PlacementRules {
    let Some(section) = root.table("placement", "[placement]") else {
        return PlacementRules::default();
    };
    section.only(&["require", "prefer", "avoid", "colocate"], |_| None);
    let list =
        |key| section.each(key, values::label_expression).into_iter().map(|at| at.value).collect();
    PlacementRules {
        require: list("require"),
        prefer: list("prefer"),
        avoid: list("avoid"),
        colocate: section.boolean("colocate").unwrap_or(false),
    }
}

fn failover(section: &Section<'_>) -> Failover {
    section.only(&["reschedule_after", "stateful"], |_| None);
    let stateful = section
        .choice("stateful", &[("wait", Stateful::Wait), ("snapshot", Stateful::Snapshot)])
        .map(|at| at.value)
        .unwrap_or_default();
    if stateful == Stateful::Snapshot {
        section.error(
            "stateful",
            "`stateful = \"snapshot\"` is not in this version",
            "use \"wait\": replicas that keep data wait for their node",
        );
    }
    Failover { reschedule_after: section.duration("reschedule_after"), stateful }
}

fn build_images(root: &Section<'_>) -> BTreeMap<String, String> {
    let Some(build) = root.table("build", "[build]") else { return BTreeMap::new() };
    build.only(&["images"], |_| Some("[build] has one table, [build.images]".to_owned()));
    let Some(images) = build.table("images", "[build.images]") else { return BTreeMap::new() };
    let mut out = BTreeMap::new();
    for key in images.keys() {
        if let Some(file) = images.text(&key.value) {
            if file.value.is_empty() {
                let message = format!("`{}` names no containerfile", key.value);
                images.error(
                    &key.value,
                    message,
                    "write the containerfile's path, like \"Dockerfile\"",
                );
            } else {
                out.insert(key.value, file.value);
            }
        }
    }
    out
}

fn snapshot(root: &Section<'_>) -> Snapshot {
    let Some(section) = root.table("snapshot", "[snapshot]") else { return Snapshot::default() };
    section.only(&["method", "exclude"], |_| None);
    let exclude = section.each("exclude", values::relative);
    Snapshot {
        method: section
            .parsed("method", values::snapshot_method)
            .map(|at| at.value)
            .unwrap_or_default(),
        exclude: without_repeats(&section, "exclude", exclude),
    }
}

fn update(root: &Section<'_>) -> UpdatePolicy {
    let default = UpdatePolicy::default();
    let Some(section) = root.table("update", "[update]") else { return default };
    section.only(
        &["max_parallel", "order", "healthy_for", "deadline", "auto_rollback", "canary"],
        |_| None,
    );
    let orders = [("start-first", UpdateOrder::StartFirst), ("stop-first", UpdateOrder::StopFirst)];
    let policy = UpdatePolicy {
        max_parallel: section
            .small("max_parallel", 1..=MOST_REPLICAS)
            .unwrap_or(default.max_parallel),
        order: section.choice("order", &orders).map(|at| at.value),
        healthy_for: section.duration("healthy_for").unwrap_or(default.healthy_for),
        deadline: section.positive("deadline").unwrap_or(default.deadline),
        auto_rollback: section.boolean("auto_rollback").unwrap_or(default.auto_rollback),
        canary: section.small("canary", 0..=MOST_REPLICAS).unwrap_or(default.canary),
    };
    if policy.healthy_for >= policy.deadline {
        let key = if section.has("deadline") { "deadline" } else { "healthy_for" };
        section.error(
            key,
            "`deadline` must be longer than `healthy_for`, or no update can succeed",
            "",
        );
    }
    policy
}
