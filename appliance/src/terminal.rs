//! Questions to the person at the terminal.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// What Ctrl-C is to a terminal that makes no signal of it.
const INTERRUPT: u8 = 3;

/// Whether somebody can be asked.
pub(crate) fn is_there() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks for something that nobody shall read over a shoulder: a line without an echo.
///
/// # Errors
/// When the terminal is gone, or the person interrupts.
#[allow(
    clippy::print_stderr,
    reason = "a question to the person at the terminal"
)]
pub(crate) fn ask_hidden(question: &str) -> Result<Zeroizing<String>> {
    eprint!("{question}: ");
    std::io::stderr().flush()?;
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).context("the terminal")?;
    let mut hidden = before.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    hidden.local_flags.insert(LocalFlags::ECHONL);
    // a signal would end this program and leave the terminal without an echo: Ctrl-C ends the line instead
    hidden.local_flags.remove(LocalFlags::ISIG);
    hidden.control_chars[SpecialCharacterIndices::VEOL as usize] = INTERRUPT;
    tcsetattr(&stdin, SetArg::TCSANOW, &hidden).context("the terminal")?;
    let mut line = Zeroizing::new(Vec::new());
    let read = read_line(&mut stdin.lock(), &mut line);
    tcsetattr(&stdin, SetArg::TCSANOW, &before).context("the terminal")?;
    read?;
    if line.last() == Some(&INTERRUPT) {
        eprintln!();
        bail!("interrupted");
    }
    ensure!(!line.is_empty(), "nothing was typed");
    let text = std::str::from_utf8(&line).context("what was typed")?;
    Ok(Zeroizing::new(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// Up to and with the end of a line or an interrupt.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let end = bytes.iter().position(|b| matches!(b, b'\n' | &INTERRUPT));
        let taken = end.map_or(bytes.len(), |at| at + 1);
        line.extend_from_slice(&bytes[..taken]);
        input.consume(taken);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_enter_or_an_interrupt() {
        for (input, expect) in [
            ("12345678\nrest", "12345678\n"),
            ("1234\u{3}", "1234\u{3}"),
            ("1234", "1234"),
            ("", ""),
        ] {
            let mut line = Vec::new();
            read_line(&mut input.as_bytes(), &mut line).unwrap();
            assert_eq!(line, expect.as_bytes(), "{input:?}");
        }
    }
}
