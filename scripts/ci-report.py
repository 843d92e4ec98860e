#!/usr/bin/env python3
"""Ends the output of .ci/run: where its time went, the slowest tests, and which tests passed only on their second run.

    scripts/ci-report.py --stages FILE --junit FILE --keep FOLDER

The stages are written by scripts/lib.sh: one a line, the second (since 1970) at which the stage began, a tab, its title. The junit file
is nextest's, of its profile `ci`; without it the exit code is 1, since nothing says then that the tests passed. The output of both runs
of each test that ran twice is written to FOLDER. The end of the first run's output is printed again, because CI keeps nothing but what
is printed.
"""

import argparse
import pathlib
import re
import sys
import time
import xml.etree.ElementTree as xml

SLOWEST = 10
# Lines of a first run's output that are printed again. The whole output stands further up, and in the folder.
LAST_LINES = 40
# What nextest writes for a run that failed: the only one, the one before a run that passed, the one after a run that failed.
FAILED = ("failure", "error", "flakyFailure", "flakyError", "rerunFailure", "rerunError")


class Test:
    """One test: its name, the seconds of all its runs, the output of each run, and whether the last run passed."""

    def __init__(self, case):
        self.name = f"{case.get('classname')} {case.get('name')}"
        failed = [part for part in case if part.tag in FAILED]
        before = [part for part in failed if part.tag.startswith("flaky")]
        after = [part for part in failed if part.tag.startswith("rerun")]
        self.passed = len(failed) == len(before)
        # The test case itself holds the last run of a test that passed, and the first run of a test that failed.
        runs = [*before, case, *after]
        self.seconds = sum(float(run.get("time", 0)) for run in runs)
        self.outputs = [output(run) for run in runs]

    @property
    def ran_twice(self):
        return len(self.outputs) > 1

    def keep(self, folder):
        """Writes the output of each run to a file of its own."""
        for number, text in enumerate(self.outputs, 1):
            (folder / f"{re.sub('[^A-Za-z0-9_.-]+', '-', self.name)}.run{number}.log").write_text(text)


def output(run):
    """What a run printed; where nextest kept no output, its message."""
    parts = [run.findtext("system-out"), run.findtext("system-err")]
    kept = "\n".join(part.strip("\n") for part in parts if part and part.strip())
    return (kept or run.get("message") or "(no output was kept)") + "\n"


def read_stages(path, now):
    """Titles and seconds. A stage lasts until the next one begins."""
    lines = [line.split("\t", 1) for line in path.read_text().splitlines()] if path.exists() else []
    begins = [int(begin) for begin, _ in lines] + [now]
    return [(title, begins[at + 1] - begins[at]) for at, (_, title) in enumerate(lines)]


def print_stages(stages):
    print("\n=== seconds of each stage")
    for title, seconds in stages:
        print(f"{seconds:7} s  {title}")
    print(f"{sum(seconds for _, seconds in stages):7} s  all stages")


def print_tests(tests, folder):
    print(f"\n=== the {SLOWEST} slowest of {len(tests)} tests")
    for test in sorted(tests, key=lambda test: -test.seconds)[:SLOWEST]:
        print(f"{test.seconds:9.1f} s  {test.name}{' (two runs)' if test.ran_twice else ''}")
    for test in tests:
        if not test.ran_twice:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        test.keep(folder)
        print(f"\n=== the end of the first run of {test.name} (both runs: {folder})")
        print(*(f"    {line}" for line in test.outputs[0].splitlines()[-LAST_LINES:]), sep="\n")


def verdict(tests):
    """The last lines of CI. The very last one is about the tests that passed only on the second run."""
    failed = [test.name + (" (on both runs)" if test.ran_twice else "") for test in tests if not test.passed]
    second = [test.name for test in tests if test.passed and test.ran_twice]
    yield f"tests: {len(tests)} run, {len(tests) - len(failed)} passed, {len(failed)} failed"
    if failed:
        yield f"failed: {', '.join(failed)}"
    if second:
        yield f"passed only on the second run: {', '.join(second)}"
    elif any(test.ran_twice for test in tests):
        yield "no test passed only on the second run"
    else:
        yield "no test needed a second run"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", required=True, type=pathlib.Path, metavar="FILE")
    parser.add_argument("--junit", required=True, type=pathlib.Path, metavar="FILE")
    parser.add_argument("--keep", required=True, type=pathlib.Path, metavar="FOLDER")
    given = parser.parse_args()
    print_stages(read_stages(given.stages, int(time.time())))
    if not given.junit.exists():
        print("\nwhich tests needed a second run is not known: the tests of the workspace did not run to their end")
        return 1
    tests = [Test(case) for case in xml.parse(given.junit).iter("testcase")]
    print_tests(tests, given.keep)
    print("", *verdict(tests), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
