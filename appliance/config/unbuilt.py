"""What can be configured but is not built in this version. Such a feature is never ignored: `posthouse run` ends with
a sentence for each, `posthouse check` finds no fault with it.

One entry here goes away with each feature that is built. Keys whose default is other than off are never refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.config.faults import KeyPath, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.config.model import Config

__all__ = ["unbuilt"]


Found = tuple[KeyPath, object, str]
"""A place, whether it is configured (anything that is true), and what it would do."""


def unbuilt(config: Config) -> list[str]:
    """A sentence for each feature that is configured and not built, `KEY.PATH: … is not built yet`."""
    return [f"{show(path)}: {what} is not built yet" for path, is_set, what in _all(config) if is_set]


def _all(config: Config) -> Iterator[Found]:
    yield ("console", "ssh"), config.console.ssh, "the console over ssh"
