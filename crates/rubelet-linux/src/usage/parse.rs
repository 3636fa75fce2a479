//! How the kernel writes numbers: one alone, keys with values, limits. Pure, over bytes, and at ease with any bytes:
//! what is no number is not there.

/// Above this the kernel means no limit: it rounds its largest number down to whole pages (upstream
/// `maxMemorySize`).
const LARGEST_LIMIT: u64 = 1 << 62;

/// The lines of a text, without their ends.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// The words of a line.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A number that is all there is, but for blanks around it.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    digits(text.trim_ascii())
}

/// A signed number that is all there is, but for blanks around it.
pub(super) fn signed(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    match text.strip_prefix(b"-") {
        Some(rest) => Some(-i64::try_from(digits(rest)?).ok()?),
        None => i64::try_from(digits(text)?).ok(),
    }
}

/// A limit: `max`, or a number too large to mean one, is none.
pub(super) fn limit(text: &[u8]) -> Option<u64> {
    number(text).filter(|value| *value <= LARGEST_LIMIT)
}

/// Lines of a key and a number; other lines are passed over.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    lines(text).filter_map(|line| {
        let space = line.iter().position(|byte| *byte == b' ')?;
        Some((&line[..space], number(&line[space + 1..])?))
    })
}

/// The value of one key among lines of a key and a number.
pub(super) fn value(text: &[u8], key: &str) -> Option<u64> {
    pairs(text).find(|(found, _)| *found == key.as_bytes()).map(|(_, value)| value)
}

/// A value of `/proc/meminfo`, in bytes.
pub(super) fn meminfo(text: &[u8], name: &str) -> Option<u64> {
    let line = lines(text).find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"))?;
    number(words(line).next()?)?.checked_mul(1024)
}

/// `major:minor`.
pub(super) fn device(text: &[u8]) -> Option<(u64, u64)> {
    let colon = text.iter().position(|byte| *byte == b':')?;
    Some((digits(&text[..colon])?, digits(&text[colon + 1..])?))
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        byte.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_limits_and_pairs() {
        assert_eq!(number(b" 42\n"), Some(42));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"-1", b"+1", b"4 2", b"18446744073709551616", b"max", b"0x1"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
        assert_eq!((signed(b"-1\n"), signed(b"100000"), signed(b"--1")), (Some(-1), Some(100_000), None));
        assert_eq!(limit(b"1048576\n"), Some(1_048_576));
        assert_eq!(limit(b"9223372036854771712\n"), None);
        assert_eq!(limit(b"max\n"), None);
        let text = b"usage_usec 12\nodd\nuser_usec 7\nx y\n";
        assert_eq!(pairs(text).count(), 2);
        assert_eq!((value(text, "user_usec"), value(text, "user")), (Some(7), None));
        let text = b"MemTotal:       16384 kB\nSwapTotal: 8 kB\nSwapTotalX: 9 kB\nHugePages_Total: 3\n";
        assert_eq!(
            (meminfo(text, "MemTotal"), meminfo(text, "SwapTotal")),
            (Some(16_384 << 10), Some(8 << 10))
        );
        assert_eq!((meminfo(text, "Swap"), meminfo(b"MemTotal:", "MemTotal")), (None, None));
        assert_eq!((device(b"8:16"), device(b"8"), device(b":1")), (Some((8, 16)), None, None));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number_ in any::<u64>(), negative in any::<i64>()) {
            prop_assert_eq!(number(number_.to_string().as_bytes()), Some(number_));
            if negative != i64::MIN {
                prop_assert_eq!(signed(negative.to_string().as_bytes()), Some(negative));
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (number(&bytes), signed(&bytes), limit(&bytes), device(&bytes));
            let _ = (pairs(&bytes).count(), meminfo(&bytes, "MemTotal"), value(&bytes, ""));
        }
    }
}
