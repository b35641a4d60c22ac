//! A subscriber that remembers every span and every event.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

pub type Fields = BTreeMap<&'static str, String>;

#[derive(Debug, Clone)]
pub struct Span {
    pub name: &'static str,
    pub level: Level,
    pub fields: Fields,
    /// Position of the parent in the list of spans.
    pub parent: Option<usize>,
    pub follows: Option<usize>,
    pub entered: usize,
    pub closed: bool,
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub target: &'static str,
    pub level: Level,
    pub message: String,
    pub fields: Fields,
    /// Names of the spans it is in, the outermost first.
    pub path: Vec<&'static str>,
    /// Fields of all these spans; of two of one name that of the inner span.
    pub context: Fields,
    /// The name of the thread.
    pub thread: String,
}

#[derive(Debug, Default)]
struct Log {
    spans: Vec<Span>,
    events: Vec<Seen>,
}

/// Remembers. Clones share what they remember.
#[derive(Debug, Clone, Default)]
pub struct Recording(Arc<Mutex<Log>>);

/// Position in the list of spans.
struct Position(usize);

impl Recording {
    /// A subscriber that writes in here, and its handle.
    pub fn subscriber() -> (Self, impl Subscriber + Send + Sync) {
        let recording = Self::default();
        (recording.clone(), tracing_subscriber::registry().with(recording))
    }

    pub fn spans(&self, name: &str) -> Vec<Span> {
        self.0.lock().unwrap().spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    pub fn all_spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().spans.clone()
    }

    pub fn events(&self) -> Vec<Seen> {
        self.0.lock().unwrap().events.clone()
    }

    pub fn events_of(&self, message: &str) -> Vec<Seen> {
        self.events().into_iter().filter(|event| event.message == message).collect()
    }
}

#[derive(Default)]
struct Values(Fields);

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recording {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let span = ctx.span(id).unwrap();
        let parent = span.parent().map(|parent| parent.extensions().get::<Position>().unwrap().0);
        let mut values = Values::default();
        attributes.record(&mut values);
        let (name, level) = (attributes.metadata().name(), *attributes.metadata().level());
        let mut log = self.0.lock().unwrap();
        span.extensions_mut().insert(Position(log.spans.len()));
        let fields = values.0;
        log.spans.push(Span { name, level, fields, parent, follows: None, entered: 0, closed: false });
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, ctx: Context<'_, S>) {
        let mut values = Values::default();
        record.record(&mut values);
        self.change(id, &ctx, |span| span.fields.extend(values.0));
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, ctx: Context<'_, S>) {
        let followed = ctx.span(follows).unwrap().extensions().get::<Position>().unwrap().0;
        self.change(id, &ctx, |span| span.follows = Some(followed));
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        self.change(id, &ctx, |span| span.entered += 1);
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        self.change(&id, &ctx, |span| span.closed = true);
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut values = Values::default();
        event.record(&mut values);
        let mut log = self.0.lock().unwrap();
        let (mut path, mut context) = (Vec::new(), Fields::new());
        for span in ctx.event_scope(event).into_iter().flatten() {
            let span = &log.spans[span.extensions().get::<Position>().unwrap().0];
            path.insert(0, span.name);
            for (name, value) in &span.fields {
                context.entry(name).or_insert_with(|| value.clone());
            }
        }
        let message = values.0.remove("message").unwrap_or_default();
        let (target, level) = (event.metadata().target(), *event.metadata().level());
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        log.events.push(Seen { target, level, message, fields: values.0, path, context, thread });
    }
}

impl Recording {
    fn change<S>(&self, id: &Id, ctx: &Context<'_, S>, change: impl FnOnce(&mut Span))
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let position = ctx.span(id).unwrap().extensions().get::<Position>().unwrap().0;
        change(&mut self.0.lock().unwrap().spans[position]);
    }
}
