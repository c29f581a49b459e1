//! The relay's core: from its spool to the next receiver, without threads.
//!
//! Packs go in the spool's order, several at a time; one that is refused delays no other (its segment stays until it
//! is done or held). What it certifies is nothing: it passes packs on as they came, with its own entry in the route.
//! `aside` keeps packs that the next receiver denies or refuses for good, so that they are in the way of no other.
//! The gate is locked for moments only: whoever sends to this relay waits for it, and must not wait for a queue or a disk.
//! With several addresses [`bound`] keeps an hour at the one that acknowledged a pack of it.

mod aside;
pub mod bound;

use crate::config::{RelayConfig, SenderConfig};
use crate::disk::{self, Disk};
use crate::metrics;
use crate::receiver::gate::Gate;
use crate::receiver::lock;
use crate::sender::{Fail, Next, Outcome, Queue};
use crate::spool::{Reader, Shelf, Spool};
use aside::Wary;
use bound::{Bound, hour_of};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

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
    let gate = Mutex::new(Gate::relay(spool, name).with_headers_up_to(conf.receiver.max_header));
    let queue = Queue::new(&conf.sender, seed).holding_denied();
    let bound = Bound::open(disk, state_dir, queue.route(), report).map_err(say)?;
    let relay = Relay::open(disk, state_dir, &conf.sender, &gate, quarantine, (queue, bound)).map_err(say)?;
    Ok((gate.into_inner().unwrap_or_else(PoisonError::into_inner), relay, waiting))
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
    /// Hosts whose packs are denied.
    wary: BTreeMap<String, Wary>,
    /// Names of senders whose held packs have still to come back, and the files of the first one.
    names: VecDeque<String>,
    files: Vec<(String, String)>,
    /// Held packs that are in the spool again, until they are durable there.
    back: Vec<(u64, String, String)>,
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
        gate: &Mutex<Gate>,
        quarantine: Shelf,
        (queue, bound): (Queue, Bound),
    ) -> disk::Result<Self> {
        let held = Shelf::open(disk, &state_dir.join("held"), conf.held_per_name, conf.held_total)?;
        let mut me = Self {
            queue,
            bound,
            reader: lock(gate).spool.reader(),
            held,
            held_after_ms: conf.held_after_ms,
            look_at_held_ms: 0,
            wary: BTreeMap::new(),
            names: VecDeque::new(),
            files: Vec::new(),
            back: Vec::new(),
            quarantine,
            bases: BTreeMap::new(),
            cursor: 0,
            sent: 0,
            alarms: Vec::new(),
        };
        me.put_all_back(gate)?;
        Ok(me)
    }

    /// Takes up packs that have become durable.
    pub fn fill(&mut self, gate: &Mutex<Gate>) {
        // Packs that the next receiver puts off must not keep others from being looked at.
        let room = WINDOW_BOUND.saturating_sub(self.queue.len()).saturating_sub(self.parked());
        let want = WINDOW.saturating_sub(self.queue.fresh()).min(room);
        let want = want.min(WINDOW_ALL.saturating_sub(self.queue.weighed()));
        let durable = {
            let gate = lock(gate);
            for _ in 0..want {
                let Some((seq, base)) = gate.spool.next_waiting(self.cursor) else { break };
                self.queue.push(seq);
                self.bases.insert(seq, base);
                self.cursor = seq.saturating_add(1);
            }
            gate.spool.durable()
        };
        self.came_back(durable);
    }

    /// Reads the next pack to send into `frame`; its number.
    pub fn next_job(
        &mut self,
        now_ms: u64,
        gate: &Mutex<Gate>,
        frame: &mut Vec<u8>,
    ) -> disk::Result<Option<u64>> {
        loop {
            let Some(seq) = self.queue.next(now_ms) else { return Ok(None) };
            let base = self.bases.get(&seq).copied().unwrap_or(seq);
            match self.reader.fetch(seq, base, frame) {
                Ok(Some(_)) => {
                    if self.parks(seq, frame) || self.belongs_elsewhere(seq, frame) {
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
            let (pack, kept) = {
                let mut gate = lock(gate);
                let pack = gate.spooled(seq);
                let kept = gate.spool.set_aside_damage(seq, base, &mut self.quarantine)?;
                if let Some((key, generation, id)) = &pack {
                    gate.lost(key, *generation, *id);
                }
                (pack, kept)
            };
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
        gate: &Mutex<Gate>,
    ) -> disk::Result<()> {
        if *outcome == Outcome::Sent
            && let Err(e) = self.bind_hour(seq, frame)
        {
            // It is sent again, and its hour bound then.
            self.queue.put_off(seq, now_ms);
            return Err(e);
        }
        let denied = matches!(outcome, Outcome::TempFail { how: Fail::Denied, .. });
        let shut = denied && self.beware(seq, frame, now_ms);
        let next = match self.queue.report(seq, outcome, now_ms) {
            Next::Again if shut => Next::Hold,
            next => next,
        };
        match next {
            Next::Done => {
                self.sent = self.sent.saturating_add(1);
                metrics::SENT_PACKS.inc();
                metrics::SENT_WIRE_BYTES.add(frame.len() as u64);
                self.trust(frame, now_ms);
                self.finish(seq, gate)
            }
            Next::Again => Ok(()),
            Next::Hold if self.hold(seq, frame, outcome)? => self.finish(seq, gate),
            Next::Hold => {
                // No room: it stays in the spool and is tried again.
                self.queue.push(seq);
                Ok(())
            }
        }
    }

    fn finish(&mut self, seq: u64, gate: &Mutex<Gate>) -> disk::Result<()> {
        self.queue.remove(seq);
        self.bases.remove(&seq);
        lock(gate).spool.mark_done(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::pack::{self, Encoder, HourKey, Meta, Seal, peek};
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
        let start = || {
            let opened = open(&disk, Path::new("/state"), &conf, "r".into(), 1, &mut |why| panic!("{why}"));
            let (gate, relay, _) = opened.unwrap();
            (Mutex::new(gate), relay)
        };
        let (mut gate, mut relay) = start();
        let (begun, fresh) = ("web1_2026112205", "web1_2026112206");
        for frame in (1..=3).flat_map(|id| [frame_of(begun, id), frame_of(fresh, id)]) {
            lock(&gate).spool.append(&[&frame]).unwrap();
        }
        lock(&gate).spool.sync().unwrap();
        let mut frame = Vec::new();
        relay.fill(&gate);
        let seq = relay.next_job(0, &gate, &mut frame).unwrap().unwrap();
        relay.report(seq, &frame, &Outcome::Sent, 0, &gate).unwrap();
        let down = Outcome::TempFail { reason: String::new(), how: Fail::NoConnection };
        for restart in [false, true] {
            if restart {
                // The rest of the hour that was begun waits, and nothing of it was sent by this run.
                (gate, relay) = start();
                relay.fill(&gate);
            }
            let mut now = 0;
            let mut went = std::collections::BTreeSet::new();
            for _ in 0..60 {
                now += 10_000;
                let Some(seq) = relay.next_job(now, &gate, &mut frame).unwrap() else { break };
                let to = relay.queue.sent_to(seq).unwrap();
                let hour = hour_of(&frame).unwrap().0.to_string();
                // The first address is dead.
                let outcome = if to == 0 { &down } else { &Outcome::Sent };
                relay.report(seq, &frame, outcome, now, &gate).unwrap();
                if relay.queue.route().used() == 1 {
                    went.insert((hour, to));
                }
            }
            went.remove(&(fresh.to_owned(), 0));
            let wanted = if restart { vec![(begun, 0)] } else { vec![(begun, 0), (fresh, 1)] };
            let wanted: Vec<_> = wanted.into_iter().map(|(h, to)| (h.to_owned(), to)).collect();
            assert!(went.iter().filter(|w| w.0 == begun).all(|w| w.1 == 0), "{went:?}");
            assert!(wanted.iter().all(|w| went.contains(w)), "{went:?}");
            lock(&gate).spool.save_marks().unwrap();
        }
    }

    #[test]
    fn packs_that_are_put_off_keep_no_other_from_being_sent() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let open = open(&disk, Path::new("/state"), &conf(), "relay".into(), 1, &mut |why| panic!("{why}"));
        let (gate, mut relay, _) = open.unwrap();
        let gate = Mutex::new(gate);
        let wanted = WINDOW as u64 * 3;
        for _ in 0..wanted {
            lock(&gate).spool.append(&[b"frame"]).unwrap();
        }
        lock(&gate).spool.sync().unwrap();
        let busy = Outcome::TempFail { reason: "busy".into(), how: Fail::Answered };
        let (mut seen, mut frame) = (std::collections::BTreeSet::new(), Vec::new());
        for now in 0..wanted * 2 {
            relay.fill(&gate);
            let Some(seq) = relay.next_job(now, &gate, &mut frame).unwrap() else { break };
            seen.insert(seq);
            relay.report(seq, &frame, &busy, now, &gate).unwrap();
        }
        assert_eq!(seen.len() as u64, wanted);
    }

    /// The story: it counted as under way until the next start.
    #[test]
    fn a_pack_that_cannot_be_read_for_a_moment_is_sent_later() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let open = open(&disk, Path::new("/state"), &conf(), "relay".into(), 1, &mut |why| panic!("{why}"));
        let (gate, mut relay, _) = open.unwrap();
        let gate = Mutex::new(gate);
        lock(&gate).spool.append(&[b"frame"]).unwrap();
        lock(&gate).spool.sync().unwrap();
        relay.fill(&gate);
        let (here, away) = (Path::new("/state/spool"), Path::new("/state/away"));
        let mut frame = Vec::new();
        disk.rename(here, away).unwrap();
        assert!(relay.next_job(0, &gate, &mut frame).is_err());
        disk.rename(away, here).unwrap();
        assert!(relay.next_job(60_000, &gate, &mut frame).unwrap().is_some());
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
        let (gate, mut relay, _) = opened.unwrap();
        let gate = Mutex::new(gate);
        let put = |gate: &Mutex<Gate>, hour: &str, id| {
            lock(gate).spool.append(&[&frame_of(hour, id)]).unwrap();
            lock(gate).spool.sync().unwrap();
        };
        let denied = Outcome::TempFail { reason: "denied".into(), how: Fail::Denied };
        let (mut now, mut frame) = (0, Vec::new());
        let (mut taken, mut tries) = (Vec::new(), 0);
        // Attempts until nothing is ready for a minute; those of web1 are denied while `shut`.
        let mut run = |relay: &mut Relay, gate: &Mutex<Gate>, minutes: u64, shut: bool| {
            for _ in 0..minutes * 60 {
                now += 1_000;
                lock(gate).spool.sync().unwrap();
                relay.fill(gate);
                relay.tidy(now, gate).unwrap();
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
            put(&gate, "web1_2026112205", id);
        }
        put(&gate, "web2_2026112205", 1);
        assert_eq!(run(&mut relay, &gate, 9, true).0, ["web2_2026112205"]);
        assert_eq!((lock(&gate).spool.waiting(), relay.held.list("web1").unwrap().len()), (2, 0));
        run(&mut relay, &gate, 2, true);
        assert_eq!((lock(&gate).spool.waiting(), relay.held.list("web1").unwrap().len()), (0, 2));
        assert_eq!(relay.alarms.len(), 1, "{:?}", relay.alarms);
        // From now on one attempt is enough, and of all that is held one is tried in ten minutes.
        for id in 3..=9 {
            put(&gate, "web1_2026112205", id);
        }
        assert!(run(&mut relay, &gate, 2, true).1 <= 7);
        assert_eq!((lock(&gate).spool.waiting(), relay.held.list("web1").unwrap().len()), (0, 9));
        let (_, tries) = run(&mut relay, &gate, 60, true);
        assert!((5..=7).contains(&tries), "{tries}");
        assert_eq!((lock(&gate).spool.waiting(), relay.held.list("web1").unwrap().len()), (0, 9));
        assert_eq!(relay.alarms.len(), 1, "{:?}", relay.alarms);
        // The key is right: the next one that is tried takes the others along.
        let (went, _) = run(&mut relay, &gate, 11, false);
        assert_eq!((went.len(), lock(&gate).spool.waiting(), relay.held.bytes()), (9, 0, 0));
        assert!(relay.wary.is_empty());
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
        let (gate, mut relay, _) = opened.unwrap();
        let gate = Mutex::new(gate);
        for id in 1..=4 {
            lock(&gate).spool.append(&[&frame_of("web1_2026112205", id)]).unwrap();
        }
        lock(&gate).spool.sync().unwrap();
        let denied = Outcome::TempFail { reason: "denied".into(), how: Fail::Denied };
        let (mut tries, mut frame) = (0, Vec::new());
        for now in (0..3_600).map(|n| n * 1_000) {
            lock(&gate).spool.sync().unwrap();
            relay.fill(&gate);
            relay.tidy(now, &gate).unwrap();
            while let Some(seq) = relay.next_job(now, &gate, &mut frame).unwrap() {
                tries += 1;
                relay.report(seq, &frame, &denied, now, &gate).unwrap();
                relay.fill(&gate);
            }
        }
        assert_eq!(lock(&gate).spool.waiting() + relay.held.list("web1").unwrap().len() as u64, 4);
        assert!(tries < 200, "{tries}");
    }

    /// The story: each of some ten thousand packs that were denied cost six connections, and whoever sent to the relay waited for
    /// each of its looks at them. A host that is denied has many streams, and others go on.
    #[test]
    fn however_many_packs_are_denied_few_are_tried_and_they_delay_nobody() {
        const PACKS: u64 = 3_000;
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let conf = conf();
        let opened = open(&disk, Path::new("/state"), &conf, "r".into(), 1, &mut |why| panic!("{why}"));
        let (gate, mut relay, _) = opened.unwrap();
        let gate = Mutex::new(gate);
        let denied = Outcome::TempFail { reason: "denied".into(), how: Fail::Denied };
        let (mut tries, mut taken, mut most) = (0, 0, 0);
        let mut frame = Vec::new();
        for second in 0..3_600 {
            let now = second * 1_000;
            if second % 2 == 0 && second < 2 * PACKS {
                lock(&gate)
                    .spool
                    .append(&[&frame_of(&format!("bad+s{}_2026112205", second % 40), second / 2 + 1)])
                    .unwrap();
            }
            if second % 60 == 0 {
                lock(&gate).spool.append(&[&frame_of("good_2026112205", second / 60 + 1)]).unwrap();
            }
            lock(&gate).spool.sync().unwrap();
            let mut turn = || {
                relay.fill(&gate);
                relay.tidy(now, &gate).unwrap();
            };
            turn();
            most = most.max(relay.queue.weighed());
            while let Some(seq) = relay.next_job(now, &gate, &mut frame).unwrap() {
                let bad = pack::peek(&frame).unwrap().key.name.starts_with("bad");
                tries += u64::from(bad);
                taken += u64::from(!bad);
                relay.report(seq, &frame, if bad { &denied } else { &Outcome::Sent }, now, &gate).unwrap();
            }
        }
        assert_eq!(taken, 60);
        assert!(tries < 700 && most < 500, "{tries} attempts, {most} in the queue");
        let waits = lock(&gate).spool.waiting();
        assert!(waits < 30, "{waits} are in the spool still");
        // The key is there: all of them, and once each.
        let mut came = std::collections::BTreeSet::new();
        for second in 3_600..6_000 {
            lock(&gate).spool.sync().unwrap();
            relay.fill(&gate);
            relay.tidy(second * 1_000, &gate).unwrap();
            while let Some(seq) = relay.next_job(second * 1_000, &gate, &mut frame).unwrap() {
                came.insert(pack::peek(&frame).unwrap().label());
                relay.report(seq, &frame, &Outcome::Sent, second * 1_000, &gate).unwrap();
            }
        }
        assert_eq!((came.len(), lock(&gate).spool.waiting(), relay.held.bytes()), (1_800, 0, 0));
        assert!(relay.wary.is_empty());
    }

    /// What comes back is durable in the spool before its file goes, and its file is gone before it is sent.
    #[test]
    fn held_packs_come_back_without_a_sync_of_their_own() {
        let (disk, sim) = Disk::sim(1);
        sim.set_free_bytes(1 << 40);
        let opened = open(&disk, Path::new("/state"), &conf(), "r".into(), 1, &mut |why| panic!("{why}"));
        let (gate, mut relay, _) = opened.unwrap();
        let gate = Mutex::new(gate);
        for id in 1..=200 {
            assert!(
                relay
                    .held
                    .put("web1", &format!("2026112205.0.{id}"), &frame_of("web1_2026112205", id))
                    .unwrap()
            );
        }
        relay.tidy(1, &gate).unwrap();
        let late = 700_000;
        relay.tidy(late, &gate).unwrap();
        relay.fill(&gate);
        let (held, waiting) = (relay.held.list("web1").unwrap().len(), lock(&gate).spool.waiting());
        assert!(held == 200 && (1..200).contains(&waiting), "{held} {waiting}");
        assert_eq!(relay.next_job(late, &gate, &mut Vec::new()).unwrap(), None);
        lock(&gate).spool.sync().unwrap();
        relay.fill(&gate);
        assert_eq!(relay.held.list("web1").unwrap().len() as u64, 200 - waiting);
        assert!(relay.next_job(late, &gate, &mut Vec::new()).unwrap().is_some());
    }
}
