//! The clean-up.
