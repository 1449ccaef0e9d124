//! A seeded generator for tests: the same seed gives the same run, and every run prints its seed.

/// SplitMix64: small, fast, good enough to choose what to do next.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator with a fixed starting point.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed from the environment variable `name`, or one from the clock; printed so that a failure can be repeated.
    pub fn from_env(name: &str) -> Self {
        let seed = std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| since.as_nanos() as u64)
        });
        println!("seed: {name}={seed}");
        Self(seed)
    }

    /// A generator of its own for worker `n`, so that threads do not share one.
    pub fn fork(&mut self, n: u64) -> Self {
        Self(self.next() ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "an endless source is not an iterator to loop over")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// True once in `n` calls on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}
