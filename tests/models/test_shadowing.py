import json

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from dmp.errors import BadEvents
from dmp.events import Click, Impression
from models import registry, shadowing
from models.__main__ import app
from tests.models.factories import BORN_US, MINUTE_US, SECOND_US, bid, notice
from tests.models.test_registry import an_artefact
from tests.stored import encode_all

WAIT_US = 30 * MINUTE_US


def a_log(folder, version, knows):
    """4,000 impressions, half of which are clicked by one in five, half by one in fifty; knows: 0..1, how much of that
    the challenger says. The live model says .11 of all.
    """
    rng = np.random.default_rng(0)
    logged = []
    for n in range(4_000):
        rate = 0.2 if n % 2 else 0.02
        said = 0.11 + knows * (rate - 0.11)
        made = msgspec.structs.replace(bid(n, BORN_US + n), model="live", pctr=0.11, shadow=version, shadow_pctr=said)
        logged += [made, notice(Impression, n, BORN_US + SECOND_US + n)]
        if rng.random() < rate:
            logged.append(notice(Click, n, BORN_US + MINUTE_US))
    logged.append(bid(9_999, BORN_US + 2 * WAIT_US))
    (folder / "bids-1.mpk").write_bytes(encode_all(logged))


@pytest.mark.parametrize(("knows", "better"), [(1.0, True), (0.0, False), (-0.8, False)])
def test_a_challenger_is_judged_on_the_bids_it_scored(tmp_path, knows, better):
    a_log(tmp_path, "v2", knows)
    check, rows, clicks = shadowing.compare(tmp_path, "v2", WAIT_US)
    assert check.passed is better
    assert rows == 4_000
    assert clicks == pytest.approx(440, abs=4 * 440**0.5)
    with pytest.raises(BadEvents, match="let it run longer"):
        shadowing.compare(tmp_path, "v3", WAIT_US)


def test_a_challenger_lives_beside_the_live_model_and_can_be_let_go(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_MODELS_MODELS_DIR", str(tmp_path))
    live = registry.publish(tmp_path, "response", an_artefact(1))
    version = registry.publish(tmp_path, "response", an_artefact(2, created_us=BORN_US + 1), shadow=True)
    assert (registry.current(tmp_path, "response"), registry.challenger(tmp_path, "response")) == (live, version)
    for n in range(8):  # both outlive the pruning of old versions
        registry.publish(tmp_path, "response", an_artefact(3, created_us=BORN_US + 2 + n), shadow=False)
    assert version in registry.versions(tmp_path, "response")
    log = tmp_path / "log"
    log.mkdir()
    a_log(log, version, 1.0)
    run = CliRunner()
    found = run.invoke(app, ["shadow", str(log), "--json"], catch_exceptions=False)
    assert (found.exit_code, json.loads(found.stdout)["passed"]) == (0, True)
    assert run.invoke(app, ["shadow", "--off"], catch_exceptions=False).exit_code == 0
    assert registry.challenger(tmp_path, "response") is None
