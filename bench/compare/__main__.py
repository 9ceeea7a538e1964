# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost and its peers, side by side on the same work.

Each run is one scenario with one peer, freshly started: the proxy on one core, load and sink on another. All peers of a
scenario run one after the other, then the next scenario; then the whole again (--rounds), so that a drift of the machine hits
all alike. One JSON line a run; from them a table (Markdown) and plots. How to read them: bench/README.md.
"""
import argparse
import json
import os
import sys
import time

import idle
import machine
import measure
from peers import PEERS, Command
from scenarios import IDLE, LOAD, RATE, SCENARIOS


def choose(all_of_them, wanted, what):
    names = {x.name: x for x in all_of_them}
    unknown = [w for w in wanted if w not in names]
    if unknown:
        sys.exit("no such %s: %s (there are: %s)" % (what, ", ".join(unknown), " ".join(names)))
    return [names[w] for w in wanted] if wanted else list(all_of_them)


def arguments():
    p = argparse.ArgumentParser(prog="bench/compare", description=__doc__.split("\n")[0])
    p.add_argument("--build", default="build/release")
    p.add_argument("--out", default="build/bench", help="folder of the results")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--quick", action="store_true", help="the scenarios and peers of the quick set")
    p.add_argument("--scenarios", nargs="+", default=[], metavar="NAME")
    p.add_argument("--peers", nargs="+", default=[], metavar="NAME")
    p.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND",
                   help="one more: its command line with {host} {port} {upstream_host} {upstream_port} {dir}")
    p.add_argument("--stretch", type=float, default=1, help="windows so many times as long")
    p.add_argument("--proxy-cpu", type=int, default=0)
    p.add_argument("--load-cpu", type=int, default=1)
    return p.parse_args()


def runs(scenarios, peers, rounds):
    for r in range(rounds):
        for s in scenarios:
            for p in peers:
                if not p.unfit(s):
                    yield r, s, p


KINDS = {LOAD: measure.run, RATE: measure.run, IDLE: idle.run}


def in_words(result):
    if "failed" in result:
        return result["failed"]
    if "cpu_ms" in result:
        return "%.4f ms  %.0f/s" % (result["cpu_ms"], result["rate"])
    return "%.2f KiB each, %.2f of it the peer's own" % (result["all_kib"], result["user_kib"])


def main():
    machine.isolate()
    o = arguments()
    machine.raise_descriptors()
    scenarios = [s for s in choose(SCENARIOS, o.scenarios, "scenario") if s.kind in KINDS]
    peers = choose(PEERS, o.peers, "peer") + [Command(*words.split("=", 1)) for words in o.peer]
    os.makedirs(o.out, exist_ok=True)
    path = os.path.join(o.out, "runs.jsonl")
    with open(path, "w") as f:
        def put(line):
            f.write(json.dumps(line) + "\n")
            f.flush()
        put({**machine.describe(), "peers": {p.name: p.version() for p in peers}})
        todo = list(runs(scenarios, peers, o.rounds))
        began = time.monotonic()
        for i, (r, s, p) in enumerate(todo):
            result = KINDS[s.kind](p, s, o)
            put({"ev": "run", "round": r, "scenario": s.name, "peer": p.name, **result})
            left = (time.monotonic() - began) / (i + 1) * (len(todo) - i - 1)
            print("%3d/%d %-14s %-14s %s  %.0f s left" % (i + 1, len(todo), s.name, p.name, in_words(result), left), flush=True)


if __name__ == "__main__":
    main()
