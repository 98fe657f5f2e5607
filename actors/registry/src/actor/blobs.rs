//! Saying which blobs are in use, to the runtime that removes the others.

use weft_link::Reply;
use weft_protocol::ReadBlobRefs;
use weft_supervision::{Handle, Scope};
use weft_wire::{Failure, FailureKind};

use super::Registry;

impl Handle<ReadBlobRefs> for Registry {
    fn handle(&mut self, _: ReadBlobRefs, reply: Reply<ReadBlobRefs>, _: &Scope<Self>) {
        // A node that knows nothing yet, or has been out of contact, may not know the newest.
        let sure = self.contact.sure().is_some();
        let state = self.state();
        if !sure || state.is_empty() {
            drop(state);
            return reply.fail(
                Failure::new(FailureKind::Unavailable, "agreed state is not known here")
                    .node(self.name())
                    .step("list blobs in use"),
            );
        }
        reply.ok(state.blobs().into_iter().collect());
    }
}
