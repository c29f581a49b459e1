//! P1–P3 and P5 when any machine stops at any disk call.
//!
//! A small run (two hours, late bytes for the first) is made once to count the disk calls of each machine. Then it is
//! made again for every machine, every call and several fates of unsynced data, with a crash in place of that call.

use super::sim::World;
use super::support::proved;
use logd::disk::{Fault, Outcome};
use std::path::Path;

const HOURS: [&str; 2] = ["2026112205", "2026112206"];

/// Two hours with a few packs each, the second hour's file beginning after the first's end, then late bytes.
fn scenario(w: &mut World) {
    for i in 0..6 {
        w.write(HOURS[0], &format!("first hour, line {i}, {:032x}\n", i * 7_919_u64));
        w.round(600);
    }
    w.clock.advance(3_600_000 - 6_000);
    for i in 0..5 {
        w.write(HOURS[1], &format!("second hour, line {i}, {:032x}\n", i * 104_729_u64));
        w.round(2_600);
    }
    w.round(70_000);
    // The first hour is closed by now; its writer was late.
    w.write(HOURS[0], "first hour, a late line\n");
    w.round(70_000);
    w.clock.advance(3_600_000);
    w.settle(&HOURS);
}

/// The follower's state directory is deleted in the middle of an hour: the hour is sent as a new copy, which is
/// installed over the incomplete first one. Answers get lost on the way, so packs come again and out of order.
fn copy_scenario(w: &mut World) {
    w.wire.lost_answers = 30;
    w.wire.lost_packs = 30;
    for i in 0..5 {
        w.write(HOURS[0], &format!("line {i} before the loss, {:032x}\n", i * 7_919_u64));
        w.round(1_500);
    }
    w.lose_state(0);
    for i in 0..5 {
        w.write(HOURS[0], &format!("line {i} after the loss, {:032x}\n", i * 7_919_u64));
        w.round(1_500);
    }
    w.clock.advance(3_600_000);
    w.settle(&HOURS[..1]);
}

/// A bit of the follower's journal is another when it starts again: the hour is sent as a new copy.
fn damage_scenario(w: &mut World) {
    // Short lines: what is read again at once makes other packs than what came line by line.
    for i in 0..4 {
        w.write(HOURS[0], &format!("line {i}\n"));
        w.round(1_500);
    }
    // Within the first cut, after the record that opens the hour.
    w.machines[0].sim.flip(Path::new("/state/journal/log"), 200, 1);
    w.crash(0);
    w.write(HOURS[0], "line after it\n");
    w.round(1_500);
    w.clock.advance(3_600_000);
    w.settle(&HOURS[..1]);
}

/// The relay cannot be reached for a while: packs go to the follower's retry spool.
fn outage(w: &mut World) {
    w.write(HOURS[0], "line before the outage\n");
    w.round(2_000);
    w.wire.cut_off = true;
    for i in 0..8 {
        w.write(HOURS[0], &format!("line {i} in the outage, {:048x}\n", i * 104_729_u64));
        w.round(2_000);
    }
}

/// They are sent from there.
fn outage_scenario(w: &mut World) {
    outage(w);
    w.wire.cut_off = false;
    w.clock.advance(3_600_000);
    w.settle(&HOURS[..1]);
}

/// The log file is cleaned away while its packs wait: they are all that is left of it.
fn cleaned_scenario(w: &mut World) {
    outage(w);
    w.clock.advance(3_600_000);
    for _ in 0..80 {
        w.round(2_000);
    }
    w.machines[0].sim.remove_tree(&w.streams[0].path(HOURS[0]));
    w.round(2_000);
    w.wire.cut_off = false;
    w.settle(&HOURS[..1]);
    w.round(60_000);
    let lost = w.messages.iter().find(|m| m.contains("lost"));
    assert!(lost.is_none(), "{lost:?}");
}

fn calls(scenario: fn(&mut World), node: usize) -> u64 {
    let mut w = World::new(1);
    scenario(&mut w);
    w.machines[node].sim.calls()
}

#[test]
fn the_small_run_is_whole_without_faults() {
    let mut w = World::new(1);
    scenario(&mut w);
    assert_eq!(w.tags()[HOURS[0]].revision, 2, "late bytes certify the hour again");
    assert!(w.machines.iter().all(|m| m.restarts == 0));
}

#[test]
fn a_lost_state_directory_sends_the_hour_as_a_copy() {
    let mut w = World::new(1);
    copy_scenario(&mut w);
    assert!(w.tags()[HOURS[0]].generation > 0);
    let aside = w.machines[2].sim.paths();
    assert!(aside.iter().any(|(p, _)| p.to_string_lossy().ends_with(".replaced/data")), "{aside:?}");
}

#[test]
fn an_outage_fills_the_retry_spool_and_loses_nothing() {
    let mut w = World::new(1);
    outage_scenario(&mut w);
    let spooled = w.machines[0].sim.log().iter().any(|l| l.contains("/state/retry/"));
    assert!(spooled, "{:?}", w.machines[0].sim.log());
}

#[test]
fn a_damaged_journal_sends_the_hour_as_a_copy() {
    let mut w = World::new(1);
    damage_scenario(&mut w);
    assert!(w.tags()[HOURS[0]].generation > 0);
}

fn crash_everywhere(what: &str, scenario: fn(&mut World), node: usize) {
    let fates: [fn(u32) -> Outcome; 4] = [
        |_| Outcome::LoseUnsynced,
        |_| Outcome::KeepAll,
        // What a kill leaves unsynced in memory a power cut takes away soon after.
        |n| if n == 0 { Outcome::Killed } else { Outcome::LoseUnsynced },
        |n| Outcome::Random(u64::from(n) * 31 + 5),
    ];
    let total = calls(scenario, node);
    assert!(total > 30, "the run is too small to prove anything: {total} disk calls");
    let (mut runs, mut restarts) = (0, 0);
    for at in 1..=total {
        for (i, fate) in fates.iter().enumerate() {
            let fault = if at % 2 == 0 && i == 3 { Fault::Torn } else { Fault::Crash };
            let mut w = World::new(1);
            w.loss = *fate;
            w.machines[node].sim.plan(at, fault);
            if i == 2 {
                w.machines[node].sim.plan(at + 5 + at * 7 % 24, Fault::Crash);
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(&mut w)));
            if let Err(e) = result {
                eprintln!("machine {node}, call {at} of {total}, fate {i}");
                std::panic::resume_unwind(e);
            }
            runs += 1;
            restarts += w.machines[node].restarts;
        }
    }
    // The last calls of a run may come after everything is whole already.
    assert!(restarts * 10 >= runs * 8);
    proved(
        &format!("crash at every disk call of {}: {what}", ["follower", "relay", "collector"][node]),
        format_args!("{total} calls, {restarts} crashes"),
        "0 lost, 0 doubled, 0 torn, 0 false certificates",
    );
}

#[test]
fn follower_at_every_disk_call() {
    crash_everywhere("two hours, late lines", scenario, 0);
}

#[test]
fn relay_at_every_disk_call() {
    crash_everywhere("two hours, late lines", scenario, 1);
}

#[test]
fn collector_at_every_disk_call() {
    crash_everywhere("two hours, late lines", scenario, 2);
}

#[test]
fn installation_of_a_copy_at_every_disk_call() {
    crash_everywhere("a later copy", copy_scenario, 2);
    crash_everywhere("a later copy", copy_scenario, 0);
}

#[test]
fn outage_at_every_disk_call() {
    crash_everywhere("an outage", outage_scenario, 0);
    crash_everywhere("an outage", outage_scenario, 1);
    crash_everywhere("an outage, its log file cleaned away", cleaned_scenario, 0);
}

#[test]
fn a_damaged_journal_at_every_disk_call() {
    crash_everywhere("a damaged journal", damage_scenario, 0);
}
