//! Asking many nodes for their heart-beat at once, in one thread: sockets that do not block, and one `poll`.

use crate::heartbeat::BEAT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Who took longer last time is asked apart from the others.
const SLOW: Duration = Duration::from_secs(1);

/// What came of asking one node.
pub type Beat = (SocketAddr, Result<(), String>);

struct Asked {
    at: SocketAddr,
    socket: OwnedFd,
    connected: bool,
    pace: Pace,
    begun: Instant,
}

/// How long a node took last time, and so with whom it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Whether it answered or refused.
    Quick,
    Slow,
    /// It did neither.
    Silent,
}

const PACES: [Pace; 3] = [Pace::Quick, Pace::Slow, Pace::Silent];

/// The questions that are under way, and the nodes that wait for theirs. A node that hangs has one place, and its own
/// question only waits for it. Those that were slow last time get a quarter of the places, and those that were silent
/// half of them, so that they stand in nobody's way but their like's: thousands of them make the outage and the return of one of
/// them late, and of no other.
pub struct Checks {
    most: usize,
    asked: Vec<Asked>,
    /// Who waits, by pace.
    waiting: [VecDeque<SocketAddr>; 3],
    paces: HashMap<SocketAddr, Pace>,
}

impl Checks {
    /// At most `most` questions at the same time.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(4), asked: Vec::new(), waiting: Default::default(), paces: HashMap::new() }
    }

    /// Begins a round: these are to be asked, and no others; true = it did not answer last. Who waits or is being asked keeps
    /// his turn.
    pub fn begin(&mut self, nodes: &[(SocketAddr, bool)]) {
        let wanted: HashSet<SocketAddr> = nodes.iter().map(|(at, _)| *at).collect();
        self.paces.retain(|at, _| wanted.contains(at));
        for waiting in &mut self.waiting {
            waiting.retain(|at| wanted.contains(at));
        }
        let waiting = self.waiting.iter().flatten().copied();
        let known: HashSet<SocketAddr> = waiting.chain(self.asked.iter().map(|a| a.at)).collect();
        for (at, doubtful) in nodes.iter().filter(|(at, _)| !known.contains(at)) {
            let unknown = if *doubtful { Pace::Silent } else { Pace::Quick };
            let pace = self.paces.get(at).copied().unwrap_or(unknown);
            self.of(pace).push_back(*at);
        }
    }

    fn of(&mut self, pace: Pace) -> &mut VecDeque<SocketAddr> {
        let [quick, slow, silent] = &mut self.waiting;
        match pace {
            Pace::Quick => quick,
            Pace::Slow => slow,
            Pace::Silent => silent,
        }
    }

    /// Is any question under way?
    pub fn busy(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Who is asked next, if there is room for him.
    fn next(&mut self) -> Option<(SocketAddr, Pace)> {
        PACES.into_iter().find_map(|pace| {
            let under_way = self.asked.iter().filter(|a| a.pace == pace).count();
            let share = match pace {
                Pace::Quick => Some(self.most),
                Pace::Slow => self.most.checked_div(4),
                Pace::Silent => self.most.checked_div(2),
            };
            let room = share.is_some_and(|share| under_way < share);
            if room { Some((self.of(pace).pop_front()?, pace)) } else { None }
        })
    }

    /// Asks whom there is room for, waits so long at most for something to happen, and tells what came of it.
    pub fn step(&mut self, wait: Duration) -> Vec<Beat> {
        let mut beats = Vec::new();
        while self.asked.len() < self.most {
            let Some((at, pace)) = self.next() else { break };
            match begin(at, pace) {
                Ok(one) => self.asked.push(one),
                // No descriptors for the moment: that says nothing about the node.
                Err(e) if e == Errno::MFILE || e == Errno::NFILE => {
                    self.of(pace).push_front(at);
                    break;
                }
                Err(e) => {
                    self.paces.insert(at, Pace::Quick);
                    beats.push((at, Err(said(e))));
                }
            }
        }
        if self.asked.is_empty() {
            return beats;
        }
        let mut waits: Vec<PollFd> = self
            .asked
            .iter()
            .map(|a| PollFd::new(&a.socket, if a.connected { PollFlags::IN } else { PollFlags::OUT }))
            .collect();
        let wait = if beats.is_empty() { wait } else { Duration::ZERO };
        let polled = poll(&mut waits, Timespec::try_from(wait).ok().as_ref());
        let ready: Vec<bool> = waits.iter().map(|w| !w.revents().is_empty()).collect();
        drop(waits);
        if polled.is_err_and(|e| e != Errno::INTR) {
            // Out of memory: what is under way is given up, and asked in the next round.
            self.asked.clear();
            return beats;
        }
        let now = Instant::now();
        let mut ready = ready.into_iter();
        let paces = &mut self.paces;
        self.asked.retain_mut(|a| {
            let result = if ready.next().unwrap_or(false) { a.go_on() } else { None };
            let took = now.saturating_duration_since(a.begun);
            let late = || (took >= ANSWER).then(|| Err("no answer within 10 s".to_owned()));
            let pace = match result {
                Some(_) if took < SLOW => Pace::Quick,
                Some(_) => Pace::Slow,
                None => Pace::Silent,
            };
            match result.or_else(late) {
                Some(result) => {
                    paces.insert(a.at, pace);
                    beats.push((a.at, result));
                    false
                }
                None => true,
            }
        });
        beats
    }
}

fn said(e: Errno) -> String {
    std::io::Error::from(e).to_string()
}

fn begin(at: SocketAddr, pace: Pace) -> Result<Asked, Errno> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &at) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(e),
    }
    Ok(Asked { at, socket, connected: false, pace, begun: Instant::now() })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn those_who_hang_leave_room_for_others_and_are_asked_in_turn() {
        let (hung, good) =
            (TcpListener::bind("0.0.0.0:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = hung.local_addr().unwrap().port();
        let at = |n: u8| SocketAddr::from(([127, 0, 0, n], port));
        let mut all: Vec<_> = (1..=6).map(|n| (at(n), true)).collect();
        let mut checks = Checks::new(4);
        checks.begin(&all);
        assert!(checks.step(Duration::ZERO).is_empty() && checks.busy());
        all.push((good.local_addr().unwrap(), false));
        for _ in 0..3 {
            checks.begin(&all);
            let beats = loop {
                let beats = checks.step(Duration::from_millis(50));
                good.set_nonblocking(true).unwrap();
                if let Ok((mut stream, _)) = good.accept() {
                    stream.write_all(BEAT).unwrap();
                }
                if !beats.is_empty() {
                    break beats;
                }
            };
            assert_eq!(beats, [(good.local_addr().unwrap(), Ok(()))]);
        }
        // Whose turn has not come is still there, once; who is not wanted any more is not.
        let waiting: Vec<SocketAddr> = checks.of(Pace::Silent).iter().copied().collect();
        assert_eq!(waiting, [at(3), at(4), at(5), at(6)]);
        checks.begin(&all[..3]);
        assert_eq!(*checks.of(Pace::Silent), [at(3)]);
    }

    /// The story: four thousand that answered after nine seconds made the others wait for a minute and a half.
    #[test]
    fn who_was_slow_last_time_stands_in_nobodys_way() {
        let hung = TcpListener::bind("0.0.0.0:0").unwrap();
        let refuses = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = hung.local_addr().unwrap().port();
        let mut all: Vec<_> = (1..=100).map(|n| (SocketAddr::from(([127, 0, 0, n], port)), false)).collect();
        let good = refuses.local_addr().unwrap();
        drop(refuses);
        let mut checks = Checks::new(8);
        for (at, _) in &all {
            checks.paces.insert(*at, Pace::Slow);
        }
        all.push((good, false));
        for _ in 0..5 {
            checks.begin(&all);
            let begun = Instant::now();
            while !checks.step(Duration::from_millis(20)).iter().any(|(at, _)| *at == good) {
                assert!(begun.elapsed() < Duration::from_secs(5));
            }
            assert_eq!(checks.asked.len(), 2);
        }
        assert_eq!(checks.paces[&good], Pace::Quick, "that it refuses is said at once");
    }
}
