"""What schemathesis needs to know to test MsgPack bodies; scripts/test-openapi.sh loads it."""

import msgpack
import schemathesis


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
