"""Pipes for splice(2), shared by all directions of all circuits: one that moves bytes holds one. A pipe in the pool is
empty. It owns the pool; whoever takes a pipe gives it back, or throws it away with what is left in it.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

__all__ = ["PIPE_BYTES", "Pipe", "Pipes"]

PIPE_BYTES: Final = 1024 * 1024
"""Of a pipe, and of one splice: the most that an ordinary user's may have (pipe(7))."""
PIPE_SIZES: Final = (PIPE_BYTES, 256 * 1024)
"""Tried in turn: the kernel refuses large pipes to a user who has many. Then the pipe stays as it is."""
PIPE_LIMIT: Final = 256
"""Pipes at once; each may hold `PIPE_BYTES` of kernel memory. A direction that gets none goes on with recv."""
SPARE_PIPES: Final = 16

Pipe = tuple[int, int]
"""Read end, write end."""


class Pipes:
    """The pool."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []
        self._count = 0

    def take(self) -> Pipe | None:
        if self._spare:
            return self._spare.pop()
        if self._count >= PIPE_LIMIT:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        self._count += 1
        for size in PIPE_SIZES:
            try:
                fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, size)
                break
            except OSError:
                continue
        return pipe

    def give(self, pipe: Pipe) -> None:
        if len(self._spare) < SPARE_PIPES:
            self._spare.append(pipe)
        else:
            self.throw_away(pipe)

    def throw_away(self, pipe: Pipe) -> None:
        """Also one with something left in it."""
        self._count -= 1
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        while self._spare:
            self.throw_away(self._spare.pop())
