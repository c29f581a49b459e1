//! The files of a stream: `/var/log/nginx/access.log.<%Y%m%d%H>` to paths and back.
//!
//! Between `<` and `>` stand `%Y %m %d %H`, `%F` (= `%Y-%m-%d`) and plain text; a pattern without `%H` names one file
//! per day, one without `<` a file that bears no date. The part may cross directories: `/logs/<%Y%m%d/access.%H>`.
//!
//! A `*` outside `<>` stands for any part of a name that does not begin with a dot, but for no `/`. Such a pattern names no
//! file; [`Pattern::matches`] finds what its `*` stand for and [`Pattern::filled`] makes a pattern of each.

use crate::clock::Hour;
use crate::disk::{self, Disk};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Text(String),
    Star,
    Year,
    Month,
    Day,
    Hour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dated {
    No,
    Daily,
    Hourly,
}

/// A parsed `log_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Path components, each as tokens.
    parts: Vec<Vec<Token>>,
    absolute: bool,
    dated: Dated,
}

#[derive(Clone, Copy, Default)]
struct Fields {
    year: Option<u32>,
    month: Option<u32>,
    day: Option<u32>,
    hour: Option<u32>,
}

/// What a path said: its date, and what each `*` stood for.
type Found = (Fields, Vec<String>);

impl Pattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let dated = match text.split_once('<') {
            None if text.contains('>') => return Err("`>` without `<`".into()),
            None => {
                stars(text, &mut tokens);
                Dated::No
            }
            Some((lead, rest)) => {
                let (format, trail) = rest.rsplit_once('>').ok_or("`<` without `>`")?;
                stars(lead, &mut tokens);
                date(format, &mut tokens)?;
                stars(trail, &mut tokens);
                if tokens.contains(&Token::Hour) { Dated::Hourly } else { Dated::Daily }
            }
        };
        let mut parts = vec![Vec::new()];
        for t in tokens {
            let Token::Text(t) = t else {
                if let Some(p) = parts.last_mut() {
                    p.push(t);
                }
                continue;
            };
            for (i, piece) in t.split('/').enumerate() {
                if i > 0 {
                    parts.push(Vec::new());
                }
                match parts.last_mut() {
                    Some(p) if !piece.is_empty() => match p.last_mut() {
                        Some(Token::Text(last)) => last.push_str(piece),
                        _ => p.push(Token::Text(piece.to_owned())),
                    },
                    _ => {}
                }
            }
        }
        if dated == Dated::No && parts.last().is_none_or(Vec::is_empty) {
            return Err("the path names no file".into());
        }
        let absolute = text.starts_with('/');
        parts.retain(|p| !p.is_empty());
        if parts.is_empty() {
            return Err("the path is empty".into());
        }
        Ok(Self { parts, absolute, dated })
    }

    /// The pattern of no file.
    pub fn none() -> Self {
        Self { parts: Vec::new(), absolute: true, dated: Dated::Hourly }
    }

    /// Does each file hold a day?
    pub fn is_daily(&self) -> bool {
        self.dated == Dated::Daily
    }

    /// Is there a date in its files' names?
    pub fn is_dated(&self) -> bool {
        self.dated != Dated::No
    }

    /// How many `*` it has.
    pub fn stars(&self) -> usize {
        self.parts.iter().flatten().filter(|t| **t == Token::Star).count()
    }

    /// What the `*` of existing files stand for, and the directories that may not be read: one of them must not hide the
    /// files of the others.
    pub fn matches(&self, disk: &Disk) -> (BTreeSet<Vec<String>>, Vec<disk::Error>) {
        let (mut out, mut errors) = (BTreeSet::new(), Vec::new());
        let each = &mut |(_, names)| {
            out.insert(names);
        };
        let _ =
            self.walk(disk, &self.directory(), self.fixed(), &Found::default(), &mut Some(&mut errors), each);
        errors.retain(|e| !e.not_found());
        (out, errors)
    }

    /// The pattern with each `*` replaced by what it stands for.
    #[must_use]
    pub fn filled(&self, names: &[String]) -> Self {
        let mut names = names.iter();
        let mut parts = Vec::new();
        for part in &self.parts {
            let mut tokens: Vec<Token> = Vec::new();
            for t in part {
                let t = match t {
                    Token::Star => Token::Text(names.next().cloned().unwrap_or_default()),
                    other => other.clone(),
                };
                match (tokens.last_mut(), t) {
                    (Some(Token::Text(last)), Token::Text(more)) => last.push_str(&more),
                    (_, t) => tokens.push(t),
                }
            }
            parts.push(tokens);
        }
        Self { parts, ..*self }
    }

    /// The pattern of the same files, compressed.
    #[must_use]
    pub fn packed(&self) -> Self {
        let mut packed = self.clone();
        if let Some(part) = packed.parts.last_mut() {
            match part.last_mut() {
                Some(Token::Text(end)) => end.push_str(".gz"),
                _ => part.push(Token::Text(".gz".into())),
            }
        }
        packed
    }

    /// The file of an hour; where files bear no date, the file.
    pub fn path(&self, hour: Hour) -> PathBuf {
        let mut out = self.root();
        for part in &self.parts {
            let name: String = part
                .iter()
                .map(|t| match t {
                    Token::Text(s) => s.clone(),
                    Token::Star => "*".to_owned(),
                    Token::Year => format!("{:04}", hour.year()),
                    Token::Month => format!("{:02}", hour.month()),
                    Token::Day => format!("{:02}", hour.day()),
                    Token::Hour => format!("{:02}", hour.hour().unwrap_or(0)),
                })
                .collect();
            out.push(name);
        }
        out
    }

    /// The one file of a pattern without a date.
    pub fn file(&self) -> PathBuf {
        let mut out = self.root();
        for part in &self.parts {
            let text = part
                .iter()
                .filter_map(|t| if let Token::Text(text) = t { Some(text.as_str()) } else { None });
            out.push(text.collect::<String>());
        }
        out
    }

    /// Directory that must be readable before an absent file means anything.
    pub fn directory(&self) -> PathBuf {
        let mut out = self.root();
        for part in self.parts.iter().take(self.fixed()) {
            if let [Token::Text(t)] = part.as_slice() {
                out.push(t);
            }
        }
        out
    }

    fn root(&self) -> PathBuf {
        PathBuf::from(if self.absolute { "/" } else { "." })
    }

    /// The hour in the name of an existing path.
    pub fn hour_of(&self, path: &Path) -> Option<Hour> {
        let text = path.to_str()?;
        let names: Vec<&str> = text.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        if names.len() != self.parts.len() {
            return None;
        }
        let mut found = Found::default();
        for (part, name) in self.parts.iter().zip(names) {
            found = fits(part, name, &found)?;
        }
        self.hour(&found.0)
    }

    fn hour(&self, f: &Fields) -> Option<Hour> {
        let n = |v: Option<u32>| v.and_then(|v| i8::try_from(v).ok());
        let hour = if self.dated == Dated::Hourly { Some(n(f.hour)?) } else { None };
        Hour::new(i16::try_from(f.year?).ok()?, n(f.month)?, n(f.day)?, hour)
    }

    /// Hours that have a file, in order. An unreadable or missing directory is an error: it says nothing of hours.
    pub fn existing(&self, disk: &Disk) -> disk::Result<Vec<Hour>> {
        let mut out = Vec::new();
        self.walk(disk, &self.directory(), self.fixed(), &Found::default(), &mut None, &mut |(f, _)| {
            out.extend(self.hour(&f));
        })?;
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    fn fixed(&self) -> usize {
        let fixed = |p: &&Vec<Token>| matches!(p.as_slice(), [Token::Text(_)]);
        self.parts.iter().take(self.parts.len().saturating_sub(1)).take_while(fixed).count()
    }

    fn walk(
        &self,
        disk: &Disk,
        dir: &Path,
        depth: usize,
        found: &Found,
        errors: &mut Option<&mut Vec<disk::Error>>,
        each: &mut dyn FnMut(Found),
    ) -> disk::Result<()> {
        let Some(part) = self.parts.get(depth) else { return Ok(()) };
        let last = depth.saturating_add(1) == self.parts.len();
        let entries = match (disk.list(dir), &mut *errors) {
            (Err(e), Some(errors)) => {
                errors.push(e);
                return Ok(());
            }
            (listed, _) => listed?,
        };
        for e in entries {
            let Some(found) = fits(part, &e.name, found).filter(|_| e.is_dir != last) else { continue };
            if !last {
                self.walk(disk, &dir.join(&e.name), depth.saturating_add(1), &found, errors, each)?;
            } else if !self.is_dated() || self.hour(&found.0).is_some() {
                each(found);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.parts.iter().enumerate() {
            f.write_str(if i > 0 || self.absolute { "/" } else { "" })?;
            for t in part {
                f.write_str(match t {
                    Token::Text(s) => s,
                    Token::Star => "*",
                    Token::Year => "YYYY",
                    Token::Month => "MM",
                    Token::Day => "DD",
                    Token::Hour => "HH",
                })?;
            }
        }
        Ok(())
    }
}

/// Plain text in which `*` stands for something.
fn stars(text: &str, tokens: &mut Vec<Token>) {
    for (i, piece) in text.split('*').enumerate() {
        if i > 0 {
            tokens.push(Token::Star);
        }
        tokens.push(Token::Text(piece.to_owned()));
    }
}

/// What stands between `<` and `>`.
fn date(format: &str, tokens: &mut Vec<Token>) -> Result<(), String> {
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        let mut text = |t: &str| tokens.push(Token::Text(t.to_owned()));
        if c != '%' {
            text(&c.to_string());
            continue;
        }
        match chars.next() {
            Some('Y') => tokens.push(Token::Year),
            Some('m') => tokens.push(Token::Month),
            Some('d') => tokens.push(Token::Day),
            Some('H') => tokens.push(Token::Hour),
            Some('F') => {
                let dash = || Token::Text("-".into());
                tokens.extend([Token::Year, dash(), Token::Month, dash(), Token::Day]);
            }
            Some('%') => text("%"),
            other => return Err(format!("%{} is not one of %Y %m %d %H %F", other.unwrap_or(' '))),
        }
    }
    for (t, name) in [(Token::Year, "%Y"), (Token::Month, "%m"), (Token::Day, "%d")] {
        if !tokens.contains(&t) {
            return Err(format!("{name} is missing between < and >"));
        }
    }
    Ok(())
}

/// Does a name fit these tokens? Returns what is known then.
fn fits(part: &[Token], name: &str, found: &Found) -> Option<Found> {
    let Some((t, rest)) = part.split_first() else { return name.is_empty().then(|| found.clone()) };
    let mut found = found.clone();
    let (slot, width) = match t {
        Token::Text(s) => return fits(rest, name.strip_prefix(s.as_str())?, &found),
        Token::Star => {
            // The shortest that leaves a fit for the rest.
            let ends = name.char_indices().map(|(i, c)| i.saturating_add(c.len_utf8()));
            return ends.filter(|_| !name.starts_with('.')).find_map(|end| {
                let (stands_for, after) = name.split_at_checked(end)?;
                let mut found = found.clone();
                found.1.push(stands_for.to_owned());
                fits(rest, after, &found)
            });
        }
        Token::Year => (&mut found.0.year, 4),
        Token::Month => (&mut found.0.month, 2),
        Token::Day => (&mut found.0.day, 2),
        Token::Hour => (&mut found.0.hour, 2),
    };
    let (digits, after) = name.split_at_checked(width)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value = digits.parse().ok()?;
    if slot.is_some_and(|v| v != value) {
        return None;
    }
    *slot = Some(value);
    fits(rest, after, &found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_hour_are_inverse() {
        for text in [
            "/var/log/access.log.<%Y%m%d%H>",
            "/l/server.log.<%Y-%m-%d-%H>",
            "/l/<%Y%m%d/access.%H>.log",
            "logs/a.<%F>_<%H>",
        ] {
            let Ok(p) = Pattern::parse(text) else {
                assert_eq!(text, "logs/a.<%F>_<%H>", "only the doubled <> may fail");
                continue;
            };
            let hour = Hour::parse("2026112205").unwrap();
            assert_eq!(p.hour_of(&p.path(hour)), Some(hour), "{text}");
            assert_eq!(p.hour_of(Path::new("/var/log/access.log.20261322055")), None);
        }
    }

    #[test]
    fn wrong_patterns_say_why() {
        for (text, why) in [
            ("/a>", "without"),
            ("/a/", "names no file"),
            ("/a.<%Y%m>", "%d"),
            ("/a.<%Y%m%d%S>", "%S"),
            ("/a.<%Y%m%d", ">"),
        ] {
            assert!(Pattern::parse(text).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn existing_hours_are_found_and_others_ignored() {
        let (disk, sim) = Disk::sim(1);
        for name in ["a.2026112205", "a.2026112204", "a.2026112204.gz", "b.2026112206", "a.2026113204"] {
            sim.put(&Path::new("/l").join(name), b"x");
        }
        let p = Pattern::parse("/l/a.<%Y%m%d%H>").unwrap();
        let found: Vec<String> = p.existing(&disk).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, ["2026112204", "2026112205"]);
        let p = Pattern::parse("/d/<%Y%m%d/a.%H>").unwrap();
        sim.put(Path::new("/d/20261122/a.07"), b"x");
        assert_eq!(p.existing(&disk).unwrap(), [Hour::parse("2026112207").unwrap()]);
        assert!(Pattern::parse("/none/a.<%Y%m%d>").unwrap().existing(&disk).is_err());
    }

    #[test]
    fn a_star_stands_for_a_part_of_a_name_and_is_told() {
        let (disk, sim) = Disk::sim(1);
        for name in
            ["a/access.log.2026112205", "b.c/access.log.2026112206", ".d/access.log.2026112206", "e/x"]
        {
            sim.put(&Path::new("/l").join(name), b"x");
        }
        let p = Pattern::parse("/l/*/access.log.<%Y%m%d%H>").unwrap();
        let found = p.matches(&disk).0;
        assert_eq!(found.iter().map(|n| n.join("|")).collect::<Vec<_>>(), ["a", "b.c"]);
        let one = p.filled(&["b.c".to_owned()]);
        let hour = Hour::parse("2026112206").unwrap();
        assert_eq!(one.path(hour), Path::new("/l/b.c/access.log.2026112206"));
        assert_eq!((one.stars(), one.existing(&disk).unwrap()), (0, vec![hour]));

        for name in ["x-1-err.log", "x-2-err.log", "x-2-err.log.1", "y.log"] {
            sim.put(&Path::new("/u").join(name), b"x");
        }
        let p = Pattern::parse("/u/*-*.log").unwrap();
        let found: Vec<String> = p.matches(&disk).0.iter().map(|n| n.join("|")).collect();
        assert_eq!((p.stars(), p.is_dated()), (2, false));
        assert_eq!(found, ["x|1-err", "x|2-err"]);
        assert_eq!(p.filled(&["x".into(), "1-err".into()]).path(hour), Path::new("/u/x-1-err.log"));
        assert!(Pattern::parse("/none/*.log").unwrap().matches(&disk).0.is_empty());
    }
}
