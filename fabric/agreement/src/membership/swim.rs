//! SWIM by foca, which is named in this module alone: gossip and time in, gossip out.
//!
//! Three things are added to the protocol. A suspect is told so directly. Whoever was heard from
//! while under suspicion is not declared dead yet (see [`Swim::tick`]). An opinion that a member
//! is dead counts as a suspicion for a node that has just heard from it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use foca::{Foca, Header, Member, Message, NoCustomBroadcast, Notification, State, Timer};
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_wire::NodeId;

use super::times::Times;
use super::wire::{Gossip, Health, Life, OPINIONS_MAX, Opinion, Purpose, Suspicion};

/// An opinion takes 27 bytes in foca's hands: room for some 300 members. Streams carry it, so no
/// MTU bounds it.
const PACKET_MAX: usize = 8 * 1024;
/// What is Down is forgotten after this long. Long, because a member that is heard but cannot hear
/// would rise and die again each time it is forgotten.
const REMOVE_DOWN_AFTER: Duration = Duration::from_secs(60 * 60);
/// A suspect that is heard from, but refutes nothing, is dead after this many suspicion times.
const SUSPICIONS_MAX: u32 = 4;
/// A higher incarnation than any clock could give is nonsense.
const INCARNATION_MAX: u64 = u64::MAX / 2;

impl foca::Identity for Life {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        let incarnation = self.incarnation.checked_add(1)?;
        Some(Self { incarnation, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.incarnation > adversary.incarnation
    }
}

/// What comes of a step.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// To be told to `to.node`.
    pub(crate) gossip: Vec<Gossip>,
    /// Suspicions this node raised; to be told to their `life.node`.
    pub(crate) suspicions: Vec<Suspicion>,
}

/// One node's part in SWIM. Time and randomness are arguments.
pub(crate) struct Swim {
    foca: Foca<Life, Plain, StdRng, NoCustomBroadcast>,
    times: Times,
    timers: BTreeSet<(Instant, Timer<Life>, u64)>,
    /// Numbers timers, so that equal ones stay apart and in order.
    sequence: u64,
    /// When each was last heard from directly.
    heard: BTreeMap<NodeId, Instant>,
    /// When the present suspicion of each began here.
    suspected: BTreeMap<NodeId, (Suspicion, Instant)>,
}

impl Swim {
    pub(crate) fn new(own: Life, times: Times, seed: u64) -> Self {
        let periodic = |frequency, members| {
            NonZeroUsize::new(members)
                .map(|num_members| foca::PeriodicParams { frequency, num_members })
        };
        let config = foca::Config {
            probe_period: times.probe_period,
            probe_rtt: times.answer,
            suspect_to_down_after: times.suspicion,
            num_indirect_probes: NonZeroUsize::MIN.saturating_add(2),
            max_transmissions: NonZeroU8::MIN.saturating_add(9),
            max_packet_size: NonZeroUsize::MIN.saturating_add(PACKET_MAX - 1),
            remove_down_after: Some(REMOVE_DOWN_AFTER),
            notify_down_members: true,
            periodic_announce: periodic(times.announce * 10, 1),
            periodic_announce_to_down_members: periodic(times.announce * 2, 2),
            periodic_gossip: periodic(times.gossip, 3),
        };
        Self {
            foca: Foca::new(own, config, StdRng::seed_from_u64(seed), Plain),
            times,
            timers: BTreeSet::new(),
            sequence: 0,
            heard: BTreeMap::new(),
            suspected: BTreeMap::new(),
        }
    }

    /// This node's present life.
    pub(crate) fn own(&self) -> Life {
        *self.foca.identity()
    }

    /// What this node thinks of every other it has heard of.
    pub(crate) fn opinions(&self) -> impl Iterator<Item = Opinion> {
        let own = self.own().node;
        self.foca.iter_membership_state().map(opinion).filter(move |o| o.life.node != own)
    }

    fn opinion_of(&self, node: NodeId) -> Option<Opinion> {
        self.opinions().find(|opinion| opinion.life.node == node)
    }

    /// Calls foca, and keeps the timers it asks for.
    fn with(
        &mut self,
        now: Instant,
        out: &mut Out,
        call: impl FnOnce(
            &mut Foca<Life, Plain, StdRng, NoCustomBroadcast>,
            &mut Collect<'_>,
        ) -> Result<(), foca::Error>,
    ) {
        let own = self.own().node;
        let mut collect = Collect { own, out, timers: Vec::new(), died: false };
        if let Err(error) = call(&mut self.foca, &mut collect) {
            tracing::debug!(target: "weft::membership", %error, "gossip not taken");
        }
        // News of a death does not wait for the next round.
        if collect.died {
            let _ = self.foca.gossip(&mut collect);
        }
        for (timer, after) in collect.timers {
            if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
                let suspicion = Suspicion { life: *member_id, refuted: *incarnation };
                let known = self.suspected.get(&member_id.node);
                if known.is_none_or(|(known, _)| *known != suspicion) {
                    self.suspected.insert(member_id.node, (suspicion, now));
                }
                out.suspicions.push(suspicion);
            }
            self.sequence += 1;
            self.timers.insert((now + after, timer, self.sequence));
        }
    }

    /// Takes gossip whose sender is `gossip.from`, checked by the caller.
    pub(crate) fn receive(&mut self, now: Instant, mut gossip: Gossip, out: &mut Out) {
        if gossip.opinions.len() > OPINIONS_MAX || gossip.from.incarnation > INCARNATION_MAX {
            return;
        }
        self.heard.insert(gossip.from.node, now);
        let own = self.own();
        // Somebody knows a later life of ours than we do: our memory of it was lost.
        let later = gossip.opinions.iter().map(|opinion| opinion.life);
        let later = later.chain([gossip.to]).filter(|life| life.node == own.node);
        let later = later.map(|life| life.incarnation).filter(|i| *i < INCARNATION_MAX).max();
        if let Some(later) = later.filter(|later| *later > own.incarnation) {
            let life = Life { incarnation: later + 1, ..own };
            self.with(now, out, |foca, collect| foca.change_identity(life, collect));
        }
        for opinion in &mut gossip.opinions {
            let heard = self.heard.get(&opinion.life.node);
            let lately = heard.is_some_and(|heard| now < *heard + self.times.suspicion);
            if opinion.health == Health::Dead && lately && opinion.life.node != own.node {
                opinion.health = Health::Suspect;
            }
        }
        gossip.opinions.retain(|opinion| opinion.life.incarnation < INCARNATION_MAX);
        let mut bytes = Vec::new();
        put_packet(&gossip, &mut bytes);
        self.with(now, out, |foca, collect| foca.handle_data(&bytes, collect));
    }

    /// Somebody told this node that it is suspected: refutes it, to the sender at once.
    pub(crate) fn refute(
        &mut self,
        now: Instant,
        from: NodeId,
        suspicion: &Suspicion,
        out: &mut Out,
    ) {
        self.heard.insert(from, now);
        if suspicion.life == self.own() {
            let update = Member::new(suspicion.life, suspicion.refuted, State::Suspect);
            self.with(now, out, |foca, collect| {
                foca.apply_many(std::iter::once(update), true, collect)
            });
        }
        self.announce(now, from, out);
    }

    /// Asks `node` to take this node as a member.
    pub(crate) fn announce(&mut self, now: Instant, node: NodeId, out: &mut Out) {
        let life =
            self.opinion_of(node).map_or(Life { node, incarnation: 0 }, |opinion| opinion.life);
        self.with(now, out, |foca, collect| foca.announce(life, collect));
    }

    /// Ends a life here, without suspicion; `tell`: and passes it on.
    pub(crate) fn end(&mut self, now: Instant, life: Life, tell: bool, out: &mut Out) {
        self.with(now, out, |foca, collect| {
            foca.apply_many(std::iter::once(Member::down(life)), tell, collect)
        });
    }

    /// When [`Swim::tick`] is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.timers.first().map(|(at, ..)| *at)
    }

    /// Handles what is due.
    ///
    /// When it comes much too late, this node stalled, and the others did not: everything is moved
    /// by the delay, so that answers that wait to be read are read before anybody is judged.
    ///
    /// Who was heard from during a suspicion has another suspicion time from then on, up to
    /// [`SUSPICIONS_MAX`] of them: what cannot hear us is dead to us in the end.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut Out) {
        let late = self.next().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > self.times.stall {
            self.timers = std::mem::take(&mut self.timers)
                .into_iter()
                .map(|(at, timer, number)| (at + late, timer, number))
                .collect();
            for (_, since) in self.suspected.values_mut() {
                *since += late;
            }
        }
        while self.next().is_some_and(|at| at <= now) {
            let Some((_, timer, number)) = self.timers.pop_first() else { return };
            if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer
                && let Some(later) = self.postponed(now, *member_id, *incarnation)
            {
                self.timers.insert((later, timer, number));
                continue;
            }
            self.with(now, out, |foca, collect| foca.handle_timer(timer, collect));
        }
        let active: BTreeSet<_> = self
            .opinions()
            .filter(|opinion| opinion.health == Health::Suspect)
            .map(|opinion| Suspicion { life: opinion.life, refuted: opinion.refuted })
            .map(|suspicion| (suspicion.life.node, suspicion.life.incarnation, suspicion.refuted))
            .collect();
        self.suspected.retain(|node, (suspicion, _)| {
            active.contains(&(*node, suspicion.life.incarnation, suspicion.refuted))
        });
    }

    fn postponed(&self, now: Instant, life: Life, refuted: u16) -> Option<Instant> {
        let heard = *self.heard.get(&life.node)?;
        let (suspicion, since) = self.suspected.get(&life.node)?;
        if (suspicion.life, suspicion.refuted) != (life, refuted) {
            return None;
        }
        let last = *since + self.times.suspicion * SUSPICIONS_MAX;
        let later = (heard + self.times.suspicion).min(last);
        (heard > *since && later > now).then_some(later)
    }

    /// The suspicions this node raised that still stand.
    pub(crate) fn suspicions(&self) -> impl Iterator<Item = Suspicion> {
        self.suspected.values().map(|(suspicion, _)| *suspicion)
    }

    /// Nothing is kept of `node` but that this life is over.
    pub(crate) fn forget(&mut self, now: Instant, node: NodeId, out: &mut Out) {
        if let Some(opinion) = self.opinion_of(node) {
            self.end(now, opinion.life, false, out);
        }
        self.heard.remove(&node);
        self.suspected.remove(&node);
    }
}

/// What foca calls back.
struct Collect<'a> {
    own: NodeId,
    out: &'a mut Out,
    timers: Vec<(Timer<Life>, Duration)>,
    died: bool,
}

impl foca::Runtime<Life> for Collect<'_> {
    fn notify(&mut self, notification: Notification<'_, Life>) {
        match notification {
            Notification::MemberDown(_) => self.died = true,
            Notification::Rejoin(life) => {
                tracing::info!(
                    target: "weft::membership", incarnation = life.incarnation,
                    "declared dead by a peer: begins a new life"
                );
            }
            _ => {}
        }
    }

    fn send_to(&mut self, to: Life, mut data: &[u8]) {
        if to.node != self.own
            && let Some(gossip) = take_packet(&mut data)
        {
            self.out.gossip.push(gossip);
        }
    }

    fn submit_after(&mut self, event: Timer<Life>, after: Duration) {
        self.timers.push((event, after));
    }
}

fn opinion(member: &Member<Life>) -> Opinion {
    let health = match member.state() {
        State::Alive => Health::Alive,
        State::Suspect => Health::Suspect,
        State::Down => Health::Dead,
    };
    Opinion { life: *member.id(), refuted: member.incarnation(), health }
}

fn member(opinion: &Opinion) -> Member<Life> {
    let state = match opinion.health {
        Health::Alive => State::Alive,
        Health::Suspect => State::Suspect,
        Health::Dead => State::Down,
    };
    Member::new(opinion.life, opinion.refuted, state)
}

fn purpose(message: &Message<Life>) -> Option<Purpose> {
    Some(match *message {
        Message::Ping(number) => Purpose::Ping { number },
        Message::Ack(number) => Purpose::Ack { number },
        Message::PingReq { target, probe_number: number } => {
            Purpose::PingRequest { target, number }
        }
        Message::IndirectPing { origin, probe_number: number } => {
            Purpose::IndirectPing { origin, number }
        }
        Message::IndirectAck { target, probe_number: number } => {
            Purpose::IndirectAck { target, number }
        }
        Message::ForwardedAck { origin, probe_number: number } => {
            Purpose::ForwardedAck { origin, number }
        }
        Message::Announce => Purpose::Announce,
        Message::Feed => Purpose::Feed,
        Message::Gossip => Purpose::News,
        Message::TurnUndead => Purpose::YouAreDead,
        Message::Broadcast => return None,
    })
}

fn message(purpose: &Purpose) -> Message<Life> {
    match *purpose {
        Purpose::Ping { number } => Message::Ping(number),
        Purpose::Ack { number } => Message::Ack(number),
        Purpose::PingRequest { target, number } => {
            Message::PingReq { target, probe_number: number }
        }
        Purpose::IndirectPing { origin, number } => {
            Message::IndirectPing { origin, probe_number: number }
        }
        Purpose::IndirectAck { target, number } => {
            Message::IndirectAck { target, probe_number: number }
        }
        Purpose::ForwardedAck { origin, number } => {
            Message::ForwardedAck { origin, probe_number: number }
        }
        Purpose::Announce => Message::Announce,
        Purpose::Feed => Message::Feed,
        Purpose::News => Message::Gossip,
        Purpose::YouAreDead => Message::TurnUndead,
    }
}

/// What foca writes is read again at once and never leaves this module: fixed fields.
struct Plain;

const LIFE: usize = 24;
const MEMBER: usize = LIFE + 3;

fn put_life(life: &Life, buf: &mut impl BufMut) {
    buf.put_u128(life.node.uuid().as_u128());
    buf.put_u64(life.incarnation);
}

fn take_life(buf: &mut impl Buf) -> Option<Life> {
    let node = buf.try_get_u128().ok()?;
    let incarnation = buf.try_get_u64().ok()?;
    Some(Life { node: NodeId::new(uuid::Uuid::from_u128(node)), incarnation })
}

fn put_header(header: &Header<Life>, buf: &mut impl BufMut) {
    put_life(&header.src, buf);
    buf.put_u16(header.src_incarnation);
    put_life(&header.dst, buf);
    let (kind, number, life) = match &header.message {
        Message::Ping(number) => (0, *number, None),
        Message::Ack(number) => (1, *number, None),
        Message::PingReq { target, probe_number } => (2, *probe_number, Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, *probe_number, Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, *probe_number, Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, *probe_number, Some(origin)),
        Message::Announce => (6, 0, None),
        Message::Feed => (7, 0, None),
        Message::Gossip => (8, 0, None),
        Message::Broadcast => (9, 0, None),
        Message::TurnUndead => (10, 0, None),
    };
    buf.put_u8(kind);
    buf.put_u8(number);
    if let Some(life) = life {
        put_life(life, buf);
    }
}

fn take_header(buf: &mut impl Buf) -> Option<Header<Life>> {
    let src = take_life(buf)?;
    let src_incarnation = buf.try_get_u16().ok()?;
    let dst = take_life(buf)?;
    let kind = buf.try_get_u8().ok()?;
    let probe_number = buf.try_get_u8().ok()?;
    let message = match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: take_life(buf)?, probe_number },
        3 => Message::IndirectPing { origin: take_life(buf)?, probe_number },
        4 => Message::IndirectAck { target: take_life(buf)?, probe_number },
        5 => Message::ForwardedAck { origin: take_life(buf)?, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return None,
    };
    Some(Header { src, src_incarnation, dst, message })
}

fn put_member(member: &Member<Life>, buf: &mut impl BufMut) {
    put_life(member.id(), buf);
    buf.put_u16(member.incarnation());
    buf.put_u8(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
}

fn take_member(buf: &mut impl Buf) -> Option<Member<Life>> {
    let life = take_life(buf)?;
    let refuted = buf.try_get_u16().ok()?;
    let state = match buf.try_get_u8().ok()? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return None,
    };
    Some(Member::new(life, refuted, state))
}

/// As foca lays out a packet: header, number of members, members.
fn put_packet(gossip: &Gossip, buf: &mut Vec<u8>) {
    let message = message(&gossip.purpose);
    let bare = matches!(message, Message::Announce | Message::TurnUndead);
    let header =
        Header { src: gossip.from, src_incarnation: gossip.refuted, dst: gossip.to, message };
    put_header(&header, buf);
    if bare {
        return;
    }
    // As many as the reader takes at once; the others come again.
    let room = (PACKET_MAX - buf.len() - 2) / MEMBER;
    let opinions = gossip.opinions.get(..room).unwrap_or(&gossip.opinions);
    buf.put_u16(u16::try_from(opinions.len()).unwrap_or(0));
    for opinion in opinions {
        put_member(&member(opinion), buf);
    }
}

fn take_packet(buf: &mut impl Buf) -> Option<Gossip> {
    let header = take_header(buf)?;
    let mut opinions = Vec::new();
    if buf.remaining() >= 2 {
        for _ in 0..buf.try_get_u16().ok()? {
            opinions.push(opinion(&take_member(buf)?));
        }
    }
    Some(Gossip {
        from: header.src,
        refuted: header.src_incarnation,
        to: header.dst,
        purpose: purpose(&header.message)?,
        opinions,
    })
}

/// Bytes that are not what they should be, or a buffer that is full.
#[derive(Debug, thiserror::Error)]
#[error("not a packet of this version, or no room left")]
struct Malformed;

impl foca::Codec<Life> for Plain {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<Life>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        if buf.remaining_mut() < 3 * LIFE + 4 {
            return Err(Malformed);
        }
        put_header(header, &mut buf);
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Life>, Malformed> {
        take_header(&mut buf).ok_or(Malformed)
    }

    fn encode_member(
        &mut self,
        member: &Member<Life>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        if buf.remaining_mut() < MEMBER {
            return Err(Malformed);
        }
        put_member(member, &mut buf);
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Life>, Malformed> {
        take_member(&mut buf).ok_or(Malformed)
    }
}
