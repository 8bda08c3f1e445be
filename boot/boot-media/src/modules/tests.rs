use super::*;

fn index() -> ModuleIndex {
    let module = |name: &str, depends: &[&str], aliases: &[&str], before: &[&str]| {
        let own = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let info = ModInfo {
            depends: own(depends),
            aliases: own(aliases),
            soft_before: own(before),
            ..ModInfo::default()
        };
        let path = format!("kernel/{name}.ko");
        (name.to_owned(), Module { path, info })
    };
    let modules = BTreeMap::from([
        module("ext4", &["jbd2", "mbcache"], &["fs-ext4"], &["crc32c"]),
        module("jbd2", &["mbcache"], &[], &[]),
        module("mbcache", &[], &[], &[]),
        module("crc32c_generic", &[], &["crc32c", "crypto-crc32c"], &[]),
        module("crc32c_intel", &[], &["crc32c"], &[]),
        module("unwanted", &["ext4"], &[], &[]),
    ]);
    ModuleIndex::new(modules, "kernel/drivers/built-in-one.ko\n")
}

#[test]
fn a_list_is_words_and_comments() {
    assert_eq!(parse_list("# all\na b-c # d\n\n e"), ["a", "b_c", "e"]);
}

#[test]
fn the_shipped_list_names_each_module_once() {
    let mut names = parse_list(include_str!("../module-list.txt"));
    let count = names.len();
    names.sort();
    names.dedup();
    assert!(count > 100);
    assert_eq!(names.len(), count);
}

#[test]
fn selection_follows_hard_and_soft_dependencies() {
    let list = ["ext4", "nonesuch", "built_in_one"].map(str::to_owned);
    let selection = index().select(&list);
    let names: Vec<_> = selection.names.iter().map(String::as_str).collect();
    assert_eq!(
        names,
        ["crc32c_generic", "crc32c_intel", "ext4", "jbd2", "mbcache"]
    );
    assert_eq!(selection.missing, ["nonesuch"]);
}

#[test]
fn index_files_are_in_modprobes_formats() {
    let index = index();
    let chosen = index.select(&["ext4".to_owned()]).names;
    let [(_, dep), (_, alias), (_, softdep)] = index.index_files(&chosen);
    assert!(
        dep.contains("kernel/ext4.ko: kernel/jbd2.ko kernel/mbcache.ko\n"),
        "{dep}"
    );
    assert!(dep.contains("kernel/mbcache.ko:\n"), "{dep}");
    assert!(alias.contains("alias fs-ext4 ext4\n"), "{alias}");
    assert_eq!(softdep, "softdep ext4 pre: crc32c\n");
}
