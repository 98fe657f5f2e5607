//! `session export` and `import`: sessions as the reference runtime keeps them. What is in the files
//! is the session actor's business; here they are only moved.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use weft_protocol::{ExportItem, ExportSession, IMPORT_MAX, ImportOutcome, ImportSession, Octets};
use weft_wire::Address;

use super::App;
use super::session::{Holders, NOBODY, missing, survey};
use crate::args::{SessionExport, SessionImport};
use crate::attach::Attached;
use crate::error::{CliError, Exit, Result, clean};
use crate::output::Table;

/// Layout of the reference's data directory that is written and read.
const VERSION: u64 = 3;
const VERSION_FILE: &str = "storage_version.json";
const SESSIONS: &str = "sessions";
const LOG: &str = "log.jsonl";
const SNAPSHOT: &str = "session.json";
const RECEIPT: &str = "receipt.json";
/// What is being written is here, where the reference does not look for sessions.
const STAGE: &str = ".weft-export";

/// What became of a session. Field names are promises.
#[derive(Debug, Serialize)]
struct Moved {
    id: String,
    /// `exported`, `imported`, `sound`, `skipped` or `failed`.
    result: &'static str,
    messages: Option<u64>,
    state: Option<&'static str>,
    reason: Option<String>,
    notes: Vec<String>,
}

impl Moved {
    fn new(id: &str, result: &'static str) -> Self {
        let (messages, state, reason) = (None, None, None);
        Self { id: id.to_owned(), result, messages, state, reason, notes: Vec::new() }
    }

    fn because(id: &str, result: &'static str, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::new(id, result) }
    }
}

/// Prints what became of all; the exit code is that of the worst, partial if others went well.
fn report(app: &App, moved: &[Moved]) -> Result<Exit> {
    #[derive(Serialize)]
    struct View<'a> {
        done: usize,
        skipped: usize,
        failed: usize,
        sessions: &'a [Moved],
    }
    let count = |result: &str| moved.iter().filter(|one| one.result == result).count();
    let (skipped, failed) = (count("skipped"), count("failed"));
    let done = moved.len() - skipped - failed;
    if app.output.json {
        app.output.document(&View { done, skipped, failed, sessions: moved })?;
    } else if !moved.is_empty() {
        let mut table = Table::new(["SESSION", "RESULT", "STATE", "MESSAGES", "WHY"]);
        for one in moved {
            let why = one.reason.iter().chain(&one.notes).map(String::as_str);
            table.row([
                one.id.clone(),
                one.result.to_owned(),
                one.state.unwrap_or_default().to_owned(),
                one.messages.map(|n| n.to_string()).unwrap_or_default(),
                why.collect::<Vec<_>>().join("; "),
            ]);
        }
        table.drop_last_if_empty();
        app.output.line(table)?;
    }
    app.output.progress(format!("{done} done, {skipped} skipped, {failed} failed"));
    Ok(match (failed, done + skipped) {
        (0, _) => Exit::Ok,
        (_, 0) => Exit::Failed,
        _ => Exit::Partial,
    })
}

pub(crate) async fn export(app: &App, args: &SessionExport) -> Result<Exit> {
    let attached = app.attach().await?;
    let holders = Holders::find(app, &attached).await;
    let all = survey(&holders, &[], "").await?;
    let ids: Vec<&String> = if args.all { all.keys().collect() } else { args.ids.iter().collect() };
    let dir = Directory::make(&args.out)?;
    let mut moved = Vec::new();
    for id in ids {
        let done = match all.get(id) {
            None => Moved::because(id, "failed", "there is no such session"),
            Some(_) if !is_name(id) => Moved::because(id, "failed", "its id is no name of a file"),
            Some((at, row)) => {
                let one = one(app, &attached, at, id, &dir).await?;
                Moved { state: Some(row.session.state.as_str()), ..one }
            }
        };
        moved.push(done);
    }
    dir.done()?;
    report(app, &moved)
}

/// Whether it names one file, beneath whatever it is put. Ids of sessions do (§7).
fn is_name(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The reference's data directory, being written.
struct Directory {
    out: PathBuf,
    stage: PathBuf,
}

impl Directory {
    fn make(out: &Path) -> Result<Self> {
        let sessions = out.join(SESSIONS);
        fs::create_dir_all(&sessions).map_err(|e| CliError::io("make", &sessions, &e))?;
        let version = out.join(VERSION_FILE);
        match version_of(out)? {
            None => {
                let text = format!("{{\n  \"version\": {VERSION}\n}}");
                write(&version, text.as_bytes())?;
            }
            Some(VERSION) => {}
            Some(other) => return Err(wrong_version(out, other)),
        }
        let stage = out.join(STAGE);
        // What an export that was killed left.
        if stage.exists() {
            fs::remove_dir_all(&stage).map_err(|e| CliError::io("remove", &stage, &e))?;
        }
        fs::create_dir(&stage).map_err(|e| CliError::io("make", &stage, &e))?;
        Ok(Self { out: out.to_owned(), stage })
    }

    fn done(&self) -> Result<()> {
        fs::remove_dir_all(&self.stage).map_err(|e| CliError::io("remove", &self.stage, &e))
    }
}

/// `None`: it does not say.
fn version_of(dir: &Path) -> Result<Option<u64>> {
    let path = dir.join(VERSION_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CliError::io("read", &path, &error)),
    };
    let value: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let version = value.and_then(|value| value.get("version")?.as_u64());
    version.map(Some).ok_or_else(|| {
        CliError::failed(format!("{} says no version", path.display()))
            .help("expected {\"version\": 3}, as the reference runtime writes it")
    })
}

fn wrong_version(dir: &Path, version: u64) -> CliError {
    CliError::failed(format!(
        "{} has layout {version} of the reference runtime, this command knows {VERSION}",
        dir.display()
    ))
    .help("start reference runtime 0.13.0 on it once: it brings older layouts up to date")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|e| CliError::io("write", path, &e))
}

/// Writes one session, whole or not at all.
async fn one(
    app: &App,
    attached: &Attached,
    at: &Address,
    id: &str,
    dir: &Directory,
) -> Result<Moved> {
    let place = dir.out.join(SESSIONS).join(id);
    if place.exists() {
        return Ok(Moved::because(id, "skipped", "it is in that directory already"));
    }
    let stage = dir.stage.join(id);
    fs::create_dir(&stage).map_err(|e| CliError::io("make", &stage, &e))?;
    let path = stage.join(LOG);
    let mut log = File::create(&path).map_err(|e| CliError::io("write", &path, &e))?;
    let message = ExportSession { session_id: id.to_owned() };
    let mut items = attached.subscribe(at.clone(), message, app.question()).await?;
    let mut moved = Moved::new(id, "exported");
    loop {
        match attached.next(&mut items, true, app.question()).await? {
            Some(ExportItem::Piece(piece)) => {
                log.write_all(&piece.0).map_err(|e| CliError::io("write", &path, &e))?;
            }
            Some(ExportItem::Receipt(json)) => write(&stage.join(RECEIPT), json.as_bytes())?,
            Some(ExportItem::Note(note)) => moved.notes.push(clean(&note)),
            Some(ExportItem::Whole { messages }) => {
                moved.messages = Some(messages);
                break;
            }
            Some(ExportItem::Missing) => return Err(missing(id)),
            None => {
                let text = format!("the export of session {id} broke off");
                return Err(CliError::failed(text).help("try it again"));
            }
        }
    }
    log.sync_all().map_err(|e| CliError::io("write", &path, &e))?;
    drop(log);
    fs::rename(&stage, &place).map_err(|e| CliError::io("make", &place, &e))?;
    Ok(moved)
}

pub(crate) async fn import(app: &App, args: &SessionImport) -> Result<Exit> {
    let ids = sessions_of(&args.dir)?;
    let attached = app.attach().await?;
    let holders = Holders::find(app, &attached).await;
    let mut moved: Vec<Moved> = Vec::new();
    let mut stopped = None;
    for id in ids {
        if let Some(why) = &stopped {
            moved.push(Moved::because(&id, "failed", format!("not tried: {why}")));
            continue;
        }
        let one = match message(&args.dir, &id, args.dry_run) {
            Ok(message) => holders.leader(&message).await.map(|outcome| became(&id, outcome, args)),
            Err(why) => Ok(Moved::because(&id, "failed", why)),
        };
        match one {
            Ok(one) => moved.push(one),
            // Whoever was asked could not be: the next one could not either.
            Err(error) if error.exit != Exit::Failed || error.code == NOBODY => {
                if moved.is_empty() {
                    return Err(error);
                }
                moved.push(Moved::because(&id, "failed", error.failure.message.clone()));
                stopped = Some(error.failure.message);
            }
            Err(error) => moved.push(Moved::because(&id, "failed", why(&error))),
        }
    }
    report(app, &moved)
}

fn why(error: &CliError) -> String {
    match error.failure.cause.as_str() {
        "" => error.failure.message.clone(),
        cause => format!("{}: {cause}", error.failure.message),
    }
}

fn became(id: &str, outcome: ImportOutcome, args: &SessionImport) -> Moved {
    match outcome {
        ImportOutcome::Imported { state, messages, notes } => Moved {
            state: Some(state.as_str()),
            messages: Some(messages),
            notes: notes.iter().map(|note| clean(note)).collect(),
            ..Moved::new(id, if args.dry_run { "sound" } else { "imported" })
        },
        ImportOutcome::Present { state, messages } => Moved {
            state: Some(state.as_str()),
            messages: Some(messages),
            ..Moved::because(id, "skipped", "it is here already")
        },
        ImportOutcome::Refused(why) => Moved::because(id, "failed", clean(&why)),
    }
}

/// The names of its sessions' directories, in order.
fn sessions_of(dir: &Path) -> Result<Vec<String>> {
    let sessions = dir.join(SESSIONS);
    let entries = fs::read_dir(&sessions).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            CliError::usage(format!("{} has no directory `{SESSIONS}`", dir.display())).help(
                "name the MACP_DATA_DIR of the reference runtime; data of versions that had \
                 sessions.json instead is brought up to date by starting 0.13.0 on it once",
            )
        }
        _ => CliError::io("read", &sessions, &error),
    })?;
    if let Some(version) = version_of(dir)?.filter(|version| *version > VERSION) {
        return Err(wrong_version(dir, version));
    }
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| CliError::io("read", &sessions, &e))?;
        if entry.path().is_dir() {
            ids.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// The files of one session, or why they cannot be sent.
fn message(dir: &Path, id: &str, check: bool) -> Result<ImportSession, String> {
    let place = dir.join(SESSIONS).join(id);
    let mut left = IMPORT_MAX;
    let mut read = |name: &str| {
        let path = place.join(name);
        let size = match fs::metadata(&path) {
            Ok(meta) => usize::try_from(meta.len()).unwrap_or(usize::MAX),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {name}: {error}")),
        };
        left = left.checked_sub(size).ok_or_else(|| {
            format!(
                "its files have more than {} MiB, which is the most that is taken",
                IMPORT_MAX >> 20
            )
        })?;
        let bytes = fs::read(&path).map_err(|error| format!("cannot read {name}: {error}"))?;
        Ok(Some(Octets(bytes)))
    };
    let log = read(LOG)?.ok_or_else(|| format!("it has no {LOG}"))?;
    let snapshot = read(SNAPSHOT)?.unwrap_or_default();
    let receipt = read(RECEIPT)?.unwrap_or_default();
    Ok(ImportSession { session_id: id.to_owned(), log, snapshot, receipt, check })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_none_of_the_reference_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = sessions_of(dir.path()).expect_err("there is nothing");
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.to_string().contains("MACP_DATA_DIR"), "{error}");
        fs::create_dir_all(dir.path().join("sessions/b")).expect("makes");
        fs::create_dir_all(dir.path().join("sessions/a")).expect("makes");
        fs::write(dir.path().join("sessions/file"), "").expect("writes");
        assert_eq!(sessions_of(dir.path()).expect("a directory"), ["a", "b"]);
        for (text, says) in [("{\"version\": 4}", "layout 4"), ("nonsense", "no version")] {
            fs::write(dir.path().join(VERSION_FILE), text).expect("writes");
            let error = sessions_of(dir.path()).expect_err(says);
            assert!(error.to_string().contains(says), "{error}");
        }
        let export = Directory::make(dir.path()).err().expect("it is another's");
        assert!(export.to_string().contains("no version"), "{export}");
    }

    #[test]
    fn files_that_are_missing_or_too_large_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("sessions/s");
        fs::create_dir_all(&place).expect("makes");
        let error = message(dir.path(), "s", true).expect_err("no log");
        assert!(error.contains(LOG), "{error}");
        fs::write(place.join(LOG), "x").expect("writes");
        let sent = message(dir.path(), "s", true).expect("is there");
        assert_eq!((sent.log.0.as_slice(), sent.snapshot.0.len()), (b"x".as_slice(), 0));
        let large = File::create(place.join(SNAPSHOT)).expect("makes");
        large.set_len(IMPORT_MAX as u64).expect("grows");
        let error = message(dir.path(), "s", true).expect_err("too large");
        assert!(error.contains("15 MiB"), "{error}");
    }

    #[test]
    fn the_exit_code_tells_all_from_some_from_none() {
        let app = App {
            global: crate::args::Global::default(),
            output: crate::output::Output::new(&crate::args::Global::default()).without_results(),
            env: crate::paths::Env::default(),
        };
        let of = |results: &[&'static str]| {
            let moved: Vec<Moved> = results.iter().map(|result| Moved::new("s", result)).collect();
            report(&app, &moved).expect("prints")
        };
        assert_eq!(of(&[]), Exit::Ok);
        assert_eq!(of(&["imported", "skipped"]), Exit::Ok);
        assert_eq!(of(&["imported", "failed"]), Exit::Partial);
        assert_eq!(of(&["skipped", "failed"]), Exit::Partial);
        assert_eq!(of(&["failed", "failed"]), Exit::Failed);
    }
}
