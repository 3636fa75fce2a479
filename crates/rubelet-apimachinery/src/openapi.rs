//! The OpenAPI documents of what is served: version 2 as one document, version 3 as one a group version.
//!
//! Made, compressed and hashed by the build script (`build/openapi.rs`); here they are named and unpacked. Kinds that a
//! server holds only on request are always described; kinds that take a cluster have paths (so that clients leave
//! validation to the server, which says what is wrong) and no schemas.

use std::io::Read as _;

/// A document, compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document {
    /// The document as a gzip file: fit for an answer with `Content-Encoding: gzip`.
    pub gzip: &'static [u8],
    /// Changes with the content, and only then: its `ETag`, and the `hash` parameter of version 3.
    pub hash: &'static str,
    /// Bytes it has when unpacked.
    pub length: usize,
}

/// Why a document cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("the embedded OpenAPI document cannot be unpacked")]
pub struct Unreadable(#[from] std::io::Error);

impl Document {
    /// The document itself. It is large, and made anew by each call: keep the answer only as long as it is sent.
    pub fn unpack(&self) -> Result<Vec<u8>, Unreadable> {
        let mut bytes = Vec::with_capacity(self.length);
        flate2::read::GzDecoder::new(self.gzip).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

include!(concat!(env!("OUT_DIR"), "/documents.rs"));

/// Media types under which kubectl asks for [`v2_protobuf`]; the first is what an answer says.
pub const V2_PROTOBUF_TYPES: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// `/openapi/v2`, as JSON.
pub fn v2_json() -> Document {
    V2_JSON
}

/// `/openapi/v2`, as the protobuf message `openapi.v2.Document`.
pub fn v2_protobuf() -> Document {
    V2_PROTOBUF
}

/// `/openapi/v3`: where the documents of the group versions are, with their hashes.
pub fn v3_index() -> Document {
    V3_INDEX
}

/// The document of a group version by its path, such as `api/v1` or `apis/coordination.k8s.io/v1`.
pub fn v3(group_version: &str) -> Option<Document> {
    let index = V3.binary_search_by(|(place, _)| (*place).cmp(group_version)).ok()?;
    V3.get(index).map(|(_, document)| *document)
}

#[cfg(test)]
mod tests;
