#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planted defects: is the oracle strong enough?

Each row below is a defect as somebody might make it: a small change of one place in the engine. For
each the simulator is built with it, in a copy of the tree, and run until it finds something broken.
A row that is not found, that no longer applies, or that does not compile is a failure.

  tests/sim/mutants.py --build build/asan [--seconds 300] [--jobs 2] [name ...]

Prints one line for each: name, the invariant that told, the worlds it took. Status 1 when one
survives.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time

from mutants_table import MUTANTS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TREES = ["ring", "engine", "tls", "tests/sim", "Makefile", ".clang-format"]
WOLFSSL = os.path.abspath(os.environ.get("WOLFSSL") or os.path.join(ROOT, "build", "wolfssl"))  # the one of the tree


class Bench:
    """A copy of the tree with its objects, so that a mutant costs one file and one link."""

    def __init__(self, build, number):
        self.dir = os.path.join(ROOT, "build", "mutants", str(number))
        self.build = build
        shutil.rmtree(self.dir, ignore_errors=True)
        for name in TREES + [build]:
            source, target = os.path.join(ROOT, name), os.path.join(self.dir, name)
            if not os.path.exists(source):
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            # cp keeps the times: make must find everything up to date.
            subprocess.run(["cp", "-a", source, target], check=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def make(self):
        mode = os.path.basename(self.build)
        return subprocess.run(
            ["make", "-s", f"MODE={mode}", f"B={self.build}", f"WOLFSSL={WOLFSSL}", f"{self.build}/ringpost-sim"],
            cwd=self.dir, capture_output=True, text=True)

    def run(self, seconds):
        return subprocess.run(
            [self.path(f"{self.build}/ringpost-sim"), "--seeds", "1", "1000000", "--seconds",
             str(seconds), "--failures", "1", "--jobs", "1", "--twice", "0", "--no-shrink",
             "--quiet"],
            cwd=self.dir, capture_output=True, text=True, errors="replace",
            timeout=seconds + 120)


def plant(bench, mutant):
    """Changes the source; returns the original text, None when the place is not there once."""
    path = bench.path(mutant["file"])
    with open(path) as f:
        text = f.read()
    if text.count(mutant["old"]) != 1:
        return None
    with open(path, "w") as f:
        f.write(text.replace(mutant["old"], mutant["new"]))
    return text


def reap(bench, mutant, text):
    with open(bench.path(mutant["file"]), "w") as f:
        f.write(text)


def examine(bench, mutant, seconds):
    """(caught, what to say)"""
    text = plant(bench, mutant)
    if text is None:
        return False, f"does not apply to {mutant['file']}"
    try:
        made = bench.make()
        if made.returncode:
            return False, "does not compile: " + made.stderr.strip()[-300:]
        ran = bench.run(seconds)
    except subprocess.TimeoutExpired:
        return False, "the simulator did not end in time"
    finally:
        reap(bench, mutant, text)
    told = re.search(r"^# seed (\d+) broke (I\d+): [^\n]*\n#   ([^\n]*)", ran.stdout, re.M)
    if ran.returncode == 1 and told:
        why = told.group(3)
        said = re.search(r"(assertion failed: [^\n]{0,70}|ERROR: AddressSanitizer: \S+|runtime error: [^\n]{0,60})",
                         ran.stderr)
        return True, f"{told.group(2)} seed {told.group(1)}: {(said.group(1) if said else why)[:110]}"
    worlds = re.search(r"^# (\d+) sessions in (\d+) worlds", ran.stdout, re.M)
    return False, f"SURVIVED {worlds.group(2) if worlds else '?'} worlds"


def main():
    p = argparse.ArgumentParser(description="planted defects against the simulator")
    p.add_argument("--build", default="build/asan")
    p.add_argument("--seconds", type=int, default=300)
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    p.add_argument("names", nargs="*")
    args = p.parse_args()
    todo = [m for m in MUTANTS if not args.names or m["name"] in args.names]
    unknown = set(args.names) - {m["name"] for m in MUTANTS}
    if unknown:
        sys.exit("no such mutant: " + ", ".join(sorted(unknown)))
    total, queue, survived = len(todo), list(todo), []
    lock = threading.Lock()

    def work(number):
        bench = Bench(args.build, number)
        while True:
            with lock:
                if not queue:
                    return
                mutant = queue.pop(0)
            began = time.monotonic()
            caught, text = examine(bench, mutant, args.seconds)
            with lock:
                if not caught:
                    survived.append(mutant["name"])
                print(f"{'caught  ' if caught else 'NOT     '} {mutant['name']:<28} {text} "
                      f"({time.monotonic() - began:.0f} s)", flush=True)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(min(args.jobs, total))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(f"{total - len(survived)} of {total} planted defects caught")
    for name in survived:
        print(f"  not caught: {name}")
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
