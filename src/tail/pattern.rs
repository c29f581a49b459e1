//! Date-named files: `/var/log/nginx/access.log.<%Y%m%d%H>` to paths and back.
//!
//! Between `<` and `>` stand `%Y %m %d %H`, `%F` (= `%Y-%m-%d`) and plain text; a pattern without `%H` names one file
//! per day. The part may cross directories: `/logs/<%Y%m%d/access.%H>`.

use crate::clock::Hour;
use crate::disk::{self, Disk};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
}

/// A parsed `log_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Path components, each as tokens.
    parts: Vec<Vec<Token>>,
    absolute: bool,
    daily: bool,
}

#[derive(Clone, Copy, Default)]
struct Fields {
    year: Option<u32>,
    month: Option<u32>,
    day: Option<u32>,
    hour: Option<u32>,
}

impl Pattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (lead, rest) = text.split_once('<').ok_or("there is no <%Y%m%d%H> in the path")?;
        let (format, trail) = rest.rsplit_once('>').ok_or("`<` without `>`")?;
        let mut tokens = vec![Token::Text(lead.to_owned())];
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
        tokens.push(Token::Text(trail.to_owned()));
        for (t, name) in [(Token::Year, "%Y"), (Token::Month, "%m"), (Token::Day, "%d")] {
            if !tokens.contains(&t) {
                return Err(format!("{name} is missing between < and >"));
            }
        }
        let daily = !tokens.contains(&Token::Hour);
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
        let absolute = text.starts_with('/');
        parts.retain(|p| !p.is_empty());
        if parts.is_empty() {
            return Err("the path is empty".into());
        }
        Ok(Self { parts, absolute, daily })
    }

    /// Does each file hold a day?
    pub fn is_daily(&self) -> bool {
        self.daily
    }

    /// The file of an hour.
    pub fn path(&self, hour: Hour) -> PathBuf {
        let mut out = self.root();
        for part in &self.parts {
            let name: String = part
                .iter()
                .map(|t| match t {
                    Token::Text(s) => s.clone(),
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

    /// Directory that must be readable before an absent file means anything.
    pub fn directory(&self) -> PathBuf {
        let mut out = self.root();
        let fixed = |p: &&Vec<Token>| matches!(p.as_slice(), [Token::Text(_)]);
        for part in self.parts.iter().take(self.parts.len() - 1).take_while(fixed) {
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
        let mut f = Fields::default();
        for (part, name) in self.parts.iter().zip(names) {
            matches(part, name, &mut f)?;
        }
        self.hour(&f)
    }

    fn hour(&self, f: &Fields) -> Option<Hour> {
        let n = |v: Option<u32>| v.and_then(|v| i8::try_from(v).ok());
        let hour = if self.daily { None } else { Some(n(f.hour)?) };
        Hour::new(i16::try_from(f.year?).ok()?, n(f.month)?, n(f.day)?, hour)
    }

    /// Hours that have a file, in order. An unreadable or missing directory is an error: it says nothing of hours.
    pub fn existing(&self, disk: &Disk) -> disk::Result<Vec<Hour>> {
        let mut out = Vec::new();
        self.walk(disk, &self.directory(), self.fixed(), Fields::default(), &mut out)?;
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    fn fixed(&self) -> usize {
        let fixed = |p: &&Vec<Token>| matches!(p.as_slice(), [Token::Text(_)]);
        self.parts.iter().take(self.parts.len() - 1).take_while(fixed).count()
    }

    fn walk(
        &self,
        disk: &Disk,
        dir: &Path,
        depth: usize,
        f: Fields,
        out: &mut Vec<Hour>,
    ) -> disk::Result<()> {
        let Some(part) = self.parts.get(depth) else { return Ok(()) };
        let last = depth + 1 == self.parts.len();
        for e in disk.list(dir)? {
            let mut f = f;
            if e.is_dir == last || matches(part, &e.name, &mut f).is_none() {
                continue;
            }
            if last {
                out.extend(self.hour(&f));
            } else {
                self.walk(disk, &dir.join(&e.name), depth + 1, f, out)?;
            }
        }
        Ok(())
    }
}

fn matches(part: &[Token], mut name: &str, f: &mut Fields) -> Option<()> {
    for t in part {
        let (slot, width) = match t {
            Token::Text(s) => {
                name = name.strip_prefix(s.as_str())?;
                continue;
            }
            Token::Year => (&mut f.year, 4),
            Token::Month => (&mut f.month, 2),
            Token::Day => (&mut f.day, 2),
            Token::Hour => (&mut f.hour, 2),
        };
        let (digits, rest) = name.split_at_checked(width)?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let value = digits.parse().ok()?;
        if slot.is_some_and(|v| v != value) {
            return None;
        }
        *slot = Some(value);
        name = rest;
    }
    name.is_empty().then_some(())
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
        for (text, why) in [("/a", "<%Y"), ("/a.<%Y%m>", "%d"), ("/a.<%Y%m%d%S>", "%S"), ("/a.<%Y%m%d", ">")]
        {
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
}
