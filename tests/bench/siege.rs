//! How long an honest sender waits while a hostile crowd keeps a store busy.
//!
//! The sender sends a pack of 200 lines every 50 ms over one connection, as a follower does, and again over a new one if that is
//! gone; *ack time* is from the first attempt's first byte until `ok` was read, by the monotonic clock. First with nobody else
//! for 15 s, then for 15 s beside 10,000 connections from forty addresses: silent ones, headers and bodies that come byte by
//! byte, bombs, garbage, floods of packs (`support/siege.rs`); four times each in turn, and all times of a kind are taken together,
//! because the third longest of one round's 300 is an accident of the disk. Hostile hosts have processors of their own: the crowd
//! runs on this machine's last core, store and sender on the others, with the crowd and without it. Once with keys, so that
//! the crowd is refused before its bodies are read, and once without.

use super::measure::*;
use super::support::peer::{Answer, Hour, Pack, Peer, hex};
use super::support::siege::Siege;
use super::support::{Temp, store};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SECRET: [u8; 32] = *b"the secret of the honest sender!";
const ROUNDS: usize = 4;
const PACKS: usize = 300;
const PAUSE: Duration = Duration::from_millis(50);

/// The cores that we may use, and the last of them.
fn cores() -> (CpuSet, CpuSet) {
    let (mut ours, mut last) = (sched_getaffinity(None).unwrap(), CpuSet::new());
    let crowd = (0..CpuSet::MAX_CPU).rev().find(|&n| ours.is_set(n)).unwrap();
    last.set(crowd);
    if ours.count() > 1 {
        ours.unset(crowd);
    }
    (ours, last)
}

/// Sends an hour; all acknowledgement times in ms.
fn send(to: SocketAddr, hour: &str) -> Vec<f64> {
    let packs: Vec<Pack> =
        Hour::new("honest", hour, PACKS, 200).packs().into_iter().map(|p| p.signed("h1", &SECRET)).collect();
    let mut peer = Peer::to(to);
    let mut times = Vec::new();
    for pack in &packs {
        sleep(PAUSE);
        let begun = Instant::now();
        while peer.send(pack) != Answer::Ok {
            peer = Peer::to(to);
        }
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times
}

/// See the header.
pub fn siege(report: &mut Report) {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard.or(Some(20_000)), maximum: hard }).unwrap();
    let all = sched_getaffinity(None).unwrap();
    let (ours, last) = cores();
    // What we start has our cores.
    sched_setaffinity(None, &ours).unwrap();
    for keys in [true, false] {
        let temp = Temp::new("siege");
        let path = temp.file("keys", format!("honest h1 {}\n", hex(&SECRET)));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = path.display().to_string();
        let more = [("keys_file", text.as_str())];
        let mut store = store(&temp, if keys { &more } else { &[] });
        let to = store.addr();
        let what = if keys { "siege, with keys" } else { "siege, without keys" };
        let (p50, p99) = (ROUNDS * PACKS / 2, ROUNDS * PACKS * 99 / 100);
        let (mut quiet, mut busy) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            quiet.extend(send(to, &format!("20261122{:02}", 2 * round)));
            sched_setaffinity(None, &last).unwrap();
            let crowd = Siege::begin(to, 10_000, 7 + round as u64);
            sched_setaffinity(None, &ours).unwrap();
            busy.extend(send(to, &format!("20261122{:02}", 2 * round + 1)));
            drop(crowd);
        }
        quiet.sort_by(f64::total_cmp);
        busy.sort_by(f64::total_cmp);
        println!(
            "{what}: p50 and p99 {:.2} and {:.2} ms with nobody else, {:.2} and {:.2} ms beside the crowd",
            quiet[p50], quiet[p99], busy[p50], busy[p99]
        );
        let target = if keys { Target::AtMost(2.0) } else { Target::None };
        report.row(
            &format!("{what}: p99 of the ack time by that with nobody else"),
            busy[p99] / quiet[p99],
            "",
            target,
        );
        report.row(&format!("{what}: RSS"), usage(&store).rss_mb, "MB", Target::AtMost(128.0));
    }
    sched_setaffinity(None, &all).unwrap();
}
