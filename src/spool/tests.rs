//! What a spool does with damage, full disks and lacking descriptors; shelves.

use super::*;
use crate::config::Config;
use crate::disk::{Fault, Outcome, SimDisk};
use rustix::io::Errno;

const SEGMENT: &str = "/spool/00000000000000000001.seg";

struct Opened {
    spool: Spool,
    packs: Vec<(u64, Vec<u8>)>,
    reports: Vec<String>,
}

fn open(disk: &Disk) -> Opened {
    let text = b"[collector]\nlisten = :1\nallow = any\nsend_to = a:1\nmin_free = 0\n";
    let conf = Config::parse("test", text).relay(true).unwrap().0.spool;
    let mut quarantine = Shelf::open(disk, Path::new("/quarantine"), 1 << 20, 1 << 20).unwrap();
    let (mut packs, mut reports) = (Vec::new(), Vec::new());
    let mut see = |loc: Loc, frame: &[u8]| packs.push((loc.seq, frame.to_vec()));
    let (dir, mut report) = (Path::new("/spool"), |r| reports.push(r));
    let spool = Spool::open(disk, dir, &mut quarantine, &conf, &mut report, &mut see).unwrap();
    Opened { spool, packs, reports }
}

fn quarantined(sim: &SimDisk) -> Vec<PathBuf> {
    let files = sim.paths().into_iter().map(|(path, _)| path);
    files.filter(|p| p.starts_with("/quarantine/spool") && p.extension().is_some()).collect()
}

#[test]
fn damage_on_a_full_disk_stays_where_it_is_and_keeps_nobody_from_starting() {
    let (disk, sim) = Disk::sim(1);
    let mut first = open(&disk);
    for frame in [b"one", b"two"] {
        first.spool.append(&[frame]).unwrap();
    }
    first.spool.sync().unwrap();
    drop(first);
    sim.append(Path::new(SEGMENT), b"LGD1 torn");
    let whole = disk.read(Path::new(SEGMENT), 1 << 20).unwrap();

    sim.set_capacity(Some(0));
    let mut full = open(&disk);
    assert_eq!(full.packs, [(1, b"one".to_vec()), (2, b"two".to_vec())]);
    assert!(full.reports[0].contains("its place until a start that finds room"), "{:?}", full.reports);
    for (seq, _) in full.packs {
        full.spool.mark_done(seq).unwrap();
    }
    drop(full.spool);
    assert_eq!(disk.read(Path::new(SEGMENT), 1 << 20).unwrap(), whole, "gone, and kept nowhere");

    sim.set_capacity(None);
    let again = open(&disk);
    let kept = quarantined(&sim);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(disk.read(&kept[0], 1 << 20).unwrap(), b"LGD1 torn");
    assert!(again.reports[0].contains("quarantine/spool/"), "{:?}", again.reports);
}

#[test]
fn damage_that_quarantine_has_no_room_for_stays_where_it_is() {
    let (disk, sim) = Disk::sim(1);
    sim.put(Path::new("/quarantine/spool/older"), &vec![0; 1 << 20]);
    sim.put(Path::new(SEGMENT), b"torn");
    let reports = open(&disk).reports;
    assert!(reports[0].contains("its place, as quarantine is full"), "{reports:?}");
    assert_eq!(disk.read(Path::new(SEGMENT), 1 << 20).unwrap(), b"torn");
}

#[test]
fn a_segment_that_had_to_stay_keeps_its_name() {
    let (disk, sim) = Disk::sim(1);
    sim.put(Path::new(SEGMENT), b"nothing whole");
    sim.set_capacity(Some(0));
    let mut full = open(&disk).spool;
    sim.set_capacity(None);
    full.append(&[b"one"]).unwrap();
    full.sync().unwrap();
    drop(full);
    let again = open(&disk);
    assert_eq!(again.packs, [(2, b"one".to_vec())]);
    assert_eq!(quarantined(&sim).len(), 1);
}

#[test]
fn other_damage_at_the_same_place_is_kept_beside_the_first() {
    let (disk, sim) = Disk::sim(1);
    for text in [&b"torn once"[..], b"torn again", b"torn once"] {
        sim.put(Path::new(SEGMENT), text);
        drop(open(&disk));
    }
    let kept: Vec<_> = quarantined(&sim).iter().map(|p| disk.read(p, 1 << 20).unwrap()).collect();
    assert_eq!(kept.len(), 2);
    assert!(kept.contains(&b"torn once".to_vec()) && kept.contains(&b"torn again".to_vec()));
}

/// A directory that could not be opened is no failed fsync: the process goes on, and so must what was to be synced.
#[test]
fn a_sync_without_descriptors_is_made_up_for() {
    // The file's content is synced first, then its name.
    for step in [1, 2] {
        let (disk, sim) = Disk::sim(1);
        let mut spool = open(&disk).spool;
        assert!(spool.append(&[b"frame"]).is_ok());
        sim.plan(sim.calls() + step, Fault::Error(Errno::MFILE.raw_os_error()));
        assert!(spool.sync().is_err_and(|e| e.too_many_files() && !e.fatal()));
        assert_eq!(spool.durable(), 1, "nothing is durable yet");
        spool.sync().unwrap();
        assert_eq!(spool.durable(), 2);
        sim.restart(Outcome::LoseUnsynced);
        assert_eq!(open(&disk).spool.waiting(), 1, "step {step}: durable, it was said");
    }
}

#[test]
fn directories_under_names_of_the_spool_stop_no_start() {
    let (disk, _) = Disk::sim(1);
    for name in ["00000000000000000001.seg", "00000000000000000007.done", ".x.tmp"] {
        for round in 1..=2 {
            disk.create_dir_all(&Path::new("/spool").join(name), 0o755).unwrap();
            let Opened { mut spool, reports, .. } = open(&disk);
            assert!(
                reports.iter().any(|t| t.contains(&format!("{name}{}", ".dir".repeat(round)))),
                "{reports:?}"
            );
            assert!(spool.append(&[b"frame"]).is_ok());
            spool.close().unwrap();
            assert_eq!(spool.waiting(), 1);
            spool.mark_done(1).unwrap();
            spool.close().unwrap();
            assert!(disk.stat(&Path::new("/spool").join(name)).unwrap().is_none(), "{name}");
        }
    }
}

#[test]
fn a_damaged_file_on_a_shelf_gives_way_to_its_pack() {
    let (disk, sim) = Disk::sim(1);
    let mut shelf = Shelf::open(&disk, Path::new("/shelf"), 1 << 20, 1 << 20).unwrap();
    assert!(shelf.put("web1", "2026112205.0.7", b"frame").unwrap());
    assert!(sim.flip(Path::new("/shelf/web1/2026112205.0.7"), record::HEADER as u64, 1));
    assert_eq!(shelf.get("web1", "2026112205.0.7").unwrap(), None);
    // The same pack comes again: it must not count as kept because a file of its name stands there.
    assert!(shelf.put("web1", "2026112205.0.7", b"frame").unwrap());
    assert_eq!(shelf.get("web1", "2026112205.0.7").unwrap().as_deref(), Some(&b"frame"[..]));
}
