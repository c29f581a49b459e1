//! The hour files that the demo ships: made up, or found by a pattern.

use crate::clock::{Hour, Zone};
use crate::disk::Disk;
use crate::disk::sim::Rng;
use crate::name;
use crate::tail::pattern::Pattern;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const HOSTS: [&str; 3] = ["web1", "web2", "web3"];
const HOURS: usize = 4;
/// How far back hours are looked for: more than enough where the clock was put back.
const LOOK_BACK: i64 = 8;
const LINES_MIN: u64 = 5_000;
const LINES_SPREAD: u64 = 5_000;
/// The made-up lines are the same in every run, but for the hours.
const SEED: u64 = 20_261_122;

/// One source file whose hour is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HourFile {
    /// The hour in its name.
    pub hour: Hour,
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What it is called.
    pub name: String,
    /// The directory that it was found in.
    pub from: String,
    /// What its follower follows.
    pub log_file: String,
    /// Hours that are over, oldest first.
    pub hours: Vec<HourFile>,
    /// Hours that have a file and are not over: nobody can certify them yet.
    pub open: Vec<Hour>,
}

impl Host {
    fn new(name: String, from: &Path, log_file: String, zone: &Zone, now_ms: i64) -> Result<Self, String> {
        if log_file.matches(['<', '>']).count() > 2 {
            return Err(format!(
                "{}: a directory with < or > in its name cannot be followed",
                from.display()
            ));
        }
        let pattern = Pattern::parse(&log_file).map_err(|e| format!("{log_file}: {e}"))?;
        // A directory without files of that name is a host without hours.
        let found = pattern.existing(&Disk::real()).map_err(|e| e.to_string())?;
        let (mut hours, mut open) = (Vec::new(), Vec::new());
        for hour in found {
            let path = pattern.path(hour);
            if zone.ends_ms(hour).is_none_or(|end| end > now_ms) {
                open.push(hour);
                continue;
            }
            let bytes = std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?.len();
            hours.push(HourFile { hour, path, bytes });
        }
        Ok(Self { name, from: from.display().to_string(), log_file, hours, open })
    }
}

// ---- made up ----

/// Writes the last hours of a few pretended web servers below `dir`.
pub fn make(dir: &Path, zone: &Zone, now_ms: i64) -> Result<Vec<Host>, String> {
    let disk = Disk::real();
    let hours = last_hours(zone, now_ms);
    let mut rng = Rng::new(SEED);
    let mut hosts = Vec::new();
    for name in HOSTS {
        let own = dir.join(name);
        disk.create_dir_all(&own, 0o755).map_err(|e| e.to_string())?;
        let mut request = 0;
        for hour in &hours {
            let lines = rng.below(LINES_SPREAD).saturating_add(LINES_MIN);
            let text = access_log(name, *hour, zone, lines, &mut request, &mut rng);
            let file =
                disk.create(&own.join(format!("access.log.{hour}")), 0o644).map_err(|e| e.to_string())?;
            file.write_at(text.as_bytes(), 0).map_err(|e| e.to_string())?;
        }
        let log_file = format!("{}/access.log.<%Y%m%d%H>", own.display());
        hosts.push(Host::new(name.into(), &own, log_file, zone, now_ms)?);
    }
    Ok(hosts)
}

/// The last hours that are over, oldest first. In autumn an hour's name comes twice; it counts once.
fn last_hours(zone: &Zone, now_ms: i64) -> Vec<Hour> {
    let mut out: Vec<Hour> = Vec::new();
    for back in 1..=LOOK_BACK {
        let hour = zone.hour_at(now_ms.saturating_sub(back.saturating_mul(3_600_000)));
        let over = zone.ends_ms(hour).is_some_and(|e| e <= now_ms);
        if over && !out.contains(&hour) && out.len() < HOURS {
            out.push(hour);
        }
    }
    out.reverse();
    out
}

/// Lines as a web server writes them, no two of them alike.
fn access_log(host: &str, hour: Hour, zone: &Zone, lines: u64, request: &mut u64, rng: &mut Rng) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const PAGES: [&str; 6] = ["/", "/search", "/products", "/cart", "/static/app.js", "/img/logo.png"];
    const AGENTS: [&str; 3] = [
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15",
        "curl/8.14.1",
    ];
    let pick = |list: &[&'static str], n: u64| -> &'static str {
        list.get((n as usize).checked_rem(list.len()).unwrap_or(0)).copied().unwrap_or_default()
    };
    let month = pick(&MONTHS, u64::try_from(hour.month().saturating_sub(1)).unwrap_or(0));
    let start = zone.starts_ms(hour).unwrap_or(0);
    let utc = Zone::named("UTC").ok().and_then(|z| z.starts_ms(hour)).unwrap_or(start);
    let offset_min = utc.saturating_sub(start) / 60_000;
    let (sign, off) = (if offset_min < 0 { '-' } else { '+' }, offset_min.abs());
    let mut text = String::new();
    for i in 0..lines {
        *request = request.saturating_add(1);
        let second = i.saturating_mul(3600).checked_div(lines).unwrap_or(0);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "198.51.100.{} - - [{:02}/{month}/{:04}:{:02}:{:02}:{:02} {sign}{:02}{:02}] \"GET {}?id={:08x} HTTP/1.1\" {} {} \
             \"https://www.example.com/\" \"{}\" {host}-{request:06}",
            rng.below(256),
            hour.day(),
            hour.year(),
            hour.hour().unwrap_or(0),
            second / 60,
            second % 60,
            off / 60,
            off % 60,
            pick(&PAGES, rng.next_u64()),
            rng.next_u64() as u32,
            if rng.chance(95) { 200 } else { 404 },
            rng.below(90_000),
            pick(&AGENTS, rng.next_u64()),
        );
    }
    text
}

// ---- found ----

/// The hosts whose files match `text`, a `log_file` in which directories may hold `*`: one host per directory.
pub fn find(text: &str, zone: &Zone, now_ms: i64) -> Result<Vec<Host>, String> {
    let whole = if text.starts_with('/') {
        text.to_owned()
    } else {
        let cwd = std::env::current_dir().map_err(|e| format!("the working directory: {e}"))?;
        format!("{}/{text}", cwd.display())
    };
    // Checked before anything is looked for: its message names what is wrong with it.
    let pattern = Pattern::parse(&whole).and_then(|p| {
        if p.is_dated() { Ok(p) } else { Err("there is no <%Y%m%d%H> in the path".to_owned()) }
    });
    pattern.map_err(|e| format!("{text}: {e}; such as 'logs/web*/access.log.<%Y%m%d%H>'"))?;
    let lead = whole.split('<').next().unwrap_or_default();
    let (dirs, _) = lead.rsplit_once('/').unwrap_or_default();
    let file = whole.get(dirs.len().saturating_add(1)..).unwrap_or_default();
    if file.contains('*') {
        return Err(format!("{text}: a * may stand only in the directories before the file's name"));
    }
    let mut hosts: Vec<Host> = Vec::new();
    let mut open = 0_usize;
    for (name, dir) in directories(dirs)? {
        let name = unused(&name, &hosts);
        let host = Host::new(name, &dir, format!("{}/{file}", dir.display()), zone, now_ms)?;
        open = open.saturating_add(host.open.len());
        if !host.hours.is_empty() {
            hosts.push(host);
        }
    }
    match (hosts.is_empty(), open) {
        (false, _) => Ok(hosts),
        (true, 0) => Err(format!("{text}: no file matches")),
        (true, _) => {
            Err(format!("{text}: all hours of the matching files are not over yet; nothing to certify"))
        }
    }
}

/// The directories that match, each with what its `*` stood for: that tells one host from the other.
fn directories(pattern: &str) -> Result<Vec<(String, PathBuf)>, String> {
    let mut found = vec![(Vec::<String>::new(), PathBuf::from("/"))];
    for part in pattern.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let mut next = Vec::new();
        for (names, dir) in found {
            if !part.contains('*') {
                next.push((names, dir.join(part)));
                continue;
            }
            let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            for entry in entries {
                let name = entry.map_err(|e| format!("{}: {e}", dir.display()))?.file_name();
                // A name that is no text cannot be written into a config.
                let Some(name) = name.to_str() else { continue };
                if fits(part, name) && dir.join(name).is_dir() {
                    let mut names = names.clone();
                    names.push(name.to_owned());
                    next.push((names, dir.join(name)));
                }
            }
        }
        next.retain(|(_, dir)| part.contains('*') || dir.is_dir());
        if next.is_empty() {
            return Err(format!("no directory matches /{}", upto(pattern, part)));
        }
        next.sort();
        found = next;
    }
    Ok(found
        .into_iter()
        .map(|(names, dir)| {
            let last = || dir.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            (if names.is_empty() { last() } else { names.join("-") }, dir)
        })
        .collect())
}

/// A pattern of directories up to a part of it.
fn upto(pattern: &str, part: &str) -> String {
    let parts = pattern.split('/').filter(|p| !p.is_empty());
    let mut out: Vec<&str> = Vec::new();
    for p in parts {
        out.push(p);
        if p == part {
            break;
        }
    }
    out.join("/")
}

/// Does a name match a pattern with `*`? As in a shell, what is hidden must be asked for.
fn fits(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    if first.is_empty() && name.starts_with('.') {
        return false;
    }
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = rest.get(at.saturating_add(piece.len())..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A directory's name as a sender's name that no other host has.
fn unused(dir: &str, hosts: &[Host]) -> String {
    let taken = |n: &str| hosts.iter().any(|h| h.name == n);
    let name = clean(dir);
    if !taken(&name) {
        return name;
    }
    let base: String = name.chars().take(name::MAX_BYTES - 6).collect();
    (2..10_000).map(|n| format!("{base}-{n}")).find(|n| !taken(n)).unwrap_or(name)
}

/// The nearest valid sender's name.
fn clean(dir: &str) -> String {
    let mut out = String::new();
    for c in dir.chars() {
        let good = c.is_ascii_alphanumeric() || ".:+-".contains(c);
        let c = if good && !(c == '.' && out.ends_with('.')) { c } else { '-' };
        if out.len() < name::MAX_BYTES && (!out.is_empty() || c.is_ascii_alphanumeric()) {
            out.push(c);
        }
    }
    match out.as_str() {
        "" => "host".into(),
        "all" => "host-all".into(),
        _ => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        for (pattern, name) in [
            ("broker*", "broker0"),
            ("*", "x"),
            ("a*b*c", "a-b-b-c"),
            ("a*", "a"),
            ("x", "x"),
            (".*", ".x"),
            ("*a*a", "aa"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("broker*", "brok"),
            ("*", ".x"),
            ("a*b*c", "a-c-b"),
            ("x", "xy"),
            ("*a*a", "a"),
            ("ab*ba", "aba"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn every_directory_gets_a_valid_name_of_its_own() {
        let mut hosts: Vec<Host> = Vec::new();
        let long = "x".repeat(90);
        for dir in [
            "web1",
            "web_1",
            "web-1",
            "..",
            "all",
            "a..b",
            "é",
            "_",
            long.as_str(),
            long.as_str(),
            "10.0.0.7",
        ] {
            let name = unused(dir, &hosts);
            assert_eq!(name::problem(&name), None, "{dir:?}: {name:?}");
            assert!(hosts.iter().all(|h| h.name != name), "{dir:?}: {name:?}");
            let host =
                Host { name, from: String::new(), log_file: String::new(), hours: vec![], open: vec![] };
            hosts.push(host);
        }
        assert_eq!((hosts[0].name.as_str(), hosts[10].name.as_str()), ("web1", "10.0.0.7"));
    }

    #[test]
    fn made_up_hours_are_over_and_their_lines_unique() {
        let zone = Zone::named("America/New_York").unwrap();
        // An hour after the clock was put back: 01:00 came twice.
        let now = 1_793_518_200_000;
        let hours = last_hours(&zone, now);
        assert_eq!(hours.len(), HOURS);
        assert!(hours.windows(2).all(|w| w[0] < w[1]), "{hours:?}");
        assert!(hours.iter().all(|h| zone.ends_ms(*h).unwrap() <= now), "{hours:?}");
        let (mut request, mut rng) = (0, Rng::new(1));
        let text: String =
            hours.iter().map(|h| access_log("web1", *h, &zone, 500, &mut request, &mut rng)).collect();
        let unique: BTreeSet<&str> = text.lines().collect();
        assert_eq!((text.lines().count(), unique.len()), (2_000, 2_000));
        assert!(text.contains(" -0400] ") && text.ends_with('\n'), "{}", text.lines().next().unwrap());
    }
}
