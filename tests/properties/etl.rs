//! Goal: of each line of a certified hour there is exactly one row, whoever is killed when, and an hour that comes again
//! replaces its rows. The rows are counted here from the files, and the lines from the log, not from what the program says.

use super::support::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const COLUMNS: &str =
    r#"{"access": {"columns": ["n", "path", "status", "ip", "user_agent"], "partitions": ["status", "p"]}}"#;

/// A store with tables, in `save` and `etl.state`.
fn etl(temp: &Temp, keys: &[(&str, &str)]) -> Node {
    let save = temp.path("save").display().to_string();
    let columns = temp.path("columns.json");
    if !columns.exists() {
        temp.file("columns.json", COLUMNS);
    }
    let columns = columns.display().to_string();
    let mut all = vec![
        ("save_dir", save.as_str()),
        ("checkpoint", "200ms"),
        ("columns_file", &columns),
        ("etl_workers", "2"),
    ];
    all.extend(keys);
    Node::prepare(temp, "etl", "etlcollector", &all, &[])
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The rows of all files below `etl/`, each with its folder.
fn rows(temp: &Temp) -> Vec<(String, String)> {
    let (root, mut found) = (temp.path("save/etl"), Vec::new());
    files(&root, &mut found);
    let mut all = Vec::new();
    for path in found {
        let folder = path.parent().unwrap().strip_prefix(&root).unwrap().display().to_string();
        let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        all.extend(text.lines().map(|row| (folder.clone(), row.to_owned())));
    }
    all
}

fn marker(temp: &Temp, dir: &str, name: &str) -> Option<Value> {
    Some(serde_json::from_slice(&fs::read(temp.path(&format!("save/{dir}/{name}"))).ok()?).unwrap())
}

/// `n` lines with running numbers from `from` on, in `parts` partitions.
fn lines(from: u64, n: u64, parts: u64) -> String {
    let mut text = String::new();
    for i in from..from + n {
        let (status, part, ip) = (200 + i % 3, i % parts, i % 250);
        let request = format!("GET /a?n={i}&p={part} HTTP/1.1");
        let line = format!(
            "10.0.0.{ip} - - [22/Nov/2026:05:10:03 +0000] \"{request}\" {status} 5 \"-\" \"agent {i}\"\n"
        );
        text += &line;
    }
    text
}

/// Exactly one row for each number, in the folder that its values say.
#[track_caller]
fn one_of_each(temp: &Temp, numbers: std::ops::Range<u64>, parts: u64) {
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for (folder, row) in rows(temp) {
        let n: u64 = row.split('\t').next().unwrap().parse().unwrap();
        assert_eq!(folder, format!("access/status={}/p={}", 200 + n % 3, n % parts), "{row}");
        *seen.entry(n).or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, n)| **n != 1).take(5).collect();
    assert!(twice.is_empty(), "rows that are there more than once: {twice:?}");
    let missing: Vec<u64> = numbers.clone().filter(|n| !seen.contains_key(n)).take(5).collect();
    assert!(
        missing.is_empty() && seen.len() as u64 == numbers.end - numbers.start,
        "missing {missing:?} of {}",
        seen.len()
    );
}

fn send(temp: &Temp, host: &str, to: &str) {
    let pattern = temp.path(&format!("logs/{host}/access.log.<%Y%m%d%H>"));
    let mut tail = tail(temp, host, &pattern, to, &[], &["--once", "--timeout", "60s"]);
    assert_eq!(tail.wait(Duration::from_secs(70)), 0, "{}", tail.log());
}

#[test]
fn every_line_of_a_certified_hour_is_a_row_and_an_hour_sent_again_replaces_its_rows() {
    let temp = Temp::new("etl");
    let hour = past_hours(1)[0].to_string();
    let name = format!("web1_{hour}");
    let source = temp.file(&format!("logs/web1/access.log.{hour}"), lines(0, 3_000, 4));
    let mut store = etl(&temp, &[]);
    store.restart();
    let to = store.addr().to_string();
    send(&temp, "web1", &to);
    let done = until(SOON, "rows", || marker(&temp, "etl_done", &name));
    assert_eq!((&done["lines"], &done["rows"]["access"]), (&3_000.into(), &3_000.into()), "{done}");
    assert_eq!(done["files"].as_array().unwrap().len(), 12, "{done}");
    one_of_each(&temp, 0..3_000, 4);
    // What gzip says of each file.
    for file in done["files"].as_array().unwrap() {
        let path = temp.path("save").join(file["path"].as_str().unwrap());
        let packed = std::process::Command::new("gzip").arg("-c").arg(&path).output().unwrap().stdout;
        let crc = packed[packed.len() - 8..packed.len() - 4].try_into().unwrap();
        assert_eq!(file["crc32"], format!("{:08x}", u32::from_le_bytes(crc)), "{file}");
    }

    // The hour comes again with other lines, in other partitions.
    fs::write(&source, lines(5_000, 4_000, 2)).unwrap();
    fs::remove_dir_all(temp.path("web1.state")).unwrap();
    send(&temp, "web1", &to);
    until(SOON, "new rows", || marker(&temp, "etl_done", &name).filter(|m| m["lines"] == 4_000));
    one_of_each(&temp, 5_000..9_000, 2);
    // What lay aside is cleared behind the marker.
    until(SOON, "nothing aside", || {
        let mut left = Vec::new();
        files(&temp.path("save/etl_aside"), &mut left);
        left.is_empty().then_some(())
    });
    // Folders of the old rows that became empty are gone.
    assert!(!temp.path("save/etl/access/status=200/p=3").exists());

    // The command is not for a store whose role runs, and finds nothing to do when it does not.
    let ran = logd(&["etl".as_ref(), store.config().as_os_str()]);
    assert!(ran.code == 2 && ran.err.contains("another logd writes tables there"), "{ran:?}");
    assert_eq!(store.terminate(), 0);
    let ran = logd(&["etl".as_ref(), store.config().as_os_str()]);
    assert!(ran.code == 0 && ran.err.contains("has its rows"), "{ran:?}");
    let status = logd(&["status".as_ref(), store.config().as_os_str()]);
    assert_eq!(status.code, 0, "{status:?}");
}

/// A line comes to a certified hour: its tag goes first, the rows stay those of the revision before until there are new ones.
#[test]
fn a_late_line_gives_rows_of_the_next_revision_and_until_then_all_of_the_one_before() {
    let temp = Temp::new("etl-late");
    let hour = past_hours(1)[0].to_string();
    let name = format!("web1_{hour}");
    let source = temp.file(&format!("logs/web1/access.log.{hour}"), lines(0, 2_000, 4) + "no line\n");
    let mut store = etl(&temp, &[("[http] listen", "127.0.0.1:0"), ("max_reject", "1")]);
    store.restart();
    let page = store.says("are at http://");
    let page = page.split_once("http://").unwrap().1.trim_end_matches('/').parse().unwrap();
    let to = store.addr().to_string();
    let pattern = temp.path("logs/web1/access.log.<%Y%m%d%H>");
    let keys = [("start", "oldest"), ("close_wait", "0"), ("quiet", "200ms")];
    let mut tail = tail(&temp, "web1", &pattern, &to, &keys, &[]);
    let first = until(SOON, "rows", || marker(&temp, "etl_done", &name));
    assert_eq!((&first["source"]["revision"], &first["lines"]), (&1.into(), &2_001.into()), "{first}");
    one_of_each(&temp, 0..2_000, 4);

    let text = fs::read_to_string(&source).unwrap() + &lines(2_000, 1, 4);
    fs::write(&source, text).unwrap();
    let next = until(LATER, "rows of the next revision", || {
        // Gone only while files are exchanged; else the one before or the next, and never ahead of the tag.
        let now = marker(&temp, "etl_done", &name).filter(|m| *m != first)?;
        let tag = tag(&temp.path("save"), "web1", &hour).unwrap();
        assert_eq!(now["source"]["sha256"], tag["sha256"], "{now}");
        Some(now)
    });
    assert_eq!((&next["source"]["revision"], &next["rows"]["access"]), (&2.into(), &2_001.into()), "{next}");
    one_of_each(&temp, 0..2_001, 4);
    // They are counted when the rows are there.
    let all = until(SOON, "both to be counted", || {
        Some(super::page::metrics(page)).filter(|m| m["logd_etl_hours_total{result=\"done\"}"] > 1.0)
    });
    let number = |name: &str| all[name].to_string();
    assert_eq!(number("logd_etl_rows_total"), "4001", "{all:?}");
    assert_eq!(number("logd_etl_rejected_lines_total"), "2", "{all:?}");
    assert_eq!(number("logd_etl_waiting_hours"), "0", "{all:?}");
    assert_eq!((tail.terminate(), store.terminate()), (0, 0));
}

#[test]
fn a_real_log_gives_a_row_for_each_line() {
    let Some(shared) = shared("a_real_log_gives_a_row_for_each_line") else { return };
    let temp = Temp::new("etl-real");
    let hour = past_hours(1)[0].to_string();
    let log = fs::read(shared.join("data/apache_combined.log")).unwrap();
    temp.file(&format!("logs/web1/access.log.{hour}"), &log);
    temp.file("columns.json", r#"{"access": {"columns": ["status", "path"], "partitions": ["day"]}}"#);
    let mut store = etl(&temp, &[]);
    store.restart();
    send(&temp, "web1", &store.addr().to_string());
    let done = until(SOON, "rows", || marker(&temp, "etl_done", &format!("web1_{hour}")));
    assert!(done["rejected"].as_object().unwrap().is_empty(), "{done}");
    // Days as they stand in the lines.
    let mut want: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let line = String::from_utf8_lossy(line);
        let day = line.split_once('[').unwrap().1.get(..2).unwrap().to_owned();
        *want.entry(format!("access/day=201505{day}")).or_default() += 1;
    }
    let mut have: BTreeMap<String, usize> = BTreeMap::new();
    for (folder, _) in rows(&temp) {
        *have.entry(folder).or_default() += 1;
    }
    assert_eq!(have, want);
    assert_eq!(want.values().sum::<usize>(), 10_000);
    assert_eq!(store.terminate(), 0);
}

/// Two hours certified, the role killed at a random moment of its work on them, again and again; at the end one of each.
#[test]
fn killed_at_any_moment_there_is_one_copy_of_each_row() {
    let temp = Temp::new("etl-kill");
    let mut rng = Rng::new(seed());
    let hours = past_hours(2);
    let name = |n: usize| format!("web1_{}", hours[n]);
    let write = |round: u64| {
        for (n, hour) in hours.iter().enumerate() {
            // Another layout each time, so that rows left behind would be seen.
            let text = lines(round * 100_000 + n as u64 * 4_000, 4_000, 3 + round % 4);
            temp.file(&format!("logs/web1/access.log.{hour}"), text);
        }
    };
    let mut store = etl(&temp, &[]);
    let (rounds, kills) = if soak() { (10, 15) } else { (3, 17) };
    let (mut killed, mut begun, mut placing) = (0, 0, 0);
    for round in 0..rounds {
        write(round);
        let _ = fs::remove_dir_all(temp.path("web1.state"));
        store.restart();
        send(&temp, "web1", &store.addr().to_string());
        for (n, hour) in hours.iter().enumerate() {
            until(SOON, "the tags", || {
                certified(&temp.path("save"), "web1", hour);
                marker(&temp, "etl_done", &name(n)).filter(|m| is_of(m, round))
            });
        }
        one_of_each(&temp, round * 100_000..round * 100_000 + 8_000, 3 + round % 4);
        store.kill();
        for _ in 0..kills {
            // As if nothing had been done: markers of other bytes, and the rows they tell of.
            for n in 0..2 {
                forget(&temp, &name(n));
            }
            store.restart();
            // Below the time that the work takes here, and somewhat beyond.
            std::thread::sleep(Duration::from_micros(rng.below(150_000)));
            store.kill();
            killed += 1;
            let aside = |n: usize| temp.path(&format!("save/etl_aside/{}", name(n)));
            begun += usize::from((0..2).any(|n| aside(n).exists()));
            placing += usize::from((0..2).any(|n| aside(n).join("plan").exists()));
        }
        store.restart();
        for n in 0..2 {
            until(SOON, "rows", || {
                marker(&temp, "etl_done", &name(n))
                    .filter(|m| is_of(m, round) && m["source"]["revision"] != 0)
            });
        }
        until(SOON, "an empty etl_aside", || {
            (!(0..2).any(|n| temp.path(&format!("save/etl_aside/{}", name(n))).exists())).then_some(())
        });
        one_of_each(&temp, round * 100_000..round * 100_000 + 8_000, 3 + round % 4);
        store.kill();
    }
    println!("{killed} kills, {begun} within an hour's work, {placing} while rows were put in place");
}

/// Are these the rows of this round's lines?
fn is_of(marker: &Value, round: u64) -> bool {
    let parts = 3 + round % 4;
    marker["files"]
        .as_array()
        .is_some_and(|f| f.len() as u64 == if parts.is_multiple_of(3) { parts } else { 3 * parts })
}

/// Lets a marker be of a revision that never was, so that the hour is done again.
fn forget(temp: &Temp, name: &str) {
    let path = temp.path(&format!("save/etl_done/{name}"));
    let Ok(bytes) = fs::read(&path) else { return };
    let mut marker: logd::etl::tables::Marker = logd::record::from_json(&bytes).unwrap();
    marker.source.revision = 0;
    fs::write(&path, logd::record::to_json(&marker)).unwrap();
}

/// Hours without their rows, one damaged, one taken away, beside a whole one: that one is not held up, the others are named
/// everywhere, and get their rows when they are mended.
#[test]
fn hours_that_cannot_be_done_hold_nobody_up_and_are_named() {
    let temp = Temp::new("etl-bad");
    let hours = past_hours(3);
    let names: Vec<String> = hours.iter().map(|hour| format!("web1_{hour}")).collect();
    for (n, hour) in (0..).zip(&hours) {
        temp.file(&format!("logs/web1/access.log.{hour}"), lines(n * 100, 100, 1));
    }
    let mut store = etl(&temp, &[("[http] listen", "127.0.0.1:0")]);
    store.restart();
    send(&temp, "web1", &store.addr().to_string());
    for name in &names {
        until(SOON, "rows", || marker(&temp, "etl_done", name));
    }
    assert_eq!(store.terminate(), 0);
    for dir in ["etl", "etl_done"] {
        fs::remove_dir_all(temp.path("save").join(dir)).unwrap();
    }
    let data = |n: usize| temp.path("save/log_data").join(&names[n]);
    let good = fs::read(data(0)).unwrap();
    fs::write(data(0), [b"X", &good[1..]].concat()).unwrap();
    fs::rename(data(1), temp.path("elsewhere")).unwrap();
    store.restart();
    until(SOON, "rows of the third", || marker(&temp, "etl_done", &names[2]));
    let [damaged, gone] = [0, 1].map(|n| {
        let fail = until(SOON, "a reason", || marker(&temp, "etl_fail", &names[n]));
        assert!(marker(&temp, "etl_done", &names[n]).is_none() && fail["again"] == true, "{fail}");
        fail["failed"].as_str().unwrap().to_owned()
    });
    assert!(
        damaged.contains("not those of its certificate") && gone.contains("taken away"),
        "{damaged}; {gone}"
    );
    let status = logd(&["status".as_ref(), store.config().as_os_str()]);
    for name in &names[..2] {
        assert!(status.out.contains(&format!("{name}  its ")) && store.log().contains(name), "{status:?}");
    }
    assert!(status.out.contains("rows of 1 hour, 0 waiting, 2 failed"), "{status:?}");
    let page = store.says("are at http://");
    let page = page.split_once("http://").unwrap().1.trim_end_matches('/').parse().unwrap();
    until(SOON, "the gauge", || (super::page::metrics(page)["logd_etl_failed_hours"] == 2.0).then_some(()));
    // Mended: they are tried by themselves.
    fs::write(data(0), good).unwrap();
    fs::rename(temp.path("elsewhere"), data(1)).unwrap();
    for name in &names {
        until(LATER, "rows", || marker(&temp, "etl_done", name));
    }
    one_of_each(&temp, 0..300, 1);

    // Rules that are wrong are told although no hour comes.
    temp.file("columns.json", "{");
    until(SOON, "the rules to be told", || store.log().contains("rules go on as they were").then_some(()));
    let reload = logd(&["reload".as_ref(), store.config().as_os_str()]);
    assert!(reload.code == 1 && format!("{reload:?}").contains("columns.json"), "{reload:?}");
    let status = logd(&["status".as_ref(), store.config().as_os_str()]);
    assert!(status.out.contains("rules: "), "{status:?}");
    temp.file("columns.json", COLUMNS);
    until(SOON, "the rules to be read", || store.log().contains("rules: read again").then_some(()));
    assert_eq!(store.terminate(), 0);

    // The command with a file of the store, with all of them, and with one that is compressed.
    let told = |n: usize| marker(&temp, "etl_done", &names[n]).unwrap()["source"]["revision"].clone();
    let first = told(0);
    assert_eq!(command(store.config(), &[data(0).to_str().unwrap()]).code, 0);
    assert!(told(0) == first && first != 0, "{first}");
    let ran = command(store.config(), &["--again", "--since", &hours[1].to_string()]);
    assert!(ran.code == 0 && ran.out.lines().count() == 2, "{ran:?}");
    let text = fs::read(data(2)).unwrap();
    fs::write(data(2).with_extension("gz"), gzipped(&text)).unwrap();
    fs::remove_file(data(2)).unwrap();
    let ran = command(store.config(), &["--again", "--since", &hours[2].to_string()]);
    assert!(ran.code == 0 && ran.out.contains("100 rows"), "{ran:?}");
    // What failed is tried whenever somebody asks, and nobody says that it has its rows.
    let text = fs::read_to_string(store.config()).unwrap();
    let with = |more: &str| {
        let format = format!("[etlcollector]\nlog_format = $remote_addr x $time_local\n{more}");
        fs::write(store.config(), text.replace("[etlcollector]\n", &format)).unwrap();
    };
    with("");
    let ran = command(store.config(), &["--again", "--since", &hours[2].to_string()]);
    assert!(ran.code == 1 && ran.out.contains("max_reject"), "{ran:?}");
    let ran = command(store.config(), &[]);
    assert!(ran.code == 1 && ran.out.contains(&names[2]) && !ran.err.contains("has its rows"), "{ran:?}");
    with("max_reject = 100\n");
    assert_eq!(command(store.config(), &[]).code, 0);
    let ran = command(store.config(), &[]);
    assert!(ran.code == 0 && ran.err.contains("has its rows"), "{ran:?}");
}

// ---- the command ----

/// A config for `logd etl`; the columns are written beside it.
fn config(temp: &Temp, columns: &str, keys: &[(&str, &str)]) -> PathBuf {
    temp.file("columns.json", columns);
    etl(temp, keys).config().to_owned()
}

fn command(config: &Path, args: &[&str]) -> Ran {
    let mut all = vec!["etl", config.to_str().unwrap()];
    all.extend(args);
    logd(&all)
}

#[test]
fn filters_kinds_and_rejected_lines_are_counted_and_kept() {
    let temp = Temp::new("etl-filter");
    let columns = r#"{"errors": {"match": [{"field": "status", "regex": "^5"}], "columns": ["status", "", "path"]},
        "pages": {"match": [{"field": "path", "regex": "\\.gif$", "not": true}], "columns": ["path", "b", "q"], "partitions": ["b"]}}"#;
    let black = temp.file("black", "10.0.0.0/24 # them\n").display().to_string();
    let white = temp.file("white", "^www\\.\n").display().to_string();
    let format = r#"$host $remote_addr [$time_local] "$request" $status"#;
    let config = config(
        &temp,
        columns,
        &[
            ("ip_black_list", &black),
            ("hosts_white_list", &white),
            ("log_format", format),
            ("max_reject", "30"),
        ],
    );
    let line = |host: &str, ip: &str, request: &str, status: u16| {
        format!("{host} {ip} [22/Nov/2026:05:10:03 +0000] \"{request}\" {status}\n")
    };
    let text = [
        line("www.a", "1.1.1.1", "GET /x?b=..%2F&q=a%09b%5C HTTP/1.1", 200),
        line("www.a", "1.1.1.1", "GET /y HTTP/1.1", 200),
        line("www.a", "1.1.1.1", "GET /y.gif HTTP/1.1", 500),
        line("www.a", "1.1.1.1", "GET /y.gif HTTP/1.1", 200),
        line("img.a", "1.1.1.1", "GET /z HTTP/1.1", 200),
        line("www.a", "10.0.0.200", "GET /z HTTP/1.1", 200),
        "no line\n".into(),
        "\n".into(),
    ];
    let log = temp.file("web1_2026112205", text.concat());
    let ran = command(&config, &[log.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut all = rows(&temp);
    all.sort();
    let want = [
        ("errors", "500\t\t/y.gif"),
        ("pages/b=..%2F", "/x\t../\ta\\tb\\\\"),
        ("pages/b=__HIVE_DEFAULT_PARTITION__", "/y\t\t"),
    ];
    assert_eq!(all, want.map(|(f, r)| (f.to_owned(), r.to_owned())));
    let done = marker(&temp, "etl_done", "web1_2026112205").unwrap();
    assert_eq!(done["filtered"], serde_json::json!({"host": 1, "address": 1, "kind": 1}), "{done}");
    let rejected = fs::read_to_string(temp.path("save/etl_reject/web1_2026112205")).unwrap();
    let rejected: Vec<&str> = rejected.lines().collect();
    assert!(
        rejected.len() == 2
            && rejected[0].starts_with("7\tlog_format: ")
            && rejected[0].ends_with("\tno line"),
        "{rejected:?}"
    );
    assert_eq!(rejected[1], "8\tempty line\t");

    // One more bad line is too much; the rows stand as they were.
    fs::write(&log, text.concat() + "bad\n").unwrap();
    let ran = command(&config, &[log.to_str().unwrap()]);
    assert!(
        ran.code == 1 && ran.out.contains("3 of 9 lines were rejected, more than max_reject = 30 percent"),
        "{ran:?}"
    );
    assert!(marker(&temp, "etl_fail", "web1_2026112205").is_some() && rows(&temp).len() == 3);
    // Better lines take the failure away.
    fs::write(&log, text[..2].concat()).unwrap();
    assert_eq!(command(&config, &[log.to_str().unwrap()]).code, 0);
    assert!(marker(&temp, "etl_fail", "web1_2026112205").is_none());
    assert!(!temp.path("save/etl_reject/web1_2026112205").exists() && rows(&temp).len() == 2);

    // Wrong lists are told with their lines, by `check` too.
    temp.file("white", "ok\n(\n");
    temp.file("black", "1.2.3.4.5\n");
    for ran in [command(&config, &[log.to_str().unwrap()]), logd(&["check".as_ref(), config.as_os_str()])] {
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains("white:2: ") && ran.err.contains("black:1: "), "{ran:?}");
    }
}

/// The file that a command is given, with lines of one status.
fn log_of(temp: &Temp, name: &str, status: u16, n: usize) -> String {
    let line =
        format!("10.0.0.1 - - [22/Nov/2026:05:10:03 +0000] \"GET /a?n=1 HTTP/1.1\" {status} 5 \"-\" \"a\"\n");
    temp.file(name, line.repeat(n)).display().to_string()
}

#[test]
fn an_hour_that_cannot_be_put_in_place_changes_nothing() {
    let temp = Temp::new("etl-obstacle");
    let config = config(&temp, r#"{"access": {"columns": ["path"], "partitions": ["status"]}}"#, &[]);
    let name = "web1_2026112205";
    assert_eq!(command(&config, &[&log_of(&temp, name, 200, 3)]).code, 0);
    let before = (rows(&temp), marker(&temp, "etl_done", name));
    // Somebody's file is where a folder should be.
    let obstacle = temp.file("save/etl/access/status=404", "");
    let log = log_of(&temp, name, 404, 2);
    for _ in 0..2 {
        let ran = command(&config, &[&log]);
        assert!(ran.code == 2 && ran.err.contains("status=404"), "{ran:?}");
        assert_eq!((rows(&temp), marker(&temp, "etl_done", name)), before);
        assert!(!temp.path("save/etl_aside").join(name).exists());
    }
    fs::remove_file(obstacle).unwrap();
    assert_eq!(command(&config, &[&log]).code, 0);
    assert_eq!(rows(&temp), vec![("access/status=404".to_owned(), "/a".to_owned()); 2]);
}

#[test]
fn names_of_folders_fit_whatever_a_line_asks_for() {
    let temp = Temp::new("etl-long");
    let long = "a_quite_long_but_wholly_legal_parameter_name_of_a_partition_x".repeat(4);
    let parts: Vec<String> = (0..16).map(|i| format!("{long}{i}")).collect();
    let columns = serde_json::json!({"access": {"columns": ["path"], "partitions": [long]}});
    let config = config(&temp, &columns.to_string(), &[("max_reject", "100")]);
    let line = |path: &str| {
        format!("1.1.1.1 - - [22/Nov/2026:05:10:03 +0000] \"GET {path} HTTP/1.1\" 200 5 \"-\" \"a\"\n")
    };
    let text =
        line(&format!("/a?{long}={}", "w".repeat(300))) + &line(&format!("/b?{long}={}", "w".repeat(301)));
    let log = temp.file("web1_2026112205", &text).display().to_string();
    let ran = command(&config, &[&log]);
    assert!(ran.code == 0 && ran.out.contains("2 rows in 2 files"), "{ran:?}");
    // A path that no system call takes.
    let columns = serde_json::json!({"access": {"columns": ["path"], "partitions": parts}});
    temp.file("columns.json", columns.to_string());
    let all: Vec<String> = parts.iter().map(|p| format!("{p}={}", "w".repeat(200))).collect();
    temp.file("web1_2026112205", line(&format!("/a?{}", all.join("&"))) + &line("/b"));
    let ran = command(&config, &[&log]);
    assert!(ran.code == 0 && ran.out.contains("0 rows in 0 files, 0 filtered, 2 rejected"), "{ran:?}");
}

#[test]
fn what_is_not_ours_below_save_dir_stays() {
    let temp = Temp::new("etl-foreign");
    let config = config(&temp, r#"{"access": {"columns": ["path"], "partitions": ["status"]}}"#, &[]);
    let name = "web1_2026112205";
    assert_eq!(command(&config, &[&log_of(&temp, name, 200, 3)]).code, 0);
    temp.file("save/etl_aside/mine/sub/file", "precious");
    temp.file("save/etl_aside/mine/file", "precious");
    // A damaged marker has the tree searched for the hour's rows: not in circles, and not elsewhere.
    temp.file(&format!("save/etl_done/{name}"), "x");
    let outside = temp.file(&format!("outside/{name}.tsv"), "precious");
    for (to, link) in [(".", "l1"), (".", "l2"), ("../../outside", "l3")] {
        std::os::unix::fs::symlink(to, temp.path("save/etl").join(link)).unwrap();
    }
    let ran = command(&config, &[&log_of(&temp, name, 404, 2)]);
    assert!(ran.code == 0 && ran.err.contains("etl_aside/mine/"), "{ran:?}");
    assert!(
        temp.path("save/etl_aside/mine/sub/file").exists() && temp.path("save/etl_aside/mine/file").exists()
    );
    assert!(outside.exists() && marker(&temp, "etl_done", name).is_some());
    assert!(!temp.path("save/etl/access/status=200").exists());
}

/// What was being put in place when an obstacle came: the store starts, and goes on with it when it can.
#[test]
fn a_store_starts_whatever_cannot_be_put_in_place() {
    let temp = Temp::new("etl-start");
    let mut store = etl(&temp, &[]);
    let name = "web9_2026112205";
    for dir in ["etl_done", "etl_fail", "etl_reject", &format!("etl_aside/{name}")] {
        fs::create_dir_all(temp.path("save").join(dir)).unwrap();
    }
    temp.file(&format!("save/etl_aside/{name}/0"), "row\n");
    let file = serde_json::json!({"path": format!("etl/access/status=200/{name}.tsv"), "rows": 1, "bytes": 4, "crc32": ""});
    let marker_of = serde_json::json!({
        "format": 1, "name": name, "source": {"gen": 0, "revision": 1, "bytes": 4, "sha256": ""}, "rules": "", "lines": 1,
        "rows": {"access": 1}, "filtered": {}, "rejected": {}, "files": [file], "at": 0,
    });
    let plan = serde_json::json!({"marker": marker_of, "numbers": [0], "stale": [], "rejects": false});
    temp.file(&format!("save/etl_aside/{name}/plan"), logd::record::to_json(&plan));
    let obstacle = temp.file("save/etl/access/status=200", "");
    store.restart();
    store.addr();
    assert!(store.log().contains(name) && store.log().contains("status=200"), "{}", store.log());
    // Other hours get their rows.
    let hour = past_hours(1)[0].to_string();
    temp.file(&format!("logs/web1/access.log.{hour}"), lines(0, 10, 1).replace("\" 200 ", "\" 300 "));
    send(&temp, "web1", &store.addr().to_string());
    until(SOON, "rows", || marker(&temp, "etl_done", &format!("web1_{hour}")));
    assert_eq!(store.terminate(), 0);
    fs::remove_file(obstacle).unwrap();
    store.restart();
    until(SOON, "the rows", || marker(&temp, "etl_done", name));
    assert!(temp.path(&format!("save/etl/access/status=200/{name}.tsv")).exists());
    assert_eq!(store.terminate(), 0);
}

#[test]
fn the_originals_layout_kinds_and_folders() {
    let temp = Temp::new("etl-original");
    let columns = r#"{"access": {"columns": ["", "event_time", "event_ip", "event_ipinlong"], "partitions": ["event_day", "globalhao123_host", "globalhao123_type"]},
        "click": {"columns": ["l1", "l2", "event_urlparams"], "partitions": ["event_day"]},
        "open": {"columns": ["event_spiderdetail"], "partitions": ["tn"]},
        "others": {"columns": ["event_urlpath", "cookie.B"], "partitions": []}}"#;
    let spiders = temp.file("spiders", "Googlebot\nmsnbot\n").display().to_string();
    let config = config(
        &temp,
        columns,
        &[
            ("log_format", "original"),
            ("partition_style", "bare"),
            ("column_prefixes", "event_, globalhao123_"),
            ("spider_list", &spiders),
            ("etl_gzip", "yes"),
        ],
    );
    let line = |request: &str, client: &str| {
        format!(
            "www.h.com 10.0.0.1 - - [17/May/2015:10:05:03 +0800] \"GET {request} HTTP/1.1\" 200 1 2 \"-\" A=1; B=2; \"x msnbot y\" \"{client}\" o\n"
        )
    };
    let text = [
        line("/img/gut.gif?type=access", "1.2.3.4"),
        line("/img/gut.gif?type=other&l[]=a&l[]=b", "-"),
        line("/img/open-gut.gif?type=access", "-"),
        line("/page.html", "-"),
        line("/page.html?type=bad_type", "-"),
        line("/img/gut.gif?type=b%20d", "-"),
        line("/x.css", "-"),
    ];
    let log = temp.file("web1_2015051710.gz", gzipped(text.concat().as_bytes()));
    let ran = command(&config, &[log.to_str().unwrap()]);
    assert!(
        ran.code == 0 && ran.out.contains("7 lines: 4 rows in 4 files, 3 filtered, 0 rejected"),
        "{ran:?}"
    );
    let read = |path: &str| {
        let file = fs::File::open(temp.path("save/etl").join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        std::io::read_to_string(flate2::read::MultiGzDecoder::new(file)).unwrap()
    };
    let file = "web1_2015051710.tsv.gz";
    assert_eq!(
        read(&format!("access/20150517/www.h.com/access/{file}")),
        "\t2015-05-17 10:05:03\t1.2.3.4\t16909060\n"
    );
    assert_eq!(read(&format!("click/20150517/{file}")), "a\tb\ttype\x03other\x02l1\x03a\x02l2\x03b\n");
    assert_eq!(read(&format!("open/NONE/{file}")), "msnbot\n");
    assert_eq!(read(&format!("others/{file}")), "/page.html\t2\n");
}

/// Bug: lines of strangers made one hour take as much memory as they liked, by long names of many folders, by columns that each
/// have the whole line, by values that never come again.
#[test]
fn memory_is_bounded_whatever_lines_ask_for() {
    let temp = Temp::new("etl-memory");
    let line = |url: &str, agent: &str| {
        format!("10.0.0.1 - - [22/Nov/2026:05:10:03 +0000] \"GET {url} HTTP/1.1\" 200 5 \"-\" \"{agent}\"\n")
    };
    let config = config(&temp, "{}", &[("max_reject", "100"), ("max_partitions", "10000")]);
    // The most of it in kB, and the marker.
    let ran = |columns: serde_json::Value, lines: &str| {
        temp.file("columns.json", columns.to_string());
        let log = temp.file("web1_2026112205", lines);
        let mut child = std::process::Command::new(bin());
        child.arg("etl").arg(&config).arg(&log).stdout(std::process::Stdio::null());
        let mut child = Reaped(child.spawn().unwrap());
        let mut most = 0;
        // A file for each of many folders, and each is synced.
        let status = until(Duration::from_mins(10), "the rows", || {
            let text = fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap_or_default();
            let now =
                text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
            most = most.max(now.unwrap_or(0));
            child.0.try_wait().unwrap()
        });
        assert!(status.success(), "{status}");
        println!("{most} kB");
        assert!(most < 64_000, "{most} kB");
        marker(&temp, "etl_done", "web1_2026112205").unwrap()
    };
    let rejected = |done: &Value| done["rejected"].as_object().unwrap().clone();

    let parts: Vec<String> = (0..14).map(|n| format!("p{n}")).collect();
    let url = |n: u32| parts.iter().map(|p| format!("{p}={n:05}{}&", "v".repeat(230))).collect::<String>();
    let lines: String = (0..2_200).map(|n| line(&format!("/?{}", url(n)), "a")).collect();
    let long = serde_json::json!({"a": {"columns": ["path"], "partitions": parts}});
    let done = ran(long.clone(), &lines);
    let made = done["rows"]["a"].as_u64().unwrap();
    assert!(
        made > 1_000 && done["files"].as_array().unwrap().len() as u64 == made,
        "{made}: {}",
        done["rejected"]
    );
    assert_eq!(
        Value::from(rejected(&done)),
        serde_json::json!({"the folders of this hour's partitions would have names of more than 6 MB": 2_200 - made})
    );
    // Once more, with all those rows to replace.
    assert_eq!(ran(long, &lines[lines.len() / 2..])["lines"], 1_100);

    // Bug: the folder that these rows go to went with the last of those that lay below it.
    let columns = vec!["line"; 256];
    let lines = line(&format!("/{}", "\\\\".repeat(450_000)), "a").repeat(10) + &line("/", "a");
    let done = ran(serde_json::json!({"a": {"columns": columns}}), &lines);
    assert_eq!(Value::from(rejected(&done)), serde_json::json!({"its row would be longer than 2 MB": 10}));
    assert_eq!(rows(&temp).len(), 1);

    let kinds: BTreeMap<String, Value> = (0..256)
        .map(|n| {
            let rules = serde_json::json!([
                {"field": "url", "regex": format!("k{n}$"), "not": true},
                {"field": "user_agent", "regex": format!("[a-q][^u-z]{{13}}x{n}")}
            ]);
            (format!("k{n}"), serde_json::json!({"columns": ["path"], "match": rules}))
        })
        .collect();
    let mut rng = Rng::new(seed());
    let mut word = || (0..480).map(|_| char::from(b'a' + rng.below(16) as u8)).collect::<String>();
    // Each meets the first rule of every kind, and no second one.
    let lines: String = (0..400).map(|_| line(&word(), &word())).collect();
    assert_eq!(ran(serde_json::to_value(kinds).unwrap(), &lines)["filtered"]["kind"], 400);
}

/// What is written is text, and its longest row is one that readers take.
#[test]
fn bytes_that_are_no_text_are_written_as_text() {
    let temp = Temp::new("etl-text");
    let config = config(
        &temp,
        r#"{"a": {"columns": ["referer", "path", "user", "q"], "partitions": ["q"]}}"#,
        &[("partition_style", "bare")],
    );
    let line = |q: &str| {
        let mut text = b"::1 - \xff [22/Nov/2026:05:10:03 +0000] \"GET /\xc3\xbc".to_vec();
        text.extend_from_slice(format!("?q={q} HTTP/1.1\" 200 5 \"\\xe4\" \"-\"\r\n").as_bytes());
        text
    };
    let bad = "\u{e9}".repeat(10) + "\r\n" + &"x".repeat(3 << 20) + "\r\n";
    let text = [line("_x"), line(".."), line("%FF%5C%01"), line("-"), bad.into_bytes()].concat();
    let log = temp.file("web1_2026112205", text);
    let ran = command(&config, &["--name", "web1_2026112205", log.to_str().unwrap()]);
    assert!(ran.code == 1, "{ran:?}");
    let rejected = fs::read(temp.path("save/etl_reject/web1_2026112205")).unwrap();
    let lines: Vec<&[u8]> = rejected.split(|b| *b == b'\n').collect();
    assert!(lines[0].ends_with("\u{e9}\r".as_bytes()), "the carriage return, too");
    assert_eq!(lines[1], [b"6\tlonger than 1 MiB\t".as_slice(), &[b'x'; 1 << 20]].concat());

    let text = [line("_x"), line(".."), line("%FF%5C%01"), line("-")].concat();
    fs::write(&log, text).unwrap();
    assert_eq!(command(&config, &[log.to_str().unwrap()]).code, 0);
    let mut all = rows(&temp);
    all.sort();
    let row = |q: &str| format!("\\xE4\t/\u{fc}\t\\xFF\t{q}");
    let want = [("%2E.", ".."), ("%5CxFF%5C%01", r"\xFF\\\x01"), ("%5Fx", "_x"), ("-", "-")];
    assert_eq!(all, want.map(|(folder, q)| (format!("a/{folder}"), row(q))));

    // `check` says what is hardly meant, but takes it.
    temp.file("columns.json", r#"{"a": {"columns": ["statsu"]}}"#);
    let ran = logd(&["check".as_ref(), config.as_os_str()]);
    assert!(ran.code == 0 && ran.err.contains(r#""status" is one"#), "{ran:?}");
    fs::remove_file(temp.path("columns.json")).unwrap();
    let ran = logd(&["check".as_ref(), config.as_os_str()]);
    assert!(ran.code == 2 && ran.err.contains(": columns_file: "), "{ran:?}");
}
