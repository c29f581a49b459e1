//! Goal: whatever happens to one byte of a spool, `logd spool check` names the place, and `logd spool salvage` brings out
//! every other pack exactly as it was accepted, and nothing else (P1, P5).
//!
//! The spool is one that a relay left whose next receiver was down: several segments, packs of three hours. In one of them
//! each byte in turn is flipped, and each in turn is where the file ends; the program itself is run over it.
//!
//! Every byte of a segment carries something: the CRC of a record covers its header's zero bytes too. Only a cut exactly
//! between two records leaves a file that is whole by every sign it has; there `check` says 0, and must, and the packs in
//! front of the cut must come out all the same. That the packs behind it are missing is what the store tells. If nothing at
//! all is left of a segment with another behind it, that is a sign.

use super::peer::{Answer, Hour, Peer};
use super::support::*;
use logd::disk::Disk;
use logd::record::{self, Found};
use logd::spool::Shelf;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Hours, and packs of each.
const HOURS: usize = 3;
const PACKS: usize = 5;
/// Places of one kind of damage in a run of CI.
const SAMPLES: u64 = 120;

/// One whole record: its place and its frame.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    from: u64,
    to: u64,
    frame: Vec<u8>,
}

fn records(segment: &Path) -> Vec<Record> {
    let file = Disk::real().open(segment).unwrap();
    let (mut at, mut buf, mut all) = (0, Vec::new(), Vec::new());
    loop {
        match record::read(&file, at, 1 << 24, &mut buf).unwrap() {
            Found::End => return all,
            Found::Damage { .. } => panic!("{}: damaged at {at}", segment.display()),
            Found::Record(h) => {
                all.push(Record { from: h.offset, to: h.end(), frame: buf[record::HEADER..].to_vec() });
                at = h.end();
            }
        }
    }
}

fn segments(spool: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(spool).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<PathBuf> = names.filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    all.sort();
    all
}

fn relay_to_nobody(temp: &Temp) -> Node {
    // A port that nobody listens on: a listener had it a moment ago.
    relay(temp, &fixed_addr().to_string(), &[])
}

/// What a relay leaves whose packs nobody takes; each start of it begins a segment.
fn left_behind(temp: &Temp) -> PathBuf {
    let mut node = relay_to_nobody(temp);
    for n in 0..HOURS {
        if n > 0 {
            node.restart();
        }
        let mut peer = Peer::to(node.addr());
        for p in Hour::new(&format!("web{n}"), "2026112205", PACKS, 3).packs() {
            assert_eq!(peer.send(&p), Answer::Ok);
        }
        drop(peer);
        assert_eq!(node.terminate(), 0);
    }
    temp.path("relay.state")
}

struct Case<'a> {
    temp: &'a Temp,
    state: &'a Path,
    /// The segment that is damaged, and what it was.
    segment: &'a Path,
    content: &'a [u8],
    records: &'a [Record],
    /// Frames of all other segments.
    others: &'a [Record],
}

impl Case<'_> {
    /// Runs the commands over a segment that now holds `bytes`; `bad` are the bytes that are not what they were.
    fn judge(&self, bytes: &[u8], what: &str, hit: impl Fn(&Record) -> bool, whole_by_its_signs: bool) {
        fs::write(self.segment, bytes).unwrap();
        let check = logd(&["spool".as_ref(), "check".as_ref(), self.state.as_os_str()]);
        let name = self.segment.display().to_string();
        if whole_by_its_signs {
            assert_eq!(check.code, 0, "{what}: {check:?}");
        } else {
            assert_eq!(check.code, 1, "{what}: {check:?}");
            let first = self.records.iter().find(|r| hit(r)).unwrap();
            let from = format!("{name}: ");
            let line = check
                .out
                .lines()
                .find(|l| l.starts_with(&from))
                .unwrap_or_else(|| panic!("{what}: {check:?}"));
            assert!(line.contains(&format!("bytes {} to ", first.from)), "{what}: {line}");
        }
        let to = self.temp.path("new");
        let salvage = logd(&[
            "spool".as_ref(),
            "salvage".as_ref(),
            self.state.as_os_str(),
            "--to".as_ref(),
            to.as_os_str(),
        ]);
        assert_eq!(salvage.code, i32::from(!whole_by_its_signs), "{what}: {salvage:?}");
        let mut saved: Vec<Vec<u8>> =
            segments(&to.join("spool")).iter().flat_map(|s| records(s)).map(|r| r.frame).collect();
        saved.sort();
        let whole = self.records.iter().filter(|r| !hit(r)).chain(self.others);
        let mut wanted: Vec<Vec<u8>> = whole.map(|r| r.frame.clone()).collect();
        wanted.sort();
        assert!(saved == wanted, "{what}: {} saved, not {}: {salvage:?}", saved.len(), wanted.len());
        let lost = fs::read_to_string(to.join("lost.txt")).unwrap();
        assert_eq!(lost.contains(&name), !whole_by_its_signs, "{what}: {lost}");
        assert!(fs::read(self.segment).unwrap() == bytes, "{what}: the old spool was changed");
        fs::remove_dir_all(&to).unwrap();
        fs::write(self.segment, self.content).unwrap();
    }
}

#[test]
fn every_damaged_byte_is_named_and_every_other_pack_saved() {
    let seed = seed();
    let temp = Temp::new("spool");
    let state = left_behind(&temp);
    let all = segments(&state.join("spool"));
    assert_eq!(all.len(), HOURS);
    let target = &all[usize::try_from(seed).unwrap() % all.len()];
    let content = fs::read(target).unwrap();
    let own = records(target);
    assert_eq!(own.len(), PACKS);
    let others: Vec<Record> = all.iter().filter(|s| *s != target).flat_map(|s| records(s)).collect();
    let case = Case {
        temp: &temp,
        state: &state,
        segment: target,
        content: &content,
        records: &own,
        others: &others,
    };

    let len = content.len() as u64;
    let step = if soak() { 1 } else { (len / SAMPLES).max(1) };
    let places = || (seed % step..len).step_by(usize::try_from(step).unwrap());
    for at in places() {
        let mut bytes = content.clone();
        bytes[usize::try_from(at).unwrap()] ^= 1 << (at % 8);
        case.judge(&bytes, &format!("byte {at} flipped"), |r| r.from <= at && at < r.to, false);
    }
    // Where a record ends is where a cut leaves no sign.
    let ends: BTreeSet<u64> = own.iter().map(|r| r.to).chain([0]).filter(|e| *e < len).collect();
    let cuts: BTreeSet<u64> = places().chain(ends.iter().copied()).collect();
    for at in &cuts {
        let bytes = &content[..usize::try_from(*at).unwrap()];
        let no_sign = ends.contains(at) && (*at > 0 || Some(target) == all.last());
        case.judge(bytes, &format!("cut at byte {at}"), |r| r.to > *at, no_sign);
    }
    // Undamaged, for the oracle's sake.
    case.judge(&content, "untouched", |_| false, true);
    proved(
        "one byte of a spool flipped, or the file cut there: spool check, spool salvage",
        format!("{} flips, {} cuts of {len} bytes", places().count(), cuts.len()),
        "0 places unnamed, 0 whole packs lost, 0 packs changed",
    );
}

/// The end of a spool that is just being written is no damage; and held packs stay where they are while the relay runs.
#[test]
fn a_running_relay_is_not_called_damaged() {
    let temp = Temp::new("spool-live");
    let mut node = relay_to_nobody(&temp);
    let (addr, state) = (node.addr(), temp.path("relay.state"));
    let stop = AtomicBool::new(false);
    let looks = if soak() { 400 } else { 40 };
    let mut least = u64::MAX;
    thread::scope(|s| {
        for n in 0..3 {
            let stop = &stop;
            s.spawn(move || {
                let mut peer = Peer::to(addr);
                for hour in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let name = format!("web{n}-{hour}");
                    for p in Hour::new(&name, "2026112205", PACKS, 40).packs() {
                        assert_eq!(peer.send(&p), Answer::Ok);
                    }
                }
            });
        }
        for _ in 0..looks {
            let check = logd(&["spool".as_ref(), "check".as_ref(), state.as_os_str()]);
            if check.code != 0 || !check.out.contains("a role runs on it") {
                stop.store(true, Ordering::Relaxed);
                panic!("{check:?}");
            }
            let waiting =
                check.out.split(" waiting").next().and_then(|t| t.split(' ').next_back()?.parse().ok());
            least = least.min(waiting.unwrap_or(0));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let retry = || logd(&["spool".as_ref(), "retry".as_ref(), state.as_os_str()]);
    let mut held = Shelf::open(&Disk::real(), &state.join("held"), 1 << 20, 1 << 20).unwrap();
    let pack = &Hour::new("held", "2026112205", 1, 9).packs()[0];
    assert!(held.put("held", "2026112205.0.1.00000000", &pack.frame()).unwrap());
    let refused = retry();
    assert!(refused.code == 2 && refused.err.contains("a role runs on it"), "{refused:?}");
    assert_eq!(node.terminate(), 0);
    let done = retry();
    assert!(done.code == 0 && done.out.contains("1 pack queued again, 0 files left"), "{done:?}");
    let ls = logd(&["spool".as_ref(), "ls".as_ref(), state.as_os_str(), "--json".as_ref()]);
    let rows: serde_json::Value = serde_json::from_str(&ls.out).unwrap();
    assert!(rows["packs"].as_array().unwrap().len() as u64 >= least, "{}", ls.err);
    assert_eq!(rows["not_whole"], 0);
    let mut packs = rows["packs"].as_array().unwrap().iter();
    assert!(packs.any(|p| p["name"] == "held" && p["state"] == "waiting"), "{}", ls.out);
    proved("spool check beside a running relay", format!("{looks} looks"), "0 false alarms");
}

/// A relay started on what was saved delivers it: the hours are whole at the store, and certified.
#[test]
fn what_was_saved_is_delivered_by_a_relay_started_on_it() {
    let temp = Temp::new("spool-save");
    let state = left_behind(&temp);
    let to = temp.path("new");
    let salvage =
        logd(&["spool".as_ref(), "salvage".as_ref(), state.as_os_str(), "--to".as_ref(), to.as_os_str()]);
    assert_eq!(salvage.code, 0, "{salvage:?}");
    let mut store = store(&temp, &[]);
    let to = to.display().to_string();
    let keys = [("state_dir", to.as_str()), ("send_to", &store.addr().to_string())];
    let mut saved = Node::start(&temp, "saved", "collector", &keys, &[]);
    for n in 0..HOURS {
        let hour = Hour::new(&format!("web{n}"), "2026112205", PACKS, 3);
        let tag = certified(&temp.path("save"), &hour.name, "2026112205");
        assert_eq!((&tag["verified"], &tag["packs"]), (&true.into(), &PACKS.into()), "{tag}");
        assert!(
            fs::read(temp.path(&format!("save/log_data/{}_2026112205", hour.name))).unwrap() == hour.bytes()
        );
    }
    assert_eq!((saved.terminate(), store.terminate()), (0, 0));
    proved(
        "a relay started on a salvaged spool",
        format!("{HOURS} hours, {} packs", HOURS * PACKS),
        "0 lost, 0 doubled, 0 torn, 0 false certificates",
    );
}
