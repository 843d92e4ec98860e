"""What schemathesis needs to know to test MsgPack bodies; scripts/test-openapi.sh loads it."""

import re

import msgpack
import schemathesis

# A deadline of less than ten seconds: a number of milliseconds, or of a smaller unit.
SHORT = re.compile(r"\s*\d{1,4}\s*(ms)?\s*|.*\d\s*(us|µs|ns)\s*", re.IGNORECASE)


@schemathesis.serializer("application/msgpack")
def to_msgpack(_ctx, value):
    """Values that MsgPack cannot say are sent as text: a server has to refuse those as well."""
    try:
        return msgpack.packb(value)
    except (TypeError, ValueError, OverflowError):
        return str(value).encode()


@schemathesis.deserializer("application/msgpack")
def from_msgpack(_ctx, response):
    """What a client would read."""
    return msgpack.unpackb(response.content, strict_map_key=False)


@schemathesis.serializer("application/octet-stream")
def to_bytes(_ctx, value):
    """Any bytes will do."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/octet-stream")
def from_bytes(_ctx, response):
    """Bytes stand for themselves; a description calls them a string."""
    return response.content.decode("latin-1")


@schemathesis.hook
def map_query(_ctx, query):
    """A deadline of a millisecond is answered 503 or 504, as described: requests get the time that an answer takes."""
    if query and SHORT.fullmatch(str(query.get("timeout", ""))):
        query["timeout"] = "5s"
    return query
