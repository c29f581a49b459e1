//! What the original loses, stores twice or certifies wrongly, ours does not: each test is one of its failures.
//!
//! The original acknowledges before it writes, remembers what it acknowledged and not what it stored, drops a body
//! whose MD5 it has seen, does not know SIGTERM, and takes every sender for one, because on a current system all of
//! them send an empty name. Frames that are wrong on purpose are in `hostile`.

use super::peer::{Answer, Hour, Pack, Peer, Random, lines, until};
use super::store::Store;
use std::net::UdpSocket;
use std::sync::Barrier;

const HOUR: &str = "2026112205";

#[test]
fn eighty_acknowledged_packs_survive_kill_9() {
    let mut store = Store::new("eighty", &[]);
    let hour = Hour::new("web1", HOUR, 100, 24);
    let packs = hour.packs();
    let mut peer = store.peer();
    peer.send_all(&packs[..80]);
    // One more is on its way and nobody has said `ok` to it.
    let frame = packs[80].frame();
    peer.write(&frame[..frame.len() / 2]);
    store.kill();
    let stored = store.data("web1", HOUR);
    assert!(hour.bytes().starts_with(&stored), "what was there when it died is a part of the hour");

    store.start();
    store.wait_data("web1", HOUR, hour.raws[..80].concat().len());
    assert_eq!(store.data("web1", HOUR), hour.raws[..80].concat());
    // The sender has no idea which ones got through: it sends them all.
    store.peer().send_all(&packs);
    store.proven(&hour, 1);
}

#[test]
fn kill_9_at_random_moments_tears_and_doubles_nothing() {
    let mut random = Random::new();
    let mut store = Store::new("random", &[("checkpoint", "100ms")]);
    let hour = Hour::new("web1", HOUR, 60, 200);
    let old = Hour::new("10.0.0.7", HOUR, 60, 50);
    let (packs, old_packs) = (hour.packs(), old.original_packs());
    let (mut acknowledged, mut kills) = (0, 0);
    while acknowledged < packs.len() {
        let some = (1 + random.below(20)).min(packs.len() - acknowledged);
        let mut peer = store.peer();
        peer.send_all(&packs[acknowledged..acknowledged + some]);
        peer.send_all(&old_packs[acknowledged..acknowledged + some]);
        acknowledged += some;
        store.kill();
        kills += 1;
        let stored = store.data("web1", HOUR);
        assert!(hour.bytes().starts_with(&stored), "after kill {kills}");
        store.start();
        // A sender that goes back a little, as after an `ok` that never reached it.
        let back = acknowledged - random.below(acknowledged.min(5));
        store.peer().send_all(&packs[back..acknowledged]);
    }
    println!("{kills} kills");
    store.proven(&hour, 1);
    store.unverified(&old);
}

#[test]
fn a_pack_that_comes_again_is_stored_once() {
    let mut store = Store::new("again", &[]);
    let ours = Hour::new("web1", HOUR, 5, 40);
    let original = Hour::new("web2", HOUR, 5, 40);
    for (hour, packs) in [(&ours, ours.packs()), (&original, original.original_packs())] {
        let mut peer = store.peer();
        for p in &packs[..4] {
            // At once, over another connection, and when it is in its file.
            assert_eq!(peer.send(p), Answer::Ok);
            assert_eq!(peer.send(p), Answer::Ok);
            assert_eq!(store.peer().send(p), Answer::Ok);
        }
        store.wait_data(&hour.name, HOUR, hour.raws[..4].concat().len());
        store.peer().send_all(&packs[..4]);
        store.kill();
        store.start();
        store.peer().send_all(&packs[..4]);
        store.peer().send_all(&packs);
    }
    store.proven(&ours, 1);
    store.unverified(&original);
    let before = (store.tag("web1", HOUR), store.tag("web2", HOUR));
    // The whole hour again when it has its certificate, in this process and in the next.
    for _ in 0..2 {
        store.peer().send_all(&ours.packs());
        store.peer().send_all(&original.original_packs());
        store.settle();
        assert_eq!((store.tag("web1", HOUR), store.tag("web2", HOUR)), before);
        assert_eq!(store.data("web1", HOUR), ours.bytes());
        assert_eq!(store.data("web2", HOUR), original.bytes());
        store.restart();
    }
}

#[test]
fn one_pack_on_five_connections_at_once_is_stored_once() {
    let store = Store::new("five", &[]);
    let ours = Hour::new("web1", HOUR, 12, 3000);
    let original = Hour::new("web2", HOUR, 12, 3000);
    for packs in [ours.packs(), original.original_packs()] {
        let start = Barrier::new(5);
        std::thread::scope(|s| {
            for _ in 0..5 {
                s.spawn(|| {
                    let mut peer = store.peer();
                    for p in &packs {
                        start.wait();
                        peer.deliver(p);
                    }
                });
            }
        });
    }
    store.proven(&ours, 1);
    store.unverified(&original);
    assert!(store.log().contains("came again"), "none of them met another");
}

#[test]
fn equal_bodies_are_all_stored() {
    let store = Store::new("equal", &[]);
    let raw = lines("the same", 0, 100);
    // From two hosts, from one host under several numbers, and in two hours of one host. The bodies of the original's
    // packs are equal to the last byte.
    let twice = |name: &str, hour: &str| Hour {
        name: name.into(),
        hour: hour.into(),
        generation: 0,
        raws: vec![raw.clone(); 7],
    };
    let ours = [twice("web1", HOUR), twice("web2", HOUR), twice("web1", "2026112206")];
    let original = [twice("10.0.0.1", HOUR), twice("10.0.0.2", HOUR), twice("10.0.0.1", "2026112206")];
    let mut peer = store.peer();
    for hour in &ours {
        peer.send_all(&hour.packs());
    }
    for hour in &original {
        let packs = hour.original_packs();
        assert!(packs.iter().all(|p| p.body == packs[0].body));
        peer.send_all(&packs);
    }
    for hour in &ours {
        store.proven(hour, 1);
    }
    for hour in &original {
        store.unverified(hour);
    }
}

#[test]
fn ten_thousand_lines_repeated_fifty_times_are_half_a_million() {
    let store = Store::new("repeated", &[]);
    let raw = lines("again", 0, 10_000);
    let hour = Hour { name: "web1".into(), hour: HOUR.into(), generation: 0, raws: vec![raw; 50] };
    store.peer().send_all(&hour.packs());
    let c = store.proven(&hour, 1);
    assert_eq!(c["lines"], 500_000);
    let old = Hour { name: "10.0.0.1".into(), ..hour };
    store.peer().send_all(&old.original_packs());
    assert_eq!(store.unverified(&old)["lines"], 500_000);
}

// ---- SIGTERM ----

#[test]
fn sigterm_stops_with_everything_in_its_file() {
    let mut store = Store::new("sigterm", &[]);
    let hour = Hour::new("web1", HOUR, 30, 100);
    let packs = hour.packs();
    let (mut peer, _idle) = (store.peer(), store.peer());
    peer.send_all(&packs[..20]);
    let log = store.stop();
    // Nothing is left to be done by a later start.
    let part = hour.raws[..20].concat();
    assert_eq!(store.data("web1", HOUR), part);
    assert_eq!(store.headers("web1", HOUR).split(|b| *b == b'\n').count(), 21);
    assert!(log.contains("0 wait in the spool"), "{log}");
    let segments = std::fs::read_dir(store.state("spool")).unwrap().count();
    assert_eq!(segments, 0, "files left in the spool");
    store.start();
    store.peer().send_all(&packs[18..]);
    store.proven(&hour, 1);
}

#[test]
fn a_pack_under_way_at_sigterm_is_finished_and_answered() {
    let mut store = Store::new("underway", &[]);
    let hour = Hour::new("web1", HOUR, 1, 100);
    let frame = hour.packs()[0].frame();
    let mut peer = store.peer();
    peer.write_apart(&frame[..200]);
    let addr = store.addr();
    store.process().terminate();
    until("it takes no new connections", || std::net::TcpStream::connect(addr).err());
    // Give the stop every chance to get ahead of the pack.
    let begun = std::time::Instant::now();
    until("it has stopped what it can stop", || {
        let gone = !store.process().threads().contains(&"commit".to_owned());
        (gone || begun.elapsed().as_millis() > 600).then_some(())
    });
    assert!(peer.write(&frame[200..]));
    assert_eq!(peer.answer(), Answer::Ok);
    let log = store.stop();
    assert!(begun.elapsed().as_secs() < 8, "it waited for nothing: {:?}", begun.elapsed());
    assert!(log.contains("0 wait in the spool"), "{log}");
    assert_eq!(store.data("web1", HOUR), hour.bytes());
    store.start();
    store.proven(&hour, 1);
}

#[test]
fn half_a_frame_does_not_hold_up_a_stop() {
    let mut store = Store::new("half", &[("quit_timeout", "300ms")]);
    let hour = Hour::new("web1", HOUR, 2, 10);
    let mut peer = store.peer();
    peer.send_all(&hour.packs()[..1]);
    let mut stranger = store.peer();
    stranger.write_apart(&hour.packs()[1].frame()[..100]);
    let begun = std::time::Instant::now();
    store.stop();
    assert!(begun.elapsed().as_secs() < 8, "{:?}", begun.elapsed());
    assert_eq!(store.data("web1", HOUR), hour.raws[0]);
}

// ---- senders without a name ----

/// An address of this machine other than 127.0.0.1, with an address to listen on for both.
pub fn other_address() -> Option<(&'static str, String)> {
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        return Some(("[::]:0", "::1".into()));
    }
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then(|| ("0.0.0.0:0", own.to_string()))
}

#[test]
fn a_sender_without_a_name_gets_its_address() {
    let Some((listen, other)) = other_address() else {
        println!("skipped: this machine has only one address");
        return;
    };
    let store = Store::new("nameless", &[("listen", listen), ("allow", "any")]);
    let port = store.addr().port();
    let name = if other == "::1" { "0::1".to_owned() } else { other.clone() };
    // Two hosts that both say that they are nobody, with equal bodies.
    for (to, name) in [("127.0.0.1".to_owned(), "127.0.0.1"), (other, name.as_str())] {
        let hour = Hour { name: String::new(), ..Hour::new("equal", HOUR, 3, 20) };
        let to = std::net::SocketAddr::new(to.parse().unwrap(), port);
        Peer::to(to).send_all(&hour.original_packs());
        store.unverified(&Hour { name: name.into(), ..hour });
    }
    assert_eq!(store.names("log_data").len(), 2);
}

#[test]
fn our_relay_names_a_nameless_sender() {
    let store = Store::new("named", &[]);
    let relay = Store::relay("relay", store.addr(), &[]);
    let hour = Hour { name: String::new(), ..Hour::new("x", HOUR, 4, 20) };
    relay.peer().send_all(&hour.original_packs());
    store.unverified(&Hour { name: "127.0.0.1".into(), ..hour });
}

#[test]
fn a_nameless_pack_from_an_original_relay_is_not_taken() {
    let store = Store::new("hidden", &[]);
    let entry = [("ed", "t"), ("elapse", "1ms"), ("ip", ""), ("st", "t"), ("stage", "tcp recv")];
    let raw = lines("x", 0, 3);
    let pack = Pack::original("", HOUR, 1, &raw).hop(&entry);
    assert_eq!(store.peer().send(&pack), Answer::Closed(String::new()));
    store.wait_log("move relays before followers");
    // Not even if a relay of ours stands behind the original one.
    let ours = [("ip", "relay2"), ("stage", "tcp recv"), ("v", "1")];
    assert_eq!(store.peer().send(&pack.clone().hop(&ours)), Answer::Closed(String::new()));
    // With a name it is welcome, however many relays there were.
    let named = Pack::original("10.0.0.5", HOUR, 1, &raw).hop(&entry).hop(&entry).done();
    assert_eq!(store.peer().send(&named), Answer::Ok);
    let hour = Hour { name: "10.0.0.5".into(), hour: HOUR.into(), generation: 0, raws: vec![raw] };
    store.unverified(&hour);
    assert_eq!(store.names("log_data"), [format!("10.0.0.5_{HOUR}")]);
}

// ---- what can be said of an original sender's hour ----

#[test]
fn packs_of_an_original_in_any_order_make_the_hour_in_order() {
    let mut random = Random::new();
    let mut store = Store::new("order", &[]);
    for round in 0..6 {
        let hour = Hour::new(&format!("10.0.0.{round}"), HOUR, 12, 30);
        let mut packs = hour.original_packs();
        random.shuffle(&mut packs);
        if round == 5 {
            // A stop in the middle changes nothing.
            let (first, second) = packs.split_at(6);
            store.peer().send_all(first);
            store.restart();
            store.peer().send_all(second);
        } else {
            let mut peers = [store.peer(), store.peer(), store.peer()];
            for (i, p) in packs.iter().enumerate() {
                assert_eq!(peers[i % 3].send(p), Answer::Ok);
            }
        }
        let c = store.unverified(&hour);
        assert_eq!(
            (c["packs"].as_u64(), c["lines"].as_u64(), c["gen"].as_u64()),
            (Some(12), Some(360), Some(0))
        );
    }
    let (code, text) = store.verify();
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_pack_beyond_the_last_or_a_second_last_bars_the_tag_of_an_original() {
    let mut store = Store::new("barred", &[]);
    let pack = |name: &str, id: usize| Pack::original(name, HOUR, id, &lines(name, id * 10, 10));
    // Each: what comes, in this order; a negative number says `done`.
    let cases: [(&str, &[i64]); 6] = [
        ("above", &[1, 2, -3, 4]),
        ("above-before", &[1, 4, 2, -3]),
        ("far-above", &[1, 2, -3, 9]),
        ("second-last", &[1, -2, -3]),
        ("second-last-first", &[-3, -2, 1]),
        ("last-in-the-middle", &[1, -2, 3, -4]),
    ];
    for (name, order) in cases {
        for step in order {
            let p = pack(name, usize::try_from(step.unsigned_abs()).unwrap());
            store.peer().deliver(&if *step < 0 { p.done() } else { p });
            if name == "above" && *step < 0 {
                store.wait_tag(name, HOUR, |_| true);
            }
        }
    }
    for _ in 0..2 {
        store.settle();
        for (name, order) in cases {
            assert_eq!(store.tag(name, HOUR), None, "{name} has a tag");
            if name != "far-above" {
                let all: Vec<u8> = (1..=order.len()).flat_map(|id| lines(name, id * 10, 10)).collect();
                assert_eq!(store.data(name, HOUR), all, "{name}");
            }
        }
        store.restart();
    }
    assert!(store.names("doubtful").contains(&format!("second-last_{HOUR}")));
}
