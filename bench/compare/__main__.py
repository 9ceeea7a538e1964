# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost and its peers, side by side on the same work.

Each run is one scenario with one peer, freshly started: the proxy on one core, load and sink on another. All peers of a
scenario run one after the other, then the next scenario; then the whole again (--rounds), so that a drift of the machine hits
all alike. One JSON line a run; from them a table (Markdown) and plots. How to read them: bench/README.md.
"""
import argparse
import json
import os
import signal
import sys
import time

import far
import idle
import machine
import measure
import plots
import report
from check import check_all
from peers import PEERS, Command
from scenarios import FAR, IDLE, LOAD, RATE, SCENARIOS


def choose(all_of_them, wanted, what, quick):
    names = {x.name: x for x in all_of_them}
    unknown = [w for w in wanted if w not in names]
    if unknown:
        sys.exit("no such %s: %s (there are: %s)" % (what, ", ".join(unknown), " ".join(names)))
    return [names[w] for w in wanted] if wanted else [x for x in all_of_them if x.quick or not quick]


def present(peers):
    """Those that are here; the others are said."""
    for p in peers:
        if p.missing():
            print("left out: %s: %s" % (p.name, p.missing()), flush=True)
    return [p for p in peers if not p.missing()]


def possible(scenarios, o):
    """Those that this machine can do; why not the others is said."""
    lacks = far.missing(o) if any(s.kind == FAR for s in scenarios) else []
    for words in lacks:
        print("left out: the far network: %s" % words, flush=True)
    return [s for s in scenarios if s.kind != FAR or not lacks]


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
    p.add_argument("--check", action="store_true", help="measure nothing: does each peer bring whole messages to the sink?")
    p.add_argument("--stretch", type=float, default=1, help="windows so many times as long")
    p.add_argument("--proxy-cpu", type=int, default=0)
    p.add_argument("--load-cpu", type=int, default=1)
    return p.parse_args()


def runs(scenarios, peers, rounds):
    for r in range(rounds):
        for s in (s for s in scenarios if not s.rounds or r < s.rounds):
            for p in peers:
                if not p.unfit(s):
                    yield r, s, p


def brief(result):
    if "failed" in result:
        return result["failed"].splitlines()[0][:100]
    if "cpu_ms" in result:
        return "%.4f ms  %.0f/s" % (result["cpu_ms"], result["rate"])
    return "%.2f KiB each, %.2f of it the peer's own" % (result["all_kib"], result["user_kib"])


KINDS = {LOAD: measure.run, RATE: measure.run, IDLE: idle.run, FAR: far.run}


def end(*_):
    sys.exit("ended by a signal")


def main():
    signal.signal(signal.SIGTERM, end)  # as an exception: what was started is taken down
    machine.isolate()
    o = arguments()
    machine.raise_descriptors()
    scenarios = possible(choose(SCENARIOS, o.scenarios, "scenario", o.quick), o)
    peers = present(choose(PEERS, o.peers, "peer", o.quick) + [Command(*words.split("=", 1)) for words in o.peer])
    if o.check:
        sys.exit(1 if check_all(scenarios, peers, o) else 0)
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
            print("%3d/%d %-14s %-14s %s  %.0f s left" % (i + 1, len(todo), s.name, p.name, brief(result), left), flush=True)
    plots.write(path, o.out)
    report.write(path, o.out)


if __name__ == "__main__":
    main()
