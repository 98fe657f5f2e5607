//! Signs of life: what is measured writes a line into a file of its own when it begins to run, and
//! the files are looked at every millisecond. It is the same for whoever started it, a container or
//! a process, and nobody's word is taken for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_wire::{Clock, SystemClock};

/// Between two looks at the files.
pub const RESOLUTION: Duration = Duration::from_millis(1);
/// Where a container has the directory.
pub const IN_CONTAINER: &str = "/signs";
/// One start: `x` and a newline.
const LINE: u64 = 2;

/// The directory of the files.
#[derive(Debug)]
pub struct Signs {
    dir: PathBuf,
}

impl Signs {
    /// In a directory, which must exist.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The command of a program that gives its sign each time it starts, and then does nothing.
    /// `dir`: of the files, as the program has it.
    pub fn command(dir: &str, name: &str) -> [String; 3] {
        let script = format!("echo x >> {dir}/{name}; exec sleep 100000");
        ["/bin/sh".to_owned(), "-c".to_owned(), script]
    }

    /// How often it has started.
    pub fn starts(&self, name: &str) -> u64 {
        std::fs::metadata(self.dir.join(name)).map_or(0, |meta| meta.len() / LINE)
    }

    /// Waits until each of them has started so often; when that was seen of the last one.
    ///
    /// # Panics
    /// At the deadline, with the names of those that have not.
    #[track_caller]
    pub fn wait(&self, names: &[String], starts: u64, deadline: Duration) -> Instant {
        let begun = SystemClock.now();
        let mut left: Vec<&String> = names.iter().collect();
        loop {
            left.retain(|name| self.starts(name) < starts);
            let now = SystemClock.now();
            if left.is_empty() {
                return now;
            }
            assert!(now - begun < deadline, "no sign of life within {deadline:?} of {left:?}");
            // The pause between two looks, not a wait for the outcome.
            std::thread::park_timeout(RESOLUTION);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_of_a_program_is_one_sign() {
        let dir = std::env::temp_dir().join(format!("weft-signs-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let signs = Signs::new(&dir);
        let [shell, c, script] = Signs::command(&dir.to_string_lossy(), "one");
        let script = script.replace("exec sleep 100000", "true");
        for starts in 1..3 {
            let done = std::process::Command::new(&shell).args([&c, &script]).status();
            assert!(done.expect("a shell").success());
            signs.wait(&["one".to_owned()], starts, Duration::from_secs(5));
            assert_eq!(signs.starts("one"), starts);
        }
        assert_eq!(signs.starts("two"), 0);
        std::fs::remove_dir_all(&dir).expect("it goes");
    }
}
