//! A limit of bytes per second, for a sender that must leave the line to others.

/// Counts what is sent against the time. It is told sizes after the fact, so packs that are under way may exceed it; what was
/// too much is waited for before the next.
#[derive(Debug)]
pub struct Rate {
    per_second: u64,
    /// Bytes sent beyond what the time allowed, and when that was reckoned.
    debt: u64,
    at_ms: u64,
}

impl Rate {
    /// A limit; 0 = none.
    pub fn new(per_second: u64, now_ms: u64) -> Self {
        Self { per_second, debt: 0, at_ms: now_ms }
    }

    /// So many bytes were sent.
    pub fn sent(&mut self, bytes: u64) {
        if self.per_second > 0 {
            self.debt = self.debt.saturating_add(bytes);
        }
    }

    /// May another pack be sent now?
    pub fn allows(&mut self, now_ms: u64) -> bool {
        let paid = now_ms.saturating_sub(self.at_ms).saturating_mul(self.per_second) / 1000;
        // A time in which less than a byte is paid counts later.
        if paid > 0 {
            self.debt = self.debt.saturating_sub(paid);
            self.at_ms = now_ms;
        }
        self.debt == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_a_long_time_no_more_is_sent_than_the_limit_and_one_pack() {
        let mut rate = Rate::new(1_000, 0);
        let (mut sent, mut now) = (0, 0);
        while now < 100_000 {
            if rate.allows(now) {
                rate.sent(700);
                sent += 700;
            }
            now += 3;
        }
        assert!((99_000..=100_700).contains(&sent), "{sent}");
        // What was not used is not saved up.
        assert!(rate.allows(200_000));
        rate.sent(2_000);
        assert!(!rate.allows(201_900) && rate.allows(202_000));
    }

    #[test]
    fn without_a_limit_everything_goes() {
        let mut rate = Rate::new(0, 0);
        rate.sent(u64::MAX);
        assert!(rate.allows(0));
    }
}
