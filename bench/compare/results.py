# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of runs and what can be said of it: medians, spreads, ratios and differences taken round by round.

Nothing here prints or draws. A run is disturbed in which others worked on the proxy's core (`foreign` above 10 % of the
window), whose counters were not read at the ends of the load's window (`edge` above 2 % of it), or in which the machine was
slower: load and sink took 10 % more CPU for a message than in another round of the same cell, with as many packets. It is
left out where a clean run of the same scenario and peer exists, and marked where none does. A run that failed has no
figures. A file that was cut short (the measurement was stopped) is read up to its last whole line.
"""
import json
import re
import statistics
from dataclasses import dataclass

RINGPOST, DIRECT = "ringpost", "direct"
# They move bytes and read nothing: with the buffers that they have by default, and with larger ones.
DEFAULT_MOVERS = ("haproxy", "haproxy-splice", "nginx-stream")
MOVERS = DEFAULT_MOVERS + ("haproxy-64k", "nginx-stream-64k")
DISTURBED = 0.10  # of the window: others' work on the proxy's core
LATE = 0.02       # of the window: how much longer or shorter that of the counters may be
# The load's core does the same for each message of a cell. What that costs is told well where it has enough to do.
SLOWER, LOAD_BUSY, SAME_PACKETS = 1.10, 0.5, 0.02
BUSY = 0.95       # a core that is busy for more than this is the limit
PERCENTILES = (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"))
_SIZE = re.compile(r"new-(\d+)([km])$")


class Broken(ValueError):
    """Not a file of results, in words."""


@dataclass(frozen=True)
class Sample:
    """One figure of one cell: its values by round. `disturbed`: no clean run was there."""
    by_round: dict
    disturbed: bool = False

    @property
    def n(self):
        return len(self.by_round)

    @property
    def median(self):
        return statistics.median(self.by_round.values())

    @property
    def low(self):
        return min(self.by_round.values())

    @property
    def high(self):
        return max(self.by_round.values())

    @property
    def noise(self):
        """Half of the range over the median; None where one run, or a median of 0, tells nothing."""
        return (self.high - self.low) / 2 / abs(self.median) if self.n > 1 and self.median else None


def figure(record, name):
    """`latency_us.p99` is looked up in two steps; None when the record has none. `load_ms` is what load and sink took."""
    if name == "load_ms":
        return 1000 * record["busy_load"] / record["rate"] if record.get("rate") and "busy_load" in record else None
    for key in name.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def disturbed(record):
    return record.get("foreign", 0) > DISTURBED or record.get("edge", 0) > LATE


def load_cost(record):
    """CPU of load and sink for a message; None where too little was measured to tell."""
    busy, rate = record.get("busy_load", 0), record.get("rate", 0)
    return busy / rate if rate and busy > LOAD_BUSY else None


def slowed(record, cell):
    """Was the machine slower in this run than in another of its cell? A virtual machine does not see its host's other guests."""
    cost, packets = load_cost(record), record.get("segments")
    if cost is None or not packets:
        return False
    alike = (r for r in cell if load_cost(r) and abs(r.get("segments", 0) / packets - 1) <= SAME_PACKETS)
    return any(cost > SLOWER * load_cost(r) for r in alike)


def clean_runs(cell):
    good = [r for r in cell if "failed" not in r]
    return [r for r in good if not disturbed(r) and not slowed(r, good)]


def sample_of(records, name):
    """Of runs of one cell; None when no run has the figure."""
    good = [r for r in records if "failed" not in r and figure(r, name) is not None]
    clean = clean_runs(good)
    used = clean or good
    return Sample({r["round"]: figure(r, name) for r in used}, not clean) if used else None


def paired(a, b, how):
    """how(a, b) of the values of each round that both have, so that a drift of the machine hits both alike; of the two
    medians when their clean runs are of different rounds. None where it cannot be computed."""
    if not a or not b:
        return None
    rounds = [r for r in a.by_round if r in b.by_round]
    pairs = {r: (a.by_round[r], b.by_round[r]) for r in rounds} or {None: (a.median, b.median)}
    try:
        return Sample({r: how(x, y) for r, (x, y) in pairs.items()}, a.disturbed or b.disturbed)
    except ZeroDivisionError:
        return None


def limit(busy_proxy, busy_load):
    """Which side was the limit: P the proxy's core, L the load's, both, or neither."""
    return ("P" if busy_proxy > BUSY else "") + ("L" if busy_load > BUSY else "")


def group(scenario):
    """Which tables a scenario belongs to: its name's first word, where that has tables of its own."""
    word = scenario.split("-")[0]
    return word if word in ("idle", "rate", "bdat", "far", "tls") else "load"


def of_sessions(scenario):
    """Memory of idle sessions, with or without TLS; others are of messages."""
    return "idle" in scenario.split("-")


def of(*groups):
    return lambda scenario: group(scenario) in groups


def message_bytes(scenario):
    """Of the scenarios that differ in nothing but the size of a message on a new connection; None of others."""
    m = _SIZE.match(scenario)
    return int(m.group(1)) * {"k": 1000, "m": 1000000}[m.group(2)] if m else None


def merged(histograms):
    """[[upper_us, count], ...] of several runs as one."""
    total = {}
    for histogram in histograms:
        for upper, count in histogram:
            total[upper] = total.get(upper, 0) + count
    return sorted(map(list, total.items()))


class Results:
    """One file of runs: `machine` its first line, `runs` the others."""

    def __init__(self, lines):
        self.machine, self.runs, self.cut, self._seen = {}, [], False, set()
        lines = [line for line in lines if line.strip()]
        for i, line in enumerate(lines):
            try:
                record = json.loads(line)
            except ValueError:
                if i + 1 < len(lines):
                    raise Broken("line %d is not JSON" % (i + 1)) from None
                self.cut = True
                break
            self._take(record, i + 1)
        if not self.machine:
            raise Broken("no line that describes the machine")
        self._cells = {}
        for r in self.runs:
            self._cells.setdefault((r["scenario"], r["peer"]), []).append(r)

    def _take(self, record, number):
        kind = record.get("ev") if isinstance(record, dict) else None
        if kind == "machine" and self.machine:
            raise Broken("line %d: a second machine; one file holds one measurement" % number)
        if kind == "machine":
            self.machine = record
        elif kind == "run" and all(k in record for k in ("round", "scenario", "peer")):
            key = record["round"], record["scenario"], record["peer"]
            if key in self._seen:
                raise Broken("line %d: round %s of %s with %s is there twice" % (number, *key))
            self._seen.add(key)
            self.runs.append(record)
        else:
            raise Broken("line %d is neither a machine nor a run" % number)

    def scenarios(self, wanted=lambda name: True):
        """As they were run."""
        return [s for s in dict.fromkeys(r["scenario"] for r in self.runs) if wanted(s)]

    def peers(self, scenarios=None, figure_name=None):
        """As they were run; of these scenarios only, and only who has that figure there."""
        named = dict.fromkeys(r["peer"] for r in self.runs if scenarios is None or r["scenario"] in scenarios)
        if figure_name:
            return [p for p in named if any(self.sample(s, p, figure_name) for s in scenarios or self.scenarios())]
        return list(named)

    def cell(self, scenario, peer):
        return self._cells.get((scenario, peer), [])

    def has_failed(self, scenario, peer):
        return any("failed" in r for r in self.cell(scenario, peer))

    def used(self, scenario, peer):
        """The runs that count for the cell."""
        return clean_runs(self.cell(scenario, peer)) or [r for r in self.cell(scenario, peer) if "failed" not in r]

    def sample(self, scenario, peer, name):
        return sample_of(self.cell(scenario, peer), name)

    def ratio(self, scenario, peer, base, name):
        """The peer's figure over the base's."""
        return paired(self.sample(scenario, peer, name), self.sample(scenario, base, name), lambda x, y: x / y)

    def added(self, scenario, peer, base, name):
        """What the peer's figure has more than the base's."""
        return paired(self.sample(scenario, peer, name), self.sample(scenario, base, name), lambda x, y: x - y)

    def cheapest(self, scenario, peers, name):
        """Who of them has the lowest median, or None."""
        samples = {p: self.sample(scenario, p, name) for p in peers}
        there = [p for p in peers if samples[p]]
        return min(there, key=lambda p: samples[p].median) if there else None

    def histogram(self, scenario, peer):
        return merged(r["histogram"] for r in self.used(scenario, peer) if r.get("histogram"))

    def rounds(self):
        return len({r["round"] for r in self.runs})

    def failed(self):
        return [r for r in self.runs if "failed" in r]

    def disturbed(self):
        return [r for r in self.runs if "failed" not in r and disturbed(r)]

    def slowed(self):
        return [r for cell in self._cells.values() for r in cell if "failed" not in r and not disturbed(r) and slowed(
            r, [x for x in cell if "failed" not in x])]

    def not_accepted(self):
        return [r for r in self.runs if r.get("not_accepted")]


def read(path):
    try:
        with open(path, encoding="utf-8") as f:
            return Results(f.readlines())
    except Broken as e:
        raise Broken("%s: %s" % (path, e)) from None
