//! Asking many nodes for their heart-beat at once, in one thread: sockets that do not block, and one `poll`.

use crate::heartbeat::BEAT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How soon a stop is seen.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What came of asking one node.
pub type Beat = (SocketAddr, Result<(), String>);

struct Asked {
    at: SocketAddr,
    socket: OwnedFd,
    connected: bool,
    until: Option<Instant>,
}

/// Asks all of them, at most `most` at the same time. `None` = it was stopped.
pub fn round(nodes: &[SocketAddr], most: usize, stopped: &dyn Fn() -> bool) -> Option<Vec<Beat>> {
    let mut left: VecDeque<SocketAddr> = nodes.iter().copied().collect();
    let (mut asked, mut beats): (Vec<Asked>, Vec<Beat>) = (Vec::new(), Vec::new());
    while !(left.is_empty() && asked.is_empty()) {
        if stopped() {
            return None;
        }
        while asked.len() < most.max(1) {
            let Some(at) = left.pop_front() else { break };
            match begin(at) {
                Ok(one) => asked.push(one),
                // No descriptors for the moment: others will be answered.
                Err(e) if (e == Errno::MFILE || e == Errno::NFILE) && !asked.is_empty() => {
                    left.push_front(at);
                    break;
                }
                Err(e) => beats.push((at, Err(said(e)))),
            }
        }
        let mut waits: Vec<PollFd> = asked
            .iter()
            .map(|a| PollFd::new(&a.socket, if a.connected { PollFlags::IN } else { PollFlags::OUT }))
            .collect();
        let polled = poll(&mut waits, Timespec::try_from(LOOK_AGAIN).ok().as_ref());
        let ready: Vec<bool> = waits.iter().map(|w| !w.revents().is_empty()).collect();
        drop(waits);
        if polled.is_err_and(|e| e != Errno::INTR) {
            // Out of memory: what is under way is given up, and asked in the next round.
            return None;
        }
        let now = Instant::now();
        let mut ready = ready.into_iter();
        asked.retain_mut(|a| {
            let result = if ready.next().unwrap_or(false) { a.go_on() } else { None };
            let late = || a.until.is_none_or(|until| now >= until);
            match result.or_else(|| late().then(|| Err("no answer within 10 s".to_owned()))) {
                Some(result) => {
                    beats.push((a.at, result));
                    false
                }
                None => true,
            }
        });
    }
    Some(beats)
}

fn said(e: Errno) -> String {
    std::io::Error::from(e).to_string()
}

fn begin(at: SocketAddr) -> Result<Asked, Errno> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &at) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(e),
    }
    Ok(Asked { at, socket, connected: false, until: Instant::now().checked_add(ANSWER) })
}

impl Asked {
    /// The socket is ready for what was waited for; the result if there is one.
    fn go_on(&mut self) -> Option<Result<(), String>> {
        if !self.connected {
            match sockopt::socket_error(&self.socket) {
                Ok(Ok(())) => self.connected = true,
                Ok(Err(e)) | Err(e) => return Some(Err(said(e))),
            }
        }
        let mut buf = [0; 2];
        match rustix::io::read(&self.socket, &mut buf) {
            Ok(0) => Some(Err("it closed without an answer".into())),
            Ok(n) if buf.get(..n) == Some(BEAT) => Some(Ok(())),
            Ok(_) => {
                Some(Err("it answers something else than a heart-beat: another program has the port".into()))
            }
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(e) => Some(Err(said(e))),
        }
    }
}
