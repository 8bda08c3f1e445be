//! A kernel package, unpacked: the kernel's file and its modules.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::deb::{self, Entry, ReadDebError};
use crate::file::{self, FileError};
use crate::modinfo::{self, ModInfo};
use crate::modules::{Module, ModuleIndex};

/// A kernel package that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnpackKernelError {
    /// The package cannot be read or stored.
    #[error(transparent)]
    Deb(#[from] ReadDebError),
    /// A module cannot be read back.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no kernel in the package.
    #[error("{} holds no {what}: is it a Debian kernel package (linux-image-...)?", package.display())]
    NotAKernel {
        /// The package file.
        package: PathBuf,
        /// What is not there.
        what: &'static str,
    },
}

/// A kernel whose modules lie below a working folder.
pub(crate) struct Kernel {
    /// As `uname -r` says it: `6.1.0-56-amd64`.
    pub(crate) release: String,
    /// The bootable file.
    pub(crate) image: Vec<u8>,
    /// What the kernel has built in: `modules.builtin`, for whoever looks for a module that is none.
    pub(crate) builtin: String,
    pub(crate) modules: ModuleIndex,
    folder: PathBuf,
}

impl Kernel {
    /// Unpacks the package file `package` into the empty folder `folder` (about 300 MB). Compressed modules are
    /// unpacked: the initramfs compresses them together, which is smaller, and their signatures stay valid.
    pub(crate) fn unpack(package: &Path, folder: &Path) -> Result<Self, UnpackKernelError> {
        let mut image: Option<(String, Vec<u8>)> = None;
        let mut paths: BTreeMap<String, String> = BTreeMap::new();
        let mut builtin = String::new();
        deb::for_each_file(package, |path, entry| {
            let Entry::File(content) = entry else {
                return Ok(());
            };
            let read_all = |content: &mut dyn Read| {
                let mut bytes = Vec::new();
                content
                    .read_to_end(&mut bytes)
                    .map(|_| bytes)
                    .map_err(FileError::of("unpack", Path::new(path)))
            };
            if let Some(release) = path.strip_prefix("boot/vmlinuz-") {
                image = Some((release.to_owned(), read_all(content)?));
            } else if let Some((_, inner)) = path
                .strip_prefix("lib/modules/")
                .and_then(|rest| rest.split_once('/'))
            {
                if inner == "modules.builtin" {
                    builtin = String::from_utf8_lossy(&read_all(content)?).into_owned();
                } else if let Some(plain) = plain_module_path(inner)
                    && let Some(name) = modinfo::module_name(&plain)
                {
                    unpack_module(content, path, &folder.join(&plain))?;
                    paths.insert(name, plain);
                }
            }
            Ok(())
        })?;
        let not_a_kernel = |what| UnpackKernelError::NotAKernel {
            package: package.to_path_buf(),
            what,
        };
        let (release, image) = image.ok_or_else(|| not_a_kernel("boot/vmlinuz-RELEASE"))?;
        if paths.is_empty() {
            return Err(not_a_kernel("modules"));
        }
        let mut modules = BTreeMap::new();
        for (name, path) in paths {
            let info = modinfo::parse(&file::read(&folder.join(&path))?).unwrap_or_else(|| {
                tracing::warn!(
                    module = name,
                    "module without .modinfo: taken as one that needs nothing"
                );
                ModInfo::default()
            });
            modules.insert(name, Module { path, info });
        }
        Ok(Self {
            modules: ModuleIndex::new(modules, &builtin),
            release,
            image,
            builtin,
            folder: folder.to_path_buf(),
        })
    }

    /// The content of a module's file.
    pub(crate) fn read_module(&self, module: &Module) -> Result<Vec<u8>, FileError> {
        file::read(&self.folder.join(&module.path))
    }
}

/// `kernel/a.ko.xz` as `kernel/a.ko`; nothing for a file that is no module.
fn plain_module_path(path: &str) -> Option<String> {
    let plain = path
        .strip_suffix(".xz")
        .or_else(|| path.strip_suffix(".zst"))
        .unwrap_or(path);
    plain.ends_with(".ko").then(|| plain.to_owned())
}

fn unpack_module(content: &mut dyn Read, path: &str, target: &Path) -> Result<(), FileError> {
    if let Some(folder) = target.parent() {
        file::make_folder(folder)?;
    }
    let failed = || FileError::of("unpack a module to", target);
    let mut out = File::create(target).map_err(failed())?;
    let copied = if path.ends_with(".xz") {
        io::copy(&mut liblzma::read::XzDecoder::new(content), &mut out)
    } else if path.ends_with(".zst") {
        zstd::stream::read::Decoder::new(content)
            .and_then(|mut plain| io::copy(&mut plain, &mut out))
    } else {
        io::copy(content, &mut out)
    };
    copied.map(|_| ()).map_err(failed())
}
