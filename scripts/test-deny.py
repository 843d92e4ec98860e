#!/usr/bin/env python3
"""Tests of deny.sh with a planted database: an advisory of a dependency must be found, and a gap in the advisories, too."""

import datetime
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SCRIPT = pathlib.Path(__file__).with_name("deny.sh")
# A crate of Cargo.lock alone, one of fuzz/Cargo.lock alone, and one of neither.
OURS, FUZZ, OTHER = CRATES = "fjall", "libfuzzer-sys", "never-a-dependency"
ADVISORY = """```toml
[advisory]
id = "RUSTSEC-2099-{number:04}"
package = "{crate}"
date = "2099-01-01"

[versions]
patched = [{patched}]
```

# Planted

By test-deny.py.
"""


def run(*command, **env):
    # Neither the repository whose hook calls this, nor the stages of the CI run.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") and name != "RAFTKV_STAGES"} | env
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def plant(clone, days, patched):
    """Makes a clone of a database, so many days old, that has an advisory of each crate."""
    for number, crate in enumerate(CRATES, start=1):
        file = clone / "crates" / crate / f"RUSTSEC-2099-{number:04}.md"
        file.parent.mkdir(parents=True)
        file.write_text(ADVISORY.format(number=number, crate=crate, patched=patched))
    date = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=days)).isoformat()
    for command in ("init --quiet", "add .", "-c user.name=t -c user.email=t@t commit --quiet -m planted"):
        run("git", "-C", clone, *command.split(), GIT_COMMITTER_DATE=date).check_returncode()


def remove_crate(advisories):
    shutil.rmtree(advisories / "crates" / OURS)


def remove_date(advisories):
    file = advisories / "database.txt"
    file.write_text(file.read_text().replace("# Date", "# Day"))


# The age of the database in days, the versions that its advisories do not affect, a change of the renewed files, whether the check
# passes, and what it says.
CASES = [
    (0, "", None, False, ["0 days old", "ID: RUSTSEC-2099-0001", "ID: RUSTSEC-2099-0002"]),
    (91, '">= 0.0.0"', None, True, ["91 DAYS OLD"]),
    (0, "", remove_crate, False, [f"there are advisories of {OURS}, and"]),
    (0, "", remove_date, False, ["does not say its date"]),
]


def main():
    for days, patched, change, right, said in CASES:
        with tempfile.TemporaryDirectory() as directory:
            clone, advisories = pathlib.Path(directory, "clone"), pathlib.Path(directory, "advisories")
            plant(clone, days, patched)
            done = run(SCRIPT, "--renew", clone, RAFTKV_ADVISORIES=str(advisories))
            if done.returncode != 0 or sorted(path.name for path in (advisories / "crates").iterdir()) != [OURS, FUZZ]:
                sys.exit(f"deny.sh --renew is wrong: code {done.returncode}\n{done.stdout}{done.stderr}")
            if change:
                change(advisories)
            done = run(SCRIPT, RAFTKV_ADVISORIES=str(advisories))
            if (done.returncode == 0) != right or any(text not in done.stderr for text in said):
                sys.exit(f"deny.sh is wrong, {said} expected: code {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"ok    deny.sh: {len(CASES)} cases")


if __name__ == "__main__":
    main()
