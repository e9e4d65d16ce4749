"""What a model froze of its training data: the codes of categorical values, and click rates of placements and ads."""

from collections.abc import Mapping, Sequence

import msgspec

from models.columns import CATEGORICAL, MAX_CATEGORIES, NAMES
from models.context import NAN

MIN_CATEGORY_ROWS = 5  # a value seen fewer times teaches noise

_rates_decoder = msgspec.msgpack.Decoder(dict[str, list[tuple[tuple[str, ...], float, float]]])


Category = str | int
Rate = tuple[float, float]
"""A smoothed click rate and ln(1 + impressions), a thousand at most, of the very key it was asked for."""


class Rates(msgspec.Struct, frozen=True):
    """Click rates of placements and ads as they stood on one day, each shrunk to its parent (`models.encoding`).

    Keys are chains, the most specific last: (exchange, domain or bundle, tagid) and (advertiser, campaign, creative).
    An unknown key has its parent's rate and no impressions of its own; the empty key is the rate of everything.
    Without that one nothing is known yet, and the rate is NaN.
    """

    places: dict[tuple[str, ...], Rate] = {}
    ads: dict[tuple[str, ...], Rate] = {}


def encode_rates(rates: Rates) -> bytes:
    """The bytes of an artefact's `rates.bin`; keys of maps cannot be lists, so entries are (key, rate, impressions)."""
    tables = {"places": rates.places, "ads": rates.ads}
    return msgspec.msgpack.encode(
        {name: [(key, *rate) for key, rate in table.items()] for name, table in tables.items()}
    )


def decode_rates(data: bytes) -> Rates:
    """Read `rates.bin` back; raises msgspec.DecodeError on anything else."""
    tables = _rates_decoder.decode(data)
    return Rates(**{name: {key: (a, b) for key, a, b in tables.get(name, [])} for name in ("places", "ads")})


def rate_of(table: Mapping[tuple[str, ...], Rate], key: tuple[str, ...]) -> Rate:
    """The rate of the longest known beginning of a key; impressions only when that is the whole key."""
    found = table.get(key)
    if found is not None:
        return found
    while key:
        key = key[:-1]
        found = table.get(key)
        if found is not None:
            return found[0], 0.0
    return NAN, 0.0


class Vocabulary:
    """What a model froze of its training data: categorical value -> code, and click rates. Unseen values are NaN.

    values: {feature name: values in code order}, as stored in the manifest (JSON keeps text and ints apart).
    rates: of placements and ads as of the end of training.
    """

    __slots__ = ("codes", "rates", "values")

    def __init__(self, values: Mapping[str, Sequence[Category]], rates: Rates | None = None) -> None:
        self.rates = Rates() if rates is None else rates
        self.values: dict[str, tuple[Category, ...]] = {NAMES[i]: tuple(values.get(NAMES[i], ())) for i in CATEGORICAL}
        self.codes: tuple[dict[Category, float], ...] = tuple(
            {value: float(code) for code, value in enumerate(known)} for known in self.values.values()
        )

    def with_rates(self, rates: Rates) -> "Vocabulary":
        """The same codes with other rates."""
        made = Vocabulary.__new__(Vocabulary)
        made.values, made.codes, made.rates = self.values, self.codes, rates
        return made

    def same(self, other: "Vocabulary") -> bool:
        """Whether two models read the very same numbers, so that features need filling once."""
        return self.values == other.values and self.rates == other.rates

    def jsonable(self) -> dict[str, list[Category]]:
        """What `Vocabulary(...)` takes back."""
        return {name: list(known) for name, known in self.values.items()}


def known(counts: Mapping[Category, int], min_rows: int = MIN_CATEGORY_ROWS) -> list[Category]:
    """The values of one categorical feature that get a code, in code order. counts: rows per value."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:MAX_CATEGORIES]
    return [value for value, n in ordered if n >= min_rows and value not in ("", 0)]
