//! What differs between the file that a role was started with and the file as it is now.

use super::keys::{self, STREAM};
use super::{Config, Role, read};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The values that a role reads, where they are not the default.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(String, String, String)>", into = "Vec<(String, String, String)>")]
pub struct Values(BTreeMap<(String, String), String>);

/// A key that has another value now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its section.
    pub section: String,
    /// Its name.
    pub key: String,
    before: String,
    now: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}: {} -> {}", self.section, self.key, self.before, self.now)
    }
}

impl Config {
    /// Every value that a role reads.
    pub fn values(&self, role: Role) -> Values {
        let own = [role.section(), "logAgent", "http", "monitor", "heart_beat"];
        let stream = |name: &str| name.starts_with(STREAM);
        let mut all = BTreeMap::new();
        for section in &self.raw.sections {
            let streams = role == Role::Tail && stream(&section.name);
            if !streams && !own.contains(&section.name.as_str()) {
                continue;
            }
            for key in keys::of(&section.name) {
                let Some(set) = read::set_entry(section, key) else { continue };
                // A stream's default is what [tail] has.
                if set.value != key.default || stream(&section.name) {
                    all.insert((section.name.clone(), key.name.to_owned()), set.value.clone());
                }
            }
        }
        Values(all)
    }
}

/// Section, key and value.
impl From<Vec<(String, String, String)>> for Values {
    fn from(list: Vec<(String, String, String)>) -> Self {
        Self(list.into_iter().map(|(section, key, value)| ((section, key), value)).collect())
    }
}

impl From<Values> for Vec<(String, String, String)> {
    fn from(values: Values) -> Self {
        values.0.into_iter().map(|((section, key), value)| (section, key, value)).collect()
    }
}

impl Values {
    /// All but what must not be written anywhere.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        self.0.retain(|(section, key), _| keys::find(section, key).is_none_or(|k| !k.secret));
        self
    }

    /// What is another value in `new`, in the order of sections and names.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let mut all: Vec<_> = self.0.keys().chain(new.0.keys()).collect();
        all.sort();
        all.dedup();
        let changed = all.into_iter().filter(|at| self.0.get(*at) != new.0.get(*at));
        changed
            .map(|at| {
                let shown = |values: &Self| match (values.0.get(at), keys::find(&at.0, &at.1)) {
                    (Some(_), Some(key)) if key.secret => "***".to_owned(),
                    (Some(value), _) => value.clone(),
                    (None, Some(key)) if !key.default.is_empty() => format!("{} (default)", key.default),
                    (None, _) => "(not set)".to_owned(),
                };
                let (section, key) = at.clone();
                Change { section, key, before: shown(self), now: shown(new) }
            })
            .collect()
    }

    /// Takes over the value that `new` has.
    pub fn take(&mut self, change: &Change, new: &Self) {
        let at = (change.section.clone(), change.key.clone());
        match new.0.get(&at) {
            Some(value) => drop(self.0.insert(at, value.clone())),
            None => drop(self.0.remove(&at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_and_secrets_are_not_shown() {
        let values = |text: &str, role| Config::parse("t", text.as_bytes()).values(role);
        let old =
            "[tail]\nlog_file = /a\nsenders = 2\n[tail:x]\nlog_file = /x\n[receiver]\ndb_passwd = geheim\n";
        let new = "[tail]\nlog_file = /b\nrecord_file = /r\n[logAgent]\nlevel = debug\n[receiver]\ndb_passwd = neu\n";
        let (mut before, after) = (values(old, Role::Tail), values(new, Role::Tail));
        let changes = before.changes(&after);
        let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "[logAgent] local_level: info (default) -> debug",
                "[tail] log_file: /a -> /b",
                "[tail] record_file: (not set) -> /r",
                "[tail:x] log_file: /x -> (not set)",
            ]
        );
        for change in changes {
            before.take(&change, &after);
        }
        assert!(before.changes(&after).is_empty());
        let plain = values(old, Role::Monitor).without_secrets();
        let read: Values = serde_json::from_slice(&serde_json::to_vec(&plain).unwrap()).unwrap();
        assert!(read == plain && !serde_json::to_string(&plain).unwrap().contains("geheim"));
        let changes = values(old, Role::Monitor).changes(&values(new, Role::Monitor));
        assert_eq!(changes.last().unwrap().to_string(), "[receiver] db_passwd: *** -> ***");
    }
}
