//! Lines of log files, which are made of what strangers sent to a server.

use super::Script;
use logd::etl::columns;
use logd::etl::fields::{Field, Record, Source};
use logd::etl::format::Format;
use logd::etl::lists::Spiders;

const FORMATS: [&str; 4] = [
    "combined",
    "common",
    "original",
    r#"$host [$time_iso8601] "$request_method" "$request_uri" "$http_x_forwarded_for" $http_cookie; $status"#,
];
const KIND: &str = r#"{"k": {"columns": ["time", "timestamp", "unix", "date", "day", "hour", "host", "source", "ip", "ip_int",
    "client_ip", "client_ip_int", "user", "method", "protocol", "url", "path", "query", "params", "a", "a1", "a2", "cookie.b",
    "status", "bytes", "referer", "user_agent", "is_spider", "spider", "line", ""]}}"#;

/// What `escape` has written, read back.
fn unescaped(row: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < row.len() {
        if row[at] == b'\\' {
            at += 1;
            out.push(match row.get(at).expect("a backslash at the end of a value") {
                b'x' => {
                    let digits = row.get(at + 1..at + 3).expect("two digits behind \\x");
                    at += 2;
                    u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).expect("hexadecimal digits")
                }
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                other => panic!("\\{other} in a value"),
            });
        } else {
            // 2 and 3 are between the parameters of the whole map.
            assert!(row[at] >= b' ' || matches!(row[at], 2 | 3), "a value would separate");
            out.push(row[at]);
        }
        at += 1;
    }
    out
}

/// The first byte chooses the format; the rest are lines. Each is read or refused with a reason, whatever was read before
/// it; a row's value holds no separator and, read back, is the value that rules and folders see.
pub fn line(bytes: &[u8]) {
    let mut s = Script(bytes);
    let format = Format::compile(FORMATS[usize::from(s.byte()) % FORMATS.len()]).unwrap();
    let kinds = columns::parse("k", KIND.as_bytes(), &format, &[]).unwrap();
    let fields: &[Field] = &kinds[0].columns;
    let need = columns::need(&kinds);
    let spiders = Spiders::parse("s", b"bot\nGooglebot\nodd\\\n").unwrap();
    let source = Source { name: "web1".into(), hour: "2026112205".into() };
    let (mut used, mut scratch, mut row) = (Record::default(), Vec::new(), Vec::new());
    for line in s.0.split(|b| *b == b'\n') {
        let mut fresh = Record::default();
        let (again, first) =
            (used.read(line, &format, need, &spiders), fresh.read(line, &format, need, &spiders));
        assert_eq!(again, first, "it depends on the line before");
        if first.is_err() {
            continue;
        }
        for field in fields {
            let value = fresh.get(field, line, &source, &spiders, &mut scratch).to_vec();
            assert_eq!(used.get(field, line, &source, &spiders, &mut scratch), value, "{field:?}");
            row.clear();
            used.put(field, line, &source, &spiders, &mut row);
            assert!(std::str::from_utf8(&row).is_ok(), "{field:?}");
            assert_eq!(unescaped(&row), value, "{field:?}");
        }
    }
}
