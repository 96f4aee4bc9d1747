"""Makes the kernel's devices what is wanted: observe, plan, apply, until nothing is left or nothing helps. Synchronous,
for a thread; must not know which kernel it is (`netlink.Kernel`, or a test's).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from appliance.network.plan import Change, Device, Unfit, Wanted, plan, retire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Failure", "Kernel", "Settled", "settle"]

ROUNDS: Final = 6
"""The longest chain: a bridge is created, put up, its addresses come, their routes, routes through gateways; and one
that finds nothing left."""


class Kernel(Protocol):
    """What has devices. Both raise OSError."""

    def observe(self) -> Mapping[str, Device]:
        """All devices there are, by name."""
        ...

    def apply(self, change: Change) -> None: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A change that could not be made, and what the kernel said."""

    change: Change
    error: int

    def __str__(self) -> str:
        return str(self.change) if isinstance(self.change, Unfit) else f"{self.change}: {os.strerror(self.error)}"


@dataclass(slots=True)
class Settled:
    """How a run of `settle` ended: what was done, in order; what still can't be; the devices as they were before and
    after."""

    before: Mapping[str, Device]
    after: Mapping[str, Device]
    done: list[Change] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)

    @property
    def left(self) -> list[Change]:
        return [f.change for f in self.failed]


def settle(
    kernel: Kernel, wanted: Sequence[Wanted], *, old: Sequence[Wanted] = (), renewed: frozenset[str] = frozenset()
) -> Settled:
    """Until a plan is empty, or nothing of it could be done, or `ROUNDS` have passed. `old`: what was wanted before and
    is to be undone where it is wanted no more. Raises OSError where the kernel can't be asked at all."""
    before = kernel.observe()
    settled = Settled(before, before)
    changes = [*retire(old, wanted, before), *plan(wanted, before, renewed=renewed)]
    for _ in range(ROUNDS):
        if not changes:
            break
        errors = {change: _apply(kernel, change) for change in changes}
        settled.done += [change for change, error in errors.items() if not error]
        settled.after = kernel.observe()
        again = plan(wanted, settled.after)
        settled.failed = [Failure(change, errors.get(change) or errno.EAGAIN) for change in again]
        if all(errors.values()) and again == changes:
            break
        changes = again
    return settled


def _apply(kernel: Kernel, change: Change) -> int:
    """0, or the error."""
    if isinstance(change, Unfit):
        return errno.EINVAL
    try:
        kernel.apply(change)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
