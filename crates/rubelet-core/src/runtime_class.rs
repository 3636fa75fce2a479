//! Which runtime handler a pod's sandbox is made with.
//!
//! Owns the rule (upstream `Manager.LookupRuntimeHandler`); never fetches a class. A class's overhead is in the
//! pod's spec already: admission of the API server put it there.

/// The pod names a class that does not exist, or not yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RuntimeClass {0:?} not found")]
pub struct RuntimeClassNotFound(
    /// Name of the class.
    pub String,
);

/// The handler for a pod's `runtimeClassName`. No class, or an empty name, is the runtime's default: an empty
/// handler. `handler_of` gives the `handler` of the class of a name, if there is that class.
pub fn runtime_handler<'a>(
    class: Option<&str>,
    handler_of: impl FnOnce(&str) -> Option<&'a str>,
) -> Result<String, RuntimeClassNotFound> {
    match class.filter(|name| !name.is_empty()) {
        None => Ok(String::new()),
        Some(name) => match handler_of(name) {
            Some(handler) => Ok(handler.to_owned()),
            None => Err(RuntimeClassNotFound(name.to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(class: Option<&str>, expected: Result<&str, &str>) {
        let handler_of = |name: &str| match name {
            "gvisor" => Some("runsc"),
            "plain" => Some(""),
            _ => None,
        };
        let found = runtime_handler(class, handler_of).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_class_names_the_handler() {
        check(None, Ok(""));
        check(Some(""), Ok(""));
        check(Some("gvisor"), Ok("runsc"));
        check(Some("plain"), Ok(""));
        check(Some("kata"), Err("RuntimeClass \"kata\" not found"));
    }
}
