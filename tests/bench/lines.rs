//! Access-log lines, as many as wanted and none repeated: a receiver that drops equal bodies must not look fast.

use super::support::Rng;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes so many bytes of lines; what they were made from. Every line ends with a running number.
pub fn write(path: &Path, bytes: u64) -> String {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut made = 0;
    let (origin, count) = each(|line| {
        out.write_all(line.as_bytes()).unwrap();
        made += line.len() as u64;
        made < bytes
    });
    out.flush().unwrap();
    format!("{origin}, {count} lines, a running number at the end of each")
}

/// Gives out line after line, newline included, until `take` has enough; what they were made from, and how many.
pub fn each(mut take: impl FnMut(&str) -> bool) -> (&'static str, u64) {
    let mut rng = Rng::new(7);
    let (mut number, mut line) = (0u64, String::new());
    let mut put = |text: &str| {
        number += 1;
        line.clear();
        let _ = writeln!(line, "{text} {number}");
        take(&line)
    };
    let shared = std::env::var_os("LOGD_SHARED").map(|d| PathBuf::from(d).join("data/apache_combined.log"));
    let Some(real) = shared else {
        let mut site = Site::new(&mut rng);
        while put(&site.line(&mut rng)) {}
        return ("the generator, seed 7", number);
    };
    let text = fs::read_to_string(&real).unwrap_or_else(|e| panic!("{}: {e}", real.display()));
    let mut lines: Vec<&str> = text.lines().collect();
    assert!(!lines.is_empty(), "{}: no lines", real.display());
    loop {
        for i in (1..lines.len()).rev() {
            lines.swap(i, rng.below(i as u64 + 1) as usize);
        }
        if !lines.iter().all(|l| put(l)) {
            return ("$LOGD_SHARED/data/apache_combined.log, shuffled each round", number);
        }
    }
}

/// A pretended web site: few pages and clients make most of the lines, as everywhere.
struct Site {
    clients: Vec<(String, usize)>,
    pages: Vec<(String, u64)>,
    agents: Vec<String>,
    second: u64,
}

const WORDS: [&str; 32] = [
    "blog",
    "images",
    "articles",
    "projects",
    "search",
    "static",
    "news",
    "user",
    "product",
    "category",
    "dynamic",
    "kibana",
    "presentations",
    "logstash",
    "monitorama",
    "geekery",
    "files",
    "style",
    "reset",
    "favicon",
    "tags",
    "rss",
    "archive",
    "profile",
    "cart",
    "checkout",
    "video",
    "thumb",
    "api",
    "session",
    "download",
    "feed",
];
const ENDS: [&str; 8] = ["/", ".html", ".png", ".css", ".js", ".jpg", "", ".php"];

impl Site {
    fn new(rng: &mut Rng) -> Self {
        let word = |rng: &mut Rng| WORDS.get(rng.below(32) as usize).copied().unwrap_or("x");
        let pages = (0..1500).map(|_| {
            let mut path = String::new();
            for _ in 0..=rng.below(4) {
                let _ = write!(path, "/{}", word(rng));
            }
            if rng.chance(40) {
                let _ = write!(path, "-{}", rng.below(2020));
            }
            (path + ENDS.get(rng.below(8) as usize).copied().unwrap_or(""), rng.below(60_000))
        });
        let pages = pages.collect();
        let agents = (0..500).map(|_| {
            let system = ["Windows NT 6.1; WOW64", "Macintosh; Intel Mac OS X 10_9_1", "X11; Linux x86_64", "Windows NT 5.1"]
                .get(rng.below(4) as usize)
                .copied()
                .unwrap_or("X11");
            let (a, b, c) = (rng.below(40), rng.below(2200), rng.below(200));
            if rng.chance(60) {
                format!("Mozilla/5.0 ({system}) AppleWebKit/537.{a} (KHTML, like Gecko) Chrome/{a}.0.{b}.{c} Safari/537.{a}")
            } else if rng.chance(50) {
                format!("Mozilla/5.0 ({system}; rv:{a}.0) Gecko/20100101 Firefox/{a}.0")
            } else {
                format!("Mozilla/5.0 (compatible; {}bot/{a}.{c}; +http://www.{}.com/bot.html)", word(rng), word(rng))
            }
        });
        let agents: Vec<String> = agents.collect();
        let clients = (0..1800).map(|_| {
            let (a, b, c, d) = (1 + rng.below(223), rng.below(256), rng.below(256), rng.below(256));
            (format!("{a}.{b}.{c}.{d}"), rng.below(agents.len() as u64) as usize)
        });
        Self { clients: clients.collect(), pages, agents, second: 0 }
    }

    /// Small numbers are much more frequent than large ones.
    fn rank(rng: &mut Rng, count: usize) -> usize {
        let n = count as u64;
        rng.below(n).min(rng.below(n)) as usize
    }

    fn line(&mut self, rng: &mut Rng) -> String {
        self.second += u64::from(rng.chance(1));
        let (minute, second) = (self.second / 60 % 60, self.second % 60);
        let client = self.clients.get(Self::rank(rng, self.clients.len()));
        let (address, agent) = client.map_or(("", 0), |(a, n)| (a.as_str(), *n));
        let agent = self.agents.get(agent).map_or("", String::as_str);
        let page = self.pages.get(Self::rank(rng, self.pages.len()));
        let (path, size) = page.map_or(("/", 0), |(p, s)| (p.as_str(), *s));
        let (status, size) = match rng.below(100) {
            0..=2 => (404, 290),
            3..=6 => (304, 0),
            7..=20 => (200, rng.below(200_000)),
            _ => (200, size),
        };
        let referer = match rng.below(10) {
            0..=2 => "-".to_owned(),
            3..=4 => format!("http://www.google.com/url?sa=t&cd={}&ei={:x}", rng.below(10), rng.next_u64()),
            _ => {
                let from = self.pages.get(Self::rank(rng, self.pages.len()));
                format!("http://www.example.com{}", from.map_or("/", |(p, _)| p.as_str()))
            }
        };
        format!(
            "{address} - - [17/May/2015:10:{minute:02}:{second:02} +0000] \"GET {path} HTTP/1.1\" {status} {size} \
             \"{referer}\" \"{agent}\""
        )
    }
}
