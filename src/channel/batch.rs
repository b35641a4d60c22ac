//! A batch of records, in columns.

use std::any::Any;
use std::fmt;

/// Records that travel together, with their key hashes when the edge is keyed.
#[derive(Debug)]
pub struct Batch<T> {
    /// The records.
    pub items: Vec<T>,
    /// Stable key hashes, one per record, or none on an edge without keys.
    pub hashes: Hashes,
}

/// The most records that a batch holds.
const MOST: usize = 1024;

/// The hashes of a batch's records, by place: the batch says how many there are. Room is there for all of them or for none, so that putting
/// one in is one look and one store.
#[derive(Clone, Default)]
pub struct Hashes(Box<[u64]>);

impl Hashes {
    /// Room for hashes.
    #[must_use]
    pub fn with_room() -> Self {
        Self(vec![0; MOST].into())
    }

    /// These, if they are not too many.
    #[must_use]
    pub fn of(hashes: &[u64]) -> Option<Self> {
        let mut all = Self::with_room();
        all.0.get_mut(..hashes.len())?.copy_from_slice(hashes);
        Some(all)
    }

    /// Whether the records have hashes.
    #[must_use]
    pub fn is_some(&self) -> bool {
        !self.0.is_empty()
    }

    /// Puts in the hash of the record at `place`, which is below the batch's capacity.
    #[inline]
    pub fn put(&mut self, place: usize, hash: u64) {
        if let Some(slot) = self.0.get_mut(place) {
            *slot = hash;
        }
    }

    /// Those of the first `n` records.
    #[must_use]
    pub fn first(&self, n: usize) -> &[u64] {
        self.0.get(..n).unwrap_or_default()
    }

    /// Forgets the first `n` of so many.
    pub fn forget_first(&mut self, n: usize, of: usize) {
        if n <= of && of <= self.0.len() {
            self.0.copy_within(n..of, 0);
        }
    }
}

impl fmt::Debug for Hashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_some() { "Hashes" } else { "no hashes" })
    }
}

/// A batch whose record type only its two ends know. Always a [`Batch`].
pub type AnyBatch = Box<dyn Records>;

/// What is known of a batch without the type of its records.
pub trait Records: Any + Send {
    /// How many it holds.
    fn len(&self) -> usize;
}

impl<T: Send + 'static> Records for Batch<T> {
    fn len(&self) -> usize {
        self.items.len()
    }
}

impl dyn Records {
    /// The batch as what it is.
    pub fn downcast_mut<B: Any>(&mut self) -> Option<&mut B> {
        (self as &mut dyn Any).downcast_mut()
    }

    /// The batch as what it is, to look at.
    pub fn downcast_ref<B: Any>(&self) -> Option<&B> {
        (self as &dyn Any).downcast_ref()
    }

    /// The batch as what it is, owned.
    ///
    /// # Errors
    /// The batch itself, if it is something else.
    pub fn downcast<B: Any>(self: Box<Self>) -> Result<Box<B>, Box<dyn Any>> {
        (self as Box<dyn Any>).downcast()
    }
}

impl fmt::Debug for dyn Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.len())
    }
}

/// How many records a batch of `T` holds at most: 1024, fewer when they are large, so that a batch stays below
/// about 128 KiB (what the records own beside themselves is not counted).
#[must_use]
pub const fn batch_capacity<T>() -> usize {
    let size = size_of::<T>();
    let fits = 131_072 / if size == 0 { 1 } else { size };
    if fits > MOST {
        MOST
    } else if fits < 16 {
        16
    } else {
        fits
    }
}

impl<T> Batch<T> {
    /// An empty batch with room for a full one.
    #[must_use]
    pub fn with_room(hashed: bool) -> Self {
        let room = batch_capacity::<T>();
        Self {
            items: Vec::with_capacity(room),
            hashes: if hashed { Hashes::with_room() } else { Hashes::default() },
        }
    }
}
