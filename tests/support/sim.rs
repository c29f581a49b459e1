//! The simulator: follower, relay and collector on three simulated machines, driven by one thread.
//!
//! Nothing here knows how a node works inside. A round appends to the log file, turns every node once and carries
//! bytes between them. Any disk call of any machine can be made to crash or fail; a node whose disk says that the
//! process must end is dropped, its machine restarted with the chosen outcome, and the node opened again from its
//! disk. After every round [`World::judge`] checks P2 and P3 against the source.

use logd::clock::{Clock, Hour, SimClock, Zone};
use logd::config::{Config, Peer, RelayConfig, StoreConfig, TailConfig};
use logd::disk::sim::Rng;
use logd::disk::{self, Disk, Outcome as Loss, SimDisk};
use logd::integrity::Certificate;
use logd::pack::Encoder;
use logd::receiver::gate::{Answer, Gate};
use logd::receiver::{Budget, Session, lock};
use logd::record;
use logd::roles::collector::{self, Collector};
use logd::roles::follower::{Follower, Setup};
use logd::roles::relay::{self, Relay};
use logd::sender::Outcome;
use logd::tail::Identity;
use logd::tail::pattern::Pattern;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// 2026-11-22 05:00:00 UTC.
pub const START_MS: i64 = 1_795_323_600_000;
const NAME: &str = "web1";

/// `start` of the follower's configuration.
#[derive(PartialEq, Eq)]
pub enum Begin {
    /// With the oldest file.
    Oldest,
    /// With the current hour.
    Now,
    /// At the end of the first hour's file.
    End,
}

/// One simulated machine.
pub struct Machine {
    pub disk: Disk,
    pub sim: SimDisk,
    /// How often it was restarted.
    pub restarts: u32,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let (disk, sim) = Disk::sim(seed);
        sim.set_free_bytes(1 << 40);
        Self { disk, sim, restarts: 0 }
    }
}

struct Confs {
    tail: TailConfig,
    relay: RelayConfig,
    store: StoreConfig,
}

/// See the module's header.
pub struct World {
    pub clock: SimClock,
    now: Clock,
    zone: Zone,
    confs: Confs,
    pub machines: [Machine; 3],
    follower: Option<Follower>,
    relay: Option<(Mutex<Gate>, Relay)>,
    collector: Option<(Mutex<Gate>, Collector)>,
    encoder: Encoder,
    /// What becomes of unsynced data when a machine crashes.
    pub loss: fn(u32) -> Loss,
    /// Everything that was ever written to each hour's file.
    pub source: BTreeMap<String, Vec<u8>>,
    pub messages: Vec<String>,
    /// Percent of packs whose answer is lost on its way, although they were taken.
    pub lost_answers: u64,
    /// Percent of packs that never arrive, so that others overtake them.
    pub lost_packs: u64,
    /// Nobody can reach the relay.
    pub cut_off: bool,
    rng: Rng,
    /// Where a new state directory begins.
    pub begin: Begin,
    /// The follower takes over from an original: hour, first pack number, byte.
    pub resume: Option<(Hour, u64, u64)>,
    /// The next receiver is an original.
    pub peer: Peer,
    /// May the source be replaced or truncated by the scenario? Then P2 is judged by the scenario itself.
    pub judged: bool,
}

fn confs() -> Confs {
    let text = b"[tail]\nlog_file = /log/access.log.<%Y%m%d%H>\nsend_to = relay:1\nname = web1\npack_bytes = 4k\n\
        max_line = 4k\nquiet = 1s\nclose_wait = 2s\nflush_interval = 1s\ntail_memory = 1M\nspool_size = 1M\n\
        segment_size = 64k\n\
        [collector]\nlisten = 127.0.0.1:1\nsend_to = store:1\nsegment_size = 64k\nallow = any\n\
        [fcollector]\nlisten = 127.0.0.1:2\nsave_dir = /store\nsegment_size = 64k\nallow = any\ncheckpoint = 3s\n";
    let c = Config::parse("sim", text);
    let mut tail = c.tail(false).unwrap().0;
    // Small enough that a dozen lines make several packs and segments; smaller than a person may configure.
    let mut relay = c.relay(false).unwrap().0;
    let mut store = c.store(false).unwrap().0;
    tail.pack_bytes = 120;
    tail.max_line = 120;
    tail.spool.segment_size = 2_000;
    relay.spool.segment_size = 2_000;
    store.spool.segment_size = 2_000;
    Confs { tail, relay, store }
}

/// A fatal error means that the process has ended; anything else is a pause.
fn dead(m: &Machine, e: &disk::Error) -> bool {
    e.fatal() || m.sim.crashed() || m.disk.failure().is_some()
}

impl World {
    pub fn new(seed: u64) -> Self {
        let (now, clock) = Clock::sim(START_MS);
        let machines = [Machine::new(seed), Machine::new(seed + 1), Machine::new(seed + 2)];
        machines[0].sim.put(Path::new("/log/.keep"), b"");
        machines[0].sim.set_mtime_ms(START_MS);
        Self {
            clock,
            now,
            zone: Zone::named("UTC").unwrap(),
            confs: confs(),
            machines,
            follower: None,
            relay: None,
            collector: None,
            encoder: Encoder::new(6),
            loss: |_| Loss::LoseUnsynced,
            source: BTreeMap::new(),
            messages: Vec::new(),
            lost_answers: 0,
            lost_packs: 0,
            cut_off: false,
            rng: Rng::new(seed),
            begin: Begin::Oldest,
            resume: None,
            peer: Peer::Logd,
            judged: true,
        }
    }

    /// Another program writes to the current hour's log file (or to `hour`'s).
    pub fn write(&mut self, hour: &str, text: &str) {
        let path = PathBuf::from(format!("/log/access.log.{hour}"));
        self.machines[0].sim.set_mtime_ms(self.now.now_ms());
        self.machines[0].sim.append(&path, text.as_bytes());
        self.source.entry(hour.to_owned()).or_default().extend_from_slice(text.as_bytes());
    }

    /// Wall time.
    pub fn now_ms(&self) -> i64 {
        self.now.now_ms()
    }

    /// Kills a node with its machine.
    pub fn crash(&mut self, node: usize) {
        self.machines[node].sim.crash();
    }

    /// Somebody deletes a node's state directory and kills it.
    pub fn lose_state(&mut self, node: usize) {
        self.machines[node].sim.remove_tree(Path::new("/state"));
        self.crash(node);
    }

    /// One turn of everything; the clock goes on by `ms`.
    pub fn round(&mut self, ms: u64) {
        self.clock.advance(ms);
        for node in 0..3 {
            self.revive(node);
        }
        self.turn_follower();
        self.turn_relay();
        self.turn_collector();
        self.judge();
    }

    /// Restarts a machine that is down, and opens its node if it is not running. A fault during the start is a crash
    /// like any other.
    fn revive(&mut self, node: usize) {
        let m = &mut self.machines[node];
        if m.sim.crashed() || m.disk.failure().is_some() {
            match node {
                0 => self.follower = None,
                1 => self.relay = None,
                _ => self.collector = None,
            }
            if !m.sim.crashed() {
                m.sim.crash();
            }
            m.sim.restart((self.loss)(m.restarts));
            m.restarts += 1;
        }
        let result = match node {
            0 if self.follower.is_none() => self.open_follower(),
            1 if self.relay.is_none() => self.open_relay(),
            2 if self.collector.is_none() => self.open_collector(),
            _ => Ok(()),
        };
        if let Err(e) = result {
            self.messages.push(format!("node {node} did not start: {e}"));
            assert!(
                self.machines[node].sim.crashed() || self.machines[node].disk.failure().is_some(),
                "node {node} does not start although its disk works: {e}\n{}",
                self.explain()
            );
        }
    }

    fn open_follower(&mut self) -> Result<(), String> {
        let disk = self.machines[0].disk.clone();
        let state_dir = Path::new("/state");
        let served = disk.stat(&state_dir.join("role.json")).map_err(|e| e.to_string())?.is_some();
        logd::instance::Instance::open(&disk, state_dir, "tail", Path::new("/t.ini"))
            .map_err(|e| format!("{e:?}"))
            .map(drop)?;
        let pattern = Pattern::parse(&self.confs.tail.log_file)?;
        let existing = pattern.existing(&disk).map_err(|e| e.to_string())?;
        let now = self.now.now_ms();
        let oldest = existing.first().copied().filter(|_| self.begin != Begin::Now);
        let first_hour = oldest.unwrap_or(self.zone.hour_at(now));
        let setup = Setup {
            disk: &disk,
            clock: &self.now,
            zone: &self.zone,
            state_dir,
            served,
            fresh: Identity {
                format: 1,
                name: NAME.into(),
                zone: self.zone.name(),
                first_hour,
                copies_until: existing.last().copied(),
                copies_generation: self.now.now_secs().unsigned_abs(),
                from_end: self.begin == Begin::End,
            },
            resume: self.resume,
            once: false,
            seed: 7,
        };
        let mut conf = self.confs.tail.clone();
        conf.sender.peer = self.peer;
        let mut f = Follower::open(&setup, &conf, pattern)?;
        self.messages.append(&mut f.alarms);
        self.follower = Some(f);
        Ok(())
    }

    fn open_relay(&mut self) -> Result<(), String> {
        let disk = &self.machines[1].disk;
        let messages = &mut self.messages;
        let (gate, relay, _) =
            relay::open(disk, Path::new("/state"), &self.confs.relay, "relay1".into(), 8, &mut |t| {
                messages.push(t);
            })?;
        self.relay = Some((Mutex::new(gate), relay));
        Ok(())
    }

    fn open_collector(&mut self) -> Result<(), String> {
        let disk = &self.machines[2].disk;
        let messages = &mut self.messages;
        let now = self.now.mono_ms();
        let (gate, collector, _) =
            collector::open(disk, Path::new("/state"), &self.confs.store, 64, now, &mut |t| {
                messages.push(t);
            })?;
        self.collector = Some((Mutex::new(gate), collector));
        Ok(())
    }

    fn turn_follower(&mut self) {
        let Some(mut f) = self.follower.take() else { return };
        let result = (|| {
            f.step()?;
            while let Some(job) = f.next_job()? {
                let mut frame = Vec::new();
                job.frame(&mut self.encoder, &f.wall(), &mut frame);
                let outcome = self.deliver(1, &frame);
                f.report(job, &frame, &outcome)?;
            }
            Ok(())
        })();
        self.messages.append(&mut f.alarms);
        match result {
            Err(e) if dead(&self.machines[0], &e) => {}
            _ => self.follower = Some(f),
        }
    }

    fn turn_relay(&mut self) {
        let Some((gate, mut relay)) = self.relay.take() else { return };
        let result = (|| {
            relay.fill(&lock(&gate));
            let mut frame = Vec::new();
            loop {
                let now = self.now.mono_ms();
                let Some(seq) = relay.next_job(now, &mut lock(&gate), &mut frame)? else { break };
                let outcome = self.deliver(2, &frame);
                relay.report(seq, &frame, &outcome, now, &mut lock(&gate))?;
                relay.fill(&lock(&gate));
            }
            lock(&gate).spool.save_marks()
        })();
        self.messages.append(&mut relay.alarms);
        match result {
            Err(e) if dead(&self.machines[1], &e) => {}
            _ => self.relay = Some((gate, relay)),
        }
    }

    fn turn_collector(&mut self) {
        let Some((gate, mut c)) = self.collector.take() else { return };
        let now = self.now.mono_ms();
        let result = (|| {
            while c.step(&gate, now, 64)? > 0 {}
            if c.wants_checkpoint(&gate, now) {
                c.checkpoint(&gate, now)?;
            }
            for job in c.hours.take_jobs() {
                let done = job.run(&self.machines[2].disk);
                c.certify(done, &gate, now, self.now.now_secs())?;
            }
            lock(&gate).spool.save_marks()
        })();
        self.messages.append(&mut c.hours.alarms);
        self.messages.extend(c.messages.drain(..).map(|(_, t)| t));
        match result {
            Err(e) if dead(&self.machines[2], &e) => {}
            _ => self.collector = Some((gate, c)),
        }
    }

    /// Carries one frame to a receiver over a connection of its own, and its answer back.
    fn deliver(&mut self, to: usize, frame: &[u8]) -> Outcome {
        if self.rng.below(100) < self.lost_packs {
            return Outcome::TempFail { reason: "no answer".into(), link: false };
        }
        let outcome = self.hand_over(to, frame);
        if outcome == Outcome::Sent && self.rng.below(100) < self.lost_answers {
            return Outcome::TempFail { reason: "no answer".into(), link: false };
        }
        outcome
    }

    fn hand_over(&mut self, to: usize, frame: &[u8]) -> Outcome {
        let down = || Outcome::TempFail { reason: "down".into(), link: true };
        let conf = match to {
            1 => self.confs.relay.receiver.clone(),
            _ => self.confs.store.receiver.clone(),
        };
        let gate = match to {
            1 => self.relay.as_ref().map(|(g, _)| g),
            _ => self.collector.as_ref().map(|(g, _)| g),
        };
        let Some(gate) = gate.filter(|_| to != 1 || !self.cut_off) else { return down() };
        let budget = Budget::new(1 << 20);
        let mut session = Session::new(&Arc::new(conf), &budget, [127, 0, 0, 1].into(), to == 2);
        let mut rest = frame;
        let arrived = loop {
            match session.feed(rest) {
                Ok((_, Some(a))) => break a,
                Ok((0, None)) => panic!("a whole frame is not taken\n{}", self.explain()),
                Ok((n, None)) => rest = &rest[n..],
                Err(r) => return Outcome::PermFail(r.reason().to_owned()),
            }
        };
        let mut gate = lock(gate);
        let answer = gate.offer(arrived, self.now.mono_ms(), "2026-11-22 05:00:00.000");
        self.messages.append(&mut gate.alarms);
        match answer {
            Ok(Answer::Now) => Outcome::Sent,
            Ok(Answer::When(seq)) => match gate.spool.sync() {
                Ok(()) if gate.spool.durable() > seq => Outcome::Sent,
                _ => down(),
            },
            Ok(Answer::Refuse(r)) => Outcome::TempFail { reason: r.reason().to_owned(), link: false },
            Err(_) => down(),
        }
    }

    /// A follower's log file is replaced, cut or deleted by somebody.
    pub fn replace(&mut self, hour: &str, text: Option<&str>) {
        let path = PathBuf::from(format!("/log/access.log.{hour}"));
        self.machines[0].sim.remove_tree(&path);
        if let Some(text) = text {
            self.machines[0].sim.set_mtime_ms(self.now.now_ms());
            self.machines[0].sim.put(&path, text.as_bytes());
        }
    }

    /// The certificate that is no proof, of an hour.
    pub fn doubtful(&self, hour: &str) -> Option<Certificate> {
        record::from_json(&self.file(&format!("/store/doubtful/{NAME}_{hour}"))?).ok()
    }

    /// What is stored of an hour.
    pub fn stored(&self, hour: &str) -> String {
        String::from_utf8(self.file(&format!("/store/log_data/{NAME}_{hour}")).unwrap_or_default()).unwrap()
    }

    /// The collector's live files.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.machines[2].disk.read_opt(Path::new(path), 1 << 20).ok().flatten()
    }

    /// Verified tags: hour and certificate.
    pub fn tags(&self) -> BTreeMap<String, Certificate> {
        let disk = &self.machines[2].disk;
        let mut out = BTreeMap::new();
        let Ok(names) = disk.list(Path::new("/store/received")) else { return out };
        for e in names {
            if e.name.matches('_').count() != 2 {
                continue;
            }
            let bytes = self.file(&format!("/store/received/{}", e.name)).unwrap_or_default();
            let cert: Certificate = match record::from_json(&bytes) {
                Ok(c) => c,
                Err(_) if !self.judged => continue,
                Err(w) => panic!("{}: {w}", e.name),
            };
            assert_eq!(cert.tag_name(), e.name);
            out.insert(cert.hour.to_string(), cert);
        }
        out
    }

    /// P2 and P3 at this moment.
    pub fn judge(&self) {
        if !self.judged || self.machines[2].sim.crashed() {
            return;
        }
        for (hour, source) in &self.source {
            let stored = self.file(&format!("/store/log_data/{NAME}_{hour}")).unwrap_or_default();
            // What the process wrote and has not synced may be anything after a crash, but never after a start.
            let running = self.collector.is_some();
            assert!(
                !running || source.starts_with(&stored),
                "P2: {hour}: stored bytes are no prefix of the source\n{}",
                self.explain()
            );
        }
        for (hour, cert) in self.tags() {
            let source = self.source.get(&hour).cloned().unwrap_or_default();
            let stored = self.file(&format!("/store/log_data/{NAME}_{hour}")).unwrap_or_default();
            assert!(cert.verified, "{hour}");
            let same = source.starts_with(&stored) && stored.len() as u64 == cert.bytes;
            assert!(
                same,
                "P3: {hour}: a tag for {} bytes, {} are stored\n{}",
                cert.bytes,
                stored.len(),
                self.explain()
            );
        }
    }

    /// All hours so far are certified and identical.
    pub fn is_whole(&self, hours: &[&str]) -> bool {
        let tags = self.tags();
        hours.iter().all(|h| {
            let source = self.source.get(*h).cloned().unwrap_or_default();
            let stored = self.file(&format!("/store/log_data/{NAME}_{h}")).unwrap_or_default();
            tags.contains_key(*h) && stored == source
        })
    }

    /// Turns until all `hours` are whole; fails when that takes more than ten simulated minutes.
    pub fn settle(&mut self, hours: &[&str]) {
        for _ in 0..1200 {
            if self.is_whole(hours) {
                return;
            }
            self.round(500);
        }
        panic!("no progress in ten minutes: {hours:?} are not whole\n{}", self.explain());
    }

    /// What happened, for a failing test.
    pub fn explain(&self) -> String {
        let mut out = String::new();
        for (i, m) in self.machines.iter().enumerate() {
            let log = m.sim.log();
            let tail = log.len().saturating_sub(30);
            let _ = writeln!(out, "machine {i} ({} restarts):\n  {}", m.restarts, log[tail..].join("\n  "));
            for (p, n) in m.sim.paths() {
                let _ = writeln!(out, "  {} {n}", p.display());
            }
        }
        let tail = self.messages.len().saturating_sub(20);
        out + &self.messages[tail..].join("\n")
    }
}
