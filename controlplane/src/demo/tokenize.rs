//! Text to terms. Client and functions cut and fold text by these two functions only, so that a word means the same
//! to both.
//!
//! 1. A token is a longest run of alphanumeric characters (Unicode's `Alphabetic` or `Numeric`) and underscores.
//! 2. Folding lowercases each character by itself and keeps at most [`TOKEN_BYTES_MAX`] bytes, whole characters only.
//! 3. Folding a folded token changes nothing, and never makes an empty one.

use super::limits::TOKEN_BYTES_MAX;

/// A token as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// Its characters, not folded.
    pub text: &'a str,
    /// Where it starts in the text.
    pub offset_bytes: usize,
}

/// The tokens of `text` in order.
#[must_use]
pub fn tokens(text: &str) -> Tokens<'_> {
    Tokens {
        text,
        next_bytes: 0,
    }
}

/// Iterator over the tokens of a text; see [`tokens`].
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    text: &'a str,
    next_bytes: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let start = self.next_bytes + run_bytes(&self.text[self.next_bytes..], |c| !is_word(c));
        let end = start + run_bytes(&self.text[start..], is_word);
        self.next_bytes = end;
        (start < end).then(|| Token {
            text: &self.text[start..end],
            offset_bytes: start,
        })
    }
}

/// The term that a token stands for; `buffer` holds it where it differs from the token.
#[must_use]
pub fn fold<'a>(token: &'a str, buffer: &'a mut String) -> &'a str {
    let unchanged = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if token.len() <= TOKEN_BYTES_MAX && token.bytes().all(unchanged) {
        return token;
    }
    buffer.clear();
    // One capital (U+0130) lowercases to a letter and a combining dot, which is no word character: the dot is dropped.
    for c in token.chars().flat_map(char::to_lowercase).filter(|&c| is_word(c)) {
        if buffer.len() + c.len_utf8() > TOKEN_BYTES_MAX {
            break;
        }
        buffer.push(c);
    }
    buffer
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn run_bytes(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut buffer = String::new();
        tokens(text)
            .map(|token| fold(token.text, &mut buffer).to_owned())
            .collect()
    }

    #[test]
    fn words_are_cut_at_what_is_neither_letter_nor_digit_nor_underscore() {
        assert_eq!(
            terms("fn Lane_42::claim(&self) -> u64;"),
            ["fn", "lane_42", "claim", "self", "u64"]
        );
        assert!(terms("").is_empty());
        assert!(terms(" \t\n… → «»").is_empty());
    }

    #[test]
    fn letters_of_every_script_are_lowercased() {
        assert_eq!(
            terms("Größe ΣΊΣΥΦΟΣ Ёлка 東京2026 İstanbul"),
            ["größe", "σίσυφοσ", "ёлка", "東京2026", "istanbul"]
        );
    }

    #[test]
    fn offsets_point_at_the_token() {
        let text = "a — Größe, b";
        for token in tokens(text) {
            assert!(text[token.offset_bytes..].starts_with(token.text));
        }
        assert_eq!(tokens(text).count(), 3);
    }

    #[test]
    fn long_tokens_are_cut_between_characters() {
        let long = "ß".repeat(TOKEN_BYTES_MAX);
        assert_eq!(terms(&long), ["ß".repeat(TOKEN_BYTES_MAX / 2)]);
        let odd = format!("x{long}");
        assert_eq!(terms(&odd)[0].len(), TOKEN_BYTES_MAX - 1);
    }

    #[test]
    fn folding_every_character_twice_equals_folding_it_once() {
        let (mut once, mut twice) = (String::new(), String::new());
        let mut buffer = [0; 4];
        for c in ('\0'..=char::MAX).filter(|&c| is_word(c)) {
            let first = fold(c.encode_utf8(&mut buffer), &mut once);
            assert!(!first.is_empty(), "{c:?} folds to nothing");
            assert_eq!(tokens(first).count(), 1, "{c:?} does not stay one token");
            assert_eq!(fold(first, &mut twice), first, "{c:?} folds differently the second time");
        }
    }
}
