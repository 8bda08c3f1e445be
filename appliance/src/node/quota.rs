//! The slab's size as `node.toml` says it, while the node runs, and whether it is enough for a node that is pinned.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use peer_cache_node::{PeerCache, slab::Slab};
use web_api::NodeReport;

use super::{config::NodeConfig, reports::Reports};

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Follows the configuration for ever.
pub(crate) async fn follow(path: PathBuf, slab: Slab, cache: PeerCache, reports: Reports) {
    let mut said = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (path, slab) = (path.clone(), slab.clone());
        let assigned = cache.assigned_bytes();
        // taking room may take a while
        let applied = tokio::task::spawn_blocking(move || apply(&path, &slab, assigned)).await;
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
fn apply(path: &Path, slab: &Slab, assigned_bytes: u64) -> Option<String> {
    let config = match NodeConfig::read(path) {
        Ok(config) => config,
        Err(error) => return Some(format!("{error:#}")),
    };
    if let Some(bytes) = config.slab_bytes {
        if bytes / 4096 != slab.capacity() / 4096
            && let Err(error) = slab.set_quota(bytes)
        {
            return Some(format!("the slab cannot have {bytes} bytes: {error}"));
        }
        if slab.over_bytes() > 0 {
            return Some(format!(
                "the slab holds more than its {bytes} bytes: too few others hold what it would give up"
            ));
        }
    }
    let room = slab.usable_bytes();
    (config.always_on && room < assigned_bytes).then(|| {
        format!(
            "this node is pinned as always on and has room for {room} of the {assigned_bytes} bytes that the site is assigned: it needs a larger slab_bytes"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_node_without_room_for_everything_says_so() {
        let folder = tempfile::TempDir::new().unwrap();
        let slab = Slab::open_file(&folder.path().join("slab"), 32 << 20).unwrap();
        let path = folder.path().join("node.toml");
        assert_eq!(apply(&path, &slab, 40 << 20), None, "nobody pinned it");
        std::fs::write(&path, "always_on = true").unwrap();
        assert_eq!(apply(&path, &slab, 16 << 20), None);
        let trouble = apply(&path, &slab, 40 << 20).unwrap();
        assert!(trouble.contains("of the 41943040 bytes"), "{trouble}");
        std::fs::write(&path, "always_on = true\nslab_bytes = 67108864").unwrap();
        assert_eq!(apply(&path, &slab, 40 << 20), None, "it grew");
    }
}
