"""Which arm of an experiment a request is in, and which campaigns may therefore bid.

An experiment is a layer: units (users) fall into its arms by hash, salted by the layer's name, so that layers are
independent of each other. Arms are campaigns of their own, each with its own budget in proportion to its share: were
they to share one, the arm that spends faster would take the other's money and the comparison would show that instead.
In a request of another arm an arm's campaigns do not bid. Experiments are data (`[[experiment]]` tables of a TOML file)
and have an end; outside their time, and for units in no arm, none of their campaigns bids.

Unit: the user's pseudonym where it may be used to measure, else the request: nothing else about a person is looked at
for the sake of an experiment, so effects that follow somebody without an id from one request to the next are not seen.
"""

import datetime
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec

from bidder.buckets import BUCKETS, bucket
from dmp.errors import ConfigError

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """share: of the units, 0 to 1. campaigns: those that bid for its units only."""

    name: Name
    share: Annotated[float, msgspec.Meta(gt=0, le=1)]
    campaigns: tuple[str, ...] = ()


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """layer: its name, and the salt of its assignment. start, end: with time zone, end exclusive; None = open."""

    layer: Name
    arms: Annotated[tuple[Arm, ...], msgspec.Meta(min_length=2, max_length=20)]
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    experiment: tuple[Experiment, ...] = ()


class Assignment(msgspec.Struct, frozen=True):
    """barred: campaigns that may not bid for this unit. arm_of: campaign -> "layer:arm" it bids for."""

    barred: frozenset[str]
    arm_of: Mapping[str, str]


NONE = Assignment(frozenset(), {})


def load(path: Path, budgets: Mapping[str, int]) -> tuple[Experiment, ...]:
    """The experiments of a TOML file. budgets: daily, by campaign. Raises ConfigError with every problem."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text()), _File).experiment
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(str(path), [str(error)]) from None
    problems = [problem for experiment in found for problem in _problems(experiment, budgets)]
    names = [experiment.layer for experiment in found]
    problems += [f"layer {name!r} is used twice" for name in sorted({n for n in names if names.count(n) > 1})]
    used = [campaign for experiment in found for arm in experiment.arms for campaign in arm.campaigns]
    problems += [f"campaign {name!r} is in two arms" for name in sorted({n for n in used if used.count(n) > 1})]
    if problems:
        raise ConfigError(str(path), problems)
    return found


def _problems(experiment: Experiment, budgets: Mapping[str, int]) -> Iterable[str]:
    where = f"experiment {experiment.layer}"
    arms = experiment.arms
    if sum(arm.share for arm in arms) > 1 + 1e-9:
        yield f"{where}: the shares of its arms come to more than 1"
    if len({arm.name for arm in arms}) < len(arms):
        yield f"{where}: two arms have one name"
    for moment in (experiment.start, experiment.end):
        if moment is not None and moment.tzinfo is None:
            yield f"{where}: start and end need a time zone, as in 2030-01-31T00:00:00Z"
            return
    if experiment.start is not None and experiment.end is not None and experiment.end <= experiment.start:
        yield f"{where}: end is not after start"
    for arm in arms:
        for campaign in arm.campaigns:
            if campaign not in budgets:
                yield f"{where}, arm {arm.name}: no campaign {campaign!r}"
    split = [(arm, sum(budgets.get(campaign, 0) for campaign in arm.campaigns)) for arm in arms if arm.campaigns]
    total, shares = sum(budget for _, budget in split), sum(arm.share for arm, _ in split)
    for arm, budget in split:
        if abs(budget * shares - total * arm.share) > 0.01 * total * arm.share:
            yield (
                f"{where}, arm {arm.name}: its budget is {budget / max(total, 1):.1%} of the experiment's and its "
                f"share {arm.share / shares:.1%}; give each arm money in proportion to its traffic"
            )


def arm_of(experiment: Experiment, unit: bytes) -> Arm | None:
    """The arm a unit falls into, None for the rest of the traffic."""
    place = bucket(_salt(experiment.layer), unit) / BUCKETS
    for arm in experiment.arms:
        if place < arm.share - 1e-12:
            return arm
        place -= arm.share
    return None


@lru_cache(maxsize=256)
def _salt(layer: str) -> bytes:
    """The 16 bytes that stand for a layer."""
    return blake2b(layer.encode(), digest_size=16).digest()


def assign(experiments: Sequence[Experiment], unit: bytes, now_us: int) -> Assignment:
    """What all experiments say about one unit at one moment."""
    if not experiments:
        return NONE
    barred: set[str] = set()
    names: dict[str, str] = {}
    for experiment in experiments:
        arm = arm_of(experiment, unit) if _runs(experiment, now_us) else None
        for other in experiment.arms:
            if other is not arm:
                barred.update(other.campaigns)
        if arm is not None:
            names.update(dict.fromkeys(arm.campaigns, f"{experiment.layer}:{arm.name}"))
    return Assignment(frozenset(barred), names)


def _runs(experiment: Experiment, now_us: int) -> bool:
    now = datetime.datetime.fromtimestamp(now_us / 1e6, datetime.UTC)
    begun = experiment.start is None or experiment.start <= now
    return begun and (experiment.end is None or now < experiment.end)
