//! Initramfs archives: cpio in the format "newc" (the kernel's `Documentation/driver-api/early-userspace/buffer-format`),
//! compressed by zstd, the same bytes for the same content.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// newc writes file sizes in 32 bits; no file of ours comes near.
const FILE_BYTES_MAX: usize = 1 << 30;

/// A path or file that cannot go into an initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// Absolute, empty, or with `.`, `..`, an empty name or a NUL byte.
    #[error(
        "'{path}' is no path for a file in the initramfs: give it relative to /, without . and .."
    )]
    Path {
        /// The path as given.
        path: String,
    },
    /// Larger than 1 GiB.
    #[error("'{path}' has {size_bytes} bytes: a file in the initramfs may have {FILE_BYTES_MAX}")]
    TooLarge {
        /// The path.
        path: String,
        /// The file's size.
        size_bytes: usize,
    },
    /// The compressor failed.
    #[error("cannot compress the initramfs")]
    Compress(#[source] io::Error),
}

/// An archive being put together. The order in which things are added does not matter: it is written sorted, with
/// inode numbers counted from 1 and every time stamp 0.
#[derive(Debug, Default)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug)]
enum Node {
    Folder,
    File { executable: bool, content: Vec<u8> },
    Link { target: String },
    CharacterDevice { major: u32, minor: u32 },
}

impl Archive {
    /// Adds a folder and those above it.
    ///
    /// # Errors
    /// [`InitramfsError::Path`].
    pub fn folder(&mut self, path: &str) -> Result<(), InitramfsError> {
        self.add(path, Node::Folder)
    }

    /// Adds a file and the folders above it.
    ///
    /// # Errors
    /// [`InitramfsError::Path`], [`InitramfsError::TooLarge`].
    pub fn file(
        &mut self,
        path: &str,
        executable: bool,
        content: Vec<u8>,
    ) -> Result<(), InitramfsError> {
        if content.len() > FILE_BYTES_MAX {
            return Err(InitramfsError::TooLarge {
                path: path.to_owned(),
                size_bytes: content.len(),
            });
        }
        self.add(
            path,
            Node::File {
                executable,
                content,
            },
        )
    }

    /// Adds a symbolic link and the folders above it.
    ///
    /// # Errors
    /// [`InitramfsError::Path`].
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), InitramfsError> {
        let target = target.to_owned();
        self.add(path, Node::Link { target })
    }

    /// Adds a character device; as bytes in an archive this needs no root.
    ///
    /// # Errors
    /// [`InitramfsError::Path`].
    pub fn character_device(
        &mut self,
        path: &str,
        major: u32,
        minor: u32,
    ) -> Result<(), InitramfsError> {
        self.add(path, Node::CharacterDevice { major, minor })
    }

    fn add(&mut self, path: &str, node: Node) -> Result<(), InitramfsError> {
        let good =
            |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
        if !path.split('/').all(good) {
            return Err(InitramfsError::Path {
                path: path.to_owned(),
            });
        }
        for (slash, _) in path.match_indices('/') {
            let above = self
                .nodes
                .entry(path[..slash].to_owned())
                .or_insert(Node::Folder);
            if !matches!(above, Node::Folder) {
                return Err(InitramfsError::Path {
                    path: path.to_owned(),
                });
            }
        }
        self.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    /// The archive's bytes, uncompressed.
    #[must_use]
    pub fn to_cpio(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, (path, node)) in (1..).zip(&self.nodes) {
            let (mode, content, device) = match node {
                Node::Folder => (0o040_755, &[][..], (0, 0)),
                Node::File {
                    executable,
                    content,
                } => {
                    let mode = if *executable { 0o100_755 } else { 0o100_644 };
                    (mode, content.as_slice(), (0, 0))
                }
                Node::Link { target } => (0o120_777, target.as_bytes(), (0, 0)),
                Node::CharacterDevice { major, minor } => (0o020_600, &[][..], (*major, *minor)),
            };
            entry(&mut out, number, mode, path, content, device);
        }
        entry(&mut out, 0, 0, "TRAILER!!!", &[], (0, 0));
        out
    }

    /// The archive as one zstd frame. Several such frames one after the other are one initramfs: the kernel unpacks
    /// them in turn, later files over earlier ones.
    ///
    /// # Errors
    /// [`InitramfsError::Compress`].
    pub fn to_zstd(&self, level: i32) -> Result<Vec<u8>, InitramfsError> {
        let cpio = self.to_cpio();
        let compress = || -> io::Result<Vec<u8>> {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
            encoder.include_checksum(true)?;
            encoder.set_pledged_src_size(Some(cpio.len() as u64))?;
            encoder.write_all(&cpio)?;
            encoder.finish()
        };
        compress().map_err(InitramfsError::Compress)
    }
}

fn entry(out: &mut Vec<u8>, inode: u32, mode: u32, path: &str, content: &[u8], device: (u32, u32)) {
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    let fields = [
        inode,
        mode,
        0, // uid
        0, // gid
        links,
        0,                                                // mtime
        u32::try_from(content.len()).unwrap_or(u32::MAX), // held below FILE_BYTES_MAX by `file`
        0, // device that the archive's files are on: major, minor
        0,
        device.0,
        device.1,
        u32::try_from(path.len() + 1).unwrap_or(u32::MAX),
        0, // check sum: not used by newc
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
}

/// Each header and each content starts at a multiple of four bytes.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_are_refused_by_name() {
        for path in ["", "/init", "a//b", "../init", "a/./b", "a/..", "a/"] {
            let error = Archive::default()
                .file(path, false, Vec::new())
                .unwrap_err();
            assert!(error.to_string().contains(&format!("'{path}'")), "{error}");
        }
    }

    #[test]
    fn a_file_is_no_folder() {
        let mut archive = Archive::default();
        archive.file("etc", false, Vec::new()).unwrap();
        assert!(archive.file("etc/x", false, Vec::new()).is_err());
    }

    #[test]
    fn order_of_adding_does_not_matter() {
        let build = |paths: [&str; 3]| {
            let mut archive = Archive::default();
            for path in paths {
                archive.file(path, false, path.as_bytes().to_vec()).unwrap();
            }
            archive.to_zstd(3).unwrap()
        };
        assert_eq!(build(["a/b", "c", "a/a"]), build(["c", "a/a", "a/b"]));
    }
}
