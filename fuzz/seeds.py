#!/usr/bin/env python3
"""Writes the seeds of the kept corpus anew: run it after a change of a format. Needs nothing but Python.

They come from the golden files of the encoding, the fixture of the log, and values and records written by hand.
"""

import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent / "crates/kv/tests/golden/v1"
LOG = HERE.parent / "sidecar/tests/fixtures/wal-v1"

# Every kind of value, messages of every surface, and what is near to being one.
MSGPACK = {
    "nil": b"\xc0",
    "integers": b"\x96\x00\xff\xcc\x80\xcd\x01\x00\xd3" + b"\xff" * 8 + b"\xcf" + b"\xff" * 8,
    "floats": b"\x92\xca\x3f\xc0\x00\x00\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00",
    "text": b"\xd9\x05hello",
    "bytes": b"\xc4\x03\x00\xff\x80",
    "nested": b"\x82\xa1a\x91\x91\x80\xa1b\xc3",
    "extension": b"\xd4\x01\x00",
    "without-end": b"\xdd\xff\xff\xff\xff\x01",
    "insert": b"\x83\xa2op\xa3SET\xa3key\xa1k\xa5value\x01",
    "batch": b"\x81\xaaoperations\x92\x84\xa2op\xa3put\xa3key\xa1a\xa5value\xc4\x01x\xa2if\x81\xa6absent\xc3"
    b"\x82\xa2op\xa6delete\xaakey_base64\xa4YQ==",
}
JSON = {
    "null": b"null",
    "numbers": b"[0,-1,18446744073709551615,-9223372036854775808,1.5,-0,1e300,2.5e-3]",
    "text": b'"a\\u00e9\\ud83d\\ude00\\n\\""',
    "nested": b'{"a":[[{}]],"b":true,"c":false}',
    "twice": b'{"a":1,"a":2}',
    "without-end": b"[[[[",
    "key": b'{"key":"k"}',
    "put": b'{"key":"k","val":[1]}',
    "join": b'{"node_id":"n4","raft_address":"127.0.0.1:8088"}',
    "batch": b'{"operations":[{"op":"put","key":"a","value":1,"if":{"revision":3}},'
    b'{"op":"delete","key_base64":"YQ=="}]}',
}

QUERY = {
    "path": b"a%2Fb%20c+d",
    "bounds": b"k?prefix=a%20&start=a&end=b%ff&limit=2",
    "one-by-one": b"?limit=1&keys_only",
    "cursor": b"?cursor=AQAAAAAAAAAA&prefix=%ff",
    "options": b"?consistency=stale&timeout=2s&keys_only=false",
    "key": b"?key=A",
    "twice": b"?limit=1&limit=2",
}


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def record(key: bytes, body: bytes) -> bytes:
    sealed = struct.pack("<I", crc32c(key + body)) + body
    return struct.pack("<II", len(key), len(sealed)) + key + sealed


def snapshot() -> dict[str, bytes]:
    numbers = lambda *values: struct.pack(f"<{len(values)}Q", *values)
    outcome = b"\x01\x81\xa7Applied\x91\x81\xa3Set\x92\x09\xc3"
    raw = b"".join(
        record(key, body)
        for key, body in [
            (b"\x00", b"\x01" + numbers(1, 2, 3, 1, 1, 1, 0, 0) + struct.pack("<I", 3) + b"logmembers"),
            (b"\x10" + struct.pack(">Q", 3), numbers(4, 5)),
            (b"\x14", (GOLDEN / "ownership.bin").read_bytes()),
            (b"\x16cluster", numbers(3) + b"{}"),
            (b"\x20\x00\x07once", numbers(1, 2) + outcome),
            (b"\x40{a}key", numbers(3, 2, 0) + b"\xa5value"),
        ]
    )
    # A block of literals only.
    rest = len(raw) - 15
    block = b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + raw
    lengths = struct.pack("<II", len(raw), len(block))
    frame = lengths + struct.pack("<I", crc32c(lengths + block)) + block
    # The first byte says what the rest is: see fuzz_targets/snapshot.rs.
    return {"frame": b"\x00" + frame, "block": b"\x01" + lengths[:4] + block, "records": b"\x02" + raw}


def log() -> dict[str, bytes]:
    segments = [path.read_bytes() for path in sorted(LOG.glob("*.wal"))]
    whole = b"".join(struct.pack("<H", len(segment)) + segment for segment in segments)
    return {"as-it-is": b"\x00" + whole, "mended": b"\x01" + whole}


def command() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in GOLDEN.glob("*.bin")}


for target, seeds in {"command": command(), "json": JSON, "log": log(), "msgpack": MSGPACK, "query": QUERY, "snapshot": snapshot()}.items():
    directory = HERE / "corpus" / target
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (directory / name).write_bytes(data)
