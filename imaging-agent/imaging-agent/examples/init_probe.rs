//! Boots like the agent, as `/init` of its initramfs, prints what it found and ends the machine: a check of drivers,
//! network and firmware on a real or virtual machine. Needs no node and touches no disk. Build it static and put it into
//! boot media in place of the agent:
//! `cargo build --release --example init_probe --target x86_64-unknown-linux-gnu` with `RUSTFLAGS=-Ctarget-feature=+crt-static`.
//!
//! `lamplighter.end=reboot` on the kernel's command line reboots at the end; otherwise the machine is switched off.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

#[allow(
    dead_code,
    unreachable_pub,
    reason = "a probe uses some of the agent's start-up code, not all"
)]
#[path = "../src/init/mod.rs"]
mod init;

use std::time::{Duration, Instant};

use init::{command_line, console, efi, inventory, modules, network, reboot};

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .init();
    if let Some(name) = modules::requested_by_kernel(std::env::args()) {
        return Ok(modules::load_for_kernel(&name)?);
    }
    if !init::is_pid_one() {
        return probe();
    }
    init::set_up_system()?;
    let ended = console::supervise(&["probe"])?;
    println!("PROBE-END {ended:?} uptime={}", uptime());
    let asked = command_line::read()?.others;
    let end = if asked.get("end").is_some_and(|end| end == "reboot") {
        reboot::End::Reboot
    } else {
        reboot::End::PowerOff
    };
    std::thread::sleep(Duration::from_millis(200)); // let the consoles drain
    match reboot::end(end)? {}
}

fn probe() -> anyhow::Result<()> {
    println!(
        "PROBE-START uptime={} command line {:?}",
        uptime(),
        command_line::read()?
    );
    let started = Instant::now();
    let plugged = modules::Modules::open()?.coldplug();
    println!(
        "PROBE-MODULES {:.1} s settled={} loaded={}",
        started.elapsed().as_secs_f32(),
        plugged.settled,
        plugged.loaded.join(" ")
    );
    for error in plugged.failed {
        println!("PROBE-MODULE-FAILED {:#}", anyhow::Error::from(error));
    }
    println!(
        "PROBE-MODPROBE the kernel fetches vfat by itself: {}",
        kernel_fetches_vfat()
    );
    match efi::Variables::open() {
        None => println!("PROBE-EFI none: a BIOS machine"),
        Some(variables) => println!("PROBE-EFI {:?}", variables.boot_state()),
    }
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match network::bring_up(
            command_line::read()?.boot_interface,
            Duration::from_secs(60),
        )
        .await
        {
            Ok(network) => {
                // A second interface may need a moment more.
                tokio::time::sleep(Duration::from_secs(2)).await;
                for lease in network.leases() {
                    println!(
                        "PROBE-LEASE {:.1} s {lease:?}",
                        started.elapsed().as_secs_f32()
                    );
                }
            }
            Err(error) => println!("PROBE-NO-NETWORK {:#}", anyhow::Error::from(error)),
        }
        anyhow::Ok(())
    })?;
    println!("PROBE-INVENTORY {:#?}", inventory::read());
    println!("PROBE-DONE uptime={}", uptime());
    Ok(())
}

fn uptime() -> String {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    uptime.split_whitespace().next().unwrap_or("?").to_owned()
}

/// Mounting asks the kernel for the file system, which asks for its module; that the device is none comes after.
fn kernel_fetches_vfat() -> bool {
    let none = nix::mount::MsFlags::empty();
    let _ = nix::mount::mount(Some("/dev/null"), "/mnt", Some("vfat"), none, None::<&str>);
    std::fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("vfat"))
}
