# SPDX-License-Identifier: GPL-3.0-or-later
"""A ringpost with one hook, as a peer of bench/compare, and what has to hold of it whatever the times are."""
import statistics

import machine
from peers import Ringpost
from stand import Stand, send

PROXY_CPU, LOAD_CPU = machine.pair()
PATIENCE_S = 120
FAILINGS = ("hook_failures", "hook_deadlines", "hook_refusals", "hook_late_answers")

wrong = []  # what is not as it has to be, times apart


def check(holds, what):
    if not holds:
        wrong.append(what)
        print("WRONG: " + what, flush=True)


def plugin(name, mode, options="{}"):
    """One of tests/plugins as a hook, in YAML."""
    return "{type: plugin, file: '@BUILD@/tests/plugins/%s.so', mode: %s, deadline: 60s, options: %s}" % (name, mode, options)


class Hooked(Ringpost):
    """`hook`: YAML, with @BUILD@ for the folder of what was built; empty: no hook. `options`: further lines."""

    def __init__(self, hook, name="hooked", options=""):
        self.name, self.options = name, options
        self._hook = hook

    def hook(self, place):
        return self._hook.replace("@BUILD@", place.build)


def stand_with(build, peer):
    return Stand(peer, build, PROXY_CPU, LOAD_CPU)


def end(stand):
    """Ends the ringpost: its last record, and its hook's, with no failing in them."""
    records = stand.peer.last_records(stand.place)
    for counter in FAILINGS:
        check(records["stop"][counter] == 0, "%s: %s = %d" % (stand.peer.name, counter, records["stop"][counter]))
    return records["stop"], records.get("hook-counters", {})


def all_accepted(report, messages):
    check(report["accepted"] == messages, "%d of %d messages were accepted" % (report["accepted"], messages))
    return report


def load(stand, words, messages):
    """A whole load; its report."""
    return all_accepted(send(stand, words.split() + ["--messages", str(messages)], PATIENCE_S), messages)


def cpu_us(stand):
    return stand.place.cpu_s()[0] * 1e6


def spread(values, form):
    """Median and range."""
    return (form + " (" + form + ".." + form + ")") % (statistics.median(values), min(values), max(values))
