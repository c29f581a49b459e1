//! The connections of a receiver, and which of them makes room for another one.

use crate::config::Allow;
use crate::disk::sim::Rng;
use crate::log::{Log, count};
use crate::receiver::lock;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Shutdown as Half, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A connection, as its accepting thread sees it.
pub struct Peer {
    pub stream: Arc<TcpStream>,
    pub ip: IpAddr,
    /// Its address, or of IPv6 the network of it: whom it is counted for.
    pub from: IpAddr,
    /// When it was accepted, in milliseconds of the monotonic clock.
    pub began: u64,
    /// The same of its last frame; `u64::MAX` while one is under way.
    pub idle_since: Arc<AtomicU64>,
    /// It has a thread of its own.
    pub entered: Arc<AtomicBool>,
    /// It has shown a good signature.
    pub proven: Arc<AtomicBool>,
    /// It had to make room for another one.
    pub closing: AtomicBool,
}

impl Peer {
    /// May it make room for a newcomer? Where senders must prove who they are, nobody who has goes for one who has not.
    fn may_go(&self, must_prove: bool) -> bool {
        !(self.closing.load(Ordering::Relaxed) || must_prove && self.proven.load(Ordering::Relaxed))
    }

    /// It goes.
    fn close(&self) -> IpAddr {
        self.closing.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(Half::Both);
        self.ip
    }

    /// Since when it has said nothing that counts, if it may go for that: between two frames, or before its first header.
    fn waits_since(&self) -> Option<u64> {
        let idle_since = self.idle_since.load(Ordering::Relaxed);
        if self.entered.load(Ordering::Relaxed) {
            (idle_since != u64::MAX).then_some(idle_since)
        } else {
            Some(self.began)
        }
    }
}

/// All of them.
pub type Peers = Arc<Mutex<All>>;

/// See above. A crowd comes and goes a thousand times a second: what is asked of an address looks at its own only.
#[derive(Default)]
pub struct All {
    by_number: HashMap<u64, Peer>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
}

impl All {
    /// How many.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Each of them.
    pub fn values(&self) -> impl Iterator<Item = &Peer> {
        self.by_number.values()
    }

    /// A new one.
    pub fn insert(&mut self, number: u64, peer: Peer) {
        self.by_address.entry(peer.from).or_default().insert(number);
        self.by_number.insert(number, peer);
    }

    /// One that has ended.
    pub fn remove(&mut self, number: u64) {
        let Some(peer) = self.by_number.remove(&number) else { return };
        if let Some(numbers) = self.by_address.get_mut(&peer.from) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_address.remove(&peer.from);
            }
        }
    }

    /// Those of an address, the oldest first.
    fn of(&self, from: IpAddr) -> impl Iterator<Item = &Peer> {
        let numbers = self.by_address.get(&from).into_iter().flatten();
        numbers.filter_map(|number| self.by_number.get(number))
    }
}

/// Connections of an address, and how many of them have shown no good signature.
pub fn held(peers: &Peers, from: IpAddr) -> (usize, usize) {
    let peers = lock(peers);
    peers.of(from).fold((0, 0), |(all, unproven), p| {
        (all.saturating_add(1), unproven.saturating_add(usize::from(p.may_go(true))))
    })
}

/// Closes the connections of those who may not connect any more. What they had under way was not answered and is kept there.
pub fn close_strangers(peers: &Peers, allow: &Allow, log: &Log) {
    let peers = lock(peers);
    let strangers: Vec<&Peer> = peers.values().filter(|p| !allow.permits(p.ip)).collect();
    for p in &strangers {
        let _ = p.stream.shutdown(Half::Both);
    }
    if !strangers.is_empty() {
        log.info(&format!(
            "{} closed that `allow` does not name any more",
            count(strangers.len(), "connection")
        ));
    }
}

/// Makes room: the connection that has been idle longest goes.
pub fn close_idle(peers: &Peers, must_prove: bool) -> Option<IpAddr> {
    let peers = lock(peers);
    let idle =
        peers.values().filter(|p| p.may_go(must_prove) && p.idle_since.load(Ordering::Relaxed) != u64::MAX);
    idle.min_by_key(|p| p.idle_since.load(Ordering::Relaxed)).map(Peer::close)
}

/// Whoever signs shows it again: keys are others now.
pub fn unprove(peers: &Peers) {
    lock(peers).values().for_each(|p| p.proven.store(false, Ordering::Relaxed));
}

/// Other certificates are good now: who says nothing has to come again and show his; who sends is asked at his next pack.
pub fn close_all_idle(peers: &Peers) {
    for p in lock(peers).values().filter(|p| p.idle_since.load(Ordering::Relaxed) != u64::MAX) {
        p.idle_since.store(u64::MAX, Ordering::Relaxed);
        let _ = p.stream.shutdown(Half::Both);
    }
}

/// Makes room among the connections that have shown no good signature, of one address or of all: the one goes for which its peer
/// has been waited longest. Behind one address there may be many hosts, and one of them must not lock out the others by connections
/// on which it says nothing, or never ends a header. A host that signs sends as soon as it is connected, so it is hardly ever that
/// one. With TLS (`any`) a host that is far away says nothing for some round trips and would always be that one in a flood: any of
/// them goes.
pub fn close_unproven(peers: &Peers, from: Option<IpAddr>, any: Option<&mut Rng>) -> Option<IpAddr> {
    let peers = lock(peers);
    let waits = |p: &&Peer| p.may_go(true) && p.waits_since().is_some();
    let mut all: Vec<&Peer> = match from {
        Some(from) => peers.of(from).filter(waits).collect(),
        None => peers.values().filter(waits).collect(),
    };
    if let Some(rng) = any {
        let at = rng.below((all.len() as u64).max(1));
        all = usize::try_from(at).ok().and_then(|at| all.get(at).copied()).into_iter().collect();
    }
    all.into_iter().min_by_key(|p| p.waits_since()).map(Peer::close)
}

/// Nobody is idle: the address that has by far the most connections gives up the one that has not shown a key, or the oldest.
/// A host that keeps thousands of frames under way must not keep the others out.
pub fn close_of_many(peers: &Peers, newcomer: IpAddr, must_prove: bool) -> Option<IpAddr> {
    let peers = lock(peers);
    // Those who may not go are no reason to look among them.
    let staying = |p: &&Peer| p.may_go(must_prove);
    let count = |from: IpAddr| peers.of(from).filter(staying).count();
    let own = count(newcomer);
    let all = peers.by_address.keys().map(|from| (count(*from), *from));
    let (_, most) = all.filter(|(n, _)| *n > own.saturating_add(1)).max()?;
    // Of several that are alike the first is the oldest.
    let of_it = peers.of(most).filter(staying);
    of_it.min_by_key(|p| p.proven.load(Ordering::Relaxed)).map(Peer::close)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::allow::network;
    use std::net::TcpListener;

    /// Who has an IPv6 address has a network of them.
    #[test]
    fn connections_over_ipv6_are_counted_by_network() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peers: Peers = Arc::default();
        let connect = |id: u64, ip: &str| {
            let stream = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let peer = Peer {
                stream,
                ip: ip.parse().unwrap(),
                from: network(ip.parse().unwrap()),
                began: id,
                idle_since: Arc::new(AtomicU64::new(id)),
                entered: Arc::default(),
                proven: Arc::default(),
                closing: AtomicBool::new(false),
            };
            lock(&peers).insert(id, peer);
        };
        for n in 0..5 {
            connect(n, &format!("2001:db8:0:1:{n:x}::7"));
        }
        for (id, ip) in [(5, "2001:db8:0:2::7"), (6, "192.0.2.1"), (7, "192.0.2.2"), (8, "::ffff:192.0.2.2")]
        {
            connect(id, ip);
        }
        let of = |ip: &str| held(&peers, network(ip.parse().unwrap())).0;
        assert_eq!(["2001:db8:0:1::", "2001:db8:0:2::1", "192.0.2.1", "192.0.2.2"].map(of), [5, 1, 1, 2]);
        // It is such a network that makes room for others.
        assert!(close_of_many(&peers, network("192.0.2.9".parse().unwrap()), false).is_some());
        let closing = |peers: &All| -> Vec<u64> {
            let numbers = peers.by_number.iter().filter(|(_, p)| p.closing.load(Ordering::Relaxed));
            numbers.map(|(number, _)| *number).collect()
        };
        assert_eq!(closing(&lock(&peers)), [0]);
        // Those that end are counted no longer.
        (0..9).for_each(|number| lock(&peers).remove(number));
        assert!(lock(&peers).by_number.is_empty() && lock(&peers).by_address.is_empty());
    }
}
