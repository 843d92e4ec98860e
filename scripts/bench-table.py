#!/usr/bin/env python3
"""The table of docs/reference/performance.md: a local cluster of three nodes beside an etcd of three, the same load on each in turn.

Uses the standard library only. Prints, per workload, both systems' medians, the ratio, the goal, and whether it was reached.
Exit code 0 whenever it could measure: a goal missed is a result, not a failure; 1 if something could not be measured or
an answer was wrong.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

# Name, arguments of `raftkv bench`, which endpoints, what is compared, and the goal: "t" = our throughput over theirs, at
# least; "p50" and "p99" = our latency over theirs, at most; "abs" = operations a second, at least; "routed" = throughput
# through the router over the throughput of nodes, at least; "bare" = throughput over that of a bare HTTP server, at least;
# None = no goal.
ROWS = [
    ("puts, 64 clients", ["--workload", "put", "--clients", "64"], "all", [("t", 4.0), ("p99", 0.5)]),
    ("puts, 64 clients, all at the leader", ["--workload", "put", "--clients", "64"], "leader", [("t", 4.0), ("bare", None)]),
    ("puts, 256 clients", ["--workload", "put", "--clients", "256"], "all", [("t", 5.0)]),
    ("puts, 1 client", ["--workload", "put", "--clients", "1"], "leader", [("p50", 0.6)]),
    ("linearizable gets at the leader, 64 clients", ["--workload", "get", "--clients", "64"], "leader", [("t", 5.0), ("bare", 0.7)]),
    ("linearizable gets at followers, 64 clients", ["--workload", "get", "--clients", "64"], "followers", [("t", 2.0)]),
    ("half puts, half gets, 64 clients", ["--workload", "mixed", "--clients", "64"], "all", [("t", 4.0)]),
    ("puts of 1 KiB, 64 clients", ["--workload", "put", "--clients", "64", "--value-size", "1024"], "all", [("t", 2.0)]),
    ("puts of 16 KiB, 64 clients", ["--workload", "put", "--clients", "64", "--value-size", "16384"], "all", [("t", 2.0)]),
    ("100 puts a request, 16 clients", ["--workload", "put", "--clients", "16", "--batch", "100"], "all", [("abs", 200_000)]),
    ("puts through the router, 64 clients", ["--workload", "put", "--clients", "64"], "router", [("routed", 0.6)]),
    ("gets through the router, 64 clients", ["--workload", "get", "--clients", "64"], "router", [("routed", 0.6)]),
]
START_DEADLINE_S = 60
# Before each measurement, for both systems: a process that has just started meets memory the machine has not used before.
WARM_UP_S = 3


def say(text):
    print(text, file=sys.stderr, flush=True)


def wait_for(what, check):
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not start within {START_DEADLINE_S} s")
        time.sleep(0.1)


def end_on_sigterm():
    """Whoever ends this program ends what it has started, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Local:
    """A cluster by `raftkv local`, with a router or without."""

    def __init__(self, raftkv, directory, *more):
        self.out = directory / "out.json"
        with open(self.out, "w") as out, open(directory / "log", "w") as log:
            command = [raftkv, "local", "--nodes", "3", "--http-port", "0", "--dir", directory / "data", "--json", *more]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
        try:
            wait_for("the local cluster", self.is_healthy)
        except BaseException:
            stop(self.process)
            raise
        cluster = json.loads(self.out.read_text())
        self.nodes, self.routers = cluster["nodes"], cluster["routers"]

    def is_healthy(self):
        if self.process.poll() is not None:
            sys.exit(f"the local cluster ended: {self.out.with_name('log').read_text()[-2000:]}")
        return self.out.read_text().strip()

    def endpoints(self, which):
        if which == "router":
            return [router["http"] for router in self.routers]
        roles = {}
        for node in self.nodes:
            address = node["management"].removeprefix("http://")
            with urllib.request.urlopen(f"http://{address}/status", timeout=5) as answer:
                roles[node["http"]] = json.load(answer)["node"]["role"]
        wanted = {"all": roles.values(), "leader": ["leader"], "followers": ["follower"]}[which]
        return [http for http, role in roles.items() if role in wanted]


class Etcd:
    """Three etcd processes with their defaults; the order of `clients` is that of the nodes."""

    def __init__(self, etcd, directory, ports):
        names = [f"etcd{number}" for number in (1, 2, 3)]
        peers = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports[3:])}
        cluster = ",".join(f"{name}={url}" for name, url in peers.items())
        self.clients = [f"127.0.0.1:{port}" for port in ports[:3]]
        self.processes = []
        for name, client in zip(names, self.clients):
            with open(directory / f"{name}.log", "w") as log:
                arguments = {
                    "name": name,
                    "data-dir": directory / name,
                    "listen-client-urls": f"http://{client}",
                    "advertise-client-urls": f"http://{client}",
                    "listen-peer-urls": peers[name],
                    "initial-advertise-peer-urls": peers[name],
                    "initial-cluster": cluster,
                    "log-level": "error",
                }
                command = [etcd, *(f"--{key}={value}" for key, value in arguments.items())]
                self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        try:
            wait_for("etcd", lambda: all(self.status(client) for client in self.clients))
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def status(client):
        try:
            request = urllib.request.Request(f"http://{client}/v3/maintenance/status", data=b"{}")
            with urllib.request.urlopen(request, timeout=2) as answer:
                status = json.load(answer)
                return status if int(status.get("leader", "0")) else None
        except OSError:
            return None

    def endpoints(self, which):
        leads = {}
        for client in self.clients:
            status = wait_for("etcd's leader", lambda: self.status(client))
            leads[client] = status["leader"] == status["header"]["member_id"]
        wanted = {"leader": [True], "followers": [False]}.get(which, [True, False])
        return [client for client, is_leader in leads.items() if is_leader in wanted]

    def stop(self):
        for process in self.processes:
            stop(process)


class Bare:
    """The bare HTTP server, built beside the others."""

    def __init__(self, raftkv):
        program = pathlib.Path(raftkv).parent / "examples" / "bare_http"
        self.process = subprocess.Popen([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            sys.exit(f"{program} did not start")


def free_ports(count):
    import socket

    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def bench(raftkv, arguments):
    command = [raftkv, "bench", "--json", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {done.stdout[-500:]}")
    return json.loads(done.stdout)


def median_of(reports):
    reports = sorted(reports, key=lambda report: report["throughput"])
    middle = reports[len(reports) // 2]
    return {"throughput": middle["throughput"], **{f"{p}_us": middle["latency_us"][p] for p in ("p50", "p99")}}


def fdatasync_us(directory):
    """The median of 200 appends of 500 bytes, each followed by fdatasync: what the disk itself costs."""
    times = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(200):
            begin = time.perf_counter()
            os.write(file.fileno(), b"x" * 500)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return sorted(times)[100] * 1e6


def environment(raftkv, etcd, directory):
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    version = lambda command: subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]
    filesystem = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True).stdout.strip()
    return [
        f"{os.cpu_count()} cores, {model}; Linux {platform.release()}; {filesystem}, fdatasync of 500 bytes {fdatasync_us(directory):.0f} us",
        f"{version([raftkv, '--version'])}; {version([etcd, '--version']) if etcd else 'no etcd: only absolute figures'}",
        "three nodes each, fsync on, all processes and the load generator on this machine, loopback; 100-byte values, 10,000 keys unless said",
    ]


def judge(goals, ours, theirs, direct, bare):
    """Per goal: text and whether it was reached (None = could not be told)."""
    verdicts = []
    for kind, goal in goals:
        if kind == "abs":
            verdicts.append((f">= {goal:,.0f}/s", ours["throughput"] >= goal))
        elif kind == "routed":
            value = ours["throughput"] / direct["throughput"]
            verdicts.append((f"{value:.0%} of direct, >= {goal:.0%}", value >= goal))
        elif kind == "bare":
            value = ours["throughput"] / bare["throughput"]
            wanted = f", >= {goal:.0%}" if goal else ""
            verdicts.append((f"{value:.0%} of bare HTTP's {bare['throughput']:,.0f}/s{wanted}", value >= (goal or 0)))
        elif theirs is None:
            verdicts.append(("no etcd", None))
        elif kind == "t":
            value = ours["throughput"] / theirs["throughput"]
            verdicts.append((f"{value:.2f} x, >= {goal:g}", value >= goal))
        else:
            value = ours[f"{kind}_us"] / theirs[f"{kind}_us"]
            verdicts.append((f"{kind} {value:.2f} x, <= {goal:g}", value <= goal))
    return verdicts


def parser_of(description):
    """What every comparison is told: which programs, and where the data goes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raftkv", required=True, help="the raftkv program; the others are beside it")
    parser.add_argument("--dir", required=True, type=pathlib.Path, help="on the disk to be measured; a folder is made in it")
    parser.add_argument("--etcd", default=os.environ.get("ETCD") or shutil.which("etcd"), help="the etcd program [default: from PATH]")
    return parser


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per workload, the systems in turn [default: 5]")
    parser.add_argument("--seconds", type=int, default=5, help=f"of one measurement, after {WARM_UP_S} that are not counted [default: 5]")
    parser.add_argument("--only", default="", help="only the workloads whose name contains this")
    parser.add_argument("--json", type=pathlib.Path, help="write everything measured into this file as well")
    options = parser.parse_args()
    end_on_sigterm()

    directory = pathlib.Path(tempfile.mkdtemp(prefix="bench.", dir=options.dir))
    rows = [row for row in ROWS if options.only in row[0]]
    lines = environment(options.raftkv, options.etcd, directory)
    print("\n".join(lines), flush=True)
    measured, running = [], []
    try:
        for number, (name, arguments, which, goals) in enumerate(rows, 1):
            say(f"{number} of {len(rows)}: {name}")
            # Each workload on clusters of its own: no row inherits the data or the compactions of another.
            at = directory / str(number)
            (at / "raftkv").mkdir(parents=True)
            (at / "etcd").mkdir()
            more = ["--groups", "1", "--routers", "1"] if which == "router" else []
            local = Local(options.raftkv, at / "raftkv", *more)
            running.append(lambda local=local: stop(local.process))
            beside_etcd = options.etcd and which != "router" and "--batch" not in arguments
            etcd = Etcd(options.etcd, at / "etcd", free_ports(6)) if beside_etcd else None
            if etcd:
                running.append(etcd.stop)
            bare = Bare(options.raftkv) if any(kind == "bare" for kind, _ in goals) else None
            if bare:
                running.append(lambda bare=bare: stop(bare.process))
            ours, theirs, direct, ceiling = [], [], [], []
            timing = ["--duration", f"{options.seconds}s", "--warmup", f"{WARM_UP_S}s"]
            for turn in range(options.rounds):
                sides = [(ours, ["--endpoints", ",".join(local.endpoints(which))])]
                if etcd:
                    sides.append((theirs, ["--etcd", ",".join(etcd.endpoints(which))]))
                if which == "router":
                    sides.append((direct, ["--endpoints", ",".join(local.endpoints("all"))]))
                if bare:
                    sides.append((ceiling, ["--endpoints", f"http://{bare.address}"]))
                for reports, endpoints in sides if turn % 2 == 0 else reversed(sides):
                    reports += bench(options.raftkv, [*timing, *arguments, *endpoints])
            while running:
                running.pop()()
            shutil.rmtree(at, ignore_errors=True)
            ours = median_of(ours)
            theirs, direct, ceiling = (median_of(of) if of else None for of in (theirs, direct, ceiling))
            verdicts = judge(goals, ours, theirs, direct, ceiling)
            sides = {"raftkv": ours, "etcd": theirs, "direct": direct, "bare": ceiling}
            measured.append({"name": name, **sides, "verdicts": verdicts})
            for side, of in sides.items():
                if of:
                    say(f"    {side:8}{of['throughput']:>12,.0f}/s   p50 {of['p50_us'] / 1000:.2f} ms   p99 {of['p99_us'] / 1000:.2f} ms")
    finally:
        while running:
            running.pop()()
        shutil.rmtree(directory, ignore_errors=True)

    print(f"\nMedians of {options.rounds} rounds of {options.seconds} s:\n")
    print("| workload | RaftKV | p50, p99 | etcd | p50, p99 | goal | |\n| --- | --- | --- | --- | --- | --- | --- |")
    cell = lambda side: (f"{side['throughput']:,.0f} /s", f"{side['p50_us'] / 1000:.2f}, {side['p99_us'] / 1000:.2f} ms") if side else ("", "")
    for row in measured:
        goal = "; ".join(text for text, _ in row["verdicts"])
        passed = [reached for _, reached in row["verdicts"]]
        verdict = "?" if None in passed else "pass" if all(passed) else "short"
        print("| " + " | ".join([row["name"], *cell(row["raftkv"]), *cell(row["etcd"]), goal, verdict]) + " |")
    if options.json:
        options.json.write_text(json.dumps({"environment": lines, "rows": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
