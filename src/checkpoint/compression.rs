//! Whether files of state are compressed, and how that is said.

use serde::{Deserialize, Serialize};

/// How files of state are compressed (Flink's `execution.checkpointing.snapshot-compression`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all. The default.
    #[default]
    None,
    /// In blocks, each with LZ4. Needs the cargo feature `lz4`.
    Lz4,
}

impl Compression {
    /// Whether this program can do it.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        self == Self::None || cfg!(feature = "lz4")
    }

    /// What the name of a file ends with whose segments are so compressed: whoever has the name knows how to read it.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Lz4 => ".lz4",
        }
    }

    /// How the segments of the file of this name are compressed.
    #[must_use]
    pub fn of_file(name: &str) -> Self {
        if name.ends_with(Self::Lz4.extension()) { Self::Lz4 } else { Self::None }
    }
}
