#!/usr/bin/env python3
"""What RaftKV costs as it grows: with many keys, under load for long, while a node catches up, with several groups.

Each part runs on a local cluster of its own and prints what it measured beside what is wanted. Uses the standard library
only. Exit code 0 whenever it could measure: a goal missed is a result, not a failure.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

spec = importlib.util.spec_from_file_location("bench_table", pathlib.Path(__file__).with_name("bench-table.py"))
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)

RESTART_DEADLINE_S = 60
CATCH_UP_DEADLINE_S = 120


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


class Cluster(table.Local):
    """A local cluster whose processes can be looked at."""

    def __init__(self, options, name, *more):
        self.raftkv, self.directory = options.raftkv, options.at / name
        self.directory.mkdir()
        super().__init__(options.raftkv, self.directory, *more)

    def current(self):
        """The nodes as they run now: whoever dies is started again with other process numbers."""
        return json.loads((self.directory / "data" / "cluster.json").read_text())["nodes"]

    def status(self, node):
        return json.loads(get(f"http://{node['management'].removeprefix('http://')}/status"))

    def terms(self):
        return [self.status(node)["node"]["term"] for node in self.current()]

    def bench(self, *arguments, which="all"):
        return self.bench_at(self.endpoints(which), *arguments)

    def bench_at(self, endpoints, *arguments):
        [report] = table.bench(self.raftkv, [*arguments, "--endpoints", ",".join(endpoints)])
        return report

    def memory_mib(self, process):
        """The most resident memory each of these processes ever had, in MiB."""
        peaks = []
        for node in self.current():
            status = pathlib.Path(f"/proc/{node[f'{process}_pid']}/status").read_text()
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
            peaks.append(int(peak.split()[1]) // 1024)
        return peaks

    def stop(self):
        table.stop(self.process)
        shutil.rmtree(self.directory, ignore_errors=True)


def line(what, measured, goal, reached):
    print(f"| {what} | {measured} | {goal} | {'pass' if reached else 'short'} |", flush=True)


def many_keys(options):
    """The same reads over few and many keys, the memory that many take, and a restart with them."""
    p99 = {}
    for keys in (10_000, options.keys):
        cluster = Cluster(options, f"keys-{keys}")
        try:
            begin = time.monotonic()
            arguments = ["--workload", "get", "--keys", str(keys), "--load-batch", "200", "--clients", "16"]
            report = cluster.bench(*arguments, "--duration", f"{options.seconds}s", "--warmup", "2s", which="leader")
            p99[keys] = report["latency_us"]["p99"]
            table.say(f"    {keys:,} keys: {report['throughput']:,.0f} gets/s, p99 {p99[keys] / 1000:.2f} ms, {time.monotonic() - begin:.0f} s in all")
            if keys == options.keys:
                peaks = cluster.memory_mib("engine")
                line(f"memory of an engine with {keys:,} keys", f"{max(peaks)} MiB at most", "< 1,024 MiB", max(peaks) < 1024)
                slowest = restart(cluster)
                line(f"restart to ready with {keys:,} keys", f"{slowest:.1f} s", "< 10 s", slowest < 10)
        finally:
            cluster.stop()
    few, many = p99[10_000], p99[options.keys]
    ratio = many / few
    line(f"get p99, {options.keys:,} keys against 10,000", f"{many / 1000:.2f} against {few / 1000:.2f} ms = {ratio:.2f} x", "<= 2 x", ratio <= 2)


def restart(cluster):
    """Both processes of each node, one node after the other, get SIGKILL; the longest time until one answers /readyz again."""
    slowest = 0.0
    for number, node in enumerate(cluster.current()):
        for process in ("sidecar_pid", "engine_pid"):
            os.kill(node[process], signal.SIGKILL)
        begin = time.monotonic()
        while True:
            now = cluster.current()[number]
            try:
                if now["engine_pid"] not in (None, node["engine_pid"]):
                    get(f"{url_of(now['http'])}/readyz")
                    break
            except OSError:
                pass
            if time.monotonic() > begin + RESTART_DEADLINE_S:
                sys.exit(f"{node['name']} is not ready {RESTART_DEADLINE_S} s after it was killed")
            time.sleep(0.05)
        slowest = max(slowest, time.monotonic() - begin)
    return slowest


def url_of(address):
    return address if address.startswith("http") else f"http://{address}"


def full_load(options):
    """Puts as fast as they go, for long: no stall, no election."""
    cluster = Cluster(options, "full-load")
    try:
        before = cluster.terms()
        report = cluster.bench("--workload", "put", "--clients", "64", "--keys", "100000", "--duration", f"{options.minutes * 60:.0f}s", "--warmup", "5s")
        after = cluster.terms()
        worst = report["latency_us"]["max"] / 1000
        what = f"{options.minutes:g} minutes of puts, 64 clients ({report['throughput']:,.0f}/s, p99 {report['latency_us']['p99'] / 1000:.1f} ms)"
        line(f"{what}: longest put", f"{worst:.0f} ms", "<= 250 ms", worst <= 250)
        line("the same: elections", f"{max(after) - max(before)}", "0", after == before)
        line("the same: errors", sum(report["errors"].values()), "0", not report["errors"])
    finally:
        cluster.stop()


def catching_up(options):
    """A follower stands still for a minute under load, then goes on and catches up."""
    cluster = Cluster(options, "catching-up")
    load = ["--workload", "put", "--clients", "64", "--warmup", "1s"]
    try:
        follower = next(node for node in cluster.current() if cluster.status(node)["node"]["role"] == "follower")
        processes = [follower["sidecar_pid"], follower["engine_pid"]]
        # Asked before one of them answers nothing.
        leader = cluster.endpoints("leader")
        healthy = cluster.bench_at(leader, *load, "--duration", "10s")["throughput"]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            cluster.bench_at(leader, *load, "--duration", "60s")
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        begin = time.monotonic()
        running = subprocess.Popen(
            [cluster.raftkv, "bench", "--json", *load[:4], "--warmup", "0s", "--duration", "10s", "--endpoints", ",".join(leader)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        caught_up = None
        while caught_up is None:
            committed = max(cluster.status(node)["node"]["committed_index"] or 0 for node in cluster.current())
            if committed - (cluster.status(follower)["node"]["applied_index"] or 0) < 100:
                caught_up = time.monotonic() - begin
            elif time.monotonic() > begin + CATCH_UP_DEADLINE_S:
                sys.exit("the follower does not catch up")
            time.sleep(0.1)
        during = json.loads(running.communicate(timeout=60)[0])[0]["throughput"]
        share = during / healthy
        line("leader's throughput while a follower catches up on a minute", f"{during:,.0f} of {healthy:,.0f}/s = {share:.0%} (caught up after {caught_up:.1f} s)", ">= 80%", share >= 0.8)
    finally:
        cluster.stop()


def two_groups(options):
    """The same load on one group and on two, on the same cores."""
    totals = []
    for groups in (1, 2):
        cluster = Cluster(options, f"groups-{groups}", "--groups", str(groups), "--routers", "1")
        try:
            rounds = [cluster.bench("--workload", "put", "--clients", "64", "--duration", "4s", "--warmup", "1s", which="router") for _ in range(3)]
            totals.append(table.median_of(rounds)["throughput"])
        finally:
            cluster.stop()
    share = totals[1] / totals[0]
    line("puts through a router, two groups on the same cores", f"{totals[1]:,.0f} against {totals[0]:,.0f}/s = {share:.0%}", ">= 80% of one group's", share >= 0.8)


PARTS = {"keys": many_keys, "load": full_load, "catch-up": catching_up, "groups": two_groups}


def main():
    parser = table.parser_of(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas [default: all: %(default)s]")
    parser.add_argument("--keys", type=int, default=10_000_000, help="how many are many [default: %(default)s]")
    parser.add_argument("--minutes", type=float, default=10, help="how long is long [default: %(default)s]")
    parser.add_argument("--seconds", type=int, default=10, help="of a measurement of reads [default: %(default)s]")
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    table.end_on_sigterm()
    options.at = pathlib.Path(tempfile.mkdtemp(prefix="growth.", dir=options.dir))
    try:
        print("\n".join(table.environment(options.raftkv, None, options.at)))
        print("\n| what | measured | goal | |\n| --- | --- | --- | --- |", flush=True)
        for part in options.parts.split(","):
            table.say(f"{part}: {PARTS[part].__doc__}")
            PARTS[part](options)
    finally:
        shutil.rmtree(options.at, ignore_errors=True)


if __name__ == "__main__":
    main()
