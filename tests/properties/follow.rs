//! What a follower makes of the ways in which a date-named file lives: half lines, late bytes, shrinking, replacing,
//! vanishing, hours without a file, and the positions of an original that it takes over; and what becomes of its packs
//! while their bytes, the journal or room to hold them aside are missing.

use super::sim::{Begin, RELAY, World, follower};
use logd::clock::{Clock, Hour, Zone};
use logd::config::Peer;
use logd::disk::sim::Rng;
use logd::disk::{Disk, Fault, Outcome};
use logd::pack::Encoder;
use logd::sender::Outcome as Sent;
use std::path::Path;

const HOUR: &str = "2026112205";
const NEXT: &str = "2026112206";

fn rounds(w: &mut World, n: u32) {
    (0..n).for_each(|_| w.round(1_500));
}

/// To the end of the hour and past everything that an hour waits for.
fn over(w: &mut World) {
    w.clock.advance(3_600_000);
    rounds(w, 20);
}

#[test]
fn a_half_line_waits_and_goes_with_the_end_of_the_hour() {
    let mut w = World::new(1);
    w.write(HOUR, "one\ntwo\nhal");
    rounds(&mut w, 5);
    assert_eq!(w.stored(HOUR), "one\ntwo\n", "complete lines only");
    w.write(HOUR, "f\nlast without newline");
    over(&mut w);
    w.settle(&[HOUR]);
    assert_eq!(w.tags()[HOUR].lines, 4, "an unterminated last line is a line");
}

/// Whoever looks into the retry spool must not be told for the follower's whole life what was delivered long ago.
#[test]
fn delivered_packs_of_the_retry_spool_are_marked_while_the_follower_runs() {
    let mut w = World::new(1);
    w.wire.cut_off = true;
    for n in 0..8 {
        w.write(HOUR, &format!("{n}: {}\n", "a".repeat(90)));
        rounds(&mut w, 2);
    }
    let marked = |w: &World| {
        let paths = w.machines[0].sim.paths();
        let retry =
            |end| paths.iter().any(|(p, _)| p.starts_with("/state/retry") && p.extension() == Some(end));
        (retry("seg".as_ref()), retry("done".as_ref()))
    };
    assert_eq!(marked(&w), (true, false), "packs wait on disk");
    w.wire.cut_off = false;
    // The last segment stays: the next pack goes there.
    rounds(&mut w, 60);
    assert_eq!(marked(&w), (true, true), "{:?}", w.machines[0].sim.paths());
    over(&mut w);
    w.settle(&[HOUR]);
}

/// The story: packs that had been delivered stayed on the full disk that they filled, since there was no room to note it.
#[test]
fn a_disk_that_is_full_of_delivered_packs_gets_room_again() {
    let mut w = World::new(1);
    w.wire.cut_off = true;
    for n in 0..40 {
        w.write(HOUR, &format!("{n}: {}\n", "a".repeat(90)));
        rounds(&mut w, 2);
    }
    let used = w.machines[0].sim.paths().iter().map(|(_, len)| len).sum();
    w.machines[0].sim.set_capacity(Some(used));
    w.wire.cut_off = false;
    over(&mut w);
    w.settle(&[HOUR]);
    let left = w.machines[0].sim.paths();
    // The segment that is written to stays.
    let segments =
        left.iter().filter(|(p, _)| p.starts_with("/state/retry") && p.extension() == Some("seg".as_ref()));
    assert!(segments.count() <= 1, "{left:?}");
}

#[test]
fn a_line_beyond_the_limit_arrives_in_parts_and_identical() {
    let mut w = World::new(1);
    let long = "x".repeat(1_000);
    w.write(HOUR, &format!("before\n{long}\n\0\u{ff}\r\nafter\n"));
    over(&mut w);
    w.settle(&[HOUR]);
    assert!(w.tags()[HOUR].packs > 8);
}

#[test]
fn an_hour_without_a_file_is_declared_empty_by_the_clock() {
    let mut w = World::new(1);
    w.write(HOUR, "line\n");
    over(&mut w);
    over(&mut w);
    w.write("2026112207", "line\n");
    over(&mut w);
    over(&mut w);
    w.settle(&[HOUR, NEXT, "2026112207"]);
    assert!(w.tags()[NEXT].empty && !w.tags()[HOUR].empty);
}

#[test]
fn nothing_is_declared_before_there_ever_was_a_file() {
    let mut w = World::new(1);
    over(&mut w);
    over(&mut w);
    assert!(w.tags().is_empty());
    w.write("2026112207", "first line ever\n");
    over(&mut w);
    w.settle(&["2026112207"]);
}

#[test]
fn a_file_that_lost_its_end_goes_on_there_and_is_not_certified() {
    let mut w = World::new(1);
    w.judged = false;
    let first = format!("{}\n", "a".repeat(100));
    w.write(HOUR, &first);
    rounds(&mut w, 3);
    w.write(HOUR, "these bytes are lost by a power cut\n");
    rounds(&mut w, 3);
    w.replace(HOUR, Some(&format!("{first}written after it\n")));
    rounds(&mut w, 3);
    over(&mut w);
    let cert = w.doubtful(HOUR).unwrap();
    assert_eq!((cert.state.as_str(), cert.verified), ("changed", false));
    assert!(w.stored(HOUR).ends_with("power cut\nwritten after it\n"), "{}", w.stored(HOUR));
    assert!(w.tags().is_empty());
}

#[test]
fn a_replaced_file_is_read_from_its_beginning_and_is_not_certified() {
    let mut w = World::new(1);
    w.judged = false;
    w.write(HOUR, "old line one\nold line two\n");
    rounds(&mut w, 3);
    w.replace(HOUR, Some("new content that is a good deal longer than the old one was\n"));
    rounds(&mut w, 3);
    over(&mut w);
    assert_eq!(w.doubtful(HOUR).unwrap().state, "changed");
    assert_eq!(
        w.stored(HOUR),
        "old line one\nold line two\nnew content that is a good deal longer than the old one was\n"
    );
}

#[test]
fn a_copy_of_the_file_with_another_inode_is_the_same_file() {
    let mut w = World::new(1);
    w.write(HOUR, "line one\n");
    rounds(&mut w, 3);
    w.replace(HOUR, Some("line one\n"));
    w.write(HOUR, "line two\n");
    over(&mut w);
    w.settle(&[HOUR]);
    assert_eq!(w.stored(HOUR), "line one\nline two\n");
}

#[test]
fn a_file_that_vanished_while_nobody_looked_is_a_loss_and_not_certified() {
    let mut w = World::new(1);
    w.write(HOUR, "line one\n");
    rounds(&mut w, 3);
    w.crash(0);
    w.replace(HOUR, None);
    rounds(&mut w, 3);
    over(&mut w);
    let cert = w.doubtful(HOUR).unwrap();
    assert_eq!((cert.state.as_str(), cert.loss.as_str()), ("loss", "9-"));
    assert_eq!(w.stored(HOUR), "line one\n");
}

#[test]
fn an_open_file_that_vanished_is_read_to_its_end() {
    let mut w = World::new(1);
    w.write(HOUR, "line one\n");
    rounds(&mut w, 1);
    w.write(HOUR, "line two\n");
    w.replace(HOUR, None);
    over(&mut w);
    w.settle(&[HOUR]);
    assert_eq!(w.stored(HOUR), "line one\nline two\n");
}

#[test]
fn start_at_the_end_is_partial() {
    let mut w = World::new(1);
    w.begin = Begin::End;
    w.judged = false;
    w.write(HOUR, "before the start\nhalf");
    rounds(&mut w, 2);
    w.write(HOUR, " a line\nafter the start\n");
    over(&mut w);
    assert_eq!(w.doubtful(HOUR).unwrap().state, "partial");
    assert_eq!(w.stored(HOUR), "half a line\nafter the start\n");
}

#[test]
fn an_original_position_is_taken_over_with_its_pack_numbers() {
    let mut w = World::new(1);
    w.judged = false;
    w.peer = Peer::Original;
    let hour = Hour::parse(HOUR).unwrap();
    w.write(HOUR, "line 1\nline 2\nline 3\nline 4\n");
    w.resume = Some((hour, 3, 14));
    rounds(&mut w, 12);
    let early = w.machines[2].sim.paths();
    assert!(early.iter().any(|(p, _)| p.ends_with("aside/early/web1/2026112205.0.3")), "{early:?}");
}

#[test]
fn lines_after_a_job_took_the_data_file_are_kept_beside_and_revoke_the_tag() {
    let mut w = World::new(1);
    w.write(HOUR, "line one\n");
    over(&mut w);
    w.settle(&[HOUR]);
    w.judged = false;
    w.machines[2].sim.remove_tree(Path::new("/store/log_data/web1_2026112205"));
    w.write(HOUR, "late line\n");
    // Closed files are looked at with doubling waits, an hour at most.
    rounds(&mut w, 2_500);
    assert!(!w.tags().contains_key(HOUR), "the hour is not what the tag said\n{}", w.explain());
    let late = |w: &World| String::from_utf8(w.file("/store/aside/web1_2026112205.late").unwrap()).unwrap();
    assert_eq!(late(&w), "late line\n");
    w.crash(2);
    w.write(HOUR, "later line\n");
    rounds(&mut w, 4000);
    assert_eq!(late(&w), "late line\nlater line\n");
    assert!(!w.tags().contains_key(HOUR));
}

/// A damaged `follower.json` once made the follower begin anew with the current hour.
#[test]
fn a_damaged_identity_skips_no_hour_that_waits() {
    let hours = ["2026112200", "2026112201", "2026112202", "2026112203", "2026112204", HOUR];
    let mut w = World::new(1);
    for hour in hours {
        w.write(hour, &format!("line of {hour}\n"));
    }
    w.round(500);
    w.crash(0);
    w.begin = Begin::Now;
    assert!(w.machines[0].sim.flip(Path::new("/state/follower.json"), 20, 1));
    over(&mut w);
    w.settle(&hours);
}

/// The story: a pack whose bytes could not be read counted as under way until the next start.
#[test]
fn a_pack_whose_file_cannot_be_read_for_a_moment_is_sent_later() {
    let mut w = World::new(1);
    let text = "line one\n";
    w.write(HOUR, text);
    w.wire.cut_off = true;
    rounds(&mut w, 3);
    // Nobody has the bytes but the log file, and that is a directory for a while.
    w.crash(0);
    let (sim, path) = (w.machines[0].sim.clone(), w.streams[0].path(HOUR));
    sim.remove_tree(Path::new("/state/retry"));
    sim.remove_tree(&path);
    sim.put(&path.join("file"), b"");
    w.wire.cut_off = false;
    rounds(&mut w, 5);
    assert_eq!((w.machines[0].restarts, w.stored(HOUR)), (1, String::new()));
    w.replace(HOUR, Some(text));
    over(&mut w);
    w.settle(&[HOUR]);
    assert_eq!(w.machines[0].restarts, 1);
}

/// The story: a pack that was refused for good left the queue although there was no room to hold it aside.
#[test]
fn a_refused_pack_that_cannot_be_held_aside_is_sent_again() {
    /// The call with which `machine` begins to hold the pack aside.
    fn run(machine: usize, fault: Option<u64>) -> Option<u64> {
        let mut w = World::new(1);
        w.write(HOUR, "line one\n");
        w.wire.far_cut_off = machine == RELAY;
        if machine == RELAY {
            rounds(&mut w, 5);
        }
        // Nothing that is sent now arrives as it was.
        w.wire.garbled = 100;
        w.wire.far_cut_off = false;
        if let Some(at) = fault {
            w.machines[machine].sim.plan(at, Fault::Error(28));
        }
        for _ in 0..600 {
            w.round(1_500);
            let log = w.machines[machine].sim.log();
            let at = log.iter().find(|l| l.contains("/state/held"));
            if let Some(at) = at {
                w.heal();
                if fault.is_some() {
                    assert!(at.ends_with("-> Error(28)"), "{at}");
                    over(&mut w);
                    w.settle(&[HOUR]);
                    assert_eq!(w.machines[machine].restarts, 0);
                }
                return at.split(':').next()?.parse().ok();
            }
        }
        None
    }
    for machine in [0, RELAY] {
        let at = run(machine, None);
        assert!(at.is_some() && run(machine, at) == at, "machine {machine}: nothing was held aside");
    }
}

/// Packs that wait on disk while journal and log file are lost may be the only copy.
#[test]
fn waiting_packs_of_which_a_lost_journal_knows_nothing_are_held_aside() {
    let mut w = World::new(1);
    w.loss = |_| Outcome::KeepAll;
    w.write(HOUR, "line one\n");
    w.wire.cut_off = true;
    rounds(&mut w, 4);
    w.crash(0);
    w.machines[0].sim.remove_tree(Path::new("/state/journal"));
    w.replace(HOUR, None);
    rounds(&mut w, 2);
    let kept = w.machines[0].sim.paths();
    assert!(kept.iter().any(|(p, _)| p.starts_with("/state/held/web1")), "{kept:?}");
}

/// What was acknowledged and not yet marked so on disk is not held aside.
#[test]
fn acknowledged_packs_are_not_held_aside() {
    let mut w = World::new(1);
    w.loss = |_| Outcome::KeepAll;
    w.write(HOUR, "line one\n");
    w.wire.cut_off = true;
    rounds(&mut w, 4);
    w.wire.cut_off = false;
    over(&mut w);
    w.settle(&[HOUR]);
    let sim = w.machines[0].sim.clone();
    let there = |dir: &str| sim.paths().iter().any(|(p, _)| p.starts_with(dir));
    assert!(there("/state/retry"), "{:?}", sim.paths());
    w.crash(0);
    rounds(&mut w, 2);
    assert!(!there("/state/retry") && !there("/state/held"), "{:?}", sim.paths());
}

/// The story: an archived hour had grown and its further packs were sent, when the journal was lost that knew of these.
/// From the archive's end on, others were then sent under the same numbers.
#[test]
fn an_archived_hour_that_grew_before_the_journal_was_lost_goes_as_a_copy() {
    let mut w = World::new(1);
    w.write(HOUR, "line one\n");
    over(&mut w);
    w.settle(&[HOUR]);
    rounds(&mut w, 100);
    let archived = Path::new("/state/journal/hours/web1_2026112205");
    assert!(w.machines[0].sim.look(archived, |found| found.is_some()), "{}", w.explain());
    // The late line is stored; the follower does not hear of it.
    w.wire.lost_answers = 100;
    w.write(HOUR, "late line\n");
    for _ in 0..2_500 {
        if w.stored(HOUR).ends_with("late line\n") {
            break;
        }
        w.round(1_500);
    }
    w.crash(0);
    w.machines[0].sim.remove_tree(Path::new("/state/journal/log"));
    w.write(HOUR, "later line\n");
    w.heal();
    over(&mut w);
    w.settle(&[HOUR]);
    assert!(w.tags()[HOUR].generation > 0);
}

/// The story: a pack that was refused on a bad line for ten minutes was held aside, and waited there for a restart.
#[test]
fn packs_that_are_held_aside_are_tried_again_without_a_restart() {
    for machine in [0, RELAY] {
        let mut w = World::new(1);
        w.write(HOUR, "line one\n");
        w.wire.far_cut_off = machine == RELAY;
        rounds(&mut w, if machine == RELAY { 5 } else { 0 });
        w.wire.garbled = 100;
        w.wire.far_cut_off = false;
        let sim = w.machines[machine].sim.clone();
        let held = || sim.paths().iter().any(|(p, n)| p.starts_with("/state/held") && *n > 0);
        for _ in 0..600 {
            w.round(1_500);
            if held() {
                break;
            }
        }
        assert!(held(), "machine {machine}: {:?}", w.messages);
        w.heal();
        over(&mut w);
        rounds(&mut w, 500);
        w.settle(&[HOUR]);
        assert!(!held() && w.machines[machine].restarts == 0, "machine {machine}");
    }
}

/// The story: a pack that its receiver refuses for good came back from held/ again and again, and left a record in the retry
/// spool each time, until there was no room for others.
#[test]
fn a_pack_that_is_held_aside_again_and_again_fills_no_spool() {
    let (disk, machine) = Disk::sim(1);
    let (clock, time) = Clock::sim(1_795_327_200_000);
    let zone = Zone::named("UTC").unwrap();
    let ini = "[tail]\nlog_file = /l/a.<%Y%m%d%H>\nsend_to = c:1\nname = h\npack_bytes = 64k\nspool_size = 256k\n\
               segment_size = 64k\nheld_after = 10s\nflush_interval = 1s\nstart = oldest\n";
    // What deflates little, so that each record has a segment of its own.
    let mut rng = Rng::new(1);
    let text: String =
        (0..500).map(|_| format!("{:016x}{:016x}\n", rng.next_u64(), rng.next_u64()).repeat(4)).collect();
    machine.put(Path::new("/l/a.2026112206"), text.as_bytes());
    let mut f = follower(&disk, &clock, &zone, ini, false);
    let retry = || -> u64 {
        let files = machine.paths().into_iter().filter(|(p, _)| p.starts_with("/state/retry"));
        files.map(|(_, len)| len).sum()
    };
    let (mut held, mut frame, mut encoder) = (0, Vec::new(), Encoder::new(6));
    for _ in 0..400 {
        f.step().unwrap();
        while let Some(job) = f.next_job().unwrap() {
            job.frame(&mut encoder, None, "now", &mut frame);
            f.report(job, &frame, &Sent::PermFail("never".into())).unwrap();
        }
        held += f.alarms.drain(..).filter(|a| a.contains("kept in held/")).count();
        time.advance(1_000);
        assert!(retry() <= 160 << 10, "{} bytes after {held} times", retry());
    }
    assert!(held > 10, "{held}");
}

/// The story: the proof of a certified hour was cut short, packs of it came once more from a segment that a power cut had
/// brought back, and the data was cut to what was left of the proof.
#[test]
fn bytes_that_were_certified_are_not_cut_whatever_has_become_of_their_proof() {
    for closed_is_lost in [false, true] {
        certified_bytes_stay(closed_is_lost);
    }
}

fn certified_bytes_stay(closed_is_lost: bool) {
    const STORE: usize = 2;
    let mut w = World::new(1);
    for n in 0..4 {
        w.write(HOUR, &format!("line {n} {:040x}\n", n * 7_919));
        rounds(&mut w, 1);
    }
    let disk = w.machines[STORE].disk.clone();
    let segments: Vec<(std::path::PathBuf, Vec<u8>)> = w.machines[STORE]
        .sim
        .paths()
        .into_iter()
        .filter(|(p, n)| p.starts_with("/state/spool") && p.extension() == Some("seg".as_ref()) && *n > 0)
        .map(|(p, _)| (p.clone(), disk.read(&p, 1 << 20).unwrap()))
        .collect();
    assert!(!segments.is_empty(), "{}", w.explain());
    over(&mut w);
    w.settle(&[HOUR]);
    rounds(&mut w, 60);
    let stored = w.stored(HOUR);
    w.crash(STORE);
    for (path, bytes) in &segments {
        w.machines[STORE].sim.put(path, bytes);
        let done = path.with_extension("done");
        w.machines[STORE].sim.remove_tree(&done);
    }
    let proof = Path::new("/store/headers/web1_2026112205");
    assert!(w.machines[STORE].sim.truncate(proof, 300));
    if closed_is_lost {
        w.machines[STORE].sim.remove_tree(Path::new("/state/closed/web1_2026112205"));
    }
    w.spoiled = true;
    rounds(&mut w, 60);
    assert_eq!(w.stored(HOUR), stored);
    assert!(w.messages.iter().any(|m| m.contains("within what was certified")), "{:?}", w.messages);
}
