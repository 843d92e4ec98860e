#!/usr/bin/env python3
"""Has Chromium show pages of other sites that send requests to a local store, and checks that nothing changes.

Two servers belong to the pages' author: one that serves the pages, as evil.example, and one that notes the heads of the requests. DNS
rebinding is done without waiting for a resolver: rebound.example is 127.0.0.9, where a server has the port of a node. It serves one
page, and hands everything else to the node byte by byte. For the browser and for the node that is the same as a name that resolves to
the node's address from then on.
"""

import argparse
import http.client
import http.server
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PATIENCE = 240
REBOUND = "127.0.0.9"

# What is sent by each kind of request, at the management port and at the HTTP API.
CHANGES = ["/leave?peerID=node3", "/join?peerID=node9&peerAddress=127.0.0.1:9", "/transfer-leader", "/snapshot", "/kill?peerID=node3"]
BATCH = '{"operations":[{"op":"put","key":"k","value":"of a page"}]}'
WRITES = [
    ("/v1/batch", BATCH),
    ("/store", '{"key":"k","value":"of a page"}'),
    ("/put", '{"key":"k","val":"of a page"}'),
    ("/delete", '{"key":"k"}'),
    ("/v1/storage/key/k", "of a page"),
    ("/raft/remove", '{"node_id":"node3"}'),
]

PAGE = """<!doctype html><title>evil</title><body><script>
const plan = PLAN;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const atMost = (ms, work) => Promise.race([work.catch(() => {}), sleep(ms)]);
const frame = () => {
  const frame = document.createElement("iframe");
  frame.name = "f" + Math.random();
  document.body.append(frame);
  return [frame, new Promise((done) => { frame.onload = done; })];
};
const kinds = {
  image: (url) => new Promise((done) => { const image = new Image(); image.onload = image.onerror = done; image.src = url; }),
  script: (url) => new Promise((done) => {
    const script = document.createElement("script"); script.onload = script.onerror = done; script.src = url; document.body.append(script);
  }),
  frame: (url) => { const [element, loaded] = frame(); element.src = url; return loaded; },
  open: async (url) => { const opened = window.open(url); await sleep(700); if (opened) opened.close(); },
  form: async (url, body, type) => {
    const [element, loaded] = frame();
    await atMost(300, loaded);
    const form = document.createElement("form");
    [form.action, form.method, form.enctype, form.target] = [url, "POST", type, element.name];
    const cut = body.indexOf("=") < 0 ? body.length : body.indexOf("=");
    const input = document.createElement("input");
    [input.name, input.value] = [body.slice(0, cut), body.slice(cut + 1)];
    form.append(input);
    document.body.append(form);
    form.submit();
    await sleep(300);
  },
  fetch: (url, body, type) => fetch(url, {method: "POST", mode: "no-cors", body, headers: type ? {"content-type": type} : {}}),
  bytes: (url, body) => fetch(url, {method: "POST", mode: "no-cors", body: new TextEncoder().encode(body)}),
  get: (url) => fetch(url, {mode: "no-cors"}),
  beacon: async (url, body) => { navigator.sendBeacon(url, body); await sleep(200); },
  cors: (url, body, type) => fetch(url, {method: "POST", body, headers: {"content-type": type}}),
  put: (url, body) => fetch(url, {method: "PUT", body}),
  delete: (url) => fetch(url, {method: "DELETE"}),
};
(async () => {
  for (const {kind, url, body, type} of plan) await atMost(3000, kinds[kind](url, body, type));
  await fetch("/done", {method: "POST", body: "done"});
})();
</script>"""

# Sent by the page of the rebound name, to its own origin.
REBOUND_PAGE = """<!doctype html><title>rebound</title><script>
(async () => {
  const json = {"content-type": "application/json"};
  for (const [path, body] of WRITES) await fetch(path, {method: "POST", body, headers: json}).catch(() => {});
  for (const path of CHANGES) for (const method of ["GET", "POST"]) await fetch(path, {method}).catch(() => {});
  await fetch("/v1/kv/k", {method: "PUT", body: "of a page"}).catch(() => {});
  await fetch("/v1/kv/k", {method: "DELETE"}).catch(() => {});
  await fetch("/v1/kv/k").catch(() => {});
  await fetch("/status").catch(() => {});
  await fetch("/rebound-done", {method: "POST"});
})();
</script>"""

# The kinds of which the heads are recorded: what they are, how they are made, and the type of the body.
RECORDED = [
    ("an image of a page at evil.example", "image", None),
    ("a script of a page at evil.example", "script", None),
    ("a frame in a page at evil.example", "frame", None),
    ("a window that a page at evil.example opens", "open", None),
    ("a form of a page at evil.example", "form", "application/x-www-form-urlencoded"),
    ("a form of type text/plain of a page at evil.example", "form", "text/plain"),
    ("a form with parts of a page at evil.example", "form", "multipart/form-data"),
    ("fetch without CORS of text, by a page at evil.example", "fetch", None),
    ("fetch without CORS of a form, by a page at evil.example", "fetch", "application/x-www-form-urlencoded"),
    ("fetch without CORS of bytes, which have no type, by a page at evil.example", "bytes", None),
    ("fetch without CORS, GET, by a page at evil.example", "get", None),
    ("a beacon of a page at evil.example", "beacon", None),
    ("the question before a fetch with CORS of a page at evil.example", "cors", "application/json"),
]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers nothing that the browser keeps, and says nothing on the terminal."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def answer(self, status, body=b"", kind="text/html"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def any(self):
        raise NotImplementedError

    def do_GET(self):
        self.any()

    do_POST = do_PUT = do_DELETE = do_OPTIONS = do_HEAD = do_GET


class Server(http.server.ThreadingHTTPServer):
    """A browser closes connections when it likes."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def serve(handler, address, port=0):
    server = Server((address, port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def evil(pages, done):
    """Serves the pages, and learns when the last one is through."""

    class Evil(Handler):
        def any(self):
            self.body()
            if self.path == "/done":
                done.set()
            self.answer(200, pages.get(self.path, "").encode())

    return serve(Evil, "127.0.0.1")


def recorder(heads):
    """Notes the heads that a browser sends: the first of each path."""

    class Recorder(Handler):
        def any(self):
            self.body()
            heads.setdefault(self.path, (self.command, list(self.headers.items())))
            self.answer(204)

    return serve(Recorder, "127.0.0.1")


def rebound(victim, page, heads, statuses, done):
    """The port of the node at the rebound name: one page, and then the node itself."""
    port = int(victim.rsplit(":", 1)[1])

    class Switch(Handler):
        def any(self):
            body = self.body()
            if self.path == "/page":
                return self.answer(200, page.encode())
            if self.path == "/rebound-done":
                done.set()
                return self.answer(204)
            if self.path == "/favicon.ico":
                return self.answer(404)
            heads.setdefault((self.command, self.path.split("?")[0]), (self.command, list(self.headers.items())))
            passed = http.client.HTTPConnection(victim, timeout=20)
            passed.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                passed.putheader(name, value)
            passed.endheaders(body)
            answer = passed.getresponse()
            content = answer.read()
            statuses.append((self.command, self.path, answer.status))
            self.answer(answer.status, content, answer.headers.get("content-type", "text/plain"))

    serve(Switch, REBOUND, port)
    return port


def ask(address, path, method="GET", body=None):
    """As a program, not as a browser."""
    request = urllib.request.Request(f"http://{address}{path}", data=body, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def refusals(address):
    """How many requests of pages a port has refused so far."""
    found = re.findall(r"^raftkv_http_cross_site_total(?:\{.*\})? (\d+)", ask(address, "/metrics"), re.M)
    return sum(int(count) for count in found)


def state(nodes):
    """What must not change."""
    status = json.loads(ask(nodes[0]["management"], "/status"))
    members = sorted((member["name"], member["voter"]) for member in status["members"])
    return {"members": members, "term": status["node"]["term"], "leader": status["node"]["leader"], "k": ask(nodes[0]["http"], "/v1/kv/k")}


def plan(node, record_at):
    """All requests: one of each kind to who records, and then all to the node, by its address and by the author's name for it."""
    requests = [
        {"kind": kind, "url": f"http://127.0.0.1:{record_at}/{number}", "body": BATCH, "type": kind_of_body}
        for number, (_, kind, kind_of_body) in enumerate(RECORDED)
    ]
    for key in ("http", "management"):
        port = node[key].rsplit(":", 1)[1]
        for host in ("127.0.0.1", "evil.example"):
            at = f"http://{host}:{port}"
            for path in CHANGES + ["/v1/kv/k"]:
                requests += [{"kind": kind, "url": at + path} for kind in ("image", "frame", "get")]
                requests.append({"kind": "form", "url": at + path, "body": "a=b", "type": "application/x-www-form-urlencoded"})
                requests.append({"kind": "fetch", "url": at + path, "body": ""})
            for path, body in WRITES:
                for kind, kind_of_body in (
                    ("form", "text/plain"),
                    ("fetch", None),
                    ("bytes", None),
                    ("beacon", None),
                    ("cors", "application/json"),
                ):
                    requests.append({"kind": kind, "url": at + path, "body": body, "type": kind_of_body})
            requests += [{"kind": kind, "url": at + "/v1/kv/k", "body": "of a page"} for kind in ("put", "delete")]
    return requests


def record(path, version, heads, evil_port, record_at, rebound_heads, rebound_port):
    """Writes the heads in the form of http-clients.http."""
    lines = [
        f"# Heads of requests as {version} sent them, written by scripts/test-browser.sh --record. The form is that of http-clients.http; the",
        "# port of evil.example is left out.",
    ]

    def add(name, head, own, own_port):
        command, headers = head
        lines.extend(["", f"### stranger: {version}, {name}", command])
        for key, value in headers:
            if key.lower() == "content-length":
                continue
            value = value.replace(f"evil.example:{evil_port}", "evil.example").replace(own, "{address}")
            value = re.sub(r"(WebKitFormBoundary)\w+", r"\g<1>0123456789abcdef", value)
            lines.append(f"{key}: {value.replace(f':{own_port}', ':{port}')}")

    for number, (name, _, _) in enumerate(RECORDED):
        add(name, heads[f"/{number}"], f"127.0.0.1:{record_at}", record_at)
    for (command, path_of), name in (
        (("GET", "/v1/kv/k"), "fetches from its own origin"),
        (("POST", "/v1/batch"), "posts JSON to its own origin"),
        (("PUT", "/v1/kv/k"), "puts to its own origin"),
        (("DELETE", "/v1/kv/k"), "deletes at its own origin"),
    ):
        name = f"DNS rebinding: a page of rebound.example {name}"
        add(name, rebound_heads[(command, path_of)], f"127.0.0.1:{rebound_port}", rebound_port)
    pathlib.Path(path).write_text("\n".join(lines) + "\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--store", required=True)
    arguments.add_argument("--chromium", required=True)
    arguments.add_argument("--record")
    arguments = arguments.parse_args()
    nodes = json.loads(pathlib.Path(arguments.store).read_text())["nodes"]
    node = nodes[0]
    ask(node["http"], "/v1/kv/k", "PUT", b"kept")
    before = state(nodes)
    refused_before = {key: refusals(node[key]) for key in ("http", "management")}

    heads, rebound_heads, statuses, pages = {}, {}, [], {}
    done, rebounds = threading.Event(), [threading.Event(), threading.Event()]
    evil_port, record_at = evil(pages, done), recorder(heads)
    rebound_page = REBOUND_PAGE.replace("WRITES", json.dumps(WRITES)).replace("CHANGES", json.dumps(CHANGES))
    ports = [
        rebound(node[key], rebound_page, rebound_heads, statuses, event)
        for key, event in zip(("http", "management"), rebounds)
    ]
    requests = plan(node, record_at)
    requests += [{"kind": "frame", "url": f"http://rebound.example:{port}/page"} for port in ports]
    pages["/"] = PAGE.replace("PLAN", json.dumps(requests))

    version = subprocess.run([arguments.chromium, "--version", "--no-sandbox"], capture_output=True, text=True, check=True).stdout
    version = "Chromium " + re.search(r"(\d+)\.", version).group(1)
    with tempfile.TemporaryDirectory() as profile:
        browser = subprocess.Popen(
            [
                arguments.chromium,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-popup-blocking",
                "--disable-background-networking",
                # The store is to be safe with a browser that has no guard of its own.
                "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
                f"--host-resolver-rules=MAP evil.example 127.0.0.1, MAP rebound.example {REBOUND}",
                f"--user-data-dir={profile}",
                f"http://evil.example:{evil_port}/",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            for event in (done, *rebounds):
                if not event.wait(max(0, deadline - time.monotonic())):
                    sys.exit(f"error: the browser was not through with its pages after {PATIENCE} s; recorded so far: {sorted(heads)}")
        finally:
            browser.terminate()
            browser.wait(20)

    after = state(nodes)
    if after != before:
        sys.exit(f"error: a page has changed something:\n  before {before}\n  after  {after}")
    # 404 and 405: each of the two ports has its own paths only.
    odd = [answer for answer in statuses if answer[2] not in (403, 404, 405)]
    if odd or not any(answer[2] == 403 for answer in statuses):
        sys.exit(f"error: a rebound page was answered: {odd}")
    missing = [name for number, (name, _, _) in enumerate(RECORDED) if f"/{number}" not in heads]
    if missing:
        sys.exit(f"error: the browser did not send: {missing}")
    for key in ("http", "management"):
        refused = refusals(node[key]) - refused_before[key]
        port = node[key].rsplit(":", 1)[1]
        sent = sum(f":{port}/" in request["url"] and "rebound" not in request["url"] for request in requests)
        print(f"    {refused} requests of pages were refused at the {key} port")
        if refused < sent:
            sys.exit(f"error: {sent} were sent, by its address and by a name: some were served, or did not come")
    print(f"    {len(requests)} requests by {version}, {len(statuses)} of a rebound name: nothing has changed")
    if arguments.record:
        record(arguments.record, version, heads, evil_port, record_at, rebound_heads, ports[0])
        print(f"    wrote {arguments.record}")


if __name__ == "__main__":
    main()
