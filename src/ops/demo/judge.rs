//! What has come of it: how far the store is, and whether what it has is what was there.
//!
//! Nothing here uses the program's own reading of its store: a comparison that shares code with what it checks shares
//! its faults. Files are read by `std::fs`, certificates and headers as plain JSON.

use super::source::{Host, HourFile};
use crate::ops::out;
use crate::shutdown::Shutdown;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

const BLOCK: usize = 256 << 10;

// ---- while it works ----

/// How far the store is.
#[derive(Debug, Default)]
pub struct Progress {
    lines: u64,
    packs: u64,
    bytes: u64,
    /// Hours that have a certificate, good or doubtful.
    pub judged: usize,
    /// How much of each headers file is counted.
    read: HashMap<PathBuf, u64>,
}

impl Progress {
    /// Looks again: data files by their length, headers by the lines that they have got since.
    pub fn look(&mut self, hosts: &[Host], save: &Path) -> Result<(), String> {
        (self.bytes, self.judged) = (0, 0);
        let filed = Filed::list(save);
        for (host, file) in each(hosts) {
            let key = format!("{}_{}", host.name, file.hour);
            let len = fs::metadata(save.join("log_data").join(&key)).map_or(0, |m| m.len());
            self.bytes = self.bytes.saturating_add(len);
            self.judged = self.judged.saturating_add(usize::from(filed.path(save, &key).is_some()));
            let headers = save.join("headers").join(&key);
            self.count(&headers).map_err(|e| format!("{}: {e}", headers.display()))?;
        }
        Ok(())
    }

    fn count(&mut self, headers: &Path) -> io::Result<()> {
        let mut file = match File::open(headers) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let at = self.read.entry(headers.to_owned()).or_default();
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(*at))?;
        file.read_to_end(&mut text)?;
        // A line that is being written is counted when it is whole.
        for line in text.split_inclusive(|b| *b == b'\n').filter(|l| l.ends_with(b"\n")) {
            *at = at.saturating_add(line.len() as u64);
            self.packs = self.packs.saturating_add(1);
            let header: Value = serde_json::from_slice(line).unwrap_or_default();
            let lines = header.pointer("/Route/0/lines").and_then(Value::as_str);
            self.lines = self.lines.saturating_add(lines.and_then(|l| l.parse::<u64>().ok()).unwrap_or(0));
        }
        Ok(())
    }

    /// Changes when anything has moved.
    pub fn mark(&self) -> (u64, u64, usize) {
        (self.bytes, self.packs, self.judged)
    }

    /// One line for people.
    pub fn line(&self, time: Duration, total: u64, hours: usize) -> String {
        let rate = self.bytes as f64 / 1e6 / time.as_secs_f64().max(0.001);
        format!(
            "{} lines in {} pack{}, {} of {} stored, {} of {hours} hours certified, {:.1} s, {rate:.1} MB/s",
            grouped(self.lines),
            grouped(self.packs),
            if self.packs == 1 { "" } else { "s" },
            out::bytes(self.bytes),
            out::bytes(total),
            self.judged,
            time.as_secs_f64(),
        )
    }
}

/// The hours that have no certificate.
pub fn missing(hosts: &[Host], save: &Path) -> String {
    let filed = Filed::list(save);
    let keys = each(hosts).map(|(host, file)| format!("{}_{}", host.name, file.hour));
    keys.filter(|k| filed.path(save, k).is_none()).collect::<Vec<_>>().join(", ")
}

fn each(hosts: &[Host]) -> impl Iterator<Item = (&Host, &HourFile)> {
    hosts.iter().flat_map(|host| host.hours.iter().map(move |file| (host, file)))
}

/// The names of the certificates.
struct Filed {
    /// Tags by `NAME_HOUR`.
    tags: HashMap<String, String>,
    doubtful: HashSet<String>,
}

impl Filed {
    fn list(save: &Path) -> Self {
        let names = |dir: &str| -> Vec<String> {
            let entries = fs::read_dir(save.join(dir)).into_iter().flatten().flatten();
            entries.filter_map(|e| e.file_name().into_string().ok()).collect()
        };
        let tags = names("received");
        let key = |n: &String| n.rsplit_once('_').map(|(key, _)| (key.to_owned(), n.clone()));
        Self {
            tags: tags.iter().filter_map(key).collect(),
            doubtful: names("doubtful").into_iter().collect(),
        }
    }

    fn path(&self, save: &Path, key: &str) -> Option<PathBuf> {
        match self.tags.get(key) {
            Some(tag) => Some(save.join("received").join(tag)),
            None => self.doubtful.contains(key).then(|| save.join("doubtful").join(key)),
        }
    }
}

// ---- at the end ----

/// One hour.
#[derive(Debug)]
pub struct Row {
    host: String,
    hour: String,
    lines: u64,
    bytes: u64,
    packs: u64,
    /// `yes`, or why not.
    verified: String,
    /// `yes`, or where it differs.
    identical: String,
}

/// All hours.
#[derive(Debug)]
pub struct Verdict {
    /// By host, then by hour.
    pub rows: Vec<Row>,
    /// Stored files that hold lines and have no source.
    pub without_source: Vec<String>,
}

const YES: &str = "yes";

impl Verdict {
    /// Hours that are equal to their sources.
    pub fn identical(&self) -> usize {
        self.rows.iter().filter(|r| r.identical == YES).count()
    }

    /// Is everything as it should be?
    pub fn good(&self) -> bool {
        let fine = |r: &Row| r.identical == YES && r.verified == YES;
        !self.rows.is_empty() && self.rows.iter().all(fine) && self.without_source.is_empty()
    }

    /// The table.
    pub fn table(&self) -> String {
        let head = ["host", "hour", "lines", "bytes", "packs", "verified", "identical"].map(String::from);
        let mut cells = vec![head];
        for r in &self.rows {
            let [lines, bytes, packs] = [r.lines, r.bytes, r.packs].map(grouped);
            cells.push([
                r.host.clone(),
                r.hour.clone(),
                lines,
                bytes,
                packs,
                r.verified.clone(),
                r.identical.clone(),
            ]);
        }
        let width =
            |i: usize| cells.iter().filter_map(|c| c.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for row in &cells {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let w = width(i);
                // Writing to a String cannot fail.
                let _ = if (2..5).contains(&i) {
                    write!(line, "{cell:>w$}  ")
                } else {
                    write!(line, "{cell:<w$}  ")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Compares every stored hour with its source, and its certificate with what was counted here.
pub fn judge(hosts: &[Host], save: &Path, stop: &Shutdown) -> Result<Verdict, String> {
    let filed = Filed::list(save);
    let mut rows = Vec::new();
    for (host, file) in each(hosts) {
        if stop.requested() {
            return Err(super::child::INTERRUPTED.into());
        }
        let key = format!("{}_{}", host.name, file.hour);
        let found = compare(&save.join("log_data").join(&key), &file.path)?;
        let certificate = filed.path(save, &key).and_then(|p| fs::read(p).ok()).unwrap_or_default();
        let certificate: Value = serde_json::from_slice(&certificate).unwrap_or_default();
        rows.push(Row {
            host: host.name.clone(),
            hour: file.hour.to_string(),
            lines: found.lines,
            bytes: found.bytes,
            packs: certificate.get("packs").and_then(Value::as_u64).unwrap_or(0),
            verified: verified(&certificate, &found),
            identical: found.differs.map_or_else(|| YES.into(), |at| format!("NO, from byte {at} on")),
        });
    }
    Ok(Verdict { rows, without_source: without_source(hosts, save)? })
}

fn verified(certificate: &Value, found: &Compared) -> String {
    let number = |name: &str| certificate.get(name).and_then(Value::as_u64);
    let state = certificate.get("state").and_then(Value::as_str).unwrap_or_default();
    if certificate.is_null() {
        "NO certificate".into()
    } else if certificate.get("verified").and_then(Value::as_bool) != Some(true) {
        format!("NO {state}").trim_end().into()
    } else if (number("lines"), number("bytes")) != (Some(found.lines), Some(found.bytes)) {
        "NO, it tells other numbers".into()
    } else {
        YES.into()
    }
}

/// Stored files that nobody sent. Hours without a file are stored as empty ones, which is right.
fn without_source(hosts: &[Host], save: &Path) -> Result<Vec<String>, String> {
    let dir = save.join("log_data");
    let known: HashSet<String> = hosts
        .iter()
        .flat_map(|h| {
            let all = h.hours.iter().map(|f| f.hour).chain(h.open.iter().copied());
            all.map(move |hour| format!("{}_{hour}", h.name))
        })
        .collect();
    let say = |e: io::Error| format!("{}: {e}", dir.display());
    let mut out = Vec::new();
    for entry in fs::read_dir(&dir).map_err(say)? {
        let entry = entry.map_err(say)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !known.contains(&name) && entry.metadata().map_err(say)?.len() > 0 {
            out.push(name);
        }
    }
    out.sort();
    Ok(out)
}

/// What is in a stored file, and the first byte in which its source differs.
#[derive(Debug, PartialEq, Eq)]
struct Compared {
    lines: u64,
    bytes: u64,
    differs: Option<u64>,
}

fn compare(stored: &Path, source: &Path) -> Result<Compared, String> {
    let say = |p: &Path, e: io::Error| format!("{}: {e}", p.display());
    let mut a: Box<dyn Read> = match File::open(stored) {
        Ok(file) => Box::new(file),
        // Where nothing is stored, only an empty source is equal.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Box::new(io::empty()),
        Err(e) => return Err(say(stored, e)),
    };
    let mut b = File::open(source).map_err(|e| say(source, e))?;
    let mut found = Compared { lines: 0, bytes: 0, differs: None };
    let (mut x, mut y, mut last) = (Vec::new(), Vec::new(), b'\n');
    loop {
        (x, y) = (fill(&mut a, x).map_err(|e| say(stored, e))?, fill(&mut b, y).map_err(|e| say(source, e))?);
        if found.differs.is_none() && x != y {
            let same = x.iter().zip(&y).take_while(|(p, q)| p == q).count();
            found.differs = Some(found.bytes.saturating_add(same as u64));
        }
        found.lines = found.lines.saturating_add(memchr::memchr_iter(b'\n', &x).count() as u64);
        found.bytes = found.bytes.saturating_add(x.len() as u64);
        last = x.last().copied().unwrap_or(last);
        // Both are at their end, or the stored one is and the source is known to be longer.
        if x.is_empty() {
            found.lines = found.lines.saturating_add(u64::from(last != b'\n'));
            return Ok(found);
        }
    }
}

/// The next whole block, or what is left.
fn fill(from: &mut impl Read, mut buf: Vec<u8>) -> io::Result<Vec<u8>> {
    buf.clear();
    from.by_ref().take(BLOCK as u64).read_to_end(&mut buf)?;
    Ok(buf)
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && digits.len().saturating_sub(i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Hour;
    use crate::ops::testing::Temp;

    #[test]
    fn any_difference_is_found() {
        let temp = Temp::new();
        let long: Vec<u8> = (0..3 * BLOCK + 17).map(|i| if i % 50 == 49 { b'\n' } else { b'x' }).collect();
        let source = temp.path("source");
        fs::write(&source, &long).unwrap();
        let lines = (long.len() / 50) as u64 + 1;
        let stored = temp.path("stored");
        let look = |bytes: &[u8]| {
            fs::write(&stored, bytes).unwrap();
            compare(&stored, &source).unwrap()
        };
        assert_eq!(look(&long), Compared { lines, bytes: long.len() as u64, differs: None });
        for at in [0, BLOCK - 1, BLOCK, 2 * BLOCK + 5, long.len() - 1] {
            let mut other = long.clone();
            other[at] ^= 0x40;
            assert_eq!(look(&other).differs, Some(at as u64));
            assert_eq!(look(&long[..at]).differs, Some(at as u64), "cut at {at}");
        }
        let more = [&long[..], b"y"].concat();
        assert_eq!(look(&more).differs, Some(long.len() as u64));
        fs::remove_file(&stored).unwrap();
        assert_eq!(compare(&stored, &source).unwrap().differs, Some(0));
        fs::write(&source, "").unwrap();
        assert_eq!(compare(&stored, &source).unwrap(), Compared { lines: 0, bytes: 0, differs: None });
    }

    #[test]
    fn one_hour_that_is_not_right_spoils_the_verdict() {
        let temp = Temp::new();
        let save = temp.path("store");
        let hour = Hour::parse("2026112205").unwrap();
        let path = temp.file("source", "a\nb\n");
        temp.file("store/log_data/web1_2026112205", "a\nb\n");
        temp.file("store/log_data/web1_2026112204", "");
        let file = HourFile { hour, path, bytes: 4 };
        let (name, none) = ("web1".to_owned(), String::new);
        let hosts = [Host { name, from: none(), log_file: none(), hours: vec![file], open: vec![] }];
        let stop = Shutdown::default();
        let tag = |text: &str| {
            temp.file("store/received/web1_2026112205_2", text);
            judge(&hosts, &save, &stop).unwrap()
        };
        let good = r#"{"packs":1,"lines":2,"bytes":4,"verified":true}"#;
        let verdict = tag(good);
        assert!(verdict.good() && verdict.identical() == 1, "{verdict:?}");
        assert!(
            verdict.table().ends_with("web1  2026112205      2      4      1  yes       yes\n"),
            "{}",
            verdict.table()
        );
        for bad in ["", &good.replace("true", "false"), &good.replace("4,", "5,")] {
            let verdict = tag(bad);
            assert!(!verdict.good() && verdict.identical() == 1, "{bad}: {verdict:?}");
        }
        temp.file("store/log_data/web9_2026112205", "x\n");
        assert_eq!(tag(good).without_source, ["web9_2026112205"]);
        temp.file("store/log_data/web9_2026112205", "");
        assert!(tag(good).good());
        temp.file("store/log_data/web1_2026112205", "a\nc\n");
        let verdict = tag(good);
        assert!(!verdict.good() && verdict.identical() == 0, "{verdict:?}");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
