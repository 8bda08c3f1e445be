//! `lamplighter root ...`: roots are drawn up, signed and looked at without a network; HQ hands out its own and takes the next.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{ArgGroup, Args, Subcommand};
use image_store::{RootDraft, Tally, key_lists};
use reqwest::Method;
use serde::Serialize;
use trust_format::{PublicKey, Root, TrustedKeys};
use web_api::{Hex, RootPublished};

use crate::{
    HqChoice, Output, client,
    keys::{KeyChoice, keys_text, read, replace, write_new},
};

/// `lamplighter root ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Draws up a root that nobody has signed yet.
    New(NewRoot),
    /// Writes HQ's present root to a file.
    Take {
        /// The file; it must not be there yet.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Says what a root says, who signed it, and whose signature it still needs.
    Show {
        /// The root.
        file: PathBuf,
        /// The root before it, whose keys have to sign too.
        #[arg(long)]
        after: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Says what a root says and adds a signature.
    Sign {
        /// The root.
        file: PathBuf,
        /// The root before it, if the key is one of that root's.
        #[arg(long)]
        after: Option<PathBuf>,
        #[command(flatten)]
        key: KeyChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Hands HQ a signed root. The present one again makes HQ look at its folder of keys.
    Publish {
        /// The root.
        file: PathBuf,
        /// Also one that drops a key under which nodes' certificates, channels, orders or versions still live, or that leaves HQ without an
        /// authority key.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
}

/// What a new root is to say. After another root, what is not given stays as it was.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).args(["after", "first"])))]
pub(crate) struct NewRoot {
    /// The root before it.
    #[arg(long)]
    after: Option<PathBuf>,
    /// It is the first root of a chain.
    #[arg(long, requires_all = ["threshold", "root_keys", "image_keys", "order_keys", "authority_keys"])]
    first: bool,
    /// How many root keys must sign.
    #[arg(long)]
    threshold: Option<u8>,
    /// A public key that signs roots; give all, at most 16.
    #[arg(long = "root-key")]
    root_keys: Vec<Hex<32>>,
    /// A public key that signs versions; give all, at most 16.
    #[arg(long = "image-key")]
    image_keys: Vec<Hex<32>>,
    /// A public key that signs channels and orders; give all, at most 16.
    #[arg(long = "order-key")]
    order_keys: Vec<Hex<32>>,
    /// A public key that certifies nodes; give all, at most 16.
    #[arg(long = "authority-key")]
    authority_keys: Vec<Hex<32>>,
    /// The file; it must not be there yet.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(command: RootCommand) -> Result<()> {
    match command {
        RootCommand::New(new) => draw_up(new),
        RootCommand::Take { out, hq, output } => {
            let bytes = client::for_people(&hq)?.get_bytes("/root").await?;
            let draft = draft(&bytes, None, "HQ's root")?;
            write_new(&out, &bytes)?;
            print(&draft, output)
        }
        RootCommand::Show {
            file,
            after,
            output,
        } => print(&read_draft(&file, after.as_deref())?, output),
        RootCommand::Sign {
            file,
            after,
            key,
            output,
        } => {
            let mut draft = read_draft(&file, after.as_deref())?;
            let hint = match after {
                Some(_) => "",
                None => " (if the key is one of the root before it, give that with --after)",
            };
            draft
                .sign(key.open()?.as_ref())
                .with_context(|| format!("signing {}{hint}", file.display()))?;
            replace(&file, &draft.to_bytes())?;
            print(&draft, output)
        }
        RootCommand::Publish {
            file,
            force,
            hq,
            output,
        } => {
            let path = format!("/roots?force={force}");
            let response = client::for_people(&hq)?
                .send_bytes(Method::POST, &path, read(&file)?.into())
                .await
                .with_context(|| format!("publishing {}", file.display()))?;
            let published: RootPublished = response.json().await?;
            output.print(&published, |p| {
                let notes = p.notes.iter().map(|note| format!("note: {note}\n"));
                keys_text(&p.keys) + &notes.collect::<String>()
            })
        }
    }
}

fn draw_up(new: NewRoot) -> Result<()> {
    let before = new.after.as_deref().map(read).transpose()?;
    let old = match (&before, &new.after) {
        (Some(bytes), Some(path)) => {
            let keys = TrustedKeys::pin(bytes)
                .with_context(|| format!("the root before it, {}", path.display()))?;
            Some((**keys.root()).clone())
        }
        _ => None,
    };
    let old = old.unwrap_or(Root {
        number: 0,
        threshold: 0,
        root_keys: Vec::new(),
        image_keys: Vec::new(),
        order_keys: Vec::new(),
        authority_keys: Vec::new(),
    });
    let keys = |given: Vec<Hex<32>>, old: Vec<PublicKey>| match given.is_empty() {
        true => old,
        false => given.into_iter().map(|key| PublicKey(key.0)).collect(),
    };
    let root = Root {
        number: 0,
        threshold: new.threshold.unwrap_or(old.threshold),
        root_keys: keys(new.root_keys, old.root_keys),
        image_keys: keys(new.image_keys, old.image_keys),
        order_keys: keys(new.order_keys, old.order_keys),
        authority_keys: keys(new.authority_keys, old.authority_keys),
    };
    let draft = RootDraft::new(root, before.as_deref())?;
    write_new(&new.out, &draft.to_bytes())?;
    print(&draft, new.output)
}

fn draft(bytes: &[u8], before: Option<&[u8]>, what: &str) -> Result<RootDraft> {
    RootDraft::read(bytes, before).with_context(|| what.to_owned())
}

fn read_draft(file: &Path, after: Option<&Path>) -> Result<RootDraft> {
    let before = after.map(read).transpose()?;
    let what = match after {
        None => format!("{}", file.display()),
        Some(after) => format!("{} after {}", file.display(), after.display()),
    };
    draft(&read(file)?, before.as_deref(), &what)
}

/// A root for programs.
#[derive(Serialize)]
struct RootShown {
    number: u64,
    digest: String,
    threshold: u8,
    root_keys: Vec<String>,
    image_keys: Vec<String>,
    order_keys: Vec<String>,
    authority_keys: Vec<String>,
    own: Signatures,
    before: Option<Signatures>,
    /// All signatures that are known to be needed are there; without the root before it that is not known.
    complete: bool,
}

/// Signatures by the keys of one root.
#[derive(Serialize)]
struct Signatures {
    needed: usize,
    signed: Vec<String>,
    absent: Vec<String>,
}

fn words(keys: &[PublicKey]) -> Vec<String> {
    keys.iter().map(PublicKey::to_string).collect()
}

fn signatures(tally: Tally) -> Signatures {
    Signatures {
        needed: tally.needed,
        signed: words(&tally.signed),
        absent: words(&tally.absent),
    }
}

fn print(draft: &RootDraft, output: Output) -> Result<()> {
    let root = draft.root();
    let shown = RootShown {
        number: root.number,
        digest: draft.digest().to_string(),
        threshold: root.threshold,
        root_keys: words(&root.root_keys),
        image_keys: words(&root.image_keys),
        order_keys: words(&root.order_keys),
        authority_keys: words(&root.authority_keys),
        own: signatures(draft.own_tally()),
        before: draft.tally_before().map(signatures),
        complete: draft.is_complete(),
    };
    output.print(&shown, |shown| text(draft, shown))
}

fn text(draft: &RootDraft, shown: &RootShown) -> String {
    let root = draft.root();
    let mut text = format!(
        "root {}: {} of {} root keys sign the next one\n  digest    {}\n",
        root.number,
        root.threshold,
        root.root_keys.len(),
        shown.digest
    );
    let before: Vec<_> = draft
        .before()
        .map(key_lists)
        .into_iter()
        .flatten()
        .collect();
    for (n, (role, keys)) in key_lists(root).into_iter().enumerate() {
        let old = before.get(n).map_or(keys, |(_, old)| *old);
        for key in keys {
            let new = if old.contains(key) { "" } else { " new" };
            text += &format!("  {role:9} {key}{new}\n");
        }
        for key in old.iter().filter(|key| !keys.contains(key)) {
            text += &format!("  {role:9} {key} is dropped\n");
        }
    }
    text += &signatures_text(&shown.own, root.number);
    if let (Some(signatures), Some(before)) = (&shown.before, draft.before()) {
        text += &signatures_text(signatures, before.number);
    } else if root.number > 1 {
        text += "the keys of the root before it must have signed too: give that root with --after to see who did\n";
    }
    text
}

fn signatures_text(signatures: &Signatures, number: u64) -> String {
    let (found, needed) = (signatures.signed.len(), signatures.needed);
    let mut text = format!("{found} of the {needed} signatures it needs by root {number}'s keys\n");
    for key in &signatures.signed {
        text += &format!("  {key} signed\n");
    }
    if found < needed {
        for key in &signatures.absent {
            text += &format!("  {key} has not signed\n");
        }
    }
    text
}
