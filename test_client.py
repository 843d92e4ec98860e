#!/usr/bin/env python3
"""The story of a stranger with a RaftKV cluster: writes here, reads there, over the RaftKV surface and the native one.

    pip install requests msgpack
    python3 test_client.py [--timeout SECONDS] [URL ...]
                                                default: RAFTKV_ENDPOINTS, else those that answer of http://127.0.0.1:8000 and
                                                8001, the routers, and 8080, 8081 and 8082, nodes

Prints a line for each answer it checks, and ends with code 1 at the first wrong one. Uses keys under `test-client/`
and leaves nothing behind when all goes well. A request that is refused for now (503, 429), that nobody takes, or whose outcome
is unknown (504, a connection that breaks) is sent again for so many seconds (10): each write has an Idempotency-Key, so none is
done twice.
"""

import argparse
import os
import random
import sys
import time
import uuid
from urllib.parse import quote

try:
    import msgpack
    import requests
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}. This needs two packages: pip install requests msgpack")

# Where `make up` has routers, and nodes of the first group. A plain group has no routers.
DEFAULT_ENDPOINTS = [f"http://127.0.0.1:{port}" for port in (8000, 8001, 8080, 8081, 8082)]
# For a cluster that was just started.
START = 30
# Longer than the server's own deadline, which is 5 s where none is named.
ATTEMPT = 8
# Such an answer may be another one soon. With 504 the request may have been applied.
PASSING = (429, 503, 504)
MSGPACK = "application/msgpack"

http = requests.Session()
patience = 10.0
checked = 0


def ok(what):
    global checked
    checked += 1
    print(f"ok {checked:3}  {what}")


def wrong(what, response, wanted):
    print(f"\nWRONG: {what}\n  wanted   {wanted}", file=sys.stderr)
    if response is not None:
        request = response.request
        print(f"  request  {request.method} {request.url}", file=sys.stderr)
        print(f"  answer   {response.status_code} {response.content[:500]!r}", file=sys.stderr)
        print(f"  headers  {dict(response.headers)}", file=sys.stderr)
    sys.exit(1)


def call(method, url, headers=None, **options):
    """Sends a request, and again while another attempt may give a better answer. Reads change nothing, and each write has an
    Idempotency-Key: the second attempt at one that was applied gets the answer of the first."""
    headers = dict(headers or {})
    if method not in ("GET", "HEAD"):
        headers.setdefault("idempotency-key", f"test-client-{uuid.uuid4().hex}")
    deadline, pause = time.monotonic() + patience, 0.05
    while True:
        response, wait = None, pause * random.uniform(0.5, 1)
        try:
            response = http.request(method, url, headers=headers, timeout=ATTEMPT, **options)
            if response.status_code not in PASSING:
                return response
            asked = response.headers.get("retry-after", "")
            wait = max(wait, float(asked) if asked.isdigit() else 0)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            why = error
        except requests.RequestException as error:
            wrong(f"no answer to {method} {url}: {error}", None, "an answer")
        if time.monotonic() + wait > deadline:
            if response is None:
                wrong(f"no answer to {method} {url}: {why}", None, f"an answer within {patience:g} s")
            return response
        time.sleep(wait)
        pause = min(pause * 2, 1)


def expect(what, response, status, body=None):
    """Checks the status and, if given, the body: bytes, a text, or something that its JSON must be."""
    if response.status_code != status:
        wrong(what, response, f"status {status}")
    if isinstance(body, bytes) and response.content != body:
        wrong(what, response, repr(body))
    if isinstance(body, str) and response.text != body:
        wrong(what, response, repr(body))
    if isinstance(body, (dict, list)) and response.json() != body:
        wrong(what, response, repr(body))
    ok(what)
    return response


def problem(what, response, status, code, retryable=False):
    """Checks an error of the native surface: RFC 9457, with a code for programs."""
    if response.headers.get("content-type") != "application/problem+json":
        wrong(what, response, "application/problem+json")
    document = response.json()
    told = (response.status_code, document["status"], document["code"], document["retryable"], document["outcome"])
    wanted = (status, status, code, retryable, "not_applied")
    if told != wanted:
        wrong(what, response, wanted)
    ok(f"{what}: {status} {code}")
    return document


def that(what, holds, response=None, wanted="to hold"):
    if not holds:
        wrong(what, response, wanted)
    ok(what)


def chapter(title):
    print(f"\n{title}")


def those_that_answer(endpoints):
    """Waits until any of them is ready to serve; which then are. RaftKV's HTTP API names the node in every answer, a router's too:
    another program at one of these ports is none."""
    deadline = time.monotonic() + START
    while True:
        found = []
        for endpoint in endpoints:
            try:
                answer = http.get(f"{endpoint}/readyz", timeout=5)
                if answer.status_code == 200 and "raftkv-node" in answer.headers:
                    found.append(endpoint)
            except requests.RequestException:
                pass
        if found:
            return found
        if time.monotonic() > deadline:
            print(f"WRONG: none of {' '.join(endpoints)} serves; is there a cluster? make up", file=sys.stderr)
            sys.exit(1)
        time.sleep(0.2)


def wait_until_up(nodes):
    """A cluster that was just started may still elect its leader."""
    deadline = time.monotonic() + START
    for node in nodes:
        while True:
            try:
                answer = http.get(f"{node}/v1/kv/test-client%2Fnobody", timeout=5)
                if answer.status_code in (200, 404):
                    break
                why = f"{answer.status_code} {answer.text[:200]}"
            except requests.RequestException as error:
                why = error
            if time.monotonic() > deadline:
                print(f"WRONG: {node} does not serve: {why}", file=sys.stderr)
                sys.exit(1)
            time.sleep(0.2)


# -- The RaftKV surface: MsgPack to /insert-val, and /get-val ----------------------------------------------------------


def insert(node, **message):
    body = msgpack.packb(message)
    return call("POST", f"{node}/insert-val", data=body, headers={"content-type": MSGPACK})


def get_val(node, key):
    return call("GET", f"{node}/get-val", params={"key": key})


def raftkv_surface(nodes, run):
    chapter("RaftKV surface: /insert-val and /get-val, on every node")
    for at, node in enumerate(nodes):
        key, value = f"{run}/raftkv-{at}", f"written at node {at}"
        expect(f"SET at {node}", insert(node, op="SET", key=key, value=value), 200, "ok")
        for reader in nodes:
            expect(f"  read at {reader}", get_val(reader, key), 200, value)
    for at, node in enumerate(nodes):
        key = f"{run}/raftkv-{at}"
        expect(f"overwrite at {node}", insert(node, op="SET", key=key, value="newer"), 200, "ok")
        other = nodes[(at + 1) % len(nodes)]
        expect(f"  {other} has the newer value", get_val(other, key), 200, "newer")
        expect(f"DELETE at {other}", insert(other, op="DELETE", key=key), 200, "ok")
        expect(f"  gone at {node}", get_val(node, key), 404, "Key Not Found")
    first = nodes[0]
    for what, message in [
        ("an unknown op", {"op": "FROB", "key": f"{run}/x", "value": "x"}),
        ("no key", {"op": "SET", "value": "x"}),
        ("no value", {"op": "SET", "key": f"{run}/x"}),
        ("an empty key", {"op": "SET", "key": "", "value": "x"}),
    ]:
        answer = insert(first, **message)
        that(f"{what} is refused: 400", answer.status_code == 400 and answer.text.startswith("error"), answer, "400 error…")
    garbage = call("POST", f"{first}/insert-val", data=b"\xc1\xff", headers={"content-type": MSGPACK})
    that("what is no MsgPack is refused: 400", garbage.status_code == 400, garbage, 400)


# -- The native surface: /v1 -------------------------------------------------------------------------------------------


def kv(node, key):
    return f"{node}/v1/kv/{quote(key, safe='')}"


def etag_of(response):
    etag = response.headers.get("etag", "")
    if not (etag.startswith('"') and etag.endswith('"') and etag[1:-1].isdigit()):
        wrong("an ETag is a revision in quotes", response, '"17"')
    return etag


def life_of_a_key(nodes, run):
    chapter("Native surface: the life of a key, each step at another node")
    turn = [nodes[i % len(nodes)] for i in range(8)]
    key = f"{run}/greeting"
    text = {"content-type": "text/plain"}
    problem("before", call("GET", kv(turn[0], key)), 404, "key_not_found")
    put = expect("PUT creates it", call("PUT", kv(turn[0], key), data="hello", headers=text), 200)
    that("  and says so", put.json()["created"] is True, put, "created: true")
    that("  with its revision as the ETag", etag_of(put) == f'"{put.json()["revision"]}"', put)
    got = expect("GET", call("GET", kv(turn[1], key)), 200, "hello")
    that("  is text", got.headers["content-type"].startswith("text/plain"), got, "text/plain")
    that("  has the same ETag", etag_of(got) == etag_of(put), got, etag_of(put))
    head = expect("HEAD", call("HEAD", kv(turn[2], key)), 200, b"")
    that("  has the same ETag", etag_of(head) == etag_of(put), head, etag_of(put))
    expect("GET If-None-Match: not modified", call("GET", kv(turn[3], key), headers={"if-none-match": etag_of(put)}), 304)
    again = expect("PUT overwrites it", call("PUT", kv(turn[4], key), data="hello again", headers=text), 200)
    that("  the revision rises", again.json()["revision"] > put.json()["revision"], again)
    that("  and it was there before", again.json()["created"] is False, again)
    gone = expect("DELETE", call("DELETE", kv(turn[5], key)), 200)
    that("  it existed", gone.json()["existed"] is True, gone)
    problem("DELETE once more", call("DELETE", kv(turn[6], key)), 404, "key_not_found")
    problem("GET", call("GET", kv(turn[7], key)), 404, "key_not_found")


def freshness(nodes, run):
    chapter("What was acknowledged at one node is what every other one reads")
    key = f"{run}/counter"
    for count in range(30):
        writer, reader = nodes[count % len(nodes)], nodes[(count + 1) % len(nodes)]
        put = call("PUT", kv(writer, key), json=count)
        got = call("GET", kv(reader, key))
        if put.status_code != 200 or got.status_code != 200 or got.json() != count:
            wrong(f"write {count} at {writer}, read at {reader}", got, count)
    ok("30 times written at one node and read at the next")
    for level in ("linearizable", "quorum", "stale"):
        got = call("GET", kv(nodes[-1], key), params={"consistency": level})
        that(f"consistency={level} is served", got.status_code == 200, got, 200)
    expect("tidy up", call("DELETE", kv(nodes[0], key)), 200)


def conditions(nodes, run):
    chapter("Conditions: If-Match and If-None-Match")
    key = f"{run}/lock"
    first, second = nodes[0], nodes[-1]
    absent = {"if-none-match": "*"}
    created = expect("create if absent", call("PUT", kv(first, key), data="mine", headers=absent), 200)
    taken = problem("the second is refused", call("PUT", kv(second, key), data="theirs", headers=absent), 412, "precondition_failed")
    that("  and is told the revision", taken["current_revision"] == created.json()["revision"])
    match = {"if-match": etag_of(created)}
    changed = expect("change it at that revision", call("PUT", kv(second, key), data="changed", headers=match), 200)
    problem("the old revision is refused", call("PUT", kv(first, key), data="late", headers=match), 412, "precondition_failed")
    problem("for a delete, too", call("DELETE", kv(first, key), headers=match), 412, "precondition_failed")
    expect("nothing changed by that", call("GET", kv(first, key)), 200, "changed")
    expect("delete at the right one", call("DELETE", kv(first, key), headers={"if-match": etag_of(changed)}), 200)
    problem("If-Match: * wants it to exist", call("PUT", kv(first, key), data="x", headers={"if-match": "*"}), 412, "precondition_failed")


def types(nodes, run):
    chapter("Values come back as what they were")
    writer, reader = nodes[0], nodes[-1]
    key = f"{run}/typed"
    for value in [
        None, True, False, 0, -1, 2**63, 2**64 - 1, -(2**63), 1.5, -0.0, 1e300, "", "text", "Grüße, 世界 🦀", b"", b"\x00\xff",
        [], [1, [2, [3]]], {}, {"name": "x", "tags": ["a", "b"], "raw": b"\x01"}, {"nested": {"deep": {"er": None}}},
    ]:
        body = msgpack.packb(value)
        put = call("PUT", kv(writer, key), data=body, headers={"content-type": MSGPACK})
        got = call("GET", kv(reader, key), headers={"accept": MSGPACK})
        same = put.status_code == 200 and got.status_code == 200 and got.content == body
        that(f"MsgPack {value!r}", same, got, body)
    for value in [None, True, 17, 9007199254740993, 1.25, [1, "two", None], {"a": {"b": [1.5]}}]:
        put = call("PUT", kv(writer, key), json=value) if value is not None else call(
            "PUT", kv(writer, key), data="null", headers={"content-type": "application/json"})
        got = call("GET", kv(reader, key))
        same = put.status_code == 200 and got.headers["content-type"] == "application/json" and got.json() == value
        that(f"JSON {value!r}", same, got, value)
    blob = bytes(range(256)) * 100
    expect("put bytes", call("PUT", kv(writer, key), data=blob, headers={"content-type": "application/octet-stream"}), 200)
    got = expect("  and get the same", call("GET", kv(reader, key)), 200, blob)
    that("  as application/octet-stream", got.headers["content-type"] == "application/octet-stream", got)
    expect("tidy up", call("DELETE", kv(writer, key)), 200)
    for name in ("with space", "slash/es", "per%cent", "quest?ion", "hash#", "Grüße", "a" * 4000):
        expect(f"the key {name[:20]!r}", call("PUT", kv(writer, f"{run}/{name}"), data="x"), 200)
        expect("  is read", call("GET", kv(reader, f"{run}/{name}")), 200, "x")
        expect("  and deleted", call("DELETE", kv(writer, f"{run}/{name}")), 200)


def batches_and_lists(nodes, run):
    chapter("Batches, and lists page by page")
    first, other = nodes[0], nodes[-1]
    prefix = f"{run}/list/"
    puts = [{"op": "put", "key": f"{prefix}{n:03}", "value": {"n": n}} for n in range(25)]
    done = expect("a batch of 25 puts", call("POST", f"{first}/v1/batch", json={"operations": puts}), 200)
    results = done.json()["results"]
    that("  each created its key", [r["status"] for r in results] == [200] * 25 and all(r["created"] for r in results), done)
    # Keys of different groups of a sharded store may have the same one.
    that("  each has a revision", all(isinstance(r["revision"], int) and r["revision"] > 0 for r in results), done)

    seen, cursor, pages = [], None, 0
    while True:
        query = {"prefix": prefix, "limit": 10, **({"cursor": cursor} if cursor else {})}
        page = call("GET", f"{nodes[pages % len(nodes)]}/v1/kv", params=query)
        if page.status_code != 200:
            wrong("a page", page, 200)
        pages += 1
        document = page.json()
        seen += [(entry["key"], entry["value"]) for entry in document["entries"]]
        cursor = document["next_cursor"]
        if cursor is None:
            break
    that("three pages of 10, in order, nothing missing and nothing twice",
         pages == 3 and seen == [(op["key"], op["value"]) for op in puts], page, "25 entries")
    keys = expect("keys only", call("GET", f"{other}/v1/kv", params={"prefix": prefix, "keys_only": "true", "limit": 2}), 200)
    that("  without values", [sorted(e) for e in keys.json()["entries"]] == [["create_revision", "key", "revision"]] * 2, keys)
    span = call("GET", f"{other}/v1/kv", params={"start": f"{prefix}003", "end": f"{prefix}006", "keys_only": "true"})
    that("start is in the range, end is not", [e["key"] for e in span.json()["entries"]] == [f"{prefix}00{n}" for n in (3, 4, 5)], span)

    mixed = call("POST", f"{other}/v1/batch", json={"operations": [
        {"op": "put", "key": f"{prefix}000", "value": 1, "if": {"absent": True}},
        {"op": "put", "key": f"{prefix}000", "value": 2, "if": {"present": True}},
        {"op": "put", "key": f"{prefix}001", "value": 3, "if": {"revision": results[1]["revision"]}},
        {"op": "delete", "key": f"{prefix}none"},
        {"op": "delete", "key": f"{prefix}002"},
    ]})
    that("each operation of a batch has its own answer", [r["status"] for r in mixed.json()["results"]] == [412, 200, 200, 404, 200], mixed)
    packed = msgpack.packb({"operations": [{"op": "put", "key": f"{prefix}packed", "value": b"\x00"}]})
    answer = expect("a batch in MsgPack", call("POST", f"{first}/v1/batch", data=packed, headers={"content-type": MSGPACK}), 200)
    that("  is answered in MsgPack", msgpack.unpackb(answer.content)["results"][0]["status"] == 200, answer)
    problem("a batch with an unknown op changes nothing", call("POST", f"{first}/v1/batch", json={"operations": [
        {"op": "put", "key": f"{prefix}half", "value": 1}, {"op": "frob", "key": "x"}]}), 400, "unknown_op")
    problem("  truly nothing", call("GET", kv(first, f"{prefix}half")), 404, "key_not_found")


def exactly_once(nodes, run):
    chapter("Idempotency-Key: a repeated request is applied once")
    key, header = f"{run}/order", {"idempotency-key": f"{run}/order-1"}
    first = expect("a put with a key", call("PUT", kv(nodes[0], key), data="one", headers=header), 200)
    for node in nodes:
        repeat = expect(f"  repeated at {node}", call("PUT", kv(node, key), data="one", headers=header), 200)
        same = repeat.json() == first.json() and repeat.headers.get("idempotency-replayed") == "true"
        that("    has the first answer, and says that it is a repeat", same, repeat, first.text)
    expect("a later write", call("PUT", kv(nodes[-1], key), data="two"), 200)
    call("PUT", kv(nodes[0], key), data="one", headers=header)
    expect("  survives another repeat", call("GET", kv(nodes[0], key)), 200, "two")
    problem("another request under that key is refused", call("PUT", kv(nodes[0], key), data="other", headers=header),
            422, "idempotency_key_reused")
    expect("tidy up", call("DELETE", kv(nodes[0], key)), 200)


def bad_requests(nodes, run):
    chapter("Bad requests are told what is wrong")
    node = nodes[-1]
    key = kv(node, f"{run}/bad")
    problem("malformed JSON", call("PUT", key, data="{", headers={"content-type": "application/json"}), 400, "malformed_json")
    problem("malformed MsgPack", call("PUT", key, data=b"\xc1", headers={"content-type": MSGPACK}), 400, "malformed_msgpack")
    problem("bytes after the value", call("PUT", key, data=b"\x01\x02", headers={"content-type": MSGPACK}), 400, "trailing_bytes")
    problem("text that is not UTF-8", call("PUT", key, data=b"\xff", headers={"content-type": "text/plain"}), 400, "invalid_utf8")
    large = problem("a value over the limit", call("PUT", key, data=b"x" * (1 << 20)), 413, "value_too_large")
    that("  says the limit", large["limit"] == 1 << 20)
    problem("a key over the limit", call("PUT", kv(node, "k" * 5000), data="x"), 413, "key_too_large")
    problem("a condition that is none", call("PUT", key, data="x", headers={"if-match": "banana"}), 400, "invalid_precondition")
    problem("an unknown consistency", call("GET", key, params={"consistency": "maybe"}), 400, "invalid_parameter")
    problem("an unknown path", call("GET", f"{node}/v1/nothing"), 404, "unknown_path")
    problem("a method that is not there", call("POST", key, data="x"), 405, "method_not_allowed")
    problem("nothing of that was stored", call("GET", key), 404, "key_not_found")
    document = expect("the interface describes itself", call("GET", f"{node}/openapi.json"), 200)
    that("  in OpenAPI 3", document.json()["openapi"].startswith("3."), document)


def tidy_up(nodes, prefix):
    while True:
        page = call("GET", f"{nodes[0]}/v1/kv", params={"prefix": prefix, "keys_only": "true"}).json()
        deletes = [{"op": "delete", "key": entry["key"]} for entry in page["entries"]]
        if not deletes:
            return
        call("POST", f"{nodes[0]}/v1/batch", json={"operations": deletes})


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=patience, metavar="SECONDS", help="try a request for so long (10)")
    parser.add_argument("urls", nargs="*", metavar="URL", help="a node or a router")
    return parser.parse_args()


def main():
    global patience
    given = arguments()
    patience, given = given.timeout, given.urls
    given = given or [url for url in os.environ.get("RAFTKV_ENDPOINTS", "").split(",") if url]
    given = given or those_that_answer(DEFAULT_ENDPOINTS)
    nodes = [(node if "://" in node else f"http://{node}").rstrip("/") for node in given]
    run = f"test-client/{uuid.uuid4().hex[:8]}"
    print(f"nodes: {' '.join(nodes)}")
    start = time.monotonic()
    wait_until_up(nodes)
    for story in (raftkv_surface, life_of_a_key, freshness, conditions, types, batches_and_lists, exactly_once, bad_requests):
        story(nodes, run)
    tidy_up(nodes, f"{run}/")
    print(f"\nAll {checked} answers were right ({time.monotonic() - start:.1f} s).")


if __name__ == "__main__":
    main()
