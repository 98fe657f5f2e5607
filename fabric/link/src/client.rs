//! The client side: a program that attaches to a node and is asked nothing itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use weft_identity::{Credentials, Expect, Trust, client_config};
use weft_wire::frame::{self, Extension, Kind};
use weft_wire::{
    Address, AskError, Clock, Identity, Message, Subscription, SystemClock, Target, codec,
};

use crate::door::{Source, extension_for};
use crate::endpoint::{ALPN_JOIN, ALPN_LINK, client_endpoint, connect, greet, peer_of, transport};
use crate::error::{close, explain};
use crate::fabric::{deadline_ms, decode_reply, encode_request, header};
use crate::hello::{Hello, read_hello, write_hello};
use crate::items::{self, Items};
use crate::link::{Answer, ItemStream, Limits, Link, Requester, accepted};
use crate::local;
use crate::reader::FrameReader;
use crate::requester::{Lane, Request, ask_on_own_stream};
use crate::serve::serve_link;
use crate::{Call, LinkError};

/// A client's name in its hello.
const NAME: &str = "weft";

/// A connection to one node, which forwards what is for others.
pub struct Client {
    way: Way,
    hello: Hello,
}

enum Way {
    Quic { endpoint: quinn::Endpoint, link: Arc<Link>, _serving: AbortOnDropHandle<()> },
    Local { path: PathBuf, requester: Requester, _lane: AbortOnDropHandle<()> },
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("to", &self.hello.name).finish_non_exhaustive()
    }
}

impl Client {
    /// Attaches to a node over QUIC, as the certificate's owner.
    ///
    /// # Errors
    /// [`LinkError::NoAnswer`] when nobody answers within `within`, [`LinkError::Refused`] with
    /// the reason when the node or this side refuses.
    pub async fn connect(
        address: SocketAddr,
        credentials: &Credentials,
        trust: &Trust,
        expect: Expect,
        within: Duration,
    ) -> Result<Self, LinkError> {
        let limits = Limits::default();
        let deadline = Instant::now() + within;
        let endpoint = client_endpoint(address)?;
        let tls = client_config(Some(credentials), trust, expect, &[ALPN_LINK])
            .map_err(|error| LinkError::Tls(error.to_string()))?;
        let conn = connect(&endpoint, tls, Arc::new(transport(&limits)), address, within).await?;
        let proven = peer_of(&conn, trust)?
            .ok_or_else(|| LinkError::Tls("the node has no certificate".into()))?;
        let own = credentials.own();
        let node = match &own.identity {
            Identity::Node(id) => Some(*id),
            _ => None,
        };
        let wall = trust.clock().wall();
        let hello = Hello {
            cluster: Some(trust.cluster()),
            node,
            ..Hello::of_build(NAME, env!("CARGO_PKG_VERSION"), wall)
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let hello = greet(&conn, &hello, left).await?;
        hello.check(Some(trust.cluster()), &proven.1.identity)?;
        let handle = Handle::current();
        let link =
            Link::new(conn, proven, hello.clone(), own.serial, Some(0), (&limits, &handle, wall));
        let serving = link.clone();
        let source = Source::new(link.peer.identity.clone());
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                () = serve_link(None, serving.clone(), source) => {}
                _ = serving.conn.closed() => {}
            }
            let reason = serving.conn.close_reason().map(|error| serving.reason(&error));
            serving.requester.fail(&reason.unwrap_or_else(|| "the connection ended".into()));
        }));
        Ok(Self { way: Way::Quic { endpoint, link, _serving: serving }, hello })
    }

    /// Attaches to the daemon of this machine.
    ///
    /// # Errors
    /// [`LinkError::Socket`] when no daemon listens there or this user may not use it;
    /// [`LinkError::Refused`].
    pub async fn connect_local(
        path: impl AsRef<Path>,
        within: Duration,
    ) -> Result<Self, LinkError> {
        let path = path.as_ref().to_owned();
        let (mut reader, write, hello) = greet_local(&path, within).await?;
        let limits = Limits::default();
        let lane = Lane::new(limits.outbox, limits.in_flight);
        let running = lane.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            reader.set_limit(frame::FRAME_MAX);
            let reason = running.run_reader(reader, write).await;
            running.fail(&format!("the daemon ended the connection: {reason}").into());
        }));
        let requester = Requester::single(lane, &limits, Handle::current());
        Ok(Self { way: Way::Local { path, requester, _lane: task }, hello })
    }

    /// What the node said of itself.
    pub const fn hello(&self) -> &Hello {
        &self.hello
    }

    fn requester(&self) -> &Requester {
        match &self.way {
            Way::Quic { link, .. } => &link.requester,
            Way::Local { requester, .. } => requester,
        }
    }

    fn extension(to: &Address, call: &Call) -> Option<Extension> {
        extension_for(to.target.clone(), call.caller.clone(), call.trace)
    }

    /// Sends `message` to an actor of any node and waits for its answer.
    ///
    /// # Errors
    /// As [`crate::Fabric::ask`].
    pub async fn ask<M: Message>(
        &self,
        to: Address,
        message: M,
        call: Call,
    ) -> Result<M::Reply, AskError> {
        let answer: Answer = {
            let body = |out: &mut Vec<u8>| codec::encode_into(&message, out).map(drop);
            let request = Request {
                header: frame::Header {
                    actor: to.actor as u8,
                    ..header::<M>(Kind::Ask, deadline_ms(call.within))
                },
                extension: Self::extension(&to, &call),
                body: &body,
            };
            self.requester().ask(M::CLASS, &request, Instant::now() + call.within, None)?
        };
        drop(message);
        decode_reply::<M>(&answer.await?.body)
    }

    /// Sends `message` and waits for nothing. [`Client::close`] lets it leave.
    ///
    /// # Errors
    /// As [`crate::Fabric::tell`].
    pub fn tell<M: Message>(&self, to: &Address, message: M, call: &Call) -> Result<(), AskError> {
        let body = |out: &mut Vec<u8>| codec::encode_into(&message, out).map(drop);
        let request = Request {
            header: frame::Header { actor: to.actor as u8, ..header::<M>(Kind::Tell, 0) },
            extension: Self::extension(to, call),
            body: &body,
        };
        self.requester().tell(M::CLASS, &request).map_err(AskError::from)
    }

    /// Opens a stream of items.
    ///
    /// # Errors
    /// As [`crate::Fabric::subscribe`].
    pub async fn subscribe<S: Subscription>(
        &self,
        to: Address,
        message: S,
        call: Call,
    ) -> Result<Items<S::Item>, AskError> {
        let header = frame::Header { actor: to.actor as u8, ..header::<S>(Kind::Subscribe, 0) };
        let frame = encode_request(header, Self::extension(&to, &call), &message)?;
        drop(message);
        let opened = async {
            match &self.way {
                Way::Quic { link, .. } => {
                    let ItemStream { reader, _open } =
                        link.requester.subscribe(&frame).await.map_err(AskError::from)?;
                    let link = link.clone();
                    let why = move || {
                        link.conn.close_reason().map(|error| link.reason(&error).to_string())
                    };
                    Ok(items::decode(&Handle::current(), reader, _open, why))
                }
                Way::Local { path, .. } => {
                    let (mut reader, mut write, _) = greet_local(path, call.within).await?;
                    tokio::io::AsyncWriteExt::write_all(&mut write, &frame)
                        .await
                        .map_err(|error| AskError::Unreachable(error.to_string()))?;
                    reader.set_limit(frame::FRAME_MAX);
                    accepted(&mut reader).await.map_err(AskError::from)?;
                    Ok(items::decode(&Handle::current(), reader, write, || None))
                }
            }
        };
        tokio::time::timeout(call.within, opened).await.unwrap_or(Err(AskError::Timeout))
    }

    /// Ends the connection once what was told has left.
    pub async fn close(self) {
        let requester = self.requester();
        let flushed = Instant::now() + Duration::from_secs(1);
        while requester.unsent() > 0 && Instant::now() < flushed {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if let Way::Quic { endpoint, link, .. } = &self.way {
            link.close(close::DONE, "");
            let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Way::Quic { link, .. } = &self.way {
            link.close(close::DONE, "");
        }
    }
}

type LocalRead = FrameReader<tokio::net::unix::OwnedReadHalf>;

async fn greet_local(
    path: &Path,
    within: Duration,
) -> Result<(LocalRead, tokio::net::unix::OwnedWriteHalf, Hello), LinkError> {
    let (read, mut write) = local::connect(path).await?.into_split();
    let mut reader = FrameReader::new(read, 0);
    let own = Hello::of_build(NAME, env!("CARGO_PKG_VERSION"), SystemClock.wall());
    let greeting = async {
        write_hello(&mut write, &own).await?;
        read_hello(&mut reader).await
    };
    let hello = tokio::time::timeout(within, greeting).await.unwrap_or_else(|_| {
        Err(LinkError::NoAnswer(path.display().to_string(), within.as_millis()))
    })?;
    hello.agree()?;
    Ok((reader, write, hello))
}

/// Sends one message over the join door, with no identity but what the message proves. `tls` comes
/// from `weft_identity::joiner_client_config` (or `client_config` without credentials) with ALPN
/// [`ALPN_JOIN`].
///
/// # Errors
/// [`AskError`]; `Unreachable` with the reason when the connection is refused.
pub async fn join_ask<M: Message>(
    address: SocketAddr,
    tls: rustls::ClientConfig,
    target: Target,
    message: M,
    within: Duration,
) -> Result<M::Reply, AskError> {
    let endpoint = client_endpoint(address)?;
    let limits = Limits::default();
    let extension = (target != Target::Here).then(|| Extension { target, ..Extension::default() });
    let frame = encode_request(header::<M>(Kind::Ask, deadline_ms(within)), extension, &message)?;
    drop(message);
    let asked = async {
        let transport = Arc::new(transport(&limits));
        let conn = connect(&endpoint, tls, transport, address, within).await?;
        let unreachable = |error: &quinn::ConnectionError| AskError::Unreachable(explain(error));
        let answered = async {
            let (write, read) = conn.open_bi().await.map_err(|error| unreachable(&error))?;
            ask_on_own_stream(read, write, &frame).await.map_err(|fault| {
                match (AskError::from(fault), conn.close_reason()) {
                    (AskError::Unreachable(_), Some(reason)) => unreachable(&reason),
                    (error, _) => error,
                }
            })
        }
        .await;
        conn.close(close::DONE, b"");
        decode_reply::<M>(&answered?.body)
    };
    let result = tokio::time::timeout(within, asked).await.unwrap_or(Err(AskError::Timeout));
    endpoint.close(close::DONE, b"");
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    result
}

/// The ALPN list for [`join_ask`].
pub const JOIN_PROTOCOLS: &[&[u8]] = &[ALPN_JOIN];
