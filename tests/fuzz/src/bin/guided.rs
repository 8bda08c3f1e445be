//! LLVM's fuzzer on one target, which the variable `FUZZ_TARGET` names: `frame`, or `frame:7` for frames of one type only.
//! Built and run by `./dev fuzz`, with coverage in the code that is tested.
#![no_main]

use std::sync::LazyLock;

/// The target, and the first byte of its inputs if that is given.
static TARGET: LazyLock<(String, Option<u8>)> = LazyLock::new(|| {
    let text = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match text.split_once(':') {
        Some((name, first)) => (name.to_owned(), first.parse().ok()),
        None => (text, None),
    }
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (name, first) = &*TARGET;
    match first {
        None => fuzz_targets::run(name, bytes),
        Some(first) => {
            let rest = bytes.get(1..).unwrap_or_default();
            fuzz_targets::run(name, &[&[*first], rest].concat());
        }
    }
});
