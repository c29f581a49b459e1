//! Failover of a follower: which address an hour belongs to, and what becomes of packs that wait for a silent one.
//!
//! An hour is bound by its first acknowledgement: the journal has the address, durably, in the log before the first
//! acknowledged number ([`Event::Acked`]). An attempt without an answer binds nothing, although the pack may be stored: as
//! long as *all* packs of the hour go elsewhere, that one too, what it left behind is a fragment that nobody certifies.
//! Only an hour whose every pack was stored and none of them answered is whole at both addresses, with the same bytes.
//!
//! Packs for an address that is not in use wait as cuts: they take neither memory nor room in the retry spool, and their
//! source is read again when their turn comes. Those of files that rotation may destroy stay in the retry spool.
//!
//! `route.json` in the state directory tells `logd status` which address is in use and which ones do not answer. It
//! exists only while that is not simply the first one; losing it loses nothing.

use super::{Bytes, COUNT_MS, Follower, Waiting};
use crate::disk::{self, Disk};
use crate::journal::{Event, HourLog};
use crate::pack::HourKey;
use crate::record;
use crate::sender::route::Route;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// So many packs that wait for another address, or on disk, count as one in the window: of them there is nothing but numbers.
const LIGHT_PER_PACK: usize = 16;
const FILE: &str = "route.json";
const FILE_MAX: u64 = 64 << 10;

/// What `route.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFile {
    /// 1.
    pub format: u32,
    /// The address in use.
    pub used: String,
    /// Addresses that failed `failover_after` times in a row, each with the unix millisecond since when that is known.
    pub silent: Vec<(String, i64)>,
}

impl RouteFile {
    /// Reads it; `None` = it is not there, or says nothing that can be believed.
    pub fn load(disk: &Disk, state_dir: &Path) -> disk::Result<Option<Self>> {
        let bytes = disk.read_opt(&state_dir.join(FILE), FILE_MAX)?;
        Ok(bytes.and_then(|b| record::from_json::<Self>(&b).ok()).filter(|f| f.format == 1))
    }
}

/// The address that an hour's packs have to go to; `None` = the one in use, whichever that is. An hour that was begun before
/// addresses were written down belongs to the first one.
fn lane(route: &Route, log: Option<&HourLog>) -> Option<usize> {
    let log = log.filter(|_| route.binds())?;
    match &log.bound {
        Some(addr) => route.index_of(addr),
        None => log.is_begun().then_some(0),
    }
}

impl Follower {
    /// The time goes on: at the start of an hour, or of a day where files hold days, the first address may be used again.
    pub(super) fn tick_route(&mut self) {
        let now = self.clock.now_ms();
        let mut hours = self.journal.hours().keys().map(|k| k.hour).peekable();
        let daily = hours.peek().is_some() && hours.all(|h| h.is_daily());
        let hour = if daily { self.zone.day_at(now) } else { self.zone.hour_at(now) };
        self.queue.tick(self.clock.mono_ms(), hour);
    }

    /// See [`lane`].
    pub(super) fn lane_of(&self, key: &HourKey) -> Option<usize> {
        lane(self.queue.route(), self.journal.hour(key))
    }

    /// At start: says which hours are bound to an address that is gone, and writes down what is not written yet, so that a
    /// new order of the list moves nothing.
    pub(super) fn check_bindings(&mut self) {
        let route = self.queue.route();
        if !route.binds() {
            return;
        }
        let mut first = Vec::new();
        for (key, log) in self.journal.hours() {
            match &log.bound {
                None if log.is_begun() => first.push((key.clone(), log.generation)),
                Some(addr) if route.index_of(addr).is_none() && !log.unacked.is_empty() => {
                    self.messages.push(format!(
                        "{key}: {addr} acknowledged packs of it, and send_to does not name that any more: the rest \
                         goes to {}; if another collector is behind that, send the hour again (`logd resend`)",
                        route.addr(route.used())
                    ));
                }
                _ => {}
            }
        }
        for (key, generation) in first {
            self.bind_to(&key, generation, 0);
        }
    }

    /// The address to which a pack is under way. The queue learns once more where it belongs, before it weighs the answer.
    pub(super) fn asked(&mut self, number: u64) -> Option<usize> {
        if let Some(w) = self.waiting.get(&number) {
            self.queue.bind(number, lane(self.queue.route(), self.journal.hour(&w.key)));
        }
        self.queue.sent_to(number)
    }

    /// A pack of this hour was acknowledged: from now on the hour belongs there.
    pub(super) fn bind_hour(&mut self, key: &HourKey, generation: u64, to: Option<usize>) {
        let log = self.journal.hour(key).filter(|log| log.generation == generation);
        let (Some(to), Some(_), true) = (to, log, self.queue.route().binds()) else { return };
        if self.lane_of(key).is_none() {
            self.bind_to(key, generation, to);
        }
    }

    /// Binds an hour, and what waits of it.
    pub(super) fn bind_to(&mut self, key: &HourKey, generation: u64, to: usize) {
        let addr = self.queue.route().addr(to).to_owned();
        self.journal.append(&Event::Acked {
            hour: key.to_string(),
            generation,
            ids: Vec::new(),
            to: Some(addr),
        });
        for (number, _) in self.waiting.iter().filter(|(_, w)| w.key == *key && w.generation == generation) {
            self.queue.bind(*number, Some(to));
        }
    }

    /// What the packs that are not acknowledged take of `window_packs`.
    pub(super) fn in_window(&mut self) -> usize {
        let (all, now) = (self.waiting.len(), self.clock.mono_ms());
        if all < self.conf.window_packs {
            return all;
        }
        // Counting takes time, and there may be as many turns as packs.
        if now >= self.window.0 {
            let light = |(n, w): &(&u64, &Waiting)| {
                matches!(w.bytes, Bytes::Spool(_)) || self.queue.is_elsewhere(**n)
            };
            let light = self.waiting.iter().filter(light).count();
            let weighed = all.saturating_sub(light).saturating_add(light.div_ceil(LIGHT_PER_PACK));
            self.window = (now.saturating_add(COUNT_MS), weighed);
        }
        self.window.1
    }

    /// Packs for an address that is not in use give back their memory, if their files will still have them.
    pub(super) fn shed(&mut self) {
        if self.in_memory == 0 || self.queue.route().count() < 2 {
            return;
        }
        for (number, w) in &mut self.waiting {
            let lasting = self.journal.hour(&w.key).is_some_and(|log| !log.clock);
            if lasting && matches!(w.bytes, Bytes::Memory(_)) && self.queue.is_elsewhere(*number) {
                if let Bytes::Memory(raw) = std::mem::replace(&mut w.bytes, Bytes::Source) {
                    self.streams.recycle(raw);
                }
                self.in_memory = self.in_memory.saturating_sub(std::mem::take(&mut w.weight));
            }
        }
    }

    /// Tells `logd status` what changed of the route.
    pub(super) fn save_route(&mut self) -> disk::Result<()> {
        let route = self.queue.route();
        if route.count() < 2 {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let before = |addr: &str| {
            let known = self.route_saved.iter().flat_map(|f| &f.silent);
            known.filter(|(a, _)| a == addr).map(|(_, since)| *since).next()
        };
        let silent = route.silent().map(|i| route.addr(i));
        let now = RouteFile {
            format: 1,
            used: route.addr(route.used()).to_owned(),
            silent: silent.map(|a| (a.to_owned(), before(a).unwrap_or(now_ms))).collect(),
        };
        if self.route_saved.as_ref() == Some(&now) {
            return Ok(());
        }
        let path = self.state_dir.join(FILE);
        let saved = if route.used() > 0 || !now.silent.is_empty() {
            self.disk.replace(&path, &record::to_json(&now), 0o640)
        } else if matches!(self.disk.stat(&path), Ok(Some(_))) {
            self.disk.remove(&path)
        } else {
            Ok(())
        };
        self.route_saved = Some(now);
        match saved {
            // It is news, not state: no reason to pause, nor to try it again.
            Err(e) if !e.fatal() => {
                self.messages.push(format!("{e}; `logd status` does not know which address is in use"));
                Ok(())
            }
            other => other,
        }
    }
}
