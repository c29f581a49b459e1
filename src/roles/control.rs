//! What an operator asks of a running role ([`ask`]): to stop, or to read its configuration again.
//!
//! A configuration that is wrong, or that the role could not be started with, changes nothing. Of a right one the receivers
//! take over in place what concerns no file and no port (`local_level`, `allow`, `keys`) and say of every other key that it
//! needs a restart. A follower takes over nearly everything, as its streams are its configuration: it stops and begins again
//! within the process, which is what a restart is, but for the moment in which nobody would see to it.

use super::admission;
use super::serve::{Shared, spawn};
use super::tables;
use crate::auth::{Key, Mode};
use crate::config::{Config, ReceiverConfig, Role, Values};
use crate::disk::Disk;
use crate::instance::ask::{self, Effect, Request, What};
use crate::inventory::hosts::read_if_set;
use crate::log::Log;
use crate::receiver::lock;
use crate::shutdown::Shutdown;
use crate::tail::streams;
use crate::tls;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a role looks whether it is asked something.
const LOOK: Duration = Duration::from_millis(250);
/// What a follower cannot take over: its own past, and what a user's rights do not let it take back.
const FIXED: [&str; 4] = ["state_dir", "name", "timezone", "nice"];

/// What can change under a role that runs.
pub(super) enum Live {
    /// A follower, and the key that it signs with: it begins again.
    Follower(Option<Arc<Key>>),
    /// A relay or a store.
    Receiver(Arc<Shared>),
    /// A role of which only the log's level can change.
    Other,
}

struct Asked {
    role: Role,
    file: PathBuf,
    dir: PathBuf,
    disk: Disk,
    log: Log,
    stop: Shutdown,
    again: Arc<AtomicBool>,
    live: Live,
    /// The configuration that is in effect.
    values: Values,
}

/// The thread that looks; dropping this ends it.
pub(super) struct Control {
    quit: Shutdown,
    again: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Begins to look for what is asked of the role in the state directory `dir`, since it was begun ([`ask::begin`]).
    pub fn start(
        role: Role,
        (file, config): (&Path, &Config),
        (dir, disk, log): (&Path, &Disk, &Log),
        stop: &Shutdown,
        live: Live,
    ) -> Self {
        let (quit, again) = (Shutdown::default(), Arc::<AtomicBool>::default());
        let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let mut asked = Asked {
            role,
            file,
            dir: dir.to_owned(),
            disk: disk.clone(),
            log: log.clone(),
            stop: stop.clone(),
            again: Arc::clone(&again),
            live,
            values: config.values(role),
        };
        asked.tell_effect();
        let over = quit.clone();
        let thread = Some(spawn("control", move || {
            while !over.wait(LOOK) {
                asked.look();
            }
            // Whatever begins next has another one; a file that stays is told of nobody who does not run.
            let _ = ask::put_effect(&asked.disk, &asked.dir, None);
        }));
        Self { quit, again, thread }
    }

    /// Is the role to begin again with its new configuration?
    pub fn again(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.quit.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Asked {
    /// Writes down what is in effect, for `logd status`.
    fn tell_effect(&self) {
        let key = match &self.live {
            Live::Follower(Some(key)) => key.label(),
            _ => String::new(),
        };
        let effect = Effect::new(&self.values, key);
        if let Err(e) = ask::put_effect(&self.disk, &self.dir, Some(&effect)) {
            self.log.warn(&format!(
                "{e}; `logd status` cannot tell whether the file is what is in effect; nothing else is amiss"
            ));
        }
    }

    /// The key that `key_file` has now, if it is not the one in use: a sentence.
    fn other_key(&self, config: &Config) -> Result<Option<String>, String> {
        let Live::Follower(Some(used)) = &self.live else { return Ok(None) };
        let (c, _) = config.tail(false).map_err(|e| e.to_string())?;
        let Some(now) = admission::key_of(&c)?.filter(|now| *now != **used) else { return Ok(None) };
        let (now, used) = (now.label(), used.label());
        let which = if now == used {
            format!("{now}, with another secret")
        } else {
            format!("{now} instead of {used}")
        };
        Ok(Some(format!("key_file: {which}: in effect")))
    }

    fn look(&mut self) {
        let request = match ask::take(&self.disk, &self.dir) {
            Ok(None) => return,
            Ok(Some(request)) => request,
            Err(e) => {
                return self
                    .log
                    .warn(&format!("{e}; what an operator asks is not heard; nothing else is amiss"));
            }
        };
        match request.what {
            What::Stop => {
                self.log.info("asked to stop");
                self.answer(&request, true, Vec::new());
                self.stop.request();
            }
            What::Reload => {
                let (done, lines) = match self.reload() {
                    Ok(found) => found,
                    Err(why) => {
                        let kept = "nothing was changed, the role goes on as before".to_owned();
                        (false, why.lines().map(str::to_owned).chain([kept]).collect())
                    }
                };
                for line in &lines {
                    let text = format!("reload: {line}");
                    if done { self.log.info(&text) } else { self.log.warn(&text) }
                }
                // Before it ends: whoever asked waits for it.
                self.answer(&request, done, lines);
                if self.again.load(Ordering::Relaxed) {
                    self.stop.request();
                }
            }
        }
    }

    fn answer(&self, to: &Request, done: bool, lines: Vec<String>) {
        if let Err(e) = ask::answer(&self.disk, &self.dir, to, done, lines) {
            self.log.warn(&format!("{e}; the answer to `logd` is lost, what it asked was done"));
        }
    }

    /// Reads the file and takes over what can be; whether that was all, and sentences.
    fn reload(&mut self) -> Result<(bool, Vec<String>), String> {
        let config = Config::load(&self.file).map_err(|e| e.to_string())?;
        let receiver = self.usable(&config)?;
        let new = config.values(self.role);
        let changes = self.values.changes(&new);
        let other_key = self.other_key(&config)?;
        if changes.is_empty() && other_key.is_none() {
            let text = "no setting has changed, nor has key_file; other files that it names are read when they change";
            return Ok((true, vec![text.into()]));
        }
        let follower = matches!(self.live, Live::Follower(_));
        let fixed: Vec<String> = changes
            .iter()
            .filter(|c| follower && FIXED.contains(&c.key.as_str()))
            .map(|c| match c.key.as_str() {
                "name" | "timezone" => {
                    format!("{c}: not with this state_dir, not by a restart either; set it back, or give it another state_dir")
                }
                _ => format!("{c}: needs a restart"),
            })
            .collect();
        if !fixed.is_empty() {
            return Err(fixed.join("\n"));
        }
        if other_key.is_some() {
            self.again.store(true, Ordering::Relaxed);
        }
        let (mut all, mut lines) = (true, Vec::from_iter(other_key));
        for change in changes {
            let taken = match (change.section.as_str(), change.key.as_str()) {
                ("logAgent", "local_level") => {
                    self.log.set_level(config.log_level());
                    true
                }
                _ if follower => {
                    self.again.store(true, Ordering::Relaxed);
                    true
                }
                (section, key) if section == self.role.section() => self.take(key, receiver.as_ref()),
                _ => false,
            };
            if taken {
                lines.push(format!("{change}: in effect"));
                self.values.take(&change, &new);
            } else {
                all = false;
                lines.push(format!("{change}: needs a restart, which loses nothing"));
            }
        }
        self.tell_effect();
        if self.again.load(Ordering::Relaxed) {
            lines.push("the follower begins again with it; what was not acknowledged is sent again".into());
        }
        Ok((all, lines))
    }

    /// Takes over a key of a receiver; false = that needs a restart.
    fn take(&self, key: &str, receiver: Option<&ReceiverConfig>) -> bool {
        let (Live::Receiver(s), Some(new)) = (&self.live, receiver) else { return false };
        match key {
            "allow" => {
                *lock(&s.allow) = new.allow.clone();
                // Those who are connected are asked again.
                s.allow_changed.store(true, Ordering::Relaxed);
                true
            }
            "keys" => match &s.keys {
                Some(keys) => {
                    keys.set_mode(if new.keys_required { Mode::Require } else { Mode::Accept });
                    true
                }
                // Without a file there is nothing that they could be compared with.
                None => new.keys_file.is_none(),
            },
            _ => false,
        }
    }

    /// Could the role be started with it? What of it receives.
    fn usable(&self, config: &Config) -> Result<Option<ReceiverConfig>, String> {
        let text = |e: crate::config::Errors| e.to_string();
        let receiver = match self.role {
            Role::Tail => {
                let (c, _) = config.tail(false).map_err(text)?;
                streams::sources(&c)?;
                admission::check_key(&self.disk, &c, &self.dir)?;
                if let Some(conf) = &c.sender.tls {
                    tls::Client::open(conf)?;
                }
                return Ok(None);
            }
            Role::Monitor => {
                let (c, _) = config.monitor(false).map_err(text)?;
                read_if_set(c.hosts_file.as_deref())?;
                admission::may_monitor(&c, &self.dir)?;
                return Ok(None);
            }
            Role::Collector => config.relay(false).map_err(text)?.0.receiver,
            Role::Etlcollector => {
                let (c, _) = config.etl(false).map_err(text)?;
                let wrong = tables::wrong_rules(&self.disk, &c);
                if !wrong.is_empty() {
                    return Err(wrong.join("\n"));
                }
                read_if_set(c.store.hosts_file.as_deref())?;
                c.store.receiver
            }
            Role::Fcollector | Role::Mgocollector => {
                let (c, _) = config.store_of(self.role, false).map_err(text)?;
                read_if_set(c.hosts_file.as_deref())?;
                c.receiver
            }
        };
        admission::may_receive(&receiver, &self.dir)?;
        admission::keyring(&receiver)?;
        Ok(Some(receiver))
    }
}
