//! What HQ cannot sign: versions and sites' documents are taken, signed without a network, and published.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use image_format::{Manifest, ManifestKind};
use image_store::{Parcel, add_signature};
use peer_cache_origin::{AskHqError, HqClient};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use trust_format::{Channel, Digest, Order, PublicKey, UnknownRule, peek, peek_envelope};
use web_api::{ImageVersion, SiteInfo, Waiting};

use crate::{
    HqChoice, Output, client,
    image::version_line,
    keys::{KeyChoice, read, replace, write_new},
    people::quoted,
};

/// The part of `lamplighter image ...` that is about signatures.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageSigning {
    /// Lists versions that wait for a signature by an image key that HQ does not hold.
    Waiting {
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Writes a version's manifest to a file, to be signed: one that waits, or a published one that another key is to sign too.
    Take {
        /// Its digest, the beginning of it, or an image's name.
        version: String,
        /// The file; it must not be there yet.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Says what a manifest is and signs it; needs no network.
    Sign {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        key: KeyChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Brings a signed manifest back to HQ, which publishes it.
    Publish {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Lets go of a version that waits.
    Discard {
        /// Its digest, the beginning of it, or an image's name.
        version: String,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
}

/// `lamplighter channel ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// Lists channels and orders that wait for a signature by an order key that HQ does not hold.
    Waiting {
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Writes what waits of a site to a file, to be signed: its channel and orders.
    Take {
        /// The site's name.
        site: String,
        /// The file; it must not be there yet.
        #[arg(long)]
        out: PathBuf,
        /// Also what is signed already, so that a new order key signs it before the old one is dropped.
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Says what a site's channel and orders mean and signs them; needs no network.
    Sign {
        /// The file.
        file: PathBuf,
        /// The file that was signed the last time: what differs is said.
        #[arg(long)]
        before: Option<PathBuf>,
        #[command(flatten)]
        key: KeyChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Brings a site's signed channel and orders back to HQ, which tells the site.
    Publish {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
}

pub(crate) async fn image(command: ImageSigning) -> Result<()> {
    match command {
        ImageSigning::Waiting { hq, output } => {
            let waiting: Waiting = client::for_people(&hq)?.get("/waiting").await?;
            output.print(&waiting.images, |versions| {
                versions.iter().map(version_line).collect()
            })
        }
        ImageSigning::Take {
            version,
            out,
            hq,
            output,
        } => {
            let bytes = take_image(&client::for_people(&hq)?, &version).await?;
            let shown = image_shown(&bytes).context("what HQ sent")?;
            write_new(&out, &bytes)?;
            output.print(&shown, ImageShown::text)
        }
        ImageSigning::Sign { file, key, output } => {
            let bytes = read(&file)?;
            // what is no manifest is said before a token is asked for anything
            image_shown(&bytes).with_context(|| file.display().to_string())?;
            let signed = add_signature::<Manifest>(&bytes, key.open()?.as_ref())
                .with_context(|| format!("signing {}", file.display()))?;
            replace(&file, &signed)?;
            output.print(&image_shown(&signed)?, ImageShown::text)
        }
        ImageSigning::Publish { file, hq, output } => {
            let response = client::for_people(&hq)?
                .send_bytes(Method::POST, "/signed/images", read(&file)?.into())
                .await
                .with_context(|| format!("publishing {}", file.display()))?;
            let version: ImageVersion = response.json().await?;
            output.print(&version, version_line)
        }
        ImageSigning::Discard {
            version,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let path = format!("/waiting/images/{}", quoted(&version));
            let response = client.send(client.request(Method::DELETE, &path)).await?;
            let version: ImageVersion = response.json().await?;
            output.print(&version, |v| {
                format!("{} {} waits no longer", v.name, v.version)
            })
        }
    }
}

/// A version that waits, or else a published one.
async fn take_image(client: &HqClient, version: &str) -> Result<Vec<u8>> {
    let waiting = format!("/waiting/images/{}", quoted(version));
    match client.get_bytes(&waiting).await {
        Ok(bytes) => return Ok(bytes.to_vec()),
        Err(AskHqError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => {}
        Err(error) => return Err(error.into()),
    }
    let published = crate::image::find(client, &quoted(version)).await?;
    let path = format!("/manifests/{}", published.version);
    Ok(client.get_bytes(&path).await?.to_vec())
}

/// A manifest in a file, for people.
#[derive(Serialize)]
struct ImageShown {
    name: String,
    kind: &'static str,
    release: u64,
    version: String,
    disk_bytes: u64,
    used_bytes: u64,
    object_bytes: u64,
    chunks: usize,
    signed_by: Vec<String>,
}

fn image_shown(bytes: &[u8]) -> Result<ImageShown> {
    let (envelope, manifest) = peek_envelope::<Manifest>(bytes)?;
    Ok(ImageShown {
        kind: match manifest.kind {
            ManifestKind::Image => "image",
            ManifestKind::BootBundle => "boot bundle",
        },
        release: manifest.release,
        version: envelope.digest().to_string(),
        disk_bytes: manifest.disk_bytes,
        used_bytes: manifest.used_bytes,
        object_bytes: manifest.object_bytes(),
        chunks: manifest.chunks.len(),
        signed_by: words(&envelope.true_signers()),
        name: manifest.name,
    })
}

impl ImageShown {
    fn text(&self) -> String {
        format!(
            "{} {:?}, release {}\n  version   {}\n  disk      {} bytes\n  used      {} bytes\n  objects   {} bytes in {} chunks\n{}",
            self.kind,
            self.name,
            self.release,
            self.version,
            self.disk_bytes,
            self.used_bytes,
            self.object_bytes,
            self.chunks,
            signers_text(&self.signed_by)
        )
    }
}

fn words(keys: &[PublicKey]) -> Vec<String> {
    keys.iter().map(PublicKey::to_string).collect()
}

fn signers_text(signers: &[String]) -> String {
    match signers.is_empty() {
        true => "nobody has signed it\n".into(),
        false => signers
            .iter()
            .map(|key| format!("{key} signed it\n"))
            .collect(),
    }
}

pub(crate) async fn channel(command: ChannelCommand) -> Result<()> {
    match command {
        ChannelCommand::Waiting { hq, output } => {
            let waiting: Waiting = client::for_people(&hq)?.get("/waiting").await?;
            output.print(&waiting, waiting_text)
        }
        ChannelCommand::Take {
            site,
            out,
            again,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let path = format!("/waiting/sites/{}", quoted(&site));
            let bytes = match again {
                false => client.get_bytes(&path).await?,
                true => {
                    let request = client.request(Method::POST, &path);
                    client.send(request).await?.bytes().await?
                }
            };
            let parcel = Parcel::from_bytes(&bytes).context("what HQ sent")?;
            write_new(&out, &bytes)?;
            output.print(&SiteShown::of(&parcel, None)?, SiteShown::text)
        }
        ChannelCommand::Sign {
            file,
            before,
            key,
            output,
        } => {
            let mut parcel = read_parcel(&file)?;
            let before = before.as_deref().map(channel_before).transpose()?;
            // what is damaged is said before a token is asked for anything
            SiteShown::of(&parcel, before.as_ref())?;
            parcel
                .sign(key.open()?.as_ref())
                .with_context(|| format!("signing {}", file.display()))?;
            replace(&file, &parcel.to_bytes())?;
            output.print(&SiteShown::of(&parcel, before.as_ref())?, SiteShown::text)
        }
        ChannelCommand::Publish { file, hq, output } => {
            let response = client::for_people(&hq)?
                .send_bytes(Method::POST, "/signed/sites", read(&file)?.into())
                .await
                .with_context(|| format!("publishing {}", file.display()))?;
            let site: SiteInfo = response.json().await?;
            output.print(&site, |s| format!("{} is at channel {}", s.name, s.channel))
        }
    }
}

fn read_parcel(file: &Path) -> Result<Parcel> {
    Parcel::from_bytes(&read(file)?).with_context(|| file.display().to_string())
}

/// The channel that was signed the last time. Without a signature it could be anything.
fn channel_before(file: &Path) -> Result<Channel> {
    let parcel = read_parcel(file)?;
    let Some(bytes) = parcel.channel() else {
        bail!("{} has no channel in it", file.display());
    };
    let (envelope, channel) = peek_envelope::<Channel>(bytes)?;
    if envelope.true_signers().is_empty() {
        bail!("nobody signed the channel in {}", file.display());
    }
    Ok(channel)
}

fn waiting_text(waiting: &Waiting) -> String {
    let mut text = String::new();
    for channel in &waiting.channels {
        let holds = match channel.signed {
            0 => "none holds yet".to_owned(),
            signed => format!("channel {signed} holds"),
        };
        text += &format!(
            "{:24} channel {:>5}, {holds}\n",
            channel.site, channel.number
        );
    }
    for order in &waiting.orders {
        text += &format!(
            "{:24} order {:>7}: {} {}\n",
            order.site, order.number, order.name, order.version
        );
    }
    text
}

/// A site's documents in a file, for people.
#[derive(Serialize)]
struct SiteShown {
    site: String,
    channel: Option<u64>,
    lines: Vec<String>,
    /// Against the channel that was signed the last time.
    differs: Option<Vec<String>>,
    orders: Vec<String>,
    signed_by: Vec<String>,
}

impl SiteShown {
    fn of(parcel: &Parcel, before: Option<&Channel>) -> Result<Self> {
        let channel: Option<Channel> = parcel.channel().map(peek).transpose()?;
        if let Some(before) = before.filter(|before| before.site != parcel.site()) {
            bail!(
                "the channel before is of site {}, this one of site {}",
                before.site,
                parcel.site()
            );
        }
        let differs = channel.as_ref().zip(before);
        let mut orders = Vec::new();
        for bytes in parcel.orders() {
            orders.push(order_line(&peek(bytes)?));
        }
        Ok(Self {
            site: parcel.site().to_string(),
            channel: channel.as_ref().map(|c| c.number),
            lines: channel.iter().flat_map(channel_lines).collect(),
            differs: differs.map(|(channel, before)| differences(before, channel)),
            orders,
            signed_by: words(&parcel.signers()?),
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            text += &format!("{line}\n");
        }
        match self.differs.as_deref() {
            None => {}
            Some([]) => text += "nothing differs from the channel before\n",
            Some(lines) => {
                text += "differs from the channel before:\n";
                text.extend(lines.iter().map(|line| format!("  {line}\n")));
            }
        }
        for order in &self.orders {
            text += &format!("{order}\n");
        }
        text + &signers_text(&self.signed_by)
    }
}

fn order_line(order: &Order) -> String {
    let whom = match order.machine {
        Some(machine) => format!("machine {machine}"),
        None => "all machines of the site".into(),
    };
    let erase = match order.erase {
        true => ", also over a finished version",
        false => "",
    };
    format!(
        "order {}: version {} for {whom}{erase}",
        order.number, order.image
    )
}

fn digest_word(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "none".into(), |d| d.to_string())
}

fn rule_word(rule: UnknownRule) -> &'static str {
    match rule {
        UnknownRule::Wait => "wait",
        UnknownRule::Admit => "are imaged",
        UnknownRule::Pin => "are imaged when the PIN is typed at them",
        UnknownRule::Refuse => "are sent to their own disks",
    }
}

fn hq_word(channel: &Channel) -> String {
    let fingerprint: String = channel
        .hq
        .fingerprint
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!(
        "{} with certificate {fingerprint}",
        channel.hq.urls.join(", ")
    )
}

fn channel_lines(channel: &Channel) -> Vec<String> {
    vec![
        format!(
            "channel {} of site {:?} ({})",
            channel.number, channel.site_name, channel.site
        ),
        format!("  image             {}", digest_word(channel.image)),
        format!("  boot bundle       {}", digest_word(channel.bundle)),
        format!("  release floor     {}", channel.release_floor),
        format!(
            "  revoked           {} keys, list {}",
            channel.revoked.len(),
            channel.revocation
        ),
        format!("  unknown machines  {}", rule_word(channel.unknown)),
        format!(
            "  nodes certify     {}",
            if channel.provisional {
                "while HQ is away"
            } else {
                "never"
            }
        ),
        format!("  HQ                {}", hq_word(channel)),
    ]
}

/// What a new channel changes, line by line.
fn differences(old: &Channel, new: &Channel) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compare = |what: &str, old: String, new: String| {
        if old != new {
            lines.push(format!("{what}: {old} -> {new}"));
        }
    };
    compare("number", old.number.to_string(), new.number.to_string());
    compare("site's name", old.site_name.clone(), new.site_name.clone());
    compare("image", digest_word(old.image), digest_word(new.image));
    compare(
        "boot bundle",
        digest_word(old.bundle),
        digest_word(new.bundle),
    );
    compare(
        "release floor",
        old.release_floor.to_string(),
        new.release_floor.to_string(),
    );
    compare(
        "revocation list",
        old.revocation.to_string(),
        new.revocation.to_string(),
    );
    compare(
        "unknown machines",
        rule_word(old.unknown).into(),
        rule_word(new.unknown).into(),
    );
    compare(
        "nodes certify while HQ is away",
        old.provisional.to_string(),
        new.provisional.to_string(),
    );
    compare("HQ", hq_word(old), hq_word(new));
    members("revoked key", &old.revoked, &new.revoked, &mut lines);
    lines
}

fn members(what: &str, old: &[PublicKey], new: &[PublicKey], lines: &mut Vec<String>) {
    let added = new.iter().filter(|member| !old.contains(member));
    lines.extend(added.map(|member| format!("{what} {member} is new")));
    let gone = old.iter().filter(|member| !new.contains(member));
    lines.extend(gone.map(|member| format!("{what} {member} is gone")));
}
