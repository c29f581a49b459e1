//! The simulator: followers, a relay and a collector on simulated machines, driven by one thread.
//!
//! Nothing here knows how a node works inside. A round appends to log files, turns every node once and carries
//! frames and answers between them ([`wire`]). Any disk call of any machine can be made to crash or fail; a node whose
//! disk says that the process must end is dropped, its machine restarted with the chosen outcome, and the node opened
//! again from its disk. After every round [`World::judge`] ([`oracle`]) checks P2 and P3 against the source.

mod oracle;
mod wire;

use logd::clock::{Clock, Hour, SimClock, Zone};
use logd::config::{Config, Peer, RelayConfig, StoreConfig, TailConfig};
use logd::disk::sim::Rng;
use logd::disk::{self, Disk, Outcome as Loss, SimDisk};
use logd::output::hours::VerifyDone;
use logd::pack::Encoder;
use logd::receiver::gate::Gate;
use logd::receiver::lock;
use logd::roles::collector::{self, Collector};
use logd::roles::follower::{Follower, Load, Setup};
use logd::roles::relay::{self, Relay};
use logd::tail::Identity;
use logd::tail::pattern::Pattern;
use oracle::Seen;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use wire::Wire;

/// 2026-11-22 05:00:00 UTC.
pub const START_MS: i64 = 1_795_323_600_000;
const NAME: &str = "web1";
/// Index of the relay's machine.
pub const RELAY: usize = 1;
/// Index of the collector's machine.
pub const STORE: usize = 2;
/// A node whose disk works starts after at most this many attempts that failed without a planned fault.
const START_ATTEMPTS: u32 = 4;

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
    failed_starts: u32,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let (disk, sim) = Disk::sim(seed);
        sim.set_free_bytes(1 << 40);
        Self { disk, sim, restarts: 0, failed_starts: 0 }
    }
}

/// One followed log: a follower with a name, a state directory and a pattern of its own.
pub struct Stream {
    /// Its name on the wire.
    pub name: &'static str,
    /// Index of its machine.
    pub machine: usize,
    state: PathBuf,
    prefix: &'static str,
    node: Option<Follower>,
}

impl Stream {
    fn new(name: &'static str, machine: usize, state: &str, prefix: &'static str) -> Self {
        Self { name, machine, state: state.into(), prefix, node: None }
    }

    /// The file of an hour.
    pub fn path(&self, hour: &str) -> PathBuf {
        PathBuf::from(format!("{}{hour}", self.prefix))
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
    pub zone: Zone,
    confs: Confs,
    pub machines: Vec<Machine>,
    pub streams: Vec<Stream>,
    relay: Option<(Mutex<Gate>, Relay)>,
    collector: Option<(Mutex<Gate>, Collector)>,
    /// Hours that were read again and wait for their certificate.
    verified: Vec<VerifyDone>,
    encoder: Encoder,
    /// What becomes of unsynced data when a machine crashes.
    pub loss: fn(u32) -> Loss,
    /// Everything that was ever written, by `NAME_HOUR`.
    pub source: BTreeMap<String, Vec<u8>>,
    pub messages: Vec<String>,
    /// Connections and what may happen to them.
    pub wire: Wire,
    /// Percent of the turns in which a finished verification is left lying, so that packs come meanwhile.
    pub slow_verify: u64,
    rng: Rng,
    /// Where a new state directory begins.
    pub begin: Begin,
    /// The follower takes over from an original: hour, first pack number, byte.
    pub resume: Option<(Hour, u64, u64)>,
    /// The next receiver is an original.
    pub peer: Peer,
    /// May the source be replaced or truncated by the scenario? Then P2 is judged by the scenario itself.
    pub judged: bool,
    /// State that exists once was damaged. Then data beyond what a damaged proof still tells may be anything, if the
    /// collector calls the hour damaged.
    pub spoiled: bool,
    /// Say little when something is wrong.
    pub quiet: bool,
    seen: Mutex<Seen>,
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

/// A list of hosts is read from the real disk, once per process.
fn hosts_file(names: &[&str]) -> PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sim-hosts");
        std::fs::write(&path, names.join("\n")).unwrap();
        path
    })
    .clone()
}

/// A fatal error means that the process has ended; anything else is a pause.
fn dead(m: &Machine, e: &disk::Error) -> bool {
    e.fatal() || m.sim.crashed() || m.disk.failure().is_some()
}

/// A follower alone, of the first section of `ini`, which begins now with an empty state.
pub fn follower(disk: &Disk, clock: &Clock, zone: &Zone, ini: &str, served: bool) -> Follower {
    let conf = Config::parse("t", ini.as_bytes()).tail(true).unwrap().0;
    let pattern = logd::tail::streams::sources(&conf).unwrap()[0].pattern.clone();
    let state_dir = Path::new("/state");
    disk.create_dir_all(state_dir, 0o750).unwrap();
    let fresh = logd::tail::begin("h", &pattern, logd::config::Start::Beginning, &[], false, (zone, clock));
    let (resume, once, seed) = (None, false, 1);
    let setup = Setup { disk, clock, zone, state_dir, served, fresh, resume, once, seed };
    Follower::open(&setup, &conf).unwrap()
}

impl World {
    /// One follower, a relay and a collector.
    pub fn new(seed: u64) -> Self {
        let one = vec![Stream::new(NAME, 0, "/state", "/log/access.log.")];
        Self::with(seed, one, Zone::named("UTC").unwrap(), START_MS)
    }

    /// Three hosts, the first with two streams, in a zone whose clock is put back or forward this day.
    pub fn fleet(seed: u64, start_ms: i64) -> Self {
        let streams = vec![
            Stream::new(NAME, 0, "/state", "/log/access.log."),
            Stream::new("web1+error", 0, "/state.error", "/log/error.log."),
            Stream::new("web2", 3, "/state", "/log/access.log."),
            Stream::new("web3", 4, "/state", "/log/access.log."),
        ];
        let names: Vec<&str> = streams.iter().map(|s| s.name).collect();
        let hosts = hosts_file(&names);
        let mut w = Self::with(seed, streams, Zone::named("CET-1CEST,M3.5.0,M10.5.0/3").unwrap(), start_ms);
        w.confs.store.hosts_file = Some(hosts);
        w.slow_verify = 30;
        w.wire.footprints = 10;
        w
    }

    fn with(seed: u64, streams: Vec<Stream>, zone: Zone, start_ms: i64) -> Self {
        let (now, clock) = Clock::sim(start_ms);
        let machines = streams.iter().map(|s| s.machine).max().unwrap_or(0).max(STORE) + 1;
        let machines: Vec<Machine> = (0..machines as u64).map(|i| Machine::new(seed + i)).collect();
        for s in &streams {
            machines[s.machine].sim.put(Path::new("/log/.keep"), b"");
            machines[s.machine].sim.set_mtime_ms(start_ms);
        }
        let confs = confs();
        let wire = Wire::new(seed, streams.len(), &confs.relay.receiver, &confs.store.receiver);
        Self {
            clock,
            now,
            zone,
            confs,
            machines,
            streams,
            relay: None,
            collector: None,
            verified: Vec::new(),
            encoder: Encoder::new(6),
            loss: |_| Loss::LoseUnsynced,
            source: BTreeMap::new(),
            messages: Vec::new(),
            wire,
            slow_verify: 0,
            rng: Rng::new(seed),
            begin: Begin::Oldest,
            resume: None,
            peer: Peer::Logd,
            judged: true,
            spoiled: false,
            quiet: false,
            seen: Mutex::default(),
        }
    }

    /// The followers know the relay by two addresses, and leave one soon.
    pub fn second_address(&mut self) {
        self.confs.tail.sender.send_to.push("relay:2".into());
        self.confs.tail.sender.failover_after = 3;
    }

    /// Another program writes to the first stream's file of an hour.
    pub fn write(&mut self, hour: &str, text: &str) {
        self.write_to(0, hour, text);
    }

    /// Another program writes to a stream's file of an hour.
    pub fn write_to(&mut self, stream: usize, hour: &str, text: &str) {
        let s = &self.streams[stream];
        let sim = &self.machines[s.machine].sim;
        sim.set_mtime_ms(self.now.now_ms());
        sim.append(&s.path(hour), text.as_bytes());
        self.source.entry(format!("{}_{hour}", s.name)).or_default().extend_from_slice(text.as_bytes());
    }

    /// Wall time.
    pub fn now_ms(&self) -> i64 {
        self.now.now_ms()
    }

    /// The hour by the wall clock.
    pub fn hour(&self) -> Hour {
        self.zone.hour_at(self.now_ms())
    }

    /// Kills the nodes of a machine, with the machine.
    pub fn crash(&mut self, machine: usize) {
        self.machines[machine].sim.crash();
    }

    /// Somebody deletes a node's state directory and kills it.
    pub fn lose_state(&mut self, machine: usize) {
        self.machines[machine].sim.remove_tree(Path::new("/state"));
        self.crash(machine);
    }

    /// The collector's host is a new one: nothing that it ever had is there.
    pub fn lose_store(&mut self) {
        self.lose_state(STORE);
        self.machines[STORE].sim.remove_tree(Path::new("/store"));
        *self.seen.lock().unwrap() = Seen::default();
    }

    /// Somebody deletes the state directory of a stream, so that all of it is sent again.
    pub fn resend(&mut self, stream: usize) {
        let s = &self.streams[stream];
        self.machines[s.machine].sim.remove_tree(&s.state);
        self.crash(s.machine);
    }

    /// One turn of everything; the clock goes on by `ms`.
    pub fn round(&mut self, ms: u64) {
        self.clock.advance(ms);
        for machine in 0..self.machines.len() {
            self.revive(machine);
        }
        self.drift();
        self.turn_streams();
        self.turn_relay();
        self.turn_collector();
        self.judge();
    }

    /// Restarts a machine that is down, and opens its nodes if they are not running. A fault during the start is a
    /// crash like any other.
    fn revive(&mut self, machine: usize) {
        let m = &mut self.machines[machine];
        if m.sim.crashed() || m.disk.failure().is_some() {
            match machine {
                RELAY => self.relay = None,
                STORE => {
                    self.collector = None;
                    self.verified.clear();
                }
                _ => {}
            }
            for s in self.streams.iter_mut().filter(|s| s.machine == machine) {
                s.node = None;
            }
            if !m.sim.crashed() {
                m.sim.crash();
            }
            m.sim.restart((self.loss)(m.restarts));
            m.restarts += 1;
            self.wire.restarted(machine, &self.streams);
        }
        let planned = self.machines[machine].sim.planned();
        let result = match machine {
            RELAY if self.relay.is_none() => self.open_relay(),
            STORE if self.collector.is_none() => self.open_collector(),
            _ => (0..self.streams.len()).try_for_each(|i| {
                let s = &self.streams[i];
                if s.machine == machine && s.node.is_none() { self.open_follower(i) } else { Ok(()) }
            }),
        };
        let m = &mut self.machines[machine];
        let Err(e) = result else {
            m.failed_starts = 0;
            return;
        };
        // Dozens of faults one after the other may each meet a start.
        m.failed_starts += u32::from(m.sim.planned() == planned);
        self.messages.push(format!("machine {machine}: a node did not start: {e}"));
        assert!(
            m.sim.crashed() || m.disk.failure().is_some() || m.failed_starts < START_ATTEMPTS,
            "machine {machine}: its node does not start although its disk works: {e}\n{}",
            self.explain()
        );
    }

    fn open_follower(&mut self, stream: usize) -> Result<(), String> {
        let s = &self.streams[stream];
        let disk = self.machines[s.machine].disk.clone();
        let served = disk.stat(&s.state.join("role.json")).map_err(|e| e.to_string())?.is_some();
        logd::instance::Instance::open(&disk, &s.state, "tail", Path::new("/t.ini"))
            .map_err(|e| format!("{e:?}"))
            .map(drop)?;
        let mut conf = self.confs.tail.clone();
        conf.sender.peer = self.peer;
        conf.streams[0].log_file = format!("{}<%Y%m%d%H>", s.prefix);
        let pattern = Pattern::parse(&conf.streams[0].log_file)?;
        let existing = pattern.existing(&disk).map_err(|e| e.to_string())?;
        let now = self.now.now_ms();
        let oldest = existing.first().copied().filter(|_| self.begin != Begin::Now);
        let first_hour = oldest.unwrap_or(self.zone.hour_at(now));
        let setup = Setup {
            disk: &disk,
            clock: &self.now,
            zone: &self.zone,
            state_dir: &s.state,
            served,
            fresh: Identity {
                format: 1,
                name: s.name.into(),
                zone: self.zone.name(),
                first_hour,
                copies_until: existing.last().copied(),
                copies_generation: self.now.now_ms().unsigned_abs(),
                from_end: self.begin == Begin::End,
                files: String::new(),
            },
            resume: self.resume.map(|(hour, id, pos)| (hour, id, pos, pattern.path(hour))),
            once: false,
            seed: 7,
        };
        conf.name = Some(s.name.into());
        let mut f = Follower::open(&setup, &conf)?;
        self.messages.append(&mut f.alarms);
        self.streams[stream].node = Some(f);
        Ok(())
    }

    fn open_relay(&mut self) -> Result<(), String> {
        let disk = &self.machines[RELAY].disk;
        let messages = &mut self.messages;
        let (gate, relay, _) =
            relay::open(disk, Path::new("/state"), &self.confs.relay, "relay1".into(), 8, &mut |t| {
                messages.push(t);
            })?;
        self.relay = Some((Mutex::new(gate), relay));
        Ok(())
    }

    fn open_collector(&mut self) -> Result<(), String> {
        let disk = &self.machines[STORE].disk;
        let messages = &mut self.messages;
        let now = self.now.mono_ms();
        let (gate, collector, _) =
            collector::open(disk, Path::new("/state"), &self.confs.store, 64, now, &mut |t| {
                messages.push(t);
            })?;
        self.collector = Some((Mutex::new(gate), collector));
        Ok(())
    }

    /// Each follower looks at its files and hands frames to its connections, until nothing moves any more.
    fn turn_streams(&mut self) {
        for i in 0..self.streams.len() {
            self.with_follower(i, |f, _| f.step());
        }
        while self.send_of_streams() {
            self.commit(RELAY);
            self.answer(RELAY);
        }
        self.commit(RELAY);
        self.answer(RELAY);
    }

    fn send_of_streams(&mut self) -> bool {
        let mut sent = false;
        // What comes in while a sync runs is not covered by it.
        let cover = self.rng.below(self.streams.len() as u64) as usize;
        for i in 0..self.streams.len() {
            while self.wire.is_idle(i) {
                let mut job = None;
                self.with_follower(i, |f, _| {
                    job = f.next_job()?.map(|j| (j, f.wall()));
                    Ok(())
                });
                let Some((mut job, wall)) = job else { break };
                let mut frame = Vec::new();
                job.frame(&mut self.encoder, None, &wall, &mut frame);
                // As a sender's thread does: the lines are given back before anybody knows what becomes of the pack.
                if let Load::Raw(_, raw) = &mut job.load {
                    let (number, raw) = (job.number, std::mem::take(raw));
                    self.with_follower(i, |f, _| {
                        f.packed(number, raw);
                        Ok(())
                    });
                }
                self.send(i, wire::Cargo::Job(job), frame);
                sent = true;
            }
            if i == cover && self.streams.len() > 1 {
                self.begin_commit(RELAY);
            }
        }
        sent
    }

    fn with_follower(&mut self, stream: usize, f: impl FnOnce(&mut Follower, &mut Self) -> disk::Result<()>) {
        let Some(mut node) = self.streams[stream].node.take() else { return };
        let result = f(&mut node, self);
        self.messages.append(&mut node.alarms);
        self.messages.append(&mut node.messages);
        match result {
            Err(e) if dead(&self.machines[self.streams[stream].machine], &e) => {}
            _ => self.streams[stream].node = Some(node),
        }
    }

    fn turn_relay(&mut self) {
        let sender = self.streams.len();
        loop {
            let mut sent = false;
            while self.wire.is_idle(sender) {
                let Some((gate, mut relay)) = self.relay.take() else { return };
                let mut frame = Vec::new();
                let now = self.now.mono_ms();
                relay.fill(&gate);
                let tidied = relay.tidy(now, &gate);
                let result = tidied.and_then(|()| relay.next_job(now, &gate, &mut frame));
                self.messages.append(&mut relay.alarms);
                match result {
                    Err(e) if dead(&self.machines[RELAY], &e) => return,
                    Ok(Some(seq)) => {
                        self.relay = Some((gate, relay));
                        self.send(sender, wire::Cargo::Seq(seq), frame);
                        sent = true;
                        if self.rng.chance(20) {
                            self.begin_commit(STORE);
                        }
                    }
                    _ => {
                        self.relay = Some((gate, relay));
                        break;
                    }
                }
            }
            self.commit(STORE);
            self.answer(STORE);
            if !sent {
                break;
            }
        }
        if let Some((gate, relay)) = self.relay.take() {
            let saved = lock(&gate).spool.save_marks();
            match saved {
                Err(e) if dead(&self.machines[RELAY], &e) => {}
                _ => self.relay = Some((gate, relay)),
            }
        }
    }

    fn turn_collector(&mut self) {
        let Some((gate, mut c)) = self.collector.take() else { return };
        let now = self.now.mono_ms();
        let slow = self.rng.below(100) < self.slow_verify;
        let result = (|| {
            while c.step(&gate, now, 64)? > 0 {}
            if let Some(due) = c.wants_checkpoint(&gate, now) {
                c.checkpoint(due, &gate, now)?;
            }
            for job in c.hours.take_jobs() {
                self.verified.push(job.run(&self.machines[STORE].disk, &mut sha2::Sha256::default()));
            }
            if !slow {
                let secs = self.now.now_secs();
                let filed = self.verified.drain(..).map(|done| c.certify(done, &gate, now, secs));
                filed.fold(Ok(()), Result::and)?;
            }
            c.hours.write_gaps(now)?;
            lock(&gate).spool.save_marks()
        })();
        self.messages.append(&mut c.hours.alarms);
        self.messages.extend(c.messages.drain(..).map(|(_, t)| t));
        match result {
            Err(e) if dead(&self.machines[STORE], &e) => {}
            _ => self.collector = Some((gate, c)),
        }
    }

    /// A follower's log file is replaced, cut or deleted by somebody.
    pub fn replace(&mut self, hour: &str, text: Option<&str>) {
        let path = self.streams[0].path(hour);
        self.machines[0].sim.remove_tree(&path);
        if let Some(text) = text {
            self.machines[0].sim.set_mtime_ms(self.now.now_ms());
            self.machines[0].sim.put(&path, text.as_bytes());
        }
    }

    /// No further fault comes.
    pub fn heal(&mut self) {
        self.wire.heal();
        self.slow_verify = 0;
        for m in &self.machines {
            m.sim.forget_plan();
        }
    }
}
