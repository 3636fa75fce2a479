//! Label selectors: the language of `labels.Parse` (`=`, `==`, `!=`, `in`, `notin`, `>`, `<`, `key`, `!key`), its
//! checks and its error messages.

use rubelet_core::validation::names;
use serde_json::Value;

/// Why a text is no label selector, in the words of `labels.Parse`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct LabelSelectorError(String);

type Result<T, E = LabelSelectorError> = std::result::Result<T, E>;

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(LabelSelectorError(text.into()))
}

/// Requirements that labels have to meet, all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    /// Sorted, without repetition, at least one.
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// Reads a selector; empty text selects everything.
    ///
    /// # Errors
    /// When the text does not follow the syntax, or a key or value could be no label's.
    pub fn parse(text: &str) -> Result<Self> {
        Parser { tokens: tokens(text), at: 0 }.requirements().map(Self)
    }

    /// Whether labels, an object of texts, meet all requirements. Anything else counts as no labels.
    pub fn matches(&self, labels: &Value) -> bool {
        self.0
            .iter()
            .all(|requirement| requirement.matches(labels.get(&requirement.key).and_then(Value::as_str)))
    }

    /// Whether nothing is required.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let is_in = |values: &[String], value: &str| values.iter().any(|v| v == value);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| is_in(values, value)),
            Operator::NotIn(values) => value.is_none_or(|value| !is_in(values, value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Operator::LessThan(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
}

const END: Token<'static> = Token { kind: Kind::End, text: "" };

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.bytes().next().filter(|b| *b != 0) else { return tokens };
        let (kind, length) = match first {
            b')' => (Kind::Close, 1),
            b'(' => (Kind::Open, 1),
            b',' => (Kind::Comma, 1),
            b'>' => (Kind::Greater, 1),
            b'<' => (Kind::Less, 1),
            b'!' if rest.starts_with("!=") => (Kind::NotEquals, 2),
            b'!' => (Kind::Not, 1),
            b'=' if rest.starts_with("==") => (Kind::DoubleEquals, 2),
            b'=' => (Kind::Equals, 1),
            _ => {
                let ends = |c: char| {
                    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<' | ' ' | '\t' | '\r' | '\n' | '\0')
                };
                let length = rest.find(ends).unwrap_or(rest.len());
                let kind = match &rest[..length] {
                    "in" => Kind::In,
                    "notin" => Kind::NotIn,
                    _ => Kind::Identifier,
                };
                (kind, length)
            }
        };
        tokens.push(Token { kind, text: &rest[..length] });
        rest = &rest[length..];
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek_operator(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(END)
    }

    /// The next token where words are words: `in` may be a key or a value.
    fn peek(&self) -> Token<'a> {
        let token = self.peek_operator();
        match token.kind {
            Kind::In | Kind::NotIn => Token { kind: Kind::Identifier, ..token },
            _ => token,
        }
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirements(mut self) -> Result<Vec<Requirement>> {
        let mut requirements = Vec::new();
        loop {
            match self.peek().kind {
                Kind::Identifier | Kind::Not => {}
                Kind::End => break,
                _ => {
                    let found = self.peek().text;
                    return error(format!("found '{found}', expected: !, identifier, or 'end of string'"));
                }
            }
            let requirement = self.requirement().map_err(|LabelSelectorError(why)| {
                LabelSelectorError(format!("unable to parse requirement: {why}"))
            })?;
            requirements.push(requirement);
            let token = self.next();
            match token.kind {
                Kind::End => break,
                Kind::Comma if matches!(self.peek().kind, Kind::Identifier | Kind::Not) => {}
                Kind::Comma => {
                    return error(format!("found '{}', expected: identifier after ','", self.peek().text));
                }
                _ => return error(format!("found '{}', expected: ',' or 'end of string'", token.text)),
            }
        }
        requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(requirements)
    }

    fn requirement(&mut self) -> Result<Requirement> {
        let mut token = self.next();
        let absent = token.kind == Kind::Not;
        if absent {
            token = self.next();
        }
        if token.kind != Kind::Identifier {
            return error(format!("found '{}', expected: identifier", token.text));
        }
        let key = token.text;
        refuse("<nil>", key, &names::qualified_name(key))?;
        let alone = matches!(self.peek().kind, Kind::End | Kind::Comma);
        let operator = if absent {
            Operator::DoesNotExist
        } else if alone {
            Operator::Exists
        } else {
            self.comparison(key)?
        };
        Ok(Requirement { key: key.to_owned(), operator })
    }

    fn comparison(&mut self, key: &str) -> Result<Operator> {
        let token = self.peek_operator();
        self.at += 1;
        let values = match token.kind {
            Kind::In | Kind::NotIn => self.values()?,
            Kind::Equals | Kind::DoubleEquals | Kind::NotEquals | Kind::Greater | Kind::Less => {
                vec![self.value()?]
            }
            _ => {
                return error(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", token.text));
            }
        };
        let mut wrong = Vec::new();
        let number = if matches!(token.kind, Kind::Greater | Kind::Less) {
            let parsed = values.first().and_then(|value| value.parse::<i64>().ok());
            if parsed.is_none() {
                let rule = "for 'Gt', 'Lt' operators, the value must be an integer";
                wrong.push(format!("values[0]: Invalid value: {:?}: {rule}", values[0]));
            }
            parsed.unwrap_or_default()
        } else {
            0
        };
        for (index, value) in values.iter().enumerate() {
            let path = format!("values[{index}][{key}]");
            if let Err(LabelSelectorError(why)) = refuse(&path, value, &names::label_value(value)) {
                wrong.push(why);
            }
        }
        match wrong.as_slice() {
            [] => {}
            [one] => return error(one.as_str()),
            more => return error(format!("[{}]", more.join(", "))),
        }
        Ok(match token.kind {
            Kind::NotIn | Kind::NotEquals => Operator::NotIn(values),
            Kind::Greater => Operator::GreaterThan(number),
            Kind::Less => Operator::LessThan(number),
            _ => Operator::In(values),
        })
    }

    /// What follows `in`: words in parentheses, where nothing between two commas is the empty word.
    fn values(&mut self) -> Result<Vec<String>> {
        let open = self.next();
        if open.kind != Kind::Open {
            return error(format!("found '{}' expected: '('", open.text));
        }
        let mut values: Vec<String> = Vec::new();
        match self.peek().kind {
            Kind::Close => values.push(String::new()),
            Kind::Identifier | Kind::Comma => self.words(&mut values)?,
            _ => return error(format!("found '{}', expected: ',', ')' or identifier", self.peek().text)),
        }
        self.at += 1;
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    /// Words up to the closing parenthesis, which is left.
    fn words(&mut self, values: &mut Vec<String>) -> Result<()> {
        loop {
            let token = self.next();
            let following = self.peek();
            match token.kind {
                Kind::Identifier => {
                    values.push(token.text.to_owned());
                    match following.kind {
                        Kind::Comma => {}
                        Kind::Close => return Ok(()),
                        _ => return error(format!("found '{}', expected: ',' or ')'", following.text)),
                    }
                }
                Kind::Comma => {
                    if values.is_empty() || following.kind == Kind::Comma {
                        values.push(String::new());
                    }
                    if following.kind == Kind::Close {
                        values.push(String::new());
                        return Ok(());
                    }
                }
                _ => return error(format!("found '{}', expected: ',', or identifier", token.text)),
            }
        }
    }

    fn value(&mut self) -> Result<String> {
        if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            return Ok(String::new());
        }
        let token = self.next();
        if token.kind == Kind::Identifier {
            return Ok(token.text.to_owned());
        }
        error(format!("found '{}', expected: identifier", token.text))
    }
}

/// The error of a text that breaks rules.
fn refuse(path: &str, text: &str, broken: &[String]) -> Result<()> {
    if broken.is_empty() {
        return Ok(());
    }
    error(format!("{path}: Invalid value: {text:?}: {}", broken.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(selector: &str, labels: Value, expected: bool) {
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(&labels), expected, "{selector}");
    }

    #[test]
    fn requirements_hold_or_do_not() {
        let labels = || json!({"x": "a", "y": "b", "n": "10", "in": "in", "e": ""});
        for (selector, expected) in [
            ("", true),
            ("x=a,y=b", true),
            ("x==a , y != c", true),
            ("x=b", false),
            ("x in (a,b)", true),
            ("x in (b, c)", false),
            ("x notin (b,c),z notin (q)", true),
            ("x notin (a)", false),
            ("x", true),
            ("z", false),
            ("!z", true),
            ("!x", false),
            ("n>9", true),
            ("n > 10", false),
            ("n<11", true),
            ("x>1", false),
            ("z<1", false),
            ("in in (in,notin)", true),
            ("e=", true),
            ("e in ()", true),
            ("e in (,b)", true),
            ("x in (b,,c)", false),
            ("e in (b,)", true),
            ("x!=,y", true),
            ("z!=a", true),
        ] {
            check(selector, labels(), expected);
        }
        check("!x", Value::Null, true);
    }

    #[track_caller]
    fn check_error(selector: &str, expected: &str) {
        let error = LabelSelector::parse(selector).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{selector}: {error}");
    }

    #[test]
    fn errors_read_as_upstream() {
        check_error("x in a", "unable to parse requirement: found 'a' expected: '('");
        check_error("x in (a", "unable to parse requirement: found '', expected: ',' or ')'");
        check_error("x,", "found '', expected: identifier after ','");
        check_error(",x", "found ',', expected: !, identifier, or 'end of string'");
        check_error("x=a b", "found 'b', expected: ',' or 'end of string'");
        check_error("x a", "unable to parse requirement: found 'a', expected: in, notin, =, ==, !=, gt, lt");
        check_error("!", "unable to parse requirement: found '', expected: identifier");
        check_error("x==(a)", "unable to parse requirement: found '(', expected: identifier");
        check_error(
            "-x",
            "unable to parse requirement: <nil>: Invalid value: \"-x\": name part must consist of",
        );
        check_error(
            "x=a/b",
            "unable to parse requirement: values[0][x]: Invalid value: \"a/b\": a valid label must be an empty string",
        );
        check_error(
            "x>a",
            "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be \
             an integer",
        );
    }
}
