//! The relay's core: from its spool to the next receiver, without threads.
//!
//! Packs go in the spool's order, several at a time; one that is refused delays no other (its segment stays until it
//! is done or held). Packs that the next receiver denies go aside like those that it refuses for good, and when one of a
//! sender's has, its others follow at once: they must not fill the spool of everybody. What it certifies is nothing: it passes packs on as they came, with its own entry in the route.
//! With several addresses [`bound`] keeps an hour at the one that acknowledged a pack of it.

pub mod bound;

use crate::config::{RelayConfig, SenderConfig};
use crate::disk::{self, Disk};
use crate::metrics;
use crate::pack::{peek, split_frame};
use crate::receiver::gate::Gate;
use crate::sender::{Fail, Next, Outcome, Queue};
use crate::spool::{AppendError, Reader, Shelf, Spool};
use bound::{Bound, hour_of};
use std::collections::BTreeMap;
use std::path::Path;

/// Packs that are looked at together.
const WINDOW: usize = 256;
/// The same with those that were put off.
const WINDOW_ALL: usize = 1 << 16;
/// The same with those that wait for an address that is not in use.
const WINDOW_BOUND: usize = 1 << 20;

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
    let queue = Queue::new(&conf.sender, seed).holding_denied();
    let bound = Bound::open(disk, state_dir, queue.route(), report).map_err(say)?;
    let relay =
        Relay::open(disk, state_dir, &conf.sender, &mut gate, quarantine, (queue, bound)).map_err(say)?;
    Ok((gate, relay, waiting))
}

/// See the module's header.
pub struct Relay {
    /// What is to be sent.
    pub queue: Queue,
    bound: Bound,
    reader: Reader,
    held: Shelf,
    held_after_ms: u64,
    look_at_held_ms: u64,
    /// Senders whose packs are denied, with the held one that was tried last.
    shut: BTreeMap<String, String>,
    /// Held packs of theirs that are tried, by number.
    probes: BTreeMap<u64, String>,
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
        (queue, bound): (Queue, Bound),
    ) -> disk::Result<Self> {
        let held = Shelf::open(disk, &state_dir.join("held"), conf.held_per_name, conf.held_total)?;
        let mut me = Self {
            queue,
            bound,
            reader: gate.spool.reader(),
            held,
            held_after_ms: conf.held_after_ms,
            look_at_held_ms: 0,
            shut: BTreeMap::new(),
            probes: BTreeMap::new(),
            quarantine,
            bases: BTreeMap::new(),
            cursor: 0,
            sent: 0,
            alarms: Vec::new(),
        };
        me.put_back(gate, true)?;
        Ok(me)
    }

    /// Packs that were held aside get another chance: what was wrong may have been the line, or a receiver's version. They take
    /// no more than half of the spool. Of a sender whose packs are denied one is tried, each time the next one.
    fn put_back(&mut self, gate: &mut Gate, tell: bool) -> disk::Result<()> {
        let names: Vec<String> = self.held.names().map(str::to_owned).collect();
        self.shut.retain(|name, _| names.contains(name));
        for name in names {
            let mut files = self.held.list(&name)?;
            let shut = self.shut.get_mut(&name);
            let probes = shut.is_some();
            if let Some(tried) = shut {
                let next = files.iter().filter(|f| *f > tried).min().or_else(|| files.iter().min()).cloned();
                files = next.clone().into_iter().collect();
                *tried = next.unwrap_or_default();
            }
            for file in files {
                let Some(frame) = self.held.get(&name, &file)? else {
                    if tell {
                        let path = self.held.dir().join(&name).join(&file);
                        self.alarms.push(format!(
                            "{}: damaged, it cannot be sent; its directory and name tell host and hour; send the hour \
                             again from its source, then remove this file",
                            path.display()
                        ));
                    }
                    continue;
                };
                if gate.spool.half_full() {
                    continue;
                }
                let loc = match gate.spool.append(&[&frame]) {
                    Ok(loc) => loc,
                    Err(AppendError::Full(_)) => continue,
                    Err(AppendError::Disk(e)) => return Err(e),
                };
                gate.spool.sync()?;
                if probes {
                    self.probes.insert(loc.seq, name.clone());
                }
                self.held.remove(&name, &file)?;
            }
        }
        Ok(())
    }

    /// Takes up packs that have become durable.
    pub fn fill(&mut self, gate: &Gate) {
        // Packs that the next receiver puts off must not keep others from being looked at.
        let mut fresh = self.queue.fresh();
        while fresh < WINDOW && self.queue.weighed() < WINDOW_ALL && self.queue.len() < WINDOW_BOUND {
            fresh = fresh.saturating_add(1);
            let Some((seq, base)) = gate.spool.next_waiting(self.cursor) else { return };
            self.queue.push(seq);
            self.bases.insert(seq, base);
            self.cursor = seq.saturating_add(1);
        }
    }

    /// Reads the next pack to send into `frame`; its number.
    pub fn next_job(
        &mut self,
        now_ms: u64,
        gate: &mut Gate,
        frame: &mut Vec<u8>,
    ) -> disk::Result<Option<u64>> {
        if self.look_at_held_ms == 0 {
            self.look_at_held_ms = now_ms.saturating_add(self.held_after_ms);
        } else if now_ms >= self.look_at_held_ms {
            self.look_at_held_ms = now_ms.saturating_add(self.held_after_ms);
            self.put_back(gate, false)?;
        }
        loop {
            let Some(seq) = self.queue.next(now_ms) else { return Ok(None) };
            let base = self.bases.get(&seq).copied().unwrap_or(seq);
            match self.reader.fetch(seq, base, frame) {
                Ok(Some(_)) => {
                    if self.belongs_elsewhere(seq, frame) {
                        continue;
                    }
                    return Ok(Some(seq));
                }
                Ok(None) => {}
                Err(e) => {
                    // Its turn comes again.
                    self.queue.put_off(seq, now_ms);
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
            self.queue.drop_unsent(seq);
            self.bases.remove(&seq);
        }
    }

    /// Only its frame tells whose hour a pack is of. If that is bound to another address, the pack's turn comes there.
    fn belongs_elsewhere(&mut self, seq: u64, frame: &[u8]) -> bool {
        if !self.bound.is_on() || self.queue.bound(seq).is_some() {
            return false;
        }
        let lane = hour_of(frame).and_then(|hour| self.bound.lane(&hour, self.queue.route()));
        self.queue.bind(seq, lane);
        let elsewhere = lane.is_some() && lane != self.queue.sent_to(seq);
        if elsewhere {
            self.queue.put_back(seq);
        }
        elsewhere
    }

    /// A pack was acknowledged: its hour belongs there, if it did not belong anywhere. What is known by now of its hour the
    /// queue learns before it weighs the answer.
    fn bind_hour(&mut self, seq: u64, frame: &[u8]) -> disk::Result<()> {
        let (Some(to), true) = (self.queue.sent_to(seq), self.bound.is_on()) else { return Ok(()) };
        let Some(hour) = hour_of(frame) else { return Ok(()) };
        match self.bound.lane(&hour, self.queue.route()) {
            None => {
                let addr = self.queue.route().addr(to).to_owned();
                self.bound.bind(&hour, &addr)
            }
            lane => {
                self.queue.bind(seq, lane);
                self.bound.flush()
            }
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
        if *outcome == Outcome::Sent
            && let Err(e) = self.bind_hour(seq, frame)
        {
            // It is sent again, and its hour bound then.
            self.queue.put_off(seq, now_ms);
            return Err(e);
        }
        let denied = matches!(outcome, Outcome::TempFail { how: Fail::Denied, .. });
        let next = match self.queue.report(seq, outcome, now_ms) {
            Next::Again if denied && self.is_shut(frame) => Next::Hold,
            next => next,
        };
        match next {
            Next::Done => {
                self.sent = self.sent.saturating_add(1);
                metrics::SENT_PACKS.inc();
                metrics::SENT_WIRE_BYTES.add(frame.len() as u64);
                if let Some(name) = self.probes.remove(&seq) {
                    // What was wrong is mended: the others follow.
                    self.shut.remove(&name);
                    self.look_at_held_ms = now_ms.max(1);
                }
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
                let dir = self.held.dir().join(&m.key.name);
                if kept && denied {
                    if !self.shut.contains_key(&m.key.name) {
                        self.alarms.push(format!(
                            "{}: the next receiver denies packs of {}: they go to {} and delay no other; one of them is tried \
                             now and then, and all follow when it is taken; see logd-security(7)",
                            m.label(),
                            m.key.name,
                            dir.display()
                        ));
                        self.shut.insert(m.key.name, file);
                    }
                    return self.finish(seq, gate);
                }
                if kept {
                    self.alarms.push(format!(
                        "{}: the next receiver refuses it for good; kept in {}; it is tried again later",
                        m.label(),
                        dir.join(&file).display()
                    ));
                    return self.finish(seq, gate);
                }
                if denied {
                    self.alarms.push(format!(
                        "{}: no room for more packs of {} (held_per_name, held_total): they stay in the spool",
                        dir.display(),
                        m.key.name
                    ));
                }
                // No room: it stays in the spool and is tried again.
                self.queue.push(seq);
                Ok(())
            }
        }
    }

    /// Does the next receiver deny what this pack's sender sends?
    fn is_shut(&self, frame: &[u8]) -> bool {
        !self.shut.is_empty() && peek(frame).is_some_and(|m| self.shut.contains_key(&m.key.name))
    }

    fn finish(&mut self, seq: u64, gate: &mut Gate) -> disk::Result<()> {
        self.probes.remove(&seq);
        self.queue.remove(seq);
        self.bases.remove(&seq);
        gate.spool.mark_done(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::pack::{Encoder, HourKey, Meta, Seal};
    use crate::roles::follower::{Job, Load};
    use crate::sender::Fail;

    fn conf() -> RelayConfig {
        conf_to("127.0.0.1:2")
    }

    fn conf_to(addrs: &str) -> RelayConfig {
        let text = format!(
            "[collector]\nlisten = 127.0.0.1:1\nsend_to = {addrs}\nallow = any\nfailover_after = 2\nsenders = 4\n"
        );
        Config::parse("test", text.as_bytes()).relay(true).unwrap().0
    }

    fn frame_of(hour: &str, id: u64) -> Vec<u8> {
        let raw = format!("{hour} {id}\n");
        let meta = Meta {
            key: HourKey::parse(hour).unwrap(),
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
        let mut frame = Vec::new();
        let load = Load::Raw(Box::new(meta), raw.into_bytes());
        Job { number: 1, load }.frame(&mut Encoder::new(6), None, "now", &mut frame);
        frame
    }

    #[test]
    fn an_hour_stays_with_the_address_that_acknowledged_a_pack_of_it() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let conf = conf_to("a:1, b:1");
        let start =
            || open(&disk, Path::new("/state"), &conf, "r".into(), 1, &mut |why| panic!("{why}")).unwrap();
        let (mut gate, mut relay, _) = start();
        let (begun, fresh) = ("web1_2026112205", "web1_2026112206");
        for frame in (1..=3).flat_map(|id| [frame_of(begun, id), frame_of(fresh, id)]) {
            gate.spool.append(&[&frame]).unwrap();
        }
        gate.spool.sync().unwrap();
        let mut frame = Vec::new();
        relay.fill(&gate);
        let seq = relay.next_job(0, &mut gate, &mut frame).unwrap().unwrap();
        relay.report(seq, &frame, &Outcome::Sent, 0, &mut gate).unwrap();
        let down = Outcome::TempFail { reason: String::new(), how: Fail::NoConnection };
        for restart in [false, true] {
            if restart {
                // The rest of the hour that was begun waits, and nothing of it was sent by this run.
                (gate, relay, _) = start();
                relay.fill(&gate);
            }
            let mut now = 0;
            let mut went = std::collections::BTreeSet::new();
            for _ in 0..60 {
                now += 10_000;
                let Some(seq) = relay.next_job(now, &mut gate, &mut frame).unwrap() else { break };
                let to = relay.queue.sent_to(seq).unwrap();
                let hour = hour_of(&frame).unwrap().0.to_string();
                // The first address is dead.
                let outcome = if to == 0 { &down } else { &Outcome::Sent };
                relay.report(seq, &frame, outcome, now, &mut gate).unwrap();
                if relay.queue.route().used() == 1 {
                    went.insert((hour, to));
                }
            }
            went.remove(&(fresh.to_owned(), 0));
            let wanted = if restart { vec![(begun, 0)] } else { vec![(begun, 0), (fresh, 1)] };
            let wanted: Vec<_> = wanted.into_iter().map(|(h, to)| (h.to_owned(), to)).collect();
            assert!(went.iter().filter(|w| w.0 == begun).all(|w| w.1 == 0), "{went:?}");
            assert!(wanted.iter().all(|w| went.contains(w)), "{went:?}");
            gate.spool.save_marks().unwrap();
        }
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
        let busy = Outcome::TempFail { reason: "busy".into(), how: Fail::Answered };
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

    /// The story: unsigned packs of some hosts filled the spool of a relay before a store that requires keys, and all others
    /// had to wait.
    #[test]
    fn packs_of_a_sender_that_is_denied_go_aside_and_come_back_when_one_is_taken() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let conf = conf();
        let opened = open(&disk, Path::new("/state"), &conf, "r".into(), 1, &mut |why| panic!("{why}"));
        let (mut gate, mut relay, _) = opened.unwrap();
        let put = |gate: &mut Gate, hour: &str, id| {
            gate.spool.append(&[&frame_of(hour, id)]).unwrap();
            gate.spool.sync().unwrap();
        };
        let denied = Outcome::TempFail { reason: "denied".into(), how: Fail::Denied };
        let (mut now, mut frame) = (0, Vec::new());
        let (mut taken, mut tries) = (Vec::new(), 0);
        // Attempts until nothing is ready for a minute; those of web1 are denied while `shut`.
        let mut run = |relay: &mut Relay, gate: &mut Gate, minutes: u64, shut: bool| {
            for _ in 0..minutes * 60 {
                now += 1_000;
                relay.fill(gate);
                while let Some(seq) = relay.next_job(now, gate, &mut frame).unwrap() {
                    let key = peek(&frame).unwrap().key;
                    let no = shut && key.name == "web1";
                    tries += 1;
                    if !no {
                        taken.push(key.to_string());
                    }
                    relay.report(seq, &frame, if no { &denied } else { &Outcome::Sent }, now, gate).unwrap();
                    relay.fill(gate);
                }
            }
            (std::mem::take(&mut taken), std::mem::take(&mut tries))
        };
        for id in 1..=2 {
            put(&mut gate, "web1_2026112205", id);
        }
        put(&mut gate, "web2_2026112205", 1);
        assert_eq!(run(&mut relay, &mut gate, 9, true).0, ["web2_2026112205"]);
        assert_eq!((gate.spool.waiting(), relay.held.list("web1").unwrap().len()), (2, 0));
        run(&mut relay, &mut gate, 2, true);
        assert_eq!((gate.spool.waiting(), relay.held.list("web1").unwrap().len()), (0, 2));
        assert_eq!(relay.alarms.len(), 1, "{:?}", relay.alarms);
        // From now on one attempt is enough, and of all that is held one is tried in ten minutes.
        for id in 3..=9 {
            put(&mut gate, "web1_2026112205", id);
        }
        assert_eq!(run(&mut relay, &mut gate, 1, true).1, 7);
        assert_eq!((gate.spool.waiting(), relay.held.list("web1").unwrap().len()), (0, 9));
        let (_, tries) = run(&mut relay, &mut gate, 60, true);
        assert!((5..=7).contains(&tries), "{tries}");
        assert_eq!((gate.spool.waiting(), relay.held.list("web1").unwrap().len()), (0, 9));
        assert_eq!(relay.alarms.len(), 1, "{:?}", relay.alarms);
        // The key is right: the next one that is tried takes the others along.
        let (went, _) = run(&mut relay, &mut gate, 11, false);
        assert_eq!((went.len(), gate.spool.waiting(), relay.held.bytes()), (9, 0, 0));
        assert!(relay.shut.is_empty() && relay.probes.is_empty());
    }

    /// Nothing is lost when there is no room aside, and none of it is asked for all the time.
    #[test]
    fn denied_packs_for_which_there_is_no_room_aside_stay_in_the_spool() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let frame = frame_of("web1_2026112205", 1);
        let mut conf = conf();
        conf.sender.held_per_name = frame.len() as u64 + 100;
        let opened = open(&disk, Path::new("/state"), &conf, "r".into(), 1, &mut |why| panic!("{why}"));
        let (mut gate, mut relay, _) = opened.unwrap();
        for id in 1..=4 {
            gate.spool.append(&[&frame_of("web1_2026112205", id)]).unwrap();
        }
        gate.spool.sync().unwrap();
        let denied = Outcome::TempFail { reason: "denied".into(), how: Fail::Denied };
        let (mut tries, mut frame) = (0, Vec::new());
        for now in (0..3_600).map(|n| n * 1_000) {
            relay.fill(&gate);
            while let Some(seq) = relay.next_job(now, &mut gate, &mut frame).unwrap() {
                tries += 1;
                relay.report(seq, &frame, &denied, now, &mut gate).unwrap();
                relay.fill(&gate);
            }
        }
        assert_eq!(gate.spool.waiting() + relay.held.list("web1").unwrap().len() as u64, 4);
        assert!(tries < 200, "{tries}");
    }
}
