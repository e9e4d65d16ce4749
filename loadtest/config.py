"""The `[loadtest]` table: how hard to push and how long to wait."""

from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class LoadtestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[loadtest]` table of `tagbid.toml`.

    rate: requests per second. duration_s: how long requests are sent. connections: opened before the first
    request; max_connections: bound when they are all busy. tmax_ms: time limit of requests that carry no `tmax`.
    patience_ms: how long after its intended send time a request is waited for, so that a late answer is seen as
    late and a missing one as missing. seed: of Poisson arrivals. sample: answers whose bodies are kept and checked.
    """

    rate: Positive = 1_000.0
    duration_s: Positive = 10.0
    connections: Count = 64
    max_connections: Count = 1_024
    tmax_ms: Count = 100
    patience_ms: Count = 2_000
    seed: int = 1
    sample: int = 2_000
