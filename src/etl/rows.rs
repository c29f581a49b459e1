//! From lines to the files of one hour, in a directory aside. Memory is bounded whatever the hour's size and whatever its
//! lines ask for: rows wait in a few megabytes, and few files are open at once.
//!
//! A row is the columns with tabs between and a newline behind. Values are escaped ([`super::text`]), so that every tab and
//! newline of the file is one that separates, and the file is UTF-8.

use super::fields::{Record, Source};
use super::memo::Memo;
use super::rules::Rules;
use super::text;
use crate::disk::{self, Disk, File};
use crate::pack::hex;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Longest line, in bytes.
pub const LINE_MAX: usize = 1 << 20;
/// Rows of one file are written when so many bytes of them wait, and all when so many wait in all.
const FLUSH: usize = 256 << 10;
const WAITING: usize = 8 << 20;
/// Files that are open at once.
const OPEN: usize = 32;
/// Longest row, in bytes, with its newline: `DuckDB` reads as much of one without being asked.
const ROW_MAX: usize = 2_000_000;
/// What the folders of one hour may take: the bytes of their paths, and something for each. All of them are in memory together,
/// in several forms, when its marker is written.
const FOLDERS_MAX: usize = 6_000_000;
const FOLDER: usize = 300;
/// Longest part of a path that a value may become, in bytes; and what the hash at the end of a longer one takes.
const PART_MAX: usize = 180;
const HASH: usize = 17;
/// Longest name of a folder: more no file system of Linux takes.
const NAME_MAX: usize = 255;
/// Longest path of a folder below the tables' directory; with `save_dir` and the file's name it stays below the 4096 of Linux.
const FOLDER_MAX: usize = 3_000;
/// What stands for an empty value in a path.
const NONE: &[u8] = b"NONE";
const HIVE_NONE: &[u8] = b"__HIVE_DEFAULT_PARTITION__";

/// Reason of a rejected line.
const NO_PARTITION: &str = "it would need a partition more than max_partitions";
/// Reason of a rejected line.
const TOO_DEEP: &str = "the path of its folder would be longer than 3000 bytes";
const NO_ROOM: &str = "the folders of this hour's partitions would have names of more than 6 MB";
/// Reason of a rejected line.
const LONG_ROW: &str = "its row would be longer than 2 MB";
/// Reason of a rejected line.
const TOO_LONG: &str = "longer than 1 MiB";
/// Reason of a rejected line.
const EMPTY: &str = "empty line";

/// One file that was made, under a number in the directory aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Where it belongs, below the tables' directory, without the file's name.
    pub folder: String,
    /// Its number.
    pub number: usize,
    /// Rows.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// CRC-32 of the file.
    pub crc32: u32,
}

/// What became of the lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines read.
    pub lines: u64,
    /// Rows by kind.
    pub rows: BTreeMap<String, u64>,
    /// Lines that were not wanted: `host`, `address`, `kind`.
    pub filtered: BTreeMap<String, u64>,
    /// Lines that could not be read, by reason.
    pub rejected: BTreeMap<String, u64>,
}

impl Counts {
    /// All rejected lines.
    pub fn rejects(&self) -> u64 {
        self.rejected.values().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

#[derive(Default)]
struct Part {
    number: usize,
    waiting: Vec<u8>,
    file: Option<File>,
    bytes: u64,
    rows: u64,
    crc: crc32fast::Hasher,
    /// It was closed before it was synced: a write error may be forgotten by the kernel.
    closed: bool,
}

/// See the module's header.
pub struct Rows<'a> {
    disk: &'a Disk,
    dir: &'a Path,
    rules: &'a Rules,
    source: &'a Source,
    hive: bool,
    gzip: bool,
    max_parts: usize,
    mode: u32,
    parts: Vec<Part>,
    /// By folder, the number of its part.
    numbers: HashMap<Vec<u8>, usize>,
    near: Memo<Result<usize, &'static str>>,
    /// What the folders take, of [`FOLDERS_MAX`].
    folders: usize,
    rejects: Part,
    waiting: usize,
    open: usize,
    record: Record,
    key: Vec<u8>,
    path: Vec<u8>,
    scratch: Vec<u8>,
    /// For each kind, for each of its rules.
    known: Vec<Vec<Memo<bool>>>,
    skipping: bool,
    of_kind: Vec<u64>,
    /// What became of the lines; rows by kind are there at the end.
    pub counts: Counts,
}

/// How files are written.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Folders are `name=value`.
    pub hive: bool,
    /// Files are compressed.
    pub gzip: bool,
    /// Files of one hour, at most.
    pub max_parts: usize,
    /// Permission bits of files.
    pub mode: u32,
}

impl<'a> Rows<'a> {
    /// Begins an hour in the empty directory `dir`.
    pub fn new(disk: &'a Disk, dir: &'a Path, rules: &'a Rules, source: &'a Source, style: Style) -> Self {
        let many = rules.kinds.iter().map(|k| k.rules.len()).fold(0, usize::saturating_add);
        Self {
            disk,
            dir,
            rules,
            source,
            hive: style.hive,
            gzip: style.gzip,
            max_parts: style.max_parts,
            mode: style.mode,
            parts: Vec::new(),
            numbers: HashMap::new(),
            near: Memo::default(),
            folders: 0,
            rejects: Part::default(),
            waiting: 0,
            open: 0,
            record: Record::default(),
            key: Vec::new(),
            path: Vec::new(),
            scratch: Vec::new(),
            known: rules
                .kinds
                .iter()
                .map(|k| k.rules.iter().map(|_| Memo::of_many(many)).collect())
                .collect(),
            skipping: false,
            of_kind: vec![0; rules.kinds.len()],
            counts: Counts::default(),
        }
    }

    /// Takes the whole lines at the beginning of `text`; how many bytes that were. The last text of a file ends its last line.
    pub fn take(&mut self, text: &[u8], last: bool) -> disk::Result<usize> {
        let mut begin = 0_usize;
        for end in memchr::memchr_iter(b'\n', text) {
            let line = text.get(begin..end).unwrap_or_default();
            begin = end.saturating_add(1);
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            self.line(line)?;
        }
        let rest = text.get(begin..).unwrap_or_default();
        if rest.len() > LINE_MAX || last && !rest.is_empty() {
            if !self.skipping {
                self.line(rest)?;
            }
            // What follows belongs to the line that was rejected.
            self.skipping = true;
            begin = text.len();
        }
        Ok(begin)
    }

    fn line(&mut self, whole: &[u8]) -> disk::Result<()> {
        self.counts.lines = self.counts.lines.saturating_add(1);
        let line = whole.strip_suffix(b"\r").unwrap_or(whole);
        let rules = self.rules;
        if line.is_empty() {
            return self.reject(whole, EMPTY);
        }
        if line.len() > LINE_MAX {
            // How much more of it is in memory depends on how it was read.
            return self.reject(whole.get(..LINE_MAX).unwrap_or_default(), TOO_LONG);
        }
        if let Err(reason) = self.record.read(line, &rules.format, rules.need, &rules.spiders) {
            return self.reject(whole, reason);
        }
        let (source, record, scratch) = (self.source, &self.record, &mut self.scratch);
        if let Some(hosts) = &rules.hosts {
            let host = record.get(&super::fields::Field::Host, line, source, &rules.spiders, scratch);
            if !hosts.has(host) {
                self.filter("host");
                return Ok(());
            }
        }
        if !rules.addresses.is_empty()
            && record.addresses().into_iter().flatten().any(|a| rules.addresses.has(a))
        {
            self.filter("address");
            return Ok(());
        }
        let fits = |(kind, known): (&super::columns::Kind, &mut Vec<Memo<bool>>)| {
            kind.rules.iter().zip(known).all(|(r, known)| {
                let value = record.get(&r.field, line, source, &rules.spiders, scratch);
                known.of(value, || r.regex.is_match(value)) != r.not
            })
        };
        let Some(n) = rules.kinds.iter().zip(&mut self.known).position(fits) else {
            self.filter("kind");
            return Ok(());
        };
        let Some(kind) = rules.kinds.get(n) else { return Ok(()) };
        // Lines of one folder are told by their values, before these become a path.
        self.key.clear();
        self.key.extend_from_slice(&n.to_ne_bytes());
        for (_, field) in &kind.partitions {
            let value = record.get(field, line, source, &rules.spiders, scratch);
            self.key.extend_from_slice(&value.len().to_ne_bytes());
            self.key.extend_from_slice(value);
        }
        let (parts, numbers, path, hive) = (&mut self.parts, &mut self.numbers, &mut self.path, self.hive);
        let number = self.near.of(&self.key, || {
            path.clear();
            path.extend_from_slice(kind.name.as_bytes());
            for (name, field) in &kind.partitions {
                let value = record.get(field, line, source, &rules.spiders, scratch);
                put_folder(name, value, hive, path);
            }
            if path.len() > FOLDER_MAX {
                return Err(TOO_DEEP);
            }
            if let Some(number) = numbers.get(path) {
                return Ok(*number);
            }
            let (number, folders) =
                (parts.len(), self.folders.saturating_add(path.len()).saturating_add(FOLDER));
            if number >= self.max_parts {
                return Err(NO_PARTITION);
            }
            if folders > FOLDERS_MAX {
                return Err(NO_ROOM);
            }
            self.folders = folders;
            numbers.insert(path.clone(), number);
            parts.push(Part { number, ..Part::default() });
            Ok(number)
        });
        let number = match number {
            Ok(number) => number,
            Err(reason) => return self.reject(whole, reason),
        };
        let Some(part) = self.parts.get_mut(number) else { return Ok(()) };
        let before = part.waiting.len();
        for (i, field) in kind.columns.iter().enumerate() {
            if i > 0 {
                part.waiting.push(b'\t');
            }
            record.put(field, line, source, &rules.spiders, &mut part.waiting);
            if part.waiting.len().saturating_sub(before) >= ROW_MAX {
                part.waiting.truncate(before);
                part.waiting.shrink_to(FLUSH);
                return self.reject(whole, LONG_ROW);
            }
        }
        part.waiting.push(b'\n');
        part.rows = part.rows.saturating_add(1);
        if let Some(rows) = self.of_kind.get_mut(n) {
            *rows = rows.saturating_add(1);
        }
        let full = part.waiting.len() >= FLUSH;
        self.waiting = self.waiting.saturating_add(part.waiting.len().saturating_sub(before));
        if full {
            self.flush_one(number)?;
        } else if self.waiting >= WAITING {
            self.flush_all()?;
        }
        Ok(())
    }

    fn filter(&mut self, why: &str) {
        add(&mut self.counts.filtered, why);
    }

    /// The number of the line, the reason, and the line as it came.
    fn reject(&mut self, line: &[u8], reason: &str) -> disk::Result<()> {
        add(&mut self.counts.rejected, reason);
        let waiting = &mut self.rejects.waiting;
        // Writing to a vector cannot fail.
        let _ = write!(waiting, "{}\t{reason}\t", self.counts.lines);
        waiting.extend_from_slice(line);
        waiting.push(b'\n');
        self.rejects.rows = self.rejects.rows.saturating_add(1);
        if waiting.len() >= FLUSH { self.flush_rejects() } else { Ok(()) }
    }

    fn flush_rejects(&mut self) -> disk::Result<()> {
        self.rejects.flush(self.disk, &self.dir.join("reject"), false, self.mode).map(|_| ())
    }

    fn flush_one(&mut self, number: usize) -> disk::Result<()> {
        if self.open >= OPEN {
            self.close();
        }
        let Some(part) = self.parts.get_mut(number) else { return Ok(()) };
        self.waiting = self.waiting.saturating_sub(part.waiting.len());
        let path = self.dir.join(part.number.to_string());
        let opened = part.flush(self.disk, &path, self.gzip, self.mode)?;
        self.open = self.open.saturating_add(usize::from(opened));
        Ok(())
    }

    fn flush_all(&mut self) -> disk::Result<()> {
        let many = self.parts.len() > OPEN;
        for part in self.parts.iter_mut().filter(|p| !p.waiting.is_empty()) {
            let path = self.dir.join(part.number.to_string());
            let opened = part.flush(self.disk, &path, self.gzip, self.mode)?;
            self.open = self.open.saturating_add(usize::from(opened));
            if many {
                part.close();
                self.open = self.open.saturating_sub(1);
            }
        }
        self.waiting = 0;
        Ok(())
    }

    fn close(&mut self) {
        self.parts.iter_mut().for_each(Part::close);
        self.open = 0;
    }

    /// Writes out what waits and makes it durable, but not the names: the files, and whether there are rejected lines.
    pub fn finish(mut self) -> disk::Result<(Vec<Made>, bool, Counts)> {
        let (disk, dir) = (self.disk, self.dir);
        let mut made = Vec::new();
        for (folder, number) in std::mem::take(&mut self.numbers) {
            // A line that asked for a folder may have been rejected later.
            let Some(part) = self.parts.get_mut(number).filter(|p| p.rows > 0) else { continue };
            let path = dir.join(part.number.to_string());
            part.finish(disk, &path, self.gzip, self.mode)?;
            made.push(Made {
                // It is ASCII: `put_part` and the columns file see to it.
                folder: String::from_utf8_lossy(&folder).into_owned(),
                number: part.number,
                rows: part.rows,
                bytes: part.bytes,
                crc32: std::mem::take(&mut part.crc).finalize(),
            });
        }
        made.sort_by(|a, b| a.folder.cmp(&b.folder));
        let rejects = self.rejects.rows > 0;
        if rejects {
            self.rejects.finish(disk, &dir.join("reject"), false, self.mode)?;
        }
        let kinds = self.rules.kinds.iter().map(|k| k.name.clone());
        self.counts.rows = kinds.zip(self.of_kind.iter().copied()).collect();
        Ok((made, rejects, self.counts))
    }
}

impl Part {
    /// Writes what waits; whether the file was opened for it.
    fn flush(&mut self, disk: &Disk, path: &Path, gzip: bool, mode: u32) -> disk::Result<bool> {
        let opened = self.file.is_none();
        let file = match self.file.take() {
            Some(file) => file,
            None => disk.create(path, mode)?,
        };
        let packed;
        let bytes = if gzip {
            // Members one behind the other are a gzip file too, and no compressor must be kept for each file.
            let mut gz = GzEncoder::new(Vec::new(), Compression::default());
            packed = gz
                .write_all(&self.waiting)
                .and_then(|()| gz.finish())
                .map_err(|e| disk::Error::new("compress", path, e))?;
            &packed
        } else {
            &self.waiting
        };
        file.write_at(bytes, self.bytes)?;
        self.crc.update(bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.file = Some(file);
        self.waiting.clear();
        self.waiting.shrink_to(FLUSH.saturating_mul(2));
        Ok(opened)
    }

    fn close(&mut self) {
        if self.file.take().is_some() {
            self.closed = true;
            self.waiting = Vec::new();
        }
    }

    fn finish(&mut self, disk: &Disk, path: &Path, gzip: bool, mode: u32) -> disk::Result<()> {
        if !self.waiting.is_empty() || self.bytes == 0 {
            self.flush(disk, path, gzip, mode)?;
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => disk.open_rw(path)?,
        };
        file.sync()?;
        if self.closed && sum(&file)? != self.crc.clone().finalize() {
            let why = std::io::Error::other("it does not hold what was written to it");
            return Err(disk::Error::new("read back", path, why));
        }
        Ok(())
    }
}

fn sum(file: &File) -> disk::Result<u32> {
    let (mut crc, mut at, mut buf) = (crc32fast::Hasher::new(), 0_u64, vec![0; 64 << 10]);
    loop {
        let n = file.read_at(&mut buf, at)?;
        if n == 0 {
            return Ok(crc.finalize());
        }
        crc.update(buf.get(..n).unwrap_or_default());
        at = at.saturating_add(n as u64);
    }
}

fn add(counts: &mut BTreeMap<String, u64>, what: &str) {
    match counts.get_mut(what) {
        Some(n) => *n = n.saturating_add(1),
        None => drop(counts.insert(what.to_owned(), 1)),
    }
}

/// May it stand in a part of a path as it is?
fn is_namely(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.,+@~!$&();<> |".contains(&b)
}

/// Appends a folder of a path, and the slash before it.
fn put_folder(name: &str, value: &[u8], hive: bool, path: &mut Vec<u8>) {
    path.push(b'/');
    let folder = path.len();
    if hive {
        put_part(name.as_bytes(), PART_MAX, path);
        path.push(b'=');
    }
    // A reader that takes folders for columns must find UTF-8 there, too.
    let valid;
    let value = if std::str::from_utf8(value).is_ok() {
        value
    } else {
        valid = text::valid(value);
        &valid
    };
    let begin = path.len();
    match (value.is_empty(), hive) {
        (true, true) => path.extend_from_slice(HIVE_NONE),
        (true, false) => path.extend_from_slice(NONE),
        // The name of the column is in the folder's name, too.
        (false, _) => {
            let room = NAME_MAX.saturating_sub(begin.saturating_sub(folder)).saturating_sub(HASH);
            put_part(value, room.min(PART_MAX), path);
        }
    }
    // A name of one or two dots is a place; and Hive and Spark look into no folder that begins with a dot or a `_`.
    if !hive && let Some(first @ (b'.' | b'_')) = path.get(begin).copied() {
        let visible = if first == b'.' { *b"%2E" } else { *b"%5F" };
        path.splice(begin..begin.saturating_add(1), visible);
    }
}

/// A value as a part of a path, as Hive writes it: what could be anything but a name becomes `%HH`. A longer value than `max` is
/// cut there, and ends with a part of its SHA-256.
fn put_part(value: &[u8], max: usize, out: &mut Vec<u8>) {
    let begin = out.len();
    if value.len() <= max && value.iter().all(|b| is_namely(*b)) {
        out.extend_from_slice(value);
        return;
    }
    for b in value {
        if is_namely(*b) {
            out.push(*b);
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        if out.len().saturating_sub(begin) > max {
            out.truncate(begin.saturating_add(max));
            let sha = hex(&Sha256::digest(value));
            out.push(b'~');
            out.extend_from_slice(sha.get(..16).unwrap_or_default().as_bytes());
            return;
        }
    }
}

/// Where a file of an hour belongs.
pub fn file_of(tables: &Path, folder: &str, key: &str, gzip: bool) -> PathBuf {
    tables.join(folder).join(format!("{key}.tsv{}", if gzip { ".gz" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(value: &[u8]) -> String {
        let mut out = Vec::new();
        put_part(value, PART_MAX, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_of_a_path_is_one_name() {
        assert_eq!(part(b"www.hao123.com"), "www.hao123.com");
        assert_eq!(part(b"../a/b\0=%\xff\n"), "..%2Fa%2Fb%00%3D%25%FF%0A");
        let (a, b) = (part(&[b'/'; 300]), part(&[b'/'; 301]));
        assert!(a.len() <= PART_MAX + HASH && a != b && a[..180] == b[..180], "{a}");
    }
}
