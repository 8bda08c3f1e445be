//! `lamplighter image ...`: chunks and objects are made here and go to HQ, which signs.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Subcommand;
use image_format::{ChunkRecord, Manifest, ObjectHash};
use image_store::{
    DiskReport, ImportOptions, ObjectSink, ObjectSource, Progress, export, import, verify,
};
use indicatif::{ProgressBar, ProgressStyle};
use peer_cache_origin::{AskHqError, HqClient};
use reqwest::Method;
use serde::Serialize;
use tokio::runtime::Handle;
use trust_format::{Document, TrustedKeys, Verified};
use web_api::{Hex, ImageVersion, MissingObjects};

use crate::{
    HqChoice, Output,
    client::{self, Rows, Search},
    signing::ImageSigning,
};

/// A cut upload or download is tried again this often, with growing pauses.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);

/// `lamplighter image ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Imports a raw disk image: chunks it, compresses, sends what HQ lacks, and has it signed.
    Import {
        /// The file.
        file: PathBuf,
        /// The image's name.
        #[arg(long)]
        name: String,
        /// zstd level, 1 to 22.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=22))]
        level: i32,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Lists versions.
    List {
        #[command(flatten)]
        search: Search,
        #[command(flatten)]
        rows: Rows,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Shows one version.
    Show {
        /// Its digest, the beginning of it, or an image's name for the newest.
        version: String,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Checks every object of a version in HQ's store.
    Verify {
        /// Its digest, the beginning of it, or an image's name for the newest.
        version: String,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Writes a version back to a disk image.
    Export {
        /// Its digest, the beginning of it, or an image's name for the newest.
        version: String,
        /// The file.
        #[arg(long)]
        to: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    #[command(flatten)]
    Signing(ImageSigning),
}

pub(crate) async fn run(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Signing(command) => crate::signing::image(command).await,
        ImageCommand::Import {
            file,
            name,
            level,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let imported = import_image(&client, &file, &name, level, true).await?;
            output.print(&imported, |i| i.to_string())
        }
        ImageCommand::List {
            search,
            rows,
            hq,
            output,
        } => {
            let fitting = [("search", search.search.as_deref())];
            let client = client::for_people(&hq)?;
            let versions: Vec<ImageVersion> =
                client::rows(&client, "/images", &rows, &fitting).await?;
            output.print(&versions, |versions| {
                versions.iter().map(version_line).collect()
            })
        }
        ImageCommand::Show {
            version,
            hq,
            output,
        } => {
            let version = find(&client::for_people(&hq)?, &version).await?;
            output.print(&version, version_line)
        }
        ImageCommand::Verify {
            version,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let verified = verify_image(&client, &version).await?;
            output.print(&verified, |v| {
                format!("{} chunks are as signed, {} are not", v.good, v.bad.len())
            })?;
            match verified.bad.first() {
                None => Ok(()),
                Some(first) => bail!("HQ's store is damaged: {first}"),
            }
        }
        ImageCommand::Export {
            version,
            to,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let exported = export_image(&client, &version, &to).await?;
            output.print(&exported, |v| {
                format!("{} is {} {}", to.display(), v.name, v.version)
            })
        }
    }
}

pub(crate) fn version_line(version: &ImageVersion) -> String {
    let waits = if version.waiting {
        ", waits for a signature"
    } else {
        ""
    };
    format!(
        "{} {:24} release {:>4} {:>8} MiB disk {:>7} MiB objects{waits}\n",
        version.version,
        version.name,
        version.release,
        version.disk_bytes >> 20,
        version.object_bytes >> 20
    )
}

/// The outcome of an import.
#[derive(Debug, Serialize)]
pub(crate) struct Imported {
    #[serde(flatten)]
    pub(crate) version: ImageVersion,
    partitions: Vec<String>,
    system: Option<String>,
    customisable: bool,
    obstacles: Vec<String>,
    notes: Vec<String>,
}

impl Imported {
    fn new(version: ImageVersion, report: DiskReport) -> Self {
        Self {
            version,
            partitions: report
                .partitions
                .iter()
                .map(|p| {
                    format!(
                        "{} {:16} {:>7} MiB {}",
                        p.number,
                        p.label,
                        p.bytes >> 20,
                        p.file_system
                    )
                })
                .collect(),
            system: report
                .root
                .map(|r| format!("{} in partition {}", r.system, r.partition)),
            customisable: report.obstacles.is_empty(),
            obstacles: report.obstacles,
            notes: report.notes,
        }
    }
}

impl std::fmt::Display for Imported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", version_line(&self.version))?;
        for partition in &self.partitions {
            writeln!(f, "  partition {partition}")?;
        }
        writeln!(
            f,
            "  system    {}",
            self.system.as_deref().unwrap_or("none recognised")
        )?;
        for obstacle in &self.obstacles {
            writeln!(f, "  cannot be customised: {obstacle}")?;
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "  note: {note}"))
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn new(what: &str, shown: bool) -> Self {
        let bar = if shown {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let template = "{msg:10} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self(bar)
    }
}

impl Progress for Bar {
    fn advance(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
        if done == total {
            self.0.finish_and_clear();
        }
    }
}

fn is_refused(error: &anyhow::Error) -> bool {
    let asked = error.downcast_ref::<AskHqError>();
    asked.is_some_and(AskHqError::is_answer)
}

/// Objects to and from HQ, called by threads that may block.
struct Remote {
    client: HqClient,
    runtime: Handle,
}

impl Remote {
    fn with_tries<T>(&self, what: impl AsyncFn() -> Result<T>) -> io::Result<T> {
        let mut failure = String::new();
        for n in 0..TRIES {
            match self.runtime.block_on(what()) {
                Ok(value) => return Ok(value),
                Err(error) if is_refused(&error) => {
                    return Err(io::Error::other(format!("{error:#}")));
                }
                Err(error) => failure = format!("{error:#}"),
            }
            std::thread::sleep(PAUSE * n);
        }
        Err(io::Error::other(failure))
    }
}

impl ObjectSink for Remote {
    fn put(&self, hash: ObjectHash, bytes: Bytes) -> io::Result<()> {
        self.with_tries(async || {
            let missing = MissingObjects {
                objects: vec![Hex(hash.0)],
            };
            let missing: MissingObjects = self.client.post("/objects/missing", &missing).await?;
            if !missing.objects.is_empty() {
                self.client
                    .send_bytes(Method::PUT, &format!("/objects/{hash}"), bytes.clone())
                    .await?;
            }
            Ok(())
        })
    }
}

impl ObjectSource for Remote {
    fn get(&self, record: &ChunkRecord) -> io::Result<Bytes> {
        self.with_tries(async || {
            let path = format!("/objects/{}", record.object_hash);
            Ok(self.client.get_bytes(&path).await?)
        })
    }
}

fn remote(client: &HqClient) -> Remote {
    Remote {
        client: client.clone(),
        runtime: Handle::current(),
    }
}

/// Imports a file and has it signed.
pub(crate) async fn import_image(
    client: &HqClient,
    file: &Path,
    name: &str,
    level: i32,
    bar: bool,
) -> Result<Imported> {
    let (remote, path) = (remote(client), file.to_owned());
    let options = ImportOptions {
        level,
        ..ImportOptions::named(name)
    };
    let work = move || import(&path, &options, &remote, &Bar::new("importing", bar));
    let (manifest, report) = tokio::task::spawn_blocking(work)
        .await?
        .with_context(|| format!("importing {}", file.display()))?;
    let version = publish(client, &manifest).await?;
    Ok(Imported::new(version, report))
}

/// Hands a manifest to HQ, which numbers and signs it.
async fn publish(client: &HqClient, manifest: &Manifest) -> Result<ImageVersion> {
    let payload = manifest.to_signed_bytes().as_message()[6..].to_vec();
    let response = client
        .send_bytes(Method::POST, "/manifests", payload.into())
        .await?;
    Ok(response.json().await?)
}

/// Publishes files as a boot bundle.
pub(crate) async fn publish_bundle(
    client: &HqClient,
    files: Vec<(String, PathBuf)>,
) -> Result<ImageVersion> {
    let remote = remote(client);
    let options = ImportOptions::named("boot bundle");
    let work = move || image_store::import_files(&files, &options, &remote);
    let manifest = tokio::task::spawn_blocking(work).await??;
    publish(client, &manifest).await
}

pub(crate) async fn find(client: &HqClient, version: &str) -> Result<ImageVersion> {
    Ok(client.get(&format!("/images/{version}")).await?)
}

/// A manifest, believed under the root that HQ shows to its administrator.
async fn signed_manifest(client: &HqClient, version: &ImageVersion) -> Result<Verified<Manifest>> {
    let root = client.get_bytes("/root").await?;
    let keys = TrustedKeys::pin(&root).context("HQ's root")?;
    let bytes = client
        .get_bytes(&format!("/manifests/{}", version.version))
        .await?;
    Verified::check(&bytes, &keys).with_context(|| format!("manifest of {}", version.version))
}

/// What a verification found.
#[derive(Debug, Serialize)]
struct Checked {
    version: Hex<32>,
    good: usize,
    bad: Vec<String>,
}

async fn verify_image(client: &HqClient, version: &str) -> Result<Checked> {
    let version = find(client, version).await?;
    let manifest = signed_manifest(client, &version).await?;
    let remote = remote(client);
    let work = move || verify(&manifest, &remote, &Bar::new("verifying", true));
    let report = tokio::task::spawn_blocking(work).await??;
    let why = |(chunk, error): &(image_format::ChunkHash, image_store::ExportError)| {
        let cause = std::error::Error::source(error).map_or_else(String::new, |c| format!(": {c}"));
        format!("chunk {chunk}: {error}{cause}")
    };
    Ok(Checked {
        version: version.version,
        good: report.good,
        bad: report.bad.iter().map(why).collect(),
    })
}

async fn export_image(client: &HqClient, version: &str, to: &Path) -> Result<ImageVersion> {
    let version = find(client, version).await?;
    let manifest = signed_manifest(client, &version).await?;
    let (remote, path) = (remote(client), to.to_owned());
    let work = move || export(&manifest, &remote, &path, &Bar::new("exporting", true));
    tokio::task::spawn_blocking(work).await??;
    Ok(version)
}
