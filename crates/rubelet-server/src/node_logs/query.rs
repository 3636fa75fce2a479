//! The node log query (`NodeLogQuery`, `enableSystemLogQuery`): what it asks for, and what is wrong with it in upstream's
//! words (`newNodeLogQuery`, `validate`).
//!
//! Pure.

use jiff::Timestamp;
use rubelet_core::validation::field::{Errors, Json, Path};
use rubelet_core::validation::names;

use super::pattern;
use crate::query::{Query, integer};

const MAX_SERVICES: usize = 4;
const MAX_SERVICE_LENGTH: usize = 256;
const MAX_TAIL_LINES: i64 = 100_000;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LogQuery {
    /// Names of services, or of files by the rules for logs.
    pub(super) services: Vec<String>,
    /// Files below the directory: what has a slash or backslash in it.
    pub(super) files: Vec<String>,
    pub(super) options: Options,
}

/// What of a service's log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) since: Option<Timestamp>,
    /// With the text it was given as.
    pub(super) until: Option<(Timestamp, String)>,
    pub(super) tail_lines: Option<i64>,
    /// 0 is this boot, -1 the one before.
    pub(super) boot: Option<i64>,
    /// A regular expression; empty for none.
    pub(super) pattern: String,
}

/// Errors as one text (upstream `ErrorList.ToAggregate`).
fn told(errors: Errors) -> Result<(), String> {
    let mut texts: Vec<String> = Vec::new();
    for error in &errors.0 {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

impl LogQuery {
    /// Reads the query of a request; `None` when it asks for nothing of this kind.
    ///
    /// # Errors
    /// What is wrong, for a 400.
    pub(super) fn parse(query: &str) -> Result<Option<Self>, String> {
        let query = Query::parse(query);
        let (mut read, mut errors) = (Self::default(), Errors::default());
        let asked: Vec<&str> = query.all("query").collect();
        for wanted in &asked {
            if wanted.contains(['/', '\\']) {
                read.files.push((*wanted).to_owned());
            } else if !wanted.trim().is_empty() {
                read.services.push((*wanted).to_owned());
            }
        }
        if !asked.is_empty() && read.files.is_empty() && read.services.is_empty() {
            errors.invalid(&Path::new("query"), &Json(&asked), "query cannot be empty");
        }
        let mut time = |name: &str| {
            let text = query.first(name).filter(|text| !text.is_empty())?;
            let time = rfc3339(text);
            if time.is_none() {
                errors.invalid(&Path::new(name), text, "invalid time format");
            }
            time.map(|time| (time, text.to_owned()))
        };
        read.options.since = time("sinceTime").map(|(time, _)| time);
        read.options.until = time("untilTime");
        let mut number = |name: &str| {
            let text = query.first(name).filter(|text| !text.is_empty())?;
            let number = integer(text);
            if let Err(why) = &number {
                errors.invalid(&Path::new(name), text, why.replacen("strconv.ParseInt", "strconv.Atoi", 1));
            }
            number.ok()
        };
        read.options.boot = number("boot");
        read.options.tail_lines = number("tailLines");
        read.options.pattern = query.first("pattern").unwrap_or_default().to_owned();
        told(errors)?;
        Ok((read != Self::default()).then_some(read))
    }

    /// The one file that is asked for, if nothing else is: whether it is there has to be looked up.
    pub(super) fn file(&self) -> Option<&str> {
        match self.files.as_slice() {
            [one] if self.services.is_empty() && self.options == Options::default() => Some(one),
            _ => None,
        }
    }

    /// Whether this can be answered; `missing` is what is wrong with [`Self::file`].
    ///
    /// # Errors
    /// What is wrong, for a 406.
    pub(super) fn validate(&self, missing: Option<String>) -> Result<(), String> {
        let mut errors = Errors::default();
        let (query, Options { since, until, tail_lines, boot, pattern }) =
            (Path::new("query"), &self.options);
        for service in &self.services {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte);
            if service.len() > MAX_SERVICE_LENGTH {
                errors.invalid(&query, service, format!("length must be less than {MAX_SERVICE_LENGTH}"));
            } else if !service.bytes().all(fits) {
                errors.invalid(&query, service, "input contains unsupported characters");
            }
        }
        if self.services.len() > MAX_SERVICES {
            errors.too_many(&query, self.services.len(), MAX_SERVICES);
        }
        let files = Json(&self.files);
        match (self.files.len(), self.services.is_empty()) {
            (0, true) => errors.required(&query, "cannot be empty with options"),
            (0, false) => {}
            (_, false) => {
                let both = format!("[{}], [{}]", self.files.join(" "), self.services.join(" "));
                errors.invalid(&query, &both, "cannot specify a file and service");
            }
            (1, true) if self.options != Options::default() => {
                errors.invalid(&query, &files, "cannot specify file with options");
            }
            (1, true) => {
                if let Some(why) = missing {
                    errors.invalid(&query, &files, why);
                }
            }
            (_, true) => errors.invalid(&query, &files, "cannot specify more than one file"),
        }
        if let (Some(since), Some((until, text))) = (since, until)
            && since > until
        {
            errors.invalid(&Path::new("untilTime"), text, "must be after `sinceTime`");
        }
        if let Some(boot) = boot.filter(|boot| *boot > 0) {
            errors.invalid(&Path::new("boot"), &boot, "must be less than 1");
        }
        if let Some(lines) = tail_lines.filter(|lines| !(0..=MAX_TAIL_LINES).contains(lines)) {
            errors.invalid(&Path::new("tailLines"), &lines, names::range(0, MAX_TAIL_LINES));
        }
        if let Err(why) = pattern::check(pattern) {
            errors.invalid(&Path::new("pattern"), pattern, why);
        }
        told(errors)
    }
}

/// A time as Go's `time.RFC3339` wants it: `2024-01-02T03:04:05Z`, with any fraction and offset.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let shape: Vec<u8> = text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte }).collect();
    let rest = shape.strip_prefix(b"0000-00-00T00:00:00")?;
    let fraction = rest.iter().skip(1).take_while(|byte| **byte == b'0').count();
    let zone = match rest.first() {
        Some(b'.') if fraction > 0 => &rest[fraction + 1..],
        _ => rest,
    };
    let fits = matches!(zone, b"Z" | b"+00:00" | b"-00:00");
    text.parse().ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(query: &str) -> LogQuery {
        LogQuery::parse(query).unwrap().unwrap()
    }

    #[test]
    fn reads_what_is_asked_for() {
        for nothing in ["", "unknown=true", "sinceTime=", "untilTime=", "unit=kubelet", "pattern="] {
            assert_eq!(LogQuery::parse(nothing), Ok(None), "{nothing}");
        }
        let services = |query: &str| (read(query).services, read(query).files);
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(services("query=foo"), (list(&["foo"]), list(&[])));
        assert_eq!(services("query=foo&query=bar&query=%20"), (list(&["foo", "bar"]), list(&[])));
        assert_eq!(services("query=foo&query=/bar"), (list(&["foo"]), list(&["/bar"])));
        assert_eq!(services("query=/foo&query=%5Cbar"), (list(&[]), list(&["/foo", "\\bar"])));
        let options = read(
            "sinceTime=2019-12-04T02:00:00Z&untilTime=2019-12-04T03:00:00.5%2B01:00&boot=-23&tailLines=100&pattern=foo",
        )
        .options;
        assert_eq!(options.since, Some("2019-12-04T02:00:00Z".parse().unwrap()));
        assert_eq!(options.until.unwrap().0, "2019-12-04T02:00:00.5Z".parse().unwrap());
        assert_eq!(
            (options.boot, options.tail_lines, options.pattern.as_str()),
            (Some(-23), Some(100), "foo")
        );
    }

    #[test]
    fn refuses_what_is_none() {
        let check = |query: &str, expected: &str| {
            assert_eq!(LogQuery::parse(query), Err(expected.to_owned()), "{query}");
        };
        check("query=", "query: Invalid value: [\"\"]: query cannot be empty");
        check("query=+++&query=+", "query: Invalid value: [\"   \",\" \"]: query cannot be empty");
        for time in
            ["2019-12-04 02:00:00", "2019-12-04 02:00:00.000", "2019-12-04 02", "x", "2019-12-04T02:00:00"]
        {
            let expected = format!("sinceTime: Invalid value: {time:?}: invalid time format");
            check(&format!("sinceTime={}", time.replace(' ', "+")), &expected);
        }
        check(
            "untilTime=2019-12-04t02:00:00z",
            "untilTime: Invalid value: \"2019-12-04t02:00:00z\": invalid time format",
        );
        check(
            "boot=foo&tailLines=+",
            "[boot: Invalid value: \"foo\": strconv.Atoi: parsing \"foo\": invalid syntax, \
             tailLines: Invalid value: \" \": strconv.Atoi: parsing \" \": invalid syntax]",
        );
    }

    #[test]
    fn validates_as_upstream_does() {
        let check = |query: &str, expected: Result<(), &str>| {
            let told = read(query).validate(None);
            assert_eq!(
                told.as_ref().map_err(String::as_str),
                expected.as_ref().map_err(|why| *why),
                "{query}"
            );
        };
        for good in [
            "query=svc1",
            "query=svc1&query=svc2",
            "query=svc.foo&query=svc_foo&query=svc@foo&query=svc:foo",
            "query=-x",
            "query=s&boot=-1",
            "query=s&boot=0",
            "query=s&tailLines=100",
            "query=s&tailLines=100000",
            "query=s&sinceTime=2023-01-04T02:00:00Z&untilTime=2023-02-04T02:00:00Z",
            "query=s&pattern=a.*b",
            "query=/foo.log",
        ] {
            check(good, Ok(()));
        }
        let unsupported = "input contains unsupported characters";
        for (bad, shown) in [
            ("svc%0A", "svc\\n"),
            ("a+b", "a b"),
            ("a%3Bb", "a;b"),
            ("$(x)", "$(x)"),
            ("*", "*"),
            ("%C3%A4", "ä"),
            ("a%00", "a\\0"),
        ] {
            check(&format!("query={bad}"), Err(&format!("query: Invalid value: \"{shown}\": {unsupported}")));
        }
        check("sinceTime=2023-01-04T02:00:00Z", Err("query: Required value: cannot be empty with options"));
        check(
            "query=svc&query=/f",
            Err("query: Invalid value: \"[/f], [svc]\": cannot specify a file and service"),
        );
        check(
            "query=/a&query=/b",
            Err("query: Invalid value: [\"/a\",\"/b\"]: cannot specify more than one file"),
        );
        check(
            "query=/a&pattern=foo",
            Err("query: Invalid value: [\"/a\"]: cannot specify file with options"),
        );
        check(
            "query=a&query=b&query=c&query=d&query=e",
            Err("query: Too many: 5: must have at most 4 items"),
        );
        check(
            "query=s&sinceTime=2023-02-04T02:00:00Z&untilTime=2023-01-04T02:00:00Z",
            Err("untilTime: Invalid value: \"2023-01-04T02:00:00Z\": must be after `sinceTime`"),
        );
        check("query=s&boot=1", Err("boot: Invalid value: 1: must be less than 1"));
        check(
            "query=s&tailLines=100001",
            Err("tailLines: Invalid value: 100001: must be between 0 and 100000, inclusive"),
        );
        check(
            "query=s&pattern=foo%5C",
            Err(
                "pattern: Invalid value: \"foo\\\\\": error parsing regexp: trailing backslash at end of expression: ``",
            ),
        );
        let long = read(&format!("query={}", "svc1".repeat(100))).validate(None).unwrap_err();
        assert!(long.ends_with("length must be less than 256"), "{long}");
        let missing = read("query=/x").validate(Some("statat x: no such file or directory".to_owned()));
        let expected = "query: Invalid value: [\"/x\"]: statat x: no such file or directory";
        assert_eq!(missing, Err(expected.to_owned()));
    }

    proptest! {
        #[test]
        fn any_query_is_read(query in "(query|boot|tailLines|pattern|sinceTime|untilTime|&|=|%|[ -~]){0,12}") {
            if let Ok(Some(read)) = LogQuery::parse(&query) {
                let _ = read.validate(None);
            }
        }

        #[test]
        fn services_that_pass_are_only_names(service in "\\PC{1,10}") {
            let query = LogQuery { services: vec![service.clone()], ..LogQuery::default() };
            if query.validate(None).is_ok() {
                let odd = b"/\\$;&|<>`'\"*?()[]{}";
                let fits = service.bytes().all(|byte| byte.is_ascii_graphic() && !odd.contains(&byte));
                prop_assert!(fits, "{}", service);
            }
        }
    }
}
