#!/usr/bin/env python3
"""Runs the examples of the pages given, and compares what they print with what the pages say.

    scripts/check-docs.py [--phase before|after] [--at PORT=HOST:PORT ...] PAGE...

An example is a block ```console: a line that begins with `$ ` is a command for the shell (a `\\` or a `|` at its end continues
it), the lines up to the next one are what it prints, to the letter. A line `...` stands for any lines. What follows the word
console says when a block is run: once by default, `again` also after everything was restarted, `last` only then.

`--at 8000=127.0.0.1:18000` sends what the pages send to 127.0.0.1:8000 to another address.
"""

import argparse
import pathlib
import re
import subprocess
import sys

# Longer than any deadline of the server's own.
TIMEOUT = 60
PHASES = {"before": ("", "again"), "after": ("again", "last")}


def blocks(text):
    """The examples of a page: line number, when it is run, its lines."""
    found, current = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if current is None and line.startswith("```console"):
            current = (number + 1, line.removeprefix("```console").strip(), [])
        elif current is not None and line.startswith("```"):
            found.append(current)
            current = None
        elif current is not None:
            current[2].append(line)
    if current is not None:
        sys.exit(f"line {current[0]}: the block has no end")
    return found


def commands(first, lines):
    """The commands of an example: line number, command, expected lines."""
    found = []
    continued = False
    for number, line in enumerate(lines, first):
        if continued:
            found[-1][1] += "\n" + line
        elif line.startswith("$ "):
            found.append([number, line[2:], []])
        elif found:
            found[-1][2].append(line)
            continue
        else:
            sys.exit(f"line {number}: an example begins with a command")
        continued = line.endswith(("\\", "|"))
    return found


def matches(printed, expected):
    pattern = "\n".join("(?:.*\n?)*?" if line.strip() == "..." else re.escape(line) for line in expected)
    return re.fullmatch(pattern, printed.strip("\n")) is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", choices=PHASES, default="before")
    parser.add_argument("--at", action="append", default=[], metavar="PORT=HOST:PORT")
    parser.add_argument("pages", nargs="+", type=pathlib.Path, metavar="PAGE")
    given = parser.parse_args()
    addresses = dict(at.split("=", 1) for at in given.at)
    ran = 0
    for page in given.pages:
        for first, when, lines in blocks(page.read_text()):
            if when not in ("", "again", "last"):
                sys.exit(f"{page}:{first}: console {when}: no such word")
            if when not in PHASES[given.phase]:
                continue
            for number, command, expected in commands(first, lines):
                moved = re.sub(r"127\.0\.0\.1:(\d+)", lambda m: addresses.get(m[1], m[0]), command)
                done = subprocess.run(["sh", "-c", moved], capture_output=True, text=True, timeout=TIMEOUT, check=False)
                if done.returncode != 0 or not matches(done.stdout, expected):
                    print(f"\nWRONG: {page}:{number}\n  command  {moved}\n  wanted   {expected}", file=sys.stderr)
                    print(f"  printed  {done.stdout!r}\n  code     {done.returncode} {done.stderr.strip()}", file=sys.stderr)
                    sys.exit(1)
                ran += 1
    # A page whose examples are not found must not pass for one whose examples are right.
    if ran == 0:
        sys.exit("no examples were found")
    print(f"ok    {ran} examples of {' '.join(page.name for page in given.pages)} ({given.phase} the restart) print what they should")


if __name__ == "__main__":
    main()
