#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as Markdown tables, and two measurements against each other.

    python3 -B bench/compare/report.py RUNS.jsonl [--out RESULTS.md] [--pictures FOLDER]
    python3 -B bench/compare/report.py RUNS.jsonl --against OTHER.jsonl

The tables are aligned, so they can be read as they are in a terminal. How to read them: bench/README.md.
"""
import argparse
import os
import sys
from dataclasses import dataclass

import agree
import goals
import results
from results import DIRECT, MOVERS, PERCENTILES, RINGPOST, group, of
from tables import bold, percent, prose, short, table, times

PICTURES = ("cpu-by-size.svg", "cpu-small.svg", "memory.svg", "latency.svg")
REASON_CHARS = 110    # of a line of what went wrong
BEHIND = 0.95         # a proxy that takes less than this share of a schedule does not keep up with it

READING = """\
How to read it. Each cell is the median over the rounds; in each round every peer was started afresh for every scenario, one
after the other, the proxy alone on its core. In parentheses: the ratio to ringpost, taken within each round and then the
median, so that a drift of the machine cancels out. CPU is all that the proxy and its children used, kernel included. `*`:
others worked on the proxy's core for more than 10 % of the window, or the counters were read late at its ends, and no clean
run was there (elsewhere such runs are left out, and those in which load and sink, too, took 10 % more CPU for the same). `!`:
some messages were not accepted. `~`: it does not offer PIPELINING, so the row is lock-step with it. `failed`: it could not be
run, the reason is at the end; `-`: not run. Differences that are smaller than the spreads are no differences. What this
cannot show (loopback, no network card): bench/README.md."""

NOTES = {
    "cpu": """
Milliseconds of the proxy, all its processes, user and kernel. Bold: the cheapest of those that move bytes and read nothing
(haproxy and nginx-stream in all their forms), and ringpost where it costs at most as much.""",
    "spread": "Half of the range over the median, in percent, and how many runs are behind it.",
    "rate": """
Who was the limit: P the proxy's core (busy for more than 95 %), L the core of load and sink, PL both, nothing: somebody
waited. Where L stands, the proxy could have done more; `direct` is the ceiling. A ratio says something where neither has
an L.""",
    "load": """
Milliseconds of the other core for a message, load and sink together. On loopback the two ends of a connection share the work
of moving it, and which of them does more depends on who has to wait: a proxy that costs little because the others pay shows
here. With large mail compare the sums.""",
    "packets": "TCP segments per message on both legs in both directions, then the proxy's context switches per message.",
    "latency": """
Microseconds. `rate-*`: messages are sent by schedule and count from when they were due; `behind`: the proxy did not keep up,
so the queue is what was measured. `c*`: the next message waits for the last, which hides stalls, and counts from its MAIL:
who connects upstream at the first MAIL or RCPT has that in it, who does so for the greeting has not, and who lets new
connections wait for it shows less of them here. Added: over `direct` of
the same round, where load and sink share a core: most of what any proxy adds are wake-ups from one core to the other.""",
    "memory": """
KiB that came with each session. User: pages of all processes, shared ones in shares; kernel: sockets, files, page tables;
all: what the control group was charged. Before: user memory without sessions.""",
    "bdat": "CPU, milliseconds per message, by mover; DATA of the same size below.",
    "tls": """
STARTTLS, self-signed ECDSA P-256 on every side, the versions and ciphers that the two agree on: TLS 1.3 with AES-128-GCM for
all here. CPU, milliseconds per message; a new connection is a handshake, full unless the row says resumed.""",
    "handshakes": """
A second: as many as the load got through, which has the client's part of them to do. Resumed: their share, of what the load
asked to be. CPU: what the row takes more than the same without TLS (from the same measurement), the message's records
included; a core: how many of them one core could do.""",
    "far": "Delay, small packets and loss as the scenario's line below says. CPU, milliseconds per message:",
    "far_latency": "Microseconds:",
}


# ---- what rows and columns are ----

def one_at_a_time(scenario):
    """c1, c500: so many messages at once, otherwise alike."""
    return scenario[:1] == "c" and scenario[1:].isdigit()


def known_scenarios():
    """Those of this tree by name: a file of runs may have others."""
    from scenarios import SCENARIOS
    return {s.name: s for s in SCENARIOS}


def known_peers():
    from peers import PEERS
    return {p.name: p for p in PEERS}


def scheduled(scenario):
    """Messages a second that an open-loop scenario sends, or None."""
    words = getattr(known_scenarios().get(scenario), "load", "").split()
    return float(words[words.index("--rate") + 1]) if "--rate" in words else None


# ---- cells ----

def marks(res, scenario, peer, sample):
    used = res.used(scenario, peer)
    return ("*" if sample.disturbed else "") + "".join(
        mark for mark, name in (("!", "not_accepted"), ("~", "lock_step")) if any(r.get(name) for r in used))


def missing(res, scenario, peer):
    return "failed" if res.has_failed(scenario, peer) else "-"


def cell(res, scenario, peer, name, with_ratio=True):
    sample = res.sample(scenario, peer, name)
    if not sample:
        return missing(res, scenario, peer)
    return short(sample.median) + marks(res, scenario, peer, sample) + (beside(res, scenario, peer, name) if with_ratio else "")


def beside(res, scenario, peer, name):
    """The ratio to ringpost as it stands behind a figure."""
    ratio = res.ratio(scenario, peer, RINGPOST, name) if peer != RINGPOST else None
    return " (%s)" % times(ratio.median) if ratio else ""


def emphasised(res, scenario):
    """The cheapest byte mover, and ringpost where it costs at most as much."""
    mover = res.cheapest(scenario, MOVERS, "cpu_ms")
    own = res.sample(scenario, RINGPOST, "cpu_ms")
    if not mover:
        return ()
    return (mover, RINGPOST) if own and own.median <= res.sample(scenario, mover, "cpu_ms").median else (mover,)


def cpu_table(res, scenarios, plain=False):
    peers = [p for p in res.peers(scenarios) if p != DIRECT]
    rows = []
    for s in scenarios:
        strong = () if plain else emphasised(res, s)
        rows.append([s] + [bold(cell(res, s, p, "cpu_ms")) if p in strong else cell(res, s, p, "cpu_ms") for p in peers])
    return table(["ms per message"] + peers, rows)


def spread_cell(res, scenario, peer):
    sample = res.sample(scenario, peer, "cpu_ms")
    return "%s /%d" % (percent(sample.noise), sample.n) if sample else missing(res, scenario, peer)


def spread_table(res, scenarios):
    peers = [p for p in res.peers(scenarios) if p != DIRECT]
    return table(["±% / runs"] + peers, [[s] + [spread_cell(res, s, p) for p in peers] for s in scenarios])


def load_table(res, scenarios):
    peers = res.peers(scenarios)
    return table(["ms per message"] + peers, [[s] + [cell(res, s, p, "load_ms") for p in peers] for s in scenarios])


def rate_cell(res, scenario, peer):
    rate = res.sample(scenario, peer, "rate")
    if not rate:
        return missing(res, scenario, peer)
    busy = [res.sample(scenario, peer, "busy_" + side) for side in ("proxy", "load")]
    who = results.limit(*(b.median if b else 0 for b in busy))
    return "%s%s%s %-2s" % (short(rate.median), marks(res, scenario, peer, rate), beside(res, scenario, peer, "rate"), who)


def rate_table(res, scenarios):
    peers = res.peers(scenarios)
    return table(["messages/s"] + peers, [[s] + [rate_cell(res, s, p) for p in peers] for s in scenarios])


def packets_cell(res, scenario, peer):
    segments, switches = (res.sample(scenario, peer, k) for k in ("segments", "switches"))
    if not segments:
        return missing(res, scenario, peer)
    return "%.1f%s" % (segments.median, beside(res, scenario, peer, "segments")) + (
        " / %.2f" % switches.median if switches and peer != DIRECT else "")


def packets_table(res, scenarios):
    peers = res.peers(scenarios)
    enters = [p for p in peers if any(res.sample(s, p, "ring_enters") for s in scenarios)]
    head = ["segments / switches"] + peers + ["enters: " + p for p in enters]
    def enters_of(s, p):
        sample = res.sample(s, p, "ring_enters")
        return "%.2f" % sample.median if sample else "-"
    return table(head, [[s] + [packets_cell(res, s, p) for p in peers] + [enters_of(s, p) for p in enters] for s in scenarios])


# ---- latency ----

def signed(sample):
    return "-" if sample is None else ("+" if sample.median >= 0 else "-") + short(abs(sample.median))


def latency_row(res, scenario, peer):
    samples = [res.sample(scenario, peer, "latency_us." + key) for key, _ in PERCENTILES]
    if not samples[0]:
        return [scenario, peer, missing(res, scenario, peer)] + ["-"] * 6
    rate = res.sample(scenario, peer, "rate")
    due = scheduled(scenario)
    behind = " behind" if due and rate.median < BEHIND * due else ""
    added = [res.added(scenario, peer, DIRECT, "latency_us." + key) if peer != DIRECT else None for key, _ in PERCENTILES]
    return ([scenario, peer, short(rate.median) + marks(res, scenario, peer, rate) + behind] +
            [short(s.median) + beside(res, scenario, peer, "latency_us." + key) for s, (key, _) in zip(samples, PERCENTILES)] +
            [signed(a) for a in added])


def latency_table(res, scenarios):
    head = ["scenario", "peer", "messages/s"] + [name for _, name in PERCENTILES] + ["added " + name for _, name in PERCENTILES]
    return table(head, [latency_row(res, s, p) for s in scenarios for p in res.peers([s])], left=2)


# ---- TLS ----

def plain(scenario):
    """The same without TLS."""
    return scenario.replace("tls-", "").replace("both-", "").replace("-resumed", "")


def handshake_row(res, scenario, peer):
    rate, share = res.sample(scenario, peer, "handshakes"), res.sample(scenario, peer, "resumed")
    if not rate:
        return [scenario, peer, missing(res, scenario, peer), "-", "-", "-"]
    cost = results.paired(res.sample(scenario, peer, "cpu_ms"), res.sample(plain(scenario), peer, "cpu_ms"),
                          lambda x, y: 1000 * (x - y)) if peer != DIRECT else None
    return [scenario, peer, short(rate.median), percent(share.median), short(cost.median) if cost else "-",
            short(1e6 / cost.median) if cost and cost.median > 0 else "-"]


def handshake_table(res, scenarios):
    head = ["scenario", "peer", "a second", "resumed %", "CPU us", "a core and second"]
    return table(head, [handshake_row(res, s, p) for s in scenarios for p in res.peers([s])], left=2)


def tls_sections(res, tls):
    load, idle = [s for s in tls if not results.of_sessions(s)], [s for s in tls if results.of_sessions(s)]
    new = [s for s in load if "new" in s.split("-")]
    if load:
        yield Section("TLS", NOTES["tls"], cpu_table(res, load))
        yield Section("TLS, messages per second", "", rate_table(res, load))
        yield Section("TLS, CPU of load and sink", "", load_table(res, load))
    if new:
        yield Section("TLS handshakes", NOTES["handshakes"], handshake_table(res, new))
    if idle:
        yield Section("TLS, memory per idle session", "", memory_table(res, idle))


# ---- memory ----

def memory_row(res, scenario, peer):
    def value(name):
        return res.sample(scenario, peer, name)
    alive, asked = value("alive"), value("sessions")
    if not alive:
        return [scenario, peer, missing(res, scenario, peer)] + ["-"] * 6
    count = "{:,.0f}".format(alive.median) + (" of {:,.0f}".format(asked.median) if asked and alive.low < asked.high else "")
    processes, threads = value("processes"), value("threads")
    many = "/".join("{:,.0f}".format(x.median) for x in (processes, threads) if x) or "-"
    base = value("base_kib")
    return ([scenario, peer, count] + [cell(res, scenario, peer, k + "_kib") for k in ("user", "kernel", "all")] +
            [short(base.median / 1024) if base else "-", many])


def memory_table(res, scenarios):
    head = ["scenario", "peer", "sessions", "user KiB", "kernel KiB", "all KiB", "before MiB", "processes/threads"]
    return table(head, [memory_row(res, s, p) for s in scenarios for p in res.peers([s])], left=2)


# ---- head ----

def windows(res):
    seconds = [r["seconds"] for r in res.runs if r.get("seconds")]
    if not seconds:
        return "none"
    low, high = min(seconds), max(seconds)
    return "%.1f s each" % low if high - low < 0.05 else "%.1f to %.1f s" % (low, high)


def cores(machine):
    """Which, and what about them moves the figures."""
    if "proxy_cpu" not in machine:
        return "unknown"
    return "proxy on CPU %s, load and sink on %s%s%s" % (
        machine["proxy_cpu"], machine["load_cpu"], ", two threads of one core" if machine.get("one_core") else "",
        ", clock: " + machine["governor"] if machine.get("governor") else "")


def counted_by(res):
    """Where CPU time comes from: with less than control groups, what has ended may be missing."""
    kinds = sorted({r["counted"] for r in res.runs if r.get("counted")})
    if not kinds:
        return "unknown"
    return " and ".join(kinds) + (", interrupts added" if res.machine.get("interrupts") == "apart" else "")


def stolen(res):
    shares = sorted(r["stolen"] for r in res.runs if "stolen" in r)
    if not shares:
        return "unknown"
    return "half of the windows at most %s %%, the worst %s %%" % (percent(shares[len(shares) // 2]), percent(shares[-1]))


def noise_line(res):
    """How far the rounds are apart in general."""
    noise = sorted(s.noise for s in (res.sample(*c, "cpu_ms") for c in {(r["scenario"], r["peer"]) for r in res.runs
                                                                        if r["peer"] != DIRECT}) if s and s.noise is not None)
    if not noise:
        return "unknown: no cell has two runs that count"
    return "half of the cells within ±%s %%, nine of ten within ±%s %%, the worst ±%s %%" % tuple(
        percent(noise[min(len(noise) - 1, int(len(noise) * share))]) for share in (0.5, 0.9, 1))


def head(res):
    m = res.machine
    rows = [
        ("date", m.get("date", "unknown")),
        ("machine", "%s, %s CPUs, %s GiB" % (m.get("cpu", "?"), m.get("cpus", "?"), m.get("memory_gib", "?"))),
        ("kernel", "Linux %s" % m.get("kernel", "?")),
        ("cores", cores(m)),
        ("network", "loopback" + (" in a namespace of its own" if m.get("namespace") else ", shared with the machine") +
         (", " + m["congestion_control"] if m.get("congestion_control") else "")),
        ("counted by", counted_by(res)),
        ("runs", "%d in %d rounds%s" % (len(res.runs), res.rounds(), ", cut short" if res.cut else "")),
        ("windows", windows(res)),
        ("failed", "%d" % len(res.failed())),
        ("disturbed", "%d by others' work, %d while the machine was slower" % (len(res.disturbed()), len(res.slowed()))),
        ("stolen by the host", stolen(res)),
        ("refusals", "%d runs with messages that were not accepted" % len(res.not_accepted())),
        ("spread", noise_line(res)),
    ]
    return table(["measurement", ""], rows, left=2)


def versions(res):
    what = known_peers()
    rows = [[name, version or "-", getattr(what.get(name), "what", "")] for name, version in res.machine.get("peers", {}).items()]
    return table(["peer", "version", "what"], rows, left=3)


def reason(words):
    """The first line says what we saw; the last, what the peer said before it ended."""
    lines = [line.strip() for line in str(words).splitlines() if line.strip()] or [""]
    cut = [line if len(line) <= REASON_CHARS else line[:REASON_CHARS] + "…" for line in lines]
    return (cut[0] if len(cut) == 1 else "%s … %s" % (cut[0], cut[-1])).replace("|", "\\|")


def failures(res):
    """One line a cell, with what was said last: numbers of processes make each a little different."""
    last, times_failed = {}, {}
    for r in res.failed():
        key = r["scenario"], r["peer"]
        last[key], times_failed[key] = reason(r["failed"]), times_failed.get(key, 0) + 1
    return table(["scenario", "peer", "runs", "reason"], [[*key, times_failed[key], last[key]] for key in last], left=4)


def legend(res):
    known = known_scenarios()
    return table(["scenario", "what"], [[s, getattr(known.get(s), "title", "")] for s in res.scenarios()], left=2)


# ---- the whole ----

@dataclass(frozen=True)
class Section:
    title: str
    note: str
    body: str


def load_sections(res, load):
    yield Section("CPU per message", NOTES["cpu"], cpu_table(res, load))
    yield Section("Spread of CPU per message", NOTES["spread"], spread_table(res, load))
    yield Section("Messages per second", NOTES["rate"], rate_table(res, load))
    yield Section("CPU of load and sink", NOTES["load"], load_table(res, load))
    yield Section("Packets and context switches", NOTES["packets"], packets_table(res, load))


def bdat_table(res, bdat):
    """With DATA of the same size, where those who have BDAT runs were given that, too."""
    peers = res.peers(bdat, "rate")
    proxies = [p for p in peers if p != DIRECT]
    rows = bdat + [s for s in goals.LARGE_ROWS if any(res.sample(s, p, "cpu_ms") for p in proxies)]
    return table(["ms per message"] + proxies, [[s] + [cell(res, s, p, "cpu_ms") for p in proxies] for s in rows])


def sections(res):
    """The tables for which there are runs."""
    load, bdat, idle, far, tls = (res.scenarios(of(*g)) for g in (("load", "rate"), ("bdat",), ("idle",), ("far",), ("tls",)))
    latencies = res.scenarios(lambda s: group(s) == "rate" or one_at_a_time(s))
    if load:
        yield from load_sections(res, load)
    if latencies:
        yield Section("Latency", NOTES["latency"], latency_table(res, latencies))
    if idle:
        yield Section("Memory per idle session", NOTES["memory"], memory_table(res, idle))
    if bdat:
        yield Section("BDAT", NOTES["bdat"], bdat_table(res, bdat))
        yield Section("BDAT, messages per second", "", rate_table(res, bdat))
        yield Section("BDAT, CPU of load and sink", "", load_table(res, bdat))
    yield from tls_sections(res, tls)
    if far:
        yield Section("A far network", NOTES["far"], cpu_table(res, far))
        yield Section("A far network, messages per second", "", rate_table(res, far))
        yield Section("A far network, latency", NOTES["far_latency"], latency_table(res, far))


def pictures(folder, beside):
    """Links to the pictures that are there, from a file in the folder `beside`."""
    there = [name for name in PICTURES if folder and os.path.exists(os.path.join(folder, name))]
    at = os.path.relpath(folder, beside) if there else ""
    return "\n".join("![%s](%s)" % (name[:-4], os.path.normpath(os.path.join(at, name))) for name in there)


def render(res, drawn=""):
    """The whole report. `drawn`: links to pictures."""
    found = goals.goals(res)
    parts = ["# Side by side: ringpost and what else moves mail", head(res), goals.summary(found), versions(res),
             prose(READING)]
    for s in sections(res):
        parts += ["## " + s.title] + [text for text in (prose(s.note), s.body) if text]
    parts += ["## Goals", prose(goals.NOTE), goals.rows(found)]
    if drawn:
        parts += ["## Pictures", drawn]
    if res.failed():
        parts += ["## Runs that failed", failures(res)]
    parts += ["## The scenarios", legend(res)]
    return "\n\n".join(parts) + "\n"


def brief(res):
    """What goes to the terminal at the end of a measurement."""
    load = res.scenarios(lambda s: group(s) in ("load", "rate") or group(s) == "tls" and not results.of_sessions(s))
    parts = [cpu_table(res, load, plain=True)] if load else []
    idle = res.scenarios(results.of_sessions)
    parts += [memory_table(res, idle)] if idle else []
    parts.append("CPU ms per message, in parentheses times ringpost's. Spread: %s. %d of %d runs failed, %d were disturbed." % (
        noise_line(res), len(res.failed()), len(res.runs), len(res.disturbed() + res.slowed())))
    return "\n\n".join(parts + [goals.summary(goals.goals(res))]) + "\n"


# ---- entry points ----

def write(path, folder, say=print):
    """The report of the runs in `path` as `folder`/RESULTS.md, with links to the pictures that are there; its main table is said.
    Returns the report's path."""
    res = results.read(path)
    to = os.path.join(folder, "RESULTS.md")
    with open(to, "w", encoding="utf-8") as f:
        f.write(render(res, pictures(folder, folder)))
    say("\n" + brief(res) + "\n" + to)
    return to


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("runs", metavar="RUNS.jsonl")
    p.add_argument("--out", metavar="RESULTS.md", help="a file; without it, standard output")
    p.add_argument("--pictures", metavar="FOLDER", help="link the pictures of bench/compare/plots.py that are there")
    p.add_argument("--against", metavar="OTHER.jsonl", help="do the two agree in their ratios?")
    p.add_argument("--within", type=float, default=100 * agree.WITHIN, metavar="PERCENT", help="what counts as agreeing (10)")
    o = p.parse_args()
    try:
        res = results.read(o.runs)
        if o.against:
            text = agree.compare(res, results.read(o.against), o.within / 100)
        else:
            text = render(res, pictures(o.pictures, os.path.dirname(os.path.abspath(o.out)) if o.out else "."))
    except (OSError, results.Broken) as e:
        sys.exit(str(e))
    if o.out:
        with open(o.out, "w", encoding="utf-8") as f:
            f.write(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
