//! A disk that is full at the wrong moment only delays: whatever one call of a collector fails with "no space" (or with an
//! input/output error), the next turns make good, without a restart, and at no time does a tag say more than the bytes do.
//!
//! The story: an error in the middle of a turn left what the turn had taken in hand with nobody. An hour was then not
//! certified before the next restart, or certified without anybody knowing, so that later bytes left its tag in place.
//! Below the sweep over all calls stand the moments at which one call, or a power cut, did harm that the sweep cannot show,
//! and packs that are damaged in the spool of a running role.

use super::peer::{Hour, Pack, lines};
use logd::config::{Config, ReceiverConfig, StoreConfig};
use logd::disk::{Disk, Fault, Outcome, SimDisk};
use logd::output::hours::Due;
use logd::receiver::gate::{Answer, Gate};
use logd::receiver::{Arrived, Budget, Session, lock};
use logd::roles::collector::{self, Collector};
use logd::roles::relay;
use logd::sender::Outcome as Sent;
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub(super) const SEGMENT: &str = "/state/spool/00000000000000000001.seg";
pub(super) const HOUR: &str = "2026112205";
pub(super) const ENOSPC: i32 = 28;
const EMFILE: i32 = 24;
pub(super) const EIO: i32 = 5;
/// After an error, tags of days and of the fleet are looked for again within this time.
const SETTLED_MS: u64 = 61_000;

pub(super) struct World {
    pub(super) disk: Disk,
    pub(super) sim: SimDisk,
    pub(super) conf: StoreConfig,
    pub(super) gate: Mutex<Gate>,
    pub(super) collector: Collector,
    pub(super) now_ms: u64,
    errors: u32,
}

/// The process ends when a sync fails; what follows a restart is another test.
#[derive(Debug)]
pub(super) struct Ended;

/// What a connection hands to the gate.
fn arrived(conf: &ReceiverConfig, pack: &Pack) -> Arrived {
    let conf = Arc::new(conf.clone());
    let budget = Budget::new(conf.inflight_bytes);
    let mut session = Session::new(&conf, &budget, "192.0.2.7".parse().unwrap(), true);
    let (frame, mut at) = (pack.frame(), 0);
    loop {
        let (used, arrived) = session.feed(&frame[at..]).unwrap();
        at += used;
        if let Some(a) = arrived {
            return a;
        }
    }
}

fn open(disk: &Disk, conf: &StoreConfig, now_ms: u64) -> (Mutex<Gate>, Collector) {
    let opened = collector::open(disk, Path::new("/state"), conf, 64, now_ms, &mut |why| panic!("{why}"));
    let (gate, collector, _) = opened.unwrap();
    (Mutex::new(gate), collector)
}

impl World {
    pub(super) fn new() -> Self {
        Self::with("checkpoint = 3s")
    }

    fn with(keys: &str) -> Self {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let text = format!("[fcollector]\nlisten = 127.0.0.1:1\nsave_dir = /store\nallow = any\n{keys}\n");
        let conf = Config::parse("full", text.as_bytes()).store(true).unwrap().0;
        let (gate, collector) = open(&disk, &conf, 1);
        Self { disk, sim, conf, gate, collector, now_ms: 1, errors: 0 }
    }

    /// A power cut (unless the machine is down already) and the next start.
    fn restart(&mut self, loss: Outcome) {
        self.sim.crash();
        self.sim.restart(loss);
        (self.gate, self.collector) = open(&self.disk, &self.conf, self.now_ms);
    }

    fn note<T>(&mut self, result: logd::disk::Result<T>) -> Result<Option<T>, Ended> {
        match result {
            Ok(v) => Ok(Some(v)),
            Err(e) if e.fatal() || self.disk.failure().is_some() => Err(Ended),
            Err(_) => {
                self.errors += 1;
                Ok(None)
            }
        }
    }

    /// What the collector's loop does once a second.
    pub(super) fn turn(&mut self) -> Result<(), Ended> {
        self.store()?;
        self.certify()
    }

    pub(super) fn turns(&mut self, n: u32) -> Result<(), Ended> {
        (0..n).try_for_each(|_| self.turn())
    }

    fn store(&mut self) -> Result<(), Ended> {
        self.now_ms += 1000;
        let (c, gate, now) = (&mut self.collector, &self.gate, self.now_ms);
        let mut stored = c.step(gate, now, 64).map(|_| ());
        if stored.is_ok()
            && let Some(due) = c.wants_checkpoint(gate, now)
        {
            stored = c.checkpoint(due, gate, now);
        }
        self.note(stored).map(|_| ())
    }

    fn certify(&mut self) -> Result<(), Ended> {
        for job in self.collector.hours.take_jobs() {
            let done = job.run(&self.disk, &mut sha2::Sha256::default());
            let filed = self.collector.certify(done, &self.gate, self.now_ms, 1_795_327_200);
            self.note(filed)?;
        }
        Ok(())
    }

    pub(super) fn offer(&mut self, pack: &Pack) -> Result<(), Ended> {
        for _ in 0..100 {
            let arrived = arrived(&self.conf.receiver, pack);
            let answer = lock(&self.gate).offer(arrived, self.now_ms, "now");
            if let Some(Answer::When(_) | Answer::Now) = self.note(answer)? {
                // What is not durable is not acknowledged; without descriptors it is tried again.
                for _ in 0..3 {
                    let synced = lock(&self.gate).spool.sync();
                    if self.note(synced)?.is_some() {
                        return Ok(());
                    }
                }
            }
            // Told to wait, its sender comes again.
            self.turn()?;
        }
        panic!("{} is refused for ever", pack.json());
    }

    /// An hour comes and is certified.
    pub fn certified(&mut self, hour: &Hour) -> Result<(), Ended> {
        hour.packs().iter().try_for_each(|p| self.offer(p))?;
        self.whole(hour, 1)
    }

    pub(super) fn names(&self, dir: &str) -> Vec<String> {
        self.disk.list(Path::new(dir)).unwrap().into_iter().map(|e| e.name).collect()
    }

    pub(super) fn tag(&self, name: &str) -> Option<Value> {
        let file =
            self.names("/store/received").into_iter().find(|n| n.starts_with(&format!("{name}_{HOUR}_")))?;
        let text = self.disk.read(&Path::new("/store/received").join(file), 1 << 20).unwrap();
        serde_json::from_slice(&text).ok()
    }

    /// Takes turns until the hour has the tag that it must come to have.
    pub(super) fn whole(&mut self, hour: &Hour, revision: u64) -> Result<(), Ended> {
        let fits = |c: &Value| {
            c["gen"].as_u64() == Some(hour.generation) && c["revision"].as_u64() == Some(revision)
        };
        for _ in 0..40 {
            if self.tag(&hour.name).as_ref().is_some_and(fits) {
                let tags: Vec<String> = self.names("/store/received");
                assert_eq!(tags.iter().filter(|n| n.starts_with(&hour.name)).count(), 1, "{tags:?}");
                let path = format!("/store/log_data/{}_{HOUR}", hour.name);
                assert!(self.disk.read(Path::new(&path), 1 << 20).unwrap() == hour.bytes(), "{path}");
                return Ok(());
            }
            self.turn()?;
        }
        panic!("{}: no tag: {:?}; aside: {:?}", hour.name, self.tag(&hour.name), self.names("/store/aside"));
    }
}

fn life(w: &mut World) -> Result<(), Ended> {
    let gap = Hour::new("web1", HOUR, 4, 3);
    let mut short = Hour::new("web2", HOUR, 2, 3);
    let copied = Hour::new("web3", HOUR, 2, 3);
    // A gap that outlives its stay in the spool, beside an hour that becomes whole meanwhile.
    let packs = gap.packs();
    for p in [&packs[0], &packs[2], &packs[3]] {
        w.offer(p)?;
    }
    w.turns(5)?;
    for p in short.packs().iter().chain(&copied.packs()) {
        w.offer(p)?;
    }
    w.turns(8)?;
    w.whole(&short, 1)?;
    w.whole(&copied, 1)?;
    w.offer(&packs[1])?;
    w.whole(&gap, 1)?;
    // Later bytes: once they are taken there is no tag.
    short.raws.extend([lines("later", 0, 3), lines("later", 3, 3)]);
    let packs = short.packs();
    w.offer(&packs[2])?;
    assert!(w.tag("web2").is_none(), "{:?}", w.tag("web2"));
    w.turn()?;
    w.offer(&packs[3])?;
    w.whole(&short, 2)?;
    // A copy takes the place of a certified hour.
    let copy = copied.copy(5);
    for p in copy.packs() {
        w.offer(&p)?;
    }
    w.whole(&copy, 2)?;
    w.turns(10)?;
    assert_eq!(lock(&w.gate).spool.waiting(), 0, "packs that nobody will take out of the spool");
    for name in w.names("/store/aside/early") {
        let left = w.names(&format!("/store/aside/early/{name}"));
        assert!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

#[test]
fn no_space_or_a_bad_sector_for_any_one_call_is_only_a_delay() {
    let mut w = World::new();
    let first = w.sim.calls();
    assert!(life(&mut w).is_ok());
    let last = w.sim.calls();
    let (mut noticed, mut ended, mut wrong) = (0, 0, Vec::new());
    for (at, errno) in (first + 1..=last).flat_map(|at| [(at, ENOSPC), (at, EIO)]) {
        let mut w = World::new();
        w.sim.plan(at, Fault::Error(errno));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| life(&mut w).is_err()));
        let call = w.sim.log().into_iter().find(|line| line.contains("Error"));
        match result {
            Ok(true) => ended += 1,
            Ok(false) => noticed += w.errors,
            Err(_) => wrong.push(call.unwrap_or_default()),
        }
    }
    println!("{} calls: {noticed} errors noticed, {ended} failed syncs", last - first);
    assert!(wrong.is_empty(), "what followed these calls was wrong: {wrong:#?}");
    assert!(noticed > 50, "{noticed}");
}

/// The story: many hours became whole at once, there were no descriptors to read some of them again, and these waited for
/// their certificates until something else wanted a checkpoint, which may be an hour.
#[test]
fn a_verification_that_finds_no_descriptor_is_soon_made_up_for() {
    let run = |w: &mut World| w.certified(&Hour::new("web1", HOUR, 2, 3));
    let mut w = World::with("checkpoint = 1h");
    let first = w.sim.calls();
    assert!(run(&mut w).is_ok());
    let last = w.sim.calls();
    let mut errors = 0;
    for at in first + 1..=last {
        let mut w = World::with("checkpoint = 1h");
        w.sim.plan(at, Fault::Error(EMFILE));
        let ended = run(&mut w).is_err();
        errors += w.errors + u32::from(ended);
    }
    assert!(errors > 5, "{errors}");
}

/// An input/output error is not gone a second later, as a lack of descriptors may be: the hour has time until the next
/// checkpoint.
#[test]
fn a_verification_that_meets_a_bad_disk_waits_for_the_checkpoint() {
    let run = |w: &mut World| {
        Hour::new("web1", HOUR, 2, 3).packs().iter().try_for_each(|p| w.offer(p))?;
        w.store()?;
        w.sim.plan(w.sim.calls() + 1, Fault::Error(EIO));
        w.turns(10)?;
        assert_eq!((w.errors, w.tag("web1")), (1, None), "tried again at once");
        w.now_ms += 3_600_000;
        w.turns(2)?;
        assert!(w.tag("web1").is_some());
        Ok::<_, Ended>(())
    };
    assert!(run(&mut World::with("checkpoint = 1h")).is_ok());
}

/// The story: a verification that came to nothing made the gate forget the tag that stood, so that it stayed beside later
/// bytes.
#[test]
fn a_tag_whose_hour_is_refused_goes_with_later_bytes() {
    let run = |w: &mut World| {
        let mut hour = Hour::new("web1", HOUR, 2, 3);
        w.certified(&hour)?;
        w.offer(&Pack::ours("web1", HOUR, 0, 1, b"other bytes under its number\n"))?;
        // `closed/` can be deleted. Its hour is verified again, and refused for the conflict.
        w.sim.remove_tree(Path::new("/state/closed/web1_2026112205"));
        w.restart(Outcome::KeepAll);
        w.turns(5)?;
        assert!(
            w.collector.messages.iter().any(|(_, m)| m.contains("conflict")),
            "{:?}",
            w.collector.messages
        );
        assert!(w.tag("web1").is_some(), "it was true before, and is");
        hour.raws.push(lines("later", 0, 3));
        w.offer(&hour.packs()[2])?;
        assert_eq!(w.tag("web1"), None);
        Ok::<_, Ended>(())
    };
    assert!(run(&mut World::new()).is_ok());
}

/// The same for a certificate, or the installation of a later copy, that finds no room at one of its calls.
#[test]
fn a_tag_that_stands_after_a_failed_filing_goes_with_later_bytes() {
    let run = |w: &mut World, copy: bool, at: u64| {
        let mut hour = Hour::new("web1", HOUR, 2, 3);
        if copy {
            w.certified(&hour)?;
        }
        hour.copy(if copy { 5 } else { 0 }).packs().iter().try_for_each(|p| w.offer(p))?;
        w.store()?;
        w.sim.plan(w.sim.calls() + at, Fault::Error(ENOSPC));
        w.certify()?;
        let stood = w.errors == 1 && w.tag("web1").is_some();
        hour.raws.push(lines("later", 0, 3));
        w.offer(&hour.packs()[2])?;
        assert_eq!(w.tag("web1"), None, "call {at}, copy: {copy}");
        Ok::<_, Ended>(stood)
    };
    for copy in [false, true] {
        // A failed sync among them ends the process.
        let stood = (1..=12).filter(|at| run(&mut World::new(), copy, *at).is_ok_and(|stood| stood));
        assert!(stood.count() > 0, "no error left a tag; copy: {copy}");
    }
}

/// A power cut at each call with which the gate takes tags away. At the next start the hour has its tag again, and
/// whatever still stands goes with the late line when that comes again, even before the hour was looked at.
#[test]
fn tags_half_taken_away_are_given_back_or_go_with_the_next_late_line() {
    let mut hour = Hour::new("web1", HOUR, 2, 3);
    let first = hour.clone();
    hour.raws.push(lines("later", 0, 3));
    let later = &hour.packs()[2];
    let run = |w: &mut World, at: u64, loss: Outcome, rest: u32| {
        w.certified(&first)?;
        let saved = lock(&w.gate).spool.save_marks();
        w.note(saved)?;
        for wider in ["web1_20261122", "all_2026112205"] {
            w.sim.put(&Path::new("/store/received").join(wider), b"{}");
        }
        w.sim.plan(w.sim.calls() + at, Fault::Crash);
        let ended = w.offer(later).is_err();
        w.sim.forget_plan();
        if ended {
            w.restart(loss);
            let taken = lock(&w.gate).spool.waiting() > 0;
            w.turns(rest)?;
            assert!(rest == 0 || taken || w.tag("web1").is_some(), "call {at}: it lost its tag for ever");
            w.offer(later)?;
        }
        // If the late line was durable at the start, the hour may be certified with it by now.
        let left = w.names("/store/received");
        let good = left.iter().all(|tag| tag == "web1_2026112205_9");
        assert!(good, "call {at}, {loss:?}, {rest} turns after the start: {left:?}");
        Ok::<_, Ended>(ended)
    };
    for loss in [Outcome::KeepAll, Outcome::LoseUnsynced] {
        for rest in [0, 5] {
            let crashed = |at: &u64| {
                let ended = run(&mut World::new(), *at, loss, rest);
                ended.unwrap_or_else(|Ended| panic!("call {at}, {loss:?}: it ended once more"))
            };
            let calls = (1..100).take_while(crashed).count();
            assert!((9..99).contains(&calls), "{calls}");
        }
    }
}

/// The tags of a day and of the fleet are written after the last hour's own. The day is one on which the clock is put
/// forward at its end.
#[test]
fn a_wider_tag_that_finds_no_room_is_written_later() {
    let wider = ["web1_20261122", "all_2026112222"];
    let hosts = Path::new(env!("CARGO_TARGET_TMPDIR")).join("full-hosts");
    std::fs::write(&hosts, "web1\n").unwrap();
    let day = |w: &mut World| {
        for hour in 0..23 {
            let hour = Hour::new("web1", &format!("20261122{hour:02}"), 1, 1);
            w.offer(&hour.packs()[0].clone().set("day_hours", "23"))?;
            w.turn()?;
        }
        Ok::<_, Ended>(())
    };
    let there = |w: &World| wider.map(|tag| w.names("/store/received").iter().any(|n| n == tag));
    let world = || World::with(&format!("checkpoint = 3s\nhosts_file = {}", hosts.display()));
    let mut w = world();
    assert!(day(&mut w).is_ok() && there(&w) == [true, true]);
    for tag in wider {
        let made = format!("create /store/received/.{tag}.tmp");
        let call = w.sim.log().iter().find_map(|l| l.strip_suffix(&made)?.strip_suffix(": ")?.parse().ok());
        let mut w = world();
        w.sim.plan(call.unwrap(), Fault::Error(ENOSPC));
        assert!(day(&mut w).is_ok() && w.errors == 1 && there(&w)[1..] == [false], "{tag}: {:?}", there(&w));
        // Once more there is no room.
        w.now_ms += SETTLED_MS;
        w.sim.plan(w.sim.calls() + 1, Fault::Error(ENOSPC));
        assert!(w.turn().is_ok() && there(&w)[1..] == [false], "{tag}: {:?}", there(&w));
        w.now_ms += SETTLED_MS;
        assert!(w.turn().is_ok() && there(&w) == [true, true], "{tag}: {:?}", there(&w));
    }
}

/// The story: lines of a proof were forgotten before its name was durable. After an error in between, nobody made the
/// name durable any more, and a power cut took the proof of a certified hour.
#[test]
fn a_proof_whose_directory_could_not_be_synced_is_made_durable_later() {
    let run = |w: &mut World| {
        let hour = Hour::new("web1", HOUR, 2, 3);
        hour.packs().iter().try_for_each(|p| w.offer(p))?;
        let (here, away) = (Path::new("/store/headers"), Path::new("/store/elsewhere"));
        let stepped = w.collector.step(&w.gate, w.now_ms, 64);
        w.note(stepped)?;
        w.disk.rename(here, away).unwrap();
        let saved = w.collector.checkpoint(Due::All, &w.gate, w.now_ms);
        w.note(saved)?;
        assert_eq!(w.collector.hours.alarms.len(), 1);
        w.disk.rename(away, here).unwrap();
        w.disk.sync_dir(Path::new("/store")).unwrap();
        w.whole(&hour, 1)?;
        w.restart(Outcome::LoseUnsynced);
        assert_eq!(w.names("/store/headers"), ["web1_2026112205"]);
        Ok::<_, Ended>(())
    };
    assert!(run(&mut World::new()).is_ok());
}

fn damage_last(sim: &SimDisk) {
    let end = sim.look(Path::new(SEGMENT), |b| b.unwrap().len() as u64);
    assert!(sim.flip(Path::new(SEGMENT), end - 1, 1));
}

/// The story: a collector named neither host nor hour of such a pack, and answered `ok` to it, when it was sent again, as to
/// one that it had.
#[test]
fn a_pack_that_is_damaged_in_the_spool_is_named_and_taken_again() {
    let hour = Hour::new("web1", HOUR, 4, 3);
    let packs = hour.packs();
    // Which pack; and is it read only once the one before it has come?
    for (victim, waited) in [(0, false), (3, false), (2, true), (3, true)] {
        // Nothing waits for a checkpoint: whoever asks again is told the truth at once.
        let mut w = World::with("checkpoint = 1h");
        let mut run = || -> Result<(), Ended> {
            let order: &[usize] = if waited { &[0, 2, 3, 1] } else { &[0, 1, 2, 3] };
            for i in order {
                if waited && *i == 1 {
                    w.turn()?;
                }
                w.offer(&packs[*i])?;
                if *i == victim {
                    damage_last(&w.sim);
                }
            }
            w.turn()?;
            let messages = w.collector.messages.iter().map(|(_, text)| text);
            let told: Vec<&String> = messages.chain(&w.collector.hours.alarms).collect();
            let name = format!("web1_{HOUR} pack {}: ", victim + 1);
            assert!(told.len() == 1 && told[0].starts_with(&name), "{told:?}");
            w.offer(&packs[victim])?;
            w.whole(&hour, 1)
        };
        assert!(run().is_ok(), "pack {victim}, {waited}");
    }
}

/// The story: a late pack had been acknowledged and was lost in the collector's spool, and the hour was certified without it.
#[test]
fn an_hour_gets_no_tag_while_an_acknowledged_pack_is_lost() {
    let mut hour = Hour::new("web1", HOUR, 2, 3);
    let first = hour.clone();
    hour.raws.push(lines("later", 0, 3));
    let packs = hour.packs();
    let reopen = |w: &mut World| {
        w.sim.restart(Outcome::KeepAll);
        let (dir, mut told) = (Path::new("/state"), Vec::new());
        let opened = collector::open(&w.disk, dir, &w.conf, 64, w.now_ms, &mut |t| told.push(t));
        let (gate, collector, _) = opened.unwrap();
        (w.gate, w.collector) = (Mutex::new(gate), collector);
        told
    };
    // Found while it runs, found at a start, or found when the packs before it have come.
    for way in 0..3 {
        let mut w = World::new();
        let mut run = || -> Result<(), Ended> {
            if way == 2 {
                w.offer(&packs[0])?;
            } else {
                w.certified(&first)?;
            }
            w.offer(&packs[2])?;
            damage_last(&w.sim);
            match way {
                1 => {
                    let told = reopen(&mut w);
                    assert!(told.iter().any(|t| t.contains("it was web1_2026112205 pack 3")), "{told:?}");
                }
                2 => w.offer(&packs[1])?,
                _ => {}
            }
            w.turns(8)?;
            assert_eq!(w.tag("web1"), None);
            assert_eq!(w.names("/store/aside/lost/web1"), ["2026112205.0.3"]);
            reopen(&mut w);
            w.turns(8)?;
            assert_eq!(w.tag("web1"), None, "after a restart");
            w.offer(&packs[2])?;
            w.turns(8)?;
            assert!(w.tag("web1").is_some_and(|t| t["packs"] == 3), "{:?}", w.tag("web1"));
            assert!(w.names("/store/aside/lost").is_empty());
            Ok(())
        };
        assert!(run().is_ok(), "{way}");
    }
}

/// The story: two packs of an original, which has no digests, were refused under one number, and one of them was kept
/// for both.
#[test]
fn packs_without_a_digest_are_held_side_by_side() {
    let (disk, sim) = Disk::sim(1);
    sim.set_free_bytes(1 << 40);
    let text = b"[collector]\nlisten = 127.0.0.1:1\nsend_to = 127.0.0.1:2\nallow = any\n";
    let conf = Config::parse("relay", text).relay(true).unwrap().0;
    let (gate, mut relay, _) =
        relay::open(&disk, Path::new("/state"), &conf, "relay".into(), 1, &mut |why| panic!("{why}"))
            .unwrap();
    let gate = Mutex::new(gate);
    for raw in [&b"one\n"[..], b"another\n"] {
        lock(&gate).offer(arrived(&conf.receiver, &Pack::original("web1", HOUR, 7, raw)), 1, "now").unwrap();
    }
    lock(&gate).spool.sync().unwrap();
    // They come back from there from time to time, and are refused again.
    let mut seen = std::collections::BTreeSet::new();
    for round in 1..=100 {
        relay.fill(&gate);
        let (now, mut frame) = (round * 120_000, Vec::new());
        let next = relay.next_job(now, &gate, &mut frame).unwrap();
        if let Some(seq) = next {
            relay.report(seq, &frame, &Sent::PermFail("wrong header".into()), now, &gate).unwrap();
        }
        let held = disk.list(Path::new("/state/held/web1")).unwrap_or_default();
        assert_eq!(lock(&gate).spool.waiting() + held.len() as u64, 2, "round {round}");
        seen.extend(held.into_iter().map(|e| e.name));
    }
    assert_eq!(seen.len(), 2, "each under a name of its own: {seen:?}");
}

/// The story: a damaged record kept its segment, and a spool of one segment took nothing more.
#[test]
fn a_damaged_record_does_not_fill_a_small_spool() {
    let (disk, sim) = Disk::sim(1);
    sim.set_free_bytes(1 << 40);
    let text = b"[collector]\nlisten = 127.0.0.1:1\nsend_to = 127.0.0.1:2\nallow = any\n";
    let mut conf = Config::parse("relay", text).relay(true).unwrap().0;
    (conf.spool.size, conf.spool.segment_size) = (2_000, 2_000);
    let (gate, mut relay, _) =
        relay::open(&disk, Path::new("/state"), &conf, "relay".into(), 1, &mut |why| panic!("{why}"))
            .unwrap();
    let gate = Mutex::new(gate);
    for (i, pack) in Hour::new("web1", HOUR, 30, 3).packs().iter().enumerate() {
        let answer = lock(&gate).offer(arrived(&conf.receiver, pack), 1, "now").unwrap();
        assert!(matches!(answer, Answer::When(_)), "pack {}: {answer:?}", i + 1);
        lock(&gate).spool.sync().unwrap();
        if i == 0 {
            damage_last(&sim);
        }
        relay.fill(&gate);
        let mut frame = Vec::new();
        while let Some(seq) = relay.next_job(1, &gate, &mut frame).unwrap() {
            relay.report(seq, &frame, &Sent::Sent, 1, &gate).unwrap();
        }
    }
}

#[test]
fn a_pack_that_is_damaged_in_a_relays_spool_is_named_and_taken_again() {
    let (disk, sim) = Disk::sim(1);
    sim.set_free_bytes(1 << 40);
    let text = b"[collector]\nlisten = 127.0.0.1:1\nsend_to = 127.0.0.1:2\nallow = any\n";
    let conf = Config::parse("relay", text).relay(true).unwrap().0;
    let start = || {
        let mut told = Vec::new();
        let dir = Path::new("/state");
        let (gate, relay, waiting) =
            relay::open(&disk, dir, &conf, "relay".into(), 1, &mut |why| told.push(why)).unwrap();
        (Mutex::new(gate), relay, waiting, told)
    };
    let (gate, mut relay, _, _) = start();
    let pack = &Hour::new("web1", HOUR, 2, 3).packs()[0];
    let mut frame = Vec::new();
    assert_eq!(lock(&gate).offer(arrived(&conf.receiver, pack), 1, "now").unwrap(), Answer::When(1));
    lock(&gate).spool.sync().unwrap();
    damage_last(&sim);
    relay.fill(&gate);
    assert_eq!(relay.next_job(1, &gate, &mut frame).unwrap(), None);
    let told = std::mem::take(&mut relay.alarms);
    assert!(told.len() == 1 && told[0].starts_with(&format!("web1_{HOUR} pack 1: ")), "{told:?}");
    // Its sender, if it asks again, must not be told that it is here.
    assert_eq!(lock(&gate).offer(arrived(&conf.receiver, pack), 1, "now").unwrap(), Answer::When(2));
    lock(&gate).spool.sync().unwrap();
    relay.fill(&gate);
    assert_eq!(relay.next_job(1, &gate, &mut frame).unwrap(), Some(2));
    relay.report(2, &frame, &Sent::Sent, 1, &gate).unwrap();
    lock(&gate).spool.close().unwrap();
    // What is damaged is not deleted before it is set aside.
    assert_eq!(disk.list(Path::new("/state/quarantine/spool")).unwrap().len(), 1);
    let (gate, _, waiting, told) = start();
    assert_eq!((waiting, told.len(), lock(&gate).spool.waiting()), (0, 0, 0), "{told:?}");
}
