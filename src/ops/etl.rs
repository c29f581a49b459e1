//! `logd etl CONFIG [FILE…|-]`: makes rows of the hours of a store that have none, or of given lines. It does what the role
//! `etlcollector` does, once, and never beside it.

use super::inventory::Filter;
use super::out::{self, Out};
use super::{ERROR, NO, YES};
use crate::clock::{Clock, Hour};
use crate::config::Config;
use crate::disk::{Disk, Error};
use crate::etl::fields::Source;
use crate::etl::tables::{Input, Outcome};
use crate::pack::{HourKey, hex};
use crate::roles::tables::{Etl, Turn, Which, describe};
use crate::state;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest name of rows that is made of a file's, in characters, without a hash.
const NAME_MAX: usize = 100;

/// One thing to read.
struct Given {
    /// As it was named; `-` is standard input.
    path: PathBuf,
    /// What its rows are called.
    name: String,
    source: Source,
}

/// What is asked.
pub struct Asked<'a> {
    /// What is to be read; none = the hours of the store.
    pub files: &'a [String],
    /// What the rows of a single file are called, as `HOST_HOUR`.
    pub name: Option<&'a str>,
    /// Hours that have rows, too.
    pub again: bool,
    /// Which hours of the store.
    pub hours: Filter,
}

/// Does it.
pub fn run(config: &Path, asked: &Asked, out: &mut Out) -> u8 {
    match all(config, asked, out) {
        Ok(code) => code,
        Err(why) => {
            out.complain(format_args!("logd: etl: {why}"));
            ERROR
        }
    }
}

fn all(config: &Path, asked: &Asked, out: &mut Out) -> Result<u8, String> {
    let (files, name) = (asked.files, asked.name);
    if !files.is_empty() && (asked.again || asked.hours.since.is_some()) {
        return Err("--again and --since go with the store's hours; a file is done anew in any case".into());
    }
    let conf = Config::load(config).and_then(|c| c.etl(false)).map_err(|e| format!("\n{e}"))?.0;
    let given = given(files, name)?;
    let (disk, clock) = (Disk::real(), Clock::real());
    let role = crate::config::Role::Etlcollector;
    let state_dir = state::resolve(&role, conf.store.state_dir.as_deref());
    let mut found = Vec::new();
    let etl = Etl::open(&disk, &conf, &state_dir, &mut |text| found.push(text))?;
    for text in found {
        out.complain(format_args!("logd: etl: {text}"));
    }
    let mut code = YES;
    let mut note = |good: bool| code = if good { code } else { NO };
    let room = || match disk.shortage(&conf.store.save_dir, conf.store.spool.min_free).map_err(say)? {
        Some(what) => Err(format!("{what}; what is not done yet is left as it was")),
        None => Ok(()),
    };
    if files.is_empty() {
        // What failed is tried again, whatever it failed of: somebody has asked for it.
        let which = if asked.again { Which::All } else { Which::Failed };
        let list = if disk.stat(&state_dir.join("closed")).map_err(say)?.is_some() {
            let mut list = etl.pending(which).map_err(say)?;
            list.retain(|key| asked.hours.takes(key));
            list.sort_by(|a, b| (a.hour, &a.name).cmp(&(b.hour, &b.name)));
            list
        } else {
            Vec::new()
        };
        if list.is_empty() {
            let of = if asked.hours.since.is_some() { " of that time" } else { "" };
            let what = if asked.again { "there is no" } else { "every" };
            let rest = if asked.again { "" } else { " has its rows" };
            out.complain(format_args!("logd: etl: {what} certified hour of the store{of}{rest}"));
        }
        let total = list.len();
        for (n, key) in list.iter().enumerate() {
            let mut stop = |bytes: u64| {
                out.progress(&|| {
                    format!("etl: hour {} of {total}, {key}: {}", n.saturating_add(1), out::bytes(bytes))
                });
                false
            };
            room()?;
            match etl.hour(key, which, clock.now_secs(), &mut stop).map_err(say)? {
                Turn::Nothing | Turn::Stopped => {}
                Turn::Done(text) => out.line(text),
                Turn::Failed(text) => {
                    note(false);
                    out.line(text);
                }
                Turn::Again(text) => {
                    note(false);
                    out.line(format_args!("{text}; run it again when that is mended"));
                }
            }
        }
        return Ok(code);
    }
    let rules = etl.rules();
    for (n, one) in given.iter().enumerate() {
        room()?;
        let (mut lines, size) = open(&one.path)?;
        // An hour of the store, if the bytes are those that were certified.
        let origin =
            HourKey::parse(&one.name).map(|key| etl.origin(&key)).transpose().map_err(say)?.flatten();
        let mut input = Input {
            name: &one.name,
            source: one.source.clone(),
            lines: &mut *lines,
            path: &one.path,
            origin: origin.unwrap_or_default(),
            exact: false,
        };
        let mut stop = |bytes: u64| {
            out.progress(&|| bar(n, given.len(), &one.name, bytes, size));
            false
        };
        let outcome = etl
            .tables()
            .run(&mut input, &rules, clock.now_secs(), &mut stop)
            .map_err(|e| format!("{}: {e}", one.name))?;
        note(matches!(outcome, Outcome::Done(_)));
        out.line(format_args!("{}: {}", one.name, describe(&outcome)));
    }
    Ok(code)
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn say(e: Error) -> String {
    e.to_string()
}

/// `[=====     ] 52 %`, where the size is known.
fn bar(n: usize, of: usize, name: &str, bytes: u64, size: Option<u64>) -> String {
    const WIDTH: usize = 30;
    let read = out::bytes(bytes);
    let place = format!("etl: {} of {of}, {name}", n.saturating_add(1));
    let Some(percent) = size.and_then(|s| bytes.saturating_mul(100).checked_div(s)) else {
        return format!("{place}: {read}");
    };
    let full = (percent as usize).min(100).saturating_mul(WIDTH) / 100;
    let (done, rest) = ("=".repeat(full), " ".repeat(WIDTH.saturating_sub(full)));
    format!("{place}: [{done}{rest}] {} %, {read}", percent.min(100))
}

/// The lines, and how many bytes they are, if that is known.
fn open(path: &Path) -> Result<(Box<dyn Read>, Option<u64>), String> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let meta = file.metadata().map_err(|e| format!("{}: {e}", path.display()))?;
    if meta.is_dir() {
        return Err(format!("{}: a directory; name its files", path.display()));
    }
    if path.extension().is_some_and(|e| e == "gz") {
        return Ok((Box::new(MultiGzDecoder::new(file)), None));
    }
    Ok((Box::new(file), meta.is_file().then_some(meta.len())))
}

/// What the rows of each file are called. A file of a store has a good name; of any other its own is made one.
fn given(files: &[String], name: Option<&str>) -> Result<Vec<Given>, String> {
    if name.is_some() && files.len() != 1 {
        return Err("--name goes with one file, or with -".into());
    }
    let mut all: Vec<Given> = Vec::new();
    for file in files {
        let path = PathBuf::from(file);
        let base = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let base = base.filter(|n| n != "-").unwrap_or_else(|| "stdin".into());
        let base = name.map_or(base.strip_suffix(".gz").unwrap_or(&base), |n| n);
        let (name, source) = if let Some(key) = HourKey::parse(base) {
            (base.to_owned(), Source { name: key.name, hour: key.hour.to_string() })
        } else if name.is_some() {
            return Err(format!("--name {base:?}: it is HOST_HOUR, such as web1_2026112205"));
        } else {
            let plain = |c: char| if c.is_ascii_alphanumeric() || ".-+:".contains(c) { c } else { '-' };
            let hour = base.rsplit('.').next().and_then(Hour::parse);
            let clean: String = base.chars().map(plain).take(NAME_MAX).collect();
            let mut clean = clean.trim_start_matches(['.', '-']).to_owned();
            // Another file's name may become the same.
            if clean != base && !clean.is_empty() {
                let sha = hex(&Sha256::digest(base.as_bytes()));
                clean = format!("{clean}-{}", sha.get(..8).unwrap_or_default());
            }
            (clean, Source { name: String::new(), hour: hour.map(|h| h.to_string()).unwrap_or_default() })
        };
        if name.is_empty() {
            return Err(format!("{file:?}: no letter or digit in its name; use --name HOST_HOUR"));
        }
        if all.iter().any(|g| g.name == name) {
            return Err(format!(
                "{file:?}: the rows of another file are called {name} too, and would be replaced"
            ));
        }
        all.push(Given { path, name, source });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_get_names() {
        let names = |files: &[&str], name| {
            let files: Vec<String> = files.iter().map(|&f| f.to_owned()).collect();
            given(&files, name).map(|all| {
                all.into_iter()
                    .map(|g| format!("{} {} {}", g.name, g.source.name, g.source.hour))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(
            names(&["/s/log_data/web1_2026112205"], None).unwrap(),
            ["web1_2026112205 web1 2026112205"]
        );
        assert_eq!(
            names(&["a/access.log.2026112205.gz", "-"], None).unwrap(),
            ["access.log.2026112205  2026112205", "stdin  "]
        );
        assert_eq!(names(&["-"], Some("w_20261122")).unwrap(), ["w_20261122 w 20261122"]);
        let changed = names(&[".a_b c", "a/a.b_c", "a-b-c"], None).unwrap();
        assert!(changed[0].starts_with("a-b-c-") && changed[2] == "a-b-c  ", "{changed:?}");
        let long = |end: &str| format!("{}{end}", "x".repeat(150));
        let [a, b] = ["a", "b"].map(|end| names(&[&long(end)], None).unwrap().remove(0));
        assert!(a != b && a.len() < 120, "{a} {b}");
        assert!(names(&["-"], Some("w")).unwrap_err().contains("HOST_HOUR"));
        assert!(names(&["a/x", "b/x"], None).unwrap_err().contains("another file"));
        assert!(names(&["..."], None).unwrap_err().contains("no letter"));
        assert!(names(&["a", "b"], Some("w_20261122")).unwrap_err().contains("one file"));
    }

    #[test]
    fn a_bar_has_an_end() {
        assert_eq!(
            bar(0, 2, "x", 50, Some(100)),
            format!("etl: 1 of 2, x: [{}{}] 50 %, 50 B", "=".repeat(15), " ".repeat(15))
        );
        assert!(bar(0, 1, "x", 500, Some(100)).contains("] 100 %"));
        assert!(bar(0, 1, "x", 5, Some(0)).ends_with("x: 5 B"));
    }
}
