//! The INI reader: bytes to sections and entries, each with its line. It knows the format, not the keys.
//!
//! The format is that of the original. A line is trimmed; an empty line and one that begins with `;` (or `#`, ours) says
//! nothing; `[section]`; `key = value`, cut at the first `=`. There are no comments after a value, because a value may
//! hold `;`. Where the original stayed silent (a line without `=`, a key given twice: the last one won) we complain,
//! since there the user and the program mean different things.

use std::collections::HashMap;
use std::fmt;

/// One fault or oddity in a config file. It prints as `file:line: key: problem`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file's path as the user gave it.
    pub file: String,
    /// Line number from 1; 0 when it concerns the file as a whole.
    pub line: usize,
    /// The key, or `[section]`; empty when the line has none.
    pub key: String,
    /// What is wrong and what to do. Never holds the value of a secret.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.text)
    }
}

/// A problem with which the program still runs.
pub type Warning = Problem;

/// All errors of a file at once, in the order of its lines; never empty. It prints one error a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// `key = value` with its line number from 1. The value is trimmed; empty means "default".
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub value: String,
    pub line: usize,
}

/// A section; one that is opened twice is one section with the line of its first header.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub name: String,
    pub line: usize,
    pub entries: Vec<Entry>,
}

/// The sections of a file, and what could not be read of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw {
    pub sections: Vec<Section>,
    pub problems: Vec<Problem>,
}

impl Raw {
    /// The section with this exact name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }
}

/// Reads a whole file. `file` is only for the messages.
pub(super) fn parse(file: &str, bytes: &[u8]) -> Raw {
    let mut raw = Raw::default();
    // Maps instead of searches: a file of a million short lines must not take minutes to refuse.
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut lines_of: HashMap<(usize, String), usize> = HashMap::new();
    let mut current = None;
    // Keys without a section are reported once, and not at all after a header that was reported itself.
    let mut orphans_reported = false;
    // Editors on Windows put a byte order mark before the first line; the original did not notice it.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (i, bytes) in bytes.split(|&b| b == b'\n').enumerate() {
        let line = i.saturating_add(1);
        let mut problem = |key: &str, text: String| {
            raw.problems.push(Problem { file: file.into(), line, key: key.into(), text });
        };
        let Ok(text) = std::str::from_utf8(bytes) else {
            problem("", "not UTF-8".into());
            continue;
        };
        let text = text.trim();
        if text.is_empty() || text.starts_with([';', '#']) {
            continue;
        }
        // A NUL ends a path early and an escape byte plays tricks on the terminal that prints our messages.
        if text.chars().any(|c| c.is_control() && c != '\t') {
            problem("", "holds a control character".into());
            continue;
        }
        if let Some(rest) = text.strip_prefix('[') {
            let Some(name) = rest.strip_suffix(']').map(str::trim).filter(|n| !n.is_empty()) else {
                problem("", "a section is written `[name]`, with nothing after it".into());
                current = None;
                orphans_reported = true;
                continue;
            };
            let next = raw.sections.len();
            let place = *places.entry(name.into()).or_insert(next);
            if place == next {
                raw.sections.push(Section { name: name.into(), line, entries: Vec::new() });
            }
            current = Some(place);
            continue;
        }
        // The line is not quoted: it may hold a password.
        let Some((key, value)) = text.split_once('=').map(|(k, v)| (k.trim(), v.trim())) else {
            problem("", "expected `key = value`, `[section]`, or a comment that begins with `;`".into());
            continue;
        };
        if key.is_empty() {
            problem("", "no key before `=`".into());
            continue;
        }
        let Some(place) = current else {
            if !orphans_reported {
                problem(key, "stands before the first [section]".into());
            }
            orphans_reported = true;
            continue;
        };
        if let Some(first) = lines_of.insert((place, key.into()), line) {
            problem(key, format!("set on line {first} and again on line {line}; remove one"));
            continue;
        }
        if let Some(section) = raw.sections.get_mut(place) {
            section.entries.push(Entry { key: key.into(), value: value.into(), line });
        }
    }
    raw
}
