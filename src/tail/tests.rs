use super::*;
use crate::disk::sim::Rng;

const PACK: usize = 1 << 20;

/// Follows `text` in room for `room` bytes a step; the packs of each step.
fn steps(text: &[u8], room: usize) -> Vec<Vec<Sealed>> {
    let (disk, sim) = Disk::sim(1);
    let (clock, _) = Clock::sim(1_795_327_200_000);
    let zone = Zone::named("UTC").unwrap();
    let hour = Hour::parse("2026112204").unwrap();
    sim.put(Path::new("/log/a.2026112204"), text);
    let pattern = Pattern::parse("/log/a.<%Y%m%d%H>").unwrap();
    let identity = Identity {
        format: 1,
        name: "web1".into(),
        zone: "UTC".into(),
        first_hour: hour,
        copies_until: None,
        copies_generation: 1,
        from_end: false,
        files: String::new(),
    };
    let conf = FollowConfig {
        packer: PackerConfig { pack_bytes: PACK, max_line: PACK, lines_per_pack: None, flush_ms: 5000 },
        close_wait_ms: 0,
        quiet_ms: 0,
        late_watch_ms: 0,
        journal_ms: 7 * 86_400_000,
        once: true,
        unpacked: "/state/unpacked".into(),
        with_rotated: false,
    };
    let mut journal = Journal::open(&disk, Path::new("/state"), false, &mut |t| panic!("{t}")).unwrap().0;
    let mut tail = Tail::open(&disk, &clock, &zone, conf, pattern, identity, &mut journal, &[]).unwrap();
    let mut all = Vec::new();
    while !tail.at_end() {
        let mut out = Vec::new();
        tail.step(&mut journal, room, 100, &mut out).unwrap();
        all.push(out);
        assert!(all.len() < 1000, "it does not come to an end");
    }
    all
}

/// Where the text is cut: at the last line that fits.
fn cuts(text: &[u8]) -> Vec<usize> {
    let (mut rest, mut out) = (text, Vec::new());
    while !rest.is_empty() {
        let end = match rest.get(..PACK) {
            Some(window) => memchr::memrchr(b'\n', window).map_or(PACK, |n| n + 1),
            None => rest.len(),
        };
        out.push(end);
        rest = &rest[end..];
    }
    out
}

#[test]
fn packs_do_not_show_the_size_of_the_readers_blocks() {
    let seed = std::env::var("LOGD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    println!("seed: {seed}");
    let mut rng = Rng::new(seed);
    for longest in [200, BLOCK as u64, 3 * BLOCK as u64, PACK as u64 - 1] {
        let mut text = Vec::new();
        while text.len() < 5 * PACK {
            let len = if rng.chance(90) { rng.below(200) } else { rng.below(longest) };
            text.resize(text.len() + len as usize, b'x');
            text.push(b'\n');
        }
        text.extend_from_slice(b"no newline at the end");
        let packs: Vec<Sealed> = steps(&text, 8 * PACK).into_iter().flatten().collect();
        assert_eq!(packs.iter().flat_map(|p| p.raw.clone()).collect::<Vec<u8>>(), text);
        let lengths: Vec<usize> = packs.iter().map(|p| p.raw.len()).filter(|n| *n > 0).collect();
        assert_eq!(lengths, cuts(&text), "longest line {longest}");
    }
}

#[test]
fn a_step_stays_within_its_room() {
    let text = b"0123456789abcdef\n".repeat(9 * PACK / 17);
    let steps = steps(&text, 3 * PACK);
    let sizes: Vec<usize> = steps.iter().map(|s| s.iter().map(|p| p.raw.len()).sum()).collect();
    assert!(sizes.iter().all(|n| *n <= 3 * PACK), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), text.len());
}
