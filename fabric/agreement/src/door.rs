//! The one mailbox of this crate: typed handlers by message id.
//!
//! A fabric takes one mailbox per actor kind; membership and consensus share it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use weft_link::{Fabric, Letter, Mailbox, Refusal, Reply, Rule};
use weft_wire::{ActorKind, Message, MessageId};

type Handler = Arc<dyn Fn(Letter) + Send + Sync>;

/// Where messages for [`ActorKind::Agreement`] go. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    fabric: Fabric,
    handlers: Arc<RwLock<HashMap<MessageId, (Rule, Handler)>>>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("messages", &self.handlers.read().len()).finish()
    }
}

impl Door {
    /// A door that serves nothing yet.
    pub fn new(fabric: Fabric) -> Self {
        Self { fabric, handlers: Arc::default() }
    }

    /// Gives every letter that holds an `M` to `handler`, in place of an earlier one. Handlers run
    /// on the link's tasks and must not block; what takes longer they spawn.
    pub fn serve<M: Message>(&self, handler: impl Fn(M, Reply<M>) + Send + Sync + 'static) {
        let open: Handler = Arc::new(move |letter| {
            if let Some((message, reply)) = letter.open::<M>() {
                handler(message, reply);
            }
        });
        self.handlers.write().insert(M::ID, (Rule::of::<M>(), open));
    }

    /// Serves `M` no longer.
    pub fn forget<M: Message>(&self) {
        self.handlers.write().remove(&M::ID);
    }

    /// Makes it the fabric's mailbox; more handlers may follow.
    pub fn attach(&self) {
        let mailbox = Box_ { handlers: self.handlers.clone() };
        self.fabric.attach(ActorKind::Agreement, Arc::new(mailbox));
    }
}

/// What the fabric holds: without the fabric, so that the two do not keep each other alive.
struct Box_ {
    handlers: Arc<RwLock<HashMap<MessageId, (Rule, Handler)>>>,
}

impl Mailbox for Box_ {
    fn rule(&self, id: MessageId) -> Option<Rule> {
        self.handlers.read().get(&id).map(|(rule, _)| *rule)
    }

    fn post(&self, letter: Letter) -> Result<(), (Refusal, Letter)> {
        let handler = self.handlers.read().get(&letter.id()).map(|(_, handler)| handler.clone());
        match handler {
            Some(handler) => {
                handler(letter);
                Ok(())
            }
            None => Err((Refusal::Gone, letter)),
        }
    }
}
