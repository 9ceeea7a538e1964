# SPDX-License-Identifier: GPL-3.0-or-later
"""Two measurements, on different days or machines: do they agree in their ratios to ringpost?"""
import statistics
from dataclasses import dataclass
from typing import Optional

from results import DIRECT, RINGPOST, of_sessions
from tables import percent, prose, table, times

WITHIN = 0.10  # ratios that differ by less say the same
NOTE = """
Each peer over ringpost (CPU per message; all memory of an idle session), taken within each round, then the median. The noise
is the sum of the two ratios' spreads (half of the range over the median), each at least the typical one of its measurement:
what the two may differ by."""


@dataclass(frozen=True)
class Pair:
    """One ratio to ringpost in two measurements. `noise` is what both spreads allow them to differ; None: unknown."""
    scenario: str
    peer: str
    a: float
    b: float
    noise: Optional[float]

    @property
    def quotient(self):
        return self.b / self.a

    @property
    def apart(self):
        """How far, the same whichever of the two is named first."""
        return max(self.quotient, 1 / self.quotient) - 1

    @property
    def in_noise(self):
        return None if self.noise is None else self.apart <= self.noise


def ratios(res):
    """{(scenario, peer): ratio to ringpost}: CPU of messages, memory of idle sessions."""
    found = {}
    for s in res.scenarios():
        name = "all_kib" if of_sessions(s) else "cpu_ms"
        for p in res.peers([s]):
            ratio = res.ratio(s, p, RINGPOST, name) if p not in (RINGPOST, DIRECT) else None
            if ratio and ratio.median > 0:
                found[s, p] = ratio
    return found


def typical_noise(samples):
    """The middle one of their spreads; None when none has one."""
    known = [s.noise for s in samples if s.noise is not None]
    return statistics.median(known) if known else None


def stated_noise(sample, typical):
    """Three runs may lie close together by chance: no spread counts for less than the typical one of its measurement."""
    return typical if sample.noise is None or typical is None else max(sample.noise, typical)


def way_of_counting(res, scenario, peer):
    """Of the kernel's memory: figures that were had in different ways do not compare."""
    return {r.get("kernel_from") for r in res.used(scenario, peer)}


def pairs(a, b):
    """All ratios that both have, of figures that were had in the same way."""
    of_a, of_b = ratios(a), ratios(b)
    typical_a, typical_b = typical_noise(of_a.values()), typical_noise(of_b.values())
    found = []
    for (s, p), x in of_a.items():
        y = of_b.get((s, p))
        if y and way_of_counting(a, s, p) == way_of_counting(b, s, p):
            noise = [stated_noise(x, typical_a), stated_noise(y, typical_b)]
            found.append(Pair(s, p, x.median, y.median, None if None in noise else sum(noise)))
    return found


def agreement(found, within):
    """The summary, in a line."""
    if not found:
        return "Nothing to compare: no ratio is in both."
    apart = sorted(p.apart for p in found)
    judged = [p for p in found if p.in_noise is not None]
    worst = max(found, key=lambda p: p.apart)
    nine_of_ten = apart[min(len(apart) - 1, int(len(apart) * 0.9))]
    return ("%d of %d ratios agree within %s %%; %d of %d within their own noise. " % (
                sum(x <= within for x in apart), len(found), percent(within), sum(p.in_noise for p in judged), len(judged)) +
            "Half of them within %s %%, nine of ten within %s %%; furthest apart: %s, %s, by %s %%." % (
                percent(statistics.median(apart)), percent(nine_of_ten), worst.scenario, worst.peer, percent(worst.apart)))


def compare(a, b, within=WITHIN):
    found = pairs(a, b)
    words = {True: "yes", False: "NO", None: "-"}
    rows = [[p.scenario, p.peer, times(p.a), times(p.b), "%.2f" % p.quotient, percent(p.noise), words[p.in_noise],
             words[p.apart <= within]] for p in found]
    machines = [[name, res.machine.get("date", "?"), res.machine.get("cpu", "?"), res.machine.get("kernel", "?"), res.rounds()]
                for name, res in (("A", a), ("B", b))]
    return "\n\n".join([
        "# Do two measurements agree?", table(["", "date", "CPU", "kernel", "rounds"], machines, left=4),
        prose(NOTE),
        table(["scenario", "peer", "A", "B", "B/A", "noise ±%", "in noise", "within %s %%" % percent(within)], rows, left=2),
        prose(agreement(found, within))]) + "\n"
