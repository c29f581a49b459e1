//! `logd stop CONFIG` and `logd reload CONFIG`: asks the roles of a file that run ([`ask`]) and waits for what comes of it.

use super::out::{self, Out};
use super::{ERROR, NO, YES};
use crate::clock::Clock;
use crate::config::{Config, Role};
use crate::disk::{Disk, take_lock};
use crate::instance::ask::{self, What};
use crate::{instance, state};
use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A role looks for questions four times a second; a busy machine may need longer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a stop may take beyond `quit_timeout`.
const BEYOND: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);

/// Asks every role of the config that runs; the worst exit code of all.
pub fn run(path: &Path, what: What, out: &mut Out) -> u8 {
    crate::disk::make_readable();
    let word = match what {
        What::Stop => "stop",
        What::Reload => "reload",
    };
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            out.complain(errors);
            return ERROR;
        }
    };
    let roles = config.roles();
    if roles.is_empty() {
        out.complain(format_args!(
            "logd: {word}: {}: no role in this file; `logd check` tells more",
            path.display()
        ));
        return ERROR;
    }
    let file = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (mut worst, mut running) = (YES, 0_usize);
    for role in roles {
        let (dir, quit_ms) = place(&config, role);
        let wait = Duration::from_millis(quit_ms).saturating_add(BEYOND);
        let mut asking = Asking { disk: Disk::real(), role: role.command(), file: &file, dir, wait, out };
        match asking.ask(what) {
            Ok(None) => {}
            Ok(Some(code)) => {
                running = running.saturating_add(1);
                worst = worst.max(code);
            }
            Err(why) => {
                running = running.saturating_add(1);
                out.complain(format_args!("logd: {word}: {}: {why}", role.command()));
                worst = ERROR;
            }
        }
    }
    if running == 0 {
        out.line(format_args!("{}: no role of it runs", path.display()));
        // Whoever wants it stopped has that; nobody has read the new configuration.
        return if what == What::Stop { YES } else { NO };
    }
    worst
}

/// The state directory of a role, and `quit_timeout`. A config that is wrong in other places still says where that is.
pub(super) fn place(config: &Config, role: Role) -> (PathBuf, u64) {
    let value = |key| config.value(role.section(), key);
    let dir = value("state_dir").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    (
        state::resolve(&role, dir.as_deref()),
        config.duration_ms(role.section(), "quit_timeout").unwrap_or(10_000),
    )
}

struct Asking<'a, 'b> {
    disk: Disk,
    role: &'static str,
    file: &'a Path,
    dir: PathBuf,
    wait: Duration,
    out: &'a mut Out<'b>,
}

impl Asking<'_, '_> {
    fn say(&mut self, text: impl Display) {
        let role = self.role;
        self.out.line(format_args!("{role}: {text}"));
    }

    /// `None` = it does not run.
    fn ask(&mut self, what: What) -> Result<Option<u8>, String> {
        let at = self.dir.display().to_string();
        match instance::is_running(&self.dir) {
            Some(false) => return Ok(None),
            Some(true) => {}
            None => {
                return Err(format!(
                    "{at}: this user cannot tell whether it runs; run it as the user of the role, or as root"
                ));
            }
        }
        match instance::begun_by(&self.disk, &self.dir) {
            Some((role, file)) if role != self.role || file != self.file => {
                return Err(format!("{at}: `logd {role} {}` runs there; name that file", file.display()));
            }
            _ => {}
        }
        if !ask::can_be(&self.disk, &self.dir).map_err(|e| super::rights(&e))? {
            return Err(format!(
                "{at}: what runs there is an earlier version, which cannot be asked; send it TERM"
            ));
        }
        let _turn = self.turn().map_err(|e| super::rights(&e))?.ok_or_else(|| {
            format!("{at}: another `logd stop` or `logd reload` asks it just now, and has no answer yet; try again later")
        })?;
        let id = format!("{}-{}", std::process::id(), Clock::real().now_ms());
        ask::ask(&self.disk, &self.dir, what, id.clone()).map_err(|e| super::rights(&e))?;
        let done = match what {
            What::Stop => self.see_it_end(&id),
            What::Reload => self.see_it_read(&id),
        };
        // If nobody took it up, nobody shall later.
        if !matches!(done, Ok(YES)) {
            let _ = ask::withdraw(&self.disk, &self.dir);
        }
        done.map(Some)
    }

    /// One asks at a time, because there is one question and one answer; who comes meanwhile waits for a while.
    fn turn(&self) -> crate::disk::Result<Option<File>> {
        let started = Instant::now();
        loop {
            let turn = take_lock(&self.dir.join(ask::DIR))?;
            if turn.is_some() || started.elapsed() >= ANSWER {
                return Ok(turn);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn see_it_end(&mut self, id: &str) -> Result<u8, String> {
        let (started, mut heard) = (Instant::now(), false);
        while started.elapsed() < self.wait {
            if instance::is_running(&self.dir) == Some(false) {
                self.say("stopped");
                return Ok(YES);
            }
            let answered = ask::answered(&self.disk, &self.dir, id).map_err(|e| e.to_string())?.is_some();
            if heard && !answered {
                self.say("stopped, and was started again: by systemd (systemctl stop), or by cron (take its line out)");
                return Ok(NO);
            }
            heard |= answered;
            let (role, waited) = (self.role, started.elapsed());
            self.out.progress(&|| {
                format!(
                    "stop: {role}: finishing what is in hand, {}",
                    out::duration(waited.as_millis() as u64)
                )
            });
            std::thread::sleep(LOOK);
        }
        Err(if heard {
            format!(
                "it was told to stop and has not ended after {}; its log says what it waits for; killing it loses nothing",
                out::duration(self.wait.as_millis() as u64)
            )
        } else {
            Self::deaf()
        })
    }

    fn see_it_read(&mut self, id: &str) -> Result<u8, String> {
        let started = Instant::now();
        while started.elapsed() < ANSWER {
            if let Some(answer) = ask::answered(&self.disk, &self.dir, id).map_err(|e| e.to_string())? {
                for line in &answer.lines {
                    self.say(line);
                }
                return Ok(if answer.done { YES } else { NO });
            }
            if instance::is_running(&self.dir) == Some(false) {
                return Err("it ended before it answered; its log says why".into());
            }
            std::thread::sleep(LOOK);
        }
        Err(Self::deaf())
    }

    fn deaf() -> String {
        format!(
            "no answer in {}: it is still starting, or it hangs; nothing was changed; its log may say why",
            out::duration(ANSWER.as_millis() as u64)
        )
    }
}
