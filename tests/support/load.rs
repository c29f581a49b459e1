//! A load for tests that interrupt: hour files of lines that check themselves, one of them still growing, and what must
//! be true of a store while it rests.

use super::*;
use logd::disk::Disk;
use logd::journal;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;

/// One hour file, and how many lines of its stream are in it.
pub struct Source {
    /// `YYYYMMDDHH`.
    pub hour: String,
    /// The file.
    pub path: PathBuf,
    /// The name in its lines.
    pub stream: String,
    /// Lines written so far.
    pub lines: Arc<AtomicU64>,
}

/// Appends lines to a file until it is told to stop, in pieces that do not care where lines end.
pub struct Appender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Appender {
    /// Begins to append to a file that may not be there yet.
    pub fn start(source: &Source, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, written) = (Arc::clone(&stop), Arc::clone(&source.lines));
        let (mut lines, mut rng) = (Lines::new(&source.stream, seed), Rng::new(seed));
        let mut file = OpenOptions::new().append(true).create(true).open(&source.path).unwrap();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let block = lines.block(1 + rng.below(40)).into_bytes();
                let (a, b) = block.split_at(rng.below(block.len() as u64) as usize);
                file.write_all(a).unwrap();
                thread::sleep(Duration::from_millis(rng.below(10)));
                file.write_all(b).unwrap();
                written.store(lines.count(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(rng.below(20)));
            }
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops after a whole line.
    pub fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            t.join().unwrap();
        }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Packs that the follower has sealed and nobody has acknowledged.
pub fn unacknowledged(state_dir: &Path) -> usize {
    let (hours, _) = journal::peek(&Disk::real(), state_dir).unwrap_or_default();
    hours.values().map(|h| h.unacked.len()).sum()
}

/// Bytes in files, as far as they are there.
pub fn bytes_of(paths: impl Iterator<Item = PathBuf>) -> u64 {
    paths.map(|p| fs::metadata(p).map_or(0, |m| m.len())).sum()
}

/// Hour files below `logs`: the last `hours` that are over, each with `lines` lines, and one more that is empty yet.
pub fn sources(temp: &Temp, hours: usize, lines: u64, seed: u64) -> Vec<Source> {
    let mut out = Vec::new();
    for (hour, n) in past_hours(hours + 1).iter().zip(0..) {
        let stream = format!("s{n}");
        let path = temp.path(&format!("logs/access.log.{hour}"));
        let mut made = Lines::new(&stream, seed + n);
        if (n as usize) < hours {
            temp.file(&format!("logs/access.log.{hour}"), made.block(lines));
        }
        let lines = Arc::new(AtomicU64::new(made.count()));
        out.push(Source { hour: hour.to_string(), path, stream, lines });
    }
    out
}

/// Appends lines to an hour that may be certified by now; it was made with this seed and had so many.
pub fn append_late_lines(save: &Path, source: &Source, (seed, had): (u64, u64), late: u64) {
    // They number on where the file ended.
    let mut lines = Lines::new(&source.stream, seed);
    lines.block(had);
    let more = lines.block(late);
    let was = if tag(save, "web1", &source.hour).is_some() { "was certified" } else { "is on its way" };
    println!("{} {was} and gets {late} late lines", source.hour);
    OpenOptions::new().append(true).open(&source.path).unwrap().write_all(more.as_bytes()).unwrap();
    source.lines.store(lines.count(), Ordering::Relaxed);
}

/// Where the store keeps an hour of [`sources`].
pub fn stored(save: &Path, source: &Source) -> PathBuf {
    save.join(format!("log_data/web1_{}", source.hour))
}

/// What must be true of a store at every moment in which no power was cut. The store must not run meanwhile.
pub fn check_store_at_rest(save: &Path, sources: &[Source]) {
    for s in sources {
        check_prefix(save, s);
    }
    check_tags(save, sources);
}

/// The stored hour is a beginning of its source. The store may run, as long as it does not install a copy.
pub fn check_prefix(save: &Path, source: &Source) {
    let path = stored(save, source);
    // In the middle of an installation, or before the first pack, there is none.
    let Ok(bytes) = fs::read(&path) else { return };
    if !fs::read(&source.path).unwrap().starts_with(&bytes) {
        assert_same(&path, &source.path);
    }
}

/// Each tag tells the truth about the stored bytes, and they about their source; how many tags there are. The store
/// must not run meanwhile.
pub fn check_tags(save: &Path, sources: &[Source]) -> usize {
    let mut tags = 0;
    for s in sources {
        let Some(tag) = tag(save, "web1", &s.hour) else { continue };
        tags += 1;
        let path = stored(save, s);
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}, but it has a tag", path.display()));
        assert_eq!(
            tag["bytes"],
            bytes.len(),
            "{}: the tag does not belong to the stored bytes: {tag}",
            s.hour
        );
        let lines = memchr::memchr_iter(b'\n', &bytes).count();
        assert_eq!((&tag["verified"], &tag["lines"]), (&true.into(), &lines.into()), "{tag}");
        assert_eq!(tag["sha256"], peer::hex(&peer::sha256(&bytes)), "{tag}");
        check_prefix(save, s);
    }
    tags
}

/// The end of it: lets a stopped follower send what is left, waits until every hour has the tag of all its lines, stops
/// relay and store, and compares every byte. The lines, and what is wrong with them.
pub fn settle(nodes: &mut [Node; 3], save: &Path, sources: &[Source]) -> (u64, Faults) {
    let [tail, relay, store] = nodes;
    tail.restart_with(&["--once", "--timeout", "120s"]);
    assert_eq!(tail.wait(Duration::from_secs(130)), 0);
    for s in sources {
        let lines = s.lines.load(Ordering::Relaxed);
        until(LATER, &format!("the tag of {} with {lines} lines", s.hour), || {
            tag(save, "web1", &s.hour).filter(|t| t["lines"] == lines && t["verified"] == true)
        });
    }
    assert_eq!((relay.terminate(), store.terminate()), (0, 0));
    let (mut faults, mut lines) = (Faults::default(), 0);
    for s in sources {
        let n = s.lines.load(Ordering::Relaxed);
        faults.add(&check_lines(&fs::read(stored(save, s)).unwrap(), &s.stream, n));
        lines += n;
        assert_same(&stored(save, s), &s.path);
    }
    check_store_at_rest(save, sources);
    let verify = logd(&["verify".as_ref(), save.as_os_str()]);
    assert_eq!(verify.code, 0, "{verify:?}");
    assert_eq!(faults, Faults { good: lines, ..Faults::default() });
    (lines, faults)
}

/// Follower, relay and store, in this order, with sizes and times drawn by `rng` and each its own keys besides. They come
/// back to the same addresses.
pub fn roles(temp: &Temp, rng: &mut Rng, own: [&[(&str, &str)]; 3]) -> [Node; 3] {
    let (store_addr, relay_addr) = (fixed_addr().to_string(), fixed_addr().to_string());
    // Small packs, so that whatever strikes falls between all kinds of steps; small segments, so that they come and go.
    let mut pick = |of: &[&'static str]| of[rng.below(of.len() as u64) as usize];
    let (pack_bytes, senders) = (pick(&["4k", "8k", "20k"]), pick(&["1", "2", "3"]));
    let (segment, checkpoint) = (pick(&["64k", "300k", "16M"]), pick(&["100ms", "1s", "30s"]));
    println!("pack_bytes {pack_bytes}, senders {senders}, segment_size {segment}, checkpoint {checkpoint}");
    let keys = [("listen", store_addr.as_str()), ("segment_size", segment), ("checkpoint", checkpoint)];
    let store = store(temp, &[&keys, own[2]].concat());
    let keys = [("listen", relay_addr.as_str()), ("senders", senders), ("segment_size", segment)];
    let relay = relay(temp, &store_addr, &[&keys, own[1]].concat());
    let pattern = temp.path("logs/access.log.<%Y%m%d%H>");
    let keys = [
        ("pack_bytes", pack_bytes),
        ("senders", senders),
        ("segment_size", segment),
        ("window_packs", "48"),
        ("start", "oldest"),
        ("scan_interval", "20ms"),
        ("flush_interval", "100ms"),
        // An hour closes when the next one's file is there and it was quiet; never by the clock alone, so that the one
        // that is being written stays open.
        ("quiet", "1s"),
        ("close_wait", "24h"),
    ];
    let mut tail = tail(temp, "web1", &pattern, &relay_addr, &[&keys, own[0]].concat(), &[]);
    tail.ready();
    [tail, relay, store]
}
