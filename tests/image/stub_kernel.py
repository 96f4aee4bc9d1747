"""A Linux kernel as a boot loader sees it, of some hundred bytes: it says its command line on the first serial port, and
restarts the machine. For tests of what the boot loader chooses.

Its header is that of the boot protocol 2.06 (Documentation/arch/x86/boot.rst of Linux), loaded high: 1 KiB of real-mode part,
then code for 32 bits, entered with ESI at the boot parameters.
"""

from __future__ import annotations

import struct

LINE_STATUS, DATA = 0x3FD, 0x3F8
"""Ports of the first UART."""
KEYBOARD, RESET = 0x64, 0xFE
"""The keyboard controller's command port, and its command that restarts a PC."""
CMD_LINE_PTR = 0x228


def _put_ah() -> bytes:
    """Waits until the UART takes a byte, and gives it AH."""
    wait = b"\x66\xba" + struct.pack("<H", LINE_STATUS) + b"\xec\xa8\x20"  # mov dx; in al,dx; test al,0x20
    wait += b"\x74" + struct.pack("b", -len(wait) - 2)  # jz back to the start
    return wait + b"\x66\xba" + struct.pack("<H", DATA) + b"\x88\xe0\xee"  # mov dx; mov al,ah; out dx,al


def _code() -> bytes:
    put = _put_ah()
    end = b"\xb4\x0a" + put  # mov ah,'\n'
    end += bytes((0xB0, RESET, 0xE6, KEYBOARD, 0xF4, 0xEB, 0xFD))  # mov al; out; hlt; jmp to the hlt
    body = b"\x88\xc4" + put  # mov ah,al
    head = b"\x8a\x03\x43\x84\xc0"  # mov al,[ebx]; inc ebx; test al,al
    head += b"\x74" + struct.pack("b", len(body) + 2)  # jz to the end
    loop = head + body
    loop += b"\xeb" + struct.pack("b", -len(loop) - 2)
    return b"\x8b\x9e" + struct.pack("<I", CMD_LINE_PTR) + loop + end  # mov ebx,[esi+CMD_LINE_PTR]


def stub_kernel() -> bytes:
    image = bytearray(1024) + _code()
    image[0x1F1] = 1  # setup_sects
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    struct.pack_into("<4sH", image, 0x202, b"HdrS", 0x0206)
    image[0x211] = 1  # loaded high
    struct.pack_into("<I", image, 0x214, 0x100000)  # code32_start
    struct.pack_into("<I", image, 0x22C, 0x37FFFFFF)  # initrd_addr_max
    struct.pack_into("<I", image, 0x238, 2047)  # cmdline_size
    return bytes(image.ljust(4096, b"\0"))
