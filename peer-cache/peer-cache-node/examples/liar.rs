//! An agent that is admitted like any other, downloads, announces what it has, and sends wrong bytes to everybody who asks.
//! Called by the benchmark `site.liar`, with the same arguments as `lamplighter-agent`.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use image_format::{ChunkId, Form, Manifest};
use peer_cache_node::{
    AdmissionWish, Arrived, ChunkKeeper, Event, Identity, Kept, PeerCache, PeerCacheConfig, Role,
    Site, UploadRules,
};
use peer_cache_proto::{
    machine::MachineFacts,
    wire::{AdmissionAnswer, Credentials, Documents},
};
use tokio::sync::OwnedSemaphorePermit;
use trust_format::{Digest, Order, Verified, peek};

const MANIFEST_RETRY: Duration = Duration::from_millis(100);

/// Keeps objects in memory and opens them with their first bit flipped.
#[derive(Default)]
struct LyingKeeper(Mutex<BTreeMap<(Digest, ChunkId), Bytes>>);

impl ChunkKeeper for LyingKeeper {
    fn keep(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        arrived: Arrived,
        _: OwnedSemaphorePermit,
        word: Kept,
    ) {
        if let Arrived::Object(object) = arrived {
            let mut wrong = object.to_bytes().to_vec();
            for part in wrong.chunks_mut(image_format::PART_BYTES) {
                part[0] ^= 1;
            }
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert((manifest.digest(), chunk), wrong.into());
        }
        let _ = word.send(Ok(()));
    }

    fn holds(&self, _: &Verified<Manifest>, _: ChunkId) -> bool {
        false
    }

    fn open(
        &self,
        manifest: &Verified<Manifest>,
        chunk: ChunkId,
        _: Form,
    ) -> Option<(Form, Bytes)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = kept.get(&(manifest.digest(), chunk))?.clone();
        Some((Form::Object, bytes))
    }

    fn assign(&self, _: &[Verified<Manifest>]) {}

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        0
    }
}

fn value_of(option: &str) -> Result<String, String> {
    std::env::args()
        .skip_while(|argument| argument != option)
        .nth(1)
        .ok_or_else(|| format!("{option} is missing"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let node: SocketAddr = value_of("--node")?.parse()?;
    let name = value_of("--to")?;
    let serial = blake3::hash(name.as_bytes()).to_hex();
    let (cache, mut events) = PeerCache::start(PeerCacheConfig {
        identity: Identity::generate()?,
        role: Role::Agent,
        boot: 1,
        listen: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)),
        discover: false,
        site: Site::trusting_the_first_root(),
        credentials: Credentials::Agent { ticket: None },
        keeper: Arc::new(LyingKeeper::default()),
        origin: None,
        always_on: false,
        uploads: UploadRules::default(),
        voucher_pin: None,
    })?;
    cache.keep_dialling(node);
    let facts = MachineFacts::new(None, Some(&serial[..24]), &[], "liar");
    while let Some(event) = events.recv().await {
        match event {
            Event::PeerUp {
                key, node: true, ..
            } => {
                let facts = facts.clone();
                let wish = AdmissionWish {
                    facts,
                    ..AdmissionWish::default()
                };
                cache.ask_admission(&key, wish);
            }
            Event::Admission {
                answer: AdmissionAnswer::Granted { proof, order },
                ..
            } => {
                let number: Order = peek(&order)?;
                cache.learn(&Documents {
                    orders: vec![order],
                    ..Documents::default()
                });
                cache.set_ticket(proof);
                let manifest = loop {
                    match cache.manifest(number.image).await {
                        Ok(manifest) => break manifest,
                        Err(_) => tokio::time::sleep(MANIFEST_RETRY).await,
                    }
                };
                cache.share(manifest);
                println!("liar: takes part");
            }
            _ => {}
        }
    }
    Ok(())
}
