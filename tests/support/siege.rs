//! A hostile crowd: connections from many addresses that do everything but send a pack honestly.

use super::Rng;
use super::peer::{Pack, lines, zlib_of_one_byte};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Addresses that the crowd comes from.
const ADDRESSES: u16 = 40;

/// Connects from an address of this machine.
pub fn connect_from(ip: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    // Not for the processes that other tests start meanwhile: what they may open is counted.
    let own = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&own, &SocketAddr::from((ip, 0)))?;
    connect(&own, &to)?;
    let stream = TcpStream::from(own);
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn address(n: usize) -> Ipv4Addr {
    let n = u16::try_from(n % usize::from(ADDRESSES)).unwrap();
    Ipv4Addr::new(127, 66, 0, u8::try_from(n).unwrap() + 1)
}

/// The running crowd; dropping it ends it.
pub struct Siege {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Connections that were made.
    pub connections: Arc<AtomicU64>,
    /// Frames or pieces of frames that were sent.
    pub sent: Arc<AtomicU64>,
    _idle: Vec<TcpStream>,
}

impl Siege {
    /// Opens `idle` connections that stay silent, then keeps up slow headers, slow bodies, bombs, garbage and floods until
    /// it is dropped.
    pub fn begin(to: SocketAddr, idle: usize, seed: u64) -> Self {
        let (stop, connections, sent) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let silent: Vec<TcpStream> = (0..idle).filter_map(|n| connect_from(address(n), to).ok()).collect();
        connections.fetch_add(silent.len() as u64, Ordering::Relaxed);
        let works: [fn(&mut Attack); 6] = [
            Attack::slow_headers,
            Attack::long_headers,
            Attack::slow_bodies,
            Attack::bombs,
            Attack::garbage,
            Attack::floods,
        ];
        let threads = (0..).zip(works).map(|(n, work)| {
            let mut attack = Attack {
                to,
                stop: Arc::clone(&stop),
                connections: Arc::clone(&connections),
                sent: Arc::clone(&sent),
                rng: Rng::new(seed + n),
            };
            std::thread::spawn(move || {
                // Hostile hosts have processors of their own: what they compute must not be in the way of those whom they
                // attack. A niceness is a thread's own.
                let _ = rustix::process::setpriority_process(None, 19);
                while !attack.stop.load(Ordering::Relaxed) {
                    work(&mut attack);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, threads, connections, sent, _idle: silent }
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

struct Attack {
    to: SocketAddr,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    rng: Rng,
}

impl Attack {
    fn connect(&mut self) -> Option<TcpStream> {
        let n = self.rng.below(u64::from(ADDRESSES)) as usize;
        let stream = connect_from(address(n), self.to).ok()?;
        let ms = Duration::from_millis(300);
        stream.set_read_timeout(Some(ms)).ok()?;
        stream.set_write_timeout(Some(ms)).ok()?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Some(stream)
    }

    fn send(&self, stream: &mut TcpStream, bytes: &[u8]) -> bool {
        self.sent.fetch_add(1, Ordering::Relaxed);
        stream.write_all(bytes).is_ok()
    }

    /// A crowd of connections that each send a byte now and then.
    fn drip(&mut self, frame: &[u8], from: usize) {
        let mut crowd: Vec<TcpStream> = (0..200).filter_map(|_| self.connect()).collect();
        for s in &mut crowd {
            self.send(s, &frame[..from]);
        }
        let until = Instant::now() + Duration::from_secs(5);
        for byte in &frame[from..] {
            if self.stop.load(Ordering::Relaxed) || Instant::now() >= until {
                return;
            }
            crowd.retain_mut(|s| self.send(s, &[*byte]));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn slow_headers(&mut self) {
        self.drip(&stranger(1, &lines("slow", 0, 3)).frame(), 0);
    }

    /// Headers that end a little before their end: each takes as much memory as a header may.
    fn long_headers(&mut self) {
        let frame = stranger(1, b"a line\n").set("more", &"x".repeat(60_000)).frame();
        let until = Instant::now() + Duration::from_secs(5);
        let mut crowd = Vec::new();
        while Instant::now() < until && !self.stop.load(Ordering::Relaxed) {
            let some = if crowd.len() < 1_000 { self.connect() } else { None };
            match some {
                Some(mut s) => {
                    self.send(&mut s, &frame[..60_000]);
                    crowd.push(s);
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn slow_bodies(&mut self) {
        let pack = stranger(1, &lines("slow", 0, 300));
        let frame = pack.frame();
        self.drip(&frame, frame.len() - pack.body.len());
    }

    fn bombs(&mut self) {
        let Some(mut s) = self.connect() else { return };
        let zeros = zlib_of_one_byte(0, 16 << 20);
        let bomb = match self.rng.below(3) {
            // More than it says; more than anybody may; a length that never comes.
            0 => stranger(1, b"a line\n").with_body(zeros),
            1 => stranger(1, b"a line\n").set("bytes", "4000000000").with_body(zeros),
            _ => stranger(1, b"a line\n").with_pack_len("16000000"),
        };
        self.send(&mut s, &bomb.frame());
        let _ = s.read(&mut [0; 64]);
    }

    fn garbage(&mut self) {
        let Some(mut s) = self.connect() else { return };
        let noise: Vec<u8> = (0..self.rng.below(100_000)).map(|_| self.rng.next_u64() as u8).collect();
        self.send(&mut s, &noise);
        let _ = s.read(&mut [0; 64]);
    }

    fn floods(&mut self) {
        let Some(mut s) = self.connect() else { return };
        for n in 0..200 {
            // Packs behind a gap that never closes, each under another number.
            let id = 2 + self.rng.below(1_000_000) as usize;
            if self.stop.load(Ordering::Relaxed)
                || !self.send(&mut s, &stranger(id, &lines("flood", n, 50)).frame())
            {
                return;
            }
            let mut answer = [0; 64];
            if s.read(&mut answer).is_err() {
                return;
            }
        }
    }
}

fn stranger(id: usize, raw: &[u8]) -> Pack {
    Pack::ours("stranger", "2026112204", 0, id, raw)
}
