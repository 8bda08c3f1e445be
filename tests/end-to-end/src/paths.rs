//! Where programs, caches and artefacts are, and the disk image that is installed.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::process::run;

/// Downloading a Debian base system and making an image of it.
const OS_IMAGE_TIMEOUT: Duration = Duration::from_secs(600);

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn repository() -> PathBuf {
    crate_folder().join("../..")
}

fn folder(variable: &str, default: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| repository().join(default), PathBuf::from)
}

/// Downloads that outlive a run.
pub(crate) fn cache() -> Result<PathBuf> {
    let cache = folder("LAMPLIGHTER_CACHE", ".cache");
    std::fs::create_dir_all(&cache)
        .with_context(|| format!("cannot make the cache {}", cache.display()))?;
    Ok(cache.canonicalize()?)
}

/// What is kept is made by one test at a time: who comes meanwhile waits, and finds it there.
fn alone(cache: &Path) -> Result<File> {
    let path = cache.join("end-to-end.lock");
    let lock = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("waiting for {}", path.display()))?;
    Ok(lock)
}

/// An empty folder for what a test leaves behind.
pub(crate) fn artefacts(test: &str) -> Result<PathBuf> {
    let folder = folder("LAMPLIGHTER_ARTEFACTS", "target/vm-logs").join(test);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder for logs {}", folder.display()))?;
    Ok(folder.canonicalize()?)
}

/// One of the programs under test.
///
/// # Errors
/// When it is not there.
fn static_program(name: &str) -> Result<PathBuf> {
    let path = folder(
        "LAMPLIGHTER_BIN_DIR",
        "target/x86_64-unknown-linux-gnu/release",
    )
    .join(name);
    ensure!(
        path.is_file(),
        "there is no program {}: build it (cargo build --release --target x86_64-unknown-linux-gnu with \
         RUSTFLAGS=-Ctarget-feature=+crt-static) or set LAMPLIGHTER_BIN_DIR to its folder",
        path.display()
    );
    Ok(path.canonicalize()?)
}

/// `lamplighter`.
///
/// # Errors
/// When it is not there.
pub fn program() -> Result<PathBuf> {
    static_program("lamplighter")
}

/// `lamplighter-agent`.
///
/// # Errors
/// When it is not there.
pub fn agent_program() -> Result<PathBuf> {
    static_program("lamplighter-agent")
}

/// A small real Debian as a raw disk image; made once and kept in the cache until its recipe changes.
///
/// # Errors
/// When it cannot be built.
pub fn os_image() -> Result<PathBuf> {
    let recipe = crate_folder().join("os-image/build.sh");
    let cache = cache()?;
    let _alone = alone(&cache)?;
    let image = cache.join("end-to-end").join("os-image.raw");
    let age = |path: &Path| path.metadata().and_then(|meta| meta.modified());
    let is_current = matches!((age(&image), age(&recipe)), (Ok(made), Ok(wanted)) if made > wanted);
    if !is_current {
        let out = image.display().to_string();
        run(None, OS_IMAGE_TIMEOUT, &recipe, &[&out])?;
    }
    Ok(image)
}

/// Fetches what boot media are made of while there still is a way to the Internet: HQ's namespace has none.
pub(crate) fn warm_boot_media_cache() -> Result<PathBuf> {
    let cache = cache()?;
    let _alone = alone(&cache)?;
    let cache = cache.join("boot-media");
    let scratch = tempfile::tempdir()?;
    boot_media::build_media(&boot_media::MediaRequest {
        agent: &agent_program()?,
        files: Vec::new(),
        command_line: String::new(),
        cache_dir: &cache,
        out_dir: scratch.path(),
        kernel: boot_media::KernelChoice::default(),
        sources: boot_media::PackageSources::default(),
    })
    .context("cannot fetch what boot media are made of")?;
    Ok(cache)
}
