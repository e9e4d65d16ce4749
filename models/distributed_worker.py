"""One worker of `models.distributed`: `python -m models.distributed_worker FOLDER RANK`."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np

from models import features
from models.distributed import Job, Word


def main(folder: Path, rank: int) -> None:
    """Train on the rows of one rank; rank 0 writes the best trees to `model.txt`."""
    job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    data, judged, sample = _data(folder, rank, job)
    _say(rank, 0)
    linked = {
        **job.params,
        "machines": ",".join(job.machines),
        "local_listen_port": int(job.machines[rank].rpartition(":")[2]),
        "num_machines": len(job.machines),
    }
    booster = lightgbm.train(
        linked,
        data,
        num_boost_round=job.trees,
        valid_sets=[judged],
        callbacks=[
            *([lightgbm.early_stopping(job.patience, verbose=False)] if job.patience else []),
            lambda at: _say(rank, at.iteration + 1),
        ],
    )
    del sample
    if rank == 0:
        draft = folder / "model.part"
        # Early stopping keeps the surplus trees; the artefact holds the best ones only.
        draft.write_text(booster.model_to_string(num_iteration=booster.best_iteration))
        draft.replace(folder / "model.txt")


def _data(folder: Path, rank: int, job: Job) -> tuple[lightgbm.Dataset, lightgbm.Dataset, lightgbm.Dataset]:
    """Training rows, validation rows, and the sample both are binned like; binned before the sockets are linked."""
    sample = lightgbm.Dataset(
        np.load(folder / "sample.npy", mmap_mode="r"),
        feature_name=list(features.NAMES),
        categorical_feature=list(features.CATEGORICAL),
        params=job.params,
    ).construct()

    def binned(X: Any, y: Any, w: Any, start: Any) -> lightgbm.Dataset:
        return lightgbm.Dataset(X, y, reference=sample, weight=w, init_score=start, params=job.params).construct()

    own = folder / f"{rank}"
    weights = np.load(own / "w.npy") if job.weighted else None
    data = binned(np.load(own / "X.npy", mmap_mode="r"), np.load(own / "y.npy"), weights, None)
    with np.load(folder / "valid.npz") as valid:
        start = valid["start"] if len(valid["start"]) else None
        judged = binned(valid["X"], valid["y"], valid["w"] if job.weighted else None, start)
    return data, judged, sample


def _say(rank: int, done: int) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(Word(rank, done)) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    """Standard input ends when the process that trains does, however it went."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # LightGBM's threads and sockets need no farewell
