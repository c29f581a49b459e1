//! Requests, good and hostile; the page's policy; the escaping of what hosts send.

use super::*;
use crate::config::Config;
use std::io::Read;
use std::net::Ipv6Addr;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn names() -> Names {
    let text = "[tail]\nlog_file = /a\nsend_to = c:1\n[http]\nlisten = 192.0.2.7:80\nallow = any\nhosts = Logs.example, ::5\n";
    Names::new(&Config::parse("test", text.as_bytes()).tail(true).unwrap().0.http)
}

fn ask(text: &str) -> Result<Option<Request>, Refusal> {
    parse(text.as_bytes(), &names(), HERE)
}

fn code(text: &str) -> u16 {
    ask(text).expect_err(text).code
}

#[test]
fn what_can_be_asked_for() {
    let get = |path, head, gzip| Ok(Some(Request { path, head, gzip }));
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), get(Path::Page, false, false));
    assert_eq!(ask("HEAD /metrics HTTP/1.1\r\nhost: 127.0.0.1:9\r\n\r\n"), get(Path::Metrics, true, false));
    let zipped =
        "GET /status.json?a=b HTTP/1.1\r\nHost: localhost:1\r\nAccept-Encoding: br, gzip;q=0.5\r\n\r\n";
    assert_eq!(ask(zipped), get(Path::Status, false, true));
    assert_eq!(ask(&zipped.replace("q=0.5", "q=0")), get(Path::Status, false, false));
    // A load balancer's probe.
    assert_eq!(ask("GET /healthz HTTP/1.0\r\n\r\n"), get(Path::Health, false, false));
    // Every beginning of a request is one that is not complete.
    for end in 0..zipped.len() {
        assert_eq!(ask(&zipped[..end]), Ok(None), "{end}");
    }
}

#[test]
fn only_names_of_this_host_are_answered() {
    let with = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for host in [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1",
        "192.0.2.7",
        "192.0.2.7:1380",
        "logs.EXAMPLE:9",
        "[::5]:1",
    ] {
        assert!(ask(&with(host)).is_ok(), "{host}");
    }
    for host in
        ["evil.example", "localhost.evil.example", "127.0.0.2", "[::1]", "", "logs.example.", "logs", "a:b:c"]
    {
        assert_eq!(code(&with(host)), 421, "{host}");
    }
    assert_eq!(code("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(code("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"), 400);
    let v6 = |host: &str| parse(with(host).as_bytes(), &Names::default(), "::1".parse().unwrap());
    assert!(v6("[::1]:80").is_ok() && v6("[::2]").is_err());
    // An address of ours, as a socket for both families tells it.
    let mapped = "::ffff:127.0.0.1".parse().unwrap();
    assert!(parse(with("127.0.0.1").as_bytes(), &Names::default(), mapped).is_ok());
}

#[test]
fn hostile_requests_are_refused() {
    let with = |first: &str, more: &str| format!("{first} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "PATCH"] {
        assert_eq!(code(&with(&format!("{method} /"), "")), 405, "{method}");
    }
    for path in [
        "/etc/passwd",
        "/../status.json",
        "//",
        "http://localhost/",
        "*",
        "/%2e",
        "/status.json/",
        "/metrics;x",
    ] {
        assert_eq!(code(&with(&format!("GET {path}"), "")), 404, "{path}");
    }
    assert_eq!(code(&with("GET /", "Content-Length: 5\r\n")), 413);
    assert_eq!(code(&with("GET /", "Transfer-Encoding: chunked\r\n")), 413);
    assert!(ask(&with("GET /", "Content-Length: 0\r\n")).is_ok());
    for noise in [
        "\u{16}\u{3}\u{1}\0",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\0\0\0\0",
        "GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
    ] {
        assert_eq!(code(noise), 400, "{noise:?}");
    }
    // Split lines, the way in which two readers of one request come to disagree.
    assert_eq!(code("GET / HTTP/1.1\r\nHost: localhost\r\n evil\r\n\r\n"), 400);
    assert_eq!(code(&with("GET /", &"A: b\r\n".repeat(LINES_MAX))), 431);
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {}", "x".repeat(HEADER_MAX));
    assert_eq!(code(&long), 431);
}

#[test]
fn noise_never_panics() {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    let good = b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n";
    for _ in 0..20_000 {
        let mut bytes = good.to_vec();
        for _ in 0..=next() % 6 {
            let at = next() as usize % bytes.len();
            bytes[at] = next();
        }
        let _ = parse(&bytes, &names(), HERE);
    }
}

#[test]
fn an_address_has_its_share_and_strangers_do_not_take_memory() {
    let mut rates = Rates::default();
    let allowed = |rates: &mut Rates, now| (0..1_000).filter(|_| rates.allows(HERE, now)).count() as u64;
    assert_eq!(allowed(&mut rates, 0), BURST);
    assert_eq!(allowed(&mut rates, 1_000), PER_SECOND);
    assert_eq!(allowed(&mut rates, 3_600_000), BURST);
    // All of one v6 network are one.
    let v6 = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, n, n, n, n));
    assert_eq!((0..1_000).filter(|n| rates.allows(v6(*n), 0)).count() as u64, BURST);
    for n in 0..100_000u32 {
        rates.allows(IpAddr::V4(n.into()), 5_000);
    }
    assert_eq!(rates.left.len(), ADDRESSES_MAX);
    assert!(rates.allows(IpAddr::V4(1.into()), 60_000), "and they are forgotten");
}

#[test]
fn base64_is_that_of_everybody() {
    for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
    assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
}

#[test]
fn an_answer_says_what_it_is_and_that_nothing_may_be_made_of_it() {
    let page = Page::new();
    let text = String::from_utf8(head(200, Type::Html, 5, true, Some(&page.policy))).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"));
    for line in [
        "Content-Length: 5",
        "Connection: close",
        "X-Content-Type-Options: nosniff",
        "Content-Encoding: gzip",
    ] {
        assert!(text.contains(&format!("{line}\r\n")), "{line}");
    }
    assert!(text.contains("Content-Security-Policy: default-src 'none'; script-src 'sha256-"), "{text}");
    assert!(
        String::from_utf8(head(405, Type::Text, 0, false, None)).unwrap().contains("Allow: GET, HEAD\r\n")
    );
    let mut read = String::new();
    flate2::read::GzDecoder::new(&*page.body.gzip.unwrap()).read_to_string(&mut read).unwrap();
    assert_eq!(read, HTML);
}

/// What hosts send is text, in whatever way it comes to the screen; and nothing is fetched from elsewhere.
#[test]
fn the_page_runs_nothing_that_a_host_could_send_and_loads_nothing() {
    for word in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "setTimeout(\"",
        "createContextualFragment",
        "DOMParser",
        "srcdoc",
        "javascript:",
        "http://",
        "https://",
        "//cdn",
        "@import",
        "url(",
        "style=\"",
        " onclick=",
        " onload=",
        " onerror=",
    ] {
        assert!(!HTML.contains(word), "{word}");
    }
    assert!(
        HTML.contains("textContent") && HTML.contains("prefers-color-scheme") && HTML.contains("<noscript>")
    );
    assert!(HTML.matches("<script>").count() == 1 && HTML.matches("<style>").count() == 1);
    assert!(HTML.len() < 64 << 10, "{} bytes", HTML.len());
    for state in crate::overview::STATES {
        assert!(HTML.contains(&format!("\"{state}\"")), "the page has no sign for {state}");
    }
}
