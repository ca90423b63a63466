//! What the clients ask for: keys, sizes, contents. A value's content follows from its key and
//! version, so that whoever reads it can tell whether it is what was written.

use anyhow::{Result, bail};
use fastrand::Rng;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Sizes of values in bytes; the least holds the key and the version.
const LEAST: usize = 16;
const MOST: usize = 64 * 1024;

/// Times to live in milliseconds.
const TTLS: Range<u64> = 500..3000;

/// Of 100 operations so many get a value and so many delete one; the others put one.
const GETS: u32 = 75;
const DELETES: u32 = 5;

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Get,
    Put,
    Delete,
}

/// The keys, their versions, and what the values are cut from.
#[derive(Debug, Clone)]
pub struct Workload {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The highest version of each key that a client has begun to write.
    versions: Vec<AtomicU64>,
    /// Random bytes. A value is the key, the version, and a part of these.
    noise: Vec<u8>,
    seed: u64,
}

impl Workload {
    pub fn new(keys: u32, seed: u64) -> Self {
        let mut noise = vec![0; 4 * MOST];
        Rng::with_seed(seed).fill(&mut noise);
        let versions = (0..keys).map(|_| AtomicU64::new(0)).collect();
        Self { shared: Arc::new(Shared { versions, noise, seed }) }
    }

    /// The random numbers of one client.
    pub fn random(&self, client: u32) -> Rng {
        Rng::with_seed(mix(self.shared.seed, client.into()))
    }

    pub fn keys(&self) -> usize {
        self.shared.versions.len()
    }

    /// A key. The logarithm of its rank is uniform, so that key `k` comes about as often as
    /// `1/k`: Zipf's law, as in the requests to real caches.
    pub fn pick_key(&self, random: &mut Rng) -> usize {
        let keys = self.keys();
        let rank = (keys as f64).powf(random.f64());
        (rank as usize).saturating_sub(1).min(keys - 1)
    }

    pub fn pick_operation(&self, random: &mut Rng) -> Operation {
        match random.u32(0..100) {
            n if n < GETS => Operation::Get,
            n if n < GETS + DELETES => Operation::Delete,
            _ => Operation::Put,
        }
    }

    pub fn pick_ttl(&self, random: &mut Rng) -> Duration {
        Duration::from_millis(random.u64(TTLS))
    }

    /// A new version of the key's value.
    pub fn write(&self, key: usize) -> Vec<u8> {
        let version = self.shared.versions[key].fetch_add(1, Relaxed) + 1;
        let noise = self.noise(key, version);
        let mut value = Vec::with_capacity(LEAST + noise.len());
        value.extend_from_slice(&(key as u64).to_le_bytes());
        value.extend_from_slice(&version.to_le_bytes());
        value.extend_from_slice(noise);
        value
    }

    /// Fails unless the value is, byte for byte, one that was written under the key.
    pub fn check(&self, key: usize, value: &[u8]) -> Result<()> {
        let Some((found, rest)) = value.split_first_chunk::<8>() else {
            bail!("key {key} has a value of {} bytes", value.len());
        };
        let Some((version, noise)) = rest.split_first_chunk::<8>() else {
            bail!("key {key} has a value of {} bytes", value.len());
        };
        let (found, version) = (u64::from_le_bytes(*found), u64::from_le_bytes(*version));
        if found != key as u64 {
            bail!("key {key} has the value of key {found}");
        }
        if version == 0 || version > self.shared.versions[key].load(Relaxed) {
            bail!("key {key} has version {version}, which nobody wrote");
        }
        if noise != self.noise(key, version) {
            bail!("key {key} has a damaged value of version {version}");
        }
        Ok(())
    }

    /// The part of the value after key and version. Half of all values have up to 128 bytes,
    /// one in ten has more than 13 KiB.
    fn noise(&self, key: usize, version: u64) -> &[u8] {
        let mut random = Rng::with_seed(mix(mix(self.shared.seed, key as u64), version));
        let ratio = (MOST / LEAST) as f64;
        let size = (LEAST as f64 * ratio.powf(random.f64().powi(2))) as usize;
        let length = size.clamp(LEAST, MOST) - LEAST;
        let start = random.usize(0..=self.shared.noise.len() - length);
        &self.shared.noise[start..start + length]
    }
}

/// One number from two, of which none tells the others (Steele, Lea, Flood: "Fast splittable
/// pseudorandom number generators", 2014).
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_passes() {
        let workload = Workload::new(10, 7);
        for key in 0..10 {
            let (first, second) = (workload.write(key), workload.write(key));
            assert_ne!(first, second);
            workload.check(key, &first).expect("the first version");
            workload.check(key, &second).expect("the second version");
        }
    }

    #[test]
    fn a_single_wrong_byte_is_found() {
        let workload = Workload::new(1, 7);
        let value = workload.write(0);
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert!(workload.check(0, &damaged).is_err(), "byte {at}");
        }
        assert!(workload.check(0, &value[..value.len() - 1]).is_err());
        assert!(workload.check(0, &[]).is_err());
    }

    #[test]
    fn the_value_of_another_key_is_found() {
        let workload = Workload::new(2, 7);
        let value = workload.write(0);
        workload.write(1);
        assert!(workload.check(1, &value).is_err());
    }

    #[test]
    fn a_version_that_nobody_wrote_is_found() {
        let (workload, ahead) = (Workload::new(1, 7), Workload::new(1, 7));
        let value = ahead.write(0);
        assert!(workload.check(0, &value).is_err());
    }

    #[test]
    fn sizes_are_skewed_and_in_bounds() {
        let workload = Workload::new(1, 7);
        let mut sizes: Vec<_> = (0..10_000).map(|_| workload.write(0).len()).collect();
        sizes.sort_unstable();
        assert!(sizes[0] >= LEAST && sizes[9_999] <= MOST);
        assert!((100..160).contains(&sizes[5_000]), "median {}", sizes[5_000]);
        assert!(sizes[9_000] > 10 * 1024, "ninth decile {}", sizes[9_000]);
    }

    #[test]
    fn some_keys_are_asked_for_far_more_often() {
        let workload = Workload::new(1000, 7);
        let mut random = workload.random(0);
        let mut counts = vec![0u32; 1000];
        for _ in 0..100_000 {
            counts[workload.pick_key(&mut random)] += 1;
        }
        assert!(counts[0] > 50 * counts[500], "{} and {}", counts[0], counts[500]);
        assert!(counts.iter().filter(|&&count| count > 0).count() > 900);
    }
}
