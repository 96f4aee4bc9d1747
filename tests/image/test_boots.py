"""That the image of this checkout boots: the one look at it that every run of the tests takes. `test_image` and its
neighbours, which are long, look at the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .board import Board
from .boards import READY_S, is_ready


@pytest.mark.seconds(1500)
def test_the_image_boots_by_itself_to_ready(start: Callable[..., Board], stick: Path) -> None:
    board = start(stick=stick)
    board.log_in()
    board.until("systemctl is-active --quiet posthouse", "Posthouse is ready", seconds=READY_S)
    is_ready(board)
    assert board.sh("systemctl list-units --failed --no-legend") == ""
