//! Backups of HQ while it runs, and a new HQ out of one.
//!
//! A backup is a folder: keys, certificate and administrator's token, the database as it was at one moment, and the objects. Objects never
//! change, so a further backup into the same folder copies those alone that are new. The database comes first: whatever it names was there
//! before.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use crate::{
    bell::Bells,
    database::{Database, DatabasePlace, OpenDatabaseError, backup},
};

const DATABASE: &str = "hq.sqlite";
const STORE: &str = "store";
/// Names of files that somebody is writing.
const UNFINISHED: [char; 1] = ['#'];
const MARKER: &str = "lamplighter-backup";

/// Why there is no backup, or no HQ out of one.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The folder has something else in it.
    #[error("{path} is no backup of HQ, and not empty: nothing is written into it")]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// A backup inside of what it is of would be copied into itself.
    #[error("{path} is inside HQ's own folder")]
    Inside {
        /// Where the backup was to go.
        path: PathBuf,
    },
    /// There is nothing to make a backup of, or to restore.
    #[error("{path} has no {what}")]
    Missing {
        /// Which folder.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
    },
    /// The database cannot be copied, or not be made to count on.
    #[error("database")]
    Database(#[source] sqlx::Error),
    /// The restored database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenDatabaseError),
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Whether the database is in it; a PostgreSQL server has its own tools.
    pub database: bool,
    /// Objects that were not there before.
    pub objects: u64,
}

fn of(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

fn private_folder(path: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(of(path))
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, BackupError> {
    fs::read_dir(folder)
        .and_then(Iterator::collect)
        .map_err(of(folder))
}

fn is_empty(folder: &Path) -> Result<bool, BackupError> {
    Ok(!folder.exists() || entries(folder)?.is_empty())
}

/// Copies a file under another name first: a backup that breaks off leaves the one before whole.
fn copy_file(from: &Path, to: &Path) -> Result<(), BackupError> {
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push("#new");
    let unfinished = PathBuf::from(unfinished);
    fs::copy(from, &unfinished).map_err(of(from))?;
    let file = fs::File::open(&unfinished).map_err(of(&unfinished))?;
    file.sync_all().map_err(of(&unfinished))?;
    fs::rename(&unfinished, to).map_err(of(to))
}

/// Copies a folder; of what is there already only what may have changed. Returns how many files are new.
fn copy_folder(from: &Path, to: &Path, never_changes: bool) -> Result<u64, BackupError> {
    private_folder(to)?;
    let mut new = 0;
    for entry in entries(from)? {
        let (source, name) = (entry.path(), entry.file_name());
        let target = to.join(&name);
        if name.to_string_lossy().contains(UNFINISHED) {
            continue;
        }
        if source.is_dir() {
            new += copy_folder(&source, &target, never_changes)?;
            continue;
        }
        let is_there = target.exists();
        if is_there && never_changes {
            continue;
        }
        match copy_file(&source, &target) {
            // whoever wrote it has finished meanwhile
            Err(BackupError::Io { source: e, .. }) if e.kind() == io::ErrorKind::NotFound => {}
            copied => {
                copied?;
                new += u64::from(!is_there);
            }
        }
    }
    Ok(new)
}

/// Copies everything of HQ's folder but its database and its objects.
fn copy_keys(from: &Path, to: &Path) -> Result<(), BackupError> {
    private_folder(to)?;
    for entry in entries(from)? {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with(DATABASE) || text == STORE || text == MARKER {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        match source.is_dir() {
            true => drop(copy_folder(&source, &target, false)?),
            false => copy_file(&source, &target)?,
        }
    }
    Ok(())
}

/// Makes a backup of an HQ that may be running, in a new folder or in one that has an earlier backup. Without a database named it is the
/// file in HQ's folder.
///
/// # Errors
/// [`BackupError`]; an earlier backup in the folder is still whole then.
pub async fn back_up(
    folder: &Path,
    database: Option<&DatabasePlace>,
    to: &Path,
    with_objects: bool,
) -> Result<Copied, BackupError> {
    if !folder.join("keys").is_dir() {
        return Err(BackupError::Missing {
            path: folder.to_owned(),
            what: "keys of an HQ",
        });
    }
    let marker = to.join(MARKER);
    if !marker.exists() && !is_empty(to)? {
        return Err(BackupError::Foreign {
            path: to.to_owned(),
        });
    }
    let is_new = !to.exists();
    private_folder(to)?;
    let (own, there) = (folder.canonicalize(), to.canonicalize());
    if there.map_err(of(to))?.starts_with(own.map_err(of(folder))?) {
        if is_new {
            fs::remove_dir(to).map_err(of(to))?;
        }
        return Err(BackupError::Inside {
            path: to.to_owned(),
        });
    }
    fs::write(&marker, "").map_err(of(&marker))?;
    let file = match database {
        None => Some(folder.join(DATABASE)),
        Some(place) => place.as_file(),
    };
    let mut copied = Copied::default();
    if let Some(file) = &file {
        // SQLite would make one
        if !file.exists() {
            return Err(BackupError::Missing {
                path: folder.to_owned(),
                what: "database",
            });
        }
        let unfinished = to.join("hq.sqlite#new");
        if unfinished.exists() {
            fs::remove_file(&unfinished).map_err(of(&unfinished))?;
        }
        let copy = backup::copy(file, &unfinished).await;
        copy.map_err(BackupError::Database)?;
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&unfinished, private).map_err(of(&unfinished))?;
        let target = to.join(DATABASE);
        fs::rename(&unfinished, &target).map_err(of(&target))?;
        copied.database = true;
    }
    copy_keys(folder, to)?;
    if with_objects && folder.join(STORE).is_dir() {
        copied.objects = copy_folder(&folder.join(STORE), &to.join(STORE), true)?;
    }
    Ok(copied)
}

/// Makes HQ's folder out of a backup. Numbers that it gives go on above whatever was given since: nodes follow no number that is not higher.
/// With a server's database named, that one was restored by the server's own tools before, and counts on.
///
/// # Errors
/// [`BackupError`]; there is no folder then, or it is as it was.
pub async fn restore(
    from: &Path,
    folder: &Path,
    database: Option<&DatabasePlace>,
) -> Result<Copied, BackupError> {
    if !from.join(MARKER).exists() {
        return Err(BackupError::Missing {
            path: from.to_owned(),
            what: "backup of HQ",
        });
    }
    if !is_empty(folder)? {
        return Err(BackupError::Foreign {
            path: folder.to_owned(),
        });
    }
    // beside it, also where its name ends in a slash
    let Some(mut name) = folder.file_name().map(ToOwned::to_owned) else {
        return Err(BackupError::Missing {
            path: folder.to_owned(),
            what: "name of its own",
        });
    };
    name.push("#new");
    let unfinished = folder.with_file_name(name);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(of(&unfinished))?;
    }
    copy_keys(from, &unfinished)?;
    let mut copied = Copied::default();
    if from.join(STORE).is_dir() {
        copied.objects = copy_folder(&from.join(STORE), &unfinished.join(STORE), true)?;
    }
    let place = match database {
        Some(place) => place.clone(),
        None => {
            let file = from.join(DATABASE);
            if !file.exists() {
                return Err(BackupError::Missing {
                    path: from.to_owned(),
                    what: "database: restore the server's, and name it",
                });
            }
            copy_file(&file, &unfinished.join(DATABASE))?;
            copied.database = true;
            DatabasePlace::file(unfinished.join(DATABASE))
        }
    };
    let opened = Database::open(&place, Arc::<Bells>::default()).await?;
    let what = format!("HQ was restored from {}", from.display());
    let counted = async {
        let mut change = opened.write().await?;
        backup::count_on(&mut change, &what).await?;
        change.commit().await
    };
    counted.await.map_err(BackupError::Database)?;
    opened.close().await;
    if folder.exists() {
        // it is empty
        fs::remove_dir(folder).map_err(of(folder))?;
    }
    fs::rename(&unfinished, folder).map_err(of(folder))?;
    Ok(copied)
}
