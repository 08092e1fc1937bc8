"""The part of JetStream's protocol that Corral speaks: append, read by the leader, read in batches from any replica.

Errors of the server become ours: Conflict for compare-and-set, StreamMissing, BusUnavailable for what passes (no leader, no
resources), BusRefused for the rest.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import msgspec
from nats.aio.msg import Msg

from . import js_names
from .errors import BusError, BusRefused, BusUnavailable, Conflict, StreamMissing
from .replies import NO_RESPONDERS, Exchange, Replies, expected, status_of

H_MSG_ID = "Nats-Msg-Id"
H_TTL = "Nats-TTL"
H_EXPECTED_REVISION = "Nats-Expected-Last-Subject-Sequence"
H_KV_OPERATION = "KV-Operation"
H_MARKER_REASON = "Nats-Marker-Reason"
H_ROLLUP = "Nats-Rollup"
_H_SEQUENCE = "Nats-Sequence"
_H_SUBJECT = "Nats-Subject"
_H_PREVIOUS = "Nats-Last-Sequence"
_H_PENDING = "Nats-Num-Pending"
_H_UP_TO = "Nats-UpTo-Sequence"

_END_OF_BATCH, _NOT_FOUND, _TOO_MANY = "204", "404", "413"
_WRONG_LAST_SEQUENCE = {10071, 10164}
_NOT_THERE = {10014, 10059}  #: consumer, stream
_NO_MESSAGE_FOUND = 10037
_PASSING = {500, 503}  #: codes of the API that say: later
_PAGE = 512  #: messages per batched read
_MAX_SUBJECTS = 1000  #: the server refuses a multi-get that matches more than 1024


class ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct, frozen=True):
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class _StoredMessage(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    data: str = ""
    hdrs: str = ""


class _GetReply(msgspec.Struct, frozen=True):
    message: _StoredMessage | None = None
    error: ApiError | None = None


class _State(msgspec.Struct, frozen=True):
    last_seq: int = 0
    num_subjects: int = 0
    subjects: dict[str, int] | None = None


class _InfoReply(msgspec.Struct, frozen=True):
    created: str = ""
    state: _State = _State()
    total: int = 0
    error: ApiError | None = None


class StreamFacts(msgspec.Struct, frozen=True):
    """What the stream's leader says. `created` changes when the stream is made anew."""

    created: str
    last_seq: int
    num_subjects: int


class Stored(msgspec.Struct, frozen=True):
    """A message as the stream keeps it. `gone`: a marker of deletion or expiry, not a value."""

    subject: str
    seq: int
    data: bytes
    gone: bool


class Batch(msgspec.Struct, frozen=True):
    messages: tuple[Stored, ...]
    pending: int  #: how many more the server has now


class Snapshot(msgspec.Struct, frozen=True):
    """The newest message of each subject, and the sequence after which to read on."""

    messages: tuple[Stored, ...]
    seq: int
    created: str  #: of the stream


class _Part(msgspec.Struct, frozen=True):
    messages: list[Stored]
    up_to_seq: int


_T = TypeVar("_T")


class JetStream:
    def __init__(self, replies: Replies, timeout_s: float) -> None:
        self._replies = replies
        self.timeout_s = timeout_s

    async def append(self, subject: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, bool]:
        """One attempt to store; (sequence, was it a duplicate)."""
        reply = await self._replies.request(subject, data, self.timeout_s, headers=dict(headers))
        ack = _decode(reply, _PubAck)
        if ack.error is not None:
            raise error_of(ack.error, subject)
        if not ack.seq:
            raise BusRefused(f"{subject}: answered by something that is no stream")
        return ack.seq, ack.duplicate

    async def facts(self, stream: str) -> StreamFacts:
        """Asked of the stream's leader."""
        info = await self._api(js_names.stream_info(stream), b"", _InfoReply, stream)
        return StreamFacts(info.created, info.state.last_seq, info.state.num_subjects)

    async def subjects(self, stream: str, pattern: str) -> list[str]:
        """All subjects of the stream's messages that match."""
        found: list[str] = []
        while True:
            body = msgspec.json.encode({"subjects_filter": pattern, "offset": len(found)})
            info = await self._api(js_names.stream_info(stream), body, _InfoReply, stream)
            page = info.state.subjects or {}
            found.extend(page)
            if not page or len(found) >= info.total:
                return found

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message of the subject, by the leader; None when there is none."""
        return await self._get(stream, {"last_by_subj": subject})

    async def at(self, stream: str, seq: int) -> Stored | None:
        """The message with this sequence, by the leader; None when it is gone."""
        return await self._get(stream, {"seq": seq})

    async def delete(self, stream: str, seq: int) -> bool:
        """Remove one message; False when it was gone already."""
        try:
            await self._api(js_names.message_delete(stream), msgspec.json.encode({"seq": seq}), _InfoReply, stream)
        except BusUnavailable:  # also what the server calls a message that is not there
            if await self.at(stream, seq) is not None:
                raise
            return False
        return True

    async def consumer_exists(self, stream: str, consumer: str) -> None:
        """Raises StreamMissing when it does not."""
        await self._api(js_names.consumer_info(stream, consumer), b"", _InfoReply, f"{stream}/{consumer}")

    async def read(self, stream: str, *, seq: int = 0, since: str = "", pattern: str = ">", limit: int = _PAGE) -> Batch:
        """Messages from a sequence or an RFC 3339 time on, oldest first. Any replica answers, so it may lag."""
        query: dict[str, Any] = {"batch": limit, "next_by_subj": pattern}
        query |= {"start_time": since} if since else {"seq": max(seq, 1)}
        batch = await self._batch(stream, query)
        return Batch(tuple(batch.messages), batch.pending)

    async def snapshot(self, stream: str, pattern: str) -> Snapshot:
        """The newest message of every matching subject: complete as of the call, and consistent with reading on from `seq`.

        A key that is written while we read moves to the end of the stream and would be missed, so what follows is read too,
        until the leader says that nothing does. Raises BusUnavailable, StreamMissing, BusRefused.
        """
        try:
            async with asyncio.timeout(self.timeout_s * 10):
                before = await self.facts(stream)
                parts = [part async for part in self._parts(stream, [pattern], before.last_seq)]
                newest = {message.subject: message for part in parts for message in part.messages}
                seq = min((part.up_to_seq for part in parts), default=before.last_seq)
                after = await self.facts(stream)
                if after.created != before.created:
                    raise BusUnavailable(f"{stream} was made anew")
                while seq < after.last_seq:
                    batch = await self.read(stream, seq=seq + 1, pattern=pattern)
                    newest |= {message.subject: message for message in batch.messages}
                    seq = batch.messages[-1].seq if batch.messages else seq
                    if not batch.pending and await self._nothing_after(stream, seq, pattern):
                        break
        except TimeoutError:
            raise BusUnavailable(f"{stream}: no complete snapshot within {self.timeout_s * 10:g} s") from None
        return Snapshot(tuple(newest.values()), seq, before.created)

    async def _parts(self, stream: str, patterns: list[str], at_least_seq: int) -> AsyncIterator[_Part]:
        """Multi-gets that cover the patterns, each answered whole by one replica that has read at least so far."""
        wait_s = 0.005
        while True:
            try:
                batch = await self._batch(stream, {"multi_last": patterns, "batch": _MAX_SUBJECTS})
            except _TooMany:
                batch = None
            if batch is None or batch.pending:  # too many subjects, or too many bytes for one answer
                known = patterns if len(patterns) > 1 else await self.subjects(stream, patterns[0])
                size = _MAX_SUBJECTS if len(patterns) == 1 and batch is None else len(known) // 2
                if not size:
                    raise BusRefused(f"{stream}: the server does not answer for {patterns} in one piece")
                for start in range(0, len(known), size):
                    async for part in self._parts(stream, known[start : start + size], at_least_seq):
                        yield part
                return
            if batch.up_to_seq >= at_least_seq:
                yield _Part(batch.messages, batch.up_to_seq)
                return
            # "Not found" comes without a sequence. Is nothing there, or does this replica lag?
            if not batch.up_to_seq and not [s for pattern in patterns for s in await self.subjects(stream, pattern)]:
                yield _Part([], at_least_seq)
                return
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 0.2)

    async def _nothing_after(self, stream: str, seq: int, pattern: str) -> bool:
        return await self._get(stream, {"seq": seq + 1, "next_by_subj": pattern}) is None

    async def _batch(self, stream: str, query: Mapping[str, Any]) -> _BatchReply:
        collected = _BatchReply(expected())
        exchange = Exchange(js_names.direct_get(stream), collected.on_message, collected.fail)
        token = self._replies.begin(exchange)
        try:
            await self._replies.send(token, msgspec.json.encode(query))
            async with asyncio.timeout(self.timeout_s):
                status = await collected.done
        except TimeoutError:
            raise BusUnavailable(f"{stream}: no complete batch within {self.timeout_s:g} s") from None
        finally:
            self._replies.end(token)
        if status == NO_RESPONDERS:
            raise BusUnavailable(f"{stream}: nobody serves it now")
        if status == _TOO_MANY:
            raise _TooMany(stream)
        if status not in {_END_OF_BATCH, _NOT_FOUND}:
            raise BusRefused(f"{stream}: a batched read was answered with status {status}")
        return collected

    async def _get(self, stream: str, query: Mapping[str, Any]) -> Stored | None:
        try:
            reply = await self._api(js_names.message_get(stream), msgspec.json.encode(query), _GetReply, stream)
        except _NoMessage:
            return None
        if reply.message is None:
            return None
        stored = reply.message
        headers = base64.b64decode(stored.hdrs).decode("utf-8", "replace")
        gone = f"{H_KV_OPERATION}:" in headers or f"{H_MARKER_REASON}:" in headers
        return Stored(stored.subject, stored.seq, base64.b64decode(stored.data), gone)

    async def _api(self, subject: str, body: bytes, kind: type[_T], about: str) -> _T:
        reply = _decode(await self._replies.request(subject, body, self.timeout_s), kind)
        error: ApiError | None = getattr(reply, "error", None)
        if error is not None:
            raise error_of(error, about)
        return reply


class _NoMessage(BusError):
    pass


class _TooMany(BusError):
    pass


class _BatchReply:
    """Collects the messages of one batched read until the server says it is complete."""

    def __init__(self, done: asyncio.Future[str]) -> None:
        self.messages: list[Stored] = []
        self.pending = 0
        self.up_to_seq = 0
        self.done = done

    def on_message(self, message: Msg) -> None:
        if self.done.done():
            return
        headers = message.headers or {}
        status = status_of(message)
        if status:
            self.pending = int(headers.get(_H_PENDING, 0))
            self.up_to_seq = int(headers.get(_H_UP_TO, 0))
            self.done.set_result(status)
            return
        previous = self.messages[-1].seq if self.messages else 0
        if int(headers.get(_H_PREVIOUS, 0)) != previous:
            self.fail(BusUnavailable("a message of a batched read was lost on its way"))
            return
        gone = H_KV_OPERATION in headers or H_MARKER_REASON in headers
        self.messages.append(Stored(headers[_H_SUBJECT], int(headers[_H_SEQUENCE]), message.data, gone))

    def fail(self, error: BusError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def error_of(error: ApiError, about: str) -> BusError:
    """Our error for one of the JetStream API."""
    if error.err_code in _WRONG_LAST_SEQUENCE:
        return Conflict(f"{about}: somebody else was first ({error.description})", _sequence_in(error.description))
    if error.err_code in _NOT_THERE:
        return StreamMissing(f"{about} does not exist", "create streams and buckets: python -m runtime.migrate")
    if error.err_code == _NO_MESSAGE_FOUND:
        return _NoMessage(about)
    if error.code in _PASSING:
        return BusUnavailable(f"{about}: {error.description} ({error.err_code})")
    return BusRefused(f"{about}: {error.description} ({error.err_code})")


def _sequence_in(description: str) -> int | None:
    last = description.rsplit(" ", 1)[-1]
    return int(last) if last.isdigit() else None


def _decode(message: Msg, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(message.data, type=kind)
    except msgspec.DecodeError as error:
        raise BusRefused(f"an answer that is no {kind.__name__.strip('_')}: {error}") from error
