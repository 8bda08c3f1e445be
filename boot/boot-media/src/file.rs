//! Reading and writing whole files, with errors that name the file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that could not be read, written, made or moved.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// What was tried, as a verb: `read`, `write`, ...
    pub action: &'static str,
    /// Which file or folder.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: gives the system's error its action and path.
    pub(crate) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// The whole content of `path`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::of("read", path))
}

/// Makes `path` and the folders above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::of("make the folder", path))
}

/// Writes `path` so that it never exists half written: a temporary file beside it, synced, then renamed.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut part = tempfile::Builder::new()
        .prefix(".part-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(FileError::of("make a temporary file in", folder))?;
    part.write_all(content)
        .and_then(|()| part.as_file().sync_all())
        .map_err(FileError::of("write", path))?;
    part.persist(path)
        .map_err(|error| FileError::of("rename a temporary file to", path)(error.error))?;
    Ok(())
}
