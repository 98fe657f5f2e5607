//! What a services directory means for the cluster, without one.

use super::*;
use weft_config::service::parse;
use weft_wire::WallTime;

fn spec(name: &str, more: &str) -> ServiceSpec {
    let text =
        format!("name = \"{name}\"\n{more}\n[[components]]\nname = \"api\"\ncmd = [\"x\"]\n");
    parse(&text, "f").expect("it is valid").spec
}

fn record(spec: ServiceSpec) -> ServiceRecord {
    let zero = WallTime::from_micros(0);
    ServiceRecord {
        name: spec.name.clone(),
        revision: 3,
        active: spec.active,
        spec,
        desired: vec![],
        epochs: vec![],
        undeployed: false,
        rollout: None,
        created_at: zero,
        updated_at: zero,
    }
}

fn undeployed(spec: ServiceSpec) -> ServiceRecord {
    let spec = ServiceSpec { active: false, ..spec };
    ServiceRecord { undeployed: true, ..record(spec) }
}

fn actions(
    files: &[ServiceSpec],
    services: &[ServiceRecord],
    deploy: bool,
) -> Vec<(String, Action)> {
    let state = StateView { services: services.to_vec(), ..StateView::default() };
    let all = steps(files, &state, deploy, false);
    all.into_iter().map(|step| (step.service, step.action)).collect()
}

fn one(file: &ServiceSpec, have: Option<ServiceRecord>, deploy: bool) -> Action {
    let have: Vec<ServiceRecord> = have.into_iter().collect();
    let all = actions(std::slice::from_ref(file), &have, deploy);
    all.first().map(|(_, action)| *action).expect("it is listed")
}

#[test]
fn what_is_new_is_recorded_or_with_deploy_deployed() {
    let web = spec("web", "");
    assert_eq!(one(&web, None, false), Action::Record);
    assert_eq!(one(&web, None, true), Action::Deploy);
    // Recorded, it is known.
    assert_eq!(one(&web, Some(undeployed(web.clone())), false), Action::Unchanged);
    assert_eq!(one(&web, Some(undeployed(web.clone())), true), Action::Deploy);
    let other = spec("web", "replicas = 2");
    assert_eq!(one(&other, Some(undeployed(web)), false), Action::Record);
}

#[test]
fn the_active_line_starts_and_stops_and_other_differences_wait_for_a_deploy() {
    let (on, off) = (spec("web", ""), spec("web", "active = false"));
    assert_eq!(one(&on, Some(record(on.clone())), false), Action::Unchanged);
    assert_eq!(one(&off, Some(record(on.clone())), false), Action::Stop);
    assert_eq!(one(&on, Some(record(off.clone())), false), Action::Start);
    assert_eq!(one(&off, Some(record(off.clone())), true), Action::Unchanged);
    let more = spec("web", "replicas = 2");
    let state = StateView { services: vec![record(on)], ..StateView::default() };
    let all = steps(std::slice::from_ref(&more), &state, false, false);
    assert_eq!(all[0].action, Action::Unchanged);
    assert!(all[0].summary.contains("revision 3 (replicas)"), "{}", all[0].summary);
    let all = steps(&[more], &state, true, false);
    assert_eq!(all[0].action, Action::Deploy);
}

#[test]
fn what_has_no_file_is_listed_and_goes_only_with_prune_and_never_for_an_empty_directory() {
    let state = StateView {
        services: vec![record(spec("old", "")), undeployed(spec("gone", ""))],
        ..StateView::default()
    };
    let files = [spec("web", "")];
    let of = |files: &[ServiceSpec], prune| -> Vec<(String, Action)> {
        let all = steps(files, &state, false, prune);
        all.into_iter().map(|step| (step.service, step.action)).collect()
    };
    let old = |action| ("old".to_owned(), action);
    let web = ("web".to_owned(), Action::Record);
    assert_eq!(of(&files, false), [old(Action::Undeclared), web.clone()]);
    assert_eq!(of(&files, true), [old(Action::Undeploy), web]);
    assert_eq!(of(&[], true), [old(Action::Undeclared)]);
}

#[test]
fn a_difference_is_named_by_its_fields_and_components() {
    let have = spec("web", "");
    let mut want = spec("web", "replicas = 2\nactive = false");
    assert_eq!(changed(&have, &want), ["replicas"]);
    want.components[0].cmd = vec!["y".into()];
    want.components
        .push(weft_protocol::ComponentSpec { name: "db".into(), ..have.components[0].clone() });
    assert_eq!(changed(&have, &want), ["replicas", "api", "+db"]);
    assert_eq!(changed(&want, &have), ["replicas", "api", "-db"]);
}
