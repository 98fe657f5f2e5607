//! The local door: people of this machine, through a Unix socket, known by their credentials.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use weft_wire::Identity;
use weft_wire::frame::{self, Kind};

use crate::LinkError;
use crate::door::Source;
use crate::fabric::Inner;
use crate::hello::{read_hello, refuse_hello, write_hello};
use crate::reader::{FrameReader, ReadError, next_frame};
use crate::requester::InFlight;
use crate::serve::{Answers, serve_lane, serve_subscription};

/// Longest path a socket address can hold, in bytes; longer ones go through their directory.
const SUN_PATH_MAX: usize = 107;
/// Connections served at once.
const CONNECTIONS: usize = 256;

/// Who may use the local socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalConfig {
    /// Group id whose members are let in too (mode 0660); `None`: only the daemon's own user and
    /// root (mode 0600).
    pub group: Option<u32>,
}

/// Calls `use_path` with a path short enough for a socket address.
fn with_short_path<T>(path: &Path, use_path: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= SUN_PATH_MAX {
        return use_path(path);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("not the path of a file"));
    };
    let directory = fs::File::open(parent)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    use_path(&short)
}

/// Connects to a daemon's socket.
pub(crate) async fn connect(path: &Path) -> Result<UnixStream, LinkError> {
    let stream = with_short_path(path, |short| StdStream::connect(short)).and_then(|stream| {
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    });
    stream.map_err(|error| {
        LinkError::socket(
            path,
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "no daemon listens there: start it with `weftd run`, or name another node"
                        .to_owned()
                }
                io::ErrorKind::PermissionDenied => {
                    "this user may not use it: run as the daemon's user, or join its `[local] socket_group`".to_owned()
                }
                _ => error.to_string(),
            },
        )
    })
}

/// Removes a socket nobody listens on; refuses everything else that is in the way.
fn clear(path: &Path) -> Result<(), LinkError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LinkError::socket(path, error)),
    };
    if !found.file_type().is_socket() {
        return Err(LinkError::socket(path, "something that is not a socket is in the way"));
    }
    match with_short_path(path, |short| StdStream::connect(short)) {
        Ok(_) => Err(LinkError::SocketInUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| LinkError::socket(path, error))
        }
        Err(error) => Err(LinkError::socket(path, error)),
    }
}

/// Binds and serves until the fabric closes.
pub(crate) fn listen(
    inner: &Arc<Inner>,
    path: PathBuf,
    config: LocalConfig,
) -> Result<(), LinkError> {
    let _runtime = tokio::runtime::Handle::try_current()
        .map_err(|_| LinkError::State("listening needs a runtime"))?;
    clear(&path)?;
    let failed = |error: io::Error| LinkError::socket(&path, error);
    let listener = with_short_path(&path, |short| StdListener::bind(short)).map_err(failed)?;
    let own = fs::metadata(&path).map_err(failed)?.uid();
    if let Some(group) = config.group {
        chown(&path, None, Some(group)).map_err(failed)?;
    }
    let mode = if config.group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    inner.add_socket(path);
    let closing = inner.peers.closing.clone();
    let accepting = accept(Arc::downgrade(inner), listener, own, config.group.is_some());
    tokio::spawn(async move {
        tokio::select! {
            () = accepting => {}
            () = closing.cancelled() => {}
        }
    });
    Ok(())
}

async fn accept(inner: Weak<Inner>, listener: UnixListener, own: u32, group: bool) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: later is better.
                tracing::warn!(target: "weft::link", %error, "local socket: cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(inner) = inner.upgrade() else { return };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        tokio::spawn(async move {
            let closing = inner.peers.closing.clone();
            tokio::select! {
                served = serve(&inner, stream, own, group) => if let Err(error) = served {
                    tracing::warn!(target: "weft::link", %error, "local connection ended");
                },
                () = closing.cancelled() => {}
            }
            drop(place);
        });
    }
}

/// Serves one connection of a person: a hello, then either requests or one subscription.
async fn serve(
    inner: &Arc<Inner>,
    stream: UnixStream,
    own: u32,
    group: bool,
) -> Result<(), LinkError> {
    let credentials = stream
        .peer_cred()
        .map_err(|error| LinkError::Refused(format!("no credentials: {error}")))?;
    let uid = credentials.uid();
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    let (read, mut write) = stream.into_split();
    // With a group, the socket's mode has let only its members get here.
    if !(group || uid == own || uid == 0) {
        let error = LinkError::Refused(format!("uid {uid} may not use this socket"));
        refuse_hello(&mut write, &error).await;
        return Err(error);
    }
    let identity = Identity::Local { uid, pid };
    let mut reader = FrameReader::new(read, 0);
    let greeting = async {
        let hello = read_hello(&mut reader).await?;
        if let Err(error) = hello.check(Some(inner.cluster), &identity) {
            refuse_hello(&mut write, &error).await;
            return Err(error);
        }
        write_hello(&mut write, &inner.hello(0)).await
    };
    let within = inner.limits.handshake;
    tokio::time::timeout(within, greeting).await.unwrap_or_else(|_| {
        Err(LinkError::NoAnswer("a local client".into(), within.as_millis()))
    })?;
    let source = Source::new(identity);
    reader.set_limit(frame::FRAME_MAX);
    let served: Result<(), ReadError> = async {
        let Some((first, _)) = reader.one(None).await? else { return Ok(()) };
        let kind = next_frame(&first, &mut 0)?.map(|(frame, _)| frame.header.kind);
        if kind == Some(Kind::Subscribe) {
            return serve_subscription(inner, &source, &first, reader, write).await;
        }
        reader.put_back(&first);
        let serving = Arc::new(InFlight::new(inner.limits.in_flight));
        serve_lane(inner, &source, reader, write, Answers::new(inner, serving, None)).await
    }
    .await;
    match served {
        Err(ReadError::Lie(what)) => Err(LinkError::Protocol(what)),
        // A client that just goes away is no news.
        _ => Ok(()),
    }
}
