from models.pairs import Columns

VERSION: int

# columns: where each value of `request`, part after part, belongs: all from 0 on, each once.
def vector(
    columns: bytes, request: tuple[list[float], ...], campaign: list[float], pairs: Columns, position: int, /
) -> bytes: ...
