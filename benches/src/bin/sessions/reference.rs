//! The published reference runtime, installed once beside what cargo builds here.

use std::path::{Path, PathBuf};

/// Its crate and its program.
const NAME: &str = "macp-runtime";
/// What Weft is compared with.
const VERSION: &str = "0.13.0";

/// The program, built in release with the newest dependencies it accepts. `target`: where cargo
/// builds; it is kept there, by version.
///
/// # Errors
/// If cargo cannot install it.
pub(crate) fn installed(target: &Path) -> Result<PathBuf, String> {
    weft_tests::published::program(target, NAME, VERSION, &[])
}
