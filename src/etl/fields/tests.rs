use super::*;
use crate::disk::sim::Rng;

const LINE: &str = r#"1.2.3.4 - jo [17/May/2015:10:05:03 +0200] "GET http://h.org/a%20b?x=1&y=a%2Bb+c&x=%zz&l[]=7&l[]=8&= HTTP/1.1" 200 12 "http://r/\"q\"?\x41\xff\\" "Wget \x22""#;

struct One {
    format: Format,
    record: Record,
    spiders: Spiders,
    source: Source,
}

impl One {
    fn new(format: &str) -> Self {
        Self {
            format: Format::compile(format).unwrap(),
            record: Record::default(),
            spiders: Spiders::parse("s", b"Googlebot\nWget\n").unwrap(),
            source: Source { name: "web1".into(), hour: "2015051710".into() },
        }
    }

    fn read(&mut self, line: &[u8]) -> Result<(), String> {
        let need = Need { params: true, cookies: true, client: true, peer: true, spider: true };
        self.record.read(line, &self.format, need, &self.spiders).map_err(str::to_owned)
    }

    fn get(&self, line: &[u8], name: &str) -> String {
        let field = Field::named(name, &self.format).unwrap();
        let mut scratch = Vec::new();
        let value = self.record.get(&field, line, &self.source, &self.spiders, &mut scratch);
        value.escape_ascii().to_string()
    }
}

#[track_caller]
fn check(format: &str, line: &[u8], want: &[(&str, &str)]) {
    let mut one = One::new(format);
    one.read(line).unwrap();
    for (name, value) in want {
        assert_eq!(one.get(line, name), *value, "{name}");
    }
}

#[test]
fn every_field_of_a_line() {
    let want = [
        ("host", "web1"),
        ("source_hour", "2015051710"),
        ("ip", "1.2.3.4"),
        ("ip_int", "16909060"),
        ("client_ip", "1.2.3.4"),
        ("user", "jo"),
        ("time", "2015-05-17T10:05:03+02:00"),
        ("timestamp", "2015-05-17 10:05:03"),
        ("unix", "1431849903"),
        ("date", "2015-05-17"),
        ("day", "20150517"),
        ("hour", "10"),
        ("method", "GET"),
        ("url", "http://h.org/a%20b?x=1&y=a%2Bb+c&x=%zz&l[]=7&l[]=8&="),
        ("path", "/a%20b"),
        ("query", "x=1&y=a%2Bb+c&x=%zz&l[]=7&l[]=8&="),
        ("protocol", "HTTP/1.1"),
        ("x", "1"),
        ("x1", "1"),
        ("x2", "%zz"),
        ("x3", ""),
        ("x02", ""),
        ("y", "a+b c"),
        ("y1", ""),
        ("l", "7"),
        ("l2", "8"),
        ("param.l1", "7"),
        ("params", r"x1\x031\x02y\x03a+b c\x02x2\x03%zz\x02l1\x037\x02l2\x038"),
        ("status", "200"),
        ("bytes", "12"),
        ("referer", r#"http://r/\"q\"?A\xff\\"#),
        ("user_agent", r#"Wget \""#),
        ("is_spider", "1"),
        ("spider", "Wget"),
        ("cookie.a", ""),
        ("$remote_ident", ""),
        ("", ""),
    ];
    check("combined", LINE.as_bytes(), &want);
}

#[test]
fn odd_requests() {
    let line = |request: &str| {
        format!(r#"::1 - - [17/May/2015:10:05:03 +0000] "{request}" 400 - "-" "-""#).into_bytes()
    };
    for (request, method, url, path, query, protocol) in [
        ("-", "", "", "", "", ""),
        ("", "", "", "", "", ""),
        (r"\x16\x03\x01", "", r"\x16\x03\x01", r"\x16\x03\x01", "", ""),
        ("GET /", "GET", "/", "/", "", ""),
        ("GET  HTTP/1.0", "GET", "", "", "", "HTTP/1.0"),
        ("GET /a b?c d HTTP/1.1", "GET", "/a b?c d", "/a b", "c d", "HTTP/1.1"),
        ("CONNECT h:443 HTTP/1.1", "CONNECT", "h:443", "h:443", "", "HTTP/1.1"),
        ("GET http://h HTTP/1.1", "GET", "http://h", "", "", "HTTP/1.1"),
        ("GET /r?u=http://h/ HTTP/1.1", "GET", "/r?u=http://h/", "/r", "u=http://h/", "HTTP/1.1"),
        ("GET /?? HTTP/1.1", "GET", "/??", "/", "?", "HTTP/1.1"),
        (" ", "", "", "", "", ""),
        (r"GET /\t\n HTTP/1.1", "GET", r"/\t\n", r"/\t\n", "", "HTTP/1.1"),
    ] {
        let want = [
            ("method", method),
            ("url", url),
            ("path", path),
            ("query", query),
            ("protocol", protocol),
            ("ip", "::1"),
            ("ip_int", "1"),
            ("bytes", ""),
            ("referer", ""),
            ("is_spider", "0"),
        ];
        check("combined", &line(request), &want);
    }
    // Parameters of a URL that the server escaped.
    check("combined", &line(r"GET /\x22?a=\x22%22&b=2&b=\\ HTTP/1.1"), &[("a", r#"\"\""#), ("b2", r"\\")]);
}

#[test]
fn cookies_and_the_clients_address() {
    let line = br#"www.a.com 10.0.0.1 - - [17/May/2015:10:05:03 +0000] "GET /?a=1 HTTP/1.0" 200 5 7 "-" A=1; B=x=y;;=3; C "agent" "unknown, 9.8.7.6:80, 1.1.1.1" x"#;
    let want = [
        ("host", "www.a.com"),
        ("source", "web1"),
        ("ip", "9.8.7.6:80"),
        ("ipinlong", "151521030"),
        ("$remote_addr", "10.0.0.1"),
        ("cookie.A", "1"),
        ("cookie.B", "x=y"),
        ("cookie.C", ""),
    ];
    check("original", line, &want);
    let line = br#"10.0.0.1 [17/May/2015:10:05:03 +0000] "[fe80::2]:9" "a=1""#;
    let format = r#"$remote_addr [$time_local] "$http_x_forwarded_for" "$http_cookie""#;
    let want = [("ip", "10.0.0.1"), ("client_ip", "[fe80::2]:9"), ("cookie.a", "1"), ("host", "web1")];
    check(format, line, &want);
    check(format, br#"name [17/May/2015:10:05:03 +0000] "-" "-""#, &[("client_ip", "name"), ("ip_int", "")]);
}

#[test]
fn values_that_nginx_writes_apart() {
    let format = "$msec|$request_method|$uri|$args|$server_protocol|$upstream_x";
    let line = b"1431857103.5|PUT|/a b|k=v|HTTP/2.0|0.003";
    let want =
        [("day", "20150517"), ("method", "PUT"), ("path", "/a b"), ("k", "v"), ("$upstream_x", "0.003")];
    check(format, line, &want);
}

#[test]
fn lines_that_are_none_are_refused_with_a_reason() {
    let mut one = One::new("combined");
    assert!(one.read(b"").unwrap_err().starts_with("log_format"));
    let bad_time = br#"1.1.1.1 - - [17/Mxy/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 1 "-" "-""#;
    assert_eq!(one.read(bad_time).unwrap_err(), NO_TIME);
    let many = format!(
        r#"1.1.1.1 - - [17/May/2015:10:05:03 +0000] "GET /?{} HTTP/1.1" 200 1 "-" "-""#,
        "a=1&".repeat(PARAMS_MAX + 1)
    );
    assert_eq!(one.read(many.as_bytes()).unwrap_err(), MANY_PARAMS);
    one = One::new(r#"$remote_addr [$time_local] "$http_cookie""#);
    let cookies = |n| format!(r#"1.1.1.1 [17/May/2015:10:05:03 +0000] "{}""#, "a=1; ".repeat(n));
    one.read(cookies(PARAMS_MAX).as_bytes()).unwrap();
    assert_eq!(one.read(cookies(PARAMS_MAX + 1).as_bytes()).unwrap_err(), MANY_COOKIES);
    one = One::new("combined");
    // And the next line is none the worse for it.
    one.read(LINE.as_bytes()).unwrap();
    assert_eq!(one.get(LINE.as_bytes(), "x2"), "%zz");
}

/// Whatever the bytes are: no panic, and a good line in between is read as ever.
#[test]
fn random_bytes_do_no_harm() {
    let seed = std::env::var("LOGD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_150_517);
    println!("seed: {seed}");
    let mut rng = Rng::new(seed);
    let formats =
        ["combined", "common", "original", "$msec $a \"$b\" $c", "<$time_iso8601> $args $http_cookie"];
    let mut ones: Vec<One> = formats.iter().map(|f| One::new(f)).collect();
    let names = NAMES.iter().map(|(n, _)| n[0]).chain(["x", "x2", "cookie.a"]);
    let names: Vec<&str> = names.collect();
    let mut read = 0;
    for _ in 0..20_000 {
        let mut line = LINE.as_bytes().to_vec();
        if rng.chance(10) {
            line.resize(rng.below(300) as usize, b' ');
            line.fill_with(|| rng.next_u64() as u8);
        }
        for _ in 0..rng.below(6) {
            let at = rng.below(line.len().max(1) as u64) as usize;
            let interesting = b"\"\\%&=?+[]; -\0\xff1x:/,.";
            let byte = interesting[rng.below(interesting.len() as u64) as usize];
            match rng.below(4) {
                0 if at < line.len() => line[at] = byte,
                1 if at < line.len() => drop(line.remove(at)),
                2 => line.truncate(at),
                _ => line.insert(at.min(line.len()), byte),
            }
        }
        for one in &mut ones {
            if one.read(&line).is_ok() {
                read += 1;
                for name in &names {
                    one.get(&line, name);
                }
            }
        }
        ones[0].read(LINE.as_bytes()).unwrap();
        assert_eq!(ones[0].get(LINE.as_bytes(), "y"), "a+b c");
    }
    assert!(read > 2_000, "{read}");
}

#[test]
fn a_user_is_unescaped() {
    let line = br#"::1 - a\x22b\xff [17/May/2015:10:05:03 +0000] "-" 400 - "-" "-""#;
    check("combined", line, &[("user", r#"a\"b\xff"#), ("$remote_user", r"a\\x22b\\xff")]);
}

/// Few are compared with each other, many are looked up.
#[test]
fn parameters_of_one_name_are_numbered_however_many_there_are() {
    for n in [3, COMPARED, COMPARED + 1, PARAMS_MAX] {
        let query = vec!["a"; n - 1].join("&");
        let line =
            format!(r#"::1 - - [17/May/2015:10:05:03 +0000] "GET /?{query}&b HTTP/1.1" 400 - "-" "-""#);
        let want: Vec<String> = (1..n).map(|n| format!(r"a{n}\x03")).collect();
        check("combined", line.as_bytes(), &[("params", &(want.join(r"\x02") + r"\x02b\x03"))]);
    }
}

#[test]
fn separators_of_the_map_are_none_in_a_value() {
    let mut one = One::new("combined");
    let line = br#"::1 - - [17/May/2015:10:05:03 +0000] "GET /?a%02=b%03c&d=%FF%5C HTTP/1.1" 400 - "-" "-""#;
    one.read(line).unwrap();
    let mut out = Vec::new();
    one.record.put(&Field::Params, line, &one.source, &one.spiders, &mut out);
    assert_eq!(out, b"a\\x02\x03b\\x03c\x02d\x03\\xFF\\\\");
}

#[test]
fn a_misspelled_field_is_near_to_one() {
    for (name, field) in [
        ("statsu", Some("status")),
        ("Status", Some("status")),
        ("refferer", Some("referer")),
        ("useragen", Some("useragent")),
        ("user-agent", Some("user_agent")),
        ("tiem", Some("time")),
        ("q", None),
        ("id", None),
        ("type", None),
        ("page", None),
        ("", None),
    ] {
        assert_eq!(Field::near(name), field, "{name}");
    }
    assert_eq!(Field::prefix("event_user_agent"), Some("event_"));
    assert_eq!((Field::prefix("event_x"), Field::prefix("xtime")), (None, None));
}
