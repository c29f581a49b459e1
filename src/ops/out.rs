//! What a command prints, and how. Everything goes through [`Out`], because `println!` panics when its reader has gone
//! (`logd status | head`), and a panic there would look like a fault of the store.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Standard output and standard error of one command, or two buffers in a test.
pub struct Out<'a> {
    answer: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Standard error is a terminal: somebody waits there.
    watched: bool,
    started: Instant,
    shown: Option<Instant>,
    gone: bool,
    failed: Option<io::Error>,
    /// Standard output is a terminal that wants colours.
    colour: bool,
}

/// What a word of the answer means to whoever looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// All is well.
    Good,
    /// Somebody must act.
    Bad,
}

impl<'a> Out<'a> {
    /// Prints to these two; `watched` = somebody looks at the second one.
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, watched: bool) -> Self {
        Self {
            answer: out,
            err,
            watched,
            started: Instant::now(),
            shown: None,
            gone: false,
            failed: None,
            colour: false,
        }
    }

    /// Runs a command on the process's own outputs; the exit code.
    pub fn stdio(run: impl FnOnce(&mut Out) -> u8) -> u8 {
        // Written line by line: what `verify` finds is seen when it is found.
        let mut out = io::stdout();
        let mut err = io::stderr();
        let watched = err.is_terminal();
        let mut both = Out::new(&mut out, &mut err, watched);
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        both.colour = io::stdout().is_terminal() && !set("NO_COLOR") && !dumb;
        let code = run(&mut both);
        both.finish(code)
    }

    /// The words in a colour, if this is a terminal and `NO_COLOR` is not set.
    pub fn paint(&self, paint: Paint, words: &str) -> String {
        match (self.colour, paint) {
            (false, _) => words.to_owned(),
            (true, Paint::Good) => format!("\x1b[32m{words}\x1b[0m"),
            (true, Paint::Bad) => format!("\x1b[1;31m{words}\x1b[0m"),
        }
    }

    /// Is the answer read on a terminal?
    pub fn is_screen(&self) -> bool {
        self.colour
    }

    /// Progress of work of which so much is done: with the time that the rest may take.
    pub fn progress_of(&mut self, done: u64, all: u64, text: &dyn Fn() -> String) {
        let spent = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress(&|| match left(spent, done, all) {
            Some(ms) => format!("{}, about {} left", text(), duration(ms)),
            None => text(),
        });
    }

    /// A line of the answer.
    pub fn line(&mut self, text: impl Display) {
        self.text(&format!("{text}\n"));
    }

    /// A part of the answer, with the newlines it has.
    pub fn text(&mut self, text: &str) {
        if !self.gone && self.failed.is_none() {
            self.clear_progress();
            let result = self.answer.write_all(text.as_bytes());
            self.note(result);
        }
    }

    /// A part of an answer that need not be text.
    pub fn bytes(&mut self, part: &[u8]) {
        if !self.gone && self.failed.is_none() {
            self.clear_progress();
            let result = self.answer.write_all(part);
            self.note(result);
        }
    }

    /// A line on standard error.
    pub fn complain(&mut self, text: impl Display) {
        // On a terminal both end up on one screen: in the order in which they were said.
        let result = self.answer.flush();
        self.note(result);
        self.clear_progress();
        // There is nobody left to tell that standard error is broken.
        let _ = self.err.write_all(format!("{text}\n").as_bytes());
    }

    /// Tells somebody who waits in front of a terminal how far the work is; the first time after two seconds.
    pub fn progress(&mut self, text: &dyn Fn() -> String) {
        let since = self.shown.unwrap_or(self.started);
        let pause = if self.shown.is_some() { Duration::from_millis(500) } else { Duration::from_secs(2) };
        if self.watched && since.elapsed() >= pause {
            self.shown = Some(Instant::now());
            let _ = self.err.write_all(format!("\r\x1b[K{}", text()).as_bytes());
            let _ = self.err.flush();
        }
    }

    fn clear_progress(&mut self) {
        if self.shown.is_some() {
            let _ = self.err.write_all(b"\r\x1b[K");
        }
    }

    /// The reader of the answer has gone: nobody wants the rest.
    pub fn gone(&self) -> bool {
        self.gone
    }

    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.gone = true,
            Err(e) => self.failed = self.failed.take().or(Some(e)),
        }
    }

    /// Writes out what is buffered. An answer that could not be written (a full disk) must not end with "yes".
    pub fn finish(&mut self, code: u8) -> u8 {
        self.clear_progress();
        if !self.gone {
            let result = self.answer.flush();
            self.note(result);
        }
        match self.failed.take() {
            None => code,
            Some(e) => {
                let _ = self.err.write_all(
                    format!("logd: cannot write the answer: standard output: {e}; run it again\n").as_bytes(),
                );
                super::ERROR
            }
        }
    }
}

/// Milliseconds that the rest may take; `None` = nobody can tell yet.
fn left(spent_ms: u64, done: u64, all: u64) -> Option<u64> {
    let rest = all.checked_sub(done).filter(|_| done > 0)?;
    spent_ms.checked_mul(rest)?.checked_div(done)
}

pub use crate::disk::size as bytes;
pub use crate::log::{count, duration, ranges};

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn through(kind: io::ErrorKind) -> (u8, bool, String) {
        let (mut out, mut err) = (Broken(kind), Vec::new());
        let mut both = Out::new(&mut out, &mut err, false);
        both.line("one");
        both.line("two");
        let gone = both.gone();
        let code = both.finish(1);
        (code, gone, String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_reader_that_has_gone_is_no_fault_and_a_full_disk_is_one() {
        assert_eq!(through(io::ErrorKind::BrokenPipe), (1, true, String::new()));
        let (code, gone, err) = through(io::ErrorKind::StorageFull);
        assert_eq!((code, gone), (2, false));
        assert!(err.contains("standard output"), "{err}");
    }

    #[test]
    fn progress_is_for_terminals_and_for_long_work() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        Out::new(&mut out, &mut err, true).progress(&|| "1 of 9".into());
        assert!(err.is_empty());
        let mut both = Out::new(&mut out, &mut err, true);
        both.started = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        both.progress(&|| "1 of 9".into());
        both.progress(&|| "2 of 9".into());
        both.finish(0);
        assert_eq!(err, b"\r\x1b[K1 of 9\r\x1b[K");
    }

    #[test]
    fn what_is_left_is_as_long_as_what_was() {
        assert_eq!([left(10, 0, 4), left(10, 5, 4)], [None, None]);
        assert_eq!([left(3_000, 1, 4), left(3_000, 4, 4)], [Some(9_000), Some(0)]);
    }

    #[test]
    fn colours_are_for_terminals() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut both = Out::new(&mut out, &mut err, true);
        assert_eq!(both.paint(Paint::Bad, "x"), "x");
        both.colour = true;
        assert_eq!(both.paint(Paint::Good, "x"), "\x1b[32mx\x1b[0m");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        let times = [850, 12_000, 61_000, 3_600_000, 90_000_000].map(duration);
        assert_eq!(times, ["850 ms", "12 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
        assert_eq!((count(1, "hour"), count(0, "hour")), ("1 hour".into(), "0 hours".into()));
        assert_eq!(ranges(&[(4, 7), (9, 9)]), "4-7,9-9");
    }
}
