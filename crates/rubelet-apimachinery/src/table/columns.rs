//! What a table says of its columns (`TableColumnDefinition`).

use serde_json::{Value, json};

/// One column.
pub(super) struct Column {
    /// Its head; kubectl writes it in capitals.
    name: &'static str,
    /// The OpenAPI type of its cells.
    kind: &'static str,
    /// `name` where the cells name the objects; kubectl writes their kind before it when it prints several kinds. Or
    /// what else the cells' texts are.
    format: &'static str,
    /// What it tells, for people.
    description: &'static str,
    /// 0 is always shown, 1 with `kubectl -o wide`.
    priority: u8,
}

impl Column {
    /// As it stands in a table.
    pub(super) fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format, "description": self.description,
            "priority": self.priority,
        })
    }

    /// The same, shown only with `kubectl -o wide`.
    pub(super) const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }

    /// The same, said to hold names.
    pub(super) const fn names(self) -> Self {
        Self { format: "name", ..self }
    }

    /// The same, said to hold quantities.
    pub(super) const fn quantities(self) -> Self {
        Self { format: "quantity", ..self }
    }

    /// The same, said to hold durations.
    pub(super) const fn durations(self) -> Self {
        Self { format: "duration", ..self }
    }
}

const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0 }
}

/// A column of texts.
pub(super) const fn string(name: &'static str, description: &'static str) -> Column {
    column(name, "string", description)
}

/// A column of numbers.
pub(super) const fn integer(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", description)
}

/// A column of true and false.
pub(super) const fn boolean(name: &'static str, description: &'static str) -> Column {
    column(name, "boolean", description)
}

/// A column of times.
pub(super) const fn date(name: &'static str, description: &'static str) -> Column {
    column(name, "date", description)
}

/// What the object is called.
pub(super) const NAME: Column = string("Name", "What it is called.").names();
/// How long the object has been there.
pub(super) const AGE: Column = string("Age", "How long ago it was made.");
