//! What becomes of values that are empty: a word that the type tables and the build script that makes them share.
//!
//! It depends on nothing, because the build script reads it too.

/// What the published Go types make of an empty or absent value when they write JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Empty {
    /// A pointer: absent stays absent, and an empty value (`0`, `false`, `""`, `{}`) stays too.
    Kept,
    /// `omitempty`: an empty value is the same as none and is left out.
    Dropped,
    /// Always written: an absent value is written as the empty one (`""`, `0`, `false`, `{}`; `null` for lists, maps
    /// and times).
    Written,
    /// A pointer that is always written: an absent value is written as `null`, and an empty one stays.
    Null,
}
