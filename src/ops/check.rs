//! `logd check CONFIG`: everything that is wrong with a config, before a role finds it out at night. With `--host` the machine
//! is looked at, too ([`host`]).

pub mod host;

use super::out::Out;
use super::{ERROR, YES};
use crate::clock::{Clock, Zone};
use crate::config::{Config, Role};
use crate::disk::{self, Disk};
#[cfg(feature = "etl")]
use crate::etl::rules::Rules;
use crate::inventory::hosts::read_hosts;
use crate::roles::{admission, documents};
use crate::state;
use crate::tail::streams;
use crate::tls::{Client, Expiry, Server, Urgency};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Prints the config in effect, or all that is wrong with it; with `machine` what of the machine would not work.
pub fn run(path: &Path, machine: bool, out: &mut Out) -> u8 {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            out.complain(errors);
            return ERROR;
        }
    };
    let warnings = match config.check_all() {
        Ok(warnings) => warnings,
        Err(errors) => {
            out.complain(errors);
            return ERROR;
        }
    };
    let file = path.display();
    // What the follower itself would refuse.
    if let Ok((tail, _)) = config.tail(true)
        && let Err(why) = streams::sources(&tail)
    {
        out.complain(format_args!("{file}: {why}"));
        return ERROR;
    }
    // A typing error in this file would otherwise show as an hour that never gets its fleet tag.
    let store = config.any_store(true).ok().and_then(|(_, store)| store.hosts_file);
    let monitor = config.monitor(true).ok().and_then(|(monitor, _)| monitor.hosts_file);
    for hosts in store.iter().chain(&monitor) {
        match read_hosts(hosts) {
            Err(why) => {
                out.complain(format_args!(
                    "{file}: {why}; make the file, one name a line, or leave the key empty"
                ));
                return ERROR;
            }
            Ok(names) if names.is_empty() => {
                out.complain(format_args!("{file}: hosts_file: {}: names no host", hosts.display()));
                return ERROR;
            }
            Ok(_) => {}
        }
    }
    #[cfg(feature = "etl")]
    if let Ok((etl, _)) = config.etl(true) {
        let disk = Disk::real();
        if let Err(wrong) = Rules::load(&disk, &etl) {
            for why in wrong {
                out.complain(format_args!("{file}: {why}"));
            }
            return ERROR;
        }
        for why in Rules::doubts(&disk, &etl) {
            out.complain(format_args!("{file}: {why} (warning)"));
        }
    }
    if let Ok((mongo, _)) = config.mongo(true)
        && let Err(why) = documents::check(&mongo)
    {
        out.complain(format_args!("{file}: [mgocollector]: {why}"));
        return ERROR;
    }
    let refused = admission(&config);
    for why in &refused {
        out.complain(format_args!("{file}: {why}"));
    }
    if !refused.is_empty() {
        return ERROR;
    }
    let refused = alarms(&config);
    for why in &refused {
        out.complain(format_args!("{file}: alarm_command: {why}"));
    }
    if !refused.is_empty() {
        return ERROR;
    }
    let expiries = match tls(&config) {
        Ok(expiries) => expiries,
        Err(why) => {
            out.complain(format_args!("{file}: {why}"));
            return ERROR;
        }
    };
    let told: Vec<_> = match Zone::local() {
        Ok(zone) => expiries.iter().map(|e| e.tell(Clock::real().now_secs(), &zone)).collect(),
        Err(why) => {
            out.complain(format_args!("{file}: {why}"));
            return ERROR;
        }
    };
    for (urgency, text) in &told {
        match urgency {
            Urgency::None => {}
            Urgency::Soon => out.complain(format_args!("{file}: {text} (warning)")),
            Urgency::Over => out.complain(format_args!("{file}: {text}")),
        }
    }
    if told.iter().any(|(urgency, _)| *urgency == Urgency::Over) {
        return ERROR;
    }
    for warning in warnings {
        out.complain(format_args!("{warning} (warning)"));
    }
    let (shown, unfit) = shown(&config);
    if let Some(why) = unfit {
        out.complain(format_args!("{file}: {why} (warning)"));
    }
    if machine {
        return host::run(path, &config, out);
    }
    out.text(&config.effective());
    for text in told.iter().map(|(_, text)| text).chain(&shown) {
        // A comment: what is printed can be loaded as it is.
        out.line(format_args!("; {text}"));
    }
    YES
}

/// Certificates and keys that a role would refuse at its start, and how long they hold.
fn tls(config: &Config) -> Result<Vec<Expiry>, String> {
    let mut expiries = Vec::new();
    let (tail, relay, store) = (config.tail(true).ok(), config.relay(true).ok(), config.any_store(true).ok());
    let relay = relay.map(|(c, _)| c);
    let receivers = [relay.as_ref().map(|c| c.receiver.clone()), store.map(|(_, c)| c.receiver)];
    for listen in receivers.into_iter().flatten().filter_map(|r| r.tls) {
        expiries.extend(Server::open(&listen)?.expiries());
    }
    for send in
        [tail.map(|(c, _)| c.sender), relay.map(|c| c.sender)].into_iter().flatten().filter_map(|s| s.tls)
    {
        expiries.extend(Client::open(&send)?.expiries());
    }
    Ok(expiries)
}

/// The keys and the name by which this host is known to others and others to it; and what does not fit a follower's name.
fn shown(config: &Config) -> (Vec<String>, Option<String>) {
    let (mut list, mut unfit) = (Vec::new(), None);
    if let Ok((tail, _)) = config.tail(true) {
        let dir = state::resolve(&Role::Tail, tail.state_dir.as_deref());
        list.extend(admission::key_of(&tail).ok().flatten().map(|key| format!("key_file: {}", key.label())));
        // Without a name only its dates can be looked at.
        let name = admission::name_of(&Disk::real(), &tail, &dir);
        let client = tail.sender.tls.as_ref().and_then(|tls| Client::open(tls).ok());
        if let Some((label, named)) = client.and_then(|c| c.shown(name.as_deref().unwrap_or_default())) {
            if let Some(name) = name.filter(|_| !named) {
                unfit = Some(format!(
                    "tls_client_cert: {label} does not name {name}, under which this host sends: a receiver with tls_client_ca denies \
                     its packs, unless tls_relays there lists a name of it"
                ));
            }
            list.push(format!("tls_client_cert: {label}"));
        }
    }
    let relay = config.relay(true).ok().map(|(c, _)| c.receiver);
    let store = config.any_store(true).ok().map(|(_, c)| c.receiver);
    for receiver in relay.into_iter().chain(store) {
        let keys = admission::keyring(&receiver).ok().flatten();
        list.extend(keys.map(|keys| format!("keys_file: {}", admission::summary(&keys))));
    }
    (list, unfit)
}

/// Alarm programs that could not be run: else that shows when something is wrong already.
fn alarms(config: &Config) -> Vec<String> {
    let relay = config.relay(true).ok().map(|(c, _)| c.watch.alarm);
    let store = config.any_store(true).ok().map(|(_, c)| c.watch.alarm);
    let monitor = config.monitor(true).ok().map(|(c, _)| c.alarm);
    let mut list = Vec::new();
    for program in [relay, store, monitor].into_iter().flatten().filter_map(|words| words.into_iter().next())
    {
        let why = match std::fs::metadata(&program) {
            Err(e) => Some(e.to_string()),
            Ok(meta) if !meta.is_file() => Some("no file".into()),
            Ok(meta) if meta.permissions().mode() & 0o111 == 0 => Some("nobody may execute it".into()),
            Ok(_) => (!disk::may_execute(Path::new(&program))).then(|| "this user may not execute it".into()),
        };
        list.extend(why.map(|why| {
            format!("{program}: {why}; no alarm could be told: name a program that the user of the role may execute")
        }));
    }
    list
}

/// What a start would refuse of keys, and of who may send.
fn admission(config: &Config) -> Vec<String> {
    let mut list = Vec::new();
    if let Ok((tail, _)) = config.tail(true) {
        let dir = state::resolve(&Role::Tail, tail.state_dir.as_deref());
        list.extend(admission::check_key(&Disk::real(), &tail, &dir).err());
    }
    let relay = config.relay(true).ok().map(|(c, _)| (Role::Collector, c.receiver, c.state_dir));
    let store = config.any_store(true).ok().map(|(role, c)| (role, c.receiver, c.state_dir));
    for (role, receiver, dir) in [relay, store].into_iter().flatten() {
        let dir = state::resolve(&role, dir.as_deref());
        let refused = [admission::may_receive(&receiver, &dir).err(), admission::keyring(&receiver).err()];
        let section = role.section();
        list.extend(refused.into_iter().flatten().map(|why| format!("[{section}]: {why}")));
    }
    if let Ok((monitor, _)) = config.monitor(true) {
        let dir = state::resolve(&Role::Monitor, monitor.state_dir.as_deref());
        let refused = admission::may_monitor(&monitor, &dir).err();
        list.extend(refused.map(|why| format!("[{}]: {why}", Role::Monitor.section())));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Temp, printed};
    use super::*;

    fn check(temp: &Temp, text: &str) -> (u8, String, String) {
        let path = temp.file("c.ini", text);
        printed(|out| run(&path, false, out))
    }

    const TAIL: &str = "[tail]\nlog_file = /var/log/a.<%Y%m%d%H>\nsend_to = c:1302\n";

    #[test]
    fn a_good_config_is_printed_so_that_it_can_be_loaded_again() {
        let temp = Temp::new();
        let (code, out, err) = check(&temp, TAIL);
        assert_eq!((code, err.as_str()), (YES, ""));
        assert!(
            out.contains("log_file = /var/log/a.<%Y%m%d%H>") && out.contains("flush_interval = 5s"),
            "{out}"
        );
        assert_eq!(check(&temp, &out), (YES, out.clone(), String::new()));
    }

    #[test]
    fn all_errors_come_at_once_with_their_lines() {
        let temp = Temp::new();
        let (code, out, err) = check(&temp, "[tail]\nlog_file = /a\nsend_tu = c:1302\nsenders = 0\n");
        assert_eq!((code, out.as_str()), (ERROR, ""));
        let lines: Vec<&str> = err.lines().collect();
        assert!(lines.len() >= 3, "{err}");
        assert!(lines.iter().all(|l| l.contains("c.ini:")), "{err}");
        assert!(err.contains("c.ini:4: senders:"), "{err}");
        let (code, _, err) = printed(|out| run(&temp.path("none.ini"), false, out));
        assert_eq!(code, ERROR);
        assert!(err.contains("none.ini"), "{err}");
    }

    #[test]
    fn a_pattern_that_the_follower_refuses_is_an_error() {
        let temp = Temp::new();
        for (pattern, why) in
            [("<%Y%m%d%h>", "%h is not one of"), ("<%Y%m%d%H", "without"), ("<%m%d%H>", "must hold %Y")]
        {
            let (code, out, err) = check(&temp, &TAIL.replace("<%Y%m%d%H>", pattern));
            assert_eq!((code, out.as_str()), (ERROR, ""));
            assert!(
                err.contains("c.ini") && err.contains("log_file") && err.contains(why),
                "{pattern}: {err}"
            );
        }
    }

    #[test]
    fn warnings_do_not_stop() {
        let temp = Temp::new();
        let state = temp.path("state");
        let text =
            format!("[collector]\nlisten = :1302\nsend_to = c:1302\nstate_dir = {}\n", state.display());
        // A new receiver that anybody may send to is refused by a start; one of an earlier version goes on.
        for _ in 0..2 {
            let (code, _, err) = check(&temp, &text);
            assert_eq!(code, ERROR, "{err}");
            assert!(err.contains("[collector]: listen") && err.contains("a start is refused"), "{err}");
            std::fs::create_dir_all(&state).unwrap();
        }
        let mark = serde_json::json!({"format": 1, "role": "collector", "config": "/c.ini"});
        temp.file("state/role.json", std::str::from_utf8(&crate::record::to_json(&mark)).unwrap());
        let (code, out, err) = check(&temp, &text);
        assert_eq!(code, YES, "{err}");
        assert!(err.contains("allow"), "{err}");
        assert!(out.contains("[collector]"), "{out}");
    }

    #[test]
    fn a_new_monitor_is_asked_what_its_start_asks() {
        let temp = Temp::new();
        let text = |more: &str| {
            format!("[receiver]\nrecv_port = 4040\nstate_dir = {}\n{more}", temp.path("state").display())
        };
        let (code, _, err) = check(&temp, &text(""));
        assert_eq!(code, ERROR);
        assert!(
            err.contains("[receiver]: listen 0.0.0.0:4040: `allow` is not set")
                && err.contains("allow = any"),
            "{err}"
        );
        assert_eq!(check(&temp, &text("allow = 10.0.0.0/8\n")).0, YES);
    }

    /// It was found right, and the role did not start, or told the password to whoever reads its log.
    #[cfg(feature = "mongodb")]
    #[test]
    fn a_database_is_checked_as_its_role_would() {
        let temp = Temp::new();
        let base = "[mgocollector]\nlisten = :1\nallow = any\nsave_dir = /s\ndb = d\ncollection = c\n";
        let ca = temp.file("ca.pem", "");
        for (more, why) in [
            ("log_format = nginx", "log_format"),
            ("log_format = $host $remote_addr", "log_format"),
            ("transaction_id_key = _id", "transaction_id_key"),
            ("transaction_id_key = a.b", "transaction_id_key"),
            ("uri = mongodb://", "uri"),
            ("uri = mongodb://u:geheim@h/?bogus=geheim", "bogus is an invalid option"),
            ("uri = mongodb://u:geheim@h/?geheim", "key=value"),
            ("uri = mongodb://u:geheim/@h/", "%2F"),
            ("mongos = mongodb://u:geheim/@h/", "%2F"),
            ("uri = mongodb://h/?tls=true&tlsCAFile=/no/such", "/no/such"),
        ] {
            let (code, out, err) = check(&temp, &format!("{base}{more}\n"));
            assert_eq!((code, out.as_str()), (ERROR, ""), "{more}: {err}");
            assert!(err.contains(why) && !err.contains("geheim"), "{more}: {err}");
        }
        let uri = format!("mongodb://u:ge%2Fheim@h/?tls=true&tlsCAFile={}&w=3", ca.display());
        let (code, out, err) = check(&temp, &format!("{base}mongos = a:1\nuri = {uri}\n"));
        assert!(code == YES && !out.contains("heim") && !err.contains("heim"), "{err}{out}");
        assert!(
            err.contains("its option w is not looked at: write_concern") && err.contains("mongos: is not"),
            "{err}"
        );
        let (code, out, err) = check(&temp, base);
        assert_eq!((code, err.as_str()), (YES, ""));
        assert_eq!(check(&temp, &out), (YES, out.clone(), String::new()));
    }

    /// The story: the program had moved, and that was found out by the outage that nobody was told.
    #[test]
    fn an_alarm_program_must_be_there_and_be_one() {
        let temp = Temp::new();
        let path = temp.path("alarm");
        let state = temp.path("state").display().to_string();
        let command = format!("alarm_command = {} %s\nstate_dir = {state}\n", path.display());
        let configs = [
            format!("[receiver]\nrecv_port = 1\nallow = any\n{command}"),
            format!("[fcollector]\nlisten = :1\nallow = any\nsave_dir = /s\n{command}"),
            format!("[collector]\nlisten = :1\nallow = any\nsend_to = c:1302\n{command}"),
        ];
        let refused = |why: &str| {
            for text in &configs {
                let (code, out, err) = check(&temp, text);
                assert_eq!((code, out.as_str()), (ERROR, ""), "{err}");
                assert!(err.contains("c.ini: alarm_command: ") && err.contains(why), "{why}: {err}");
            }
        };
        refused("No such file");
        std::fs::create_dir(&path).unwrap();
        refused("no file");
        std::fs::remove_dir(&path).unwrap();
        temp.file("alarm", "#!/bin/sh\n");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        refused("nobody may execute it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for text in &configs {
            assert_eq!(check(&temp, text).0, YES);
        }
    }

    #[test]
    fn the_hosts_file_is_part_of_it() {
        let temp = Temp::new();
        let hosts = temp.path("hosts");
        let text = format!(
            "[fcollector]\nlisten = :1\nallow = any\nsave_dir = /s\nhosts_file = {}\n",
            hosts.display()
        );
        let (code, _, err) = check(&temp, &text);
        assert_eq!(code, ERROR);
        assert!(err.contains("c.ini: hosts_file"), "{err}");
        temp.file("hosts", "web1\nweb_2\n");
        assert!(check(&temp, &text).2.contains("web_2"));
        temp.file("hosts", "# none\n");
        assert!(check(&temp, &text).2.contains("names no host"));
        temp.file("hosts", "web1\n");
        assert_eq!(check(&temp, &text).0, YES);
    }

    /// The story: the name was the host's address, the key that of its name, and only the start told.
    #[test]
    fn a_key_is_compared_with_the_name_that_the_state_directory_has() {
        use std::os::unix::fs::PermissionsExt;
        let temp = Temp::new();
        let key = crate::auth::Key::new("web1").unwrap();
        let path = temp.file("key", &key.line());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text =
            format!("{TAIL}key_file = {}\nstate_dir = {}\n", path.display(), temp.path("state").display());
        assert_eq!(check(&temp, &text).0, YES);
        let begun = |name: &str| {
            let zone = crate::clock::Zone::named("UTC").unwrap();
            let (clock, _) = crate::clock::Clock::sim(1_795_000_000_000);
            let (pattern, start) = (crate::tail::pattern::Pattern::none(), crate::config::Start::Beginning);
            let identity = crate::tail::begin(name, &pattern, start, &[], false, (&zone, &clock));
            std::fs::create_dir_all(temp.path("state")).unwrap();
            identity.save(&Disk::real(), &temp.path("state/follower.json")).unwrap();
        };
        begun("10.0.0.7");
        let (code, _, err) = check(&temp, &text);
        assert_eq!(code, ERROR);
        assert!(
            err.contains("does not open the hours of 10.0.0.7") && err.contains("key new 10.0.0.7"),
            "{err}"
        );
        begun("web1");
        let (code, out, _) = check(&temp, &text);
        assert!(code == YES && out.contains("; key_file: key ") && out.contains(" of web1\n"), "{out}");
    }
}
