//! The slab's size as `node.toml` says it, while the node runs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use peer_cache_node::slab::Slab;
use web_api::NodeReport;

use super::{config::NodeConfig, reports::Reports};

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Follows the configuration for ever.
pub(crate) async fn follow(path: PathBuf, slab: Slab, reports: Reports) {
    let mut said = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (path, slab) = (path.clone(), slab.clone());
        // taking room may take a while
        let applied = tokio::task::spawn_blocking(move || apply(&path, &slab)).await;
        let trouble = applied.ok().flatten();
        // said once, not every ten seconds
        if let Some(message) = trouble.clone().filter(|t| *t != said) {
            tracing::warn!(message);
            reports.add(NodeReport::Trouble { message });
        }
        said = trouble.unwrap_or_default();
    }
}

/// What is wrong, in words.
fn apply(path: &Path, slab: &Slab) -> Option<String> {
    let config = match NodeConfig::read(path) {
        Ok(config) => config,
        Err(error) => return Some(format!("{error:#}")),
    };
    let bytes = config.slab_bytes?;
    if bytes / 4096 != slab.capacity() / 4096
        && let Err(error) = slab.set_quota(bytes)
    {
        return Some(format!("the slab cannot have {bytes} bytes: {error}"));
    }
    (slab.over_bytes() > 0).then(|| {
        format!(
            "the slab holds more than its {bytes} bytes: too few others hold what it would give up"
        )
    })
}
