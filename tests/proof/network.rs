//! Goal: whatever the network does to a connection, at whichever byte, in whichever direction, costs time and nothing
//! else: the hour is stored once, identical, and certified (P1, P2, P3).
//!
//! The story: the original's relay was given a header split over two segments and called it wrong; a pack whose answer
//! was lost was stored twice, and on five connections five times.
//!
//! Real processes, with [`Proxy`] between follower and store, follower and relay, or relay and store. Every case has an
//! hour of its own, of three packs. The proxy waits for the frame that carries one pack of that hour and spoils the
//! connection when so many bytes of it, or of its answer, have passed; what follows passes unharmed. One follower per
//! kind of fault ships hundreds of such hours over several connections, so that a blackhole, which costs the sender its
//! timeout, delays no other case, and packs overtake one another while their elders are sent again.
//!
//! What it cannot show: the kernel may join single bytes that were written one after another, and what is in flight
//! inside the kernel when a connection is cut is its own affair. The machine stays up; for power cuts see `crash`.

use super::support::proxy::{Fault, Kind, Proxy, Way};
use super::support::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const KINDS: [(Kind, &str); 5] = [
    (Kind::Fin, "fin"),
    (Kind::Rst, "rst"),
    (Kind::Blackhole, "blackhole"),
    (Kind::Dribble, "dribble"),
    (Kind::Twice, "twice"),
];
/// Headers hold times and numbers whose length differs a little from hour to hour.
const SLACK: usize = 24;
/// Packs per hour, one line each.
const PACKS: u64 = 3;
/// A follower that takes longer than this hangs.
const HANG: &str = "500s";

/// Where the proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    TailToStore,
    TailToRelay,
    RelayToStore,
}

/// The processes of one leg; the follower sends to `entry`.
struct Chain {
    proxy: Proxy,
    store: Node,
    relay: Option<Node>,
    entry: SocketAddr,
    temp: Temp,
}

/// Deadlines of a receiver that make it give up silent connections while the test runs.
const DEADLINES: [(&str, &str); 3] =
    [("header_timeout", "2s"), ("body_timeout", "2s"), ("idle_timeout", "4s")];
/// A sender's: a blackhole costs this much. Connections enough for as many at once.
const PATIENCE: [(&str, &str); 3] = [("ack_timeout", "300ms"), ("backoff_max", "200ms"), ("senders", "16")];

impl Chain {
    fn start(leg: Leg) -> Self {
        let temp = Temp::new("network");
        let mut store = store(&temp, &DEADLINES);
        let proxy;
        let relay_to = |to: SocketAddr| {
            let mut relay = relay(&temp, &to.to_string(), &[&DEADLINES[..], &PATIENCE].concat());
            let addr = relay.addr();
            (relay, addr)
        };
        let (relay, entry) = match leg {
            Leg::TailToStore => {
                proxy = Proxy::start(store.addr());
                (None, proxy.addr())
            }
            Leg::TailToRelay => {
                let (relay, addr) = relay_to(store.addr());
                proxy = Proxy::start(addr);
                (Some(relay), proxy.addr())
            }
            Leg::RelayToStore => {
                proxy = Proxy::start(store.addr());
                let (relay, addr) = relay_to(proxy.addr());
                (Some(relay), addr)
            }
        };
        Self { proxy, store, relay, entry, temp }
    }

    /// Writes the hours of a host, oldest first.
    fn write(&self, host: &str, hours: &[String], seed: u64) {
        for (hour, n) in hours.iter().zip(0..) {
            let mut lines = Lines::new(host, seed ^ n);
            self.temp.file(&format!("{host}/log.{hour}"), lines.block(PACKS));
        }
    }

    /// A follower that ships a host's hours and ends.
    fn follower(&self, host: &str) -> Node {
        let pattern = self.temp.path(&format!("{host}/log.<%Y%m%d%H>"));
        // A pack per line.
        let keys = [&PATIENCE[..], &[("recv_buffer_size", "1"), ("scan_interval", "20ms")]].concat();
        let args = ["--once", "--timeout", HANG];
        tail(&self.temp, host, &pattern, &self.entry.to_string(), &keys, &args)
    }

    /// Names of the tags of hours. Days have one, too, and one that is being written has a name of its own.
    fn tag_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.temp.path("save/received")).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        names.filter(|n| !n.starts_with('.') && n.matches('_').count() == 2).collect()
    }

    /// Tags of hours by `NAME_HOUR`.
    fn tags(&self) -> BTreeMap<String, Value> {
        let read = self.tag_names().into_iter().map(|name| {
            let text = fs::read(self.temp.path("save/received").join(&name)).unwrap();
            let (hour, _lines) = name.rsplit_once('_').unwrap();
            (hour.to_owned(), serde_json::from_slice(&text).unwrap())
        });
        read.collect()
    }

    /// Every hour is identical to its source, certified, and stored once.
    fn check(&self, hosts: &[(&str, &[String])]) -> BTreeMap<String, Value> {
        let expected: usize = hosts.iter().map(|(_, hours)| hours.len()).sum();
        moves("a tag for each hour", || expected.saturating_sub(self.tag_names().len()));
        let tags = self.tags();
        assert_eq!(tags.len(), expected, "more tags than hours");
        let save = self.temp.path("save");
        for (host, hours) in hosts {
            for hour in *hours {
                let key = format!("{host}_{hour}");
                assert_same(
                    &save.join("log_data").join(&key),
                    &self.temp.path(&format!("{host}/log.{hour}")),
                );
                let t = &tags[&key];
                assert_eq!((&t["verified"], &t["lines"]), (&true.into(), &PACKS.into()), "{t}");
                assert_eq!(t["revision"], 1, "it was certified before it was whole: {t}");
                let proof = fs::read(save.join("headers").join(&key)).unwrap();
                assert_eq!(
                    memchr::memchr_iter(b'\n', &proof).count() as u64,
                    t["packs"].as_u64().unwrap(),
                    "{key}: packs in the proof"
                );
            }
        }
        for dir in ["aside", "doubtful"] {
            assert_eq!(files_below(&save.join(dir)), Vec::<String>::new(), "set aside in {dir}/");
        }
        tags
    }

    /// Waits until the relay has passed on everything.
    fn drained(&self) {
        let Some(relay) = &self.relay else { return };
        moves("the relay's spool to drain", || {
            let status = logd(&["status".as_ref(), "--json".as_ref(), relay.config().as_os_str()]);
            let json: Value = serde_json::from_str(&status.out).unwrap();
            json["roles"][0]["queue"]["packs"].as_u64().unwrap() as usize
        });
    }
}

/// Waits until nothing is left; panics when what is left stays the same for too long.
fn moves(what: &str, mut left: impl FnMut() -> usize) {
    let mut last = usize::MAX;
    while last > 0 {
        last = until(SOON, &format!("{what}; {last} are left"), || {
            // Looking is work, and it takes from those who are to do it.
            thread::sleep(Duration::from_millis(50));
            Some(left()).filter(|n| *n < last)
        });
    }
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.file_type().unwrap().is_dir() {
            out.extend(files_below(&e.path()));
        } else {
            out.push(e.path().display().to_string());
        }
    }
    out
}

/// Faults of one kind at every `step`-th byte from `first` on of every frame, and at every byte of every answer.
fn places(kind: Kind, longest: &BTreeMap<u64, usize>, first: usize, step: usize) -> Vec<(u64, Fault)> {
    let forward = longest.iter().flat_map(|(id, len)| (0..=len + SLACK).map(|at| (*id, at)));
    let forward = forward.skip(first).step_by(step).map(|(id, at)| (id, Way::Forward, at));
    // `ok` is two bytes.
    let backward = longest.keys().flat_map(|id| (0..=2).map(|at| (*id, Way::Backward, at)));
    forward.chain(backward).map(|(id, way, at)| (id, Fault { kind, way, at })).collect()
}

/// Runs all cases of a leg; how many.
fn run(leg: Leg, seed: u64, step: usize, hours: &[String]) -> u64 {
    let started = Instant::now();
    let mut chain = Chain::start(leg);
    // An hour without a fault shows how long frames are.
    let last = &hours[hours.len() - 1..];
    chain.write("calm", last, seed);
    assert_eq!(chain.follower("calm").wait(SOON), 0);
    // A relay may still be passing it on.
    certified(&chain.temp.path("save"), "calm", &last[0]);
    let longest = chain.proxy.longest();
    assert!(longest.len() as u64 >= PACKS, "{longest:?}");

    let mut hosts: Vec<(&str, &[String])> = vec![("calm", last)];
    for ((kind, host), n) in KINDS.iter().zip(0..) {
        let places = places(*kind, &longest, (seed + n) as usize % step, step);
        let mine = &hours[hours.len() - places.len()..];
        for ((id, fault), hour) in places.into_iter().zip(mine) {
            chain.proxy.plan(((*host).to_owned(), hour.clone(), id), fault);
        }
        chain.write(host, mine, seed ^ (n << 32));
        hosts.push((host, mine));
    }
    let cases = chain.proxy.left().len() as u64;
    let mut followers: Vec<Node> = KINDS.iter().map(|(_, host)| chain.follower(host)).collect();
    for f in &mut followers {
        assert_eq!(f.wait(Duration::from_secs(520)), 0, "not everything was acknowledged");
    }
    // What a relay has taken it may still be passing on.
    moves("all faults to strike", || chain.proxy.left().len());
    let shipped = started.elapsed();
    let tags = chain.check(&hosts);

    // Old bytes come by once more, long after.
    let replayed = chain.proxy.replay();
    chain.drained();
    assert_eq!(chain.check(&hosts), tags, "a replay changed a certificate");
    until(SOON, "receivers to give up silent connections", || (chain.proxy.silent().0 == 0).then_some(()));
    assert_eq!(chain.proxy.silent().1, 0, "connections that a receiver did not give up");
    if let Some(relay) = &mut chain.relay {
        assert_eq!(relay.terminate(), 0);
    }
    assert_eq!(chain.store.terminate(), 0);
    for node in [Some(&chain.store), chain.relay.as_ref()].into_iter().flatten() {
        let log = node.log_of_all_starts();
        for word in ["conflict", "damaged", "for good", "wrong"] {
            assert!(!log.contains(word), "{word:?} in {log}");
        }
    }
    let verify = logd(&["verify".as_ref(), chain.temp.path("save").as_os_str()]);
    assert_eq!(verify.code, 0, "{verify:?}");
    println!(
        "{leg:?}: {cases} cases on {} connections, frames {longest:?}, {replayed} packs replayed; {:.1} s, {:.1} s in all",
        chain.proxy.connections(),
        shipped.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    cases
}

/// Packs of megabytes, so that faults strike while the sender is still writing and the receiver's window is full.
#[test]
fn large_packs_spoiled_half_way_cost_nothing_but_time() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    let per_kind = if soak() { 12 } else { 3 };
    let mut chain = Chain::start(Leg::TailToStore);
    let hours: Vec<String> =
        past_hours(per_kind * KINDS.len()).iter().map(std::string::ToString::to_string).collect();
    for (n, hour) in hours.iter().enumerate() {
        // Half of it is left after compression: more than the kernel's buffers take.
        let mut text = String::new();
        while text.len() < 14 << 20 {
            for _ in 0..64 {
                write!(text, "{:016x}", rng.next_u64()).unwrap();
            }
            text.push('\n');
        }
        chain.temp.file(&format!("big/log.{hour}"), text);
        let (kind, _) = KINDS[n % KINDS.len()];
        // A dribble is for the last bytes only, or it takes minutes.
        let at = if kind == Kind::Dribble { 7_900_000 } else { rng.below(7 << 20) as usize };
        chain.proxy.plan(("big".into(), hour.clone(), 1), Fault { kind, way: Way::Forward, at });
    }
    let pattern = chain.temp.path("big/log.<%Y%m%d%H>");
    let keys = [
        ("pack_bytes", "16M"),
        ("tail_memory", "64M"),
        ("max_line", "16M"),
        ("ack_timeout", "5s"),
        ("backoff_max", "200ms"),
    ];
    let args = ["--once", "--timeout", HANG];
    let mut follower = tail(&chain.temp, "big", &pattern, &chain.entry.to_string(), &keys, &args);
    assert_eq!(follower.wait(Duration::from_secs(520)), 0, "not everything was acknowledged");
    assert!(chain.proxy.left().is_empty(), "faults that did not strike: {:?}", chain.proxy.left());
    let save = chain.temp.path("save");
    for hour in &hours {
        let tag = certified(&save, "big", hour);
        assert_eq!((&tag["verified"], &tag["revision"]), (&true.into(), &1.into()), "{tag}");
        assert_same(&save.join(format!("log_data/big_{hour}")), &chain.temp.path(&format!("big/log.{hour}")));
    }
    let tags = chain.tags();
    let replayed = chain.proxy.replay();
    assert_eq!(chain.tags(), tags, "a replay changed a certificate");
    assert_eq!(chain.store.terminate(), 0);
    println!(
        "frames {:?}, {} connections, {replayed} packs replayed",
        chain.proxy.longest(),
        chain.proxy.connections()
    );
    proved(
        "large packs cut, reset, silenced, dribbled or repeated half way",
        format!("{} cases", hours.len()),
        "0 lost, 0 doubled, 0 torn, 0 false certificates",
    );
}

/// Planted fault: a network that swallows a pack and answers for it loses it, and the store must not certify the hour.
#[test]
fn an_answer_that_lies_is_found_out() {
    let mut chain = Chain::start(Leg::TailToStore);
    let hours: Vec<String> = past_hours(2).iter().map(std::string::ToString::to_string).collect();
    chain.write("web1", &hours, 1);
    let fault = Fault { kind: Kind::Lie, way: Way::Forward, at: 0 };
    chain.proxy.plan(("web1".into(), hours[0].clone(), 2), fault);
    assert_eq!(chain.follower("web1").wait(SOON), 0);
    let save = chain.temp.path("save");
    certified(&save, "web1", &hours[1]);
    assert_eq!(tag(&save, "web1", &hours[0]), None, "a certificate for an hour that lacks a pack");
    // What it knows is on disk when it ends.
    assert_eq!(chain.store.terminate(), 0);
    let config = chain.store.config();
    let missing = logd(&["status".as_ref(), "--missing".as_ref(), config.as_os_str()]);
    assert_eq!(missing.out, format!("web1 {} 2-2\n", hours[0]), "{missing:?}");
    assert_eq!(tag(&save, "web1", &hours[0]), None, "a certificate for an hour that lacks a pack");
}

#[test]
fn a_connection_spoiled_at_any_byte_costs_nothing_but_time() {
    let seed = seed();
    let step = if soak() { 1 } else { 5 };
    // Frames are shorter than this in all; each case needs an hour.
    let hours: Vec<String> = past_hours(4000 / step).iter().map(std::string::ToString::to_string).collect();
    let cases: u64 = thread::scope(|s| {
        let hours = &hours;
        let legs = [Leg::TailToStore, Leg::TailToRelay, Leg::RelayToStore];
        let runs = legs.map(|leg| s.spawn(move || run(leg, seed, step, hours)));
        runs.into_iter().map(|r| r.join().unwrap()).sum()
    });
    proved(
        "connections cut, reset, silenced, dribbled or repeated at a byte",
        format!("{cases} cases"),
        "0 lost, 0 doubled, 0 torn, 0 false certificates",
    );
}
