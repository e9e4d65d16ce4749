"""The fast lane: bid POSTs framed by httptools and answered without a task, everything else handed to aiohttp.

A connection belongs to the lane from its first byte and as long as every message on it starts with `POST /bid/`. Any
other message at the start of a read is handed over with the connection, once its header is complete, through the
public interface of both sides: `transport.set_protocol(server())`, `connection_made`, `data_received`. From then on
aiohttp serves the connection, bids included, by the ordinary route; so does it when a bid asks for an upgrade, which
it ignores. Only what comes pipelined in one read behind an unanswered bid cannot be cut off cleanly: then the last
bid's answer says `Connection: close`, and the client sends the rest again (RFC 9112, 9.3.2). Where the read ends before
that is known, this answer waits for the next one.

Answers leave in the order of the requests. Each connection has at most `MAX_PIPELINED` answers due; then it is not
read further. Time limits need no timer per connection: `Port.sweep` looks at all of them twice a second.
"""

import re
from asyncio import BaseTransport, Protocol, Transport
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

import httptools
from msgspec import Struct

from bidder import heads
from bidder.call import Answer
from bidder.endpoints import MAX_BODY_BYTES, MAX_TARGET_BYTES, PREFIX, Endpoint, also, plain
from bidder.heads import Head
from bidder.port import Limits, Port
from bidder.replies import CONTINUE, SHED, render

START = b"POST " + PREFIX.encode()
MAX_PIPELINED = 256
VERSIONS = frozenset({"1.0", "1.1"})  # that one may claim on a first line; HTTP/2 begins otherwise
MAX_HEADERS = 100  # S-02
MAX_HEADER_BYTES = 8 * 1024  # S-02, name and value
MAX_HEAD_BYTES = 64 * 1024  # a whole request line and header block
ANSWER_S = 15.0  # longer than any deadline: an answer still due then was lost to a defect
LINGER_S = 2.0  # what comes after a refusal is read and dropped for so long: a reset would take the refusal along
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class _Due(Struct, eq=False):
    """One answer that is due, in its connection's order.

    answer: None until it is there. close: it is the last one. asked: x-openrtb-version and Accept-Encoding, where they
    matter. more: further headers.
    """

    lane: "Lane"
    answer: Answer | None
    close: bool = False
    asked: tuple[str, str, Endpoint] | None = None
    more: Mapping[str, str] | None = None

    def __call__(self, answer: Answer) -> None:
        self.put(answer)
        self.lane.send()

    def put(self, answer: Answer) -> None:
        """The answer is there."""
        if self.asked is not None:
            version, accepts, endpoint = self.asked
            self.more, answer = also(version, accepts, answer, endpoint.exchange)
        self.answer = answer


def lanes(port: Port) -> Callable[[], "Lane"]:
    """What an event loop makes of each connection to a port."""
    return partial(Lane, port)


class Lane(Protocol):
    """One connection."""

    __slots__ = (
        "_accepts", "_authorization", "_bodies", "_body", "_due", "_encoding", "_ended", "_endpoint",
        "_expect", "_fed", "_head", "_headers", "_held", "_hosts", "_idle", "_known", "_learnt", "_linger",
        "_lingers_since_s", "_old", "_parked", "_parser", "_paused", "_port", "_read_since_s", "_same", "_seen_s",
        "_size", "_status", "_stopped_since_s", "_transport", "_url", "_version",
    )  # fmt: skip

    def __init__(self, port: Port) -> None:
        self._port = port
        self._transport: Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._due: deque[_Due] = deque()
        self._idle = True  # between messages
        self._ended = False  # nothing more is read
        self._parked = b""  # the start of a message that is not known to be a bid yet, or waits to be handed over
        self._seen_s = 0.0
        self._read_since_s = 0.0  # when the message being read began, 0 for none
        self._stopped_since_s = 0.0  # since when the peer does not take our answers, 0 for it does
        self._linger = False  # the last answer is out or due while the peer may still be sending
        self._lingers_since_s = 0.0
        self._paused = False
        self._known = False  # the message being read is a bid: its first bytes said so
        self._held = False  # the last answer due waits to know what begins behind it
        self._same: Head | None = port.head  # the header block that the next message may have again
        self._learnt = 0
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._authorization = b""
        self._accepts = ""
        self._version = ""
        self._hosts = 0
        self._encoding = ""
        self._expect = False
        self._old = False
        self._headers = 0
        self._head = True
        self._fed = 0
        self._size = 0
        self._body = b""
        self._bodies: list[bytes] = []
        self._status = 0
        self._endpoint: Endpoint | int = 404

    # ---- the connection

    def connection_made(self, transport: BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream protocol gets a stream transport
        self._seen_s = self._port.clock()
        self._port.lanes.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.lanes.discard(self)
        self._ended = True
        self._due.clear()

    def eof_received(self) -> bool:
        """The peer has sent all it will: answer what is due, then close."""
        if self._due and not self._parked:
            self._due[-1].close = True
            self._ended = True
            self._release()
            return True
        return False

    def pause_writing(self) -> None:
        self._stopped_since_s = self._port.clock()
        self._pause(True)

    def resume_writing(self) -> None:
        self._stopped_since_s = 0.0
        self._pause(False)

    def _pause(self, pause: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or pause is self._paused:
            return
        self._paused = pause
        if pause:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def overdue(self, now_s: float, limits: Limits) -> str:
        """Why this connection should be closed now, "" for no reason."""
        self._release()  # whoever takes so long over a first line is not waited for
        if self._lingers_since_s:
            return "linger" if now_s - self._lingers_since_s > LINGER_S else ""
        if self._due:
            return "stuck" if now_s - self._seen_s > ANSWER_S else ""
        if self._stopped_since_s:
            return "stuck" if now_s - self._stopped_since_s > limits.read_s else ""
        if self._read_since_s:
            return "slow" if now_s - self._read_since_s > limits.read_s else ""
        return "idle" if now_s - self._seen_s > limits.idle_s else ""

    def end(self, status: int | None) -> None:
        """Close now, saying why when there is a status."""
        self._ended = True
        self._due.clear()
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if status is None or self._stopped_since_s:
                transport.abort()
            else:
                self._port.counts[self._port.refused[status]] += 1
                transport.write(render(status, True))
                self._linger = True
                self._close(transport)

    def finish(self) -> None:
        """Close as soon as nothing is due any more."""
        if self._due:
            self._due[-1].close = True
            self._ended = True
            self._release()
        elif self._idle and self._transport is not None:
            self._ended = True
            self._transport.close()

    # ---- reading

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        port = self._port
        now_s = self._seen_s = port.clock()
        whole = self._idle and not self._parked
        if self._idle:
            if self._parked:
                data, self._parked = self._parked + data, b""
            elif self._again(data):
                if len(self._due) > MAX_PIPELINED:
                    self._pause(True)
                return
            if not data.startswith(START) or _UPGRADE.search(data, 0, data.find(b"\r\n\r\n") + 1 or len(data)):
                self._not_a_bid(data, now_s)
                return
            self._known = True
        if self._head:
            self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._close_after_last()  # of a bid whose header block came in pieces: it was read without its body
        except httptools.HttpParserError:
            self._refuse(400)
        if not self._idle:
            if not self._read_since_s:
                self._read_since_s = now_s
            if self._head and self._fed > MAX_HEAD_BYTES:
                self._refuse(400)
            elif self._head and not self._known and self._due:
                is_bid = self._is_bid()
                self._held = is_bid is None
                if is_bid is False:
                    self._close_after_last()  # before the answers leave: they must say that no more of them come
        else:
            self._held = False
            self._read_since_s = 0.0
            if whole:
                self._learn(data)
        self.send()
        if len(self._due) > MAX_PIPELINED:
            self._pause(True)

    def _again(self, data: bytes) -> bool:
        """Take a whole request whose header block is known; False for anything else.

        Under overload every second request is refused, and each refusal takes time off the decisions: so it is done
        here, where nothing but the frame has been looked at, when no answer is due before it.
        """
        head, port = self._same, self._port
        if head is None or port.draining:
            return False
        start = heads.start_of(head, data)
        if not start:
            return False
        if not self._due and not head.version and port.sheds(head.endpoint, self._seen_s):
            self._transport.write(SHED)  # type: ignore[union-attr]  # what is read came by it
            return True
        due = self._ask(head.endpoint, data[start:], head.encoding, head.version, head.accepts)
        self._due.append(due)
        if due.answer is not None:
            self.send()
        return True

    def _learn(self, data: bytes) -> None:
        """Remember the header block of a request that came whole, so that its like need no parser."""
        if self._learnt == heads.MOST_LEARNT or self._ended or not self._size or isinstance(self._endpoint, int):
            return
        if self._status or self._expect or self._old:
            return
        self._learnt += 1
        found = heads.learn(data, self._size, self._endpoint, self._encoding, self._version, self._accepts)
        if found is not None:
            self._same = self._port.head = found

    def _is_bid(self) -> bool | None:
        """Whether a message that began behind a bid in one read is one, too; None while its first line is too short."""
        url, bid = self._url, START[5:]
        if not url or (self._parser.get_method() == b"POST" and url != bid and bid.startswith(url)):
            return None
        return self._parser.get_method() == b"POST" and bool(url.startswith(bid))

    def _release(self) -> None:
        """Let the last answer go, whatever comes behind it."""
        if self._held:
            self._held = False
            self.send()

    def _not_a_bid(self, data: bytes, now_s: float) -> None:
        """A message that is no bid, or not enough of one to tell."""
        self._parked = data
        if not self._read_since_s:
            self._read_since_s = now_s
        if len(data) < len(START) and START.startswith(data):
            return
        if self._due:
            self._pause(True)  # first what came before it
        elif b"\r\n\r\n" in data or b"\n\n" in data or len(data) > MAX_HEAD_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        transport, data = self._transport, self._parked
        if transport is None or transport.is_closing():
            return
        self._pause(False)
        self._port.lanes.discard(self)
        self._parked, self._ended = b"", True
        foreign = self._port.foreign()
        transport.set_protocol(foreign)  # type: ignore[arg-type]  # an asyncio protocol in all but name
        foreign.connection_made(transport)
        foreign.data_received(data)

    # ---- httptools' callbacks, in the order they come

    def on_message_begin(self) -> None:
        self._idle = False
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._headers > MAX_HEADERS or len(name) + len(value) > MAX_HEADER_BYTES:
            self._status = 400
            return
        if not self._head:
            return  # a trailer
        length = len(name)
        if length == 13:
            if name.lower() == b"authorization":
                if self._authorization:
                    self._status = 400  # which of them counts is anybody's guess
                self._authorization = value
        elif length == 4:
            if name.lower() == b"host":
                self._hosts += 1 if value.strip() else 2  # an empty one is no better than two
        elif length == 17:
            if name.lower() == b"x-openrtb-version":
                self._version = value.decode("latin-1")
        elif length == 15:
            if name.lower() == b"accept-encoding":
                self._accepts = value.decode("latin-1")
        elif length == 16:
            if name.lower() == b"content-encoding":
                if self._encoding:
                    self._status = 400  # as for secrets
                self._encoding = value.decode("latin-1")
        elif length == 14:
            if name.lower() == b"content-length" and value.isdigit() and int(value[:19]) > MAX_BODY_BYTES:
                self._status = 413
        elif length == 10:
            # An HTTP/1.0 client that wants to keep the connection would have to be told that it may; we close it.
            if name.lower() == b"connection" and value.lower() == b"keep-alive":
                self._old = self._parser.get_http_version() == "1.0"
        elif length == 6 and name.lower() == b"expect":
            if value.lower() == b"100-continue":
                self._expect = True
            else:
                self._status = 417

    def on_headers_complete(self) -> None:
        self._head = False
        if self._known:
            self._known = False
        elif self._parser.get_method() != b"POST" or not self._url.startswith(START[5:]):
            self._close_after_last()  # pipelined behind a bid in one read: see above
            return
        version = self._parser.get_http_version()
        if len(self._url) > MAX_TARGET_BYTES or version not in VERSIONS:
            self._status = 400
        if self._hosts != 1 and (self._hosts or version == "1.1"):
            self._status = 400
        self._endpoint = self._port.endpoints.find(self._url.decode("latin-1"), self._authorization)
        if self._status:
            self._refuse(self._status)
        elif self._expect and not self._due and self._transport is not None:
            self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._ended:
            return
        self._size += len(body)
        if self._size > MAX_BODY_BYTES:
            self._refuse(413)
        elif self._body or self._bodies:
            self._bodies.append(body)
        else:
            self._body = body

    def on_message_complete(self) -> None:
        if self._ended:
            return
        self._idle = True
        self._read_since_s = 0.0  # the next message has its own time, also where reads never end between two
        close = self._old or self._port.draining or not self._parser.should_keep_alive()
        if self._status:
            self._refuse(self._status)
            return
        if isinstance(self._endpoint, int):
            due = _Due(self, self._turned_away(self._endpoint))
        else:
            body = b"".join((self._body, *self._bodies)) if self._bodies else self._body
            due = self._ask(self._endpoint, body, self._encoding, self._version, self._accepts)
        due.close = close
        self._due.append(due)
        if close:
            self._ended = True

    # ---- answering

    def _ask(self, endpoint: Endpoint, received: bytes, encoding: str, version: str, accepts: str) -> _Due:
        """Have a bid decided."""
        due = _Due(self, None)
        body = plain(received, encoding) if encoding else received
        if isinstance(body, int):
            due.put(self._turned_away(body))
            return due
        if version or (accepts and endpoint.exchange.gzip_answers):
            due.asked = version, accepts, endpoint
        answer = self._port.handle(body, endpoint, self._seen_s, due)
        if answer is not None:
            due.put(answer)
        return due

    def _turned_away(self, status: int) -> int:
        self._port.counts[self._port.refused[status]] += 1
        return status

    def _refuse(self, status: int) -> None:
        """Answer the message being read and read no further: where the next one starts is not known."""
        if not self._ended:
            self._ended = self._idle = self._linger = True
            self._held = False
            due = _Due(self, self._turned_away(status))
            due.close = True
            self._due.append(due)

    def _close_after_last(self) -> None:
        self._ended = self._idle = self._linger = True
        self._held = False
        if self._due:
            self._due[-1].close = True
        elif self._transport is not None:
            self._transport.close()

    def send(self) -> None:
        """Write the answers that are there, as far as their order allows, in one write."""
        due = self._due
        transport = self._transport
        if not due or due[0].answer is None or transport is None or transport.is_closing():
            return
        if self._held and len(due) == 1:
            return
        if len(due) == 1:
            first = due.popleft()
            close = first.close
            transport.write(render(first.answer, close, first.more))  # type: ignore[arg-type]  # it is there: tested above
        else:
            ready: list[bytes] = []
            close = False
            while len(due) > self._held and not close and (answer := due[0].answer) is not None:
                first = due.popleft()
                close = first.close
                ready.append(render(answer, close, first.more))
            transport.write(b"".join(ready))
        if close:
            due.clear()
            self._close(transport)
        elif not due and self._parked:
            self._resume_parked()
        elif self._paused and not self._stopped_since_s and len(due) < MAX_PIPELINED // 2:
            self._pause(False)

    def _close(self, transport: Transport) -> None:
        """Nothing more is said; what a peer in the middle of something still sends is dropped for a while."""
        if self._linger and transport.can_write_eof():
            self._lingers_since_s = self._port.clock()
            transport.write_eof()
            self._pause(False)
        else:
            transport.close()

    def _resume_parked(self) -> None:
        parked, self._parked = self._parked, b""
        self._pause(False)
        self._not_a_bid(parked, self._port.clock())
