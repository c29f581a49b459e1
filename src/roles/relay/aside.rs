//! What the next receiver does not take: packs that are refused for good, and those of hosts that it denies.
//!
//! Such packs go to `held/` in the state directory, one file each, and come back into the spool later and at each start.
//! A pack that is denied costs a connection, so of a host that is denied one is tried now and then, and the others wait as mere
//! numbers ([`Wary`]). When one of them has been denied for `held_after` the host is *shut*: its packs go aside as they come,
//! for they must not fill the spool of everybody. One that is taken ends all of that.
//!
//! A held file goes when its pack is durable in the spool again, and before the pack is sent. A crash before that leaves both:
//! receivers recognise the second one.

use super::Relay;
use crate::auth::{host_of, key_id};
use crate::disk;
use crate::pack::split_frame;
use crate::receiver::gate::Gate;
use crate::receiver::lock;
use crate::sender::{Fail, Outcome};
use crate::spool::AppendError;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// One of a denied host's packs is tried so often, in ms.
const TRY_MS: u64 = 10_000;
/// Hosts that are known as denied; of others every pack is tried.
const WARY_MAX: usize = 10_000;
/// Held packs that come back, and packs that go aside, in one turn: others must not wait for them.
const BACK_STEP: usize = 64;
const ASIDE_STEP: usize = 16;

/// A host whose packs are denied.
#[derive(Default)]
pub(super) struct Wary {
    /// The key that the last one said it was signed with: what another one has signed may be taken.
    key: String,
    /// Packs that wait, by number.
    parked: BTreeSet<u64>,
    /// When the next one is tried, and which ones are.
    next_ms: u64,
    probes: BTreeSet<u64>,
    /// Its packs go aside. The held one that was tried last: its sender and file.
    shut: Option<(String, String)>,
    /// There was no room for more of its packs.
    no_room: bool,
}

/// Host and key of a pack.
fn origin(frame: &[u8]) -> Option<(String, String)> {
    let (header, _) = split_frame(frame)?;
    let meta = header.meta("unknown").ok()?;
    let key = header.route.first().map_or("", key_id);
    Some((host_of(&meta.key.name).to_owned(), key.to_owned()))
}

impl Relay {
    /// Packs that wait because others of their host are denied.
    pub(super) fn parked(&self) -> usize {
        self.wary.values().map(|w| w.parked.len()).sum()
    }

    /// Is this pack here, whatever its state?
    pub fn has(&self, seq: u64) -> bool {
        self.queue.has(seq) || self.wary.values().any(|w| w.parked.contains(&seq))
    }

    /// A pack that is about to be sent: does it wait because others of its host are denied?
    pub(super) fn parks(&mut self, seq: u64, frame: &[u8]) -> bool {
        if self.wary.is_empty() || self.queue.is_tried(seq) {
            return false;
        }
        let Some((host, key)) = origin(frame) else { return false };
        let Some(wary) = self.wary.get_mut(&host).filter(|w| w.key == key && !w.probes.contains(&seq)) else {
            return false;
        };
        wary.parked.insert(seq);
        self.queue.drop_unsent(seq);
        true
    }

    /// A pack was denied: its host's others are tried now and then only. Do they go aside?
    pub(super) fn beware(&mut self, seq: u64, frame: &[u8], now_ms: u64) -> bool {
        let Some((host, key)) = origin(frame) else { return false };
        if self.wary.len() >= WARY_MAX && !self.wary.contains_key(&host) {
            return false;
        }
        let every = self.every_ms();
        let wary = self.wary.entry(host).or_default();
        (wary.key, wary.next_ms) = (key, now_ms.saturating_add(every));
        wary.probes.remove(&seq);
        wary.shut.is_some()
    }

    fn every_ms(&self) -> u64 {
        TRY_MS.min(self.held_after_ms).max(1)
    }

    /// A pack was taken. If its host was denied, what was wrong is mended: the others follow.
    pub(super) fn trust(&mut self, frame: &[u8], now_ms: u64) {
        if self.wary.is_empty() {
            return;
        }
        let Some((host, key)) = origin(frame) else { return };
        if self.wary.get(&host).is_none_or(|w| w.key != key) {
            return;
        }
        let Some(wary) = self.wary.remove(&host) else { return };
        wary.parked.into_iter().for_each(|seq| self.queue.push(seq));
        if wary.shut.is_some() {
            self.look_at_held_ms = now_ms.max(1);
        }
    }

    /// Keeps a pack aside, durably; false = there is no room.
    pub(super) fn hold(&mut self, seq: u64, frame: &[u8], outcome: &Outcome) -> disk::Result<bool> {
        let denied = matches!(outcome, Outcome::TempFail { how: Fail::Denied, .. });
        let meta = split_frame(frame).and_then(|(h, _)| h.meta("unknown").ok());
        let Some(m) = meta else { return Ok(true) };
        // Two packs under one number may both be refused: the CRC tells them apart.
        let crc = m.seal.map_or_else(|| crc32fast::hash(frame), |s| s.crc32);
        let file = format!("{}.{}.{}.{crc:08x}", m.key.hour, m.generation, m.id);
        let name = &m.key.name;
        let kept = self.held.put(name, &file, frame).inspect_err(|_| self.queue.push(seq))?;
        let dir = self.held.dir().join(name);
        if !denied {
            if kept {
                self.alarms.push(format!(
                    "{}: the next receiver refuses it for good; kept in {}; it is tried again later",
                    m.label(),
                    dir.join(&file).display()
                ));
            }
            return Ok(kept);
        }
        let host = host_of(name);
        let Some(wary) = self.wary.get_mut(host) else { return Ok(kept) };
        if !kept && !wary.no_room {
            self.alarms.push(format!(
                "{}: no room for more packs of {host} (held_per_name, held_total): they stay in the spool; \
                 nothing is lost, but they delay others: see `logd status`",
                dir.display()
            ));
        }
        wary.no_room = !kept;
        if kept && wary.shut.is_none() {
            self.alarms.push(format!(
                "{}: the next receiver denies packs of {host}: they go to {} and delay no other; one of them is tried \
                 now and then, and all follow when it is taken; see logd-security(7)",
                m.label(),
                self.held.dir().display()
            ));
            wary.shut = Some((m.key.name, file));
        }
        Ok(kept)
    }

    /// A turn of what has no hurry: held packs come back, packs of hosts that are denied are tried or go aside. Some of it at a
    /// time.
    pub fn tidy(&mut self, now_ms: u64, gate: &Mutex<Gate>) -> disk::Result<()> {
        if self.look_at_held_ms == 0 {
            self.look_at_held_ms = now_ms.saturating_add(self.held_after_ms);
        } else if now_ms >= self.look_at_held_ms && self.names.is_empty() && self.back.is_empty() {
            self.look_at_held_ms = now_ms.saturating_add(self.held_after_ms);
            self.begin_to_put_back(now_ms, gate)?;
        }
        self.put_back(gate, false)?;
        let every = self.every_ms();
        let mut aside = Vec::new();
        for (host, wary) in &mut self.wary {
            if now_ms >= wary.next_ms
                && let Some(seq) = wary.parked.pop_first()
            {
                (wary.next_ms, wary.no_room) = (now_ms.saturating_add(every), false);
                wary.probes.insert(seq);
                self.queue.push(seq);
            }
            if wary.shut.is_some() && !wary.no_room && aside.len() < ASIDE_STEP {
                let room = ASIDE_STEP.saturating_sub(aside.len());
                aside.extend(wary.parked.iter().take(room).map(|seq| (host.clone(), *seq)));
            }
        }
        let mut frame = Vec::new();
        let denied = Outcome::TempFail { reason: String::new(), how: Fail::Denied };
        for (host, seq) in aside {
            let Some(wary) = self.wary.get_mut(&host).filter(|w| !w.no_room) else { continue };
            let base = self.bases.get(&seq).copied().unwrap_or(seq);
            let found = self.reader.fetch(seq, base, &mut frame)?;
            wary.parked.remove(&seq);
            if found.is_none() {
                // Damaged: it is told of when its turn comes.
                self.queue.push(seq);
            } else if self.hold(seq, &frame, &denied)? {
                self.finish(seq, gate)?;
            } else if let Some(wary) = self.wary.get_mut(&host) {
                wary.parked.insert(seq);
            }
        }
        Ok(())
    }

    /// Held packs get another chance: what was wrong may have been the line, or a receiver's version. Of a host that is shut one
    /// is tried, each time the next one.
    fn begin_to_put_back(&mut self, now_ms: u64, gate: &Mutex<Gate>) -> disk::Result<()> {
        let names: Vec<String> = self.held.names().map(str::to_owned).collect();
        let hosts: BTreeSet<&str> = names.iter().map(|name| host_of(name)).collect();
        let (every, idle_ms) = (self.every_ms(), self.held_after_ms);
        self.wary.retain(|host, w| {
            w.shut = w.shut.take().filter(|_| hosts.contains(host.as_str()));
            let quiet = now_ms > w.next_ms.saturating_add(every).saturating_add(idle_ms);
            w.shut.is_some() || !w.parked.is_empty() || !quiet
        });
        let mut tried = Vec::new();
        for (host, tried_last) in self.wary.iter().filter_map(|(host, w)| Some((host, w.shut.as_ref()?))) {
            if let Some(next) = self.after(&names, host, tried_last)? {
                tried.push((host.clone(), next));
            }
        }
        self.names = names.iter().filter(|n| !self.is_shut(host_of(n))).cloned().collect();
        for (host, (name, file)) in tried {
            let seq = self.bring_back(gate, false, &name, &file)?;
            if let Some(wary) = self.wary.get_mut(&host) {
                wary.probes.extend(seq);
                wary.shut = Some((name, file));
            }
        }
        Ok(())
    }

    fn is_shut(&self, host: &str) -> bool {
        self.wary.get(host).is_some_and(|w| w.shut.is_some())
    }

    /// The held pack of a host that comes after this one; after the last one the first.
    fn after(
        &self,
        names: &[String],
        host: &str,
        (name, file): &(String, String),
    ) -> disk::Result<Option<(String, String)>> {
        let next = |name: &str, beyond: &str| -> disk::Result<Option<(String, String)>> {
            let files = self.held.list(name)?;
            let next = files.into_iter().filter(|f| f.as_str() > beyond).min();
            Ok(next.map(|file| (name.to_owned(), file)))
        };
        if names.contains(name)
            && let Some(found) = next(name, file)?
        {
            return Ok(Some(found));
        }
        let mine = |n: &&String| host_of(n) == host;
        let later = names.iter().filter(mine).filter(|n| *n > name);
        for n in later.chain(names.iter().filter(mine)) {
            if let Some(found) = next(n, "")? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Some of them come back; false = those were all.
    fn put_back(&mut self, gate: &Mutex<Gate>, tell: bool) -> disk::Result<bool> {
        for _ in 0..BACK_STEP {
            while self.files.is_empty() {
                let Some(name) = self.names.pop_front() else { return Ok(false) };
                let mut files = self.held.list(&name)?;
                files.sort_unstable_by(|a, b| b.cmp(a));
                self.files = files.into_iter().map(|file| (name.clone(), file)).collect();
            }
            if let Some((name, file)) = self.files.pop() {
                self.bring_back(gate, tell, &name, &file)?;
            }
        }
        Ok(true)
    }

    /// One of them goes into the spool, of which they take no more than half; its number there.
    fn bring_back(
        &mut self,
        gate: &Mutex<Gate>,
        tell: bool,
        name: &str,
        file: &str,
    ) -> disk::Result<Option<u64>> {
        if lock(gate).spool.half_full() {
            return Ok(None);
        }
        let Some(frame) = self.held.get(name, file)? else {
            if tell {
                let path = self.held.dir().join(name).join(file);
                self.alarms.push(format!(
                    "{}: damaged, it cannot be sent; its directory and name tell host and hour; send the hour \
                     again from its source, then remove this file",
                    path.display()
                ));
            }
            return Ok(None);
        };
        let appended = lock(gate).spool.append(&[&frame]);
        match appended {
            Ok(loc) => {
                self.back.push((loc.seq, name.to_owned(), file.to_owned()));
                Ok(Some(loc.seq))
            }
            Err(AppendError::Full(_)) => Ok(None),
            Err(AppendError::Disk(e)) => Err(e),
        }
    }

    /// Packs of the spool below this number are durable: held files of such packs go, before anybody can send the packs, so that
    /// none goes that was held aside once more.
    pub(super) fn came_back(&mut self, durable: u64) {
        let (done, left) = std::mem::take(&mut self.back).into_iter().partition(|(seq, ..)| *seq < durable);
        self.back = left;
        for (_, name, file) in done {
            if let Err(e) = self.held.remove(&name, &file) {
                self.alarms.push(format!("{e}; that pack will be sent twice, receivers recognise it"));
            }
        }
    }

    /// At a start nobody else uses the spool, and one sync is enough for all.
    pub(super) fn put_all_back(&mut self, gate: &Mutex<Gate>) -> disk::Result<()> {
        self.names = self.held.names().map(str::to_owned).collect();
        while self.put_back(gate, true)? {}
        let mut gate = lock(gate);
        gate.spool.sync()?;
        self.came_back(gate.spool.durable());
        Ok(())
    }
}
