//! `weft`, the operator's command. Talks to a person, attaches to a node; knows no rule of any
//! actor (design §2).
#![forbid(unsafe_code)]

mod args;
mod attach;
mod commands;
mod complete;
mod context;
mod error;
mod output;
mod paths;
#[cfg(test)]
mod reference;
mod terminal;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::error::{CliError, Exit};

fn main() -> ExitCode {
    complete::answer();
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // The provider is also named explicitly wherever TLS is set up; this is for what is not ours.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let json = cli.global.json;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(&CliError::failed("cannot start").cause(error), json),
    };
    let result = runtime.block_on(commands::run(cli));
    // A link's last words leave, so that the node need not wait for our silence.
    runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(2)).await });
    // Reads of standard input cannot be cancelled; don't wait for them.
    runtime.shutdown_background();
    match result {
        Ok(exit) => ExitCode::from(exit),
        Err(error) => end(&error, json),
    }
}

fn end(error: &CliError, json: bool) -> ExitCode {
    if error.code != output::BROKEN_PIPE {
        eprintln!("{}", error.render(json));
    }
    ExitCode::from(error.exit as u8)
}

/// Help and version are results; everything else about the command line is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    let raw: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if error.exit_code() != 0 && args::wants_json(raw.iter().map(std::ffi::OsString::as_os_str)) {
        let text = error.to_string();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let message = lines.next().unwrap_or("wrong usage").trim_start_matches("error: ");
        let error = CliError::usage(message).help(lines.collect::<Vec<_>>().join("\n"));
        return end(&error, true);
    }
    let _ = error.print();
    ExitCode::from(if error.exit_code() == 0 { Exit::Ok as u8 } else { Exit::Usage as u8 })
}
