"""Send a seed file to a running `tagbid dmp serve`: the command line's side of the upload."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from dmp.errors import DmpError

CHUNK_BYTES = 1 << 18


async def upload(
    path: Path,
    url: str,
    key: str,
    advertiser: str,
    query: dict[str, str],
    sent: Callable[[int], None] = lambda size: None,
) -> dict[str, Any]:
    """The server's answer to the upload. sent: called with bytes just sent. Raises DmpError with what to do."""

    async def body() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                sent(len(chunk))

    headers = {"Authorization": f"Bearer {key}", "Content-Type": "text/csv"}
    address = f"{url.rstrip('/')}/v1/advertisers/{advertiser}/seeds"
    no_end = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600)
    try:
        async with (
            aiohttp.ClientSession(timeout=no_end) as session,
            session.post(address, params=query, headers=headers, data=body()) as answer,
        ):
            told: dict[str, Any] = await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DmpError(f"no usable answer from {url} ({error}); is `tagbid dmp serve` running there?") from None
    if answer.status != 202:
        raise DmpError(f"the upload was refused ({answer.status}): {told.get('detail', 'no reason given')}")
    return told
