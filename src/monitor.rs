//! The monitor's core: which nodes live, what went wrong, which hours are whole. It knows no threads.
//!
//! Nodes register themselves, or are added by hand; each is asked for its heart-beat, and an outage is recorded once when
//! it begins and once when it ends. Roles send their messages, and collectors the states of their hours.
//!
//! Files in the state directory:
//!
//! - `nodes.json`: the nodes. Replaced as a whole, before a registration is answered. It may be edited while the monitor
//!   runs, and is read again every third round.
//! - `events/`: messages, outages, registrations, a line of JSON each ([`events`]).
//! - `hours.json`: the states of hours, as of some seconds ago.
//! - `delivered.json`: how far a database has `events` (feature `mysql`).
//!
//! What may be lost: a message that has not been on the disk for a second when the power is cut (nobody was told that it
//! was taken), and a minute of hours' states, which collectors send again within the hour.
//!
//! **Whom it calls.** A node is asked only at an address from which it registered itself, or one that `allow` names: else
//! whoever reaches the port could have the monitor knock at any door. `any` names nobody. P4: nodes, events and hours have
//! limits.

pub mod alarms;
pub mod check;
pub mod events;
pub mod hours;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod nodes;
#[cfg(test)]
mod tests;

use crate::clock::{Hour, Zone};
use crate::config::{Allow, MonitorConfig};
use crate::disk::{self, Disk};
use crate::heartbeat::{self, Message};
use crate::log::escape;
use crate::metrics;
use crate::overview::{self, ErrorEntry, Overview};
use alarms::Turns;
use events::{Event, Events, What};
use hours::{Hours, Whole};
use nodes::{Node, Nodes};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Characters of a message, at most.
const MESSAGE_MAX: usize = 4_096;
/// Characters of a role, a kind of message or a version, at most.
const WORD_MAX: usize = 32;
/// Characters of a host's name, at most.
const HOST_MAX: usize = 128;
/// Nodes that are named one by one in a sentence.
const NAMED_MAX: usize = 10;
/// Nodes that one address may have, and that may be registered from one, for itself and for others whom `allow` names.
const NODES_PER_ADDRESS: usize = 64;
/// A message may be of so long ago, and of a clock that is so far ahead, ms; else the clock of its sender is wrong.
const LATE_MS: i64 = 31 * 86_400_000;
const AHEAD_MS: i64 = 300_000;
/// Copies of one file that are set aside.
const ASIDE_MAX: u32 = 9;

/// Something for the monitor's own log: 0 is an error, 1 a warning, 2 what goes on.
pub type Said = (u8, String);

/// Where a connection comes from.
#[derive(Clone, Copy)]
pub struct Peer {
    ip: IpAddr,
    /// Of a link-local address: the link.
    scope: u32,
}

impl From<IpAddr> for Peer {
    fn from(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), scope: 0 }
    }
}

impl From<SocketAddr> for Peer {
    fn from(at: SocketAddr) -> Self {
        let scope = if let SocketAddr::V6(v6) = at { v6.scope_id() } else { 0 };
        Self { ip: at.ip().to_canonical(), scope }
    }
}

/// Some of the nodes.
type Which<'a> = &'a dyn Fn(&Node) -> bool;

/// See the module's header.
pub struct Monitor {
    allow: Allow,
    zone: Zone,
    keep_hours: u64,
    /// Who is watched.
    pub nodes: Nodes,
    /// What happened.
    pub events: Events,
    /// States of hours.
    pub hours: Hours,
    /// Sentences for the log.
    pub said: Vec<Said>,
    /// The same of nodes that do not answer, and answer again.
    pub outages: Vec<Said>,
    /// When which of them may be told to the operator's program.
    turns: Turns,
    /// The number up to which a database has the events, if there is one.
    pub delivered: Option<u64>,
    /// When an event could not be recorded last (Unix milliseconds), and why.
    pub unrecorded: Option<(i64, String)>,
}

impl Monitor {
    /// Opens a state directory. What is damaged in it is set aside and told.
    pub fn open(disk: &Disk, dir: &Path, conf: &MonitorConfig, zone: &Zone) -> disk::Result<Self> {
        let mut said = Vec::new();
        let nodes = Nodes::open(disk, &dir.join("nodes.json"), &mut said)?;
        let events = Events::open(disk, &dir.join("events"), &mut said)?;
        let hours = Hours::open(disk, &dir.join("hours.json"), &mut said)?;
        let (allow, keep_hours) = (conf.allow.clone(), conf.keep_hours);
        let (zone, outages, turns, unrecorded) = (zone.clone(), Vec::new(), Turns::default(), None);
        Ok(Self {
            allow,
            zone,
            keep_hours,
            nodes,
            events,
            hours,
            said,
            outages,
            turns,
            delivered: None,
            unrecorded,
        })
    }

    /// Takes what a peer sent; the answer, if there is to be one. It may go out after [`Self::commit`].
    pub fn take(
        &mut self,
        json: &[u8],
        from: impl Into<Peer>,
        now_ms: i64,
    ) -> Result<Option<Message>, String> {
        let m = heartbeat::parse(json)?;
        let from = from.into();
        let peer = from.ip;
        let Some(req) = m.get("req") else {
            self.message(&m, peer, now_ms);
            return Ok(None);
        };
        let mut left = None;
        let done = match req.as_str() {
            "register" => self.register(&m, from, now_ms),
            "unregister" => self.unregister(&m, peer, now_ms),
            "hours" => {
                let host = short(m.get("hostname").map_or("", String::as_str), HOST_MAX);
                let list = m.get("hours").map_or("", String::as_str);
                // Two stores may be on one host.
                let store = short(m.get("store").map_or("", String::as_str), WORD_MAX);
                let from = format!("{peer} {host} {store}");
                self.hours.take(list, from.trim_end(), Whole::of(&m).as_ref(), now_ms).map(|out| {
                    left = Some(out).filter(|out| out.count() > 0);
                })
            }
            other => return Ok(Some(answer("-1", &format!("unknown request {:?}", short(other, WORD_MAX))))),
        };
        Ok(Some(match done {
            Ok(()) => {
                let mut good = answer("0", "success");
                // No error: a store of an earlier version would be silent for an hour.
                if let Some(left) = left {
                    self.said.push((1, format!("{req} from {peer}: {}", left.text())));
                    good.insert("left".into(), left.count().to_string());
                    good.insert("msg".into(), left.text());
                }
                if req == "register" && m.contains_key("lag") {
                    good.insert("again".into(), heartbeat::LAG_AGAIN_S.to_string());
                }
                good
            }
            Err(why) => {
                self.said.push((1, format!("{req} from {peer}: refused: {why}")));
                answer("1", &why)
            }
        }))
    }

    /// Makes durable what answers were given for.
    pub fn commit(&mut self, now_ms: i64) -> disk::Result<()> {
        let saved = self.nodes.save();
        self.edited(now_ms);
        saved
    }

    /// Which node a peer speaks of. What it says of its address counts only if it comes from there or `allow` names it.
    fn claimed(&mut self, m: &Message, peer: IpAddr) -> (IpAddr, u16) {
        let port = m.get("port").and_then(|p| p.parse().ok()).unwrap_or(0);
        let told = m.get("ip").map_or("", String::as_str);
        // The original finds no address of its own on current systems, and tells an empty one.
        let Ok(ip) = told.parse::<IpAddr>().map(|ip| ip.to_canonical()) else { return (peer, port) };
        if ip == peer || self.allow.names(ip) {
            return (ip, port);
        }
        self.said.push((
            1,
            format!(
                "{peer} says that it is {ip}: it is known as {peer}; name {ip} in `allow` if that is right"
            ),
        ));
        (peer, port)
    }

    /// Makes room for a node that is not known: those that were stopped go, and for one that is registered from its own
    /// address those that somebody has registered for others.
    fn make_room(&mut self, ip: IpAddr, peer: IpAddr, now_ms: i64) -> Result<(), String> {
        let of_address = |n: &Node| n.ip == ip;
        let by_peer = |n: &Node| n.by == Some(peer);
        let all = |_: &Node| true;
        let limits: [(Which, usize, String); 3] = [
            (&of_address, NODES_PER_ADDRESS, format!("of {ip}")),
            (&by_peer, NODES_PER_ADDRESS, format!("from {peer}")),
            (&all, overview::NODES_MAX, "in all".into()),
        ];
        for (which, most, what) in limits {
            let full = |nodes: &Nodes| nodes.iter().filter(|n| which(n)).count() >= most;
            if full(&self.nodes) {
                self.nodes.make_room(which);
            }
            if full(&self.nodes) && ip == peer {
                let foreign = |n: &&Node| which(n) && n.by.is_some_and(|by| by != n.ip);
                let first =
                    self.nodes.iter().filter(foreign).min_by_key(|n| (n.alive == Some(true), n.beat_ms));
                if let Some(node) = first.cloned() {
                    self.nodes.remove(node.ip, node.port);
                    self.event(What::Unregister, &node, "", "", now_ms);
                    let by = node.by.map_or(String::new(), |by| by.to_string());
                    let text = "gives way to one that registers itself";
                    self.outages.push((1, format!("node {}: registered by {by}: {text}", node.label())));
                }
            }
            if full(&self.nodes) {
                return Err(format!("{most} nodes {what} are registered already, the limit"));
            }
        }
        Ok(())
    }

    fn register(&mut self, m: &Message, from: Peer, now_ms: i64) -> Result<(), String> {
        let peer = from.ip;
        let (ip, port) = self.claimed(m, peer);
        if port == 0 {
            return Err("`port` is no port on which a heart-beat could be asked for".into());
        }
        let word = |name: &str, most: usize| short(m.get(name).map_or("", String::as_str), most);
        let (role, hostname) = (word("role", WORD_MAX), word("hostname", HOST_MAX));
        if self.nodes.get(ip, port).is_none() {
            // It has another port now; what it was is no news any more.
            self.nodes.forget_stopped(|n| n.ip == ip && n.role == role && n.hostname == hostname);
            self.make_room(ip, peer, now_ms)?;
        }
        let known = self.nodes.get(ip, port);
        // Whoever is at an address speaks for it before anybody who only says so.
        if let Some(by) = known.and_then(|n| n.by).filter(|by| *by != peer && ip != peer) {
            return Err(format!("{ip}:{port} was registered by {by}, not by {peer}"));
        }
        let scope = if ip == peer { from.scope } else { known.map_or(0, |n| n.scope) };
        let same = known.is_some_and(|n| {
            !n.stopped && n.role == role && n.hostname == hostname && n.by == Some(peer) && n.scope == scope
        });
        let mut node = known.cloned().unwrap_or_else(|| Node::new(ip, port));
        (node.by, node.stopped, node.scope) = (Some(peer), false, scope);
        (node.role, node.hostname, node.version) = (role, hostname, word("version", WORD_MAX));
        (node.registered_ms, node.beat_ms) = (now_ms, now_ms);
        node.lag = m.get("lag").and_then(|lag| lag.parse().ok()).map(|lag| (now_ms, lag));
        node.paused = m.get("paused").is_some_and(|paused| paused == "1");
        if !same {
            self.event(What::Register, &node, "", "", now_ms);
            self.said.push((2, format!("node {}: registered", node.label())));
        }
        self.nodes.put(node, !same);
        Ok(())
    }

    fn unregister(&mut self, m: &Message, peer: IpAddr, now_ms: i64) -> Result<(), String> {
        let (ip, port) = self.claimed(m, peer);
        // That it is not there is what was wanted.
        let Some(mut node) = self.nodes.get(ip, port).filter(|n| !n.stopped).cloned() else { return Ok(()) };
        if ip != peer && node.by != Some(peer) {
            return Err(format!("{ip}:{port} was not registered by {peer}"));
        }
        if node.alive == Some(false) {
            // Somebody has stopped it, and so its outage is over.
            let text = self.over(node.since_ms, now_ms);
            self.event(What::Error, &node, "unregistered", &text, now_ms);
            self.outages.push((2, format!("node {}: unregistered: {text}", node.label())));
        }
        self.event(What::Unregister, &node, "", "", now_ms);
        self.said.push((2, format!("node {}: unregistered", node.label())));
        (node.stopped, node.alive, node.since_ms, node.lag) = (true, None, now_ms, None);
        self.nodes.put(node, true);
        Ok(())
    }

    fn message(&mut self, m: &Message, peer: IpAddr, now_ms: i64) {
        let (ip, port) = self.claimed(m, peer);
        let text = |name: &str| m.get(name).map_or("", String::as_str);
        let mut node = self.nodes.get(ip, port).cloned().unwrap_or_else(|| Node::new(ip, port));
        // A message is a sign of life, and no registration; of another's life it is none.
        if self.nodes.get(ip, port).is_some_and(|n| ip == peer || n.by == Some(peer)) {
            node.beat_ms = now_ms;
            self.nodes.put(node.clone(), false);
        }
        let (kind, said) = (short(text("type"), WORD_MAX), short(text("msg"), MESSAGE_MAX));
        let time = own_time(text("time"));
        // Ours tell it in a way that needs no zone.
        let at_ms = text("ms").parse().ok().or_else(|| time.as_deref().and_then(|t| own_ms(&self.zone, t)));
        let likely =
            |at: &i64| *at <= now_ms.saturating_add(AHEAD_MS) && *at >= now_ms.saturating_sub(LATE_MS);
        let at = (time, at_ms.filter(likely));
        let kept = self.event_at(at, What::Error, &node, &kind, &said, now_ms);
        let count = if kept { &metrics::NODE_MESSAGES_KEPT } else { &metrics::NODE_MESSAGES_DROPPED };
        count.inc();
    }

    fn event(&mut self, what: What, node: &Node, kind: &str, text: &str, now_ms: i64) {
        self.event_at((None, None), what, node, kind, text, now_ms);
    }

    /// With the time of who tells it, as a text and in Unix milliseconds, where that is known. False = it could not be
    /// recorded.
    fn event_at(
        &mut self,
        (time, at_ms): (Option<String>, Option<i64>),
        what: What,
        node: &Node,
        kind: &str,
        text: &str,
        now_ms: i64,
    ) -> bool {
        let time = time.unwrap_or_else(|| self.zone.format_ms(now_ms).chars().take(19).collect());
        let event = Event {
            seq: 0,
            what,
            ms: now_ms,
            at_ms: at_ms.unwrap_or(0),
            time,
            ip: node.ip.to_string(),
            port: node.port,
            role: node.role.clone(),
            host: node.hostname.clone(),
            kind: kind.to_owned(),
            msg: text.to_owned(),
        };
        let appended = self.events.append(event);
        self.said.append(&mut self.events.said);
        let Err(e) = appended else { return true };
        self.said.push((0, format!("{e}; the event is not recorded: {}: {kind}: {text}", node.label())));
        self.unrecorded = Some((now_ms, e.to_string()));
        false
    }

    /// Whom to ask for a heart-beat, and whether it did not answer last. Nodes that must not be asked are told.
    pub fn targets(&mut self) -> Vec<(SocketAddr, bool)> {
        let (mut targets, mut others) = (Vec::new(), Vec::new());
        for node in self.nodes.iter().filter(|n| !n.stopped) {
            if node.by == Some(node.ip) || self.allow.names(node.ip) {
                targets.push((node.at(), node.alive == Some(false)));
            } else {
                others.push(node.label());
            }
        }
        if others.len() > NAMED_MAX {
            let more = others.len().saturating_sub(NAMED_MAX);
            others.truncate(NAMED_MAX);
            others.push(format!("and {more} more"));
        }
        if !others.is_empty() {
            let why = "they did not register themselves from there, and `allow` does not name the addresses";
            self.said.push((1, format!("not asked for their heart-beat: {why}: {}", others.join(", "))));
        }
        targets
    }

    /// What came of a round.
    pub fn checked(&mut self, results: Vec<(SocketAddr, Result<(), String>)>, now_ms: i64) {
        for (at, result) in results {
            let count = if result.is_ok() { &metrics::BEATS_ANSWERED } else { &metrics::BEATS_MISSED };
            count.inc();
            // It may have unregistered meanwhile.
            let known = self.nodes.get(at.ip(), at.port()).filter(|n| !n.stopped);
            let Some(mut node) = known.cloned() else { continue };
            let changed = node.alive != Some(result.is_ok());
            let (was, since) = (node.alive, node.since_ms);
            if changed {
                (node.alive, node.since_ms) = (Some(result.is_ok()), now_ms);
                // It may have been silent for most of a round, or for as long as the monitor was.
                if result.is_err() && node.beat_ms > 0 {
                    node.since_ms = node.beat_ms.min(now_ms);
                }
            }
            node.heard = Some(result.as_ref().err().cloned().unwrap_or_default());
            match result {
                Ok(()) => {
                    node.beat_ms = now_ms;
                    if was == Some(false) {
                        let text = self.over(since, now_ms);
                        self.event(What::Error, &node, "heart-beat again", &text, now_ms);
                        self.outages.push((2, format!("node {}: answers again: {text}", node.label())));
                    }
                }
                Err(why) if changed => {
                    metrics::OUTAGES.inc();
                    // The time makes it another sentence than that of the outage before: the log leaves out what it said.
                    let text = format!("{why}; down since {}", self.seconds(node.since_ms));
                    self.event(What::Error, &node, "no heart-beat", &format!("{at}: {text}"), now_ms);
                    self.outages.push((1, format!("node {}: no heart-beat: {text}", node.label())));
                }
                Err(_) => {}
            }
            self.nodes.put(node, changed);
        }
    }

    /// What is said of an outage that is over.
    fn over(&self, since_ms: i64, now_ms: i64) -> String {
        let [from, to] = [since_ms, now_ms].map(|ms| self.seconds(ms));
        format!("down from {from} to {to}, {}", span(now_ms.saturating_sub(since_ms)))
    }

    /// A time without its milliseconds.
    pub fn seconds(&self, ms: i64) -> String {
        self.zone.format_ms(ms).chars().take(19).collect()
    }

    /// Reads `nodes.json` again, if somebody has edited it.
    pub fn read_again(&mut self, now_ms: i64) -> disk::Result<()> {
        let read = self.nodes.read_again();
        self.edited(now_ms);
        read
    }

    /// Takes over what a database has: nodes that were added or removed there by hand. To be called only when the database
    /// has every event of ours.
    pub fn adopt(&mut self, rows: Vec<Node>, now_ms: i64) -> disk::Result<()> {
        let theirs: BTreeMap<_, _> = rows.into_iter().map(|n| ((n.ip, n.port), n)).collect();
        let ours: Vec<Node> = self.nodes.iter().cloned().collect();
        for node in ours.iter().filter(|n| !n.stopped && !theirs.contains_key(&(n.ip, n.port))) {
            self.nodes.remove(node.ip, node.port);
            self.said.push((2, format!("node {}: removed in the database", node.label())));
        }
        for node in theirs.into_values() {
            let known = self.nodes.get(node.ip, node.port);
            // One that was stopped has no row, but for one that somebody has added since.
            if known.is_some_and(|n| n.stopped) || known.is_none() && self.nodes.len() < overview::NODES_MAX {
                self.said.push((2, format!("node {}: added in the database", node.label())));
                self.nodes.put(Node { registered_ms: now_ms, ..node }, true);
            }
        }
        self.nodes.save()
    }

    fn edited(&mut self, now_ms: i64) {
        self.said.append(&mut self.nodes.said);
        for node in std::mem::take(&mut self.nodes.removed) {
            self.event(What::Unregister, &node, "", "", now_ms);
            self.said.push((2, format!("node {}: removed in nodes.json", node.label())));
        }
        for node in std::mem::take(&mut self.nodes.added) {
            self.event(What::Register, &node, "", "", now_ms);
            self.said.push((2, format!("node {}: added in nodes.json", node.label())));
        }
    }

    /// Once a minute: hours that are too old go, and nodes that nobody misses any more. What changes is durable with the next
    /// [`Self::commit`].
    pub fn forget(&mut self, now_ms: i64) {
        let past: Vec<Node> = self.nodes.iter().filter(|n| n.is_past(now_ms)).cloned().collect();
        for node in past {
            self.nodes.remove(node.ip, node.port);
            if !node.stopped {
                self.event(What::Unregister, &node, "", "", now_ms);
                let days = nodes::SILENT_DAYS;
                self.outages
                    .push((1, format!("node {}: not heard for {days} days; forgotten", node.label())));
            }
        }
        self.turns.retain(|(ip, port)| self.nodes.get(ip, port).is_some());
        // After a kill it must still be known since when a node is down.
        self.nodes.keep_beats();
        let back = i64::try_from(self.keep_hours).unwrap_or(i64::MAX).saturating_mul(3_600_000);
        self.hours.forget_before(self.zone.hour_at(now_ms.saturating_sub(back)));
    }

    /// All that is known, for the page.
    pub fn overview(&self, now_ms: i64, host: &str) -> Overview {
        let errors = self.events.recent().map(|e| ErrorEntry {
            time_ms: if e.at_ms > 0 { e.at_ms } else { e.ms },
            arrived_ms: e.ms,
            node: if e.host.is_empty() { e.address() } else { format!("{} {}", e.host, e.address()) },
            kind: e.kind.clone(),
            message: e.msg.clone(),
        });
        let columns = self.zone.latest_hours(now_ms, self.keep_hours);
        let columns: Vec<String> = columns.iter().rev().map(ToString::to_string).collect();
        Overview {
            time_ms: now_ms,
            role: "monitor".into(),
            host: host.to_owned(),
            zone: self.zone.name(),
            newest: columns.first().cloned().unwrap_or_default(),
            span_hours: columns.len() as u64,
            columns,
            nodes: self.nodes.iter().map(|n| n.overview(now_ms)).collect(),
            hours: self.hours.list().collect(),
            errors: errors.collect(),
            ..Overview::default()
        }
    }

    /// Sets the numbers of nodes by their state, and of events that a database lacks.
    pub fn count(&self) {
        let states = [
            (Some(true), &metrics::NODES_UP),
            (Some(false), &metrics::NODES_DOWN),
            (None, &metrics::NODES_NOT_ASKED),
        ];
        for (alive, metric) in states {
            metric.set(self.nodes.iter().filter(|n| n.alive == alive && !n.stopped).count() as u64);
        }
        let waiting = self.delivered.map_or(0, |seq| self.events.newest().saturating_sub(seq));
        metrics::DATABASE_QUEUE.set(waiting);
        metrics::NODES_STOPPED.set(self.nodes.iter().filter(|n| n.stopped).count() as u64);
    }
}

/// A state file, if it is there. What cannot be read as one is set aside and told.
pub fn read_state(
    disk: &Disk,
    path: &Path,
    max: u64,
    next: &str,
    said: &mut Vec<Said>,
) -> disk::Result<Option<Vec<u8>>> {
    match disk.read_opt(path, max) {
        Err(e) if e.is_of_one_path() => {
            said.push((0, set_aside(disk, path, &reason(&e), next)?));
            Ok(None)
        }
        other => other,
    }
}

/// Without the path, which the sentence begins with.
fn reason(e: &disk::Error) -> String {
    format!("{}: {}", e.op, e.source)
}

/// Renames what is in the way of one of our files; the sentence about it, of which `next` is what comes of it.
fn set_aside(disk: &Disk, path: &Path, why: &str, next: &str) -> disk::Result<String> {
    let name = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(if n == 1 { ".damaged".to_owned() } else { format!(".damaged-{n}") });
        PathBuf::from(name)
    };
    // Bounded: what was set aside first is what somebody may still want. But a directory gives way to no file.
    let mut n = 1;
    while disk.stat(&name(n))?.is_some_and(|s| n < ASIDE_MAX || s.is_dir) {
        n = n.saturating_add(1);
    }
    let aside = name(n);
    disk.rename(path, &aside)?;
    Ok(format!("{}: {why}; it is now {}; {next}", path.display(), aside.display()))
}

fn answer(err: &str, msg: &str) -> Message {
    [("err", err), ("msg", msg)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Text of a peer: without control characters, and not too long.
fn short(text: &str, most: usize) -> String {
    escape(&text.chars().take(most).collect::<String>())
}

/// The time in a message, `2026/11/22 08:23:58` or with `-`, in the form that databases read; `None` = it is none.
fn own_time(text: &str) -> Option<String> {
    let form = |(i, b): (usize, u8)| match i {
        4 | 7 => b == b'/' || b == b'-',
        10 => b == b' ',
        13 | 16 => b == b':',
        _ => b.is_ascii_digit(),
    };
    if text.len() != 19 || !text.bytes().enumerate().all(form) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to).and_then(|t| t.parse::<u32>().ok());
    let ranges = [(5, 7, 1, 12), (8, 10, 1, 31), (11, 13, 0, 23), (14, 16, 0, 59), (17, 19, 0, 59)];
    let good =
        ranges.iter().all(|(a, b, low, high)| number(*a, *b).is_some_and(|n| (*low..=*high).contains(&n)));
    good.then(|| text.replace('/', "-"))
}

/// What [`own_time`] returned, in Unix milliseconds, if it was told in our zone.
fn own_ms(zone: &Zone, time: &str) -> Option<i64> {
    let number = |from: usize, to: usize| time.get(from..to).and_then(|t| t.parse::<i64>().ok());
    let hour: String = time.get(..13)?.chars().filter(char::is_ascii_digit).collect();
    let seconds = number(14, 16)?.saturating_mul(60).saturating_add(number(17, 19)?);
    Some(zone.starts_ms(Hour::parse(&hour)?)?.saturating_add(seconds.saturating_mul(1_000)))
}

/// `2d 3h 4m 5s`.
fn span(ms: i64) -> String {
    let s = u64::try_from(ms).unwrap_or(0).checked_div(1_000).unwrap_or(0);
    let part = |unit: u64, of: u64| s.checked_div(unit).unwrap_or(0).checked_rem(of).unwrap_or(0);
    let parts =
        [(part(86_400, u64::MAX), "d"), (part(3_600, 24), "h"), (part(60, 60), "m"), (part(1, 60), "s")];
    let words: Vec<String> = parts
        .iter()
        .skip_while(|(n, unit)| *n == 0 && *unit != "s")
        .map(|(n, unit)| format!("{n}{unit}"))
        .collect();
    words.join(" ")
}
