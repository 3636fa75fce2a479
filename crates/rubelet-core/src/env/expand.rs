//! `$(NAME)` references in strings of a pod spec.
//!
//! Owns the grammar (upstream `expansion.Expand`): `$(NAME)` is replaced, `$$` is one `$`, anything else stays.
//! A value put in is never expanded again, so expansion always ends.

/// Replaces references with what `lookup` knows; a reference it does not know stays as written.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    expand_with(input, |name| lookup(name).unwrap_or_else(|| format!("$({name})")))
}

/// Replaces every reference with whatever `replacement` says.
pub(super) fn expand_with(input: &str, mut replacement: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(position) = rest.find('$') {
        out.push_str(&rest[..position]);
        let after = &rest[position + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(reference) = after.strip_prefix('(')
            && let Some(end) = reference.find(')')
        {
            out.push_str(&replacement(&reference[..end]));
            rest = &reference[end + 1..];
        } else {
            out.push('$');
            rest = after;
            // The character that follows is copied with the operator, so that "$x$$" does not lose its place.
            if let Some(next) = rest.chars().next() {
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(input: &str, expected: &str) {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "B" => Some("$(A)".to_owned()),
            "EMPTY" | "" => Some(String::new()),
            _ => None,
        };
        assert_eq!(expand(input, lookup), expected, "{input:?}");
    }

    #[test]
    fn follows_the_expansion_grammar() {
        check("", "");
        check("plain", "plain");
        check("$(A)", "1");
        check("x$(A)y$(A)", "x1y1");
        check("$(B)", "$(A)");
        check("$(MISSING)", "$(MISSING)");
        check("[$(EMPTY)]", "[]");
        check("$()", "");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$$$$(A)", "$$(A)");
        check("$A", "$A");
        check("${A}", "${A}");
        check("$", "$");
        check("a$", "a$");
        check("$(A", "$(A");
        check("$($(A)", "$($(A)");
        check("$é$(A)", "$é1");
        check("$((A))", "$((A))");
    }

    proptest! {
        #[test]
        fn never_panics_and_leaves_text_without_references_alone(text in ".{0,60}") {
            let _ = expand(&text, |_| Some("x".into()));
            if !text.contains('$') {
                prop_assert_eq!(expand(&text, |_| None), text);
            }
        }

        #[test]
        fn doubling_every_dollar_gives_the_text_back(text in ".{0,60}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), |_| Some("x".into())), text);
        }
    }
}
