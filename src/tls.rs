//! Connections between two of us: plain TCP, or TLS over it.
//!
//! A signature ([`crate::auth`]) tells whose a pack is, whatever way it came; TLS keeps what is in it from whoever can read
//! the network on the way. The receiver shows a certificate, which the sender checks against `tls_ca`; with `tls_client_ca`
//! the sender must show one, too, and that opens only the hours of the hosts that it names. TLS 1.3 and nothing older:
//! both ends are ours. Certificates are replaced while a role runs: the files are read again when they change.
//!
//! The TLS is rustls's, behind the Cargo feature `tls`. A program without it refuses a configuration that asks for it.

#[cfg(feature = "tls")]
mod with;
#[cfg(feature = "tls")]
use with as backend;
#[cfg(not(feature = "tls"))]
mod without;
#[cfg(not(feature = "tls"))]
use without as backend;

pub use backend::{Certificate, Client, Server};

use crate::clock::Zone;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Whether this program can do it.
pub const BUILT: bool = cfg!(feature = "tls");

/// The first byte of every TLS connection. A pack begins with the length of its header, of which no value has it there.
pub const HANDSHAKE: u8 = 0x16;

/// What is said of one that never begins a handshake.
pub const SILENT: &str = "silent after it had connected";

/// How long it holds, for `check` and for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The key of the configuration.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// When the first of its certificates expires, in seconds since 1970; `None` = never.
    pub not_after: Option<u64>,
    /// When the last of them begins to be valid, if that is not yet.
    pub not_before: Option<u64>,
}

/// Days before a certificate's end from which it is spoken of.
const SOON_DAYS: i64 = 21;

/// How urgent a certificate's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Nothing to do.
    None,
    /// It ends within three weeks.
    Soon,
    /// It has ended: the other side refuses it.
    Over,
}

impl Expiry {
    /// What is to be said of it now.
    pub fn tell(&self, now_secs: i64, zone: &Zone) -> (Urgency, String) {
        let what = format!("{}: {}", self.key, self.path.display());
        if let Some(begin) = self.not_before.and_then(|at| i64::try_from(at).ok()).filter(|at| *at > now_secs)
        {
            let date = zone.format_ms(begin.saturating_mul(1000));
            return (Urgency::Over, format!("{what}: not valid before {date}; is this host's clock right?"));
        }
        let Some(end) = self.not_after.and_then(|end| i64::try_from(end).ok()) else {
            return (Urgency::None, format!("{what}: valid without an end"));
        };
        let days = end.saturating_sub(now_secs).div_euclid(86_400);
        let date = zone.format_ms(end.saturating_mul(1000));
        match days {
            // Whom a CA has signed is believed after its end, too, by us; others may not.
            ..0 if self.key.ends_with("_ca") || self.key == "tls_ca" => {
                (Urgency::Soon, format!("{what}: expired at {date}; renew it"))
            }
            ..0 => (Urgency::Over, format!("{what}: expired at {date}; the other side refuses it; renew it")),
            0..SOON_DAYS => {
                (Urgency::Soon, format!("{what}: expires at {date}, in {days} days; renew it in time"))
            }
            _ => (Urgency::None, format!("{what}: valid until {date}, {days} days")),
        }
    }
}

/// A TCP connection on which reading and writing end at a moment, however slowly bytes drip in or out.
struct Timed<'a> {
    tcp: &'a TcpStream,
    deadline: Option<Instant>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.tcp.set_read_timeout(Some(left))?;
        }
        let mut tcp = self.tcp;
        tcp.read(buf)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.tcp.set_write_timeout(Some(left))?;
        }
        let mut tcp = self.tcp;
        tcp.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection of either kind.
pub struct Stream {
    tcp: Arc<TcpStream>,
    deadline: Option<Instant>,
    tls: Option<backend::Session>,
}

impl Stream {
    /// A connection without TLS.
    pub fn plain(tcp: Arc<TcpStream>) -> Self {
        Self { tcp, deadline: None, tls: None }
    }

    /// Does it have TLS?
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket below, to be shared.
    pub fn socket(&self) -> Arc<TcpStream> {
        Arc::clone(&self.tcp)
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// When reading fails with [`ErrorKind::WouldBlock`], and writing too.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// Nothing more will be written; the peer may still be reading.
    pub fn close_write(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close(&mut Timed { tcp: &self.tcp, deadline: self.deadline });
        }
        let _ = self.tcp.shutdown(Shutdown::Write);
    }

    /// Is a connection that was not used for a while still there? A receiver closes idle ones when many want to connect; a
    /// pack that is written into a closed one has to wait until its next attempt. Bytes that nobody asked for are a doubt,
    /// too.
    pub fn is_open(&mut self) -> bool {
        if self.tcp.set_nonblocking(true).is_err() {
            return false;
        }
        let mut tcp = &*self.tcp;
        let open = match &mut self.tls {
            Some(tls) => tls.is_silent(&mut tcp),
            None => tcp.peek(&mut [0]).as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock),
        };
        self.tcp.set_nonblocking(false).is_ok() && open
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut timed = Timed { tcp: &self.tcp, deadline: self.deadline };
        match &mut self.tls {
            Some(tls) => tls.read(&mut timed, buf),
            None => timed.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut timed = Timed { tcp: &self.tcp, deadline: self.deadline };
        match &mut self.tls {
            Some(tls) => tls.write(&mut timed, buf),
            None => timed.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.flush(&mut Timed { tcp: &self.tcp, deadline: self.deadline }),
            None => Ok(()),
        }
    }
}

/// What an error on a connection means, for the log.
pub fn explain(e: &io::Error) -> String {
    backend::explain(e).unwrap_or_else(|| e.to_string())
}
