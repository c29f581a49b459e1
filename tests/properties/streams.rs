//! Goal: one follower follows every file that its sections name, each as a stream with hours of its own; none keeps the
//! others waiting, and what appears later is not skipped.

use super::sim;
use super::support::*;
use logd::clock::{Clock, Hour, Zone};
use logd::disk::Disk;
use logd::roles::follower::Load;
use logd::sender::Outcome;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A follower of sections, `ini` being what follows the keys of `[tail]`.
fn follower(temp: &Temp, to: &str, ini: &str, args: &[&str]) -> Node {
    let more = format!("200ms\n{ini}");
    let quick =
        [("send_to", to), ("name", "web1"), ("start", "oldest"), ("close_wait", "0"), ("quiet", "200ms")];
    let mut keys = quick.to_vec();
    keys.push(("backoff_max", &more));
    Node::spawn(temp, "web1", "tail", &keys, args)
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn sections_and_matches_are_streams_and_a_new_directory_is_followed_from_its_first_line() {
    let temp = Temp::new("streams");
    let hours = past_hours(2);
    let log = temp.path("log");
    let mut sources = BTreeMap::new();
    for hour in &hours {
        for (stream, path) in [
            ("web1", log.join(format!("access.log.{hour}"))),
            ("web1+error", log.join(format!("error.log.{hour}"))),
            ("web1+vhost-shop", log.join("shop").join(format!("access.log.{hour}"))),
            ("web1+vhost-the-blog", log.join("the_blog").join(format!("access.log.{hour}"))),
        ] {
            write(
                path.parent().unwrap(),
                path.file_name().unwrap().to_str().unwrap(),
                &Lines::new(stream, 1).block(2_000),
            );
            sources.insert((stream.to_owned(), *hour), path);
        }
    }
    let mut store = store(&temp, &[]);
    let dir = log.display();
    let ini = format!(
        "log_file = {dir}/access.log.<%Y%m%d%H>\n[tail:error]\nlog_file = {dir}/error.log.<%Y%m%d%H>\n\
         [tail:vhost-*]\nlog_file = {dir}/*/access.log.<%Y%m%d%H>\n"
    );
    let mut tail = follower(&temp, &store.addr().to_string(), &ini, &[]);
    let save = temp.path("save");
    let check = |sources: &BTreeMap<(String, Hour), std::path::PathBuf>| {
        for ((stream, hour), path) in sources {
            assert_eq!(certified(&save, stream, hour)["verified"], true);
            assert_same(&save.join("log_data").join(format!("{stream}_{hour}")), path);
        }
    };
    check(&sources);

    // It was there before anybody looked: the hour that is over is not skipped.
    let new = log.join("new").join(format!("access.log.{}", hours[1]));
    write(new.parent().unwrap(), new.file_name().unwrap().to_str().unwrap(), "first\nsecond\n");
    check(&BTreeMap::from([(("web1+vhost-new".to_owned(), hours[1]), new.clone())]));
    // A name that two directories share belongs to the first; the other is told.
    fs::create_dir(log.join("the-blog")).unwrap();
    write(&log.join("the-blog"), &format!("access.log.{}", hours[1]), "never shipped\n");
    let told = tail.says("not followed");
    assert!(told.contains("the") && told.contains("vhost-the-blog"), "{told}");

    // While it runs, and by the name that the collector tells.
    let config = tail.config().to_owned();
    let hour = hours[0].to_string();
    let asked =
        logd(&["resend".as_ref(), config.as_os_str(), hour.as_ref(), "--stream".as_ref(), "error".as_ref()]);
    assert_eq!(asked.code, 0, "{asked:?}");
    tail.says(&format!("web1+error_{hour}: it is sent again as a whole"));
    until(SOON, "the new copy", || tag(&save, "web1+error", &hour).filter(|t| t["revision"] == 2));
    let asked =
        logd(&["resend".as_ref(), config.as_os_str(), hour.as_ref(), "--stream".as_ref(), "none".as_ref()]);
    assert!(asked.code == 1 && asked.out.contains("there are error, vhost-new"), "{asked:?}");

    // After a restart everything is known: the name too that another directory would take, were it asked first.
    assert_eq!(tail.terminate(), 0);
    tail.restart();
    tail.ready();
    let blog = log.join("the_blog").join(format!("access.log.{}", hours[1]));
    for (stream, path, lines) in [("vhost-new", &new, 3), ("vhost-the-blog", &blog, 2_001)] {
        let file = fs::OpenOptions::new().append(true).open(path);
        file.and_then(|mut f| std::io::Write::write_all(&mut f, b"late\n")).unwrap();
        let name = format!("web1+{stream}");
        until(LATER, "the late line", || tag(&save, &name, hours[1]).filter(|t| t["lines"] == lines));
        assert_same(&save.join("log_data").join(format!("{name}_{}", hours[1])), path);
    }
    let told = tail.says("not followed");
    assert!(told.contains("the-blog/access.log.YYYYMMDDHH: not followed"), "{told}");
    assert_eq!((tail.terminate(), store.terminate()), (0, 0));
}

/// Limits, not times: few threads, and a thousand files that are quiet are still one process.
#[test]
fn a_thousand_files_are_one_process_with_few_threads() {
    const FILES: usize = 1_000;
    let temp = Temp::new("thousand");
    let hour = past_hours(1)[0];
    let log = temp.path("log");
    for n in 0..FILES {
        write(&log.join(format!("v{n}")), &format!("a.{hour}"), &format!("{n} first\n{n} second\n"));
    }
    let mut store = store(&temp, &[("max_verifying", "4")]);
    let ini = format!("[tail:*]\nlog_file = {}/*/a.<%Y%m%d%H>\n", log.display());
    let mut tail = follower(&temp, &store.addr().to_string(), &ini, &[]);
    let save = temp.path("save");
    until(Duration::from_mins(2), "a thousand tags", || {
        let tags = fs::read_dir(save.join("received")).ok()?.count();
        (tags >= FILES).then_some(())
    });
    let (threads, most) = (tail.proc_status("Threads"), tail.proc_status("VmHWM"));
    assert!(threads <= 6 && most <= 64 << 10, "{threads} threads, {most} kB");
    for n in [0, 7, FILES - 1] {
        let stored = save.join("log_data").join(format!("web1+v{n}_{hour}"));
        assert_same(&stored, &log.join(format!("v{n}")).join(format!("a.{hour}")));
    }
    assert_eq!((tail.terminate(), store.terminate()), (0, 0));
}

/// The packs of a follower on a simulated disk, in the order in which they would be sent.
fn order(ini: &str, put: &[(String, String)], turns: usize) -> Vec<String> {
    let (disk, machine) = Disk::sim(1);
    let (clock, handle) = Clock::sim(1_795_327_200_000);
    for (path, text) in put {
        machine.put(Path::new(path), text.as_bytes());
    }
    let text = format!(
        "[tail]\nsend_to = c:1\nname = h\npack_bytes = 4k\nmax_line = 4k\ntail_memory = 1M\nflush_interval = 1s\n\
         start = oldest\n{ini}"
    );
    let zone = Zone::named("UTC").unwrap();
    let mut f = sim::follower(&disk, &clock, &zone, &text, false);
    let mut out = Vec::new();
    for _ in 0..turns {
        f.step().unwrap();
        while let Some(job) = f.next_job().unwrap() {
            if let Load::Raw(meta, _) = &job.load {
                out.push(meta.key.name.clone());
            }
            f.report(job, &[], &Outcome::Sent).unwrap();
        }
        handle.advance(1_100);
    }
    out
}

#[test]
fn a_huge_backlog_of_one_file_does_not_starve_the_others() {
    let hour = "2026112205";
    let mut put: Vec<(String, String)> =
        (0..30).map(|n| (format!("/l/quiet{n}/a.{hour}"), format!("one line of {n}\n"))).collect();
    let line = format!("{}\n", "x".repeat(99));
    put.push((format!("/l/backlog/a.{hour}"), line.repeat(100_000)));
    let sent = order("[tail:*]\nlog_file = /l/*/a.<%Y%m%d%H>\n", &put, 12);
    let last_quiet = sent.iter().rposition(|n| n.contains("quiet")).unwrap();
    let before = sent.iter().take(last_quiet).filter(|n| n.contains("backlog")).count();
    let quiet: std::collections::BTreeSet<&String> = sent.iter().filter(|n| n.contains("quiet")).collect();
    assert_eq!(quiet.len(), 30);
    // Two packs' worth in each of the turns until their lines were due.
    assert!(before <= 12, "{before} packs of the backlog went first: {sent:?}");
    let backlog = sent.iter().filter(|n| n.contains("backlog")).count();
    assert!(backlog >= 12, "the backlog moves on: {backlog}");
}

/// Lines that wait for their pack are memory too: with many files they are sealed before their time.
#[test]
fn what_many_files_hold_unsealed_is_bounded_by_the_memory() {
    let hour = "2026112205";
    // 3 kB each, below a pack, of 600 files: more than the memory, and no time passes until they are due.
    let put: Vec<(String, String)> =
        (0..600).map(|n| (format!("/l/v{n}/a.{hour}"), format!("{}\n", "y".repeat(2_999)))).collect();
    let sent = order("[tail:*]\nlog_file = /l/*/a.<%Y%m%d%H>\nflush_interval = 1h\n", &put, 3);
    // 1.8 MB are there, one may wait.
    assert!(sent.len() >= 250, "{} packs", sent.len());
}

/// The story: at the first start the directory could not be read yet; the follower began with that hour, and nothing older was
/// ever sent, although it had said that it waits.
#[test]
fn nothing_is_begun_before_the_oldest_file_can_be_seen() {
    let temp = Temp::new("unseen");
    let hours = past_hours(3);
    let mut store = store(&temp, &[]);
    let to = store.addr().to_string();
    let log = temp.path("log");
    let ini = format!("log_file = {}/a.<%Y%m%d%H>\n", log.display());
    for args in [&[][..], &["--once"]] {
        let mut tail = follower(&temp, &to, &ini, args);
        assert_eq!(tail.wait(SOON), 2, "{}", tail.log());
        assert!(tail.log().contains("nothing was") && tail.log().contains("log_file: "), "{}", tail.log());
        assert!(!temp.path("web1.state/follower.json").exists());
    }
    for hour in &hours {
        write(&log, &format!("a.{hour}"), &format!("a line of {hour}\n"));
    }
    let mut tail = follower(&temp, &to, &ini, &[]);
    for hour in &hours {
        certified(&temp.path("save"), "web1", *hour);
    }
    // What is begun waits.
    assert_eq!(tail.terminate(), 0);
    fs::rename(&log, temp.path("away")).unwrap();
    let mut tail = follower(&temp, &to, &ini, &[]);
    tail.says("waiting until it can be read");
    tail.ready();
    assert_eq!((tail.terminate(), store.terminate()), (0, 0));
}

#[test]
fn a_new_stream_is_not_begun_before_its_oldest_file_can_be_seen() {
    let (disk, machine) = Disk::sim(1);
    let (clock, handle) = Clock::sim(1_795_327_200_000);
    machine.put(Path::new("/l/a.2026112205"), b"one\n");
    let text = "[tail]\nsend_to = c:1\nname = h\nflush_interval = 1s\nstart = oldest\nlog_file = /l/a.<%Y%m%d%H>\n\
                [tail:x]\nlog_file = /late/a.<%Y%m%d%H>\nstart = oldest\n";
    let zone = Zone::named("UTC").unwrap();
    let mut f = sim::follower(&disk, &clock, &zone, text, false);
    let told =
        |f: &logd::roles::follower::Follower| f.alarms.iter().filter(|a| a.contains("is not begun")).count();
    let turn = |f: &mut logd::roles::follower::Follower| {
        f.step().unwrap();
        handle.advance(6_000);
    };
    (0..3).for_each(|_| turn(&mut f));
    assert_eq!((f.streams.len(), told(&f)), (1, 1), "{:?}", f.alarms);
    machine.put(Path::new("/late/a.2026112203"), b"three\n");
    (0..2).for_each(|_| turn(&mut f));
    assert_eq!((f.streams.len(), told(&f)), (2, 1), "{:?}", f.alarms);
    let hours: Vec<String> = f.journal.hours().keys().map(ToString::to_string).collect();
    assert!(hours.contains(&"h+x_2026112203".to_owned()), "{hours:?}");
}
