//! The `continue` token of a list: the version it is read at and the last name it has told.
//!
//! The JSON of upstream's (`storage.continueToken`), so that it reads the same in logs, with one number more. Clients cannot reach other
//! resources with one: the key is taken relative to the list's own place.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rubelet_apimachinery::status::{ApiError, bad_request};
use serde_json::{Value, json};

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// The version to read at; `None` to go on at the newest, and so inconsistently.
    pub(crate) version: Option<u64>,
    /// Namespace (empty for kinds without) and name of the last object that was told.
    pub(crate) after: (String, String),
    /// How many objects come after it, where that is known: a walk counts them once.
    pub(crate) left: Option<u64>,
}

impl Token {
    /// The token as clients carry it.
    pub(crate) fn encode(&self) -> String {
        let (namespace, name) = &self.after;
        let start = if namespace.is_empty() { format!("{name}\0") } else { format!("{namespace}/{name}\0") };
        let version = self.version.map_or(json!(-1), |version| json!(version));
        let mut token = json!({"v": "meta.k8s.io/v1", "rv": version, "start": start});
        if let Some(left) = self.left {
            token["left"] = json!(left);
        }
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 400 for a token this server never gave.
    pub(crate) fn decode(text: &str) -> Result<Self, ApiError> {
        let wrong = || bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        if token["v"] != "meta.k8s.io/v1" {
            return Err(bad_request(
                "continue key is not valid: server does not recognize this encoded version",
            ));
        }
        let version = match token["rv"].as_i64() {
            Some(-1) => None,
            Some(version) if version > 0 => Some(version.unsigned_abs()),
            _ => {
                return Err(bad_request(
                    "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
                ));
            }
        };
        let start = token["start"].as_str().unwrap_or_default();
        let start = start.strip_suffix('\0').unwrap_or(start);
        let after = match start.split_once('/') {
            Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
            None => (String::new(), start.to_owned()),
        };
        let odd = |part: &str| part == "." || part == ".." || part.contains(['/', '\0']);
        if after.1.is_empty() || odd(&after.0) || odd(&after.1) {
            return Err(wrong());
        }
        // What is left now need not be what was.
        let left = token["left"].as_u64().filter(|_| version.is_some());
        Ok(Self { version, after, left })
    }
}

/// The 410 answer to a token whose version is forgotten, with the token that goes on regardless.
pub(crate) fn expired(token: &Token) -> ApiError {
    let fresh = Token { version: None, after: token.after.clone(), left: None };
    let mut error = ApiError::new(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.details = json!({ CONTINUE: fresh.encode() });
    error
}

/// Where [`expired`] carries its token: [`body`] moves it to the metadata of the `Status`.
const CONTINUE: &str = "\0continue";

/// The `Status` of an error; a token of [`expired`] is put where clients look for it.
pub(crate) fn body(error: &ApiError) -> Value {
    let mut body = error.body();
    if let Some(details) = body.get_mut("details").and_then(Value::as_object_mut)
        && let Some(token) = details.remove(CONTINUE)
    {
        if details.is_empty()
            && let Some(body) = body.as_object_mut()
        {
            body.remove("details");
        }
        body["metadata"]["continue"] = token;
    }
    body
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_come_back(version in prop::option::of(1..=i64::MAX), namespace in "[a-z]{0,9}", name in "[a-z.-]{3,40}", left in any::<u64>()) {
            let left = version.map(|_| left);
            let token = Token { version: version.map(i64::unsigned_abs), after: (namespace, name), left };
            prop_assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        }

        #[test]
        fn any_text_is_survived(text in ".{0,60}") {
            let _ = Token::decode(&text);
        }
    }

    #[test]
    fn reads_as_upstreams() {
        let token = Token { version: Some(7), after: ("default".into(), "a".into()), left: None };
        let upstream = "eyJydiI6Nywic3RhcnQiOiJkZWZhdWx0L2FcdTAwMDAiLCJ2IjoibWV0YS5rOHMuaW8vdjEifQ";
        assert_eq!(token.encode(), upstream);
        assert_eq!(Token::decode(upstream).unwrap(), token);
        assert_eq!(
            body(&expired(&token))["metadata"]["continue"],
            json!(Token { version: None, ..token }.encode())
        );
    }
}
