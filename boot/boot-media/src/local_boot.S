# local.efi: starts the operating system on this machine's disk, from any firmware, whatever its boot order says next.
#
# Merely returning an error sends the firmware to the next entry of its boot order. That is often not the disk: stock
# EDK2 goes on with PXE over IPv6, then HTTP boot over IPv4 and IPv6, and waits minutes for servers that are not there.
# So this program looks for the boot files itself, on each file system of a disk that cannot be taken out (a stick in the
# machine is not "its disk"). If no file starts, it connects all drivers (firmware that boots fast leaves disks alone),
# looks once more, and only then returns EFI_NOT_FOUND, which sends the firmware on.
#
# Each file is loaded by the firmware's LoadImage, so Secure Boot checks it as ever.
#
# Assemble: as --64 local_boot.S -o local_boot.o && objcopy -O binary -j .text local_boot.o local_boot.bin
# (the test `the_assembled_code_is_its_source` does it and compares). Position-independent; entry at the first byte:
# rcx = image handle, rdx = system table; Microsoft's calling convention (UEFI 2.10, 2.3.4).

        .intel_syntax noprefix
        .text

        # EFI_SYSTEM_TABLE and EFI_BOOT_SERVICES, by the offsets of UEFI 2.10, 4.3 and 4.4.
        .equ CONSOLE_OUT, 0x40
        .equ BOOT_SERVICES, 0x60
        .equ OUTPUT_STRING, 0x08
        .equ HANDLE_PROTOCOL, 0x98
        .equ LOAD_IMAGE, 0xc8
        .equ START_IMAGE, 0xd0
        .equ CONNECT_CONTROLLER, 0x108
        .equ LOCATE_HANDLE_BUFFER, 0x138

        # Our stack: room for six arguments, four variables, and the device path that is put together.
        .equ ARGUMENT_5, 0x20
        .equ ARGUMENT_6, 0x28
        .equ COUNT, 0x30
        .equ HANDLES, 0x38
        .equ INTERFACE, 0x40
        .equ IMAGE, 0x48
        .equ PATH, 0x50
        .equ STACK_BYTES, 0x4b8         # 8 more than a multiple of 16: the calls find an aligned stack
        .equ PATH_END, STACK_BYTES - 128 # the longest name below, with its end node, fits behind

start:
        push rbx
        push rbp
        push rsi
        push rdi
        push r12
        push r13
        push r14
        push r15
        sub rsp, STACK_BYTES
        mov r12, rcx                    # our own handle, the parent of what we load
        mov rbx, [rdx + BOOT_SERVICES]
        mov rcx, [rdx + CONSOLE_OUT]
        test rcx, rcx
        jz silent                       # a machine without any console
        lea rdx, [rip + message]
        call [rcx + OUTPUT_STRING]
silent:
        mov r15d, 2                     # passes: before and after connecting all drivers

pass:   # LocateHandleBuffer(ByProtocol, file system, -, &count, &handles)
        mov ecx, 2
        lea rdx, [rip + file_system]
        xor r8d, r8d
        lea r9, [rsp + COUNT]
        lea rax, [rsp + HANDLES]
        mov [rsp + ARGUMENT_5], rax
        call [rbx + LOCATE_HANDLE_BUFFER]
        test rax, rax
        jnz pass_done
        lea r13, [rip + names]
next_name:
        cmp word ptr [r13], 0
        je pass_done
        xor r14d, r14d
next_handle:
        cmp r14, [rsp + COUNT]
        jae name_done
        mov rax, [rsp + HANDLES]
        mov rdi, [rax + r14 * 8]
        inc r14

        # HandleProtocol(handle, block device, &interface): a removable medium is passed over
        mov rcx, rdi
        lea rdx, [rip + block_device]
        lea r8, [rsp + INTERFACE]
        call [rbx + HANDLE_PROTOCOL]
        test rax, rax
        jnz next_handle
        mov rax, [rsp + INTERFACE]
        mov rax, [rax + 8]              # Media
        cmp byte ptr [rax + 4], 0       # RemovableMedia
        jne next_handle

        # HandleProtocol(handle, device path, &interface)
        mov rcx, rdi
        lea rdx, [rip + device_path]
        lea r8, [rsp + INTERFACE]
        call [rbx + HANDLE_PROTOCOL]
        test rax, rax
        jnz next_handle

        # The partition's device path, without its end, and behind it the file's name
        mov rsi, [rsp + INTERFACE]
        lea rdi, [rsp + PATH]
copy_node:
        movzx ecx, word ptr [rsi + 2]   # the node's length
        cmp byte ptr [rsi], 0x7f        # the end
        je append_name
        cmp ecx, 4
        jb next_handle                  # damaged
        lea rax, [rdi + rcx]
        lea rdx, [rsp + PATH_END]
        cmp rax, rdx
        ja next_handle                  # longer than any real one
        rep movsb
        jmp copy_node
append_name:
        mov rsi, r13
        movzx ecx, word ptr [rsi + 2]
        add ecx, 4                      # and the end node behind the name
        rep movsb

        # LoadImage(from the boot manager: no, parent, path, -, 0, &image), StartImage(image, -, -)
        xor ecx, ecx
        mov rdx, r12
        lea r8, [rsp + PATH]
        xor r9d, r9d
        mov [rsp + ARGUMENT_5], r9
        lea rax, [rsp + IMAGE]
        mov [rsp + ARGUMENT_6], rax
        call [rbx + LOAD_IMAGE]
        test rax, rax
        jnz next_handle                 # not there, not a program, or not signed
        mov rcx, [rsp + IMAGE]
        xor edx, edx
        xor r8d, r8d
        call [rbx + START_IMAGE]
        jmp next_handle                 # it came back: it did not start an operating system
name_done:
        movzx eax, word ptr [r13 + 2]
        lea r13, [r13 + rax + 4]
        jmp next_name

pass_done:
        dec r15d
        jz fail
        # LocateHandleBuffer(AllHandles, -, -, &count, &handles); ConnectController(handle, -, -, and its children)
        xor ecx, ecx
        xor edx, edx
        xor r8d, r8d
        lea r9, [rsp + COUNT]
        lea rax, [rsp + HANDLES]
        mov [rsp + ARGUMENT_5], rax
        call [rbx + LOCATE_HANDLE_BUFFER]
        test rax, rax
        jnz fail
        xor r14d, r14d
connect:
        cmp r14, [rsp + COUNT]
        jae pass
        mov rax, [rsp + HANDLES]
        mov rcx, [rax + r14 * 8]
        inc r14
        xor edx, edx
        xor r8d, r8d
        mov r9d, 1
        call [rbx + CONNECT_CONTROLLER]
        jmp connect

fail:   movabs rax, 0x800000000000000e  # EFI_NOT_FOUND
        add rsp, STACK_BYTES
        pop r15
        pop r14
        pop r13
        pop r12
        pop rdi
        pop rsi
        pop rbp
        pop rbx
        ret

        .balign 8
file_system:                            # EFI_SIMPLE_FILE_SYSTEM_PROTOCOL
        .long 0x964e5b22
        .short 0x6459, 0x11d2
        .byte 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b
block_device:                           # EFI_BLOCK_IO_PROTOCOL
        .long 0x964e5b21
        .short 0x6459, 0x11d2
        .byte 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b
device_path:                            # EFI_DEVICE_PATH_PROTOCOL
        .long 0x09576e91
        .short 0x6d3f, 0x11d2
        .byte 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b

message:
        .string16 "Lamplighter: nothing to install, starting this machine's disk\r\n"

        # Device path nodes (media, file path) with the file's name in UTF-16, an end node behind each; a zero ends the list.
names:
windows:
        .byte 4, 4
        .short windows_end - windows
        .string16 "\\EFI\\Microsoft\\Boot\\bootmgfw.efi"
windows_end:
        .byte 0x7f, 0xff, 4, 0
fallback:
        .byte 4, 4
        .short fallback_end - fallback
        .string16 "\\EFI\\BOOT\\BOOTX64.EFI"
fallback_end:
        .byte 0x7f, 0xff, 4, 0
        .short 0
