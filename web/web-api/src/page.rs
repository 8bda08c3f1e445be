//! Lists that do not end: HQ gives them in pages.

use serde::{Deserialize, Serialize};

/// Rows of a page when nobody says how many.
pub const PAGE_ROWS: u32 = 100;
/// Rows of the largest page.
pub const PAGE_ROWS_MAX: u32 = 500;
/// Rows are counted up to this number.
pub const PAGE_TOTAL_MAX: u64 = 10_000;

/// A page of a list.
///
/// The next one begins behind the last row of this one, whatever was added or taken away meanwhile: no row is given twice, and none that
/// was there all the time is left out, as long as its place in the order is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// In the order that was asked for.
    pub rows: Vec<T>,
    /// How many rows all pages have together, at most [`PAGE_TOTAL_MAX`] + 1, which means "more". Only the first page says it, and that of
    /// a search only when it found few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Goes into `?after=` for the next page, with everything else as it was. The last page has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
