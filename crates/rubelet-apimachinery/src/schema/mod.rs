//! The published types, as tables: which fields an object has, what is in them, and how lists merge.
//!
//! Made by the build script from `k8s-openapi`'s types and the facts it lacks (list types, merge keys: the struct tags
//! of the published API). Read-only data of the program: nothing is built at start.

/// A type of the API: a struct such as `io.k8s.api.core.v1.PodSpec`, or what a field of one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type(u16);

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
}
