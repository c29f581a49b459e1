//! Goal: a store with few file descriptors stores as many hosts as any other (P4). When a fleet's hour begins, more hour
//! files are being written than a process may have open; then the least thing it can do is to take turns.
//!
//! The story: a store that could not open one more file tried the same pack again for ever, since what would have
//! closed others came after it; the senders' packs were acknowledged, and never stored until somebody restarted it.

use super::support::*;
use logd::pack::{Encoder, Header, HourKey, Meta, Seal, Totals, total_digest};
use rustix::process::{Resource, Rlimit, prlimit};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const HOSTS: usize = 150;
/// Descriptors: far fewer than two for every host.
const LIMIT: u64 = 60;

/// The frame of one pack of an hour of `of` packs.
fn frame(key: &HourKey, packs: &[Vec<u8>], id: usize) -> Vec<u8> {
    let seals: Vec<Seal> = packs.iter().map(|p| Seal::of(p)).collect();
    let lines = |p: &Vec<u8>| memchr::memchr_iter(b'\n', p).count() as u64;
    let done = id == packs.len();
    let meta = Meta {
        key: key.clone(),
        generation: 0,
        id: id as u64,
        lines: lines(&packs[id - 1]),
        done,
        repull: false,
        seal: Some(seals[id - 1]),
        totals: done.then(|| Totals {
            lines: packs.iter().map(lines).sum(),
            bytes: packs.iter().map(|p| p.len() as u64).sum(),
            sha256: total_digest(seals.iter().map(|s| &s.sha256)),
        }),
        state: String::new(),
        loss: String::new(),
        day_hours: 24,
        clock: false,
    };
    let mut body = Vec::new();
    Encoder::new(6).body(&packs[id - 1], &meta.tag(), &mut body);
    let header = Header { route: vec![meta.entry()], pack_len: body.len() as u64 };
    let mut out = header.encode();
    out.extend_from_slice(&body);
    out
}

/// Sends packs one by one; as a sender does, again when the store has no room for them at the moment.
struct Client {
    to: SocketAddr,
    stream: TcpStream,
    busy: u32,
}

impl Client {
    fn new(to: SocketAddr) -> Self {
        Self { to, stream: Self::dial(to), busy: 0 }
    }

    fn dial(to: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn send(&mut self, frame: &[u8]) {
        until(SOON, "ok", || {
            let mut answer = [0; 2];
            // A store without descriptors may close an idle connection, to have one for a new client.
            let talked = self.stream.write_all(frame).and_then(|()| self.stream.read_exact(&mut answer));
            if talked.is_err() || &answer != b"ok" {
                // A refused connection is used no more.
                self.busy += 1;
                self.stream = Self::dial(self.to);
            }
            (talked.is_ok() && &answer == b"ok").then_some(())
        });
    }
}

fn many_hours_at_once(mut store: Node, temp: &Temp) -> u32 {
    let [hour] = past_hours(1)[..] else { panic!() };
    let hosts: Vec<(HourKey, Vec<Vec<u8>>)> = (0..HOSTS)
        .map(|n| {
            let mut lines = Lines::new("s", n as u64);
            let packs = (0..3).map(|_| lines.block(50).into_bytes()).collect();
            (HourKey { name: format!("web{n}"), hour }, packs)
        })
        .collect();
    // All hours are under way at the same time: the first packs of all, then the second ones, then the last.
    let mut client = Client::new(store.addr());
    for id in 1..=3 {
        for (key, packs) in &hosts {
            client.send(&frame(key, packs, id));
        }
    }
    let save = temp.path("save");
    for (key, packs) in &hosts {
        let tag = certified(&save, &key.name, hour);
        assert_eq!((&tag["verified"], &tag["lines"]), (&true.into(), &150.into()), "{tag}");
        assert_eq!(std::fs::read(save.join("log_data").join(key.to_string())).unwrap(), packs.concat());
    }
    assert_eq!(store.terminate(), 0);
    client.busy
}

#[test]
fn more_hours_than_descriptors_are_stored() {
    let temp = Temp::new("descriptors");
    let mut store = store(&temp, &[("checkpoint", "30s")]);
    store.kill();
    store.limit_files(LIMIT);
    store.restart();
    assert_eq!(many_hours_at_once(store, &temp), 0, "a store that knows its limit keeps within it");
}

/// Here the limit is not what the store has planned for, as when connections have taken what files were to have.
#[test]
fn a_store_that_runs_out_of_descriptors_goes_on() {
    let temp = Temp::new("descriptors");
    let store = store(&temp, &[("checkpoint", "30s")]);
    let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    prlimit(store.pid(), Resource::Nofile, limit).unwrap();
    println!("the sender was told to wait {} times", many_hours_at_once(store, &temp));
}
