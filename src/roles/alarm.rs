//! Alarms: a program of the operator's that is run when something changes.
//!
//! One thread, one program at a time, no shell, a limit of time. Nobody who raises an alarm waits. What changes to and fro
//! is told less and less often: each subject (a node, an hour, a spool) has a back-off of its own, and a change that is
//! taken back before its turn comes is not told at all.

use super::serve::spawn;
use crate::log::{Log, escape};
use crate::receiver::lock;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a program may run.
const LIMIT: Duration = Duration::from_secs(30);
/// How long one may go on when the role stops.
const LIMIT_AT_END: Duration = Duration::from_secs(2);
/// After so long without a change the next one is news again.
const QUIET: Duration = Duration::from_mins(10);
/// The least and the longest time between two alarms of one subject.
const WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_hours(1));
/// A program that fails is run so often in all.
const TRIES: u32 = 3;
/// Subjects that are remembered.
const SUBJECTS_MAX: usize = 10_000;
/// Bytes of a text, at most.
const TEXT_MAX: usize = 1_024;

struct Subject {
    /// What is to be told.
    pending: Option<String>,
    told: Option<String>,
    due: Instant,
    wait: Duration,
    tries: u32,
}

#[derive(Default)]
struct Queue {
    subjects: BTreeMap<String, Subject>,
    dropped: u64,
    quit: bool,
    /// The program runs.
    calling: bool,
}

/// What is run.
pub struct Program {
    words: Vec<String>,
    prefix: String,
}

struct Inner {
    program: Program,
    queue: Mutex<Queue>,
    more: Condvar,
}

/// Where alarms are raised; cheap to clone. Without a program it does nothing.
#[derive(Clone, Default)]
pub struct Alarms(Option<Arc<Inner>>);

impl Alarms {
    /// Starts the thread, if there is a program. `prefix` begins every text.
    pub fn start(words: &[String], prefix: &str, log: &Log) -> (Self, Option<JoinHandle<()>>) {
        let Some(program) = Program::new(words, prefix) else { return (Self(None), None) };
        let inner = Arc::new(Inner { program, queue: Mutex::default(), more: Condvar::new() });
        let (i, log) = (Arc::clone(&inner), log.clone());
        (Self(Some(inner)), Some(spawn("alarm", move || i.run(&log))))
    }

    /// Something about `subject` is different now.
    pub fn raise(&self, subject: &str, text: &str) {
        let Some(inner) = &self.0 else { return };
        let mut queue = lock(&inner.queue);
        let now = Instant::now();
        if queue.subjects.len() >= SUBJECTS_MAX && !queue.subjects.contains_key(subject) {
            queue.subjects.retain(|_, s| s.pending.is_some() || now < s.due);
            if queue.subjects.len() >= SUBJECTS_MAX {
                queue.dropped = queue.dropped.saturating_add(1);
                return;
            }
        }
        let fresh = || Subject { pending: None, told: None, due: now, wait: WAIT.0, tries: 0 };
        let s = queue.subjects.entry(subject.to_owned()).or_insert_with(fresh);
        s.pending = Some(bounded(text));
        drop(queue);
        inner.more.notify_all();
    }

    /// What was told of `subject` is over, and was told with others: the same is news again.
    pub fn settled(&self, subject: &str) {
        if let Some(inner) = &self.0
            && let Some(s) = lock(&inner.queue).subjects.get_mut(subject)
        {
            (s.pending, s.told) = (None, None);
        }
    }

    /// Is there a program, and nothing that it is still to be told?
    pub fn is_idle(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| {
            let queue = lock(&inner.queue);
            !queue.calling && queue.subjects.values().all(|s| s.pending.is_none())
        })
    }

    /// The thread ends when the program that runs has ended or its time is over.
    pub fn stop(&self) {
        if let Some(inner) = &self.0 {
            lock(&inner.queue).quit = true;
            inner.more.notify_all();
        }
    }
}

impl Inner {
    fn run(&self, log: &Log) {
        let mut queue = lock(&self.queue);
        loop {
            let now = Instant::now();
            if queue.dropped > 0 {
                let dropped = std::mem::take(&mut queue.dropped);
                log.warn(&format!(
                    "alarm_command: {dropped} alarms were too many to be kept; look at the log"
                ));
            }
            let next = queue.subjects.iter().filter(|(_, s)| s.pending.is_some()).min_by_key(|(_, s)| s.due);
            let next = next.map(|(name, s)| (name.clone(), s.due));
            match next {
                Some((name, due)) if due <= now => {
                    let Some(text) = queue.subjects.get_mut(&name).and_then(Subject::turn) else { continue };
                    let quit = queue.quit;
                    queue.calling = true;
                    drop(queue);
                    let done = self.program.call(&text, &|| lock(&self.queue).quit);
                    queue = lock(&self.queue);
                    queue.calling = false;
                    if let Some(s) = queue.subjects.get_mut(&name)
                        && let Some(why) = s.called(done, text, quit)
                    {
                        log.error(&format!("alarm_command: {}: {why}", self.program.name()));
                    }
                }
                _ if queue.quit => {
                    for text in queue.subjects.values_mut().filter_map(Subject::turn) {
                        log.error(&format!("alarm_command: this alarm was not told: {text}"));
                    }
                    return;
                }
                _ => {
                    let wait =
                        next.map_or(Duration::from_mins(1), |(_, due)| due.saturating_duration_since(now));
                    queue = self.more.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

/// A text that may be an argument.
fn bounded(text: &str) -> String {
    let mut text = escape(text);
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    text
}

impl Program {
    /// The program, if there is one. `prefix` begins every text.
    pub fn new(words: &[String], prefix: &str) -> Option<Self> {
        (!words.is_empty()).then(|| Self { words: words.to_vec(), prefix: prefix.to_owned() })
    }

    /// Its path.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", |w| w)
    }

    /// Runs it; `quit` says whether the role stops, and then it has little time.
    pub fn call(&self, text: &str, quit: &dyn Fn() -> bool) -> Result<(), String> {
        let text = format!("{}: {}", self.prefix, bounded(text));
        let mut words = self.words.iter();
        let program = words.next().map_or("", String::as_str);
        let child = Command::new(program)
            .args(words.map(|w| w.replace("%s", &text)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What it starts belongs to it, and ends with it when its time is over.
            .process_group(0)
            .spawn();
        let mut child = child.map_err(|e| format!("cannot be run: {e}"))?;
        match wait_for(&mut child, quit) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("ended with {status}")),
            None => {
                if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                    let _ = kill_process_group(pid, Signal::KILL);
                }
                let _ = child.kill();
                let _ = child.wait();
                Err("did not end in time and was killed".into())
            }
        }
    }
}

fn wait_for(child: &mut Child, quit: &dyn Fn() -> bool) -> Option<ExitStatus> {
    let mut left = LIMIT;
    let step = Duration::from_millis(20);
    while !left.is_zero() {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(step);
        left = left.saturating_sub(step);
        if quit() {
            left = left.min(LIMIT_AT_END);
        }
    }
    None
}

impl Subject {
    /// What is to be told now, if it is still news.
    fn turn(&mut self) -> Option<String> {
        let text = self.pending.take()?;
        if self.told.as_ref() == Some(&text) {
            return None;
        }
        Some(text)
    }

    /// What came of it; a sentence for the log if it is to be told.
    fn called(&mut self, done: Result<(), String>, text: String, quit: bool) -> Option<String> {
        let now = Instant::now();
        let later = |wait: Duration| now.checked_add(wait).unwrap_or(now);
        match done {
            Ok(()) => {
                // Quiet for long: the next change is news again.
                let quiet = now.saturating_duration_since(self.due) > self.wait.saturating_mul(10).max(QUIET);
                self.wait = if quiet { WAIT.0 } else { self.wait.saturating_mul(2).min(WAIT.1) };
                (self.told, self.tries) = (Some(text), 0);
                self.due = later(self.wait);
                None
            }
            Err(why) => {
                self.tries = self.tries.saturating_add(1);
                if self.tries < TRIES && !quit {
                    // A newer text takes its place.
                    self.pending.get_or_insert(text);
                    self.due = later(Duration::from_secs(5).saturating_mul(self.tries));
                    return Some(format!("{why}; it is run again"));
                }
                // Nobody knows how it is: whatever comes next is news.
                (self.told, self.tries) = (None, 0);
                self.due = later(self.wait);
                Some(format!("{why}; this alarm was not told: {text}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_to_and_fro_is_told_less_and_less_often_and_not_at_all_if_nothing_is_left_of_it() {
        let now = Instant::now();
        let mut s = Subject { pending: None, told: None, due: now, wait: WAIT.0, tries: 0 };
        let tell = |s: &mut Subject, text: &str| {
            s.pending = Some(text.into());
            s.turn().map(|text| s.called(Ok(()), text, false))
        };
        let mut waits = Vec::new();
        for n in 0..20 {
            assert_eq!(tell(&mut s, if n % 2 == 0 { "down" } else { "up" }), Some(None));
            waits.push(s.wait);
        }
        assert!(waits.windows(2).all(|w| w[1] == (w[0] * 2).min(WAIT.1)), "{waits:?}");
        assert_eq!((waits[0], waits[19]), (WAIT.0 * 2, WAIT.1));
        // Down and up again before its turn came.
        s.pending = Some("down".into());
        assert_eq!(tell(&mut s, "up"), None);
    }

    #[test]
    fn a_program_that_fails_is_run_three_times_and_a_newer_text_wins() {
        let now = Instant::now();
        let mut s = Subject { pending: None, told: None, due: now, wait: WAIT.0, tries: 0 };
        for n in 1..=TRIES {
            let said = s.called(Err("no".into()), "down".into(), false).unwrap();
            assert_eq!(said.contains("it is run again"), n < TRIES, "{said}");
            assert_eq!(s.pending.take().is_some(), n < TRIES);
        }
        // What was told before is not what is known now.
        s.called(Ok(()), "down".into(), false);
        for _ in 0..TRIES {
            s.called(Err("no".into()), "up".into(), false);
        }
        s.pending = Some("down".into());
        assert_eq!(s.turn().as_deref(), Some("down"));
        s.pending = Some("up".into());
        s.called(Err("no".into()), "down".into(), false);
        assert_eq!(s.turn().as_deref(), Some("up"));
    }
}
