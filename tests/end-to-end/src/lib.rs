//! A store in network namespaces, its machines in QEMU with real firmware, and the finished programs between them.
//! Never links what it tests: it starts the static programs and reads consoles, files, HQ's interface and the ledger.
//! Called by `tests/vm.rs` and by the program `vm-chain` (`./dev demo --vm`).
//!
//! | variable | what for | default |
//! |---|---|---|
//! | `LAMPLIGHTER_BIN_DIR` | where `lamplighter` and `lamplighter-agent` are | `target/x86_64-unknown-linux-gnu/release` |
//! | `LAMPLIGHTER_CACHE` | downloads that outlive a run | `.cache` |
//! | `LAMPLIGHTER_ARTEFACTS` | consoles and logs, a folder for each test | `target/vm-logs` |
//! | `LAMPLIGHTER_LONG` | `1`: five power cycles instead of one | unset |
//!
//! Needs root, `/dev/net/tun`, and Debian's `qemu-system-x86 swtpm ovmf dnsmasq nftables iproute2 curl e2fsprogs` beside what
//! `os-image/build.sh` names. QEMU always emulates (TCG): runs are alike with and without `/dev/kvm`.

pub mod chain;
mod console;
mod disk;
mod headquarters;
mod lab;
mod paths;
mod process;
mod store;
mod vm;

pub use console::Console;
pub use headquarters::{Headquarters, Image, install_state};
pub use lab::{CLIENT, Lab, Namespace};
pub use paths::{agent_program, os_image, program};
pub use process::{Process, run};
pub use store::{BOOT_FILE, LAPTOP, SITE, Store, UnknownMachines};
pub use vm::{Boot, Machine, Vm};
