//! A terminal with a program on it, as a person sits before it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize};

use crate::eventually;

/// A program on a terminal of its own. Killed on drop.
#[derive(Debug)]
pub struct OnTerminal {
    keyboard: File,
    /// Kept open, so that the terminal outlives the program.
    terminal: OwnedFd,
    before: Termios,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    /// Starts it on a terminal of that many columns and rows.
    ///
    /// # Panics
    /// If there can be none.
    pub fn start(command: &mut Command, columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).expect("a terminal");
        rustix::pty::grantpt(&master).expect("grants");
        rustix::pty::unlockpt(&master).expect("unlocks");
        let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags).expect("its other side");
        set_size(&master, columns, rows);
        let before = rustix::termios::tcgetattr(&terminal).expect("its settings");
        let side = || Stdio::from(terminal.try_clone().expect("a second handle"));
        command.stdin(side()).stdout(side()).stderr(side()).env("TERM", "xterm");
        let child = command.spawn().expect("the program starts");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, seen) = (File::from(master.try_clone().expect("a handle")), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                seen.lock().expect("not poisoned").extend_from_slice(&buffer[..read]);
            }
        });
        Self { keyboard: File::from(master), terminal, before, child, shown }
    }

    /// Everything it has shown so far.
    ///
    /// # Panics
    /// If the reader panicked.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("not poisoned")).into_owned()
    }

    /// Waits until it has shown that.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let what = format!("{text:?} on the terminal");
        // Also after its end: what it said last may still be on its way.
        eventually(&what, || self.shown().contains(text).then_some(()));
    }

    /// Types that.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("types");
    }

    /// Gives the terminal another size, and tells the program.
    ///
    /// # Panics
    /// If it has ended.
    pub fn resize(&self, columns: u16, rows: u16) {
        set_size(&self.keyboard, columns, rows);
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::WINCH).expect("it runs");
    }

    /// Waits for its end; its exit code, and whether the terminal is as it was before.
    #[track_caller]
    pub fn end(&mut self) -> (i32, bool) {
        let child = &mut self.child;
        let status = eventually("it ends", || child.try_wait().expect("a child"));
        let now = rustix::termios::tcgetattr(&self.terminal).expect("its settings");
        let same = now.local_modes == self.before.local_modes
            && now.input_modes == self.before.input_modes
            && now.output_modes == self.before.output_modes;
        (status.code().unwrap_or(-1), same)
    }
}

fn set_size(terminal: impl AsFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).expect("takes a size");
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("on the terminal: {:?}", self.shown());
        }
    }
}
