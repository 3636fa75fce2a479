//! From the bytes of a manifest to a JSON value: YAML (of which JSON is a part), with the traps of YAML 1.1 that
//! Kubernetes manifests rely on. Called by the file and URL sources; knows nothing of pods.

use serde_json::Value;

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// Not text.
    #[error("the content is not UTF-8 text (byte {0} is not valid); is it a binary file?")]
    NotText(usize),
    /// Nothing in it.
    #[error("the content is empty; a manifest holds one object with apiVersion: v1 and kind: Pod")]
    Empty,
    /// Not YAML.
    #[error("not valid YAML or JSON: {0}")]
    Syntax(String),
}

/// Parses one document.
///
/// # Errors
/// [`YamlError`], with line and column where the text goes wrong.
pub fn parse(bytes: &[u8]) -> Result<Value, YamlError> {
    let text = std::str::from_utf8(bytes).map_err(|error| YamlError::NotText(error.valid_up_to()))?;
    if text.trim().is_empty() {
        return Err(YamlError::Empty);
    }
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| YamlError::Syntax(error.to_string()))
}
