//! The proof of the proof: bugs are planted one by one, and the simulated fleet must notice each of them.
//!
//! An oracle that cannot fail proves nothing. Every bug of [`Bug::ALL`] is lived with on a seed that is known to show it
//! ([`SEEDS`]); `LOGD_SOAK=1` forgets these seeds and looks for one among 5,000 others. A bug that a change of the code or
//! of the faults hides from its seed is found again with
//!
//! ```text
//! LOGD_SOAK=1 cargo test --locked --test proof planted -- --nocapture
//! ```
//!
//! which prints the new table.

use super::random::live;
use super::support::{proved, soak};
use logd::planted::{Bug, plant};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How far is looked for a seed.
const MOST: u64 = 5_000;

/// The same in CI, for a bug that its seed does not show any more.
const NEAR: u64 = 100;

/// A seed on which each bug shows.
const SEEDS: &[(Bug, u64)] = &[
    (Bug::NoDirectorySync, 2),
    (Bug::NoSegmentSync, 2),
    (Bug::AckBeforeSync, 4),
    (Bug::AckAfterFailedSync, 3),
    (Bug::AckWhileSyncing, 18),
    (Bug::DuplicateAckedEarly, 31),
    (Bug::DedupeByBody, 1),
    (Bug::IdAboveIgnored, 1),
    (Bug::EarlyCountsAsStored, 4),
    (Bug::SentCountsAsAcked, 4),
    (Bug::StaleConnection, 20),
    (Bug::CutBeforeJournal, 4),
    (Bug::JournalDamageIgnored, 174),
    (Bug::DamageForgotten, 174),
    (Bug::SameNumberForNewCopy, 1),
    (Bug::PositionOfOtherHour, 1),
    (Bug::HourIs3600Seconds, 2),
    (Bug::LateBytesForgotten, 3),
    (Bug::UnreadableStopsOthers, 1),
    (Bug::AbsentHoursTakePlaces, 4),
    (Bug::DoneCountedTwice, 2),
    (Bug::SegmentDeletedEarly, 1),
    (Bug::ZerosAreRecords, 3),
    (Bug::FullDiskIgnored, 2),
    (Bug::HeadersBeforeData, 1),
    (Bug::CertifyBeforeSync, 1),
    (Bug::NewNamesNotSynced, 1),
    (Bug::UnsyncedBelieved, 35),
    (Bug::TornProofNotCut, 2166),
    (Bug::BytesBeyondProofCut, 79),
    (Bug::BytesBeyondProofKept, 1),
    (Bug::CheckpointErrorIgnored, 3),
    (Bug::FootprintBelieved, 1273),
    (Bug::TagKept, 12),
    (Bug::TagRemovalNotSynced, 116),
    (Bug::TagOfUnclosedKept, 103),
    (Bug::CertifiedMeanwhile, 11),
    (Bug::VerificationForgotten, 4),
    (Bug::CopyUnverified, 2253),
    (Bug::CopyIntoOld, 1),
    (Bug::ReplacedDeleted, 1),
    (Bug::OldCopyInstalled, 75),
    (Bug::NameWithUnderscore, 1),
    (Bug::MismatchAccepted, 1),
];

/// What the oracle says of a seed with this bug; `None` = nothing.
fn lived(bug: Bug, seed: u64) -> Option<String> {
    plant(Some(bug));
    let result = std::panic::catch_unwind(|| live(seed, true));
    plant(None);
    let e = result.err()?;
    // A seed that fails without the bug too says nothing about it.
    if std::panic::catch_unwind(|| live(seed, true)).is_err() {
        return None;
    }
    let text = e.downcast_ref::<String>().cloned();
    let text = text.or_else(|| e.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default();
    // A simulator that stumbles has noticed nothing.
    let judged =
        text.starts_with("machine ") || text.strip_prefix('P').is_some_and(|t| t.get(1..3) == Some(": "));
    if !judged {
        return None;
    }
    Some(text.lines().next().unwrap_or_default().chars().take(100).collect())
}

/// Looks for the bug among its seeds: the seed, and what the oracle said.
fn caught(bug: Bug) -> Option<(u64, String)> {
    let known = SEEDS.iter().filter(|(b, _)| *b == bug).map(|(_, s)| *s);
    if soak() {
        // Not the seeds that fit the bugs: those of nobody's choice.
        return (1..=MOST).find_map(|seed| Some((seed, lived(bug, seed)?)));
    }
    // A change of the code may have moved it: most show soon again.
    known.chain(1..=NEAR).find_map(|seed| Some((seed, lived(bug, seed)?)))
}

#[test]
fn each_planted_bug_is_caught() {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((bug, text)) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let by = caught(*bug);
                    match &by {
                        Some((seed, said)) => println!("    (Bug::{bug:?}, {seed}), // {text}: {said}"),
                        None => println!("    not caught: Bug::{bug:?}: {text}"),
                    }
                    found.lock().unwrap().push((*bug, by.is_some()));
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    let missed: Vec<Bug> = found.iter().filter(|(_, c)| !c).map(|(b, _)| *b).collect();
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
    assert_eq!(found.len(), Bug::ALL.len(), "each bug needs a seed");
    proved("planted bugs", format_args!("{} of {}", found.len(), Bug::ALL.len()), "each caught");
}
