//! Firmware files that the chosen modules' devices ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::deb::{self, Entry, ReadDebError};
use crate::file::FileError;

/// Debian packages in which firmware of the listed modules may be. Most are in the archive's section
/// `non-free-firmware`, which a host's sources may leave out: then they are reported as missing, and a machine whose
/// device needs them says so when it boots.
pub(crate) const FIRMWARE_PACKAGES: [&str; 5] = [
    "firmware-linux-free",
    "firmware-misc-nonfree",
    "firmware-realtek",
    "firmware-bnx2",
    "firmware-bnx2x",
];

/// Links that are followed from one firmware name to its file.
const LINKS_MAX: usize = 4;

/// Takes the files called `wanted` (as modules name them, `rtl_nic/rtl8168h-2.fw`) out of the package files.
pub(crate) fn collect(
    packages: &[PathBuf],
    wanted: &BTreeSet<String>,
) -> Result<BTreeMap<String, Vec<u8>>, ReadDebError> {
    let mut found = BTreeMap::new();
    for package in packages {
        let links = links(package)?;
        // What each wanted name is really called in this package.
        let mut real: BTreeMap<String, Vec<&String>> = BTreeMap::new();
        for name in wanted {
            real.entry(follow(&links, name)).or_default().push(name);
        }
        deb::for_each_file(package, |path, entry| {
            let (Some(path), Entry::File(content)) = (path.strip_prefix("lib/firmware/"), entry)
            else {
                return Ok(());
            };
            if let Some(names) = real.get(path) {
                let mut bytes = Vec::new();
                content
                    .read_to_end(&mut bytes)
                    .map_err(FileError::of("unpack", Path::new(path)))?;
                for name in names {
                    found.insert((*name).clone(), bytes.clone());
                }
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn links(package: &Path) -> Result<BTreeMap<String, String>, ReadDebError> {
    let mut links = BTreeMap::new();
    deb::for_each_file(package, |path, entry| {
        if let (Some(path), Entry::Link(target)) = (path.strip_prefix("lib/firmware/"), entry)
            && let Some(target) = resolve(path, &target)
        {
            links.insert(path.to_owned(), target);
        }
        Ok(())
    })?;
    Ok(links)
}

/// Where a link at `path` points, both below `lib/firmware`; nothing if it leaves that folder.
fn resolve(path: &str, target: &Path) -> Option<String> {
    let mut names: Vec<&str> = path.split('/').collect();
    names.pop();
    for component in target.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str()?),
            Component::ParentDir => {
                names.pop()?;
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(names.join("/"))
}

fn follow(links: &BTreeMap<String, String>, name: &str) -> String {
    let mut name = name.to_owned();
    for _ in 0..LINKS_MAX {
        match links.get(&name) {
            Some(target) => name.clone_from(target),
            None => break,
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_and_end() {
        let check = |path, target, expect: Option<&str>| {
            assert_eq!(
                resolve(path, Path::new(target)).as_deref(),
                expect,
                "{path} -> {target}"
            );
        };
        check("rtl_nic/a.fw", "b.fw", Some("rtl_nic/b.fw"));
        check("rtl_nic/a.fw", "../tigon/b.bin", Some("tigon/b.bin"));
        check("a.fw", "../../etc/shadow", None);
        check("a.fw", "/etc/shadow", None);
        let endless = BTreeMap::from([("a".to_owned(), "a".to_owned())]);
        assert_eq!(follow(&endless, "a"), "a");
    }
}
