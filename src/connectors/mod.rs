//! Ends of a dataflow: sources of records and sinks for them, on the public traits [`Source`](crate::Source) and [`Sink`](crate::Sink).
//!
//! | source | replayable | parallel |
//! |---|---|---|
//! | [`Iter`]: a collection or a generator | yes, if it gives the same items again | no |
//! | [`TextFiles`]: lines of files | yes, while the files stay as they are | by splits |
//! | [`Csv`]: typed rows of CSV files | as `TextFiles` | by files |
//! | [`JsonLines`]: typed lines of JSON | as `TextFiles` | by splits |
//! | [`Ingest`]: records sent from anywhere in the service | as [`FromStream`] | no |
//! | [`FromStream`]: a stream or a channel of this process | no; within the process if asked to | no |
//! | [`Throttled`]: any source, slower | as the source it slows | as the source it slows |
//!
//! | sink | delivery |
//! |---|---|
//! | [`FileSink`]: files in a folder | exactly once, after any crash |
//! | [`TwoPhase`](crate::TwoPhase): any system with transactions | exactly once |
//! | [`WriteAhead`]: any system without | exactly once where a batch that comes twice takes effect once |
//! | [`Collect`]: memory of this process | exactly once while the process lives |
//! | [`Print`]: standard output or any writer | at least once |
//! | [`ToSink`]: a sink or a channel of this process | at least once |
//! | [`Stream::into_stream`](crate::Stream::into_stream): a stream in the service | at least once |

mod bad_row;
mod collect;
#[cfg(feature = "csv")]
mod csv;
mod file_sink;
mod from_stream;
mod ingest;
mod iter;
#[cfg(feature = "json")]
mod json_lines;
mod line;
mod print;
mod results;
#[cfg(test)]
mod test_support;
mod text_files;
mod throttle;
mod to_sink;
mod write_ahead;

#[cfg(feature = "csv")]
pub use self::csv::Csv;
pub use bad_row::BadRow;
pub use collect::{Collect, CollectCommit, CollectWriter};
#[cfg(feature = "csv")]
pub use file_sink::CsvEncode;
#[cfg(feature = "json")]
pub use file_sink::JsonEncode;
pub use file_sink::{DisplayLines, Encode, EncodeWith, FileCommit, FileSink, FileTransaction};
pub use from_stream::{FromStream, StreamPosition, StreamReader};
pub use ingest::{Ingest, IngestError};
pub use iter::{Generate, Iter, IterPosition, IterReader};
#[cfg(feature = "json")]
pub use json_lines::JsonLines;
pub use print::{Print, PrintWriter};
pub use results::Results;
pub use text_files::{TextFiles, TextReader, TextSplit};
pub use throttle::{SourceExt, Throttled, ThrottledReader};
pub use to_sink::{ToSink, ToSinkWriter};
pub use write_ahead::{BatchId, CheckpointCommitter, Deliver, DiskCommitter, WriteAhead, WriteAheadWriter};
