//! A machine: QEMU with UEFI firmware, a disk, and a network card on the lab's switch.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    console::Console,
    lab::{Lab, Namespace},
    process::Process,
};

const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const FIRMWARE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// As little memory as a machine may have.
const MEMORY_MIB: &str = "1024";
const TPM_SOCKET: &str = "tpm-socket";
const TYPING_TAKES: Duration = Duration::from_secs(2);
const KEYBOARD_SOCKET: &str = "keyboard";
const DISK_BYTES: u64 = 3 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const QUIT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the firmware is set up to try, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// The disk, then the network by PXE.
    DiskThenPxe,
    /// The disk, then the network by HTTP.
    DiskThenHttp,
    /// The network by PXE, always first.
    PxeFirst,
    /// The disk, then this USB stick; never the network.
    DiskThenStick(PathBuf),
}

/// What a machine is; it stays the same over its starts.
#[derive(Debug, Clone)]
pub struct Machine {
    /// For people and file names.
    pub name: &'static str,
    /// Its place at the switch, which also makes its MAC address, UUID and serial number.
    pub number: usize,
    /// Set up in its firmware.
    pub boot: Boot,
    /// What its clock shows when it gets power, such as `2009-01-01`: its battery is empty. Without it, the time of day.
    pub clock: Option<&'static str>,
    /// The TPM 2.0 on its board, if any, by a name of its own: what it remembers outlives its starts.
    pub tpm: Option<&'static str>,
}

impl Machine {
    /// With colons, as QEMU wants it.
    fn mac(&self) -> String {
        format!("52:54:00:77:00:{:02x}", 10 + self.number)
    }

    /// Where its neighbours meet it: its address by DHCP, which it tells, and the one that IPv6 makes of its MAC address.
    #[must_use]
    pub fn addresses(&self, by_dhcp: &str) -> Vec<String> {
        let last = 10 + self.number;
        vec![by_dhcp.to_owned(), format!("fe80::5054:ff:fe77:{last:x}")]
    }

    /// Whether this is what HQ says of it.
    #[must_use]
    pub fn is(&self, listed: &Value) -> bool {
        let mac = self.mac().replace(':', "");
        let macs = listed["facts"]["macs"].as_array();
        macs.is_some_and(|macs| macs.iter().any(|listed| *listed == mac))
    }
}

/// A machine that was plugged in.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    folder: PathBuf,
    console: Console,
    qemu: Option<Process>,
    tpm: Option<Process>,
}

impl Vm {
    /// Gives the machine a blank disk and fresh firmware settings, and switches it on.
    ///
    /// # Errors
    /// When a file cannot be made or QEMU does not start.
    pub fn new(lab: &Lab, machine: Machine) -> Result<Self> {
        let folder = lab.scratch().join(machine.name);
        std::fs::create_dir(&folder)?;
        std::fs::copy(FIRMWARE_VARIABLES, folder.join("variables"))
            .with_context(|| format!("no firmware {FIRMWARE_VARIABLES}: Debian package ovmf"))?;
        std::fs::File::create_new(folder.join("disk"))?.set_len(DISK_BYTES)?;
        let console = Console::new(lab.artefact(&format!("machine-{}.serial.txt", machine.name)));
        let mut vm = Self {
            machine,
            folder,
            console,
            qemu: None,
            tpm: None,
        };
        vm.switch_on(lab)?;
        Ok(vm)
    }

    /// What it is.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its serial line.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Its disk, on our side.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Waits for a line with `what` on its console since it was last switched on, and answers it from `what` on.
    ///
    /// # Errors
    /// When the time is over, QEMU ends, the kernel panics or the agent fails: with the console's last lines.
    pub fn wait_for(&mut self, what: &str, timeout: Duration) -> Result<String> {
        let Self { qemu, console, .. } = self;
        console.wait_for(what, timeout, || match qemu {
            Some(qemu) => qemu.check(),
            None => anyhow::bail!("the machine is switched off"),
        })
    }

    /// Types a line at its serial line.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn type_line(&self, line: &str) -> Result<()> {
        let mut keyboard = self.connect(KEYBOARD_SOCKET)?;
        writeln!(keyboard, "{line}")?;
        // the serial port takes a few bytes at a time, and what it has not taken goes with the connection
        std::thread::sleep(TYPING_TAKES);
        Ok(())
    }

    /// Takes its power away: what was not written to the disk by then is lost with the memory.
    ///
    /// # Errors
    /// When QEMU does not obey.
    pub fn switch_off(&mut self) -> Result<()> {
        if let Some(mut qemu) = self.qemu.take() {
            self.qmp(&json!({"execute": "quit"}))?;
            qemu.wait(QUIT_TIMEOUT)?;
        }
        // QEMU told it to end; its seeds are in a file
        if let Some(mut tpm) = self.tpm.take() {
            tpm.kill();
        }
        Ok(())
    }

    /// Another board, as far as the TPM goes; from the next start on.
    pub fn change_tpm(&mut self, tpm: Option<&'static str>) {
        self.machine.tpm = tpm;
    }

    /// From now on the machine stops instead of starting over.
    ///
    /// # Errors
    /// When QEMU does not obey.
    pub fn stop_at_reset(&self) -> Result<()> {
        let actions = json!({"reboot": "shutdown", "shutdown": "pause"});
        self.qmp(&json!({"execute": "set-action", "arguments": actions}))
            .map(drop)
    }

    /// Waits until it has stopped.
    ///
    /// # Errors
    /// When it goes on, or QEMU is gone.
    pub fn wait_until_stopped(&self, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        while self.qmp(&json!({"execute": "query-status"}))?["running"] == true {
            let name = self.machine.name;
            ensure!(started.elapsed() < timeout, "machine {name} runs on");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Takes the power away and gives it back.
    ///
    /// # Errors
    /// When QEMU does not obey.
    pub fn power_cycle(&mut self, lab: &Lab) -> Result<()> {
        self.switch_off()?;
        self.switch_on(lab)
    }

    /// Gives it power; its console counts from here.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn switch_on(&mut self, lab: &Lab) -> Result<()> {
        ensure!(self.qemu.is_none(), "the machine is on already");
        self.console.forget();
        if let Some(name) = self.machine.tpm {
            self.tpm = Some(self.start_tpm(lab, name)?);
        }
        let arguments = self.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let name = format!("machine-{}.qemu", self.machine.name);
        let program = Path::new("qemu-system-x86_64");
        self.qemu = Some(lab.start(Namespace::Switch, &name, program, &arguments)?);
        Ok(())
    }

    /// An emulated TPM, which ends with QEMU.
    fn start_tpm(&self, lab: &Lab, name: &str) -> Result<Process> {
        let state = self.folder.join(format!("tpm-{name}"));
        std::fs::create_dir_all(&state)?;
        let socket = self.folder.join(TPM_SOCKET);
        // the last one's
        let _ = std::fs::remove_file(&socket);
        let log = format!("machine-{}.tpm", self.machine.name);
        let (state, path) = (state.display(), socket.display());
        let (state, control) = (format!("dir={state}"), format!("type=unixio,path={path}"));
        let arguments = ["socket", "--tpm2", "--tpmstate", &state, "--ctrl", &control];
        let program = Path::new("swtpm");
        let mut tpm = lab.start(Namespace::Switch, &log, program, &arguments)?;
        let started = Instant::now();
        while !socket.exists() {
            tpm.check().context("Debian package swtpm")?;
            ensure!(
                started.elapsed() < CONNECT_TIMEOUT,
                "the emulated TPM makes no socket"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(tpm)
    }

    fn arguments(&self) -> Vec<String> {
        let number = self.machine.number;
        let file = |name: &str| self.folder.join(name).display().to_string();
        let serial = self.console.path().display();
        // An empty `romfile`: the firmware's own driver, not QEMU's iPXE.
        let (disk_place, network_place) = match self.machine.boot {
            Boot::PxeFirst => (",bootindex=2", ",bootindex=1"),
            Boot::DiskThenPxe | Boot::DiskThenHttp => (",bootindex=1", ",bootindex=2"),
            Boot::DiskThenStick(_) => (",bootindex=1", ""),
        };
        let mut all: Vec<String> = [
            "-nodefaults -display none -smp 1 -M q35,graphics=off -accel tcg,thread=multi -cpu max -m",
            MEMORY_MIB,
            "-device virtio-rng-pci",
        ]
        .iter()
        .flat_map(|text| text.split(' '))
        .map(str::to_owned)
        .collect();
        let mut add = |option: &str, value: String| all.extend([option.to_owned(), value]);
        add(
            "-uuid",
            format!("4c414d50-0000-4000-8000-5254007700{:02x}", 10 + number),
        );
        add(
            "-smbios",
            format!(
                "type=1,manufacturer=Lamplighter,product=Till,serial=TILL-{:04}",
                100 + number
            ),
        );
        if let Some(date) = self.machine.clock {
            add("-rtc", format!("base={date}T00:00:00"));
        }
        add("-qmp", format!("unix:{},server=on,wait=off", file("qmp")));
        add(
            "-chardev",
            format!(
                "socket,id=serial,path={},server=on,wait=off,logfile={serial},logappend=on",
                file(KEYBOARD_SOCKET)
            ),
        );
        add("-serial", "chardev:serial".to_owned());
        add(
            "-drive",
            format!("if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"),
        );
        add(
            "-drive",
            format!("if=pflash,format=raw,unit=1,file={}", file("variables")),
        );
        add(
            "-drive",
            format!(
                "if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file={}",
                file("disk")
            ),
        );
        add("-device", format!("virtio-blk-pci,drive=disk{disk_place}"));
        add(
            "-netdev",
            format!(
                "tap,id=net,ifname={},script=no,downscript=no",
                Lab::tap(number)
            ),
        );
        add(
            "-device",
            format!(
                "virtio-net-pci,netdev=net,mac={},romfile={network_place}",
                self.machine.mac()
            ),
        );
        for (setting, is_off) in [
            (
                "IPv4PXESupport",
                !matches!(self.machine.boot, Boot::DiskThenPxe | Boot::PxeFirst),
            ),
            // The firmware would try IPv6 for minutes before anything else.
            ("IPv6PXESupport", true),
        ] {
            if is_off {
                add(
                    "-fw_cfg",
                    format!("name=opt/org.tianocore/{setting},string=n"),
                );
            }
        }
        if self.machine.tpm.is_some() {
            add(
                "-chardev",
                format!("socket,id=tpm,path={}", file(TPM_SOCKET)),
            );
            add("-tpmdev", "emulator,id=tpm0,chardev=tpm".to_owned());
            add("-device", "tpm-tis,tpmdev=tpm0".to_owned());
        }
        if let Boot::DiskThenStick(image) = &self.machine.boot {
            add("-device", "qemu-xhci".to_owned());
            add(
                "-drive",
                format!(
                    "if=none,id=stick,format=raw,cache=unsafe,file={}",
                    image.display()
                ),
            );
            add(
                "-device",
                "usb-storage,drive=stick,removable=on,bootindex=2".to_owned(),
            );
        }
        all
    }

    /// QEMU makes its socket a moment after it was started.
    fn connect(&self, socket: &str) -> Result<UnixStream> {
        let started = Instant::now();
        loop {
            match UnixStream::connect(self.folder.join(socket)) {
                Err(_) if started.elapsed() < CONNECT_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => {
                    let name = self.machine.name;
                    return result.with_context(|| format!("cannot reach QEMU of machine {name}"));
                }
            }
        }
    }

    /// Sends one command over QEMU's machine protocol: greeting, capabilities, command, answer.
    fn qmp(&self, command: &Value) -> Result<Value> {
        let stream = self.connect("qmp")?;
        stream.set_read_timeout(Some(QUIT_TIMEOUT))?;
        let mut answers = BufReader::new(stream.try_clone()?).lines();
        answers.next().context("QEMU sends no greeting")??;
        let mut result = Value::Null;
        for command in [&json!({"execute": "qmp_capabilities"}), command] {
            writeln!(&stream, "{command}")?;
            // Events come between; when it quits, the answer may be the end of the connection.
            for answer in answers.by_ref() {
                let answer: Value = serde_json::from_str(&answer?)?;
                ensure!(
                    answer.get("error").is_none(),
                    "QEMU refuses {command}: {answer}"
                );
                if let Some(answer) = answer.get("return") {
                    result = answer.clone();
                    break;
                }
            }
        }
        Ok(result)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.switch_off();
    }
}
