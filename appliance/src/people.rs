//! Commands about sites, orders, machines, nodes and the ledger: the API in words.

mod machines;
mod nodes;
mod tokens;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use peer_cache_origin::HqClient;
use reqwest::Method;
use web_api::{
    EventInfo, Hex, ImportReport, LeaseKind, LedgerLine, NewOrder, NewPin, NewSite, OrderInfo,
    SiteChange, SiteCreated, SiteInfo, SitePin, SiteUnknown, WanChange, WanRules, WanWindow,
    parse_utc_offset,
};

use crate::{
    HqChoice, Output,
    client::{self, Rows, Search},
};

/// A machine's states, as in HQ's API.
const MACHINE_STATES: [&str; 5] = ["waiting", "ready", "imaging", "done", "failed"];

pub(crate) use machines::{MachineCommand, machine};
pub(crate) use nodes::{NodesArguments, nodes};

/// What happens to unknown machines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Unknown {
    /// They wait for approval.
    Wait,
    /// They are imaged.
    Admit,
    /// They are imaged when somebody types the site's PIN at them.
    Pin,
    /// They are sent to their own disks: known machines only.
    Refuse,
}

impl From<Unknown> for SiteUnknown {
    fn from(unknown: Unknown) -> Self {
        match unknown {
            Unknown::Wait => Self::Wait,
            Unknown::Admit => Self::Admit,
            Unknown::Pin => Self::Pin,
            Unknown::Refuse => Self::Refuse,
        }
    }
}

/// `lamplighter site ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum SiteCommand {
    /// Adds a site and prints an enrolment token for its first node.
    Add {
        /// Its name.
        name: String,
        /// What happens to machines that it does not know.
        #[arg(long, value_enum, default_value = "wait")]
        unknown: Unknown,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Lists sites.
    List {
        /// With a tag.
        #[arg(long)]
        tag: Option<String>,
        /// With a machine in a state.
        #[arg(long, value_name = "STATE", value_parser = MACHINE_STATES)]
        has: Option<String>,
        #[command(flatten)]
        search: Search,
        #[command(flatten)]
        rows: Rows,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Writes all sites to a file for spreadsheets (CSV).
    Export {
        /// The file; it is new.
        file: PathBuf,
        #[command(flatten)]
        hq: HqChoice,
    },
    /// Makes and changes sites as a file says that has the columns of `site export`. A file with a fault changes nothing.
    Import {
        /// The file.
        file: PathBuf,
        /// Only say what it would do.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Changes a site's rules.
    Set {
        /// Its name.
        name: String,
        /// What happens to machines that it does not know.
        #[arg(long, value_enum)]
        unknown: Option<Unknown>,
        /// Whether nodes may certify new nodes while HQ cannot be reached.
        #[arg(long)]
        provisional: Option<bool>,
        /// Versions of a lower release are refused from now on.
        #[arg(long)]
        release_floor: Option<u64>,
        /// Its tags from now on, such as pilot,north; with an empty text none. Who reaches a tag's sites reaches it.
        #[arg(long, value_delimiter = ',')]
        tags: Option<Vec<String>>,
        /// How much may come over the WAN by time of day, such as 08:00-20:00=2Mbit,20:00-08:00=unlimited (or none). The first
        /// window that covers a minute holds; a minute that none covers has no limit.
        #[arg(long, value_delimiter = ',')]
        wan: Option<Vec<WanWindow>>,
        /// The site's clock minus UTC, such as +01:00.
        #[arg(long, value_parser = parse_utc_offset, allow_hyphen_values = true)]
        utc_offset: Option<i16>,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Shows what a site may fetch over the WAN; pauses and resumes it, or one version of it.
    Wan {
        /// Its name.
        name: String,
        /// Fetch nothing from now on.
        #[arg(long, conflicts_with = "resume")]
        pause: bool,
        /// Fetch again.
        #[arg(long)]
        resume: bool,
        /// Only this version: its digest, the beginning of it, or an image's name for the newest.
        #[arg(long)]
        version: Option<String>,
        /// The version's priority, 0 to 9: a lower one waits while a higher one is fetched.
        #[arg(long, requires = "version")]
        priority: Option<u8>,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Sets a PIN that admits machines when it is typed at them, and prints it. The old one ends.
    Pin {
        /// The site's name.
        name: String,
        /// So many machines it admits.
        #[arg(long, default_value_t = 1)]
        uses: u16,
        /// So many hours it holds; 0 for no end but its uses.
        #[arg(long, default_value_t = 24)]
        hours: u16,
        /// The PIN is in this file, 6 to 32 letters or digits. Without it HQ makes eight digits.
        #[arg(long)]
        file: Option<std::path::PathBuf>,
        /// The site has no PIN from now on.
        #[arg(long, conflicts_with = "file")]
        remove: bool,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Prints a further enrolment token: single use, 72 hours.
    Token {
        /// The site's name.
        name: String,
        /// The node that is built anew: 8 digits or more of its key. When the token is used, that key is revoked, and the new node has
        /// its machine, and its name unless it was started with --name.
        #[arg(long, value_name = "KEY")]
        replaces: Option<String>,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Lists a site's enrolment tokens, without their secrets; takes back one that nobody used.
    Tokens {
        /// The site's name.
        name: String,
        /// Take back the token with this number.
        #[arg(long, value_name = "NUMBER")]
        revoke: Option<u64>,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
}

/// Text in a path.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

pub(crate) async fn site(command: SiteCommand) -> Result<()> {
    match command {
        SiteCommand::Add {
            name,
            unknown,
            hq,
            output,
        } => {
            let new = NewSite {
                name,
                unknown: unknown.into(),
            };
            let created: SiteCreated = client::for_people(&hq)?.post("/sites", &new).await?;
            output.print(&created, |c| c.token.clone())
        }
        SiteCommand::List {
            tag,
            has,
            search,
            rows,
            hq,
            output,
        } => {
            let fitting = [
                ("tag", tag.as_deref()),
                ("has", has.as_deref()),
                ("search", search.search.as_deref()),
            ];
            let client = client::for_people(&hq)?;
            let sites: Vec<SiteInfo> = client::rows(&client, "/sites", &rows, &fitting).await?;
            output.print(&sites, |sites| sites_text(sites))
        }
        SiteCommand::Export { file, hq } => {
            client::download(&client::for_people(&hq)?, "/export/sites", &file).await
        }
        SiteCommand::Import {
            file,
            dry_run,
            hq,
            output,
        } => {
            let report = import_sites(&client::for_people(&hq)?, &file, dry_run).await?;
            output.print(&report, import_text)?;
            anyhow::ensure!(
                report.faults.is_empty(),
                "{} changes nothing until its faults are gone",
                file.display()
            );
            Ok(())
        }
        SiteCommand::Set {
            name,
            unknown,
            provisional,
            release_floor,
            tags,
            wan,
            utc_offset,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            if wan.is_some() || utc_offset.is_some() {
                let change = WanChange {
                    windows: wan,
                    utc_offset_minutes: utc_offset,
                    ..WanChange::default()
                };
                change_wan(&client, &name, &change).await?;
            }
            let change = SiteChange {
                unknown: unknown.map(Into::into),
                provisional,
                release_floor,
                tags: tags.map(|tags| tags.into_iter().filter(|tag| !tag.is_empty()).collect()),
            };
            let site = change_site(&client, &name, &change).await?;
            output.print(&site, |s| format!("{} is at channel {}", s.name, s.channel))
        }
        SiteCommand::Wan {
            name,
            pause,
            resume,
            version,
            priority,
            hq,
            output,
        } => {
            let change = WanChange {
                paused: (pause || resume).then_some(pause),
                version,
                priority,
                ..WanChange::default()
            };
            let rules = change_wan(&client::for_people(&hq)?, &name, &change).await?;
            output.print(&rules, wan_text)
        }
        SiteCommand::Pin {
            name,
            uses,
            hours,
            file,
            remove,
            hq,
            output,
        } => {
            let client = client::for_people(&hq)?;
            let path = format!("/sites/{}/pin", quoted(&name));
            if remove {
                client.send(client.request(Method::DELETE, &path)).await?;
                return Ok(());
            }
            let new = NewPin {
                pin: file.map(|file| read_pin(&file)).transpose()?,
                uses,
                hours,
            };
            let request = client.request(Method::PUT, &path).json(&new);
            let pin: SitePin = client.send(request).await?.json().await?;
            output.print(&pin, |p| p.pin.clone())
        }
        SiteCommand::Token {
            name,
            replaces,
            hq,
            output,
        } => tokens::make(&client::for_people(&hq)?, &name, replaces, output).await,
        SiteCommand::Tokens {
            name,
            revoke,
            hq,
            output,
        } => tokens::list(&client::for_people(&hq)?, &name, revoke, output).await,
    }
}

fn read_pin(file: &std::path::Path) -> Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading the PIN in {}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn sites_text(sites: &[SiteInfo]) -> String {
    let head = format!(
        "{:24} {:>6} {:>9} {:>14}\n",
        "SITE", "NODES", "MACHINES", "WAN BYTES"
    );
    let line = |s: &SiteInfo| {
        format!(
            "{:24} {:>6} {:>9} {:>14}\n",
            s.name, s.nodes, s.machines, s.wan_bytes
        )
    };
    head + &sites.iter().map(line).collect::<String>()
}

async fn change_site(client: &HqClient, site: &str, change: &SiteChange) -> Result<SiteInfo> {
    let path = format!("/sites/{}", quoted(site));
    let request = client.request(Method::PATCH, &path).json(change);
    Ok(client.send(request).await?.json().await?)
}

/// A change of nothing shows what holds.
async fn import_sites(client: &HqClient, file: &Path, dry_run: bool) -> Result<ImportReport> {
    let bytes =
        std::fs::read(file).with_context(|| format!("reading the file {}", file.display()))?;
    let path = format!("/import/sites?dry_run={dry_run}");
    let request = client.request(Method::POST, &path).body(bytes);
    let answer = client.send(request).await?;
    answer.json().await.context("HQ's report on the file")
}

fn import_text(report: &ImportReport) -> String {
    let faults: String = report
        .faults
        .iter()
        .map(|fault| format!("{fault}\n"))
        .collect();
    let said = match report.done {
        true => "made, changed and left as they are",
        false => "would be made, changed and left as they are",
    };
    let (made, changed, same) = (report.made, report.changed, report.same);
    format!("{faults}sites {said}: {made}, {changed}, {same}")
}

async fn change_wan(client: &HqClient, site: &str, change: &WanChange) -> Result<WanRules> {
    let path = format!("/sites/{}/wan", quoted(site));
    if *change == WanChange::default() {
        return Ok(client.get(&path).await?);
    }
    let request = client.request(Method::PATCH, &path).json(change);
    Ok(client.send(request).await?.json().await?)
}

fn wan_text(rules: &WanRules) -> String {
    let mut text = String::from(if rules.paused { "paused\n" } else { "open\n" });
    if rules.budget.windows.is_empty() {
        text += "no limit at any time of day\n";
    }
    for window in &rules.budget.windows {
        text += &format!("{window}\n");
    }
    let offset = rules.budget.utc_offset_minutes;
    let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs());
    text += &format!("clock: UTC{sign}{:02}:{:02}\n", minutes / 60, minutes % 60);
    for rule in &rules.versions {
        let state = if rule.paused { "paused" } else { "open" };
        text += &format!("{} priority {} {state}\n", rule.version, rule.priority);
    }
    text
}

/// `lamplighter order ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum OrderCommand {
    /// Orders a version for a site, or for one machine of it.
    Add {
        /// The site's name.
        #[arg(long)]
        site: String,
        /// The version: its digest, the beginning of it, or an image's name for the newest.
        #[arg(long)]
        version: String,
        /// Only this machine.
        #[arg(long)]
        machine: Option<Hex<16>>,
        /// Also where a finished version stands already.
        #[arg(long)]
        erase: bool,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
    /// Lists orders.
    List {
        /// Of one site.
        #[arg(long)]
        site: Option<String>,
        #[command(flatten)]
        rows: Rows,
        #[command(flatten)]
        hq: HqChoice,
        #[command(flatten)]
        output: Output,
    },
}

pub(crate) async fn order(command: OrderCommand) -> Result<()> {
    match command {
        OrderCommand::Add {
            site,
            version,
            machine,
            erase,
            hq,
            output,
        } => {
            let new = NewOrder {
                site,
                version,
                machine,
                erase,
            };
            let order: OrderInfo = client::for_people(&hq)?.post("/orders", &new).await?;
            output.print(&order, |o| {
                let waits = if o.waiting {
                    ", waits for a signature"
                } else {
                    ""
                };
                format!(
                    "order {} of {}: {} {}{waits}",
                    o.number, o.site, o.name, o.version
                )
            })
        }
        OrderCommand::List {
            site,
            rows,
            hq,
            output,
        } => {
            let fitting = [("site", site.as_deref())];
            let client = client::for_people(&hq)?;
            let orders: Vec<OrderInfo> = client::rows(&client, "/orders", &rows, &fitting).await?;
            output.print(&orders, |orders| {
                let line = |o: &OrderInfo| {
                    let scope = o.machine.map_or_else(|| "all".into(), |m| m.to_string());
                    format!(
                        "{:20} {:>5} {:20} {:34} {} done\n",
                        o.site, o.number, o.name, scope, o.completed
                    )
                };
                orders.iter().map(line).collect()
            })
        }
    }
}

/// `lamplighter ledger`.
#[derive(Debug, clap::Args)]
pub(crate) struct LedgerArguments {
    /// Of one site.
    #[arg(long)]
    site: Option<String>,
    #[command(flatten)]
    rows: Rows,
    #[command(flatten)]
    hq: HqChoice,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn ledger(arguments: LedgerArguments) -> Result<()> {
    let fitting = [("site", arguments.site.as_deref())];
    let client = client::for_people(&arguments.hq)?;
    let lines: Vec<LedgerLine> =
        client::rows(&client, "/ledger", &arguments.rows, &fitting).await?;
    arguments.output.print(&lines, |lines| {
        let line = |l: &LedgerLine| {
            let kind = match l.kind {
                LeaseKind::Main => "main",
                LeaseKind::Island => "island",
            };
            format!(
                "{:20} {} {kind:6} {:>14} of {:>14}\n",
                l.site, l.version, l.wan_bytes, l.object_bytes
            )
        };
        lines.iter().map(line).collect()
    })
}

/// `lamplighter events`.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArguments {
    /// Of one site.
    #[arg(long)]
    site: Option<String>,
    /// About one thing.
    #[arg(long, value_parser = ["holds", "accused", "boot", "node", "trouble"])]
    kind: Option<String>,
    /// So many of the newest lines.
    #[arg(long, value_name = "LINES", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    search: Search,
    #[command(flatten)]
    hq: HqChoice,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn events(arguments: EventsArguments) -> Result<()> {
    let fitting = [
        ("site", arguments.site.as_deref()),
        ("kind", arguments.kind.as_deref()),
        ("search", arguments.search.search.as_deref()),
    ];
    let client = client::for_people(&arguments.hq)?;
    let rows = Rows::first(arguments.limit);
    let lines: Vec<EventInfo> = client::rows(&client, "/events", &rows, &fitting).await?;
    arguments.output.print(&lines, |lines| {
        let line = |e: &EventInfo| {
            let when = crate::accounts::utc(e.unix_seconds);
            format!(
                "{when} {:20} {:20} {:8} {}\n",
                e.site, e.source, e.kind, e.message
            )
        };
        lines.iter().map(line).collect()
    })
}
