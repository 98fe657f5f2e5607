//! `validate`: definitions checked offline.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use weft_config::Diagnostics;
use weft_config::service::{Stem, parse_file, parse_with};

use super::App;
use super::definition::drawn;
use crate::args::Validate;
use crate::context::{parse_options, registry, services_dir};
use crate::error::{CliError, Exit, Result};

#[derive(Serialize)]
struct View {
    file: String,
    ok: bool,
    service: Option<String>,
    errors: Vec<MistakeView>,
    warnings: Vec<MistakeView>,
}

#[derive(Serialize)]
struct MistakeView {
    line: usize,
    column: usize,
    message: String,
    help: Option<String>,
}

pub(crate) fn run(app: &App, args: &Validate) -> Result<Exit> {
    let (files, stem) = if args.files.is_empty() {
        (definitions(&services_dir(&app.global, &app.env)?)?, Stem::MustMatch)
    } else {
        (args.files.clone(), Stem::Any)
    };
    let registry = registry(&app.global, &app.env)?;
    let mut views = Vec::new();
    let mut bad = 0usize;
    for file in &files {
        let name = file.display().to_string();
        let outcome = if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .read_to_string(&mut text)
                .map_err(|e| CliError::io("read", file, &e))?;
            parse_with(&text, "<stdin>", parse_options(&registry))
        } else {
            parse_file(file, stem, parse_options(&registry))
        };
        let (service, errors, warnings) = match outcome {
            Ok(parsed) => (Some(parsed.spec.name), Diagnostics::default(), parsed.warnings),
            Err(errors) => (None, errors, Diagnostics::default()),
        };
        bad += usize::from(!errors.is_empty());
        if !app.output.json {
            for mistake in errors.iter().chain(&warnings) {
                app.output.line(mistake.short())?;
                app.output.progress(format!("{}\n", drawn(mistake)));
            }
            if errors.is_empty() {
                app.output.line(format!("{name}: ok"))?;
            }
        }
        views.push(View {
            file: name,
            ok: errors.is_empty(),
            service,
            errors: mistakes(&errors),
            warnings: mistakes(&warnings),
        });
    }
    if app.output.json {
        app.output.document(&views)?;
    }
    if bad == 0 {
        return Ok(Exit::Ok);
    }
    Err(CliError::new(
        Exit::Usage,
        "invalid",
        format!("{bad} of {} definitions cannot be deployed", files.len()),
    ))
}

fn mistakes(all: &Diagnostics) -> Vec<MistakeView> {
    all.iter()
        .map(|d| MistakeView {
            line: d.line,
            column: d.column,
            message: d.message.clone(),
            help: (!d.help.is_empty()).then(|| d.help.clone()),
        })
        .collect()
}

/// The definitions of a services directory, by name.
fn definitions(dir: &Path) -> Result<Vec<PathBuf>> {
    let files = files_in(dir)?;
    if files.is_empty() {
        return Err(CliError::usage(format!("there are no definitions in {}", dir.display()))
            .help("name the files to check, or put definitions there as <service>.toml"));
    }
    Ok(files)
}

/// The same, which may be none. What begins with a dot is somebody's draft.
pub(super) fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CliError::io("read", dir, &error)),
    };
    let is_hidden =
        |path: &Path| path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml") && !is_hidden(path))
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_directory_without_definitions_is_a_usage_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().expect("temp dir");
        for dir in [dir.path().to_owned(), dir.path().join("none")] {
            let error = definitions(&dir).expect_err("nothing there");
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.to_string().contains("name the files"), "{error}");
        }
    }
}
