"""The second yardstick: the rival's decisions behind FastAPI, with pydantic models for request and response.

`python -m loadtest.rival_fastapi` takes the arguments of `loadtest.rival`. Needs the `dev` extra.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict

from loadtest import rival


class Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Size(Lenient):
    w: int | None = None
    h: int | None = None


class Banner(Lenient):
    w: int | None = None
    h: int | None = None
    format: list[Size] | None = None
    pos: int | None = None
    battr: list[int] | None = None


class Imp(Lenient):
    id: str
    banner: Banner | None = None
    tagid: str | None = None
    bidfloor: float = 0.0
    bidfloorcur: str = "USD"
    instl: int = 0
    secure: int | None = None


class Site(Lenient):
    domain: str | None = None
    page: str | None = None
    cat: list[str] | None = None
    sectioncat: list[str] | None = None
    pagecat: list[str] | None = None


class App(Lenient):
    bundle: str | None = None
    domain: str | None = None
    cat: list[str] | None = None
    sectioncat: list[str] | None = None
    pagecat: list[str] | None = None


class Geo(Lenient):
    country: str | None = None
    region: str | None = None
    city: str | None = None
    utcoffset: int | None = None


class Device(Lenient):
    ua: str | None = None
    ip: str | None = None
    geo: Geo | None = None
    devicetype: int | None = None
    os: str | None = None
    language: str | None = None
    connectiontype: int | None = None
    ifa: str | None = None
    lmt: int | None = None
    dnt: int | None = None


class User(Lenient):
    id: str | None = None
    buyeruid: str | None = None


class RegsExt(Lenient):
    gdpr: int | None = None
    us_privacy: str | None = None
    gpc: str | None = None


class Regs(Lenient):
    coppa: int | None = None
    gdpr: int | None = None
    us_privacy: str | None = None
    ext: RegsExt | None = None


class BidRequest(Lenient):
    id: str
    imp: list[Imp]
    site: Site | None = None
    app: App | None = None
    device: Device | None = None
    user: User | None = None
    regs: Regs | None = None
    at: int = 2
    tmax: int | None = None
    cur: list[str] | None = None
    bcat: list[str] | None = None
    badv: list[str] | None = None
    wseat: list[str] | None = None


class Bid(BaseModel):
    id: str
    impid: str
    price: float
    adm: str
    adomain: list[str]
    cid: str
    crid: str
    cat: list[str]
    w: int
    h: int
    nurl: str
    burl: str


class SeatBid(BaseModel):
    seat: str
    bid: list[Bid]


class BidResponse(BaseModel):
    id: str
    cur: str
    seatbid: list[SeatBid]


def application(decider: rival.Rival) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        print("ready", flush=True)  # noqa: T201 - the starter waits for this line
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/bid/{exchange}", response_model=BidResponse)
    async def bid(exchange: str, request: BidRequest) -> Any:
        answer = await decider.decide(request.model_dump(exclude_none=True), exchange)
        return Response(status_code=204) if answer is None else answer

    return app


if __name__ == "__main__":
    given = rival.arguments()
    uvicorn.run(
        application(rival.make(given)), host="127.0.0.1", port=given.port, access_log=False, log_level="warning"
    )
