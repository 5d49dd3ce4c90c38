//! Durations as scenario files write them: a number and a unit.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A duration: `"1.5s"`, `"200ms"`, `"50us"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// Whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    fn parse(text: &str) -> Option<Self> {
        // The longer units first: `s` ends them all.
        let (number, unit_us) = [("us", 1.0), ("ms", 1e3), ("s", 1e6)]
            .into_iter()
            .find_map(|(unit, us)| Some((text.strip_suffix(unit)?, us)))?;
        if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return None;
        }
        let seconds = number.parse::<f64>().ok()? * unit_us / 1e6;
        Duration::try_from_secs_f64(seconds).ok().map(Self)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no duration; write it like \"1.5s\", \"200ms\" or \"50us\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, us) in [
            ("2s", 2_000_000),
            ("1.5s", 1_500_000),
            ("200ms", 200_000),
            ("0.5ms", 500),
            ("50us", 50),
            ("0s", 0),
        ] {
            assert_eq!(Span::parse(text), Some(Span(Duration::from_micros(us))), "{text}");
        }
        for text in ["", "s", "5", "-1s", "1 s", "1m", "1e3s", "nans", "infs", "1.2.3s"] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}
