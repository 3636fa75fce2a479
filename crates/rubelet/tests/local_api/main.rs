//! `rubelet local` as a process, met over its real listener by clients that are careless, hostile, slow or many, and by
//! the end of the process itself. Needs neither root nor containers: the API answers without a runtime.
//!
//! Every test owns a [`program::Program`]. Memory is measured from outside, as the peak of the process, against what
//! was tried: bounds are far below that and far above what honest work takes. A panic, or a line that tells of a bug,
//! fails any test.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails; helpers are not marked as tests"
)]

mod bodies;
mod client;
mod http2;
mod identity;
mod paths;
mod program;
mod slow;
mod storm;
mod upkeep;
#[path = "../node/wait.rs"]
#[allow(dead_code, reason = "the node tests use the rest of it")]
mod wait;
mod watches;
