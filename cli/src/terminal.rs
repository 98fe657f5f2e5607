//! The operator's terminal: its size, raw mode, the alternate screen. What is changed is put back
//! when the guard is dropped, however the command ends short of SIGKILL.

use std::io::Write;

use rustix::termios::{OptionalActions, OutputModes, Termios};

/// Across and down, in characters; `None`: none of the standard streams is a terminal that says.
pub(crate) fn size() -> Option<(u16, u16)> {
    let said = rustix::termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(std::io::stdin()))
        .or_else(|_| rustix::termios::tcgetwinsize(std::io::stderr()))
        .ok()?;
    (said.ws_col > 0 && said.ws_row > 0).then_some((said.ws_col, said.ws_row))
}

/// The terminal of standard input, changed for as long as this lives.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Raw mode: every byte as it is typed, none echoed, none a signal. `None`: it is no terminal,
    /// or cannot be changed.
    pub(crate) fn enter() -> Option<Self> {
        Self::change(Termios::make_raw)
    }

    /// What is written is shown as it is, since another terminal has put the ends of lines right.
    /// `None`: as [`Raw::enter`].
    pub(crate) fn output() -> Option<Self> {
        Self::change(|terminal| terminal.output_modes.remove(OutputModes::OPOST))
    }

    fn change(change: impl FnOnce(&mut Termios)) -> Option<Self> {
        let saved = rustix::termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = saved.clone();
        change(&mut raw);
        rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(saved))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Standard output with another screen, without a cursor; the first one comes back unchanged.
pub(crate) struct Screen(());

impl Screen {
    pub(crate) fn enter() -> std::io::Result<Self> {
        write("\x1b[?1049h\x1b[?25l")?;
        Ok(Self(()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write("\x1b[?25h\x1b[?1049l");
    }
}

/// Draws these lines from the top, as many as fit, and nothing else.
pub(crate) fn draw(lines: &[String], (columns, rows): (u16, u16)) -> std::io::Result<()> {
    write(&frame(lines, (columns, rows)))
}

/// What has to be written for it: no flicker, as nothing is cleared that is drawn over.
fn frame(lines: &[String], (columns, rows): (u16, u16)) -> String {
    let mut text = String::from("\x1b[H");
    for (number, line) in lines.iter().take(usize::from(rows)).enumerate() {
        if number > 0 {
            text.push_str("\r\n");
        }
        text.extend(visible(line, usize::from(columns)));
        text.push_str("\x1b[0m\x1b[K");
    }
    text.push_str("\x1b[J");
    text
}

/// The first `columns` visible characters of a line, its colours with them.
fn visible(line: &str, columns: usize) -> impl Iterator<Item = char> {
    let (mut left, mut within) = (columns, false);
    line.chars().filter(move |c| {
        if within || *c == '\x1b' {
            within = !(within && c.is_ascii_alphabetic());
            return true;
        }
        let shown = left > 0;
        left = left.saturating_sub(1);
        shown
    })
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_never_wider_or_taller_than_the_terminal() {
        let lines = ["abcdef".to_owned(), "\x1b[1mxyz\x1b[0m12".into(), "third".into()];
        let text = frame(&lines, (4, 2));
        assert_eq!(text, "\x1b[Habcd\x1b[0m\x1b[K\r\n\x1b[1mxyz\x1b[0m1\x1b[0m\x1b[K\x1b[J");
    }
}
