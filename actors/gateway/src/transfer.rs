//! `push` and `pull`: to and from the nodes that hold a service's replicas (orchestration §11).

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use weft_protocol::{
    FILE_MAX, Octets, PullFile, PulledFile, PushFile, PushedFile, PushedReplica, ReadFile,
    StateView, WriteFile, file_parts,
};
use weft_wire::{AskError, Failure, FailureKind, NodeId};

use crate::around::Asker;
use crate::rows::{self, node_name};

/// A file may be on its way so long.
const WITHIN: Duration = Duration::from_secs(60);

/// Sends a file to every replica that is meant; what became of it in each.
pub(crate) async fn push(asker: &Asker, message: PushFile) -> Result<PushedFile, AskError> {
    let PushFile { service, replica, path, mode, size, content, check } = message;
    valid(&service, &path, "push")?;
    let size = size.max(content.0.len() as u64);
    if size > FILE_MAX {
        let text = format!("the file has {size} bytes, at most {FILE_MAX} are taken");
        return Err(invalid(text, &service, "push"));
    }
    if !check && size != content.0.len() as u64 {
        let text = format!("{} bytes came of {size}", content.0.len());
        return Err(invalid(text, &service, "push"));
    }
    let state = asker.state().await?;
    let places = places(&state, &service, replica, "push")?;
    let content = if check { Octets::default() } else { content };
    let sent = places.into_iter().map(|(replica, node)| {
        let write = WriteFile {
            service: service.clone(),
            replica,
            path: path.clone(),
            mode,
            size,
            content: content.clone(),
            check,
        };
        let (name, service) = (node_name(&state, node), service.clone());
        async move {
            let answer = asker.ask_on(node, write, WITHIN).await;
            let error = answer.err().map(|error| failure(error, &name, &service, "push"));
            PushedReplica { replica, node: name, error }
        }
    });
    Ok(PushedFile { replicas: join_all(sent).await })
}

/// Reads a file of one replica.
pub(crate) async fn pull(asker: &Asker, message: PullFile) -> Result<PulledFile, AskError> {
    let PullFile { service, replica, path } = message;
    valid(&service, &path, "pull")?;
    let state = asker.state().await?;
    let places = places(&state, &service, replica, "pull")?;
    if places.len() > 1 {
        let numbers: Vec<String> = places.keys().map(ToString::to_string).collect();
        let text = format!("service `{service}` has {} replicas", places.len());
        return Err(AskError::Failed(
            Failure::new(FailureKind::Invalid, text)
                .service(&service)
                .step("pull")
                .help(format!("say which with --replica: {}", numbers.join(", "))),
        ));
    }
    let Some((replica, node)) = places.into_iter().next() else {
        return Err(invalid("it has no replica".into(), &service, "pull"));
    };
    let name = node_name(&state, node);
    match asker.ask_on(node, ReadFile { service: service.clone(), replica, path }, WITHIN).await {
        Ok(file) => Ok(PulledFile { replica, node: name, file }),
        Err(error) => Err(AskError::Failed(failure(error, &name, &service, "pull"))),
    }
}

fn valid(service: &str, path: &str, step: &str) -> Result<(), AskError> {
    if !weft_protocol::valid_name(service) {
        let text = format!("`{}` is no name of a service", service.escape_debug());
        return Err(invalid(text, "", step));
    }
    file_parts(path).map(drop).map_err(|why| invalid(why, service, step))
}

fn invalid(text: String, service: &str, step: &str) -> AskError {
    AskError::Failed(Failure::new(FailureKind::Invalid, text).service(service).step(step))
}

/// Where the replicas are that are meant; at least one.
fn places(
    state: &StateView,
    service: &str,
    replica: u32,
    step: &str,
) -> Result<BTreeMap<u32, NodeId>, AskError> {
    if state.service(service).is_none() {
        return Err(rows::unknown_service(state, service));
    }
    let mut places: BTreeMap<u32, NodeId> = state
        .placements
        .iter()
        .filter(|place| place.service == service)
        .map(|place| (place.replica, place.node))
        .collect();
    if places.is_empty() {
        return Err(AskError::Failed(
            Failure::new(FailureKind::NotFound, format!("service `{service}` has no place now"))
                .service(service)
                .step(step)
                .help(format!(
                    "`weft deploy {service}` gives it one; `weft status` says what it waits for"
                )),
        ));
    }
    if replica != 0 {
        let numbers: Vec<String> = places.keys().map(ToString::to_string).collect();
        places.retain(|number, _| *number == replica);
        if places.is_empty() {
            let text = format!("service `{service}` has no replica {replica}");
            return Err(AskError::Failed(
                Failure::new(FailureKind::NotFound, text)
                    .service(service)
                    .step(step)
                    .help(format!("it has: {}", numbers.join(", "))),
            ));
        }
    }
    Ok(places)
}

/// What went wrong on a node, as a failure with its name.
fn failure(error: AskError, node: &str, service: &str, step: &str) -> Failure {
    match error {
        AskError::Failed(failure) => failure,
        other => {
            let kind = match other {
                AskError::Timeout => FailureKind::Timeout,
                AskError::Denied(_) => FailureKind::Forbidden,
                AskError::Unsupported { .. } => FailureKind::Unsupported,
                _ => FailureKind::Unavailable,
            };
            Failure::new(kind, format!("{node} does not answer"))
                .node(node)
                .service(service)
                .step(step)
                .cause(other)
                .help("`weft node list` shows who answers")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::Placement;
    use weft_wire::WallTime;

    use crate::rows::tests::{record, spec};

    fn node(n: u128) -> NodeId {
        NodeId::new(uuid::Uuid::from_u128(n))
    }

    fn state() -> StateView {
        let place = |replica: u32| Placement {
            service: "web".into(),
            replica,
            node: node(u128::from(replica)),
            generation: 1,
            at: WallTime::from_micros(0),
            reason: String::new(),
            previous: None,
        };
        StateView {
            services: vec![record(spec("web", 2, &["web"])), record(spec("off", 1, &["off"]))],
            placements: vec![place(1), place(2)],
            ..StateView::default()
        }
    }

    fn kind(refused: Result<BTreeMap<u32, NodeId>, AskError>) -> FailureKind {
        match refused {
            Err(AskError::Failed(failure)) => failure.kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_replica_is_meant_unless_one_is_named() {
        let all = places(&state(), "web", 0, "push").expect("has places");
        assert_eq!(all, BTreeMap::from([(1, node(1)), (2, node(2))]));
        let one = places(&state(), "web", 2, "push").expect("has a place");
        assert_eq!(one, BTreeMap::from([(2, node(2))]));
    }

    #[test]
    fn what_is_not_there_is_said_to_be_missing() {
        for (service, replica) in [("shop", 0), ("web", 3), ("off", 0)] {
            assert_eq!(kind(places(&state(), service, replica, "push")), FailureKind::NotFound);
        }
    }

    #[test]
    fn names_and_paths_are_checked_before_any_node_is_asked() {
        assert!(valid("web", "conf/a.toml", "push").is_ok());
        for service in ["", ".", "..", "a/b", "a\\b", "a\0", "Web"] {
            assert!(valid(service, "a", "push").is_err(), "{service:?}");
        }
        assert!(valid("web", "../a", "push").is_err());
    }
}
