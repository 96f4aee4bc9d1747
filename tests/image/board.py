"""The image on a machine, as the person with the serial cable has it: from the disk's own boot loader, by the console.

`build` has `scripts/build-image` make the image, `flash` puts it on a disk of a given size. The product has no agent: what
a test wants to know it asks the root shell on ttyS0.
"""

from __future__ import annotations

import codecs
import re
import socket
import subprocess
import time
from pathlib import Path

from .inject import ROOT
from .qemu import Boot, Machine

BUILD_S = 1500.0
"""Five minutes on an idle machine, of which two make the base, which is kept."""
BOOT_S = 600.0
"""From QEMU's start to the shell: half a minute on an idle machine, many times that on a busy one."""
RUN_S = 60.0
POLL_S = 0.5
AGAIN_S = 20.0
"""Before a person presses a key once more."""
LOOK_S = 5.0
"""Between two looks: a command costs an emulated machine seconds, which what it waits for needs itself."""
MEMORY_MB = 256
"""What the smallest board has."""
ARM64_MEMORY_MB = 512
"""With 256 the kernel's EFI stub finds no room beside the firmware, GRUB and the file to relocate its 40 MB to."""
UEFI = {
    "x86_64": Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
    "aarch64": Path("/usr/share/AAVMF/AAVMF_CODE.fd"),
}
"""Of Debian's packages ovmf and qemu-efi-aarch64."""
PROMPT = "root@posthouse:~# "
ENTER = "Posthouse: press Enter"
PASSWORD_ASKED = "Administrator's password: "
PLAIN = r"(?m:^)[a-z0-9][a-z0-9.-]*\*?(?: \[[^\n]*\])?(?: \([^\n]*\))?> \Z"
EDITED = r"\x1b\[\?2004h\x1b\[\?(1|25)l"
CONSOLE = f"{PLAIN}|{EDITED}"
"""`posthouse console` reads a line, a plain one or one edited in place, for which bracketed paste is switched on, as
bash does too, and what prompt_toolkit sends behind that."""


def build(folder: Path) -> Path:
    """Makes the image of this checkout into `folder`; -> the disk, unpacked."""
    made = subprocess.run([ROOT / "scripts/build-image", "--output", folder], timeout=BUILD_S)
    assert made.returncode == 0, "scripts/build-image failed; it has said why"
    return unpack(folder)


def unpack(folder: Path) -> Path:
    """-> the disk of the image in `folder`, which Buildroot leaves as it is."""
    if (disks := list(folder.glob("posthouse-*.img"))) and not list(folder.glob("posthouse-*.img.zst")):
        (disk,) = disks
        return disk
    (packed,) = folder.glob("posthouse-*.img.zst")
    disk = packed.with_suffix("")
    if not disk.exists() or disk.stat().st_mtime < packed.stat().st_mtime:
        subprocess.run(["zstd", "-dqf", "--sparse", packed, "-o", disk], check=True)
    return disk


def flash(image: Path, disk: Path, size: str = "2G") -> Path:
    """A disk of that size with the image on it; what a machine writes stays in `disk`."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", disk, size], check=True)
    return disk


def machine(
    folder: Path, disk: Path, *, uefi: bool = False, stick: Path | None = None, modem: Path | None = None, cpus: int = 1,
    arch: str = "x86_64",
) -> Machine:  # fmt: skip
    """`uefi`: an aarch64 board has nothing else. `cpus`: with two, emulated, Linux now and then runs into a breakpoint that it has planted itself while it patches its
    code at the start (an Oops by int3)."""
    boot = Boot(disks=(disk,), firmware=UEFI[arch] if uefi or arch == "aarch64" else None, arch=arch)
    return Machine(
        folder.name,
        folder,
        boot,
        modem=modem,
        memory_mb=MEMORY_MB if arch == "x86_64" else ARM64_MEMORY_MB,
        cpus=cpus,
        stick=stick,
    )


class Board:
    """A machine that was just started, and its console."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.said = ""
        self._read_to = 0
        self._commands = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._console = socket.socket(socket.AF_UNIX)
        self._console.connect(str(machine.folder / "console.sock"))
        self._console.settimeout(POLL_S)

    def close(self) -> None:
        self._console.close()
        self.machine.end()

    def wait(self, pattern: str, *, seconds: float) -> re.Match[str]:
        """Until it has said what `pattern` describes, behind what was waited for before."""
        end = time.monotonic() + seconds
        while True:
            if found := re.compile(pattern).search(self.said, self._read_to):
                self._read_to = found.end()
                return found
            assert time.monotonic() < end, f"not within {seconds:g} s: {pattern}\n{self.said[-6000:]}"
            try:
                data = self._console.recv(65536)
            except TimeoutError:
                continue
            assert data, f"the machine has ended before it said {pattern}\n{self.said[-6000:]}"
            self.said += self._decode(data).replace("\r", "")

    def open_console(self, *, seconds: float = BOOT_S) -> str:
        """Once it has started; -> what the console asks or says first: the prompt of a shell or of itself, or for a
        password, the administrator's or the first start's first question."""
        self.wait(ENTER, seconds=seconds)
        self.type("\r")
        return self.wait(rf"{re.escape(PROMPT)}|{PASSWORD_ASKED}|{CONSOLE}", seconds=seconds)[0]

    def log_in(self, *, seconds: float = BOOT_S, password: str = "") -> None:
        """Until there is root's shell on the console. `password`: the administrator's, where there is one; without, the
        first start's questions are left where they are asked."""
        found = self.open_console(seconds=seconds)
        if found == PASSWORD_ASKED and password:
            self.type(password + "\n")
            found = self.wait(CONSOLE, seconds=seconds)[0]
        elif found == PASSWORD_ASKED:
            found = self.leave_questions(seconds=seconds)
        if found != PROMPT:
            self.start_shell(seconds=seconds)
        else:
            self._quiet_shell()

    def leave(self) -> None:
        """From root's shell, until somebody presses Enter (`log_in`)."""
        self.type("exit\n")
        self.wait(CONSOLE, seconds=RUN_S)
        self.type("exit\r")

    def start_shell(self, *, seconds: float = RUN_S) -> None:
        """From the console's prompt."""
        self.type("start shell\r")
        self.wait(re.escape(PROMPT), seconds=seconds)
        self._quiet_shell()

    def _quiet_shell(self) -> None:
        self.type("exec sh\n")
        self.type("stty -echo; PS1=; PS2=; export TERM=dumb SYSTEMD_PAGER= SYSTEMD_COLORS=0; cd /\n")
        self.sh("true")

    def leave_questions(self, *, seconds: float = BOOT_S) -> str:
        """By Ctrl-C, and again where it came before it was heeded: the question is there a moment earlier. -> the prompt
        that there is then."""
        end = time.monotonic() + seconds
        while True:
            self.type("\x03")
            try:
                self.wait(r"Leave\? .*: ", seconds=AGAIN_S)
                break
            except AssertionError:
                if time.monotonic() > end:
                    raise
        self.type("yes\n")
        return self.wait(rf"{re.escape(PROMPT)}|{CONSOLE}", seconds=seconds)[0]

    def run(self, command: str, *, seconds: float = RUN_S) -> tuple[int, str]:
        """-> its exit code and what it wrote."""
        self._commands += 1
        mark = f"=={self._commands}="
        self.type(f"echo '{mark}'begin; {{ {command}\n}} 2>&1; echo '{mark}'$?\n")
        self.wait(f"{mark}begin\n", seconds=seconds)
        begin = self._read_to
        found = self.wait(rf"{mark}(\d+)\n", seconds=seconds)
        return int(found[1]), self.said[begin : found.start()]

    def sh(self, command: str, *, seconds: float = RUN_S) -> str:
        """What a command that must succeed wrote."""
        code, out = self.run(command, seconds=seconds)
        assert code == 0, f"{command}: {code}\n{out}"
        return out

    def until(self, command: str, what: str, *, seconds: float = RUN_S) -> str:
        """Until the command ends with 0; -> what it wrote."""
        end = time.monotonic() + seconds
        while True:
            code, out = self.run(command)
            if code == 0:
                return out
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{out}\n{self.journal()}"
            time.sleep(LOOK_S)

    def run_no_wait(self, command: str) -> None:
        """One that nobody will see the end of."""
        self.type(command + "\n")

    def wait_end(self, *, seconds: float = BOOT_S) -> None:
        """Until the machine has gone down to start again, which here is its end: another `Machine` starts it."""
        end = time.monotonic() + seconds
        while True:
            try:
                data = self._console.recv(65536)
            except TimeoutError:
                assert time.monotonic() < end, f"it did not go down within {seconds:g} s\n{self.said[-6000:]}"
                continue
            except ConnectionError:
                data = b""
            if not data:
                break
            self.said += self._decode(data).replace("\r", "")
        self.close()

    def journal(self) -> str:
        return self.run("journalctl -b --no-pager -o short-monotonic | tail -n 150")[1]

    def type(self, keys: str) -> None:
        """As a person at the console would."""
        self._console.sendall(keys.encode())
