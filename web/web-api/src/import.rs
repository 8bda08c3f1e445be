//! What becomes of a file with a line for each row.

use serde::{Deserialize, Serialize};

/// Faults of a file that are told.
pub const IMPORT_FAULTS_MAX: usize = 100;
/// Lines of one file.
pub const IMPORT_LINES_MAX: usize = 10_000;

/// What a file does, or did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImportReport {
    /// Rows that are new.
    pub made: u64,
    /// Rows that become other than they were.
    pub changed: u64,
    /// Rows that are so already.
    pub same: u64,
    /// What is wrong with the file, at most [`IMPORT_FAULTS_MAX`]. A file with faults changes nothing.
    pub faults: Vec<ImportFault>,
    /// Whether it is done. A dry run only says what would be.
    pub done: bool,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImportFault {
    /// The line in the file, from 1 on; the first has the names of the columns.
    pub line: u64,
    /// The column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// One sentence.
    pub fault: String,
}

impl std::fmt::Display for ImportFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(column) = &self.column {
            write!(f, ", {column}")?;
        }
        write!(f, ": {}", self.fault)
    }
}
