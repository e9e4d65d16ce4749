"""Between two trainings: the live forest keeps its trees, and its leaves learn from the impressions since its data end.

What a leaf learns, and how much of what it knew it keeps, is said in `models.leaves`.

Codes, rates and calibration stay as they were, so that whatever shares them with the live model still does. The newest
third of the new rows judges and never refits: the next refit begins where this one's leaves ended.
"""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmp.errors import TagbidError
from models import card, evaluate, features, frames, gate, leaves, registry, response
from models.evaluate import Gain, Metrics
from models.forest import Forest, sigmoid
from models.frames import Frame
from models.gate import Check
from models.registry import Artefact

Floats = npt.NDArray[np.float64]

REFIT_SHARE = 2 / 3  # of the new rows, by time
MOST_ROWS = 1_000_000  # the newest; of an hour there are fewer, of a day older ones say little more
MIN_CLICKS = 20  # in either part
LEAST_GAIN = 0.001  # of normalised entropy over the live model


class NothingNew(TagbidError):
    """There is no live model to refit, or too little has happened since its data end."""


class Refit(msgspec.Struct, frozen=True):
    """What a refit came to. version: as published, None when refused. refused: why. parent: the model refitted.

    rows, clicks: that refitted, that judged. gain: in log loss, and so in normalised entropy, over the live model.
    """

    version: str | None
    refused: str
    parent: str
    rows: tuple[int, int]
    clicks: tuple[int, int]
    metrics: Metrics
    gain: Gain
    checks: list[Check]


def refit(frame: Frame, root: Path, *, now_us: int, force: bool = False) -> Refit:
    """Refit the live click model on the rows since its data end, judge it, publish it unless the gate refuses.

    frame: rows in order of time. force: publish although refused. Raises NothingNew, and BadArtefact when the live
    model cannot be read or the new one fails its own checks.
    """
    version = registry.current(root, response.KIND)
    if version is None or not frame.timed:
        raise NothingNew("there is no live model to refit; `tagbid models train` makes one")
    live = registry.load(root, response.KIND, version)
    times = frame.column("time_us")
    new = np.flatnonzero(times > live.manifest.to_us)[-MOST_ROWS:]
    cut = int(len(new) * REFIT_SHARE)
    clicked = frame.column("clicked").astype(np.float64)
    weights = frame.column("weight")
    parts = (new[:cut], new[cut:])
    positives = [int(clicked[part].sum()) for part in parts]
    if min(positives) < MIN_CLICKS:
        raise NothingNew(
            f"{positives[0]} and {positives[1]} clicks in {len(new)} impressions since {version} was trained, "
            f"{MIN_CLICKS} each are needed to refit and to judge; wait"
        )
    (X, _), (judged_X, judged_table) = (_matrix(frame, part, live) for part in parts)
    booster = leaves.refreshed(
        live.text,
        X,
        clicked[parts[0]],
        weights[parts[0]],
        live.calibrate(sigmoid(live.forest.predict(X))),
        elapsed_days=int(times[parts[0][-1]] - live.manifest.to_us) / frames.DAY_US,
    )
    text = booster.model_to_string()
    clicks = clicked[parts[1]]
    ours, theirs = (
        live.calibrate(sigmoid(np.asarray(scores, dtype=np.float64)))
        for scores in (booster.predict(judged_X, raw_score=True, num_threads=1), live.forest.predict(judged_X))
    )
    metrics, gain = evaluate.measure(clicks, ours), evaluate.gain(clicks, ours, theirs)
    seen = response.judged(judged_table, clicks, ours)
    checks = [
        enough(gain),
        gate.calibration(clicks, ours, *gate.CALIBRATED, "predicted over observed clicks"),
        *gate.by_campaign(clicks, ours, seen.about["campaign"]),
        gate.against_live(clicks, ours, theirs, seen.users, newer=True),
        *gate.cost(Forest.from_model_text(text, features.N_REQUEST, features.N_CAMPAIGN), text, judged_X),
    ]
    found = Refit(
        version=None,
        refused=gate.refusal(checks),
        parent=version,
        rows=(len(parts[0]), len(parts[1])),
        clicks=(positives[0], positives[1]),
        metrics=metrics,
        gain=gain,
        checks=checks,
    )
    if found.refused and not force:
        return found
    figures = evaluate.told(metrics) | {"gain_over_parent": gain.value, "gain_over_parent_se": gain.se}
    golden = response.golden(judged_X, 1)
    campaigns = judged_table["campaign"].to_numpy(zero_copy_only=False).astype(str)
    artefact = Artefact(
        text=text,
        vocabulary=live.vocabulary,
        knots_x=live.manifest.knots_x,
        knots_y=live.manifest.knots_y,
        golden_rows=golden,
        golden_scores=np.asarray(booster.predict(golden, raw_score=True), dtype=np.float64),
        created_us=now_us,
        from_us=live.manifest.from_us,
        to_us=int(times[parts[0][-1]]),
        rows=live.manifest.rows + found.rows[0],
        positives=live.manifest.positives + found.clicks[0],
        metrics=figures,
        card=card.compose(
            purpose="probability that a won impression is clicked",
            data={"rows": {"refit": found.rows[0], "test": found.rows[1]}, "split": "time", "refit_of": version},
            model={
                "trees": booster.num_trees(),
                "half_life_days": leaves.HALF_LIFE_DAYS,
                "level_share": leaves.LEVEL,
                "calibration": "that of the parent",
            },
            test=figures,
            judged=seen,
            samples=card.Samples(train=X, test=judged_X, campaigns=campaigns),
            checks=checks,
            booster=booster,
            vocabulary=live.vocabulary,
            parent=version,
        ),
        forced=bool(found.refused),
        judged_from_us=int(times[parts[1][0]]),
    )
    return msgspec.structs.replace(found, version=registry.publish(root, response.KIND, artefact))


def enough(gain: Gain) -> Check:
    """A refit has to be worth swapping a model for."""
    return Check(
        "gain in normalised entropy over the live model",
        f"{gain.value:+.3%} +- {gain.se:.3%}",
        f"above {LEAST_GAIN:.1%}",
        gain.value > LEAST_GAIN,
    )


def _matrix(frame: Frame, rows: npt.NDArray[np.intp], live: registry.Model) -> tuple[Floats, pa.Table]:
    """Features as the live model reads them, and what slices and users are told by."""
    keep = np.zeros(len(frame), dtype=bool)
    keep[rows] = True
    parts = [part for _, part in frames.chunks(frame, keep)]
    X = np.concatenate([frames.matrix(live.vocabulary, part) for part in parts])
    return X, pa.concat_tables([part.select(response.ABOUT) for part in parts])
