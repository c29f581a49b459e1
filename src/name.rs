//! The rule for sender names. They come from the wire and from the config and become parts of file names
//! (`<name>_<hour>`), so this rule is what keeps `../../x` out of the store; it is written once, here.

use crate::planted::{self, Bug};

/// The longest name, in bytes. With the hour and a line count it stays far below the 255 bytes of a file name.
pub const MAX_BYTES: usize = 64;

/// Says what is wrong with a sender's name; `None` means that it is valid.
///
/// Valid is `[0-9A-Za-z][0-9A-Za-z.:+-]{0,63}` without `..`, and not `all`. No `_`, because it separates the name from
/// the hour; `all` because `received/all_<hour>` is the tag of the whole fleet.
pub fn problem(name: &str) -> Option<&'static str> {
    let Some(first) = name.bytes().next() else { return Some("is empty") };
    if name.len() > MAX_BYTES {
        return Some("is longer than 64 bytes");
    }
    if !first.is_ascii_alphanumeric() {
        return Some("must begin with a letter or a digit");
    }
    let underscore = name.contains('_');
    if underscore && planted::is(Bug::NameWithUnderscore) {
        return None;
    }
    if underscore {
        return Some("must not hold `_`, which separates the name from the hour in file names");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b".:+-".contains(&b)) {
        return Some("may hold only letters, digits and . : + -");
    }
    if name.contains("..") {
        return Some("must not hold `..`");
    }
    if name == "all" {
        return Some("must not be `all`, which names the whole fleet");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn real_names_are_valid() {
        for name in ["web1", "10.0.0.7", "fe80::1", "web-1.example.com", "web1+access", "ALL", "all+x", "0"] {
            assert_eq!(problem(name), None, "{name}");
        }
        assert_eq!(problem(&"a".repeat(64)), None);
    }

    #[test]
    fn what_could_leave_the_store_or_confuse_it_is_not() {
        for name in
            ["", ".", "..", "a..b", "../../x", "a/b", "a_b", "-rf", "::1", "all", "a b", "a\n", "é", "a\0"]
        {
            assert!(problem(name).is_some(), "{name:?}");
        }
        assert!(problem(&"a".repeat(65)).is_some());
    }
}
