//! Goal: every line of a year is sent once, in the hour that its file names, and every hour is closed, in zones with and
//! without daylight saving time, with offsets of half hours and with a clock that is moved by half an hour only.

use super::sim::follower;
use logd::clock::{Clock, Hour, Zone};
use logd::disk::Disk;
use logd::pack::Meta;
use logd::roles::follower::{Follower, Load};
use logd::sender::Outcome;
use logd::tail::pattern::Pattern;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const MINUTE: u64 = 60_000;

/// Follows a year of a writer that writes a line every 20 minutes; hours with their lines as written, and as sent.
fn year(name: &str) {
    let (disk, sim) = Disk::sim(1);
    // 2026-01-01 00:00 UTC, and some time into the hour.
    let (clock, handle) = Clock::sim(1_767_225_600_000 + 7 * 60_000);
    let zone = Zone::named(name).unwrap();
    let ini = "[tail]\nlog_file = /l/a.<%Y%m%d%H>\nsend_to = c:1\nname = h\nflush_interval = 1s\nclose_wait = 10m\nquiet = 60s\n";
    let pattern = Pattern::parse("/l/a.<%Y%m%d%H>").unwrap();
    sim.put(Path::new("/l/.keep"), b"");
    let mut f = follower(&disk, &clock, &zone, ini, false);
    let mut written: BTreeMap<Hour, String> = BTreeMap::new();
    let mut sent: BTreeMap<Hour, (String, Option<Meta>)> = BTreeMap::new();
    let deliver = |f: &mut Follower, sent: &mut BTreeMap<Hour, (String, Option<Meta>)>| {
        f.step().unwrap();
        while let Some(job) = f.next_job().unwrap() {
            let Load::Raw(meta, raw) = &job.load else { panic!("from memory only") };
            let (text, last) = sent.entry(meta.key.hour).or_default();
            assert_eq!(meta.id, last.as_ref().map_or(1, |m| m.id + 1), "{name}: {}", meta.label());
            text.push_str(std::str::from_utf8(raw).unwrap());
            *last = Some((**meta).clone());
            f.report(job, &[], &Outcome::Sent).unwrap();
        }
        assert!(f.alarms.is_empty(), "{name}: {:?}", f.alarms);
    };
    for n in 0..366 * 24 * 3 {
        let hour = zone.hour_at(clock.now_ms());
        let text = written.entry(hour).or_default();
        writeln!(text, "{n} at {}", clock.now_ms()).unwrap();
        // One writer, one file at a time: the file of the hour before stays as it is.
        sim.put(&pattern.path(hour), text.as_bytes());
        deliver(&mut f, &mut sent);
        handle.advance(2_000);
        deliver(&mut f, &mut sent);
        handle.advance(20 * MINUTE - 2_000);
    }
    for _ in 0..4 {
        handle.advance(40 * MINUTE);
        deliver(&mut f, &mut sent);
    }
    for (hour, text) in &written {
        let Some((got, Some(last))) = sent.get(hour) else { panic!("{name}: {hour} was not sent") };
        assert_eq!(got, text, "{name}: {hour}");
        let totals = last.totals.as_ref().unwrap_or_else(|| panic!("{name}: {hour} is not closed"));
        assert!(last.done && last.state.is_empty(), "{name}: {hour}: {last:?}");
        assert_eq!((totals.bytes, totals.lines), (text.len() as u64, text.lines().count() as u64));
    }
    // An hour that the clock skips has no file, and nobody closes it.
    let mine: Vec<&Hour> = sent.keys().filter(|h| written.contains_key(h)).collect();
    assert_eq!(mine.len(), written.len());
    for hour in sent.keys().filter(|h| !written.contains_key(h)) {
        assert!(
            zone.starts_ms(*hour).is_some_and(|at| at >= clock.now_ms() - 4 * 3_600_000),
            "{name}: {hour}"
        );
    }
}

#[test]
fn without_daylight_saving_time() {
    year("UTC");
}

#[test]
fn with_half_hours() {
    year("Asia/Kolkata");
}

#[test]
fn with_two_changes_of_an_hour() {
    year("Europe/Berlin");
}

#[test]
fn with_half_hours_and_two_changes_of_an_hour() {
    year("America/St_Johns");
}

#[test]
fn with_two_changes_of_half_an_hour() {
    year("Australia/Lord_Howe");
}
