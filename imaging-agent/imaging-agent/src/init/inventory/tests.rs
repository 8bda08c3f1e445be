use std::os::unix::fs::symlink;

use super::*;

/// A sysfs of files: path and content.
fn sysfs(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let sys = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = sys.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    sys
}

#[test]
fn identity_comes_without_blanks() {
    let sys = sysfs(&[
        (
            "class/dmi/id/product_uuid",
            b"4C4C4544-0042-3510-8051-B4C04F595831\n",
        ),
        ("class/dmi/id/product_serial", b"  B5QYX1 \n"),
        ("class/dmi/id/board_serial", b"   \n"),
        ("firmware/efi/runtime", b"0x0\n"),
    ]);
    let found = read_sysfs(sys.path());
    assert_eq!(
        found.uuid.as_deref(),
        Some("4c4c4544-0042-3510-8051-b4c04f595831")
    );
    assert_eq!(
        (found.serial.as_deref(), found.board_serial, found.uefi),
        (Some("B5QYX1"), None, true)
    );
}

#[test]
fn only_wired_interfaces_count() {
    let sys = sysfs(&[
        ("class/net/eth0/type", b"1\n"),
        ("class/net/eth0/address", b"52:54:00:12:34:56\n"),
        ("class/net/eth0/carrier", b"1\n"),
        ("class/net/eth0/device/vendor", b"0x8086\n"),
        ("class/net/lo/type", b"772\n"),
        ("class/net/wlan0/type", b"1\n"),
        ("class/net/wlan0/address", b"52:54:00:12:34:57\n"),
        ("class/net/wlan0/device/vendor", b"0x8086\n"),
        ("class/net/wlan0/phy80211/index", b"0\n"),
        ("class/net/veth0/type", b"1\n"),
        ("class/net/veth0/address", b"52:54:00:12:34:58\n"),
    ]);
    symlink(
        "../../../bus/pci/drivers/e1000e",
        sys.path().join("class/net/eth0/device/driver"),
    )
    .unwrap();
    let eth0 = Interface {
        name: "eth0".to_owned(),
        address: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
        driver: Some("e1000e".to_owned()),
        carrier: true,
    };
    assert_eq!(interfaces(sys.path()), [eth0]);
}

#[test]
fn disks_are_told_from_what_only_looks_like_one() {
    let sys = sysfs(&[
        ("devices/pci0/ata1/block/sda/size", b"2048\n"),
        (
            "devices/pci0/ata1/block/sda/queue/logical_block_size",
            b"4096\n",
        ),
        ("devices/pci0/ata1/block/sda/queue/rotational", b"1\n"),
        ("devices/pci0/ata1/block/sda/removable", b"0\n"),
        ("devices/pci0/ata1/block/sda/ro", b"1\n"),
        ("devices/pci0/ata1/block/sda/device/model", b"WDC WD10  \n"),
        (
            "devices/pci0/ata1/block/sda/device/vpd_pg80",
            b"\x00\x80\x00\x08WD-12345",
        ),
        (
            "devices/pci0/ata1/block/sda/device/wwid",
            b"naa.50014ee2b0\n",
        ),
        ("devices/pci0/usb2/2-1/block/sdb/size", b"4096\n"),
        (
            "devices/pci0/usb2/2-1/block/sdb/queue/logical_block_size",
            b"512\n",
        ),
        ("devices/pci0/usb2/2-1/block/sdb/removable", b"0\n"),
        ("block/sdc/size", b"0\n"),
        ("block/loop0/size", b"100\n"),
        ("block/sr0/size", b"100\n"),
        ("block/mmcblk0boot0/size", b"8192\n"),
    ]);
    symlink(
        "../devices/pci0/ata1/block/sda",
        sys.path().join("block/sda"),
    )
    .unwrap();
    symlink(
        "../devices/pci0/usb2/2-1/block/sdb",
        sys.path().join("block/sdb"),
    )
    .unwrap();
    let disks = disks(sys.path());
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["sda", "sdb"]);
    let sda = &disks[0];
    assert_eq!((sda.size_bytes, sda.logical_sector_bytes), (1 << 20, 4096));
    assert_eq!(
        (sda.removable, sda.read_only, sda.rotational),
        (false, true, true)
    );
    assert_eq!(sda.model.as_deref(), Some("WDC WD10"));
    assert_eq!(sda.serial.as_deref(), Some("WD-12345"));
    assert_eq!(sda.wwid.as_deref(), Some("naa.50014ee2b0"));
    assert!(disks[1].usb && disks[1].removable);
}

#[test]
fn memory_is_read_in_bytes() {
    assert_eq!(
        memory_bytes("MemTotal:        1006452 kB\nMemFree: 1 kB\n"),
        1_006_452 * 1024
    );
    assert_eq!(memory_bytes("nothing\n"), 0);
}
