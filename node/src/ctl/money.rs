//! Amounts between whole minor units and the decimals that people write and read.
//!
//! Invariant: no floating point; what [`parse_amount`] takes is exact or refused, and [`format_amount`] drops nothing.

/// Why a text is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AmountError {
    /// Something else than digits with at most one point between them.
    #[error("is not digits, with at most one point between them")]
    NotDecimal,
    /// More decimals than the currency has.
    #[error("has more decimals than the currency's {digits}")]
    TooPrecise {
        /// Minor-unit digits of the currency.
        digits: u32,
    },
    /// Beyond 2^63-1 minor units.
    #[error("is more than 2^63-1 minor units")]
    TooLarge,
}

/// Minor units of an unsigned decimal like `2452.00`; fewer decimals than `digits` are filled with zeros.
///
/// # Errors
/// See [`AmountError`].
pub(crate) fn parse_amount(text: &str, digits: u32) -> Result<i64, AmountError> {
    let (whole, decimals) = match text.split_once('.') {
        Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
        Some(_) => return Err(AmountError::NotDecimal),
        None => (text, ""),
    };
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(decimals) {
        return Err(AmountError::NotDecimal);
    }
    let missing = u32::try_from(decimals.len())
        .ok()
        .and_then(|count| digits.checked_sub(count))
        .ok_or(AmountError::TooPrecise { digits })?;
    let mut minor: i64 = 0;
    let zeros = (0..missing).map(|_| 0);
    for digit in whole.bytes().chain(decimals.bytes()).map(|byte| i64::from(byte - b'0')).chain(zeros) {
        minor =
            minor.checked_mul(10).and_then(|minor| minor.checked_add(digit)).ok_or(AmountError::TooLarge)?;
    }
    Ok(minor)
}

/// Minor units as a decimal with thousands separators, e.g. `1,707,389.50`.
pub(crate) fn format_amount(minor: i128, digits: u32) -> String {
    let digits = usize::try_from(digits).unwrap_or(0);
    // At least one digit stands before the point.
    let figures = format!("{:0>width$}", minor.unsigned_abs(), width = digits + 1);
    let (whole, decimals) = figures.split_at(figures.len() - digits);
    let sign = if minor < 0 { "-" } else { "" };
    let point = if digits == 0 { "" } else { "." };
    format!("{sign}{}{point}{decimals}", group_thousands(whole))
}

/// A count with thousands separators, e.g. `6,471`.
pub(crate) fn format_count(count: u64) -> String {
    group_thousands(&count.to_string())
}

fn group_thousands(figures: &str) -> String {
    let mut grouped = String::with_capacity(figures.len() + figures.len() / 3);
    for (at, figure) in figures.chars().enumerate() {
        if at > 0 && (figures.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(figure);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_parsed_exactly() {
        for (text, digits, minor) in [
            ("2452.00", 2, 245_200),
            ("3372.70", 2, 337_270),
            ("0.01", 2, 1),
            ("7", 2, 700),
            ("7.5", 2, 750),
            ("1000", 0, 1_000),
            ("1.2345", 4, 12_345),
            ("92233720368547758.07", 2, i64::MAX),
        ] {
            assert_eq!(parse_amount(text, digits), Ok(minor), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1,000.00", "1e3", " 1", "1.0.0", "１"] {
            assert_eq!(parse_amount(text, 2), Err(AmountError::NotDecimal), "{text:?}");
        }
        assert_eq!(parse_amount("1.005", 2), Err(AmountError::TooPrecise { digits: 2 }));
        assert_eq!(parse_amount("1.0", 0), Err(AmountError::TooPrecise { digits: 0 }));
        assert_eq!(parse_amount("92233720368547758.08", 2), Err(AmountError::TooLarge));
    }

    #[test]
    fn amounts_are_written_with_separators_and_decimals() {
        for (minor, digits, text) in [
            (170_738_950, 2, "1,707,389.50"),
            (2_122_899_360, 2, "21,228,993.60"),
            (0, 2, "0.00"),
            (5, 2, "0.05"),
            (-5, 2, "-0.05"),
            (99_999, 2, "999.99"),
            (100_000, 2, "1,000.00"),
            (1_234, 0, "1,234"),
            (0, 0, "0"),
            (-12_345, 4, "-1.2345"),
            (i128::MIN, 0, "-170,141,183,460,469,231,731,687,303,715,884,105,728"),
        ] {
            assert_eq!(format_amount(minor, digits), text);
        }
        assert_eq!(format_count(6_471), "6,471");
        assert_eq!(format_count(519), "519");
    }

    #[test]
    fn what_is_written_reads_back() {
        for minor in [1, 99, 100, 245_200, i64::MAX] {
            for digits in 0..=4 {
                let text = format_amount(i128::from(minor), digits).replace(',', "");
                assert_eq!(parse_amount(&text, digits), Ok(minor), "{text}");
            }
        }
    }
}
