//! P5: one byte of any state file changed or cut off, on any machine, in the middle of an hour.
//!
//! The machine is stopped, the byte is changed, the machine starts again. It must start; no certificate may be false;
//! and where the pack or its proof still exists elsewhere the hour must become whole by itself. Only what a receiver
//! had acknowledged and then lost on its own disk may stay missing: its source has it still, and the hour stays open; then
//! somebody must have named it.

use super::sim::World;
use super::support::{proved, soak};
use logd::disk::Outcome;
use std::path::{Path, PathBuf};

const HOUR: &str = "2026112205";

fn begin() -> World {
    let mut w = World::new(3);
    w.loss = |_| Outcome::KeepAll;
    // A first hour that is closed, so that archives, tags and closed files exist, and one in the middle.
    for i in 0..3 {
        w.write("2026112204", &format!("early hour, line {i}, {:032x}\n", i * 7_919_u64));
    }
    for i in 0..6 {
        w.write(HOUR, &format!("line {i}, {:032x}\n", i * 7_919_u64));
        w.round(1_500);
    }
    w
}

fn finish(mut w: World, must_be_whole: bool) -> bool {
    let said = w.messages.len();
    w.write("2026112204", "a late line\n");
    for i in 0..3 {
        w.write(HOUR, &format!("line {i} after the damage, {:032x}\n", i * 7_919_u64));
        w.round(1_500);
    }
    w.clock.advance(3_600_000);
    if must_be_whole {
        w.settle(&["2026112204", HOUR]);
        return true;
    }
    for _ in 0..100 {
        w.round(2_000);
        if w.is_whole(&["2026112204", HOUR]) {
            return true;
        }
    }
    for hour in ["2026112204", HOUR] {
        // A record whose header is damaged does not tell its hour.
        let told = |m: &&String| (m.contains(hour) || m.contains(".seg")) && !m.contains(": verified: ");
        assert!(
            w.is_whole(&[hour]) || w.messages[said..].iter().any(|m| told(&m)),
            "{hour} is open, and nobody says so"
        );
    }
    false
}

/// State files of a machine that are not the logs themselves.
fn files(w: &World, node: usize) -> Vec<(PathBuf, u64)> {
    let all = w.machines[node].sim.paths();
    all.into_iter().filter(|(p, n)| !p.starts_with("/log") && *n > 0).collect()
}

/// Does the change concern the only copy of something that was acknowledged, or of what late lines need? A follower's
/// source has all else.
fn only_copy(path: &Path, node: usize) -> bool {
    let store = ["/store/log_data", "/store/headers", "/store/received"];
    if node == 0 {
        return path.starts_with("/state/journal/hours");
    }
    path.extension().is_some_and(|e| e == "seg") || store.iter().any(|d| path.starts_with(d))
}

fn damage_everywhere(what: &str, node: usize, step: u64) {
    let step = if soak() { 1 } else { step };
    let (mut runs, mut whole) = (0, 0);
    for (path, len) in files(&begin(), node) {
        let bytes = begin().machines[node].disk.read(&path, 1 << 20).unwrap();
        let zeros = 1 + bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n as u64);
        for at in (0..len).step_by(usize::try_from(step).unwrap()) {
            // Of the zeros that end a file few differ from one another.
            if at > zeros && step > 1 && at % (step * 32) != 0 {
                continue;
            }
            for cut in [false, true] {
                if cut && step > 1 && at % (step * 8) != 0 {
                    continue;
                }
                let mut w = begin();
                w.crash(node);
                let sim = &w.machines[node].sim;
                let mask = 1 << (at % 8);
                assert!(
                    if cut { sim.truncate(&path, at) } else { sim.flip(&path, at, mask) },
                    "{}",
                    path.display()
                );
                // A data file that a batch job would read is not state: nobody can tell it from its proof alone.
                w.judged = !path.starts_with("/store/log_data") && !path.starts_with("/store/received");
                let may_stay_open = only_copy(&path, node);
                let result =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| finish(w, !may_stay_open)));
                match result {
                    Ok(w) => whole += u32::from(w),
                    Err(e) => {
                        eprintln!("machine {node}, {}, byte {at}, cut: {cut}", path.display());
                        std::panic::resume_unwind(e);
                    }
                }
                runs += 1;
            }
        }
    }
    assert!(runs > 50, "{runs}");
    proved(
        &format!("simulated: one byte of a state file flipped, or the file cut there: {what}"),
        format_args!("{runs} places, whole by themselves {whole}"),
        "0 lost where another copy exists, 0 doubled, 0 false certificates",
    );
}

#[test]
fn follower() {
    damage_everywhere("follower", 0, 3);
}

#[test]
fn relay() {
    damage_everywhere("relay", 1, 3);
}

#[test]
fn collector() {
    damage_everywhere("collector", 2, 5);
}
