//! The shim by itself: what `weftd shim` runs, without the daemon around it.

fn main() -> std::process::ExitCode {
    let args = std::env::args_os().skip(1);
    weft_runtime::shim::shim_main(args.skip_while(|arg| arg == "shim"))
}
