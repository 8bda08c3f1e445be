//! `lamplighter media ...`: boot bundle and USB stick.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use boot_media::{
    KernelChoice, MediaReport, MediaRequest, PackageSources, UsbRequest, build_media, build_usb,
};
use clap::Subcommand;
use peer_cache_node::read_voucher_label;
use peer_cache_origin::HqClient;
use peer_cache_proto::voucher::stick;
use trust_format::TrustedKeys;

use crate::{HqChoice, Output, client, image::publish_bundle};

/// Where boot media carry the chain's root, inside the initramfs.
const ROOT: &str = "etc/lamplighter/root";
const AGENT: &str = "lamplighter-agent";
const NODE: &str = "lamplighter";
/// Most sticks are larger.
const STICK_SLAB_BYTES: u64 = 8 << 30;
const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200 quiet loglevel=3 panic=30";

/// `lamplighter media ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum MediaCommand {
    /// Builds kernel, initramfs and UKI and publishes them with the node's program as the chain's boot bundle.
    Build {
        /// Where the files go.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        build: BuildArguments,
        /// Build only; sites keep the bundle that they have.
        #[arg(long)]
        no_publish: bool,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Builds a USB stick for machines that cannot boot from the network.
    Usb {
        /// The image file; write it to a stick with dd or any imaging tool.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        lent: LentArguments,
        #[command(flatten)]
        build: BuildArguments,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
}

/// What a stick is lent.
#[derive(Debug, clap::Args)]
pub(crate) struct LentArguments {
    /// A voucher's file (`lamplighter voucher new`): the machine that starts from the stick admits others as far as it goes.
    #[arg(long)]
    voucher: Option<PathBuf>,
    /// Room on the stick for images, beside the voucher. Whatever the stick's node has seen stays there.
    #[arg(long, requires = "voucher", default_value_t = STICK_SLAB_BYTES)]
    slab_bytes: u64,
    /// The machine that starts from the stick is not imaged: it stays in RAM and lights the others.
    #[arg(long, requires = "voucher")]
    stay: bool,
}

/// What media are made of.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArguments {
    /// The agent's program, static. By default the one beside this program.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Downloads and finished builds.
    #[arg(
        long,
        env = "LAMPLIGHTER_CACHE",
        default_value = "/var/cache/lamplighter"
    )]
    cache: PathBuf,
    /// Package sources (deb822) instead of this computer's own.
    #[arg(long)]
    sources: Option<PathBuf>,
    /// Debian's kernel package instead of the generic one.
    #[arg(long)]
    kernel: Option<String>,
    /// More words for the kernel's command line, such as lamplighter.node=10.0.0.5.
    #[arg(long)]
    append: Option<String>,
}

/// The outcome of a build.
#[derive(Debug, serde::Serialize)]
struct Built {
    media: MediaReport,
    bundle: Option<web_api::ImageVersion>,
}

/// A USB stick's image.
#[derive(Debug, serde::Serialize)]
struct Stick {
    path: PathBuf,
    size_bytes: u64,
    blake3: String,
}

pub(crate) async fn run(command: MediaCommand) -> Result<()> {
    match command {
        MediaCommand::Build {
            out,
            build,
            no_publish,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let media = build_here(&client, build, &out).await?;
            let bundle = match no_publish {
                true => None,
                false => Some(publish(&client, &out).await?),
            };
            output.print(&Built { media, bundle }, describe)
        }
        MediaCommand::Usb {
            out,
            lent,
            mut build,
            hq,
            output,
        } => {
            if let Some(voucher) = &lent.voucher {
                // better here than in the store
                read_voucher_label(voucher)?;
            }
            for (word, is_said) in [(stick::STICK_WORD, true), (stick::STAY_WORD, lent.stay)] {
                if is_said {
                    let append = build.append.get_or_insert_default();
                    *append = format!("{append} lamplighter.{word}");
                }
            }
            let client = client::for_people(&hq)?;
            let folder = tempfile::tempdir()?;
            build_here(&client, build, folder.path()).await?;
            let uki = folder.path().join(boot_proto::dhcp::AGENT_FILE);
            let mut request = UsbRequest {
                uki,
                ..UsbRequest::default()
            };
            if let Some(voucher) = lent.voucher {
                let program = std::env::current_exe()?;
                request.files = vec![(stick::VOUCHER, voucher), (stick::PROGRAM, program)];
                request.data = Some((stick::SLAB_PARTITION, lent.slab_bytes));
            }
            let report = tokio::task::spawn_blocking(move || build_usb(&request, &out)).await??;
            let stick = Stick {
                path: report.path,
                size_bytes: report.size_bytes,
                blake3: report.blake3,
            };
            output.print(&stick, |s| {
                format!("{} ({} MiB)", s.path.display(), s.size_bytes >> 20)
            })
        }
    }
}

async fn build_here(
    client: &HqClient,
    arguments: BuildArguments,
    out: &Path,
) -> Result<MediaReport> {
    let root = client.get_bytes("/root").await?.to_vec();
    TrustedKeys::pin(&root).context("HQ's root")?;
    let agent = match arguments.agent {
        Some(agent) => agent,
        None => beside_this_program(AGENT)?,
    };
    let out = out.to_owned();
    let work = move || {
        build_media(&MediaRequest {
            agent: &agent,
            files: vec![(ROOT.into(), root)],
            command_line: [COMMAND_LINE, arguments.append.as_deref().unwrap_or("")]
                .join(" ")
                .trim()
                .into(),
            cache_dir: &arguments.cache,
            out_dir: &out,
            kernel: arguments
                .kernel
                .map_or(KernelChoice::Generic, KernelChoice::Package),
            sources: arguments
                .sources
                .map_or(PackageSources::Host, PackageSources::File),
        })
    };
    Ok(tokio::task::spawn_blocking(work).await??)
}

pub(crate) fn beside_this_program(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "{} is not there: it belongs beside this program",
        path.display()
    );
    Ok(path)
}

async fn publish(client: &HqClient, out: &Path) -> Result<web_api::ImageVersion> {
    let mut files: Vec<(String, PathBuf)> = [
        boot_proto::dhcp::AGENT_FILE,
        boot_proto::dhcp::LOCAL_DISK_FILE,
    ]
    .iter()
    .map(|name| ((*name).to_owned(), out.join(name)))
    .collect();
    files.push((NODE.into(), std::env::current_exe()?));
    publish_bundle(client, files).await
}

fn describe(built: &Built) -> String {
    let media = &built.media;
    let mut text = format!(
        "{} {} MiB, kernel {}, {} modules, {} firmware files\n",
        media.uki.name,
        media.uki.size_bytes >> 20,
        media.kernel_release,
        media.modules.len(),
        media.firmware.len()
    );
    for (what, missing) in [
        ("modules", &media.modules_missing),
        ("firmware packages", &media.firmware_packages_missing),
    ] {
        if !missing.is_empty() {
            text += &format!("not in the package sources: {what} {}\n", missing.join(" "));
        }
    }
    if let Some(bundle) = &built.bundle {
        let state = match bundle.waiting {
            false => "is in every site's channel",
            true => "waits for a signature: `lamplighter image take` it",
        };
        text += &format!("boot bundle {} {state}\n", bundle.version);
    }
    text
}
