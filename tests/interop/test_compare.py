# SPDX-License-Identifier: GPL-3.0-or-later
"""The runners of the bench. bench/compare: it starts its peers, sees whether messages arrive whole, and measures. bench/hooks:
every kind of hook is asked. Figures are not judged."""
import json
import os
import re
import subprocess
import sys

from kit import servers
from lib.core import Failure, cases, test

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TAMPER = os.path.join(ROOT, "tests", "interop", "kit", "tamper.py")
OK = re.compile(r"^(\S+) +(\S+) +ok$", re.M)


def bench(t, what, *words, status=0):
    """What it prints. Postfix starts as root only."""
    p = subprocess.run(servers.as_root() + [sys.executable, "-B", os.path.join(ROOT, "bench", what), "--build",
                                            os.path.abspath(t.build)] + list(words),
                       capture_output=True, text=True, timeout=90 * t.slow)
    if p.returncode != status:
        raise Failure("status %d instead of %d:\n%s%s" % (p.returncode, status, p.stdout, p.stderr))
    return p.stdout


def compare(t, *words, **how):
    return bench(t, "compare", "--out", t.path("out"), *words, **how)


def by_hand(name, how):
    return "%s=%s %s {host} {port} {upstream_host} {upstream_port} %s" % (name, sys.executable, TAMPER, how)


@cases({"postfix-filter": "postfix-filter", "postfix-relay": "postfix-relay", "direct": "direct", "ringpost": "ringpost"}, timeout=90)
def whole_messages_through(t, peer):
    shapes = ["new-10k", "kept-4k-pipe", "bdat-1m"]
    said = compare(t, "--check", "--scenarios", *shapes, "--peers", peer)
    if OK.findall(said) != [(shape, peer) for shape in shapes]:
        raise Failure(said)


@test(timeout=90)
def a_proxy_by_its_command_line(t):
    said = compare(t, "--check", "--scenarios", "new-1k", "bdat-1m", "--peers", "direct", "--peer", by_hand("copier", "keep"))
    if OK.findall(said) != [("new-1k", "direct"), ("new-1k", "copier"), ("bdat-1m", "direct")]:
        raise Failure(said)


@test(timeout=90)
def changed_messages_are_found(t):
    said = compare(t, "--check", "--scenarios", "new-10k", "--peers", "direct", "--peer", by_hand("liar", "change"), status=1)
    if OK.findall(said) != [("new-10k", "direct")] or "0 of 100 messages arrived whole, 100 changed" not in said:
        raise Failure(said)


@test(timeout=90)
def measures(t):
    """A window of a load, and a whole load for a peer that nobody knows."""
    compare(t, "--rounds", "1", "--stretch", "0.2", "--scenarios", "new-1k", "--peers", "direct", "ringpost", "--peer",
            by_hand("copier", "keep"))
    with open(t.path("out") + "/runs.jsonl") as f:
        runs = {r["peer"]: r for r in map(json.loads, f) if r["ev"] == "run"}
    if list(runs) != ["direct", "ringpost", "copier"]:
        raise Failure("runs: %s" % list(runs))
    for name, r in runs.items():
        if r.get("failed") or r["messages"] <= 0 or (r["cpu_ms"] > 0) != (name != "direct") or r.get("not_accepted"):
            raise Failure("%s: %s" % (name, r))
    if not runs["ringpost"]["ring_enters"] > 0:
        raise Failure("ringpost has no counters of its own: %s" % runs["ringpost"])
    with open(t.path("out") + "/RESULTS.md") as f:
        if "enters: ringpost |" not in f.read():
            raise Failure("the report does not show them")


@test(timeout=90)
def every_kind_of_hook(t):
    """Asked for each message, with none lost: the runner checks it."""
    bench(t, "hooks", "--rounds", "1", "--messages", "20", "--json", t.path("json"), "cost")
    with open(t.path("json")) as f:
        runs = json.load(f)
    if len(runs["cost"]) != 11 or runs["wrong"]:
        raise Failure("rows: %s, wrong: %s" % (list(runs["cost"]), runs["wrong"]))
