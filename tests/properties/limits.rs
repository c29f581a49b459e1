//! P4: every limit of a receiver holds, one bad host stops only itself, and what was refused is taken later.

use super::auth::{OTHER, OWN, key_file};
use super::original::other_address;
use super::peer::{Answer, Hour, Pack, Peer, Random, lines, newlines, until};
use super::store::{Scratch, Store, tree};
use logd::clock::{Clock, Zone};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const HOUR: &str = "2026112205";

fn closed() -> Answer {
    Answer::Closed(String::new())
}

// ---- connections ----

#[test]
fn who_is_not_on_the_list_is_not_heard() {
    let Some((listen, other)) = other_address() else {
        println!("skipped: this machine has only one address");
        return;
    };
    let (mut store, hour) = (Store::prepare("allow", &[("listen", listen)]), Hour::new("web1", HOUR, 2, 5));
    for (allowed, refused) in [("127.0.0.1", other.as_str()), (other.as_str(), "127.0.0.1")] {
        store.set("allow", allowed);
        store.start();
        let port = store.addr().port();
        let to = |ip: &str| Peer::to(SocketAddr::new(ip.parse().unwrap(), port));
        // The answer is the same whatever is sent; even a whole pack is not looked at.
        for _ in 0..3 {
            let mut peer = to(refused);
            peer.write(&hour.packs()[0].frame());
            assert_eq!(peer.answer(), closed());
        }
        store.wait_log("not in `allow`");
        to(allowed).send_all(&hour.packs());
        store.proven(&hour, 1);
        store.stop();
    }
}

#[test]
fn one_address_has_only_so_many_connections() {
    let store = Store::new("peraddress", &[("max_connections_per_address", "4")]);
    let hour = Hour::new("web1", HOUR, 4, 5);
    let mut peers: Vec<Peer> = (0..4).map(|_| store.peer()).collect();
    for (peer, pack) in peers.iter_mut().zip(&hour.packs()) {
        peer.deliver(pack);
    }
    for _ in 0..5 {
        let mut fifth = store.peer();
        fifth.write(&hour.packs()[0].frame());
        assert_eq!(fifth.answer(), closed());
    }
    peers.pop();
    until("there is room again", || (store.peer().send(&hour.packs()[0]) == Answer::Ok).then_some(()));
    store.proven(&hour, 1);
}

#[test]
fn at_the_cap_an_idle_connection_makes_room() {
    let store = Store::new("cap", &[("max_connections", "3")]);
    let hour = Hour::new("web1", HOUR, 4, 5);
    let mut idle: Vec<Peer> = (0..3).map(|_| store.peer()).collect();
    for (peer, pack) in idle.iter_mut().zip(&hour.packs()) {
        peer.deliver(pack);
        // Idle since different milliseconds, so that it is clear which is the longest.
        let now = Instant::now();
        until("the clock moved on", || (now.elapsed() > Duration::from_millis(5)).then_some(()));
    }
    let next = Hour::new("web2", HOUR, 1, 5);
    store.peer().send_all(&next.packs());
    assert_eq!(idle[0].answer(), closed());
    // The others are still in use.
    for peer in &mut idle[1..] {
        assert_eq!(peer.send(&hour.packs()[0]), Answer::Ok);
    }
    store.proven(&next, 1);
    idle[1].deliver(&hour.packs()[3]);
    store.proven(&hour, 1);
}

#[test]
fn a_connection_in_the_middle_of_a_frame_is_not_closed_for_another() {
    let store = Store::new("busycap", &[("max_connections", "3")]);
    let hour = Hour::new("web1", HOUR, 3, 5);
    let frames: Vec<Vec<u8>> = hour.packs().iter().map(Pack::frame).collect();
    let mut busy: Vec<Peer> = (0..3).map(|_| store.peer()).collect();
    for (peer, frame) in busy.iter_mut().zip(&frames) {
        peer.write_apart(&frame[..50]);
    }
    let mut fourth = store.peer();
    fourth.write(&frames[0]);
    assert_eq!(fourth.answer(), closed());
    for (peer, frame) in busy.iter_mut().zip(&frames) {
        assert!(peer.write(&frame[50..]));
        assert_eq!(peer.answer(), Answer::Ok);
    }
    store.proven(&hour, 1);
}

// ---- time ----

#[test]
fn a_header_has_a_deadline_however_it_dribbles_in() {
    let store = Store::new("headertime", &[("header_timeout", "400ms"), ("idle_timeout", "1s")]);
    let frame = Pack::ours("web1", HOUR, 0, 1, &lines("slow", 0, 3)).frame();
    let begun = Instant::now();
    let (mut silent, mut stalled, mut dribbling) = (store.peer(), store.peer(), store.peer());
    stalled.write(&frame[..4]);
    std::thread::scope(|s| {
        s.spawn(|| assert_eq!(silent.answer(), closed()));
        s.spawn(|| assert_eq!(stalled.answer(), closed()));
        for byte in &frame[..200] {
            // Each byte in time, all of them too slow.
            if !dribbling.write(&[*byte]) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(dribbling.answer(), closed());
    });
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    store.settle();
}

#[test]
fn a_body_has_a_deadline_that_grows_with_its_size() {
    let store = Store::new("bodytime", &[("body_timeout", "300ms"), ("body_rate_min", "1G")]);
    let frame = Pack::ours("web1", HOUR, 0, 1, &lines("slow", 0, 300)).frame();
    let begun = Instant::now();
    let mut peer = store.peer();
    peer.write(&frame[..frame.len() - 1]);
    assert_eq!(peer.answer(), closed());
    assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(10));
    store.settle();
    assert_eq!(store.data("web1", HOUR), b"");
}

#[test]
fn an_idle_connection_is_closed() {
    let store = Store::new("idle", &[("idle_timeout", "1s")]);
    let hour = Hour::new("web1", HOUR, 2, 5);
    let mut peer = store.peer();
    peer.deliver(&hour.packs()[0]);
    let begun = Instant::now();
    assert_eq!(peer.answer(), closed());
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(10), "{took:?}");
    // Its sender comes again.
    store.peer().deliver(&hour.packs()[1]);
    store.proven(&hour, 1);
}

// ---- memory ----

#[test]
fn what_a_stranger_only_promises_takes_nothing_from_others() {
    // A header that declares as many raw bytes as may be in flight, and a body that never comes.
    let store = Store::new("promise", &[("inflight_bytes", "1M"), ("max_body", "1M"), ("max_raw", "8M")]);
    let mut strangers: Vec<Peer> = Vec::new();
    for i in 0..4 {
        let pack = Pack::ours(&format!("stranger{i}"), HOUR, 0, 1, &lines("promise", 0, 3))
            .set("bytes", "1048576")
            .with_pack_len("1048576");
        let frame = pack.frame();
        let mut peer = store.peer();
        peer.write_apart(&frame[..frame.len() - pack.body.len() + 10]);
        strangers.push(peer);
    }
    let begun = Instant::now();
    store.settle();
    assert!(begun.elapsed() < Duration::from_secs(10), "honest senders waited {:?}", begun.elapsed());
    drop(strangers);
}

#[test]
fn when_the_bytes_in_flight_are_used_up_others_wait_and_are_served() {
    let mut random = Random::new();
    let store = Store::new(
        "inflight",
        &[("inflight_bytes", "1M"), ("max_body", "1M"), ("body_timeout", "1500ms"), ("body_rate_min", "1G")],
    );
    let mut strangers: Vec<Peer> = Vec::new();
    for i in 0..4 {
        // 300 kB have really come, the rest does not.
        let raw = random.bytes(400_000);
        let frame = Pack::ours(&format!("stranger{i}"), HOUR, 0, 1, &raw).frame();
        let mut peer = store.peer();
        peer.write(&frame[..300_000]);
        strangers.push(peer);
    }
    store.settle_patiently();
    assert!(store.process().status_kb("VmHWM") < 40_000);
}

/// The story: four thousand connections with a header each that ended a little before its end took 340 MB.
#[test]
fn long_headers_that_do_not_end_take_little_memory_and_nobodys_time() {
    let store = Store::new("long-headers", &[("inflight_bytes", "4M"), ("max_body", "4M")]);
    let long = |n: usize| {
        let raw = lines("long", n, 3);
        let pack = Pack::ours(&format!("long{n}"), HOUR, 0, 1, &raw);
        (0..50).fold(pack, |pack, i| pack.set(&format!("more{i}"), &"x".repeat(1_000)))
    };
    let stalled: Vec<Peer> = (0..1_000)
        .map(|n| {
            let mut peer = store.peer();
            peer.write(&long(n).frame()[..50_000]);
            peer
        })
        .collect();
    let hour = Hour::new("web1", HOUR, 10, 2_000);
    store.peer().send_all(&hour.packs());
    store.proven(&hour, 1);
    // One that ends has to wait until they are gone.
    until("a long header is taken", || (store.peer().send(&long(1_000)) == Answer::Ok).then_some(()));
    store.wait_log("its pack comes too slowly");
    let rss = store.process().status_kb("VmHWM");
    assert!(rss < 80_000, "{rss} kB");
    drop(stalled);
}

/// The story: one number with other bytes each time made 13,280 files in eight seconds, and as many messages.
#[test]
fn of_packs_that_contradict_stored_ones_a_few_are_kept() {
    let store = Store::new("contradict", &[]);
    let mut peer = store.peer();
    for n in 0..200 {
        assert_eq!(peer.send(&Pack::ours("web1", HOUR, 0, 1, &lines("other", n, 1))), Answer::Ok);
    }
    let kept = std::fs::read_dir(store.save("aside/conflict/web1")).unwrap().count();
    assert_eq!(kept, 8);
    let told = store.log().matches("other bytes under this number").count();
    assert!((9..150).contains(&told), "{told} messages");
    // What comes again is told of as seldom.
    for n in 1..=200 {
        for _ in 0..2 {
            assert_eq!(peer.send(&Pack::ours("web2", HOUR, 0, n, &lines("again", n, 1))), Answer::Ok);
        }
    }
    let told = store.log().matches("came again from").count();
    assert!((100..150).contains(&told), "{told} messages");
}

/// The story: one host with 24 connections on which nothing came any more kept all others waiting for minutes.
#[test]
fn a_host_that_stalls_has_its_share_of_the_bytes_in_flight_and_makes_room_again() {
    let dir = Scratch::new("stall-keys");
    let keys = key_file(&dir);
    let store = Store::new(
        "stall",
        &[("keys_file", keys.to_str().unwrap()), ("inflight_bytes", "1M"), ("max_body", "1M")],
    );
    let mut random = Random::new();
    let mut stalled: Vec<Peer> = (0..6)
        .map(|i| {
            let frame =
                Pack::ours(&format!("web1+s{i}"), HOUR, 0, 1, &random.bytes(400_000)).signed("w1", &OWN);
            let mut peer = store.peer();
            peer.write_apart(&frame.frame()[..300_000]);
            peer
        })
        .collect();
    let begun = Instant::now();
    let other = Hour::new("db1", HOUR, 3, 2_000);
    let packs: Vec<Pack> = other.packs().into_iter().map(|p| p.signed("d1", &OTHER)).collect();
    store.peer().send_all(&packs);
    assert!(begun.elapsed() < Duration::from_secs(3), "db1 waited {:?}", begun.elapsed());
    // A pack of the same host waits for the slowest of them to go.
    let raw = random.bytes(20_000);
    let pack =
        Pack::ours("web1", HOUR, 0, 1, &raw).set("lines", &newlines(&raw).to_string()).signed("w1", &OWN);
    assert_eq!(store.peer().send(&pack), Answer::Ok);
    assert!(begun.elapsed() < Duration::from_secs(25), "web1 waited {:?}", begun.elapsed());
    store.wait_log("its pack comes too slowly");
    assert_eq!(stalled.remove(0).answer(), closed());
}

/// The story: the copy of a host whose clock was wrong was newer than all that were sent to mend it.
#[test]
fn what_is_of_a_time_to_come_is_not_taken() {
    let zone = Zone::local().unwrap();
    let now = Clock::real().now_ms();
    let at = |hours: i64| zone.hour_at(now + hours * 3_600_000).to_string();
    let copy = |hours: i64| u64::try_from(now + hours * 3_600_000).unwrap();
    let store = Store::new("ahead", &[]);
    let relay = Store::relay("ahead-relay", store.addr(), &[]);
    for receiver in [&relay, &store] {
        for (hour, generation) in [
            (at(0), copy(26)),
            (at(0), u64::MAX / 4),
            (at(4 * 24), 0),
            (at(4 * 24)[..8].to_owned(), 0),
            ("9999123123".to_owned(), 0),
        ] {
            let pack = Pack::ours("web1", &hour, generation, 1, b"a line\n");
            assert_eq!(receiver.peer().send(&pack), Answer::Busy, "{hour} {generation}");
            receiver.wait_log(&format!("web1_{hour}"));
        }
        receiver.wait_log("correct the clock of web1");
        receiver.wait_log("from 127.0.0.1: refused");
    }
    assert!(store.names("log_data").is_empty() && store.names("aside").iter().all(|n| !n.contains("web1")));
    // A clock that is a little ahead, and an hour of another zone, are no harm.
    for (n, hour, generation) in [(1, at(0), copy(20)), (2, at(26), 0), (3, at(26)[..8].to_owned(), 0)] {
        let raws = vec![lines("early", n, 5)];
        let hour = Hour { name: format!("ok{n}"), hour, generation, raws };
        relay.peer().send_all(&hour.packs());
        store.proven(&hour, 1);
    }
}

// ---- disk ----

/// A receiver downstream that reads packs and answers only when it is told to.
struct Downstream {
    addr: SocketAddr,
    open: Arc<AtomicBool>,
    packs: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Downstream {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let me = Self { addr: listener.local_addr().unwrap(), open: Arc::default(), packs: Arc::default() };
        let (open, packs) = (Arc::clone(&me.open), Arc::clone(&me.packs));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (open, packs) = (Arc::clone(&open), Arc::clone(&packs));
                std::thread::spawn(move || serve(stream, &open, &packs));
            }
        });
        me
    }
    fn has(&self, name: &str) -> usize {
        self.packs.lock().unwrap().iter().filter(|(n, _)| n == name).count()
    }
}

fn serve(mut stream: TcpStream, open: &AtomicBool, packs: &Mutex<BTreeSet<(String, String)>>) -> Option<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let n = length.iter().rev().fold(0, |n, b| n * 128 + usize::from(b % 128));
        let mut header = vec![0; n];
        stream.read_exact(&mut header).ok()?;
        let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
        let mut body = vec![0; usize::try_from(header["PackLen"].as_u64()?).ok()?];
        stream.read_exact(&mut body).ok()?;
        until("it may answer", || open.load(Ordering::SeqCst).then_some(()));
        let entry = &header["Route"][0];
        let hop = &header["Route"][1];
        assert!(hop["v"] == "1" && hop["stage"] == "tcp recv", "{header}");
        packs.lock().unwrap().insert((entry["ip"].as_str()?.into(), entry["id"].as_str()?.into()));
        stream.write_all(b"ok").ok()?;
    }
}

fn full_and_drained(what: &str, size: usize) {
    let mut random = Random::new();
    let down = Downstream::new();
    let relay = Store::relay(what, down.addr, &[("spool_size", "1M"), ("segment_size", "128k")]);
    let raws: Vec<Vec<u8>> = (0..12).map(|_| random.bytes(size)).collect();
    let pack = |i: usize| {
        Pack::ours("web1", HOUR, 0, i + 1, &raws[i % 12]).set("lines", &newlines(&raws[i % 12]).to_string())
    };
    let mut peer = relay.peer();
    let mut taken = 0;
    let refused = loop {
        match peer.send(&pack(taken)) {
            Answer::Ok => taken += 1,
            other => break other,
        }
    };
    assert_eq!(refused, Answer::Busy);
    assert!(taken >= 1 && taken * size <= 1 << 20, "{taken} packs of {size} bytes");
    // Other senders are refused as well, an original one without a word; nothing that was taken is given up.
    assert_eq!(
        relay
            .peer()
            .send(&Pack::ours("web2", HOUR, 0, 1, &raws[0]).set("lines", &newlines(&raws[0]).to_string())),
        Answer::Busy
    );
    let old = Pack::original("10.0.0.1", HOUR, 1, &raws[0]).set("lines", &newlines(&raws[0]).to_string());
    assert_eq!(relay.peer().send(&old), closed());
    down.open.store(true, Ordering::SeqCst);
    until("what was taken has been passed on", || (down.has("web1") == taken).then_some(()));
    // Room again, and for more than it ever holds at once.
    for i in taken..taken + 12 {
        relay.peer().deliver(&pack(i));
    }
    until("the rest has been passed on", || (down.has("web1") == taken + 12).then_some(()));
}

#[test]
fn a_full_spool_says_busy_and_takes_packs_again_when_it_is_drained() {
    full_and_drained("full", 60_000);
}

#[test]
fn packs_larger_than_a_segment_do_not_fill_the_spool_for_ever() {
    full_and_drained("large", 600_000);
}

/// An hour of `packs` packs of 20 kB that no compression makes smaller.
fn heavy(name: &str, hour: &str, packs: usize) -> Hour {
    let mut random = Random::new();
    let raws = (0..packs).map(|_| [&random.bytes(20_000)[..], b"\n"].concat()).collect();
    Hour { name: name.into(), hour: hour.into(), generation: 0, raws }
}

#[test]
fn packs_beyond_a_gap_fill_only_their_senders_share() {
    let store = Store::new("share", &[("early_per_name", "64k"), ("checkpoint", "100ms")]);
    let (hour, other) = (heavy("web1", HOUR, 8), heavy("web2", HOUR, 8));
    let web1 = hour.packs();
    let mut peer = store.peer();
    let mut waiting = 0;
    while peer.send(&web1[1 + waiting]) == Answer::Ok {
        waiting += 1;
    }
    assert!((2..=4).contains(&waiting), "{waiting} packs of 20 kB");
    // Another sender has its own share; the missing pack is always welcome, and then there is room again.
    store.peer().send_all(&other.packs()[1..3]);
    store.settle();
    store.peer().deliver(&web1[0]);
    store.peer().send_all(&web1);
    store.proven(&hour, 1);
    assert_eq!(store.data("web2", HOUR), b"");
    // And again in the next hour.
    store.peer().send_all(&heavy("web1", "2026112206", 4).packs()[1..3]);
}

/// The story: limits were by the name of a stream, and a host may have any number of those.
#[test]
fn the_streams_of_a_host_have_one_share_and_little_memory() {
    let store = Store::new("streams", &[("early_per_name", "64k"), ("checkpoint", "100ms")]);
    let mut peer = store.peer();
    let mut waiting = 0;
    while peer.send(&heavy(&format!("web1+s{waiting}"), HOUR, 2).packs()[1]) == Answer::Ok {
        waiting += 1;
        assert!(waiting < 9, "each stream has a share of its own");
    }
    assert!((2..=4).contains(&waiting), "{waiting} packs of 20 kB");
    // Another host has its own.
    store.peer().send_all(&heavy("web2+s1", HOUR, 2).packs()[1..]);

    // Packs behind a gap, so that every hour is waited for: beyond its hours the host must wait, and nobody else.
    let store = Store::new("streams2", &[("checkpoint", "1s")]);
    let (next, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                let mut peer = store.peer();
                while refused.load(Ordering::SeqCst) == 0 {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    assert!(n < 12_000, "any number of streams is taken");
                    match peer.send(&Pack::ours(&format!("bad+s{n}"), HOUR, 0, 2, b"a line\n")) {
                        Answer::Ok => {}
                        Answer::Busy => _ = refused.fetch_add(1, Ordering::SeqCst),
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert!(next.load(Ordering::SeqCst) > 8_000, "{next:?}");
    store.settle();
    assert!(store.log().contains("hours of bad wait"), "{}", store.log());
    let most = store.process().status_kb("VmHWM");
    println!("{next:?} streams, at most {most} kB");
    assert!(most < 80 << 10, "{most} kB");
    // The packs that are missing are always welcome, and make room.
    for n in 0..3 {
        store.peer().deliver(&Pack::ours(&format!("bad+s{n}"), HOUR, 0, 1, b"a line\n"));
    }
    store.peer().deliver(&Pack::ours("bad+new", HOUR, 0, 1, b"a line\n"));
}

#[test]
fn a_share_counts_each_waiting_pack_once() {
    // Two packs are on the shelf, and after a kill also still in the spool.
    let mut store = Store::new("once", &[("early_per_name", "70k"), ("checkpoint", "100ms")]);
    let hour = heavy("web1", HOUR, 4);
    let packs = hour.packs();
    store.peer().send_all(&packs[1..3]);
    let shelf = store.save("aside/early/web1");
    let on_shelf = |s: &Path| tree(s).keys().filter(|p| !p.to_string_lossy().ends_with(".tmp")).count();
    until("they are on the shelf", || (on_shelf(&shelf) == 2).then_some(()));
    for _ in 0..2 {
        store.kill();
        store.start();
    }
    assert_eq!(store.peer().send(&packs[3]), Answer::Ok);
    store.peer().send_all(&packs);
    store.proven(&hour, 1);
}

#[test]
fn what_follows_in_an_hour_of_the_original_is_no_gap() {
    // The original stored packs 1 and 2; the rest comes here, in order, and takes nothing of its sender's share.
    let mut store = Store::prepare("nogap", &[("early_per_name", "70k"), ("checkpoint", "100ms")]);
    let hour = heavy("10.0.0.1", HOUR, 8);
    let headers: String = hour.original_packs()[..2].iter().map(|p| p.json() + "\n").collect();
    for (dir, content) in [("log_data", hour.raws[..2].concat()), ("headers", headers.into_bytes())] {
        std::fs::create_dir_all(store.save(dir)).unwrap();
        std::fs::write(store.save(dir).join(format!("10.0.0.1_{HOUR}")), content).unwrap();
    }
    store.start();
    store.peer().send_all(&hour.original_packs()[2..7]);
    let next = heavy("10.0.0.1", "2026112206", 4).original_packs();
    assert_eq!(store.peer().send(&next[2]), Answer::Ok);
    assert_eq!(store.peer().send(&next[1]), Answer::Ok);
    store.peer().deliver(&hour.original_packs()[7]);
    store.wait_tag("10.0.0.1", HOUR, |_| true);
    assert_eq!(store.data("10.0.0.1", HOUR), hour.bytes());
}

#[test]
fn a_disk_at_its_limit_says_busy_and_loses_nothing() {
    let mut store = Store::prepare("minfree", &[("min_free", "64T")]);
    store.start();
    let hour = Hour::new("web1", HOUR, 2, 5);
    assert_eq!(store.peer().send(&hour.packs()[0]), Answer::Busy);
    store.wait_log("paused: disk");
    store.stop();
    store.set("min_free", "1M");
    store.start();
    store.peer().send_all(&hour.packs());
    store.proven(&hour, 1);
}
