# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests reached, by gcovr: percentages per room, functions and lines that nothing reached.

    python3 tests/coverage.py --build build/coverage [--rooms engine/smtp,ring]

Reads the counters in the build tree, so run the programs first (`make coverage` does). Assertions
are left out: a line with ASSERT() in it counts as reached when it was, but not its branches, and
what only reports a broken one does not count at all: nothing can reach it. Status 1 when gcovr
fails.
"""
import argparse
import json
import os
import subprocess
import sys

ROOMS = ["ring", "tls", "engine/smtp", "engine/session", "engine/upstream", "engine/hook", "engine/conf",
         "engine/obs", "engine/core"]
DETAILED = ["engine/smtp", "engine/session", "ring", "tls"]
ASSERTIONS = r".*\bASSERT\("
NEVER = r".*(base_assert_failed\(|assertion failed: %s|\babort\(\);)"
HARDLY = 0.2  # of a file's lines: below, they are not listed one by one


def read(build):
    """gcovr's JSON: one entry for each file, with its lines and their branches."""
    command = ["gcovr", "--root", ".", "--object-directory", build, "--filter", "ring/",
               "--filter", "tls/", "--filter", "engine/", "--exclude-throw-branches", "--exclude-unreachable-branches",
               "--exclude-branches-by-pattern", ASSERTIONS, "--exclude-lines-by-pattern", NEVER,
               "--json", "-", build]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(1)
    return json.loads(done.stdout)["files"]


def room_of(path):
    return os.path.dirname(path)


def counted(lines):
    return [line for line in lines if not line.get("gcovr/noncode") and not line.get("gcovr/excluded")]


def branches_of(lines):
    return [branch for line in lines for branch in line["branches"]]


def percent(part, whole):
    return f"{100 * part / whole:6.1f}" if whole else "     -"


def table(files):
    print("assertions are left out\n")
    print(f"{'room':<18} {'lines':>6} {'reached %':>10} {'branches':>9} {'reached %':>10}")
    for room in ROOMS:
        lines = counted(line for f in files if room_of(f["file"]) == room for line in f["lines"])
        branches = branches_of(lines)
        print(f"{room:<18} {len(lines):>6} {percent(sum(line['count'] > 0 for line in lines), len(lines)):>10}"
              f" {len(branches):>9} {percent(sum(b['count'] > 0 for b in branches), len(branches)):>10}")


def ranges(numbers):
    """1,2,3,7 as "1-3 7"."""
    out = []
    for n in sorted(numbers):
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def unreached(entry):
    """Lines, and lines with a branch never taken, of one file."""
    lines = counted(entry["lines"])
    missed = [line["line_number"] for line in lines if line["count"] == 0]
    halves = [line["line_number"] for line in lines
              if line["count"] > 0 and any(b["count"] == 0 for b in line["branches"])]
    functions = [f["name"] for f in entry.get("functions", [])
                 if f.get("execution_count") == 0 and f["name"] != "base_assert_failed"]
    return missed, halves, functions


def details(files, rooms):
    print("\nnot reached:")
    for entry in sorted(files, key=lambda f: f["file"]):
        if room_of(entry["file"]) not in rooms:
            continue
        missed, halves, functions = unreached(entry)
        whole = len(counted(entry["lines"]))
        if whole and len(missed) > (1 - HARDLY) * whole:
            print(f"  {entry['file']}: {len(missed)} of {whole} lines")
            continue
        for what, found in (("functions", " ".join(sorted(functions))), ("lines", ranges(missed)),
                            ("a branch of", ranges(halves))):
            if found:
                print(f"  {entry['file']}: {what} {found}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--rooms", default=",".join(DETAILED), help="rooms to list in detail")
    args = parser.parse_args()
    files = read(args.build)
    table(files)
    details(files, args.rooms.split(","))


if __name__ == "__main__":
    main()
