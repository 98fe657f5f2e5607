//! Which messages an actor answers: a table from message id to handler.

use std::any::Any;

use weft_link::{Letter, Rule};
use weft_wire::{Message, MessageId, Subscription};

use crate::actor::{Actor, Beside, Handle, Serve};
use crate::scope::Scope;

type Deliver<A> = fn(&mut A, Letter, &Scope<A>);
/// Gives back what is for the mailbox.
pub(crate) type DeliverBeside = fn(&(dyn Any + Send + Sync), Letter) -> Option<Letter>;

struct Route<A: Actor> {
    rule: Rule,
    deliver: Deliver<A>,
    beside: Option<DeliverBeside>,
}

impl<A: Actor> Clone for Route<A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A: Actor> Copy for Route<A> {}

/// What [`Actor::routes`] fills in.
pub struct Routes<A: Actor> {
    routes: Vec<(MessageId, Route<A>)>,
}

impl<A: Actor> std::fmt::Debug for Routes<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.routes.iter().map(|(id, route)| (id.0, route.rule.name)))
            .finish()
    }
}

impl<A: Actor> Routes<A> {
    pub(crate) const fn new() -> Self {
        Self { routes: Vec::new() }
    }

    /// Answers `M`, asked or told.
    pub fn ask<M: Message>(&mut self) -> &mut Self
    where
        A: Handle<M>,
    {
        self.add(M::ID, Rule::of::<M>(), |actor, letter, scope| {
            if let Some((message, reply)) = letter.open::<M>() {
                actor.handle(message, reply, scope);
            }
        })
    }

    /// Answers `M` from what the actor shares, an `S`, when that is free.
    pub fn ask_beside<M: Message, S: Beside<M>>(&mut self) -> &mut Self
    where
        A: Handle<M>,
    {
        self.ask::<M>();
        if let Some((_, route)) = self.routes.iter_mut().find(|(id, _)| *id == M::ID) {
            route.beside = Some(|shared, letter| match shared.downcast_ref::<S>() {
                Some(shared) if shared.is_free() => {
                    if let Some((message, reply)) = letter.open::<M>() {
                        shared.handle(message, reply);
                    }
                    None
                }
                _ => Some(letter),
            });
        }
        self
    }

    /// Serves `S`.
    pub fn subscription<S: Subscription>(&mut self) -> &mut Self
    where
        A: Serve<S>,
    {
        self.add(S::ID, Rule::of_subscription::<S>(), |actor, letter, scope| {
            if let Some((message, sink)) = letter.open_subscription::<S>() {
                actor.serve(message, sink, scope);
            }
        })
    }

    fn add(&mut self, id: MessageId, rule: Rule, deliver: Deliver<A>) -> &mut Self {
        if let Some((_, first)) = self.routes.iter().find(|(known, _)| *known == id) {
            // A defect of the actor; the first one stays, so that a test sees which.
            tracing::error!(
                id = id.0,
                first = first.rule.name,
                second = rule.name,
                "two messages with one id: the second is not answered"
            );
        } else {
            self.routes.push((id, Route { rule, deliver, beside: None }));
        }
        self
    }
}

/// Ids of one actor lie close together (docs of [`MessageId`]), so the id less the lowest one is
/// the index; an actor whose ids lie far apart is searched.
pub(crate) struct Table<A: Actor> {
    lowest: u16,
    dense: Vec<Option<Route<A>>>,
    sparse: Vec<(MessageId, Route<A>)>,
}

const DENSE_MAX: u16 = 1024;

impl<A: Actor> Table<A> {
    pub(crate) fn of_actor() -> Self {
        let mut routes = Routes::new();
        A::routes(&mut routes);
        Self::new(routes)
    }

    fn new(routes: Routes<A>) -> Self {
        let mut routes = routes.routes;
        routes.sort_by_key(|(id, _)| *id);
        let lowest = routes.first().map_or(0, |(id, _)| id.0);
        let highest = routes.last().map_or(0, |(id, _)| id.0);
        if highest - lowest >= DENSE_MAX {
            return Self { lowest, dense: Vec::new(), sparse: routes };
        }
        let mut dense = vec![None; usize::from(highest - lowest) + 1];
        for (id, route) in routes {
            if let Some(place) = dense.get_mut(usize::from(id.0 - lowest)) {
                *place = Some(route);
            }
        }
        Self { lowest, dense, sparse: Vec::new() }
    }

    fn find(&self, id: MessageId) -> Option<&Route<A>> {
        if let Some(route) = self.dense.get(usize::from(id.0.wrapping_sub(self.lowest))) {
            return route.as_ref();
        }
        let at = self.sparse.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.sparse.get(at).map(|(_, route)| route)
    }

    pub(crate) fn rule(&self, id: MessageId) -> Option<Rule> {
        self.find(id).map(|route| route.rule)
    }

    pub(crate) fn beside(&self, id: MessageId) -> Option<DeliverBeside> {
        self.find(id)?.beside
    }

    pub(crate) fn deliver(&self, actor: &mut A, letter: Letter, scope: &Scope<A>) {
        match self.find(letter.id()) {
            Some(route) => (route.deliver)(actor, letter, scope),
            None => {
                let error = weft_wire::AskError::Unsupported { id: letter.id().0, version: 0 };
                letter.refuse(&error);
            }
        }
    }
}
