use super::*;

const META: &str = "Package: linux-image-amd64\nVersion: 6.1.192-2\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n\
    Size: 1480\nSHA256: 45457bcfc86c87585800b5656bdf2773b063a3bb95486b0e820d51e870491f8d\n";

#[test]
fn a_metapackage_names_its_kernel() {
    let package = parse_description("linux-image-amd64", META).unwrap();
    assert_eq!(
        package.kernel_dependency(),
        Some("linux-image-6.1.0-56-amd64")
    );
    assert_eq!(
        (package.version.as_str(), package.size_bytes),
        ("6.1.192-2", 1480)
    );
}

#[test]
fn a_versioned_kernel_is_itself() {
    let described = META.replace(
        "linux-image-6.1.0-56-amd64 (= 6.1.192-2)",
        "kmod, linux-base (>= 4.3~)",
    );
    let package = parse_description("linux-image-6.1.0-56-amd64", &described).unwrap();
    assert_eq!(package.kernel_dependency(), None);
}

#[test]
fn odd_descriptions_are_refused_by_field() {
    for (from, to, field) in [
        ("Version: 6.1.192-2\n", "", "Version"),
        ("Size: 1480", "Size: many", "Size"),
        ("SHA256: 4545", "SHA256: ../../", "SHA256"),
    ] {
        let error = parse_description("p", &META.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}
