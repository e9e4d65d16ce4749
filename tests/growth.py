"""Whether code leaves memory behind."""

import gc
import resource
from collections.abc import Callable


def growth_kb(play: Callable[[int], None], calls: int) -> int:
    """How much the process grows by so many calls, after 2,000 that fill what is kept anyway."""
    play(2_000)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    play(calls)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) - before
