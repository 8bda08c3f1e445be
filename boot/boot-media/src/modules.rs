//! Which modules travel, and the index files by which the agent finds them again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::modinfo::{ModInfo, canonical};

/// Every module of a kernel.
#[derive(Debug, Default)]
pub(crate) struct ModuleIndex {
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
}

/// One module.
#[derive(Debug)]
pub(crate) struct Module {
    /// Below `lib/modules/RELEASE/`.
    pub(crate) path: String,
    pub(crate) info: ModInfo,
}

/// The modules chosen, and the names for which the kernel has none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) names: BTreeSet<String>,
    pub(crate) missing: Vec<String>,
}

/// The names in a module list: words; `#` starts a comment.
pub(crate) fn parse_list(list: &str) -> Vec<String> {
    list.lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(str::split_whitespace)
        .map(canonical)
        .collect()
}

impl ModuleIndex {
    /// `builtin` is the text of `modules.builtin`: one path a line.
    pub(crate) fn new(modules: BTreeMap<String, Module>, builtin: &str) -> Self {
        let builtin = builtin
            .lines()
            .filter_map(crate::modinfo::module_name)
            .collect();
        Self { modules, builtin }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Module> {
        self.modules.get(name)
    }

    /// The modules of `list` with all that they depend on, hard and soft. A soft dependency may be an alias
    /// (`crc32c`): then every module that answers to it exactly.
    pub(crate) fn select(&self, list: &[String]) -> Selection {
        let mut missing = Vec::new();
        let mut names = BTreeSet::new();
        let mut open: Vec<String> = Vec::new();
        for name in list {
            if self.modules.contains_key(name) {
                open.push(name.clone());
            } else if !self.builtin.contains(name) {
                missing.push(name.clone());
            }
        }
        while let Some(name) = open.pop() {
            let Some(module) = self.modules.get(&name) else {
                continue; // built in
            };
            if !names.insert(name) {
                continue;
            }
            open.extend(module.info.depends.iter().cloned());
            for soft in module
                .info
                .soft_before
                .iter()
                .chain(&module.info.soft_after)
            {
                open.extend(self.answering(soft));
            }
        }
        missing.sort();
        missing.dedup();
        Selection { names, missing }
    }

    fn answering(&self, name: &str) -> Vec<String> {
        let own = canonical(name);
        if self.modules.contains_key(&own) {
            return vec![own];
        }
        self.modules
            .iter()
            .filter(|(_, module)| module.info.aliases.iter().any(|alias| alias == name))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Everything `name` needs, in the order of `modules.dep`: what must be loaded first stands last.
    fn dependencies(&self, name: &str) -> Vec<&Module> {
        fn visit<'a>(
            index: &'a ModuleIndex,
            name: &str,
            seen: &mut BTreeSet<String>,
            order: &mut Vec<&'a Module>,
        ) {
            let Some(module) = index.modules.get(name) else {
                return;
            };
            if !seen.insert(name.to_owned()) {
                return;
            }
            for needed in &module.info.depends {
                visit(index, needed, seen, order);
            }
            order.push(module);
        }
        let mut order = Vec::new();
        visit(self, name, &mut BTreeSet::new(), &mut order);
        order.pop(); // the module itself
        order.reverse();
        order
    }

    /// `modules.dep`, `modules.alias` and `modules.softdep` for the chosen modules, in the formats of modules.dep(5).
    pub(crate) fn index_files(&self, chosen: &BTreeSet<String>) -> [(&'static str, String); 3] {
        let (mut dep, mut alias, mut softdep) = (String::new(), String::new(), String::new());
        for name in chosen {
            let Some(module) = self.modules.get(name) else {
                continue;
            };
            let _ = write!(dep, "{}:", module.path);
            for needed in self.dependencies(name) {
                let _ = write!(dep, " {}", needed.path);
            }
            dep.push('\n');
            for pattern in &module.info.aliases {
                let _ = writeln!(alias, "alias {pattern} {name}");
            }
            let (before, after) = (&module.info.soft_before, &module.info.soft_after);
            if !before.is_empty() || !after.is_empty() {
                let _ = write!(softdep, "softdep {name}");
                for (word, others) in [("pre:", before), ("post:", after)] {
                    if !others.is_empty() {
                        let _ = write!(softdep, " {word} {}", others.join(" "));
                    }
                }
                softdep.push('\n');
            }
        }
        [
            ("modules.dep", dep),
            ("modules.alias", alias),
            ("modules.softdep", softdep),
        ]
    }
}

#[cfg(test)]
mod tests;
