//! How a disk is imaged: which one, what goes where, and in which order, so that no crash leaves half a system.
//! Pure: it says what to write and hears what became of it; it never touches a disk, a clock or the network.
//! Called by the imaging agent.
//!
//! The order of a disk and why it is so: `docs/design/0002-order-of-a-disk.md`.

mod disk;
mod install;
mod layout;
mod record;
mod table;

pub use disk::{ChooseDiskError, Disk, choose_disk};
pub use install::{Action, Found, Install, InstallFailure, Phase, Piece, StepId};
pub use layout::{Extent, Layout, PlanError, SLAB_LABEL, SLAB_TYPE_GUID, TargetFacts, plan};
pub use record::{InstallRecord, RECORD_BYTES, RecordState};

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small test inputs")]
mod tests;
