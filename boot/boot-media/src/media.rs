//! Boot media from a request: packages in, four files out, built once per set of inputs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::deb::{self, Entry, ReadDebError};
use crate::file::{self, FileError};
use crate::firmware::{self, FIRMWARE_PACKAGES};
use crate::initramfs::{Archive, InitramfsError};
use crate::kernel::{Kernel, UnpackKernelError};
use crate::local_boot::local_boot_program;
use crate::modinfo;
use crate::modules;
use crate::packages::{Package, PackageError, PackageSource, PackageSources};
use crate::pe::PeError;
use crate::uki::{UkiParts, build_uki};

/// Modules, firmware and folders are compressed hard: once per kernel, and every machine fetches the result.
const BASE_ZSTD_LEVEL: i32 = 19;
/// The agent changes with each release of ours.
const AGENT_ZSTD_LEVEL: i32 = 15;
/// Raise when the code below puts other bytes into its output, so that no cached output of older code is taken.
const FORMAT: &str = "boot-media 1";
/// Finished builds kept in the cache, the newest ones; each is about 40 MB.
const BUILDS_KEPT: usize = 8;
/// Kernels kept unpacked and compressed as the initramfs's base; each is about 15 MB.
const BASES_KEPT: usize = 4;
/// Longest command line that the kernel takes on x86, less what a boot loader may add.
const COMMAND_LINE_BYTES_MAX: usize = 1536;
const MODULE_LIST: &str = include_str!("module-list.txt");
const STUB_PACKAGE: &str = "systemd-boot-efi";
const STUB_PATH: &str = "lib/systemd/boot/efi/linuxx64.efi.stub";
const OS_RELEASE: &str =
    "ID=lamplighter\nNAME=\"Lamplighter\"\nPRETTY_NAME=\"Lamplighter imaging agent\"\n";

/// What boot media are to be built from.
#[derive(Debug, Clone)]
pub struct MediaRequest<'a> {
    /// The agent: a static x86-64 program, which becomes `/init`.
    pub agent: &'a Path,
    /// Further files: path in the initramfs (relative to `/`) and content, such as `etc/lamplighter/root.doc`.
    pub files: Vec<(String, Vec<u8>)>,
    /// The kernel's command line inside the UKI, at most 1536 bytes of printable ASCII.
    pub command_line: String,
    /// Where packages and finished builds are kept. One build at a time uses it; others wait.
    pub cache_dir: &'a Path,
    /// Where the four files are written.
    pub out_dir: &'a Path,
    /// Which kernel.
    pub kernel: KernelChoice,
    /// Where packages come from; by default what this machine's apt is set up for.
    pub sources: PackageSources,
}

/// Which of Debian's kernels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// `linux-image-amd64`: every driver there is; for real machines.
    #[default]
    Generic,
    /// A package by name: a metapackage (`linux-image-cloud-amd64`) or a version (`linux-image-6.1.0-56-amd64`).
    Package(String),
}

impl KernelChoice {
    fn package(&self) -> &str {
        match self {
            Self::Generic => "linux-image-amd64",
            Self::Package(name) => name,
        }
    }
}

/// A file of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltFile {
    /// Its name in `out_dir`.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its content, in hexadecimal.
    pub blake3: String,
}

/// What was built, and what is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaReport {
    /// As `uname -r` says it.
    pub kernel_release: String,
    /// Package and version that the kernel came from.
    pub kernel_package: String,
    /// `vmlinuz`: the kernel, for boot loaders that take kernel and initramfs apart.
    pub kernel: BuiltFile,
    /// `initramfs.cpio.zst`.
    pub initramfs: BuiltFile,
    /// `lamplighter.efi`: the UKI, both in one file with the command line.
    pub uki: BuiltFile,
    /// `local.efi`: starts what is on the disk of a UEFI machine.
    pub local: BuiltFile,
    /// Modules in the initramfs.
    pub modules: Vec<String>,
    /// Listed modules that this kernel has neither as a file nor built in.
    pub modules_missing: Vec<String>,
    /// Firmware files in the initramfs.
    pub firmware: Vec<String>,
    /// Firmware that some module may ask for and no package of the sources has. The machines with such a device may lack it.
    pub firmware_missing: Vec<String>,
    /// Firmware packages that the sources do not offer; mostly because they leave out `non-free-firmware`.
    pub firmware_packages_missing: Vec<String>,
}

/// Boot media that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildMediaError {
    /// A package cannot be found or fetched.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A package file cannot be read.
    #[error(transparent)]
    Deb(#[from] ReadDebError),
    /// The kernel's package cannot be used.
    #[error(transparent)]
    Kernel(#[from] UnpackKernelError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A path or file cannot go into the initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The stub does not take the sections.
    #[error("cannot build the UKI with the stub of {package}")]
    Uki {
        /// The stub's package and version.
        package: String,
        /// The cause.
        #[source]
        source: PeError,
    },
    /// The stub is not where it should be in its package.
    #[error("the package {package} has no usr/{STUB_PATH}")]
    NoStub {
        /// Package and version.
        package: String,
    },
    /// The agent is not a program that can run alone in an initramfs.
    #[error("{} cannot be the agent: {what}", path.display())]
    Agent {
        /// The file given.
        path: PathBuf,
        /// What is wrong and what to do.
        what: &'static str,
    },
    /// The command line is too long or has bytes that boot loaders change.
    #[error(
        "the command line has {size_bytes} bytes or is not printable ASCII; at most {COMMAND_LINE_BYTES_MAX} are allowed"
    )]
    CommandLine {
        /// Its size.
        size_bytes: usize,
    },
    /// A cached report cannot be read or a new one written.
    #[error("cannot use the build report {}", path.display())]
    Report {
        /// The report.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// The part of a build that depends on packages and the module list only.
#[derive(Serialize, Deserialize)]
struct BaseReport {
    release: String,
    modules: Vec<String>,
    modules_missing: Vec<String>,
    firmware: Vec<String>,
    firmware_missing: Vec<String>,
}

/// The packages of a build.
struct Inputs {
    kernel: Package,
    stub: Package,
    firmware: Vec<Package>,
    firmware_missing: Vec<String>,
}

/// Builds `vmlinuz`, `initramfs.cpio.zst`, `lamplighter.efi` and `local.efi` into `out_dir`. The same packages, agent,
/// files and command line give the same bytes. Needs `apt-get` and `apt-cache`, and the network when a package or the
/// lists are not in the cache. Takes about half a minute for a new kernel, a second or two for a new agent.
///
/// # Errors
/// [`BuildMediaError`]; files in `out_dir` are complete or untouched.
pub fn build_media(request: &MediaRequest<'_>) -> Result<MediaReport, BuildMediaError> {
    let agent = read_agent(request.agent)?;
    check_command_line(&request.command_line)?;
    file::make_folder(request.cache_dir)?;
    file::make_folder(request.out_dir)?;
    let _lock = lock(request.cache_dir)?;

    let source = PackageSource::open(request.cache_dir, &request.sources)?;
    let inputs = find_inputs(&source, request.kernel.package())?;
    let base_key = base_key(&inputs);
    let key = build_key(request, &agent, &base_key, &inputs.stub);
    let finished = request.cache_dir.join("builds").join(&key);
    if !finished.join("report.json").exists() {
        let base = request.cache_dir.join("bases").join(base_key);
        if !base.join("report.json").exists() {
            make_base(&source, &inputs, &base)?;
            keep_newest(&request.cache_dir.join("bases"), BASES_KEPT);
        }
        assemble(request, agent, &source, &inputs, &base, &finished)?;
        keep_newest(&request.cache_dir.join("builds"), BUILDS_KEPT);
    }
    let report: MediaReport = read_report(&finished)?;
    for built in [
        &report.kernel,
        &report.initramfs,
        &report.uki,
        &report.local,
    ] {
        file::write(
            &request.out_dir.join(&built.name),
            &file::read(&finished.join(&built.name))?,
        )?;
    }
    Ok(report)
}

fn read_agent(path: &Path) -> Result<Vec<u8>, BuildMediaError> {
    let agent = file::read(path)?;
    let what = match modinfo::needs_loader(&agent) {
        Some(false) => return Ok(agent),
        Some(true) => {
            "it is linked dynamically, and an initramfs has no loader: build it with -C target-feature=+crt-static for an explicit --target"
        }
        None => "it is no program for 64-bit x86",
    };
    Err(BuildMediaError::Agent {
        path: path.to_path_buf(),
        what,
    })
}

fn check_command_line(command_line: &str) -> Result<(), BuildMediaError> {
    let printable = command_line
        .bytes()
        .all(|byte| (b' '..=b'~').contains(&byte));
    if printable && command_line.len() <= COMMAND_LINE_BYTES_MAX {
        return Ok(());
    }
    Err(BuildMediaError::CommandLine {
        size_bytes: command_line.len(),
    })
}

/// One build at a time in a cache; the lock ends with the file.
fn lock(cache: &Path) -> Result<File, FileError> {
    let path = cache.join("lock");
    let lock = File::create(&path).map_err(FileError::of("create", &path))?;
    lock.lock().map_err(FileError::of("lock", &path))?;
    Ok(lock)
}

fn find_inputs(source: &PackageSource, kernel: &str) -> Result<Inputs, PackageError> {
    let mut firmware = Vec::new();
    let mut firmware_missing = Vec::new();
    for name in FIRMWARE_PACKAGES {
        match source.find(name) {
            Ok(package) => firmware.push(package),
            Err(PackageError::NotFound { package }) => firmware_missing.push(package),
            Err(error) => return Err(error),
        }
    }
    Ok(Inputs {
        kernel: source.find_kernel(kernel)?,
        stub: source.find(STUB_PACKAGE)?,
        firmware,
        firmware_missing,
    })
}

/// Hashes fields so that no two lists of fields hash alike: each with its length.
fn key<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for field in fields {
        hasher
            .update(&(field.len() as u64).to_le_bytes())
            .update(field);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn base_key(inputs: &Inputs) -> String {
    let firmware = inputs
        .firmware
        .iter()
        .map(|package| package.sha256.as_bytes());
    let fixed = [
        FORMAT.as_bytes(),
        MODULE_LIST.as_bytes(),
        inputs.kernel.sha256.as_bytes(),
    ];
    key(fixed.into_iter().chain(firmware))
}

fn build_key(request: &MediaRequest<'_>, agent: &[u8], base_key: &str, stub: &Package) -> String {
    let local = local_boot_program();
    let fixed = [
        base_key.as_bytes(),
        stub.sha256.as_bytes(),
        agent,
        request.command_line.as_bytes(),
        &local,
    ];
    let files = request
        .files
        .iter()
        .flat_map(|(path, content)| [path.as_bytes(), content.as_slice()]);
    key(fixed.into_iter().chain(files))
}

/// Fetches the kernel and firmware and puts `vmlinuz` and the first part of the initramfs into `folder`.
fn make_base(
    source: &PackageSource,
    inputs: &Inputs,
    folder: &Path,
) -> Result<(), BuildMediaError> {
    tracing::info!(kernel = %inputs.kernel.name, version = %inputs.kernel.version, "unpacking kernel and modules");
    file::make_folder(folder)?;
    let work = tempfile::Builder::new()
        .prefix("kernel-")
        .tempdir_in(folder)
        .map_err(FileError::of("make a temporary folder in", folder))?;
    let kernel = Kernel::unpack(&source.fetch(&inputs.kernel)?, work.path())?;
    let selection = kernel.modules.select(&modules::parse_list(MODULE_LIST));

    let mut archive = Archive::default();
    for name in [
        "dev", "proc", "sys", "run", "tmp", "mnt", "etc", "root", "sbin",
    ] {
        archive.folder(name)?;
    }
    // The kernel opens it for /init before any file system is mounted.
    archive.character_device("dev/console", 5, 1)?;
    // What the kernel calls when it wants a module itself; the agent answers to this name too.
    archive.link("sbin/modprobe", "/init")?;
    let modules_folder = format!("lib/modules/{}", kernel.release);
    let mut wanted = BTreeSet::new();
    for module in selection
        .names
        .iter()
        .filter_map(|name| kernel.modules.get(name))
    {
        archive.file(
            &format!("{modules_folder}/{}", module.path),
            false,
            kernel.read_module(module)?,
        )?;
        wanted.extend(module.info.firmware.iter().cloned());
    }
    for (name, content) in kernel.modules.index_files(&selection.names) {
        archive.file(
            &format!("{modules_folder}/{name}"),
            false,
            content.into_bytes(),
        )?;
    }
    archive.file(
        &format!("{modules_folder}/modules.builtin"),
        false,
        kernel.builtin.into_bytes(),
    )?;

    let packages = inputs.firmware.iter().map(|package| source.fetch(package));
    let packages = packages.collect::<Result<Vec<_>, _>>()?;
    let found = firmware::collect(&packages, &wanted)?;
    let report = BaseReport {
        release: kernel.release,
        modules: selection.names.into_iter().collect(),
        modules_missing: selection.missing,
        firmware: found.keys().cloned().collect(),
        firmware_missing: wanted
            .into_iter()
            .filter(|name| !found.contains_key(name))
            .collect(),
    };
    for (name, content) in found {
        archive.file(&format!("lib/firmware/{name}"), false, content)?;
    }
    file::write(&folder.join("vmlinuz"), &kernel.image)?;
    file::write(
        &folder.join("base.cpio.zst"),
        &archive.to_zstd(BASE_ZSTD_LEVEL)?,
    )?;
    write_report(folder, &report)
}

/// Adds the agent and the request's files to the base, makes the UKI, and puts the four files into `finished`.
fn assemble(
    request: &MediaRequest<'_>,
    agent: Vec<u8>,
    source: &PackageSource,
    inputs: &Inputs,
    base: &Path,
    finished: &Path,
) -> Result<(), BuildMediaError> {
    let base_report: BaseReport = read_report(base)?;
    let mut archive = Archive::default();
    for (path, content) in &request.files {
        archive.file(path, false, content.clone())?;
    }
    archive.file("init", true, agent)?;
    let mut initramfs = file::read(&base.join("base.cpio.zst"))?;
    initramfs.extend(archive.to_zstd(AGENT_ZSTD_LEVEL)?);
    let kernel = file::read(&base.join("vmlinuz"))?;
    let package = format!("{} {}", inputs.stub.name, inputs.stub.version);
    let stub = read_stub(&source.fetch(&inputs.stub)?)?.ok_or_else(|| BuildMediaError::NoStub {
        package: package.clone(),
    })?;
    let uki = build_uki(&UkiParts {
        stub: &stub,
        os_release: OS_RELEASE,
        command_line: &request.command_line,
        kernel_release: &base_report.release,
        kernel: &kernel,
        initramfs: &initramfs,
    })
    .map_err(|source| BuildMediaError::Uki { package, source })?;

    file::make_folder(finished)?;
    let write = |name: &str, content: &[u8]| {
        file::write(&finished.join(name), content).map(|()| BuiltFile {
            name: name.to_owned(),
            size_bytes: content.len() as u64,
            blake3: blake3::hash(content).to_hex().to_string(),
        })
    };
    let report = MediaReport {
        kernel_release: base_report.release,
        kernel_package: format!("{} {}", inputs.kernel.name, inputs.kernel.version),
        kernel: write("vmlinuz", &kernel)?,
        initramfs: write("initramfs.cpio.zst", &initramfs)?,
        uki: write("lamplighter.efi", &uki)?,
        local: write("local.efi", &local_boot_program())?,
        modules: base_report.modules,
        modules_missing: base_report.modules_missing,
        firmware: base_report.firmware,
        firmware_missing: base_report.firmware_missing,
        firmware_packages_missing: inputs.firmware_missing.clone(),
    };
    write_report(finished, &report)
}

fn read_stub(package: &Path) -> Result<Option<Vec<u8>>, ReadDebError> {
    let mut stub = None;
    deb::for_each_file(package, |path, entry| {
        if let (STUB_PATH, Entry::File(content)) = (path, entry) {
            let mut bytes = Vec::new();
            content
                .read_to_end(&mut bytes)
                .map_err(FileError::of("unpack", Path::new(path)))?;
            stub = Some(bytes);
        }
        Ok(())
    })?;
    Ok(stub)
}

/// The report is written last, so a folder that has one is complete.
fn write_report(folder: &Path, report: &impl Serialize) -> Result<(), BuildMediaError> {
    let path = folder.join("report.json");
    let text = serde_json::to_vec_pretty(report).map_err(|source| BuildMediaError::Report {
        path: path.clone(),
        source,
    })?;
    Ok(file::write(&path, &text)?)
}

fn read_report<T: for<'de> Deserialize<'de>>(folder: &Path) -> Result<T, BuildMediaError> {
    let path = folder.join("report.json");
    serde_json::from_slice(&file::read(&path)?)
        .map_err(|source| BuildMediaError::Report { path, source })
}

/// Deletes all but the newest `kept` folders below `folder`. What cannot be deleted stays: it costs space only.
fn keep_newest(folder: &Path, kept: usize) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut dated: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    dated.sort();
    for (_, path) in dated.iter().rev().skip(kept) {
        if let Err(error) = fs::remove_dir_all(path) {
            tracing::warn!(path = %path.display(), %error, "cannot delete an old build from the cache");
        }
    }
}
