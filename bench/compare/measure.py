# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of one scenario with one peer: a record of figures for each message that was accepted in the window."""
import time

from machine import busy_s, pace, segments
from scenarios import LOAD, RATE, WARM_UP_S
from stand import Failed, Load, Loopback, Stand, send


class Counters:
    """Everything that is read twice, at the two ends of the window."""

    def __init__(self, place):
        self.at = time.monotonic()
        self.cpu, self.user, self.system = place.group.cpu_s()
        self.switches = place.group.switches()
        with place.network.proxy.inside():
            self.segments = segments()
        self.proxy_cpu, self.load_cpu = busy_s(place.cpu), busy_s(place.load_cpu)


def latency(report):
    """Microseconds, from the load's report."""
    return {k: report["latency_us"][k] for k in ("p50", "p90", "p99", "p999", "max")}


def record(a, b, messages, report):
    took = b.at - a.at
    n = max(messages, 1)
    cpu = b.cpu - a.cpu
    return {"messages": messages, "seconds": round(took, 4), "rate": round(messages / took, 2),
            "cpu_ms": cpu * 1000 / n, "user_ms": (b.user - a.user) * 1000 / n, "system_ms": (b.system - a.system) * 1000 / n,
            "segments": (b.segments - a.segments) / n, "switches": (b.switches - a.switches) / n,
            "busy_proxy": (b.proxy_cpu - a.proxy_cpu) / took, "busy_load": (b.load_cpu - a.load_cpu) / took,
            "foreign": (b.proxy_cpu - a.proxy_cpu - cpu) / took,  # work on the proxy's core that was not the proxy's
            "latency_us": latency(report)}


def window(stand, scenario, seconds):
    """The two ends of a window in the middle of a load, what was accepted in it, and the load's report."""
    load = Load(stand, scenario.load.split() + ["--warm-up", str(WARM_UP_S), "--duration", str(seconds)] +
                (["--histogram"] if scenario.kind == RATE else []))
    try:
        load.begin()
        a = Counters(stand.place)
        measured = load.end()
        b = Counters(stand.place)
        return a, b, measured["messages"], load.report()
    finally:
        load.kill()


def whole(stand, scenario, seconds):
    """The same over a whole load: from a peer that was warmed up and has nothing to do to one that has nothing to do."""
    def loaded(*how_much):
        report = send(stand, scenario.load.split() + list(how_much))
        stand.peer.drain(stand.place)
        return report
    loaded("--messages", str(scenario.at_once))
    a = Counters(stand.place)
    report = loaded("--duration", str(seconds))
    return a, Counters(stand.place), report["accepted"], report


def run(peer, scenario, options, network=Loopback):
    """A record; {"failed": words} when the peer could not do it."""
    try:
        with Stand(peer, options.build, options.proxy_cpu, options.load_cpu, sessions=scenario.at_once,
                   network=network) as stand:
            way = whole if peer.whole and scenario.kind == LOAD else window
            before = pace(options.proxy_cpu)
            a, b, messages, report = way(stand, scenario, scenario.seconds * options.stretch)
            r = record(a, b, messages, report)
            r["pace"] = [round(before), round(pace(options.proxy_cpu))]
            if report.get("rejected") or report.get("failed"):
                r["not_accepted"] = report.get("rejected", 0) + report.get("failed", 0)
            if "latency_histogram" in report:
                r["histogram"] = report["latency_histogram"]
            r.update(peer.more(stand.place))
            return r
    except Failed as e:
        return {"failed": str(e)}
