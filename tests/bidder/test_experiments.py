import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import experiments
from bidder.experiments import Arm, Experiment, arm_of, assign
from dmp import events
from dmp.errors import ConfigError
from models.experiment_report import unit_of
from tests.bidder.consent_strings import ALL_PURPOSES, VENDOR, tc
from tests.bidder.running import CAMPAIGNS, body_of_user, running

NOW_US = 1_763_985_600_000_000
UTC = datetime.UTC


def an_experiment(layer: str = "shade", **fields: object) -> Experiment:
    arms = (Arm("a", 0.3, ("acme-a",)), Arm("b", 0.5, ("acme-b",)))
    return Experiment(**({"layer": layer, "arms": arms} | fields))


def units(n: int) -> list[bytes]:
    return [f"user {i}".encode() for i in range(n)]


def names(experiment: Experiment, n: int = 20_000) -> list[str]:
    return [arm.name if (arm := arm_of(experiment, unit)) else "-" for unit in units(n)]


def test_arms_get_their_share_of_the_units() -> None:
    found = names(an_experiment())
    assert found.count("a") / 20_000 == pytest.approx(0.3, abs=0.01)
    assert found.count("b") / 20_000 == pytest.approx(0.5, abs=0.01)
    assert found.count("-") / 20_000 == pytest.approx(0.2, abs=0.01)


def test_a_unit_stays_in_its_arm() -> None:
    assert names(an_experiment()) == names(an_experiment())


def test_layers_are_independent() -> None:
    one, other = names(an_experiment("one")), names(an_experiment("other"))
    table = np.array([[sum(x == a and y == b for x, y in zip(one, other, strict=True)) for b in "ab-"] for a in "ab-"])
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert float(((table - expected) ** 2 / expected).sum()) < 18.5  # chi-square, 4 degrees, p = .001


def test_whole_traffic_in_two_halves_leaves_nobody_out() -> None:
    halves = an_experiment(arms=(Arm("a", 0.5, ("x",)), Arm("b", 0.5, ("y",))))
    assert set(names(halves, 5_000)) == {"a", "b"}


@given(st.binary(max_size=30))
def test_an_arms_campaigns_bid_for_its_units_only(unit: bytes) -> None:
    found = assign([an_experiment()], unit, NOW_US)
    arm = arm_of(an_experiment(), unit)
    if arm is None:
        assert found.barred == {"acme-a", "acme-b"}
        assert not found.arm_of
    else:
        assert found.barred == {"acme-a", "acme-b"} - set(arm.campaigns)
        assert found.arm_of == {arm.campaigns[0]: f"shade:{arm.name}"}


def test_outside_its_time_no_campaign_of_an_experiment_bids() -> None:
    start, end = (datetime.datetime(2025, 11, day, tzinfo=UTC) for day in (25, 26))
    planned = an_experiment(start=start, end=end)
    for moment in (start - datetime.timedelta(seconds=1), end):
        for unit in units(20):
            assert assign([planned], unit, int(moment.timestamp() * 1e6)).barred == {"acme-a", "acme-b"}
    assert any(assign([planned], unit, int(start.timestamp() * 1e6)).arm_of for unit in units(20))


GOOD = """
[[experiment]]
layer = "shade"
arms = [{ name = "a", share = 0.5, campaigns = ["acme-a"] }, { name = "b", share = 0.5, campaigns = ["acme-b"] }]
"""


@pytest.mark.parametrize(
    ("text", "budgets", "problem"),
    [
        (GOOD, {"acme-a": 100}, "no campaign 'acme-b'"),
        (GOOD, {"acme-a": 100, "acme-b": 300}, "in proportion to its traffic"),
        (GOOD.replace("0.5", "0.6"), {"acme-a": 1, "acme-b": 1}, "come to more than 1"),
        (GOOD.replace('"b"', '"a"'), {"acme-a": 1, "acme-b": 1}, "two arms have one name"),
        (GOOD.replace('"acme-b"', '"acme-a"'), {"acme-a": 1}, "is in two arms"),
        (GOOD + GOOD, {"acme-a": 1, "acme-b": 1}, "layer 'shade' is used twice"),
        (GOOD + "start = 2025-01-01T00:00:00\n", {"acme-a": 1, "acme-b": 1}, "need a time zone"),
        (GOOD + "stop = 1\n", {"acme-a": 1, "acme-b": 1}, "unknown field"),
        ("[[experiment", {}, "Expected"),
    ],
)
def test_what_would_not_compare_is_refused(tmp_path: Path, text: str, budgets: dict[str, int], problem: str) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        experiments.load(path, budgets)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)
    found = experiments.load(path, {"acme-a": 100, "acme-b": 100})
    assert [arm.campaigns for arm in found[0].arms] == [("acme-a",), ("acme-b",)]


async def test_a_running_bidder_keeps_arms_apart_and_logs_them(tmp_path, store):
    arms = "".join(CAMPAIGNS.replace('"acme', f'"{name}') for name in ("acme-a", "acme-b"))
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)
    async with running(tmp_path, store, arms, experiments=str(path)) as bidder:
        seen = {}
        for i in range(24):
            user = f"{i:08d}-8246-4ba4-ae5b-76104861e7dc"
            first, again = [(await bidder.a_bid(body_of_user(user)))["cid"] for _ in range(2)]
            assert first == again
            seen[user] = first
        assert set(seen.values()) == {"acme-a", "acme-b"}
        bidder.service.bidlog.flush()
        bidder.service.bidlog.close()
        logged = [
            event
            for file in (tmp_path / "data" / "bidlog").glob("*.mpk")
            for event in events.read_file(file)
            if isinstance(event, events.Bid)
        ]
        assert len(logged) == 48
        assert {(bid.campaign, bid.arm) for bid in logged} == {("acme-a", "shade:a"), ("acme-b", "shade:b")}


async def test_who_may_not_be_measured_is_a_new_unit_with_every_request(tmp_path, store):
    """An id that a report may not see again must not decide about the arm, or one person would be many units of it."""
    arms = "".join(CAMPAIGNS.replace('"acme', f'"{name}') for name in ("acme-a", "acme-b"))
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)
    (layer,) = experiments.load(path, {"acme-a": 100, "acme-b": 100})
    seen: dict[bool, set[str]] = {}
    declared = {"gvl_id": VENDOR, "tcf_consent": tuple(ALL_PURPOSES), "tcf_require_disclosed": "never"}
    async with running(tmp_path, store, arms, experiments=str(path), **declared) as bidder:
        for measured in (True, False):
            consent = tc() if measured else tc(set(ALL_PURPOSES) - {7})
            for i in range(16):
                agreed = {"regs": {"gdpr": 1}, "user": {"consent": consent}}
                await bidder.a_bid(body_of_user(id=f"{measured}-{i}", **agreed))
            bidder.service.bidlog.flush()
        bidder.service.bidlog.close()
        logged = [e for f in (tmp_path / "data" / "bidlog").glob("*.mpk") for e in events.read_file(f)]
    for bid in (event for event in logged if isinstance(event, events.Bid)):
        assert bid.arm == f"{layer.layer}:{arm_of(layer, unit_of(bid)).name}"
        seen.setdefault(bid.uid is not None, set()).add(bid.arm)
    assert len(seen[True]) == 1
    assert len(seen[False]) == 2
