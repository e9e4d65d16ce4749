"""What knowing the last minutes is worth to the click model: a part of `tagbid models bench`.

In a world where a share of the people wants something new every day, one model is trained on all features, another on
the same rows without those that a real-time record fills. The gain is that of the first over the second.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from loadtest import world_now, world_rows
from models import evaluate, response
from models.figures import Figure, Options, mean_se
from models.frames import Frame

PART = "realtime"
DEFAULT_ROWS, SEEDS = 400_000, 3
WISHERS = 0.2  # of the people; half of what the demo has them be
GOAL = 0.01


def figures(options: Options) -> Iterator[Figure]:
    """Log-loss gain of the real-time features, and how many rows have any."""
    rows, seeds = options.rows or DEFAULT_ROWS, options.seeds or SEEDS
    found = [_one(options.seed + n, rows) for n in range(seeds)]
    gains, ses, shares = (list(column) for column in zip(*found, strict=True))
    data = f"world, {rows:,} rows x {seeds} seeds, {WISHERS:.0%} want something today"
    value, se = mean_se(gains)
    yield Figure(
        part=PART, data=data, metric="normalised-entropy gain of real-time features", value=value, se=se,
        goal=f"at least {GOAL}", met=value >= GOAL, about={"seeds": gains, "se_by_rows": ses},
    )  # fmt: skip
    value, se = mean_se(shares)
    yield Figure(part=PART, data=data, metric="share of impressions with a real-time record", value=value, se=se)


def _one(seed: int, rows: int) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory(prefix="tagbid-realtime-") as folder:
        world = world_rows.build(seed, rows, wishers=WISHERS)
        frame, _ = world_rows.write(world, world_rows.audience(world), Path(folder), rows)
        knowing, ignorant = (response.fitted(one, seed=seed, baseline=False) for one in (frame, without(frame)))
        test = knowing.slices[2]
        gain = evaluate.gain(frame.column("clicked")[test].astype(np.float64), knowing.p, ignorant.p)
        return gain.value, gain.se, float((frame.column("user_acts_24h") > 0).mean())


def without(frame: Frame) -> Frame:
    """The same rows as if nobody kept real-time records."""

    def loader(load: Callable[[Sequence[str] | None], pa.Table]) -> Callable[[Sequence[str] | None], pa.Table]:
        def blank(names: Sequence[str] | None) -> pa.Table:
            table = load(names)
            for name in set(world_now.COLUMNS) & set(table.column_names):
                at, field = table.column_names.index(name), table.schema.field(name)
                empty = 0 if name == world_now.CATEGORY_COLUMN else np.nan
                table = table.set_column(at, field, pa.array(np.full(len(table), empty), field.type))
            return table

        return blank

    return msgspec.structs.replace(frame, parts=tuple(map(loader, frame.parts)))
