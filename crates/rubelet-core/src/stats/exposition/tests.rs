//! Tests of the writer against documents in full, and against the parser.

use proptest::prelude::*;

use super::*;

fn written(value: impl Into<Value>) -> String {
    let mut out = String::new();
    number::push(&mut out, value.into());
    out
}

#[test]
fn writes_numbers_as_go_does() {
    for (value, expected) in [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.0, "-1"),
        (0.1, "0.1"),
        (100_000.0, "100000"),
        (999_999.0, "999999"),
        (999_999.5, "999999.5"),
        (1_000_000.0, "1e+06"),
        (1_234_567.0, "1.234567e+06"),
        (12_345_678.9, "1.23456789e+07"),
        (0.000_1, "0.0001"),
        (0.000_017, "1.7e-05"),
        (-0.000_017, "-1.7e-05"),
        (1e100, "1e+100"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (1.0 / 3.0, "0.3333333333333333"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
        (f64::NAN, "NaN"),
    ] {
        assert_eq!(written(value), expected, "{value:e}");
    }
    for (value, expected) in [
        (Value::nanoseconds(1), "1e-09"),
        (Value::nanoseconds(100_000), "0.0001"),
        (Value::nanoseconds(1_500_000_000), "1.5"),
        (Value::nanoseconds(123_456_789_012_345), "123456.789012345"),
        (Value::nanoseconds(1_234_567_890_123_456_789), "1.2345678901234567e+09"),
        (Value::microseconds(2_500_000), "2.5"),
        (Value::milliseconds(10), "0.01"),
        (Value::Count(u64::MAX), "1.8446744073709552e+19"),
        (Value::Count(1_700_000_000), "1.7e+09"),
        (Value::from(-7_i64), "-7"),
        (Value::from(true), "1"),
    ] {
        assert_eq!(written(value), expected, "{value:?}");
    }
}

#[test]
fn writes_families_once_escaped_and_never_empty() {
    let mut document = Exposition::new();
    document.family("empty_total", "Nothing of it is known.", Kind::Counter);
    document.family("first", "Two lines,\nand a \\ and a \".", Kind::Gauge);
    document.sample("first", &[], 1.5, None);
    document.sample("first", &[("path", "C:\\new\n\"x\"")], 2.0, Some(-5));
    document.sample("second", &[], 1.0, None);
    document.family("first", "Again.", Kind::Gauge);
    document.sample("first", &[("a", "b")], 3.0, None);
    document.family("wait_seconds", "How long.", Kind::Histogram);
    let buckets = Buckets { cumulative: &[(0.5, 1), (2.5, 3)], sum: 7.25, count: 4 };
    document.histogram(&[("of", "pull")], &buckets, None);
    document.histogram(&[], &Buckets { cumulative: &[], sum: 0.0, count: 0 }, Some(1_700_000_000_123));
    assert_eq!(
        document.as_str(),
        r#"# HELP first Two lines,\nand a \\ and a ".
# TYPE first gauge
first 1.5
first{path="C:\\new\n\"x\""} 2 -5
# HELP wait_seconds How long.
# TYPE wait_seconds histogram
wait_seconds_bucket{of="pull",le="0.5"} 1
wait_seconds_bucket{of="pull",le="2.5"} 3
wait_seconds_bucket{of="pull",le="+Inf"} 4
wait_seconds_sum{of="pull"} 7.25
wait_seconds_count{of="pull"} 4
wait_seconds_bucket{le="+Inf"} 0 1700000000123
wait_seconds_sum 0 1700000000123
wait_seconds_count 0 1700000000123
"#
    );
    let families = parse(document.as_str()).unwrap();
    assert_eq!(families[0].help, "Two lines,\nand a \\ and a \".");
    assert_eq!(families[0].samples[1].label("path"), Some("C:\\new\n\"x\""));
    assert_eq!(families[1].samples.len(), 8);
}

#[test]
fn puts_labels_between_rendered_ones() {
    let labels = Labels::new(&[("b", "1"), ("d", "\"2\"")]);
    let mut document = Exposition::new();
    document.family("x", "X.", Kind::Gauge);
    document.sample_of(&labels, &[], 1u64, None);
    document.sample_of(&labels, &[(0, "a", "0")], 1u64, None);
    document.sample_of(&labels, &[(1, "c", "\n")], 1u64, None);
    document.sample_of(&labels, &[(0, "a", ""), (1, "c", ""), (1, "cc", ""), (2, "e", "")], 1u64, Some(7));
    document.sample_of(&Labels::default(), &[], 1u64, None);
    document.sample_of(&Labels::default(), &[(0, "a", "0"), (4, "b", "0")], 1u64, None);
    assert_eq!(
        document.into_string(),
        r#"# HELP x X.
# TYPE x gauge
x{b="1",d="\"2\""} 1
x{a="0",b="1",d="\"2\""} 1
x{b="1",c="\n",d="\"2\""} 1
x{a="",b="1",c="",cc="",d="\"2\"",e=""} 1 7
x 1
x{a="0",b="0"} 1
"#
    );
}

#[test]
fn a_streamed_document_comes_in_parts_of_whole_lines() {
    let write = |document: &mut Exposition| {
        document.family("x", "X.", Kind::Gauge);
        (0..10_000u64).for_each(|index| document.sample("x", &[("index", &index.to_string())], index, None));
    };
    let mut whole = Exposition::new();
    write(&mut whole);
    let (sender, parts) = std::sync::mpsc::channel();
    let mut streamed = Exposition::streamed(move |part| sender.send(part.to_owned()).unwrap());
    write(&mut streamed);
    assert!(streamed.as_str().len() < PART);
    assert_eq!(streamed.into_string(), "");
    let parts: Vec<String> = parts.iter().collect();
    assert!(parts.len() > 2);
    assert!(parts.iter().all(|part| part.ends_with('\n') && part.len() < PART + 100));
    assert_eq!(parts.concat(), whole.into_string());
}

#[test]
fn refuses_what_a_reader_would() {
    let head = "# HELP a A.\n# TYPE a gauge\n";
    let histogram = "# HELP h H.\n# TYPE h histogram\n";
    for (text, line, problem) in [
        ("a 1\n".to_owned(), 1, "a is not of the family before it"),
        (format!("{head}a 1"), 3, "it does not end"),
        (format!("{head}a\n"), 3, "a sample without a value"),
        (format!("{head}a one\n"), 3, "\"one\" is no number"),
        (format!("{head}a inf\n"), 3, "\"inf\" is no number"),
        (format!("{head}a 1 1.5\n"), 3, "\"1.5\" is no time"),
        (format!("{head}a{{}} 1\n"), 3, "labels that do not end"),
        (format!("{head}a{{0x=\"\"}} 1\n"), 3, "\"0x\" is no label"),
        (format!("{head}a{{x=\"\\t\"}} 1\n"), 3, "an escape that is none"),
        (format!("{head}a{{x=\"\\\"}} 1\n"), 3, "a label's value that does not end"),
        (format!("{head}a{{x=\"\",x=\"\"}} 1\n"), 3, "a has a label twice"),
        (
            format!("{head}a{{x=\"\",y=\"\"}} 1\na{{y=\"\",x=\"\"}} 1\n"),
            4,
            "a comes twice with the same labels",
        ),
        (format!("{head}a 1\n\n"), 4, "neither HELP, TYPE nor a sample"),
        (format!("{head}b 1\n"), 3, "b is not of the family before it"),
        (format!("{head}a 1\n{head}a 1\n"), 5, "a comes twice"),
        (head.to_owned(), 3, "a has no sample"),
        ("# HELP a A.\n".to_owned(), 2, "no TYPE after HELP of a"),
        ("# TYPE a gauge\na 1\n".to_owned(), 1, "no HELP before TYPE of a"),
        ("# HELP a A.\n# TYPE a info\n".to_owned(), 2, "info is no type"),
        ("# HELP a-b A.\n".to_owned(), 1, "\"a-b\" is no name"),
        (format!("{histogram}h 1\n"), 3, "h is not of the family before it"),
        (format!("{histogram}h_sum 1\nh_count 1\n"), 5, "h lacks its infinite bucket, sum or count"),
        (
            format!("{histogram}h_bucket{{le=\"1\"}} 2\nh_bucket{{le=\"+Inf\"}} 1\nh_sum 1\nh_count 1\n"),
            7,
            "buckets of h are in disorder",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert_eq!((error.line, error.problem.as_str()), (line, problem), "{text}");
    }
}

#[test]
fn remarks_on_what_promtool_remarks_on() {
    let check = |name: &str, kind: Kind, label: &str, expected: &[&str]| {
        let mut document = Exposition::new();
        document.family(name, "Help.", kind);
        document.sample(name, &[(label, "x")], 1.0, None);
        assert_eq!(lint(&parse(document.as_str()).unwrap()), expected, "{name}");
    };
    check("a_total", Kind::Counter, "x", &[]);
    check("a_seconds", Kind::Gauge, "x", &[]);
    check("a", Kind::Counter, "x", &["a: counter metrics should have \"_total\" suffix"]);
    check("a_total", Kind::Gauge, "x", &["a_total: non-counter metrics should not have \"_total\" suffix"]);
    check(
        "a_sum",
        Kind::Gauge,
        "le",
        &[
            "a_sum: only histograms and summaries should have such a suffix",
            "a_sum: only histograms should have a label \"le\"",
        ],
    );
    check(
        "a_ms",
        Kind::Gauge,
        "osVersion",
        &[
            "a_ms: label names should be written in 'snake_case' not 'camelCase'",
            "a_ms: metric names should not contain abbreviated units",
        ],
    );
}

proptest! {
    #[test]
    fn any_number_is_read_back(value in any::<f64>(), count in any::<u64>(), places in 0u8..10) {
        let back: f64 = written(value).parse().unwrap();
        prop_assert!(back == value || (back.is_nan() && value.is_nan()), "{value:e} {back:e}");
        prop_assert_eq!(written(count).parse::<f64>().unwrap(), count as f64);
        let parts = written(Value::Parts(count, places));
        let float = count as f64 / 10f64.powi(places.into());
        prop_assert_eq!(parts, written(float));
    }

    #[test]
    fn any_text_is_read_back(help in ".*", values in proptest::collection::vec(".*", 1..4)) {
        let names = ["a", "b", "c"];
        let labels: Vec<(&str, &str)> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        let mut document = Exposition::new();
        document.family("x", &help, Kind::Gauge);
        document.sample("x", &labels, 1.0, None);
        document.family("y", &help, Kind::Gauge);
        document.sample_of(&Labels::new(&labels[1..]), &[(0, "a", labels[0].1)], 1.0, None);
        let read = parse(document.as_str()).unwrap();
        prop_assert_eq!(&read[0].help, &help);
        prop_assert_eq!(&read[0].samples[0].labels, &read[1].samples[0].labels);
        for (label, value) in labels {
            prop_assert_eq!(read[0].samples[0].label(label), Some(value));
        }
    }

    #[test]
    fn any_bytes_are_survived(text in "(# (HELP|TYPE) )?[a-z{}\"= \n\\\\#,]*(\n.*)*") {
        let _ = parse(&text);
    }
}
