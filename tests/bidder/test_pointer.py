"""What cannot be read where the live model should be named: refused at the start, survived while running."""

from pathlib import Path

import pytest

from bidder import serving
from bidder.config import BidderConfig
from models import registry
from models.registry import BadArtefact


def unreadable(root: Path, how: str) -> None:
    home = root / "response"
    if how == "file":
        home.write_bytes(b"")
        return
    home.mkdir()
    if how == "bytes":
        (home / "current").write_bytes(b"\xff\x00")
    elif how == "directory":
        (home / "current").mkdir()
    else:
        (home / "current").symlink_to(home / "current")


@pytest.mark.parametrize("how", ["bytes", "directory", "loop", "file"])
def test_an_unreadable_pointer_is_a_bad_artefact_and_never_stops_the_watch(tmp_path: Path, how: str) -> None:
    settings = BidderConfig(models_dir=str(tmp_path))
    before = serving.fingerprint(settings)
    unreadable(tmp_path, how)
    with pytest.raises(BadArtefact, match="cannot be read"):
        registry.current(tmp_path, "response")
    assert serving.fingerprint(settings) != before
