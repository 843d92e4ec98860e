//! [`escaped`]: a log line in which nothing looks like another line.

use std::borrow::Cow;
use std::fmt::Write;

/// The escape character, which colours begin with. The formatter escapes those that are part of a text.
const ESC: char = '\x1b';

/// `line`, which is one event with its line break, with every other control character as an escape sequence that is the same in text and
/// in a string of JSON: names, paths, headers and answers of others are part of log lines, and must neither end one nor begin one, nor
/// change how a terminal shows it. `has_colours` = the escape character is kept.
pub(super) fn escaped(line: &[u8], has_colours: bool) -> Cow<'_, [u8]> {
    let (event, end) = match line.strip_suffix(b"\n") {
        Some(event) => (event, "\n"),
        None => (line, ""),
    };
    // Nearly all lines are plain.
    if event.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(line);
    }
    let mut text = String::with_capacity(line.len() + 16);
    for char in String::from_utf8_lossy(event).chars() {
        match char {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            ESC if has_colours => text.push(ESC),
            char if is_hidden(char) => {
                // A string takes everything.
                let _ = write!(text, "\\u{:04x}", u32::from(char));
            }
            char => text.push(char),
        }
    }
    text.push_str(end);
    Cow::Owned(text.into_bytes())
}

/// Control characters, line and paragraph separators, and what turns the direction of the text.
fn is_hidden(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str, has_colours: bool) -> String {
        String::from_utf8(escaped(line.as_bytes(), has_colours).into_owned()).expect("text")
    }

    #[test]
    fn a_line_has_one_line_break_and_shows_what_it_holds() {
        assert_eq!(text("a plain line\n", false), "a plain line\n");
        assert_eq!(text("no break", false), "no break");
        assert_eq!(text("n1\n2026-01-01 INFO it leaves\r\n", false), "n1\\n2026-01-01 INFO it leaves\\r\n");
        assert_eq!(
            text("\0\x07\x7f\u{85}\u{2028}\u{202e}\t|\n", false),
            "\\u0000\\u0007\\u007f\\u0085\\u2028\\u202e\\t|\n"
        );
        assert_eq!(text("Größe 大\n", false), "Größe 大\n");
        assert_eq!(escaped(b"\xff\n", false).as_ref(), "\u{fffd}\n".as_bytes());
        assert_eq!(text("\x1b[2Jgone\n", false), "\\u001b[2Jgone\n");
        assert_eq!(text("\x1b[2mdim\x1b[0m\n", true), "\x1b[2mdim\x1b[0m\n");
        assert!(matches!(escaped(b"plain\n", false), Cow::Borrowed(_)));
    }

    #[test]
    fn what_was_json_is_json_with_the_same_text() {
        let event = serde_json::json!({ "name": "a\u{85}b\u{2028}c\nd\u{7f}" });
        let line = text(&format!("{event}\n"), false);
        assert!(!line.contains('\u{85}') && !line.contains('\u{7f}'), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), event);
    }
}
