//! The demo's roles as child processes of its own binary.
//!
//! None of them outlives the demo: a [`Child`] that is dropped is killed, and for the case that the demo itself is killed
//! the kernel is asked to do it. A process can ask that only for itself and unsafe code is not for us, so the child starts
//! as `logd demo` once more, asks, and then becomes the role by `exec`, which keeps the request.

use crate::ops::ERROR;
use crate::shutdown::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Tells the child which role it takes, and whose child it is: `ROLE PID`.
const ROLE: &str = "LOGD_DEMO_ROLE";
const TICK: Duration = Duration::from_millis(20);
/// Lines of a child's log that are shown when it fails.
const LAST_WORDS: usize = 5;

/// What is said when somebody ends the demo.
pub const INTERRUPTED: &str = "interrupted; all of its processes are ended";

/// In a child: becomes its role with this config and does not return, or returns an exit code. `None` = no child.
pub fn take_role(config: Option<&str>) -> Option<u8> {
    let told = std::env::var(ROLE).ok()?;
    let (role, parent) = told.split_once(' ')?;
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // It may have died before we asked.
    let parent_lives = rustix::process::getppid().is_some_and(|p| p.as_raw_pid().to_string() == parent);
    if !parent_lives {
        return Some(ERROR);
    }
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(e) => {
            crate::log::complain(&format!("logd: demo: cannot find its own binary: {e}"));
            return Some(ERROR);
        }
    };
    let once = (role == "tail").then_some("--once");
    let failed = Command::new(exe).arg(role).args(once).args(config).env_remove(ROLE).exec();
    crate::log::complain(&format!("logd: demo: cannot start {role}: {failed}"));
    Some(ERROR)
}

/// One role. Its messages are in a file beside its config.
pub struct Child {
    process: std::process::Child,
    name: String,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts `role` with a config file.
    pub fn start(config: &Path, role: &str) -> Result<Self, String> {
        let exe = std::env::current_exe().map_err(|e| format!("cannot find its own binary: {e}"))?;
        let log = config.with_extension("log");
        let say = |e: std::io::Error| format!("{}: {e}", log.display());
        let messages = File::create(&log).map_err(say)?;
        let process = Command::new(exe)
            .arg("demo")
            .arg(config)
            .env(ROLE, format!("{role} {}", std::process::id()))
            .stdin(Stdio::null())
            .stdout(messages.try_clone().map_err(say)?)
            .stderr(messages)
            .spawn()
            .map_err(|e| format!("cannot start {role}: {e}"))?;
        let name = config.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { process, name, log, ended: None })
    }

    fn messages(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of its messages, each on a line of its own, for an error.
    pub fn last_words(&self) -> String {
        last_words(&self.name, &self.messages())
    }

    fn poll(&mut self) -> Result<Option<ExitStatus>, String> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().map_err(|e| format!("{}: {e}", self.name))?;
        }
        Ok(self.ended)
    }

    fn failed(&self, status: ExitStatus, stop: &Shutdown) -> String {
        // A ctrl-C reaches the children too, and perhaps first.
        if stop.wait(Duration::from_millis(300)) {
            return INTERRUPTED.into();
        }
        format!("{}: ended with {status}{}", self.name, self.last_words())
    }

    /// Waits until it serves; its address.
    pub fn listens(&mut self, limit: Duration, stop: &Shutdown) -> Result<String, String> {
        let started = Instant::now();
        loop {
            let ended = self.poll()?;
            if let Some(addr) = address(&self.messages()) {
                return Ok(addr);
            }
            if let Some(status) = ended {
                return Err(self.failed(status, stop));
            }
            if started.elapsed() > limit {
                return Err(format!("{}: does not listen after {limit:?}{}", self.name, self.last_words()));
            }
            if stop.wait(TICK) {
                return Err(INTERRUPTED.into());
            }
        }
    }

    /// An error if it has ended.
    pub fn must_run(&mut self, stop: &Shutdown) -> Result<(), String> {
        match self.poll()? {
            None => Ok(()),
            Some(status) => Err(self.failed(status, stop)),
        }
    }

    /// Has it ended, and well?
    pub fn ended_well(&mut self, stop: &Shutdown) -> Result<bool, String> {
        match self.poll()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => Err(self.failed(status, stop)),
        }
    }

    /// Asks it to stop (SIGTERM, as an init system does) and waits for its end.
    pub fn stop(&mut self, limit: Duration) -> Result<(), String> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)
            .map_err(|e| format!("{}: cannot be told to stop: {e}", self.name))?;
        let started = Instant::now();
        while started.elapsed() < limit {
            match self.poll()? {
                None => std::thread::sleep(TICK),
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(format!("{}: stopped with {status}{}", self.name, self.last_words()));
                }
            }
        }
        Err(format!("{}: does not stop after {limit:?}{}", self.name, self.last_words()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // It may have ended just now; then there is nothing to kill.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The address in a receiver's first message, once that line is whole.
fn address(messages: &str) -> Option<String> {
    let (_, rest) = messages.split_once("listening on ")?;
    let (line, _) = rest.split_once('\n')?;
    Some(line.split([',', ' ']).next()?.to_owned())
}

fn last_words(name: &str, messages: &str) -> String {
    let lines: Vec<&str> = messages.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LAST_WORDS));
    last.flat_map(|l| ["\n  ", name, " said: ", l]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_when_its_line_is_whole() {
        let text = "logd: collector: x\nlogd: collector: listening on 127.0.0.1:4021, passing on to b:1\n";
        assert_eq!(address(text).unwrap(), "127.0.0.1:4021");
        for n in 0..text.len() - 1 {
            assert_eq!(address(&text[..n]), None);
        }
        assert_eq!(last_words("relay", "a\nb\n"), "\n  relay said: a\n  relay said: b");
    }
}
