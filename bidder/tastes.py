"""What users would like now, for the one feature that asks for it: `preference`, the cosine of user and ad.

The nightly build keeps a space of preferences and stores a vector of it with each profile (`dmp.factors`). Here the
live generation's space gives every ad of a snapshot the direction of its tags, and mixes a user's stored vector with
what they did lately (`dmp.preference.lately`), once per request. The mixed vector takes the stored one's place before
anything is computed from it and in the bid log, so what is trained on is what was served.

Only requests of users with a vector pay, and only while a model looks at the feature. While none does, one request in
`LEARN_ONE_IN` is mixed all the same: else no log would ever hold what a model could learn the feature from. A vector
that cannot be trusted (no space here, one of another generation, one too old) is taken for none.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal
from zlib import crc32

from msgspec import Struct

from dmp import preference
from dmp.errors import CorruptRecord
from dmp.preference import Space
from dmp.schema import User
from models.features import N_PAIR, NAMES
from models.registry import Model

log = logging.getLogger("tagbid.bidder")
LEARN_ONE_IN = 16
MAX_AGE_US = 14 * 86_400_000_000  # a build learns it anew every seven days
_COLUMN = NAMES[-N_PAIR:].index("preference")

Result = Literal["", "served", "missing", "other", "stale"]
"""What came of a user's vector: not looked at, used, no space to use it in, one of another generation, an old one."""
UNASKED: tuple[bytes, Result] = b"", ""
RESULTS: tuple[Result, ...] = ("served", "missing", "other", "stale")


class Tastes(Struct, frozen=True):
    """space: None where there is none. generation: whose it is. used: whether a model looks at the feature."""

    space: Space | None = None
    generation: int = 0
    used: bool = False

    def about(self, tags: Iterable[int]) -> bytes:
        """The direction of an ad's tags, as `models.context.Ad.preference` has it; b"" when none is in the space."""
        found = None if self.space is None else preference.of_tags(self.space, list(dict.fromkeys(tags)))
        return b"" if found is None else preference.pack(found)

    def lately(self, user: User, request: str, now_us: int) -> tuple[bytes, Result]:
        """(what the user would like now, packed, b"" for unknown; what came of it). request: its id, draws lots."""
        if not user.vector or not (self.used or crc32(request.encode()) % LEARN_ONE_IN == 0):
            return UNASKED
        if self.space is None:
            return b"", "missing"
        if user.generation != self.generation:
            return b"", "other"
        if now_us - self.space.learnt_us > MAX_AGE_US:
            return b"", "stale"
        return preference.lately(self.space, user.vector, user.realtime, now_us), "served"


UNKNOWN = Tastes()


class Source:
    """The space of the live generation on this machine. generation: the number of that, as now known."""

    def __init__(self, data_dir: Path, generation: Callable[[], int]) -> None:
        self._data_dir = data_dir
        self._generation = generation

    def version(self) -> int:
        """The live generation, 0 when it has no space here: changes whenever `load` would give another one."""
        number = self._generation()
        return number if number and self._file(number).exists() else 0

    def load(self, models: Iterable[Model | None]) -> Tastes:
        """models: those that are served. A space that cannot be read is told of and done without."""
        used = any(model is not None and model.forest.uses_pair(_COLUMN) for model in models)
        number = self.version()
        if not number:
            return Tastes(used=used)
        try:
            return Tastes(preference.decode_space(self._file(number).read_bytes()), number, used)
        except (OSError, CorruptRecord) as error:
            log.error("no preferences: %s", error)  # noqa: TRY400 - for its reader, not a defect
            return Tastes(used=used)

    def _file(self, number: int) -> Path:
        return self._data_dir / "generations" / str(number) / "space"
