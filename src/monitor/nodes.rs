//! The list of nodes, in memory and as `nodes.json`.
//!
//! The file is plain JSON without a check, because people may edit it; a file that cannot be read is set aside.

use super::{Said, read_state, reason, set_aside};
use crate::disk::{self, Disk};
use crate::overview;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
/// Bytes of the file, at most.
const FILE_MAX: u64 = 16 << 20;

/// What comes of a list that was set aside.
const NEXT: &str = "correct it and put it back, or wait until the nodes have registered again";
/// A node that was stopped is shown for so many days.
pub const STOPPED_DAYS: i64 = 7;
/// A node that registered itself and has not been heard for so many days is forgotten.
pub const SILENT_DAYS: i64 = 30;
/// A lag that was told longer ago is not known any more: three times it was not told again.
const LAG_MS: i64 = 3 * 72 * 1_000;

/// A role on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its address.
    pub ip: IpAddr,
    /// The port on which it answers.
    pub port: u16,
    /// Of a link-local address: the link, as a number of this host.
    #[serde(default, skip_serializing_if = "is_no_link")]
    pub scope: u32,
    /// Its role.
    #[serde(default)]
    pub role: String,
    /// The host's name.
    #[serde(default)]
    pub hostname: String,
    /// The version of its program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The address from which it was registered; `None` = by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<IpAddr>,
    /// When it registered last (Unix milliseconds).
    #[serde(default)]
    pub registered_ms: i64,
    /// When it was heard last (Unix milliseconds).
    #[serde(default)]
    pub beat_ms: i64,
    /// Does it answer? `None` = it was not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alive: Option<bool>,
    /// Since when (Unix milliseconds): of one that does not answer, when it was heard last; of one that was stopped, when.
    #[serde(default)]
    pub since_ms: i64,
    /// It took its leave: it is not asked, and shown for some days.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stopped: bool,
    /// Since when the outage was that the operator's program was told last (Unix milliseconds); 0 = its end was told, too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub told_ms: i64,
    /// Why it did not answer last; empty = it did; `None` = not asked since the start.
    #[serde(skip)]
    pub heard: Option<String>,
    /// When it told its lag (Unix milliseconds), and that (seconds).
    #[serde(skip)]
    pub lag: Option<(i64, u64)>,
    /// It told then that it takes nothing, for lack of room.
    #[serde(skip)]
    pub paused: bool,
}

impl Node {
    /// One of which nothing is known.
    pub fn new(ip: IpAddr, port: u16) -> Self {
        Self {
            ip,
            port,
            scope: 0,
            role: String::new(),
            hostname: String::new(),
            version: String::new(),
            by: None,
            registered_ms: 0,
            beat_ms: 0,
            alive: None,
            since_ms: 0,
            stopped: false,
            told_ms: 0,
            heard: None,
            lag: None,
            paused: false,
        }
    }

    /// Where it answers.
    pub fn at(&self) -> SocketAddr {
        match self.ip {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, self.scope).into(),
            ip @ IpAddr::V4(_) => SocketAddr::new(ip, self.port),
        }
    }

    /// For messages: `10.0.0.7:4000 (tail, web1)`.
    pub fn label(&self) -> String {
        let known = [&self.role, &self.hostname].into_iter().filter(|t| !t.is_empty());
        let known: Vec<&str> = known.map(String::as_str).collect();
        let at = SocketAddr::new(self.ip, self.port);
        if known.is_empty() { at.to_string() } else { format!("{at} ({})", known.join(", ")) }
    }

    /// Has it been stopped, or not been heard, for so long that nobody misses it? One that was added by hand stays.
    pub fn is_past(&self, now_ms: i64) -> bool {
        let heard = if self.stopped { self.since_ms } else { self.beat_ms.max(self.registered_ms) };
        let days = if self.stopped { STOPPED_DAYS } else { SILENT_DAYS };
        let may_go = self.stopped || (self.by.is_some() && self.alive != Some(true));
        may_go && now_ms.saturating_sub(heard) > days.saturating_mul(86_400_000)
    }

    /// As the page has it.
    pub fn overview(&self, now_ms: i64) -> overview::Node {
        let lag = self.lag.filter(|(at, _)| now_ms.saturating_sub(*at) < LAG_MS);
        let lag = lag.filter(|_| self.alive != Some(false));
        overview::Node {
            host: self.hostname.clone(),
            ip: self.ip.to_string(),
            port: self.port,
            role: self.role.clone(),
            version: self.version.clone(),
            last_beat_ms: self.beat_ms,
            alive: self.alive,
            since_ms: self.since_ms,
            stopped: self.stopped,
            lag_s: lag.map(|(_, lag)| lag),
            paused: lag.is_some() && self.paused,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this form")]
fn is_false(b: &bool) -> bool {
    !*b
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this form")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this form")]
fn is_no_link(n: &u32) -> bool {
    *n == 0
}

#[derive(Serialize)]
struct FileOut<'a> {
    format: u32,
    nodes: Vec<&'a Node>,
}

#[derive(Deserialize)]
struct FileIn {
    format: u32,
    nodes: Vec<Node>,
}

fn read(bytes: &[u8]) -> Result<BTreeMap<(IpAddr, u16), Node>, String> {
    let file: FileIn = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if file.format != FORMAT {
        return Err(format!("format {} is not known to this version", file.format));
    }
    if file.nodes.len() > overview::NODES_MAX {
        return Err(format!("{} nodes; the limit is {}", file.nodes.len(), overview::NODES_MAX));
    }
    let nodes = file.nodes.into_iter().filter(|n| n.port > 0).map(|mut n| {
        n.ip = n.ip.to_canonical();
        ((n.ip, n.port), n)
    });
    Ok(nodes.collect())
}

/// See the module's header.
pub struct Nodes {
    disk: Disk,
    path: PathBuf,
    list: BTreeMap<(IpAddr, u16), Node>,
    /// What the file holds, as far as we wrote it.
    written: Vec<u8>,
    dirty: bool,
    /// Something was heard of a node since then, which alone is not worth a file.
    heard: bool,
    /// What was added to the file by hand, and not taken over yet.
    pub added: Vec<Node>,
    /// What was removed from it.
    pub removed: Vec<Node>,
    /// Sentences for the log.
    pub said: Vec<Said>,
}

impl Nodes {
    /// Reads the file. What is no list is set aside and told.
    pub fn open(disk: &Disk, path: &Path, said: &mut Vec<Said>) -> disk::Result<Self> {
        let written = read_state(disk, path, FILE_MAX, NEXT, said)?;
        let mut nodes = Self {
            disk: disk.clone(),
            path: path.to_owned(),
            list: BTreeMap::new(),
            written: written.clone().unwrap_or_default(),
            dirty: false,
            heard: false,
            added: Vec::new(),
            removed: Vec::new(),
            said: Vec::new(),
        };
        match written.as_deref().map(read) {
            None => {}
            Some(Ok(list)) => nodes.list = list,
            Some(Err(why)) => nodes.set_aside(&why)?,
        }
        said.append(&mut nodes.said);
        Ok(nodes)
    }

    /// What a file holds, or why it cannot be read, for somebody who only looks.
    pub fn look(disk: &Disk, path: &Path) -> disk::Result<Result<Vec<Node>, String>> {
        let bytes = match disk.read_opt(path, FILE_MAX) {
            // It is not for him, and may be well.
            Err(e) if e.is_of_one_path() && !e.denied() => return Ok(Err(e.to_string())),
            other => other?,
        };
        Ok(bytes.map_or(Ok(Vec::new()), |b| read(&b).map(|list| list.into_values().collect())))
    }

    fn set_aside(&mut self, why: &str) -> disk::Result<()> {
        self.said.push((0, set_aside(&self.disk, &self.path, why, NEXT)?));
        self.written = Vec::new();
        self.dirty = true;
        Ok(())
    }

    /// A node.
    pub fn get(&self, ip: IpAddr, port: u16) -> Option<&Node> {
        self.list.get(&(ip, port))
    }

    /// Adds or replaces one; `save` if that is to be durable soon.
    pub fn put(&mut self, node: Node, save: bool) {
        self.dirty |= save;
        self.heard = true;
        self.list.insert((node.ip, node.port), node);
    }

    /// Removes one.
    pub fn remove(&mut self, ip: IpAddr, port: u16) {
        self.dirty |= self.list.remove(&(ip, port)).is_some();
    }

    /// Forgets nodes that were stopped: all that are meant, but for those of whose outage the end is not told yet.
    pub fn forget_stopped(&mut self, meant: impl Fn(&Node) -> bool) {
        let before = self.list.len();
        self.list.retain(|_, n| !(n.stopped && n.told_ms == 0 && meant(n)));
        self.dirty |= self.list.len() != before;
    }

    /// Whoever was stopped first of those that are meant makes room, if any was.
    pub fn make_room(&mut self, meant: impl Fn(&Node) -> bool) {
        let first = self.list.values().filter(|n| n.stopped && meant(n)).min_by_key(|n| n.since_ms);
        if let Some((ip, port)) = first.map(|n| (n.ip, n.port)) {
            self.remove(ip, port);
        }
    }

    /// The next save writes the file although only heart-beats have changed.
    pub fn keep_beats(&mut self) {
        self.dirty |= self.heard;
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.list.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Writes the file if something changed.
    pub fn save(&mut self) -> disk::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        // Whoever has edited it meanwhile must not lose his change.
        self.read_again()?;
        self.write()
    }

    /// Writes the file with the newest heart-beats, at the end.
    pub fn close(&mut self) -> disk::Result<()> {
        self.keep_beats();
        self.save()
    }

    fn write(&mut self) -> disk::Result<()> {
        let file = FileOut { format: FORMAT, nodes: self.list.values().collect() };
        // Plain values cannot fail to be written.
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        self.disk.replace(&self.path, &bytes, 0o640)?;
        (self.written, self.dirty, self.heard) = (bytes, false, false);
        Ok(())
    }

    /// The file's content if it is not what we wrote.
    fn edited(&mut self) -> disk::Result<Option<Vec<u8>>> {
        let now = match self.disk.read_opt(&self.path, FILE_MAX) {
            Err(e) if e.is_of_one_path() => {
                self.set_aside(&reason(&e))?;
                return self.write().map(|()| None);
            }
            other => other?,
        };
        Ok(now.filter(|bytes| *bytes != self.written))
    }

    /// Takes over what somebody changed in the file.
    pub fn read_again(&mut self) -> disk::Result<()> {
        let Some(bytes) = self.edited()? else { return Ok(()) };
        let theirs = match read(&bytes) {
            Ok(list) => list,
            Err(why) => {
                self.set_aside(&why)?;
                return self.write();
            }
        };
        // Only what was in the file when we wrote it can have been removed from it; what came since stays.
        let before = read(&self.written).unwrap_or_default();
        let gone = |key: &(IpAddr, u16)| before.contains_key(key) && !theirs.contains_key(key);
        self.removed.extend(self.list.iter().filter(|(key, _)| gone(key)).map(|(_, n)| n.clone()));
        self.list.retain(|key, _| !gone(key));
        for (key, node) in theirs.iter().filter(|(key, _)| !before.contains_key(key)) {
            if !self.list.contains_key(key) {
                // Who registered it is for the monitor to say.
                let node = Node { by: None, ..node.clone() };
                self.added.push(node.clone());
                self.list.insert(*key, node);
            }
        }
        // What a role says of itself counts; of others somebody may say more.
        for (key, node) in &theirs {
            let words = |n: &Node| (n.role.clone(), n.hostname.clone());
            let changed = before.get(key).is_some_and(|b| words(b) != words(node));
            if let Some(known) = self.list.get_mut(key).filter(|n| changed && n.by.is_none()) {
                (known.role, known.hostname) = words(node);
                self.said.push((2, format!("node {}: changed in nodes.json", known.label())));
            }
        }
        self.write()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Monitor;
    use super::*;
    use crate::clock::Zone;
    use crate::config::Config;
    use std::path::Path;

    /// The story: the monitor was killed, and an outage that followed had begun ten minutes before it did.
    #[test]
    fn after_a_kill_it_is_known_to_the_minute_when_a_node_was_heard() {
        const T: i64 = 1_795_335_838_000;
        let (disk, _) = Disk::sim(1);
        let conf = Config::parse("c", b"[receiver]\nallow = any\n").monitor(true).unwrap().0;
        let open = || Monitor::open(&disk, Path::new("/state"), &conf, &Zone::named("UTC").unwrap()).unwrap();
        let at: SocketAddr = "10.0.0.7:4000".parse().unwrap();
        let mut m = open();
        m.take(br#"{"req":"register","port":"4000"}"#, at.ip(), T).unwrap();
        m.commit(T).unwrap();
        for minute in 1..5 {
            let now = T + minute * 60_000;
            m.checked(vec![(at, Ok(()))], now - 20_000);
            m.forget(now);
            m.commit(now).unwrap();
        }
        let mut m = open();
        m.checked(vec![(at, Err("refused".into()))], T + 900_000);
        assert_eq!(m.nodes.get(at.ip(), at.port()).unwrap().since_ms, T + 4 * 60_000 - 20_000);
        // Where nothing is heard nothing is written.
        m.commit(T).unwrap();
        let before = disk.stat(Path::new("/state/nodes.json")).unwrap();
        m.forget(T + 960_000);
        m.commit(T + 960_000).unwrap();
        assert_eq!(disk.stat(Path::new("/state/nodes.json")).unwrap(), before);
    }

    /// The story: the number was that of the last try, a minute ago.
    #[test]
    fn events_that_a_database_lacks_are_counted_while_it_is_away() {
        let (disk, _) = Disk::sim(1);
        let conf = Config::parse("c", b"[receiver]\nallow = any\n").monitor(true).unwrap().0;
        let mut m = Monitor::open(&disk, Path::new("/state"), &conf, &Zone::named("UTC").unwrap()).unwrap();
        let mut waiting = |delivered| {
            m.take(br#"{"msg":"x"}"#, "10.0.0.7".parse::<IpAddr>().unwrap(), 5).unwrap();
            m.delivered = delivered;
            m.count();
            crate::metrics::DATABASE_QUEUE.get()
        };
        assert_eq!([waiting(None), waiting(Some(1)), waiting(Some(1))], [0, 1, 2]);
    }
}
