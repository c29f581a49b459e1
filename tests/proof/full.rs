//! A disk that is full at the wrong moment only delays: whatever one call of a collector fails with "no space", the
//! next turns make good, without a restart, and at no time does a tag say more than the bytes do.
//!
//! The story: an error in the middle of a turn left what the turn had taken in hand with nobody. An hour was then not
//! certified before the next restart, or certified without anybody knowing, so that later bytes left its tag in place.
//!
//! And a pack that is damaged in the spool of a running role is named and taken when it comes again.

use super::peer::{Hour, Pack, lines};
use logd::config::{Config, ReceiverConfig, StoreConfig};
use logd::disk::{Disk, Fault, SimDisk};
use logd::receiver::gate::{Answer, Gate};
use logd::receiver::{Arrived, Budget, Session, lock};
use logd::roles::collector::{self, Collector};
use logd::roles::relay;
use logd::sender::Outcome;
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};

const SEGMENT: &str = "/state/spool/00000000000000000001.seg";
const HOUR: &str = "2026112205";
const ENOSPC: i32 = 28;
const EMFILE: i32 = 24;

struct World {
    disk: Disk,
    sim: SimDisk,
    conf: StoreConfig,
    gate: Mutex<Gate>,
    collector: Collector,
    now_ms: u64,
    errors: u32,
}

/// The process ends when a sync fails; what follows a restart is another test.
struct Ended;

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

impl World {
    fn new() -> Self {
        Self::with("3s")
    }

    fn with(checkpoint: &str) -> Self {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let text = format!(
            "[fcollector]\nlisten = 127.0.0.1:1\nsave_dir = /store\nallow = any\ncheckpoint = {checkpoint}\n"
        );
        let conf = Config::parse("full", text.as_bytes()).store(true).unwrap().0;
        let (gate, collector, _) =
            collector::open(&disk, Path::new("/state"), &conf, 64, 1, &mut |why| panic!("{why}")).unwrap();
        Self { disk, sim, conf, gate: Mutex::new(gate), collector, now_ms: 1, errors: 0 }
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
    fn turn(&mut self) -> Result<(), Ended> {
        self.now_ms += 1000;
        let (c, gate, now) = (&mut self.collector, &self.gate, self.now_ms);
        let mut stored = c.step(gate, now, 64).map(|_| ());
        if stored.is_ok() && c.wants_checkpoint(gate, now) {
            stored = c.checkpoint(gate, now);
        }
        self.note(stored)?;
        for job in self.collector.hours.take_jobs() {
            let done = job.run(&self.disk);
            let filed = self.collector.certify(done, &self.gate, now, 1_795_327_200);
            self.note(filed)?;
        }
        Ok(())
    }

    fn offer(&mut self, pack: &Pack) -> Result<(), Ended> {
        for _ in 0..100 {
            let arrived = arrived(&self.conf.receiver, pack);
            let answer = lock(&self.gate).offer(arrived, self.now_ms, "now");
            if let Some(Answer::When(_) | Answer::Now) = self.note(answer)? {
                let synced = lock(&self.gate).spool.sync();
                return self.note(synced).map(|_| ());
            }
            // Told to wait, its sender comes again.
            self.turn()?;
        }
        panic!("{} is refused for ever", pack.json());
    }

    fn names(&self, dir: &str) -> Vec<String> {
        self.disk.list(Path::new(dir)).unwrap().into_iter().map(|e| e.name).collect()
    }

    fn tag(&self, name: &str) -> Option<Value> {
        let file =
            self.names("/store/received").into_iter().find(|n| n.starts_with(&format!("{name}_{HOUR}_")))?;
        let text = self.disk.read(&Path::new("/store/received").join(file), 1 << 20).unwrap();
        serde_json::from_slice(&text).ok()
    }

    /// Takes turns until the hour has the tag that it must come to have.
    fn whole(&mut self, hour: &Hour, revision: u64) -> Result<(), Ended> {
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
    for _ in 0..5 {
        w.turn()?;
    }
    for p in short.packs().iter().chain(&copied.packs()) {
        w.offer(p)?;
    }
    for _ in 0..8 {
        w.turn()?;
    }
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
    for _ in 0..10 {
        w.turn()?;
    }
    assert_eq!(lock(&w.gate).spool.waiting(), 0, "packs that nobody will take out of the spool");
    for name in w.names("/store/aside/early") {
        let left = w.names(&format!("/store/aside/early/{name}"));
        assert!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

#[test]
fn no_space_for_any_one_call_is_only_a_delay() {
    let mut w = World::new();
    let first = w.sim.calls();
    assert!(life(&mut w).is_ok());
    let last = w.sim.calls();
    let (mut noticed, mut ended, mut wrong) = (0, 0, Vec::new());
    for at in first + 1..=last {
        let mut w = World::new();
        w.sim.plan(at, Fault::Error(ENOSPC));
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
    let run = |w: &mut World| {
        let hour = Hour::new("web1", HOUR, 2, 3);
        hour.packs().iter().try_for_each(|p| w.offer(p))?;
        w.whole(&hour, 1)
    };
    let mut w = World::with("1h");
    let first = w.sim.calls();
    assert!(run(&mut w).is_ok());
    let last = w.sim.calls();
    let mut errors = 0;
    for at in first + 1..=last {
        let mut w = World::with("1h");
        w.sim.plan(at, Fault::Error(EMFILE));
        let ended = run(&mut w).is_err();
        errors += w.errors + u32::from(ended);
    }
    assert!(errors > 5, "{errors}");
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
        let mut w = World::new();
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
            for _ in 0..3 {
                w.turn()?;
            }
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
        (gate, relay, waiting, told)
    };
    let (mut gate, mut relay, _, _) = start();
    let pack = &Hour::new("web1", HOUR, 2, 3).packs()[0];
    let mut frame = Vec::new();
    assert_eq!(gate.offer(arrived(&conf.receiver, pack), 1, "now").unwrap(), Answer::When(1));
    gate.spool.sync().unwrap();
    damage_last(&sim);
    relay.fill(&gate);
    assert_eq!(relay.next_job(1, &mut gate, &mut frame).unwrap(), None);
    let told = std::mem::take(&mut relay.alarms);
    assert!(told.len() == 1 && told[0].starts_with(&format!("web1_{HOUR} pack 1: ")), "{told:?}");
    // Its sender, if it asks again, must not be told that it is here.
    assert_eq!(gate.offer(arrived(&conf.receiver, pack), 1, "now").unwrap(), Answer::When(2));
    gate.spool.sync().unwrap();
    relay.fill(&gate);
    assert_eq!(relay.next_job(1, &mut gate, &mut frame).unwrap(), Some(2));
    relay.report(2, &frame, &Outcome::Sent, 1, &mut gate).unwrap();
    gate.spool.close().unwrap();
    // What is damaged is neither done nor deleted before it is set aside.
    let (gate, _, waiting, told) = start();
    assert_eq!((waiting, told.len(), gate.spool.waiting()), (0, 1, 0), "{told:?}");
    assert!(told[0].contains("kept in /state/quarantine/spool/"), "{told:?}");
}
