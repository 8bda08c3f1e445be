//! Kernel modules without udev: what devices ask for by their modalias is looked up and loaded, again and again until
//! nothing new appears; from then on the kernel announces what comes up.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::command_line::{self, ForModules};
use super::uevents::{Heard, Uevents};

/// Looking for devices stops after this long, found or not: a bus that never settles must not hold up the rest.
const COLDPLUG_DEADLINE: Duration = Duration::from_secs(30);
/// Buses settle when no new device has shown up for this long. USB hubs take a few hundred milliseconds per level.
const SETTLED_AFTER: Duration = Duration::from_millis(800);
const PAUSE: Duration = Duration::from_millis(100);
/// Folders below `/sys/devices` that are searched; a machine has some thousands.
const FOLDERS_MAX: usize = 100_000;

/// A module that could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadModuleError {
    /// An index file of the modules is missing or cannot be read: the initramfs is not complete.
    #[error("cannot read {}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no module of that name, nor is it built in.
    #[error("the boot media have no kernel module '{name}'")]
    Missing {
        /// The name or alias asked for.
        name: String,
    },
    /// The module's file cannot be opened.
    #[error("cannot open the kernel module {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses it: no such device, or under Secure Boot a signature it does not know.
    #[error("the kernel refuses the module {name}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// The index of modules in the initramfs, and what has been tried.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    folder: PathBuf,
    /// By name: its file and those to be loaded before, in `modules.dep`'s order (the first one last).
    files: BTreeMap<String, Vec<String>>,
    /// Patterns by what they begin with up to the first `:`, such as `pci`; with the module's name.
    aliases: BTreeMap<String, Vec<(String, String)>>,
    soft: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
    asked: ForModules,
    tried: BTreeSet<String>,
}

/// What a search for devices did.
#[derive(Debug, Default)]
pub(crate) struct Coldplug {
    /// Modules loaded, by name.
    pub(crate) loaded: Vec<String>,
    /// Modules that did not load, and why; often harmless (a driver for hardware that is switched off).
    pub(crate) failed: Vec<LoadModuleError>,
    /// Whether it ended because nothing new appeared, not because time was up.
    pub(crate) settled: bool,
}

impl Modules {
    /// Reads the index of the running kernel's modules in `/lib/modules`.
    ///
    /// # Errors
    /// [`LoadModuleError::Index`].
    pub(crate) fn open() -> Result<Self, LoadModuleError> {
        let release = nix::sys::utsname::uname()
            .map(|names| names.release().to_os_string())
            .unwrap_or_default();
        let mut modules = Self::open_folder(&Path::new("/lib/modules").join(release))?;
        modules.asked = command_line::for_modules();
        Ok(modules)
    }

    fn open_folder(folder: &Path) -> Result<Self, LoadModuleError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| LoadModuleError::Index { path, source })
        };
        let mut modules = Self {
            folder: folder.to_path_buf(),
            ..Self::default()
        };
        for line in read("modules.dep")?.lines() {
            let Some((path, before)) = line.split_once(':') else {
                continue;
            };
            let files = std::iter::once(path)
                .chain(before.split_whitespace())
                .map(str::to_owned);
            modules.files.insert(module_name(path), files.collect());
        }
        for line in read("modules.alias")?.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                let list = modules.aliases.entry(bus(pattern).to_owned()).or_default();
                list.push((pattern.to_owned(), name.to_owned()));
            }
        }
        for line in read("modules.softdep")?.lines() {
            let mut words = line.split_whitespace().skip(1);
            let Some(name) = words.next() else { continue };
            let others = words
                .filter(|word| !word.ends_with(':'))
                .map(str::to_owned)
                .collect();
            modules.soft.insert(canonical(name), others);
        }
        modules.builtin = read("modules.builtin")?.lines().map(module_name).collect();
        Ok(modules)
    }

    /// Loads a module, those it depends on, and those it would like to have. What is loaded already stays.
    ///
    /// # Errors
    /// [`LoadModuleError`]; one that is only liked (a soft dependency) is no error.
    pub(crate) fn load(&mut self, name: &str) -> Result<(), LoadModuleError> {
        let name = canonical(name);
        if self.builtin.contains(&name) {
            return Ok(());
        }
        let Some(files) = self.files.get(&name).cloned() else {
            return Err(LoadModuleError::Missing { name });
        };
        if !self.tried.insert(name.clone()) {
            return Ok(());
        }
        for liked in self.soft.get(&name).cloned().unwrap_or_default() {
            let _ = self.load_alias(&liked); // optional by definition
        }
        for file in files.iter().rev() {
            self.insert(file)?;
        }
        Ok(())
    }

    /// Loads what answers to `wanted`: a module of that name, or every module whose alias matches it.
    ///
    /// # Errors
    /// [`LoadModuleError`]: of the last module, when none of them could be loaded.
    pub(crate) fn load_alias(&mut self, wanted: &str) -> Result<(), LoadModuleError> {
        let own = canonical(wanted);
        if self.files.contains_key(&own) || self.builtin.contains(&own) {
            return self.load(&own);
        }
        let mut outcome = Err(LoadModuleError::Missing {
            name: wanted.to_owned(),
        });
        for name in self.matching(wanted) {
            let loaded = self.load(&name);
            if outcome.is_err() {
                outcome = loaded;
            }
        }
        outcome
    }

    /// Looks at every device for what it asks for and loads that, until no new device has appeared for a while. Devices
    /// behind a driver (disks behind a controller, keyboards behind a USB hub) appear as it starts, and some take longer
    /// than anyone wants to wait: a stick's disk comes a second after the stick ([`Self::keep_loading`] sees to it).
    pub(crate) fn coldplug(&mut self) -> Coldplug {
        let deadline = Instant::now() + COLDPLUG_DEADLINE;
        let mut done = Coldplug::default();
        let mut seen = BTreeSet::new();
        let mut last_news = Instant::now();
        while Instant::now() < deadline {
            let new: Vec<String> = device_aliases(Path::new("/sys/devices"))
                .into_iter()
                .filter(|alias| seen.insert(alias.clone()))
                .collect();
            for alias in &new {
                self.load_for_device(alias, &mut done);
            }
            if !new.is_empty() {
                last_news = Instant::now();
            } else if last_news.elapsed() > SETTLED_AFTER {
                done.settled = true;
                break;
            }
            thread::sleep(PAUSE);
        }
        done
    }

    /// Loads what devices ask for that come up from now on, for as long as this process lives; blocks. `uevents` were
    /// opened before the last [`Self::coldplug`], so that no device falls between the two.
    ///
    /// # Errors
    /// Of listening.
    pub(crate) fn keep_loading(mut self, uevents: &Uevents) -> io::Result<Infallible> {
        loop {
            let mut done = Coldplug::default();
            match uevents.next()? {
                Heard::Alias(alias) => self.load_for_device(&alias, &mut done),
                Heard::Lost => done = self.coldplug(),
                Heard::Other => {}
            }
            for name in done.loaded {
                tracing::info!(name, "a driver for a device that came later");
            }
        }
    }

    fn load_for_device(&mut self, alias: &str, done: &mut Coldplug) {
        for name in self.matching(alias) {
            if self.tried.contains(&name) || self.asked.blacklist.contains(&name) {
                continue;
            }
            match self.load(&name) {
                Ok(()) => done.loaded.push(name),
                Err(error) => done.failed.push(error),
            }
        }
    }

    fn matching(&self, alias: &str) -> Vec<String> {
        let patterns = self.aliases.get(bus(alias)).into_iter().flatten();
        let names: BTreeSet<String> = patterns
            .filter(|(pattern, _)| matches(pattern, alias))
            .map(|(_, name)| name.clone())
            .collect();
        names.into_iter().collect()
    }

    fn insert(&self, file: &str) -> Result<(), LoadModuleError> {
        let path = self.folder.join(file);
        let open = File::open(&path).map_err(|source| LoadModuleError::Open {
            path: path.clone(),
            source,
        })?;
        let name = module_name(file);
        // a command line holds no zero
        let given = self.asked.parameters.get(&name).cloned();
        let given = CString::new(given.unwrap_or_default()).unwrap_or_default();
        match finit_module(open, &given, ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(source) => Err(LoadModuleError::Refused { name, source }),
        }
    }
}

/// The module that the kernel wants when it has called this program as `/sbin/modprobe -q -- NAME` (a file system, a
/// checksum, a network PHY by alias); nothing when it was called otherwise.
pub(crate) fn requested_by_kernel(mut arguments: impl Iterator<Item = String>) -> Option<String> {
    let program = arguments.next()?;
    if Path::new(&program).file_name()? != "modprobe" {
        return None;
    }
    arguments.find(|argument| !argument.starts_with('-'))
}

/// Serves such a request. The caller ends with failure on an error, silently: the kernel asks for much that nobody has.
///
/// # Errors
/// [`LoadModuleError`].
pub(crate) fn load_for_kernel(name: &str) -> Result<(), LoadModuleError> {
    Modules::open()?.load_alias(name)
}

/// Every `modalias` of every device. Links are not followed: `/sys/devices` holds each device once.
fn device_aliases(devices: &Path) -> BTreeSet<String> {
    let mut aliases = BTreeSet::new();
    let mut open = vec![devices.to_path_buf()];
    let mut visited = 0;
    while let Some(folder) = open.pop() {
        visited += 1;
        if visited > FOLDERS_MAX {
            tracing::warn!(FOLDERS_MAX, "more devices than are searched for drivers");
            break;
        }
        if let Ok(alias) = fs::read_to_string(folder.join("modalias")) {
            let alias = alias.trim();
            if !alias.is_empty() {
                aliases.insert(alias.to_owned());
            }
        }
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        open.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    aliases
}

/// What an alias begins with, up to its first `:` (`pci`, `usb`, `acpi`); all of it when there is none. The kernel's patterns
/// for ACPI and DMI begin with `acpi*:` and `dmi*:`.
fn bus(alias: &str) -> &str {
    let bus = alias.split(':').next().unwrap_or(alias);
    bus.strip_suffix('*').unwrap_or(bus)
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// `r8169` for `kernel/drivers/net/r8169.ko`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split(".ko").next().unwrap_or(file))
}

/// fnmatch(3) for what aliases use: `*`, `?`, and sets like `[0-9a-f]`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from) = (0, 0);
    // Where to go on when a try fails: behind the last `*`, with that star taking one letter more.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, from));
                at += 1;
                continue;
            }
            None if from == text.len() => return true,
            None => None,
            Some(_) if from == text.len() => None,
            Some(b'?') => Some(at + 1),
            Some(b'[') => set_matches(pattern, at, text[from]),
            Some(letter) => (*letter == text[from]).then_some(at + 1),
        };
        match (step, retry) {
            (Some(next), _) => (at, from) = (next, from + 1),
            (None, Some((after_star, taken))) if taken < text.len() => {
                retry = Some((after_star, taken + 1));
                (at, from) = (after_star, taken + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Whether the set that begins at `at` has `letter`; where the pattern goes on then. An unclosed set matches nothing.
fn set_matches(pattern: &[u8], at: usize, letter: u8) -> Option<usize> {
    let length = pattern[at..].iter().position(|byte| *byte == b']')?;
    let mut set = &pattern[at + 1..at + length];
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    if negated {
        set = &set[1..];
    }
    let mut found = false;
    while let Some((first, rest)) = set.split_first() {
        if let [b'-', last, after @ ..] = rest {
            found |= (*first..=*last).contains(&letter);
            set = after;
        } else {
            found |= *first == letter;
            set = rest;
        }
    }
    (found != negated).then_some(at + length + 1)
}

#[cfg(test)]
mod tests;
