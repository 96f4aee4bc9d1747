"""A virtual machine as a QEMU process: its devices, its monitor, its console, and that it always ends.

It owns the process and a folder with its sockets and the console's log; it knows nothing of what runs in the machine
(`guest` talks to that) and nothing of telephones (`modem` is a unix socket that somebody listens on). What is booted is
given from outside, so that the same module boots a kernel with a root of packages and, later, a whole disk image.

Every machine has the same devices in the same order, whatever is connected to them: a snapshot can only be loaded into
such a one. ttyS0 is the console, ttyS1 the modem's serial port (on aarch64, which has GPIO pins too, ttyAMA0 and ttyS0); a
virtio serial port named `agent` leads to the harness; `usb` is a controller to plug things into.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

EMULATED = "tcg,thread=multi,tb-size=256"
ACCEL = os.environ.get("POSTHOUSE_VM_ACCEL", EMULATED)
"""`kvm` where it works: a /dev/kvm that can be opened may still boot no kernel, so nobody guesses. For machines of the host's
own kind."""
MACHINES = {
    "x86_64": ("-machine", "pc", "-cpu", "max"),
    "aarch64": ("-machine", "virt", "-cpu", "cortex-a72"),  # `max` signs its pointers, which costs an emulator dearly
}
CONSOLES = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
LEAPS = ("-accel", "tcg,thread=single,tb-size=256", "-icount", "shift=4,sleep=off", "-rtc", "base=utc,clock=vm")
"""A processor of 62 million instructions a second, by its own clock."""
AT_ONCE = 2
"""Machines: the host has two cores, a third would only slow the others (`more_at_once`)."""
CONNECT_S = 60.0
"""QEMU has started and connected to the sockets; seconds on a busy host."""
MONITOR_S = 120.0
"""A monitor's command; saving a machine's memory is the longest."""
END_S = 10.0
STATE_DISK = "2G"
"""Virtual size of the disk that takes snapshots; it grows with what is saved."""
UNPLUG_S = 30.0

_running: list[Machine] = []
_at_once = [AT_ONCE]


@dataclass(frozen=True)
class Boot:
    """What is booted: a kernel and an initramfs with the read-only disk `root`, or, without a kernel, `disks` alone: by
    BIOS, or by the UEFI `firmware` (a pflash image). `arch`: x86_64 or aarch64."""

    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    root: Path | None = None
    disks: tuple[Path, ...] = ()
    firmware: Path | None = None
    arch: str = "x86_64"


@dataclass(eq=False)
class Machine:
    """`snapshot`: a disk made by `save` and the name in it, to go on from instead of booting. `modem`: the unix socket
    that the modem's port is connected to; nothing is, if None. `stick`: a folder that a USB stick shows. `more`: further arguments of
    QEMU's. `leaps`: its clock counts instructions, and leaps over the time in which it has nothing to do. `enter`: goes
    into the network namespace that QEMU is to run in, whose devices those may name. `write_log`: a file that takes every
    write to the boot's first disk, and every flush, in their order (`write_log`)."""

    name: str
    folder: Path
    boot: Boot
    snapshot: tuple[Path, str] | None = None
    modem: Path | None = None
    memory_mb: int = 512
    cpus: int = 1
    stick: Path | None = None
    more: tuple[str, ...] = ()
    leaps: bool = False
    enter: Callable[[], None] | None = None
    write_log: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    agent: socket.socket | None = None
    _monitor: socket.socket | None = None
    _said: BinaryIO = field(default_factory=io.BytesIO)

    @property
    def console_log(self) -> Path:
        return self.folder / "console.log"

    @property
    def state_disk(self) -> Path:
        return self.folder / "state.qcow2"

    # ---- its life
    def start(self) -> None:
        """Returns when QEMU runs and is connected; what is in it may still be booting."""
        assert len(_running) < _at_once[-1], f"{_at_once[-1]} machines run already: {[m.name for m in _running]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.snapshot is not None:
            shutil.copyfile(self.snapshot[0], self.state_disk)
        else:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.state_disk, STATE_DISK], check=True)
        with _listening(self.folder / "agent.sock") as agent, _listening(self.folder / "qmp.sock") as monitor:
            _running.append(self)
            log = self.folder / "qemu.log"
            with log.open("wb") as out:
                # The machine ends with us, however we end.
                self.process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "5", f"qemu-system-{self.boot.arch}", *self._arguments()],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=self.enter,
                )  # fmt: skip
            try:
                self.agent, self._monitor = self._accept(agent), self._accept(monitor)
                self._said = self._monitor.makefile("rb")
                self._said.readline()  # the greeting
                self.command("qmp_capabilities")
            except OSError as error:  # it was there, and went before it greeted
                self.end()
                raise AssertionError(f"QEMU ended: {log.read_text(errors='replace')}") from error
            except BaseException:
                self.end()
                raise

    def end(self) -> None:
        """At once, as a power cut. Idempotent."""
        for end in (self.agent, self._monitor):
            if end is not None:
                with contextlib.suppress(OSError):  # QEMU may have gone before
                    end.shutdown(socket.SHUT_RDWR)  # whoever reads there gets an end of file
                end.close()
        self._said.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self in _running:
            _running.remove(self)

    def _accept(self, listener: socket.socket) -> socket.socket:
        end = time.monotonic() + CONNECT_S
        listener.settimeout(0.2)
        while True:
            with contextlib.suppress(TimeoutError):
                return listener.accept()[0]
            assert self.process is not None
            said = (self.folder / "qemu.log").read_text(errors="replace")
            assert self.process.poll() is None, f"QEMU ended: {said}"
            assert time.monotonic() < end, f"QEMU did not start within {CONNECT_S:g} s: {said}"

    def _arguments(self) -> list[str]:
        boot = self.boot
        # A machine of `virt` has one port of its own.
        modem_port = ("-serial", "chardev:modem") if boot.arch == "x86_64" else ("-device", "pci-serial,chardev=modem")
        arguments = [
            "-nodefaults", "-no-user-config", "-display", "none", "-name", self.name, *MACHINES[boot.arch],
            "-m", str(self.memory_mb), "-smp", str(self.cpus), "-no-reboot",
            *(LEAPS if self.leaps else ("-accel", ACCEL if boot.arch == platform.machine() else EMULATED, "-rtc", "base=utc")),
            "-chardev", f"socket,id=qmp,path={self.folder}/qmp.sock,server=off", "-mon", "chardev=qmp,mode=control",
            "-chardev", f"socket,id=console,path={self.folder}/console.sock,server=on,wait=off,logfile={self.console_log}",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=modem,path={self.modem},server=off" if self.modem else "null,id=modem",
            *modem_port,
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={self.folder}/agent.sock,server=off",
            "-device", "virtserialport,chardev=agent,name=agent",
            "-device", "qemu-xhci,id=usb",
        ]  # fmt: skip
        if boot.firmware is not None:
            arguments += ["-drive", f"file={boot.firmware},format=raw,if=pflash,readonly=on"]
        if self.stick is not None:
            arguments += ["-drive", f"file=fat:{self.stick},format=raw,readonly=on,if=none,id=stick"]
            arguments += ["-device", "usb-storage,drive=stick,bus=usb.0"]
        arguments += self.more
        if boot.root is not None:
            arguments += ["-drive", f"file={boot.root},format=raw,if=virtio,readonly=on"]
        for n, disk in enumerate(boot.disks):
            if self.write_log is not None and n == 0:
                self.write_log.touch()
                arguments += ["-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={disk}"]
                arguments += ["-blockdev", f"driver=file,node-name=log,filename={self.write_log}"]
                arguments += ["-blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512"]
                arguments += ["-device", "virtio-blk-pci,drive=logged,discard=off,write-zeroes=off"]
            else:
                # A flush takes no time of a clock that leaps while it waits for one: else units run into their deadlines.
                cache = ",cache=unsafe" if self.leaps else ""
                arguments += ["-drive", f"file={disk},format=qcow2,if=virtio{cache}"]
        arguments += ["-drive", f"file={self.state_disk},format=qcow2,if=virtio"]
        if boot.kernel is not None:
            arguments += ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd)]
            arguments += [
                "-append",
                f"console={CONSOLES[boot.arch]},115200 quiet nokaslr panic=-1 mitigations=off {boot.append}",
            ]
        if self.snapshot is not None:
            arguments += ["-loadvm", self.snapshot[1]]
        return arguments

    # ---- the monitor
    def command(self, name: str, **arguments: Any) -> Any:
        """A QMP command's return value. AssertionError when QEMU refuses."""
        assert self._monitor is not None
        self._monitor.settimeout(MONITOR_S)
        self._monitor.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        for line in self._said:
            reply = json.loads(line)
            if "return" in reply:
                return reply["return"]
            assert "error" not in reply, f"{name}: {reply['error']['desc']}"
        raise AssertionError(f"{name}: QEMU has gone")

    def plug_serial(self, name: str, modem: Path | None) -> None:
        """Plugs in a USB serial adapter; `modem` is the unix socket behind it, None a port with nothing."""
        address = {"type": "unix", "data": {"path": str(modem)}}
        backend = {"type": "ringbuf", "data": {}} if modem is None else {
            "type": "socket", "data": {"addr": address, "server": False}}  # fmt: skip
        self.command("chardev-add", id=f"{name}-port", backend=backend)
        self.command("device_add", driver="usb-serial", id=name, serial=name, chardev=f"{name}-port", bus="usb.0")

    def unplug_serial(self, name: str) -> None:
        self.command("device_del", id=name)
        end = time.monotonic() + UNPLUG_S
        while True:  # the port goes with the adapter, a moment later
            try:
                self.command("chardev-remove", id=f"{name}-port")
                return
            except AssertionError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.05)

    def save(self, name: str) -> Path:
        """The whole machine as it is now, into `state_disk` under `name`; it goes on running."""
        said = self.command("human-monitor-command", **{"command-line": f"savevm {name}"})
        assert not said.strip(), f"savevm: {said}"
        return self.state_disk

    def console(self, lines: int = 80) -> str:
        """The last lines that it wrote to its console."""
        if not self.console_log.exists():
            return "it wrote nothing"
        return "\n".join(self.console_log.read_text(errors="replace").splitlines()[-lines:])


def running() -> list[Machine]:
    """Those that run now, for a test that failed."""
    return list(_running)


@contextlib.contextmanager
def more_at_once(count: int) -> Iterator[None]:
    """For a scenario that can't do with AT_ONCE."""
    _at_once.append(count)
    try:
        yield
    finally:
        _at_once.pop()


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener
