# SPDX-License-Identifier: GPL-3.0-or-later
"""What ringpost set out to reach, and how far a measurement says it is there.

CPU goals are ringpost over the cheapest of those that move bytes and read nothing, however they are tuned; who that is, the
medians of the row say, and the ratio is taken within each round. Large mail is cheaper for them with larger buffers than
they have by default; a row of its own says what ringpost takes of the cheapest with its default ones. With TLS
the one that ends it on the same leg takes the place of those movers.
"""
from dataclasses import dataclass

from results import DEFAULT_MOVERS, MOVERS, RINGPOST, of
from tables import short, table

SMALL_ROWS = ("new-1k", "new-10k", "new-100k", "c1", "c500")  # and all kept-* and rate-*
LARGE_ROWS = ("new-1m", "new-10m")
SMALL_GOAL, LARGE_GOAL = 1.0, 0.55              # of the cheapest byte mover's CPU
USER_GOAL_KIB, ALL_GOAL_KIB, SESSIONS_GOAL = 2.5, 10.5, 100000
TLS_ROWS, TLS_PEER, TLS_GOAL = ("tls-new-10k", "tls-kept-75k"), "nginx-mail", 0.6  # of its CPU
TLS_USER_GOALS_KIB = {"tls-idle-10000": 8, "tls-both-idle-10000": 14}
REACHED, IN_NOISE, MISSED, UNKNOWN = "reached", "reached within the noise", "not reached", "not measured"

NOTE = """
CPU: ringpost over the cheapest byte mover of that row, taken within each round; "default buffers": over the cheapest of those
whose buffers are as they come. Reached: in every run; within the noise: by the median, but not in every run."""


@dataclass(frozen=True)
class Goal:
    what: str
    limit: str
    value: str    # the median, or words
    low: str
    high: str
    n: int
    verdict: str

    def row(self):
        reached = "-" if not self.n else self.low if self.low == self.high else "%s to %s" % (self.low, self.high)
        return [self.what, self.verdict, self.limit, self.value, reached, self.n or "-"]


def verdict(sample, most):
    """Reached: in every round. Within the noise: by the median, but not by every round."""
    if sample.median > most:
        return MISSED
    return REACHED if sample.high <= most else IN_NOISE


def without_figure(what, limit, failed):
    """Not run is unknown; what could not be run is not reached."""
    return Goal(what, limit, "failed" if failed else "-", "", "", 0, MISSED if failed else UNKNOWN)


def at_most(what, sample, most, text, failed=False):
    if not sample:
        return without_figure(what, "≤ " + text(most), failed)
    star = "*" if sample.disturbed else ""
    return Goal(what, "≤ " + text(most), text(sample.median) + star, text(sample.low), text(sample.high), sample.n,
                verdict(sample, most))


def cpu_goal(res, scenario, most, movers=MOVERS, which=""):
    mover = res.cheapest(scenario, movers, "cpu_ms")
    sample = res.ratio(scenario, RINGPOST, mover, "cpu_ms") if mover else None
    return at_most("CPU, %s%s: of %s" % (scenario, which, mover or "the cheapest byte mover"), sample, most, lambda x: "%.3f" % x,
                   res.has_failed(scenario, RINGPOST))


def large_goals(res, scenario):
    yield cpu_goal(res, scenario, LARGE_GOAL)
    if res.cheapest(scenario, MOVERS, "cpu_ms") not in DEFAULT_MOVERS + (None,):
        yield cpu_goal(res, scenario, LARGE_GOAL, DEFAULT_MOVERS, ", default buffers")


def tls_goals(res):
    """Beside the one that ends TLS on the same leg; memory by itself."""
    for s in res.scenarios(lambda s: s in TLS_ROWS):
        yield at_most("CPU, %s: of %s" % (s, TLS_PEER), res.ratio(s, RINGPOST, TLS_PEER, "cpu_ms"), TLS_GOAL,
                      lambda x: "%.3f" % x, res.has_failed(s, RINGPOST))
    for s in res.scenarios(lambda s: s in TLS_USER_GOALS_KIB):
        yield at_most("user memory of a session, %s, KiB" % s, res.sample(s, RINGPOST, "user_kib"), TLS_USER_GOALS_KIB[s], short,
                      res.has_failed(s, RINGPOST))


def sessions_goal(res):
    scenario = "idle-%d" % SESSIONS_GOAL
    alive = res.sample(scenario, RINGPOST, "alive")
    limit = "≥ {:,}".format(SESSIONS_GOAL)
    if not alive:
        return without_figure("idle sessions at once", limit, res.has_failed(scenario, RINGPOST))
    done = MISSED if alive.median < SESSIONS_GOAL else REACHED if alive.low >= SESSIONS_GOAL else IN_NOISE
    return Goal("idle sessions at once", limit, *("{:,.0f}".format(x) for x in (alive.median, alive.low, alive.high)),
                alive.n, done)


def goals(res):
    """Every goal for which this measurement has the scenario, and that of 100,000 sessions in any case."""
    small = res.scenarios(lambda s: s in SMALL_ROWS or s.startswith(("kept-", "rate-")))
    found = [cpu_goal(res, s, SMALL_GOAL) for s in small]
    found += [g for s in res.scenarios(lambda s: s in LARGE_ROWS) for g in large_goals(res, s)]
    for s in res.scenarios(of("idle")):
        for name, key, most in (("user memory", "user_kib", USER_GOAL_KIB), ("all memory", "all_kib", ALL_GOAL_KIB)):
            found.append(at_most("%s of a session, %s, KiB" % (name, s), res.sample(s, RINGPOST, key), most, short,
                                 res.has_failed(s, RINGPOST)))
    return found + list(tls_goals(res)) + [sessions_goal(res)]


def summary(found):
    counts = [(word, sum(g.verdict == word for g in found)) for word in (REACHED, IN_NOISE, MISSED, UNKNOWN)]
    return "Goals: " + ", ".join("%d %s" % (n, word) for word, n in counts if n) + "."


def rows(found):
    return table(["goal", "", "limit", "median", "range", "runs"], [g.row() for g in found], left=2)
