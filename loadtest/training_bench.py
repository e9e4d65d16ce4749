"""What training from Parquet costs against a bare `lightgbm.train` on the same rows as a matrix in memory.

Both run as processes of their own, one after the other, with the same parameters and number of trees. The bare one is
handed its matrix (float32, on disk, as lean as a person would keep it) and its clock starts when that is in memory;
ours starts from Parquet files and pays for vocabulary, click rates, codes and binning. Peak memory is the process's own
high-water mark, matrix and libraries included. This part trains what the others train; it does not judge it.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loadtest import world_rows
from models.figures import Figure, Options, mean_se

PART = "training"
DEFAULT_ROWS = 500_000
TREES = 300  # about what early stopping leaves of 400 at the full size
LIMIT = 1.3
ROUNDS = 3  # below a million rows; above, one is long enough to be steady


def figures(options: Options) -> Iterator[Figure]:
    """Wall clock and peak memory of ours over bare."""
    rows = options.rows or DEFAULT_ROWS
    with tempfile.TemporaryDirectory(prefix="tagbid-training-") as name:
        folder = Path(name)
        _child("prepare", folder, rows, options.seed)
        found = []
        for _ in range(1 if rows >= 1_000_000 else ROUNDS):
            ours, bare = (_child(mode, folder, rows, options.seed) for mode in ("ours", "bare"))
            found.append({f"{side}_{key}": one[key] for side, one in (("ours", ours), ("bare", bare)) for key in one})
    columns = int(found[0]["bare_columns"])
    for key, metric in (("seconds", "wall clock"), ("peak_mb", "peak memory")):
        value, se = mean_se([one[f"ours_{key}"] / one[f"bare_{key}"] for one in found])
        yield Figure(
            part=PART,
            data=f"world, {int(found[0]['bare_rows']):,} rows x {columns} columns, {TREES} trees",
            metric=f"{metric} of training from Parquet over bare lightgbm.train",
            value=value,
            se=se,
            goal=f"at most {LIMIT}",
            met=value <= LIMIT,
            about={side: [round(one[f"{side}_{key}"], 2) for one in found] for side in ("ours", "bare")},
        )


def _child(mode: str, folder: Path, rows: int, seed: int) -> dict[str, float]:
    """Run one step in a process of its own; raises CalledProcessError with its output shown."""
    command = [sys.executable, "-m", "loadtest.training_bench", mode, str(folder), str(rows), str(seed)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this very module
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _main(mode: str, folder: Path, rows: int, seed: int) -> dict[str, Any]:
    import lightgbm

    from models import boosting, encoding, features, frames

    world = world_rows.build(seed, rows)
    paths = sorted(folder.glob("day-*.parquet"))
    if mode == "prepare":
        world_rows.write(world, world_rows.audience(world), folder, rows)
        frame = frames.on_disk(sorted(folder.glob("day-*.parquet")))
        everything = np.ones(len(frame), dtype=bool)
        encoder = encoding.fit(frame, everything)
        X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (len(frame), len(features.FEATURES)))
        for where, part in frames.chunks(frame, everything):
            X[where] = encoder.matrix(part)
        X.flush()
        np.save(folder / "y.npy", frame.column("clicked").astype(np.float64))
        return {"rows": len(frame)}
    params = boosting.parameters(rows, rows // 40, 0, seed) | {"num_threads": 0}
    names: dict[str, Any] = {
        "feature_name": list(features.NAMES), "categorical_feature": list(features.CATEGORICAL), "params": params
    }  # fmt: skip
    if mode == "bare":
        X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
        started_s = time.perf_counter()
        lightgbm.train(params, lightgbm.Dataset(X, y, **names), TREES)
        shape = X.shape
    else:
        started_s = time.perf_counter()
        frame = frames.on_disk(paths)
        everything = np.ones(len(frame), dtype=bool)
        encoder = encoding.fit(frame, everything)
        y = frame.column("clicked").astype(np.float64)
        lightgbm.train(params, boosting.dataset(boosting.sequences(frame, everything, encoder), y, params), TREES)
        shape = (len(frame), len(features.FEATURES))
    return {
        "seconds": time.perf_counter() - started_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": shape[0],
        "columns": shape[1],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))) + "\n")
