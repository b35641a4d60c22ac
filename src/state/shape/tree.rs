//! What is known of a type, place by place, and how it is written.

use super::Refused;

/// What kind of thing a place in the type asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Unknown,
    Leaf(&'static str),
    Option,
    Seq,
    Map,
    Tuple,
    Newtype,
    Struct(&'static [&'static str]),
    Enum(&'static [&'static str]),
    /// A type inside itself: so many named types up.
    Back(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    /// It still has something to tell.
    #[default]
    Open,
    Accepted,
    Refused,
}

/// What the content of a variant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Content {
    #[default]
    Unknown,
    Unit,
    Tuple,
    Struct(&'static [&'static str]),
}

#[derive(Debug, Default)]
pub(super) struct Alternative {
    pub(super) state: State,
    pub(super) worked: bool,
    pub(super) content: Content,
    pub(super) parts: Vec<Node>,
}

impl Alternative {
    pub(super) fn part(&mut self, index: usize) -> Result<&mut Node, Refused> {
        if self.parts.len() <= index {
            self.parts.resize_with(index + 1, Node::default);
        }
        self.parts.get_mut(index).ok_or(Refused)
    }
}

/// A place in the type.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) alternatives: Vec<Alternative>,
}

impl Node {
    /// Whether every alternative is worth seeing, not just one that works.
    pub(super) fn exhaustive(&self) -> bool {
        matches!(self.kind, Kind::Enum(_))
    }

    pub(super) fn is_open(&self) -> bool {
        self.any(State::Open) && (self.exhaustive() || !self.any(State::Accepted))
    }

    pub(super) fn any(&self, state: State) -> bool {
        self.alternatives.iter().any(|alternative| alternative.state == state)
    }

    pub(super) fn choose(&self) -> Option<usize> {
        let first =
            |state| self.alternatives.iter().position(|alternative: &Alternative| alternative.state == state);
        if self.exhaustive() {
            first(State::Open).or_else(|| first(State::Accepted))
        } else {
            first(State::Accepted).or_else(|| first(State::Open))
        }
    }

    pub(super) fn write(&self, to: &mut String) {
        let parts = self.alternatives.first().map_or(&[][..], |first| &first.parts);
        match self.kind {
            Kind::Unknown => to.push('?'),
            Kind::Leaf(name) => to.push_str(name),
            Kind::Option => write_list("option<", parts, 1, ">", to),
            Kind::Seq => write_list("seq<", parts, 1, ">", to),
            Kind::Map => write_list("map<", parts, 2, ">", to),
            Kind::Tuple => write_tuple(parts, to),
            Kind::Newtype => write_list("", parts, 1, "", to),
            Kind::Struct(fields) => write_fields(fields, parts, to),
            Kind::Back(levels) => to.push_str(&format!("^{levels}")),
            Kind::Enum(variants) => {
                to.push_str("enum{");
                for (i, variant) in variants.iter().enumerate() {
                    write_separator(i, to);
                    write_name(variant, to);
                    match self.alternatives.get(i) {
                        None | Some(Alternative { content: Content::Unknown, .. }) => to.push('?'),
                        Some(Alternative { content: Content::Unit, .. }) => {}
                        Some(Alternative { content: Content::Tuple, parts, .. }) => write_tuple(parts, to),
                        Some(Alternative { content: Content::Struct(fields), parts, .. }) => {
                            write_fields(fields, parts, to);
                        }
                    }
                }
                to.push('}');
            }
        }
    }
}

fn write_separator(index: usize, to: &mut String) {
    if index > 0 {
        to.push_str(", ");
    }
}

/// A name, without the characters that mean something in a shape.
fn write_name(name: &str, to: &mut String) {
    for char in name.chars() {
        if char.is_alphanumeric() || matches!(char, '_' | '-' | '.') {
            to.push(char);
        } else {
            to.push_str(&format!("%{:x}", u32::from(char)));
        }
    }
}

fn write_list(open: &str, parts: &[Node], count: usize, close: &str, to: &mut String) {
    to.push_str(open);
    for i in 0..count {
        write_separator(i, to);
        match parts.get(i) {
            Some(part) => part.write(to),
            None => to.push('?'),
        }
    }
    to.push_str(close);
}

fn write_tuple(parts: &[Node], to: &mut String) {
    let texts: Vec<String> = parts
        .iter()
        .map(|part| {
            let mut text = String::new();
            part.write(&mut text);
            text
        })
        .collect();
    match texts.first() {
        Some(first) if texts.len() > 4 && texts.iter().all(|text| text == first) => {
            to.push_str(&format!("[{first}; {}]", texts.len()));
        }
        _ => to.push_str(&format!("({})", texts.join(", "))),
    }
}

fn write_fields(fields: &[&str], parts: &[Node], to: &mut String) {
    to.push('{');
    for (i, field) in fields.iter().enumerate() {
        write_separator(i, to);
        write_name(field, to);
        to.push_str(": ");
        match parts.get(i) {
            Some(part) => part.write(to),
            None => to.push('?'),
        }
    }
    to.push('}');
}
