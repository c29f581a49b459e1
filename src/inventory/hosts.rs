//! The hosts that are expected to have every hour: `hosts_file`.

use crate::clock::Hour;
use std::io::Read as _;
use std::path::Path;

/// Bytes of a file, at most.
const HOSTS_MAX: u64 = 16 << 20;

/// A host of a `hosts_file`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The first hour that is expected of it; `None` = every one.
    pub since: Option<Hour>,
}

impl Host {
    /// Is this hour expected of it?
    pub fn has(&self, hour: Hour) -> bool {
        self.since.is_none_or(|since| hour.is_from(since))
    }
}

/// [`read_hosts`] of a file that may not be set: then nobody is expected.
pub fn read_if_set(path: Option<&Path>) -> Result<Vec<Host>, String> {
    path.map_or(Ok(Vec::new()), read_hosts)
}

/// Reads a `hosts_file`: a name a line, and perhaps its first hour behind it; `#` and `;` comments.
pub fn read_hosts(path: &Path) -> Result<Vec<Host>, String> {
    let wrong = |e: std::io::Error| format!("hosts_file {}: {e}", path.display());
    // To open a pipe waits for who writes it.
    if !std::fs::metadata(path).map_err(wrong)?.is_file() {
        return Err(format!(
            "hosts_file {}: no regular file; list the names in one, one a line",
            path.display()
        ));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(HOSTS_MAX.saturating_add(1)).read_to_string(&mut text).map_err(wrong)?;
    if text.len() as u64 > HOSTS_MAX {
        return Err(format!(
            "hosts_file {}: longer than {HOSTS_MAX} bytes: is it a list of names?",
            path.display()
        ));
    }
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|name| !name.starts_with(['#', ';'])) else { continue };
        let at = format!("{}:{}", path.display(), i.saturating_add(1));
        if let Some(p) = crate::name::problem(name) {
            return Err(format!("{at}: host name {name:?}: {p}"));
        }
        let since = match (words.next(), words.next()) {
            (None, _) => None,
            (Some(word), None) if Hour::parse(word).is_some() => Hour::parse(word),
            _ => {
                return Err(format!(
                    "{at}: {:?}: a line is a name, and perhaps the first hour that is expected of it (YYYYMMDDHH)",
                    line.trim()
                ));
            }
        };
        out.push(Host { name: name.to_owned(), since });
    }
    out.sort();
    let twice = out.windows(2).find_map(|pair| match pair {
        [a, b] if a.name == b.name && a != b => Some(a.name.clone()),
        _ => None,
    });
    if let Some(name) = twice {
        return Err(format!("hosts_file {}: {name} stands there twice, with other hours", path.display()));
    }
    out.dedup();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Temp;

    /// Everybody who read it hung.
    #[test]
    fn a_pipe_is_no_hosts_file() {
        let temp = Temp::new();
        let path = temp.path("hosts");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        for path in [path, temp.dir().to_owned()] {
            assert!(read_hosts(&path).unwrap_err().contains("no regular file; list"));
        }
    }
}
