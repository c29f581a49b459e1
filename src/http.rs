//! The page, the metrics and the health of a role over HTTP: what a request asks for and what the answer is made of.
//!
//! Nothing here reads a socket: bytes go in, decisions come out; the thread is `roles::web`. There is nothing that
//! writes: `GET` and `HEAD` of four paths, no query, no body. What can be asked from outside is held small (P4): a
//! header of [`HEADER_MAX`] bytes, so many requests a second from one address ([`Rates`]), and answers that are made
//! beforehand and shared. A browser that was lured here by a foreign name gets nothing ([`Names`]: DNS rebinding), and
//! the page may load and run nothing but what is in it ([`Page`]: a content security policy with hashes).

use crate::config::HttpConfig;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Longest header of a request, in bytes.
pub const HEADER_MAX: usize = 8 << 10;
/// Lines of a header, at most.
const LINES_MAX: usize = 64;
/// Requests that one address may send at once, after a pause.
const BURST: u64 = 100;
/// Requests that one address may send each second.
const PER_SECOND: u64 = 20;
/// Addresses whose requests are counted.
const ADDRESSES_MAX: usize = 4_096;

/// The page.
pub const HTML: &str = include_str!("http/page.html");

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `/`
    Page,
    /// `/status.json`
    Status,
    /// `/metrics`
    Metrics,
    /// `/healthz`
    Health,
}

/// A request that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub path: Path,
    /// Only the head of the answer.
    pub head: bool,
    /// The answer may be compressed.
    pub gzip: bool,
}

/// A request that cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's code.
    pub code: u16,
    /// Why, as a sentence.
    pub why: &'static str,
}

const fn refuse(code: u16, why: &'static str) -> Refusal {
    Refusal { code, why }
}

/// The request took too long.
pub const TOO_SLOW: Refusal = refuse(408, "The request was not complete in time.");
/// Too many requests came.
pub const TOO_MANY: Refusal = refuse(429, "Too many requests from this address; try again in a second.");
/// What is asked for is being made.
pub const NOT_YET: Refusal = refuse(503, "The store is being looked at; try again in some seconds.");
/// The role has no page.
pub const NO_PAGE: Refusal = refuse(
    404,
    "This role has no page: there are /metrics and /healthz. The page is at the collector and the monitor.",
);
const NO_REQUEST: Refusal = refuse(400, "That is no HTTP request.");

/// The names by which a browser may call this host.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<String>);

impl Names {
    /// Those that the configuration adds, and the one that it listens on.
    pub fn new(conf: &HttpConfig) -> Self {
        let mut names = conf.hosts.clone();
        names.extend(conf.listen.as_deref().map(|l| without_port(l).to_ascii_lowercase()));
        Self(names)
    }

    /// Is a `Host` one of ours? `local` is the address at which the connection arrived. A name that belongs to somebody else
    /// may point here: what is read under it would be readable for his page, too.
    fn knows(&self, host: &str, local: IpAddr) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        name == "localhost"
            || ip.is_some_and(|ip| ip.to_canonical() == local.to_canonical())
            || self.0.contains(&name)
            || ip.is_some_and(|ip| self.0.iter().any(|n| n.parse() == Ok(ip)))
    }
}

/// `host` of `host:port`, `[v6]` of `[v6]:port`.
fn without_port(text: &str) -> &str {
    match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => text,
    }
}

/// Reads a request from all the bytes that have come so far. `Ok(None)` = it is not complete.
pub fn parse(bytes: &[u8], names: &Names, local: IpAddr) -> Result<Option<Request>, Refusal> {
    let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
    let mut read = httparse::Request::new(&mut lines);
    match read.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < HEADER_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(refuse(431, "The header is too long."));
        }
        Err(_) => return Err(NO_REQUEST),
    }
    let values = |name: &str| -> Vec<&str> {
        let mine = read.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
        mine.map(|h| std::str::from_utf8(h.value).unwrap_or("\u{fffd}").trim()).collect()
    };
    // Browsers send one, always; a probe that speaks HTTP/1.0 may send none.
    match values("host").as_slice() {
        [host] if names.knows(host, local) => {}
        [] if read.version == Some(0) => {}
        [] => return Err(refuse(400, "The request has no Host.")),
        [_] => {
            return Err(refuse(
                421,
                "This host is not known by that name: use its address or localhost, or add the name to `hosts` in [http].",
            ));
        }
        _ => return Err(NO_REQUEST),
    }
    let length = values("content-length");
    if !values("transfer-encoding").is_empty() || length.iter().any(|l| *l != "0") {
        return Err(refuse(413, "A request here has no body."));
    }
    let head = match read.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(refuse(405, "Everything here can only be read: GET or HEAD.")),
    };
    let gzip = values("accept-encoding").iter().flat_map(|v| v.split(',')).any(|v| {
        let (name, q) = v.split_once(';').unwrap_or((v, ""));
        name.trim() == "gzip"
            && !matches!(q.replace(' ', "").as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    });
    let target = read.path.unwrap_or_default();
    let path = match target.split_once('?').map_or(target, |(path, _)| path) {
        "/" => Path::Page,
        "/status.json" => Path::Status,
        "/metrics" => Path::Metrics,
        "/healthz" => Path::Health,
        _ => return Err(refuse(404, "There are /, /status.json, /metrics and /healthz.")),
    };
    Ok(Some(Request { path, head, gzip }))
}

/// How many requests each address has sent lately.
#[derive(Default)]
pub struct Rates {
    /// Thousandths of a request that are left, and when that was so.
    left: HashMap<IpAddr, (u64, u64)>,
}

impl Rates {
    /// Counts a request; false = there were too many.
    pub fn allows(&mut self, ip: IpAddr, now_ms: u64) -> bool {
        const FULL: u64 = BURST * 1_000;
        let grown = |(left, at): (u64, u64)| {
            let since = now_ms.saturating_sub(at);
            left.saturating_add(since.saturating_mul(PER_SECOND)).min(FULL)
        };
        if self.left.len() >= ADDRESSES_MAX {
            // Who may send as much as a stranger need not be remembered.
            self.left.retain(|_, was| grown(*was) < FULL);
        }
        let key = network(ip);
        let known = self.left.contains_key(&key);
        if !known && self.left.len() >= ADDRESSES_MAX {
            return false;
        }
        let entry = self.left.entry(key).or_insert((FULL, now_ms));
        let left = grown(*entry);
        let allowed = left >= 1_000;
        *entry = (left.saturating_sub(if allowed { 1_000 } else { 0 }), now_ms);
        allowed
    }
}

/// The addresses that count as one: who has a v6 address has 2^64 of them.
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Something that can be sent many times: as it is, and compressed.
#[derive(Clone)]
pub struct Body {
    /// As it is.
    pub plain: Arc<[u8]>,
    /// Compressed by gzip, if that is worth it.
    pub gzip: Option<Arc<[u8]>>,
}

impl Body {
    /// A short text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { plain: text.into().into_bytes().into(), gzip: None }
    }

    /// Something larger.
    pub fn large(bytes: Vec<u8>) -> Self {
        let mut to = GzEncoder::new(Vec::new(), Compression::fast());
        // Into memory, which cannot fail.
        let gzip = to.write_all(&bytes).and_then(|()| to.finish()).ok();
        Self { plain: bytes.into(), gzip: gzip.map(Into::into) }
    }
}

/// The page, with the policy that lets exactly it run.
pub struct Page {
    /// The document.
    pub body: Body,
    /// `Content-Security-Policy`.
    pub policy: String,
}

impl Page {
    /// Makes it from the document: each script and each style in it is named by its hash.
    pub fn new() -> Self {
        let list = |tag: &str| {
            let mut hashes = String::new();
            for part in HTML.split(&format!("<{tag}>")).skip(1) {
                let text = part.split(&format!("</{tag}>")).next().unwrap_or_default();
                let _ = write!(hashes, " 'sha256-{}'", base64(&Sha256::digest(text)));
            }
            hashes
        };
        let policy = format!(
            "default-src 'none'; script-src{}; style-src{}; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            list("script"),
            list("style")
        );
        Self { body: Body::large(HTML.into()), policy }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let sign = SIGNS.get((bits >> shift & 63) as usize).copied().unwrap_or(b'=');
            out.push(char::from(if i <= three.len() { sign } else { b'=' }));
        }
    }
    out
}

/// What kind of text an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// For people.
    Text,
    /// The page.
    Html,
    /// For programs.
    Json,
    /// For Prometheus.
    Metrics,
}

/// The head of an answer with a body of `len` bytes; `policy` is the page's.
pub fn head(code: u16, kind: Type, len: usize, gzip: bool, policy: Option<&str>) -> Vec<u8> {
    let reason = match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let kind = match kind {
        Type::Text => "text/plain; charset=utf-8",
        Type::Html => "text/html; charset=utf-8",
        Type::Json => "application/json",
        Type::Metrics => "text/plain; version=0.0.4; charset=utf-8",
    };
    let more = match code {
        405 => "Allow: GET, HEAD\r\n",
        429 => "Retry-After: 1\r\n",
        503 => "Retry-After: 5\r\n",
        _ => "",
    };
    let encoding = if gzip { "Content-Encoding: gzip\r\n" } else { "" };
    let policy = policy.unwrap_or("default-src 'none'; frame-ancestors 'none'");
    format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n{encoding}{more}Connection: close\r\n\
         Cache-Control: no-store\r\nVary: Accept-Encoding\r\nX-Content-Type-Options: nosniff\r\n\
         X-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Cross-Origin-Opener-Policy: same-origin\r\nContent-Security-Policy: {policy}\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests;
