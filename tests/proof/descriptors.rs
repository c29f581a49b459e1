//! Goal: a relay and a store that may have only 24 files and connections open start with 510 packs in their spools, go on
//! working, and come to an end with them (P1, P5). `tests/properties/descriptors.rs` has the hours that are written
//! at once; here it is the start.
//!
//! What it cannot show: a limit so low that not even one connection is left; then a role says so and ends.

use super::peer::{Hour, Pack, Peer};
use super::support::*;
use std::fs;

const HOSTS: usize = 30;
/// Packs of a host that wait; one more ends its hour.
const PACKS: usize = 17;
const LIMIT: u64 = 24;

/// Packs in a spool, its segments and marks as they lie on disk.
fn spooled(node: &Node) -> u64 {
    let status = logd(&["status".as_ref(), "--json".as_ref(), node.config().as_os_str()]);
    let json: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    json["roles"][0]["queue"]["packs"].as_u64().unwrap()
}

#[test]
fn with_24_descriptors_full_spools_are_emptied() {
    let temp = Temp::new("descriptors");
    let [hour] = past_hours(1)[..] else { panic!() };
    let hours: Vec<Hour> =
        (0..HOSTS).map(|n| Hour::new(&format!("web{n}"), &hour.to_string(), PACKS + 1, 40)).collect();
    let (store_addr, relay_addr) = (fixed_addr(), fixed_addr());
    let (store_listen, relay_listen) = (store_addr.to_string(), relay_addr.to_string());
    // Nothing leaves the store's spool by time, and many segments come and go.
    let keys = [("listen", store_listen.as_str()), ("checkpoint", "1h"), ("segment_size", "64k")];
    let mut store = store(&temp, &keys);
    store.kill();
    let mut relay =
        relay(&temp, &store_listen, &[("listen", relay_listen.as_str()), ("segment_size", "64k")]);

    // All hosts' hours are under way at once, and nobody takes what the relay has.
    let packs: Vec<Vec<Pack>> = hours.iter().map(Hour::packs).collect();
    let mut peer = Peer::to(relay_addr);
    for id in 0..PACKS {
        peer.send_all(packs.iter().map(|p| &p[id]));
    }
    relay.kill();
    let waiting = (HOSTS * PACKS) as u64;
    assert_eq!(spooled(&relay), waiting);

    // The relay starts with them and gives them to a store that has as few descriptors.
    for node in [&mut relay, &mut store] {
        node.limit_files(LIMIT);
        node.restart();
        node.ready();
    }
    until(SOON, "the store to have all", || (spooled(&store) == waiting).then_some(()));
    // The store, too, starts with all of them: what it has written out is not proven yet.
    store.kill();
    store.restart();
    store.ready();
    let limit = |node: &Node| {
        let pid = node.pid().unwrap().as_raw_nonzero();
        fs::read_to_string(format!("/proc/{pid}/limits")).unwrap()
    };
    for node in [&relay, &store] {
        let limits = limit(node);
        let files = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
        assert!(files.contains(&format!(" {LIMIT} ")), "{files}");
    }

    // They work: the rest comes, and every hour is whole.
    let mut peer = Peer::to(relay_addr);
    peer.send_all(packs.iter().map(|p| &p[PACKS]));
    let save = temp.path("save");
    for h in &hours {
        let tag = certified(&save, &h.name, &h.hour);
        assert_eq!((&tag["verified"], &tag["packs"]), (&true.into(), &(PACKS + 1).into()), "{tag}");
        assert!(fs::read(save.join(format!("log_data/{}_{}", h.name, h.hour))).unwrap() == h.bytes());
    }
    assert!(relay.runs() && store.runs(), "a role ended by itself");
    assert_eq!((relay.terminate(), store.terminate()), (0, 0));
    assert_eq!((spooled(&relay), spooled(&store)), (0, 0), "packs that nobody took out of a spool");
    proved(
        "full spools with 24 descriptors, relay and store started",
        format!("{} packs", HOSTS * (PACKS + 1)),
        "0 lost, 0 doubled, 0 torn, 0 false certificates",
    );
}
