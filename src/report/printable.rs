//! Text that terminals show as it is.
//!
//! Names come from files, and a terminal obeys what it is shown: a name could clear the screen, set the title or fake a line. So what
//! is no visible character is spelled out, as `\u{1b}`.

use std::borrow::Cow;

/// The text with control characters, and those that turn the direction of writing, spelled out; lines and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| !matches!(c, '\n' | '\t') && is_invisible(c))
}

/// The text on one line: [`printable`], with the ends of lines spelled out, too.
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_invisible)
}

/// JSON text with the characters that it leaves alone and a terminal obeys as escapes. They stand in strings only.
pub(super) fn printable_json(text: String) -> String {
    let is_bad = |c: char| !c.is_ascii() && is_invisible(c);
    if !text.contains(is_bad) {
        return text;
    }
    text.chars().map(|c| if is_bad(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() }).collect()
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return Cow::Borrowed(text);
    }
    let spell = |c: char| if is_bad(c) { c.escape_debug().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(spell).collect())
}

/// Control characters, separators of lines and paragraphs, and marks of direction.
fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_spelled_out() {
        assert_eq!(printable("a\u{1b}[31mb\n\tc\u{9b}\u{202e}\u{7}"), "a\\u{1b}[31mb\n\tc\\u{9b}\\u{202e}\\u{7}");
        assert_eq!(on_one_line("a\nb\rc"), "a\\nb\\rc");
        assert!(matches!(printable("größer, 大 ✓\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_json() {
        let text = serde_json::to_string("a\u{1b}\u{9b}\u{202e}\n").unwrap();
        let shown = printable_json(text);
        assert!(shown.chars().all(|c| !is_invisible(c)), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), "a\u{1b}\u{9b}\u{202e}\n");
    }
}
