//! The relay's core: from its spool to the next receiver, without threads.
//!
//! Packs go in the spool's order, several at a time; one that is refused delays no other (its segment stays until it
//! is done or held). What it certifies is nothing: it passes packs on as they came, with its own entry in the route.

use crate::config::{RelayConfig, SenderConfig};
use crate::disk::{self, Disk};
use crate::pack::split_frame;
use crate::receiver::gate::Gate;
use crate::sender::{Next, Outcome, Queue};
use crate::spool::{AppendError, Reader, Shelf, Spool};
use std::collections::BTreeMap;
use std::path::Path;

/// Packs that are looked at together.
const WINDOW: usize = 256;
/// The same with those that were put off.
const WINDOW_ALL: usize = 1 << 16;

/// Opens a relay's state directory: its gate, its sending half, and how many packs wait in the spool.
pub fn open(
    disk: &Disk,
    state_dir: &Path,
    conf: &RelayConfig,
    name: String,
    seed: u64,
    report: &mut dyn FnMut(String),
) -> Result<(Gate, Relay, u64), String> {
    let say = |e: disk::Error| e.to_string();
    let (per_name, total) = (conf.sender.held_per_name, conf.sender.held_total);
    let mut quarantine = Shelf::open(disk, &state_dir.join("quarantine"), per_name, total).map_err(say)?;
    let dir = state_dir.join("spool");
    let spool = Spool::open(disk, &dir, &mut quarantine, &conf.spool, report, &mut |_, _| {}).map_err(say)?;
    let waiting = spool.waiting();
    let mut gate = Gate::relay(spool, name);
    let relay = Relay::open(disk, state_dir, &conf.sender, &mut gate, quarantine, seed).map_err(say)?;
    Ok((gate, relay, waiting))
}

/// See the module's header.
pub struct Relay {
    /// What is to be sent.
    pub queue: Queue,
    reader: Reader,
    held: Shelf,
    quarantine: Shelf,
    bases: BTreeMap<u64, u64>,
    cursor: u64,
    /// Packs passed on since the start.
    pub sent: u64,
    /// Sentences for the log.
    pub alarms: Vec<String>,
}

impl Relay {
    /// Begins with everything that the spool holds; packs that were held aside get another chance.
    fn open(
        disk: &Disk,
        state_dir: &Path,
        conf: &SenderConfig,
        gate: &mut Gate,
        quarantine: Shelf,
        seed: u64,
    ) -> disk::Result<Self> {
        let mut held = Shelf::open(disk, &state_dir.join("held"), conf.held_per_name, conf.held_total)?;
        let mut alarms = Vec::new();
        let names: Vec<String> = held.names().map(str::to_owned).collect();
        for name in names {
            for file in held.list(&name)? {
                let Some(frame) = held.get(&name, &file)? else {
                    let path = held.dir().join(&name).join(&file);
                    alarms.push(format!(
                        "{}: damaged, it cannot be sent; its directory and name tell host and hour; send the hour again \
                         from its source, then remove this file",
                        path.display()
                    ));
                    continue;
                };
                match gate.spool.append(&[&frame]) {
                    Ok(_) => gate.spool.sync()?,
                    Err(AppendError::Full(_)) => continue,
                    Err(AppendError::Disk(e)) => return Err(e),
                }
                held.remove(&name, &file)?;
            }
        }
        Ok(Self {
            queue: Queue::new(conf, seed),
            reader: gate.spool.reader(),
            held,
            quarantine,
            bases: BTreeMap::new(),
            cursor: 0,
            sent: 0,
            alarms,
        })
    }

    /// Takes up packs that have become durable.
    pub fn fill(&mut self, gate: &Gate) {
        // Packs that the next receiver puts off must not keep others from being looked at.
        let mut fresh = self.queue.fresh();
        while fresh < WINDOW && self.queue.len() < WINDOW_ALL {
            fresh += 1;
            let Some((seq, base)) = gate.spool.next_waiting(self.cursor) else { return };
            self.queue.push(seq);
            self.bases.insert(seq, base);
            self.cursor = seq + 1;
        }
    }

    /// Reads the next pack to send into `frame`; its number.
    pub fn next_job(
        &mut self,
        now_ms: u64,
        gate: &mut Gate,
        frame: &mut Vec<u8>,
    ) -> disk::Result<Option<u64>> {
        loop {
            let Some(seq) = self.queue.next(now_ms) else { return Ok(None) };
            let base = self.bases.get(&seq).copied().unwrap_or(seq);
            match self.reader.fetch(seq, base, frame) {
                Ok(Some(_)) => return Ok(Some(seq)),
                Ok(None) => {}
                Err(e) => {
                    // Its turn comes again.
                    let outcome = Outcome::TempFail { reason: e.to_string(), link: false };
                    self.queue.report(seq, &outcome, now_ms);
                    return Err(e);
                }
            }
            let pack = gate.spooled(seq);
            let kept = gate.spool.set_aside_damage(seq, base, &mut self.quarantine)?;
            if let Some((key, generation, id)) = &pack {
                gate.lost(key, *generation, *id);
            }
            let what = pack.map_or_else(|| format!("pack {seq}"), |(key, _, id)| format!("{key} pack {id}"));
            self.alarms.push(format!(
                "{what}: its record {seq} in {} was damaged after it was acknowledged; {kept}; the collector's `logd \
                 status` names its hour, as `gaps` or `open, overdue`; send that again from its source",
                self.reader.path(base).display()
            ));
            self.queue.report(seq, &Outcome::Sent, 0);
            self.bases.remove(&seq);
        }
    }

    /// Takes what became of a pack.
    pub fn report(
        &mut self,
        seq: u64,
        frame: &[u8],
        outcome: &Outcome,
        now_ms: u64,
        gate: &mut Gate,
    ) -> disk::Result<()> {
        match self.queue.report(seq, outcome, now_ms) {
            Next::Done => {
                self.sent += 1;
                self.finish(seq, gate)
            }
            Next::Again => Ok(()),
            Next::Hold => {
                let meta = split_frame(frame).and_then(|(h, _)| h.meta("unknown").ok());
                let Some(m) = meta else { return self.finish(seq, gate) };
                // Two packs under one number may both be refused: the CRC tells them apart.
                let crc = m.seal.map_or_else(|| crc32fast::hash(frame), |s| s.crc32);
                let file = format!("{}.{}.{}.{crc:08x}", m.key.hour, m.generation, m.id);
                let kept = self.held.put(&m.key.name, &file, frame).inspect_err(|_| self.queue.push(seq))?;
                if kept {
                    self.alarms.push(format!(
                        "{}: the next receiver refuses it for good; kept in {}; it is tried again after a restart",
                        m.label(),
                        self.held.dir().join(&m.key.name).join(&file).display()
                    ));
                    return self.finish(seq, gate);
                }
                // No room: it stays in the spool and is tried again.
                self.queue.push(seq);
                Ok(())
            }
        }
    }

    fn finish(&mut self, seq: u64, gate: &mut Gate) -> disk::Result<()> {
        self.queue.report(seq, &Outcome::Sent, 0);
        self.bases.remove(&seq);
        gate.spool.mark_done(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn conf() -> RelayConfig {
        let text = b"[collector]\nlisten = 127.0.0.1:1\nsend_to = 127.0.0.1:2\nallow = any\n";
        Config::parse("test", text).relay(true).unwrap().0
    }

    #[test]
    fn packs_that_are_put_off_keep_no_other_from_being_sent() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let open = open(&disk, Path::new("/state"), &conf(), "relay".into(), 1, &mut |why| panic!("{why}"));
        let (mut gate, mut relay, _) = open.unwrap();
        let wanted = WINDOW as u64 * 3;
        for _ in 0..wanted {
            gate.spool.append(&[b"frame"]).unwrap();
        }
        gate.spool.sync().unwrap();
        let busy = Outcome::TempFail { reason: "busy".into(), link: false };
        let (mut seen, mut frame) = (std::collections::BTreeSet::new(), Vec::new());
        for now in 0..wanted * 2 {
            relay.fill(&gate);
            let Some(seq) = relay.next_job(now, &mut gate, &mut frame).unwrap() else { break };
            seen.insert(seq);
            relay.report(seq, &frame, &busy, now, &mut gate).unwrap();
        }
        assert_eq!(seen.len() as u64, wanted);
    }

    /// The story: it counted as under way until the next start.
    #[test]
    fn a_pack_that_cannot_be_read_for_a_moment_is_sent_later() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let open = open(&disk, Path::new("/state"), &conf(), "relay".into(), 1, &mut |why| panic!("{why}"));
        let (mut gate, mut relay, _) = open.unwrap();
        gate.spool.append(&[b"frame"]).unwrap();
        gate.spool.sync().unwrap();
        relay.fill(&gate);
        let (here, away) = (Path::new("/state/spool"), Path::new("/state/away"));
        let mut frame = Vec::new();
        disk.rename(here, away).unwrap();
        assert!(relay.next_job(0, &mut gate, &mut frame).is_err());
        disk.rename(away, here).unwrap();
        assert!(relay.next_job(60_000, &mut gate, &mut frame).unwrap().is_some());
    }

    #[test]
    fn a_held_pack_that_is_damaged_is_named_at_each_start() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let conf = conf();
        let held = Path::new("/state/held");
        let mut shelf = Shelf::open(&disk, held, 1 << 20, 1 << 20).unwrap();
        for id in [3, 4] {
            assert!(shelf.put("web1", &format!("2026112205.0.{id}"), b"frame").unwrap());
        }
        assert!(sim.flip(&held.join("web1/2026112205.0.3"), 33, 1));
        for waiting in [1, 1] {
            let open = open(&disk, Path::new("/state"), &conf, "relay".into(), 1, &mut |why| panic!("{why}"));
            let (mut gate, relay, _) = open.unwrap();
            assert_eq!((gate.spool.waiting(), relay.alarms.len()), (waiting, 1));
            assert!(relay.alarms[0].contains("held/web1/2026112205.0.3: damaged"), "{:?}", relay.alarms);
            gate.spool.close().unwrap();
        }
    }
}
