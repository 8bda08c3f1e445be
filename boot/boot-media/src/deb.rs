//! Reading a Debian package file: an `ar` archive whose member `data.tar.*` holds the files.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use crate::file::FileError;

/// Most bytes that one file of a package may unpack to; a damaged or hostile archive is refused, not followed.
const ENTRY_BYTES_MAX: u64 = 256 << 20;

/// A package file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadDebError {
    /// The package file cannot be opened, or what came out of it cannot be stored.
    #[error(transparent)]
    File(#[from] FileError),
    /// The archive breaks off or is not one.
    #[error("{} is damaged: delete it and build again", package.display())]
    Damaged {
        /// The package file.
        package: PathBuf,
        /// What the reader met.
        #[source]
        source: io::Error,
    },
    /// No member `data.tar`, `data.tar.xz`, `data.tar.zst`.
    #[error("{} has no data.tar.xz or data.tar.zst: is it a Debian package?", package.display())]
    NoData {
        /// The package file.
        package: PathBuf,
    },
    /// A file larger than 256 MiB.
    #[error("{} holds {path} of {size_bytes} bytes, which is more than {ENTRY_BYTES_MAX}", package.display())]
    TooLarge {
        /// The package file.
        package: PathBuf,
        /// The file inside it.
        path: String,
        /// Its size.
        size_bytes: u64,
    },
}

/// What a package holds at one path. Folders, devices and the like are not shown.
pub(crate) enum Entry<'a> {
    /// A regular file.
    File(&'a mut dyn Read),
    /// A symbolic link and where it points, as written in the package.
    Link(PathBuf),
}

/// Calls `visit` with each file and symbolic link of `package`, in the package's order. Paths are relative, without `./`, and a
/// leading `usr/` is cut off: Debian moved kernel and firmware files from `/lib` to `/usr/lib` between releases.
pub(crate) fn for_each_file(
    package: &Path,
    mut visit: impl FnMut(&str, Entry<'_>) -> Result<(), FileError>,
) -> Result<(), ReadDebError> {
    let damaged = |source| ReadDebError::Damaged {
        package: package.to_path_buf(),
        source,
    };
    let file = File::open(package).map_err(FileError::of("open", package))?;
    let mut members = ar::Archive::new(BufReader::new(file));
    while let Some(member) = members.next_entry() {
        let member = member.map_err(damaged)?;
        let content: Box<dyn Read + '_> = match member.header().identifier() {
            b"data.tar.xz" | b"data.tar.xz/" => Box::new(liblzma::read::XzDecoder::new(member)),
            b"data.tar.zst" | b"data.tar.zst/" => {
                Box::new(zstd::stream::read::Decoder::new(member).map_err(damaged)?)
            }
            b"data.tar" | b"data.tar/" => Box::new(member),
            _ => continue,
        };
        let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, content));
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let Some(path) = inner_path(&entry.path().map_err(damaged)?) else {
                continue;
            };
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let size_bytes = entry.size();
                if size_bytes > ENTRY_BYTES_MAX {
                    return Err(ReadDebError::TooLarge {
                        package: package.to_path_buf(),
                        path,
                        size_bytes,
                    });
                }
                visit(&path, Entry::File(&mut entry))?;
            } else if kind.is_symlink()
                && let Some(target) = entry.link_name().map_err(damaged)?
            {
                visit(&path, Entry::Link(target.into_owned()))?;
            }
        }
        return Ok(());
    }
    Err(ReadDebError::NoData {
        package: package.to_path_buf(),
    })
}

/// `./usr/lib/x` as `lib/x`. Nothing for a path that is not plain UTF-8 names (`..` never leaves the target folder).
fn inner_path(path: &Path) -> Option<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str()?),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    if names.first() == Some(&"usr") {
        names.remove(0);
    }
    (!names.is_empty()).then(|| names.join("/"))
}
