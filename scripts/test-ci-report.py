#!/usr/bin/env python3
"""Tests scripts/ci-report.py with a junit file as nextest 0.9 writes it."""

import pathlib
import subprocess
import sys
import tempfile

REPORT = pathlib.Path(__file__).with_name("ci-report.py")

PASSED = """<testcase name="suite::calm" classname="raftkv-tests::cluster" time="3.5"><system-out>calm
</system-out><system-err></system-err></testcase>"""

ONLY_ON_THE_SECOND_RUN = """<testcase name="failover::fast" classname="raftkv-tests::cluster" time="20.5">
<flakyFailure time="30.25" message="panicked at failover.rs:1:1" type="test failure with exit code 101">panicked
<system-out>seed 7
</system-out><system-err>first &lt;run&gt; failed
</system-err></flakyFailure>
<system-out>seed 8
</system-out><system-err></system-err></testcase>"""

ON_BOTH_RUNS = """<testcase name="lease::kept" classname="raftkv-tests::cluster" time="1">
<failure message="panicked at lease.rs:2:2" type="test failure with exit code 101">panicked
</failure>
<rerunFailure time="2" message="timed out" type="test timeout"></rerunFailure>
<system-err>first run of the lease
</system-err></testcase>"""

UNIT_TEST_FAILED = """<testcase name="store::reads" classname="raftkv-engine" time="0.1">
<failure message="no" type="test failure with exit code 101">no</failure><system-err>no
</system-err></testcase>"""


def report(*cases, stages="", code=0):
    """What is printed for these test cases, and the files that are kept; `code` is the exit code that it has to have."""
    with tempfile.TemporaryDirectory() as base:
        base = pathlib.Path(base)
        if cases:
            suite = f'<testsuite name="all">{"".join(cases)}</testsuite>'
            (base / "junit.xml").write_text(f'<?xml version="1.0" encoding="UTF-8"?><testsuites>{suite}</testsuites>')
        if stages:
            (base / "stages").write_text(stages)
        command = [REPORT, "--stages", base / "stages", "--junit", base / "junit.xml", "--keep", base / "keep"]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)
        expect(done.returncode == code, f"the exit code is {done.returncode}", done.stdout + done.stderr)
        return done.stdout, {path.name: path.read_text() for path in (base / "keep").glob("*")}


def expect(condition, what, printed):
    if not condition:
        sys.exit(f"ci-report.py: {what}\n--- it printed:\n{printed}")


def main():
    printed, kept = report(PASSED, stages="1000\tFormat\n1007\tLints\n")
    expect(printed.endswith("\ntests: 1 run, 1 passed, 0 failed\nno test needed a second run\n"), "the last line of a calm run", printed)
    expect("      7 s  Format\n" in printed, "a stage lasts until the next one", printed)
    expect(not kept, "nothing is kept of a calm run", printed)

    printed, kept = report(PASSED, ONLY_ON_THE_SECOND_RUN)
    expect(
        printed.endswith("\npassed only on the second run: raftkv-tests::cluster failover::fast\n"),
        "the last line names the test that passed only on its second run",
        printed,
    )
    expect("    first <run> failed\n" in printed, "the first run's output is printed", printed)
    slowest = printed.index("50.8 s  raftkv-tests::cluster failover::fast (two runs)")
    expect(slowest < printed.index("3.5 s  raftkv-tests::cluster suite::calm"), "the slowest test comes first", printed)
    expect(
        kept
        == {
            "raftkv-tests-cluster-failover-fast.run1.log": "seed 7\nfirst <run> failed\n",
            "raftkv-tests-cluster-failover-fast.run2.log": "seed 8\n",
        },
        f"the output of both runs is kept, not {kept}",
        printed,
    )

    printed, kept = report(ON_BOTH_RUNS, UNIT_TEST_FAILED, PASSED)
    end = (
        "\ntests: 3 run, 1 passed, 2 failed"
        "\nfailed: raftkv-tests::cluster lease::kept (on both runs), raftkv-engine store::reads"
        "\nno test passed only on the second run\n"
    )
    expect(printed.endswith(end), "what failed twice has not passed", printed)
    expect(kept["raftkv-tests-cluster-lease-kept.run1.log"] == "first run of the lease\n", f"the first of two: {kept}", printed)
    expect(kept["raftkv-tests-cluster-lease-kept.run2.log"] == "timed out\n", f"without output, the message: {kept}", printed)

    printed, _ = report(ON_BOTH_RUNS, ONLY_ON_THE_SECOND_RUN)
    expect("\nfailed: raftkv-tests::cluster lease::kept (on both runs)\npassed only" in printed, "both kinds are named", printed)

    printed, _ = report(code=1)
    expect("is not known" in printed.splitlines()[-1], "no junit file is not a calm run", printed)


if __name__ == "__main__":
    main()
