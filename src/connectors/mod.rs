//! Ends of a dataflow: sources of records and sinks for them, on the public traits [`Source`](crate::Source) and [`Sink`](crate::Sink).
//!
//! | source | replayable | parallel |
//! |---|---|---|
//! | [`Iter`]: a collection or a generator | yes, if it gives the same items again | no |
//! | [`TextFiles`]: lines of files | yes, while the files stay as they are | by splits |
//! | [`Throttled`]: any source, slower | as the source it slows | as the source it slows |
//!
//! | sink | delivery |
//! |---|---|
//! | [`FileSink`]: files in a folder | exactly once, after any crash |
//! | [`Collect`]: memory of this process | exactly once while the process lives |
//! | [`Print`]: standard output or any writer | at least once |

mod collect;
mod file_sink;
mod iter;
mod line;
mod print;
#[cfg(test)]
mod test_disk;
mod text_files;
mod throttle;

pub use collect::{Collect, CollectCommit, CollectWriter};
pub use file_sink::{DisplayLines, Encode, EncodeWith, FileCommit, FileSink, FileWriter};
pub use iter::{Generate, Iter, IterPosition, IterReader};
pub use print::{Print, PrintWriter};
pub use text_files::{TextFiles, TextReader, TextSplit};
pub use throttle::{SourceExt, Throttled, ThrottledReader};
