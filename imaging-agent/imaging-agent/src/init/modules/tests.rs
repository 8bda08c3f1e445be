use super::*;

#[test]
fn patterns_match_as_fnmatch_does() {
    let check = |pattern: &str, text: &str, expect: bool| {
        assert_eq!(matches(pattern, text), expect, "{pattern} against {text}");
    };
    let e1000 = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00";
    check("pci:v00008086d0000100Esv*sd*bc*sc*i*", e1000, true);
    check("pci:v00008086d0000100Fsv*sd*bc*sc*i*", e1000, false);
    check("pci:v*d*sv*sd*bc02sc00i*", e1000, true);
    check("pci:v*d*sv*sd*bc01sc00i*", e1000, false);
    check("*", "", true);
    check("", "", true);
    check("a", "", false);
    check("a*b*c", "aXbXbXc", true);
    check("a*b*c", "aXbXbX", false);
    check("a?c", "abc", true);
    check("usb:v[0-9a-f]*", "usb:vf", true);
    check("usb:v[!0-9]x", "usb:v5x", false);
    check("usb:v[0-9", "usb:v5", false);
    check("usb:v05E3p0*d[1-9][0-9]*", "usb:v05E3p0612d10", true);
}

#[test]
fn a_long_pattern_of_stars_ends_soon() {
    let text = "a".repeat(2000);
    let started = Instant::now();
    assert!(!matches("*a*a*a*a*a*a*a*a*b", &text));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_index_is_read_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "modules.dep",
            "kernel/e1000-x.ko: kernel/b.ko kernel/a.ko\nkernel/a.ko:\nkernel/b.ko: kernel/a.ko\n",
        ),
        (
            "modules.alias",
            "alias pci:v00008086d* e1000_x\nalias fs-ext4 ext4\nalias acpi*:MSFT0101:* tpm_crb\n",
        ),
        ("modules.softdep", "softdep e1000_x pre: crc post: later\n"),
        ("modules.builtin", "kernel/fs/ext4/ext4.ko\n"),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut modules = Modules::open_folder(folder.path()).unwrap();
    assert_eq!(
        modules.files["e1000_x"],
        ["kernel/e1000-x.ko", "kernel/b.ko", "kernel/a.ko"]
    );
    assert_eq!(modules.matching("pci:v00008086d1"), ["e1000_x"]);
    // as the kernel writes patterns for devices of ACPI, and as it names one
    assert_eq!(modules.matching("acpi:MSFT0101:"), ["tpm_crb"]);
    assert_eq!(modules.soft["e1000_x"], ["crc", "later"]);
    assert!(modules.load("ext4").is_ok(), "built in");
    assert!(modules.load_alias("fs-ext4").is_ok(), "built in, by alias");
    assert!(matches!(
        modules.load("nonesuch"),
        Err(LoadModuleError::Missing { .. })
    ));
    let error = modules.load("e1000-x").unwrap_err(); // the files themselves are not there
    assert!(
        error.to_string().contains("kernel/a.ko"),
        "what is needed first is loaded first: {error}"
    );
}

#[test]
fn a_missing_index_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Modules::open_folder(folder.path()).unwrap_err();
    assert!(error.to_string().contains("modules.dep"), "{error}");
}

#[test]
fn the_kernels_request_is_told_from_other_calls() {
    let check = |words: &[&str], expect: Option<&str>| {
        let words = words.iter().map(|word| (*word).to_owned());
        assert_eq!(requested_by_kernel(words).as_deref(), expect);
    };
    check(&["/sbin/modprobe", "-q", "--", "fs-ext4"], Some("fs-ext4"));
    check(&["/init"], None);
    check(&["/sbin/modprobe"], None);
    check(&[], None);
}
