"""A serial port on Trio: the only module that imports pyserial.

It owns the descriptor, the modem lines (DTR, DCD) and what a port error means in words. It knows nothing of
what is said over the port.

pyserial opens the port and sets it up (raw 8N1, baud, flow control, an exclusive lock), in a thread, for
opening may block. Then VMIN is set to 1 here, since pyserial's 0 makes 'no data' look like the end of the
file; no pyserial setter that would undo it is used after that. Trio reads and writes a duplicate of the
descriptor; an empty read then means that the port hung up. HUPCL is set, so that DTR falls, and the modem
hangs up, when the last descriptor closes, also when this process is killed.

A pseudo-terminal and some adapters have no modem lines: TIOCMGET answers ENOTTY there (`has_lines` False).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

import serial
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Port", "PortError", "SerialPort", "open_serial"]

OPEN_S: Final = 10.0
"""A USB adapter that is being reset holds an open for some seconds; longer is a broken one."""
SEND_S: Final = 10.0
"""A command line waits that long for the modem to lift its flow control; the kernel's buffer takes some 4 KB before."""
LINE_S: Final = 5.0
"""A USB adapter sets or reads a modem line within milliseconds, or its driver gives up after 5 s."""
RECEIVE_SIZE: Final = 4096
N_TTY: Final = 0
"""The line discipline of a port that nobody has taken for PPP (linux/tty.h)."""

_WORDS: Final = {
    errno.ENOENT: "there is no such port",
    errno.ENODEV: "there is no device behind this port",
    errno.ENXIO: "there is no device behind this port",
    errno.EIO: "there is no device behind this port",
    errno.EACCES: "no permission to open the port (is the user in its group, often dialout?)",
    errno.EPERM: "no permission to open the port (is the user in its group, often dialout?)",
    errno.EBUSY: "the port is in use by another program",
    errno.EAGAIN: "the port is in use by another program",
    errno.EISDIR: "this is a folder, not a serial port",
    errno.ENOTTY: "this is not a serial port",
}


class PortError(Exception):
    """The port can't be opened or used any more; the text is a plain sentence. `busy`: another program has it."""

    def __init__(self, text: str, *, busy: bool = False) -> None:
        super().__init__(text)
        self.busy = busy


class Port(Protocol):
    """What a modem's dialogue needs of a port; `SerialPort` is the product's."""

    has_lines: bool
    """Whether DTR can be set and DCD be read."""

    async def receive(self) -> bytes:
        """The next bytes, at least one. Raises PortError once the port is gone."""
        ...

    async def send(self, data: bytes) -> None:
        """Raises PortError when the port is gone or does not take the bytes."""
        ...

    async def carrier(self) -> bool:
        """Whether DCD is on; False without modem lines. Raises PortError."""
        ...

    async def set_dtr(self, on: bool) -> None:
        """Does nothing without modem lines. Raises PortError."""
        ...

    async def lend(self) -> int:
        """The descriptor, for another program: until `take_back` nothing is read or written here. Raises PortError."""
        ...

    async def take_back(self) -> None:
        """The port is set as it was when it was lent; what has come in since is gone. Raises PortError."""
        ...

    async def aclose(self) -> None:
        """Bounded in time; never raises for the port. DTR falls."""
        ...


class SerialPort:
    """`Port` over an open, set-up pyserial port. Made by `open_serial`, in Trio's thread."""

    def __init__(self, device: serial.Serial, path: str, has_lines: bool) -> None:
        self._device = device
        self._path = path
        self._stream = trio.lowlevel.FdStream(os.dup(device.fileno()))
        self._lent: list[Any] | None = None
        self.has_lines = has_lines

    async def receive(self) -> bytes:
        try:
            data = await self._stream.receive_some(RECEIVE_SIZE)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PortError(f"{self._path}: the port is gone ({_cause(error)})") from error
        if not data:
            raise PortError(f"{self._path}: the port hung up")
        return bytes(data)

    async def send(self, data: bytes) -> None:
        try:
            with trio.fail_after(SEND_S):
                await self._stream.send_all(data)
        except trio.TooSlowError:
            raise PortError(f"{self._path}: the modem takes no data (flow control holds it back)") from None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PortError(f"{self._path}: the port is gone ({_cause(error)})") from error

    async def carrier(self) -> bool:
        return self.has_lines and await self._line(lambda: bool(self._device.cd))

    async def set_dtr(self, on: bool) -> None:
        def work() -> bool:
            self._device.dtr = on
            return on

        if self.has_lines:
            await self._line(work)

    async def lend(self) -> int:
        try:
            self._lent = termios.tcgetattr(self._device.fileno())
        except (OSError, termios.error) as error:
            raise PortError(f"{self._path}: the port is gone ({error})") from error
        return self._device.fileno()

    async def take_back(self) -> None:
        """The borrower has given it back itself, unless it was killed: then the line discipline and exclusive use are
        still pppd's."""
        attributes: Any = self._lent
        self._lent = None

        def work() -> bool:
            fd = self._device.fileno()
            fcntl.ioctl(fd, termios.TIOCSETD, struct.pack("i", N_TTY))
            fcntl.ioctl(fd, termios.TIOCNXCL)
            termios.tcflush(fd, termios.TCIOFLUSH)
            termios.tcsetattr(fd, termios.TCSANOW, attributes)
            return True

        if attributes is not None:
            await self._line(work)

    async def _line(self, work: Callable[[], bool]) -> bool:
        try:
            with trio.fail_after(LINE_S):
                return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise PortError(f"{self._path}: the port's modem lines don't respond") from None
        except (OSError, termios.error) as error:  # SerialException is an OSError
            raise PortError(f"{self._path}: the port is gone ({error})") from error

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)
            with trio.move_on_after(LINE_S):
                await trio.to_thread.run_sync(_close, self._device, abandon_on_cancel=True)


async def open_serial(path: str, baud: int, flow: str) -> SerialPort:
    """Opens and sets up `path`: `baud` in bit/s, `flow` hardware (RTS/CTS) or none. Raises PortError."""
    lock = threading.Lock()
    waited_for = True
    opened: list[tuple[serial.Serial, bool]] = []

    def work() -> None:
        device = _open(path, baud, flow)
        try:
            has_lines = _set_up(device)
            with lock:
                if waited_for:
                    opened.append((device, has_lines))
                    return
        except BaseException:
            _close(device)
            raise
        _close(device)

    finished = False
    try:
        with trio.fail_after(OPEN_S):
            await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        finished = True
    except trio.TooSlowError:
        raise PortError(f"{path}: opening the port took longer than {OPEN_S:g} s") from None
    except (OSError, termios.error, ValueError, NotImplementedError) as error:  # SerialException is an OSError
        busy = isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EAGAIN)
        raise PortError(f"{path}: {_in_words(error, baud)}", busy=busy) from error
    finally:
        if not finished:  # a thread can't be stopped: whichever of the two comes last closes
            with lock:
                waited_for = False
            for device, _ in opened:
                _close(device)
    return SerialPort(opened[0][0], path, opened[0][1])


def _open(path: str, baud: int, flow: str) -> serial.Serial:
    return serial.Serial(path, baud, timeout=0, write_timeout=0, rtscts=flow == "hardware", exclusive=True)


def _set_up(device: serial.Serial) -> bool:
    """VMIN 1 and HUPCL; whether the port has modem lines."""
    attributes = termios.tcgetattr(device.fileno())
    attributes[2] |= termios.HUPCL
    attributes[6][termios.VMIN] = 1
    attributes[6][termios.VTIME] = 0
    termios.tcsetattr(device.fileno(), termios.TCSANOW, attributes)
    try:
        device.cd  # noqa: B018  the read is what asks
    except OSError:
        return False
    return True


def _close(device: serial.Serial) -> None:
    # What still waits for a modem that takes nothing would hold the close back, 30 s by the kernel's default.
    try:
        termios.tcflush(device.fileno(), termios.TCIOFLUSH)
    except (OSError, termios.error):
        pass
    try:
        device.close()
    except OSError:
        pass


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ or error


def _in_words(error: Exception, baud: int) -> str:
    if isinstance(error, (ValueError, NotImplementedError)):
        return f"the port can't be set to {baud} bit/s"
    number = error.errno if isinstance(error, OSError) else None
    cause = error.__context__
    if number is None and isinstance(cause, termios.error):  # pyserial keeps the number of an OSError only
        number = cause.args[0]
    return _WORDS.get(number or 0, str(error))
