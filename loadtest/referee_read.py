"""Reading a request's plain JSON the way exchanges mean it; knows nothing of how our bidder reads it.

Numbers come as text, text as numbers, one value where a list belongs, null anywhere. What cannot be read is absent.
"""

import re
from collections.abc import Mapping
from typing import Any

Raw = Mapping[str, Any]


def dict_of(value: Any) -> dict[str, Any]:
    """An object, {} for anything else."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    found = value if isinstance(value, list) else [value]
    return [item for item in found if isinstance(item, dict)]


def number(value: Any) -> float | None:
    """A number, also as text; None for what is none.

    >>> number("728"), number(728.0), number(True), number("x")
    (728.0, 728.0, 1.0, None)
    """
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def numbers(value: Any) -> set[float]:
    """The numbers of a list, of one number, or of text such as "1,2"."""
    if isinstance(value, str):
        value = value.split(",")
    found = value if isinstance(value, list) else [value]
    return {n for item in found if (n := number(item)) is not None}


def texts(value: Any) -> list[str]:
    """The texts of a list, or of one text such as "a,b"; numbers as their text."""
    if isinstance(value, str):
        value = value.split(",")
    found = value if isinstance(value, list) else [value]
    return [
        str(item).strip()
        for item in found
        if isinstance(item, str | int | float) and not isinstance(item, bool) and item != ""
    ]


def domains(value: Any) -> set[str]:
    """Domains of a list, in lower case, also where they are written as addresses.

    >>> sorted(domains("https://www.Acme.example/x, b.example"))
    ['acme.example', 'b.example']
    """
    found = (re.sub(r"[/:?#].*", "", re.sub(r"^\w+://", "", name.lower())) for name in texts(value))
    return {name.removeprefix("www.") for name in found}


def flag(value: Any) -> bool:
    """1, true and their text are set."""
    return number(value) == 1.0 or value == "true"


def first(*values: Any) -> Any:
    """The first value that is there: 2.6 place before the 2.5 place."""
    return next((value for value in values if value not in (None, "", [])), None)
