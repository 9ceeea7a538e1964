# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost and its peers, side by side on the same work.

Each run is one scenario with one peer, freshly started: the proxy on one core, load and sink on another. All peers of a
scenario run one after the other, then the next scenario; then the whole again (--rounds), so that a drift of the machine hits
all alike. One JSON line a run; from them a table (Markdown) and plots. How to read them: bench/README.md.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time

import far
import group
import idle
import machine
import measure
import plots
import report
from check import check_all
from peers import PEERS, Command
from scenarios import FAR, IDLE, LOAD, RATE, SCENARIOS


def choose(all_of_them, wanted, what, quick):
    names, wanted = {x.name: x for x in all_of_them}, list(dict.fromkeys(wanted))
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


def commands(words_of_them):
    """Peers by their command lines."""
    found = {}
    for words in words_of_them:
        name, _, command = words.partition("=")
        if not NAME.fullmatch(name) or not command or name in found or any(p.name == name for p in PEERS):
            sys.exit("--peer takes NAME=COMMAND, with a name of its own: " + words)
        found[name] = Command(name, command)
    return list(found.values())


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
    p.add_argument("--proxy-cpu", type=int, help="default: the first that may be used")
    p.add_argument("--load-cpu", type=int, help="default: of another core, near the proxy's")
    o = p.parse_args()
    if o.rounds < 1 or o.stretch <= 0:
        p.error("--rounds and --stretch are more than 0")
    return o


def runs(scenarios, peers, rounds, quick):
    def most(s):
        return min(n for n in (rounds, s.rounds, s.quick_rounds if quick else 0) if n)
    for r in range(rounds):
        for s in (s for s in scenarios if r < most(s)):
            for p in peers:
                if not p.unfit(s):
                    yield r, s, p


def brief(result):
    if "failed" in result:
        return result["failed"].splitlines()[0][:100]
    if "cpu_ms" in result:
        return "%.4f ms  %.0f/s" % (result["cpu_ms"], result["rate"])
    return "%.2f KiB each, %.2f of it the peer's own" % (result["all_kib"], result["user_kib"])


NAME = re.compile(r"[A-Za-z0-9._-]+")  # of a peer: in names of control groups, columns, pictures
KINDS = {LOAD: measure.run, RATE: measure.run, IDLE: idle.run, FAR: far.run}



def one_run(peer, scenario, o):
    """A record. What goes wrong with one run is not to cost the others theirs."""
    try:
        return KINDS[scenario.kind](peer, scenario, o)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as e:
        return {"failed": "%s: %s" % (type(e).__name__, e)}


def fresh(folder):
    """The path for the runs; those of the last measurement are kept beside it."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "runs.jsonl")
    if os.path.exists(path):
        os.replace(path, os.path.join(folder, "runs.before.jsonl"))
    return path


def main():
    machine.end_by_signals()
    o = arguments()
    if not os.access(o.build + "/ringpost-sink", os.X_OK):
        sys.exit("there are no programs in %s: `make` builds them" % o.build)
    o.proxy_cpu, o.load_cpu = machine.pair(o.proxy_cpu, o.load_cpu)
    machine.isolate()
    machine.raise_descriptors()
    group.remove_orphans()
    scenarios = possible(choose(SCENARIOS, o.scenarios, "scenario", o.quick), o)
    wanted = choose(PEERS, o.peers, "peer", o.quick) + commands(o.peer)
    peers = present(wanted)
    if o.check:
        wrong = check_all(scenarios, peers, o)
        sys.exit(1 if wrong or (o.peers and len(peers) < len(wanted)) else 0)
    path = fresh(o.out)
    with open(path, "w") as f:
        def put(line):
            f.write(json.dumps(line) + "\n")
            f.flush()
        put({**machine.describe(o.proxy_cpu, o.load_cpu), "peers": {p.name: p.version(o.build) for p in peers}})
        todo = list(runs(scenarios, peers, o.rounds, o.quick))
        began = time.monotonic()
        for i, (r, s, p) in enumerate(todo):
            result = one_run(p, s, o)
            put({"ev": "run", "round": r, "scenario": s.name, "peer": p.name, **result})
            left = (time.monotonic() - began) / (i + 1) * (len(todo) - i - 1)
            print("%3d/%d %-14s %-14s %s  %.0f s left" % (i + 1, len(todo), s.name, p.name, brief(result), left), flush=True)
    plots.write(path, o.out)
    report.write(path, o.out)


if __name__ == "__main__":
    main()
