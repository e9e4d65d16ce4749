"""The plain types of OpenRTB fields with their ranges (S-04), shared by all its Structs."""

from typing import Annotated

from msgspec import Meta

MAX_IMPS = 100  # S-04
MAX_DEALS = 200  # S-04
MAX_CHARS = 8192  # S-04

STRICT = {"strict": True}
"""Marks a restriction: an unreadable value refuses the request, or the imp it belongs to."""

Str = Annotated[str, Meta(max_length=MAX_CHARS)]
Int = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Flag = Int | bool
Strs = tuple[Str, ...]
StrictStrs = Annotated[list[Str], Meta(extra=STRICT)]
StrictInts = Annotated[list[Int], Meta(extra=STRICT)]
StrictFlag = Annotated[Int | bool, Meta(extra=STRICT)]
Money = Annotated[float, Meta(ge=-1e9, le=1e9, extra=STRICT)]
