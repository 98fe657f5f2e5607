//! Having nodes start what they should run and do not.

use weft_protocol::{RecoverNodes, RecoveredNode, StartComponents};
use weft_wire::AskError;

use crate::around::Asker;
use crate::rows;

pub(crate) async fn recover(
    asker: &Asker,
    message: RecoverNodes,
) -> Result<Vec<RecoveredNode>, AskError> {
    let mut members = asker.members();
    if !message.node.is_empty() {
        let wanted = |name: &str, id: String| name == message.node || id == message.node;
        members.retain(|member| wanted(&member.name, member.id.to_string()));
        if members.is_empty() {
            return Err(rows::unknown_node(&asker.state().await?, &message.node));
        }
    }
    let question = StartComponents { target: None, dry_run: message.dry_run };
    let answers = asker.ask_each(members, question).await;
    let recovered = answers.into_iter().map(|(member, answer)| match answer {
        Ok(answer) => {
            RecoveredNode { node: member.name, started: answer.keys, error: String::new() }
        }
        Err(error) => {
            RecoveredNode { node: member.name, started: Vec::new(), error: error.to_string() }
        }
    });
    Ok(recovered.collect())
}
