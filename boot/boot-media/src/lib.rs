//! Builds what a machine boots to be imaged: kernel, initramfs, the UKI, the EFI program that starts the disk instead,
//! and a USB stick's image; out of Debian packages and the agent, without root, loop devices or mounts.
//! Never serves or signs anything, and never installs a package on the machine it runs on.
//! Called by the appliance (`lamplighter media`, and HQ when it makes boot media ready for its nodes).

mod deb;
mod fat32;
mod file;
mod firmware;
mod initramfs;
mod kernel;
mod local_boot;
mod media;
mod modinfo;
mod modules;
mod packages;
mod pe;
mod uki;
mod usb;

pub use deb::ReadDebError;
pub use file::FileError;
pub use initramfs::{Archive, InitramfsError};
pub use kernel::UnpackKernelError;
pub use local_boot::local_boot_program;
pub use media::{BuildMediaError, BuiltFile, KernelChoice, MediaReport, MediaRequest, build_media};
pub use packages::{PackageError, PackageSources};
pub use pe::{PeError, Section, sections};
pub use uki::{UkiParts, build_uki};
pub use usb::{BuildUsbError, UsbReport, UsbRequest, build_usb};
