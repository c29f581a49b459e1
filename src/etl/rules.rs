//! Everything that decides what becomes of a line: the format, the columns file, the three lists. They are read together, and
//! again when one of the files changes; what is wrong then is told, and the rules that were read before go on.

use super::columns::{self, Kind};
use super::fields::Need;
use super::format::Format;
use super::lists::{Addresses, FILE_MAX, Hosts, Spiders};
use crate::config::EtlConfig;
use crate::disk::{Disk, Stat};
use crate::pack::hex;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

/// See the module's header.
#[derive(Debug)]
pub struct Rules {
    /// How lines look.
    pub format: Format,
    /// Kinds in the file's order.
    pub kinds: Vec<Kind>,
    /// What they ask of a line.
    pub need: Need,
    /// Known spiders.
    pub spiders: Spiders,
    /// Hosts whose lines are wanted; `None` = all.
    pub hosts: Option<Hosts>,
    /// Addresses whose lines are not wanted.
    pub addresses: Addresses,
    /// SHA-256 over all of it, hex: two equal ones make the same rows of the same lines.
    pub digest: String,
}

impl Rules {
    /// Reads them; every problem, with its file and line.
    pub fn load(disk: &Disk, conf: &EtlConfig) -> Result<Self, Vec<String>> {
        let mut wrong = Vec::new();
        let mut sum = Sha256::new();
        sum.update(format!(
            "{}\0{:?}\0{}\0{}\0",
            conf.log_format, conf.column_prefixes, conf.hive, conf.gzip
        ));
        let mut read = |key: &str, path: Option<&Path>| -> Result<Option<(String, Vec<u8>)>, Vec<String>> {
            let Some(path) = path else { return Ok(None) };
            let bytes = disk.read(path, FILE_MAX).map_err(|e| vec![format!("{key}: {e}")])?;
            sum.update((bytes.len() as u64).to_be_bytes());
            sum.update(&bytes);
            Ok(Some((path.display().to_string(), bytes)))
        };
        let format = Format::compile(&conf.log_format).map_err(|e| vec![format!("log_format: {e}")]);
        let columns = read("columns_file", Some(&conf.columns_file));
        let spiders = read("spider_list", conf.spider_list.as_deref()).and_then(|f| {
            f.map_or(Ok(Spiders::default()), |(n, b)| Spiders::parse(&n, &b).map_err(|e| vec![e]))
        });
        let hosts = read("hosts_white_list", conf.hosts_white_list.as_deref())
            .and_then(|f| f.map(|(n, b)| Hosts::parse(&n, &b)).transpose());
        let addresses = read("ip_black_list", conf.ip_black_list.as_deref())
            .and_then(|f| f.map_or(Ok(Addresses::default()), |(n, b)| Addresses::parse(&n, &b)));
        let kinds = match (&format, columns) {
            (Ok(format), Ok(Some((name, bytes)))) => {
                columns::parse(&name, &bytes, format, &conf.column_prefixes)
            }
            (_, Err(e)) => Err(e),
            _ => Ok(Vec::new()),
        };
        let mut keep = |e: Vec<String>| wrong.extend(e);
        let format = format.map_err(&mut keep).ok();
        let kinds = kinds.map_err(&mut keep).ok();
        let spiders = spiders.map_err(&mut keep).ok();
        let hosts = hosts.map_err(&mut keep).ok();
        let addresses = addresses.map_err(&mut keep).ok();
        let (Some(format), Some(kinds), Some(spiders), Some(hosts), Some(addresses)) =
            (format, kinds, spiders, hosts, addresses)
        else {
            return Err(wrong);
        };
        let mut need = columns::need(&kinds);
        need.peer |= !addresses.is_empty();
        Ok(Self { format, kinds, need, spiders, hosts, addresses, digest: hex(&sum.finalize()) })
    }

    /// What is right but hardly meant, for whoever looks before a start.
    pub fn doubts(disk: &Disk, conf: &EtlConfig) -> Vec<String> {
        let Ok(bytes) = disk.read(&conf.columns_file, FILE_MAX) else { return Vec::new() };
        columns::doubts(&conf.columns_file.display().to_string(), &bytes, &conf.column_prefixes)
    }
}

/// Rules that follow their files.
pub struct Watched {
    conf: EtlConfig,
    seen: Vec<Option<(u64, u64, i64)>>,
    rules: Arc<Rules>,
}

impl Watched {
    /// Reads them the first time.
    pub fn load(disk: &Disk, conf: &EtlConfig) -> Result<Self, Vec<String>> {
        // Looked at before they are read: a change in between is seen the next time.
        let seen = seen(disk, conf);
        Ok(Self { rules: Arc::new(Rules::load(disk, conf)?), conf: conf.clone(), seen })
    }

    /// The rules as the files are now; with what is wrong with them, if the former rules go on.
    pub fn now(&mut self, disk: &Disk) -> (Arc<Rules>, Vec<String>) {
        let mut wrong = Vec::new();
        let now = seen(disk, &self.conf);
        if now != self.seen {
            self.seen = now;
            match Rules::load(disk, &self.conf) {
                Ok(rules) => self.rules = Arc::new(rules),
                Err(e) => wrong = e,
            }
        }
        (Arc::clone(&self.rules), wrong)
    }
}

fn seen(disk: &Disk, conf: &EtlConfig) -> Vec<Option<(u64, u64, i64)>> {
    let lists = [&conf.spider_list, &conf.hosts_white_list, &conf.ip_black_list];
    let files = lists.into_iter().flatten().chain([&conf.columns_file]);
    let facts = |s: Stat| (s.len, s.ino, s.mtime_ns);
    files.map(|f| disk.stat(f).ok().flatten().map(facts)).collect()
}
