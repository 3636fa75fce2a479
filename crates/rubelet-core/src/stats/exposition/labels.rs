//! Labels of samples: escaping, and sets that are rendered once and used for many samples. Called by `exposition`.

use super::number;

/// One more label, and how many of the rendered labels come before it.
pub type Extra<'a> = (usize, &'a str, &'a str);

/// Labels in the form the format has them, escaped, without braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    text: String,
    /// Where each label begins, with its comma where it has one; then the length of the text.
    starts: Vec<usize>,
}

impl Labels {
    /// Renders labels, in this order.
    pub fn new(labels: &[(&str, &str)]) -> Self {
        let room = labels.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut text = String::with_capacity(room);
        let mut starts = Vec::with_capacity(labels.len() + 1);
        for (name, value) in labels {
            starts.push(text.len());
            if !text.is_empty() {
                text.push(',');
            }
            push_pair(&mut text, name, value);
        }
        starts.push(text.len());
        Self { text, starts }
    }

    /// Writes them in braces, with more labels between them; positions are ascending.
    pub(super) fn push(&self, out: &mut String, more: &[Extra<'_>]) {
        if self.text.is_empty() && more.is_empty() {
            return;
        }
        out.push('{');
        let mut done = 0;
        let mut first = true;
        for (position, name, value) in more {
            let until = self.starts.get(*position).copied().unwrap_or(self.text.len());
            self.push_part(out, done, until, &mut first);
            done = until.max(done);
            if !first {
                out.push(',');
            }
            first = false;
            push_pair(out, name, value);
        }
        self.push_part(out, done, self.text.len(), &mut first);
        out.push('}');
    }

    /// Writes the part of the rendered text between two labels' beginnings.
    fn push_part(&self, out: &mut String, from: usize, until: usize, first: &mut bool) {
        let Some(part) = self.text.get(from..until).filter(|part| !part.is_empty()) else { return };
        match part.strip_prefix(',') {
            Some(rest) if *first => out.push_str(rest),
            None if !*first => {
                out.push(',');
                out.push_str(part);
            }
            _ => out.push_str(part),
        }
        *first = false;
    }
}

/// Writes labels in braces, the bound of a bucket last.
pub(super) fn push_set(out: &mut String, labels: &[(&str, &str)], bound: Option<f64>) {
    if labels.is_empty() && bound.is_none() {
        return;
    }
    let mut before = '{';
    for (name, value) in labels {
        out.push(before);
        before = ',';
        push_pair(out, name, value);
    }
    if let Some(bound) = bound {
        out.push(before);
        out.push_str("le=\"");
        number::push(out, bound.into());
        out.push('"');
    }
    out.push('}');
}

fn push_pair(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    push_escaped(out, value, true);
    out.push('"');
}

/// Writes text with what ends a line, and in quotes what ends it, escaped.
pub(super) fn push_escaped(out: &mut String, text: &str, quoted: bool) {
    let special = |byte: &u8| matches!(byte, b'\\' | b'\n') || (quoted && *byte == b'"');
    if !text.as_bytes().iter().any(special) {
        out.push_str(text);
        return;
    }
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quoted => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}
