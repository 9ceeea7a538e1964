# SPDX-License-Identifier: GPL-3.0-or-later
"""One session in a thousand waits for its hook: do the others notice?"""
import contextlib
import statistics
import time

from hooked import PATIENCE_S, Hooked, all_accepted, check, end, load, plugin, spread, stand_with
from stand import Load

POINTS = ("p50", "p90", "p99", "p999", "max")


def begin(stand, rate, messages, *more):
    """By schedule, a new connection each. The connections are enough for those that wait."""
    return Load(stand, ["--connections", "1000", "--per-connection", "1", "--size", "4k", "--rate", "%g" % rate,
                        "--messages", str(messages)] + list(more), marks=False)


def slice_of_load(a, stand, ones, most):
    """Others by schedule and one in a thousand beside them. Their report, that of the one, the most threads."""
    count = int(a.rate * a.seconds)
    loads = []
    try:
        loads.append(begin(stand, a.rate / 1000, ones, "--rcpt", "slow@sink.example"))
        loads.append(begin(stand, a.rate, count))
        while any(one.p.poll() is None for one in loads):
            most = max(most, stand.place.group.threads())
            time.sleep(0.05)
        slow, fast = (one.report(PATIENCE_S) for one in loads)
    finally:
        for one in loads:
            one.kill()
    return all_accepted(fast, count), all_accepted(slow, ones), most


def ended(name, stand, asked):
    _, counters = end(stand)
    check(counters["asked"] == asked, "%s: %d questions waited, not %d" % (name, counters["asked"], asked))


def others(a):
    ones = max(int(a.rate * a.seconds / 1000), 1)
    stands, first, most = {}, {}, {}
    results, slow = {"without": [], "with": []}, []
    with contextlib.ExitStack() as up:
        for name, ms in (("without", 0), ("with", a.slow_ms)):
            hook = plugin("later", "stream", "{at: rcpt, only: slow@sink.example, ms: '%d'}" % ms)
            stands[name] = up.enter_context(stand_with(a.build, Hooked(hook, name)))
            load(stands[name], "--connections 64 --per-connection 1 --size 4k", int(a.rate))  # warm
            first[name] = most[name] = stands[name].place.group.threads()
        for _ in range(a.slices):
            for name, stand in stands.items():
                fast, one, most[name] = slice_of_load(a, stand, ones, most[name])
                results[name].append(fast["latency_us"])
                if name == "with":
                    slow.append(one["latency_us"])
        for name, stand in stands.items():
            ended(name, stand, ones * a.slices)
            check(most[name] == first[name], "%s: %d threads, then %d" % (name, first[name], most[name]))
    show(a, results, slow, first, most)
    return {"latency_us": results, "slow_latency_us": slow, "threads_before": first, "threads_most": most}


def show(a, results, slow, first, most):
    print("pending: 1 of 1,000 sessions waits %.1f s at RCPT; the others, %g a second by schedule, a new connection each: us, "
          "medians (range) of %d slices of %g s" % (a.slow_ms / 1000, a.rate, a.slices, a.seconds))
    print("%-10s" % "" + "".join("%-24s" % p for p in POINTS) + "threads before, most")
    for name, slices in results.items():
        print("%-10s" % name + "".join("%-24s" % spread([s[p] for s in slices], "%.0f") for p in POINTS) +
              "%d, %d" % (first[name], most[name]))
    print("the ones that wait: p50 %.2f s, longest %.2f s" % (
        statistics.median(s["p50"] for s in slow) / 1e6, max(s["max"] for s in slow) / 1e6), flush=True)
