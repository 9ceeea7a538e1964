# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost by itself on loopback: what hooks cost.

cost     CPU time of ringpost per message, for no hook and for each kind of hook: 4 KB messages on kept connections,
         lock-step and pipelined. Each row of each round is a fresh ringpost (one worker on a CPU of its own); sink, blast and the
         policy server are on another, and their CPU time is not counted. Rounds are interleaved. The ratio is taken within
         each round, so drift of the machine cancels; shown are medians with their range.
pending  A plugin that takes its time over one session in a thousand: latencies of the others, with and without, by turns.
         Then many sessions that all wait at once: memory of each, threads, what became of them.

Times are to be read with a quiet machine only. What is no time (all answered, nobody refused, hooks were asked, threads) is
checked, and status 1 when it is not so. The set-up is that of bench/compare: its Stand, its peer ringpost, its control groups.
"""
import argparse
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(1, os.path.join(os.path.dirname(HERE), "compare"))

import group  # noqa: E402
import machine  # noqa: E402
from at_once import all_at_once  # noqa: E402
from cost import cost  # noqa: E402
from hooked import LOAD_CPU, PROXY_CPU, wrong  # noqa: E402
from others import others  # noqa: E402
from stand import Failed  # noqa: E402


def arguments():
    p = argparse.ArgumentParser(prog="bench/hooks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("mode", nargs="*", choices=[[], "cost", "pending"], help="both when none is given")
    p.add_argument("--build", default="build/release")
    p.add_argument("--rounds", type=int, default=5, help="cost")
    p.add_argument("--messages", type=int, default=10000, help="cost: of each row, pattern and round")
    p.add_argument("--slices", type=int, default=3, help="pending: with and without, of each")
    p.add_argument("--rate", type=float, default=1000, help="pending: messages a second")
    p.add_argument("--seconds", type=float, default=5, help="pending: of each slice")
    p.add_argument("--slow-ms", type=int, default=5000, help="pending: what the one in a thousand waits")
    p.add_argument("--sessions", type=int, default=10000, help="pending: sessions that all wait")
    p.add_argument("--hold-ms", type=int, default=10000, help="pending: how long")
    p.add_argument("--json", metavar="FILE", help="all results")
    return p.parse_args()


def measure(a):
    out = {}
    if "cost" in a.mode or not a.mode:
        out["cost"] = cost(a)
    if "pending" in a.mode or not a.mode:
        out["others"], out["all_at_once"] = others(a), all_at_once(a)
    return out


def main():
    machine.end_by_signals()
    a = arguments()
    machine.isolate()
    machine.raise_descriptors()
    group.remove_orphans()
    print("CPU %d: ringpost, CPU %d: all else; Linux %s; load of the machine before: %s" % (
        PROXY_CPU, LOAD_CPU, os.uname().release, " ".join("%.2f" % x for x in os.getloadavg())), flush=True)
    try:
        out = measure(a)
    except Failed as e:
        sys.exit(str(e))
    if a.json:
        with open(a.json, "w") as f:
            json.dump(dict(out, wrong=wrong), f, indent=1)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
