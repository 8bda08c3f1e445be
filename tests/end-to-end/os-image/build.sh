#!/bin/bash
# build.sh OUT [VERSION]: makes OUT, the raw disk image of a small real Debian that boots by UEFI.
#
# It stands for "the image a chain installs" in the end-to-end tests and in the demo, so there is nothing of
# Lamplighter in it. It needs no loop device and no mount, and runs as root or as an ordinary user with an entry in
# /etc/subuid and /etc/subgid.
#
#   sectors 2048..   ESP, FAT32, 96 MiB: \EFI\BOOT\BOOTX64.EFI, one file with kernel, initramfs and command line
#   then             root, ext4, label "root", 800 MiB
#
# The installed system takes its address by DHCP on every e* interface, has root without a password on ttyS0, and
# prints one line to its console when it is up:   OS-UP version=VERSION ip=ADDRESS
# Versions differ as an application update does: /etc/image-version, the host name, and 8 MiB under /opt.
#
# The downloaded base system is kept as a tar in $LAMPLIGHTER_CACHE (default: .cache at the top of the repository).
# SUITE chooses the Debian release (default bookworm). EXTRA names more packages, separated by commas, and ROOT_MIB the
# root's size that they need: with them the image is as large as a till's or an office computer's.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: build.sh OUT [VERSION]" >&2
    exit 2
fi
OUT=$(realpath -m "$1")
VERSION=${2:-1}
if ! [[ $VERSION =~ ^[A-Za-z0-9][A-Za-z0-9-]{0,31}$ ]]; then
    echo "build.sh: the version '$VERSION' is used in a host name: letters, digits and '-' only, at most 32" >&2
    exit 2
fi
SUITE=${SUITE:-bookworm}
CACHE=${LAMPLIGHTER_CACHE:-$here/../../../.cache}
mkdir -p "$CACHE" "$(dirname "$OUT")"
CACHE=$(realpath "$CACHE")
export PATH=$PATH:/usr/sbin:/sbin

ESP_MIB=96
ROOT_MIB=${ROOT_MIB:-800}
PAYLOAD_MIB=8
# Fixed, so that two builds of a version differ as little as they can.
DISK_GUID=6c616d70-6c69-4748-9465-720000000001
ESP_GUID=6c616d70-6c69-4748-9465-720000000002
ROOT_GUID=6c616d70-6c69-4748-9465-720000000003
ROOT_UUID=6c616d70-6c69-4748-9465-72000000000a
ESP_VOLUME_ID=1A3B11E5
export SOURCE_DATE_EPOCH=1767225600 # 2026-01-01: what mmdebstrap clamps time stamps to
COMMAND_LINE="root=PARTLABEL=root rw console=ttyS0 quiet systemd.show_status=0"

PACKAGES=systemd,systemd-sysv,udev,dbus,iproute2,ca-certificates,zstd,initramfs-tools,linux-image-cloud-amd64,systemd-boot-efi${EXTRA:+,$EXTRA}
BASE_FORMAT=1 # raise it when what goes into the base changes, so that no stale one is used
BASE=$CACHE/os-image-base-$SUITE-$BASE_FORMAT${EXTRA:+-$(echo "$EXTRA" | md5sum | cut -c1-8)}.tar

say() { printf 'build.sh: %5.1f s  %s\n' "$((${EPOCHREALTIME//[.,]/} - started))e-6" "$*"; }
started=${BUILD_STARTED:-${EPOCHREALTIME//[.,]/}}

require() { # program, Debian package
    command -v "$1" >/dev/null || { echo "build.sh: needs '$1' (Debian package $2)" >&2; exit 1; }
}

make_base() {
    say "no $BASE: downloading $SUITE by mmdebstrap (about two minutes, once)"
    local mode=unshare part
    [ "$(id -u)" = 0 ] && mode=root
    part=$(mktemp "$BASE.XXXXXX")
    # The essential hook says which modules the initramfs gets: enough to find a root file system on the disks that the
    # cloud kernel knows (virtio and NVMe; it has no AHCI), and nothing more.
    # shellcheck disable=SC2016  # $1 is mmdebstrap's, not ours
    mmdebstrap --mode=$mode --format=tar --variant=minbase --components=main --include="$PACKAGES" \
        --dpkgopt=force-unsafe-io \
        --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"
            printf "MODULES=list\nCOMPRESS=zstd\nFSTYPE=ext4\n" > "$1/etc/initramfs-tools/conf.d/disks"
            printf "%s\n" virtio_pci virtio_blk virtio_scsi nvme sd_mod ext4 > "$1/etc/initramfs-tools/modules"' \
        "$SUITE" "$part" || { rm -f "$part"; exit 1; }
    chmod 644 "$part"
    mv "$part" "$BASE"
    say "base system: $(stat -c %s "$BASE") bytes"
}

# What makes this image that version. $1: the unpacked root.
customise() {
    local root=$1 unit_dir=$1/etc/systemd/system
    echo "debian-v$VERSION" > "$root/etc/hostname"
    echo "$VERSION" > "$root/etc/image-version"
    : > "$root/etc/machine-id" # each machine that gets this image makes its own
    echo 'PARTLABEL=root / ext4 rw,noatime 0 1' > "$root/etc/fstab"
    sed -i 's#^root:[^:]*:#root::#' "$root/etc/shadow"
    printf '[Match]\nName=e*\n[Network]\nDHCP=ipv4\n[DHCPv4]\nClientIdentifier=mac\n' \
        > "$root/etc/systemd/network/10-wired.network"

    cat > "$root/usr/local/bin/report-os-up" <<'REPORT'
#!/bin/sh
# Says on the console that the installed system is up, with its address if it gets one within 15 seconds.
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    ip=$(ip -4 -o addr show scope global | awk '{ sub("/.*", "", $4); print $4; exit }')
    [ -n "$ip" ] && break
    sleep 1
done
echo "OS-UP version=$(cat /etc/image-version) ip=$ip" > /dev/console
REPORT
    chmod 755 "$root/usr/local/bin/report-os-up"
    cat > "$unit_dir/report-os-up.service" <<'UNIT'
[Unit]
Description=Say on the console that the system is up
After=systemd-networkd.service
[Service]
Type=oneshot
ExecStart=/usr/local/bin/report-os-up
[Install]
WantedBy=multi-user.target
UNIT
    mkdir -p "$unit_dir/multi-user.target.wants"
    ln -sf ../report-os-up.service "$unit_dir/multi-user.target.wants/"
    ln -sf /lib/systemd/system/systemd-networkd.service "$unit_dir/multi-user.target.wants/"
    local unit
    for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service e2scrub_all.timer; do
        ln -sf /dev/null "$unit_dir/$unit" # nothing that uses the network or the disk by itself in a test
    done

    mkdir -p "$root/opt/application"
    python3 -c 'import random, sys; sys.stdout.buffer.write(random.Random(sys.argv[1]).randbytes(int(sys.argv[2]) << 20))' \
        "$VERSION" "$PAYLOAD_MIB" > "$root/opt/application/payload"
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/*.log
    # One time stamp for what this script wrote.
    find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

make_esp() { # unpacked root, file to write
    local root=$1 esp=$2 release dir
    release=$(ls "$root/lib/modules")
    python3 "$here/uki.py" "$root/usr/lib/systemd/boot/efi/linuxx64.efi.stub" \
        "$root/boot/vmlinuz-$release" "$root/boot/initrd.img-$release" "$COMMAND_LINE" "$esp.uki"
    truncate -s ${ESP_MIB}M "$esp"
    mkfs.vfat -F 32 -n ESP -i $ESP_VOLUME_ID --invariant "$esp" >/dev/null
    touch -d "@$SOURCE_DATE_EPOCH" "$esp.uki"
    for dir in ::/EFI ::/EFI/BOOT; do mmd -i "$esp" "$dir"; done
    mcopy -m -i "$esp" "$esp.uki" ::/EFI/BOOT/BOOTX64.EFI
}

# Everything that wants to see files owned by root: as root, or in a user namespace where we look like it.
assemble() {
    local work root part
    work=$(mktemp -d "${TMPDIR:-/tmp}/os-image.XXXXXX")
    # shellcheck disable=SC2064  # expanded now on purpose
    trap "rm -rf '$work'" EXIT
    root=$work/root
    mkdir "$root"
    # No device nodes: a user namespace may not make them, and the kernel's devtmpfs does when the image runs.
    tar -xf "$BASE" -C "$root" --numeric-owner --exclude='./dev/*'
    say "unpacked the base"
    customise "$root"
    make_esp "$root" "$work/esp"

    # Partition table, ESP and root file system go straight to their places in one sparse file.
    part=$OUT.part
    rm -f "$part"
    truncate -s $((1 + ESP_MIB + ROOT_MIB + 3))M "$part"
    sgdisk -a 2048 -U $DISK_GUID \
        -n 1:2048:+${ESP_MIB}M -t 1:ef00 -c 1:ESP -u 1:$ESP_GUID \
        -n 2:0:+${ROOT_MIB}M -t 2:8304 -c 2:root -u 2:$ROOT_GUID "$part" >/dev/null
    dd if="$work/esp" of="$part" bs=1M seek=1 conv=notrunc,sparse status=none
    # No features newer than what file system readers elsewhere understand.
    E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -F -t ext4 -L root -U $ROOT_UUID \
        -O ^metadata_csum_seed,^orphan_file -d "$root" \
        -E hash_seed=$ROOT_UUID,lazy_itable_init=0,lazy_journal_init=0,offset=$(((1 + ESP_MIB) << 20)) \
        "$part" ${ROOT_MIB}M 2>"$work/mke2fs.log" || { cat "$work/mke2fs.log" >&2; exit 1; }
    mv "$part" "$OUT"
    say "$OUT: $(stat -c %s "$OUT") bytes, $(du -m "$OUT" | cut -f1) MiB on disk, version $VERSION"
}

if [ "${BUILD_STAGE:-}" = assemble ]; then
    assemble
    exit
fi
require mmdebstrap mmdebstrap
require mke2fs e2fsprogs
require mkfs.vfat dosfstools
require mcopy mtools
require sgdisk gdisk
require python3 python3
[ -e "$BASE" ] || make_base
if [ "$(id -u)" = 0 ]; then
    assemble
else
    require newuidmap uidmap
    say "not root: going on in a user namespace"
    BUILD_STAGE=assemble BUILD_STARTED=$started \
        unshare --user --map-root-user --map-auto -- "$BASH" "${BASH_SOURCE[0]}" "$OUT" "$VERSION"
fi
