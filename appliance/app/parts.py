"""What a service is to the house: the contract between `house`, which starts, replaces and stops, and the modules here
that join rooms into a service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import trio

    from appliance.config.model import Config

__all__ = ["Part"]


class Part(Protocol):
    """One service of the house. Made once a run, with the house; `run` is called anew whenever the service is."""

    name: str
    """As in `status`'s `services`."""
    waits_for_call: bool
    """Whether it is replaced only once no call is under way."""

    def slice(self, config: Config) -> tuple[object, ...] | None:
        """What the service is made of: where that has changed, it is replaced. None: there is no such service with
        this configuration."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The service, by the house's configuration at this moment, until cancelled (`supervisor`)."""
        ...

    async def drain(self) -> None:
        """Takes on nothing new and gives what is under way a bounded time; before the service is stopped."""
        ...
