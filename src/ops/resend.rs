//! `logd resend CONFIG HOUR|FROM..TO|-`: has the follower of this host send hours, or packs of an hour, again.
//!
//! It leaves requests in the follower's state directory ([`resend`]) and looks first whether
//! they can be met, so that most refusals are told here and not in a log. It changes nothing else.

use super::out::{self, Out};
use super::{ERROR, NO, YES};
use crate::clock::{Hour, Zone};
use crate::config::value::{Kind, Value};
use crate::config::{Config, Failover, Role, SenderConfig};
use crate::disk::{self, Disk};
use crate::pack::{HourKey, decimal};
use crate::roles::follower::resend::{self, Request};
use crate::tail::pattern::Pattern;
use crate::tail::streams::{self, Found, full_name};
use crate::tail::undated::NOT_WHOLE;
use crate::tail::{Identity, unpack};
use crate::{instance, journal, state};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Hours of one command.
const HOURS_MAX: usize = 10_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// From this hour to that one, both included.
    Hours(Hour, Hour),
    /// Lines of `logd status --missing` on standard input.
    Lines,
}

/// All of the question.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Which hours.
    pub what: What,
    /// Of which stream; empty for `[tail]`.
    pub stream: &'a str,
    /// Packs of one hour, as ranges; none = all of it.
    pub packs: &'a [(u64, u64)],
    /// The address that whole hours have to go to, whichever is in use.
    pub to: Option<&'a str>,
}

/// `3-7,9` as ranges.
pub fn ranges(list: &str) -> Result<Vec<(u64, u64)>, String> {
    let number = |text: &str| decimal(text).filter(|n| *n > 0);
    list.split(',')
        .map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            match (number(from), number(to)) {
                (Some(from), Some(to)) if from <= to => Ok((from, to)),
                _ => Err(format!("{part:?} is no number and no range of pack numbers, such as 3-7")),
            }
        })
        .collect()
}

struct Host {
    disk: Disk,
    state_dir: PathBuf,
    streams: Vec<Found>,
    identity: Identity,
    zone: Zone,
    /// The address that the hours are for.
    to: Option<String>,
}

/// Leaves the requests; the exit code says whether all that was asked for can be sent.
pub fn run(config: &Path, asked: &Asked<'_>, out: &mut Out) -> u8 {
    let Asked { what, stream, packs, to } = *asked;
    crate::disk::make_readable();
    let host = match open(config, to) {
        Ok(host) => host,
        Err(why) => {
            out.complain(why);
            return ERROR;
        }
    };
    let asked = match what {
        What::Hours(from, to) => host
            .hours(from, to)
            .map(|hours| hours.into_iter().map(|hour| Request::new(stream, hour, packs.to_vec())).collect()),
        What::Lines => lines(&mut std::io::stdin().lock(), &host.identity.name, out),
    };
    match asked.and_then(|asked| host.ask(&asked, out)) {
        Ok(code) => code,
        Err(why) => {
            out.complain(format_args!("logd: resend: {why}"));
            ERROR
        }
    }
}

fn open(config: &Path, to: Option<&str>) -> Result<Host, String> {
    let (conf, _) = Config::load(config).and_then(|c| c.tail(false)).map_err(|errors| errors.to_string())?;
    let disk = Disk::real();
    let state_dir = state::resolve(&Role::Tail, conf.state_dir.as_deref());
    let say = |why: String| format!("logd: resend: {why}");
    let to = to.map(|addr| address(addr, &conf.sender)).transpose().map_err(say)?;
    let place = Identity::path(&state_dir, "");
    let identity = match Identity::load(&disk, &place).map_err(|e| say(super::rights(&e)))? {
        Some(Ok(identity)) => identity,
        Some(Err(why)) => return Err(say(format!("{why}; its next start makes it again"))),
        None => {
            return Err(say(format!(
                "{}: no follower has served there; give the config of this host's follower, and run it as its user",
                state_dir.display()
            )));
        }
    };
    let zone = Zone::named(&identity.zone).map_err(|e| say(e.clone()))?;
    let known = streams::known_files(&disk, &state_dir);
    let (streams, _) =
        streams::find(&disk, &streams::sources(&conf).map_err(say)?, &identity.name, &state_dir, &known);
    Ok(Host { disk, state_dir, streams, identity, zone, to })
}

/// The address as the config means it.
fn address(text: &str, conf: &SenderConfig) -> Result<String, String> {
    let known = |addr: &String| conf.send_to.contains(addr);
    let addr = match Kind::Addresses.parse(text) {
        Ok(Value::Text(addr)) => Some(addr).filter(known),
        _ => None,
    };
    let addr = addr.ok_or_else(|| format!("--to {text}: send_to names {}", conf.send_to.join(", ")))?;
    if conf.failover == Failover::Any {
        return Err("--to: with failover = any no hour is bound to an address".into());
    }
    Ok(addr)
}

/// `HOST HOUR [RANGES]`, as `logd status --missing` prints them. Lines of other hosts are counted and left out.
fn lines(from: &mut dyn BufRead, name: &str, out: &mut Out) -> Result<Vec<Request>, String> {
    let (mut asked, mut others) = (Vec::new(), 0_usize);
    for (n, line) in (1..).zip(from.lines()) {
        let line = line.map_err(|e| format!("standard input, line {n}: {e}"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (host, hour, packs) = match words.as_slice() {
            [] => continue,
            [host, hour] => (host, hour, Vec::new()),
            [host, hour, list] => {
                (host, hour, ranges(list).map_err(|e| format!("standard input, line {n}: {e}"))?)
            }
            _ => {
                return Err(format!(
                    "standard input, line {n}: {line:?} is not `HOST HOUR` or `HOST HOUR FROM-TO,…`, as \
                     `logd status --missing` prints it"
                ));
            }
        };
        let Some(hour) = Hour::parse(hour) else {
            return Err(format!(
                "standard input, line {n}: {hour:?} is no hour YYYYMMDDHH and no day YYYYMMDD"
            ));
        };
        // A stream of this host has its name before a `+`.
        match host.strip_prefix(name).map(|rest| rest.strip_prefix('+').unwrap_or(rest)) {
            Some(stream) if full_name(name, stream) == *host => asked.push(Request::new(stream, hour, packs)),
            _ => others = others.saturating_add(1),
        }
    }
    if others > 0 {
        out.complain(format_args!(
            "logd: resend: {} of other hosts left out; this one is {name}",
            out::count(others, "line")
        ));
    }
    Ok(asked)
}

impl Host {
    fn hours(&self, from: Hour, to: Hour) -> Result<Vec<Hour>, String> {
        let mut hours = vec![from];
        let mut hour = from;
        while hour < to {
            let next = self.zone.next(hour);
            if next <= hour || hours.len() >= HOURS_MAX {
                return Err(format!("{from}..{to}: more than {HOURS_MAX} hours; ask for them in parts"));
            }
            // An hour that the clock skips has no name and no file.
            hours.extend((next <= to).then_some(next));
            hour = next;
        }
        Ok(hours)
    }

    fn ask(&self, asked: &[Request], out: &mut Out) -> Result<u8, String> {
        let text = |e: disk::Error| super::rights(&e);
        let (mut left, mut refused) = (0_usize, 0_usize);
        for request in asked {
            let packs = &request.packs;
            let key = request.key(&self.identity.name);
            let problem = match self.streams.iter().find(|f| f.stream == request.stream) {
                None => Ok(Some(self.no_stream(&request.stream))),
                Some(found) if packs.is_empty() => self.no_hour(&key, &found.pattern),
                Some(_) if self.to.is_some() => {
                    Ok(Some("--to is for whole hours: packs go where their hour is".into()))
                }
                Some(_) => self.no_packs(&key, packs),
            };
            if let Some(why) = problem.map_err(text)? {
                out.line(format_args!("{key}: cannot be sent again: {why}"));
                refused = refused.saturating_add(1);
                continue;
            }
            let request = request.clone().bound_to(self.to.clone());
            request.save(&self.disk, &self.state_dir).map_err(text)?;
            let what = if packs.is_empty() {
                "all of it".to_owned()
            } else {
                format!("packs {}", out::ranges(packs))
            };
            let to = self.to.as_ref().map_or(String::new(), |addr| format!(", for {addr}"));
            out.line(format_args!("{key}: asked for: {what}{to}"));
            left = left.saturating_add(1);
        }
        if asked.is_empty() {
            out.line(format_args!("nothing of {} is asked for", self.identity.name));
        }
        if left > 0 {
            let when = if instance::is_running(&self.state_dir) == Some(true) {
                "the running follower takes it up within seconds and says so in its log"
            } else {
                "no follower runs: it is taken up at its next start"
            };
            out.line(when);
        }
        Ok(if refused > 0 { NO } else { YES })
    }

    fn no_stream(&self, stream: &str) -> String {
        let mut names: Vec<&str> = self.streams.iter().map(|f| f.stream.as_str()).collect();
        names.retain(|n| !n.is_empty());
        match (stream, names.as_slice()) {
            ("", names) => {
                format!("[tail] has no log_file of its own; give --stream, one of {}", names.join(", "))
            }
            (_, []) => format!("there is no stream {stream:?}: the config has none"),
            (_, names) => format!("there is no stream {stream:?}; there are {}", names.join(", ")),
        }
    }

    fn no_hour(&self, key: &HourKey, pattern: &Pattern) -> disk::Result<Option<String>> {
        if !pattern.is_dated() {
            return Ok(Some(NOT_WHOLE.to_owned()));
        }
        if key.hour.is_daily() != pattern.is_daily() {
            return Ok(Some("log_file names other files: an hour is YYYYMMDDHH, a day YYYYMMDD".into()));
        }
        let path = pattern.path(key.hour);
        if self.disk.stat(&path)?.is_some() {
            return Ok(None);
        }
        let packed = unpack::packed(&path);
        if self.disk.stat(&packed)?.is_none() {
            return Ok(Some(format!("neither {} nor {} is there", path.display(), packed.display())));
        }
        // Here and not in the follower, which must go on reading meanwhile.
        let dir = self.state_dir.join(unpack::DIR);
        self.disk.create_dir_all(&dir, 0o750)?;
        Ok(unpack::unpack(&self.disk, &packed, &unpack::place(&dir, key))?.err())
    }

    fn no_packs(&self, key: &HourKey, packs: &[(u64, u64)]) -> disk::Result<Option<String>> {
        let Some(log) = journal::peek_hour(&self.disk, &self.state_dir, key)? else {
            return Ok(Some("the journal does not know its packs; send the whole hour".into()));
        };
        match resend::chosen(&log, packs) {
            Ok(ids) => resend::gone(&self.disk, &log, &ids),
            Err(why) => Ok(Some(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::printed;
    use super::*;

    #[test]
    fn an_address_is_one_of_the_configs() {
        let conf = |keys: &str| {
            let text = format!("[tail]\nlog_file = /l.<%Y%m%d%H>\nsend_to = a:1, :2\n{keys}");
            Config::parse("t", text.as_bytes()).tail(false).unwrap().0.sender
        };
        assert_eq!(address(":2", &conf("")), Ok("localhost:2".into()));
        for wrong in ["a", "a:2", "a:1,:2", ""] {
            let why = address(wrong, &conf("")).unwrap_err();
            assert_eq!(why, format!("--to {wrong}: send_to names a:1, localhost:2"));
        }
        assert!(address("a:1", &conf("failover = any\n")).unwrap_err().contains("no hour is bound"));
    }

    #[test]
    fn lists_of_packs() {
        assert_eq!(ranges("3-7,9"), Ok(vec![(3, 7), (9, 9)]));
        for wrong in ["", "0", "7-3", "a", "1-", "1,,2", "-1"] {
            assert!(ranges(wrong).unwrap_err().contains("pack numbers"), "{wrong}");
        }
    }

    #[test]
    fn lines_of_status_are_read_and_other_hosts_left_out() {
        let text = "web1 2026112205\n\nweb2 2026112205 1-2\nweb1 2026112206 3-7,9\nweb1+err 2026112205\nweb11 2026112205\n";
        let hour = |h: &str| Hour::parse(h).unwrap();
        let (_, _, err) = printed(|out| {
            let found = lines(&mut text.as_bytes(), "web1", out).unwrap();
            let packs = vec![(3, 7), (9, 9)];
            let wanted =
                [("", "2026112205", vec![]), ("", "2026112206", packs), ("err", "2026112205", vec![])];
            assert_eq!(found, wanted.map(|(s, h, packs)| Request::new(s, hour(h), packs)));
            0
        });
        assert!(err.contains("2 lines of other hosts"), "{err}");
        printed(|out| {
            for (text, why) in [("web1 x\n", "line 1: \"x\" is no hour"), ("a b c d\n", "status --missing")] {
                assert!(lines(&mut text.as_bytes(), "web1", out).unwrap_err().contains(why));
            }
            0
        });
    }
}
