# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory per idle session as bench/compare measures it: sessions are held, spread and counted, and only the peer's memory is."""
import os
import sys
from types import SimpleNamespace

from lib.core import Failure, test

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, "bench", "compare"))
import idle  # noqa: E402
from peers import Direct, Ringpost  # noqa: E402

SESSIONS = 50


class Crowded(Ringpost):
    """Has room for fewer than are asked for: those of the first reading, the witness, and some."""
    ROOM = 20

    def start(self, place):
        place.template = lambda name, fill=place.template, **more: self.limit(fill(name, **more))
        super().start(place)

    def limit(self, path):
        with open(path, "a") as f:
            f.write("limits: {sessions: %d, pressure: off}\n" % (idle.WARM_SESSIONS + 1 + self.ROOM))
        return path


def record(t, peer, sessions=SESSIONS):
    cpus = sorted(os.sched_getaffinity(0))
    for _ in range(3):  # what others free meanwhile is noticed, and makes a reading worthless
        r = idle.run(peer, SimpleNamespace(sessions=sessions, tls="", tls_words=[]),
                     SimpleNamespace(build=t.build, proxy_cpu=cpus[0], load_cpu=cpus[-1]))
        if "shrank meanwhile" not in r.get("failed", ""):
            break
    if "failed" in r:
        raise Failure(r["failed"])
    return r


def expect(r, **wanted):
    if {k: r[k] for k in wanted} != wanted:
        raise Failure("%s, not as in %s" % (r, wanted))


@test(timeout=200, serial=True)
def nothing_between_takes_nothing(t):
    expect(record(t, Direct()), sessions=SESSIONS, alive=SESSIONS, copies=1, processes=0, user_kib=0)


@test(timeout=90, serial=True, modes=("release", "debug"))
def ringpost_holds_them(t):
    """Its structures alone are above 1 KiB; 16 KiB would be a buffer that it must not hold."""
    r = record(t, Ringpost(), 500)  # what the allocator gives back meanwhile is as much as some dozens have
    expect(r, sessions=500, alive=500, copies=1, processes=1)
    if not 1 < r["user_kib"] < 16 or not r["opened_per_s"] > 0 or r["base_kib"] <= 0:
        raise Failure("figures: %s" % r)


@test(timeout=90, serial=True)
def spread_over_copies(t):
    was, idle.MOST_EACH = idle.MOST_EACH, 20
    try:
        r = record(t, Ringpost())
    finally:
        idle.MOST_EACH = was
    expect(r, sessions=SESSIONS, alive=SESSIONS, copies=3, processes=3)


@test(timeout=90, serial=True)
def sessions_that_were_refused_do_not_count(t):
    expect(record(t, Crowded()), sessions=SESSIONS, alive=Crowded.ROOM)
