//! `weftd`: one node of the fabric.
#![forbid(unsafe_code)]

mod addresses;
mod args;
mod audit;
mod daemon;
mod data_dir;
mod holders;
mod logging;
mod overlay;
mod reload;
mod removal;
mod renewal;
mod service_manager;
mod session_only;
mod sessions;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

/// Messages are many small values of short lives, made on one thread and let go on another: what
/// the C library's allocator takes for those was a fifth of a message's processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A shim stays as small as it can: it needs neither TLS nor a command line parser.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "shim") {
        return weft_runtime::shim::shim_main(words);
    }
    match Cli::parse().command {
        Command::Run(run) => {
            // Fails only if one is installed already, and then it is this one.
            let _ = rustls::crypto::ring::default_provider().install_default();
            daemon::run(&run)
        }
        Command::Config(run) => daemon::explain(&run),
        Command::RemoveContainers(run) => daemon::remove_containers(&run),
    }
}
