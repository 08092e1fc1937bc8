"""What JetStream calls things: its API subjects, and how a bucket is spelt as a stream.

`schemas.subjects` says what Corral calls its own streams, buckets and subjects; this file only wraps those names.
CORRAL_EVENTS lives in the account EVT, so everybody in CP reaches its API under a prefix of its own.
"""

from __future__ import annotations

from schemas import subjects

API = "$JS.API"
EVENTS_API = "$JS.EVT.API"  #: as CP sees the API of the account EVT

CONNECTION_INBOXES = "_INBOX.>"
SERVICES = "$SRV.>"


def api_prefix(stream: str) -> str:
    return EVENTS_API if stream == subjects.STREAM_EVENTS else API


def kv_stream(bucket: str) -> str:
    return f"KV_{bucket}"


def kv_subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def kv_all(bucket: str) -> str:
    return kv_subject(bucket, ">")


def stream_info(stream: str) -> str:
    return f"{api_prefix(stream)}.STREAM.INFO.{stream}"


def message_get(stream: str) -> str:
    """Answered by the stream's leader, so it reads what was written before."""
    return f"{api_prefix(stream)}.STREAM.MSG.GET.{stream}"


def message_delete(stream: str) -> str:
    return f"{api_prefix(stream)}.STREAM.MSG.DELETE.{stream}"


def direct_get(stream: str) -> str:
    """Answered by any replica, in batches."""
    return f"{api_prefix(stream)}.DIRECT.GET.{stream}"


def consumer_info(stream: str, consumer: str) -> str:
    return f"{api_prefix(stream)}.CONSUMER.INFO.{stream}.{consumer}"


def next_message(stream: str, consumer: str) -> str:
    return f"{api_prefix(stream)}.CONSUMER.MSG.NEXT.{stream}.{consumer}"


def acks(stream: str, consumer: str) -> str:
    return f"$JS.ACK.{stream}.{consumer}.>"


def max_deliveries_advisories(stream: str) -> str:
    return f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.>"


def terminated_advisories(stream: str) -> str:
    return f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{stream}.>"
