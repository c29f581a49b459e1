//! P4 under siege: ten thousand silent connections, slow headers and bodies, bombs, garbage and floods from forty addresses, and
//! an honest sender that loses nothing. How long it waits is a benchmark's business (`bench/siege.rs`).

use super::peer::{Answer, Hour, Peer, hex};
use super::store::{Scratch, Store};
use super::support::siege::Siege;
use super::support::{proved, seed};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::atomic::Ordering;
use std::time::Duration;

const HOUR: &str = "2026112205";
const IDLE: usize = 10_000;
/// What the receiver may take, in kB.
const RSS_MAX: u64 = 128 * 1000;

/// As many files as the crowd needs; what there may be.
fn raise(files: u64) -> usize {
    let hard = getrlimit(Resource::Nofile).maximum;
    let may = hard.unwrap_or(files).min(files);
    setrlimit(Resource::Nofile, Rlimit { current: Some(may), maximum: hard }).unwrap();
    usize::try_from(may).unwrap()
}

fn besieged(what: &str, keys: &[(&str, &str)], sign: Option<&[u8; 32]>) {
    // The others of the crowd, and the tests that run beside it.
    let idle = raise(IDLE as u64 + 5_000).saturating_sub(5_000).min(IDLE);
    if idle < IDLE {
        println!(
            "skipped in part: {what}: only {idle} of {IDLE} connections, the limit of open files is low"
        );
    }
    let store = Store::new("siege", keys);
    let siege = Siege::begin(store.addr(), idle, seed());
    let hour = Hour::new("honest", HOUR, 60, 200);
    let mut peer = Peer::to(store.addr());
    let mut threads = 0;
    for pack in hour.packs() {
        // As a follower: over one connection, at its leisure, and again over a new one if that is gone.
        let pack = sign.map_or(pack.clone(), |secret| pack.clone().signed("h1", secret));
        loop {
            match peer.send(&pack) {
                Answer::Ok => break,
                Answer::Busy | Answer::Closed(_) => peer = Peer::to(store.addr()),
                other => panic!("{other:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        threads = threads.max(store.process().status_kb("Threads:"));
    }
    let (connections, sent) = (siege.connections.load(Ordering::Relaxed), siege.sent.load(Ordering::Relaxed));
    drop(siege);
    store.proven(&hour, 1);
    let rss = store.process().status_kb("VmHWM");
    let how = format!("{connections} hostile connections, {sent} frames or pieces of them");
    proved(what, how, &format!("60 of 60 packs, at most {} MB and {threads} threads", rss / 1000));
    assert!(connections as usize >= idle, "{connections} connections");
    assert!(rss <= RSS_MAX, "{rss} kB");
    // Where senders must sign, the crowd has none.
    assert!(threads <= if sign.is_some() { 30 } else { 5_000 }, "{threads} threads");
    let strange: Vec<_> = store.names("received").into_iter().filter(|n| !n.starts_with("honest")).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

/// One after the other: the crowd needs nearly all the descriptors that a process gets.
#[test]
fn an_honest_sender_loses_nothing_among_ten_thousand_hostile_connections() {
    besieged("siege", &[], None);
    let dir = Scratch::new("siege-keys");
    let (path, secret) = (dir.path("keys"), *b"the secret of the honest sender!");
    std::fs::write(&path, format!("honest h1 {}\n", hex(&secret))).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    besieged("siege, with keys", &[("keys_file", path.to_str().unwrap())], Some(&secret));
}
