"""What the bidder says about itself: its metrics page, and the CPU time the kernel charges it."""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from dmp.errors import TagbidError

TIMEOUT_S = 5.0
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp, proc(5)
CPU = "process_cpu_seconds_total"
_NO_BID = re.compile(r'tagbid_no_bid_total\{(?:[^}]*,)?reason="([^"]*)"[^}]*\}')


class NoMetrics(TagbidError):
    """The bidder's metrics page, or a process to be measured, is not there."""


def admin_url(url: str) -> str:
    """Where a bidder's metrics are unless told otherwise: the same host, the next port.

    >>> admin_url("http://127.0.0.1:8080/bid/adx")
    'http://127.0.0.1:8081'
    """
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return urlunsplit(("http", f"{host}:{(parts.port or 80) + 1}", "", "", ""))


def metrics(admin: str) -> dict[str, float]:
    """{sample as written, with its labels: value} of `<admin>/metrics`; raises NoMetrics."""
    url = admin.rstrip("/") + "/metrics"
    if not url.startswith(("http://", "https://")):
        raise NoMetrics(f"{admin!r} is no URL: write http://host:port")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - scheme checked above
            return parse(answer.read().decode())
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NoMetrics(f"no metrics at {url}: {reason}") from None


def parse(text: str) -> dict[str, float]:
    r"""Prometheus text exposition; lines that are no samples are skipped.

    >>> parse('# TYPE a counter\na{b="c"} 2\n')
    {'a{b="c"}': 2.0}
    """
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            try:
                found[name.strip()] = float(value)
            except ValueError:
                continue
    return found


def no_bid_reasons(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, int]:
    """{reason: how many requests between two scrapes}, most frequent first."""
    grown: dict[str, int] = {}
    for name, value in after.items():
        if (match := _NO_BID.fullmatch(name)) and (delta := round(value - before.get(name, 0.0))):
            grown[match.group(1)] = grown.get(match.group(1), 0) + delta
    return dict(sorted(grown.items(), key=lambda item: (-item[1], item[0])))


def children(pid: int) -> list[int]:
    """Child processes of a process; Linux only."""
    found = []
    for path in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if path.name.isdigit() and int((path / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.name))
    return found


def family(pid: int) -> list[int]:
    """A process and all below it, parents before their children; Linux only."""
    found = [pid]
    for one in found:
        found += children(one)
    return found


def listens(pid: int, port: int) -> bool:
    """Whether a process listens on a port (TCP over IPv4); Linux only."""
    sockets = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(path.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        row[3] == _LISTEN and row[1].endswith(f":{port:04X}") and f"socket:[{row[9]}]" in sockets for row in rows
    )


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of processes so far, to the kernel's tick (10 ms); Linux only. Raises NoMetrics."""
    ticks = 0
    for pid in pids:
        try:
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError as error:
            raise NoMetrics(f"no process {pid} to measure: {error}") from None
        ticks += int(after_name[11]) + int(after_name[12])  # utime and stime, proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")
