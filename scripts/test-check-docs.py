#!/usr/bin/env python3
"""Tests of check-docs.py: it must see what is wrong, and take what is right."""

import pathlib
import subprocess
import sys
import tempfile

SCRIPT = pathlib.Path(__file__).with_name("check-docs.py")
# A page's block, whether it is right, and what is said where it is not.
CASES = [
    ("sh", "echo Hello world     # → hello … world", True, ""),
    ("sh", "echo hello\n# → hello", True, ""),
    ("sh", "word=kept\nfor i in 1 2; do\n    echo $word $i\ndone    # → kept 1 … kept 2", True, ""),
    ("sh", "sleep 60 &\necho started      # → started", True, ""),
    ("sh", "echo hello     # → world", False, "it prints no 'world'"),
    ("sh", "echo b a       # → a … b", False, "it prints no 'b'"),
    ("sh", "echo a\nfalse", False, "it ended with 1"),
    ("sh", "exit 0\necho never", False, "the shell ended before it"),
    ("sh", "curl() { echo HTTP-STATUS 503; }\ncurl http://x", False, "a status below 400"),
    ("sh", "curl() { echo HTTP-STATUS 412; }\ncurl http://x     # → 412, refused", True, ""),
    ("sh", "curl() { echo HTTP-STATUS 200; }\ncurl http://x     # → 412, refused", False, "the status 412"),
    ("sh", "for i in 1 2; do", False, "in the middle of a command"),
    ("sh usage", "make --version", True, ""),
    ("sh usage", "make no-such-target", False, "these arguments are not taken"),
    ("sh usage", "echo hello", False, "only commands of raftkv and make"),
    ("sh nonsense", "echo hello", False, "no such word"),
    ("text", "echo hello", False, "no examples were found"),
    ("sh", "docker ps", False, "no examples were found"),
]


def main():
    with tempfile.TemporaryDirectory() as directory:
        page = pathlib.Path(directory, "page.md")
        for kind, text, right, said in CASES:
            page.write_text(f"# A page\n\n```{kind}\n{text}\n```\n")
            done = subprocess.run([sys.executable, SCRIPT, "--type", "local", page], capture_output=True, text=True, timeout=60, check=False)
            if (done.returncode == 0) != right or said not in done.stderr:
                sys.exit(f"check-docs.py is wrong of {kind!r} {text!r}: code {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"ok    check-docs.py: {len(CASES)} cases")


if __name__ == "__main__":
    main()
