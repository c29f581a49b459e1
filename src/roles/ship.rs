//! Threads of a sending role: one per connection; whoever owns the queue hands out packs and takes the outcomes.

use super::follower::{Follower, Job};
use super::relay::Relay;
use super::serve::{Server, Shared, spawn};
use crate::clock::{Clock, Zone};
use crate::config::SenderConfig;
use crate::disk::{self, Disk};
use crate::log::Log;
use crate::pack::Encoder;
use crate::receiver::lock;
use crate::sender::{Link, Outcome};
use crate::shutdown::Shutdown;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

struct Report {
    sender: usize,
    job: Job,
    frame: Vec<u8>,
    outcome: Outcome,
}

/// The sender threads, with an inbox each, and one outbox for all.
struct Senders {
    inboxes: Vec<SyncSender<(Job, Vec<u8>)>>,
    outbox: Receiver<Report>,
    idle: Vec<usize>,
    /// Frame buffers that go round.
    frames: Vec<Vec<u8>>,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    fn start(conf: &SenderConfig, clock: &Clock, zone: &Zone) -> Self {
        let addr = conf.send_to.first().cloned().unwrap_or_default();
        let (tx, outbox) = sync_channel::<Report>(conf.senders);
        let (mut inboxes, mut threads) = (Vec::new(), Vec::new());
        for sender in 0..conf.senders {
            let (inbox, jobs) = sync_channel::<(Job, Vec<u8>)>(1);
            inboxes.push(inbox);
            let (tx, clock, zone) = (tx.clone(), clock.clone(), zone.clone());
            let mut link = Link::new(&addr, conf);
            let mut encoder = Encoder::new(conf.compress_level);
            threads.push(spawn("sender", move || {
                for (job, mut frame) in jobs {
                    job.frame(&mut encoder, &zone.format_ms(clock.now_ms()), &mut frame);
                    let outcome = link.send(&frame, &[]);
                    if tx.send(Report { sender, job, frame, outcome }).is_err() {
                        return;
                    }
                }
            }));
        }
        let idle = (0..conf.senders).collect();
        Self { inboxes, outbox, idle, frames: Vec::new(), threads }
    }

    fn give(&mut self, job: Job) {
        let Some(sender) = self.idle.pop() else { return };
        let frame = self.frames.pop().unwrap_or_default();
        if let Some(inbox) = self.inboxes.get(sender) {
            // The thread lives as long as its inbox.
            let _ = inbox.send((job, frame));
        }
    }

    fn take(&mut self, wait: Duration) -> Option<Report> {
        match self.outbox.recv_timeout(wait) {
            Ok(r) => {
                self.idle.push(r.sender);
                Some(r)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait);
                None
            }
        }
    }

    fn recycle(&mut self, mut frame: Vec<u8>) {
        frame.clear();
        self.frames.push(frame);
    }

    fn all_idle(&self) -> bool {
        self.idle.len() == self.inboxes.len()
    }

    /// Threads that wait for an answer longer than their owner has are left to the end of the process.
    fn join(self) {
        let idle = self.all_idle();
        drop(self.inboxes);
        if idle {
            for t in self.threads {
                let _ = t.join();
            }
        }
    }
}

fn tell(log: &Log, addr: &str, outcome: &Outcome, failing: &mut bool) {
    let failed = *outcome != Outcome::Sent;
    if *failing && !failed {
        log.info(&format!("sending to {addr}: packs are taken again"));
    }
    *failing = failed;
    match outcome {
        Outcome::Sent => {}
        Outcome::TempFail { reason, .. } => {
            log.warn(&format!("sending to {addr}: {reason}; nothing is lost, trying again"));
        }
        Outcome::PermFail(reason) => log.error(&format!(
            "sending to {addr}: {reason}; the pack is kept and tried again; look at the receiver's log"
        )),
    }
}

/// Runs a follower until it is told to stop, or with `once` until all is acknowledged; false = not all was.
pub fn follow(
    f: &mut Follower,
    conf: &crate::config::TailConfig,
    once: bool,
    deadline: Option<Instant>,
    world: (&Disk, &Clock, &Zone, &Log, &Shutdown),
) -> disk::Result<bool> {
    let (disk, clock, zone, log, stop) = world;
    let (mut unreadable, mut failing) = (None, false);
    let addr = conf.sender.send_to.first().cloned().unwrap_or_default();
    let mut senders = Senders::start(&conf.sender, clock, zone);
    let tick = Duration::from_millis(conf.scan_interval_ms.clamp(10, 5000));
    let mut finished = false;
    // While the disk is full packs are sent on at full speed: they may be what fills it.
    let mut next_step = Instant::now();
    while !stop.requested() {
        if Instant::now() >= next_step
            && let Err(e) = f.step()
        {
            super::disk_error(disk, log, &e);
            next_step = Instant::now() + super::PAUSE;
            if once && !e.no_space() {
                // What cannot be read now would never come; whoever called is told.
                unreadable = Some(e);
                break;
            }
        }
        while !senders.idle.is_empty() {
            match f.next_job() {
                Ok(Some(job)) => senders.give(job),
                Ok(None) => break,
                Err(e) => {
                    super::disk_trouble(disk, log, stop, &e);
                    break;
                }
            }
        }
        for a in f.alarms.drain(..) {
            log.error(&a);
        }
        for m in f.messages.drain(..) {
            log.info(&m);
        }
        if once && f.is_finished() {
            finished = true;
            break;
        }
        if deadline.is_some_and(|d| Instant::now() >= d) {
            break;
        }
        let mut wait = tick;
        while let Some(r) = senders.take(wait) {
            tell(log, &addr, &r.outcome, &mut failing);
            if let Err(e) = f.report(r.job, &r.frame, &r.outcome) {
                super::disk_trouble(disk, log, stop, &e);
            }
            senders.recycle(r.frame);
            wait = Duration::ZERO;
        }
    }
    // What is under way may still be acknowledged.
    let until = Instant::now() + Duration::from_millis(conf.quit_timeout_ms);
    while !senders.all_idle() && Instant::now() < until {
        if let Some(r) = senders.take(Duration::from_millis(50))
            && let Err(e) = f.report(r.job, &r.frame, &r.outcome)
        {
            super::disk_trouble(disk, log, stop, &e);
        }
    }
    senders.join();
    if let Err(e) = f.close() {
        super::disk_trouble(disk, log, stop, &e);
    }
    unreadable.map_or(Ok(finished), Err)
}

/// Runs a relay's sending half until it is told to stop.
pub fn pass_on(relay: &mut Relay, conf: &SenderConfig, server: Server, quit_ms: u64, s: &Arc<Shared>) {
    let addr = conf.send_to.first().cloned().unwrap_or_default();
    let mut senders = Senders::start(conf, &s.clock, &s.zone);
    let (mut marks_saved, mut failing) = (s.clock.mono_ms(), false);
    let report = |relay: &mut Relay, r: &Report| {
        let mut gate = lock(&s.gate);
        let done = relay.report(r.job.number, &r.frame, &r.outcome, s.clock.mono_ms(), &mut gate);
        drop(gate);
        if let Err(e) = done {
            super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
        }
    };
    while !s.stop.requested() {
        let now = s.clock.mono_ms();
        while !senders.idle.is_empty() {
            let mut frame = Vec::new();
            let next = {
                let mut gate = lock(&s.gate);
                relay.fill(&gate);
                relay.next_job(now, &mut gate, &mut frame)
            };
            match next {
                Ok(Some(number)) => senders.give(Job { number, load: super::follower::Load::Frame(frame) }),
                Ok(None) => break,
                Err(e) => {
                    super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
                    break;
                }
            }
        }
        for a in relay.alarms.drain(..) {
            s.log.error(&a);
        }
        let saved = if now.saturating_sub(marks_saved) >= super::MARKS_MS {
            marks_saved = now;
            lock(&s.gate).spool.save_marks()
        } else {
            Ok(())
        };
        if let Err(e) = saved {
            super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
        }
        if senders.all_idle() && relay.queue.is_empty() {
            // Nothing to do until the next pack is durable.
            let gate = lock(&s.gate);
            drop(s.durable.wait_timeout(gate, Duration::from_millis(200)));
            continue;
        }
        let mut wait = Duration::from_millis(20);
        while let Some(r) = senders.take(wait) {
            tell(&s.log, &addr, &r.outcome, &mut failing);
            report(relay, &r);
            senders.recycle(r.frame);
            wait = Duration::ZERO;
        }
    }
    let until = Instant::now() + Duration::from_millis(quit_ms);
    server.join(until);
    while !senders.all_idle() && Instant::now() < until {
        if let Some(r) = senders.take(Duration::from_millis(50)) {
            report(relay, &r);
        }
    }
    senders.join();
    let closed = lock(&s.gate).spool.close();
    if let Err(e) = closed {
        super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
    }
}
