//! Text to terms. Client and functions cut and fold text by [`tokens`] and [`Token::term`] only, so that a word means the same
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
    is_folded: bool,
}

impl<'a> Token<'a> {
    /// The term that the token stands for; `buffer` holds it where it differs from the token.
    #[must_use]
    pub fn term<'b>(&self, buffer: &'b mut String) -> &'b str
    where
        'a: 'b,
    {
        if self.is_folded && self.text.len() <= TOKEN_BYTES_MAX {
            return self.text;
        }
        buffer.clear();
        // One capital (U+0130) lowercases to a letter and a combining dot, which is no word character: it is dropped.
        let folded = self.text.chars().flat_map(char::to_lowercase);
        for c in folded.filter(|&c| is_word(c)) {
            if buffer.len() + c.len_utf8() > TOKEN_BYTES_MAX {
                break;
            }
            buffer.push(c);
        }
        buffer
    }
}

/// The tokens of `text` in order.
#[must_use]
pub fn tokens(text: &str) -> Tokens<'_> {
    Tokens { text, next_bytes: 0 }
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
        let mut start = self.next_bytes;
        while let Some((CharacterClass::Separator, bytes)) = class_at(self.text, start) {
            start += bytes;
        }
        let mut end = start;
        let mut is_folded = true;
        while let Some((class, bytes)) = class_at(self.text, end) {
            match class {
                CharacterClass::Separator => break,
                CharacterClass::Folded => {}
                CharacterClass::Unfolded => is_folded = false,
            }
            end += bytes;
        }
        self.next_bytes = end;
        (start < end).then(|| Token { text: &self.text[start..end], offset_bytes: start, is_folded })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharacterClass {
    Separator,
    /// Part of a token, and the same after folding.
    Folded,
    /// Part of a token that folding may change.
    Unfolded,
}

/// The classes of ASCII, which most of most texts is: a lookup is several times faster than asking `char`.
const ASCII_CLASSES: [CharacterClass; 128] = {
    let mut classes = [CharacterClass::Separator; 128];
    let mut code: u8 = 0;
    while code < 128 {
        classes[code as usize] = match code {
            b'_' | b'0'..=b'9' | b'a'..=b'z' => CharacterClass::Folded,
            b'A'..=b'Z' => CharacterClass::Unfolded,
            _ => CharacterClass::Separator,
        };
        code += 1;
    }
    classes
};

/// Class and length of the character that starts at `place_bytes`, if the text has not ended.
#[inline]
fn class_at(text: &str, place_bytes: usize) -> Option<(CharacterClass, usize)> {
    let byte = *text.as_bytes().get(place_bytes)?;
    if let Some(&class) = ASCII_CLASSES.get(usize::from(byte)) {
        return Some((class, 1));
    }
    let character = text[place_bytes..].chars().next()?;
    let class = if is_word(character) { CharacterClass::Unfolded } else { CharacterClass::Separator };
    Some((class, character.len_utf8()))
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut buffer = String::new();
        tokens(text).map(|token| token.term(&mut buffer).to_owned()).collect()
    }

    #[test]
    fn words_are_cut_at_what_is_neither_letter_nor_digit_nor_underscore() {
        assert_eq!(terms("fn Lane_42::claim(&self) -> u64;"), ["fn", "lane_42", "claim", "self", "u64"]);
        assert!(terms("").is_empty());
        assert!(terms(" \t\n… → «»").is_empty());
    }

    #[test]
    fn letters_of_every_script_are_lowercased() {
        assert_eq!(terms("Größe ΣΊΣΥΦΟΣ Ёлка 東京2026 İstanbul"), ["größe", "σίσυφοσ", "ёлка", "東京2026", "istanbul"]);
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
        for c in '\0'..=char::MAX {
            let mut encoded = [0; 4];
            let found: Vec<Token<'_>> = tokens(c.encode_utf8(&mut encoded)).collect();
            assert_eq!(found.len(), usize::from(is_word(c)), "{c:?}");
            let Some(token) = found.first() else { continue };
            let first = token.term(&mut once);
            let again: Vec<Token<'_>> = tokens(first).collect();
            assert_eq!(again.len(), 1, "{c:?} does not stay one token");
            assert_eq!(again[0].term(&mut twice), first, "{c:?} folds differently the second time");
        }
    }
}
