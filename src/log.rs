//! The program's own log: stderr, or one file per day in `local_dir`.
//!
//! A line is `logd: ROLE: what failed: object: reason; next step`. The same text is written once; its repetitions are
//! counted and told when it comes again after ten minutes. Control bytes, which a peer may have sent, are escaped.
//!
//! Whoever wants the messages elsewhere, too, taps the log ([`Log::tap`]): a bounded queue that drops and counts what its
//! reader does not take in time, so that nobody who has something to say ever waits.

use crate::clock::{Clock, Zone};
use crate::config::{Level, LogConfig};
use crate::disk::{Disk, File};
use crate::metrics;
use std::collections::{HashMap, VecDeque};
use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After this time a repeated message is written again.
const REPEAT: Duration = Duration::from_mins(10);
/// Different messages that are remembered.
const REMEMBERED: usize = 256;

/// `1 hour`, `2 hours`.
pub fn count<N: Copy + Display + PartialEq + From<u8>>(n: N, what: &str) -> String {
    format!("{n} {what}{}", if n == N::from(1) { "" } else { "s" })
}

/// Messages that wait in a tap, at most.
const TAPPED_MAX: usize = 512;
/// Bytes of a message in a tap, at most.
const TAPPED_TEXT_MAX: usize = 2_048;

/// A message as a tap has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When (Unix milliseconds).
    pub time_ms: i64,
    /// How important.
    pub level: Level,
    /// What; without control characters.
    pub text: String,
}

/// See the module's header.
pub struct Tap {
    level: Level,
    /// What waits, and how many were dropped since that was asked.
    queue: Mutex<(VecDeque<Told>, u64)>,
    more: Condvar,
}

impl Tap {
    fn put(&self, told: Told) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.0.len() >= TAPPED_MAX {
            // The newest goes: what began the trouble is worth more than its thousandth echo.
            queue.1 = queue.1.saturating_add(1);
            metrics::UNSENT_MESSAGES.inc();
            return;
        }
        queue.0.push_back(told);
        drop(queue);
        self.more.notify_one();
    }

    /// The next message, for which it waits so long at most.
    pub fn take(&self, wait: Duration) -> Option<Told> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.more.wait_timeout_while(queue, wait, |q| q.0.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.0.pop_front()
    }

    /// How many were dropped since this was asked last.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner).1)
    }
}

/// A time for people, in its two largest units: `850 ms`, `12 s`, `3 h 5 min`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// Ranges of pack numbers: `4-7,9-9`.
pub fn ranges(list: &[(u64, u64)]) -> String {
    let mut text = String::new();
    for (i, (from, to)) in list.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{from}-{to}");
    }
    text
}

/// How many messages of a kind are written in a minute. Others can cause them, and our log is on a disk.
#[derive(Default)]
pub struct Cap {
    since_ms: u64,
    count: u32,
}

/// That many.
const CAP: u32 = 120;

impl Cap {
    /// May one more be written at this time (monotonic milliseconds)? With a sentence about those that were not.
    pub fn allows(&mut self, now_ms: u64) -> (bool, Option<String>) {
        let mut unsaid = None;
        if now_ms.saturating_sub(self.since_ms) >= 60_000 {
            unsaid =
                self.count.checked_sub(CAP).filter(|n| *n > 0).map(|n| format!("and {n} more like these"));
            (self.since_ms, self.count) = (now_ms, 0);
        }
        self.count = self.count.saturating_add(1);
        (self.count <= CAP, unsaid)
    }
}

/// Warnings and errors that are kept for whoever asks, and characters of each.
const RECENT: usize = 100;
const RECENT_CHARS: usize = 1_000;

/// A warning or an error of this process.
#[derive(Clone, Debug)]
pub struct Recent {
    /// When (unix milliseconds).
    pub time_ms: i64,
    /// An error, not a warning.
    pub error: bool,
    /// Its text.
    pub text: String,
}

struct Inner {
    file: Option<(String, File, u64)>,
    seen: HashMap<String, (Instant, u64)>,
    /// The newest first.
    recent: VecDeque<Recent>,
}

/// Cheap to clone; all clones write to the same place.
#[derive(Clone)]
pub struct Log {
    role: &'static str,
    /// A [`Level`] as a number; a reload may change it.
    level: Arc<AtomicU8>,
    dir: Option<(Disk, PathBuf)>,
    clock: Clock,
    zone: Zone,
    inner: Arc<Mutex<Inner>>,
    tap: Option<Arc<Tap>>,
}

impl Log {
    /// A log for `role`.
    pub fn new(role: &'static str, conf: &LogConfig, disk: &Disk, clock: &Clock, zone: &Zone) -> Self {
        Self {
            role,
            level: Arc::new(AtomicU8::new(conf.level as u8)),
            dir: conf.dir.clone().map(|d| (disk.clone(), d)),
            clock: clock.clone(),
            zone: zone.clone(),
            inner: Arc::new(Mutex::new(Inner { file: None, seen: HashMap::new(), recent: VecDeque::new() })),
            tap: None,
        }
    }

    /// The file that is written today, if there is one.
    pub fn today(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|(_, dir)| self.file_of(dir, &self.day()))
    }

    fn day(&self) -> String {
        self.zone.format_ms(self.clock.now_ms()).chars().take(10).filter(char::is_ascii_digit).collect()
    }

    fn file_of(&self, dir: &Path, day: &str) -> PathBuf {
        dir.join(format!("logd-{}.{day}.log", self.role))
    }

    /// From now on messages of at least this level go into the tap, too: those of this log, and of its later clones.
    pub fn tap(&mut self, level: Level) -> Arc<Tap> {
        let tap = Arc::new(Tap { level, queue: Mutex::default(), more: Condvar::new() });
        self.tap = Some(Arc::clone(&tap));
        tap
    }

    /// The same log for whoever empties the tap: what he says does not go into it.
    #[must_use]
    pub fn untapped(&self) -> Self {
        Self { tap: None, ..self.clone() }
    }

    /// From now on messages below this level are not written, by all clones.
    pub fn set_level(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// Something that must be looked at.
    pub fn error(&self, text: &str) {
        self.put(Level::Error, text);
    }

    /// Something that will pass, or that costs no data.
    pub fn warn(&self, text: &str) {
        self.put(Level::Warning, text);
    }

    /// What goes on.
    pub fn info(&self, text: &str) {
        self.put(Level::Info, text);
    }

    /// The latest warnings and errors, the newest first, whatever level is written.
    pub fn recent(&self) -> Vec<Recent> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).recent.iter().cloned().collect()
    }

    /// Details.
    pub fn debug(&self, text: &str) {
        self.put(Level::Debug, text);
    }

    /// Messages that begin with this are written again when they come again: what was wrong was mended meanwhile.
    pub fn anew(&self, beginning: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.seen.retain(|text, _| !text.starts_with(beginning));
    }

    fn put(&self, level: Level, text: &str) {
        match level {
            Level::Error => metrics::ERRORS.inc(),
            Level::Warning => metrics::WARNINGS.inc(),
            Level::Info | Level::Debug => {}
        }
        let tap = self.tap.as_ref().filter(|tap| level >= tap.level);
        let unimportant = (level as u8) < self.level.load(Ordering::Relaxed);
        if unimportant && level < Level::Warning && tap.is_none() {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut note = String::new();
        if level >= Level::Warning {
            let now = Instant::now();
            match inner.seen.get_mut(text) {
                Some((at, n)) if at.elapsed() < REPEAT => {
                    *n = n.saturating_add(1);
                    return;
                }
                Some((at, n)) => {
                    note = format!(" (and {n} times since)");
                    (*at, *n) = (now, 0);
                }
                None => {
                    if inner.seen.len() >= REMEMBERED {
                        inner.seen.clear();
                    }
                    inner.seen.insert(text.to_owned(), (now, 0));
                }
            }
        }
        if level >= Level::Warning {
            if inner.recent.len() >= RECENT {
                inner.recent.pop_back();
            }
            let text = escape(text).chars().take(RECENT_CHARS).collect();
            inner.recent.push_front(Recent {
                time_ms: self.clock.now_ms(),
                error: level == Level::Error,
                text,
            });
        }
        let word = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        if let Some(tap) = tap {
            let mut text = format!("{}{note}", escape(text));
            text.truncate(text.floor_char_boundary(TAPPED_TEXT_MAX));
            tap.put(Told { time_ms: self.clock.now_ms(), level, text });
        }
        if unimportant {
            return;
        }
        let line = format!("logd: {}: {}{note}", self.role, escape(text));
        let Some((disk, dir)) = &self.dir else {
            // Whoever closed stderr does not want to know.
            let _ = writeln!(std::io::stderr(), "{line}");
            return;
        };
        let time = self.zone.format_ms(self.clock.now_ms());
        let day = self.day();
        if inner.file.as_ref().is_none_or(|(d, ..)| *d != day) {
            let path = self.file_of(dir, &day);
            inner.file =
                disk.create(&path, 0o640).and_then(|f| Ok((f.stat()?.len, f))).ok().map(|(n, f)| (day, f, n));
        }
        let full = format!("{time} {word} {line}\n");
        match &mut inner.file {
            Some((_, file, at)) if file.write_at(full.as_bytes(), *at).is_ok() => {
                *at = at.saturating_add(full.len() as u64);
            }
            // A log that cannot be written must not stop the shipping of logs.
            _ => {
                let _ = write!(std::io::stderr(), "{full}");
            }
        }
    }
}

/// Does it end a line for some who read, or turn the direction in which the rest is shown?
fn misleads(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces control characters, so that no peer writes our log lines, or makes them look like others.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() || misleads(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// A sentence on stderr, for what happens before there is a log. Whoever closed stderr does not want to know.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_cause_is_written_so_often_and_then_counted() {
        let mut cap = Cap::default();
        let written = (0..300).filter(|_| cap.allows(100_000).0).count();
        assert_eq!((written, cap.allows(159_999)), (CAP as usize, (false, None)));
        assert_eq!(cap.allows(160_000), (true, Some("and 181 more like these".into())));
        assert_eq!(cap.allows(220_000), (true, None));
    }

    #[test]
    fn nothing_that_a_peer_says_ends_a_line_or_turns_it_around() {
        assert_eq!(escape("a\n\u{202e}b\u{2028}\u{e4}"), "a\\n\\u{202e}b\\u{2028}\u{e4}");
    }

    #[test]
    fn a_tap_gets_what_is_important_and_never_holds_anybody_up() {
        let (disk, _sim) = Disk::sim(1);
        let (clock, _sim) = Clock::sim(7_000);
        let conf = LogConfig { level: Level::Error, dir: Some("/l".into()) };
        let mut log = Log::new("tail", &conf, &disk, &clock, &Zone::named("UTC").unwrap());
        let tap = log.tap(Level::Warning);
        let at_once = Duration::ZERO;
        log.info("too small");
        log.clone().warn("a\nb");
        log.untapped().error("of the reader himself");
        let told = Told { time_ms: 7_000, level: Level::Warning, text: "a\\nb".into() };
        assert_eq!((tap.take(at_once), tap.take(at_once)), (Some(told), None));
        for n in 0..TAPPED_MAX + 3 {
            log.error(&format!("{n} {}", "\u{e4}".repeat(TAPPED_TEXT_MAX)));
        }
        assert_eq!((tap.take_dropped(), tap.take_dropped()), (3, 0));
        let first = tap.take(at_once).unwrap();
        assert!(first.text.starts_with("0 ") && first.text.len() <= TAPPED_TEXT_MAX, "{}", first.text.len());
    }
}
