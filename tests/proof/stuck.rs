//! One bad file stops one hour (P4), and nothing keeps a collector from starting (P5): whatever stands in the way of an
//! hour, the other hosts' hours become whole, an alarm names the hour and the path, and the hour becomes whole, without a
//! restart, when that is out of the way.
//!
//! The story: with a directory, or a bad sector, where one hour's file should be, the collector tried the same pack for
//! ever, and what all hosts had been told `ok` for stayed in the spool. A start ended at the first such file, and on a full
//! disk at the first torn line. Disks that fail one call are in `full`.

use super::full::{HOUR, SEGMENT, World};
use super::peer::{Hour, Pack};
use logd::disk::Outcome;
use logd::receiver::lock;
use logd::roles::collector;
use std::path::Path;
use std::sync::Mutex;

const DATA: &str = "/store/log_data/web1_2026112205";
const PROOF: &str = "/store/headers/web1_2026112205";
const SHELF: &str = "/store/aside/early/web1";

fn restart(w: &mut World) -> Vec<String> {
    w.sim.crash();
    w.sim.restart(Outcome::KeepAll);
    let mut told = Vec::new();
    let dir = Path::new("/state");
    let opened = collector::open(&w.disk, dir, &w.conf, 64, w.now_ms, &mut |t| told.push(t));
    let (gate, collector, _) = opened.unwrap_or_else(|why| panic!("no start: {why}"));
    (w.gate, w.collector) = (Mutex::new(gate), collector);
    told
}

fn offer(w: &mut World, packs: &[Pack]) {
    packs.iter().try_for_each(|p| w.offer(p)).unwrap();
}

/// Everything that was said of web1, then nothing of it is left anywhere but in its hour.
fn alarms(w: &mut World) -> Vec<String> {
    let messages = w.collector.messages.drain(..).map(|(_, text)| text);
    messages.chain(w.collector.hours.alarms.drain(..)).filter(|t| t.contains("web1")).collect()
}

fn nothing_waits(w: &mut World) {
    w.turns(10).unwrap();
    assert_eq!(lock(&w.gate).spool.waiting(), 0);
    assert!(w.disk.stat(Path::new(SHELF)).unwrap().is_none(), "{:?}", w.names(SHELF));
}

#[test]
fn what_stands_where_a_file_should_be_stops_its_hour_alone() {
    let bad = |path: &str| Path::new(path).join("x");
    for path in [DATA, PROOF] {
        for (stored, restarts) in [(0, false), (0, true), (1, true)] {
            let mut w = World::new();
            let (a, b) = (Hour::new("web1", HOUR, 4, 3), Hour::new("web2", HOUR, 2, 3));
            let (packs, kept) = (a.packs(), w.disk.read(Path::new(path), 1 << 20));
            assert!(kept.is_err());
            offer(&mut w, &packs[..stored]);
            w.turns(5).unwrap();
            offer(&mut w, &packs[stored..3]);
            let kept = (stored > 0).then(|| w.disk.read(Path::new(path), 1 << 20).unwrap());
            w.sim.remove_tree(Path::new(path));
            w.sim.put(&bad(path), b"");
            let mut told = if restarts { restart(&mut w) } else { Vec::new() };
            offer(&mut w, &b.packs());
            w.whole(&b, 1).unwrap();
            told.extend(alarms(&mut w));
            assert!(told.len() == 1 && told[0].contains(path) && told[0].contains("web1"), "{told:?}");
            // Its packs are out of the spool, so that they do not fill it for the others.
            w.turns(10).unwrap();
            assert_eq!(lock(&w.gate).spool.waiting(), 0, "{path}, {stored}, {restarts}");
            w.sim.remove_tree(Path::new(path));
            if let Some(kept) = kept {
                w.sim.put(Path::new(path), &kept);
            }
            w.turns(11).unwrap();
            offer(&mut w, &packs[3..]);
            w.whole(&a, 1).unwrap_or_else(|_| panic!("{path}, {stored}, {restarts}"));
            nothing_waits(&mut w);
        }
    }
}

/// The same when its packs are in the data file already, and the proof cannot be opened to tell of them.
#[test]
fn a_proof_that_cannot_be_written_stops_its_hour_alone() {
    let mut w = World::new();
    let (a, b) = (Hour::new("web1", HOUR, 2, 3), Hour::new("web2", HOUR, 2, 3));
    offer(&mut w, &a.packs());
    w.collector.step(&w.gate, w.now_ms, 64).unwrap();
    w.collector.hours.relieve().unwrap();
    w.sim.remove_tree(Path::new(PROOF));
    w.sim.put(&Path::new(PROOF).join("x"), b"");
    offer(&mut w, &b.packs());
    w.whole(&b, 1).unwrap();
    w.turns(30).unwrap();
    let told = alarms(&mut w);
    assert!(told.len() == 1 && told[0].contains(PROOF), "{told:?}");
    assert!(w.tag("web1").is_none() && lock(&w.gate).spool.waiting() > 0, "done, and proven nowhere");
    w.sim.remove_tree(Path::new(PROOF));
    w.whole(&a, 1).unwrap();
    nothing_waits(&mut w);
}

/// The story: a pack left the shelf for a data file whose proof could not be written, so that nobody had it durably.
#[test]
fn a_pack_leaves_the_shelf_when_the_proof_has_it() {
    let mut w = World::new();
    let a = Hour::new("web1", HOUR, 3, 3);
    let packs = a.packs();
    offer(&mut w, &[packs[0].clone(), packs[2].clone()]);
    w.turns(10).unwrap();
    assert_eq!(w.names(SHELF).len(), 1);
    offer(&mut w, &packs[1..2]);
    w.collector.step(&w.gate, w.now_ms, 64).unwrap();
    w.collector.hours.relieve().unwrap();
    let proof = w.disk.read(Path::new(PROOF), 1 << 20).unwrap();
    w.sim.remove_tree(Path::new(PROOF));
    w.sim.put(&Path::new(PROOF).join("x"), b"");
    w.turns(5).unwrap();
    assert_eq!(w.names(SHELF).len(), 1, "it is proven nowhere");
    w.sim.remove_tree(Path::new(PROOF));
    w.sim.put(Path::new(PROOF), &proof);
    w.whole(&a, 1).unwrap();
    nothing_waits(&mut w);
}

/// A pack is lost, and there is no room to note it: the hour gets no tag all the same, and the collector starts.
#[test]
fn what_is_lost_on_a_full_disk_is_not_forgotten() {
    let mut w = World::new();
    let mut a = Hour::new("web1", HOUR, 2, 3);
    w.certified(&a).unwrap();
    a.raws.push(b"a late line\n".to_vec());
    offer(&mut w, &a.packs()[2..]);
    let end = w.sim.look(Path::new(SEGMENT), |b| b.unwrap().len() as u64);
    assert!(w.sim.flip(Path::new(SEGMENT), end - 1, 1));
    w.sim.set_capacity(Some(0));
    restart(&mut w);
    w.sim.set_capacity(None);
    w.turns(10).unwrap();
    assert!(w.tag("web1").is_none(), "{:?}", w.tag("web1"));
    restart(&mut w);
    w.turns(10).unwrap();
    assert!(w.tag("web1").is_none(), "after another start: {:?}", w.tag("web1"));
    offer(&mut w, &a.packs()[2..]);
    w.turns(10).unwrap();
    assert!(w.tag("web1").is_some_and(|t| t["packs"] == 3));
}

#[test]
fn directories_under_names_of_an_hour_stop_no_start() {
    let (a, b) = (Hour::new("web1", HOUR, 2, 3), Hour::new("web2", HOUR, 2, 3));
    let places = [
        DATA,
        PROOF,
        "/state/closed/web1_2026112205",
        "/store/aside/web1_2026112205.install",
        "/store/aside/early/web1/.x.tmp",
    ];
    for path in places {
        let mut w = World::new();
        offer(&mut w, &a.packs()[..1]);
        w.sim.put(&Path::new(path).join("x"), b"");
        let told = restart(&mut w);
        let named = told.iter().any(|t| t.contains(path) && t.contains("web1_2026112205: "));
        assert!(named || path.contains("early"), "{path}: {told:?}");
        offer(&mut w, &b.packs());
        w.whole(&b, 1).unwrap();
        w.sim.remove_tree(Path::new(path));
        w.turns(11).unwrap();
        offer(&mut w, &a.packs()[1..]);
        w.whole(&a, 1).unwrap();
    }
}

/// Pack 1 is stored, the proof's second line torn, its pack still in the spool.
fn torn(w: &mut World, hour: &Hour) {
    offer(w, &hour.packs()[..1]);
    w.turns(5).unwrap();
    offer(w, &hour.packs()[1..2]);
    w.sim.append(Path::new(PROOF), b"{\"Route\":[{\"ed\":");
}

/// Pack 3 waits on the shelf, and what it waited for is in the data file: at the start it is its turn.
fn waiting(w: &mut World, hour: &Hour) {
    offer(w, &[hour.packs()[0].clone(), hour.packs()[2].clone()]);
    w.turns(10).unwrap();
    assert_eq!(w.names(SHELF).len(), 1);
    let shelf = Path::new(SHELF).join(&w.names(SHELF)[0]);
    let kept = w.disk.read(&shelf, 1 << 20).unwrap();
    offer(w, &hour.packs()[1..2]);
    w.turns(5).unwrap();
    // As if the power had gone before pack 3 was durable in its place.
    let ends = |path: &str| w.sim.look(Path::new(path), |b| b.unwrap().to_vec());
    let (data, proof) = (ends(DATA), ends(PROOF));
    let second = proof.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
    w.sim.put(Path::new(PROOF), &proof[..second]);
    w.sim.put(Path::new(DATA), &data[..hour.raws[0].len() + hour.raws[1].len()]);
    w.sim.put(&shelf, &kept);
}

/// The line of pack 2 is beyond repair, but for its neighbours.
fn line_lost(w: &mut World, hour: &Hour) {
    offer(w, &hour.packs()[..3]);
    w.turns(5).unwrap();
    let first = w.sim.look(Path::new(PROOF), |b| b.unwrap().iter().position(|b| *b == b'\n').unwrap());
    for at in 20..40 {
        assert!(w.sim.flip(Path::new(PROOF), (first + at) as u64, 7));
    }
}

#[test]
fn a_full_disk_delays_what_a_start_must_write_and_not_the_start() {
    for (i, prepare) in [torn, waiting, line_lost].into_iter().enumerate() {
        let mut w = World::new();
        let hour = Hour::new("web1", HOUR, 4, 3);
        prepare(&mut w, &hour);
        let (data, proof) = (w.disk.read(Path::new(DATA), 1 << 20), w.disk.read(Path::new(PROOF), 1 << 20));
        w.sim.set_capacity(Some(0));
        let told = restart(&mut w);
        assert!(told.len() == 1 && told[0].contains("web1_2026112205: "), "{i}: {told:?}");
        w.turns(30).unwrap();
        assert_eq!(w.disk.read(Path::new(DATA), 1 << 20).unwrap(), data.unwrap(), "{i}");
        assert_eq!(
            w.disk.read(Path::new(PROOF), 1 << 20).unwrap(),
            proof.unwrap(),
            "{i}: no copy of it is kept"
        );
        w.sim.set_capacity(None);
        w.turns(11).unwrap();
        offer(&mut w, &hour.packs());
        w.whole(&hour, 1).unwrap();
        nothing_waits(&mut w);
    }
}

/// The story: it was never removed, took its sender's share of the shelf, and was told of at each start.
#[test]
fn a_damaged_file_of_the_shelf_does_not_stay_there() {
    for at_start in [false, true] {
        let mut w = World::new();
        let hour = Hour::new("web1", HOUR, 3, 3);
        let packs = hour.packs();
        offer(&mut w, &[packs[0].clone(), packs[2].clone()]);
        w.turns(10).unwrap();
        assert!(w.sim.flip(&Path::new(SHELF).join(&w.names(SHELF)[0]), 60, 1));
        // The spool has nothing of it any more.
        lock(&w.gate).spool.close().unwrap();
        let mut told = if at_start { restart(&mut w) } else { Vec::new() };
        offer(&mut w, &packs[1..2]);
        w.turns(5).unwrap();
        told.extend(alarms(&mut w));
        let kept = "kept as /store/aside/web1_2026112205.0.3.damaged";
        assert!(told.len() == 1 && told[0].contains(kept), "{told:?}");
        offer(&mut w, &packs[2..]);
        w.whole(&hour, 1).unwrap();
        nothing_waits(&mut w);
        assert_eq!(restart(&mut w), Vec::<String>::new());
    }
}

/// A damaged file of a pack that is stored already has nothing to tell.
#[test]
fn a_file_of_the_shelf_that_nobody_needs_is_not_looked_at() {
    let mut w = World::new();
    let hour = Hour::new("web1", HOUR, 3, 3);
    offer(&mut w, &hour.packs()[..2]);
    w.turns(5).unwrap();
    w.sim.put(&Path::new(SHELF).join("2026112205.0.2"), b"damaged");
    assert_eq!(restart(&mut w), Vec::<String>::new());
    nothing_waits(&mut w);
}

/// The numbers of packs at the end of a segment that cannot be read are not given to others.
#[test]
fn packs_behind_a_bad_sector_are_there_when_it_is_read_after_all() {
    let mut w = World::new();
    let (a, b) = (Hour::new("web1", HOUR, 2, 3), Hour::new("web2", HOUR, 2, 3));
    offer(&mut w, &a.packs());
    w.sim.set_unreadable(Path::new(SEGMENT), 0..1 << 20);
    restart(&mut w);
    offer(&mut w, &b.packs());
    w.whole(&b, 1).unwrap();
    assert!(w.tag("web1").is_none());
    w.sim.set_unreadable(Path::new(SEGMENT), 0..0);
    restart(&mut w);
    w.whole(&a, 1).unwrap();
    nothing_waits(&mut w);
}

/// A bad sector in the spool costs the packs in it, and no more; what it held is read again at each start.
#[test]
fn a_bad_sector_of_the_spool_costs_its_own_packs() {
    for at_start in [false, true] {
        let mut w = World::new();
        let (a, b) = (Hour::new("web1", HOUR, 2, 3), Hour::new("web2", HOUR, 2, 3));
        offer(&mut w, &a.packs());
        let end = w.sim.look(Path::new(SEGMENT), |b| b.unwrap().len() as u64);
        // The packs of the other host begin in another sector.
        let other = Hour::new("web3", HOUR, 1, 400);
        offer(&mut w, &other.packs());
        while w.sim.look(Path::new(SEGMENT), |b| b.unwrap().len() as u64) < end / 4096 * 4096 + 4096 {
            let next = Hour::new(&format!("web4{}", lock(&w.gate).spool.waiting()), HOUR, 1, 10);
            offer(&mut w, &next.packs());
        }
        offer(&mut w, &b.packs());
        lock(&w.gate).raw.clear();
        w.sim.set_unreadable(Path::new(SEGMENT), 0..end);
        let mut told = if at_start { restart(&mut w) } else { Vec::new() };
        w.whole(&b, 1).unwrap();
        w.turns(10).unwrap();
        told.extend(alarms(&mut w));
        assert!(told.iter().all(|t| t.contains(SEGMENT)) && !told.is_empty(), "{told:?}");
        assert!(w.tag("web1").is_none());
        w.sim.set_unreadable(Path::new(SEGMENT), 0..0);
        let told = restart(&mut w);
        w.whole(&a, 1).unwrap_or_else(|_| panic!("{told:?}"));
        nothing_waits(&mut w);
    }
}
