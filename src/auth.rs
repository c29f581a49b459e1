//! Keys: who may send whose hours.
//!
//! A host signs every pack with its key, and a receiver that has the keys takes nothing else: an address can be borrowed, a
//! network trusted by mistake. A key opens the hours of its own host and of that host's streams (`web1`, `web1+access`), never
//! those of another. What is signed is the pack's own route entry; a relay appends entries and cannot change that one.
//!
//! ```text
//! mac = HMAC-SHA256(secret, fields)    fields = all of Route[0] but mac stage st ed elapse, in the order of their names;
//!                                      each name and each value: its length as 4 bytes, little-endian, then its bytes
//! ```
//! The entry has the pack's SHA-256, length and number, so that the lines are signed, too. Replaying a pack does nothing: its
//! number is stored already. What is not promised: secrecy (that is TLS's), and anything once a host's key is stolen.
//!
//! Key files are text, a key a line: `NAME ID SECRET [SCOPE]`, `#` comments. `ID` tells two keys of one host apart, so that
//! one can be replaced while the other still holds; `SECRET` is 64 hex digits. `SCOPE`, for a host that sends for others, is
//! names separated by commas, or `*`. Files that others may read are refused, and so is anything in them that is not a key:
//! half a key file would let in whoever the missing half was to keep out.

mod senders;

pub use senders::{Denied, Senders, Signing};

use crate::pack::{Entry, HourKey, hex, unhex};
use hmac::{Hmac, KeyInit, Mac};
pub use senders::Memory;
use sha2::Sha256;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Names of what is added to a route entry.
const KEY: &str = "key";
const MAC: &str = "mac";
/// What may be written into a route entry after it was signed, for people.
const UNSIGNED: [&str; 5] = [MAC, "stage", "st", "ed", "elapse"];
/// Keys of one host that are valid at the same time: the old one and the new one.
const PER_HOST: usize = 2;
const FILE_MAX: u64 = 16 << 20;
const ID_MAX: usize = 32;
const SECRET_LEN: usize = 32;

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    name: String,
    id: String,
    secret: [u8; SECRET_LEN],
    /// Names beside its own; `*` = all.
    scope: Vec<String>,
}

impl Key {
    /// Makes a key for a host, from the kernel's random numbers.
    pub fn new(name: &str) -> Result<Self, String> {
        if let Some(problem) = crate::name::problem(name) {
            return Err(format!("host name {name:?} {problem}"));
        }
        if name.contains('+') {
            return Err(format!(
                "host name {name:?}: a key is for a host and all of its streams; leave out the +"
            ));
        }
        // Not the system call: it is younger than some of the kernels that this has to run on.
        let mut bytes = [0u8; SECRET_LEN + 4];
        let path = "/dev/urandom";
        File::open(path).and_then(|mut f| f.read_exact(&mut bytes)).map_err(|e| format!("{path}: {e}"))?;
        let (secret, id) = bytes.split_at(SECRET_LEN);
        let mut key = Self { name: name.to_owned(), id: hex(id), secret: [0; SECRET_LEN], scope: Vec::new() };
        key.secret.copy_from_slice(secret);
        Ok(key)
    }

    /// Its line in a key file.
    pub fn line(&self) -> String {
        let scope = if self.scope.is_empty() { String::new() } else { format!(" {}", self.scope.join(",")) };
        format!("{} {} {}{scope}", self.name, self.id, hex(&self.secret))
    }

    /// The key of a follower: the one line of its `key_file`.
    pub fn load(path: &Path) -> Result<Self, String> {
        let (mut keys, _) = read(path)?;
        match (keys.pop(), keys.is_empty()) {
            (Some(key), true) => Ok(key),
            (None, _) => Err(format!("{}: there is no key in it; `logd key new` makes one", path.display())),
            _ => Err(format!(
                "{}: it has several keys, and a host signs with one; leave its own line only",
                path.display()
            )),
        }
    }

    /// Does it open the hours of this sender?
    pub fn opens(&self, name: &str) -> bool {
        let host = host_of(name);
        self.name == host || self.scope.iter().any(|s| s == "*" || s == host)
    }

    /// Whose it is, for messages.
    pub fn label(&self) -> String {
        format!("key {} of {}", self.id, self.name)
    }

    /// Signs a route entry, whatever signature it had.
    pub fn sign(&self, entry: &mut Entry) {
        entry.insert(KEY.to_owned(), self.id.clone());
        let mac = self.mac(entry).finalize().into_bytes();
        entry.insert(MAC.to_owned(), hex(&mac));
    }

    fn mac(&self, entry: &Entry) -> Hmac<Sha256> {
        // HMAC fills a key up to a block with zeros; a whole block is a key whose length cannot be wrong.
        let mut block = [0; 64];
        block.iter_mut().zip(self.secret).for_each(|(b, s)| *b = s);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        for (k, v) in entry.iter().filter(|(k, _)| !UNSIGNED.contains(&k.as_str())) {
            for text in [k, v] {
                // A header is far shorter than that.
                mac.update(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                mac.update(text.as_bytes());
            }
        }
        mac
    }

    fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, id, secret, scope) = match words.as_slice() {
            [name, id, secret] => (*name, *id, *secret, ""),
            [name, id, secret, scope] => (*name, *id, *secret, *scope),
            _ => return Err("a key is `NAME ID SECRET`, and perhaps a scope".into()),
        };
        let scope: Vec<String> = scope.split(',').filter(|s| !s.is_empty()).map(String::from).collect();
        for (host, which) in scope
            .iter()
            .filter(|s| *s != "*")
            .map(|s| (s.as_str(), "a name of its scope"))
            .chain([(name, "the name, its first word,")])
        {
            // Not quoted: it may be the secret, in the wrong place.
            match crate::name::problem(host) {
                Some(problem) => return Err(format!("{which} {problem}")),
                None if host.contains('+') => {
                    return Err(format!("{which} holds a +: a key is for a host and all of its streams"));
                }
                None if host.len() >= 2 * SECRET_LEN => return Err(format!("{which} is too long for one")),
                None => {}
            }
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if id.len() > ID_MAX || !id.bytes().all(plain) {
            // Not what stands there: it may be the secret, in the wrong place.
            return Err(format!("the id, its second word, is not up to {ID_MAX} letters, digits, - and ."));
        }
        // Not the secret: messages are read by others.
        let secret =
            unhex(secret).ok_or_else(|| format!("the secret is not {} hex digits", 2 * SECRET_LEN))?;
        if secret == [0; SECRET_LEN] {
            return Err("the secret is all zeros".into());
        }
        Ok(Self { name: name.to_owned(), id: id.to_owned(), secret, scope })
    }
}

/// The host that a sender is, or is a stream of.
pub fn host_of(name: &str) -> &str {
    name.split_once('+').map_or(name, |(host, _)| host)
}

/// The ID of the key that a route entry says it was signed with, checked or not; empty if there is none.
pub fn key_id(entry: &Entry) -> &str {
    entry.get(KEY).map_or("", String::as_str)
}

/// Takes a signature off, so that none stands in a header that nobody has checked.
pub fn unsign(entry: &mut Entry) {
    entry.remove(KEY);
    entry.remove(MAC);
}

/// The signature as it came, checked or not; empty if there is none.
pub fn signature(entry: &Entry) -> &str {
    entry.get(MAC).map_or("", String::as_str)
}

/// Is there a signature?
pub fn is_signed(entry: &Entry) -> bool {
    entry.contains_key(MAC)
}

/// What tells that a file is another one now, or that others may read it now.
type Stamp = (u64, u64, i64, i64, u64, i64, i64, u32);

fn stamp(m: &impl MetadataExt) -> Stamp {
    (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size(), m.ctime(), m.ctime_nsec(), m.mode())
}

fn read(path: &Path) -> Result<(Vec<Key>, Stamp), String> {
    let at = path.display();
    let why = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => format!(
            "{at}: {e}; `logd key new HOST` prints the line that goes there; readable for this user, and for no others (mode 0640)"
        ),
        _ => format!(
            "{at}: {e}; make it readable for this user, and for no others (mode 0640, its group that of the user)"
        ),
    };
    // Asked before it is opened: a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(why)?.is_file() {
        return Err(format!("{at}: it is no file"));
    }
    let file = File::open(path).map_err(why)?;
    let meta = file.metadata().map_err(why)?;
    if meta.mode() & 0o027 != 0 {
        return Err(format!(
            "{at}: mode {:04o} lets others read it or the group write it; chmod 0600, or 0640 for a group that may read it",
            meta.mode() & 0o7777
        ));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(why)?;
    if text.len() as u64 == FILE_MAX {
        return Err(format!("{at}: larger than {} MiB: this is no key file", FILE_MAX >> 20));
    }
    let mut keys: Vec<Key> = Vec::new();
    let (mut ids, mut of_host) = (HashSet::new(), HashMap::<String, usize>::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = Key::parse(line).map_err(|why| format!("{at}:{number}: {why}"))?;
        if !ids.insert(key.id.clone()) {
            return Err(format!("{at}:{number}: id {} is taken by another key", key.id));
        }
        let count = of_host.entry(key.name.clone()).or_default();
        *count = count.saturating_add(1);
        if *count > PER_HOST {
            return Err(format!(
                "{at}:{number}: {} has {PER_HOST} keys already, the old one and the new one; remove one",
                key.name
            ));
        }
        keys.push(key);
    }
    Ok((keys, stamp(&meta)))
}

/// What becomes of packs without a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are refused.
    Require,
    /// They are taken: keys are being rolled out.
    Accept,
}

/// The keys that a receiver knows. The file is read again when it changes.
pub struct Keyring {
    path: PathBuf,
    /// [`Mode::Require`]?
    required: AtomicBool,
    keys: Mutex<(Arc<HashMap<String, Key>>, Stamp)>,
    memory: Option<Arc<Memory>>,
}

impl Keyring {
    /// Reads a `keys_file`.
    pub fn open(path: &Path, mode: Mode) -> Result<Self, String> {
        let loaded = Self::load(path)?;
        Ok(Self {
            path: path.to_owned(),
            required: AtomicBool::new(mode == Mode::Require),
            keys: Mutex::new(loaded),
            memory: None,
        })
    }

    /// The same with a memory of who has sent.
    #[must_use]
    pub fn remembering(self, memory: &Arc<Memory>) -> Self {
        Self { memory: Some(Arc::clone(memory)), ..self }
    }

    fn known(&self) -> Arc<HashMap<String, Key>> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// What becomes of packs without a signature.
    pub fn mode(&self) -> Mode {
        if self.required.load(Ordering::Relaxed) { Mode::Require } else { Mode::Accept }
    }

    /// Changes that.
    pub fn set_mode(&self, mode: Mode) {
        self.required.store(mode == Mode::Require, Ordering::Relaxed);
    }

    /// Its keys: whose, and which ID; sorted.
    pub fn list(&self) -> Vec<(String, String)> {
        let mut list: Vec<_> = self.known().values().map(|k| (k.name.clone(), k.id.clone())).collect();
        list.sort();
        list
    }

    fn load(path: &Path) -> Result<(Arc<HashMap<String, Key>>, Stamp), String> {
        let (keys, stamp) = read(path)?;
        if keys.is_empty() {
            return Err(format!("{}: there is no key in it; `logd key new` makes some", path.display()));
        }
        Ok((Arc::new(keys.into_iter().map(|k| (k.id.clone(), k)).collect()), stamp))
    }

    /// Reads the file again if it is another one now: how many keys there are. After an error those of before hold on.
    pub fn refresh(&self) -> Option<Result<usize, String>> {
        let stamp = std::fs::metadata(&self.path)
            .map(|m| stamp(&m))
            .map_err(|e| format!("{}: {e}", self.path.display()));
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match stamp {
            Ok(stamp) if stamp == keys.1 => return None,
            Ok(stamp) => Self::load(&self.path).inspect_err(|_| keys.1 = stamp),
            Err(why) if keys.1 == Stamp::default() => {
                let _ = why;
                return None;
            }
            Err(why) => {
                keys.1 = Stamp::default();
                Err(why)
            }
        };
        if let Some(memory) = &self.memory {
            memory.refreshed(loaded.as_ref().map(|new| &*new.0).map_err(String::as_str));
        }
        Some(loaded.map(|new| {
            let count = new.0.len();
            *keys = new;
            count
        }))
    }

    /// As [`Keyring::judge`], of a pack that comes from an address, and remembers it if it is denied.
    pub fn admit(&self, entry: &Entry, key: &HourKey, from: &str) -> Result<bool, String> {
        let Some(memory) = &self.memory else { return self.judge(entry, &key.name) };
        let host = host_of(&key.name);
        let found = self.signer(entry, &key.name).and_then(|signer| {
            match memory.must_be_signed(host, key.hour).filter(|_| signer.is_none()) {
                None => Ok(signer),
                Some(since) => Err(format!(
                    "{}: the pack is not signed, and {host} has signed its packs since {since}: with keys = accept those of \
                     later days must be signed, too; set key_file on that host, or take its keys out of {}",
                    key.name,
                    self.path.display()
                )),
            }
        });
        if let Err(why) = &found {
            memory.denied(&key.name, from, why);
        }
        found.map(|signer| signer.is_some())
    }

    /// A pack that was admitted is here, whole: only that is remembered of a sender. A header that somebody has recorded shows
    /// nothing.
    pub fn arrived(&self, entry: &Entry, key: &HourKey, from: &str, signed: bool) {
        if let Some(memory) = &self.memory {
            let known = self.known();
            memory.taken(&key.name, from, known.get(key_id(entry)).filter(|_| signed));
        }
    }

    /// May a pack with this entry, of this sender, be taken? True = it is signed. The error is for our own log: a stranger
    /// learns only that it was denied.
    pub fn judge(&self, entry: &Entry, name: &str) -> Result<bool, String> {
        self.signer(entry, name).map(|key| key.is_some())
    }

    /// The key that has signed a pack.
    fn signer(&self, entry: &Entry, name: &str) -> Result<Option<Key>, String> {
        let (id, mac) = match (entry.get(KEY), entry.get(MAC)) {
            (Some(id), Some(mac)) => (id, mac),
            (None, None) if self.mode() == Mode::Accept => return Ok(None),
            (None, None) => return Err(format!("{name}: the pack is not signed; set key_file on that host")),
            _ => return Err(format!("{name}: the pack has half a signature")),
        };
        let keys = self.known();
        let Some(key) = keys.get(id) else {
            return Err(format!("{name}: key {id:?} is not in {}", self.path.display()));
        };
        let told: Option<[u8; 32]> = unhex(mac);
        // Compared in constant time.
        if told.is_none_or(|told| key.mac(entry).verify_slice(&told).is_err()) {
            return Err(format!("{name}: {} did not make this signature", key.label()));
        }
        if !key.opens(name) {
            return Err(format!("{name}: {} does not open the hours of this sender", key.label()));
        }
        Ok(Some(key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Files(PathBuf);

    impl Files {
        fn new(what: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("logd-auth-{what}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn put(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn entry() -> Entry {
        let pairs = [("ip", "web1"), ("hour", "2026112205"), ("id", "7"), ("lines", "3"), ("v", "1")];
        let more = [("sha256", "00"), ("stage", "make pack"), ("st", "now"), ("ed", "now"), ("elapse", "0s")];
        pairs.iter().chain(&more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// Computed by hand from the description, with Python's hmac.
    #[test]
    fn the_signature_is_what_the_manual_says() {
        let key = Key {
            name: "web1".into(),
            id: "k1".into(),
            secret: std::array::from_fn(|i| i as u8),
            scope: Vec::new(),
        };
        let mut e = entry();
        key.sign(&mut e);
        assert_eq!(e["mac"], VECTOR);
    }

    const VECTOR: &str = "58f576203447094c2dee4cfe306a664abf9434baa6b39ca456234e060fa40a72";

    #[test]
    fn what_people_may_write_is_free_and_everything_else_is_signed() {
        let files = Files::new("signed");
        let key = Key::new("web1").unwrap();
        let ring = Keyring::open(&files.put("keys", &key.line(), 0o600), Mode::Require).unwrap();
        let mut good = entry();
        key.sign(&mut good);
        assert_eq!(ring.judge(&good, "web1"), Ok(true));
        for name in good.keys().cloned().chain(["new".to_owned()]) {
            let mut changed = good.clone();
            changed.insert(name.clone(), "x".into());
            assert_eq!(
                ring.judge(&changed, "web1").is_ok(),
                name != "mac" && UNSIGNED.contains(&name.as_str()),
                "{name}"
            );
            changed.remove(&name);
            let free = UNSIGNED.contains(&name.as_str()) && name != "mac" || name == "new";
            assert_eq!(ring.judge(&changed, "web1").is_ok(), free, "{name}");
        }
        // Bytes that move from a value to the next name.
        let mut moved = good.clone();
        moved.insert("id".into(), "7l".into());
        let lines = moved.remove("lines").unwrap();
        moved.insert("ines".into(), lines);
        assert!(ring.judge(&moved, "web1").is_err());
    }

    #[test]
    fn a_key_opens_its_host_and_its_streams_and_what_its_scope_says() {
        let files = Files::new("scope");
        let (own, gate) = (Key::new("web1").unwrap(), Key::new("gate").unwrap());
        let text = format!("# hosts\n{}\n\n{} db1,db2\n", own.line(), gate.line());
        let ring = Keyring::open(&files.put("keys", &text, 0o640), Mode::Require).unwrap();
        let opens = |key: &Key, name: &str| {
            let mut e = entry();
            e.insert("ip".into(), name.into());
            key.sign(&mut e);
            ring.judge(&e, name).is_ok()
        };
        for name in ["web1", "web1+access"] {
            assert!(opens(&own, name) && !opens(&gate, name), "{name}");
        }
        for name in ["gate", "db1", "db2+slow"] {
            assert!(opens(&gate, name) && !opens(&own, name), "{name}");
        }
        for name in ["web", "web11", "web2", "web1.example", "db3"] {
            assert!(!opens(&own, name) && !opens(&gate, name), "{name}");
        }
    }

    #[test]
    fn without_a_signature_the_mode_decides_and_half_of_one_is_none() {
        let files = Files::new("mode");
        let key = Key::new("web1").unwrap();
        let path = files.put("keys", &key.line(), 0o600);
        let judge = |mode, e: &Entry| Keyring::open(&path, mode).unwrap().judge(e, "web1");
        assert!(judge(Mode::Require, &entry()).is_err());
        assert_eq!(judge(Mode::Accept, &entry()), Ok(false));
        let mut signed = entry();
        Key::new("web1").unwrap().sign(&mut signed);
        for mode in [Mode::Require, Mode::Accept] {
            assert!(judge(mode, &signed).unwrap_err().contains("is not in"), "another key");
            for half in ["key", "mac"] {
                let mut e = signed.clone();
                e.remove(half);
                assert!(judge(mode, &e).unwrap_err().contains("half"));
            }
        }
    }

    #[test]
    fn half_a_key_file_is_an_error_with_its_line_and_never_the_secret() {
        let files = Files::new("half");
        let good = Key::new("web1").unwrap().line();
        let secret = good.split(' ').nth(2).unwrap().to_owned();
        let (two, three) = (Key::new("web1").unwrap().line(), Key::new("web1").unwrap().line());
        for (text, why) in [
            (String::new(), "no key"),
            ("web1 k1".into(), ":1: a key is"),
            (format!("{good} a b"), ":1: a key is"),
            (format!("\n#\nweb_1 k1 {secret}"), ":3: the name"),
            (format!("web1+a k1 {secret}"), "all of its streams"),
            (format!("web1 k/1 {secret}"), "id"),
            // The secret in the wrong place.
            (format!("web1 {secret} k1"), "id"),
            (format!("{secret} k1 {secret}"), "too long"),
            (format!("web1 k1 {} {secret}_", "1".repeat(64)), "scope"),
            (format!("web1 k1 {} {secret}", "1".repeat(64)), "scope"),
            ("web1 k1 abc".into(), "64 hex digits"),
            (format!("web1 k1 {}", "0".repeat(64)), "zeros"),
            (format!("{good}\n{good}"), ":2: id"),
            (format!("{good}\n{two}\n{three}"), ":3: web1 has 2 keys"),
        ] {
            let path = files.put("keys", &text, 0o600);
            let told = Keyring::open(&path, Mode::Require).err().unwrap();
            assert!(told.contains(why) && !told.contains(&secret), "{text:?}: {told}");
        }
        for mode in [0o644, 0o660, 0o604] {
            let told = Keyring::open(&files.put("keys", &good, mode), Mode::Require).err().unwrap();
            assert!(told.contains("chmod"), "{told}");
        }
        assert!(Keyring::open(&files.0.join("none"), Mode::Require).is_err());
        assert!(
            Key::load(&files.put("keys", &format!("{good}\n{two}"), 0o600))
                .err()
                .unwrap()
                .contains("several")
        );
    }

    #[test]
    fn two_keys_hold_at_once_and_the_file_is_read_again() {
        let files = Files::new("rotate");
        let (old, new) = (Key::new("web1").unwrap(), Key::new("web1").unwrap());
        let path = files.put("keys", &old.line(), 0o600);
        let ring = Keyring::open(&path, Mode::Require).unwrap();
        let valid = |key: &Key| {
            let mut e = entry();
            key.sign(&mut e);
            ring.judge(&e, "web1").is_ok()
        };
        assert!(ring.refresh().is_none() && valid(&old) && !valid(&new));
        files.put("keys", &format!("{}\n{}\n", old.line(), new.line()), 0o600);
        assert_eq!(ring.refresh(), Some(Ok(2)));
        assert!(valid(&old) && valid(&new));
        // A slip keeps what there was, and is told once.
        files.put("keys", "web1 k1", 0o600);
        assert!(matches!(ring.refresh(), Some(Err(_))));
        assert!(ring.refresh().is_none() && valid(&old) && valid(&new));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(ring.refresh(), Some(Err(_))));
        assert!(ring.refresh().is_none() && valid(&new));
        // The same file, which others may read now.
        files.put("keys", &new.line(), 0o600);
        assert_eq!(ring.refresh(), Some(Ok(1)));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(ring.refresh().is_some_and(|told| told.unwrap_err().contains("mode 0644")));
        assert!(ring.refresh().is_none());
        files.put("keys", &new.line(), 0o600);
        assert_eq!(ring.refresh(), Some(Ok(1)));
        assert!(!valid(&old) && valid(&new));
    }
}
