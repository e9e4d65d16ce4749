"""OpenRTB requests to send: from JSONL files (plain or gzip), from Parquet bid logs, from anything iterable.

A line of JSONL is a request, or a record with the request under `request` (sent exactly as it stands there) or the
raw text to send under `body`. Bodies are bytes from then on: nothing is repaired, so broken requests stay broken.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from dmp.errors import TagbidError
from loadtest import adx_parquet

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".parquet")


class BadTraffic(TagbidError):
    """A traffic file that cannot be read as requests."""


_ABSENT = msgspec.Raw()


class _Line(msgspec.Struct):
    request: msgspec.Raw = _ABSENT
    body: str | None = None
    imp: msgspec.Raw = _ABSENT


class _Limit(msgspec.Struct):
    tmax: float | None = None


_LINE = msgspec.json.Decoder(_Line)
_LIMIT = msgspec.json.Decoder(_Limit)


def read(path: Path, limit: int | None = None) -> list[bytes]:
    """Request bodies of a file, or of a folder's Parquet files, in order; at most `limit`.

    Raises BadTraffic naming file and line.
    """
    bodies: list[bytes] = []
    for _, body in _records(path):
        bodies.append(body)
        if limit is not None and len(bodies) >= limit:
            break
    if not bodies:
        raise BadTraffic(f"{path}: no requests in it")
    return bodies


def bodies(requests: Iterable[Mapping[str, Any] | bytes]) -> list[bytes]:
    """Requests made in memory, as bodies.

    >>> bodies([{"id": "1"}, b"as it is"])
    [b'{"id":"1"}', b'as it is']
    """
    return [request if isinstance(request, bytes) else msgspec.json.encode(request) for request in requests]


def tmax_ms(requests: Iterable[bytes], default_ms: int) -> list[int]:
    """Each request's own time limit in whole milliseconds; the default where it names none above zero.

    >>> tmax_ms([b'{"tmax": 80}', b'{"tmax": 86.5}', b'{"tmax": 0}', b'{}', b'broken'], default_ms=100)
    [80, 86, 100, 100, 100]
    """
    return [_tmax(body, default_ms) for body in requests]


def convert(source: Path, out: Path, limit: int | None = None) -> int:
    """Write traffic of any kind as JSONL (gzip when `out` ends in .gz); returns how many requests.

    Records of bid logs keep when they were sent (`offset_us` since the first) and by whom (`source`).
    """
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise BadTraffic(f"{out}: name it something.jsonl or something.jsonl.gz")
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        with gzip.open(partial, "wb") if out.name.endswith(".gz") else partial.open("wb") as file:
            for line, _ in _records(source):
                if limit is not None and count >= limit:
                    break
                file.write(line + b"\n")
                count += 1
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _tmax(body: bytes, default_ms: int) -> int:
    try:
        found = _LIMIT.decode(body).tmax
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return default_ms
    return int(found) if found is not None and 1 <= found <= 60_000 else default_ms


def _records(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(line of JSONL, body to send) of each request."""
    if _is_parquet(path):
        for recorded in _recorded(path):
            yield msgspec.json.encode(recorded), msgspec.json.encode(recorded.request)
        return
    for number, line in _text_lines(path):
        try:
            record = _LINE.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadTraffic(f"{path}, line {number}: neither a request nor a record with one ({error})") from None
        if record.imp:
            yield line, line
        elif record.request:
            yield line, bytes(record.request)
        elif record.body is not None:
            yield line, record.body.encode("utf-8", "surrogatepass")
        else:
            yield line, line


def _text_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of the lines that are not blank."""
    if not path.exists():
        raise BadTraffic(f"{path}: no such file")
    if path.is_dir() or not path.name.endswith(SUFFIXES):
        raise BadTraffic(f"{path}: cannot tell what this is; known are {', '.join(SUFFIXES)} and folders of .parquet")
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if stripped := line.strip():
                    yield number, stripped
    except (OSError, EOFError, zlib.error) as error:
        raise BadTraffic(f"{path}: {error}") from None


def _is_parquet(path: Path) -> bool:
    return path.name.endswith(".parquet") or (path.is_dir() and any(path.glob("*.parquet")))


def _recorded(path: Path) -> Iterator[adx_parquet.Recorded]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return adx_parquet.read(files)
