//! The hello: the first frame in each direction of a connection, answered before it counts as up.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use weft_wire::frame::{self, Header, Kind};
use weft_wire::{
    AskError, ClusterId, FORMAT_LEVEL, Identity, NodeId, PROTOCOL_MAX, PROTOCOL_MIN, WallTime,
    codec,
};

use crate::LinkError;
use crate::reader::{FrameReader, next_frame};

/// No hello is longer, in bytes.
const HELLO_MAX: usize = 4096;
/// Longest name and version shown, in characters.
const TEXT_MAX: usize = 128;
/// `id` of a hello frame that holds a [`Hello`].
const OPENING: u16 = 0;
/// `id` of the frame that makes a stream a lane of a class (its `actor` is the class).
const LANE: u16 = 1;

/// Who speaks, and what they understand (design §4). Golden bytes pin it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest link protocol spoken.
    pub protocol_min: u16,
    /// Highest link protocol spoken.
    pub protocol_max: u16,
    /// Format level of replicated state this build can write.
    pub format_level: u16,
    /// Its cluster; `None`: a local client, which takes whatever cluster answers.
    pub cluster: Option<ClusterId>,
    /// Its id, equal to its certificate's; `None`: not a node.
    pub node: Option<NodeId>,
    /// Its name; a label.
    pub name: String,
    /// Version of its build.
    pub version: String,
    /// Its wall clock.
    pub wall: WallTime,
    /// Differs between two runs of the same node.
    pub instance: u64,
    /// How many connections this one supersedes (0 for most): after a certificate was renewed the
    /// newer connection wins whoever dialled.
    pub supersedes: u32,
}

impl Hello {
    /// As this build says it, without what only some know.
    pub(crate) fn of_build(name: &str, version: &str, wall: WallTime) -> Self {
        Self {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            format_level: FORMAT_LEVEL,
            cluster: None,
            node: None,
            name: name.to_owned(),
            version: version.to_owned(),
            wall,
            instance: 0,
            supersedes: 0,
        }
    }

    /// The highest link protocol both speak.
    ///
    /// # Errors
    /// [`LinkError::Refused`], naming both ranges.
    pub fn agree(&self) -> Result<u16, LinkError> {
        let highest = self.protocol_max.min(PROTOCOL_MAX);
        if highest < self.protocol_min.max(PROTOCOL_MIN) {
            return Err(LinkError::Refused(format!(
                "`{}` speaks link protocol {} to {}, this build {PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the older one",
                self.name, self.protocol_min, self.protocol_max
            )));
        }
        Ok(highest)
    }

    /// Checks what the peer says of itself against what its connection proves.
    pub(crate) fn check(
        &self,
        ours: Option<ClusterId>,
        identity: &Identity,
    ) -> Result<(), LinkError> {
        self.agree()?;
        if let (Some(ours), Some(theirs)) = (ours, self.cluster)
            && ours != theirs
        {
            return Err(LinkError::Refused(format!(
                "`{}` says it belongs to cluster {theirs}, this is cluster {ours}",
                self.name
            )));
        }
        let proven = match identity {
            Identity::Node(id) => Some(*id),
            _ => None,
        };
        if self.node != proven {
            return Err(LinkError::Refused(format!(
                "`{}` says it is another than its certificate names ({identity})",
                self.name
            )));
        }
        Ok(())
    }

    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let _ = frame::write(&mut out, header(OPENING, 0), None, |out| {
            codec::encode_into(self, out).map(drop)
        });
        out
    }
}

const fn header(id: u16, actor: u8) -> Header {
    Header { kind: Kind::Hello, id, version: 1, actor, correlation: 0, deadline_ms: 0 }
}

/// The frame that makes a fresh stream the lane of a class.
pub(crate) fn lane_frame(class: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame::HEADER);
    let _ = frame::write(&mut out, header(LANE, class), None, |_| Ok(()));
    out
}

/// The class a first frame makes its stream the lane of, if that is what it does.
pub(crate) fn lane_class(header: &Header) -> Option<usize> {
    (header.kind == Kind::Hello && header.id == LANE && header.actor < 3)
        .then_some(usize::from(header.actor))
}

/// Reads the peer's hello, or why it refuses ours.
pub(crate) async fn read_hello<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
) -> Result<Hello, LinkError> {
    reader.set_limit(HELLO_MAX);
    let (bytes, _) = reader
        .one(None)
        .await
        .map_err(|error| LinkError::Protocol(format!("no hello: {error}")))?
        .ok_or_else(|| LinkError::Refused("the peer closed instead of saying hello".into()))?;
    let protocol = |error: &dyn std::fmt::Display| LinkError::Protocol(format!("hello: {error}"));
    let mut at = 0;
    let (frame, body) = next_frame(&bytes, &mut at)
        .map_err(|error| protocol(&error))?
        .ok_or_else(|| protocol(&"empty"))?;
    match frame.header.kind {
        Kind::Hello if frame.header.id == OPENING => {
            let mut hello: Hello = codec::decode(&body).map_err(|error| protocol(&error))?;
            for text in [&mut hello.name, &mut hello.version] {
                *text = text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
            }
            Ok(hello)
        }
        Kind::Error => match codec::decode::<AskError>(&body) {
            Ok(error) => Err(LinkError::Refused(error.to_string())),
            Err(error) => Err(protocol(&error)),
        },
        kind => Err(protocol(&format!("a {kind:?} frame instead"))),
    }
}

/// Says why the peer's hello is refused.
pub(crate) async fn refuse_hello<W: AsyncWrite + Unpin>(writer: &mut W, error: &LinkError) {
    let mut out = Vec::new();
    if frame::write_error(&mut out, 0, &AskError::Denied(error.to_string())).is_ok() {
        let _ = writer.write_all(&out).await;
        let _ = writer.flush().await;
    }
}

/// Writes a hello.
pub(crate) async fn write_hello<W: AsyncWrite + Unpin>(
    writer: &mut W,
    hello: &Hello,
) -> Result<(), LinkError> {
    let written = async {
        writer.write_all(&hello.frame()).await?;
        writer.flush().await
    };
    written.await.map_err(|error| LinkError::Protocol(format!("cannot say hello: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn sample() -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 1,
            format_level: 1,
            cluster: Some(ClusterId::new(Uuid::from_u128(1))),
            node: Some(NodeId::new(Uuid::from_u128(2))),
            name: "n1".into(),
            version: "0.1.0".into(),
            wall: WallTime::from_micros(1_000_000),
            instance: 3,
            supersedes: 0,
        }
    }

    #[test]
    fn the_bytes_of_the_hello_are_pinned() {
        let expected: Vec<u8> = [
            &[71u8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 1, 1],
            &[1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[1, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            b"\x02n1",
            b"\x050.1.0",
            &[252, 128, 132, 30, 0],
            &[3, 0],
        ]
        .concat();
        assert_eq!(sample().frame(), expected);
        assert_eq!(lane_frame(1), [16, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[tokio::test]
    async fn a_hello_reads_back_with_its_texts_cut_and_cleaned() {
        let long = Hello { name: format!("\u{7}{}", "x".repeat(500)), ..sample() };
        let bytes = long.frame();
        let read = read_hello(&mut FrameReader::new(&bytes[..], 0)).await.expect("reads");
        assert_eq!(read.name, "x".repeat(128));
    }

    #[test]
    fn a_hello_that_does_not_fit_the_certificate_or_the_cluster_is_refused() {
        let cluster = Some(ClusterId::new(Uuid::from_u128(1)));
        let me = Identity::Node(NodeId::new(Uuid::from_u128(2)));
        assert_eq!(sample().check(cluster, &me), Ok(()));
        let other = Identity::Node(NodeId::new(Uuid::from_u128(9)));
        assert!(sample().check(cluster, &other).is_err());
        assert!(sample().check(Some(ClusterId::new(Uuid::from_u128(8))), &me).is_err());
        assert!(
            Hello { protocol_min: 2, protocol_max: 3, ..sample() }.check(cluster, &me).is_err()
        );
    }

    #[tokio::test]
    async fn a_refusal_instead_of_a_hello_is_told_word_for_word() {
        let mut out = Vec::new();
        refuse_hello(&mut out, &LinkError::Refused("no such cluster here".into())).await;
        let error = read_hello(&mut FrameReader::new(&out[..], 0)).await.expect_err("refused");
        assert!(error.to_string().contains("no such cluster here"), "{error}");
    }
}
