//! How long an honest sender waits while a hostile crowd keeps a store busy.
//!
//! The sender sends a pack of 200 lines every 50 ms over one connection, as a follower does, and again over a new one if that is
//! gone; *ack time* is from the first attempt's first byte until `ok` was read, by the monotonic clock. First with nobody else
//! for 15 s, then for 15 s beside 10,000 connections from forty addresses: silent ones, headers and bodies that come byte by
//! byte, bombs, garbage, floods of packs (`support/siege.rs`). The crowd's own work takes the same cores, and gives way to everybody
//! else's. Once with keys, so that the crowd is refused before its bodies are read, and once without.

use super::measure::*;
use super::support::peer::{Answer, Hour, Pack, Peer, hex};
use super::support::siege::Siege;
use super::support::{Temp, store};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SECRET: [u8; 32] = *b"the secret of the honest sender!";
const PACKS: usize = 300;
const PAUSE: Duration = Duration::from_millis(50);

/// Sends an hour; all acknowledgement times in ms, sorted.
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
    times.sort_by(f64::total_cmp);
    times
}

/// See the header.
pub fn siege(report: &mut Report) {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard.or(Some(20_000)), maximum: hard }).unwrap();
    for keys in [true, false] {
        let temp = Temp::new("siege");
        let path = temp.file("keys", format!("honest h1 {}\n", hex(&SECRET)));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = path.display().to_string();
        let more = [("keys_file", text.as_str())];
        let mut store = store(&temp, if keys { &more } else { &[] });
        let to = store.addr();
        let quiet = send(to, "2026112205");
        let crowd = Siege::begin(to, 10_000, 7);
        let busy = send(to, "2026112206");
        drop(crowd);
        let what = if keys { "siege, with keys" } else { "siege, without keys" };
        let (p50, p99) = (PACKS / 2, PACKS * 99 / 100);
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
}
