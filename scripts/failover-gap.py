#!/usr/bin/env python3
"""How long nothing can be written after the leader is killed or paused: RaftKV and etcd, three nodes each, measured the same way.

Writers keep writing to all nodes; the leader's processes get SIGKILL, or SIGSTOP until writes go on; the gap is the longest time between two successful writes
of anybody around the kill. Then the node is started again, and the next kill waits until it has been a member for a while.
Uses the standard library only.
"""

import http.client
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

spec = importlib.util.spec_from_file_location("bench_table", pathlib.Path(__file__).with_name("bench-table.py"))
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)

WRITERS = 12
# A write that takes longer is tried at the next node; short, so that no writer sits out the election on a dead connection.
REQUEST_DEADLINE_S = 0.25
SETTLE_S = 1.0
GAP_DEADLINE_S = 20.0


class Writers:
    """Write without a pause until stopped; note when each success came."""

    def __init__(self, addresses, request):
        self.successes, self.lock, self.stopped = [], threading.Lock(), threading.Event()
        self.threads = [
            threading.Thread(target=self.run, args=(number, addresses, request), daemon=True) for number in range(WRITERS)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, number, addresses, request):
        at, connection, count = number, None, 0
        while not self.stopped.is_set():
            try:
                if connection is None:
                    host, port = addresses[at % len(addresses)].split(":")
                    connection = http.client.HTTPConnection(host, int(port), timeout=REQUEST_DEADLINE_S)
                count += 1
                method, path, body = request(f"gap-{number}-{count % 100}", count)
                connection.request(method, path, body)
                answer = connection.getresponse()
                answer.read()
                if answer.status in (200, 201, 204):
                    with self.lock:
                        self.successes.append(time.monotonic())
                    continue
            except (OSError, http.client.HTTPException):
                pass
            if connection is not None:
                connection.close()
                connection = None
            at += 1
            # A dead node refuses at once: asking it without a pause would take the processor from those who elect.
            time.sleep(0.005)

    def last(self):
        with self.lock:
            return self.successes[-1] if self.successes else 0.0

    def longest_gap(self, since, until):
        """The longest time without a success from the last one before `since` on."""
        with self.lock:
            times = [at for at in self.successes if at <= until]
        before = [at for at in times if at <= since]
        times = ([before[-1]] if before else [since]) + [at for at in times if at > since]
        return max((b - a for a, b in zip(times, times[1:])), default=float("inf"))

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


class RaftKv:
    name = "raftkv"

    def __init__(self, program, directory):
        self.cluster = table.Local(program, directory)
        self.addresses = [node["http"].removeprefix("http://") for node in self.cluster.nodes]
        self.directory = directory
        self.paused = []

    @staticmethod
    def request(key, value):
        return "PUT", f"/v1/kv/{key}?timeout=200ms", f"value {value}"

    def fail_leader(self, how):
        leader = self.cluster.endpoints("leader")[0]
        # Kept current: `raftkv local` starts again what died.
        nodes = json.loads((self.directory / "data" / "cluster.json").read_text())["nodes"]
        node = next(node for node in nodes if node["http"] == leader)
        pids = [node[process] for process in ("sidecar_pid", "engine_pid")]
        for pid in pids:
            os.kill(pid, how)
        self.paused = pids if how == signal.SIGSTOP else []

    def is_whole(self):
        try:
            return len(self.cluster.endpoints("leader")) == 1 and len(self.cluster.endpoints("followers")) == 2
        except OSError:
            return False

    def mend(self):
        """What was killed is started again by `raftkv local`."""
        for pid in self.paused:
            os.kill(pid, signal.SIGCONT)
        self.paused = []

    def stop(self):
        self.mend()
        table.stop(self.cluster.process)


class Etcd:
    name = "etcd"

    def __init__(self, program, directory):
        self.cluster = table.Etcd(program, directory, table.free_ports(6))
        self.addresses = self.cluster.clients
        self.failed, self.how = None, None

    @staticmethod
    def request(key, value):
        import base64

        encode = lambda text: base64.b64encode(text.encode()).decode()
        return "POST", "/v3/kv/put", json.dumps({"key": encode(key), "value": encode(f"value {value}")})

    def fail_leader(self, how):
        leader = self.cluster.endpoints("leader")[0]
        self.failed, self.how = self.cluster.clients.index(leader), how
        self.cluster.processes[self.failed].send_signal(how)

    def is_whole(self):
        return all(table.Etcd.status(client) for client in self.cluster.clients)

    def mend(self):
        if self.failed is None:
            return
        place, self.failed = self.failed, None
        process = self.cluster.processes[place]
        if self.how == signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            return
        process.wait()
        self.cluster.processes[place] = subprocess.Popen(
            process.args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self):
        self.mend()
        self.cluster.stop()


def measure(system, kills, how):
    writers, gaps = Writers(system.addresses, system.request), []
    try:
        for number in range(kills):
            table.wait_for(f"all three nodes of {system.name}", system.is_whole)
            settled = time.monotonic()
            while writers.last() < settled + SETTLE_S:
                if time.monotonic() > settled + GAP_DEADLINE_S:
                    sys.exit(f"{system.name}: no write succeeds though all nodes are up")
                time.sleep(0.02)
            killed = time.monotonic()
            system.fail_leader(how)
            # A follower may still answer what the old leader had committed: over after the longest election, when writes go on.
            while time.monotonic() < killed + 3.0 or writers.last() < time.monotonic() - 0.2:
                if time.monotonic() > killed + GAP_DEADLINE_S:
                    sys.exit(f"{system.name}: no write for {GAP_DEADLINE_S} s after failure {number + 1}")
                time.sleep(0.02)
            gaps.append(writers.longest_gap(killed, time.monotonic()))
            system.mend()
            print(f"    {system.name}: failure {number + 1} of {kills}: {gaps[-1]:.3f} s", file=sys.stderr, flush=True)
    finally:
        writers.stop()
        system.stop()
    return sorted(gaps)


def main():
    parser = table.parser_of(__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each system's leader [default: 50]")
    parser.add_argument("--pause", action="store_true", help="pause the leader's processes (SIGSTOP) instead of killing them")
    options = parser.parse_args()
    table.end_on_sigterm()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="failover.", dir=options.dir))
    try:
        how, said = (signal.SIGSTOP, "paused") if options.pause else (signal.SIGKILL, "killed")
        print(f"{WRITERS} writers, the leader {said} {options.kills} times; the longest time without a successful write:")
        for kind, program in ((RaftKv, options.raftkv), (Etcd, options.etcd)):
            if not program:
                print("no etcd: nothing to compare with")
                continue
            at = directory / kind.name
            at.mkdir()
            gaps = measure(kind(program, at), options.kills, how)
            quantile = lambda q: gaps[min(len(gaps) - 1, int(q * len(gaps)))]
            print(f"{kind.name:8} median {quantile(0.5):.3f} s   p90 {quantile(0.9):.3f} s   p99 {quantile(0.99):.3f} s   max {gaps[-1]:.3f} s", flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
