//! Credential files: `config.json` (`{"auths": {…}}`) and the older `.dockercfg` (the inner object alone), from
//! pull secrets and from the node. Owns the parsing; never reads a file. Never puts content into an error.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{RegistryAuth, base64};

/// Credentials by location, as written in the file.
pub type DockerConfig = BTreeMap<String, RegistryAuth>;

/// Why a file gives no credentials, or not all of them. Says nothing of what the file holds but locations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerConfigError {
    /// Not JSON.
    #[error("not valid JSON (line {line}, column {column})")]
    NotJson {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// JSON of another shape.
    #[error("{0} must be an object")]
    NotAnObject(&'static str),
    /// One entry is broken.
    #[error("entry {location:?}: {problem}")]
    Entry {
        /// Its key.
        location: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Reads `config.json`: the credentials, and what could not be used.
pub fn parse_config_json(text: &[u8]) -> (DockerConfig, Vec<DockerConfigError>) {
    let document = match object(text) {
        Ok(document) => document,
        Err(error) => return (DockerConfig::new(), vec![error]),
    };
    match field(&document, "auths") {
        None | Some(Value::Null) => (DockerConfig::new(), Vec::new()),
        Some(Value::Object(auths)) => entries(auths),
        Some(_) => (DockerConfig::new(), vec![DockerConfigError::NotAnObject("auths")]),
    }
}

/// Reads `.dockercfg`: the credentials, and what could not be used.
pub fn parse_dockercfg(text: &[u8]) -> (DockerConfig, Vec<DockerConfigError>) {
    match object(text) {
        Ok(document) => entries(&document),
        Err(error) => (DockerConfig::new(), vec![error]),
    }
}

fn object(text: &[u8]) -> Result<Map<String, Value>, DockerConfigError> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(DockerConfigError::NotAnObject("the document")),
        Err(error) => Err(DockerConfigError::NotJson { line: error.line(), column: error.column() }),
    }
}

fn entries(auths: &Map<String, Value>) -> (DockerConfig, Vec<DockerConfigError>) {
    let (mut config, mut problems) = (DockerConfig::new(), Vec::new());
    for (location, value) in auths {
        match entry(value) {
            Ok(auth) => {
                config.insert(location.clone(), auth);
            }
            Err(problem) => problems.push(DockerConfigError::Entry { location: location.clone(), problem }),
        }
    }
    (config, problems)
}

fn entry(value: &Value) -> Result<RegistryAuth, &'static str> {
    let Value::Object(entry) = value else { return Err("must be an object") };
    let text = |name: &str| match field(entry, name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err("username, password, auth and tokens must be strings"),
    };
    let mut auth = RegistryAuth {
        username: text("username")?.to_owned(),
        password: text("password")?.to_owned(),
        identity_token: text("identitytoken")?.to_owned(),
        registry_token: text("registrytoken")?.to_owned(),
    };
    let encoded = text("auth")?;
    if !encoded.is_empty() {
        let decoded = base64::decode(encoded).ok_or("auth is not base64")?;
        let pair = String::from_utf8(decoded).map_err(|_| "auth does not hold text")?;
        let (username, password) =
            pair.split_once(':').ok_or("auth must be the base64 form of username:password")?;
        auth.username = username.to_owned();
        auth.password = password.to_owned();
    }
    Ok(auth)
}

/// A field by its name; like Go's JSON, without regard to case when no field has exactly that name.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let alike = || object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    object.get(name).or_else(alike)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> RegistryAuth {
        RegistryAuth { username: "ann".into(), password: "pw:1".into(), ..Default::default() }
    }

    #[track_caller]
    fn check(json: &str, expected: &[(&str, RegistryAuth)], problems: &[&str]) {
        let (config, found) = parse_config_json(json.as_bytes());
        let expected: DockerConfig =
            expected.iter().map(|(at, auth)| ((*at).to_owned(), auth.clone())).collect();
        assert_eq!(config, expected, "{json}");
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), problems, "{json}");
    }

    #[test]
    fn config_json() {
        check(
            r#"{"auths":{"r.io":{"username":"ann","password":"pw:1","email":"a@b"}}}"#,
            &[("r.io", ann())],
            &[],
        );
        // base64("ann:pw:1"), padded or not, wins over the plain fields.
        check(r#"{"auths":{"r.io":{"auth":"YW5uOnB3OjE=","username":"x"}}}"#, &[("r.io", ann())], &[]);
        check(r#"{"Auths":{"r.io":{"Auth":"YW5uOnB3OjE"}},"credHelpers":{}}"#, &[("r.io", ann())], &[]);
        let tokens =
            RegistryAuth { identity_token: "i".into(), registry_token: "r".into(), ..Default::default() };
        check(r#"{"auths":{"r.io":{"identitytoken":"i","registrytoken":"r"}}}"#, &[("r.io", tokens)], &[]);
        check(r#"{"auths":null}"#, &[], &[]);
        check("{}", &[], &[]);
        check("[]", &[], &["the document must be an object"]);
        check("{\"auths\":1}", &[], &["auths must be an object"]);
        check("{\"auths\":\n{", &[], &["not valid JSON (line 2, column 1)"]);
        check(
            r#"{"auths":{"a":{"auth":"!"},"b":{"auth":"bm9jb2xvbg=="},"c":1,"d":{"password":7},"r.io":{"auth":"YW5uOnB3OjE="}}}"#,
            &[("r.io", ann())],
            &[
                "entry \"a\": auth is not base64",
                "entry \"b\": auth must be the base64 form of username:password",
                "entry \"c\": must be an object",
                "entry \"d\": username, password, auth and tokens must be strings",
            ],
        );
    }

    #[test]
    fn dockercfg_is_the_inner_object() {
        let (config, problems) = parse_dockercfg(br#"{"https://r.io":{"auth":"YW5uOnB3OjE="}}"#);
        assert_eq!(config.get("https://r.io"), Some(&ann()));
        assert!(problems.is_empty());
    }
}
