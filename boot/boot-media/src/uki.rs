//! The unified kernel image (UKI): one EFI program with kernel, initramfs and command line, so that firmware needs to
//! fetch, and check the signature of, one file only (`uapi-group.org`, "Unified Kernel Image").

use crate::pe::{self, PeError};

/// What a UKI is made of.
#[derive(Debug)]
pub struct UkiParts<'a> {
    /// systemd's EFI stub, the program that unpacks the rest (`linuxx64.efi.stub`).
    pub stub: &'a [u8],
    /// os-release(5) lines: how boot menus name it.
    pub os_release: &'a str,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// The kernel's release, as `uname -r` says it.
    pub kernel_release: &'a str,
    /// The kernel's bootable file.
    pub kernel: &'a [u8],
    /// The initramfs, compressed.
    pub initramfs: &'a [u8],
}

/// Joins the parts; the same bytes for the same parts. Unsigned: sign the result for machines with Secure Boot.
///
/// # Errors
/// [`PeError`] when the stub is not an EFI program or has no room for five more sections.
pub fn build_uki(parts: &UkiParts<'_>) -> Result<Vec<u8>, PeError> {
    pe::with_sections(
        parts.stub,
        &[
            (".osrel", parts.os_release.as_bytes()),
            (".cmdline", parts.command_line.as_bytes()),
            (".uname", parts.kernel_release.as_bytes()),
            (".linux", parts.kernel),
            (".initrd", parts.initramfs),
        ],
    )
}
