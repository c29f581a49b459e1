//! What is known of a fleet at one moment, as `/status.json` tells it: nodes, hours, errors.
//!
//! Plain values. A collector makes one from its store, a monitor from what many roles tell it, and the page draws
//! either. The JSON is stable: fields are only added, and `version` changes when one changes its meaning. What comes
//! from a peer is read by [`Overview::read`], which believes no length.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the JSON.
pub const VERSION: u32 = 1;
/// Bytes of an overview, at most: of one that is told, and of one that is read from a peer.
pub const BYTES_MAX: usize = 16 << 20;
/// Hours in one overview, at most: 500 hosts of three days.
pub const HOURS_MAX: usize = 36_000;
/// Nodes in one overview, and expected names, at most.
pub const NODES_MAX: usize = 4_000;
/// Columns of the grid, at most: a month.
pub const COLUMNS_MAX: usize = 744;
/// Errors in one overview, at most.
pub const ERRORS_MAX: usize = 200;
/// Ranges of missing packs that are named of one hour, at most.
pub const RANGES_MAX: usize = 20;
/// States that have an advice, at most.
const ADVICE_MAX: usize = 64;
/// Characters of one text (a note, a message), at most.
pub const TEXT_MAX: usize = 1_000;
/// Characters of a note where there are too many of them.
const SHORT_MAX: usize = 100;
/// Characters of a name, an address, a state, at most.
const NAME_MAX: usize = 128;

/// An hour of which nothing is known, of a host that is expected to have it.
pub const NO_DATA: &str = "no data";

/// The states of an hour that the page has a sign for, the best first. A state that is not here is shown by its word.
pub const STATES: [&str; 8] =
    ["verified", "empty", "unverified", "open", "doubtful", "gaps", "conflict", NO_DATA];

/// One hour of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostHour {
    /// The host's name, with `+STREAM` for a further stream.
    pub name: String,
    /// `YYYYMMDDHH`, or `YYYYMMDD` for a file of a day.
    pub hour: String,
    /// One of [`STATES`].
    pub state: String,
    /// The word of `logd status` for it, where that says more than `state` (`mismatch`, `partial`, `late`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub word: String,
    /// Must somebody act?
    #[serde(skip_serializing_if = "is_false")]
    pub wrong: bool,
    /// An operator has said that it stays as it is: nobody waits for more of it.
    #[serde(skip_serializing_if = "is_false")]
    pub known: bool,
    /// Lines stored.
    pub lines: u64,
    /// Raw bytes stored.
    pub bytes: u64,
    /// Numbers of packs that are missing, as ranges, the first [`RANGES_MAX`] of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<(u64, u64)>,
    /// There are more missing packs than `missing` names.
    #[serde(skip_serializing_if = "is_false")]
    pub missing_more: bool,
    /// What is known to be lost, and from where.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub loss: String,
    /// The command that sends it again, to be run on that host; empty where it would not help.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub repull: String,
    /// What more is to be told, and what to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// One process of a role, or a host that sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// The host's name.
    pub host: String,
    /// Its address.
    pub ip: String,
    /// The port on which it answers heart-beats; 0 = none.
    pub port: u16,
    /// Its role: `tail`, `collector`, `fcollector`, `monitor`.
    pub role: String,
    /// Its version; empty if unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// When it was heard last (unix milliseconds); 0 = never.
    pub last_beat_ms: i64,
    /// Does it answer? `null` = nobody asks it.
    pub alive: Option<bool>,
    /// Since when it is as `alive` or `stopped` says (unix milliseconds); 0 = unknown.
    pub since_ms: i64,
    /// It took its leave, as a role does that is stopped.
    #[serde(skip_serializing_if = "is_false")]
    pub stopped: bool,
    /// Age of the oldest line or pack that it has not delivered, in seconds; `null` = unknown.
    pub lag_s: Option<u64>,
    /// It takes nothing, for lack of room.
    #[serde(skip_serializing_if = "is_false")]
    pub paused: bool,
}

/// One error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorEntry {
    /// When it happened (unix milliseconds), by the clock of its node where that is plausible.
    pub time_ms: i64,
    /// When it was told here (unix milliseconds); 0 = at once.
    #[serde(skip_serializing_if = "is_zero")]
    pub arrived_ms: i64,
    /// Where.
    pub node: String,
    /// `error`, `warning`, `no heart-beat` and the like.
    pub kind: String,
    /// The message.
    pub message: String,
}

/// See the module's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overview {
    /// The version of this JSON, [`VERSION`].
    pub version: u32,
    /// When it was made (unix milliseconds).
    pub time_ms: i64,
    /// Who speaks: its role.
    pub role: String,
    /// Who speaks: its host.
    pub host: String,
    /// The zone of the hours' names.
    pub zone: String,
    /// The newest hour that has begun; the grid begins with it. Empty: unknown.
    pub newest: String,
    /// Hours that are looked at, back from `newest`.
    pub span_hours: u64,
    /// Their names, the newest first.
    pub columns: Vec<String>,
    /// What to do about an hour, by its word.
    pub advice: BTreeMap<String, String>,
    /// Processes and senders.
    pub nodes: Vec<Node>,
    /// The hours, by name and then by hour.
    pub hours: Vec<HostHour>,
    /// Names that are expected to have every hour.
    pub expected: Vec<String>,
    /// What of the role that speaks is not well, as `/healthz` tells it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unwell: Vec<String>,
    /// The latest errors, the newest first.
    pub errors: Vec<ErrorEntry>,
    /// What could not be found out, as a sentence; empty: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trouble: String,
    /// Lists were cut at their limits.
    #[serde(skip_serializing_if = "is_false")]
    pub cut: bool,
}

impl Default for Overview {
    fn default() -> Self {
        Self {
            version: VERSION,
            time_ms: 0,
            role: String::new(),
            host: String::new(),
            zone: String::new(),
            newest: String::new(),
            span_hours: 0,
            columns: Vec::new(),
            advice: BTreeMap::new(),
            nodes: Vec::new(),
            hours: Vec::new(),
            expected: Vec::new(),
            unwell: Vec::new(),
            errors: Vec::new(),
            trouble: String::new(),
            cut: false,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this form")]
fn is_false(b: &bool) -> bool {
    !*b
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this form")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

fn shorten(text: &mut String, most: usize) {
    if let Some((at, _)) = text.char_indices().nth(most) {
        text.truncate(at);
    }
}

impl Overview {
    /// Reads one that a peer has sent, and holds it to the limits. An error is a sentence without a full stop.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        if json.len() > BYTES_MAX {
            return Err(format!("an overview of {} bytes; the limit is {BYTES_MAX}", json.len()));
        }
        let mut read: Self = serde_json::from_slice(json).map_err(|e| format!("no overview: {e}"))?;
        if read.version != VERSION {
            return Err(format!("an overview of version {}; this is {VERSION}: update logd", read.version));
        }
        read.limit();
        Ok(read)
    }

    /// As JSON of so many bytes at most. What is too much is left out and told: first the ends of texts, then the oldest hours,
    /// then whatever is last in its list.
    pub fn to_json_within(&mut self, most: usize) -> Vec<u8> {
        // Each step halves something: after so many nothing is left.
        for step in 0..32 {
            let mut out = Bounded { bytes: Vec::new(), most };
            if serde_json::to_writer(&mut out, &*self).is_ok() {
                return out.bytes;
            }
            match step {
                0 => {
                    self.cut = true;
                    let gap = if self.trouble.is_empty() { "" } else { "; " };
                    self.trouble =
                        format!("{}{gap}cut, for it would be longer than {most} bytes", self.trouble);
                    for h in &mut self.hours {
                        shorten(&mut h.note, SHORT_MAX);
                        shorten(&mut h.loss, SHORT_MAX);
                    }
                }
                _ if self.columns.len() > 1 => self.keep_columns(self.columns.len() / 2),
                _ => {
                    self.hours.truncate(self.hours.len() / 2);
                    self.expected.truncate(self.expected.len() / 2);
                    self.nodes.truncate(self.nodes.len() / 2);
                    self.errors.truncate(self.errors.len() / 2);
                }
            }
        }
        Vec::new()
    }

    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Plain values cannot fail to be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Keeps the newest columns, and the hours in them.
    pub fn keep_columns(&mut self, most: usize) {
        if self.columns.len() > most {
            self.columns.truncate(most);
            let first = self.columns.last().cloned().unwrap_or_default();
            // A day belongs to its first hour here.
            self.hours.retain(|h| format!("{:0<10}", h.hour) >= first);
        }
        self.span_hours = self.columns.len() as u64;
    }

    /// Keeps as many columns as the grid has room for with the hosts that have hours or are expected: rather fewer hours than
    /// not all hosts. A sentence if that is fewer.
    pub fn fit(&mut self) -> Option<String> {
        let names = self.hours.iter().map(|h| h.name.as_str());
        let hosts = names.chain(self.expected.iter().map(String::as_str)).collect::<BTreeSet<_>>().len();
        let most = columns_of(hosts);
        if self.columns.len() <= most {
            return None;
        }
        self.keep_columns(most);
        Some(format!("with {hosts} hosts only the latest {most} hours fit"))
    }

    /// Cuts what is longer than the limits.
    pub fn limit(&mut self) {
        self.cut |= self.hours.len() > HOURS_MAX
            || self.nodes.len() > NODES_MAX
            || self.expected.len() > NODES_MAX
            || self.errors.len() > ERRORS_MAX;
        self.hours.truncate(HOURS_MAX);
        self.nodes.truncate(NODES_MAX);
        self.expected.truncate(NODES_MAX);
        self.errors.truncate(ERRORS_MAX);
        self.columns.truncate(COLUMNS_MAX);
        self.columns.iter_mut().for_each(|name| shorten(name, NAME_MAX));
        let advice = std::mem::take(&mut self.advice).into_iter().take(ADVICE_MAX);
        self.advice = advice
            .map(|(mut word, mut text)| {
                shorten(&mut word, NAME_MAX);
                shorten(&mut text, TEXT_MAX);
                (word, text)
            })
            .collect();
        for text in [&mut self.role, &mut self.host, &mut self.zone, &mut self.newest] {
            shorten(text, NAME_MAX);
        }
        shorten(&mut self.trouble, TEXT_MAX);
        self.unwell.truncate(ADVICE_MAX);
        self.unwell.iter_mut().for_each(|text| shorten(text, TEXT_MAX));
        self.expected.iter_mut().for_each(|name| shorten(name, NAME_MAX));
        self.hours.iter_mut().for_each(HostHour::limit);
        for n in &mut self.nodes {
            for text in [&mut n.host, &mut n.ip, &mut n.role, &mut n.version] {
                shorten(text, NAME_MAX);
            }
        }
        for e in &mut self.errors {
            shorten(&mut e.node, NAME_MAX);
            shorten(&mut e.kind, NAME_MAX);
            shorten(&mut e.message, TEXT_MAX);
        }
    }
}

/// The columns for which there is room with so many hosts.
pub fn columns_of(hosts: usize) -> usize {
    HOURS_MAX.checked_div(hosts.max(1)).unwrap_or(HOURS_MAX).max(1)
}

/// Takes so many bytes and no more: what is too long must not be made first.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len().saturating_add(buf.len()) > self.most {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl HostHour {
    fn limit(&mut self) {
        self.missing_more |= self.missing.len() > RANGES_MAX;
        self.missing.truncate(RANGES_MAX);
        for text in [&mut self.name, &mut self.hour, &mut self.state, &mut self.word] {
            shorten(text, NAME_MAX);
        }
        for text in [&mut self.loss, &mut self.repull, &mut self.note] {
            shorten(text, TEXT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour() -> HostHour {
        HostHour {
            name: "web1".into(),
            hour: "2026112205".into(),
            state: "gaps".into(),
            missing: vec![(4, 7)],
            ..HostHour::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut o = Overview { time_ms: 5, role: "fcollector".into(), ..Overview::default() };
        o.hours.push(hour());
        o.nodes.push(Node { host: "web1".into(), alive: Some(false), ..Node::default() });
        o.errors.push(ErrorEntry { message: "x".into(), ..ErrorEntry::default() });
        assert_eq!(Overview::read(&o.to_json()).unwrap(), o);
        let text = String::from_utf8(o.to_json()).unwrap();
        assert!(text.starts_with("{\"version\":1,") && text.contains("\"missing\":[[4,7]]"), "{text}");
        assert!(!text.contains("repull"), "what is empty takes no room: {text}");
    }

    #[test]
    fn a_peer_of_another_version_and_one_that_tells_too_much() {
        assert!(Overview::read(b"{\"version\":2}").unwrap_err().contains("version 2"));
        assert!(Overview::read(b"{]").unwrap_err().contains("no overview"));
        assert!(Overview::read(&vec![b' '; BYTES_MAX + 1]).unwrap_err().contains("the limit"));
        // A field that a later logd adds is no error, nor is one that is missing.
        assert!(Overview::read(b"{\"version\":1,\"later\":[1]}").is_ok());
        let mut o = Overview::default();
        let long = HostHour { missing: vec![(1, 1); 99], note: "\u{e4}".repeat(5_000), ..hour() };
        o.hours = vec![long; HOURS_MAX + 1];
        let read = Overview::read(&Overview { hours: o.hours[..2].to_vec(), ..o.clone() }.to_json()).unwrap();
        assert_eq!((read.hours[0].missing.len(), read.hours[0].missing_more), (RANGES_MAX, true));
        assert_eq!((read.hours[0].note.chars().count(), read.cut), (TEXT_MAX, false));
        o.limit();
        assert_eq!((o.hours.len(), o.cut), (HOURS_MAX, true));
    }

    #[test]
    fn what_would_be_too_long_is_cut_and_said_to_be() {
        let columns: Vec<String> = (0..72).rev().map(|n| format!("20261122{n:02}")).collect();
        let all = |name: &str| {
            let name = name.to_owned();
            columns.iter().map(move |at| HostHour {
                name: name.clone(),
                hour: at.clone(),
                note: "x".repeat(TEXT_MAX),
                ..hour()
            })
        };
        let hours: Vec<HostHour> = (0..50).flat_map(|n| all(&format!("web{n}"))).collect();
        let whole = Overview { columns: columns.clone(), hours, ..Overview::default() };
        let most = whole.to_json().len();
        assert_eq!(whole.clone().to_json_within(most), whole.to_json());
        for (most, shown) in [(most - 1, 72), (most / 8, 36), (most / 200, 1), (2_000, 1)] {
            let json = whole.clone().to_json_within(most);
            assert!(json.len() <= most, "{most}: {}", json.len());
            let read = Overview::read(&json).unwrap();
            assert!(read.cut && read.trouble.contains("cut, for it"), "{most}: {}", read.trouble);
            assert_eq!((read.columns.len(), &read.columns[0]), (shown, &columns[0]), "{most}");
            assert!(!read.hours.is_empty());
        }
        // Long texts go before hours do.
        assert_eq!(
            Overview::read(&whole.clone().to_json_within(most - 1)).unwrap().hours.len(),
            whole.hours.len()
        );
    }
}
