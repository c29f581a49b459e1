//! Typed access to the values of one file, collecting every problem instead of stopping at the first.

use super::keys::{self, Key, SECTIONS, STREAM};
use super::raw::{Entry, Errors, Problem, Section, Warning};
use super::value::{Kind, Value};
use super::{Config, Role};

/// How near a name must be to a known one to count as a slip of the pen: one letter wrong, missing, or two swapped.
const NEAR: usize = 2;

/// Reads values with their defaults. A value that is missing or bad leaves a problem behind and reads as nothing or 0;
/// [`Reader::finish`] lets no such result out.
pub(super) struct Reader<'a> {
    config: &'a Config,
    /// As in `check`: what a daemon may overlook is an error.
    strict: bool,
    errors: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub fn new(config: &'a Config, strict: bool) -> Self {
        Self { config, strict, errors: Vec::new(), warnings: Vec::new() }
    }

    /// The result, or all problems in the order of their lines.
    pub fn finish<T>(mut self, result: Option<T>) -> Result<(T, Vec<Warning>), Errors> {
        self.errors.extend_from_slice(&self.config.raw.problems);
        for list in [&mut self.errors, &mut self.warnings] {
            // Several roles of one file read the same [logAgent].
            list.sort();
            list.dedup();
        }
        match result {
            Some(result) if self.errors.is_empty() => Ok((result, self.warnings)),
            _ => Err(Errors(self.errors)),
        }
    }

    pub fn error(&mut self, line: usize, key: &str, text: impl Into<String>) {
        let problem = self.problem(line, key, text.into());
        self.errors.push(problem);
    }

    pub fn warning(&mut self, line: usize, key: &str, text: impl Into<String>) {
        let problem = self.problem(line, key, text.into());
        self.warnings.push(problem);
    }

    /// Whether the role's section is there; if not, says so.
    pub fn has_role(&mut self, role: Role) -> bool {
        if self.config.raw.section(role.section()).is_some() {
            return true;
        }
        let others: Vec<String> =
            self.config.roles().iter().map(|r| format!("`logd {}`", r.command())).collect();
        let hint = if others.is_empty() {
            String::new()
        } else {
            format!("; it is needed here, and the file is for {}", others.join(" and "))
        };
        self.error(0, &format!("[{}]", role.section()), format!("no such section{hint}"));
        false
    }

    /// Looks for sections that do not exist, and for unknown keys in those of `sections` that are there.
    pub fn known(&mut self, sections: &[&str]) {
        let config = self.config;
        for section in &config.raw.sections {
            if SECTIONS.contains(&section.name.as_str()) {
                if sections.contains(&section.name.as_str()) {
                    for entry in &section.entries {
                        self.known_key(section, entry);
                    }
                }
            } else if section.name.starts_with(STREAM) {
                // Other roles of a shared file do not care about the follower's streams.
                if sections.contains(&Role::Tail.section()) {
                    if config.raw.section(Role::Tail.section()).is_none() {
                        let text = "a stream needs a [tail] beside it, which says where to send and the like";
                        self.error(section.line, &format!("[{}]", section.name), text);
                    }
                    for entry in &section.entries {
                        self.known_key(section, entry);
                    }
                }
            } else {
                let (nearest, distance) = nearest(&section.name, SECTIONS.iter().copied());
                let text = format!("unknown section; the nearest known one is [{nearest}]");
                self.unknown(section.line, &format!("[{}]", section.name), text, distance);
            }
        }
    }

    fn known_key(&mut self, section: &Section, entry: &Entry) {
        let name = section.name.as_str();
        match keys::find(name, &entry.key) {
            Some(key) if key.kind == Kind::Ignored && !entry.value.is_empty() => {
                self.warning(entry.line, &entry.key, "has no effect; it is accepted for old files");
            }
            Some(_) => {}
            None => {
                let names = keys::of(name).flat_map(|k| [k.name, k.alias]).filter(|n| !n.is_empty());
                let (nearest, distance) = nearest(&entry.key, names);
                let homes: Vec<String> = SECTIONS
                    .iter()
                    .filter(|s| keys::find(s, &entry.key).is_some())
                    .map(|s| format!("[{s}]"))
                    .collect();
                let text = if homes.is_empty() {
                    format!("unknown key; the nearest known key of [{name}] is `{nearest}`")
                } else {
                    format!(
                        "unknown key of [{name}] (nearest: `{nearest}`); it is a key of {}",
                        homes.join(", ")
                    )
                };
                self.unknown(entry.line, &entry.key, text, distance);
            }
        }
    }

    /// A daemon starts with a name that is far from all known ones: it may belong to a newer version, and a file must
    /// survive a roll-back. A near one is a misspelt setting that would silently not apply.
    fn unknown(&mut self, line: usize, key: &str, text: String, distance: usize) {
        if self.strict || distance <= NEAR {
            self.error(line, key, text);
        } else {
            self.warning(line, key, format!("{text}; ignored"));
        }
    }

    /// The sections of further streams.
    pub fn streams(&self) -> Vec<String> {
        let sections = self.config.raw.sections.iter().map(|s| s.name.clone());
        sections.filter(|name| name.starts_with(STREAM)).collect()
    }

    /// Does the section itself set this key?
    pub fn sets(&self, section: &str, name: &str) -> bool {
        let entry = keys::find(section, name).zip(self.config.raw.section(section));
        entry.is_some_and(|(key, s)| set_entry(s, key).is_some())
    }

    /// Says that a key is missing.
    pub fn required(&mut self, section: &str, name: &str) {
        if let Some(key) = keys::find(section, name) {
            self.missing(section, key);
        }
    }

    /// The key's number in its own unit (bytes, milliseconds, count, mode bits).
    pub fn number(&mut self, section: &str, name: &str) -> u64 {
        self.optional_number(section, name).unwrap_or(0)
    }

    /// As [`Self::number`], for things held in memory.
    pub fn count(&mut self, section: &str, name: &str) -> usize {
        usize::try_from(self.number(section, name)).unwrap_or(usize::MAX)
    }

    /// As [`Self::number`], for a key without a default.
    pub fn optional_number(&mut self, section: &str, name: &str) -> Option<u64> {
        match self.value(section, name)? {
            Value::Number(n) => Some(n),
            Value::Text(_) => None,
        }
    }

    /// The key's text in normal form; `None` if it is empty.
    pub fn text(&mut self, section: &str, name: &str) -> Option<String> {
        match self.value(section, name)? {
            Value::Text(text) => Some(text),
            Value::Number(_) => None,
        }
    }

    /// The line on which the key is set, else that of its section's header.
    pub fn line_of(&self, section: &str, name: &str) -> usize {
        let section = self.config.raw.section(section);
        let entry = section.and_then(|s| s.entries.iter().find(|e| e.key == name));
        entry.map(|e| e.line).or(section.map(|s| s.line)).unwrap_or(0)
    }

    fn value(&mut self, section: &str, name: &str) -> Option<Value> {
        let Some(key) = keys::find(section, name) else {
            // A mistake in our code, which a test finds; with `panic = abort` a message is the better bug report.
            self.error(
                0,
                name,
                format!("[{section}] has no such key in the table of keys: please report this"),
            );
            return None;
        };
        let entry = self.config.raw.section(section).and_then(|s| set_entry(s, key));
        let text = entry.map_or(key.default, |e| e.value.as_str());
        if text.is_empty() {
            if key.required {
                self.missing(section, key);
            }
            return None;
        }
        let (line, name) = entry.map_or((0, key.name), |e| (e.line, e.key.as_str()));
        if name == key.name && !key.alias.is_empty() {
            let old = self.config.raw.section(section).and_then(|s| value_of(s, key.alias));
            if let Some(old) = old.filter(|old| old.value != text && entry.is_some()) {
                let text = format!("ignored, because `{}` is set on line {line}", key.name);
                self.warning(old.line, &old.key, text);
            }
        }
        match key.kind.parse(text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.error(line, name, problem);
                None
            }
        }
    }

    fn missing(&mut self, section: &str, key: &Key) {
        let mut text = format!("missing; {}", key.help);
        // The commonest slip when a fleet moves: both listen, but only one passes on.
        if section == "collector" && key.name == "send_to" {
            text.push_str(" A collector only passes on; to store, did you mean fcollector?");
        }
        self.error(self.line_of(section, key.name), key.name, text);
    }

    fn problem(&self, line: usize, key: &str, text: String) -> Problem {
        Problem { file: self.config.file.clone(), line, key: key.into(), text }
    }
}

/// The entry that sets a key: the one with its name, else the one with its older spelling. Empty values set nothing.
pub(super) fn set_entry<'a>(section: &'a Section, key: &Key) -> Option<&'a Entry> {
    value_of(section, key.name).or_else(|| value_of(section, key.alias))
}

fn value_of<'a>(section: &'a Section, name: &str) -> Option<&'a Entry> {
    section.entries.iter().find(|e| e.key == name && !e.value.is_empty())
}

/// The known name with the smallest edit distance, and that distance.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> (&'n str, usize) {
    // Beyond this length nothing is near, and a key of a megabyte would cost seconds.
    let start: String = name.chars().take(64).collect();
    known.map(|k| (k, distance(&start, k))).min_by_key(|(_, d)| *d).unwrap_or(("", usize::MAX))
}

/// Levenshtein's distance: how many letters must be changed, added or removed.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, in_a) in a.chars().enumerate() {
        // The row below, from left to right, over the one above it.
        let (mut diagonal, mut left) = (i, i.saturating_add(1));
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = left;
        }
        for (cell, in_b) in cells.zip(b.chars()) {
            let above = *cell;
            let changed = diagonal.saturating_add(usize::from(in_a != in_b));
            *cell = changed.min(above.min(left).saturating_add(1));
            (diagonal, left) = (above, *cell);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn edit_distance() {
        for (a, b, d) in
            [("", "", 0), ("a", "", 1), ("", "abc", 3), ("kitten", "sitting", 3), ("sendto", "send_to", 1)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
            assert_eq!(distance(b, a), d, "{b} {a}");
        }
    }
}
