//! A proxy that spoils connections at a chosen byte, as a network does.
//!
//! It stands between a sender and a receiver and knows the wire format just enough to tell which pack a frame carries: the
//! header is read whole before a byte of it goes on, the body streams. So a fault has a place that does not depend on
//! how the sender spreads packs over connections: byte N of the frame of that pack, or byte N of the answer to it. Each
//! fault strikes once; the next connection passes.
//!
//! Nothing here uses the program's own decoder.

use super::SOON;
use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How a connection is spoiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Both sides see the end of the stream.
    Fin,
    /// Both sides see "connection reset".
    Rst,
    /// Nothing more arrives anywhere, and nobody is told.
    Blackhole,
    /// What follows in this frame or answer arrives one byte at a time.
    Dribble,
    /// As `Fin`; then what the connection has carried arrives once more, over a connection of its own, while the sender
    /// tries again. [`Proxy::replay`] does it a third time.
    Twice,
    /// The pack is swallowed and answered with `ok`: what an acknowledgement must never be. For tests of the tests.
    Lie,
}

/// The stream that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The frame, on its way to the receiver.
    Forward,
    /// The answer, on its way back.
    Backward,
}

/// What happens, and after how many bytes; a number beyond the frame's end means its end.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// How.
    pub kind: Kind,
    /// Where.
    pub way: Way,
    /// After this many bytes of the frame or the answer.
    pub at: usize,
}

/// Sender's name, hour, number: what a fault waits for.
pub type PackId = (String, String, u64);

#[derive(Default)]
struct Shared {
    plan: Mutex<HashMap<PackId, Fault>>,
    /// Longest frame seen of each pack number.
    longest: Mutex<BTreeMap<u64, usize>>,
    /// What connections with `Twice` have carried, and how many whole frames that is.
    carried: Mutex<Vec<(Vec<u8>, usize)>>,
    connections: AtomicU64,
    /// Connections that are silent and that the receiver has not given up yet.
    silent: AtomicU64,
    /// Connections whose end nobody saw within the time of a hang.
    stuck: AtomicU64,
    stop: AtomicBool,
}

/// A running proxy.
pub struct Proxy {
    addr: SocketAddr,
    to: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap()
}

impl Proxy {
    /// Listens, and passes on to `to`.
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared::default());
        let me = Self { addr: listener.local_addr().unwrap(), to, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(from) = stream else { continue };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let s = Arc::clone(&shared);
                // A broken connection is what this is about; whoever is at its ends says what they make of it.
                let work = move || drop(carry(from, to, &s));
                thread::Builder::new().stack_size(128 << 10).spawn(work).unwrap();
            }
        });
        me
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Plans a fault for a pack.
    pub fn plan(&self, pack: PackId, fault: Fault) {
        let before = lock(&self.shared.plan).insert(pack, fault);
        assert!(before.is_none(), "two faults for one pack");
    }

    /// Faults that have not struck yet.
    pub fn left(&self) -> Vec<(PackId, Fault)> {
        lock(&self.shared.plan).iter().map(|(p, f)| (p.clone(), *f)).collect()
    }

    /// The longest frame of each pack number.
    pub fn longest(&self) -> BTreeMap<u64, usize> {
        lock(&self.shared.longest).clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Silent connections that their receiver keeps open still, and those whose end did not come at all.
    pub fn silent(&self) -> (u64, u64) {
        (self.shared.silent.load(Ordering::Relaxed), self.shared.stuck.load(Ordering::Relaxed))
    }

    /// Sends once more what connections with a `Twice` have carried: each in one go, several packs in one segment. How many
    /// whole packs that were; panics if one of them is not answered `ok`.
    pub fn replay(&self) -> u64 {
        let carried = lock(&self.shared.carried);
        let mut packs = 0;
        for (bytes, frames) in carried.iter() {
            let said = deliver(self.to, bytes, *frames).unwrap();
            assert_eq!(said, "ok".repeat(*frames), "a replayed connection of {frames} packs");
            packs += *frames as u64;
        }
        packs
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.addr));
    }
}

/// Sends recorded bytes over a connection of their own and reads the answers to the whole frames in it.
fn deliver(to: SocketAddr, bytes: &[u8], frames: usize) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(bytes)?;
    let mut said = vec![0; 2 * frames];
    let mut got = 0;
    while got < said.len() {
        match stream.read(&mut said[got..])? {
            0 => break,
            n => got += n,
        }
    }
    said.truncate(got);
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Length bytes and header of the next frame, what pack it is, and the body's length; `None` = the sender is done.
fn read_head(from: &mut TcpStream) -> io::Result<Option<(Vec<u8>, PackId, usize)>> {
    let mut head = vec![0; 4];
    if from.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..])?;
    let (mut len, mut shift) = (0, 0);
    for b in &head {
        len |= usize::from(b & 0x7F) << shift;
        shift += 7;
        if b & 0x80 == 0 {
            break;
        }
    }
    head.resize(4 + len, 0);
    from.read_exact(&mut head[4..])?;
    let json: Value = serde_json::from_slice(&head[4..]).unwrap();
    let own = &json["Route"][0];
    let text = |key: &str| own[key].as_str().unwrap().to_owned();
    let pack = (text("ip"), text("hour"), text("id").parse().unwrap());
    Ok(Some((head, pack, usize::try_from(json["PackLen"].as_u64().unwrap()).unwrap())))
}

fn carry(mut from: TcpStream, to: SocketAddr, s: &Arc<Shared>) -> io::Result<()> {
    from.set_nodelay(true)?;
    let mut to = TcpStream::connect_timeout(&to, SOON)?;
    to.set_nodelay(true)?;
    // Whole frames that this connection has carried, for `Twice`.
    let (mut carried, mut frames) = (Vec::new(), 0);
    while let Some((head, pack, body)) = read_head(&mut from)? {
        let len = head.len() + body;
        let longest = {
            let mut all = lock(&s.longest);
            let longest = all.entry(pack.2).or_insert(0);
            *longest = len.max(*longest);
            drop(all);
            lock(&s.plan).remove(&pack)
        };
        let (forward, backward) = match longest {
            Some(f) if f.way == Way::Forward => (Some(f), None),
            other => (None, other),
        };
        if let Some(Fault { kind: Kind::Lie, .. }) = forward {
            io::copy(&mut (&from).take(body as u64), &mut io::sink())?;
            from.write_all(b"ok")?;
            continue;
        }
        let at = forward.map_or(len, |f| f.at.min(len));
        let mut sent = 0;
        // Bytes that came from the sender, and how many of them went on.
        let (mut part, mut gone) = (head, 0);
        let mut drop_by_drop = false;
        loop {
            if sent == at && !drop_by_drop {
                match forward {
                    Some(f) if f.kind == Kind::Dribble => drop_by_drop = true,
                    Some(f) => {
                        if f.kind == Kind::Twice {
                            again(&to, carried, frames + usize::from(at == len), s)?;
                        }
                        return spoil(from, to, f.kind, s);
                    }
                    None => {}
                }
            }
            if gone == part.len() {
                if sent == len {
                    break;
                }
                part = vec![0; (len - sent).min(64 << 10)];
                let n = from.read(&mut part)?;
                if n == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                part.truncate(n);
                gone = 0;
            }
            let n = if drop_by_drop {
                thread::yield_now();
                1
            } else if sent < at {
                (part.len() - gone).min(at - sent)
            } else {
                part.len() - gone
            };
            to.write_all(&part[gone..gone + n])?;
            carried.extend_from_slice(&part[gone..gone + n]);
            gone += n;
            sent += n;
        }
        frames += 1;
        let mut answer = [0; 64];
        let n = to.read(&mut answer)?;
        let Some(f) = backward else {
            from.write_all(&answer[..n])?;
            if &answer[..n] == b"ok" {
                continue;
            }
            // A refusal: its last words, and the end. The sender uses this connection no more either.
            io::copy(&mut to, &mut from)?;
            return Ok(());
        };
        let at = f.at.min(n);
        from.write_all(&answer[..at])?;
        match f.kind {
            Kind::Dribble => {
                for b in &answer[at..n] {
                    thread::yield_now();
                    from.write_all(&[*b])?;
                }
            }
            Kind::Twice => {
                again(&to, carried, frames, s)?;
                return spoil(from, to, f.kind, s);
            }
            kind => return spoil(from, to, kind, s),
        }
    }
    Ok(())
}

/// Second delivery, while the sender makes its own.
fn again(to: &TcpStream, carried: Vec<u8>, frames: usize, s: &Arc<Shared>) -> io::Result<()> {
    let to = to.peer_addr()?;
    let bytes = carried.clone();
    lock(&s.carried).push((carried, frames));
    // It may be told to wait, as any sender; the later delivery is the one that must be answered.
    thread::Builder::new().stack_size(128 << 10).spawn(move || drop(deliver(to, &bytes, frames)))?;
    Ok(())
}

fn spoil(mut from: TcpStream, mut to: TcpStream, kind: Kind, s: &Shared) -> io::Result<()> {
    match kind {
        Kind::Rst => {
            for side in [&from, &to] {
                set_socket_linger(side, Some(Duration::ZERO))?;
            }
        }
        Kind::Blackhole => {
            // The receiver's own deadline must end it: it cannot know that there is nobody any more.
            s.silent.fetch_add(1, Ordering::Relaxed);
            to.set_read_timeout(Some(SOON))?;
            let end = io::copy(&mut to, &mut io::sink());
            s.silent.fetch_sub(1, Ordering::Relaxed);
            if end.is_err_and(|e| e.kind() == ErrorKind::WouldBlock) {
                s.stuck.fetch_add(1, Ordering::Relaxed);
            }
        }
        _ => {
            drop(to);
            // Closing with bytes unread would be a reset.
            from.shutdown(Shutdown::Write)?;
            from.set_read_timeout(Some(SOON))?;
            io::copy(&mut from, &mut io::sink())?;
        }
    }
    Ok(())
}
