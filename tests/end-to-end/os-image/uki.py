#!/usr/bin/env python3
"""uki.py STUB KERNEL INITRD CMDLINE OUT: joins a kernel, its initramfs and a command line to systemd's EFI stub.

The result is one EFI program that firmware starts by itself. A section is added by writing one more entry into the
stub's section table and its bytes at the end of the file; nothing else of the stub changes but the two counts.
"""
import struct
import sys

SECTION_READ_ONLY_DATA = 0x40000040


def up(value, alignment):
    return -(-value // alignment) * alignment


def main(stub_path, kernel_path, initrd_path, command_line, out_path):
    image = bytearray(open(stub_path, "rb").read())
    pe = struct.unpack_from("<I", image, 0x3C)[0]
    count, = struct.unpack_from("<H", image, pe + 6)
    optional = pe + 24
    table = optional + struct.unpack_from("<H", image, pe + 20)[0]
    section_alignment, file_alignment = struct.unpack_from("<II", image, optional + 32)
    # Per section: virtual size, virtual address, size in the file, offset in the file.
    present = [struct.unpack_from("<IIII", image, table + 40 * i + 8) for i in range(count)]

    added = [
        (b".osrel", b"ID=debian\nPRETTY_NAME=\"Debian test image\"\n"),
        (b".cmdline", command_line.encode()),
        (b".linux", open(kernel_path, "rb").read()),
        (b".initrd", open(initrd_path, "rb").read()),
    ]
    first_content = min(offset for _, _, size, offset in present if size)
    if table + 40 * (count + len(added)) > first_content:
        sys.exit(f"uki.py: {stub_path} has no room for {len(added)} more section headers")

    address = max(up(start + size, section_alignment) for size, start, _, _ in present)
    image += bytes(up(len(image), file_alignment) - len(image))
    for name, content in added:
        in_file = up(len(content), file_alignment)
        struct.pack_into("<8sIIIIIIHHI", image, table + 40 * count, name, len(content), address,
                         in_file, len(image), 0, 0, 0, 0, SECTION_READ_ONLY_DATA)
        image += content + bytes(in_file - len(content))
        address = up(address + len(content), section_alignment)
        count += 1
    struct.pack_into("<H", image, pe + 6, count)
    struct.pack_into("<I", image, optional + 56, address)  # SizeOfImage
    struct.pack_into("<I", image, optional + 64, 0)  # CheckSum: not used by firmware
    open(out_path, "wb").write(image)


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
