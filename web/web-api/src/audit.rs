//! The audit log: what people changed, one row each, chained by hashes.
//!
//! A row's hash covers the row and the hash before it. So a row that was changed, taken out or moved shows when the chain is followed, and
//! whoever kept the hash of any row can show that nothing before it is other than it was.

use serde::{Deserialize, Serialize};

use crate::text::Hex;

/// The hash before the first row.
pub const AUDIT_BEGINNING: Hex<32> = Hex([0; 32]);

/// Rows of one page.
pub const AUDIT_PAGE_ROWS: u32 = 1000;

/// One act of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditRow {
    /// From 1 on, without gaps.
    pub number: u64,
    /// When, in milliseconds since 1970 by HQ's clock.
    pub unix_millis: u64,
    /// The account's name then.
    pub who: String,
    /// How it showed who it is.
    pub means: String,
    /// From which address.
    pub address: String,
    /// Method and route, such as `PATCH /api/v1/sites/{name}`.
    pub operation: String,
    /// The path that was called.
    pub target: String,
    /// What changed, in words; no secrets.
    pub what: String,
    /// See [`AuditRow::hash_after`].
    pub hash: Hex<32>,
}

impl AuditRow {
    /// BLAKE3 in key derivation mode over the hash before, the number and the time as 8 bytes each, big endian, and each text with its
    /// length in bytes before it.
    pub fn hash_after(&self, before: &Hex<32>) -> Hex<32> {
        let mut hasher = blake3::Hasher::new_derive_key("lamplighter 2026-11 audit row");
        hasher.update(&before.0);
        hasher.update(&self.number.to_be_bytes());
        hasher.update(&self.unix_millis.to_be_bytes());
        let texts = [
            &self.who,
            &self.means,
            &self.address,
            &self.operation,
            &self.target,
            &self.what,
        ];
        for text in texts {
            hasher.update(&(text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        Hex(*hasher.finalize().as_bytes())
    }
}

/// Where following the chain has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditChain {
    number: u64,
    hash: Hex<32>,
}

impl Default for AuditChain {
    fn default() -> Self {
        Self {
            number: 0,
            hash: AUDIT_BEGINNING,
        }
    }
}

/// Where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditFault {
    /// Another number should come here: a row was taken out, put in or moved.
    Number {
        /// The number that should come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A row is not what it was when it was written, or what came before it is not.
    Row {
        /// Its number.
        number: u64,
    },
}

impl std::fmt::Display for AuditFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number { expected, found } => write!(
                f,
                "row {expected} should come, and row {found} is there: rows were taken out, put in or moved"
            ),
            Self::Row { number } => write!(
                f,
                "row {number} is not what was written: it was changed, or a row before it was"
            ),
        }
    }
}

impl std::error::Error for AuditFault {}

impl AuditChain {
    /// Rows followed.
    pub fn rows(&self) -> u64 {
        self.number
    }

    /// The hash of the last of them.
    pub fn head(&self) -> Hex<32> {
        self.hash
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// [`AuditFault`], after which the chain stands where it stood.
    pub fn follow(&mut self, row: &AuditRow) -> Result<(), AuditFault> {
        let expected = self.number + 1;
        if row.number != expected {
            return Err(AuditFault::Number {
                expected,
                found: row.number,
            });
        }
        if row.hash_after(&self.hash) != row.hash {
            return Err(AuditFault::Row { number: row.number });
        }
        self.number = row.number;
        self.hash = row.hash;
        Ok(())
    }
}

/// `GET /api/v1/audit`: rows, the newest first, and `before=NUMBER` for older ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditPage {
    /// At most [`AUDIT_PAGE_ROWS`].
    pub rows: Vec<AuditRow>,
}

/// `GET /api/v1/audit/check`: HQ has followed its own chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditCheck {
    /// Rows that hold.
    pub rows: u64,
    /// The hash of the last of them: what was kept of an earlier check shows that nothing before it was rewritten.
    pub head: Hex<32>,
    /// Why no further row holds.
    pub fault: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u64) -> Vec<AuditRow> {
        let mut before = AUDIT_BEGINNING;
        (1..=count)
            .map(|number| {
                let mut row = AuditRow {
                    number,
                    unix_millis: 1000 + number,
                    who: "ada".into(),
                    means: "session".into(),
                    address: "192.0.2.1".into(),
                    operation: "POST /api/v1/sites".into(),
                    target: "/api/v1/sites".into(),
                    what: format!("site \"{number}\" made"),
                    hash: AUDIT_BEGINNING,
                };
                row.hash = row.hash_after(&before);
                before = row.hash;
                row
            })
            .collect()
    }

    fn check(rows: &[AuditRow]) -> Result<u64, AuditFault> {
        let mut chain = AuditChain::default();
        for row in rows {
            chain.follow(row)?;
        }
        Ok(chain.rows())
    }

    #[test]
    fn a_chain_holds() {
        assert_eq!(check(&rows(5)), Ok(5));
        let hash = rows(1)[0].hash.to_string();
        assert_eq!(
            hash,
            "c2d0fc6ebd114ff32d76ff73cbcd0c7b0105b6489f9cee00a40adf728a8dc09b"
        );
    }

    #[test]
    fn whatever_is_done_to_a_row_shows() {
        type Change = fn(&mut Vec<AuditRow>);
        let cases: [(&str, Change, AuditFault); 8] = [
            (
                "a text",
                |r| r[2].what = "nothing".into(),
                AuditFault::Row { number: 3 },
            ),
            (
                "who",
                |r| r[2].who = "bob".into(),
                AuditFault::Row { number: 3 },
            ),
            (
                "when",
                |r| r[2].unix_millis = 1,
                AuditFault::Row { number: 3 },
            ),
            (
                "letters from one text to the next",
                |r| {
                    let moved = r[2].who.pop().unwrap();
                    r[2].means.insert(0, moved);
                },
                AuditFault::Row { number: 3 },
            ),
            (
                "a row and its own hash",
                |r| {
                    r[2].what = "nothing".into();
                    r[2].hash = r[2].hash_after(&r[1].hash);
                },
                AuditFault::Row { number: 4 },
            ),
            (
                "taken out",
                |r| drop(r.remove(2)),
                AuditFault::Number {
                    expected: 3,
                    found: 4,
                },
            ),
            (
                "the first taken out",
                |r| drop(r.remove(0)),
                AuditFault::Number {
                    expected: 1,
                    found: 2,
                },
            ),
            (
                "moved",
                |r| r.swap(2, 3),
                AuditFault::Number {
                    expected: 3,
                    found: 4,
                },
            ),
        ];
        for (what, change, fault) in cases {
            let mut rows = rows(5);
            change(&mut rows);
            assert_eq!(check(&rows), Err(fault), "{what}");
        }
        // whoever rewrites everything after it makes another head
        let (mut old, mut new) = (AuditChain::default(), AuditChain::default());
        let mut other = rows(5);
        other[2].what = "nothing".into();
        for at in 2..5 {
            let before = other[at - 1].hash;
            other[at].hash = other[at].hash_after(&before);
        }
        rows(5).iter().for_each(|row| old.follow(row).unwrap());
        other.iter().for_each(|row| new.follow(row).unwrap());
        assert_ne!(old.head(), new.head());
    }
}
