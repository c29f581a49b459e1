//! Status of stores and followers as an operator would meet them.

use super::super::testing::{Build, Temp, printed};
use super::*;
use crate::journal::{Cut, Event, Journal};
use crate::pack::Seal;
use crate::record;
use crate::roles::follower::bound::RouteFile;
use std::path::PathBuf;

const PACKS: &[&str] = &["a\nb\n", "c\n"];

/// Noon of 22 November 2026, in UTC.
const NOON: i64 = 1_795_348_800_000;

fn status_at(path: &Path, filter: &Filter, view: View, now_ms: i64) -> (u8, String, String) {
    let zone = Zone::named("UTC").ok();
    printed(|out| {
        let disk = Disk::real();
        run_at(
            path,
            Status {
                disk,
                filter,
                view,
                zone,
                now_ms,
                out,
                json: Vec::new(),
                also: Vec::new(),
                moved: BTreeMap::default(),
                stores: 0,
                failed: false,
            },
        )
        .0
    })
}

fn status(path: &Path, view: View) -> String {
    let (code, out, err) = status_at(path, &Filter::default(), view, NOON);
    assert_eq!((code, err.as_str()), (YES, ""), "{out}");
    out
}

/// One hour of every sort.
fn fleet() -> Temp {
    let temp = Temp::new();
    let save = temp.path("save");
    let open = |hour| Build { done: false, ..Build::new(hour, PACKS) };
    Build::new("web1_2026112209", PACKS).certify(&save);
    Build::new("web1_2026112210", PACKS).certify(&save);
    open("web1_2026112211").store(&save);
    Build::new("web2_2026112209", &[""]).certify(&save);
    Build { state: "partial", ..Build::new("web2_2026112210", PACKS) }.certify(&save);
    Build { ours: false, ..Build::new("web3_2026112209", PACKS) }.certify(&save);
    open("web3_2026112210").store(&save);
    temp.file("save/aside/early/web3/2026112210.0.5", "");
    Build::new("web4_2026112209", PACKS).store(&save);
    std::fs::write(save.join("log_data/web4_2026112209"), "a\n").unwrap();
    open("web4_2026112210").store(&save);
    Build { state: "loss", ..Build::new("web5_2026112209", PACKS) }.certify(&save);
    temp
}

fn store_config(temp: &Temp, hosts: &str) -> PathBuf {
    let hosts = temp.file("hosts", hosts);
    let text = format!(
        "[fcollector]\nlisten = :1\nallow = any\nsave_dir = {}\nstate_dir = {}\nhosts_file = {}\n",
        temp.path("save").display(),
        temp.path("state").display(),
        hosts.display()
    );
    temp.file("c.ini", &text)
}

#[test]
fn a_store_in_a_few_lines() {
    let temp = fleet();
    let text = status(&temp.path("save"), View::Summary);
    let count = |what: &str| assert!(text.contains(what), "{what}:\n{text}");
    count("5 hosts, 10 hours from 2026112209 to 2026112211, ");
    count("4 certified (2 verified, 1 unverified, 1 empty)");
    count("2 doubtful (1 partial, 1 loss)");
    count("2 under way (2 open)");
    count("2 not certified (1 gaps, 1 damaged)");
    count("- gaps (1 hour): ");
    count("\n    web3 2026112210  gaps: missing 3-4\n");
    // The hour of web4 is over for an hour, that of web1 has just ended.
    count("- open, overdue (1 hour): ");
    count("web4 2026112210  open: the hour has been over for 1 h 0 min");
    assert!(!text.contains("web1 2026112211"), "{text}");
}

#[test]
fn nothing_wrong_is_said_in_words() {
    let temp = Temp::new();
    Build::new("web1_2026112209", PACKS).certify(&temp.path("save"));
    assert!(status(&temp.path("save"), View::Summary).ends_with("  nothing is wrong\n"));
}

#[test]
fn a_store_that_does_not_run_is_wrong() {
    let temp = Temp::new();
    Build::new("web1_2026112211", PACKS).certify(&temp.path("save"));
    let config = store_config(&temp, "web1\n");
    assert!(status(&config, View::Summary).contains("nothing is wrong"));
    let open = || crate::instance::Instance::open(&Disk::real(), &temp.path("state"), "fcollector", &config);
    let running = open().unwrap();
    assert!(status(&config, View::Summary).contains("nothing is wrong"));
    drop(running);
    let text = status(&config, View::Summary);
    assert!(text.contains("- NOT RUNNING: start it with `logd fcollector CONFIG`"), "{text}");
}

#[test]
fn the_table_and_its_filters() {
    let temp = fleet();
    let text = status(&temp.path("save"), View::All);
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with("web")).collect();
    assert_eq!(rows.len(), 10, "{text}");
    assert_eq!(
        rows[0].split_whitespace().collect::<Vec<_>>(),
        ["web1", "2026112209", "verified", "no", "2", "3", "6"]
    );
    assert!(text.contains("missing 3-4") && text.contains("HOST"), "{text}");
    let filter = Filter { host: Some("web1".into()), since: crate::clock::Hour::parse("2026112210") };
    let (_, text, _) = status_at(&temp.path("save"), &filter, View::All, NOON);
    assert_eq!(text.lines().filter(|l| l.starts_with("web")).count(), 2, "{text}");
}

#[test]
fn missing_prints_what_resend_reads_and_nothing_else() {
    let temp = fleet();
    let want = "web2 2026112210\nweb3 2026112210 3-4\nweb4 2026112209\n";
    assert_eq!(status(&temp.path("save"), View::Missing), want);
    // With the expected names and what the collector has accepted.
    let config = store_config(&temp, "web1\nweb5\nweb9\n");
    let mut print = crate::footprint::Footprint::default();
    let pending = crate::footprint::Pending { bytes: 1, crc32: 0, mark: 0, seq: 1, weight: 1 };
    let key = super::super::testing::key("web3_2026112210");
    for id in [1, 2, 3, 7] {
        print.accept(&key, 0, id, pending, 0);
    }
    print.save(&Disk::real(), &temp.path("state"), "now").unwrap();
    let want = "web2 2026112210\nweb3 2026112210 4-4,6-6\nweb4 2026112209\nweb5 2026112210\n\
                web9 2026112209\nweb9 2026112210\n";
    assert_eq!(status(&config, View::Missing), want);
}

#[test]
fn silent_hosts_take_one_line_each() {
    let temp = fleet();
    let config = store_config(&temp, "web1\nweb9\n");
    let text = status(&config, View::Summary);
    assert!(text.contains("2 expected and silent (2 silent)"), "{text}");
    assert!(text.contains("\n    web9  2 hours, 2026112209 to 2026112210\n"), "{text}");
    assert!(text.contains("spool 0 B of 1.0 GiB: no pack waits"), "{text}");
    // Asked for one host, the others still tell what it lacks.
    let filter = Filter { host: Some("web9".into()), since: None };
    assert_eq!(status_at(&config, &filter, View::Missing, NOON).1, "web9 2026112209\nweb9 2026112210\n");
    let slip = Filter { host: Some("wbe1".into()), since: None };
    let (code, _, err) = status_at(&config, &slip, View::Summary, NOON);
    assert!(code == ERROR && err.contains("there is no hour of wbe1"), "{err}");
    // One that joined later lacks nothing of before.
    let config = store_config(&temp, "web1\nweb9 2026112210\n");
    assert_eq!(status_at(&config, &filter, View::Missing, NOON).1, "web9 2026112210\n");
}

/// Standard output said that nothing was wrong.
#[test]
fn a_hosts_file_that_names_nobody_is_wrong() {
    let temp = Temp::new();
    Build::new("web1_2026112209", PACKS).certify(&temp.path("save"));
    let config = store_config(&temp, "# nobody\n");
    let text = status(&config, View::Summary);
    assert!(text.contains("  wrong:") && text.contains("hosts: names no host"), "{text}");
    for broken in [true, false] {
        if broken {
            temp.file("hosts", "web1 x\n");
        } else {
            std::fs::remove_file(temp.path("hosts")).unwrap();
        }
        let (code, text, err) = status_at(&config, &Filter::default(), View::Summary, NOON);
        assert!(code == ERROR && err.contains("silent hosts cannot be told"), "{err}");
        assert!(text.contains("silent hosts cannot be told") && !text.contains("nothing is wrong"), "{text}");
    }
}

/// Such files were passed over, and nothing was wrong.
#[test]
fn a_followers_state_that_is_damaged_is_told() {
    let temp = Temp::new();
    let log = temp.file("access.log.2026112211", "a\n");
    let text = format!("[tail]\nlog_file = {}\nsend_to = c:1\nstate_dir = ", log.display());
    let config = temp.file("t.ini", &(text + temp.path("state").to_str().unwrap() + "\n"));
    let told = || status(&config, View::Summary);
    std::fs::create_dir_all(temp.path("state/journal")).unwrap();
    assert!(told().contains("nothing is wrong"), "{}", told());
    temp.file("state/journal/log", "noise");
    temp.file("state/follower.json", "{");
    let text = told();
    assert!(text.contains("follower.json: ") && text.contains("its next start sends the hours"), "{text}");
    assert!(text.contains("journal/log: damaged at byte 0"), "{text}");
    let identity = record::to_json(&json!({
        "format": 2, "name": "web1", "zone": "UTC", "first_hour": "2026112211", "copies_generation": 1
    }));
    std::fs::write(temp.path("state/follower.json"), identity).unwrap();
    let (code, _, err) = status_at(&config, &Filter::default(), View::Summary, NOON);
    assert!(
        code == ERROR && err.contains("format 2 is not known to this version; start the version"),
        "{err}"
    );
}

/// The story: a relay lost all packs of an hour of every host, or the only host was silent, and no hour was named.
#[test]
fn an_hour_that_every_host_lacks_is_named() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build::new("web1_2026112205", PACKS).certify(&save);
    Build::new("web1_2026112208", PACKS).certify(&save);
    let config = store_config(&temp, "web1\n");
    let text = status(&config, View::Summary);
    assert!(text.contains("\n    web1  4 hours, 2026112206 to 2026112210\n"), "{text}");
    let want: String = ["06", "07", "09", "10"].map(|h| format!("web1 20261122{h}\n")).concat();
    assert_eq!(status(&config, View::Missing), want);
    let filter = Filter { host: None, since: crate::clock::Hour::parse("2026112209") };
    assert_eq!(status_at(&config, &filter, View::Missing, NOON).1, "web1 2026112209\nweb1 2026112210\n");
    // Nobody knows what an empty store should have.
    std::fs::remove_dir_all(&save).unwrap();
    std::fs::create_dir_all(save.join("received")).unwrap();
    assert_eq!(status(&config, View::Missing), "");
}

#[test]
fn a_host_whose_files_hold_a_day_lacks_days() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build::new("web1_20261119", PACKS).certify(&save);
    // The 22nd is not over.
    let config = store_config(&temp, "web1\nweb2\n");
    let days = "web1 20261120\nweb1 20261121\nweb2 20261119\nweb2 20261120\nweb2 20261121\n";
    assert_eq!(status(&config, View::Missing), days);
    Build::new("web2_2026112209", PACKS).certify(&save);
    assert_eq!(status(&config, View::Missing), "web1 20261120\nweb1 20261121\nweb2 2026112210\n");
}

#[test]
fn what_is_expected_has_a_limit() {
    let temp = Temp::new();
    Build::new("web1_1970010100", PACKS).certify(&temp.path("save"));
    let config = store_config(&temp, "web1\n");
    assert!(
        status(&config, View::Summary).contains("\n    web1  9999 hours, "),
        "{}",
        status(&config, View::Summary)
    );
}

#[test]
fn a_store_that_was_never_started_is_no_wrong_directory() {
    let temp = Temp::new();
    let config = store_config(&temp, "web1\n");
    for _ in 0..2 {
        let text = status(&config, View::Summary);
        assert!(
            text.contains("it has not started yet; `logd fcollector") && !text.contains("wrong:"),
            "{text}"
        );
        assert_eq!(status_at(&config, &Filter::default(), View::Missing, NOON).0, ERROR);
        std::fs::create_dir_all(temp.path("save")).unwrap();
    }
    // Where one has served, its directory is missed.
    temp.file("state/role.json", "{}");
    let (code, _, err) = status_at(&config, &Filter::default(), View::Summary, NOON);
    assert!(code == ERROR && err.contains("not a store"), "{err}");
}

/// Where a role does nothing, or would not start, `nothing is wrong` was said.
#[test]
fn what_keeps_a_role_from_working_is_wrong() {
    let temp = Temp::new();
    let state = temp.path("state");
    let relay = temp.file(
        "r.ini",
        &format!("[collector]\nlisten = :1\nallow = any\nsend_to = c:2\nstate_dir = {}\n", state.display()),
    );
    let tail = temp.file(
        "t.ini",
        &format!(
            "[tail]\nlog_file = {}/a.<%Y%m%d%H>\nsend_to = c:1\nstate_dir = {}\n",
            temp.path("logs").display(),
            state.display()
        ),
    );
    let wrong = |config: &Path, what: &str| {
        let text = status(config, View::Summary);
        assert!(text.contains("  wrong:\n") && text.contains(what), "{what}:\n{text}");
    };
    wrong(&tail, "logs: ");
    temp.file("logs", "no directory");
    wrong(&tail, "no log file can be found there");
    std::fs::remove_file(temp.path("logs")).unwrap();
    temp.file("logs/a.2026112211", "");
    assert!(status(&tail, View::Summary).ends_with("nothing is wrong\n"));

    temp.file("state", "no directory");
    wrong(&relay, "state: not a directory");
    std::fs::remove_file(&state).unwrap();
    let disk = Disk::real();
    disk.create_dir_all(&state, 0o750).unwrap();
    crate::instance::mark(&disk, &state, "tail").unwrap();
    wrong(&relay, "it is a tail's; give collector its own state_dir");
    assert!(status(&tail, View::Summary).ends_with("nothing is wrong\n"));
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    wrong(&tail, "anybody may write it; chmod o-w");
}

#[test]
fn the_machine_form_has_the_same_rows() {
    let temp = fleet();
    let all: Value = serde_json::from_str(&status(&temp.path("save"), View::Json)).unwrap();
    let hours = all["roles"][0]["hours"].as_array().unwrap();
    assert_eq!(hours.len(), 10);
    let gap = hours.iter().find(|h| h["name"] == "web3" && h["hour"] == "2026112210").unwrap();
    assert_eq!((&gap["state"], &gap["missing"]), (&json!("gaps"), &json!([[3, 4]])));
    assert!(gap["next_step"].as_str().is_some_and(|s| !s.is_empty()));
}

/// The config of a follower of one file.
fn undated_config(temp: &Temp, log: &Path) -> PathBuf {
    let state = temp.path("state");
    let ini =
        format!("[tail]\nlog_file = {}\nsend_to = c:1\nstate_dir = {}\n", log.display(), state.display());
    temp.file("t.ini", &ini)
}

/// What comes to a file without a date after an hour was closed is not that hour's.
#[test]
fn a_closed_hour_of_a_file_without_a_date_is_not_behind() {
    let temp = Temp::new();
    let disk = Disk::real();
    let path = temp.file("access.log", "a\nb\nc\nd\n");
    let (mut journal, _) = Journal::open(&disk, &temp.path("state"), false, &mut |_| {}).unwrap();
    for (hour, pos, done) in [("web1_2026112210", 0, true), ("web1_2026112211", 4, false)] {
        let hour = hour.to_owned();
        let (path, first_id, clock) = (path.clone(), 1, true);
        journal.append(&Event::Opened { hour: hour.clone(), generation: 0, path, first_id, pos, clock });
        if done {
            journal.append(&Event::Cut { hour, cut: Cut::new(1, 0, 2, &Seal::of(b"a\nb\n"), true) });
        }
    }
    journal.commit().unwrap();
    let config = undated_config(&temp, &path);
    let all: Value = serde_json::from_str(&status(&config, View::Json)).unwrap();
    let hours = all["roles"][0]["hours"].as_array().unwrap();
    assert_eq!(hours.iter().map(|h| h["behind"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 4]);
}

/// The position in the old file was subtracted from the length of the new one.
#[test]
fn after_a_rotation_what_is_behind_is_in_two_files() {
    let temp = Temp::new();
    let path = temp.file("access.log", "new\n");
    temp.file("access.log.1", "a\nb\nrest\n");
    let (mut journal, _) = Journal::open(&Disk::real(), &temp.path("state"), false, &mut |_| {}).unwrap();
    let hour = "web1_2026112211".to_owned();
    let opened = Event::Opened {
        hour: hour.clone(),
        generation: 0,
        path: path.clone(),
        first_id: 1,
        pos: 0,
        clock: true,
    };
    journal.append(&opened);
    journal.append(&Event::Cut { hour: hour.clone(), cut: Cut::new(1, 0, 2, &Seal::of(b"a\nb\n"), false) });
    journal.append(&Event::Acked { hour, generation: 0, ids: vec![1], to: None });
    journal.commit().unwrap();
    let config = undated_config(&temp, &path);
    let text = status(&config, View::Summary);
    assert!(text.contains("sealed 4 B, now 4 B, behind 9 B since"), "{text}");
    assert!(text.contains("NOT RUNNING, and 9 B of its files are not sent"), "{text}");
}

#[test]
fn a_follower_tells_what_is_on_its_way() {
    let temp = Temp::new();
    let disk = Disk::real();
    let log = temp.file("access.log.2026112211", "a\nb\nc\nd\n");
    let gone = temp.path("access.log.2026112210");
    let (mut journal, _) = Journal::open(&disk, &temp.path("state"), false, &mut |_| {}).unwrap();
    for (hour, path, raw) in [("web1_2026112211", &log, "a\nb\n"), ("web1_2026112210", &gone, "x\n")] {
        let hour = hour.to_owned();
        let opened = Event::Opened {
            hour: hour.clone(),
            generation: 0,
            path: path.clone(),
            first_id: 1,
            pos: 0,
            clock: false,
        };
        journal.append(&opened);
        let cut = Cut::new(1, 0, 1, &Seal::of(raw.as_bytes()), false);
        journal.append(&Event::Cut { hour, cut });
    }
    let note = Event::Note {
        hour: "web1_2026112210".into(),
        what: "loss".into(),
        range: Some((2, Some(9))),
        pos: None,
    };
    journal.append(&note);
    journal.append(&Event::Acked { hour: "web1_2026112211".into(), generation: 0, ids: vec![1], to: None });
    journal.commit().unwrap();
    temp.file("state/journal/hours/web1_2026112209", "");
    temp.file("state/held/web1/2026112208.0.4", "frame");
    temp.file("state/retry/00000000000000000001.seg", "?");
    let config = temp.file(
        "t.ini",
        &format!(
            "[tail]\nlog_file = {}/access.log.<%Y%m%d%H>\nsend_to = c:1\nstate_dir = {}\n",
            temp.dir().display(),
            temp.path("state").display()
        ),
    );
    let text = status(&config, View::Summary);
    for part in [
        "2 hours under way, 1 closed",
        "web1_2026112211: ",
        "sealed 4 B, now 8 B, behind 4 B since ",
        "not there any more, 1 pack (2 B) not acknowledged",
        "retry spool 1 B of 1.0 GiB",
        "web1_2026112210: loss, lost bytes 2-9",
        "gone before the hour was closed",
        "held: 1 pack of web1",
        "NOT RUNNING, and at most 1 pack waits: start it with `logd tail CONFIG`",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let all: Value = serde_json::from_str(&status(&config, View::Json)).unwrap();
    assert_eq!(all["roles"][0]["hours"][1]["behind"], 4);
    let (code, _, err) = status_at(&config, &Filter::default(), View::Missing, NOON);
    assert_eq!(code, ERROR);
    assert!(err.contains("--missing is a question to a store"), "{err}");
}

#[test]
fn a_follower_tells_who_waits_for_whom() {
    let temp = Temp::new();
    let disk = Disk::real();
    let (mut journal, _) = Journal::open(&disk, &temp.path("state"), false, &mut |_| {}).unwrap();
    for (hour, to) in [("web1_2026112209", "a:1"), ("web1_2026112210", "b:1"), ("web1_2026112211", "gone:1")]
    {
        let path = temp.file(&format!("access.log.{}", &hour[5..]), "x\n");
        let hour = || hour.to_owned();
        journal.append(&Event::Opened {
            hour: hour(),
            generation: 0,
            path,
            first_id: 1,
            pos: 0,
            clock: false,
        });
        let cut = Cut::new(1, 0, 1, &Seal::of(b"x\n"), false);
        journal.append(&Event::Cut { hour: hour(), cut });
        journal.append(&Event::Acked { hour: hour(), generation: 0, ids: Vec::new(), to: Some(to.into()) });
    }
    journal.commit().unwrap();
    let config = |keys: &str| {
        let (dir, state) = (temp.dir().display(), temp.path("state"));
        let text = format!(
            "[tail]\nlog_file = {dir}/access.log.<%Y%m%d%H>\nstate_dir = {}\n{keys}\n",
            state.display()
        );
        temp.file("t.ini", &text)
    };
    let two = || config("send_to = a:1, b:1, c:1");
    let text = status(&two(), View::Summary);
    assert!(
        text.contains("not acknowledged, bound to b:1\n") && text.matches("bound to").count() == 1,
        "{text}"
    );
    assert!(!text.contains("does not answer"), "{text}");
    let route = RouteFile {
        format: 1,
        used: "b:1".into(),
        silent: vec![("a:1".into(), NOON - 90_000), ("c:1".into(), NOON), ("gone:1".into(), NOON)],
    };
    disk.replace(&temp.path("state/route.json"), &record::to_json(&route), 0o640).unwrap();
    let text = status(&two(), View::Summary);
    for part in [
        "a:1 does not answer since 1 min 30 s: 1 pack waits for it alone, of hours that it has begun to acknowledge, all \
         else goes to b:1; if it is gone for good, `logd resend --to`",
        "c:1 does not answer since 0 ms: no pack has to wait for it, all else goes to b:1\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("gone:1 does not"), "{text}");
    let all: Value = serde_json::from_str(&status(&two(), View::Json)).unwrap();
    let role = &all["roles"][0];
    assert_eq!(
        (&role["route"]["silent"][0]["packs"], &role["hours"][1]["bound"]),
        (&json!(1), &json!("b:1"))
    );
    // Without a choice there is nothing to tell.
    for keys in ["send_to = a:1", "send_to = a:1, b:1\nfailover = any"] {
        let text = status(&config(keys), View::Summary);
        assert!(!text.contains("bound to") && !text.contains("begun to acknowledge"), "{text}");
    }
}

#[test]
fn a_follower_that_can_read_nothing_is_wrong() {
    let temp = Temp::new();
    let state = temp.path("state");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::create_dir_all(temp.path("logs/there.log.2026112211")).unwrap();
    temp.file("logs/good.log.2026112211", "a\n");
    temp.file("logs/good.log", "a\n");
    std::fs::create_dir_all(temp.path("logs/directory.log")).unwrap();
    for (file, why) in [
        ("good.log.<%Y%m%d%H>", None),
        ("good.log", None),
        ("god.log.<%Y%m%d%H>", Some("there is no file of such a name")),
        ("god.log", Some("is log_file spelt right?")),
        ("there.log.<%Y%m%d%H>", Some("there is no file of such a name")),
        ("directory.log", Some("not a file")),
        ("*/good.log", Some("nothing matches it")),
    ] {
        let section = if file.starts_with('*') { "[tail:x-*]\n" } else { "" };
        let text = format!(
            "[tail]\nsend_to = c:1\nname = web1\nstate_dir = {}\n{section}log_file = {}/{file}\n",
            state.display(),
            temp.path("logs").display()
        );
        let config = temp.file("conf", &text);
        let out = status(&config, View::Summary);
        assert!(out.contains(why.unwrap_or("nothing is wrong")), "{file}: {out}");
    }
}

#[test]
fn roles_in_turn_and_faults_of_one_do_not_hide_the_others() {
    let temp = fleet();
    let text = format!(
        "[tail]\nlog_file = /x/\nsend_to = c:1\n[collector]\nlisten = :1\nallow = any\nsend_to = c:2\nstate_dir = {}\n\
         [fcollector]\nlisten = :1\nallow = any\nsave_dir = {}\nstate_dir = {}\n[mgocollector]\n",
        temp.path("relay").display(),
        temp.path("save").display(),
        temp.path("state").display()
    );
    let config = temp.file("c.ini", &text);
    let (code, out, err) = status_at(&config, &Filter::default(), View::Summary, NOON);
    assert_eq!(code, ERROR);
    assert!(err.contains("c.ini:2: log_file") && err.contains(": db: missing"), "{err}");
    assert!(out.contains("collector 0.0.0.0:1 to c:2") && out.contains("the role has not run yet"), "{out}");
    assert!(out.contains("5 hosts, 10 hours"), "{out}");
}

#[test]
fn what_is_neither_store_nor_config_is_an_error() {
    let temp = Temp::new();
    for (path, hint) in [
        (temp.dir().to_owned(), "not a store"),
        (temp.path("none"), "none"),
        (temp.file("empty.ini", ""), "no role"),
    ] {
        let (code, out, err) = status_at(&path, &Filter::default(), View::Summary, NOON);
        assert_eq!((code, out.as_str()), (ERROR, ""));
        assert!(err.contains(hint), "{err}");
    }
}

/// The story: of a monitor that had ended it said that nothing was wrong.
#[test]
fn a_monitor_that_does_not_run_is_what_is_wrong() {
    let temp = Temp::new();
    let dir = temp.path("state");
    let text = format!("[receiver]\nrecv_port = 1\nallow = any\nstate_dir = {}\n", dir.display());
    let config = temp.file("monitor.ini", &text);
    let out = status(&config, View::Summary);
    assert!(
        out.contains("it does not run, and nobody watches") && !out.contains("nothing is wrong"),
        "{out}"
    );
    let node =
        |port: u16, more: &str| format!("{{\"ip\":\"10.0.0.7\",\"port\":{port},\"role\":\"tail\"{more}}}");
    let all =
        [node(1, ",\"alive\":true"), node(2, &format!(",\"stopped\":true,\"since_ms\":{NOON}"))].join(",");
    temp.file("state/nodes.json", &format!("{{\"format\":1,\"nodes\":[{all}]}}"));
    let running = crate::instance::Instance::open(&Disk::real(), &dir, "monitor", &config).unwrap();
    let out = status(&config, View::Summary);
    assert!(out.contains(", running") && out.contains("nothing is wrong"), "{out}");
    assert!(out.contains("2 nodes: 1 alive, 0 without a heart-beat, 0 not asked yet"), "{out}");
    assert!(out.contains("stopped since 2026-11-22 12:00:00") && out.contains("10.0.0.7:2 (tail)"), "{out}");
    // One that was never heard has no time at which it was.
    let all = [("", 3), (",\"beat_ms\":1", 4)]
        .map(|(beat, port)| node(port, &format!(",\"alive\":false,\"since_ms\":{NOON}{beat}")));
    temp.file("state/nodes.json", &format!("{{\"format\":1,\"nodes\":[{}]}}", all.join(",")));
    let out = status(&config, View::Summary);
    assert!(out.contains("10.0.0.7:3 (tail): no heart-beat ever, asked since 2026-11-22 12:00:00"), "{out}");
    assert!(out.contains("10.0.0.7:4 (tail): no heart-beat since 2026-11-22 12:00:00"), "{out}");
    drop(running);
    let out = status(&config, View::Summary);
    assert!(out.contains("what is told of nodes is what it saw last"), "{out}");
    // What is no list is told, whatever it is.
    std::fs::remove_file(dir.join("nodes.json")).unwrap();
    std::fs::create_dir(dir.join("nodes.json")).unwrap();
    assert!(status(&config, View::Summary).contains("a start of the monitor sets it aside"));
}

/// Its waiting hours were "nothing is wrong", an old marker was a new one, and a database that had hardly anything was well.
#[test]
fn a_database_tells_which_hours_it_lacks_and_of_which_too_much_was_rejected() {
    let temp = Temp::new();
    let save = temp.path("save");
    let text = format!(
        "[mgocollector]\nlisten = :1\nallow = any\nsave_dir = {}\nstate_dir = {}\nuri = mongodb://u:geheim@h1,h2/\n\
         db = d\ncollection = c\n",
        save.display(),
        temp.path("state").display()
    );
    let config = temp.file("c.ini", &text);
    for hour in ["web1_2026112209", "web1_2026112210", "web1_2026112211", "web1_2026112212"] {
        let c = Build::new(hour, PACKS).certify(&save);
        crate::integrity::Store::new(&Disk::real(), &save, &temp.path("state"), 0o644, 0o755)
            .certify(&c)
            .unwrap();
        // The second one's is of an earlier certificate; the last one has none.
        let marker = json!({
            "format": 1, "gen": c.generation, "revision": c.revision + u64::from(hour.ends_with("10")),
            "database": "d20261122", "collection": "c", "lines": 20, "inserted": 18, "updated": 0, "skipped": 0,
            "rejected": if hour.ends_with("11") { 2 } else { 1 }, "at": 0,
        });
        if !hour.ends_with("12") {
            let json = String::from_utf8(crate::record::to_json(&marker)).unwrap();
            temp.file(&format!("save/documents_done/{hour}"), &json);
        }
    }
    // What is no marker held up all hours.
    std::fs::create_dir_all(save.join("documents_done/web1_2026112212")).unwrap();
    temp.file("save/documents_reject/web1_2026112211", "1:1\tof another format\tGET /\n");
    let known = documents::waits::Known { wrong: vec!["h1: gone".into()], notes: vec!["no index".into()] };
    std::fs::create_dir_all(temp.path("state/documents")).unwrap();
    known.note(&Disk::real(), &temp.path("state")).unwrap();
    let text = status(&config, View::Summary);
    for what in [
        "database h1,h2, dYYYYMMDD.c",
        "2 hours not whole in the database: web1_2026112210, web1_2026112212\n",
        "note: no index",
        "database: when the role ran last: h1: gone",
        "the role does not run: start it",
        "web1_2026112211: 2 of its 20 lines are no documents, the first one because: of another format",
    ] {
        assert!(text.contains(what), "{what}:\n{text}");
    }
    assert!(!text.contains("geheim") && !text.contains("web1_2026112209:"), "{text}");
    let filter = Filter { since: crate::clock::Hour::parse("2026112211"), host: None };
    let (_, text, _) = status_at(&config, &filter, View::Json, NOON);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of = &json["roles"][1];
    assert_eq!((&of["hours_waiting"], &of["trouble"]), (&1.into(), &"h1: gone".into()), "{of}");
    assert_eq!(of["rejecting"], json!(["web1_2026112211"]));
}
