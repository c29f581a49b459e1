//! The config as a user meets it: files in, values or messages out.

use std::path::{Path, PathBuf};

use super::keys::{KEYS, SECTIONS};
use super::*;

const FULL_TAIL: &str = "[tail]\nlog_file = /l/a.<%Y%m%d%H>\nsend_to = c:1302\n";

fn parse(text: &str) -> Config {
    Config::parse("f", text.as_bytes())
}

/// The lines of the errors that `check` prints.
fn errors(text: &str) -> Vec<String> {
    let errors = parse(text).check_all().unwrap_err();
    errors.to_string().lines().map(String::from).collect()
}

fn warnings(text: &str) -> Vec<String> {
    parse(text).check_all().unwrap().iter().map(ToString::to_string).collect()
}

fn etc(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("etc").join(name)
}

fn etc_text(name: &str) -> String {
    std::fs::read_to_string(etc(name)).unwrap()
}

#[test]
fn all_errors_come_at_once_in_the_order_of_lines() {
    let text = "[tail]\nlog_file = /l/a.<%Y%m%d%H>\nsend_to = c\nsendrs = 3\npack_bytes = 1k\njunk\n\
                [nonsense]\n[logAgent]\nlocal_level = loud\n[collector]\nlisten = :99999\n";
    assert_eq!(
        errors(text),
        [
            "f:3: send_to: `c` has no port; write host:port",
            "f:4: sendrs: unknown key; the nearest known key of [tail] is `senders`",
            "f:5: pack_bytes: `1k` is out of range; expected a size from 4k to 16M",
            "f:6: expected `key = value`, `[section]`, or a comment that begins with `;`",
            "f:7: [nonsense]: unknown section; the nearest known one is [logAgent]",
            "f:9: local_level: `loud` is not valid; expected debug, info, warning, error",
            "f:10: send_to: missing; The collector to send to, host:port; others that take its place after commas. A \
             collector only passes on; to store, did you mean fcollector?",
            "f:11: listen: `:99999` has no port from 0 to 65535",
        ]
    );
}

#[test]
fn a_start_is_an_hour_where_files_hold_hours_and_a_day_where_they_hold_days() {
    let stream =
        |file: &str, start: &str| format!("[tail]\nlog_file = {file}\nsend_to = c:1\nstart = {start}\n");
    let (hourly, daily) = ("/l/a.<%Y%m%d%H>", "/l/a.<%F>");
    assert!(parse(&stream(hourly, "2026112205")).check_all().is_ok());
    assert!(parse(&stream(daily, "20261122")).check_all().is_ok());
    assert_eq!(
        errors(&stream(daily, "2026112205")),
        ["f:4: start: `2026112205`: a file of /l/a.<%F> holds a day; write the day, 20261122"]
    );
    assert_eq!(
        errors(&stream(hourly, "20261122")),
        ["f:4: start: `20261122`: a file of /l/a.<%Y%m%d%H> holds an hour; write the hour, 2026112200"]
    );
    assert_eq!(
        errors(&stream("/l/a", "20261122")),
        [
            "f:4: start: `20261122`: /l/a has no date in its name, and nobody knows where that hour begins in it; use \
          beginning or end"
        ]
    );
}

#[test]
fn a_repeated_key_names_both_lines() {
    let twice = format!("{FULL_TAIL}[tail]\nsend_to = d:1\n");
    assert_eq!(errors(&twice), ["f:5: send_to: set on line 3 and again on line 5; remove one"]);
}

#[test]
fn syntax_faults_have_lines() {
    let bytes = b"x = 1\ny = 2\n[tail\nz = 3\n[tail]\n= 5\nname = \xff\nip = a\x1bb\n";
    let errors = Config::parse("f", bytes).tail(false).unwrap_err().to_string();
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines[0], "f:1: x: stands before the first [section]");
    assert_eq!(lines[1], "f:3: a section is written `[name]`, with nothing after it");
    assert!(lines.contains(&"f:6: no key before `=`"), "{errors}");
    assert!(lines.contains(&"f:7: not UTF-8"), "{errors}");
    assert!(lines.contains(&"f:8: holds a control character"), "{errors}");
    assert!(!errors.contains(": y:") && !errors.contains(": z:"), "{errors}");
}

#[test]
fn windows_files_comments_and_values_with_signs() {
    let text = "\u{feff}; c\r\n# c\r\n[tail]\r\n\tlog_file = /l/a;b=c.<%Y%m%d%H>\r\n \u{3000}; c\r\nsend_to=c:1  \r\n";
    let (tail, warnings) = parse(text).tail(true).unwrap();
    assert_eq!(tail.streams[0].log_file, "/l/a;b=c.<%Y%m%d%H>");
    assert_eq!(tail.sender.send_to, ["c:1"]);
    assert_eq!(warnings, []);
}

#[test]
fn a_daemon_survives_keys_of_a_newer_version_but_no_slips() {
    let newer = format!("{FULL_TAIL}encryption_method = x\n[telemetry_export]\na = b\n");
    let (_, warnings) = parse(&newer).tail(false).unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2);
    assert!(
        warnings[0].starts_with("f:4: encryption_method: unknown key") && warnings[0].ends_with("; ignored")
    );
    assert!(warnings[1].starts_with("f:5: [telemetry_export]: unknown section"));
    assert_eq!(errors(&newer).len(), 2);
    for slip in ["sendto = d:1", "Name = x", "max_lien = 1k"] {
        assert!(parse(&format!("{FULL_TAIL}{slip}\n")).tail(false).is_err(), "{slip}");
    }
    assert!(parse(&format!("{FULL_TAIL}[colector]\n")).tail(false).is_err());
    // Another role's section is that role's business.
    assert!(parse(&format!("{FULL_TAIL}[fcollector]\nlisten = x\nsave_dri = y\n")).tail(false).is_ok());
}

#[test]
fn a_key_of_another_section_is_named() {
    let text = "[collector]\nlisten = 1\nallow = any\nsend_to = a:1\nsave_dir = x\n";
    assert!(
        errors(text)[0].ends_with("it is a key of [fcollector], [etlcollector], [mgocollector]"),
        "{:?}",
        errors(text)
    );
}

#[test]
fn a_stream_has_the_keys_of_tail_but_for_its_own() {
    let text = "[tail]\nsend_to = a:1\nquiet = 7s\nstart = end\n\
                [tail:err]\nlog_file = /l/e.<%Y%m%d>\nquiet = 2s\n\
                [tail:web-*]\nlog_file = /l/*/a.<%Y%m%d%H>\nstart = oldest\n";
    let config = parse(text);
    let streams = config.tail(true).unwrap().0.streams;
    let told: Vec<_> =
        streams.iter().map(|s| (s.section(), s.quiet_ms, s.start.unwrap().to_string())).collect();
    let wanted = [("[tail:err]", 2000, "end"), ("[tail:web-*]", 7000, "oldest")];
    assert_eq!(told, wanted.map(|(s, q, b)| (s.to_owned(), q, b.to_owned())));
    // What is printed is what holds.
    let again = parse(&config.effective());
    assert_eq!(again.tail(true).unwrap().0.streams, streams);
    assert_eq!(again.effective(), config.effective());
}

#[test]
fn streams_that_cannot_be_are_named() {
    let tail = "[tail]\nsend_to = a:1\n";
    for (text, why) in [
        ("", "f:1: log_file: missing"),
        ("[tail:x]\n", "f:3: log_file: missing"),
        ("[tail:x]\nlog_file = /l/*/a.<%Y%m%d%H>\n", "has 0 `*` and its log_file 1"),
        ("[tail:x*]\nlog_file = /l/a.<%Y%m%d%H>\n", "has 1 `*` and its log_file 0"),
        ("[tail:]\nlog_file = /l/a.<%Y%m%d%H>\n", "needs a name"),
        ("[tail:a_b]\nlog_file = /l/a.<%Y%m%d%H>\n", "must not hold `_`"),
        ("[tail:x]\nlog_file = /l/a.<%Y%m%d%H>\nsenders = 3\n", "it is a key of [tail]"),
        ("log_file = /l/*/a.<%Y%m%d%H>\n", "makes many streams"),
    ] {
        let found = errors(&format!("{tail}{text}"));
        assert!(found.iter().any(|e| e.contains(why)), "{text}: {found:?}");
    }
    assert!(
        errors("[tail:x]\nlog_file = /l/a.<%Y%m%d%H>\n[fcollector]\n")
            .iter()
            .any(|e| e.contains("[tail] beside"))
    );
    assert!(parse("[tail:x]\n[fcollector]\nlisten=1\nsave_dir=s\n").store(false).is_ok());
}

#[test]
fn several_addresses() {
    let tail = |keys: &str| parse(&format!("[tail]\nlog_file = /l/a.<%Y%m%d%H>\n{keys}")).tail(true);
    let (one, _) = tail("send_to = a:1\nfailover = any\nfailover_after = 3\n").unwrap();
    assert_eq!((one.sender.failover, one.sender.failover_after), (Failover::Any, 3));
    let (two, _) = tail("send_to = a:1, :2,[::1]:3\n").unwrap();
    assert_eq!(two.sender.send_to, ["a:1", "localhost:2", "[::1]:3"]);
    assert_eq!((two.sender.failover, two.sender.failover_after), (Failover::Hour, 10));
    let relay = parse("[collector]\nlisten = :1\nallow = any\nsend_to = a:1,b:1\nfailover = Any\n");
    assert_eq!(relay.relay(true).unwrap().0.sender.failover, Failover::Any);
    for (keys, problem) in [
        ("send_to = a:1, b:1, A:1", "f:3: send_to: `a:1` is named twice"),
        ("send_to = :1, localhost:1", "f:3: send_to: `localhost:1` is named twice"),
        ("send_to = a:1,, b:1", "f:3: send_to: `` has no port; write host:port"),
        ("send_to = a:1, b", "f:3: send_to: `b` has no port; write host:port"),
        (
            "send_to = a:1 b:1",
            "f:3: send_to: `a:1 b:1` is an IPv6 address without brackets; write [address]:port",
        ),
        ("send_to = a:1\nfailover = pack", "f:4: failover: `pack` is not valid; expected hour, any"),
        (
            "send_to = a:1\nfailover_after = 0",
            "f:4: failover_after: `0` is out of range; expected a number from 1 to 1000",
        ),
    ] {
        assert_eq!(tail(keys).unwrap_err().to_string(), problem);
    }
}

#[test]
fn a_missing_role_names_the_roles_of_the_file() {
    let error = parse(FULL_TAIL).relay(false).unwrap_err().to_string();
    assert_eq!(error, "f: [collector]: no such section; it is needed here, and the file is for `logd tail`");
    assert!(errors("").len() == 1 && errors("[logAgent]\n")[0].contains("no role"));
    assert_eq!(parse("[receiver]\n[tail]\n").roles(), [Role::Tail, Role::Monitor]);
    for role in Role::ALL {
        assert!(SECTIONS.contains(&role.section()));
        assert_eq!(Role::from_command(role.command()), Some(role));
    }
    assert_eq!(Role::from_command("store"), Some(Role::Fcollector));
    assert_eq!(Role::from_command("nonsense"), None);
}

#[test]
fn an_unreadable_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/x.ini")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/x.ini: cannot read the config: "), "{error}");
    assert!(Config::load(Path::new("/dev/zero")).unwrap_err().to_string().contains("larger than 1 MiB"));
}

#[test]
fn defaults_of_the_follower() {
    let (tail, _) = parse(FULL_TAIL).tail(true).unwrap();
    assert_eq!((tail.pack_bytes, tail.tail_memory, tail.max_line), (1 << 20, 4 << 20, 1 << 20));
    assert_eq!(
        (tail.streams[0].start, tail.name, tail.state_dir, tail.recv_buffer_size),
        (None, None, None, None)
    );
    let own = &tail.streams[0];
    assert_eq!((own.flush_interval_ms, own.late_watch_ms, tail.scan_interval_ms), (5000, 172_800_000, 200));
    assert_eq!((tail.sender.senders, tail.sender.compress_level, tail.sender.peer), (2, 6, Peer::Logd));
    let spool =
        SpoolConfig { size: 1 << 30, segment_size: 16 << 20, min_free: 256 << 20, group_commit_ms: 0 };
    assert_eq!(tail.spool, spool);
    assert_eq!(tail.log, LogConfig { level: Level::Info, dir: None });
    assert!(Level::Debug < Level::Error);
}

#[test]
fn set_values_arrive() {
    let text = "[tail]\nlog_file=/l/a.<%Y%m%d%H>\nsend_to=:9\nip=web1\nstart=2026112205\npeer=Original\nspool_size=0\n\
                recv_buffer_size=2000\ntimezone=UTC\n[logAgent]\nlevel=WARNING\nlocal_dir=logs\n";
    let (tail, warnings) = parse(text).tail(true).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(tail.name.as_deref(), Some("web1"));
    assert_eq!(tail.streams[0].start, Hour::parse("2026112205").map(Start::Hour));
    assert_eq!(tail.streams[0].start.unwrap().to_string(), "2026112205");
    assert_eq!((tail.sender.peer, tail.spool.size, tail.recv_buffer_size), (Peer::Original, 0, Some(2000)));
    assert_eq!(tail.sender.send_to, ["localhost:9"]);
    assert_eq!(tail.log, LogConfig { level: Level::Warning, dir: Some("logs".into()) });
    let text = "[fcollector]\nlisten=1306\nallow=10.0.0.0/8\nsave_dir=tmp\nfile_mode=0640\n";
    let (store, _) = parse(text).store(true).unwrap();
    assert_eq!((store.save_dir, store.file_mode, store.dir_mode), ("tmp".into(), 0o640, 0o755));
    assert_eq!((store.spool.min_free, store.spool.group_commit_ms), (2 << 30, 5));
    assert_eq!(store.receiver.listen, "0.0.0.0:1306");
    assert!(store.receiver.allow.permits("10.1.1.1".parse().unwrap()));
    assert!(!store.receiver.allow.permits("11.1.1.1".parse().unwrap()));
}

#[test]
fn the_newer_spelling_wins_over_the_alias() {
    assert_eq!(
        warnings(&format!("{FULL_TAIL}ip = a\nname = b\n")),
        ["f:4: ip: ignored, because `name` is set on line 5"]
    );
    assert!(warnings(&format!("{FULL_TAIL}ip = a\nname =\n")).is_empty());
    let text = format!("{FULL_TAIL}ip = a_b\n");
    assert!(errors(&text)[0].starts_with("f:4: ip: the name `a_b` must not hold `_`"));
}

#[test]
fn values_that_contradict_each_other() {
    for (section, more, line) in [
        (FULL_TAIL, "pack_bytes = 9M\n", "f:1: tail_memory: must be at least `pack_bytes`"),
        (
            FULL_TAIL,
            "segment_size = 8M\nspool_size = 15M\n",
            "f:5: spool_size: must be at least twice `segment_size`",
        ),
        (
            "[fcollector]\nlisten=1\nallow=any\nsave_dir=s\n",
            "max_body = 64M\n",
            "f:1: inflight_bytes: must be at least",
        ),
    ] {
        let errors = errors(&format!("{section}{more}"));
        assert!(errors.len() == 1 && errors[0].starts_with(line), "{errors:?}");
    }
}

#[test]
fn an_open_port_is_warned_about() {
    let with = |lines: &str| warnings(&format!("[fcollector]\nsave_dir = s\n{lines}\n"));
    assert!(
        with("listen = :1")[0]
            .starts_with("f:1: allow: not set, and no keys_file and no tls_client_ca says who may send: whoever reaches the port may send")
    );
    for quiet in [
        "listen = 127.0.0.1:1",
        "listen = localhost:1",
        "listen = 1\nallow = any",
        "listen = 1\nallow = ::1",
        "listen = 1\nkeys_file = k",
    ] {
        assert!(with(quiet).is_empty(), "{quiet}");
    }
}

#[test]
fn a_key_without_effect_is_warned_about() {
    let warnings = warnings(&format!("{FULL_TAIL}line_pattern = ^a=b\n"));
    assert_eq!(warnings, ["f:4: line_pattern: has no effect; it is accepted for old files"]);
}

#[test]
fn secrets_do_not_print() {
    let text = "[receiver]\ndb_passwd = geheim\ndb_uname = u\ndb_passwd = geheim2\n[mgocollector]\n\
                mongos = mongodb://u:geheim@h/x\ngeheim\ngeheim = geheim\n";
    let config = parse(text);
    let shown = format!("{}{}", config.effective(), config.check_all().unwrap_err());
    assert!(shown.contains("db_passwd = ***\n") && shown.contains("mongos = mongodb://***@h/x\n"));
    assert!(!shown.replace("geheim:", "").contains("geheim"), "{shown}");
}

#[test]
fn the_effective_config_loads_again_to_itself() {
    let odd = "[tail]\nip = web1\npack_bytes = 1024k\nsend_to = a:1\nlog_file = /a/<%Y%m%d>\n[receiver]\ndb_passwd = x";
    for text in [odd.to_string(), etc_text("full.ini"), etc_text("original.ini"), etc_text("tail.ini")] {
        let first = parse(&text);
        let shown = first.effective();
        let second = parse(&shown);
        assert_eq!(second.effective(), shown);
        assert!(second.check_all().is_ok(), "{shown}");
        assert_eq!(first.tail(true).unwrap().0, second.tail(true).unwrap().0);
    }
    let shown = parse(odd).effective();
    assert!(shown.starts_with(
        "[tail]\nlog_file = /a/<%Y%m%d>\nsend_to = a:1\nname = web1\npack_bytes = 1024k\n; defaults\n"
    ));
    assert!(shown.contains("\nsenders = 2\n") && shown.contains("\nrecord_file =\n"), "{shown}");
}

#[test]
fn every_example_is_clean() {
    for name in [
        "tail.ini",
        "collector.ini",
        "fcollector.ini",
        "etlcollector.ini",
        "mgocollector.ini",
        "monitor.ini",
        "nginx-hourly.ini",
        "nginx-plain.ini",
        "full.ini",
        "original.ini",
    ] {
        let config = Config::load(&etc(name)).unwrap();
        let warnings = config.check_all().unwrap_or_else(|e| panic!("{e}"));
        // Files of the original do not know `allow`, and have a database.
        let usual = |w: &Warning| name == "original.ini" && ["allow", "db_host"].contains(&w.key.as_str());
        // Nor has every program every feature.
        let without = |w: &Warning| w.to_string().contains("was built without the feature");
        let left: Vec<_> = warnings.iter().filter(|w| !usual(w) && !without(w)).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
    let files = std::fs::read_dir(etc("")).unwrap().map(|f| f.unwrap().path());
    assert_eq!(
        files.filter(|f| f.extension().is_some_and(|e| e == "ini")).count(),
        10,
        "an example is not tested"
    );
}

#[test]
fn the_config_of_the_original_is_accepted_whole() {
    let config = Config::load(&etc("original.ini")).unwrap();
    assert_eq!(config.roles(), Role::ALL);
    let text = etc_text("original.ini");
    for key in KEYS.iter().filter(|k| k.original) {
        assert!(text.contains(&format!("    {}", key.name)), "{}", key.name);
    }
    let (relay, _) = config.relay(false).unwrap();
    assert_eq!((relay.receiver.listen.as_str(), relay.sender.senders), ("0.0.0.0:1302", 50));
    assert_eq!(config.store(false).unwrap().0.save_dir, Path::new("tmp"));
}

/// What `etc/full.ini` must be: the table, printed.
fn full_ini() -> String {
    let mut text = String::from(
        "; Every key of the sections below with its default. A line beginning with ; is a comment; an empty value means\n\
         ; the default. Sizes: 4096, 64k, 8M, 1G. Times: 200ms, 5s, 10m, 24h, 7d; a bare number counts seconds.\n",
    );
    let samples = [
        ("log_file", "/var/log/nginx/access.log.<%Y%m%d%H>"),
        ("listen", ":1302"),
        ("save_dir", "/srv/logd"),
        ("send_to", "collector.example.com:1302"),
        ("allow", "127.0.0.1, 10.0.0.0/8"),
        ("hb_port", "4000"),
        ("mon_addr", "monitor.example.com:4040"),
        ("columns_file", "/etc/logd/columns.json"),
        ("db", "logs"),
        ("collection", "requests"),
    ];
    for section in [
        "tail",
        "tail:error",
        "collector",
        "fcollector",
        "etlcollector",
        "mgocollector",
        "logAgent",
        "monitor",
        "receiver",
        "heart_beat",
        "http",
    ] {
        writeln!(text, "\n[{section}]").unwrap();
        if section.starts_with(keys::STREAM) {
            text += "; A further stream of the follower, here called error. What is empty is as in [tail].\n";
            text += "log_file = /var/log/nginx/error.log.<%Y%m%d%H>\n";
            for key in keys::of(section).filter(|k| k.name != "log_file") {
                writeln!(text, "{} =", key.name).unwrap();
            }
            continue;
        }
        let mut all: Vec<&keys::Key> = keys::of(section).collect();
        if ["etlcollector", "mgocollector"].contains(&section) {
            text += "; Every key of [fcollector], too; here are those that must be set.\n";
            all.retain(|k| {
                k.required || k.name == "allow" || !keys::of("fcollector").any(|f| f.name == k.name)
            });
        }
        for key in all {
            let ranged = matches!(
                key.kind,
                Kind::Size(..) | Kind::Duration(..) | Kind::Number(..) | Kind::Choice(_) | Kind::Mode(_)
            );
            let range = if ranged { format!(" ({})", key.kind.describe()) } else { String::new() };
            let required = if key.required { " Required." } else { "" };
            let samples = if section == "http" { &[("listen", "127.0.0.1:1380")][..] } else { &samples[..] };
            let sample = samples.iter().find(|(name, _)| *name == key.name).map(|(_, sample)| *sample);
            writeln!(text, "; {}{range}{required}", key.help).unwrap();
            writeln!(text, "{}", format!("{} = {}", key.name, sample.unwrap_or(key.default)).trim_end())
                .unwrap();
        }
    }
    text
}

#[test]
fn full_ini_is_the_table() {
    let wanted = full_ini();
    if etc_text("full.ini") != wanted {
        println!("-----8<-----\n{wanted}----->8-----");
        panic!("etc/full.ini is not what the table of keys says; the text above is");
    }
}

#[test]
fn the_monitor_and_what_it_is_told() {
    let config = Config::load(&etc("original.ini")).unwrap();
    let (monitor, _) = config.monitor(true).unwrap();
    assert_eq!((monitor.listen.as_str(), monitor.check_interval_ms), ("0.0.0.0:4040", 30_000));
    let db = monitor.db.unwrap();
    assert_eq!((db.port, db.user.as_str(), db.database.as_str()), (3306, "logd", "logd"));
    assert!(!format!("{db:?}").contains("not-a-real-one"));
    // A file that serves the monitor, too, says nothing to the others about its database.
    let (tail, warnings) = config.tail(true).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(tail.watch.hb_listen.as_deref(), Some("0.0.0.0:4000"));
    assert_eq!(tail.watch.monitor.as_deref(), Some("localhost:4040"));
    assert_eq!(
        (tail.watch.log_to.as_deref(), tail.watch.log_level),
        (Some("localhost:4040"), Level::Warning)
    );
    for (text, why) in [
        ("[receiver]\ndb_host = h\n", "db_db: missing"),
        ("[receiver]\ndb_charset = utf8;drop\n", "db_charset: is no name"),
        ("[receiver]\ncheck_interval = 5\n", "it is a key of [heart_beat]"),
        ("[receiver]\n[heart_beat]\ncheck_interval = 0\n", "out of range"),
    ] {
        assert!(errors(text).iter().any(|e| e.contains(why)), "{text}: {:?}", errors(text));
    }
    assert!(warnings_of_tail("[monitor]\nmon_addr = m:4040\n").iter().any(|w| w.contains("without hb_port")));
}

fn warnings_of_tail(more: &str) -> Vec<String> {
    parse(&format!("{FULL_TAIL}{more}")).tail(true).unwrap().1.iter().map(ToString::to_string).collect()
}

#[test]
fn an_alarm_command_is_a_program_and_no_shell_line() {
    let store = "[fcollector]\nlisten = 1\nallow = any\nsave_dir = s\n";
    let alarm =
        |text: &str| parse(&format!("{store}alarm_command = {text}\n")).store(true).map(|t| t.0.watch.alarm);
    assert_eq!(alarm("/bin/mail  -s %s root").unwrap(), ["/bin/mail", "-s", "%s", "root"]);
    for bad in
        ["mail %s", "/bin/mail", "/bin/%s", "/bin/mail '%s'", "/bin/a %s | b", "/bin/a %s; b", "/bin/a `%s`"]
    {
        assert!(alarm(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_table_is_sound() {
    for key in KEYS {
        assert!(!key.help.is_empty() && key.help.ends_with('.') && !key.help.contains('\n'), "{}", key.name);
        assert!(key.default.is_empty() || key.kind.parse(key.default).is_ok(), "{}", key.name);
        assert!(!key.required || key.default.is_empty(), "{}", key.name);
        assert!(!key.unused || key.original, "{}: a setting without a reader", key.name);
        for section in key.sections {
            assert!(SECTIONS.contains(section) || *section == keys::STREAM, "{section}");
            for name in [key.name, key.alias] {
                let same = KEYS.iter().filter(|k| !name.is_empty() && k.is(section, name)).count();
                assert!(
                    same == usize::from(!name.is_empty()),
                    "{section} {name} is in the table {same} times"
                );
            }
        }
    }
    for section in SECTIONS {
        assert!(keys::of(section).count() > 0, "{section}");
    }
}

/// A key that nobody reads would be a setting that silently does nothing: a bad value must be noticed for each.
#[test]
fn every_key_has_a_reader() {
    for key in KEYS.iter().filter(|k| !k.unused && !matches!(k.kind, Kind::Text | Kind::Ignored)) {
        for section in key.sections {
            // Any text is a path, but for this.
            let bad = if key.kind == Kind::LogFile { "/a/" } else { "!" };
            let text = format!("[{section}]\n{} = {bad}\n[receiver]\n[tail]\n", key.name);
            let text = text.replace("[tail:]", "[tail:x]");
            let found = errors(&text).iter().any(|e| e.starts_with(&format!("f:2: {}: ", key.name)));
            assert!(found, "[{section}] {}: {:?}", key.name, errors(&text));
        }
    }
}

#[test]
fn no_file_makes_it_panic() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move |n: usize| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let values = [
        "",
        "0",
        "99999999999999999999",
        "1G",
        ":1",
        "[::1]:2",
        "é<",
        "a@b",
        "2026112205",
        "10.0.0.0/8",
        ",",
    ];
    for _ in 0..2000 {
        let mut text = Vec::new();
        for _ in 0..random(30) {
            let key = KEYS[random(KEYS.len())];
            match random(4) {
                0 => text.extend(format!("[{}]", SECTIONS[random(SECTIONS.len())]).bytes()),
                1 => text.extend((0..random(20)).map(|_| random(256) as u8)),
                _ => text.extend(format!("{} = {}", key.name, values[random(values.len())]).bytes()),
            }
            text.push(b'\n');
        }
        let config = Config::parse("f", &text);
        for strict in [false, true] {
            let _ = (config.tail(strict), config.relay(strict), config.store(strict), config.monitor(strict));
        }
        let shown = config.effective();
        assert_eq!(Config::parse("f", shown.as_bytes()).effective(), shown, "seed {seed}");
        if let Err(errors) = config.check_all() {
            assert!(!errors.0.is_empty() && !errors.to_string().is_empty());
        }
    }
}

#[test]
fn a_page_that_others_could_see_needs_a_list_of_them() {
    let http = |text: &str| {
        let text = format!("[tail]\nlog_file = /a\nsend_to = c:1\n[http]\n{text}");
        Config::parse("test", text.as_bytes()).tail(true).map(|(c, _)| c.http)
    };
    let none = http("").unwrap();
    assert_eq!((none.listen, none.hours), (None, 72));
    assert!(http("listen = 127.0.0.1:1380").is_ok() && http("listen = [::1]:1380").is_ok());
    for open in [":1380", "1380", "10.0.0.1:1380", "[::]:1380", "logs.example:1380"] {
        let refused = http(&format!("listen = {open}")).unwrap_err().to_string();
        assert!(refused.contains("test:4: allow: ") || refused.contains("allow: not set"), "{refused}");
        let allowed =
            http(&format!("listen = {open}\nallow = 10.0.0.0/8\nhosts = Logs.Example, fd00::1")).unwrap();
        assert_eq!(allowed.hosts, ["logs.example", "fd00::1"]);
    }
    for hosts in ["a b", "a:80", "http://a", "<x>"] {
        assert!(http(&format!("hosts = {hosts}")).unwrap_err().to_string().contains("is no name of a host"));
    }
}
