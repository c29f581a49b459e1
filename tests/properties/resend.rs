//! `logd resend`: what an operator asks a follower to send again, while it runs, while it is down, and across crashes.

use super::sim::World;
use super::support::{self, Lines, Temp, assert_same, bin, logd, past_hours, run};
use logd::clock::Hour;
use logd::disk::{Fault, Outcome};
use logd::roles::follower::resend::{DIR, Request};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const HOUR: &str = "2026112205";
const NEXT: &str = "2026112206";
const STATE: &str = "/state";

fn ask(w: &World, hour: &str, packs: &[(u64, u64)]) {
    let request = Request::new("", Hour::parse(hour).unwrap(), packs.to_vec());
    request.save(&w.machines[0].disk, Path::new(STATE)).unwrap();
}

fn requests(w: &World) -> Vec<PathBuf> {
    let paths = w.machines[0].sim.paths().into_iter().map(|(path, _)| path);
    paths.filter(|p| p.starts_with(Path::new(STATE).join(DIR))).collect()
}

fn told(w: &World, what: &str) -> bool {
    w.messages.iter().any(|m| m.contains(what))
}

fn lines(w: &mut World, hour: &str, n: u32) {
    for i in 0..n {
        w.write(hour, &format!("{hour} line {i} {:040x}\n", i * 7_919));
        w.round(1_500);
    }
}

/// The hour is over, closed, certified and archived.
fn certified() -> World {
    let mut w = World::new(1);
    // A file that is there at the first start goes as a copy.
    w.round(1_000);
    lines(&mut w, HOUR, 6);
    w.clock.advance(3_600_000);
    w.settle(&[HOUR]);
    (0..5).for_each(|_| w.round(1_500));
    assert_eq!(w.tags()[HOUR].generation, 0);
    w
}

#[test]
fn a_whole_hour_takes_the_place_of_what_was_stored() {
    let mut w = certified();
    ask(&w, HOUR, &[]);
    (0..60).for_each(|_| w.round(1_500));
    let tag = &w.tags()[HOUR];
    assert!(tag.generation > 0 && tag.revision == 2, "{tag:?}");
    assert!(requests(&w).is_empty() && told(&w, "sent again as a whole"), "{:?}", w.messages);
}

/// One that root had left with a narrow umask held up all that were left behind it.
#[test]
fn a_request_that_cannot_be_read_waits_and_those_behind_it_go_on() {
    let mut w = certified();
    let bad = Path::new(STATE).join(DIR).join("2026112201.00000000.json");
    w.machines[0].disk.create_dir_all(&bad, 0o750).unwrap();
    ask(&w, HOUR, &[]);
    (0..60).for_each(|_| w.round(1_500));
    assert_eq!(w.tags()[HOUR].revision, 2, "{:?}", w.messages);
    assert!(told(&w, "this request of `logd resend` waits"), "{:?}", w.messages);
}

/// The story: a copy that was read when less of the file was there, by a follower whose clock was ahead, took the place of
/// the whole one.
#[test]
fn a_shorter_copy_does_not_take_the_place_of_certified_bytes() {
    let mut w = certified();
    let stored = w.stored(HOUR);
    let log = format!("/log/access.log.{HOUR}");
    w.machines[0].sim.put(Path::new(&log), &stored.as_bytes()[..=stored.find('\n').unwrap()]);
    ask(&w, HOUR, &[]);
    (0..60).for_each(|_| w.round(1_500));
    assert_eq!((w.tags()[HOUR].generation, w.stored(HOUR)), (0, stored));
    assert!(told(&w, "that are certified, and is not installed"), "{:?}", w.messages);
}

/// The same copy is better than a certified one of which the disk has lost a part.
#[test]
fn a_shorter_copy_takes_the_place_of_a_damaged_one() {
    const STORE: usize = 2;
    let mut w = certified();
    let stored = w.stored(HOUR);
    let most = stored[..stored.rfind("line 5").unwrap()].rfind('\n').unwrap() + 1;
    let log = format!("/log/access.log.{HOUR}");
    w.machines[0].sim.put(Path::new(&log), &stored.as_bytes()[..most]);
    let data = format!("/store/log_data/web1_{HOUR}");
    assert!(w.machines[STORE].sim.truncate(Path::new(&data), most as u64 / 2));
    w.crash(STORE);
    (w.spoiled, w.judged) = (true, false);
    ask(&w, HOUR, &[]);
    (0..60).for_each(|_| w.round(1_500));
    assert!(w.tags()[HOUR].generation > 0, "{:?}", w.messages);
    assert_eq!(w.stored(HOUR), stored[..most]);
}

#[test]
fn an_open_hour_begins_anew_and_its_later_lines_go_with_the_new_copy() {
    let mut w = World::new(1);
    lines(&mut w, HOUR, 4);
    // Some of them wait to be sent.
    w.wire.cut_off = true;
    lines(&mut w, HOUR, 4);
    ask(&w, HOUR, &[]);
    lines(&mut w, HOUR, 2);
    w.wire.cut_off = false;
    lines(&mut w, HOUR, 2);
    w.clock.advance(3_600_000);
    w.settle(&[HOUR]);
    let tag = &w.tags()[HOUR];
    assert!(tag.generation > 0 && tag.lines == 12, "{tag:?}");
}

#[test]
fn packs_go_again_as_they_were() {
    let mut w = certified();
    let packs = w.tags()[HOUR].packs;
    assert!(packs > 2, "{packs}");
    w.lose_store();
    ask(&w, HOUR, &[(1, 1), (2, packs)]);
    w.settle(&[HOUR]);
    assert_eq!(w.tags()[HOUR].generation, 0);
    assert!(told(&w, &format!("{packs} packs of it sent again")), "{:?}", w.messages);
}

#[test]
fn what_cannot_be_sent_again_is_refused_with_a_reason() {
    let mut w = certified();
    let packs = w.tags()[HOUR].packs;
    let refused = |w: &mut World, hour: &str, packs: &[(u64, u64)], why: &str| {
        w.messages.clear();
        ask(w, hour, packs);
        (0..3).for_each(|_| w.round(1_500));
        assert!(told(w, "not sent again: ") && told(w, why), "{why}: {:?}", w.messages);
        assert!(requests(w).is_empty());
    };
    refused(&mut w, HOUR, &[(1, packs + 1)], &format!("it has 1 to {packs}"));
    refused(&mut w, "2026112204", &[(1, 1)], "does not know its packs");
    refused(&mut w, "2026112204", &[], "is not there");
    refused(&mut w, "20261122", &[], "YYYYMMDDHH");
    let kept = w.source[&format!("web1_{HOUR}")].clone();
    w.replace(HOUR, Some("something else\n"));
    refused(&mut w, HOUR, &[(1, packs)], "send the whole hour");
    w.replace(HOUR, None);
    refused(&mut w, HOUR, &[(1, packs)], "send the whole hour");
    refused(&mut w, HOUR, &[], "is not there");
    w.replace(HOUR, Some(std::str::from_utf8(&kept).unwrap()));
    // The tag that stands is touched by none of it.
    assert_eq!((w.tags()[HOUR].generation, w.tags()[HOUR].revision), (0, 1));

    w.messages.clear();
    w.machines[0].sim.put(Path::new("/state/resend/2026112205.json"), b"{\"hour\":");
    (0..3).for_each(|_| w.round(1_500));
    assert!(told(&w, "2026112205.json: not sent again") && requests(&w).is_empty(), "{:?}", w.messages);
}

#[test]
fn hours_wait_for_their_turn_and_the_current_one_goes_on() {
    let mut w = World::new(1);
    let hours = [HOUR, NEXT, "2026112207", "2026112208", "2026112209"];
    for hour in hours {
        lines(&mut w, hour, 3);
        w.clock.advance(3_600_000 - 4_500);
    }
    w.settle(&hours);
    for hour in hours {
        ask(&w, hour, &[]);
    }
    lines(&mut w, "2026112210", 3);
    assert!(w.stored("2026112210").contains("line 0"), "{}", w.stored("2026112210"));
    (0..150).for_each(|_| w.round(1_500));
    for hour in hours {
        assert!(w.tags()[hour].generation > 0, "{hour}: {:?}", w.tags()[hour]);
    }
}

/// Whatever the follower's machine loses at any of the calls, the request is met in the end.
#[test]
fn a_crash_at_any_call_forgets_no_request() {
    let fates: [fn(u32) -> Outcome; 2] = [|_| Outcome::LoseUnsynced, |_| Outcome::KeepAll];
    for loss in fates {
        let mut crashed = 0;
        for at in 1..=40 {
            for packs in [false, true] {
                let mut w = certified();
                w.loss = loss;
                if packs {
                    let last = w.tags()[HOUR].packs;
                    w.lose_store();
                    ask(&w, HOUR, &[(1, last)]);
                } else {
                    ask(&w, HOUR, &[]);
                }
                let sim = &w.machines[0].sim;
                sim.plan(sim.calls() + at, Fault::Crash);
                (0..60).for_each(|_| w.round(1_500));
                let tag = &w.tags()[HOUR];
                assert_eq!(tag.generation > 0, !packs, "call {at}, {:?}: {tag:?}", loss(0));
                assert!(requests(&w).is_empty());
                crashed += w.machines[0].restarts;
            }
        }
        assert!(crashed > 10, "{crashed}");
    }
}

/// The story: killed between the first bytes of a new copy and their proof, the collector took them for the certified ones
/// of the copy in place and never went on with them.
#[test]
fn a_crash_of_the_collector_at_any_call_leaves_no_new_copy_behind() {
    const STORE: usize = 2;
    let fates: [fn(u32) -> Outcome; 2] = [|_| Outcome::LoseUnsynced, |_| Outcome::KeepAll];
    for loss in fates {
        let mut crashed = 0;
        for at in 1..=60 {
            let mut w = certified();
            w.loss = loss;
            ask(&w, HOUR, &[]);
            let sim = &w.machines[STORE].sim;
            sim.plan(sim.calls() + at, Fault::Crash);
            (0..60).for_each(|_| w.round(1_500));
            let tag = &w.tags()[HOUR];
            assert!(tag.generation > 0, "call {at}, {:?}: {tag:?} {:?}", loss(0), w.messages);
            crashed += w.machines[STORE].restarts;
        }
        assert!(crashed > 30, "{crashed}");
    }
}

/// Receivers refuse a copy of a time that is not yet, so what was begun under a wrong clock must not number later ones, too.
#[test]
fn a_copy_is_numbered_by_the_clock_once_that_is_right_again() {
    let mut w = certified();
    w.judged = false;
    let days = 10 * 24 * 3_600_000;
    for step in [days, -days] {
        w.clock.step_wall(step);
        ask(&w, HOUR, &[]);
        (0..30).for_each(|_| w.round(1_500));
    }
    let copies =
        w.messages.iter().filter_map(|m| m.split_once("as copy ")?.1.split(',').next()?.parse().ok());
    let copies: Vec<i64> = copies.collect();
    assert_eq!(copies.len(), 2, "{:?}", w.messages);
    assert!(copies[0] > w.now_ms() + days / 2 && copies[1] <= w.now_ms(), "{copies:?}");
}

/// The way that the manual tells, with processes: `verify` finds the damage and names the tag, `status` names the hour
/// once the tag is gone, and what it prints is all that `resend` needs.
#[test]
fn a_damaged_hour_is_verified_again_by_a_pipe() {
    let temp = Temp::new("resend");
    let [hour, ..] = past_hours(1)[..] else { panic!() };
    let source = temp.file(&format!("logs/access.log.{hour}"), Lines::new("web1", 1).block(5_000));
    let mut store = support::store(&temp, &[]);
    let mut relay = support::relay(&temp, &store.addr().to_string(), &[]);
    let keys = [("start", "oldest"), ("close_wait", "0"), ("quiet", "100ms"), ("pack_bytes", "64k")];
    let pattern = temp.path("logs/access.log.<%Y%m%d%H>");
    let follower = support::tail(&temp, "web1", &pattern, &relay.addr().to_string(), &keys, &[]);
    let save = temp.path("save");
    let before = support::certified(&save, "web1", hour);
    let data = save.join("log_data").join(format!("web1_{hour}"));
    assert_same(&data, &source);

    let whole = fs::read(&data).unwrap();
    fs::write(&data, &whole[..whole.len() / 2]).unwrap();
    let verify = logd(&["verify".as_ref(), save.as_os_str()]);
    assert_eq!(verify.code, 1, "{verify:?}");
    assert!(verify.out.contains(&format!("`logd resend CONFIG {hour}` on web1")), "{verify:?}");
    let named: Vec<&str> =
        verify.out.split([' ', ',']).filter(|word| word.starts_with("received/")).collect();
    assert_eq!(named.len(), 1, "{verify:?}");
    fs::remove_file(save.join(named[0])).unwrap();

    let mut pipe = Command::new("sh");
    pipe.args(["-c", "\"$0\" status --missing \"$1\" | \"$0\" resend \"$2\" -"]);
    pipe.arg(bin()).arg(&save).arg(follower.config());
    let ran = run(&mut pipe, Duration::from_mins(1));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.contains(&format!("web1_{hour}: asked for: all of it")), "{ran:?}");
    let after = support::certified(&save, "web1", hour);
    assert_eq!(after["verified"], true, "{after}");
    assert!(after["gen"].as_u64() > before["gen"].as_u64(), "{before} {after}");
    assert_same(&data, &source);
    let verify = logd(&["verify".as_ref(), save.as_os_str()]);
    assert_eq!(verify.code, 0, "{verify:?}");
}

/// Compresses a file as `gzip` does: the plain one goes.
fn gzip(path: &Path) -> Vec<u8> {
    let text = fs::read(path).unwrap();
    fs::write(format!("{}.gz", path.display()), support::gzipped(&text)).unwrap();
    fs::remove_file(path).unwrap();
    text
}

/// The story: a follower was down while cron compressed an hour's file, and declared the hour empty.
#[test]
fn an_hour_that_was_compressed_while_nobody_looked_is_not_empty() {
    let text = format!("{NEXT} a line\n").repeat(50);
    let gz = support::gzipped(text.as_bytes());
    for len in [gz.len(), gz.len() / 2] {
        let mut w = certified();
        let path = format!("/log/access.log.{NEXT}.gz");
        w.machines[0].sim.put(Path::new(&path), &gz[..len]);
        w.judged = false;
        w.clock.advance(3_600_000);
        (0..60).for_each(|_| w.round(30_000));
        let tags = w.tags();
        if len < gz.len() {
            // Nor is one whose archive is damaged.
            assert!(!tags.contains_key(NEXT) && told(&w, &path), "{:?}", w.messages);
            continue;
        }
        assert!(tags.get(NEXT).is_some_and(|t| t.verified && !t.empty), "{:?}", w.messages);
        assert_eq!(w.stored(NEXT), text);
    }
}

/// More hours than are read again at a time: `--once` ends when the last of them is sent.
#[test]
fn once_ends_when_all_that_was_asked_for_is_sent() {
    let temp = Temp::new("resend-once");
    let hours = past_hours(6);
    let log = temp.path("log");
    fs::create_dir(&log).unwrap();
    for (hour, n) in hours.iter().zip(1..) {
        fs::write(log.join(format!("a.{hour}")), Lines::new("web1", n).block(300)).unwrap();
    }
    let mut store = support::store(&temp, &[]);
    let pattern = log.join("a.<%Y%m%d%H>");
    let (keys, args) = ([("close_wait", "0"), ("quiet", "200ms")], ["--once", "--timeout", "60s"]);
    let mut tail = support::tail(&temp, "web1", &pattern, &store.addr().to_string(), &keys, &args);
    assert_eq!(tail.wait(Duration::from_secs(70)), 0);
    let range = format!("{}..{}", hours[0], hours[5]);
    let asked = logd(&["resend".as_ref(), tail.config().as_os_str(), range.as_ref()]);
    assert_eq!(asked.code, 0, "{asked:?}");
    tail.restart();
    assert_eq!(tail.wait(Duration::from_secs(70)), 0);
    for hour in &hours {
        let sent = || support::tag(&temp.path("save"), "web1", hour).filter(|t| t["revision"] == 2);
        support::until(support::SOON, "the second copy", sent);
    }
    assert_eq!(store.terminate(), 0);
}

#[test]
fn a_compressed_hour_is_read_by_once_and_by_resend_and_a_damaged_one_is_an_error() {
    let temp = Temp::new("gzip");
    let hours = past_hours(3);
    let log = temp.path("log");
    fs::create_dir_all(&log).unwrap();
    let file = |hour: &Hour| log.join(format!("access.log.{hour}"));
    let mut lines = Lines::new("web1", 5);
    let text: Vec<String> = hours.iter().map(|_| lines.block(3_000)).collect();
    for (hour, text) in hours.iter().zip(&text) {
        fs::write(file(hour), text).unwrap();
    }
    gzip(&file(&hours[0]));
    gzip(&file(&hours[2]));
    let mut store = support::store(&temp, &[]);
    let pattern = log.join("access.log.<%Y%m%d%H>");
    let keys = [("close_wait", "0"), ("quiet", "0")];
    let args = ["--once", "--timeout", "60s"];
    let mut tail = support::tail(&temp, "web1", &pattern, &store.addr().to_string(), &keys, &args);
    assert_eq!(tail.wait(Duration::from_secs(70)), 0);
    let save = temp.path("save");
    let stored = |hour: &Hour| fs::read(save.join("log_data").join(format!("web1_{hour}"))).unwrap();
    for (hour, text) in hours.iter().zip(&text) {
        assert_eq!(support::certified(&save, "web1", hour)["verified"], true);
        assert_eq!(stored(hour), text.as_bytes());
    }
    let unpacked = || fs::read_dir(temp.path("web1.state/unpacked")).unwrap().count();
    assert_eq!(unpacked(), 0, "what was unpacked is gone when it is acknowledged");

    // While it runs; it looks neither into the archive nor for it by itself.
    tail.restart_with(&[]);
    tail.ready();
    let hour = hours[0].to_string();
    let ask = |hour: &str| logd(&["resend".as_ref(), tail.config().as_os_str(), hour.as_ref()]);
    let asked = ask(&hour);
    assert_eq!(asked.code, 0, "{asked:?}");
    support::until(support::SOON, "the new copy", || {
        support::tag(&save, "web1", &hour).filter(|t| t["revision"] == 2 && t["verified"] == true)
    });
    assert_eq!(stored(&hours[0]), text[0].as_bytes());
    support::until(support::SOON, "no unpacked file", || (unpacked() == 0).then_some(()));

    // One that is asked for the oldest hour begins there, whether it is compressed or not.
    let oldest = [("close_wait", "0"), ("quiet", "0"), ("start", "oldest")];
    let mut third = support::tail(&temp, "web3", &pattern, &store.addr().to_string(), &oldest, &[]);
    support::until(support::SOON, "hours of archives", || {
        let whole = |hour: &Hour| support::tag(&save, "web3", hour).is_some_and(|t| t["verified"] == true);
        hours.iter().all(whole).then_some(())
    });
    assert_eq!(third.terminate(), 0);

    // Half an archive is nothing.
    let archive = format!("{}.gz", file(&hours[2]).display());
    let bytes = fs::read(&archive).unwrap();
    fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    let asked = ask(&hours[2].to_string());
    assert!(asked.code == 1 && asked.out.contains(&archive) && unpacked() == 0, "{asked:?}");
    assert_eq!(tail.terminate(), 0);
    // It stops its own hour alone, and the run does not end well.
    let mut other = support::tail(&temp, "web2", &pattern, &store.addr().to_string(), &keys, &args);
    assert_eq!(other.wait(Duration::from_secs(70)), 1);
    assert!(other.log().contains(&archive), "{}", other.log());
    for hour in &hours[..2] {
        assert_eq!(support::certified(&save, "web2", hour)["verified"], true);
    }
    assert_eq!(store.terminate(), 0);
    assert!(
        support::tag(&save, "web2", hours[2]).is_none(),
        "an hour is not empty because its archive is damaged"
    );
}
