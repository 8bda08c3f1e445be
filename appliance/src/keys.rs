//! `lamplighter key ...`: the chain's secret keys, in files or in tokens. All but `list` needs no network and no HQ.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use image_store::{FileKey, KeyHolder, TokenChoice, create_token_key, open_token_key, split_keys};
use serde::Serialize;
use web_api::{Hex, KeysInfo, NamedKey};
use zeroize::Zeroizing;

use crate::{HqChoice, Output, client};

/// `lamplighter key ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a key, in a file that only you can read or inside a token, and prints its public half.
    New {
        #[command(flatten)]
        key: KeyPlace,
        #[command(flatten)]
        output: Output,
    },
    /// Prints a key's public half.
    Show {
        #[command(flatten)]
        key: KeyPlace,
        #[command(flatten)]
        output: Output,
    },
    /// Takes apart the file with four keys that HQ made at its first start, so that each can be kept where it belongs.
    Split {
        /// HQ's folder, as in `lamplighter hq --dir`.
        folder: PathBuf,
        /// A folder for root.key, image.key, order.key and authority.key.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Asks HQ which keys its root names, and which of them it holds.
    List {
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
}

/// A key's file as the one argument of a command, or a key in a token.
#[derive(Debug, Args)]
pub(crate) struct KeyPlace {
    /// The key's file.
    #[arg(
        required_unless_present = "pkcs11_module",
        conflicts_with = "pkcs11_module"
    )]
    file: Option<PathBuf>,
    #[command(flatten)]
    token: TokenArguments,
}

/// The key that signs: out of a file, or in a token.
#[derive(Debug, Args)]
pub(crate) struct KeyChoice {
    /// The file of the key that signs.
    #[arg(
        long,
        required_unless_present = "pkcs11_module",
        conflicts_with = "pkcs11_module"
    )]
    key: Option<PathBuf>,
    #[command(flatten)]
    token: TokenArguments,
}

/// A key in a PKCS#11 token. Only a program that is built with `--features pkcs11` can use one; the released program is static.
#[derive(Debug, Args)]
struct TokenArguments {
    /// The token's PKCS#11 module, a shared object.
    #[arg(long, requires_all = ["token", "key_label", "pin_file"])]
    pkcs11_module: Option<PathBuf>,
    /// The token's label.
    #[arg(long, requires = "pkcs11_module")]
    token: Option<String>,
    /// The key's label in the token.
    #[arg(long, requires = "pkcs11_module")]
    key_label: Option<String>,
    /// A file whose first line is the user's PIN.
    #[arg(long, requires = "pkcs11_module")]
    pin_file: Option<PathBuf>,
}

impl TokenArguments {
    fn choice(self) -> Result<TokenChoice> {
        let (Some(module), Some(token), Some(key), Some(pin_file)) = (
            self.pkcs11_module,
            self.token,
            self.key_label,
            self.pin_file,
        ) else {
            bail!(
                "name a key's file, or all of --pkcs11-module, --token, --key-label and --pin-file"
            );
        };
        let text = Zeroizing::new(
            std::fs::read_to_string(&pin_file)
                .with_context(|| format!("reading the PIN in {}", pin_file.display()))?,
        );
        let pin = text.lines().next().unwrap_or_default();
        if pin.is_empty() {
            bail!("{} has no PIN in its first line", pin_file.display());
        }
        Ok(TokenChoice {
            module,
            token,
            key,
            pin: Zeroizing::new(pin.to_owned()),
        })
    }
}

fn open(file: Option<PathBuf>, token: TokenArguments) -> Result<Box<dyn KeyHolder>> {
    Ok(match file {
        Some(path) => Box::new(FileKey::open(&path)?),
        None => open_token_key(&token.choice()?)?,
    })
}

impl KeyChoice {
    /// Opens the key.
    ///
    /// # Errors
    /// When the file is no key, or the token does not answer, with what and where.
    pub(crate) fn open(self) -> Result<Box<dyn KeyHolder>> {
        open(self.key, self.token)
    }
}

#[derive(Serialize)]
struct PublicHalf {
    role: Option<&'static str>,
    file: Option<PathBuf>,
    public: Hex<32>,
}

pub(crate) async fn run(command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::New { key, output } => {
            let made: Box<dyn KeyHolder> = match &key.file {
                Some(path) => Box::new(FileKey::create(path)?),
                None => create_token_key(&key.token.choice()?)?,
            };
            print_public(made.as_ref(), output)
        }
        KeyCommand::Show { key, output } => {
            print_public(open(key.file, key.token)?.as_ref(), output)
        }
        KeyCommand::Split {
            folder,
            out,
            output,
        } => split(&folder, &out, output),
        KeyCommand::List { hq, output } => {
            let keys: KeysInfo = client::for_people(&hq)?.get("/keys").await?;
            output.print(&keys, keys_text)
        }
    }
}

fn print_public(key: &dyn KeyHolder, output: Output) -> Result<()> {
    let half = PublicHalf {
        role: None,
        file: None,
        public: Hex(key.public().0),
    };
    output.print(&half, |half| half.public.to_string())
}

fn split(folder: &Path, out: &Path, output: Output) -> Result<()> {
    let keys = folder.join("keys");
    let four = keys.join("signing-keys");
    let split = split_keys(&four, out)?;
    let halves: Vec<PublicHalf> = split
        .into_iter()
        .map(|key| PublicHalf {
            role: Some(key.role),
            file: Some(key.path),
            public: Hex(key.public.0),
        })
        .collect();
    output.print(&halves, |halves| {
        let line = |half: &PublicHalf| {
            let file = half.file.as_deref().unwrap_or(Path::new("")).display();
            format!("{:9} {} {file}\n", half.role.unwrap_or_default(), half.public)
        };
        let lines: String = halves.iter().map(line).collect();
        format!(
            "{lines}\nNothing has changed for HQ yet. Keep copies of these files where no network reaches them. Then stop HQ, put into {} those that \
             it is to sign with (authority.key always; order.key and image.key unless they are to be offline), take {} away, and start HQ again.",
            keys.display(),
            four.display()
        )
    })
}

/// What HQ holds, for people.
pub(crate) fn keys_text(keys: &KeysInfo) -> String {
    let mut text = format!(
        "root {}: {} of {} root keys sign the next one\n",
        keys.number,
        keys.threshold,
        keys.root.len()
    );
    let lists = [
        ("root", &keys.root),
        ("image", &keys.image),
        ("order", &keys.order),
        ("authority", &keys.authority),
    ];
    for (role, named) in lists {
        let line = |key: &NamedKey| {
            let place = if key.held { "HQ holds it" } else { "offline" };
            format!("  {role:9} {} {place}\n", key.key)
        };
        text.extend(named.iter().map(line));
    }
    if keys.authority.iter().all(|key| !key.held) {
        text += "HQ holds no authority key: no node can enrol\n";
    }
    text
}

/// Reads a file that somebody hands over.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Writes a file that must not be there yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::options().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("writing {}, which must not be there yet", path.display()))
}

/// Replaces a file: it holds the old bytes or the new ones, whatever happens.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let temporary = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}
