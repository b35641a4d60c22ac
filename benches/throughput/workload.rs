//! What both sides compute: the generator, the checksum, and the two workloads.
//!
//! Record `seq` is `h = splitmix64(seq)`; partition p of 2 makes the records with `seq % 2 == p`. W1 mixes `h` once more and drops
//! one in eight. W2 takes the key `h % keys` and the value `h >> 40`, and keeps a running count and sum of each key.

/// How many threads either side has, and how many partitions the generator.
pub const THREADS: u64 = 2;

#[inline(always)]
pub fn splitmix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What came out: how many records, and a sum over them that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    pub out: u64,
    pub sum: u64,
}

impl Checksum {
    /// A record of W1.
    #[inline(always)]
    pub fn plain(&mut self, record: u64) {
        self.out += 1;
        self.sum = self.sum.wrapping_add(record);
    }

    /// A running count of W2.
    #[inline(always)]
    pub fn running(&mut self, key: u64, count: u64) {
        self.out += 1;
        let term = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ count.wrapping_mul(0xD1B5_4A32_D192_ED03);
        self.sum = self.sum.wrapping_add(term);
    }

    pub fn merge(&mut self, other: Self) {
        self.out += other.out;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// W1 after the generator.
#[inline(always)]
pub fn kept(mixed: &u64) -> bool {
    mixed & 7 != 0
}

/// W2's record.
#[inline(always)]
pub fn keyed(h: u64, keys: u64) -> (u64, u64) {
    (h % keys, h >> 40)
}
