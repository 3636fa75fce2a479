//! Pressure stall information, of a control group and of the machine. Pure.

use rubelet_core::stats::usage::{Psi, PsiLine};

use super::parse::{lines, number, words};

/// Reads a `*.pressure` file; `None` when there is no line of it to be understood.
pub(super) fn pressure(text: &[u8]) -> Option<Psi> {
    let mut psi = Psi::default();
    let mut any = false;
    for line in lines(text) {
        let mut words = words(line);
        let target = match words.next() {
            Some(b"some") => &mut psi.some,
            Some(b"full") => &mut psi.full,
            _ => continue,
        };
        for word in words {
            any |= take(target, word).is_some();
        }
    }
    any.then_some(psi)
}

fn take(line: &mut PsiLine, word: &[u8]) -> Option<()> {
    let equals = word.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&word[..equals], &word[equals + 1..]);
    let share = || std::str::from_utf8(value).ok()?.parse::<f64>().ok().filter(|share| share.is_finite());
    match key {
        b"avg10" => line.avg10 = share()?,
        b"avg60" => line.avg60 = share()?,
        b"avg300" => line.avg300 = share()?,
        b"total" => line.total = number(value)?,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_lines_are_read() {
        let psi = pressure(
            b"some avg10=0.12 avg60=3.00 avg300=99.99 total=7396446\nfull avg10=0.00 avg60=0.50 avg300=1.00 total=8\n",
        )
        .unwrap();
        assert_eq!(psi.some, PsiLine { avg10: 0.12, avg60: 3.0, avg300: 99.99, total: 7_396_446 });
        assert_eq!((psi.full.avg60, psi.full.total), (0.5, 8));
    }

    #[test]
    fn older_kernels_have_one_line_and_garbage_has_none() {
        assert_eq!(
            pressure(b"some avg10=1.00 total=5\n").map(|psi| (psi.some.total, psi.full.total)),
            Some((5, 0))
        );
        for none in [&b""[..], b"some", b"some avg10=x total=-1", b"other avg10=1.00", b"some avg10=inf"] {
            assert_eq!(pressure(none), None, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = pressure(&bytes);
        }
    }
}
