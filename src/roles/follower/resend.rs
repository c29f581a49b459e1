//! Hours and packs that an operator wants sent again: `logd resend` asks, a follower takes it up.
//!
//! A request is a file in `resend/` below the follower's state directory. So it reaches a running follower, waits for one that
//! is down, and needs no socket. It is removed when the journal durably knows what was asked for; a crash before that makes
//! the follower do it once more, which does no harm.
//!
//! A whole hour goes as a new copy, read from its file with fresh cuts; packs of the copy before are dropped. Single packs go
//! as they were, by the journal's cuts, and only while the file still holds their bytes.

use super::{Bytes, Follower};
use crate::clock::Hour;
use crate::config::Peer;
use crate::disk::{self, Disk};
use crate::journal::{Cut, Event, HourLog};
use crate::log::count;
use crate::pack::HourKey;
use crate::record;
use crate::tail::reread;
use crate::tail::streams::full_name;
use crate::tail::undated::find_bytes;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Below the state directory.
pub const DIR: &str = "resend";
/// How often a follower looks for requests.
const LOOK_MS: u64 = 1_000;
/// Requests are made by people; a file of another size is none.
const REQUEST_MAX: u64 = 1 << 20;
/// Whole hours that are read again at the same time, so that the current one goes on.
const AT_ONCE: usize = 2;
/// Receivers refuse a copy that is so far in the future, in ms.
const AHEAD_MS: u64 = 24 * 3_600_000;

/// What is to be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// 1.
    format: u32,
    /// The hour, or the day of a file that holds a day.
    pub hour: Hour,
    /// The stream, as its section names it; empty for `[tail]`.
    #[serde(default)]
    pub stream: String,
    /// Numbers of its packs, as ranges; none = all of it.
    pub packs: Vec<(u64, u64)>,
    /// The address that the whole hour has to go to; none = the one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Request {
    /// A request for an hour, or for some of its packs.
    pub fn new(stream: &str, hour: Hour, packs: Vec<(u64, u64)>) -> Self {
        Self { format: 1, hour, stream: stream.to_owned(), packs, to: None }
    }

    /// The same for one address.
    #[must_use]
    pub fn bound_to(self, to: Option<String>) -> Self {
        Self { to, ..self }
    }

    /// Whose hour it is.
    pub fn key(&self, host: &str) -> HourKey {
        HourKey { name: full_name(host, &self.stream), hour: self.hour }
    }

    /// Leaves it for the follower; the same one again is one.
    pub fn save(&self, disk: &Disk, state_dir: &Path) -> disk::Result<()> {
        let dir = state_dir.join(DIR);
        disk.create_dir_all(&dir, 0o750)?;
        let json = record::to_json(self);
        let name = format!("{}.{:08x}.json", self.hour, crc32fast::hash(&json));
        // Whoever asks may be root, and the follower somebody else.
        disk.replace(&dir.join(name), &json, 0o644)
    }

    fn load(disk: &Disk, path: &Path) -> disk::Result<Result<Self, String>> {
        let bytes = disk.read_opt(path, REQUEST_MAX)?.unwrap_or_default();
        Ok(match record::from_json::<Self>(&bytes) {
            Ok(r) if r.format == 1 => Ok(r),
            Ok(r) => Err(format!("format {} is not known here", r.format)),
            Err(why) => Err(why),
        })
    }
}

/// Requests that wait, oldest hour first.
pub fn waiting(disk: &Disk, state_dir: &Path) -> disk::Result<Vec<PathBuf>> {
    let dir = state_dir.join(DIR);
    let names = match disk.list(&dir) {
        Ok(names) => names,
        Err(e) if e.not_found() => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let requests = names.into_iter().map(|e| e.name).filter(|n| n.strip_suffix(".json").is_some());
    let mut paths: Vec<PathBuf> = requests.map(|n| dir.join(n)).collect();
    paths.sort();
    Ok(paths)
}

/// The packs of `ranges` in the journal's log of an hour; the error says which it does not have.
pub fn chosen(log: &HourLog, ranges: &[(u64, u64)]) -> Result<Vec<u64>, String> {
    let mut ids = Vec::new();
    for (from, to) in ranges {
        if *from < log.first_id || *to >= log.next_id() {
            let have = match log.next_id().checked_sub(1).filter(|last| *last >= log.first_id) {
                Some(last) => format!("{} to {last}", log.first_id),
                None => "none".to_owned(),
            };
            return Err(format!("packs {from}-{to} are asked for, and it has {have}"));
        }
        ids.extend(*from..=*to);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The bytes of a cut, from its file or from what rotation made of it. False = nobody has them.
pub fn bytes_of(disk: &Disk, log: &HourLog, cut: &Cut, raw: &mut Vec<u8>) -> disk::Result<bool> {
    Ok(reread(disk, &log.path, cut, raw)?.is_some() || find_bytes(disk, &log.path, cut, raw)?)
}

/// The first of these packs whose bytes its file does not hold any more, and why that ends it.
pub fn gone(disk: &Disk, log: &HourLog, ids: &[u64]) -> disk::Result<Option<String>> {
    let mut raw = Vec::new();
    for cut in ids.iter().filter_map(|id| log.cut(*id)) {
        if !bytes_of(disk, log, cut, &mut raw)? {
            let then = if log.clock { "nor does a rotated one beside it" } else { "send the whole hour" };
            return Ok(Some(format!(
                "{} does not hold the bytes {}-{} of pack {} any more; {then}",
                log.path.display(),
                cut.start,
                cut.end,
                cut.id
            )));
        }
    }
    Ok(None)
}

impl Follower {
    /// Carries out what was asked for, or says why not. Called at every turn, it looks once a second.
    pub(super) fn take_requests(&mut self) -> disk::Result<()> {
        let now = self.clock.mono_ms();
        if now < self.look_for_requests_ms {
            return Ok(());
        }
        self.look_for_requests_ms = now.saturating_add(LOOK_MS);
        let waiting = waiting(&self.disk, &self.state_dir)?;
        self.requests = waiting.len();
        for path in waiting {
            let loaded = match Request::load(&self.disk, &path) {
                Err(e) if !e.fatal() => {
                    // It may be another user's; those behind it go on.
                    self.alarms.push(format!(
                        "{e}; this request of `logd resend` waits; let this user read it, or remove it and ask again"
                    ));
                    // Whoever sends what is there, and ends, does not wait for it.
                    self.requests = self.requests.saturating_sub(1);
                    continue;
                }
                other => other?,
            };
            let (place, done) = match loaded {
                Ok(request) => {
                    let key = request.key(self.streams.host());
                    if request.packs.is_empty() && self.streams.active(&key.name) > AT_ONCE {
                        continue;
                    }
                    let done = if request.packs.is_empty() {
                        self.send_hour_again(&key, request.to.as_deref())?
                    } else {
                        self.send_packs_again(&key, &request.packs)?
                    };
                    (key.to_string(), done)
                }
                Err(why) => (path.display().to_string(), Err(format!("{why}; ask again with `logd resend`"))),
            };
            match done {
                Ok(what) => self.messages.push(format!("{place}: {what}")),
                Err(why) => self.alarms.push(format!("{place}: not sent again: {why}")),
            }
            // Only then may the request go.
            self.journal.commit()?;
            self.disk.remove(&path)?;
            self.requests = self.requests.saturating_sub(1);
        }
        Ok(())
    }

    fn send_hour_again(&mut self, key: &HourKey, to: Option<&str>) -> disk::Result<Result<String, String>> {
        if self.conf.sender.peer == Peer::Original {
            return Ok(Err("the next receiver is an original, which knows no copies of an hour".into()));
        }
        let lane = match to.map(|addr| (addr, self.queue.route().index_of(addr))) {
            Some((addr, None)) => return Ok(Err(format!("send_to does not name {addr}"))),
            Some(_) if !self.queue.route().binds() => {
                return Ok(Err("with failover = any no hour is bound to an address".into()));
            }
            found => found.and_then(|(_, lane)| lane),
        };
        if let Err(why) = self.streams.can_restart(key)? {
            return Ok(Err(why));
        }
        let before = match self.journal.hour(key) {
            Some(log) => Some(log.generation),
            None => self.journal.archived(key)?.map(|log| log.generation),
        };
        let now = self.clock.now_ms().unsigned_abs();
        // A copy that was begun when the clock was wrong is refused by receivers: none has it.
        let before = before.filter(|g| *g <= now.saturating_add(AHEAD_MS));
        let generation = now.max(before.map_or(0, |g| g.saturating_add(1)));
        self.streams.restart(&mut self.journal, key, generation)?;
        // Of the copy before nothing more is sent.
        self.unreleased.retain(|(s, _)| s.key != *key);
        let old: Vec<u64> = self.waiting.iter().filter(|(_, w)| w.key == *key).map(|(n, _)| *n).collect();
        for number in old {
            if let Some(Bytes::Spool(loc)) = self.waiting.get(&number).map(|w| &w.bytes) {
                self.retry_done.push(loc.seq);
            }
            self.forget(number);
        }
        let mut where_to = String::new();
        if let Some(lane) = lane {
            self.bind_to(key, generation, lane);
            where_to = format!(", to {}", self.queue.route().addr(lane));
        }
        Ok(Ok(format!("it is sent again as a whole, as copy {generation}{where_to}")))
    }

    fn send_packs_again(
        &mut self,
        key: &HourKey,
        ranges: &[(u64, u64)],
    ) -> disk::Result<Result<String, String>> {
        let archived;
        let log = match self.journal.hour(key) {
            Some(log) => log,
            None => match self.journal.archived(key)? {
                Some(log) => {
                    archived = log;
                    &archived
                }
                None => return Ok(Err("the journal does not know its packs; send the whole hour".into())),
            },
        };
        let mut ids = match chosen(log, ranges) {
            Ok(ids) => ids,
            Err(why) => return Ok(Err(why)),
        };
        // The others are on their way already.
        ids.retain(|id| !log.unacked.contains(id));
        let asked =
            ids.iter().filter_map(|id| log.cut(*id)).map(|c| c.end.saturating_sub(c.start)).sum::<u64>();
        if log.clock && asked > (self.conf.tail_memory / 2) as u64 {
            return Ok(Err(format!(
                "they hold {asked} bytes, which would all have to be read at once, and half of tail_memory is less: ask for \
                 fewer at a time"
            )));
        }
        if let Some(why) = gone(&self.disk, log, &ids)? {
            return Ok(Err(why));
        }
        let generation = log.generation;
        // What rotation may destroy is read now, and not when its turn comes.
        let mut read = Vec::new();
        for cut in ids.iter().filter_map(|id| log.cut(*id)).filter(|_| log.clock) {
            let mut raw = Vec::new();
            if bytes_of(&self.disk, log, cut, &mut raw)? {
                read.push((cut.id, raw));
            }
        }
        if self.journal.hour(key).is_none() && !self.journal.reopen(key)? {
            return Ok(Err("the journal's file of it is damaged; send the whole hour".into()));
        }
        self.journal.append(&Event::Again { hour: key.to_string(), generation, ids: ids.clone() });
        let packs = count(ids.len(), "pack");
        for (id, raw) in read {
            let weight = raw.len();
            self.in_memory = self.in_memory.saturating_add(weight);
            ids.retain(|other| *other != id);
            self.add(key.clone(), generation, id, Bytes::Memory(raw), weight);
        }
        for id in ids {
            self.add(key.clone(), generation, id, Bytes::Source, 0);
        }
        Ok(Ok(format!("{packs} of it sent again")))
    }
}
