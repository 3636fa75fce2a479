//! Wire types, client and server of podresources v1, generated from `proto/podresources_v1.proto` by `build.rs`. Never edited by
//! hand; used by the agent and by clients of the tests.

// The code is generated: names, shapes and missing documentation are the protocol's and the generator's.
#![allow(
    missing_docs,
    unreachable_pub,
    deprecated,
    rustdoc::all,
    clippy::all,
    clippy::unwrap_used,
    clippy::panic,
    rust_2018_idioms
)]

include!(concat!(env!("OUT_DIR"), "/pod_resources/v1.rs"));
