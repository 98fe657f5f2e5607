//! Files that come with a definition, as far as they are agreed.

use weft_protocol::{DeployOptions, ShippedFile};

use super::*;

fn file(content: u8) -> ShippedFile {
    let digest = format!("{content:02x}").repeat(32);
    ShippedFile { path: "./run".into(), mode: 0o755, size: 1, digest }
}

fn shipping(content: u8) -> ServiceSpec {
    let components = vec![component("a", "1"), component("b", "1")];
    ServiceSpec { files: vec![file(content)], ..service("web", 1, components) }
}

fn one(spec: ServiceSpec, component: &str) -> Command {
    let options =
        DeployOptions { component: component.into(), if_changed: true, ..DeployOptions::default() };
    Command::Deploy { spec: Box::new(spec), options }
}

#[test]
fn what_a_kept_revision_ships_is_referred_to_until_the_revision_goes() {
    let mut machine = Machine::new();
    let kept = u8::try_from(super::super::REVISIONS_KEPT).expect("few");
    for content in 1..=kept {
        // Nothing runs: no update has to be waited for.
        let spec = ServiceSpec { active: false, ..shipping(content) };
        machine.deploy(spec);
        assert_eq!(machine.state.blobs().len(), usize::from(content));
    }
    machine.deploy(ServiceSpec { active: false, ..shipping(kept + 1) });
    let blobs = machine.state.blobs();
    assert_eq!(blobs.len(), usize::from(kept));
    assert!(!blobs.contains(&file(1).digest) && blobs.contains(&file(kept + 1).digest));
}

#[test]
fn other_content_is_another_revision_and_the_same_is_not() {
    let mut machine = Machine::new();
    assert_eq!(machine.deploy(shipping(1)).revision, 1);
    let (again, _) = machine.ok(one(shipping(1), ""));
    assert_eq!((again.revision, again.changed), (1, false));
    let (other, _) = machine.ok(one(shipping(2), ""));
    assert_eq!((other.revision, other.changed), (2, true));
}

#[test]
fn what_was_not_shipped_or_would_change_under_another_component_is_refused() {
    let mut machine = Machine::new();
    let mut spec = shipping(1);
    spec.files[0].digest = "../../etc/passwd".into();
    assert_eq!(machine.refused(one(spec, "")).kind, FailureKind::Invalid);
    let mut spec = shipping(1);
    spec.files[0].path = "../run".into();
    assert_eq!(machine.refused(one(spec, "")).kind, FailureKind::Invalid);
    machine.deploy(shipping(1));
    let refused = machine.refused(one(shipping(2), "a"));
    assert!(refused.help.contains("weft deploy web"), "{refused}");
    machine.ok(one(shipping(1), "a"));
}
