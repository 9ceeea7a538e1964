# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured: one row each. `load` is ringpost-blast's command line; the window of `seconds` opens after a warm-up.

ringpost-blast has at most 256 connections on their way to a greeting. New connections in a row of hundreds at once are
therefore fewer the later a peer takes them: `c500` and `c5000` are as many as there may be. With kept connections all are open.
"""
from dataclasses import dataclass, replace

LOAD, IDLE, RATE, FAR = "load", "idle", "rate", "far"  # how it is run: see measure.py, idle.py, far.py
CLIENT, BOTH = "client", "both"  # legs with TLS
WARM_UP_S = 0.4


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    kind: str
    load: str = ""
    seconds: float = 1.5
    bdat: bool = False
    sessions: int = 0
    quick: bool = False    # part of `make bench`, too
    rounds: int = 0        # no more than so many (0: all): long, and steady
    quick_rounds: int = 0  # the same for `make bench`
    warm_up: float = WARM_UP_S
    tls: str = ""          # the legs with TLS, both by STARTTLS: CLIENT, BOTH or none
    resume: bool = False   # sessions are resumed; else each handshake is a full one

    @property
    def tls_words(self):
        """What of the load's command line TLS is."""
        return ["--starttls", "--tls-insecure"] + ["--resume"] * self.resume if self.tls else []

    @property
    def words(self):
        """The load's command line."""
        return self.load.split() + self.tls_words

    @property
    def at_once(self):
        """Sessions at the same time."""
        words = self.load.split()
        return int(words[words.index("--connections") + 1]) if words else self.sessions


def _new(size, connections, name=None, seconds=1.5, quick=False):
    return Scenario(name or "new-" + size, "new connection for each message, %s, %d at once" % (size, connections), LOAD,
                    "--connections %d --per-connection 1 --size %s" % (connections, size), seconds, quick=quick)


def _kept(size, more="", name="", title="", quick=False):
    return Scenario("kept-%s%s" % (size, name), "kept connections, %s, %s, 50 at once" % (size, title or "lock-step"), LOAD,
                    "--connections 50 --size %s %s" % (size, more), quick=quick)


def _tls(row, legs, name="", words="full handshakes", **more):
    """A row of LOAD with STARTTLS."""
    where = {CLIENT: "the client's leg", BOTH: "both legs"}[legs]
    return replace(row, name="tls-%s%s%s" % ("both-" if legs == BOTH else "", row.name, name), tls=legs,
                   title="STARTTLS on %s, %s; %s" % (where, words, row.title), **{"quick": False, **more})


def _tls_idle(legs):
    return Scenario("tls-%sidle-10000" % ("both-" if legs == BOTH else ""), "10,000 idle sessions in TLS, %s" % (
        "on both legs" if legs == BOTH else "on the client's leg"), IDLE, sessions=10000, rounds=2, tls=legs)


def _bdat(size, connections):
    return Scenario("bdat-" + size, "BDAT, one chunk, %s, new connection, %d at once" % (size, connections), LOAD,
                    "--connections %d --per-connection 1 --size %s --bdat" % (connections, size), 2.5, bdat=True)


SCENARIOS = [
    _new("1k", 50, quick=True),
    _new("10k", 50, quick=True),
    _new("100k", 50),
    _new("1m", 20, seconds=2.5, quick=True),
    _new("10m", 10, seconds=4),
    _kept("4k", quick=True),
    _kept("4k", "--pipelining", "-pipe", "pipelined", quick=True),
    _kept("75k", quick=True),
    _kept("75k", "--pipelining", "-pipe", "pipelined"),
    Scenario("mix", "kept connections, 20 messages each, sizes as in real mail, pipelined, 50 at once", LOAD,
             "--connections 50 --per-connection 20 --sizes real --pipelining", 4),
    _new("10k", 1, "c1"),
    _new("10k", 500, "c500"),
    Scenario("c5000", "new connection for each message, 10k, up to 5000 at once, 256 of them dialling", LOAD,
             "--connections 5000 --per-connection 1 --size 10k", 3),
    Scenario("kept-10k-5000", "kept connections, 10k, lock-step, 5000 at once", LOAD, "--connections 5000 --size 10k", 3, rounds=2,
             warm_up=8),  # HAProxy takes its time to accept them beside its load
    Scenario("rate-1k", "latency: 2,000 messages a second by schedule, new connections, 1 KB", RATE,
             "--connections 500 --per-connection 1 --size 1k --rate 2000", 3),
    Scenario("rate-kept-4k", "latency: 5,000 messages a second by schedule, kept connections, 4 KB", RATE,
             "--connections 200 --size 4k --rate 5000", 3, quick=True),
    _bdat("1m", 20),
    _bdat("10m", 10),
    Scenario("idle-1000", "1,000 idle sessions behind EHLO", IDLE, sessions=1000, quick=True, quick_rounds=1),
    Scenario("idle-10000", "10,000 idle sessions behind EHLO", IDLE, sessions=10000, rounds=2),
    Scenario("idle-100000", "100,000 idle sessions behind EHLO", IDLE, sessions=100000, rounds=1),
    _tls(_new("1k", 500), CLIENT),
    _tls(_new("1k", 500), CLIENT, "-resumed", "resumed sessions", resume=True),
    _tls(_new("10k", 500), CLIENT, quick=True),
    _tls(_kept("75k"), CLIENT, quick=True),
    _tls(_new("10k", 500), BOTH),
    _tls(_kept("75k"), BOTH),
    _tls_idle(CLIENT),
    _tls_idle(BOTH),
    Scenario("far-10k", "20 ms, MTU 1500, 0.1 % loss: new connections, 10 KB, 200 at once", FAR,
             "--connections 200 --per-connection 1 --size 10k", 4),
    Scenario("far-1m", "20 ms, MTU 1500, 0.1 % loss: new connections, 1 MB, 50 at once", FAR,
             "--connections 50 --per-connection 1 --size 1m", 6),
]
