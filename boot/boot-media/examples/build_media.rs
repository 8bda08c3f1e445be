//! Builds boot media and a stick from the command line, without HQ: `build_media AGENT CACHE OUT COMMAND-LINE [KERNEL-PACKAGE [SOURCES-FILE]]`.

#![allow(clippy::print_stdout, reason = "the report is what it is for")]

use std::path::Path;

use boot_media::{KernelChoice, MediaRequest, PackageSources, build_media, build_usb};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [agent, cache, out, command_line, rest @ ..] = arguments.as_slice() else {
        return Err(
            "usage: build_media AGENT CACHE OUT COMMAND-LINE [KERNEL-PACKAGE [SOURCES-FILE]]"
                .into(),
        );
    };
    let report = build_media(&MediaRequest {
        agent: Path::new(agent),
        files: Vec::new(),
        command_line: command_line.clone(),
        cache_dir: Path::new(cache),
        out_dir: Path::new(out),
        kernel: rest.first().map_or(KernelChoice::Generic, |name| {
            KernelChoice::Package(name.clone())
        }),
        sources: rest.get(1).map_or(PackageSources::Host, |path| {
            PackageSources::File(path.into())
        }),
    })?;
    println!("{report:#?}");
    let stick = build_usb(
        &Path::new(out).join("lamplighter.efi"),
        &Path::new(out).join("stick.img"),
    )?;
    println!("{stick:#?}");
    Ok(())
}
