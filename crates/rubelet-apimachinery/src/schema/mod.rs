//! The published types, as tables: which fields an object has, what is in them, and how lists merge.
//!
//! Made by the build script from `k8s-openapi`'s types and the facts it lacks (list types, merge keys: the struct tags
//! of the published API). Read-only data of the program: nothing is built at start.

mod empty;
mod table;
#[cfg(test)]
mod tests;

pub use self::empty::Empty;

/// A type of the API: a struct such as `io.k8s.api.core.v1.PodSpec`, or what a field of one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type(u16);

impl Type {
    /// The type of objects with this `apiVersion` and kind: all registered kinds but those that need a cluster, their
    /// lists, and what goes through subresources or comes from the API itself (`TokenRequest`, `Eviction`, `Status`).
    /// `DeleteOptions` go by every group version.
    pub fn of(api_version: &str, kind: &str) -> Option<Type> {
        table::by_kind(api_version, kind)
    }

    /// The type of this full name, such as `io.k8s.api.core.v1.PodSpec`.
    pub fn named(name: &str) -> Option<Type> {
        table::by_name(name)
    }

    /// All kinds that [`Type::of`] knows: `apiVersion`, kind and type, sorted.
    pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str, Type)> {
        table::kinds()
    }

    /// What its values look like.
    pub fn shape(self) -> Shape {
        table::shape(self)
    }

    /// Its full name; empty for lists, maps and plain values.
    pub fn name(self) -> &'static str {
        table::name(self)
    }

    /// Whether server-side apply owns its values as a whole. [`Field::atomic`] has this in it, and the few fields that
    /// say otherwise (`claimRef` of a volume).
    pub fn is_atomic(self) -> bool {
        table::is_atomic(self)
    }

    /// A field of a struct; none for other shapes.
    pub fn field(self, name: &str) -> Option<Field> {
        table::field(self, name)
    }

    /// The fields of a struct, sorted by name; none for other shapes.
    pub fn fields(self) -> impl ExactSizeIterator<Item = Field> {
        table::fields(self)
    }
}

/// What values of a type look like in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    String,
    /// A whole number of 32 (`wide` false) or 64 bits.
    Integer {
        /// Whether it has 64 bits.
        wide: bool,
    },
    /// A floating point number.
    Number,
    /// True or false.
    Boolean,
    /// An amount such as `100m` or `1Gi`.
    Quantity,
    /// A whole number or text, such as a port.
    IntOrString,
    /// A time in whole seconds.
    Time,
    /// A time in microseconds.
    MicroTime,
    /// Bytes in base64.
    Bytes,
    /// Anything: raw extensions, `fieldsV1`.
    Any,
    /// Named fields.
    Struct,
    /// Items in order.
    List {
        /// What the items are.
        item: Type,
        /// Who owns what of it, in server-side apply.
        kind: ListKind,
    },
    /// Values by any key.
    Map {
        /// What the values are.
        value: Type,
    },
}

/// How server-side apply sees a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// Owned and replaced as a whole.
    Atomic,
    /// Plain values, each owned by itself.
    Set,
    /// Objects, each owned by itself, told apart by these fields.
    Map(&'static [&'static str]),
}

/// How strategic merge patch treats a field (`x-kubernetes-patch-strategy`, `x-kubernetes-patch-merge-key`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchRule {
    /// Lists are merged, not replaced.
    pub merge: bool,
    /// The field that tells items of a merged list apart; none for plain values.
    pub merge_key: Option<&'static str>,
    /// Fields not named in `$retainKeys` are removed.
    pub retain_keys: bool,
    /// Replaced whole, though it is a struct or a map.
    pub replace: bool,
}

/// One field of a struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name in JSON.
    pub name: &'static str,
    /// What it holds.
    pub of: Type,
    /// Whether the published types say it is always there.
    pub required: bool,
    /// Whether server-side apply owns it as a whole, though it is a struct or a map (`x-kubernetes-map-type`).
    pub atomic: bool,
    /// How strategic merge patch treats it.
    pub patch: PatchRule,
    /// What the schema alone fills in when it is absent, as JSON text (`+default`), such as `"TCP"` for a port's
    /// `protocol`, which is a key of its list. The server's own defaults are rules of the kind, not here.
    pub default: Option<&'static str>,
    /// What becomes of an empty or absent value.
    pub empty: Empty,
}
