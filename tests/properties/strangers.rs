//! Where senders must sign, whoever has not costs a receiver no thread, holds up nobody and gets his answer.
//!
//! The story: 1,400 strangers that came and went every five seconds had a thread each, and an honest pack waited for the
//! processor among them for fourteen times as long as with nobody else.

use super::auth::{HOUR, OTHER, OWN, hour, key_file, signed};
use super::peer::{Answer, Hour, Pack, Peer, Random, lines, until};
use super::store::{Scratch, Store};
use std::time::{Duration, Instant};

fn store(what: &str, keys: &[(&str, &str)]) -> (Scratch, Store) {
    let dir = Scratch::new(what);
    let file = key_file(&dir);
    let usual = [("keys_file", file.to_str().unwrap()), ("max_unproven_per_address", "1000")];
    let store = Store::new(what, &[&usual, keys].concat());
    (dir, store)
}

fn closed() -> Answer {
    Answer::Closed(String::new())
}

/// Threads that serve a connection each.
fn serving(store: &Store) -> usize {
    store.process().threads().iter().filter(|name| *name == "connection").count()
}

fn stranger() -> Pack {
    Pack::ours("web1", HOUR, 0, 1, &lines("strange", 0, 300))
}

/// A signed pack whose header has 50 kB.
fn long(n: usize) -> Pack {
    let pack = Pack::ours("web1", HOUR, 0, n, &lines("long", n, 3));
    let pack = (0..50).fold(pack, |pack, i| pack.set(&format!("more{i}"), &"x".repeat(1_000)));
    pack.signed("w1", &OWN)
}

#[test]
fn only_who_signs_has_a_thread() {
    let (_dir, store) = store("strangers", &[]);
    let frame = stranger().frame();
    let silent: Vec<Peer> = (0..100).map(|_| store.peer()).collect();
    let dripping: Vec<Peer> = (0..100)
        .map(|_| {
            let mut peer = store.peer();
            peer.write_apart(&frame[..40]);
            peer
        })
        .collect();
    assert_eq!(serving(&store), 0);
    let mut honest = store.peer();
    let packs = signed(&hour("web1"));
    honest.deliver(&packs[0]);
    assert_eq!(serving(&store), 1);
    // Whatever is refused gets its word, although its sender is still writing.
    let refused = Pack::ours("web1", HOUR, 0, 1, &Random::new().bytes(700_000));
    for _ in 0..20 {
        assert_eq!(store.peer().send(&refused), Answer::Denied);
    }
    assert_eq!(serving(&store), 1);
    honest.deliver(&packs[1]);
    drop((silent, dripping));
    honest.deliver(&packs[2]);
    store.proven(&hour("web1"), 1);
}

#[test]
fn a_signed_pack_is_taken_however_it_is_cut() {
    let (_dir, store) = store("cut", &[]);
    let mut random = Random::new();
    let hour = Hour::new("web1", HOUR, 60, 3);
    let packs = signed(&hour);
    for pack in &packs[..50] {
        let frame = pack.frame();
        let mut peer = store.peer();
        let mut cuts = vec![random.below(frame.len()), random.below(frame.len()), frame.len()];
        cuts.sort_unstable();
        cuts.into_iter().fold(0, |from, to| {
            peer.write_apart(&frame[from..to]);
            to
        });
        assert_eq!(peer.answer(), Answer::Ok);
    }
    // All at once, over one connection.
    let frames: Vec<u8> = packs[50..].iter().flat_map(Pack::frame).collect();
    let mut peer = store.peer();
    peer.write(&frames);
    packs[50..].iter().for_each(|_| assert_eq!(peer.answer(), Answer::Ok));
    store.proven(&hour, 1);
}

#[test]
fn a_stranger_is_waited_for_as_long_as_anybody() {
    let (_dir, store) = store("strangers-time", &[("header_timeout", "600ms"), ("idle_timeout", "1s")]);
    let frame = stranger().frame();
    let begun = Instant::now();
    let (mut silent, mut stalled, mut dribbling) = (store.peer(), store.peer(), store.peer());
    stalled.write(&frame[..4]);
    for byte in &frame[..200] {
        if !dribbling.write(&[*byte]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for (peer, least) in [(&mut dribbling, 600), (&mut stalled, 600), (&mut silent, 1_000)] {
        assert_eq!(peer.answer(), closed());
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(least) && took < Duration::from_secs(10), "{took:?}");
    }
    store.wait_log("too slow; closed");
    store.wait_log("idle; closed");
    assert_eq!(store.peer().send(&signed(&hour("web1"))[0]), Answer::Ok);
}

/// Long headers have a part of `inflight_bytes`: one that is signed waits until strangers, who never end theirs, make room.
#[test]
fn a_long_header_waits_for_its_room_and_not_for_ever() {
    let (_dir, store) = store(
        "strangers-long",
        &[("inflight_bytes", "1M"), ("max_body", "1M"), ("header_timeout", "8s"), ("idle_timeout", "1h")],
    );
    let stalled: Vec<Peer> = (0..100)
        .map(|_| {
            let mut peer = store.peer();
            peer.write(&long(1).frame()[..50_000]);
            peer
        })
        .collect();
    let mut honest = store.peer();
    honest.write_apart(&signed(&hour("web1"))[0].frame());
    assert_eq!(honest.answer(), Answer::Ok);
    until("a long header is taken", || (store.peer().send(&long(2)) == Answer::Ok).then_some(()));
    store.wait_log("its pack comes too slowly");
    assert!(serving(&store) <= 2, "{}", serving(&store));
    assert!(store.process().status_kb("VmHWM") < 40_000);
    drop(stalled);
}

/// The story: with 2,000 of them the accepting thread was busy for seconds with looking for room, and one that was reset kept it
/// busy for as long as a header may take.
#[test]
fn who_waits_for_room_costs_nothing() {
    let (_dir, store) = store(
        "strangers-room",
        &[("inflight_bytes", "1M"), ("max_body", "1M"), ("header_timeout", "1h"), ("idle_timeout", "1h")],
    );
    let long = long(1).frame();
    let mut waiting: Vec<Peer> = (0..300)
        .map(|_| {
            let mut peer = store.peer();
            peer.write(&long[..7_000]);
            peer
        })
        .collect();
    let packs = signed(&hour("web1"));
    assert_eq!(store.peer().send(&packs[0]), Answer::Ok);
    // Closed with bytes that nobody has read: the socket is reset.
    waiting.iter_mut().skip(200).for_each(Peer::reset);
    assert_eq!(store.peer().send(&packs[1]), Answer::Ok);
    let before = store.process().ticks();
    std::thread::sleep(Duration::from_secs(2));
    let used = store.process().ticks() - before;
    assert!(used < 40, "{used} hundredths of a second in two seconds");
    drop(waiting);
}

/// The story: a relay's test packs need no signature, and 4,000 of them had a thread each; a stop waited for them.
#[test]
fn test_packs_without_a_signature_have_no_thread() {
    let (_dir, mut store) = store("strangers-ping", &[]);
    let body = vec![b'x'; 70_000];
    let ping = |body: &[u8]| {
        let entry = logd::pack::ping::Ping::entry("relay1", true, body);
        logd::pack::ping::Ping::frame(entry, body)
    };
    let mut slow: Vec<Peer> = (0..20)
        .map(|_| {
            let mut peer = store.peer();
            peer.write_apart(&ping(&body)[..20_000]);
            peer
        })
        .collect();
    let mut peer = store.peer();
    for _ in 0..3 {
        peer.write(&ping(&body));
        assert_eq!(peer.answer(), Answer::Ok);
    }
    assert_eq!(serving(&store), 0);
    peer.deliver(&signed(&hour("web1"))[0]);
    let begun = Instant::now();
    store.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for peer in &mut slow {
        assert_eq!(peer.answer(), closed());
    }
}

/// The story: a host with more good connections than each stranger's address had was asked to give one up, and gave none; and of
/// those who had shown nothing the one went that had just come.
#[test]
fn a_full_store_gives_up_who_has_shown_nothing_for_longest() {
    let (_dir, store) = store("strangers-full", &[("max_connections", "16")]);
    let packs = signed(&hour("web1"));
    let mut proven: Vec<Peer> = (0..8)
        .map(|_| {
            let mut peer = store.peer();
            peer.deliver(&packs[0]);
            peer
        })
        .collect();
    let mut strangers: Vec<Peer> = (0..8)
        .map(|_| {
            let mut peer = store.peer();
            peer.write_apart(&stranger().frame()[..40]);
            peer
        })
        .collect();
    for (n, stranger) in strangers.iter_mut().enumerate().take(6) {
        let mut late = store.peer();
        // Somebody else wants to connect before it has said anything.
        let other = store.peer();
        late.write(&packs[1].frame());
        assert_eq!(late.answer(), Answer::Ok, "{n}");
        drop(other);
        if n < 3 {
            assert_eq!(stranger.answer(), closed());
        }
    }
    for peer in &mut proven {
        peer.deliver(&packs[2]);
    }
}

/// A key that is taken away takes its connections' privilege with it.
#[test]
fn connections_of_a_key_that_is_gone_make_room() {
    let dir = Scratch::new("strangers-gone");
    let file = key_file(&dir);
    let store = Store::new(
        "strangers-gone",
        &[
            ("keys_file", file.to_str().unwrap()),
            ("max_connections", "16"),
            ("max_unproven_per_address", "1000"),
        ],
    );
    let packs = signed(&hour("web1"));
    let mut old: Vec<Peer> = (0..16)
        .map(|_| {
            let mut peer = store.peer();
            peer.deliver(&packs[0]);
            peer
        })
        .collect();
    let other = Hour::new("db1", HOUR, 1, 5);
    let pack = other.packs().remove(0).signed("d1", &OTHER);
    assert_eq!(store.peer().send(&pack), closed(), "all are taken by good ones");
    super::auth::write(&file, &format!("db1 d1 {}\n", super::peer::hex(&OTHER)), 0o600);
    store.wait_log("read again: 1 key");
    assert_eq!(store.peer().send(&pack), Answer::Ok);
    assert_eq!(old[0].answer(), closed());
}

#[test]
fn a_stop_does_not_wait_for_strangers() {
    let (_dir, mut store) = store("strangers-stop", &[]);
    let mut all: Vec<Peer> = (0..30).map(|_| store.peer()).collect();
    all.iter_mut().skip(10).for_each(|peer| peer.write_apart(&stranger().frame()[..40]));
    let begun = Instant::now();
    store.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for peer in &mut all {
        assert_eq!(peer.answer(), closed());
    }
}
