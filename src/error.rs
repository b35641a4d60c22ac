//! One error for the whole crate: few kinds, each saying what to do about it.

use crate::types::{CheckpointId, JobName, MaxParallelismError, OperatorId, SubtaskIndex};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What user code may fail with: any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What *your* code returns: operators, sources, sinks and closures. `?` takes any error. Functions of the crate
/// return `Result<T, Error>`.
pub type Result<T = (), E = BoxError> = std::result::Result<T, E>;

/// What to do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Change the program: a repeated uid, a state asked for twice, a key that cannot be hashed.
    Program,
    /// Change the settings or what surrounds the job: a bad number, a path that is a file, a missing input.
    Configuration,
    /// The storage failed. Nothing already completed is lost: repair it (space, permissions, network) and start again.
    Storage,
    /// A file is damaged, foreign or of a newer version. Restore it, or start from another checkpoint; it was left as it is.
    Corrupt,
    /// Another live process runs this job on this storage. Stop it, or start with `take_over()`.
    Busy,
    /// Another process took this job over. Stop this one; never start it again without stopping the other.
    Fenced,
    /// User code failed and the restart strategy allowed no further restart. Fix the cause, start again: the job goes on from
    /// its last completed checkpoint.
    Failed,
    /// The job was cancelled on request. Start it again to go on.
    Cancelled,
    /// A subtask did not stop in time, so it was not safe to restart it. Find what blocks it; restart the process.
    Stuck,
    /// A rule inside the library was broken: please report it.
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Program => "fault in the program",
            Self::Configuration => "fault in the configuration",
            Self::Storage => "storage failed",
            Self::Corrupt => "unreadable data",
            Self::Busy => "already running",
            Self::Fenced => "job was taken over",
            Self::Failed => "failed",
            Self::Cancelled => "job was cancelled",
            Self::Stuck => "job is stuck",
            Self::Internal => "internal error",
        })
    }
}

/// An error of the crate: a [kind](ErrorKind), a message, where it happened and why.
///
/// One pointer wide. Put into a [`BoxError`] by `?` it is found again whole.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    job: Option<JobName>,
    operator: Option<OperatorId>,
    subtask: Option<SubtaskIndex>,
    checkpoint: Option<CheckpointId>,
    path: Option<PathBuf>,
    recoverable: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what, where, and which values.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            job: None,
            operator: None,
            subtask: None,
            checkpoint: None,
            path: None,
            recoverable: true,
            source: None,
        }))
    }

    /// An I/O error at `path`.
    pub fn io(what: &str, path: &Path, error: std::io::Error) -> Self {
        Self::new(ErrorKind::Storage, format!("cannot {what}")).at(path).because(error)
    }

    /// The error inside `cause` when it is one of this crate's, else a new one of `kind` caused by it.
    pub fn from_cause(kind: ErrorKind, message: impl Into<String>, cause: BoxError) -> Self {
        match cause.downcast::<Error>() {
            Ok(error) => *error,
            Err(cause) => Self::new(kind, message).because(cause),
        }
    }

    /// An error of your code that running again cannot mend: whatever the restart strategy says the job is not restarted, and no
    /// [error policy](crate::Stream::skip_errors) lets it pass. Take it for what only gets worse by trying again, such as a
    /// password that is refused. It is found also as the [source](std::error::Error::source) of another error.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// fn connect(accepted: bool) -> Result {
    ///     if !accepted {
    ///         return Err(Error::non_recoverable("the password was refused").into());
    ///     }
    ///     Ok(())
    /// }
    /// # let error = Error::from_cause(ErrorKind::Failed, "", connect(false).unwrap_err());
    /// # assert!(!error.is_recoverable());
    /// ```
    ///
    /// Its kind is [`ErrorKind::Failed`]. (Flink: `ThrowableType.NonRecoverableError`.)
    pub fn non_recoverable(cause: impl Into<BoxError>) -> Self {
        let mut error =
            Self::new(ErrorKind::Failed, "marked as an error that no restart can mend").because(cause);
        error.0.recoverable = false;
        error
    }

    /// Whether running the same program on the same data again might mend it: it is [`Failed`](ErrorKind::Failed) or
    /// [`Storage`](ErrorKind::Storage), and neither it nor one of its causes is [marked](Self::non_recoverable).
    #[must_use]
    pub fn is_recoverable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Failed | ErrorKind::Storage) && !is_marked(self)
    }

    /// Whether an error of user code may be passed over: it is not one that no restart can mend.
    pub(crate) fn may_pass(error: &BoxError) -> bool {
        error.downcast_ref::<Self>().map_or_else(|| !is_marked(&**error), Self::is_recoverable)
    }

    /// Names the job. A name already there stays: the first to know knows best. So do the other setters.
    #[must_use]
    pub fn job(mut self, job: &JobName) -> Self {
        self.0.job.get_or_insert_with(|| job.clone());
        self
    }

    /// Names the operator.
    #[must_use]
    pub fn operator(mut self, operator: &OperatorId) -> Self {
        self.0.operator.get_or_insert_with(|| operator.clone());
        self
    }

    /// Names the subtask.
    #[must_use]
    pub fn subtask(mut self, subtask: SubtaskIndex) -> Self {
        self.0.subtask.get_or_insert(subtask);
        self
    }

    /// Names the checkpoint.
    #[must_use]
    pub fn checkpoint(mut self, checkpoint: CheckpointId) -> Self {
        self.0.checkpoint.get_or_insert(checkpoint);
        self
    }

    /// Names the file or folder.
    #[must_use]
    pub fn at(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// Gives the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<BoxError>) -> Self {
        self.0.source = Some(Arc::from(cause.into()));
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What happened, without place and cause.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Uid of the operator that it, or its cause, happened in, if in one.
    #[must_use]
    pub fn operator_id(&self) -> Option<&OperatorId> {
        self.0.operator.as_ref().or_else(|| self.cause()?.operator_id())
    }

    /// The subtask that it, or its cause, happened in, if in one.
    #[must_use]
    pub fn subtask_index(&self) -> Option<SubtaskIndex> {
        self.0.subtask.or_else(|| self.cause()?.subtask_index())
    }

    /// The file or folder that it, or its cause, is about, if about one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref().or_else(|| self.cause()?.path())
    }

    /// The cause, if it is one of this crate's.
    fn cause(&self) -> Option<&Self> {
        self.0.source.as_deref()?.downcast_ref()
    }
}

/// Whether an error, or one of its causes, is [marked](Error::non_recoverable).
fn is_marked(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| cause.downcast_ref::<Error>().is_some_and(|error| !error.0.recoverable))
}

impl From<MaxParallelismError> for Error {
    fn from(error: MaxParallelismError) -> Self {
        Self::new(ErrorKind::Configuration, error.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.0.kind)?;
        self.fmt_below(f)
    }
}

impl Error {
    /// The error without its kind: said once is enough for a chain of errors of one kind.
    fn fmt_below(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        f.write_str(&inner.message)?;
        let mut places = Vec::new();
        if let Some(job) = &inner.job {
            places.push(format!("job `{job}`"));
        }
        if let Some(operator) = &inner.operator {
            places.push(format!("operator `{operator}`"));
        }
        if let Some(subtask) = inner.subtask {
            places.push(format!("subtask {subtask}"));
        }
        if let Some(checkpoint) = inner.checkpoint {
            places.push(format!("checkpoint {checkpoint}"));
        }
        if let Some(path) = &inner.path {
            places.push(format!("path {}", path.display()));
        }
        if !places.is_empty() {
            write!(f, " [{}]", places.join(", "))?;
        }
        match &inner.source {
            None => Ok(()),
            Some(source) => match source.downcast_ref::<Self>() {
                Some(error) if error.kind() == inner.kind => {
                    f.write_str(": ")?;
                    error.fmt_below(f)
                }
                _ => write!(f, ": {source}"),
            },
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_why() {
        let error = Error::io("read the manifest", Path::new("/x/m"), std::io::Error::other("gone"))
            .job(&"j".into())
            .operator(&"op".into())
            .operator(&"outer".into())
            .subtask(SubtaskIndex(3))
            .checkpoint(CheckpointId(9));
        assert_eq!(
            error.to_string(),
            "storage failed: cannot read the manifest \
             [job `j`, operator `op`, subtask 3, checkpoint 9, path /x/m]: gone"
        );
    }

    #[test]
    fn an_error_knows_the_places_of_its_cause() {
        let cause = Error::new(ErrorKind::Failed, "inner").at(Path::new("/x")).subtask(SubtaskIndex(3));
        let error = Error::new(ErrorKind::Failed, "outer").because(cause.operator(&"op".into()));
        assert_eq!(error.operator_id().map(OperatorId::as_str), Some("op"));
        assert_eq!((error.subtask_index(), error.path()), (Some(SubtaskIndex(3)), Some(Path::new("/x"))));
        let own = error.operator(&"own".into()).subtask(SubtaskIndex(4));
        assert_eq!(own.operator_id().map(OperatorId::as_str), Some("own"));
        assert_eq!(own.subtask_index(), Some(SubtaskIndex(4)));
        assert_eq!(
            own.to_string(),
            "failed: outer [operator `own`, subtask 4]: inner [operator `op`, subtask 3, path /x]"
        );
    }

    #[test]
    fn a_marked_error_is_found_however_deep_and_other_kinds_never_recover() {
        #[derive(Debug)]
        struct Outer(Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outer")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let recoverable =
            |error: Error| (error.is_recoverable(), Error::may_pass(&BoxError::from(Outer(error))));
        assert_eq!(recoverable(Error::new(ErrorKind::Failed, "plain")), (true, true));
        assert_eq!(recoverable(Error::non_recoverable("marked")), (false, false));
        let nested = Error::new(ErrorKind::Storage, "x").because(Outer(Error::non_recoverable("marked")));
        assert_eq!(recoverable(nested.operator(&"op".into())), (false, false));
        let program = Error::new(ErrorKind::Program, "fault");
        assert!(!program.is_recoverable() && !Error::may_pass(&program.into()));
        assert!(Error::may_pass(&"text".into()));
    }

    #[test]
    fn an_error_survives_boxing() {
        fn user() -> Result {
            Err(Error::new(ErrorKind::Corrupt, "bad"))?
        }
        let again = Error::from_cause(ErrorKind::Failed, "outer", user().unwrap_err());
        assert_eq!(again.kind(), ErrorKind::Corrupt);
        let nested = Error::new(ErrorKind::Corrupt, "outer").because(again);
        assert_eq!(nested.to_string(), "unreadable data: outer: bad");
        let foreign = Error::from_cause(ErrorKind::Failed, "outer", "text".into());
        assert_eq!(
            (foreign.kind(), foreign.to_string().as_str()),
            (ErrorKind::Failed, "failed: outer: text")
        );
    }
}
