//! Every state, on an hour stored as a collector would store it.

use super::*;
use crate::disk::Disk;
use crate::inventory::Filter;
use crate::ops::testing::{Build, Temp, key};

const HOUR: &str = "web1_2026112205";
const PACKS: &[&str] = &["a\nb\n", "c\n", "d\ne\n"];

fn look(temp: &Temp, print: Option<&Print>) -> Row {
    let inv = Inventory::read(&Disk::real(), &temp.path("save"), &Filter::default()).unwrap();
    judge(&inv, &key(HOUR), print).unwrap()
}

fn state(temp: &Temp) -> State {
    look(temp, None).state
}

#[test]
fn certified_hours() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build::new(HOUR, PACKS).certify(&save);
    let row = look(&temp, None);
    assert_eq!((row.state, row.packs, row.lines, row.bytes), (State::Verified, 3, 5, 10));
    assert!(!row.wrong() && row.certified.is_some());
    // A batch job moved the data away: nothing to do with the state.
    std::fs::remove_file(save.join("log_data").join(HOUR)).unwrap();
    assert_eq!(state(&temp), State::Verified);
    Build { ours: false, ..Build::new(HOUR, PACKS) }.certify(&save);
    assert_eq!(state(&temp), State::Unverified);
    let temp = Temp::new();
    Build::new(HOUR, &[""]).certify(&temp.path("save"));
    assert_eq!(state(&temp), State::Empty);
}

#[test]
fn doubtful_hours() {
    for (words, want, detail) in [
        ("partial", State::Partial, ""),
        ("changed,loss,partial", State::Loss, "changed,loss,partial"),
        ("changed", State::Changed, ""),
        ("no totals", State::NoTotals, ""),
        ("packs after the last", State::Doubtful, "packs after the last"),
        ("odd", State::Doubtful, "odd"),
    ] {
        let temp = Temp::new();
        Build { state: words, ..Build::new(HOUR, PACKS) }.certify(&temp.path("save"));
        let row = look(&temp, None);
        assert_eq!((row.state, row.detail.as_str()), (want, detail), "{words}");
        assert!(row.state.doubtful() && row.wrong());
    }
}

#[test]
fn an_hour_that_is_not_at_its_end() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build { done: false, ..Build::new(HOUR, PACKS) }.store(&save);
    assert_eq!(state(&temp), State::Open);
    // Accepted and not stored: by the footprint.
    let row = look(&temp, Some(&(0, 5, vec![])));
    assert_eq!((row.state, row.missing.len()), (State::Open, 0));
    // Numbers that the proof has passed meanwhile are no gap.
    assert_eq!(look(&temp, Some(&(0, 1, vec![3]))).state, State::Open);
    let row = look(&temp, Some(&(0, 4, vec![7, 8, 11])));
    assert_eq!((row.state, row.missing), (State::Gaps, vec![(5, 6), (9, 10)]));
    // Of another copy: says nothing about this one.
    assert_eq!(look(&temp, Some(&(9, 4, vec![7]))).state, State::Open);
    temp.file("save/aside/early/web1/2026112205.0.6", "");
    let row = look(&temp, None);
    assert_eq!((row.state, row.missing), (State::Gaps, vec![(4, 5)]));
    temp.file("save/aside/conflict/web1/2026112205.0.2.00000000", "");
    temp.file("save/aside/conflict/web1/2026112205.0.3.00000000", "");
    let row = look(&temp, None);
    assert_eq!(row.state, State::Conflict);
    assert!(row.detail.contains("packs 2-3 "), "{}", row.detail);
}

#[test]
fn nothing_is_stored_yet_but_packs_wait() {
    let temp = Temp::new();
    temp.file("save/log_data/x", "");
    temp.file("save/aside/early/web1/2026112205.1700000000.3", "");
    let row = look(&temp, None);
    assert_eq!((row.state, row.generation, row.missing), (State::Gaps, 1_700_000_000, vec![(1, 2)]));
}

#[test]
fn a_pack_that_was_acknowledged_and_lost_is_missing_though_none_is_known_behind_it() {
    let temp = Temp::new();
    Build::new(HOUR, PACKS).store(&temp.path("save"));
    // Stored by now.
    temp.file("save/aside/lost/web1/2026112205.0.2", "");
    assert_eq!(look(&temp, None).state, State::Complete);
    temp.file("save/aside/lost/web1/2026112205.0.4", "");
    let row = look(&temp, None);
    assert_eq!((row.state, row.missing), (State::Gaps, vec![(4, 4)]));
}

#[test]
fn packs_that_waited_too_long() {
    let temp = Temp::new();
    Build { done: false, ..Build::new(HOUR, PACKS) }.store(&temp.path("save"));
    temp.file("save/aside/web1_2026112205.gaps", "z\n");
    let row = look(&temp, None);
    assert_eq!(row.state, State::Gaps);
    assert!(row.why().contains("after 3"), "{}", row.why());
}

#[test]
fn a_whole_hour_without_a_certificate() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build::new(HOUR, PACKS).store(&save);
    let row = look(&temp, None);
    assert_eq!((row.state, row.wrong()), (State::Complete, false));
    // The proof of one hour under the name of another, with a pack more: its totals tell.
    let place = integrity::Store::new(&Disk::real(), &save, &save, 0o644, 0o755).place(&key(HOUR));
    let mut metas = Build::new(HOUR, &["a\n"]).metas();
    let meta = metas.first_mut().unwrap();
    meta.totals.as_mut().unwrap().bytes = 77;
    let header = crate::pack::Header { route: vec![meta.entry()], pack_len: 9 };
    let checked = crate::pack::Checked { bytes: 2, crc32: crc32fast::hash(b"a\n") };
    std::fs::write(place.headers, integrity::lines::encode(&header, 0, &checked)).unwrap();
    let row = look(&temp, None);
    assert_eq!(row.state, State::Mismatch);
    assert!(row.detail.contains("77"), "{}", row.detail);
}

#[test]
fn damage_and_late_bytes() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build::new(HOUR, PACKS).store(&save);
    let data = save.join("log_data").join(HOUR);
    std::fs::write(&data, "a\n").unwrap();
    assert_eq!(state(&temp), State::Damaged);
    std::fs::remove_file(&data).unwrap();
    assert_eq!(state(&temp), State::Damaged);
    let late = temp.file("save/aside/web1_2026112205.late", "z\n");
    let row = look(&temp, None);
    assert!(row.state == State::Late && row.detail.contains("2 bytes"), "{}", row.why());
    std::fs::write(late, "z\ny\n").unwrap();
    assert!(look(&temp, None).detail.contains("4 bytes"));
}

/// The story: the proof had lost its end, the store said so and appended nothing; the packs were sent again, and the hour
/// was `open` as long as they waited.
#[test]
fn a_proof_that_ends_before_packs_that_wait_is_damaged() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build::new(HOUR, PACKS).store(&save);
    let proof = save.join("headers").join(HOUR);
    let lines = std::fs::read_to_string(&proof).unwrap();
    let first = lines.split_inclusive('\n').next().unwrap();
    std::fs::write(&proof, first).unwrap();
    assert_eq!(state(&temp), State::Open, "so it looks while packs are stored, too");
    temp.file("save/aside/early/web1/2026112205.0.3", "");
    assert_eq!(state(&temp), State::Gaps);
    temp.file("save/aside/early/web1/2026112205.0.2", "");
    let row = look(&temp, Some(&(0, 3, vec![])));
    assert_eq!(row.state, State::Damaged);
    assert!(row.wrong() && row.mended_by_resend() && row.why().contains("before pack 2"), "{}", row.why());
    // All of it is gone.
    std::fs::remove_file(&proof).unwrap();
    assert_eq!(state(&temp), State::Gaps);
    temp.file("save/aside/early/web1/2026112205.0.1", "");
    assert_eq!(state(&temp), State::Damaged);
}

#[test]
fn hours_of_the_original() {
    let temp = Temp::new();
    let save = temp.path("save");
    Build { ours: false, ..Build::new(HOUR, PACKS) }.store_foreign(&save);
    let row = look(&temp, None);
    assert_eq!((row.state, row.packs, row.lines), (State::Original, 3, 5));
    assert!(row.why().contains("whole by"), "{}", row.why());
    Build { ours: false, done: false, ..Build::new(HOUR, PACKS) }.store_foreign(&save);
    assert!(look(&temp, None).why().contains("still expected"));
    temp.file("save/received/web1_2026112205_5", "");
    assert!(look(&temp, None).why().contains("tag of the original"));
}

#[test]
fn a_tag_of_ours_that_is_damaged() {
    let temp = Temp::new();
    Build::new(HOUR, PACKS).certify(&temp.path("save"));
    temp.file("save/received/web1_2026112205_5", "{\"format\":");
    let row = look(&temp, None);
    assert_eq!((row.state, row.packs), (State::Doubtful, 3));
    assert!(row.why().contains("logd verify"), "{}", row.why());
}

/// `status` said that nothing was wrong, while `ready` and `verify` said no.
#[test]
fn tags_that_were_copied_or_renamed_are_doubtful() {
    let temp = Temp::new();
    Build::new(HOUR, PACKS).certify(&temp.path("save"));
    let [tag, other] = ["5", "6"].map(|n| temp.path(&format!("save/received/{HOUR}_{n}")));
    std::fs::copy(&tag, &other).unwrap();
    let row = look(&temp, None);
    assert_eq!((row.state, row.lines), (State::Doubtful, 5));
    assert!(row.wrong() && row.detail.contains("two tags, received/web1_2026112205_5 and"), "{}", row.detail);
    std::fs::remove_file(tag).unwrap();
    let row = look(&temp, None);
    assert!(row.wrong() && row.detail.contains("_6: its content belongs to"), "{}", row.detail);
}

#[test]
fn what_the_clock_cut_is_not_asked_for_as_a_whole() {
    for clock in [true, false] {
        for certified in [true, false] {
            let temp = Temp::new();
            let build = Build { state: "partial", clock, ..Build::new(HOUR, PACKS) };
            if certified {
                build.certify(&temp.path("save"));
            } else {
                build.store(&temp.path("save"));
                let data = temp.path("save").join("log_data").join(HOUR);
                std::fs::write(data, "a\n").unwrap();
            }
            let row = look(&temp, None);
            assert_eq!(row.state, if certified { State::Partial } else { State::Damaged });
            assert_eq!(row.mended_by_resend(), !clock, "{row:?}");
            assert_eq!(row.why().contains("cannot send it as a whole"), clock, "{}", row.why());
            assert_eq!(row.next_step().contains("logd resend"), !clock, "{}", row.next_step());
        }
    }
    // Single packs can still be asked for.
    let mut row = Row::new(&key(HOUR), State::Gaps);
    (row.by_clock, row.missing) = (true, vec![(2, 3)]);
    assert!(row.mended_by_resend());
}

#[test]
fn words_and_steps() {
    for state in State::ALL {
        assert!(!state.wrong() || !state.next_step().is_empty(), "{}", state.word());
        assert!(!state.certified() || !state.wrong());
    }
    assert!(State::ALL.is_sorted());
    assert_eq!(joined(&[(1, 1), (2, 2), (4, 5)]), [(1, 2), (4, 5)]);
}
