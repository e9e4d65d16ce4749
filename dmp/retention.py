"""How long data is kept, and the sweep that ends it (P-70).

What lives in the store ends by its own time to live. Files are swept: `tagbid dmp sweep`, once a day. The bid log holds
bids and what came of them in the same files: after its days a file loses its bids, after those of notices it goes.
Behaviour goes by whole days of the archive, by when it happened. The audit log is a chain and stays whole.
"""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from dmp import events, seeds
from dmp.archive import QUARANTINE
from dmp.config import DmpConfig, RetentionConfig
from dmp.errors import BadEvents

DAY_S = 86_400
AFTER_BIDS = "notices-"
"""How a bid-log file without its bids is called."""


def sweep(config: DmpConfig, now_us: int) -> dict[str, int]:
    """Remove what is older than its days; returns {data class: files or days removed}. Repeating it is safe."""
    root, keep = Path(config.data_dir), config.retention
    now_s = now_us / 1e6
    return {
        "bids": sum(map(_without_bids, _older(root / "bidlog", "bids-*.mpk", now_s, keep.bid_log_days))),
        "notices": _gone(_older(root / "bidlog", f"{AFTER_BIDS}*.mpk", now_s, keep.notice_days)),
        "behaviour": _days(root / "events", now_us, keep),
        "quarantined": _gone(_older(root / "events" / QUARANTINE, "*.rows", now_s, keep.behaviour_days)),
        "questions": _gone(_older(root / "insight", "*/*.jsonl", now_s, keep.question_days)),
        "uploads": seeds.sweep(root),
    }


def _older(folder: Path, pattern: str, now_s: float, days: int) -> list[Path]:
    """Files last written more than so many days ago: those of a running process are not among them."""
    return [path for path in sorted(folder.glob(pattern)) if now_s - path.stat().st_mtime > days * DAY_S]


def _gone(paths: list[Path]) -> int:
    for path in paths:
        path.unlink()
    return len(paths)


def _without_bids(path: Path) -> int:
    """Keep of a bid-log file what is no bid; the file keeps its time."""
    written = path.stat().st_mtime
    left = b"".join(events.encode(record) for record in _records(path) if not isinstance(record, events.Bid))
    if left:
        rest = path.with_name(AFTER_BIDS + path.name.removeprefix("bids-"))
        draft = rest.with_suffix(".draft")
        draft.write_bytes(left)
        os.utime(draft, (written, written))
        draft.rename(rest)
    path.unlink()
    return 1


def _records(path: Path) -> Iterator[events.Event]:
    try:
        yield from events.read_file(path)
    except BadEvents:  # what stands behind damage cannot be told apart, and its time is over as well
        return


def _days(folder: Path, now_us: int, keep: RetentionConfig) -> int:
    """Days of the archive that are over, by kind."""
    today = datetime.fromtimestamp(now_us / 1e6, UTC).date()
    removed = 0
    for place in sorted(folder.glob("kind=*/date=*")):
        kind = place.parent.name.removeprefix("kind=")
        days = keep.conversion_days if kind == "conversion" else keep.behaviour_days
        if today - date.fromisoformat(place.name.removeprefix("date=")) > timedelta(days=days):
            for path in sorted(place.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            place.rmdir()
            removed += 1
    return removed
