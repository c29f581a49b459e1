//! Which streams a follower has: `[tail]` and each `[tail:NAME]`, and for a path with `*` one for each match.
//!
//! A stream of the host `web1` is called `web1+NAME` everywhere but in the config, so that collectors and relays know
//! nothing of streams. What a `*` of the path stands for takes the place of the `*` in the name.

use super::Identity;
use super::pattern::Pattern;
use super::undated;
use crate::config::{StreamConfig, TailConfig};
use crate::disk::Disk;
use crate::name;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A section of the config with its pattern.
#[derive(Clone, Debug)]
pub struct Source {
    /// The section.
    pub conf: StreamConfig,
    /// Its `log_file`.
    pub pattern: Pattern,
}

/// A stream that there is.
#[derive(Clone, Debug)]
pub struct Found {
    /// What stands behind the host's name and the `+`; empty for `[tail]` itself.
    pub stream: String,
    /// Its files.
    pub pattern: Pattern,
    /// Its section, by number.
    pub source: usize,
}

/// The sections with a `log_file`; the error names the one that is wrong.
pub fn sources(conf: &TailConfig) -> Result<Vec<Source>, String> {
    let parse = |stream: &StreamConfig| {
        let pattern = Pattern::parse(&stream.log_file)
            .map_err(|e| format!("{}: log_file: {}: {e}", stream.section(), stream.log_file))?;
        Ok(Source { conf: stream.clone(), pattern })
    };
    conf.streams.iter().map(parse).collect()
}

/// The name on the wire.
pub fn full_name(host: &str, stream: &str) -> String {
    if stream.is_empty() { host.to_owned() } else { format!("{host}+{stream}") }
}

/// The streams that there are now, and sentences on what cannot be one. Of two with one name the one whose files this state
/// directory has followed has it. `known` are files without a date that were followed before ([`known_files`]): they may be
/// away for a moment, with what rotation left beside them.
pub fn find(
    disk: &Disk,
    sources: &[Source],
    host: &str,
    state_dir: &Path,
    known: &BTreeSet<PathBuf>,
) -> (Vec<Found>, Vec<String>) {
    let mut problems = Vec::new();
    let mut read_as: BTreeMap<String, String> = BTreeMap::new();
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for (source, s) in sources.iter().enumerate() {
        let matches = if s.pattern.stars() == 0 {
            vec![Vec::new()]
        } else {
            let (matches, errors) = s.pattern.matches(disk);
            if let Some(e) = errors.first() {
                let more = match errors.len().saturating_sub(1) {
                    0 => String::new(),
                    n => format!(", and {n} more"),
                };
                problems.push(format!("{e}{more}: what {} has there is not followed", s.pattern));
            }
            matches.into_iter().collect()
        };
        // What rotation leaves beside a file of this section is no stream of its own.
        let files: BTreeSet<PathBuf> = if s.pattern.is_dated() {
            BTreeSet::new()
        } else {
            matches.iter().map(|names| s.pattern.filled(names).file()).chain(known.iter().cloned()).collect()
        };
        for names in matches {
            let own = s.pattern.filled(&names).file();
            if files.iter().any(|base| undated::is_rotated(base, &own)) {
                continue;
            }
            let stream = fill(&s.conf.stream, &names);
            let pattern = s.pattern.filled(&names);
            let path = || pattern.to_string();
            if let Some(why) = name::problem(&full_name(host, &stream)) {
                problems.push(format!(
                    "{}: not followed: its name would be {:?}, which {why}",
                    path(),
                    full_name(host, &stream)
                ));
            } else if let Some(other) = read_as.get(&path()) {
                problems.push(format!("{}: not followed as {stream:?}: it is {other:?} already", path()));
            } else if let Some(other) = found.get_mut(&stream) {
                let known = Identity::load(disk, &Identity::path(state_dir, &stream));
                let mut loser = Found { stream: stream.clone(), pattern, source };
                if matches!(known, Ok(Some(Ok(known))) if known.files == loser.pattern.to_string()) {
                    std::mem::swap(other, &mut loser);
                }
                problems.push(format!(
                    "{}: not followed: {} has the name {stream:?} already; name its section otherwise",
                    loser.pattern, other.pattern
                ));
            } else {
                read_as.insert(path(), stream.clone());
                found.insert(stream.clone(), Found { stream, pattern, source });
            }
        }
    }
    (found.into_values().collect(), problems)
}

/// The files of the streams that a state directory has.
pub fn known_files(disk: &Disk, state_dir: &Path) -> BTreeSet<PathBuf> {
    let dir = state_dir.join("streams");
    let known = disk.list(&dir).unwrap_or_default().into_iter().filter_map(|e| {
        let identity = Identity::load(disk, &dir.join(e.name)).ok()??.ok()?;
        Some(identity.files).filter(|files| !files.is_empty())
    });
    known.map(PathBuf::from).collect()
}

/// The stream's name with each `*` replaced by what it stands for, as far as names may hold that.
fn fill(name: &str, stands_for: &[String]) -> String {
    let mut out = String::new();
    for (i, piece) in name.split('*').enumerate() {
        if let Some(text) = i.checked_sub(1).and_then(|i| stands_for.get(i)) {
            out.extend(
                text.chars().map(|c| if c.is_ascii_alphanumeric() || ".:-".contains(c) { c } else { '-' }),
            );
        }
        out.push_str(piece);
    }
    while out.contains("..") {
        out = out.replace("..", ".-");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_match_is_a_stream_and_what_cannot_be_one_is_told() {
        let (disk, sim) = Disk::sim(1);
        for dir in ["shop", "the_blog", "the-blog", "a..b", &"x".repeat(70)] {
            sim.put(&Path::new("/l").join(dir).join("access.log.2026112205"), b"x");
        }
        let text = "[tail]\nlog_file = /m/a.<%Y%m%d%H>\nsend_to = c:1\n\
                    [tail:web-*]\nlog_file = /l/*/access.log.<%Y%m%d%H>\n";
        let conf = Config::parse("t", text.as_bytes()).tail(true).unwrap().0;
        let (found, problems) =
            find(&disk, &sources(&conf).unwrap(), "web1", Path::new("/state"), &BTreeSet::new());
        let names: Vec<String> = found.iter().map(|f| full_name("web1", &f.stream)).collect();
        assert_eq!(names, ["web1", "web1+web-a.-b", "web1+web-shop", "web1+web-the-blog"]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("/l/the_blog/") && problems[0].contains("web-the-blog"), "{problems:?}");
        assert!(problems[1].contains("longer than 64"), "{problems:?}");
    }
}
