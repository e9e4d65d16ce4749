"""The parts of a request's features that other requests have too, with their masks of the forest, remembered."""

from bidder.remembered import Remembered
from models import features
from models.context import Context
from models.features import NOW_COLUMNS, PLACE_COLUMNS, READER_COLUMNS, Place, Reader
from models.forest import Masks
from models.registry import Model

REMEMBERED_BYTES = 8 * 1024**2  # of each part: 3,000 placements at 200 trees

Part = tuple[list[float], Masks]
"""Features in the order of their columns, and their mask."""


class Parts:
    """The request side of one model."""

    __slots__ = ("_forest", "_place", "_reader")

    def __init__(self, model: Model) -> None:
        vocabulary, forest = model.vocabulary, model.forest

        def place(key: Place) -> Part:
            values = features.place_values(vocabulary, key)
            return values, forest.request_mask(values, PLACE_COLUMNS)

        def reader(key: Reader) -> Part:
            values = features.reader_values(vocabulary, key)
            return values, forest.request_mask(values, READER_COLUMNS)

        size = 1_000 + 8 * forest.trees
        self._forest = forest
        self._place = Remembered(place, size, REMEMBERED_BYTES)
        self._reader = Remembered(reader, size, REMEMBERED_BYTES)

    def request(self, where: Context, now: list[float]) -> tuple[list[float], Masks]:
        """(the request features, their mask). now: `features.now_values`."""
        place, place_mask = self._place(features.place_of(where))
        reader, reader_mask = self._reader(features.reader_of(where))
        mask = self._forest.request_mask(now, NOW_COLUMNS, place_mask & reader_mask)
        return features.in_columns(place, reader, now), mask
