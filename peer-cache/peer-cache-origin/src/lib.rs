//! HQ as the peer cache's origin: its API and its objects over pinned HTTPS, within the site's WAN budget.
//! Decides nothing of who fetches: election and lease do. People's token files are the appliance's.
//! Called by the appliance's node and command line, and by the imaging agent.

mod client;
mod origin;
mod transfer;
mod wan;

pub use client::{AskHqError, HqClient, MakeClientError};
pub use origin::HqOrigin;
