"""When the click model is trained and refitted, and what came of it: pure, but for the file that remembers.

A training a day, a refit an hour; the training first where both are due, and the refit an hour after it. What failed is
tried again soon, what the gate refused when its time comes. `upkeep.json` beside the models remembers each job's last
try, so that whoever starts again goes on where the last one was: a run that was cut short counts as not tried.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from dmp.errors import TagbidError

Name = Literal["train", "refit"]
NAMES: tuple[Name, ...] = ("train", "refit")
RETRY_S = 600.0
PUBLISHED, REFUSED = 0, 1  # exit codes of the commands; anything else is an error
FILE = "upkeep.json"


class Job(msgspec.Struct, frozen=True):
    """tried_s: when it was begun last, unix seconds. published, refused, errors: how often it ended so. failed: whether
    the last one was an error.
    """

    tried_s: float = 0.0
    published: int = 0
    refused: int = 0
    errors: int = 0
    failed: bool = False


Jobs = Mapping[Name, Job]


def due_s(job: Job, every_s: float, now_s: float) -> float:
    """Unix seconds from when on it should run; a clock that was set back makes nobody wait longer than usual."""
    return min(job.tried_s, now_s) + (min(every_s, RETRY_S) if job.failed else every_s)


def next_of(jobs: Jobs, every_s: Mapping[Name, float], live: bool, now_s: float) -> tuple[Name, float]:
    """(what runs next, the unix second from when on). live: whether there is a model to refit."""
    names = NAMES if live else NAMES[:1]
    when = {name: due_s(jobs.get(name, Job()), every_s[name], now_s) for name in names}
    late = [name for name in names if when[name] <= now_s]
    name = late[0] if late else min(names, key=when.__getitem__)
    return name, when[name]


def after(jobs: Jobs, name: Name, began_s: float, code: int) -> dict[Name, Job]:
    """The jobs once one has ended with an exit code; a new model needs no refit for an hour."""
    old = jobs.get(name, Job())
    new = msgspec.structs.replace(
        old,
        tried_s=began_s,
        published=old.published + (code == PUBLISHED),
        refused=old.refused + (code == REFUSED),
        errors=old.errors + (code not in (PUBLISHED, REFUSED)),
        failed=code not in (PUBLISHED, REFUSED),
    )
    found = {**jobs, name: new}
    if name == "train" and code == PUBLISHED:
        found["refit"] = msgspec.structs.replace(found.get("refit", Job()), tried_s=began_s, failed=False)
    return found


def read(root: Path) -> dict[Name, Job]:
    """What is remembered, {} at the very first. Raises TagbidError when the file is none of ours."""
    path = root / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[Name, Job])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise TagbidError(f"{path}: {error}; remove it to begin anew with a training") from None


def write(root: Path, jobs: Jobs) -> None:
    draft = root / f"{FILE}.draft"
    draft.write_bytes(msgspec.json.encode(jobs))
    draft.replace(root / FILE)
