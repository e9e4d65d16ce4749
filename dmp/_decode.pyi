from collections.abc import Callable, Sequence

from dmp.schema import Contact, Realtime, User

VERSION: int

class Decoder:
    def __init__(
        self,
        user: type[User],
        contact: type[Contact],
        realtime: type[Realtime],
        plain: Callable[[Sequence[bytes | None], int, int], User],
        /,
    ) -> None: ...
    def user(self, values: Sequence[bytes | None], live: int, now_s: int, /) -> User: ...
