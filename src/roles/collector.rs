//! The collector's core: from the spool to hour files and certificates, without threads.

use crate::disk;
use crate::integrity::Store;
use crate::integrity::read_hosts;
use crate::output::hours::{Filed, Hours, VerifyDone};
use crate::pack::HourKey;
use crate::receiver::gate::Gate;
use crate::receiver::lock;
use crate::spool::Reader;
use std::path::PathBuf;
use std::sync::Mutex;

/// See the module's header.
pub struct Collector {
    /// The hour files.
    pub hours: Hours,
    store: Store,
    reader: Reader,
    cursor: u64,
    hosts_file: Option<PathBuf>,
    frame: Vec<u8>,
    checkpoint_ms: u64,
    last_checkpoint_ms: u64,
    /// Sentences for the log, with `true` for those that tell of success.
    pub messages: Vec<(bool, String)>,
}

impl Collector {
    /// Begins with everything that the spool holds.
    pub fn new(
        hours: Hours,
        store: Store,
        reader: Reader,
        hosts_file: Option<PathBuf>,
        checkpoint_ms: u64,
    ) -> Self {
        Self {
            hours,
            store,
            reader,
            cursor: 0,
            hosts_file,
            frame: Vec::new(),
            checkpoint_ms,
            last_checkpoint_ms: 0,
            messages: Vec::new(),
        }
    }

    /// Applies up to `most` durable packs; how many it were.
    pub fn step(&mut self, gate: &Mutex<Gate>, now_ms: u64, most: usize) -> disk::Result<usize> {
        for n in 0..most {
            let Some((seq, base, raw)) = ({
                let mut g = lock(gate);
                g.spool.next_waiting(self.cursor).map(|(seq, base)| (seq, base, g.raw.remove(&seq)))
            }) else {
                return Ok(n);
            };
            if let Some(loc) = self.reader.fetch(seq, base, &mut self.frame)? {
                let lines = raw.as_ref().map(|(r, _)| r.as_slice());
                self.hours.apply(loc, &self.frame, lines, now_ms)?;
            } else {
                self.messages.push((
                    false,
                    format!(
                        "spool record {seq}: damaged after it was acknowledged; `logd status` names its pack"
                    ),
                ));
                lock(gate).spool.mark_done(seq)?;
            }
            self.cursor = seq + 1;
        }
        Ok(most)
    }

    /// Is it time to make progress durable?
    pub fn wants_checkpoint(&self, gate: &Mutex<Gate>, now_ms: u64) -> bool {
        self.hours.is_dirty()
            && (self.hours.has_complete()
                || now_ms.saturating_sub(self.last_checkpoint_ms) >= self.checkpoint_ms
                || lock(gate).spool.half_full())
    }

    /// Makes progress durable, and tells the spool and the footprint.
    pub fn checkpoint(&mut self, gate: &Mutex<Gate>, now_ms: u64) -> disk::Result<()> {
        let progress = self.hours.checkpoint(now_ms)?;
        self.last_checkpoint_ms = now_ms;
        let mut g = lock(gate);
        if let Some(m) = &mut g.memory {
            for (key, generation, high, seqs) in &progress.stored {
                m.footprint.stored(key, *generation, *high, seqs);
            }
            for (key, generation, id) in &progress.shelved {
                m.footprint.shelved(key, *generation, *id);
            }
            m.footprint.forget_idle(now_ms);
        }
        for seq in progress.seqs {
            g.spool.mark_done(seq)?;
        }
        Ok(())
    }

    /// Files what a verification found, unless something arrived meanwhile.
    pub fn certify(
        &mut self,
        done: &VerifyDone,
        gate: &Mutex<Gate>,
        now_ms: u64,
        now_secs: i64,
    ) -> disk::Result<()> {
        let key = done.job().key.clone();
        if !lock(gate).hold(&key, done.job().generation, now_ms)? {
            return Ok(());
        }
        let filed = self.hours.finish(done, now_secs);
        let mut g = lock(gate);
        let footprint = g.memory.as_mut().map(|m| &mut m.footprint);
        let Some(footprint) = footprint else { return Ok(()) };
        if let Some(h) = footprint.hour(&key, now_ms) {
            h.certifying = false;
        }
        match filed? {
            Filed::Void => {}
            Filed::Refused(why) => {
                if let Some(h) = footprint.hour(&key, now_ms) {
                    h.certified = self.store.closed(&key)?.map(|c| c.generation);
                }
                drop(g);
                self.messages.push((false, why));
            }
            Filed::Installed => {
                if let Some(h) = footprint.hour(&key, now_ms) {
                    h.certified = None;
                    h.floor = h.floor.max(done.job().generation);
                }
                drop(g);
                let text =
                    format!("{key}: copy {} took its place; the old one is in aside/", done.job().generation);
                self.messages.push((true, text));
            }
            Filed::Certified(c) => {
                if let Some(h) = footprint.hour(&key, now_ms) {
                    h.certified = Some(c.generation);
                }
                if c.is_tag() {
                    footprint.drop_below(&key, c.generation);
                }
                drop(g);
                self.messages.push(if c.is_tag() {
                    let word = if c.verified { "verified" } else { "complete, not verifiable" };
                    (true, format!("{key}: {word}: {} lines, {} bytes, {} packs", c.lines, c.bytes, c.packs))
                } else {
                    (false, format!("{key}: complete, but not certified: {}; see doubtful/", c.state))
                });
                if c.is_tag() {
                    self.fleet(&key)?;
                }
            }
        }
        Ok(())
    }

    fn fleet(&mut self, key: &HourKey) -> disk::Result<()> {
        let Some(path) = &self.hosts_file else { return Ok(()) };
        match read_hosts(path) {
            Ok(hosts) => {
                if self.store.fleet_tag(key.hour, &hosts)? {
                    self.messages
                        .push((true, format!("hour {}: all {} hosts are whole", key.hour, hosts.len())));
                }
            }
            Err(why) => {
                self.messages.push((false, format!("{why}; no all_<hour> tags until it is corrected")))
            }
        }
        Ok(())
    }
}
