//! Whose tracing subscriber sees a job, and how its spans hang together.

use std::cell::RefCell;
use tracing::dispatcher::{self, DefaultGuard, Dispatch};
use tracing::{Span, subscriber::NoSubscriber};

/// The subscriber of the thread that starts a job, for the threads of the job: one that was set for a scope is seen there too.
#[derive(Debug, Clone)]
pub(super) struct Subscriber(Option<Dispatch>);

thread_local! {
    /// Held as long as the thread lives.
    static ADOPTED: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
}

impl Subscriber {
    /// The one that is current here.
    pub(super) fn of_this_thread() -> Self {
        let current = dispatcher::get_default(Clone::clone);
        // Without any, one that is set for the whole process later will be seen.
        Self((!current.is::<NoSubscriber>()).then_some(current))
    }

    /// Makes it the default of this thread until that ends. For threads of a job's own.
    pub(super) fn adopt(&self) {
        if let Some(dispatch) = &self.0 {
            ADOPTED.with_borrow_mut(|adopted| {
                adopted.get_or_insert_with(|| dispatcher::set_default(dispatch));
            });
        }
    }
}

/// Makes a span below `parent`, for the subscriber that knows the parent: another one need not know of it.
pub(super) fn below(parent: &Span, make: impl FnOnce() -> Span) -> Span {
    match parent.with_subscriber(|(_, dispatch)| dispatch.clone()) {
        Some(dispatch) => dispatcher::with_default(&dispatch, make),
        None => make(),
    }
}
