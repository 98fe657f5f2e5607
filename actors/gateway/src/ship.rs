//! Files that come with a definition: which of them the cluster lacks, and that they outlive the
//! node they were sent to (docs/decisions/0017).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weft_protocol::{EnsureBlobs, HaveBlobs, ServiceSpec, ShippedFile};
use weft_wire::{AskError, Failure, FailureKind, NodeId};

use crate::around::{Asker, Member};

/// Most that one node may take to fetch what it lacks, if more time is left.
const FETCH: Duration = Duration::from_secs(600);

/// Those that no node which answers has.
pub(crate) async fn lacking(asker: &Asker, digests: Vec<String>) -> Vec<String> {
    let question = HaveBlobs { digests: digests.clone() };
    let answers = asker.ask_all(question).await;
    let had: BTreeSet<String> =
        answers.into_iter().filter_map(|(_, answer)| answer.ok()).flatten().collect();
    digests.into_iter().filter(|digest| !had.contains(digest)).collect()
}

/// Has this node hold all files of a definition, and another one too if there is one that lives.
/// Answers their names.
pub(crate) async fn keep(
    asker: &Asker,
    spec: &ServiceSpec,
    prefer: &[NodeId],
    end: Instant,
) -> Result<Vec<String>, AskError> {
    if spec.files.is_empty() {
        return Ok(Vec::new());
    }
    let within = || FETCH.min(end.saturating_duration_since(asker.now()));
    let ensure = || EnsureBlobs { files: spec.files.clone() };
    let here = asker.here();
    asker.ask(ensure(), within()).await.map_err(|error| refused(spec, &here, error))?;
    let gone = asker.gone().await;
    let mut others: Vec<Member> = asker
        .members()
        .into_iter()
        .filter(|member| member.id != here.id && !gone.contains_key(&member.id))
        .collect();
    // One that is to run it needs them anyway.
    others.sort_by_key(|member| !prefer.contains(&member.id));
    if others.is_empty() {
        return Ok(vec![here.name]);
    }
    if let Some(member) = holder(asker, &others, &spec.files).await {
        return Ok(vec![here.name, member]);
    }
    let mut last = None;
    for member in others {
        match asker.ask_on(member.id, ensure(), within()).await {
            Ok(()) => return Ok(vec![here.name, member.name]),
            Err(error) => last = Some(refused(spec, &member, error)),
        }
    }
    Err(last.unwrap_or(AskError::Timeout))
}

/// Another node that has all of them already.
async fn holder(asker: &Asker, others: &[Member], files: &[ShippedFile]) -> Option<String> {
    let digests: Vec<String> = files.iter().map(|file| file.digest.clone()).collect();
    let answers = asker.ask_each(others.to_vec(), HaveBlobs { digests: digests.clone() }).await;
    let all = |have: &[String]| digests.iter().all(|digest| have.contains(digest));
    answers
        .into_iter()
        .find(|(_, answer)| answer.as_ref().is_ok_and(|have| all(have)))
        .map(|(member, _)| member.name)
}

fn refused(spec: &ServiceSpec, member: &Member, error: AskError) -> AskError {
    let cause = match error {
        AskError::Failed(failure) if failure.cause.is_empty() => failure.message,
        AskError::Failed(failure) => format!("{}: {}", failure.message, failure.cause),
        other => other.to_string(),
    };
    let text = format!("{} does not hold the files that come with `{}`", member.name, spec.name);
    AskError::Failed(
        Failure::new(FailureKind::Unavailable, text)
            .node(&member.name)
            .service(&spec.name)
            .step("ship files")
            .cause(cause)
            .help("nothing was changed: deploy again, from where the files are"),
    )
}
