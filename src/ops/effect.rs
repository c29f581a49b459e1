//! Is what a file says what the role that runs has in effect? It reads its file at the start, and when `logd reload` asks.

use super::control;
use crate::config::{Change, Config, Role};
use crate::disk::Disk;
use crate::instance::{self, ask};
use crate::roles::admission;

/// Values that are named one by one.
const NAMED_MAX: usize = 5;

/// What the running role has in effect; nothing of one that does not run, or does not tell.
fn told(disk: &Disk, config: &Config, role: Role) -> Option<ask::Effect> {
    let (dir, _) = control::place(config, role);
    let told = (instance::is_running(&dir) == Some(true)).then(|| ask::effect(disk, &dir));
    told?.ok()?
}

/// Keys that have another value in the file than in the running role; those of the page as `[http] key`.
pub fn changed(disk: &Disk, config: &Config, role: Role) -> Vec<String> {
    let Some(effect) = told(disk, config, role) else { return Vec::new() };
    let changes = effect.values.changes(&config.values(role).without_secrets());
    let name = |c: &Change| if c.section == "http" { format!("[http] {}", c.key) } else { c.key.clone() };
    changes.iter().map(name).collect()
}

/// What the file says and the role does not do, a sentence each; nothing of one that does not run, or does not tell.
pub fn differs(disk: &Disk, config: &Config, role: Role) -> Vec<String> {
    let Some(effect) = told(disk, config, role) else { return Vec::new() };
    let mut list = Vec::new();
    let changes = effect.values.changes(&config.values(role).without_secrets());
    if !changes.is_empty() {
        let mut named: Vec<String> = changes.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        if let Some(more) = changes.len().checked_sub(NAMED_MAX).filter(|n| *n > 0) {
            named.push(format!("and {more} more"));
        }
        list.push(format!(
            "not all of the file is in effect (what the role runs with -> what the file says): {}; `logd reload CONFIG` takes over \
             what it can, and says what needs a restart",
            named.join(", ")
        ));
    }
    if role == Role::Tail
        && !effect.key.is_empty()
        && let Ok((conf, _)) = config.tail(false)
        && let Ok(Some(key)) = admission::key_of(&conf)
        && key.label() != effect.key
    {
        list.push(format!(
            "it signs with {}, and key_file has {}: `logd reload CONFIG` has it sign with that",
            effect.key,
            key.label()
        ));
    }
    list
}
