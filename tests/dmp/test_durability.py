"""What an acknowledged event survives, as `collect.durability` says."""

from pathlib import Path
from typing import Any, Literal

import pytest

from dmp import keys, streams
from dmp.config import CollectConfig, DmpConfig
from dmp.errors import StoreUnavailable
from dmp.store import check_durability, connect
from tests.dmp.factories import NOW_US, act


@pytest.mark.parametrize("durability", ["everysec", "always"])
def test_an_acknowledged_event_survives_the_death_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Literal["everysec", "always"]
) -> None:
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    config = DmpConfig(data_dir=str(tmp_path), collect=CollectConfig(durability=durability))
    tags = connect(config)
    assert tags.server is not None
    client = tags.sync()
    told: Any = client.config_get("appendfsync")
    assert told == {"appendfsync": durability}
    streams.append_events(client, [act(n) for n in range(200)], 4, NOW_US)
    tags.server.kill()
    tags.server.wait()
    client.close()
    again = connect(config)
    try:
        entries: list[Any] = [entry for p in range(4) for entry in again.sync().xrange(keys.events(p))]
        assert sum(len(fields) for _, fields in entries) == 200
    finally:
        again.close()


def test_a_store_that_promises_less_than_is_wanted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    tags = connect(DmpConfig(data_dir=str(tmp_path)))
    try:
        client = tags.sync()
        check_durability(client, "everysec")
        with pytest.raises(StoreUnavailable, match="appendfsync everysec"):
            check_durability(client, "always")
    finally:
        tags.close()
