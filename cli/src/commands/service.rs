//! `service show`, `export` and `edit`: definitions back out of the cluster (orchestration §3.5, §7).

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use weft_config::service::{parse, to_toml};
use weft_protocol::{ServiceRecord, ServiceSpec};

use super::definition::{invalid, resolve_programs};
use super::{App, agreed, ship};
use crate::args::{Edit, Export, Service, ServiceVerb, ShowDefinition};
use crate::context::services_dir;
use crate::error::{CliError, Exit, Result, clean};
use crate::paths::{absolute, make_private_dir, write_file};

pub(crate) async fn run(app: &App, args: &Service) -> Result<Exit> {
    match &args.verb {
        ServiceVerb::Show(args) => show(app, args).await,
        ServiceVerb::Export(args) => export(app, args).await,
        ServiceVerb::Edit(args) => edit(app, args).await,
    }
}

/// The service as the attached node has it.
async fn record(app: &App, service: &str) -> Result<ServiceRecord> {
    let attached = app.attach().await?;
    let state = agreed::state(app, &attached, false).await?;
    state.service(service).cloned().ok_or_else(|| {
        let mut names: Vec<&str> = state.services.iter().map(|s| s.name.as_str()).collect();
        names.sort_unstable();
        let help = match names.is_empty() {
            true => "no service has been deployed".to_owned(),
            false => format!("its services are: {}", names.join(", ")),
        };
        CliError::new(
            Exit::Failed,
            "not-found",
            format!("the cluster has no definition of service `{service}`"),
        )
        .service(service)
        .help(help)
    })
}

async fn show(app: &App, args: &ShowDefinition) -> Result<Exit> {
    #[derive(Serialize)]
    struct View {
        service: String,
        revision: u64,
        deployed: bool,
        definition: String,
    }
    let record = record(app, &args.service).await?;
    let definition = to_toml(&record.spec);
    let view = View {
        service: record.name,
        revision: record.revision,
        deployed: !record.undeployed,
        definition: definition.clone(),
    };
    // The line's own end is the text's last one: the same bytes as `export` writes.
    app.output.result(&view, definition.strip_suffix('\n').unwrap_or(&definition))?;
    Ok(Exit::Ok)
}

async fn export(app: &App, args: &Export) -> Result<Exit> {
    let path = match &args.file {
        Some(file) => absolute(file)?,
        None => file_of(app, &args.service)?,
    };
    let record = record(app, &args.service).await?;
    export_to(app, &path, &record.spec)?;
    Ok(Exit::Ok)
}

/// Where the definition of a service lies, or would.
fn file_of(app: &App, service: &str) -> Result<PathBuf> {
    absolute(&services_dir(&app.global, &app.env)?.join(format!("{service}.toml")))
}

fn export_to(app: &App, path: &Path, spec: &ServiceSpec) -> Result<()> {
    #[derive(Serialize)]
    struct View {
        file: String,
        changed: bool,
    }
    let shown = path.display().to_string();
    let there = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(CliError::io("read", path, &error)),
    };
    let same = there.as_deref().is_some_and(|text| says(text, path) == Some(ship::named(spec)));
    let view = View { file: shown.clone(), changed: !same };
    if same {
        // Its comments and its order are worth more than ours.
        app.output.progress(format!("{shown} says the same already"));
        return app.output.result(&view, shown);
    }
    if there.is_some() {
        app.output.confirm(&format!("replace {shown}, which differs, comments included"))?;
    }
    if let Some(dir) = path.parent() {
        make_private_dir(dir)?;
    }
    write_file(path, &to_toml(spec))?;
    app.output.result(&view, shown)
}

/// What a definition file says, as a deploy would send it, but for what is in the files that come
/// with it: a definition names them and no more. `None`: it has mistakes.
fn says(text: &str, path: &Path) -> Option<ServiceSpec> {
    let mut spec = parse(text, &path.display().to_string()).ok()?.spec;
    resolve_programs(&mut spec, path.parent().unwrap_or(Path::new("/")));
    Some(spec)
}

pub(crate) async fn edit(app: &App, args: &Edit) -> Result<Exit> {
    let path = file_of(app, &args.service)?;
    if !path.exists() {
        let record = record(app, &args.service).await?;
        app.output.notice(format!("{} does not exist: exported first", path.display()));
        export_to(&quiet(app), &path, &record.spec)?;
    }
    let before = std::fs::read_to_string(&path).map_err(|e| CliError::io("read", &path, &e))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    // Beside the file, so that its relative paths mean the same to whoever looks.
    let draft = tempfile::Builder::new()
        .prefix(&format!(".{}-", args.service))
        .suffix(".toml")
        .tempfile_in(dir)
        .map_err(|e| CliError::io("write", dir, &e))?;
    std::fs::write(draft.path(), &before).map_err(|e| CliError::io("write", draft.path(), &e))?;
    loop {
        open_editor(draft.path())?;
        let text =
            std::fs::read_to_string(draft.path()).map_err(|e| CliError::io("read", &path, &e))?;
        match check(&text, &path, &args.service) {
            Ok(()) => return keep(app, &path, &before, &text),
            Err(error) => {
                app.output.notice(error.render(false));
                if !again()? {
                    return Err(CliError::new(
                        Exit::Usage,
                        "invalid",
                        format!("{} stays as it was", path.display()),
                    )
                    .service(&args.service));
                }
            }
        }
    }
}

fn quiet(app: &App) -> App {
    App { global: app.global.clone(), output: app.output.without_results(), env: app.env.clone() }
}

/// Whether an edited definition may take the place of the file.
fn check(text: &str, path: &Path, service: &str) -> Result<()> {
    let parsed = parse(text, &path.display().to_string()).map_err(|errors| invalid(&errors))?;
    if parsed.spec.name != service {
        return Err(CliError::usage(format!(
            "the definition is of service `{}`, not of `{service}`",
            parsed.spec.name
        ))
        .help("a service cannot be renamed: write another definition, and undeploy this one"));
    }
    Ok(())
}

/// Asks whether to go on with a definition that has mistakes; without a terminal: no.
fn again() -> Result<bool> {
    let (input, output) = (std::io::stdin(), std::io::stderr());
    if !input.is_terminal() || !output.is_terminal() {
        return Ok(false);
    }
    let mut out = output.lock();
    let _ = write!(out, "Open it again (o), or leave the file as it was (any other key)? ")
        .and_then(|()| out.flush());
    let mut answer = String::new();
    let read = input.lock().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "o" | "O" | "open" | ""))
}

fn keep(app: &App, path: &Path, before: &str, after: &str) -> Result<Exit> {
    #[derive(Serialize)]
    struct View {
        file: String,
        changed: bool,
        diff: Vec<String>,
    }
    let diff = diff(before, after);
    let changed = before != after;
    if changed {
        write_file(path, after)?;
    }
    let file = path.display().to_string();
    let mut text = vec![if changed { file.clone() } else { format!("{file}: unchanged") }];
    text.extend(diff.iter().map(|line| clean(line)));
    app.output.result(&View { file, changed, diff }, text.join("\n"))?;
    Ok(Exit::Ok)
}

/// `$EDITOR`, else `$VISUAL`, else `vi`; its words are split at spaces.
fn open_editor(file: &Path) -> Result<()> {
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    let editor = set("EDITOR").or_else(|| set("VISUAL")).unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let help = "set EDITOR to a program that is there";
    let status = Command::new(program)
        .args(words)
        .arg(file)
        .status()
        .map_err(|e| CliError::failed(format!("cannot start {editor}")).cause(e).help(help))?;
    if status.success() {
        return Ok(());
    }
    Err(CliError::failed(format!("{editor} ended with {status}")).help("the file stays as it was"))
}

/// Lines that went (`-`) and came (`+`), in order.
fn diff(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let same_start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let ends = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let same_end = ends.min(old.len() - same_start).min(new.len() - same_start);
    let part = |lines: &[&str]| -> Vec<String> {
        let end = lines.len() - same_end;
        lines.get(same_start..end).unwrap_or_default().iter().map(|l| (*l).to_owned()).collect()
    };
    let (old, new) = (part(&old), part(&new));
    // The longest common lines of what is between; a table too large is not worth it.
    if old.len().saturating_mul(new.len()) > 1_000_000 {
        let went = old.iter().map(|line| format!("-{line}"));
        return went.chain(new.iter().map(|line| format!("+{line}"))).collect();
    }
    let width = new.len() + 1;
    let mut common = vec![0u32; (old.len() + 1) * width];
    let at = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let best = if a == b {
                at(&common, i + 1, j + 1) + 1
            } else {
                at(&common, i + 1, j).max(at(&common, i, j + 1))
            };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => (i, j) = (i + 1, j + 1),
            (Some(a), b) if b.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                out.push(format!("-{a}"));
                i += 1;
            }
            (_, Some(b)) => {
                out.push(format!("+{b}"));
                j += 1;
            }
            _ => return out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "# mine\nname = \"web\"\n\n[[components]]\nname = \"api\"\ncmd = [\"./x\"]\n";

    #[test]
    fn a_diff_shows_what_went_and_what_came_in_order() {
        assert_eq!(diff("a\nb\nc\nd\n", "a\nB\nc\nx\nd\n"), ["-b", "+B", "+x"]);
        assert_eq!(diff("a\n", "a\n"), Vec::<String>::new());
        assert_eq!(diff("", "a\nb\n"), ["+a", "+b"]);
        assert_eq!(diff("a\nb\n", ""), ["-a", "-b"]);
    }

    #[test]
    fn a_file_says_what_a_deploy_would_send() {
        let spec = says(WEB, Path::new("/srv/web.toml")).expect("it is valid");
        assert_eq!(spec.components[0].cmd[0], "/srv/x");
        let again = says(&to_toml(&spec), Path::new("/elsewhere/web.toml"));
        assert_eq!(again, Some(spec), "what is exported means the same wherever it lies");
        assert_eq!(says("name = 3", Path::new("/web.toml")), None);
    }

    #[test]
    fn an_edited_definition_has_to_be_valid_and_of_the_same_service() {
        let path = Path::new("/srv/web.toml");
        assert!(check(WEB, path, "web").is_ok());
        let other = check(WEB, path, "shop").expect_err("refused");
        assert!(other.to_string().contains("`web`, not of `shop`"), "{other}");
        let wrong = check(&WEB.replace("cmd", "cmdd"), path, "web").expect_err("refused");
        assert_eq!(wrong.exit, Exit::Usage);
        assert!(wrong.to_string().contains("/srv/web.toml:6:1"), "{wrong}");
    }
}
