"""The parts of a request's features that other requests have too, with their masks of the forest, remembered."""

from bidder.remembered import Remembered
from models import features
from models.context import Context
from models.features import PLACE_COLUMNS, READER_COLUMNS, Place, Reader
from models.registry import Model
from models.tables import Masks

REMEMBERED_BYTES = 8 * 1024**2  # of each part: 2,500 placements at 200 trees

Part = tuple[list[float], Masks]
"""Features in the order of their columns, and their mask."""


class Parts:
    """The request side of one model. now: the features of `NOW_COLUMNS`, which are this request's alone."""

    __slots__ = ("_place", "_reader", "now")

    def __init__(self, model: Model) -> None:
        vocabulary, forest = model.vocabulary, model.forest

        def place(key: Place) -> Part:
            values = features.place_values(vocabulary, key)
            return values, forest.request_mask(values, PLACE_COLUMNS)

        def reader(key: Reader) -> Part:
            values = features.reader_values(vocabulary, key)
            return values, forest.request_mask(values, READER_COLUMNS)

        self.now = features.now_filler(vocabulary)
        size = 1_000 + 8 * forest.trees
        self._place = Remembered(place, size, REMEMBERED_BYTES)
        self._reader = Remembered(reader, size, REMEMBERED_BYTES)

    def of(self, where: Context, by: Reader) -> tuple[list[float], list[float], tuple[Masks, Masks]]:
        """The features of place and reader, and the masks of both. by: the reader of `where`."""
        place, place_mask = self._place[features.place_of(where)]
        reader, reader_mask = self._reader[by]
        return place, reader, (place_mask, reader_mask)
