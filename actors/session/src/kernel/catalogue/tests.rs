//! Tests of modes and policies as they are registered, promoted and removed.

use super::*;

fn auction() -> Descriptor {
    Descriptor {
        mode: "ext.auction.v1".into(),
        mode_version: "1".into(),
        message_types: vec!["Bid".into(), "Commitment".into()],
        terminal_message_types: vec!["Commitment".into()],
        ..Descriptor::default()
    }
}

fn policy(id: &str) -> Policy {
    Policy {
        policy_id: id.into(),
        mode: MODES[0].into(),
        description: String::new(),
        rules: "{}".into(),
        schema_version: 3,
    }
}

fn change(catalogue: &mut Catalogue, change: CatalogueChange) -> Result<String, String> {
    catalogue.check(&change).map_err(|error| error.to_string())?;
    catalogue.apply(change).map_err(|error| error.to_string())
}

fn promote(mode: &str, name: &str) -> CatalogueChange {
    CatalogueChange::PromoteMode { mode: mode.into(), name: name.into() }
}

fn unregister(mode: &str) -> CatalogueChange {
    CatalogueChange::UnregisterMode { mode: mode.into() }
}

#[test]
fn the_standard_modes_are_listed_in_their_order_and_say_what_they_take() {
    let catalogue = Catalogue::default();
    let standard: Vec<_> = catalogue.standard_modes().iter().map(|d| d.mode.as_str()).collect();
    assert_eq!(standard, MODES);
    let extensions = catalogue.extension_modes();
    assert_eq!(extensions.len(), 1);
    assert_eq!(extensions[0].mode, "ext.multi_round.v1");
    assert_eq!(extensions[0].message_types, ["SessionStart", "Contribute", "Commitment"]);
    let uri = extensions[0].schema_uris.get("protobuf").map(String::as_str);
    assert_eq!(uri, Some("macp/modes/multi_round/v1/multi_round.proto"));
    assert_eq!(catalogue.mode_ids().first(), Some(&"ext.multi_round.v1"), "sorted");
    assert_eq!(catalogue.mode_ids().len(), 6);
}

#[test]
fn a_mode_needs_a_name_a_version_and_a_commitment() {
    type Change = fn(&mut Descriptor);
    let wrong: [Change; 9] = [
        |d| d.mode = " ".into(),
        |d| d.mode = "macp.mode.auction.v1".into(),
        |d| d.mode = "ext.multi_round.v1".into(),
        |d| d.message_types.clear(),
        |d| d.message_types = vec!["Bid".into()],
        |d| d.mode_version = " ".into(),
        |d| d.terminal_message_types.clear(),
        |d| d.terminal_message_types = vec!["Bid".into()],
        |d| d.terminal_message_types.push("Bid".into()),
    ];
    for wrong in wrong {
        let mut catalogue = Catalogue::default();
        let mut descriptor = auction();
        wrong(&mut descriptor);
        assert!(change(&mut catalogue, CatalogueChange::RegisterMode(descriptor)).is_err());
        assert_eq!(catalogue, Catalogue::default());
    }
}

#[test]
fn a_mode_is_registered_promoted_under_a_name_and_then_stays() {
    let mut catalogue = Catalogue::default();
    let register = CatalogueChange::RegisterMode(auction());
    assert_eq!(change(&mut catalogue, register.clone()), Ok("ext.auction.v1".into()));
    assert!(change(&mut catalogue, register).is_err(), "taken");
    for name in [" ", "macp.mode.auction.v1", "ext.multi_round.v1"] {
        assert!(change(&mut catalogue, promote("ext.auction.v1", name)).is_err(), "{name}");
    }
    let promoted = change(&mut catalogue, promote("ext.auction.v1", "auction.v1"));
    assert_eq!(promoted, Ok("auction.v1".into()));
    assert_eq!(catalogue.standing("ext.auction.v1"), None);
    assert_eq!(catalogue.standard_modes().last().map(|d| &*d.mode), Some("auction.v1"));
    assert!(catalogue.mode("auction.v1").is_some_and(ModeEntry::is_canonical));
    assert!(change(&mut catalogue, promote("auction.v1", "")).is_err(), "standard already");
    for mode in ["auction.v1", "ext.multi_round.v1", MODES[0], "nope"] {
        assert!(change(&mut catalogue, unregister(mode)).is_err(), "{mode}");
    }
    let multi = change(&mut catalogue, promote("ext.multi_round.v1", ""));
    assert_eq!(multi, Ok("ext.multi_round.v1".into()));
    assert!(change(&mut catalogue, promote("nope", "")).is_err());
}

#[test]
fn an_extension_can_be_removed() {
    let mut catalogue = Catalogue::default();
    change(&mut catalogue, CatalogueChange::RegisterMode(auction())).expect("registers");
    change(&mut catalogue, unregister("ext.auction.v1")).expect("removes");
    assert_eq!(catalogue, Catalogue::default());
}

// (T) §14: refusals of definitions begin with their code, duplicates do not.
#[test]
fn wrong_policies_are_refused_with_their_code() {
    let mut catalogue = Catalogue::default();
    let wrong = [
        policy(" "),
        policy("policy.default"),
        policy("policy.std.mine"),
        policy("policy.std.majority"),
        Policy { schema_version: 0, ..policy("p") },
        Policy { rules: r#"{"voting":{"algorithm":"x"}}"#.into(), ..policy("p") },
    ];
    for wrong in wrong {
        let error = change(&mut catalogue, CatalogueChange::RegisterPolicy(wrong));
        assert!(error.is_err_and(|text| text.starts_with("INVALID_POLICY_DEFINITION")));
    }
    let register = CatalogueChange::RegisterPolicy(policy("p"));
    change(&mut catalogue, register.clone()).expect("registers");
    let error = change(&mut catalogue, register).expect_err("twice");
    assert!(!error.starts_with("INVALID"), "{error}");
    let canonical = catalogue.policy("policy.std.majority").cloned().expect("built in");
    let error = change(&mut catalogue, CatalogueChange::RegisterPolicy(canonical));
    assert!(error.is_err_and(|text| !text.starts_with("INVALID")), "it is there already");
}

#[test]
fn policies_are_listed_by_id_and_built_in_ones_stay() {
    let mut catalogue = Catalogue::default();
    change(&mut catalogue, CatalogueChange::RegisterPolicy(policy("a"))).expect("registers");
    let ids = |mode: &str| -> Vec<_> {
        catalogue.policies(mode).iter().map(|p| p.policy_id.clone()).collect()
    };
    let std = ["majority", "supermajority", "unanimous"].map(|id| format!("policy.std.{id}"));
    let all = [vec!["a".into(), "policy.default".into()], std.to_vec()].concat();
    assert_eq!(ids(""), all);
    assert_eq!(ids(MODES[0]), all);
    assert_eq!(ids(MODES[1]), ["policy.default"]);
    let remove = |id: &str| CatalogueChange::UnregisterPolicy { policy_id: id.into() };
    for id in ["policy.default", "policy.std.majority", "nope"] {
        assert!(change(&mut catalogue, remove(id)).is_err());
    }
    change(&mut catalogue, remove("a")).expect("removes");
    assert_eq!(catalogue, Catalogue::default());
}

#[test]
fn what_was_stored_comes_back_and_new_built_ins_are_added() {
    let mut catalogue = Catalogue::default();
    change(&mut catalogue, CatalogueChange::RegisterMode(auction())).expect("registers");
    change(&mut catalogue, CatalogueChange::RegisterPolicy(policy("p"))).expect("registers");
    change(&mut catalogue, promote("ext.multi_round.v1", "rounds")).expect("promotes");
    let bytes = catalogue.to_bytes().expect("encodes");
    assert_eq!(Catalogue::from_bytes(&bytes).as_ref(), Ok(&catalogue));
    catalogue.policies.remove("policy.std.unanimous");
    let older = Catalogue::from_bytes(&catalogue.to_bytes().expect("encodes")).expect("decodes");
    assert!(older.policy("policy.std.unanimous").is_some());
    assert_eq!(older.standing("ext.multi_round.v1"), None, "it has another name now");
}

#[test]
fn fixed_policies_stand_in_place_of_registered_ones_and_are_not_stored() {
    let mut catalogue = Catalogue::default();
    let register = |id: &str| CatalogueChange::RegisterPolicy(policy(id));
    change(&mut catalogue, register("before")).expect("registered");
    let stored = catalogue.to_bytes().expect("bytes");
    catalogue.fix_policies();
    catalogue.fix_policy(policy("file")).expect("a policy");
    for (id, why) in [("file", "registered"), (DEFAULT, "built in"), (" ", "blank")] {
        let error = catalogue.fix_policy(policy(id)).expect_err(id).to_string();
        assert!(error.contains(why), "{id}: {error}");
    }
    let canonical = catalogue.policy("policy.std.majority").cloned().expect("built in");
    assert!(matches!(catalogue.fix_policy(canonical), Err(CatalogueError::PolicyExists(_))));
    let ids = |catalogue: &Catalogue| -> Vec<String> {
        catalogue.policies("").into_iter().map(|policy| policy.policy_id.clone()).collect()
    };
    assert_eq!(catalogue.policies("").len(), 5);
    assert!(catalogue.policy("file").is_some() && catalogue.policy("before").is_none());
    // Whoever asks is refused; what others have agreed on is still applied, and comes back.
    let remove = CatalogueChange::UnregisterPolicy { policy_id: "before".into() };
    for refused in [register("more"), remove] {
        assert_eq!(catalogue.check(&refused), Err(CatalogueError::ReadOnly));
    }
    catalogue.apply(register("agreed")).expect("agreed on elsewhere");
    let again = Catalogue::from_bytes(&catalogue.to_bytes().expect("bytes")).expect("reads");
    assert!(again.policy("agreed").is_some() && again.policy("file").is_none());
    let kept = Catalogue::from_bytes(&stored).expect("reads").fixed_as_in(&catalogue);
    assert!(kept.has_fixed_policies());
    assert_eq!(ids(&kept), ids(&catalogue));
}
