"""Configuration files for tests: written into a folder, and the error lines that they get."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.load import ConfigErrors, load

HASH = "$7$C6..../....yOCHGXdqOV2N9hxQJDdRS.$DEaIJMDEM2OFuEr49MsY9TJtbBE1DWKYbvbsCODZWs/"
"""Of the password `correct horse`."""
SITE = '[site]\nname = "harbour"\ndomain = "harbour.example"\n'
LINE = '[[line]]\nname = "pstn"\nport = "/dev/ttyS1"\nnumbers = ["1"]\n'


def write(folder: Path, text: str, secrets: str | None = None) -> Path:
    """posthouse.toml, and secrets.toml beside it where there are any."""
    path = folder / "posthouse.toml"
    path.write_text(text, "utf-8")
    if secrets is not None:
        (folder / "secrets.toml").write_text(secrets, "utf-8")
        (folder / "secrets.toml").chmod(0o600)
    return path


def errors(path: Path) -> list[str]:
    """The lines that `posthouse check` prints, without the folder."""
    with pytest.raises(ConfigErrors) as raised:
        load(path)
    assert str(raised.value) == "\n".join(raised.value.lines)
    return [line.replace(f"{path.parent}/", "") for line in raised.value.lines]
