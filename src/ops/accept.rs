//! `logd accept CONFIG HOST HOUR REASON` and `logd retire CONFIG HOST REASON`: an operator's word that an hour stays as it is, or
//! that a host sends no more. It stands in the store with who, when and why ([`crate::inventory::known`]); no certificate is made of it.
//! A monitor that expects hosts of its own has its own word on them, in its state directory: a store may say what it pleases.

use super::out::Out;
use super::status;
use super::{ERROR, NO, YES};
use crate::clock::{Clock, Hour, Zone};
use crate::config::{Config, Role};
use crate::disk::Disk;
use crate::inventory::hosts::read_hosts;
use crate::inventory::hour::State;
use crate::inventory::known::{Accepted, Known, Retired};
use crate::inventory::{Filter, Inventory};
use crate::pack::HourKey;
use crate::{record, state};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest reason, in characters.
const REASON_MAX: usize = 500;

/// Why a reason is none.
fn problem(reason: &str) -> Option<&'static str> {
    if reason.trim().is_empty() {
        Some("REASON is empty: whoever reads the status in a year wants to know why")
    } else if reason.chars().count() > REASON_MAX || reason.chars().any(char::is_control) {
        Some("REASON is one line of at most 500 characters")
    } else {
        None
    }
}

/// Who this is, for people.
fn who() -> String {
    let uid = rustix::process::getuid().as_raw();
    let name = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|v| std::env::var(v).ok());
    let name = name.filter(|n| !n.is_empty() && n.len() < 64 && !n.chars().any(char::is_control));
    name.map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"))
}

/// Files of another user in the store could not be changed by the role, nor by its operator.
fn may_write(save_dir: &Path) -> Result<(), String> {
    let owner = std::fs::metadata(save_dir).map_err(|e| format!("{}: {e}", save_dir.display()))?.uid();
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(format!(
        "{}: it belongs to user {owner}; run it as that user: sudo -u '#{owner}'",
        save_dir.display()
    ))
}

fn put(path: &Path, text: &[u8]) -> Result<(), String> {
    crate::disk::make_readable();
    let disk = Disk::real();
    let dir = path.parent().unwrap_or(path);
    disk.create_dir_all(dir, 0o755)
        .and_then(|()| disk.replace(path, text, 0o644))
        .map_err(|e| format!("nothing was recorded: {}", super::rights(&e)))
}

fn done(what: &str, result: Result<u8, String>, out: &mut Out) -> u8 {
    result.unwrap_or_else(|why| {
        out.complain(format_args!("logd: {what}: {why}"));
        ERROR
    })
}

/// Accepts one hour as it is.
pub fn accept(config: &Path, key: &HourKey, reason: &str, out: &mut Out) -> u8 {
    let result = accept_at(config, key, reason, out);
    done("accept", result, out)
}

fn accept_at(config: &Path, key: &HourKey, reason: &str, out: &mut Out) -> Result<u8, String> {
    if let Some(why) = problem(reason) {
        return Err(why.into());
    }
    let (save_dir, row) = status::row_of(config, key)?;
    let Some(row) = row else {
        return Err(format!(
            "{key}: nothing of it is here, and nobody expects it (yet); is it the right name, and is the host in hosts_file?"
        ));
    };
    if let Some(said) = &row.known {
        out.line(format_args!("{key}: {said}; nothing was changed"));
        return Ok(YES);
    }
    if !row.wrong() {
        out.complain(format_args!(
            "logd: accept: {key}: {}: nothing is wrong with it; nothing was changed",
            row.why()
        ));
        return Ok(NO);
    }
    may_write(&save_dir)?;
    let path = Accepted::path(&save_dir, key);
    let accepted = Accepted {
        format: 1,
        name: key.name.clone(),
        hour: key.hour,
        state: row.state.word().to_owned(),
        missing: row.missing.clone(),
        // Of an hour of which nothing is there, who asks has words of his own.
        detail: (row.state != State::Silent).then(|| row.detail.clone()),
        by: who(),
        at: Clock::real().now_secs(),
        reason: reason.trim().to_owned(),
    };
    put(&path, &record::to_json(&accepted))?;
    out.line(format_args!(
        "{key}: {}: accepted as it is; it gets no tag by that; if its state changes it is told again; to take it back remove {}",
        row.why(),
        path.display()
    ));
    Ok(YES)
}

/// Expects no more hours of a host.
pub fn retire(config: &Path, host: &str, (since, reason): (Option<Hour>, &str), out: &mut Out) -> u8 {
    let result = retire_at(config, host, (since, reason), out);
    done("retire", result, out)
}

fn retire_at(
    config: &Path,
    host: &str,
    (since, reason): (Option<Hour>, &str),
    out: &mut Out,
) -> Result<u8, String> {
    if let Some(why) = problem(reason) {
        return Err(why.into());
    }
    let places = places(config)?;
    for (_, dir) in &places {
        may_write(dir)?;
    }
    let since = match since {
        Some(since) => since,
        None => Zone::local()?.hour_at(Clock::real().now_ms()),
    };
    let key = HourKey { name: host.to_owned(), hour: since };
    for (role, dir) in places {
        let at = dir.display();
        let known = Known::read(&Disk::real(), &dir).map_err(|e| e.to_string())?;
        if known.is_retired(&key) {
            out.line(format_args!("{host}: retired already in {at}; nothing was changed there"));
            continue;
        }
        let path = Retired::path(&dir, host);
        let retired = Retired {
            format: 1,
            name: host.to_owned(),
            since,
            by: who(),
            at: Clock::real().now_secs(),
            reason: reason.trim().to_owned(),
        };
        put(&path, &record::to_json(&retired))?;
        if !is_named(role, config, &dir, host)? {
            out.complain(format_args!(
                "logd: retire: {host}: neither hosts_file nor the store in {at} names it; if that is a slip, remove {}",
                path.display()
            ));
        }
        let more = if role == Role::Monitor {
            "what stores tell of it is shown on"
        } else {
            "what is wrong with earlier ones stays wrong; received/all_HOUR does not wait for it any more, and where only it was \
             lacking is written at the next start; a monitor with a hosts_file of its own is told by `logd retire` there"
        };
        out.line(format_args!(
            "{host}: no hour from {since} on is expected of it, nor of its streams; {more}; to take it back remove {}",
            path.display()
        ));
    }
    Ok(YES)
}

/// Is the host, or a stream of it, expected or stored here?
fn is_named(role: Role, config: &Path, dir: &Path, host: &str) -> Result<bool, String> {
    let config = Config::load(config).map_err(|e| e.to_string())?;
    let hosts = if role == Role::Monitor {
        config.monitor(false).map_err(|e| e.to_string())?.0.hosts_file
    } else {
        config.any_store(false).map_err(|e| e.to_string())?.1.hosts_file
    };
    let its = |name: &str| name == host || name.split_once('+').is_some_and(|(first, _)| first == host);
    let named = match hosts.as_deref().map(read_hosts) {
        Some(Ok(list)) => list.iter().any(|h| its(&h.name)),
        // Other commands say what is wrong with the file.
        Some(Err(_)) => true,
        None => false,
    };
    if named {
        return Ok(true);
    }
    // What stores have told a monitor is known to it alone.
    if role == Role::Monitor {
        return Ok(hosts.is_none());
    }
    let inv = Inventory::read(&Disk::real(), dir, &Filter::default());
    Ok(inv.is_ok_and(|inv| inv.hours.keys().any(|key| its(&key.name))))
}

/// Where the roles of a config that expect hosts keep such a word.
fn places(config: &Path) -> Result<Vec<(Role, PathBuf)>, String> {
    let config = Config::load(config).map_err(|e| e.to_string())?;
    let mut places = Vec::new();
    let roles = config.roles();
    if roles.contains(&Role::Monitor) {
        let (monitor, _) = config.monitor(false).map_err(|e| e.to_string())?;
        places.push((Role::Monitor, state::resolve(&Role::Monitor, monitor.state_dir.as_deref())));
    }
    let stores = [Role::Fcollector, Role::Etlcollector, Role::Mgocollector];
    if places.is_empty() || roles.iter().any(|r| stores.contains(r)) {
        let (role, store) = config.any_store(false).map_err(|e| e.to_string())?;
        places.push((role, store.save_dir));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::super::ready;
    use super::super::status::View;
    use super::super::testing::{Build, Temp, hour, key, printed};
    use super::*;
    use crate::inventory::Filter;

    const PACKS: &[&str] = &["a\n", "b\n"];

    fn config(temp: &Temp, hosts: &str) -> std::path::PathBuf {
        let hosts = temp.file("hosts", hosts);
        let text = format!(
            "[fcollector]\nlisten = :1\nallow = any\nsave_dir = {}\nhosts_file = {}\nstate_dir = {}\nmin_free = 1M\n",
            temp.path("save").display(),
            hosts.display(),
            temp.path("state").display()
        );
        temp.file("state/role.json", "{}");
        std::fs::create_dir_all(temp.path("save")).unwrap();
        temp.file("c.ini", &text)
    }

    fn status(path: &Path) -> String {
        printed(|out| status::run(path, &Filter::default(), View::Summary, out)).1
    }

    fn is_ready(path: &Path, strict: bool) -> (u8, String) {
        let (code, out, err) =
            printed(|out| ready::run(path, hour("2026112205"), &ready::Options { wait_ms: 0, strict }, out));
        (code, out + &err)
    }

    #[test]
    fn an_accepted_hour_is_not_wrong_until_its_state_changes() {
        let temp = Temp::new();
        let save = temp.path("save");
        let path = config(&temp, "web1\nweb2\n");
        Build::new("web1_2026112205", PACKS).certify(&save);
        Build { state: "partial", ..Build::new("web2_2026112205", PACKS) }.certify(&save);
        // Hours after it are silent: one host of the file is enough here.
        assert!(status(&path).contains("partial (1 hour)"), "{}", status(&path));
        assert_eq!(is_ready(&path, false).0, NO);
        let say = |k: &str, reason: &str| printed(|out| accept(&path, &key(k), reason, out));
        for (k, reason, code, word) in [
            ("web1_2026112205", "why", NO, "nothing is wrong"),
            ("web9_2026112205", "why", ERROR, "nothing of it is here"),
            ("web2_2026112205", " ", ERROR, "REASON is empty"),
            ("web2_2026112205", "a\nb", ERROR, "one line"),
        ] {
            let (got, out, err) = say(k, reason);
            assert_eq!(got, code, "{k}: {out}{err}");
            assert!(err.contains(word), "{k}: {err}");
        }
        let tags = |dir: &str| std::fs::read_dir(save.join(dir)).unwrap().count();
        let before = (tags("received"), tags("doubtful"));
        let (code, out, err) = say("web2_2026112205", "disk died");
        assert_eq!(code, YES, "{out}{err}");
        assert!(
            !status(&path).contains("partial (1 hour)") && status(&path).contains("known loss"),
            "{}",
            status(&path)
        );
        assert_eq!((tags("received"), tags("doubtful")), before, "no certificate is made of it");
        let (code, text) = is_ready(&path, false);
        assert_eq!(code, YES, "{text}");
        assert!(text.contains("web2: known loss") && text.contains("disk died"), "{text}");
        assert_eq!(is_ready(&path, true).0, NO);
        assert!(say("web2_2026112205", "again").1.contains("disk died"));
        // Another state was not what was accepted.
        std::fs::remove_file(save.join("doubtful/web2_2026112205")).unwrap();
        Build { state: "loss", ..Build::new("web2_2026112205", PACKS) }.certify(&save);
        assert!(status(&path).contains("loss (1 hour)"), "{}", status(&path));
        assert_eq!(is_ready(&path, false).0, NO);
    }

    /// One word covered whatever came later; and under a narrow umask only its author could read it.
    #[test]
    fn more_late_lines_are_told_again() {
        let temp = Temp::new();
        let save = temp.path("save");
        let path = config(&temp, "web1\n");
        let hour = "web1_2026112205";
        Build::new(hour, PACKS).store(&save);
        std::fs::remove_file(save.join("log_data").join(hour)).unwrap();
        let late = temp.file("save/aside/web1_2026112205.late", "c\n");
        let (code, out, err) = printed(|out| accept(&path, &key(hour), "known", out));
        assert_eq!(code, YES, "{out}{err}");
        assert!(!status(&path).contains("late (1 hour)"), "{}", status(&path));
        let word = save.join("accepted").join(hour);
        let mode = |path: &Path| {
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions())
        };
        assert_eq!((mode(&word) & 0o777, mode(&save.join("accepted")) & 0o777), (0o644, 0o755));
        std::fs::write(late, "c\nd\n").unwrap();
        assert!(status(&path).contains("late (1 hour)"), "{}", status(&path));
        // A file of before, which says nothing of it, is as it was.
        let mut said: Accepted = record::from_json(&std::fs::read(&word).unwrap()).unwrap();
        said.detail = None;
        std::fs::write(&word, record::to_json(&said)).unwrap();
        assert!(!status(&path).contains("late (1 hour)"), "{}", status(&path));
    }

    #[test]
    fn nobody_waits_for_a_retired_host() {
        let temp = Temp::new();
        let path = config(&temp, "web1\nweb2\n");
        Build::new("web1_2026112205", PACKS).certify(&temp.path("save"));
        let silent = |text: &str| text.lines().any(|l| l.trim_start().starts_with("web2 "));
        assert_eq!(is_ready(&path, false).0, NO);
        let say =
            |since: Option<&str>| printed(|out| retire(&path, "web2", (since.map(hour), "scrapped"), out));
        assert_eq!(say(Some("2026112206")).0, YES);
        assert_eq!(is_ready(&path, false).0, NO, "an hour of before is still expected");
        std::fs::remove_file(temp.path("save/retired/web2")).unwrap();
        assert_eq!(say(Some("2026112205")).0, YES);
        assert_eq!(is_ready(&path, true).0, YES);
        assert!(!silent(&status(&path)), "{}", status(&path));
        assert!(say(None).1.contains("retired already"));
        assert_eq!(say(None).2, "");
        let slip = printed(|out| retire(&path, "wbe2", (None, "scrapped"), out));
        assert!(slip.0 == YES && slip.2.contains("wbe2: neither hosts_file nor the store"), "{slip:?}");
    }

    #[test]
    fn a_monitor_has_its_own_word_on_hosts() {
        let temp = Temp::new();
        let text =
            format!("[receiver]\nrecv_port = 1\nallow = any\nstate_dir = {}\n", temp.path("m").display());
        let path = temp.file("m.ini", &text);
        let say = || printed(|out| retire(&path, "web2", (None, "scrapped"), out));
        assert!(say().2.contains("No such file"), "it has never started");
        std::fs::create_dir_all(temp.path("m")).unwrap();
        let (code, out, err) = say();
        assert_eq!((code, err.as_str()), (YES, ""), "{out}");
        let known = Known::read(&Disk::real(), &temp.path("m")).unwrap();
        assert!(known.is_retired(&key("web2_2999010100")) && !known.is_retired(&key("web1_2999010100")));
        // A store in the same file is told, too.
        let save = temp.path("save");
        std::fs::create_dir_all(&save).unwrap();
        temp.file(
            "m.ini",
            &format!("{text}[fcollector]\nlisten = :1\nallow = any\nsave_dir = {}\n", save.display()),
        );
        let (code, out, _) = say();
        assert!(code == YES && out.contains("retired already") && out.contains("all_HOUR"), "{out}");
        assert!(save.join("retired/web2").exists());
    }
}
