"""What a call is to those who use one: the contract between `calls/` (who decides and runs it), `modem/`
(whose `Line` it goes over) and `mail/` and later `relay/` (whose `Job`s it carries). A leaf without I/O.

Theory of operation. The cycle dials a `Line`; on CONNECT it holds an `OpenCall` and runs every `Job` side
by side, each in a task of its own: `run` until it returns, then `wait_work`, then `run` again. When all jobs
wait at once and `linger` has passed, or the carrier is lost, or `max_call` is over, the tasks are cancelled
and the line is hung up. A job counts what it did on the call as it happens (`OpenCall.count`), so that a
cancelled job loses no figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from datetime import datetime

    import trio

__all__ = [
    "AllPaid",
    "Dialled",
    "Job",
    "JobReport",
    "Line",
    "LineState",
    "NextCall",
    "OpenCall",
    "Outcome",
    "PaidTime",
    "PinRecord",
    "PinState",
    "Prospect",
    "Reason",
    "Share",
    "Tally",
    "TimeOfCall",
    "Window",
]


class Outcome(StrEnum):
    """How a call, or one dial of it, ended (DESIGN §6)."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    NO_CARRIER = "no-carrier"
    NO_DIALTONE = "no-dialtone"
    BLACKLISTED = "blacklisted"
    DELAYED = "delayed"
    TIMEOUT = "timeout"
    MODEM_SILENT = "modem-silent"
    MODEM_ERROR = "modem-error"
    PIN_REFUSED = "pin-refused"
    NO_NETWORK = "no-network"
    NEGOTIATION_FAILED = "negotiation-failed"
    LOGIN_REFUSED = "login-refused"
    CARRIER_LOST = "carrier-lost"
    INTERRUPTED = "interrupted"
    MAX_CALL = "max-call"
    HUNG_UP = "hung-up"


class Reason(StrEnum):
    """Why a call was made (DESIGN §6)."""

    URGENT = "urgent"
    CONNECTION_REQUEST = "connection-request"
    WAKE = "wake"
    AT = "at"
    EVERY = "every"
    QUEUED_MESSAGES = "queued-messages"
    QUEUED_SIZE = "queued-size"
    OLDEST_MESSAGE = "oldest-message"
    BULK = "bulk"
    RETRY = "retry"
    BY_HAND = "by-hand"


class PinState(StrEnum):
    """What became of a SIM's PIN: not given yet, given with its result not known, taken, refused."""

    NEW = "new"
    GIVEN = "given"
    TAKEN = "taken"
    REFUSED = "refused"


class LineState(StrEnum):
    """`status`'s `line.state` (DESIGN §6)."""

    IDLE = "idle"
    DIALLING = "dialling"
    NEGOTIATING = "negotiating"
    EXCHANGING = "exchanging"
    LINGERING = "lingering"
    HANGING_UP = "hanging-up"
    FAILED = "failed"


@dataclass(slots=True)
class Share:
    """One user's part of a call: messages each way, and their bytes."""

    sent: int = 0
    fetched: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True)
class Tally:
    """What a call moved. `sent`, `fetched`, `failed` in messages (`failed`: those that ended in a bounce,
    and accounts and servers whose work failed); bytes as DESIGN §6 says. `users`: the messages by user, "" for those
    that are nobody's."""

    sent: int = 0
    fetched: int = 0
    failed: int = 0
    circuits: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    users: dict[str, Share] = field(default_factory=dict)

    @property
    def moved(self) -> bool:
        """Whether the call was good for anything."""
        return bool(self.sent or self.fetched or self.circuits)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What waits for a call, as the policy sees it. Times are wall-clock Unix seconds; held messages and
    those in `bulk_*` count for no other field. Messages that a server has deferred count for nothing (a call for
    them alone would be answered as the last one was) until a while has passed: the first of them at
    `deferred_until`. They go in whatever call is made before. `upstream_bytes`: what is known to wait to be fetched."""

    messages: int = 0
    bytes: int = 0
    oldest: float | None = None
    urgent: int = 0
    bulk_messages: int = 0
    bulk_bytes: int = 0
    bulk_oldest: float | None = None
    deferred: int = 0
    deferred_until: float | None = None
    upstream_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NextCall:
    """When the next call will be, for `status`: wall-clock Unix seconds, or None when nothing plans one;
    `reason` says in words why then, or why not."""

    at: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class JobReport:
    """How one run of a job ended. `left`: it leaves work that it could have done but for a fault of this
    call (a server that did not answer); `detail` says so in a sentence for the journal."""

    left: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Dialled:
    """The end of one dial: `connected` with the rate in bit/s (0: the modem did not say), or why not."""

    outcome: Outcome | None
    rate: int = 0
    text: str = ""

    @property
    def connected(self) -> bool:
        return self.outcome is None


class PinRecord(Protocol):
    """What is known for good of one PIN, for the line that gives it: a SIM takes three wrong ones in its life."""

    @property
    def state(self) -> PinState: ...

    async def note(self, state: PinState) -> bool:
        """Whether it is on stable storage now. GIVEN is noted before the SIM is given the PIN."""
        ...


class Line(Protocol):
    """One way out. Calls never overlap on a line; whoever holds it calls these in the order written.

    `device` and `dns` are the call's own, known once `negotiate` has succeeded, and empty again after `hang_up`.
    """

    name: str

    @property
    def device(self) -> str:
        """The network device that the call's streams are bound to; "" where the network is simply there."""
        ...

    @property
    def dns(self) -> tuple[str, ...]:
        """Addresses of the name servers that the far end gave for this call."""
        ...

    async def prepare(self, tell: Callable[[str], None] = lambda text: None) -> Outcome | None:
        """Opens the port, finds the modem, hangs up what a crash left off-hook, sends the init strings.
        None when it can dial, else why it can't. May be called again after a failed dial. `tell` takes what a person
        who waits would like to know, in a line each: this may take minutes."""
        ...

    async def dial(self, number: str) -> Dialled:
        """One ATD, until its final result or `dial_timeout`. Cancelled: the dial is aborted first. A line that has no
        numbers is dialled with ""."""
        ...

    async def negotiate(self) -> Outcome | None:
        """Brings the network up on the carrier (nothing to do with bearer none). None when it is up."""
        ...

    async def open_stream(self, host: str, port: int) -> trio.SocketStream:
        """A TCP connection over the line, TCP_NODELAY set. Raises OSError. The cycle counts its bytes where `carried`
        does not."""
        ...

    async def network_time(self) -> datetime | None:
        """The time now, in UTC, as the network told it before this call's dial; None where the line has no such
        clock. Costs nothing, and can be asked at any time from `prepare` on."""
        ...

    def carried(self) -> tuple[int, int] | None:
        """Bytes (in, out) that the device has carried in this call, kept after its end until the next dial; None where
        there is no device to ask, and the payload of the streams is what counts."""
        ...

    async def wait_carrier_lost(self) -> Outcome:
        """Returns once the far end or the network is gone, with the outcome that this is."""
        ...

    async def wait_wake(self) -> str:
        """Between calls: listens for a ring from one of the line's `wake_numbers`, never answers it, and returns its
        number once it rings no more. Never returns on a line that can't ring; what goes wrong with the modem is an
        event, and waited out. Cancelled, it leaves the line as `hang_up` does."""
        ...

    async def command(self, command: str) -> list[str]:
        """Between calls: gives the modem a person's command line; -> the lines of its answer, as they came. Raises
        OSError, in words for a person: for what would cost something, for a modem that does not answer, and for a line
        that has none. It leaves the line as `hang_up` does."""
        ...

    async def hang_up(self) -> None:
        """Puts the line on-hook and closes the port, whatever state it is in; bounded in time; idempotent.
        `wait_carrier_lost` has ended before, by itself or cancelled."""
        ...


class Window(Protocol):
    """What the host does for as long as a call is up: routes, filter rules and time servers for the line alone."""

    def lacks(self) -> str:
        """Why a call would be of no use now, "" where it would not: asked before anything is dialled."""
        ...

    async def open(self, device: str, dns: Sequence[str]) -> None:
        """The line is up: `device` and `dns` as `Line` has them. Raises OSError: the call is then of no use."""
        ...

    async def close(self) -> None:
        """The line is about to go, or has gone already; after an `open` that failed or was cancelled, too. Bounded in
        time; idempotent; raises OSError."""
        ...


class TimeOfCall(Protocol):
    """Gets the time in a call, so that certificates can be judged and the schedule kept."""

    async def begin(self, line: Line) -> None:
        """The line is up, and so is its window. Returns once the time is known: at once where it was before, or where
        nobody can be asked. Cancelled when it takes too long; goes on beside the jobs then. Raises nothing."""
        ...

    def end(self) -> None:
        """The line is about to go, or has gone already; also after a `begin` that was cancelled. Idempotent."""
        ...


class PaidTime(Protocol):
    """Time of a call that is paid already: the only time for bulk mail (DESIGN §2 Bulk), unless it is too old."""

    def left_s(self) -> float:
        """Seconds of it from now on: 0 before it begins and after it ends, `inf` on a line that is free."""
        ...

    async def wait_begun(self) -> None:
        """Returns when there is such time; never, should there be none in this call."""
        ...

    def carries_bulk(self, job: str, *, alone: bool) -> None:
        """The job has nothing but bulk mail to do (or no longer): it does not keep the call up beyond that time."""
        ...


class AllPaid:
    """Of a line that is free: all of the call."""

    def left_s(self) -> float:
        return math.inf

    async def wait_begun(self) -> None:
        return

    def carries_bulk(self, job: str, *, alone: bool) -> None:
        pass


@dataclass(slots=True)
class OpenCall:
    """A call that is up, as its jobs see it. Owned by the cycle.

    `open_stream(host, port)` opens a byte-counting TCP connection over the line and raises OSError;
    `show(text)` puts a line into the call's progress (`status --watch`, `demo`). `counts_payload`: the line's device
    counts no bytes, so whoever takes a stream's socket to move bytes by himself adds them to `tally`. `paid`: when bulk
    mail may go. `longest_s`: what no call lasts longer than (`max_call`). `moving()`: the names of the jobs that have
    work under way; `carried()`: the line's bytes (in, out) so far.
    """

    id: int
    line: str
    reason: Reason
    rate: int
    open_stream: Callable[[str, int], Awaitable[trio.abc.HalfCloseableStream]]
    tally: Tally = field(default_factory=Tally)
    show: Callable[[str], None] = lambda text: None
    counts_payload: bool = False
    paid: PaidTime = field(default_factory=AllPaid)
    longest_s: float = math.inf
    moving: Callable[[], Collection[str]] = lambda: ()
    carried: Callable[[], tuple[int, int]] = lambda: (0, 0)

    @property
    def capacity(self) -> float:
        """Bytes each way that the longest call carries, 10 bit/s to each byte/s; `inf` where its rate is not known."""
        return self.rate / 10 * self.longest_s if self.rate else math.inf

    def count(self, *, sent: int = 0, fetched: int = 0, failed: int = 0, user: str = "", size: int = 0) -> None:
        """Adds to the call's figures as things happen. `user` and `size` (bytes): of the messages sent or fetched."""
        self.tally.sent += sent
        self.tally.fetched += fetched
        self.tally.failed += failed
        if sent or fetched:
            share = self.tally.users.setdefault(user, Share())
            share.sent += sent
            share.fetched += fetched
            share.bytes_out += size if sent else 0
            share.bytes_in += size if fetched else 0


class Job(Protocol):
    """Work that a call does. `name` is unique among the jobs of a call and stable over calls."""

    name: str

    async def run(self, call: OpenCall) -> JobReport:
        """Does all that can be done now and returns. Is cancelled when the line goes; whatever is true
        then must already be on stable storage. Never raises for what a network or server does."""
        ...

    async def wait_work(self) -> None:
        """Returns when there is work that this call has not tried yet. Only called after `run` returned."""
        ...
