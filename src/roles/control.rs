//! What an operator asks of a running role ([`ask`]): to stop, or to read its configuration again.
//!
//! A configuration that is wrong, or that the role could not be started with, changes nothing. Of a right one the receivers
//! take over in place what concerns no file and no port (`local_level`, `allow`, `keys`) and say of every other key that it
//! needs a restart. A follower takes over nearly everything, as its streams are its configuration: it stops and begins again
//! within the process, which is what a restart is, but for the moment in which nobody would see to it.

use super::admission;
use super::serve::{Shared, spawn};
use super::tables;
use crate::auth::Mode;
use crate::config::{Config, ReceiverConfig, Role, Values};
use crate::disk::Disk;
use crate::instance::ask::{self, Request, What};
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
    /// A follower: it begins again.
    Follower,
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
    /// Begins to look for what is asked of the role in the state directory `dir`. Without a place for that, for lack of room,
    /// the role serves all the same.
    pub fn start(
        role: Role,
        (file, config): (&Path, &Config),
        (dir, disk, log): (&Path, &Disk, &Log),
        stop: &Shutdown,
        live: Live,
    ) -> Self {
        if let Err(e) = ask::begin(disk, dir) {
            log.warn(&format!(
                "{e}; `logd stop` and `logd reload` do not reach this role; nothing else is amiss"
            ));
        }
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
        let over = quit.clone();
        let thread = Some(spawn("control", move || {
            while !over.wait(LOOK) {
                asked.look();
            }
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
        if changes.is_empty() {
            return Ok((
                true,
                vec!["no key has changed; key and list files are read when they change".into()],
            ));
        }
        let follower = matches!(self.live, Live::Follower);
        let fixed: Vec<String> = changes
            .iter()
            .filter(|c| follower && FIXED.contains(&c.key.as_str()))
            .map(|c| format!("{c}: needs a restart"))
            .collect();
        if !fixed.is_empty() {
            return Err(fixed.join("\n"));
        }
        let (mut all, mut lines) = (true, Vec::new());
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
                config.monitor(false).map_err(text)?;
                return Ok(None);
            }
            Role::Collector => config.relay(false).map_err(text)?.0.receiver,
            Role::Etlcollector => {
                let (c, _) = config.etl(false).map_err(text)?;
                let wrong = tables::wrong_rules(&self.disk, &c);
                if !wrong.is_empty() {
                    return Err(wrong.join("\n"));
                }
                c.store.receiver
            }
            Role::Fcollector | Role::Mgocollector => {
                config.store_of(self.role, false).map_err(text)?.0.receiver
            }
        };
        admission::may_receive(&receiver, &self.dir)?;
        admission::keyring(&receiver)?;
        Ok(Some(receiver))
    }
}
