#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as a measurement could have given them: for tests of the report, and to look at tables and plots without an hour's wait.

    tests/bench/plausible.py [--seed N] [--rounds N] >runs.jsonl

The costs are near those of a first study on one machine; noise and stray runs are drawn from the seed. They are figures
of nothing.
"""
import argparse
import json
import math
import os
import random
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench", "compare"))
sys.dont_write_bytecode = True

from scenarios import IDLE, RATE, SCENARIOS  # noqa: E402

# Per message: ms on a new connection, ms on a kept one, ms per MB; per session: KiB of user and of kernel memory.
COSTS = {
    "direct": (0, 0, 0, 0, 0),
    "ringpost": (0.14, 0.043, 0.5, 2.4, 7.7),
    "haproxy": (0.16, 0.047, 1.05, 3.1, 7.7),
    "haproxy-splice": (0.16, 0.049, 0.9, 3.1, 7.7),
    "nginx-stream": (0.15, 0.045, 0.95, 9.5, 7.7),
    "nginx-mail": (0.24, 0.068, 1.05, 4.9, 3.8),
    "postfix-filter": (0.57, 0.41, 4.3, 1640, 180),
    "postfix-relay": (2.2, 2.1, 7.0, 1640, 180),
    "aiosmtpd": (0.82, 0.75, 22, 11, 3.8),
}
TLS_PEERS = ("direct", "ringpost", "nginx-mail")
HANDSHAKE_MS, RESUMED_MS, SEALED_MS_PER_MB = 0.3, 0.12, 0.4
MOVER_COSTS = {"ringpost-copy": 1.0, "ringpost-zero-copy": 0.8, "ringpost-splice": 0.5}  # ms per MB of BDAT
VERSIONS = {"ringpost": "0.1.0", "haproxy": "2.6.12", "haproxy-splice": "2.6.12", "nginx-stream": "1.22.1",
            "nginx-mail": "1.22.1", "postfix-filter": "3.7.11", "postfix-relay": "3.7.11", "aiosmtpd": "1.4.3"}
SLOW = ("postfix-filter", "postfix-relay", "aiosmtpd")
SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1))
MACHINE = {"ev": "machine", "date": "2026-11-27", "cpu": "AMD EPYC", "cpus": 2, "memory_gib": 23.5, "kernel": "6.18.0",
           "descriptors": 1048576, "namespace": True}


def size_of(scenario):
    words = scenario.load.split()
    text = words[words.index("--size") + 1] if "--size" in words else "20k"
    return int(text[:-1]) * {"k": 1000, "m": 1000000}[text[-1]]


def cost_ms(scenario, peer):
    new, kept, per_mb = COSTS[peer][:3] if peer in COSTS else (0.14, 0.043, MOVER_COSTS[peer])
    first = new if "--per-connection 1 " in scenario.load + " " else kept * (0.6 if "--pipelining" in scenario.load else 1)
    plain = first + per_mb * size_of(scenario) / 1e6
    if not scenario.tls:
        return plain
    shake = 0 if first == kept else RESUMED_MS if scenario.resume else HANDSHAKE_MS
    return plain + shake + SEALED_MS_PER_MB * size_of(scenario) / 1e6


def histogram(rnd, count, middle_us):
    """Log-normal, with a tail as from a scheduler that was away."""
    buckets = {}
    for _ in range(count):
        us = middle_us * math.exp(rnd.gauss(0, 0.35)) + (rnd.expovariate(1 / 3000) if rnd.random() < 0.008 else 0)
        upper = int(2 ** (math.ceil(math.log2(us) * 16) / 16))
        buckets[upper] = buckets.get(upper, 0) + 1
    return [[upper, buckets[upper]] for upper in sorted(buckets)]


def at(buckets, share):
    """The percentile as the load reports it: the upper end of its bucket."""
    total, due = 0, share * sum(n for _, n in buckets)
    for upper, n in buckets:
        total += n
        if total >= due:
            return upper
    return 0


def load_run(rnd, scenario, peer, drift):
    cpu = cost_ms(scenario, peer) * drift * math.exp(rnd.gauss(0, 0.02))
    side = 0.12 * drift + size_of(scenario) * 4e-7  # ms of load and sink
    rate = 1000 / max(cpu, side, 1e-9)
    if scenario.kind == RATE:
        words = scenario.load.split()
        rate = min(rate, float(words[words.index("--rate") + 1]))
    foreign = 0.35 if rnd.random() < 0.04 else abs(rnd.gauss(0.03, 0.01))
    middle = 300 + 1000 * cpu + (20000 if rate * cpu > 990 else 0)
    buckets = histogram(rnd, min(int(rate * scenario.seconds) + 1, 5000), middle)
    record = {"messages": int(rate * scenario.seconds), "seconds": scenario.seconds, "rate": round(rate, 2), "cpu_ms": cpu,
              "user_ms": cpu * 0.15, "system_ms": cpu * 0.85, "segments": 26 + size_of(scenario) / 30000,
              "switches": 6000 / (rate + 1), "foreign": foreign, "busy_proxy": min(rate * cpu / 1000 + foreign, 0.99),
              "busy_load": min(rate * side / 1000, 0.99), "latency_us": {k: at(buckets, share) for k, share in SHARES}}
    if scenario.kind == RATE:
        record["histogram"] = buckets
    if scenario.tls:
        record.update(handshakes=rate, resumed=float(scenario.resume), handshake_us=500)
    if peer == "ringpost":
        record["ring_enters"] = 9.1
    return record


def idle_run(rnd, scenario, peer):
    if peer in SLOW and scenario.sessions > 1000:
        return {"failed": "%s: only 1000 sessions were opened in 60 s\nlast reply: 421 too many" % peer}
    user, kernel = (x * math.exp(rnd.gauss(0, 0.01)) for x in COSTS[peer][3:])
    return {"sessions": scenario.sessions, "alive": scenario.sessions, "processes": 1003 if user > 1000 else 1, "threads": 1,
            "user_kib": user, "kernel_kib": kernel, "all_kib": user + kernel + 0.3, "base_kib": 9000}


def lines(seed=1, rounds=3, scenarios=SCENARIOS, peers=tuple(COSTS)):
    """Dictionaries, the machine first."""
    rnd = random.Random(seed)
    yield {**MACHINE, "peers": {p: VERSIONS.get(p, "") for p in peers}}
    for r in range(rounds):
        for s in scenarios:
            drift = math.exp(rnd.gauss(0, 0.06))  # hits all peers of the scenario alike
            for p in ("direct",) + tuple(MOVER_COSTS) if s.bdat else TLS_PEERS if s.tls else peers:
                if s.kind != IDLE:
                    yield {"ev": "run", "round": r, "scenario": s.name, "peer": p, **load_run(rnd, s, p, drift)}
                elif p != "direct":
                    yield {"ev": "run", "round": r, "scenario": s.name, "peer": p, **idle_run(rnd, s, p)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    o = parser.parse_args()
    for one in lines(o.seed, o.rounds):
        print(json.dumps(one))
