//! Spools on a simulated disk: what the commands say of them, byte by byte.

use super::*;
use crate::config::SpoolConfig;
use crate::disk::{Fault, Outcome, SimDisk};
use crate::ops::testing::printed;
use crate::ops::{NO, YES};
use crate::pack::{Encoder, Header, Meta, Seal};
use crate::record;
use crate::spool::{Shelf, Spool};

const SEGMENT: &str = "/state/spool/00000000000000000001.seg";

/// A frame of `web1_2026112205`.
fn frame(id: u64) -> Vec<u8> {
    let raw = format!("line of pack {id}\n");
    let meta = Meta {
        key: crate::pack::HourKey::parse("web1_2026112205").unwrap(),
        generation: 0,
        id,
        lines: 1,
        done: false,
        repull: false,
        seal: Some(Seal::of(raw.as_bytes())),
        totals: None,
        state: String::new(),
        loss: String::new(),
        day_hours: 0,
        clock: false,
    };
    let mut body = Vec::new();
    Encoder::new(6).body(raw.as_bytes(), &meta.tag(), &mut body);
    let mut out = Header { route: vec![meta.entry()], pack_len: body.len() as u64 }.encode();
    out.extend_from_slice(&body);
    out
}

/// Five packs in segments of this size, of which these are done.
fn fill(disk: &Disk, segment_size: u64, done: &[u64]) {
    let conf = SpoolConfig { size: 1 << 20, segment_size, min_free: 0, group_commit_ms: 0 };
    let mut quarantine = Shelf::open(disk, Path::new("/state/quarantine"), 1 << 20, 1 << 20).unwrap();
    let mut spool = Spool::open(
        disk,
        Path::new("/state/spool"),
        &mut quarantine,
        &conf,
        &mut |why| panic!("{why}"),
        &mut |_, _| {},
    )
    .unwrap();
    for id in 1..=5 {
        assert_eq!(spool.append(&[&frame(id)]).ok().unwrap().seq, id);
    }
    spool.sync().unwrap();
    for seq in done {
        spool.mark_done(*seq).unwrap();
    }
    spool.close().unwrap();
}

/// Five packs, of which the second is done, and one that is held.
fn begin() -> (Disk, SimDisk) {
    let (disk, sim) = Disk::sim(1);
    sim.set_free_bytes(1 << 40);
    fill(&disk, 1 << 20, &[2]);
    let mut held = Shelf::open(&disk, Path::new("/state/held"), 1 << 20, 1 << 20).unwrap();
    assert!(held.put("web1", "2026112205.0.9", &frame(9)).unwrap());
    (disk, sim)
}

fn said(disk: &Disk, action: &Action) -> (u8, String, String) {
    printed(|out| run_on(disk, Path::new("/state"), action, out))
}

/// Frames in a spool directory, whatever its marks say.
fn frames(disk: &Disk, dir: &str) -> Vec<Vec<u8>> {
    let place = Place::find(disk, Path::new(dir)).unwrap();
    let mut all = Vec::new();
    scan::spool(&place, &mut |piece| {
        if let scan::Piece::Pack(p) = piece {
            all.push(p.frame.to_vec());
        }
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn a_whole_spool_is_said_to_be_whole() {
    let (disk, _) = begin();
    let (code, out, err) = said(&disk, &Action::Check);
    assert_eq!((code, err.as_str()), (YES, ""), "{out}");
    assert!(out.contains("6 packs whole: 4 waiting, 1 done, 1 held; nothing is damaged"), "{out}");
    let (code, out, _) = said(&disk, &Action::Ls { all: false, json: false });
    assert_eq!((code, out.lines().count()), (YES, 6), "{out}");
    assert!(!out.contains("pack 2 "), "{out}");
    assert!(out.lines().last().unwrap().starts_with("held ") && out.contains("refused it for good"), "{out}");
    let (_, out, _) = said(&disk, &Action::Ls { all: true, json: true });
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["packs"].as_array().unwrap().len(), 6);
    assert_eq!((&json["packs"][1]["state"], &json["packs"][1]["id"]), (&"done".into(), &2.into()));
    assert_eq!(json["packs"][5]["state"], "held");
}

#[test]
fn a_file_is_told_from_a_directory() {
    let (disk, _) = Disk::sim(1);
    disk.create_dir_all(Path::new("/etc"), 0o755).unwrap();
    disk.replace(Path::new("/etc/relay.ini"), b"[collector]", 0o644).unwrap();
    let (code, _, err) = printed(|out| run_on(&disk, Path::new("/etc/relay.ini"), &Action::Check, out));
    assert!(code == ERROR && err.contains("not a directory; name the role's state directory"), "{err}");
}

#[test]
fn held_packs_go_back_once_and_only_when_nobody_runs() {
    let (disk, sim) = begin();
    let lock = disk.lock(Path::new("/state/lock")).unwrap().unwrap();
    let (code, _, err) = said(&disk, &Action::Retry);
    assert!(code == ERROR && err.contains("a role runs on it"), "{err}");
    drop(lock);
    let (code, out, err) = said(&disk, &Action::Retry);
    assert_eq!((code, err.as_str()), (YES, ""), "{out}");
    // Nothing has to be done, so nobody is in the way.
    let lock = disk.lock(Path::new("/state/lock")).unwrap().unwrap();
    let (code, out, _) = said(&disk, &Action::Retry);
    assert!(code == YES && out.contains("nothing is held"), "{out}");
    drop(lock);
    assert_eq!(frames(&disk, "/state"), [1, 2, 3, 4, 5, 9].map(frame));
    let (_, out, _) = said(&disk, &Action::Ls { all: false, json: false });
    assert!(!out.contains("held"), "{out}");
    // A damaged one stays and is named.
    let mut held = Shelf::open(&disk, Path::new("/state/held"), 1 << 20, 1 << 20).unwrap();
    assert!(held.put("web1", "2026112205.0.10", &frame(10)).unwrap());
    assert!(sim.flip(Path::new("/state/held/web1/2026112205.0.10"), 50, 1));
    let (code, out, _) = said(&disk, &Action::Retry);
    assert!(code == NO && out.contains("2026112205.0.10: damaged, it stays"), "{out}");
    assert_eq!(said(&disk, &Action::Check).0, NO);
}

/// Wherever a crash stops `retry`, the pack is in the spool or still held, and a second run brings it there.
#[test]
fn a_crash_in_retry_loses_nothing() {
    let mut stopped = 0;
    for stop_at in 1.. {
        let (disk, sim) = begin();
        sim.plan(sim.calls() + stop_at, Fault::Crash);
        let (code, _, _) = said(&disk, &Action::Retry);
        if code == YES {
            break;
        }
        stopped += 1;
        sim.restart(Outcome::LoseUnsynced);
        let (code, out, err) = said(&disk, &Action::Retry);
        assert_eq!(code, YES, "stopped at call {stop_at}: {out}{err}");
        let mut all = frames(&disk, "/state");
        all.dedup();
        assert_eq!(all, [1, 2, 3, 4, 5, 9].map(frame), "stopped at call {stop_at}");
    }
    assert!(stopped > 5, "{stopped}");
}

#[test]
fn every_flipped_byte_is_named_and_the_rest_is_saved() {
    let (disk, sim) = begin();
    let len = disk.stat(Path::new(SEGMENT)).unwrap().unwrap().len;
    for at in 0..len {
        assert!(sim.flip(Path::new(SEGMENT), at, 1 << (at % 8)));
        let (code, out, _) = said(&disk, &Action::Check);
        assert!(code == NO && out.contains(SEGMENT), "byte {at}: {out}");
        let to = format!("/saved{at}");
        let (code, out, _) = said(&disk, &Action::Salvage { to: to.clone().into(), all: true });
        assert_eq!(code, NO, "byte {at}: {out}");
        let whole = [1, 2, 3, 4, 5, 9].map(frame);
        let saved = frames(&disk, &to);
        assert_eq!(saved.len(), 5, "byte {at}");
        assert!(saved.iter().all(|f| whole.contains(f)), "byte {at}");
        assert!(!disk.read(&Path::new(&to).join("lost.txt"), 1 << 20).unwrap().is_empty());
        assert!(sim.flip(Path::new(SEGMENT), at, 1 << (at % 8)));
    }
    assert_eq!(said(&disk, &Action::Check).0, YES);
}

#[test]
fn tails_are_told_apart() {
    let (disk, sim) = begin();
    let path = Path::new(SEGMENT);
    let len = disk.stat(path).unwrap().unwrap().len;
    let file = disk.open_rw(path).unwrap();
    file.set_len(len + 100).unwrap();
    assert!(said(&disk, &Action::Check).1.contains("ZERO TAIL: bytes"));
    file.set_len(len - 3).unwrap();
    let (code, out, _) = said(&disk, &Action::Check);
    assert!(code == NO && out.contains("TORN TAIL") && out.contains("web1_2026112205 pack 5"), "{out}");
    let (code, _, err) = said(&disk, &Action::Ls { all: false, json: false });
    assert!(code == NO && err.contains("1 place not whole"), "the list is not all there was: {err}");
    // A running role may be writing there: no damage, but not in the copy either.
    let place = Place { running: true, ..Place::find(&disk, Path::new("/state")).unwrap() };
    let (code, out, _) = printed(|out| salvage::run(&place, Path::new("/saved"), true, out).unwrap());
    assert!(code == YES && out.contains("5 packs saved") && out.contains("neither saved nor lost"), "{out}");
    assert!(out.contains("a role runs on /state/spool: what it wrote meanwhile is missing here"), "{out}");
    let (_, out, _) = printed(|out| ls::run(&place, false, false, out).unwrap());
    assert!(out.contains("at most these wait"), "{out}");
    drop((file, sim));
}

/// Segments 1, 3 and 5 with two packs each and the last one; what is missing of the second one is seen by its numbers, as far
/// as no deleted segment explains it.
#[test]
fn a_hole_between_segments_is_seen_where_it_can_be_told() {
    let record = (record::HEADER + frame(1).len()) as u64;
    let middle = Path::new("/state/spool/00000000000000000003.seg");
    let name = middle.display();
    for (done, cut, wanted) in [
        (&[][..], None, None),
        (&[2, 3], None, None),
        (&[3, 4], None, Some((YES, "00000000000000000001.seg: records 3 to 4 are in no file".to_owned()))),
        (&[], Some(0), Some((NO, format!("{name}: DAMAGED: bytes 0 to 0 (0): an empty segment")))),
        (
            &[4],
            Some(record),
            Some((NO, format!("{name}: DAMAGED: bytes {record} to {record} (0): the file ends"))),
        ),
        (&[3], Some(record), Some((YES, format!("{name}: records 4 to 4 are in no file")))),
    ] {
        let (disk, sim) = Disk::sim(1);
        fill(&disk, 2 * record, done);
        assert!(cut.is_none_or(|len| sim.truncate(middle, len)));
        let (code, out, _) = said(&disk, &Action::Check);
        match wanted {
            None => assert!(code == YES && out.lines().count() == 1, "{done:?} {cut:?}: {out}"),
            Some((wanted, text)) => {
                assert!(code == wanted && out.contains(&text), "{done:?} {cut:?}: {out}");
                let (salvaged, out, _) = said(&disk, &Action::Salvage { to: "/saved".into(), all: false });
                assert_eq!(salvaged, code, "{out}");
            }
        }
    }
}

#[test]
fn a_start_that_cut_a_tail_leaves_no_marks_of_it() {
    let (disk, sim) = Disk::sim(1);
    let record = (record::HEADER + frame(1).len()) as u64;
    fill(&disk, 2 * record, &[4]);
    let (middle, marks) = ("/state/spool/00000000000000000003.seg", "/state/spool/00000000000000000003.done");
    assert!(sim.truncate(Path::new(middle), 2 * record - 1));
    let before = disk.read(Path::new(marks), 1 << 10).unwrap();
    let conf = SpoolConfig { size: 1 << 20, segment_size: 1 << 20, min_free: 0, group_commit_ms: 0 };
    let mut quarantine = Shelf::open(&disk, Path::new("/state/quarantine"), 1 << 20, 1 << 20).unwrap();
    let (dir, mut said_at_start) = (Path::new("/state/spool"), Vec::new());
    let mut report = |t| said_at_start.push(t);
    Spool::open(&disk, dir, &mut quarantine, &conf, &mut report, &mut |_, _| {}).unwrap().close().unwrap();
    assert_eq!(said_at_start.len(), 1, "{said_at_start:?}");
    assert_ne!(disk.read(Path::new(marks), 1 << 10).unwrap(), before);
    let (code, out, _) = said(&disk, &Action::Check);
    assert!(code == YES, "what a start has set aside is no damage any more: {out}");
}

/// Records with good CRCs, the third with a number that is another's and the fourth of another kind.
#[test]
fn a_whole_pack_in_a_wrong_place_is_named_and_saved() {
    let (disk, sim) = Disk::sim(1);
    let mut bytes = Vec::new();
    for (kind, seq, id) in [(b'P', 1, 1), (b'P', 2, 2), (b'P', 1, 7), (b'J', 3, 8), (b'P', 3, 3)] {
        let offset = bytes.len() as u64;
        record::encode(kind, seq, offset, &[&frame(id)], &mut bytes);
    }
    sim.put(Path::new(SEGMENT), &bytes);
    let (code, out, _) = said(&disk, &Action::Check);
    assert!(code == NO && out.contains("MISPLACED: bytes ") && out.contains("3 packs whole"), "{out}");
    let (code, out, _) = said(&disk, &Action::Salvage { to: "/saved".into(), all: false });
    assert!(code == NO && out.contains("4 packs saved"), "{out}");
    assert_eq!(frames(&disk, "/saved"), [1, 2, 7, 3].map(frame));
    let lost = String::from_utf8(disk.read(Path::new("/saved/lost.txt"), 1 << 20).unwrap()).unwrap();
    for id in [7, 8] {
        assert!(lost.contains(&format!("it was web1_2026112205 pack {id} by its header")), "{lost}");
    }
}

#[test]
fn no_other_role_takes_what_was_saved() {
    let (disk, _) = begin();
    assert_eq!(said(&disk, &Action::Salvage { to: "/saved".into(), all: false }).0, YES);
    let open = |role| instance::Instance::open(&disk, Path::new("/saved"), role, Path::new("/etc/a.ini"));
    assert!(matches!(open("fcollector"), Err(instance::Refused::Why(w)) if w.contains("a collector's")));
    assert!(open("collector").is_ok());
}

#[test]
fn a_directory_is_no_segment() {
    let (disk, _) = begin();
    for name in ["00000000000000000009.seg", "00000000000000000001.done"] {
        disk.remove(&Path::new("/state/spool").join(name)).unwrap();
        disk.create_dir_all(&Path::new("/state/spool").join(name), 0o755).unwrap();
        let (code, out, err) = said(&disk, &Action::Check);
        assert!(code == YES && out.contains(&format!("{name}: a directory")), "{out}{err}");
    }
}

#[test]
fn only_what_is_a_spool_is_taken_for_one() {
    let (disk, _) = begin();
    let of = |dir: &str, action: &Action| printed(|out| run_on(&disk, Path::new(dir), action, out));
    for (dir, why) in [("/nowhere", "/nowhere"), ("/", "neither a spool"), ("/state/held", "neither a spool")]
    {
        let (code, out, err) = of(dir, &Action::Check);
        assert!(code == ERROR && out.is_empty() && err.contains(why), "{dir}: {err}");
        assert!(err.contains("`logd status CONFIG` prints it"), "{dir}: {err}");
    }
    assert_eq!(of("/state/spool", &Action::Check).0, YES);
    assert!(of("/state/spool", &Action::Retry).2.contains("name that directory"));
    let inside = Action::Salvage { to: "/state/new".into(), all: false };
    assert!(of("/state", &inside).2.contains("inside"));
    let (to, all) = (PathBuf::from("/saved"), false);
    let salvage = Action::Salvage { to, all };
    let (code, out, _) = of("/state", &salvage);
    assert!(code == YES && out.contains("5 packs saved") && out.contains("1 done and left out"), "{out}");
    assert!(of("/state", &salvage).2.contains("not empty"));
}
