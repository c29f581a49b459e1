//! Connections of the simulated pipeline, and what may happen to frames and answers on them.
//!
//! A sender has a few connections; each carries one frame at a time and waits for its answer. The receiver's session
//! lives as long as the connection, so that bytes of an earlier frame stay in it, as on a real one.

use super::{RELAY, STORE, Stream, World, dead};
use logd::config::ReceiverConfig;
use logd::disk::sim::Rng;
use logd::pack::split_frame;
use logd::receiver::gate::Answer;
use logd::receiver::{Budget, Session, lock};
use logd::roles::follower::Job;
use logd::sender::{Fail, Outcome};
use logd::spool::SyncJob;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Connections of one sender.
const CONNECTIONS: usize = 2;
/// A frame that was overtaken arrives within so many rounds.
const ADRIFT_ROUNDS: u64 = 12;

/// Hour and copy → address → packs.
pub type Taken = BTreeMap<(String, u64), BTreeMap<usize, BTreeSet<u64>>>;

/// What a sender has to be told of.
pub(super) enum Cargo {
    Job(Job),
    Seq(u64),
}

enum Awaits {
    /// The receiver's spool has to be durable beyond this number.
    Durable(u64),
    Answer(Outcome),
}

struct Flight {
    cargo: Cargo,
    frame: Vec<u8>,
    awaits: Awaits,
}

#[derive(Default)]
struct Conn {
    session: Option<Session>,
    flight: Option<Flight>,
    /// An answer that came too late lies unread in the connection.
    stale: bool,
}

/// See the module's header. Rates are percent of the frames.
pub struct Wire {
    /// Answers are lost on their way, although the packs were taken.
    pub lost_answers: u64,
    /// Frames never arrive, so that others overtake them.
    pub lost_packs: u64,
    /// The connection breaks within the frame.
    pub cut: u64,
    /// Frames arrive twice.
    pub doubled: u64,
    /// Frames arrive long after their sender gave up.
    pub adrift: u64,
    /// A bit of the body is another on arrival, or all of it is that of the frame before.
    pub garbled: u64,
    /// The collector writes its footprint just after a pack came.
    pub footprints: u64,
    /// Nobody can reach the relay.
    pub cut_off: bool,
    /// The relay cannot reach the collector.
    pub far_cut_off: bool,
    /// Addresses of the relay, by their place in `send_to`, that nobody can reach.
    pub shut: Vec<usize>,
    /// By hour and copy: which packs each address of the relay has taken, whether or not anybody heard of it.
    pub taken: Taken,
    rng: Rng,
    budget: Arc<Budget>,
    confs: [Arc<ReceiverConfig>; 2],
    /// By sender: the streams, then the relay.
    conns: Vec<Vec<Conn>>,
    /// Everything that the relay ever sent, if somebody wants it ([`World::replay`]).
    pub record: bool,
    carried: Vec<Vec<u8>>,
    /// The body that was sent last by anyone.
    body: Vec<u8>,
    /// Frames that are on their way alone: rounds to go, receiver, bytes.
    drifting: Vec<(u64, usize, Vec<u8>)>,
    commits: [Option<SyncJob>; 2],
}

impl Wire {
    pub(super) fn new(seed: u64, streams: usize, relay: &ReceiverConfig, store: &ReceiverConfig) -> Self {
        let conns = || (0..CONNECTIONS).map(|_| Conn::default()).collect();
        Self {
            lost_answers: 0,
            lost_packs: 0,
            cut: 0,
            doubled: 0,
            adrift: 0,
            garbled: 0,
            footprints: 0,
            cut_off: false,
            far_cut_off: false,
            shut: Vec::new(),
            taken: Taken::new(),
            rng: Rng::new(seed ^ 0x77),
            budget: Budget::new(1 << 20),
            confs: [Arc::new(relay.clone()), Arc::new(store.clone())],
            conns: (0..=streams).map(|_| conns()).collect(),
            record: false,
            carried: Vec::new(),
            body: Vec::new(),
            drifting: Vec::new(),
            commits: [None, None],
        }
    }

    pub(super) fn heal(&mut self) {
        (self.lost_answers, self.lost_packs, self.cut, self.doubled) = (0, 0, 0, 0);
        (self.adrift, self.garbled) = (0, 0);
        (self.cut_off, self.far_cut_off) = (false, false);
        self.shut.clear();
    }

    pub(super) fn is_idle(&self, sender: usize) -> bool {
        self.conns[sender].iter().any(|c| c.flight.is_none())
    }

    /// A machine was restarted: what it sent nobody waits for, what was sent to it is not answered.
    pub(super) fn restarted(&mut self, machine: usize, streams: &[Stream]) {
        let relay = streams.len();
        for (sender, conns) in self.conns.iter_mut().enumerate() {
            let (at, to) = if sender == relay { (RELAY, STORE) } else { (streams[sender].machine, RELAY) };
            for c in conns {
                if at == machine {
                    *c = Conn::default();
                } else if to == machine {
                    (c.session, c.stale) = (None, false);
                    if let Some(f) = &mut c.flight {
                        f.awaits = Awaits::Answer(lost("closed the connection without an answer"));
                    }
                }
            }
        }
        if let Some(c) = self.commits.get_mut(machine.wrapping_sub(RELAY)) {
            *c = None;
        }
    }
}

fn lost(reason: &str) -> Outcome {
    Outcome::TempFail { reason: reason.into(), how: Fail::NoAnswer }
}

fn down() -> Outcome {
    Outcome::TempFail { reason: "cannot connect".into(), how: Fail::NoConnection }
}

impl World {
    /// A sender puts a frame on one of its idle connections.
    pub(super) fn send(&mut self, sender: usize, cargo: Cargo, frame: Vec<u8>) {
        let to = if sender == self.streams.len() { STORE } else { RELAY };
        let at = self.wire.conns[sender].iter().position(|c| c.flight.is_none()).unwrap();
        let mut conn = std::mem::take(&mut self.wire.conns[sender][at]);
        if to == STORE && self.wire.record {
            self.wire.carried.push(frame.clone());
        }
        let addr = match &cargo {
            Cargo::Job(job) => self.streams[sender].node.as_ref().and_then(|f| f.queue.sent_to(job.number)),
            Cargo::Seq(_) => None,
        };
        let (awaits, session) = if addr.is_some_and(|a| self.wire.shut.contains(&a)) {
            (Awaits::Answer(down()), None)
        } else {
            self.carry(to, &mut conn, &frame)
        };
        let arrived = matches!(awaits, Awaits::Durable(_) | Awaits::Answer(Outcome::Sent));
        let meta = split_frame(&frame).and_then(|(h, _)| h.meta("unknown").ok());
        if let (Some(addr), Some(m), true) = (addr, meta, arrived) {
            let packs = self.wire.taken.entry((m.key.to_string(), m.generation)).or_default();
            packs.entry(addr).or_default().insert(m.id);
        }
        conn.session = session;
        conn.flight = Some(Flight { cargo, frame, awaits });
        self.wire.conns[sender][at] = conn;
    }

    fn is_up(&self, to: usize) -> bool {
        match to {
            RELAY => self.relay.is_some() && !self.wire.cut_off,
            _ => self.collector.is_some() && !self.wire.far_cut_off,
        }
    }

    /// One frame's way over a connection; what its sender waits for, and the connection if it still stands.
    fn carry(&mut self, to: usize, conn: &mut Conn, frame: &[u8]) -> (Awaits, Option<Session>) {
        if !self.is_up(to) {
            conn.stale = false;
            return (Awaits::Answer(down()), None);
        }
        let (mut session, kept) = match conn.session.take() {
            Some(s) => (s, true),
            None => (self.session(to), false),
        };
        let broken = |why| (Awaits::Answer(lost(why)), None);
        let dice = |w: &mut Self, percent: u64| w.wire.rng.below(100) < percent;
        if dice(self, self.wire.lost_packs) {
            return broken("no answer in time");
        }
        if dice(self, self.wire.cut) {
            let n = self.wire.rng.below(frame.len() as u64) as usize;
            let _ = self.take_in(to, &mut session, &frame[..n]);
            return broken("the connection is broken");
        }
        if dice(self, self.wire.adrift) {
            let rounds = 1 + self.wire.rng.below(ADRIFT_ROUNDS);
            self.wire.drifting.push((rounds, to, frame.to_vec()));
            return broken("no answer in time");
        }
        if dice(self, self.wire.doubled) {
            let mut other = self.session(to);
            let _ = self.take_in(to, &mut other, frame);
        }
        let garbled = dice(self, self.wire.garbled).then(|| self.garble(frame));
        if let Some((_, body)) = split_frame(frame) {
            self.wire.body = body.to_vec();
        }
        let awaits = self.take_in(to, &mut session, garbled.as_deref().unwrap_or(frame));
        if kept && std::mem::take(&mut conn.stale) {
            // The sender reads what lies there for its answer.
            conn.stale = true;
            return (Awaits::Answer(Outcome::Sent), Some(session));
        }
        (awaits, Some(session))
    }

    /// What a broken machine between the two makes of a frame.
    fn garble(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut out = frame.to_vec();
        if self.wire.rng.below(4) == 0
            && let Some((mut header, body)) = split_frame(frame)
            && body != self.wire.body
        {
            header.pack_len = self.wire.body.len() as u64;
            return [header.encode(), self.wire.body.clone()].concat();
        }
        let body = frame.len().saturating_sub(4);
        let at = (frame.len() - body.min(8)) + self.wire.rng.below(body.min(8) as u64) as usize;
        out[at] ^= 1 << self.wire.rng.below(8);
        out
    }

    fn session(&self, to: usize) -> Session {
        let conf = &self.wire.confs[to - RELAY];
        Session::new(conf, &self.wire.budget, [127, 0, 0, 1].into(), to == STORE)
    }

    /// Bytes reach a receiver. What becomes of the pack that they complete.
    fn take_in(&mut self, to: usize, session: &mut Session, bytes: &[u8]) -> Awaits {
        let mut rest = bytes;
        let arrived = loop {
            match session.feed(rest) {
                Ok((_, Some(a))) => break a,
                Ok((0, None)) => return Awaits::Answer(lost("no answer in time")),
                Ok((n, None)) => rest = &rest[n..],
                Err(r) => return Awaits::Answer(Outcome::PermFail(r.reason().to_owned())),
            }
        };
        let gate = match to {
            RELAY => self.relay.as_ref().map(|(g, _)| g),
            _ => self.collector.as_ref().map(|(g, _)| g),
        };
        let Some(gate) = gate else { return Awaits::Answer(down()) };
        let mut gate = lock(gate);
        let answer = gate.offer(arrived, self.now.mono_ms(), "2026-11-22 05:00:00.000");
        if let Some(m) = gate.memory.as_ref().filter(|_| self.wire.rng.below(100) < self.wire.footprints) {
            // Another thread writes it once a minute, at any moment.
            let _ = m.footprint.save(&self.machines[STORE].disk, Path::new("/state"), "now");
        }
        self.messages.append(&mut gate.alarms);
        Awaits::Answer(match answer {
            Ok(Answer::Now) => Outcome::Sent,
            Ok(Answer::When(seq)) => return Awaits::Durable(seq),
            Ok(Answer::Refuse(r)) => lost(r.reason()),
            Err(e) => lost(&e.to_string()),
        })
    }

    /// Frames on their way alone come nearer; those that arrive are taken in, and nobody hears the answer.
    pub(super) fn drift(&mut self) {
        for d in &mut self.wire.drifting {
            d.0 -= 1;
        }
        let due = |d: &mut (u64, usize, Vec<u8>)| d.0 == 0;
        let arrived: Vec<_> = self.wire.drifting.extract_if(.., due).collect();
        for (_, to, frame) in arrived {
            if self.is_up(to) {
                let mut session = self.session(to);
                let _ = self.take_in(to, &mut session, &frame);
            }
        }
    }

    /// All that the relay ever sent comes once more, in its order.
    pub fn replay(&mut self) {
        for frame in std::mem::take(&mut self.wire.carried) {
            if self.is_up(STORE) {
                let mut session = self.session(STORE);
                let _ = self.take_in(STORE, &mut session, &frame);
            }
        }
    }

    /// A frame by somebody who is no sender of ours; what the relay answers.
    pub fn stranger(&mut self, frame: &[u8]) -> Option<Outcome> {
        let mut session = self.session(RELAY);
        match self.take_in(RELAY, &mut session, frame) {
            Awaits::Answer(o) => Some(o),
            Awaits::Durable(_) => None,
        }
    }

    /// A receiver's group commit begins: what arrives from now on belongs to the next one.
    pub(super) fn begin_commit(&mut self, at: usize) {
        let gate = match at {
            RELAY => self.relay.as_ref().map(|(g, _)| g),
            _ => self.collector.as_ref().map(|(g, _)| g),
        };
        if let (Some(gate), None) = (gate, &self.wire.commits[at - RELAY]) {
            self.wire.commits[at - RELAY] = lock(gate).spool.begin_sync();
        }
    }

    /// And ends. A sync that fails ends the process.
    pub(super) fn commit(&mut self, at: usize) {
        self.begin_commit(at);
        let Some(job) = self.wire.commits[at - RELAY].take() else { return };
        let ran = job.run();
        let gate = match at {
            RELAY => self.relay.as_ref().map(|(g, _)| g),
            _ => self.collector.as_ref().map(|(g, _)| g),
        };
        match (ran, gate) {
            (Ok(()), Some(gate)) => lock(gate).spool.end_sync(&job),
            (Err(_), _) => {
                // The process ends there and then.
                self.crash(at);
                match at {
                    RELAY => self.relay = None,
                    _ => self.collector = None,
                }
            }
            _ => {}
        }
    }

    /// Answers of a receiver reach the senders, as far as they are ready.
    pub(super) fn answer(&mut self, from: usize) {
        let relay = self.streams.len();
        let durable = match from {
            RELAY => self.relay.as_ref().map(|(g, _)| lock(g).spool.durable()),
            _ => self.collector.as_ref().map(|(g, _)| lock(g).spool.durable()),
        };
        let senders = if from == STORE { relay..relay + 1 } else { 0..relay };
        for sender in senders {
            for at in 0..CONNECTIONS {
                let conn = &mut self.wire.conns[sender][at];
                let Some(flight) = conn.flight.take() else { continue };
                let mut outcome = match flight.awaits {
                    Awaits::Durable(seq) if durable.is_none_or(|d| d <= seq) => {
                        conn.flight = Some(flight);
                        continue;
                    }
                    Awaits::Durable(_) => Outcome::Sent,
                    Awaits::Answer(ref o) => o.clone(),
                };
                if outcome == Outcome::Sent && self.wire.rng.below(100) < self.wire.lost_answers {
                    // It comes when nobody waits for it any more.
                    outcome = lost("no answer in time");
                    conn.stale = true;
                }
                if !outcome.keeps_connection() {
                    (conn.session, conn.stale) = (None, false);
                }
                self.tell(sender, flight.cargo, &flight.frame, &outcome);
            }
        }
    }

    fn tell(&mut self, sender: usize, cargo: Cargo, frame: &[u8], outcome: &Outcome) {
        match cargo {
            Cargo::Job(job) => self.with_follower(sender, |f, _| f.report(job, frame, outcome)),
            Cargo::Seq(seq) => {
                let Some((gate, mut relay)) = self.relay.take() else { return };
                let meta = split_frame(frame).and_then(|(h, _)| h.meta("unknown").ok());
                if let Some(m) = meta.filter(|_| *outcome == Outcome::Sent) {
                    let acked = &mut self.seen.get_mut().unwrap().acked;
                    let highest = acked.entry((m.key.to_string(), m.generation)).or_default();
                    *highest = m.id.max(*highest);
                }
                let now = self.now.mono_ms();
                let result = relay.report(seq, frame, outcome, now, &gate);
                self.messages.append(&mut relay.alarms);
                match result {
                    Err(e) if dead(&self.machines[RELAY], &e) => {}
                    _ => self.relay = Some((gate, relay)),
                }
            }
        }
    }
}
