//! `vm-chain --json FILE`: a laptop images a machine, that machine images another, in QEMU with real firmware.
//! Shows the steps as they happen and writes the figures to FILE.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use end_to_end::{Lab, Store, UnknownMachines, chain};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--json", file] => PathBuf::from(file),
        _ => bail!("usage: vm-chain --json FILE"),
    };
    let lab = Lab::new("vm-chain")?;
    let mut store = Store::open(&lab, UnknownMachines::Admit)?;
    let report = chain::with_the_wan_up(&mut store)?.to_json();
    std::fs::write(&file, format!("{report:#}\n"))
        .with_context(|| format!("cannot write {}", file.display()))
}
