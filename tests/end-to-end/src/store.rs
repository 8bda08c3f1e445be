//! A store that is ready to image machines: HQ with an image and boot media, a site, an order, and a laptop's node.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    headquarters::{Headquarters, Image},
    lab::{Lab, Namespace},
    paths,
    process::Process,
};

/// The laptop's address.
pub const LAPTOP: &str = "10.77.0.1";
/// The file that UEFI firmware starts from the network.
pub const BOOT_FILE: &str = "lamplighter.efi";
/// Enough for the image, the boot bundle and what they need around them.
const SLAB_BYTES: &str = "1073741824";
const BOOT_FILE_TIMEOUT: Duration = Duration::from_secs(300);
const FETCH_TIMEOUT: Duration = Duration::from_secs(120);
/// The store's name at HQ.
pub const SITE: &str = "harbour";

/// The site's rule for machines it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownMachines {
    /// They are imaged under the standing order.
    Admit,
    /// What a site does that was told nothing.
    ByDefault,
}

/// HQ and the first node of a store.
#[derive(Debug)]
pub struct Store<'lab> {
    /// Where it is.
    pub lab: &'lab Lab,
    /// The laptop's node, until it is taken away.
    pub laptop: Option<Process>,
    /// HQ.
    pub hq: Headquarters<'lab>,
    /// The image that the standing order installs.
    pub image: Image,
    /// Its file.
    pub image_file: PathBuf,
    /// Where the boot media were written.
    pub media: PathBuf,
    boot_media_cache: String,
}

impl<'lab> Store<'lab> {
    /// Makes everything and waits until the laptop's node has boot files to offer.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn open(lab: &'lab Lab, unknown: UnknownMachines) -> Result<Self> {
        let image_file = paths::os_image()?;
        let boot_media_cache = paths::warm_boot_media_cache()?.display().to_string();
        lab.say("the image and the packages for boot media are there");
        let mut hq = Headquarters::start(lab)?;
        let token = match unknown {
            UnknownMachines::Admit => hq.add_site(SITE, "admit")?,
            UnknownMachines::ByDefault => {
                crate::headquarters::text(&hq.ask(&["site", "add", SITE])?, "token")?
            }
        };
        let image = hq.import(&image_file, "till")?;
        lab.say(&format!(
            "published {} ({} bytes of objects)",
            &image.version, image.object_bytes
        ));
        let media = lab.scratch().join("media");
        let out = media.display().to_string();
        hq.command(&[
            "media",
            "build",
            "--out",
            &out,
            "--cache",
            &boot_media_cache,
        ])?;
        lab.say("built boot media");
        hq.ask(&["order", "add", "--site", SITE, "--version", &image.version])?;
        let mut store = Self {
            lab,
            laptop: None,
            hq,
            image,
            image_file,
            media,
            boot_media_cache,
        };
        store.start_laptop(&token)?;
        Ok(store)
    }

    fn start_laptop(&mut self, token: &str) -> Result<()> {
        let dir = self.lab.scratch().join("laptop").display().to_string();
        let arguments = [
            "node",
            "--dir",
            &dir,
            "--enrol",
            token,
            "--interface",
            "e0",
            "--boot",
            "proxy",
            "--slab-bytes",
            SLAB_BYTES,
        ];
        let program = paths::program()?;
        let node = self
            .lab
            .start(Namespace::Laptop, "laptop-node", &program, &arguments)?;
        self.laptop = Some(node);
        self.wait_for_boot_files(LAPTOP)?;
        self.lab.say("the laptop's node has the boot files");
        Ok(())
    }

    /// Builds a USB stick's image.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn build_stick(&mut self) -> Result<PathBuf> {
        self.build_stick_with("stick.img", &[])
    }

    /// Builds a USB stick's image with more arguments.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn build_stick_with(&mut self, name: &str, more: &[&str]) -> Result<PathBuf> {
        let stick = self.lab.scratch().join(name);
        let out = stick.display().to_string();
        let cache = ["--cache", &self.boot_media_cache];
        let arguments = [&["media", "usb", "--out", &out], &cache[..], more].concat();
        self.hq.command(&arguments)?;
        self.lab.say(&format!("built {name}"));
        Ok(stick)
    }

    /// Has a voucher made for so many machines. Answers its file and its PIN.
    ///
    /// # Errors
    /// When HQ refuses.
    pub fn make_voucher(&mut self, name: &str, machines: &str) -> Result<(String, String)> {
        let file = self.lab.scratch().join(name).display().to_string();
        let words = ["voucher", "new", "--site", SITE, "--machines", machines];
        let more = ["--name", name, "--out", &file];
        let made = self.hq.ask(&[&words[..], &more].concat())?;
        Ok((file, crate::headquarters::text(&made, "pin")?))
    }

    /// Takes the laptop away.
    pub fn kill_laptop(&mut self) {
        if let Some(mut laptop) = self.laptop.take() {
            laptop.kill();
            self.lab.say("the laptop is gone");
        }
    }

    /// Waits until the node at `address` serves the boot file, and checks it to the byte.
    ///
    /// # Errors
    /// When it does not in time, or when its file is another.
    pub fn wait_for_boot_files(&mut self, address: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.fetch_boot_file(address) {
                Ok(()) => return Ok(()),
                Err(error) if started.elapsed() > BOOT_FILE_TIMEOUT => {
                    return Err(error.context(format!(
                        "no {BOOT_FILE} from {address} in {} s",
                        BOOT_FILE_TIMEOUT.as_secs()
                    )));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
            }
            if let Some(laptop) = &mut self.laptop {
                laptop.check()?;
            }
        }
    }

    /// The node at `address` does not serve the boot file, as long as `within`.
    ///
    /// # Errors
    /// When it does.
    pub fn check_no_boot_files(&self, address: &str, within: Duration) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < within {
            ensure!(
                self.fetch_boot_file(address).is_err(),
                "{address} serves {BOOT_FILE} after {} s",
                started.elapsed().as_secs()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    fn fetch_boot_file(&self, address: &str) -> Result<()> {
        let got = self.lab.scratch().join("fetched-boot-file");
        let url = format!("tftp://{address}/{BOOT_FILE}");
        let arguments = [
            "--silent",
            "--show-error",
            "--fail",
            "--connect-timeout",
            "2",
            "--tftp-blksize",
            "1428",
            "--output",
            &got.display().to_string(),
            &url,
        ];
        let at = Namespace::Client;
        self.lab
            .run(at, FETCH_TIMEOUT, Path::new("curl"), &arguments)?;
        let (got, built) = (read(&got)?, read(&self.media.join(BOOT_FILE))?);
        ensure!(
            got == built,
            "{address} serves a {BOOT_FILE} of {} bytes that is not the one HQ built ({} bytes)",
            got.len(),
            built.len()
        );
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
