//! Words that people search lists for, and the texts that they are searched in.

use serde::Deserialize;

use super::sql::Query;

/// Words of one search.
const SEARCH_WORDS_MAX: usize = 8;
/// Characters of it.
const SEARCH_CHARS_MAX: usize = 200;

/// Words that are searched for. All are there in whatever fits, in any order, or as parts of others.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Search(Vec<String>);

impl TryFrom<String> for Search {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        if words.len() > SEARCH_WORDS_MAX || text.chars().count() > SEARCH_CHARS_MAX {
            return Err(format!(
                "a search has at most {SEARCH_WORDS_MAX} words and {SEARCH_CHARS_MAX} characters"
            ));
        }
        Ok(Self(words))
    }
}

/// The words of a list's rows, in a narrow table with a row for each of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    /// Its name; it has columns `words` and `site`.
    pub(crate) table: &'static str,
    /// The columns by which it and the list's table belong together.
    pub(crate) keys: &'static [&'static str],
    /// What the list's table is called in the list.
    pub(crate) row: &'static str,
}

impl Words {
    /// Only rows of the list's table that belong to a row here.
    pub(super) fn belong(self, mut query: Query, of: &'static str) -> Query {
        for key in self.keys {
            query = query.say(" AND ").say(of).say(".").say(key).say(" = ");
            query = query.say(self.row).say(".").say(key);
        }
        query
    }
}

impl Search {
    /// Nothing is searched for.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only rows in whose text all of it is.
    pub(super) fn among(&self, mut query: Query, text: &'static str) -> Query {
        for word in &self.0 {
            query = query
                .say(" AND (")
                .say(text)
                .say(" LIKE ")
                .value(contains(word));
            query = query.say(" ESCAPE '!'");
            if let Some(digits) = digits_of(word) {
                query = query
                    .say(" OR ")
                    .say(text)
                    .say(" LIKE ")
                    .value(contains(&digits));
                query = query.say(" ESCAPE '!'");
            }
            query = query.say(")");
        }
        query
    }

    /// The same where [`searchable`] made the text.
    pub(super) fn among_words(&self, mut query: Query) -> Query {
        for word in &self.0 {
            let digits = digits_of(word);
            let part = digits.as_ref().unwrap_or(word);
            // PostgreSQL takes half as long again for LIKE
            query = query.say(" AND instr(w.words, ").value(part).say(") > 0");
        }
        query
    }
}

/// What is searched in: small letters, words between spaces. One with signs in it is there without them too.
pub(crate) fn searchable<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for word in parts.into_iter().flat_map(str::split_whitespace) {
        let word = word.to_lowercase();
        let plain = without_signs(&word);
        for word in [Some(&word), (plain.len() < word.len()).then_some(&plain)] {
            let Some(word) = word else { continue };
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
    }
    text
}

fn without_signs(word: &str) -> String {
    word.chars().filter(|c| !":-.".contains(*c)).collect()
}

/// Of a word that is written `52:54:00` or `4c4c4544-0042`, its digits together, as addresses and identities are kept.
fn digits_of(word: &str) -> Option<String> {
    let digits = without_signs(word);
    let is_address = digits.len() < word.len()
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_address.then_some(digits)
}

/// A pattern of LIKE for texts that contain a word, with `!` before what it would take for its own signs.
fn contains(word: &str) -> String {
    let mut pattern = String::from("%");
    for letter in word.chars() {
        if "%_!".contains(letter) {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str) -> Result<Search, String> {
        text.to_owned().try_into()
    }

    #[test]
    fn what_is_searched_for_is_a_word_and_no_pattern() {
        assert_eq!(contains("100%_!"), "%100!%!_!!%");
        assert_eq!(digits_of("52:54:00").as_deref(), Some("525400"));
        assert_eq!(digits_of("4c4c4544-0042").as_deref(), Some("4c4c45440042"));
        // a serial number, digits that are together already, and signs alone
        for word in ["srv-12", "525400", "--"] {
            assert_eq!(digits_of(word), None, "{word}");
        }
        assert_eq!(
            searchable(["Dell Inc.", "ABC-12X", ""]),
            "dell inc. inc abc-12x abc12x"
        );
        assert!(search(&"a ".repeat(SEARCH_WORDS_MAX)).is_ok());
        assert!(search(&"a ".repeat(SEARCH_WORDS_MAX + 1)).is_err());
        assert!(search(&"a".repeat(SEARCH_CHARS_MAX + 1)).is_err());
    }
}
