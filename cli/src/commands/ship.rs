//! Shipping the files of a definition: read and hashed where it lies, sent to the attached node as
//! far as the cluster lacks them (docs/decisions/0017).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA256};
use weft_protocol::{
    BLOB_PART, BlobProgress, FindBlobs, Octets, PutBlobPart, ServiceSpec, ShippedFile,
    check_shipped,
};
use weft_wire::{ActorKind, Address};

use crate::attach::Attached;
use crate::error::{CliError, Result};
use crate::output::Output;
use crate::output::progress::{Progress, size};

/// A node may take so long for one part.
const PART_WITHIN: Duration = Duration::from_secs(30);
/// And to ask the others what they have.
const FIND_WITHIN: Duration = Duration::from_secs(10);

/// Fills in mode, size and digest of each file; where each lies.
///
/// # Errors
/// Exit 2: one is not there, not a file, or too large.
pub(crate) fn read(spec: &mut ServiceSpec, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for file in &mut spec.files {
        let source = dir.join(&file.path);
        let hashed = hash(&source).map_err(|error| {
            CliError::usage(format!("`files`: {} cannot be shipped", file.path))
                .cause(format!("{}: {error}", source.display()))
                .help(
                    "paths in `files` are relative to the definition; name files, not directories",
                )
                .service(&spec.name)
        })?;
        *file = ShippedFile { path: file.path.clone(), ..hashed };
        sources.push(source);
    }
    check_shipped(&spec.files).map_err(|why| CliError::usage(why).service(&spec.name))?;
    Ok(sources)
}

/// The definition as its text has it: files by their names alone.
pub(crate) fn named(spec: &ServiceSpec) -> ServiceSpec {
    let files = spec.files.iter().map(|file| ShippedFile::named(&file.path)).collect();
    ServiceSpec { files, ..spec.clone() }
}

fn hash(source: &Path) -> std::io::Result<ShippedFile> {
    // A directory or a fifo is not opened.
    if !std::fs::metadata(source)?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut file = File::open(source)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; BLOB_PART];
    let mut size = 0;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(buffer.get(..read).unwrap_or_default());
        size += read as u64;
    }
    let digest = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(ShippedFile { path: String::new(), mode, size, digest })
}

/// Sends what no node has to the attached one. `sources`: where each file of the definition lies.
///
/// # Errors
/// What the node says; that a file changed since it was read.
pub(crate) async fn upload(
    attached: &Attached,
    output: &Output,
    spec: &ServiceSpec,
    sources: &[PathBuf],
) -> Result<()> {
    if sources.is_empty() {
        return Ok(());
    }
    let digests: BTreeSet<String> = spec.files.iter().map(|file| file.digest.clone()).collect();
    let question = FindBlobs { digests: digests.into_iter().collect() };
    let lacking = attached.ask(Address::here(ActorKind::Gateway), question, FIND_WITHIN).await?;
    let mut lacking: BTreeSet<String> = lacking.into_iter().collect();
    for (file, source) in spec.files.iter().zip(sources) {
        // Two files may have the same content.
        if lacking.remove(&file.digest) {
            output.progress(format!("  ships {} ({})", file.path, size(file.size)));
            one(attached, output, file, source).await?;
        }
    }
    Ok(())
}

async fn one(
    attached: &Attached,
    output: &Output,
    file: &ShippedFile,
    source: &Path,
) -> Result<()> {
    let failed = |error: &std::io::Error| CliError::io("read", source, error);
    let open = File::open(source).map_err(|error| failed(&error))?;
    let mut line = Progress::new(output, format!("ship {}", file.path), file.size);
    let mut offset = 0;
    loop {
        let left = file.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(BLOB_PART).min(BLOB_PART);
        let mut part = vec![0; length];
        open.read_exact_at(&mut part, offset).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                changed(source)
            } else {
                failed(&error)
            }
        })?;
        let message = PutBlobPart {
            digest: file.digest.clone(),
            size: file.size,
            offset,
            part: Octets(part),
        };
        let to = Address::here(ActorKind::Runtime);
        let BlobProgress { received, complete } =
            attached.ask(to, message, PART_WITHIN).await.map_err(|mut error| {
                if error.failure.help.is_empty() {
                    error.failure.help = "nothing was changed: deploy again".into();
                }
                error.step(format!("ship {}", file.path))
            })?;
        line.add(received.saturating_sub(offset));
        if complete {
            return Ok(());
        }
        // Whoever else uploads the same may be ahead; a node that lost the upload begins anew.
        offset = received.min(file.size);
    }
}

fn changed(source: &Path) -> CliError {
    CliError::failed(format!("{} changed while it was read", source.display()))
        .help("nothing was changed: deploy again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn spec(files: &[&str]) -> ServiceSpec {
        let parsed = weft_config::service::parse(
            "name = \"web\"\n\n[[components]]\nname = \"web\"\ncmd = [\"./hello\"]\n",
            "web.toml",
        );
        let mut spec = parsed.expect("parses").spec;
        spec.files = files.iter().map(|path| ShippedFile::named(*path)).collect();
        spec
    }

    #[test]
    fn a_file_is_known_by_its_content_size_and_permission_bits() {
        let dir = tempfile::tempdir().expect("temp dir");
        let hello = dir.path().join("hello");
        std::fs::write(&hello, "abc").expect("writes");
        let bits = std::fs::Permissions::from_mode(0o4755);
        std::fs::set_permissions(&hello, bits).expect("sets");
        let mut spec = spec(&["./hello"]);
        assert_eq!(read(&mut spec, dir.path()).expect("reads"), [dir.path().join("./hello")]);
        let expected = ShippedFile {
            path: "./hello".into(),
            mode: 0o755,
            size: 3,
            digest: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
        };
        assert_eq!(spec.files, [expected]);
    }

    #[test]
    fn what_is_not_a_file_or_is_there_twice_is_refused_before_anything_is_sent() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("a"), "x").expect("writes");
        std::fs::create_dir(dir.path().join("d")).expect("makes");
        for files in [&["missing"][..], &["d"], &["a", "./a"]] {
            let error = read(&mut spec(files), dir.path()).expect_err("refused");
            assert_eq!(error.exit, Exit::Usage, "{error}");
        }
    }
}
