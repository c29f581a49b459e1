//! Threads of a sending role: one per connection; whoever owns the queue hands out packs and takes the outcomes.

use super::Dates;
use super::denied::Denials;
use super::follower::{Follower, Job, Load};
use super::relay::Relay;
use super::serve::{Server, Shared, spawn};
use super::watch::{Unread, Watch};
use crate::auth::Key;
use crate::clock::{self, Clock, Zone};
use crate::config::{RelayConfig, SenderConfig, SpoolConfig};
use crate::disk::{self, Disk};
use crate::health::Health;
use crate::log::{Log, count, duration};
use crate::metrics;
use crate::pack::Encoder;
use crate::receiver::lock;
use crate::sender::rate::Rate;
use crate::sender::{Fail, Link, Outcome, Queue};
use crate::shutdown::Shutdown;
use crate::tls;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a sender thread is to do at one address.
struct Task {
    to: usize,
    /// None = only look whether it can be reached.
    job: Option<Job>,
    frame: Vec<u8>,
}

/// What a sender thread tells.
enum Report {
    /// The pack with this number is a frame now: its lines are not needed any more.
    Packed(u64, Vec<u8>),
    /// A task is done; the thread is idle.
    Done { sender: usize, task: Task, outcome: Outcome },
}

/// The sender threads, with an inbox each, and one outbox for all.
struct Senders {
    inboxes: Vec<SyncSender<Task>>,
    outbox: Receiver<Report>,
    idle: Vec<usize>,
    /// Packs under way.
    packs: usize,
    /// Those of them that are not packed yet.
    raw: usize,
    /// So many of them may be: as many as are compressed at a time, and the next one. More would only take memory.
    raw_max: usize,
    /// Frame buffers that go round.
    frames: Vec<Vec<u8>>,
    threads: Vec<JoinHandle<()>>,
}

/// Those who compress, as many as may at a time: a follower is a guest on its host. Each has a quarter of a megabyte.
struct Encoders {
    free: Mutex<Vec<Encoder>>,
    returned: Condvar,
}

impl Encoders {
    fn with<R>(&self, work: impl FnOnce(&mut Encoder) -> R) -> R {
        let mut free = lock(&self.free);
        let mut encoder = loop {
            match free.pop() {
                Some(e) => break e,
                None => free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(free);
        let done = work(&mut encoder);
        lock(&self.free).push(encoder);
        self.returned.notify_one();
        done
    }
}

impl Senders {
    fn start(
        conf: &SenderConfig,
        compressors: usize,
        (key, tls): (Option<&Arc<Key>>, Option<&Arc<tls::Client>>),
        clock: &Clock,
        zone: &Zone,
    ) -> Self {
        let free = (0..compressors).map(|_| Encoder::new(conf.compress_level)).collect();
        let encoders = Arc::new(Encoders { free: Mutex::new(free), returned: Condvar::new() });
        // What hangs at an address that does not answer, a pack for each that is not in use and a probe, has threads beside
        // those of the address in use.
        let addrs = conf.send_to.len();
        let count = conf.senders.saturating_add(if addrs > 1 { addrs } else { 0 });
        let (tx, outbox) = sync_channel::<Report>(count.saturating_mul(2));
        let (mut inboxes, mut threads) = (Vec::new(), Vec::new());
        for sender in 0..count {
            let (inbox, tasks) = sync_channel::<Task>(1);
            inboxes.push(inbox);
            let (tx, clock, zone, encoders) =
                (tx.clone(), clock.clone(), zone.clone(), Arc::clone(&encoders));
            let key = key.cloned();
            let mut links: Vec<Link> = conf.send_to.iter().map(|addr| Link::new(addr, conf, tls)).collect();
            threads.push(spawn("sender", move || {
                for mut task in tasks {
                    let Some(link) = links.get_mut(task.to) else { return };
                    let outcome = match &mut task.job {
                        Some(job) => {
                            if let Load::Frame(frame) = &mut job.load {
                                std::mem::swap(&mut task.frame, frame);
                            } else {
                                let wall = zone.format_ms(clock.now_ms());
                                encoders.with(|e| job.frame(e, key.as_deref(), &wall, &mut task.frame));
                            }
                            if let Load::Raw(_, raw) = &mut job.load
                                && tx.send(Report::Packed(job.number, std::mem::take(raw))).is_err()
                            {
                                return;
                            }
                            link.send(&task.frame, &[])
                        }
                        None => link.probe(),
                    };
                    if tx.send(Report::Done { sender, task, outcome }).is_err() {
                        return;
                    }
                }
            }));
        }
        Self {
            inboxes,
            outbox,
            idle: (0..count).collect(),
            packs: 0,
            raw: 0,
            raw_max: compressors.saturating_add(1),
            frames: Vec::new(),
            threads,
        }
    }

    /// Can another pack be given?
    fn free(&self) -> bool {
        !self.idle.is_empty() && self.raw < self.raw_max
    }

    /// Sends a pack to an address.
    fn give(&mut self, job: Job, to: Option<usize>) {
        let raw = matches!(job.load, Load::Raw(..));
        let frame = if raw { self.frames.pop().unwrap_or_default() } else { Vec::new() };
        self.packs = self.packs.saturating_add(1);
        self.raw = self.raw.saturating_add(usize::from(raw));
        self.hand_out(Task { to: to.unwrap_or(0), job: Some(job), frame });
    }

    /// Looks whether an address can be reached, if one is to be probed.
    fn probe(&mut self, queue: &mut Queue, now_ms: u64) {
        if !self.idle.is_empty()
            && let Some(to) = queue.probe(now_ms)
        {
            self.hand_out(Task { to, job: None, frame: Vec::new() });
        }
    }

    fn hand_out(&mut self, task: Task) {
        let Some(sender) = self.idle.pop() else { return };
        if let Some(inbox) = self.inboxes.get(sender) {
            // The thread lives as long as its inbox.
            let _ = inbox.send(task);
        }
    }

    fn take(&mut self, wait: Duration) -> Option<Report> {
        match self.outbox.recv_timeout(wait) {
            Ok(r) => {
                match &r {
                    Report::Packed(..) => self.raw = self.raw.saturating_sub(1),
                    Report::Done { sender, task, .. } => {
                        self.idle.push(*sender);
                        self.packs = self.packs.saturating_sub(usize::from(task.job.is_some()));
                    }
                }
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
        if self.frames.len() < self.inboxes.len() {
            frame.clear();
            self.frames.push(frame);
        }
    }

    /// Nothing is under way: what a catch-up needed goes back to the system.
    fn shrink(&mut self) {
        if self.packs == 0 {
            self.frames.clear();
        }
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

/// Says what becomes of attempts, by address.
struct Teller<'a> {
    log: &'a Log,
    addrs: &'a [String],
    failing: Vec<bool>,
    denied: Denials,
    clock: &'a Clock,
}

impl<'a> Teller<'a> {
    fn new(log: &'a Log, clock: &'a Clock, conf: &'a SenderConfig, denied: Denials) -> Self {
        Self { log, addrs: &conf.send_to, failing: vec![false; conf.send_to.len()], denied, clock }
    }

    /// Takes what became of the pack `number` in `frame`.
    fn tell(&mut self, number: u64, frame: &[u8], to: usize, outcome: &Outcome) {
        let (Some(addr), Some(failing)) = (self.addrs.get(to), self.failing.get_mut(to)) else { return };
        match outcome {
            Outcome::Sent => {}
            Outcome::TempFail { how: Fail::NoConnection, .. } => metrics::FAILED_CONNECTION.inc(),
            Outcome::TempFail { how: Fail::NoAnswer, .. } => metrics::FAILED_ANSWER.inc(),
            Outcome::TempFail { .. } => metrics::FAILED_BUSY.inc(),
            Outcome::PermFail(_) => metrics::FAILED_REFUSED.inc(),
        }
        match self.denied.note(number, frame, addr, outcome, self.clock.now_ms()) {
            Some((true, text)) => self.log.info(&text),
            Some((false, text)) => self.log.warn(&text),
            None => {}
        }
        // A refusal is of one pack: others may be taken all the time, and it says nothing of the way there.
        match outcome {
            Outcome::TempFail { how: Fail::NoConnection | Fail::NoAnswer, .. } => *failing = true,
            Outcome::Sent if std::mem::take(failing) => {
                self.log.info(&format!("sending to {addr}: packs are taken again"));
            }
            _ => {}
        }
        match outcome {
            // Told above.
            Outcome::Sent | Outcome::TempFail { how: Fail::Denied, .. } => {}
            Outcome::TempFail { reason, .. } => {
                self.log.warn(&format!("sending to {addr}: {reason}; nothing is lost, trying again"));
            }
            Outcome::PermFail(reason) => self.log.error(&format!(
                "sending to {addr}: {reason}; the pack is kept and tried again; look at the receiver's log"
            )),
        }
    }

    /// Takes whether an address can be reached.
    fn probed(&mut self, to: usize, outcome: &Outcome) {
        if let Some(addr) = self.addrs.get(to) {
            self.denied.way(addr, outcome, self.clock.now_ms());
        }
    }

    fn warn(&self, queue: &mut Queue) {
        queue.take_warnings().iter().for_each(|w| self.log.warn(w));
    }

    /// Writes for `logd status` what is denied. Whatever becomes of that, packs go on.
    fn save(&mut self, disk: &Disk, waits: impl Fn(u64) -> bool) {
        if let Err(e) = self.denied.save(disk, self.clock.now_ms(), waits) {
            super::disk_error(disk, self.log, &e);
        }
        self.denied.said.drain(..).for_each(|text| self.log.info(&text));
    }

    fn close(&mut self, disk: &Disk) {
        if let Err(e) = self.denied.close(disk, self.clock.now_ms()) {
            super::disk_error(disk, self.log, &e);
        }
    }
}

/// Tells somebody in front of a terminal how far a follower is that ends by itself.
struct Progress {
    begun: Instant,
    next: Instant,
    /// Most bytes that were unread at one time.
    all: u64,
}

impl Progress {
    /// The first time, and how often after that.
    const FIRST: Duration = Duration::from_secs(2);
    const AGAIN: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self { begun: Instant::now(), next: clock::deadline(Self::FIRST), all: 0 }
    }

    fn look(&mut self, f: &Follower, disk: &Disk) {
        if Instant::now() < self.next {
            return;
        }
        self.next = clock::deadline(Self::AGAIN);
        let unread = f.streams.following(&f.journal).into_iter().map(|(path, at, _)| {
            disk.stat(&path).ok().flatten().map_or(0, |stat| stat.len.saturating_sub(at))
        });
        let unread = unread.fold(0, u64::saturating_add);
        let spent = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        crate::log::complain(&self.text(unread, f.unacknowledged() as u64, spent));
    }

    fn text(&mut self, unread: u64, packs: u64, spent_ms: u64) -> String {
        self.all = self.all.max(unread);
        let done = self.all.saturating_sub(unread);
        let left = spent_ms.checked_mul(unread).and_then(|ms| ms.checked_div(done));
        let left = left
            .filter(|_| unread > 0)
            .map(|ms| format!("; about {} left", duration(ms)))
            .unwrap_or_default();
        let unread = unread.checked_div(1 << 20).unwrap_or(0);
        format!("{unread} MiB to read, {} without an acknowledgement{left}", count(packs, "pack"))
    }
}

/// Runs a follower until it is told to stop, or with `once` until all is acknowledged; false = not all was.
pub fn follow(
    f: &mut Follower,
    conf: &crate::config::TailConfig,
    once: bool,
    deadline: Option<Instant>,
    tls: Option<&Arc<tls::Client>>,
    world: (&Disk, &Clock, &Zone, &Log, &Shutdown),
    health: &Health,
) -> disk::Result<bool> {
    let (disk, clock, zone, log, stop) = world;
    let mut unreadable = None;
    let mut teller = Teller::new(log, clock, &conf.sender, Denials::open(disk, f.state_dir()));
    let mut senders = Senders::start(&conf.sender, conf.compressors, (f.key.as_ref(), tls), clock, zone);
    let tick = Duration::from_millis(conf.scan_interval_ms.clamp(10, 5000));
    let mut finished = false;
    let mut rate = Rate::new(conf.max_rate, clock.mono_ms());
    // While the disk is full packs are sent on at full speed: they may be what fills it.
    let mut next_step = Instant::now();
    let (mut watch, mut dates) = (Watch::new(health), Dates::default());
    let mut unread = Unread::default();
    let mut progress = (once && std::io::stderr().is_terminal()).then(Progress::new);
    while !stop.requested() {
        if Instant::now() >= next_step {
            let stepped = f.step();
            watch.disk(&stepped);
            if let Err(e) = stepped {
                super::disk_error(disk, log, &e);
                next_step = clock::deadline(super::PAUSE);
                if once && !e.no_space() {
                    // What cannot be read now would never come; whoever called is told.
                    unreadable = Some(e);
                    break;
                }
            }
        }
        if watch.turn(clock) {
            if let Some(tls) = tls {
                dates.look("tls_client", || tls.expiries(), (clock, zone, log, health));
            }
            let now = clock.mono_ms();
            watch.link(f.queue.is_link_down(), f.unacknowledged() as u64, now);
            let (bytes, packs) = f.retry_spool();
            watch.spool(bytes, conf.spool.size, packs);
            watch.paused(f.paused());
            // A look at every file: only for those who ask.
            let (bytes, age) = match conf.http.listen {
                Some(_) => {
                    let files = f.streams.following(&f.journal).into_iter().map(|(path, at, _)| (path, at));
                    unread.look(disk, files, clock.now_ms())
                }
                None => (0, 0),
            };
            metrics::UNREAD_BYTES.set(bytes);
            metrics::LAG.set(age.max(f.oldest_ms()));
        }
        while senders.free() && rate.allows(clock.mono_ms()) {
            match f.next_job() {
                Ok(Some(job)) => {
                    let to = f.queue.sent_to(job.number);
                    senders.give(job, to);
                }
                Ok(None) => break,
                Err(e) => {
                    super::disk_trouble(disk, log, stop, &e);
                    break;
                }
            }
        }
        senders.probe(&mut f.queue, clock.mono_ms());
        teller.warn(&mut f.queue);
        teller.save(disk, |n| f.queue.has(n));
        for a in f.alarms.drain(..) {
            log.error(&a);
        }
        for m in f.messages.drain(..) {
            log.info(&m);
        }
        if let Some(progress) = &mut progress {
            progress.look(f, disk);
        }
        if once && f.is_finished() {
            finished = true;
            break;
        }
        if deadline.is_some_and(|d| Instant::now() >= d) {
            break;
        }
        senders.shrink();
        let mut wait = tick;
        while let Some(report) = senders.take(wait) {
            wait = Duration::ZERO;
            let (task, outcome) = match report {
                Report::Packed(number, raw) => {
                    f.packed(number, raw);
                    continue;
                }
                Report::Done { task, outcome, .. } => (task, outcome),
            };
            let Some(job) = task.job else {
                f.queue.probed(task.to, &outcome, clock.mono_ms());
                teller.probed(task.to, &outcome);
                continue;
            };
            teller.tell(job.number, &task.frame, task.to, &outcome);
            if !matches!(outcome, Outcome::TempFail { how: Fail::NoConnection, .. }) {
                rate.sent(task.frame.len() as u64);
            }
            if let Err(e) = f.report(job, &task.frame, &outcome) {
                super::disk_trouble(disk, log, stop, &e);
            }
            senders.recycle(task.frame);
        }
    }
    // What is under way may still be acknowledged.
    let until = clock::deadline(Duration::from_millis(conf.quit_timeout_ms));
    while senders.packs > 0 && Instant::now() < until {
        if let Some(Report::Done { task: Task { job: Some(job), frame, .. }, outcome, .. }) =
            senders.take(Duration::from_millis(50))
            && let Err(e) = f.report(job, &frame, &outcome)
        {
            super::disk_trouble(disk, log, stop, &e);
        }
    }
    senders.join();
    teller.close(disk);
    if let Err(e) = f.close() {
        super::disk_trouble(disk, log, stop, &e);
    }
    unreadable.map_or(Ok(finished), Err)
}

/// The gauges of a receiver's spool.
pub fn watch_spool(watch: &Watch, s: &Shared, conf: &SpoolConfig, now: u64) {
    let (bytes, packs, first, room) = {
        let gate = lock(&s.gate);
        let spool = &gate.spool;
        (spool.bytes(), spool.waiting(), spool.next_waiting(0), spool.room())
    };
    watch.spool(bytes, conf.size, packs);
    metrics::LAG.set(lock(&s.ages).oldest(first.map(|(seq, _)| seq), now));
    let full = room.is_ok_and(|room| room == 0);
    let why = lock(&s.paused).clone();
    let spool_full =
        || "there is no room in the spool (spool_size, min_free): senders are told to wait".to_owned();
    watch.paused(why.or_else(|| full.then(spool_full)));
}

/// Runs a relay's sending half until it is told to stop.
pub fn pass_on(
    relay: &mut Relay,
    conf: &RelayConfig,
    tls: Option<&Arc<tls::Client>>,
    server: Server,
    s: &Arc<Shared>,
    state_dir: &Path,
) {
    let (spool, quit_ms, conf) = (&conf.spool, conf.quit_timeout_ms, &conf.sender);
    // Its packs are frames already, and signed.
    let mut senders = Senders::start(conf, 0, (None, tls), &s.clock, &s.zone);
    let mut teller = Teller::new(&s.log, &s.clock, conf, Denials::open(&s.disk, state_dir));
    let mut marks_saved = s.clock.mono_ms();
    let (mut watch, mut dates) = (Watch::new(&s.health), Dates::default());
    let report = |relay: &mut Relay, number: u64, frame: &[u8], outcome: &Outcome| {
        if let Err(e) = relay.report(number, frame, outcome, s.clock.mono_ms(), &s.gate) {
            super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
        }
    };
    while !s.stop.requested() {
        let now = s.clock.mono_ms();
        if watch.turn(&s.clock) {
            if let Some(tls) = tls {
                dates.look("tls_client", || tls.expiries(), (&s.clock, &s.zone, &s.log, &s.health));
            }
            watch_spool(&watch, s, spool, now);
            watch.link(relay.queue.is_link_down(), metrics::SPOOL_PACKS.get(), now);
        }
        while senders.free() {
            let mut frame = senders.frames.pop().unwrap_or_default();
            relay.fill(&s.gate);
            match relay.next_job(now, &s.gate, &mut frame) {
                Ok(Some(number)) => {
                    let to = relay.queue.sent_to(number);
                    senders.give(Job { number, load: super::follower::Load::Frame(frame) }, to);
                }
                Ok(None) => break,
                Err(e) => {
                    super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
                    break;
                }
            }
        }
        if conf.send_to.len() > 1 {
            relay.queue.tick(now, s.zone.hour_at(s.clock.now_ms()));
            senders.probe(&mut relay.queue, now);
            teller.warn(&mut relay.queue);
        }
        if let Err(e) = relay.tidy(now, &s.gate) {
            super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
        }
        for a in relay.alarms.drain(..) {
            s.log.error(&a);
        }
        teller.save(&s.disk, |n| relay.has(n));
        s.save_senders();
        let saved = if now.saturating_sub(marks_saved) >= super::MARKS_MS {
            marks_saved = now;
            lock(&s.gate).spool.save_marks()
        } else {
            Ok(())
        };
        watch.disk(&saved);
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
        while let Some(told) = senders.take(wait) {
            wait = Duration::ZERO;
            let Report::Done { task, outcome, .. } = told else { continue };
            let Some(job) = task.job else {
                relay.queue.probed(task.to, &outcome, s.clock.mono_ms());
                teller.probed(task.to, &outcome);
                continue;
            };
            teller.tell(job.number, &task.frame, task.to, &outcome);
            report(relay, job.number, &task.frame, &outcome);
            senders.recycle(task.frame);
        }
    }
    let until = clock::deadline(Duration::from_millis(quit_ms));
    server.join(until);
    while senders.packs > 0 && Instant::now() < until {
        if let Some(Report::Done { task: Task { job: Some(job), frame, .. }, outcome, .. }) =
            senders.take(Duration::from_millis(50))
        {
            report(relay, job.number, &frame, &outcome);
        }
    }
    senders.join();
    teller.close(&s.disk);
    let closed = lock(&s.gate).spool.close();
    if let Err(e) = closed {
        super::disk_trouble(&s.disk, &s.log, &s.stop, &e);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_is_left_and_guesses_the_time_when_it_can() {
        let (mut p, mb) = (Progress::new(), 1 << 20);
        assert_eq!(p.text(300 * mb, 0, 2_000), "300 MiB to read, 0 packs without an acknowledgement");
        assert_eq!(
            p.text(100 * mb, 1, 10_000),
            "100 MiB to read, 1 pack without an acknowledgement; about 5 s left"
        );
        // More files were found.
        assert_eq!(p.text(400 * mb, 2, 20_000), "400 MiB to read, 2 packs without an acknowledgement");
        assert_eq!(p.text(0, 7, 60_000), "0 MiB to read, 7 packs without an acknowledgement");
    }
}
