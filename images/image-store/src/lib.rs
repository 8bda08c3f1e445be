//! The durable record: objects and documents by their hash, import, export, and the only keys that sign for the chain.
//! Decides nothing about sites or machines; never part of what boots in RAM.
//! Called by HQ and by the command line.

mod bucket;
mod export;
mod import;
mod inspect;
mod signer;
mod store;

pub use bucket::{Bucket, ParseBucketError};
pub use export::{ExportError, ObjectSource, VerifyReport, export, verify};
pub use import::{ImportError, ImportOptions, ObjectSink, Progress, import, import_files};
pub use inspect::{DiskReport, InspectError, RootReport, inspect};
pub use signer::{
    AddSignatureError, AdvanceRootError, DraftRootError, FOUR_ROLES, FileKey, KeyFileError,
    KeyHolder, NextRoot, OpenSignerError, OpenTokenError, PARCEL_BYTES_MAX, PARCEL_ORDERS_MAX,
    Parcel, ReadParcelError, RootDraft, SIGNATURES_KEPT_MAX, SignDocumentError, SignError, Signer,
    SplitKey, Tally, TokenChoice, add_signature, create_token_key, key_lists, merge_signatures,
    open_token_key, role_word, split_keys, unsigned,
};
pub use store::{Store, StoreError};

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
