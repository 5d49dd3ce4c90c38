//! Text that somebody else wrote, where people read it: in names, in messages, on a terminal.
//!
//! Invariants: what is shown has no hidden character in it, and a caller's text never fills a message.

use std::borrow::Cow;

/// Most characters of a caller's text that a message repeats.
const QUOTED_CHARS: usize = 48;

/// Whether a character does not show, or changes how its neighbours show: controls (C0, DEL, C1), separators of lines, marks
/// and overrides of writing direction, zero-width characters, variation selectors, tags and fillers. Two names that differ only
/// in these look the same.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    match character {
        ' '..='~' => false,
        // Chinese, and what stands between the last and the next hidden ones.
        '\u{3165}'..='\u{fdff}' => false,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' => true,
        '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' => true,
        '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' => true,
        '\u{e0000}'..='\u{e0fff}' => true,
        other => other.is_control(),
    }
}

/// Text in which each hidden character has become its escape.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => shown.extend(character.escape_default()),
            hidden if is_hidden(hidden) => shown.extend(hidden.escape_unicode()),
            other => shown.push(other),
        }
    }
    Cow::Owned(shown)
}

/// A caller's text in a message: in quotes, escaped, and cut so that it cannot fill it.
#[must_use]
pub fn quote(text: &str) -> String {
    let (text, more) = match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => (&text[..end], "..."),
        None => (text, ""),
    };
    format!("{}{more}", shown(&format!("{text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_show_is_hidden_and_what_people_write_is_not() {
        let hidden = "\0\u{1b}\u{7f}\u{85}\u{ad}\u{61c}\u{200b}\u{200d}\u{200e}\u{202e}\u{2028}\u{2060}\u{2066}\u{2069}\
                      \u{3164}\u{fe0f}\u{feff}\u{fffb}\u{e0001}\u{e0101}";
        for character in hidden.chars() {
            assert!(is_hidden(character), "{character:?}");
        }
        let names =
            "工商银行 北京-1/BANK_B, Müller & Søn, Ελλάδα, Банк, 銀行㈱ ＡＢ、한국은행, עברית العربية 𠀀𪚥 ~";
        for character in names.chars() {
            assert!(!is_hidden(character), "{character:?}");
        }
    }

    #[test]
    fn hidden_characters_are_shown_as_escapes() {
        assert_eq!(shown("清算\u{1b}[2J\nX"), "清算\\u{1b}[2J\\nX");
        assert_eq!(shown("AB\u{202e}21\u{200b}"), "AB\\u{202e}21\\u{200b}");
        assert!(matches!(shown("工商银行"), Cow::Borrowed("工商银行")));
    }

    #[test]
    fn a_quotation_is_bounded_and_shows_what_hides() {
        assert_eq!(quote("a\"b\u{202e}"), "\"a\\\"b\\u{202e}\"");
        assert_eq!(quote(&"账".repeat(5_000)), format!("\"{}\"...", "账".repeat(48)));
        for text in ["\u{10ffff}".repeat(5_000), "\u{200b}".repeat(5_000), "\0".repeat(100)] {
            assert!(quote(&text).len() < 600, "{}", quote(&text).len());
        }
    }
}
