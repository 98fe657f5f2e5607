//! Forgetting a service that was undeployed (orchestration §7, `purge`).

use std::time::Duration;

use weft_protocol::{
    Command, ListComponents, Propose, PurgeService, PurgedService, ReadHistory, RemoveData,
};
use weft_wire::{AskError, Failure, FailureKind};

use crate::around::Asker;

/// How long the cluster may take to agree, and a node to remove data.
const AGREE: Duration = Duration::from_secs(10);
const REMOVE: Duration = Duration::from_secs(60);

pub(crate) async fn purge(asker: &Asker, message: PurgeService) -> Result<PurgedService, AskError> {
    let service = message.service.as_str();
    let refuse = |kind, text: String, help: String| {
        AskError::Failed(Failure::new(kind, text).service(service).step("purge").help(help))
    };
    let state = asker.state().await?;
    let Some(record) = state.service(service) else {
        // Done before, when this is the request sent again.
        let command = Command::Purge { service: service.to_owned() };
        let again = Propose { request: message.request, command };
        if !message.dry_run && asker.ask(again, AGREE).await.is_ok() {
            return Ok(PurgedService { revisions: 0, data: Vec::new() });
        }
        let text = format!("no service `{service}`");
        let help = "`weft purge --dry-run` lists what is undeployed".to_owned();
        return Err(refuse(FailureKind::NotFound, text, help));
    };
    if !record.undeployed {
        let text = format!("service `{service}` is deployed");
        let help = format!("tear it down first: `weft undeploy {service}`");
        return Err(refuse(FailureKind::Conflict, text, help));
    }
    for (member, answer) in asker.ask_all(ListComponents {}).await {
        // One that does not answer stops what is not its own before it is ready again.
        let Ok(rows) = answer else { continue };
        if let Some(row) = rows.iter().find(|row| row.key.service == service) {
            let text = format!("{} is {} on {}", row.key, row.state, member.name);
            let help = "purge it again when `weft ps` does not show it any more".to_owned();
            return Err(refuse(FailureKind::Conflict, text, help));
        }
    }
    let history = ReadHistory { service: service.to_owned() };
    let revisions = asker.ask(history, AGREE).await?.revisions.len() as u32;
    let data = match message.data {
        true => remove_data(asker, &message).await?,
        false => Vec::new(),
    };
    if !message.dry_run {
        let command = Command::Purge { service: service.to_owned() };
        asker.ask(Propose { request: message.request, command }, AGREE).await?;
    }
    Ok(PurgedService { revisions, data })
}

/// Every node must have done it before the service is forgotten: then it can be asked for again.
async fn remove_data(asker: &Asker, message: &PurgeService) -> Result<Vec<String>, AskError> {
    let question = RemoveData { service: message.service.clone(), check: message.dry_run };
    let (mut removed, mut failed) = (Vec::new(), None);
    for (member, answer) in asker.ask_within(asker.members(), question, |_| REMOVE).await {
        match answer {
            Ok(true) => removed.push(member.name),
            Ok(false) => {}
            Err(error) => failed = Some((member.name, error)),
        }
    }
    let Some((node, error)) = failed else { return Ok(removed) };
    let mut failure = Failure::new(
        FailureKind::Unavailable,
        format!("the data of `{}` cannot be removed on every node", message.service),
    )
    .node(node)
    .service(&message.service)
    .step("purge")
    .cause(error.to_string())
    .help("the service is kept: purge it again when every node answers, or without --data");
    if !removed.is_empty() && !message.dry_run {
        failure.message.push_str(&format!("; it is removed on {}", removed.join(", ")));
    }
    Err(AskError::Failed(failure))
}
