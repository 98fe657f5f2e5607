//! The text format, with hostile names.

use proptest::prelude::*;
use weft_wire::WallTime;

use super::*;
use crate::rows::tests::{event, key, status};

#[test]
fn a_hostile_name_stays_within_its_label() {
    let mut figures = Figures { node: "n1".into(), version: "0.1.0".into(), ..Figures::default() };
    let name = "a\"} 1\nweft_evil{x=\"\\";
    figures.components = Some(vec![status(key(name, 1, "api"), ComponentState::Running)]);
    let text = render(&figures);
    assert!(
        text.contains(
            "weft_component_up{service=\"a\\\"} 1\\nweft_evil{x=\\\"\\\\\",replica=\"1\""
        ),
        "{text}"
    );
    assert!(!text.lines().any(|line| line.starts_with("weft_evil")));
}

#[test]
fn everything_known_is_in_the_text_and_nothing_else() {
    let counted = crate::macp::counted::Counted::default();
    let took = std::time::Duration::from_millis(2);
    counted.add(("macp.mode.task.v1", "Commitment"), Outcome::Accepted, took);
    let empty = render(&Figures::default());
    assert!(!empty.contains("weft_components") && !empty.contains("weft_host"));
    let figures = Figures {
        node: "n1".into(),
        version: "0.1.0".into(),
        up: vec![("registry".into(), true), ("runtime".into(), false)],
        actors: Some(vec![ActorInfo {
            node: "n1".into(),
            path: "registry".into(),
            state: ActorState::Running,
            since: WallTime::from_micros(1),
            restarts: 2,
            mailbox_depth: 3,
            mailbox_capacity: 1024,
            messages: 40,
            dead_letters: 5,
            last_failure: String::new(),
        }]),
        components: Some(vec![status(key("web", 1, "api"), ComponentState::Running)]),
        nodes: None,
        host: Some(HostFigures { cores: 2, cpu_percent: 50.0, ..HostFigures::default() }),
        events: Some(vec![event(1, 1, "n1"), event(2, 2, "n1")]),
        state_index: Some(9),
        operations: 1,
        in_flight: vec![("n2".into(), 4)],
        door: Stats { received: vec![("gateway.ps", 6)], refused: 1, dead_letters: 0 },
        sessions: Some(SessionFigures {
            happened: vec![
                ("macp.mode.task.v1".into(), SessionLifecycle::Resolved, 3),
                ("ext.a".into(), SessionLifecycle::Created, 1),
                ("ext.b".into(), SessionLifecycle::Created, 1),
            ],
            in_memory: vec![(weft_protocol::SessionState::Open, 2)],
            archived: 7,
            missing: 0,
            damaged: 1,
        }),
        envelopes: Some(counted.all()),
    };
    let text = render(&figures);
    for line in [
        "weft_build_info{version=\"0.1.0\",node=\"n1\"} 1",
        "weft_up{actor=\"runtime\"} 0",
        "weft_actor_state{actor=\"registry\",state=\"running\"} 1",
        "weft_actor_restarts_total{actor=\"registry\"} 2",
        "weft_actor_dead_letters_total{actor=\"registry\"} 5",
        "weft_components{state=\"running\"} 1",
        "weft_components{state=\"failed\"} 0",
        "weft_component_restarts_total{service=\"web\",replica=\"1\",component=\"api\"} 0",
        "weft_host_cpu_ratio 0.5",
        "weft_events_last_hour{new_state=\"running\",cause=\"deploy\"} 2",
        "weft_state_index 9",
        "weft_gateway_operations 1",
        "weft_asks_in_flight{peer=\"n2\"} 4",
        "weft_requests_total{message=\"gateway.ps\"} 6",
        "weft_refused_total 1",
        "macp_sessions_resolved_total{mode=\"macp.mode.task.v1\"} 3",
        "macp_sessions_started_total{mode=\"_OTHER\"} 2",
        "weft_sessions{state=\"open\"} 2",
        "weft_sessions_archived 7",
        "macp_messages_accepted_total{mode=\"macp.mode.task.v1\"} 1",
        "macp_commitments_accepted_total{mode=\"macp.mode.task.v1\"} 1",
        "macp_envelope_process_duration_seconds_bucket{macp_mode_id=\"macp.mode.task.v1\",macp_message_type=\"Commitment\",macp_envelope_outcome=\"accepted\",le=\"0.001\"} 0",
        "macp_envelope_process_duration_seconds_bucket{macp_mode_id=\"macp.mode.task.v1\",macp_message_type=\"Commitment\",macp_envelope_outcome=\"accepted\",le=\"+Inf\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

proptest! {
    #[test]
    fn every_line_is_a_comment_or_one_sample(service in "\\PC{0,20}|[\\\\\"\n{}=,]{0,10}") {
        let figures = Figures {
            components: Some(vec![status(key(&service, 1, "api"), ComponentState::Failed)]),
            ..Figures::default()
        };
        for line in render(&figures).lines() {
            prop_assert!(line.starts_with("# ") || line.starts_with("weft_"), "{}", line);
            if !line.starts_with('#') {
                let value = line.rsplit(' ').next().unwrap_or_default();
                prop_assert!(value.parse::<f64>().is_ok(), "{}", line);
            }
        }
    }
}
