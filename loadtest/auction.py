"""One auction as an exchange runs it: who wins, what it costs, and which URLs are called with what filled in.

Prices are CPM micros. The best rival bid is known to the exchange only; a bid of at least that much, and of at
least the floor, wins. Second price pays the better of the two, first price pays the bid.
"""

import html
import re
from collections.abc import Mapping

import msgspec

WON = 0
LOST_TO_HIGHER_BID = 102  # OpenRTB 2.6, list of loss reason codes (AdCOM)
BELOW_FLOOR = 100
_MACRO = re.compile(r"\$\{(AUCTION_[A-Z_]+)\}")
_SOURCE = re.compile(r"""<img\b[^>]*?\bsrc\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_LINK = re.compile(r"""<a\b[^>]*?\bhref\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)


class Outcome(msgspec.Struct, frozen=True):
    """loss: 0 for a win, else the exchange's loss reason code. price_micros: what a win pays, CPM; 0 for a loss.
    min_to_win_micros: the least that would have won.
    """

    loss: int
    price_micros: int
    min_to_win_micros: int


def settle(bid_micros: int, floor_micros: int, rival_micros: int, second_price: bool) -> Outcome:
    """Our one bid against the best rival.

    >>> settle(5_000_000, 1_000_000, 3_000_000, second_price=True)
    Outcome(loss=0, price_micros=3000000, min_to_win_micros=3000000)
    >>> settle(2_000_000, 1_000_000, 3_000_000, second_price=True).loss
    102
    """
    least = max(floor_micros, rival_micros)
    if bid_micros < floor_micros:
        return Outcome(BELOW_FLOOR, 0, least)
    if bid_micros < rival_micros:
        return Outcome(LOST_TO_HIGHER_BID, 0, least)
    return Outcome(WON, least if second_price else bid_micros, least)


def dollars(micros: int) -> str:
    """CPM micros as the decimal text a price macro carries, without rounding.

    >>> dollars(3_450_000), dollars(1)
    ('3.45', '0.000001')
    """
    text = f"{micros // 1_000_000}.{micros % 1_000_000:06d}".rstrip("0")
    return text.rstrip(".")


def fill(text: str, macros: Mapping[str, str]) -> str:
    """Replace `${AUCTION_*}` textually wherever it stands; a value the exchange does not have becomes empty.

    >>> fill("u?p=${AUCTION_PRICE}&x=${AUCTION_MBR}", {"AUCTION_PRICE": "1.5"})
    'u?p=1.5&x='
    """
    return _MACRO.sub(lambda match: macros.get(match.group(1), ""), text)


def images(markup: str) -> list[str]:
    """URLs a browser loads for `<img>` when the ad is rendered."""
    return [html.unescape(double or single) for double, single in _SOURCE.findall(markup)]


def links(markup: str) -> list[str]:
    """URLs a click on the ad can open.

    >>> links('<a class=x href="http://a.example/c?t=1&amp;u=2"><img src="i.png"></a>')
    ['http://a.example/c?t=1&u=2']
    """
    return [html.unescape(double or single) for double, single in _LINK.findall(markup)]
