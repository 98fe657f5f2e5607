//! `weft man`: the manual pages, made from the same definition of the command line as `--help`.

use std::path::Path;

use clap::CommandFactory;
use serde::Serialize;

use super::App;
use crate::args::Cli;
use crate::error::{CliError, Exit, Result};

/// Writes one page per command into a directory.
///
/// # Errors
/// When a page cannot be made or written.
pub(super) fn run(app: &App, dir: &Path) -> Result<Exit> {
    #[derive(Serialize)]
    struct View {
        dir: String,
        pages: Vec<String>,
    }
    std::fs::create_dir_all(dir).map_err(|e| CliError::io("make", dir, &e))?;
    let mut pages = Vec::new();
    let mut command = Cli::command();
    command.build();
    write(&command, "weft", dir, &mut pages)?;
    let text = format!("{} pages in {}", pages.len(), dir.display());
    app.output.result(&View { dir: dir.display().to_string(), pages }, text)?;
    Ok(Exit::Ok)
}

fn write(command: &clap::Command, name: &str, dir: &Path, pages: &mut Vec<String>) -> Result<()> {
    let page = clap_mangen::Man::new(command.clone().name(name.to_owned()))
        .manual("Weft")
        .source(format!("weft {}", weft_protocol::VERSION));
    let mut text = Vec::new();
    page.render(&mut text).map_err(|e| CliError::failed(format!("cannot make {name}.1: {e}")))?;
    let file = format!("{name}.1");
    let path = dir.join(&file);
    std::fs::write(&path, &text).map_err(|e| CliError::io("write", &path, &e))?;
    pages.push(file);
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    for sub in shown.filter(|sub| sub.get_name() != "help") {
        write(sub, &format!("{name}-{}", sub.get_name()), dir, pages)?;
    }
    Ok(())
}
