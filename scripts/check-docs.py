#!/usr/bin/env python3
"""Types the examples of the pages given, and compares what is printed with what the pages say.

    scripts/check-docs.py [--phase before|after] [--at PORT=HOST:PORT ...] PAGE...
    scripts/check-docs.py --type compose|local --bin DIR [--at PORT=HOST:PORT ...] PAGE...

An example is a block ```console: a line that begins with `$ ` is a command for the shell (a `\\` or a `|` at its end continues
it), the lines up to the next one are what it prints, to the letter. A line `...` stands for any lines. What follows the word
console says when a block is run: once by default, `again` also after everything was restarted, `last` only then.

With --type, the blocks ```sh are typed instead, each in a shell of its own and command by command, against the compose cluster or
`raftkv local`. Every command must end with 0 within its time, and no curl may be answered with a status of 400 or more. `# → TEXT`
behind a command, or in the line after it, says what it prints: the parts between `…` in this order, small and capital letters
alike; a status of three digits at its beginning is that of the answer. What follows the word sh says what is done with a block:

    sh              typed, in both; one that needs Docker, with compose only
    sh usage        its commands are examples, with names that exist nowhere: `raftkv` must accept their arguments, `make` must know
                    the target, and nothing else may stand there
    toml NAME       written to the file NAME, in the directory where the page's commands are typed

`--at 8000=127.0.0.1:18000` sends what the pages send to 127.0.0.1:8000 to another address. --bin has the programs.
"""

import argparse
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile

# Longer than any deadline of the server's own.
TIMEOUT = 60
# A typed block may replace containers, or have a group's keys moved.
BLOCK_TIMEOUT = 240
# Arguments are refused at once.
USAGE_TIMEOUT = 3
PHASES = {"before": ("", "again"), "after": ("again", "last")}
MARK = "\x1e"
# What the CLI ends with where it does not take its arguments.
EXIT_USAGE = 64
STATUS = "HTTP-STATUS"


def fail(where, what, **details):
    lines = "".join(f"\n  {name:<8} {value}" for name, value in details.items())
    sys.exit(f"\nWRONG: {where}: {what}{lines}")


def blocks(text, kinds):
    """The blocks of a page that are of one of these kinds: line number, kind, what follows it, their lines."""
    found, current = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if current is None and line.startswith("```"):
            kind, _, word = line.removeprefix("```").strip().partition(" ")
            current = (number + 1, kind, word.strip(), [])
        elif current is not None and line.startswith("```"):
            found.append(current)
            current = None
        elif current is not None:
            current[3].append(line)
    if current is not None:
        sys.exit(f"line {current[0]}: the block has no end")
    return [block for block in found if block[1] in kinds]


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


def run_examples(given, moved):
    ran = 0
    for page in given.pages:
        for first, _, when, lines in blocks(page.read_text(), ("console",)):
            if when not in ("", "again", "last"):
                sys.exit(f"{page}:{first}: console {when}: no such word")
            if when not in PHASES[given.phase]:
                continue
            for number, command, expected in commands(first, lines):
                command = moved(command)
                done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=TIMEOUT, check=False)
                if done.returncode != 0 or not matches(done.stdout, expected):
                    fail(f"{page}:{number}", "it prints something else", command=command, wanted=expected,
                         printed=repr(done.stdout), code=f"{done.returncode} {done.stderr.strip()}")
                ran += 1
    return ran


def typed_commands(first, lines):
    """The commands of a block ```sh: line number, command, what it prints."""
    found, text = [], ""
    for number, line in enumerate(lines, first):
        if not text and not line.strip():
            continue
        if not text and line.startswith("#"):
            if line.startswith("# → "):
                found[-1][2].append(line.removeprefix("# → "))
            continue
        text = f"{text}\n{line}" if text else line
        if subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False).returncode == 0 and text[-1] not in "\\|":
            expected = re.search(r"\s# → (.*)$", text)
            found.append([number, text, [expected[1]] if expected else []])
            text = ""
    if text:
        sys.exit(f"line {first}: the block ends in the middle of a command")
    return found


def differs(printed, expected):
    """What is missing of what a command has to print; None = nothing."""
    statuses = [int(status) for status in re.findall(rf"{STATUS} (\d+)", printed)]
    wanted = re.match(r"([1-5]\d\d)\b(.*)", expected[0], re.DOTALL) if expected else None
    if wanted and int(wanted[1]) not in statuses:
        return f"the status {wanted[1]}"
    if not wanted and any(status >= 400 for status in statuses):
        return "a status below 400"
    at, text = 0, printed.lower()
    for part in ([] if wanted else [part.strip() for line in expected for part in line.split("…")]):
        at = text.find(part.lower(), at)
        if at < 0:
            return repr(part)
        at += len(part)
    return None


def in_world(world, command):
    """The command as it is typed here: without a terminal, and by `raftkv` itself where there are no containers."""
    if world == "compose":
        project = os.environ.get("COMPOSE_PROJECT_NAME", "raftkv")
        command = re.sub(r"\bdocker compose exec (?!-T)", "docker compose exec -T ", command)
        command = re.sub(r"(?m)^raftkv ", "docker compose exec -T router raftkv ", command)
        return re.sub(r"\braftkv_(?=node)", f"{project}_", command)
    return re.sub(r"\bdocker compose exec (-T )?\w+ raftkv\b", "raftkv", command)


def type_block(page, first, lines, given, moved, directory, ended):
    """Types the commands of one block. Returns how many; None when it needs what is not here."""
    script = [f"curl() {{ command curl -sS --max-time {TIMEOUT} -w '%{{stderr}}\\n{STATUS} %{{http_code}}\\n' \"$@\"; }}"]
    typed = typed_commands(first, lines)
    for number, command, _ in typed:
        command = in_world(given.type, command)
        # In a container every port is the page's.
        command = command if "docker compose exec" in command else moved(command).replace("/tmp/raftkv", f"{directory}/data")
        if given.type != "compose" and re.search(r"\bdocker\b", command):
            return None
        script += [f"printf '{MARK}%s\\n' {number}", command, f"printf '{MARK}code %s\\n' $?"]
    environment = {**os.environ, "PATH": f"{given.bin}:{os.environ['PATH']}"}
    if given.type == "local":
        # Where the CLI would look by itself if the ports were the pages'.
        environment |= {"RAFTKV_ROUTER_ENDPOINT": moved("http://127.0.0.1:8000"), "RAFTKV_ENDPOINT": moved("http://127.0.0.1:8080")}
    with tempfile.TemporaryFile("w+") as output:
        # Not a pipe: what a command starts in the background holds it open.
        shell = subprocess.Popen(["bash", "-c", "\n".join(script)], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                 env=environment, cwd=directory if given.type == "local" else None, start_new_session=True)
        ended.append(shell.pid)
        try:
            shell.wait(BLOCK_TIMEOUT)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        output.seek(0)
        printed = output.read()
    runs = {int(number): (text, code) for number, text, code in re.findall(rf"{MARK}(\d+)\n(.*?){MARK}code (\d+)\n", printed, re.DOTALL)}
    for number, command, expected in typed:
        where = f"{page}:{number}"
        if number not in runs:
            fail(where, f"it did not end within {BLOCK_TIMEOUT} s" if late else "the shell ended before it", command=command, printed=printed)
        text, code = runs[number]
        missing = differs(text, expected)
        if code != "0" or missing:
            fail(where, f"it prints no {missing}" if missing else f"it ended with {code}", command=command, printed=text)
    return len(typed)


def check_usage(page, first, lines, given):
    """Whether programs take the arguments of these commands, which name what is not here."""
    nowhere = {"RAFTKV_ENDPOINT": "127.0.0.1:9", "RAFTKV_MANAGEMENT": "127.0.0.1:9", "RAFTKV_ROUTER_ENDPOINT": "127.0.0.1:9"}
    typed = typed_commands(first, lines)
    for number, command, _ in typed:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            done = subprocess.run(["make", "--dry-run", *words[1:]], capture_output=True, text=True, check=False)
            wrong = done.returncode != 0
        elif words[0] == "raftkv":
            # One that asks whether it is meant finds nobody here.
            yes = ["--yes"] if words[1:3] == ["node", "kill"] else []
            try:
                done = subprocess.run([f"{given.bin}/raftkv", *words[1:], *yes], capture_output=True, text=True, check=False,
                                      timeout=USAGE_TIMEOUT, stdin=subprocess.DEVNULL, env={**os.environ, **nowhere})
                wrong = done.returncode == EXIT_USAGE
            except subprocess.TimeoutExpired:
                # It is looking for a server, so it has taken its arguments.
                wrong = False
        else:
            fail(f"{page}:{number}", "only commands of raftkv and make can be checked for their usage", command=command)
        if wrong:
            fail(f"{page}:{number}", "these arguments are not taken", command=command, printed=done.stderr)
    return len(typed)


def type_pages(given, moved):
    ran = 0
    for page in given.pages:
        ended, left = [], 0
        with tempfile.TemporaryDirectory() as directory:
            try:
                for first, kind, word, lines in blocks(page.read_text(), ("sh", "toml")):
                    if kind == "toml":
                        if word:
                            pathlib.Path(directory, word).write_text(moved("\n".join(lines)).replace("/tmp/raftkv", f"{directory}/data") + "\n")
                    elif word == "usage":
                        ran += check_usage(page, first, lines, given)
                    elif word:
                        sys.exit(f"{page}:{first}: sh {word}: no such word")
                    else:
                        count = type_block(page, first, lines, given, moved, directory, ended)
                        ran += count or 0
                        left += count is None
            finally:
                for session in ended:
                    try:
                        os.killpg(session, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        if left:
            print(f"note  {left} blocks of {page.name} need Docker")
    return ran


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", choices=PHASES, default="before")
    parser.add_argument("--type", choices=("compose", "local"))
    parser.add_argument("--bin", default="target/release", type=lambda path: str(pathlib.Path(path).resolve()), metavar="DIR")
    parser.add_argument("--at", action="append", default=[], metavar="PORT=HOST:PORT")
    parser.add_argument("pages", nargs="+", type=pathlib.Path, metavar="PAGE")
    given = parser.parse_args()
    addresses = dict(at.split("=", 1) for at in given.at)

    def moved(text):
        return re.sub(r"\b127\.0\.0\.1:(\d+)", lambda m: addresses.get(m[1], m[0]), text)

    ran = type_pages(given, moved) if given.type else run_examples(given, moved)
    # A page whose examples are not found must not pass for one whose examples are right.
    if ran == 0:
        sys.exit("no examples were found")
    what = f"typed with {given.type}" if given.type else f"{given.phase} the restart"
    print(f"ok    {ran} examples of {' '.join(page.name for page in given.pages)} ({what}) print what they should")


if __name__ == "__main__":
    main()
