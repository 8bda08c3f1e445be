//! Debian packages, found and fetched by apt in folders of our own: nothing is installed, and no root is needed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::file::{self, FileError};

/// Package lists older than this are fetched again. A day-old kernel is a good kernel; a build should not wait for mirrors.
const LISTS_AGE_MAX: Duration = Duration::from_secs(12 * 3600);
/// Lines of apt's complaint that an error carries.
const STDERR_LINES_MAX: usize = 6;

/// Where packages come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PackageSources {
    /// What this machine's own apt is set up for.
    #[default]
    Host,
    /// A `sources.list` or `.sources` file: another mirror, a newer release, or one with `non-free-firmware`.
    File(PathBuf),
}

/// A package that could not be found or fetched.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A program of the host is missing.
    #[error(
        "building boot media needs the program '{program}' (Debian package {debian_package}), which is not installed"
    )]
    ProgramMissing {
        /// Its name.
        program: &'static str,
        /// What to install.
        debian_package: &'static str,
    },
    /// The sources do not have it.
    #[error("the package sources have no package '{package}' for amd64")]
    NotFound {
        /// Its name.
        package: String,
    },
    /// apt failed; mostly the network's or the mirror's fault, so trying again later may help.
    #[error("{command} failed: {complaint}")]
    Apt {
        /// The command in short.
        command: String,
        /// The end of its error output.
        complaint: String,
    },
    /// apt's description of a package lacks a field or has an odd one.
    #[error("apt describes the package '{package}' without a usable field '{field}'")]
    Description {
        /// Its name.
        package: String,
        /// The field.
        field: &'static str,
    },
    /// A file or folder of the cache.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One version of one package, as the sources offer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Of the package file, in hexadecimal: names the version better than the version does.
    pub(crate) sha256: String,
    size_bytes: u64,
    depends: String,
}

/// apt with lists and downloads in a folder of ours.
pub(crate) struct PackageSource {
    folder: PathBuf,
    downloads: PathBuf,
    options: Vec<String>,
}

impl PackageSource {
    /// Opens the package lists under `cache`, fetching them when there are none or they are old. When they cannot be
    /// fetched but old ones are there, goes on with those: a build must work while the WAN is down.
    pub(crate) fn open(cache: &Path, sources: &PackageSources) -> Result<Self, PackageError> {
        let name = match sources {
            PackageSources::Host => "host".to_owned(),
            PackageSources::File(path) => {
                blake3::hash(&file::read(path)?).to_hex()[..16].to_owned()
            }
        };
        let folder = cache.join("apt").join(name);
        let downloads = cache.join("packages");
        for needed in ["state/lists/partial", "cache/archives/partial"] {
            file::make_folder(&folder.join(needed))?;
        }
        file::make_folder(&downloads)?;
        // "Nothing is installed": a dependency is never already there.
        let status = folder.join("status");
        if !status.exists() {
            file::write(&status, b"")?; // only once: apt rebuilds its caches, a second a call, when it is newer
        }
        let mut options = vec![
            format!("Dir::State={}", folder.join("state").display()),
            format!("Dir::State::status={}", status.display()),
            format!("Dir::Cache={}", folder.join("cache").display()),
            // Container images switch these caches off; without them each look-up parses every list again.
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(),
            "Dir::Cache::srcpkgcache=srcpkgcache.bin".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::http::Timeout=30".to_owned(),
            // As root apt would drop to its own user, who may not enter our folders.
            "APT::Sandbox::User=root".to_owned(),
        ];
        if let PackageSources::File(path) = sources {
            let path = path
                .canonicalize()
                .map_err(FileError::of("find the sources file", path))?;
            options.push(format!("Dir::Etc::sourcelist={}", path.display()));
            options.push("Dir::Etc::sourceparts=/dev/null".to_owned());
        }
        let source = Self {
            folder,
            downloads,
            options,
        };
        let stamp = source.folder.join("lists-fetched");
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .map(|at| at.elapsed().unwrap_or_default());
        if age.is_none_or(|age| age > LISTS_AGE_MAX) {
            match source.update() {
                Err(error @ PackageError::Apt { .. }) if age.is_some() => {
                    tracing::warn!(%error, "package lists are old and cannot be fetched: going on with them");
                }
                other => other?,
            }
        }
        Ok(source)
    }

    fn update(&self) -> Result<(), PackageError> {
        tracing::info!("fetching package lists");
        // without it apt says yes to empty lists when there is no network
        self.run(
            "apt-get",
            &["-o", "APT::Update::Error-Mode=any", "update"],
            None,
        )?;
        file::write(&self.folder.join("lists-fetched"), b"")?;
        Ok(())
    }

    /// The version of `name` that apt would install.
    pub(crate) fn find(&self, name: &str) -> Result<Package, PackageError> {
        let not_found = || PackageError::NotFound {
            package: name.to_owned(),
        };
        // Package names only (Debian policy 5.6.1): an odd one never becomes an option or a pattern.
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c));
        if name.starts_with('-') || name.contains(odd) {
            return Err(not_found());
        }
        let shown = match self.run("apt-cache", &["show", "--no-all-versions", name], None) {
            // Known by name only, because another package asks for it or provides it: described by nothing.
            Ok(shown) if shown.stdout.trim_ascii().is_empty() => return Err(not_found()),
            Ok(shown) => shown,
            Err(PackageError::Apt { complaint, .. }) if complaint.contains("No packages found") => {
                return Err(not_found());
            }
            Err(error) => return Err(error),
        };
        parse_description(name, &String::from_utf8_lossy(&shown.stdout))
    }

    /// The versioned package that the metapackage `name` stands for, or `name` itself when it is one.
    pub(crate) fn find_kernel(&self, name: &str) -> Result<Package, PackageError> {
        let package = self.find(name)?;
        match package.kernel_dependency() {
            Some(versioned) => self.find(versioned),
            None => Ok(package),
        }
    }

    /// The package's file, from the cache or fetched now. apt checks what it fetches against the signed lists.
    pub(crate) fn fetch(&self, package: &Package) -> Result<PathBuf, PackageError> {
        let short = package.sha256.get(..16).unwrap_or(&package.sha256);
        let kept = self.downloads.join(format!("{}-{short}.deb", package.name));
        if fs::metadata(&kept).is_ok_and(|meta| meta.len() == package.size_bytes) {
            return Ok(kept);
        }
        tracing::info!(package = %package.name, version = %package.version, size_bytes = package.size_bytes, "fetching package");
        let folder = tempfile::Builder::new()
            .prefix(".part-")
            .tempdir_in(&self.downloads)
            .map_err(FileError::of("make a temporary folder in", &self.downloads))?;
        let wanted = format!("{}={}", package.name, package.version);
        self.run("apt-get", &["download", &wanted], Some(folder.path()))?;
        let fetched = fs::read_dir(folder.path())
            .and_then(|mut entries| entries.next().ok_or(io::ErrorKind::NotFound)?)
            .map_err(FileError::of(
                "find the package that apt put into",
                folder.path(),
            ))?
            .path();
        fs::rename(&fetched, &kept).map_err(FileError::of("move a fetched package to", &kept))?;
        Ok(kept)
    }

    fn run(
        &self,
        program: &'static str,
        arguments: &[&str],
        folder: Option<&Path>,
    ) -> Result<Output, PackageError> {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command.args(arguments).env("LC_ALL", "C.UTF-8");
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        let short = || format!("{program} {}", arguments.join(" "));
        let output = command.output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PackageError::ProgramMissing {
                program,
                debian_package: "apt",
            },
            _ => PackageError::Apt {
                command: short(),
                complaint: error.to_string(),
            },
        })?;
        if output.status.success() {
            return Ok(output);
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = complaint.lines().collect();
        let last = &lines[lines.len().saturating_sub(STDERR_LINES_MAX)..];
        Err(PackageError::Apt {
            command: short(),
            complaint: format!("{} ({})", last.join(" | "), output.status),
        })
    }
}

impl Package {
    /// `linux-image-amd64` depends on `linux-image-6.1.0-56-amd64 (= 6.1.192-2)`: its name, if there is such a one.
    fn kernel_dependency(&self) -> Option<&str> {
        self.depends
            .split([',', '|'])
            .filter_map(|one| one.split_whitespace().next())
            .find(|name| {
                name.strip_prefix("linux-image-")
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
    }
}

/// Reads the fields we need out of `apt-cache show`.
fn parse_description(name: &str, description: &str) -> Result<Package, PackageError> {
    let field = |field: &'static str| {
        description
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
    };
    let missing = |field| PackageError::Description {
        package: name.to_owned(),
        field,
    };
    let sha256 = field("SHA256").ok_or_else(|| missing("SHA256"))?;
    if sha256.len() != 64 || sha256.contains(|c: char| !c.is_ascii_hexdigit()) {
        return Err(missing("SHA256"));
    }
    Ok(Package {
        name: name.to_owned(),
        version: field("Version")
            .ok_or_else(|| missing("Version"))?
            .to_owned(),
        sha256: sha256.to_owned(),
        size_bytes: field("Size")
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| missing("Size"))?,
        depends: field("Depends").unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests;
