//! `push` and `pull` (orchestration §11).

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use weft_protocol::{
    FILE_MAX, Octets, PullFile, PulledFile, PushFile, PushedFile, PushedReplica, file_parts,
};
use weft_wire::{ActorKind, Address};

use super::App;
use crate::args::{Pull, Push};
use crate::error::{CliError, Exit, Result, clean};
use crate::output::progress::{Progress, size};

/// A file of some MiB may be on its way so long.
const WITHIN: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct PushView<'a> {
    bytes: u64,
    service: &'a str,
    path: &'a str,
    replicas: Vec<ReplicaView<'a>>,
}

#[derive(Serialize)]
struct ReplicaView<'a> {
    replica: u32,
    node: &'a str,
    ok: bool,
    error: Option<String>,
}

#[derive(Serialize)]
struct PullView<'a> {
    bytes: u64,
    service: &'a str,
    path: &'a str,
    replica: u32,
    node: &'a str,
    mode: String,
    local: String,
}

/// What is to be pushed.
struct Local {
    mode: Option<u32>,
    bytes: Vec<u8>,
}

pub(crate) async fn push(app: &App, args: &Push) -> Result<Exit> {
    let path = match &args.path {
        Some(path) if !path.is_empty() => path.clone(),
        _ => basename(&args.local)?,
    };
    file_parts(&path).map_err(|why| CliError::usage(why).service(&args.service))?;
    let local = read(&args.local)?;
    let bytes = local.bytes.len() as u64;
    let attached = app.attach().await?;
    let message = PushFile {
        service: args.service.clone(),
        replica: args.replica.unwrap_or(0),
        path: path.clone(),
        mode: local.mode,
        size: bytes,
        content: if args.dry_run { Octets::default() } else { Octets(local.bytes) },
        check: args.dry_run,
    };
    let within = app.global.timeout.unwrap_or(WITHIN);
    let mut progress = Progress::new(&app.output, format!("push {path}"), bytes);
    let pushed = attached.ask(Address::here(ActorKind::Gateway), message, within).await?;
    progress.add(bytes);
    drop(progress);
    let service = &args.service;
    let what = format!("{bytes} bytes -> {service}:{}", clean(&path));
    if args.dry_run {
        verdict(service, &pushed)?;
        let places: Vec<String> = pushed.replicas.iter().map(place).collect();
        app.output.would(format!("push {what}  [{}]", places.join("; ")))?;
        return Ok(Exit::Ok);
    }
    let good = pushed.replicas.iter().filter(|replica| replica.error.is_none()).count();
    if app.output.json {
        let replicas = pushed.replicas.iter().map(|replica| ReplicaView {
            replica: replica.replica,
            node: &replica.node,
            ok: replica.error.is_none(),
            error: replica.error.as_ref().map(ToString::to_string),
        });
        let view = PushView { bytes, service, path: &path, replicas: replicas.collect() };
        app.output.document(&view)?;
    } else {
        if good > 0 {
            app.output.line(&what)?;
        }
        if pushed.replicas.len() > 1 {
            for replica in &pushed.replicas {
                let outcome = replica.error.as_ref().map_or("ok".into(), ToString::to_string);
                app.output.line(clean(&format!("  {outcome}  [{}]", place(replica))))?;
            }
        }
    }
    verdict(service, &pushed)?;
    Ok(Exit::Ok)
}

fn place(replica: &PushedReplica) -> String {
    format!("node {}, replica {}", replica.node, replica.replica)
}

/// # Errors
/// As the first refusal says where no replica took it; exit 6 where some did.
fn verdict(service: &str, pushed: &PushedFile) -> Result<()> {
    let all = pushed.replicas.len();
    let failed: Vec<_> =
        pushed.replicas.iter().filter_map(|r| Some((r, r.error.as_ref()?))).collect();
    let Some((replica, first)) = failed.first() else { return Ok(()) };
    if failed.len() == all {
        return Err(CliError::from_failure((*first).clone()));
    }
    let text = format!("push to {service}: {} of {all} replicas did not take it", failed.len());
    Err(CliError::new(Exit::Partial, "partial", text)
        .service(service)
        .node(&replica.node)
        .cause(first)
        .help("the others have it: push again once that is mended"))
}

fn basename(local: &Path) -> Result<String> {
    let name = local.file_name().filter(|_| local != Path::new("-"));
    let name = name.ok_or_else(|| {
        CliError::usage("say where to push it").help("such as: weft push - web conf/app.toml")
    })?;
    let name = name.to_str().ok_or_else(|| {
        CliError::usage(format!("{}: its name is not UTF-8", local.display()))
            .help("say where to push it, as the third argument")
    })?;
    Ok(name.to_owned())
}

/// Reads the file, unless it is too large.
fn read(local: &Path) -> Result<Local> {
    let (mode, known, source): (_, _, Box<dyn Read>) = if local == Path::new("-") {
        (None, 0, Box::new(std::io::stdin().lock()))
    } else {
        let meta = std::fs::metadata(local).map_err(|error| CliError::io("read", local, &error))?;
        if !meta.is_file() {
            return Err(CliError::usage(format!("{} is not a file", local.display()))
                .help("push one file at a time"));
        }
        too_large(local, meta.len())?;
        let file =
            std::fs::File::open(local).map_err(|error| CliError::io("read", local, &error))?;
        (Some(meta.permissions().mode() & 0o777), meta.len(), Box::new(file))
    };
    let mut bytes = Vec::with_capacity(usize::try_from(known).unwrap_or(0));
    let read = source.take(FILE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::io("read", local, &error))?;
    too_large(local, bytes.len() as u64)?;
    Ok(Local { mode, bytes })
}

fn too_large(local: &Path, bytes: u64) -> Result<()> {
    if bytes <= FILE_MAX {
        return Ok(());
    }
    let text = format!("{} is larger than {}", local.display(), size(FILE_MAX));
    Err(CliError::usage(text)
        .help("larger files come with the definition: list them in `files` and deploy"))
}

pub(crate) async fn pull(app: &App, args: &Pull) -> Result<Exit> {
    let name = file_parts(&args.path)
        .map_err(|why| CliError::usage(why).service(&args.service))?
        .pop()
        .unwrap_or_default()
        .to_owned();
    let to_stdout = args.local.as_deref() == Some(Path::new("-"));
    let local = match &args.local {
        _ if to_stdout => PathBuf::from("-"),
        Some(local) if local.is_dir() => local.join(&name),
        Some(local) => local.clone(),
        None => PathBuf::from(&name),
    };
    let attached = app.attach().await?;
    let message = PullFile {
        service: args.service.clone(),
        replica: args.replica.unwrap_or(0),
        path: args.path.clone(),
    };
    let within = app.global.timeout.unwrap_or(WITHIN);
    let pulled = attached.ask(Address::here(ActorKind::Gateway), message, within).await?;
    let PulledFile { replica, node, file } = pulled;
    let bytes = file.content.0.len() as u64;
    if to_stdout {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(&file.content.0).and_then(|()| out.flush());
        written.map_err(|error| CliError::io("write", Path::new("standard output"), &error))?;
        return Ok(Exit::Ok);
    }
    write(&local, file.mode, &file.content.0)?;
    let (service, path) = (&args.service, &args.path);
    let shown = local.display().to_string();
    let text = clean(&format!("{bytes} bytes -> {shown}"));
    let mode = format!("{:04o}", file.mode);
    let view = PullView { bytes, service, path, replica, node: &node, mode, local: shown };
    app.output.result(&view, text)?;
    Ok(Exit::Ok)
}

/// Replaces the local file whole.
fn write(local: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let failed = |error: &std::io::Error| CliError::io("write", local, error);
    let dir = match local.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".weft-pull-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(|error| failed(&error))?;
    file.write_all(bytes).map_err(|error| failed(&error))?;
    let permissions = std::fs::Permissions::from_mode(mode & 0o777);
    file.as_file().set_permissions(permissions).map_err(|error| failed(&error))?;
    file.persist(local).map_err(|error| failed(&error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::{Failure, FailureKind};

    fn replica(number: u32, error: Option<FailureKind>) -> PushedReplica {
        PushedReplica {
            replica: number,
            node: format!("n{number}"),
            error: error.map(|kind| Failure::new(kind, "no")),
        }
    }

    fn exit(replicas: Vec<PushedReplica>) -> Exit {
        verdict("web", &PushedFile { replicas }).map_or_else(|error| error.exit, |()| Exit::Ok)
    }

    #[test]
    fn some_replicas_are_partial_and_none_is_what_the_first_says() {
        let forbidden = Some(FailureKind::Forbidden);
        assert_eq!(exit(vec![replica(1, None), replica(2, None)]), Exit::Ok);
        assert_eq!(exit(vec![replica(1, None), replica(2, forbidden)]), Exit::Partial);
        assert_eq!(exit(vec![replica(1, forbidden), replica(2, forbidden)]), Exit::NotAllowed);
        assert_eq!(exit(vec![replica(1, Some(FailureKind::Invalid))]), Exit::Usage);
    }

    #[test]
    fn a_path_left_out_on_push_is_the_name_of_the_local_file() {
        assert_eq!(basename(Path::new("conf/app.toml")), Ok("app.toml".into()));
        assert_eq!(basename(Path::new("-")).expect_err("refused").exit, Exit::Usage);
        assert_eq!(basename(Path::new("..")).expect_err("refused").exit, Exit::Usage);
    }

    #[test]
    fn a_file_over_the_limit_is_refused_unread_and_a_directory_always() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("large");
        std::fs::File::create(&file).expect("makes").set_len(1 << 40).expect("sparse");
        assert_eq!(read(&file).map(drop).expect_err("refused").exit, Exit::Usage);
        assert_eq!(read(dir.path()).map(drop).expect_err("refused").exit, Exit::Usage);
    }

    #[test]
    fn a_pulled_file_has_the_content_and_the_mode_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("a");
        std::fs::write(&file, "old and longer").expect("writes");
        write(&file, 0o4640, b"new").expect("writes");
        let meta = std::fs::metadata(&file).expect("is there");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::fs::read(&file).expect("reads"), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1);
    }
}
