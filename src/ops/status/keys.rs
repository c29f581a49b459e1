//! Keys of a receiver in `logd status`: what a start would be refused for, which keys are used, and who was denied.

use super::super::out;
use crate::auth::{Keyring, Mode, Senders};
use crate::config::ReceiverConfig;
use crate::disk::{self, Disk};
use crate::roles::admission;
use crate::tls::Server;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Refusals that are older are history, in ms.
const LATELY_MS: i64 = 24 * 3_600_000;
/// A use that is not older may go on.
const FRESH_MS: i64 = 2 * 60_000;
/// What is named one by one.
const NAMED_MAX: usize = 10;

/// See the module's header.
#[derive(Default)]
pub struct Keys {
    /// What becomes of unsigned packs; `None` = no keys are asked for.
    pub mode: Option<Mode>,
    /// Why a start would be refused.
    refused: Vec<String>,
    /// Why whoever reaches the port may send.
    open: Option<String>,
    /// Keys by host: ID, and when it was used last.
    hosts: BTreeMap<String, Vec<(String, Option<i64>)>>,
    senders: Senders,
    /// Why that is not known.
    unknown: Option<String>,
    running: bool,
    now_ms: i64,
}

impl Keys {
    /// Asks what a start would ask, and reads what the role remembers.
    pub fn read(disk: &Disk, conf: &ReceiverConfig, state_dir: &Path, now_ms: i64) -> disk::Result<Self> {
        let mut keys =
            Self { now_ms, running: crate::instance::is_running(state_dir) == Some(true), ..Self::default() };
        match admission::may_receive(conf, state_dir) {
            Err(why) => keys.refused.push(why),
            Ok(()) => keys.open = admission::is_open(conf),
        }
        match Senders::load(disk, state_dir) {
            Ok(None) => {}
            Ok(Some(Ok(senders))) => keys.senders = senders,
            Ok(Some(Err(why))) => keys.unknown = Some(why),
            Err(_) if conf.keys_file.is_none() => {}
            Err(e) => return Err(e),
        }
        keys.refused.extend(conf.tls.as_ref().and_then(|tls| Server::open(tls).err()));
        if conf.keys_file.is_none() {
            return Ok(keys);
        }
        keys.mode = Some(if conf.keys_required { Mode::Require } else { Mode::Accept });
        let list = admission::keyring(conf).map(|ring| ring.as_ref().map(Keyring::list).unwrap_or_default());
        for (host, id) in list.unwrap_or_else(|why| {
            keys.refused.push(why);
            Vec::new()
        }) {
            let used = keys.senders.signing.get(&host).and_then(|s| s.keys.get(&id)).copied();
            keys.hosts.entry(host).or_default().push((id, used));
        }
        Ok(keys)
    }

    fn ago(&self, at_ms: i64) -> String {
        out::duration(u64::try_from(self.now_ms.saturating_sub(at_ms)).unwrap_or(0))
    }

    fn used(&self, (id, at): &(String, Option<i64>)) -> String {
        match at {
            // It is noted once a minute.
            Some(at) if self.now_ms.saturating_sub(*at) < FRESH_MS => {
                format!("{id} last used within 2 min")
            }
            Some(at) => format!("{id} last used {} ago", self.ago(*at)),
            None => format!("{id} never used"),
        }
    }

    /// For people: how many keys there are, and of hosts that have two, whether the old one is still used.
    pub fn text(&self) -> String {
        let Some(mode) = self.mode else { return String::new() };
        let count: usize = self.hosts.values().map(Vec::len).sum();
        let (keys, hosts) = (out::count(count, "key"), out::count(self.hosts.len(), "host"));
        let word = if mode == Mode::Require { "require" } else { "accept" };
        let mut text = format!("  keys: {word}, {keys} of {hosts}\n");
        let two: Vec<_> = self.hosts.iter().filter(|(_, keys)| keys.len() > 1).collect();
        for (host, keys) in two.iter().take(NAMED_MAX) {
            let list: Vec<String> = keys.iter().map(|key| self.used(key)).collect();
            let _ = writeln!(text, "    {host} has {} keys: {}", keys.len(), list.join(", "));
        }
        if let Some(more) = two.len().checked_sub(NAMED_MAX).filter(|n| *n > 0) {
            let _ =
                writeln!(text, "    and {} more with two keys: `--all` lists them", out::count(more, "host"));
        }
        text
    }

    /// A table of all keys.
    pub fn table(&self) -> String {
        let width = self.hosts.keys().map(String::len).max().unwrap_or(0).max(4);
        let mut text = String::new();
        for (host, keys) in &self.hosts {
            if text.is_empty() {
                let _ = writeln!(text, "{:<width$}  KEY", "HOST");
            }
            for key in keys {
                let _ = writeln!(text, "{host:<width$}  {}", self.used(key));
            }
        }
        text
    }

    /// What somebody must look at.
    pub fn wrong(&self) -> Vec<String> {
        let mut list: Vec<String> = self.open.iter().map(|why| admission::told_open(why)).collect();
        for why in &self.refused {
            list.push(if self.running {
                format!(
                    "{why}; the role that runs goes on with what it read before, a start would be refused"
                )
            } else {
                format!("{why}; so a start is refused: mend it and start the role")
            });
        }
        if self.refused.is_empty() && !self.senders.keys_error.is_empty() && self.running {
            list.push(format!(
                "keys_file: {}; the role that runs could not read it and goes on with the keys of before; its user must be \
                 able to read it",
                self.senders.keys_error
            ));
        }
        list.extend(self.unknown.iter().map(|why| format!("{why}; who was denied is not known")));
        let denied: Vec<_> = self
            .senders
            .denied
            .iter()
            .filter(|d| !d.mended && self.now_ms.saturating_sub(d.last_ms) < LATELY_MS)
            .collect();
        if !denied.is_empty() {
            let mut text = format!(
                "denied ({}): their senders keep the packs and try again; the reason says what such a host misses, or that it does \
                 not take this receiver's certificate; or find out who it is",
                out::count(denied.len(), "sender")
            );
            for d in denied.iter().take(NAMED_MAX) {
                let (times, since, last) =
                    (out::count(d.count, "time"), self.ago(d.first_ms), self.ago(d.last_ms));
                let _ = write!(
                    text,
                    "\n    {} from {}  {times} in {since}, last {last} ago: {}",
                    if d.name.is_empty() { "connections" } else { &d.name },
                    d.from,
                    d.reason
                );
            }
            if let Some(more) = denied.len().checked_sub(NAMED_MAX).filter(|n| *n > 0) {
                let _ = write!(text, "\n    and {more} more: `--json` lists them");
            }
            if self.senders.denied_more > 0 {
                let _ = write!(
                    text,
                    "\n    and before them {}, of which only the receiver's log tells: so many are not remembered",
                    out::count(usize::try_from(self.senders.denied_more).unwrap_or(usize::MAX), "other")
                );
            }
            list.push(text);
        }
        list
    }

    /// For programs; null without keys.
    pub fn json(&self) -> Value {
        if self.mode.is_none() && self.senders.denied.is_empty() && self.refused.is_empty() {
            return Value::Null;
        }
        let mode = self.mode.map(|mode| if mode == Mode::Require { "require" } else { "accept" });
        let hosts: Vec<Value> = self
            .hosts
            .iter()
            .map(|(host, keys)| {
                let since = self.senders.signing.get(host).and_then(|s| s.since).map(|day| day.to_string());
                let keys: Vec<Value> = keys.iter().map(|(id, at)| json!({"id": id, "used_ms": at})).collect();
                json!({"host": host, "signs_since": since, "keys": keys})
            })
            .collect();
        json!({
            "mode": mode, "hosts": hosts, "refused": self.refused,
            "keys_error": self.senders.keys_error, "denied": self.senders.denied,
            "denied_more": self.senders.denied_more,
        })
    }
}
