//! Reads the slab again, slowly and for ever; what turns out damaged comes again from peers or HQ.

use std::{sync::Arc, time::Duration};

use image_format::{ChunkHash, ChunkId};

use crate::{download::repair, shared::Shared};

/// No more than this is read in a second: a slab of 16 GiB takes five hours, and a till does not notice.
const SCRUB_BYTES_PER_SECOND: u64 = 1 << 20;
/// How long it rests when it has read everything.
const REST: Duration = Duration::from_secs(600);

pub(crate) async fn run(shared: Arc<Shared>) {
    let mut cursor = 0;
    loop {
        let keeper = shared.keeper.clone();
        let read = tokio::task::spawn_blocking(move || {
            let scrubbed = keeper.scrub(&mut cursor);
            (cursor, scrubbed)
        });
        let Ok((next, scrubbed)) = read.await else {
            return;
        };
        let Some(scrubbed) = scrubbed else {
            cursor = 0;
            tokio::time::sleep(REST).await;
            continue;
        };
        cursor = next;
        if let Some(chunk) = scrubbed.damaged {
            repair_everywhere(&shared, chunk);
        }
        let micros = scrubbed.bytes.saturating_mul(1_000_000) / SCRUB_BYTES_PER_SECOND;
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

/// A chunk may belong to several versions.
fn repair_everywhere(shared: &Arc<Shared>, damaged: ChunkHash) {
    for share in shared.shares() {
        let chunks = (0u32..).map(ChunkId).zip(&share.manifest.chunks);
        for (chunk, _) in chunks.filter(|(_, record)| record.hash == damaged) {
            repair(shared, &share, chunk);
        }
    }
}
