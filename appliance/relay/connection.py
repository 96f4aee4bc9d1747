"""A control connection: TLS 1.3 on the epoll set, frames both ways. Of terminals, and of peers that open one here.

It owns the socket, the TLS state, what waits to be sent and the deadlines of its beginning and end; it must not know
what the frames mean: each goes to its `Speaker`.

How it works. A non-blocking `ssl.SSLSocket`, read until it wants more, since edges come once; a login costs some 15 KB
that way, a stream with a task twice that. What can't be sent at once waits in `_out`, at most `OUT_LIMIT`: who does not
read what he asked for is closed. Long answers are given as iterators, drawn from as the other side takes them.

An end has two forms. `end` says why in a last frame, shuts down the writing side, and reads on for `LINGER_S`, so that
no reset overtakes the frame (RELAY §1). `close` is at once. `Speaker.on_end` is called once for either.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from appliance.protocol.relay import Decoder, FrameError, encode
from appliance.relay.epoll import READABLE, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from appliance.relay.epoll import EpollSet
    from appliance.relay.timers import Timer, Timers

__all__ = ["Connection", "Speaker", "as_of_line"]

LINGER_S: Final = 1.0
"""RELAY §1: so long the one who ends a connection reads on."""
OUT_LIMIT: Final = 1024 * 1024
"""Bytes that wait for one who does not read: sixteen of the largest frames."""
LATER_LIMIT: Final = 4096
"""Answers that wait behind a long one, for one who asks and does not read."""
DRAW_BELOW: Final = 64 * 1024
"""Below this much that waits the next frame of a long answer is made."""
RECORD: Final = 16 * 1024
"""RFC 8446 §5.1: the largest record, and what is handed to TLS at once."""
NOTSENT_LOWAT: Final = 4096
"""RELAY §1: bytes that the kernel holds beyond what is on its way over a line (TCP_NOTSENT_LOWAT, tcp(7))."""
TCP_INFO_BYTES, TCP_INFO_ACKED = 136, 120
"""linux/tcp.h, struct tcp_info: tcpi_bytes_acked and tcpi_bytes_received behind it."""
READS: Final = 16
"""Reads in a turn; a flood of frames leaves the others theirs."""
_buffer: Final = memoryview(bytearray(64 * 1024))
"""One for all: what is in it has been handed on before the next read."""


def as_of_line(sock: socket.socket) -> None:
    """For a connection that goes over a line: a request does not wait behind mail. Raises OSError."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)


class Speaker(Protocol):
    """Who speaks over a connection. Nothing here may block."""

    def on_open(self) -> None:
        """The TLS handshake is done."""
        ...

    def on_frame(self, kind: str, body: Mapping[str, Any]) -> None:
        """One frame. What it raises is a defect."""
        ...

    def on_end(self, why: str) -> None:
        """The connection is over; nothing can be sent any more."""
        ...


class Connection:
    """One. `client` is the other side's address, for the journal and the limits; `heard` when it last sent a frame, by
    Trio's clock."""

    __slots__ = ("_closed", "_decoder", "_ending", "_epoll", "_handshaking", "_later", "_leave", "_out", "_sock",
                 "_timer", "_timers", "bytes_in", "bytes_out", "client", "heard", "speaker")  # fmt: skip

    def __init__(
        self,
        epoll: EpollSet,
        timers: Timers,
        sock: socket.socket,
        context: ssl.SSLContext,
        client: str,
        *,
        frame_limit: int,
        leave: Callable[[], None] = lambda: None,
        opened_here: bool = False,
    ) -> None:
        """`sock`: connected and non-blocking, ours from now on. `leave` is called when it is authenticated, or over.
        Raises OSError."""
        self._epoll, self._timers = epoll, timers
        self._sock = context.wrap_socket(sock, server_side=not opened_here, do_handshake_on_connect=False)
        self.client = client
        self.speaker: Speaker | None = None
        self._decoder = Decoder(frame_limit)
        self._timer: Timer | None = None
        self._leave: Callable[[], None] | None = leave
        self._out: bytes | bytearray = b""  # of one frame, mostly
        self._later: deque[Iterator[bytes]] | None = None
        self._handshaking = True
        self._ending = self._closed = False
        self.heard = trio.current_time()
        self.bytes_in = self.bytes_out = 0

    # ---- for the speaker
    def send(self, kind: str, body: Mapping[str, Any] | None = None) -> None:
        """Sends one frame, behind everything before it. Nothing where the connection is over."""
        if self._ending or self._closed:
            return
        frame = encode(kind, body or {})
        if self._later:
            self._put_off(iter((frame,)))
        else:
            self._put(frame)

    def send_long(self, frames: Iterator[bytes]) -> None:
        """Sends encoded frames, each made when there is room for it."""
        if self._ending or self._closed:
            return
        if self._later is None:
            self._later = deque()
        self._put_off(frames)
        self._flush()

    def _put_off(self, frames: Iterator[bytes]) -> None:
        assert self._later is not None
        self._later.append(frames)
        if len(self._later) > LATER_LIMIT:
            self.close("it does not read what is sent to it")

    def not_longer_than(self, seconds: float, why: str) -> None:
        """Unless it is authenticated by then; in place of what was said before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timers.after(seconds, lambda: self.close(why))

    def authenticated(self, frame_limit: int) -> None:
        """The deadline of the beginning is over, larger frames are taken."""
        self._decoder.limit = frame_limit
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._left()

    def end(self, kind: str, body: Mapping[str, Any]) -> None:
        """A last frame, then the end. `Speaker.on_end` is called at once, with "" for why."""
        if self._ending or self._closed:
            return
        self._later = None
        self._put(encode(kind, body))
        if self._closed:
            return
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timers.after(LINGER_S, lambda: self.close("ended by us"))
        self._tell_end("")
        if not self._out:
            self._shut()

    def close(self, why: str) -> None:
        """At once. One that is over is no error."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._epoll.remove(self._sock.fileno())
        self._sock.close()
        self._out = b""
        self._later = None
        self._left()
        self._tell_end(why)

    def payload(self) -> tuple[int, int]:
        """Bytes (in, out) of TCP payload so far, TLS included, by the kernel's count (tcp(7), TCP_INFO)."""
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        except OSError:
            return 0, 0
        acked, received = struct.unpack_from("=QQ", info, TCP_INFO_ACKED)
        return received, acked

    def peer_certificate(self) -> bytes:
        """DER; once it is open, of one that we opened."""
        return self._sock.getpeercert(binary_form=True) or b""

    @property
    def over(self) -> bool:
        return self._ending or self._closed

    @property
    def fd(self) -> int:
        return self._sock.fileno()

    # ---- the epoll set's
    def ready(self, mask: int) -> None:
        if mask & WRITABLE and not self._handshaking and (self._out or self._later):
            self._flush()
        if mask & READABLE or self._handshaking:
            self._read()

    def stop(self) -> None:
        self.close("the relay server stops")

    def _read(self) -> None:
        try:
            if self._handshaking and not self._shake():
                return
            for _ in range(READS):
                if self._closed:
                    return
                n = self._sock.recv_into(_buffer)
                if not n:
                    self.close("the other side closed it")
                    return
                if not self._ending:
                    self.bytes_in += n
                    self._take(bytes(_buffer[:n]))
        except ssl.SSLWantReadError:
            return
        except (OSError, ValueError) as error:
            self.close(_text(error))
            return
        self._epoll.again(self._read)

    def _shake(self) -> bool:
        try:
            self._sock.do_handshake()
        except ssl.SSLWantWriteError:
            return False
        self._handshaking = False
        if self.speaker is not None:
            self.speaker.on_open()
        return not self._closed

    def _take(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            while not self.over and (frame := self._decoder.next()) is not None:
                self.heard = trio.current_time()
                if self.speaker is not None:
                    self.speaker.on_frame(*frame)
        except FrameError as error:
            self.end("error", {"code": error.code, "text": str(error)})

    def _put(self, frame: bytes) -> None:
        waits = bool(self._out)
        self._add(frame)
        if len(self._out) > OUT_LIMIT:
            self.close("it does not read what is sent to it")
        elif self._handshaking:
            pass  # goes out behind it
        elif len(self._out) >= RECORD:
            self._flush()
        elif not waits:
            self._epoll.soon(self._flush_what_waits)  # one record for the answers to all that was read at once

    def _flush_what_waits(self) -> None:
        if not self._closed and self._out:
            self._flush()

    def _add(self, frame: bytes) -> None:
        if not self._out:
            self._out = frame
        else:
            if isinstance(self._out, bytes):
                self._out = bytearray(self._out)
            self._out += frame

    def _flush(self) -> None:
        try:
            while True:
                if self._later and len(self._out) < DRAW_BELOW:
                    frame = next(self._later[0], None)
                    if frame is None:
                        self._later.popleft()
                    else:
                        self._add(frame)
                    continue
                if not self._out:
                    break
                n = self._sock.send(bytes(self._out[:RECORD]))
                self.bytes_out += n
                if n == len(self._out):
                    self._out = b""  # an idle connection keeps no buffer
                elif isinstance(self._out, bytearray):
                    del self._out[:n]
                else:
                    self._out = self._out[n:]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError as error:
            self.close(_text(error))
            return
        self._later = None
        if self._ending:
            self._shut()

    def _shut(self) -> None:
        """Our writing side. What is read from now on is thrown away, decrypted or not."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.close(_text(error))

    def _left(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def _tell_end(self, why: str) -> None:
        speaker, self.speaker = self.speaker, None
        if speaker is not None:
            speaker.on_end(why)


def _text(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'failed').replace('_', ' ').lower()}"
    return getattr(error, "strerror", None) or str(error)
