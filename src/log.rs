//! The program's own log: stderr, or one file per day in `local_dir`.
//!
//! A line is `logd: ROLE: what failed: object: reason; next step`. The same text is written once; its repetitions are
//! counted and told when it comes again after ten minutes. Control bytes, which a peer may have sent, are escaped.

use crate::clock::{Clock, Zone};
use crate::config::{Level, LogConfig};
use crate::disk::{Disk, File};
use crate::metrics;
use std::collections::{HashMap, VecDeque};
use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After this time a repeated message is written again.
const REPEAT: Duration = Duration::from_mins(10);
/// Different messages that are remembered.
const REMEMBERED: usize = 256;

/// `1 hour`, `2 hours`.
pub fn count<N: Copy + Display + PartialEq + From<u8>>(n: N, what: &str) -> String {
    format!("{n} {what}{}", if n == N::from(1) { "" } else { "s" })
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
    level: Level,
    dir: Option<(Disk, PathBuf)>,
    clock: Clock,
    zone: Zone,
    inner: Arc<Mutex<Inner>>,
}

impl Log {
    /// A log for `role`.
    pub fn new(role: &'static str, conf: &LogConfig, disk: &Disk, clock: &Clock, zone: &Zone) -> Self {
        Self {
            role,
            level: conf.level,
            dir: conf.dir.clone().map(|d| (disk.clone(), d)),
            clock: clock.clone(),
            zone: zone.clone(),
            inner: Arc::new(Mutex::new(Inner { file: None, seen: HashMap::new(), recent: VecDeque::new() })),
        }
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
        if level < self.level && level < Level::Warning {
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
        if level < self.level {
            return;
        }
        let word = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let line = format!("logd: {}: {}{note}", self.role, escape(text));
        let Some((disk, dir)) = &self.dir else {
            // Whoever closed stderr does not want to know.
            let _ = writeln!(std::io::stderr(), "{line}");
            return;
        };
        let time = self.zone.format_ms(self.clock.now_ms());
        let day: String = time.chars().take(10).filter(char::is_ascii_digit).collect();
        if inner.file.as_ref().is_none_or(|(d, ..)| *d != day) {
            let path = dir.join(format!("logd-{}.{day}.log", self.role));
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

/// Replaces control characters, so that no peer writes our log lines.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
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
