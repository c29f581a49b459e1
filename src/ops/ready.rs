//! `logd ready CONFIG HOUR`: may the batch job of this hour start? Yes, if the hour of every name in `hosts_file` has a
//! tag. The tags are asked and not the fleet's `all_<hour>`, so that it also works on a store whose collector is down.

use super::hour::{self, Row, State};
use super::inventory::{Filter, Inventory, tagged};
use super::out::{self, Out};
use super::{ERROR, NO, YES};
use crate::clock::{Clock, Hour};
use crate::config::{Config, StoreConfig};
use crate::disk::{self, Disk};
use crate::integrity::lines::{Line, Reader};
use crate::integrity::{Certificate, Store};
use crate::inventory::hosts::read_hosts;
use crate::inventory::known::Known;
use crate::pack::HourKey;
use crate::record;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const POLL: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How long to wait for a yes.
    pub wait_ms: u64,
    /// Empty and unverified hours do not count.
    pub strict: bool,
}

/// Answers with the exit code, and names the hosts that are not there.
pub fn run(config: &Path, hour: Hour, options: &Options, out: &mut Out) -> u8 {
    answer(config, hour, options, &Clock::real(), &mut std::thread::sleep, out)
}

fn answer(
    config: &Path,
    hour: Hour,
    options: &Options,
    clock: &Clock,
    sleep: &mut dyn FnMut(Duration),
    out: &mut Out,
) -> u8 {
    let (store, hosts) = match expected(config, hour) {
        Ok(found) => found,
        Err(why) => {
            out.complain(why);
            return ERROR;
        }
    };
    let disk = Disk::real();
    let started = clock.mono_ms();
    loop {
        let rest = match rest(&disk, &store, hour, &hosts, options.strict) {
            Ok(rest) => rest,
            Err(why) => {
                out.complain(format_args!("logd: ready: {why}"));
                return ERROR;
            }
        };
        let none_whole = rest.len() == hosts.len();
        let (rest, known) = match settled(&disk, &store, rest, options.strict) {
            Ok(found) => found,
            Err(why) => {
                out.complain(format_args!("logd: ready: {why}"));
                return ERROR;
            }
        };
        if rest.is_empty() {
            if none_whole && known.is_empty() {
                // As with an emptied hosts_file: nothing at all would start every batch job.
                out.complain(format_args!(
                    "logd: ready: hosts_file {}: every host in it that is expected to have {hour} is retired, and nothing of it is \
                     here; list a host that still sends",
                    store.hosts_file.as_deref().unwrap_or(Path::new("")).display()
                ));
                return ERROR;
            }
            for (key, said) in known {
                out.complain(format_args!("{}: known loss: {said}", key.name));
            }
            return YES;
        }
        let waited = clock.mono_ms().saturating_sub(started);
        if waited >= options.wait_ms {
            return tell(&disk, &store, hour, (&rest, hosts.len()), waited, out);
        }
        let count = rest.len();
        out.progress(&|| {
            format!("ready: {hour}: waiting for {} of {}", count, out::count(hosts.len(), "host"))
        });
        // The last look is at the end of the time, not a second before it.
        sleep(POLL.min(Duration::from_millis(options.wait_ms.saturating_sub(waited))));
    }
}

fn expected(path: &Path, hour: Hour) -> Result<(StoreConfig, Vec<String>), String> {
    let config = Config::load(path).map_err(|e| e.to_string())?;
    let (_, store) = config.any_store(false).map_err(|e| e.to_string())?;
    let Some(file) = &store.hosts_file else {
        return Err(format!(
            "logd: ready: {}: [fcollector] hosts_file is not set; without it nobody knows which hosts to expect; \
             list their names in a file, one a line",
            path.display()
        ));
    };
    let hosts = read_hosts(file).map_err(|why| format!("logd: ready: {why}; `logd check` tells more"))?;
    if hosts.is_empty() {
        // Else an emptied file would start every batch job at once.
        return Err(format!(
            "logd: ready: hosts_file {}: names no host; list the expected ones",
            file.display()
        ));
    }
    let names: Vec<String> = hosts.into_iter().filter(|host| host.has(hour)).map(|host| host.name).collect();
    if names.is_empty() {
        return Err(format!(
            "logd: ready: hosts_file {}: no host in it is expected to have {hour} already",
            file.display()
        ));
    }
    Ok((store, names))
}

/// The expected hosts whose hour does not count as whole. One listing a look.
fn rest(
    disk: &Disk,
    store: &StoreConfig,
    hour: Hour,
    hosts: &[String],
    strict: bool,
) -> Result<Vec<HourKey>, String> {
    let dir = store.save_dir.join("received");
    let names = match disk.list(&dir) {
        Ok(names) => names,
        Err(e) if e.not_found() => {
            // A store that got nothing yet has no such directory; a wrong save_dir has none either.
            let there = disk.stat(&store.save_dir).map_err(|e| e.to_string())?.is_some_and(|s| s.is_dir);
            if !there {
                return Err(format!(
                    "save_dir {}: no such directory; is it the right config?",
                    store.save_dir.display()
                ));
            }
            Vec::new()
        }
        Err(e) => return Err(e.to_string()),
    };
    let tags: BTreeMap<HourKey, &str> = names
        .iter()
        .filter_map(|e| Some((HourKey::parse(tagged(&e.name)?)?, e.name.as_str())))
        .filter(|(k, _)| k.hour == hour)
        .collect();
    let mut open = Vec::new();
    for key in hosts.iter().map(|name| HourKey { name: name.clone(), hour }) {
        let Some(tag) = tags.get(&key) else {
            open.push(key);
            continue;
        };
        let bytes = disk.read(&dir.join(tag), 1 << 20).map_err(|e| e.to_string())?;
        // The original's tags are empty files; one of ours that does not hold proves nothing.
        let cert = record::from_json::<Certificate>(&bytes).ok();
        let whole = match cert {
            // Somebody may have copied or renamed it.
            Some(c) => c.format == 1 && c.tag_name() == **tag && (!strict || (c.verified && !c.empty)),
            None => !strict && bytes.is_empty() && !is_ours(disk, store, &key).map_err(|e| e.to_string())?,
        };
        if !whole {
            open.push(key);
        }
    }
    open.sort();
    Ok(open)
}

/// Is the hour's proof one of ours? Then an empty tag is none that the original has written.
fn is_ours(disk: &Disk, store: &StoreConfig, key: &HourKey) -> disk::Result<bool> {
    let place = Store::new(disk, &store.save_dir, Path::new(""), 0o644, 0o755).place(key);
    Ok(matches!(Reader::open(disk, &place.headers)?.next()?, Some((_, Line::Ours(_)))))
}

/// Without those of whom an operator has said that nothing more is to come; and these, with his words.
#[allow(clippy::type_complexity)]
fn settled(
    disk: &Disk,
    store: &StoreConfig,
    rest: Vec<HourKey>,
    strict: bool,
) -> Result<(Vec<HourKey>, Vec<(HourKey, String)>), String> {
    if rest.is_empty() {
        // What cannot be read there is no matter of whole hours.
        return Ok((rest, Vec::new()));
    }
    let known = Known::read(disk, &store.save_dir).map_err(|e| e.to_string())?;
    if !rest.iter().any(|key| known.has(key)) {
        return Ok((rest, Vec::new()));
    }
    let since = rest.iter().map(|key| key.hour).min();
    let inv = Inventory::read(disk, &store.save_dir, &Filter { host: None, since })?;
    let (mut open, mut said) = (Vec::new(), Vec::new());
    for key in rest {
        let is_there = inv.hours.contains_key(&key);
        if !is_there && known.is_retired(&key) {
            continue;
        }
        if strict {
            open.push(key);
            continue;
        }
        let mut row = if is_there {
            hour::judge(&inv, &key, None).map_err(|e| e.to_string())?
        } else {
            Row::new(&key, State::Silent)
        };
        known.settle(&mut row);
        match row.known {
            Some(_) => said.push((key, row.why())),
            None => open.push(key),
        }
    }
    Ok((open, said))
}

fn tell(
    disk: &Disk,
    store: &StoreConfig,
    hour: Hour,
    (rest, all): (&[HourKey], usize),
    waited: u64,
    out: &mut Out,
) -> u8 {
    let filter = Filter { host: None, since: Some(hour) };
    let inv = Inventory::read(disk, &store.save_dir, &filter).ok();
    for key in rest {
        let row =
            inv.as_ref().filter(|inv| inv.hours.contains_key(key)).map(|inv| hour::judge(inv, key, None));
        out.line(format_args!(
            "{}: {}",
            key.name,
            match row {
                Some(Ok(row)) => why(&row),
                Some(Err(e)) => format!("cannot read: {e}"),
                None => "no data".into(),
            }
        ));
    }
    let after = if waited > 0 { format!(" after {}", out::duration(waited)) } else { String::new() };
    out.complain(format_args!(
        "logd: ready: {hour}: {} of {} not whole{after}; `logd status CONFIG --since {hour}` tells what to do",
        rest.len(),
        out::count(all, "host")
    ));
    NO
}

fn why(row: &Row) -> String {
    let more = row.state.doubtful() && row.state != State::Doubtful;
    if more { format!("doubtful: {}", row.why()) } else { row.why() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Build, Temp, hour, printed};
    use super::*;

    const PACKS: &[&str] = &["a\n", "b\n"];

    fn config(temp: &Temp, hosts: &str) -> std::path::PathBuf {
        let hosts = temp.file("hosts", hosts);
        let text = format!(
            "[fcollector]\nlisten = :1\nallow = any\nsave_dir = {}\nhosts_file = {}\n",
            temp.path("save").display(),
            hosts.display()
        );
        std::fs::create_dir_all(temp.path("save")).unwrap();
        temp.file("c.ini", &text)
    }

    fn ready(temp: &Temp, hosts: &str, strict: bool) -> (u8, String, String) {
        let config = config(temp, hosts);
        let options = Options { wait_ms: 0, strict };
        printed(|out| run(&config, hour("2026112205"), &options, out))
    }

    /// Each was a yes, and `verify` called it wrong.
    #[test]
    fn a_tag_that_was_emptied_or_renamed_is_none() {
        let temp = Temp::new();
        let save = temp.path("save");
        Build::new("web1_2026112205", PACKS).certify(&save);
        let tag = save.join("received/web1_2026112205_2");
        assert_eq!(ready(&temp, "web1\n", false).0, YES);
        std::fs::rename(&tag, save.join("received/web1_2026112205_5")).unwrap();
        assert_eq!(ready(&temp, "web1\n", false).0, NO);
        std::fs::remove_file(save.join("received/web1_2026112205_5")).unwrap();
        std::fs::write(&tag, "").unwrap();
        assert_eq!(ready(&temp, "web1\n", false).0, NO);
    }

    #[test]
    fn yes_is_silent_and_no_names_the_rest() {
        let temp = Temp::new();
        let save = temp.path("save");
        let (code, out, err) = ready(&temp, "web1\n", false);
        assert_eq!((code, out.as_str()), (NO, "web1: no data\n"));
        assert!(err.contains("1 of 1 host not whole"), "{err}");
        Build::new("web1_2026112205", PACKS).certify(&save);
        assert_eq!(ready(&temp, "web1\n", false), (YES, String::new(), String::new()));
        assert_eq!(ready(&temp, "web1\n", true).0, YES);
        // Another hour, or another host with a longer name, is no tag of this one.
        Build::new("web2_2026112204", PACKS).certify(&save);
        Build::new("web20_2026112205", PACKS).certify(&save);
        Build { done: false, ..Build::new("web3_2026112205", PACKS) }.store(&save);
        Build { state: "partial", ..Build::new("web4_2026112205", PACKS) }.certify(&save);
        temp.file("save/received/web2_20261122", "{}");
        let (code, out, _) = ready(&temp, "web1\nweb2\nweb3\nweb4\n", false);
        assert_eq!((code, out.as_str()), (NO, "web2: no data\nweb3: open\nweb4: doubtful: partial\n"));
    }

    /// Nobody waits for more of it, but what is there must be right all the same.
    #[test]
    fn a_retired_hosts_damaged_hour_is_no_yes() {
        let temp = Temp::new();
        let save = temp.path("save");
        Build::new("web1_2026112205", PACKS).certify(&save);
        let since = Some(hour("2026112200"));
        for host in ["web2", "web3", "web4"] {
            let said = printed(|out| {
                super::super::accept::retire(&config(&temp, "web1\n"), host, (since, "scrapped"), out)
            });
            assert_eq!(said.0, YES, "{said:?}");
        }
        let hosts = "web1\nweb2\nweb3\n";
        assert_eq!(ready(&temp, hosts, false), (YES, String::new(), String::new()));
        Build { done: false, ..Build::new("web3_2026112205", PACKS) }.store(&save);
        let (code, _, err) = ready(&temp, hosts, false);
        assert!(code == YES && err.contains("web3: known loss: open; web3 was retired"), "{err}");
        assert_eq!(ready(&temp, hosts, true).0, NO);
        Build::new("web4_2026112205", PACKS).store(&save);
        std::fs::write(save.join("log_data/web4_2026112205"), "x").unwrap();
        let (code, out, _) = ready(&temp, "web1\nweb4\n", false);
        assert!(code == NO && out.starts_with("web4: damaged"), "{out}");
    }

    /// It was a yes for every hour, even of the year 2099. And a file there that nobody can read stopped whole hours.
    #[test]
    fn when_all_are_retired_it_is_an_error_unless_something_came() {
        let temp = Temp::new();
        let save = temp.path("save");
        for host in ["web1", "web2"] {
            let since = Some(hour("2026112200"));
            let path = config(&temp, "web1\n");
            let said = printed(|out| super::super::accept::retire(&path, host, (since, "scrapped"), out));
            assert_eq!(said.0, YES, "{said:?}");
        }
        std::fs::create_dir_all(save.join("log_data")).unwrap();
        for strict in [false, true] {
            let (code, _, err) = ready(&temp, "web1\nweb2\n", strict);
            assert!(
                code == ERROR && err.contains("every host in it that is expected to have 2026112205"),
                "{err}"
            );
        }
        assert_eq!(ready(&temp, "web1\nweb3\n", false).0, NO);
        Build { done: false, ..Build::new("web2_2026112205", PACKS) }.store(&save);
        assert_eq!(ready(&temp, "web1\nweb2\n", false).0, YES);
        Build::new("web1_2026112205", PACKS).certify(&save);
        assert_eq!(ready(&temp, "web1\n", false), (YES, String::new(), String::new()));
        std::fs::remove_dir_all(save.join("retired")).unwrap();
        temp.file("save/retired", "no directory");
        assert_eq!(ready(&temp, "web1\n", false), (YES, String::new(), String::new()));
        assert_eq!(ready(&temp, "web1\nweb3\n", false).0, ERROR);
    }

    #[test]
    fn a_host_is_expected_from_its_first_hour_on() {
        let temp = Temp::new();
        Build::new("web1_2026112205", PACKS).certify(&temp.path("save"));
        assert_eq!(
            ready(&temp, "web1 2026112205\nweb2 2026112206\n", false),
            (YES, String::new(), String::new())
        );
        assert_eq!(ready(&temp, "web1\nweb2 2026112205\n", false).1, "web2: no data\n");
        let (code, _, err) = ready(&temp, "web2 20261123\n", false);
        assert!(code == ERROR && err.contains("expected to have 2026112205 already"), "{err}");
        for (hosts, why) in [
            ("web1 05", "hosts:1: \"web1 05\": a line is a name, and perhaps the first hour"),
            ("web1 2026112205 x", "a line is a name"),
            ("web1 2026112205\nweb1\n", "web1 stands there twice"),
        ] {
            let (code, _, err) = ready(&temp, hosts, false);
            assert!(code == ERROR && err.contains(why), "{err}");
        }
    }

    #[test]
    fn a_certificate_of_a_later_format_is_no_yes() {
        let temp = Temp::new();
        let save = temp.path("save");
        let mut c = Build::new("web1_2026112205", PACKS).certify(&save);
        c.format = 2;
        Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755).certify(&c).unwrap();
        let (code, out, _) = ready(&temp, "web1\n", false);
        assert!(code == NO && out.contains("web1: doubtful: its certificate is of a later format"), "{out}");
    }

    #[test]
    fn strict_wants_bytes_and_digests() {
        let temp = Temp::new();
        let save = temp.path("save");
        Build::new("web1_2026112205", &[""]).certify(&save);
        Build { ours: false, ..Build::new("web2_2026112205", PACKS) }.certify(&save);
        temp.file("save/received/web3_2026112205_7", "");
        let hosts = "web1\nweb2\nweb3\n";
        assert_eq!(ready(&temp, hosts, false).0, YES);
        let (code, out, _) = ready(&temp, hosts, true);
        assert_eq!(code, NO);
        let words: Vec<&str> = out.lines().filter_map(|l| l.split(' ').nth(1)).collect();
        assert_eq!(words, ["empty", "unverified:", "original:"], "{out}");
    }

    #[test]
    fn it_waits_until_the_tag_is_there_or_the_time_is_over() {
        let temp = Temp::new();
        let save = temp.path("save");
        let config = config(&temp, "web1\n");
        let ask = |wait_ms, arrives_at: usize| {
            let (clock, handle) = Clock::sim(1_795_000_000_000);
            let mut slept = 0;
            let (code, _, err) = printed(|out| {
                let mut sleep = |time: Duration| {
                    handle.advance(time.as_millis() as u64);
                    slept += 1;
                    if slept == arrives_at {
                        Build::new("web1_2026112205", PACKS).certify(&save);
                    }
                };
                let options = Options { wait_ms, strict: false };
                answer(&config, hour("2026112205"), &options, &clock, &mut sleep, out)
            });
            (code, slept, err)
        };
        let (code, slept, err) = ask(2500, 99);
        assert_eq!((code, slept), (NO, 3));
        assert!(err.contains("after 2 s"), "{err}");
        assert_eq!(ask(60_000, 5).0, YES);
        assert_eq!(ask(60_000, 5), (YES, 0, String::new()));
    }

    #[test]
    fn what_cannot_be_answered_is_an_error() {
        let temp = Temp::new();
        let (code, _, err) = ready(&temp, "# nobody\n", false);
        assert_eq!(code, ERROR);
        assert!(err.contains("names no host"), "{err}");
        let path = config(&temp, "web1\n");
        let ask = |path: &Path| printed(|out| run(path, hour("2026112205"), &Options::default(), out));
        std::fs::remove_dir(temp.path("save")).unwrap();
        assert!(ask(&path).2.contains("no such directory"));
        std::fs::remove_file(temp.path("hosts")).unwrap();
        assert!(ask(&path).2.contains("hosts_file"));
        let path = temp.file("d.ini", "[fcollector]\nlisten = :1\nallow = any\nsave_dir = /s\n");
        let (code, _, err) = ask(&path);
        assert_eq!(code, ERROR);
        assert!(err.contains("hosts_file is not set"), "{err}");
        let path = temp.file("t.ini", "[tail]\nlog_file = /a.<%Y%m%d%H>\nsend_to = c:1\n");
        assert_eq!(ask(&path).0, ERROR);
    }
}
