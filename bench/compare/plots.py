#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as pictures (SVG), drawn by gnuplot.

    python3 -B bench/compare/plots.py RUNS.jsonl [--out FOLDER]

cpu-by-size.svg   CPU per message by its size, new connections
cpu-small.svg     CPU per small message, a panel for each scenario
memory.svg        memory of an idle session by how many there are
latency.svg       latency by percentile, where messages were sent by schedule

Each picture is a gnuplot script with its data inside, run in a temporary folder. A picture for which there are no runs is
not drawn, and an old one of its name is removed. Without gnuplot there are no pictures, and that is said.
"""
import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile

import results
from results import DIRECT, RINGPOST
from tables import short

GNUPLOT_S = 60  # one picture takes well under a second
FONT = "DejaVu Sans,Verdana,Helvetica,sans-serif"
COLOURS = {RINGPOST: "#d7191c", DIRECT: "#000000", "haproxy": "#1f6fb4", "haproxy-splice": "#6db3e6", "nginx-stream": "#1a8f3c",
           "nginx-mail": "#8cc63f", "postfix-filter": "#7b3fa0", "postfix-relay": "#c49bdc", "aiosmtpd": "#8c564b",
           "go-smtpproxy": "#ff8c1a", "kumoproxy": "#17a2a2", "ringpost-bare": "#f4837d", "haproxy-64k": "#0b2f6b",
           "nginx-stream-64k": "#0c5c25", "nginx-mail-4k": "#9a9a1a"}
SPARE = ("#b8860b", "#555577", "#e377c2", "#2f4f4f", "#a0a000")  # peers that were given by a command line
POINTS = (7, 5, 9, 11, 13, 4, 6, 8, 10, 12, 2)
LABELS = {1000: "1 KB", 10000: "10 KB", 100000: "100 KB", 1000000: "1 MB", 10000000: "10 MB"}
NINES = (0.5, 0.9, 0.99, 0.999, 0.9999)
BEYOND = 5       # messages that must lie above a percentile before it is drawn
CUT = 4          # a bar longer than so many times ringpost's is cut and says so
PANELS_A_ROW = 2
BAR_PX, GAP_PX, HEAD_PX, FOOT_PX = 26, 90, 105, 40  # of cpu-small: a bar, what is between panels, above and below all


# ---- gnuplot's language ----

def number(x):
    return "%.6g" % x


def quoted(text):
    """As it stands: gnuplot reads nothing inside single quotes (in double ones it would run what is in backticks)."""
    return "'%s'" % str(text).replace("'", "''")


def block(name, rows):
    """Data inside the script."""
    return ["$%s << EOD" % name] + [" ".join(map(str, row)) for row in rows] + ["EOD"]


def tic_step(high, most=5):
    """Round steps on a straight axis from 0."""
    step = 10 ** math.floor(math.log10(high / most))
    return next(step * k for k in (1, 2, 5, 10) if high / (step * k) <= most)


def log_tics(low, high):
    """1, 2, 5 of each decade, written out; only the decades when there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 4 else (1,)
    values = [k * 10 ** e for e in range(first, last + 1) for k in steps]
    return "(%s)" % ", ".join('"%s" %s' % ("{:,.10g}".format(v), number(v)) for v in values if low <= v <= high)


def titled(res, what, bars="; bars: lowest and highest run"):
    m = res.machine
    return "%s\\n{/*0.75 %s}" % (plain(what), plain("%s, %s CPUs, Linux %s, %s" % (
        m.get("cpu", "?"), m.get("cpus", "?"), m.get("kernel", "?"), m.get("date", "?")) + bars))


def plain(text):
    """For double quotes in which gnuplot reads markup: none is meant."""
    text = str(text).replace("\\", "/").replace('"', "'").replace("`", "'")
    return "".join("\\\\" + c if c in "_^{}@&~" else c for c in text)


def opening(width, height, size=15):
    terminal = 'set terminal svg size %d,%d fixed enhanced font "%s,%d" background "white" linewidth 1.2'
    return [terminal % (width, height, FONT, size),
            "set encoding utf8", 'set border 3 lc rgb "#444444"', "set tics nomirror out", 'set grid lc rgb "#dddddd" lw 0.7',
            "set key outside right top reverse Left samplen 2 spacing 1.25 noenhanced"]


def multiplot(down, across, title, left, right, bottom, top, beside, below=0.0):
    """Panels between these shares of the picture's width and height, so far apart."""
    return 'set multiplot layout %d,%d title "%s" margins %s spacing %s,%s' % (
        down, across, title, ",".join(map(number, (left, right, bottom, top))), number(beside), number(below))


def styles(peers):
    """{peer: (colour, point, width)}: the same for a peer in every picture, ringpost's line the thickest."""
    strange = [p for p in sorted(peers) if p not in COLOURS]
    known = list(COLOURS)
    look = {}
    for p in peers:
        i = known.index(p) if p in COLOURS else len(known) + strange.index(p)
        colour = COLOURS[p] if p in COLOURS else SPARE[strange.index(p) % len(SPARE)]
        look[p] = (colour, POINTS[i % len(POINTS)], 3.5 if p == RINGPOST else 1.8)
    return look


def line_style(look, peer):
    colour, point, width = look[peer]
    return 'lc rgb "%s" pt %d ps %s lw %s' % (colour, point, 0.9 if peer == RINGPOST else 0.7, width)


def ringpost_last(peers):
    """So that its line lies above the others."""
    return [p for p in peers if p != RINGPOST] + [p for p in peers if p == RINGPOST]


def legend_only(look, peers):
    """Entries of the legend in the peers' order, whatever is drawn first."""
    return ["keyentry with linespoints %s title %s" % (line_style(look, p), quoted(p)) for p in peers]


# ---- CPU by size ----

def size_rows(res, peer):
    """(bytes, median, lowest, highest) ms per message."""
    found = []
    for s in res.scenarios(results.message_bytes):
        sample = res.sample(s, peer, "cpu_ms")
        if sample and sample.median > 0:
            found.append((results.message_bytes(s), sample.median, sample.low, sample.high))
    return sorted(found)


def cpu_by_size(res):
    """A script, or None without runs."""
    rows = {p: size_rows(res, p) for p in res.peers() if p != DIRECT}
    peers = [p for p in rows if rows[p]]
    if not peers:
        return None
    look = styles(res.peers())
    sizes = sorted({row[0] for p in peers for row in rows[p]})
    script = opening(1040, 640)
    for i, p in enumerate(peers):
        script += block("p%d" % i, [(size, *map(number, rest)) for size, *rest in rows[p]])
    script += ['set title "%s"' % titled(res, "CPU per message by its size, a new connection for each"), "set logscale xy",
               'set xlabel "message size"', 'set ylabel "CPU of the proxy, ms per message"', 'set format y "%g"',
               "set xtics (%s)" % ", ".join('"%s" %d' % (LABELS.get(x, x), x) for x in sizes),
               "set xrange [%s:%s]" % (number(sizes[0] * 0.7), number(sizes[-1] * 1.4)),
               "set yrange [%s:%s]" % (number(min(row[2] for p in peers for row in rows[p]) * 0.7),
                                       number(max(row[3] for p in peers for row in rows[p]) * 1.4))]
    lines = ["$p%d with yerrorlines %s notitle" % (peers.index(p), line_style(look, p)) for p in ringpost_last(peers)]
    return script + ["plot " + ", \\\n  ".join(lines + legend_only(look, peers))]


# ---- memory ----

def memory_rows(res, peer, name):
    found = []
    for s in res.scenarios(lambda s: s.startswith("idle-")):
        sample, alive = res.sample(s, peer, name), res.sample(s, peer, "alive")
        if sample and alive and sample.median > 0 and alive.median > 0:
            found.append((alive.median, sample.median, sample.low, sample.high))
    return sorted(found)


def memory(res):
    names = [n for n in (("user_kib", "user memory"), ("all_kib", "all memory, kernel included"))
             if any(memory_rows(res, p, n[0]) for p in res.peers())]
    peers = [p for p in res.peers() if any(memory_rows(res, p, n) for n, _ in names)]
    if not peers:
        return None
    look = styles(res.peers())
    every = [row for n, _ in names for p in peers for row in memory_rows(res, p, n)]
    left, right = min(r[0] for r in every), max(r[0] for r in every)
    bottom, top = min(r[2] for r in every) * 0.7, max(r[3] for r in every) * 1.4
    script = opening(1240 if len(names) > 1 else 860, 600)
    script += [multiplot(1, len(names), titled(res, "Memory of an idle session by how many there are"),
                         *((0.095, 0.83) if len(names) > 1 else (0.14, 0.76)), 0.13, 0.80, 0.06),
               "set logscale xy", 'set xlabel "idle sessions"', 'set ylabel "KiB per session"',
               "set xtics (%s)" % ", ".join('"%s" %d' % ("{:,}".format(10 ** e), 10 ** e) for e in range(0, 8)),
               "set xrange [%s:%s]" % (number(left * 0.6), number(right * 1.7)),
               "set yrange [%s:%s]" % (number(bottom), number(top)), "set ytics %s" % log_tics(bottom, top)]
    for n, (name, words) in enumerate(names):
        there = [p for p in peers if memory_rows(res, p, name)]
        for i, p in enumerate(there):
            script += block("m%d_%d" % (n, i), [map(number, row) for row in memory_rows(res, p, name)])
        lines = ["$m%d_%d with yerrorlines %s notitle" % (n, there.index(p), line_style(look, p)) for p in ringpost_last(there)]
        script += ['set title "%s"' % words] + (["unset ylabel"] if n else [])
        script += ["plot " + ", \\\n  ".join(lines + (legend_only(look, peers) if n + 1 == len(names) else []))]
    return script + ["unset multiplot"]


# ---- latency ----

def percentile_rows(histogram):
    """(nines, microseconds): -log10(1 - share) from the median on, as far as enough messages lie above."""
    total = sum(n for _, n in histogram)
    rows, below = [], 0
    for upper, n in histogram:
        below += n
        above = total - below
        if above < BEYOND:
            break
        if below / total >= NINES[0]:
            rows.append((-math.log10(above / total), max(upper, 1)))
    return [row for row in rows if row[0] <= -math.log10(1 - NINES[-1])]


def latency(res):
    rows = {(s, p): percentile_rows(res.histogram(s, p)) for s in res.scenarios() for p in res.peers([s])}
    rows = {key: r for key, r in rows.items() if r}
    if not rows:
        return None
    scenarios = [s for s in res.scenarios() if any(s == key[0] for key in rows)]
    peers = [p for p in res.peers() if any(p == key[1] for key in rows)]
    look = styles(res.peers())
    many = len(scenarios)
    bottom, top = min(r[0][1] for r in rows.values()) * 0.8, max(r[-1][1] for r in rows.values()) * 1.3
    script = opening(300 + 500 * many if many > 1 else 900, 600)
    script += [multiplot(1, many, titled(res, "Latency by percentile, messages sent by schedule", bars=""),
                         *((0.1, 0.84) if many > 1 else (0.14, 0.78)), 0.13, 0.80, 0.08),
               "set logscale y", 'set xlabel "percentile"', 'set ylabel "microseconds from when it was due"',
               "set xtics (%s)" % ", ".join('"%g %%%%" %s' % (100 * share, number(-math.log10(1 - share))) for share in NINES),
               "set xrange [%s:%s]" % (number(-math.log10(1 - NINES[0])), number(-math.log10(1 - NINES[-1]))),
               "set yrange [%s:%s]" % (number(bottom), number(top)), "set ytics %s" % log_tics(bottom, top)]
    for n, s in enumerate(scenarios):
        there = [p for p in peers if (s, p) in rows]
        for i, p in enumerate(there):
            script += block("l%d_%d" % (n, i), [map(number, row) for row in rows[s, p]])
        lines = ["$l%d_%d with lines %s notitle" % (n, there.index(p), bare(line_style(look, p))) for p in ringpost_last(there)]
        entries = ["keyentry with lines %s title %s" % (bare(line_style(look, p)), quoted(p)) for p in peers]
        script += ['set title "%s"' % plain(s)] + (["unset ylabel"] if n else [])
        script += ["plot " + ", \\\n  ".join(lines + (entries if n + 1 == many else []))]
    return script + ["unset multiplot"]


def bare(style):
    """A line's style without its points."""
    words = style.split()
    at = words.index("pt")
    return " ".join(words[:at] + words[at + 4:])


# ---- CPU of small messages ----

def is_small(scenario):
    return scenario == "mix" or scenario.startswith("kept-") or (results.message_bytes(scenario) or math.inf) <= 100000


def panel(res, scenario, peers, look, n):
    """Bars from top to bottom; those that would dwarf the others end at the rim, with their value."""
    samples = [(p, res.sample(scenario, p, "cpu_ms")) for p in peers]
    samples = [(p, s) for p, s in samples if s]
    own = dict(samples).get(RINGPOST)
    widest = max(s.high for _, s in samples)
    rim = min(widest, CUT * own.median) if own else widest
    bars, spans, out = [], [], []
    for i, (p, s) in enumerate(samples):
        colour = int(look[p][0][1:], 16)
        cut = s.median > rim
        bars.append((0, i, 0, number(min(s.median, rim)), i - 0.38, i + 0.38, colour))
        if not cut:
            spans.append((number(s.median), i, number(s.low), number(min(s.high, rim))))
        at = rim if cut else min(s.high, rim)
        out.append('set label %d "%s" at %s,%d left offset 0.5,0 front' % (i + 1, short(s.median) + (" →" if cut else ""),
                                                                          number(at), i))
    names = ["%s %d" % (quoted(p.replace("%", "%%")), i) for i, (p, _) in enumerate(samples)]  # % would be a format
    script = ["unset label"] + block("b%d" % n, bars) + (block("e%d" % n, spans) if spans else []) + out
    script += ['set title "{/:Bold %s}"' % plain(scenario), "set xrange [0:%s]" % number(rim * 1.22),
               "set xtics %s" % number(tic_step(rim)), "set yrange [%s:-0.7]" % (len(samples) - 0.3),
               "set ytics (%s) noenhanced" % ", ".join(names)]
    draw = ["$b%d using 1:2:3:4:5:6:7 with boxxyerror fs solid 0.9 noborder lc rgb variable notitle" % n]
    if spans:
        draw.append('$e%d using 1:2:3:4 with xerrorbars pt 0 ps 0 lc rgb "#222222" lw 1.2 notitle' % n)
    return script + ["plot " + ", \\\n  ".join(draw)]


def cpu_small(res):
    scenarios = res.scenarios(lambda s: is_small(s) and any(res.sample(s, p, "cpu_ms") for p in res.peers() if p != DIRECT))
    peers = [p for p in res.peers(scenarios) if p != DIRECT]
    if not scenarios or not peers:
        return None
    down = -(-len(scenarios) // PANELS_A_ROW)
    height = HEAD_PX + down * (BAR_PX * len(peers) + GAP_PX) + FOOT_PX
    look = styles(res.peers())
    script = opening(1200, height, 14)
    title = titled(res, "CPU of the proxy per small message, ms (→ more than %d times ringpost's)" % CUT)
    script += [multiplot(down, PANELS_A_ROW, title, 0.12, 0.97, FOOT_PX / height, 1 - HEAD_PX / height, 0.15, GAP_PX / height),
               "unset key", "set grid noytics xtics", 'set format x "%g"', "set ytics scale 0", "set title offset 0,-0.6"]
    for n, s in enumerate(scenarios):
        script += panel(res, s, peers, look, n)
    return script + ["unset multiplot"]


# ---- drawing ----

PICTURES = {"cpu-by-size.svg": cpu_by_size, "cpu-small.svg": cpu_small, "memory.svg": memory, "latency.svg": latency}


def gnuplot(script, to):
    """None, or what went wrong in words."""
    with tempfile.TemporaryDirectory(prefix="ringpost-plots.") as folder:
        path, made = os.path.join(folder, "plot.gp"), os.path.join(folder, "plot.svg")
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(script[:1] + ["set output %s" % quoted(made)] + script[1:]) + "\n")
        try:
            p = subprocess.run(["gnuplot", path], capture_output=True, text=True, timeout=GNUPLOT_S,
                               env={**os.environ, "LC_ALL": "C.UTF-8"})
        except subprocess.TimeoutExpired:
            return "gnuplot did not end in %d s" % GNUPLOT_S
        said = p.stderr.strip()
        if p.returncode or not os.path.exists(made) or not os.path.getsize(made):
            return said[-400:] or "gnuplot ended with status %d" % p.returncode
        shutil.copyfile(made, to)
        return "gnuplot says: " + said[-400:] if said else None


def write(path, folder, say=print):
    """The pictures of the runs in `path`; returns the paths of those that were drawn."""
    if not shutil.which("gnuplot"):
        say("no pictures: gnuplot is not installed (Debian: gnuplot-nox)")
        return []
    res = results.read(path)
    os.makedirs(folder, exist_ok=True)
    drawn = []
    for name, script_of in PICTURES.items():
        to = os.path.join(folder, name)
        if os.path.exists(to):
            os.remove(to)
        script = script_of(res)
        wrong = gnuplot(script, to) if script else None
        if wrong:
            say("%s: %s" % (name, wrong))
        if os.path.exists(to):
            drawn.append(to)
    return drawn


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("runs", metavar="RUNS.jsonl")
    p.add_argument("--out", default=".", metavar="FOLDER")
    o = p.parse_args()
    try:
        for path in write(o.runs, o.out):
            print(path)
    except (OSError, results.Broken) as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
