//! `lamplighter demo`: a whole chain on one computer. Every part is the real program in a process of its own.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use peer_cache_origin::HqClient;
use serde::Serialize;
use web_api::{LedgerLine, Machine, NewOrder, NewSite, OrderInfo, SiteCreated, SiteUnknown};

use crate::{HqChoice, client, image::import_image, media::beside_this_program};

/// The whole demo; a machine that hangs must not hang the one who looks at it.
const IMAGE_WITHIN: Duration = Duration::from_secs(1800);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const MACHINES_MAX: usize = 64;

/// What to show.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// A raw disk image.
    #[arg(long)]
    image: PathBuf,
    /// How many machines are imaged at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=i64::try_from(MACHINES_MAX).unwrap_or(64)))]
    machines: u16,
    /// Leave disks and folders in place at the end.
    #[arg(long)]
    keep: bool,
    /// Where everything goes; by default a temporary folder.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the result to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct MachineResult {
    name: String,
    disk_bytes: u64,
    received_bytes: u64,
    seconds: f64,
    verified: bool,
}

#[derive(Debug, Serialize)]
struct DemoResult {
    machines: Vec<MachineResult>,
    wan_bytes: u64,
    object_bytes: u64,
    seconds: f64,
}

/// A child that does not outlive the demo.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        Ok(Self(
            command
                .stdin(Stdio::null())
                .spawn()
                .with_context(|| format!("starting {name}"))?,
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // ended already is as good
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn run(arguments: DemoArguments) -> Result<()> {
    ensure!(
        arguments.image.exists(),
        "{} is not there",
        arguments.image.display()
    );
    let temporary = tempfile::Builder::new()
        .prefix("lamplighter-demo-")
        .tempdir()?;
    let dir = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => temporary.path().to_owned(),
    };
    std::fs::create_dir_all(&dir)?;
    let result = show(&arguments, &dir).await?;
    print(&result);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&result)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    if arguments.dir.is_some() {
        say(&format!("everything is in {}", dir.display()));
    } else if arguments.keep {
        say(&format!("kept in {}", temporary.keep().display()));
    }
    ensure!(
        result.machines.iter().all(|m| m.verified),
        "a disk differs from the image"
    );
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the demo is there to be looked at")]
fn say(line: &str) {
    println!("{line}");
}

async fn show(arguments: &DemoArguments, dir: &Path) -> Result<DemoResult> {
    let (_hq, client) = start_hq(dir)?;
    say(&format!("HQ          {}", client.base()));
    let imported = import_image(&client, &arguments.image, "demo", 3, true).await?;
    let object_bytes = imported.version.object_bytes;
    say(&format!(
        "image       {} MiB disk, {} MiB used, {} MiB of objects",
        imported.version.disk_bytes >> 20,
        imported.version.used_bytes >> 20,
        object_bytes >> 20
    ));
    let site: SiteCreated = client
        .post(
            "/sites",
            &NewSite {
                name: "demo store".into(),
                unknown: SiteUnknown::Admit,
            },
        )
        .await?;
    let version = imported.version.version.to_string();
    let order = NewOrder {
        site: "demo store".into(),
        version,
        machine: None,
        erase: false,
    };
    let _: OrderInfo = client.post("/orders", &order).await?;
    let started = Instant::now();
    let address = free_udp_port()?;
    let _node = start_node(dir, &site.token, address, 2 * object_bytes)?;
    say(&format!("node        {address}, enrolled by a token"));
    let machines = image_machines(arguments, dir, &client, address).await?;
    let seconds = started.elapsed().as_secs_f64();
    let ledger: Vec<LedgerLine> = client::all_rows(&client, "/ledger").await?;
    Ok(DemoResult {
        machines,
        wan_bytes: ledger.iter().map(|l| l.wan_bytes).sum(),
        object_bytes,
        seconds,
    })
}

fn start_hq(dir: &Path) -> Result<(Process, HqClient)> {
    let folder = dir.join("hq");
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["hq", "--listen", "127.0.0.1:0", "--dir"])
        .arg(&folder);
    // its word must not replace that of an HQ that runs here for real
    command
        .env("XDG_RUNTIME_DIR", dir)
        .env("LAMPLIGHTER_LOG", "warn")
        .stdout(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let out = process.0.stdout.take().context("HQ's output")?;
    let mut first = String::new();
    BufReader::new(out).read_line(&mut first)?;
    ensure!(first.contains("listening"), "HQ did not start: {first}");
    let choice = HqChoice {
        hq: None,
        token_file: Some(folder.join("admin-token")),
    };
    Ok((process, client::for_people(&choice)?))
}

fn free_udp_port() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

fn start_node(dir: &Path, token: &str, address: SocketAddr, slab_bytes: u64) -> Result<Process> {
    let slab_bytes = slab_bytes + (64 << 20);
    // the machines are programs on this computer: the node would give way to its own chain
    let folder = dir.join("node");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("node.toml"), "uploads_give_way = false\n")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["node", "--boot", "off", "--no-beacons", "--enrol", token]);
    command
        .args([
            "--listen",
            &address.to_string(),
            "--slab-bytes",
            &slab_bytes.to_string(),
            "--dir",
        ])
        .arg(folder);
    command.stderr(File::create(dir.join("node.log"))?);
    Process::start(&mut command)
}

struct Imaging {
    name: String,
    disk: PathBuf,
    json: PathBuf,
    agent: Process,
    bar: ProgressBar,
    seconds: Option<f64>,
}

async fn image_machines(
    arguments: &DemoArguments,
    dir: &Path,
    client: &HqClient,
    node: SocketAddr,
) -> Result<Vec<MachineResult>> {
    let bars = MultiProgress::new();
    let agent = beside_this_program("lamplighter-agent")?;
    let started = Instant::now();
    let mut machines = Vec::new();
    for n in 1..=arguments.machines {
        let name = format!("machine-{n}");
        let (disk, json) = (
            dir.join(format!("{name}.raw")),
            dir.join(format!("{name}.json")),
        );
        // a disk of an earlier demo in this folder is another machine's
        let _ = std::fs::remove_file(&disk);
        let mut command = Command::new(&agent);
        command
            .arg("image")
            .arg("--to")
            .arg(&disk)
            .args(["--node", &node.to_string()])
            .arg("--json")
            .arg(&json);
        // all stay until the last one has everything, as neighbours in a store do
        command
            .arg("--stay")
            .stdout(File::create(dir.join(format!("{name}.log")))?);
        command.stderr(File::create(dir.join(format!("{name}.err")))?);
        let agent = Process::start(&mut command)?;
        let bar = bars.add(ProgressBar::new(1));
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:12} {bar:40} {bytes}/{total_bytes} {msg}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(name.clone());
        machines.push(Imaging {
            name,
            disk,
            json,
            agent,
            bar,
            seconds: None,
        });
    }
    while machines.iter().any(|m| m.seconds.is_none()) {
        ensure!(
            started.elapsed() < IMAGE_WITHIN,
            "the demo took too long; its logs are in {}",
            dir.display()
        );
        tokio::time::sleep(LOOK_EVERY).await;
        let seen: Vec<Machine> = client::all_rows(client, "/machines")
            .await
            .unwrap_or_default();
        for machine in &mut machines {
            machine.look(&seen, started)?;
        }
    }
    machines
        .into_iter()
        .map(|m| m.result(&arguments.image))
        .collect()
}

impl Imaging {
    fn look(&mut self, seen: &[Machine], started: Instant) -> Result<()> {
        if self.seconds.is_some() {
            return Ok(());
        }
        let model = format!("by hand: {}", self.disk.display());
        if let Some(install) = seen
            .iter()
            .find(|m| model.starts_with(&m.facts.model))
            .and_then(|m| m.install.as_ref())
        {
            self.bar.set_length(install.total_bytes.max(1));
            self.bar.set_position(install.done_bytes);
            self.bar
                .set_message(format!("{:?}", install.state).to_lowercase());
        }
        if self.json.exists() {
            self.seconds = Some(started.elapsed().as_secs_f64());
            self.bar.finish_with_message("done");
        } else if let Some(status) = self.agent.0.try_wait()? {
            let log = std::fs::read_to_string(self.json.with_extension("log")).unwrap_or_default();
            bail!(
                "{} ended with {status}: {}",
                self.name,
                log.lines().last().unwrap_or_default()
            );
        }
        Ok(())
    }

    fn result(self, image: &Path) -> Result<MachineResult> {
        #[derive(serde::Deserialize)]
        struct Outcome {
            received_bytes: u64,
        }
        let outcome: Outcome = serde_json::from_slice(&std::fs::read(&self.json)?)?;
        Ok(MachineResult {
            disk_bytes: self.disk.metadata()?.len(),
            verified: same_content(&self.disk, image)?,
            name: self.name,
            received_bytes: outcome.received_bytes,
            seconds: self.seconds.unwrap_or_default(),
        })
    }
}

/// Whether two files are the same bit for bit.
fn same_content(a: &Path, b: &Path) -> Result<bool> {
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (mut part_a, mut part_b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = read_full(&mut a, &mut part_a)?;
        if read_full(&mut b, &mut part_b)? != count || part_a[..count] != part_b[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..])? {
            0 => break,
            n => count += n,
        }
    }
    Ok(count)
}

fn print(result: &DemoResult) {
    say(&format!(
        "\n{:12} {:>12} {:>14} {:>8}  {}",
        "MACHINE", "DISK MIB", "RECEIVED MIB", "SECONDS", "VERIFIED"
    ));
    for m in &result.machines {
        let verified = if m.verified { "bit for bit" } else { "DIFFERS" };
        say(&format!(
            "{:12} {:>12} {:>14.1} {:>8.1}  {verified}",
            m.name,
            m.disk_bytes >> 20,
            m.received_bytes as f64 / 1_048_576.0,
            m.seconds
        ));
    }
    let ratio = result.wan_bytes as f64 / result.object_bytes.max(1) as f64;
    say(&format!(
        "\nWAN {} bytes, objects {} bytes: fetched {ratio:.3} times for {} machines",
        result.wan_bytes,
        result.object_bytes,
        result.machines.len()
    ));
}
