//! A collector alone: its core on a simulated disk, without sockets, threads or waiting. Frames go in, hour files and
//! certificates come out, and the disk can be changed while it is down.

use logd::config::{Config, StoreConfig};
use logd::disk::{Disk, SimDisk};
use logd::ops::inventory::{Filter, Inventory};
use logd::ops::verify::{self, Verdict};
use logd::pack::HourKey;
use logd::receiver::gate::{Answer, Gate};
use logd::receiver::{Budget, Session, lock};
use logd::roles::collector::{self, Collector};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// Every file below a root, by its path.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Its `save_dir`.
pub const SAVE: &str = "/save";
const STATE: &str = "/state";

fn conf() -> &'static StoreConfig {
    static CONF: OnceLock<StoreConfig> = OnceLock::new();
    CONF.get_or_init(|| {
        let text =
            b"[fcollector]\nlisten = :1\nsave_dir = /save\nallow = any\nmin_free = 0\nsegment_size = 64k\n";
        Config::parse("keeper", text).store(true).unwrap().0
    })
}

/// See the module's header.
pub struct Keeper {
    pub disk: Disk,
    pub sim: SimDisk,
    gate: Mutex<Gate>,
    collector: Collector,
    now_ms: u64,
    /// What it said.
    pub messages: Vec<String>,
}

/// A machine with these files.
pub fn machine(files: &Files) -> (Disk, SimDisk) {
    let (disk, sim) = Disk::sim(1);
    for (path, bytes) in files {
        sim.put(path, bytes);
    }
    (disk, sim)
}

/// All files of a machine.
pub fn files(disk: &Disk, sim: &SimDisk) -> Files {
    sim.paths().into_iter().map(|(p, _)| (p.clone(), disk.read(&p, 1 << 30).unwrap())).collect()
}

/// What `logd verify` finds out about each hour.
pub fn verdicts(disk: &Disk) -> BTreeMap<HourKey, Verdict> {
    let Ok(inv) = Inventory::read(disk, Path::new(SAVE), &Filter::default()) else { return BTreeMap::new() };
    let look = |(k, f)| (HourKey::clone(k), verify::hour(&inv, k, f, &mut 0).unwrap());
    inv.hours.iter().map(look).collect()
}

impl Keeper {
    /// Starts on a machine. It must start, whatever is there (P5).
    pub fn open(disk: Disk, sim: SimDisk) -> Self {
        let mut messages = Vec::new();
        let (gate, collector, _) =
            collector::open(&disk, Path::new(STATE), conf(), 16, 0, &mut |m| messages.push(m)).unwrap();
        Self { disk, sim, gate: Mutex::new(gate), collector, now_ms: 0, messages }
    }

    /// Delivers a frame; true = it is acknowledged.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let mut session = Session::new(
            &Arc::new(conf().receiver.clone()),
            &Budget::new(1 << 24),
            [127, 0, 0, 1].into(),
            true,
        );
        let mut rest = frame;
        let arrived = loop {
            match session.feed(rest) {
                Ok((_, Some(a))) => break a,
                Ok((n, None)) if n > 0 => rest = &rest[n..],
                _ => return false,
            }
        };
        let mut gate = lock(&self.gate);
        let answer = gate.offer(arrived, self.now_ms, "2026-11-22 05:00:00.000").unwrap();
        gate.spool.sync().unwrap();
        self.messages.append(&mut gate.alarms);
        !matches!(answer, Answer::Refuse(_))
    }

    /// Works until nothing is left to do, verification included.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            self.now_ms += 40_000;
            let mut busy = false;
            while self.collector.step(&self.gate, self.now_ms, 64).unwrap() > 0 {
                busy = true;
            }
            if let Some(due) = self.collector.wants_checkpoint(&self.gate, self.now_ms) {
                self.collector.checkpoint(due, &self.gate, self.now_ms).unwrap();
                busy = true;
            }
            for job in self.collector.hours.take_jobs() {
                let done = job.run(&self.disk, &mut sha2::Sha256::default());
                self.collector.certify(done, &self.gate, self.now_ms, 1_795_323_600).unwrap();
                busy = true;
            }
            self.messages.append(&mut self.collector.hours.alarms);
            self.messages.extend(self.collector.messages.drain(..).map(|(_, t)| t));
            if !busy {
                lock(&self.gate).spool.save_marks().unwrap();
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.messages);
    }

    /// A clean stop; what is on its disk.
    pub fn stop(mut self) -> Files {
        self.settle();
        lock(&self.gate).spool.close().unwrap();
        files(&self.disk, &self.sim)
    }
}
