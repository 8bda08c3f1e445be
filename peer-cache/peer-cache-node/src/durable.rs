//! Files that are whole or the ones before, whatever happens.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// Replaces a file: a temporary file beside it, flushed, renamed, the folder flushed. Makes the folder if it is not there.
///
/// # Errors
/// When the medium refuses; the file is then what it was.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}
