//! Wire types, client and server of device plugins v1beta1, generated from `proto/deviceplugin.proto` by `build.rs`. Never edited by
//! hand; used by the agent and by plugins of the tests.

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

include!(concat!(env!("OUT_DIR"), "/device/v1beta1.rs"));
