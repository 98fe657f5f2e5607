//! What the placer does, one behaviour a test.

use super::settle::World;
use super::*;

mod build;

use build::{Cluster, service};
pub(super) use build::{id, node, record};
use weft_protocol::{OnPartition, ReplicaKey, Tier};

const GIB: u64 = 1 << 30;

fn gone(for_ms: u64) -> Liveness {
    Liveness::Lost { for_ms }
}

#[test]
fn replicas_go_to_different_nodes_in_the_order_of_their_names() {
    let cluster = Cluster::new(3).with(service("web").replicas(3));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 - n1", "web/2 - n2", "web/3 - n3"]);
    assert_eq!(decision.moves[0].reason, "placed on n1 (first by name)");
    assert_eq!(decision.moves[2].reason, "placed on n3 (fewest replicas of it)");
    assert_eq!(decision.ask_again_ms, None);
}

#[test]
fn more_replicas_than_nodes_share_them_evenly() {
    let cluster = Cluster::new(2).with(service("web").replicas(5));
    let decision = cluster.decide();
    let on_first = decision.moves.iter().filter(|step| step.to == Some(id(1))).count();
    assert_eq!((decision.moves.len(), on_first), (5, 3));
}

#[test]
fn replicas_go_to_different_zones_before_the_emptier_node() {
    let cluster = Cluster::new(3)
        .edit(1, |n| n.zone = "a".into())
        .edit(2, |n| n.labels = vec!["zone=a".into()])
        .edit(3, |n| n.zone = "b".into())
        .with(service("busy").pin("n3"))
        .placed("busy", 1, 3)
        .with(service("web").replicas(2));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 - n1", "web/2 - n3"]);
    assert!(decision.moves[1].reason.contains("another zone"), "{decision:?}");
}

#[test]
fn colocated_replicas_may_share_a_node() {
    let cluster = Cluster::new(2)
        .edit(1, |n| n.memory = Some(8 * GIB))
        .edit(2, |n| n.memory = Some(2 * GIB))
        .with(service("web").replicas(2).colocate().memory(GIB));
    assert_eq!(cluster.shown(&cluster.decide()), ["web/1 - n1", "web/2 - n1"]);
}

#[test]
fn with_resources_the_node_with_most_free_afterwards_is_taken() {
    let cluster = Cluster::new(3)
        .edit(1, |n| n.memory = Some(2 * GIB))
        .edit(2, |n| n.memory = Some(4 * GIB))
        .with(service("db").memory(GIB));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["db/1 - n2"]);
    assert_eq!(decision.moves[0].reason, "placed on n2 (most memory free)");
}

#[test]
fn a_replica_without_room_waits_and_says_what_is_free() {
    let cluster = Cluster::new(1)
        .edit(1, |n| n.memory = Some(3 * GIB + GIB / 5))
        .with(service("a").memory(2 * GIB))
        .placed("a", 1, 1)
        .with(service("b").memory(2 * GIB));
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(cluster.waits(&decision), ["b/1 no room: needs 2 GiB, n1 has 1.1 GiB free"]);
}

#[test]
fn a_host_port_is_used_once_on_a_node() {
    let cluster = Cluster::new(2)
        .with(service("a").port(80))
        .with(service("b").port(80))
        .with(service("c").port(80));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["a/1 - n1", "b/1 - n2"]);
    assert_eq!(cluster.waits(&decision), ["c/1 port 80 is taken by a/1 on n1, by b/1 on n2"]);
}

#[test]
fn required_labels_hold_and_a_replica_nobody_fits_says_why() {
    let cluster = Cluster::new(3)
        .edit(1, |n| n.zone = "b".into())
        .edit(3, |n| n.labels = vec!["ssd".into(), "arch=arm64".into()])
        .with(service("fast").require(&["ssd"]))
        .with(service("here").require(&["name=n2"]))
        .with(service("intel").require(&["arch!=arm64", "name!=n1"]))
        .with(service("zoned").require(&["zone=a"]));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["fast/1 - n3", "here/1 - n2", "intel/1 - n2"]);
    assert_eq!(
        cluster.waits(&decision),
        ["zoned/1 no node fulfils require zone=a: n1 has zone=b, n2 has no zone, n3 has no zone"]
    );
}

#[test]
fn preferred_labels_win_and_avoided_ones_lose_when_there_is_a_choice() {
    let cluster = Cluster::new(3)
        .edit(1, |n| n.labels = vec!["spot".into()])
        .edit(3, |n| n.labels = vec!["ssd".into()])
        .with(service("a").prefer(&["ssd"]))
        .with(service("b").avoid(&["spot"]))
        .with(service("c").require(&["spot"]).avoid(&["spot"]));
    assert_eq!(cluster.shown(&cluster.decide()), ["a/1 - n3", "b/1 - n2", "c/1 - n1"]);
}

#[test]
fn a_rule_that_does_not_parse_is_a_problem_and_places_nothing() {
    let cluster = Cluster::new(1)
        .with(service("web").require(&["zone==a"]))
        .with(service("x").prefer(&["a b"]));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["x/1 - n1"]);
    assert_eq!(decision.waiting.len(), 1);
    let problems: Vec<_> = decision.problems.iter().map(ToString::to_string).collect();
    assert!(problems[0].contains("web: [placement] require: `zone==a` is not"), "{problems:?}");
    assert!(problems[1].contains("x: [placement] prefer: `a b`"), "{problems:?}");
}

#[test]
fn a_node_with_a_tier_takes_only_that_tier_and_one_without_takes_both() {
    let cluster = Cluster::new(2)
        .edit(1, |n| n.labels = vec!["tier=core".into()])
        .with(service("dns").tier(Tier::Core))
        .with(service("web"));
    assert_eq!(cluster.shown(&cluster.decide()), ["dns/1 - n1", "web/1 - n2"]);
    let cluster = cluster.edit(2, |n| n.liveness = Liveness::Suspect);
    let decision = cluster.decide();
    assert_eq!(cluster.waits(&decision), ["web/1 no ready node takes services of tier worker"]);
}

#[test]
fn a_pin_outranks_tier_and_rules_and_never_goes_elsewhere() {
    let cluster = Cluster::new(2)
        .edit(2, |n| n.labels = vec!["tier=core".into()])
        .with(service("web").pin("n2").require(&["ssd"]))
        .with(service("x").pin("n9"));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 - n2"]);
    assert_eq!(decision.moves[0].reason, "placed on n2 (named by its definition)");
    assert_eq!(
        cluster.waits(&decision),
        ["x/1 waiting for n9, which is not a node of this cluster"]
    );
    let cluster = cluster.edit(2, |n| n.liveness = gone(60_000));
    assert_eq!(cluster.waits(&cluster.decide())[0], "web/1 waiting for n2");
    assert!(cluster.decide().moves.is_empty());
}

#[test]
fn a_placed_replica_stays_when_its_definition_changes() {
    let cluster = Cluster::new(3)
        .edit(3, |n| n.labels = vec!["ssd".into()])
        .with(service("web").require(&["ssd"]).memory(9 * GIB))
        .placed("web", 1, 1);
    assert_eq!(cluster.decide(), Decision::default());
}

#[test]
fn a_changed_pin_moves_the_replica_once_its_node_is_ready() {
    let cluster = Cluster::new(2)
        .edit(2, |n| n.liveness = Liveness::Away)
        .with(service("web").pin("n2"))
        .placed("web", 1, 1);
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(cluster.waits(&decision), ["web/1 stays on n1: waiting for n2"]);
    let cluster = cluster.edit(2, |n| n.liveness = Liveness::Ready);
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 n1 n2"]);
    assert_eq!(decision.moves[0].reason, "its definition names n2 instead of n1");
}

#[test]
fn a_smaller_count_removes_the_highest_numbers() {
    let mut cluster = Cluster::new(3).with(service("web").replicas(2));
    for n in 1..=3 {
        cluster = cluster.placed("web", n, n);
    }
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/3 n3 -"]);
    assert_eq!(decision.moves[0].reason, "2 replicas are wanted");
}

#[test]
fn an_undeployed_or_unknown_service_loses_its_places() {
    let mut cluster = Cluster::new(1).with(service("web")).placed("web", 1, 1).placed("old", 1, 1);
    cluster.services[0].undeployed = true;
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["old/1 n1 -", "web/1 n1 -"]);
    assert_eq!(decision.moves[1].reason, "undeployed");
}

#[test]
fn a_lost_node_gives_up_its_replicas_after_the_wait_and_keeps_its_data() {
    let cluster = Cluster::new(3)
        .with(service("data").volume())
        .placed("data", 1, 2)
        .with(service("web").replicas(2))
        .placed("web", 1, 1)
        .placed("web", 2, 2)
        .edit(2, |n| n.liveness = gone(600));
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(decision.ask_again_ms, Some(400));
    assert_eq!(
        cluster.waits(&decision),
        ["data/1 waiting for n2", "web/2 n2 is lost: moves in 400 ms"]
    );
    let cluster = cluster.edit(2, |n| n.liveness = gone(1000));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/2 n2 n3"]);
    assert_eq!(decision.moves[0].reason, "n2 was lost: now on n3 (fewest replicas of it)");
    assert_eq!(decision.moves[0].previous, Some(Previous { node: id(2), lost: true }));
    assert_eq!(decision.ask_again_ms, None);
}

#[test]
fn nothing_moves_for_a_suspect_an_absent_or_a_daemonless_node() {
    for liveness in [Liveness::Suspect, Liveness::Away, Liveness::DaemonDown] {
        let cluster = Cluster::new(3)
            .with(service("web"))
            .placed("web", 1, 2)
            .edit(2, |n| n.liveness = liveness);
        assert_eq!(cluster.decide(), Decision::default(), "{liveness:?}");
    }
}

#[test]
fn a_lost_replica_without_a_target_keeps_its_place_and_says_why() {
    let cluster = Cluster::new(2)
        .edit(1, |n| n.memory = Some(GIB))
        .edit(2, |n| n.liveness = gone(5000))
        .with(service("web").memory(2 * GIB))
        .placed("web", 1, 2);
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(
        cluster.waits(&decision),
        ["web/1 waiting for n2 or another node: no room: needs 2 GiB, n1 has 1 GiB free"]
    );
}

#[test]
fn a_node_back_before_the_replacement_is_healthy_gets_its_replica_back() {
    let moved = || {
        Cluster::new(3).with(service("web")).placed("web", 1, 3).previously(
            "web",
            1,
            Previous { node: id(2), lost: true },
        )
    };
    let cluster = moved().sees("web", 1, 3, ReplicaState::Starting);
    assert!(cluster.decide().moves.is_empty(), "whether its copy is there is not known yet");
    let ended = cluster.sees("web", 1, 2, ReplicaState::Failed);
    assert!(ended.decide().moves.is_empty(), "its copy has ended: nothing is won");
    let cluster = moved().sees("web", 1, 3, ReplicaState::Starting);
    let cluster = cluster.sees("web", 1, 2, ReplicaState::Running);
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 n3 n2"]);
    assert_eq!(decision.moves[0].kind, MoveKind::Returned);
    assert_eq!(decision.moves[0].reason, "n2 is back before the replacement on n3 was healthy");
    // And a second look changes nothing, whatever is reported.
    for state in [ReplicaState::Starting, ReplicaState::Failed] {
        let cluster = Cluster::new(3)
            .with(service("web"))
            .placed("web", 1, 2)
            .previously("web", 1, decision.moves[0].previous.expect("the replacement"))
            .sees("web", 1, 2, state);
        assert!(cluster.decide().moves.is_empty());
    }
}

#[test]
fn a_node_back_after_the_replacement_is_healthy_gets_nothing_back() {
    let cluster = Cluster::new(3)
        .with(service("web"))
        .placed("web", 1, 3)
        .previously("web", 1, Previous { node: id(2), lost: true })
        .sees("web", 1, 3, ReplicaState::Healthy);
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(decision.settled, [ReplicaKey { service: "web".into(), replica: 1 }]);
}

#[test]
fn an_unreported_replacement_is_unknown_and_is_not_cancelled() {
    let cluster = Cluster::new(3).with(service("web")).placed("web", 1, 3).previously(
        "web",
        1,
        Previous { node: id(2), lost: true },
    );
    assert_eq!(cluster.decide(), Decision::default());
    // With the replacement's node away as well, the original is the better bet.
    let cluster = cluster.edit(3, |n| n.liveness = Liveness::Suspect);
    assert_eq!(cluster.shown(&cluster.decide()), ["web/1 n3 n2"]);
}

#[test]
fn a_second_loss_remembers_the_copy_that_ran() {
    let cluster = Cluster::new(4)
        .with(service("web"))
        .placed("web", 1, 3)
        .previously("web", 1, Previous { node: id(2), lost: true })
        .edit(2, |n| n.liveness = gone(9000))
        .edit(3, |n| n.liveness = gone(2000));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 n3 n1"]);
    assert_eq!(decision.moves[0].previous, Some(Previous { node: id(2), lost: true }));
}

#[test]
fn the_place_before_a_move_still_counts_until_the_new_one_is_healthy() {
    let cluster = Cluster::new(2)
        .edit(1, |n| n.memory = Some(2 * GIB))
        .edit(2, |n| n.memory = Some(2 * GIB))
        .with(service("a").memory(2 * GIB))
        .placed("a", 1, 2)
        .previously("a", 1, Previous { node: id(1), lost: false })
        .sees("a", 1, 2, ReplicaState::Starting)
        .with(service("b").memory(GIB));
    assert!(cluster.decide().moves.is_empty());
    let cluster = cluster.sees("a", 1, 2, ReplicaState::Healthy);
    assert_eq!(cluster.shown(&cluster.decide()), ["b/1 - n1"]);
}

#[test]
fn a_removed_node_gives_up_everything_at_once() {
    let cluster = Cluster::new(2)
        .with(service("data").volume())
        .placed("data", 1, 9)
        .with(service("pinned").pin("n9"))
        .placed("pinned", 1, 9)
        .with(service("web"))
        .placed("web", 1, 9);
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["pinned/1 ? -", "web/1 ? n1"]);
    assert_eq!(
        cluster.waits(&decision),
        [
            "data/1 its node was removed: `weft undeploy data` and deploying it again starts it without data, and so does naming a `node` in its definition",
            "pinned/1 waiting for n9, which is not a node of this cluster"
        ]
    );
}

#[test]
fn what_kept_data_on_a_removed_node_is_placed_again_only_where_its_definition_says() {
    let told = Cluster::new(2).with(service("data").volume().pin("n2")).placed("data", 1, 9);
    assert_eq!(told.shown(&told.decide()), ["data/1 ? n2"]);
    let wrong = Cluster::new(2).with(service("data").volume().pin("n9")).placed("data", 1, 9);
    let decision = wrong.decide();
    assert!(decision.moves.is_empty());
    assert!(wrong.waits(&decision)[0].starts_with("data/1 its node was removed"));
}

#[test]
fn a_planned_move_ends_when_the_new_copy_is_healthy_and_says_what_it_waits_for() {
    let moving = Cluster::new(2).with(service("web")).placed("web", 1, 2).previously(
        "web",
        1,
        Previous { node: id(1), lost: false },
    );
    for (state, says) in [
        (ReplicaState::Starting, "is starting"),
        (ReplicaState::Running, "is not healthy"),
        (ReplicaState::Failed, "has failed"),
    ] {
        let cluster = moving.clone().sees("web", 1, 2, state);
        let decision = cluster.decide();
        assert!(decision.settled.is_empty() && decision.moves.is_empty());
        assert_eq!(
            cluster.waits(&decision),
            [format!(
                "web/1 moves from n1 to n2: the new copy {says}, the old one runs until it is healthy"
            )]
        );
    }
    let healthy = moving.sees("web", 1, 2, ReplicaState::Healthy).decide();
    assert_eq!((healthy.settled.len(), healthy.waiting.len()), (1, 0));
}

#[test]
fn a_move_that_stops_first_ends_when_the_old_copy_has_stopped() {
    let moving = Cluster::new(2)
        .with(service("data").volume().pin("n2"))
        .placed("data", 1, 2)
        .previously("data", 1, Previous { node: id(1), lost: false });
    let decision = moving.decide();
    assert!(decision.settled.is_empty());
    assert_eq!(
        moving.waits(&decision),
        ["data/1 moves from n1 to n2: starts there when its copy on n1 has stopped"]
    );
    // On a lost node it may run on: its data has one writer.
    let lost = moving.clone().edit(1, |n| n.liveness = gone(60_000));
    assert!(lost.decide().settled.is_empty());
    let stopped = moving.sees("data", 1, 1, ReplicaState::Stopped).decide();
    assert_eq!(stopped.settled.len(), 1);
}

#[test]
fn when_the_target_of_a_planned_move_is_lost_the_copy_that_works_is_kept() {
    let cluster = Cluster::new(3)
        .edit(1, |n| n.draining = true)
        .with(service("web"))
        .placed("web", 1, 2)
        .previously("web", 1, Previous { node: id(1), lost: false })
        .edit(2, |n| n.liveness = gone(2000));
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 n2 n3"]);
    assert_eq!(decision.moves[0].previous, Some(Previous { node: id(1), lost: false }));
}

#[test]
fn a_node_that_left_gives_up_at_once_what_keeps_no_data() {
    let cluster = Cluster::new(2)
        .edit(2, |n| n.liveness = Liveness::Left)
        .with(service("data").volume())
        .placed("data", 1, 2)
        .with(service("web"))
        .placed("web", 1, 2);
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 n2 n1"]);
    assert_eq!(cluster.waits(&decision), ["data/1 waiting for n2, which has left"]);
}

#[test]
fn a_draining_node_is_left_one_replica_of_a_service_at_a_time() {
    let cluster = Cluster::new(3)
        .edit(1, |n| n.draining = true)
        .with(service("data").volume())
        .placed("data", 1, 1)
        .with(service("web").replicas(2))
        .placed("web", 1, 1)
        .placed("web", 2, 1)
        .with(service("x"))
        .placed("x", 1, 1);
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 n1 n2", "x/1 n1 n3"]);
    assert_eq!(
        cluster.waits(&decision),
        ["data/1 stays on n1: its data is there", "web/2 leaves n1 when web/1 is healthy"]
    );
    let input = cluster.input();
    let mut world = World::new(&input);
    world.apply(&decision);
    for seen in &mut world.seen {
        seen.state = ReplicaState::Starting;
    }
    assert!(decide(&world.input(&input)).moves.is_empty(), "not before it is healthy");
    for seen in &mut world.seen {
        seen.state = ReplicaState::Healthy;
    }
    let next = decide(&world.input(&input));
    assert_eq!(cluster.shown(&next), ["web/2 n1 n3"]);
}

#[test]
fn a_drain_with_nowhere_to_go_says_so() {
    let cluster = Cluster::new(1)
        .edit(1, |n| n.draining = true)
        .with(service("pinned").pin("n1"))
        .placed("pinned", 1, 1)
        .with(service("web"))
        .placed("web", 1, 1);
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(
        cluster.waits(&decision),
        [
            "pinned/1 stays on n1: its definition names it",
            "web/1 stays on n1: no node is ready: n1 is draining"
        ]
    );
}

fn fenced_on_lost_n2(renewed_ms_ago: u64) -> Cluster {
    Cluster::new(3)
        .with(service("db").on_partition(OnPartition::Stop))
        .placed("db", 1, 2)
        .lease("db", 1, 2, renewed_ms_ago)
        .edit(2, |n| n.liveness = gone(1500))
}

#[test]
fn a_fenced_replacement_waits_for_the_lease_and_a_tenth() {
    let cluster = fenced_on_lost_n2(2600);
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(decision.ask_again_ms, Some(700));
    assert_eq!(
        cluster.waits(&decision),
        ["db/1 waiting for the end of the lease of its copy on n2: 700 ms"]
    );
    let cluster = fenced_on_lost_n2(3300);
    assert_eq!(cluster.shown(&cluster.decide()), ["db/1 n2 n1"]);
}

#[test]
fn a_new_leader_takes_every_lease_as_just_renewed() {
    let mut cluster = fenced_on_lost_n2(60_000);
    cluster.leases.clear();
    cluster.settings.leading_for_ms = 300;
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(decision.ask_again_ms, Some(3000));
}

#[test]
fn a_fenced_replica_stops_before_it_leaves_a_draining_node() {
    let cluster = Cluster::new(2)
        .with(service("db").on_partition(OnPartition::Stop))
        .placed("db", 1, 1)
        .lease("db", 1, 1, 100)
        .edit(1, |n| n.draining = true);
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["db/1 n1 -"]);
    assert!(decision.moves[0].reason.starts_with("stops on n1 before it moves: n1 is draining"));
    let mut cluster = cluster;
    cluster.places.clear();
    let waiting = cluster.decide();
    assert!(waiting.moves.is_empty());
    assert_eq!(waiting.ask_again_ms, Some(3200));
    cluster.leases.clear();
    assert_eq!(cluster.shown(&cluster.decide()), ["db/1 - n2"]);
}

/// Four services on n1 and n2, and a new n3.
fn lopsided() -> Cluster {
    let mut cluster = Cluster::new(3);
    for (name, at) in [("a", 1), ("b", 2), ("c", 1), ("d", 2)] {
        cluster = cluster.with(service(name)).placed(name, 1, at).sees(
            name,
            1,
            at,
            ReplicaState::Healthy,
        );
    }
    cluster
}

#[test]
fn a_new_node_gets_work_only_slowly_and_only_while_that_helps() {
    let mut cluster = lopsided();
    cluster.settings.since_rebalance_ms = Some(20_000);
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(decision.ask_again_ms, Some(40_000));
    cluster.settings.since_rebalance_ms = Some(60_000);
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["a/1 n1 n3"]);
    assert_eq!(
        decision.moves[0].reason,
        "for a better spread: now on n3 (n1 ran 2 components, n3 0)"
    );
    let settled = settle(&cluster.input());
    assert!(settled.quiet);
    assert_eq!(settled.moves.len(), 1, "then the difference is 1: {:?}", settled.moves);
}

#[test]
fn rebalancing_pauses_when_not_all_is_well() {
    let mut updating = lopsided();
    updating.settings.updating = true;
    let mut unhealthy = lopsided();
    unhealthy.seen.clear();
    let pauses = [
        updating,
        unhealthy,
        lopsided().edit(1, |n| n.version = "0.0.1".into()),
        lopsided().edit(1, |n| n.liveness = Liveness::Suspect),
        lopsided().edit(1, |n| n.liveness = Liveness::DaemonDown),
        lopsided().edit(3, |n| n.draining = true),
    ];
    for (at, cluster) in pauses.iter().enumerate() {
        assert!(cluster.decide().moves.is_empty(), "case {at}");
    }
}

#[test]
fn replicas_that_had_to_share_a_node_part_when_another_comes() {
    let cluster = Cluster::new(3)
        .with(service("web").replicas(3))
        .placed("web", 1, 1)
        .placed("web", 2, 1)
        .placed("web", 3, 2)
        .sees("web", 1, 1, ReplicaState::Healthy)
        .sees("web", 2, 1, ReplicaState::Healthy)
        .sees("web", 3, 2, ReplicaState::Healthy);
    let decision = cluster.decide();
    assert_eq!(cluster.shown(&decision), ["web/1 n1 n3"]);
    assert!(decision.moves[0].reason.ends_with("(n1 ran 2 replicas of it, n3 0)"));
}

#[test]
fn data_and_core_and_fenced_services_are_not_rebalanced() {
    let edits: [fn(build::Service) -> build::Service; 3] =
        [build::Service::volume, |s| s.tier(Tier::Core), |s| s.on_partition(OnPartition::Stop)];
    for edit in edits {
        let mut cluster = Cluster::new(2);
        for name in ["a", "b", "c"] {
            cluster = cluster.with(edit(service(name))).placed(name, 1, 1).sees(
                name,
                1,
                1,
                ReplicaState::Healthy,
            );
        }
        assert!(cluster.decide().moves.is_empty());
    }
}

#[test]
fn a_busy_node_is_taken_last() {
    let cluster =
        Cluster::new(2).edit(1, |n| n.load_percent = Some(BUSY_PERCENT)).with(service("web"));
    assert_eq!(cluster.shown(&cluster.decide()), ["web/1 - n2"]);
}

#[test]
fn more_declared_than_there_is_is_reported_and_moves_nothing() {
    let cluster = Cluster::new(2)
        .edit(1, |n| n.cpu_millis = Some(1000))
        .with(service("web").cpu(1500))
        .placed("web", 1, 1);
    let decision = cluster.decide();
    assert!(decision.moves.is_empty());
    assert_eq!(
        decision.problems[0].to_string(),
        "n1: 1500m CPU declared by what is placed there, 1000m available: move or shrink a service"
    );
}

#[test]
fn the_plan_for_lost_nodes_is_what_then_happens() {
    let mut cluster = Cluster::new(4);
    for (name, at) in [("a", 1), ("b", 2), ("c", 3), ("d", 2)] {
        let spec = if name == "c" { service(name).after(30_000) } else { service(name) };
        cluster = cluster.with(spec).placed(name, 1, at).sees(name, 1, at, ReplicaState::Healthy);
    }
    cluster = cluster
        .with(service("e").volume())
        .placed("e", 1, 3)
        .with(service("f").on_partition(OnPartition::Stop))
        .placed("f", 1, 2)
        .lease("f", 1, 2, 0);
    let plan = lost(&cluster.input(), &[id(2), id(3)]);
    assert_eq!(cluster.shown(&plan), ["b/1 n2 n4", "c/1 n3 n1", "d/1 n2 n1", "f/1 n2 n4"]);
    assert_eq!(cluster.waits(&plan), ["e/1 waiting for n3"]);
    // Step by step, as a leader would, every 100 ms.
    let mut real = cluster.edit(2, |n| n.liveness = gone(0)).edit(3, |n| n.liveness = gone(0));
    for _ in 0..400 {
        let decision = real.decide();
        let input = real.input();
        let mut world = World::new(&input);
        world.apply(&decision);
        world.pass(100);
        real.take(world);
    }
    for step in &plan.moves {
        let place = real.places.iter().find(|place| place.service == step.service);
        assert_eq!(place.map(|place| place.node), step.to, "{step:?}");
    }
}
