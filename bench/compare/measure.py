# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of one scenario with one peer: a record of figures for each message that was accepted in the window."""
import time

from machine import core, pace, segments
from scenarios import LOAD, RATE
from stand import Failed, Load, Loopback, Stand, send

LOAD_PATIENCE_S = 60  # on top of the time that a load is to take
WAKE_S = 5e-6         # from rest to a process and back, on a virtual machine: nobody's work


class Counters:
    """Everything that is read twice, at the two ends of the window."""

    def __init__(self, place):
        self.at = time.monotonic()
        self.cpu, self.user, self.system = place.cpu_s()
        self.switches = place.group.switches()
        with place.network.proxy.inside():
            self.segments = segments()
        self.proxy_core, self.load_core = core(place.cpu), core(place.load_cpu)


def latency(report):
    """Microseconds, from the load's report."""
    return {k: report["latency_us"][k] for k in ("p50", "p90", "p99", "p999", "max")}


def record(a, b, messages, report):
    took = b.at - a.at
    n = max(messages, 1)
    cpu, busy = b.cpu - a.cpu, b.proxy_core.busy_since(a.proxy_core)
    wakes = (b.switches - a.switches) * max(1 - busy / took, 0)
    return {"messages": messages, "seconds": round(took, 4), "rate": round(messages / took, 2),
            "cpu_ms": cpu * 1000 / n, "user_ms": (b.user - a.user) * 1000 / n, "system_ms": (b.system - a.system) * 1000 / n,
            "segments": (b.segments - a.segments) / n, "switches": (b.switches - a.switches) / n,
            "busy_proxy": busy / took, "busy_load": b.load_core.busy_since(a.load_core) / took,
            "foreign": (busy - cpu - WAKE_S * wakes) / took,  # work on the proxy's core that was not the proxy's
            "stolen": (b.proxy_core.stolen - a.proxy_core.stolen) / took,
            "latency_us": latency(report)}


def edge(a, b, measured):
    """The share by which the counters' window is longer or shorter than the load's: both ends are read when the load has told
    us, which a busy machine delays."""
    return abs(b.at - a.at - measured["seconds"]) / measured["seconds"] if measured["seconds"] else 0


def window(stand, scenario, seconds):
    """The two ends of a window in the middle of a load, what was accepted in it, the load's report, and what the two windows
    differ by."""
    load = Load(stand, scenario.words + ["--warm-up", str(scenario.warm_up), "--duration", str(seconds)] +
                (["--histogram"] if scenario.kind == RATE else []))
    try:
        load.begin()
        a = Counters(stand.place)
        measured = load.end(seconds)
        b = Counters(stand.place)
        return a, b, measured["messages"], load.report(), edge(a, b, measured)
    finally:
        load.kill()


def whole(stand, scenario, seconds):
    """The same over a whole load: from a peer that was warmed up and has nothing to do to one that has nothing to do."""
    def loaded(*how_much):
        report = send(stand, scenario.words + list(how_much), LOAD_PATIENCE_S + seconds)
        stand.peer.drain(stand.place)
        return report
    loaded("--messages", str(scenario.at_once))
    a = Counters(stand.place)
    report = loaded("--duration", str(seconds))
    return a, Counters(stand.place), report["accepted"], report, 0


def handshakes(tls):
    """Of the report of a load with TLS: how many a second, and which share of them was resumed."""
    return {"handshakes": tls["handshakes_per_second"], "resumed": tls["resumed"] / max(tls["handshakes"], 1),
            "handshake_us": tls["handshake_us"]["p50"], "tls": "%s %s" % (tls["version"], tls["cipher"])}


def run(peer, scenario, options, network=Loopback):
    """A record; {"failed": words} when the peer could not do it."""
    try:
        with Stand(peer, options.build, options.proxy_cpu, options.load_cpu, sessions=scenario.at_once,
                   network=network, tls=scenario.tls) as stand:
            way = whole if peer.whole and scenario.kind == LOAD else window
            before = pace(options.proxy_cpu)
            a, b, messages, report, late = way(stand, scenario, scenario.seconds * options.stretch)
            r = {**record(a, b, messages, report), "edge": round(late, 4), "counted": stand.place.group.kind}
            r["pace"] = [round(before), round(pace(options.proxy_cpu))]
            if report.get("rejected") or report.get("failed"):
                r["not_accepted"] = report.get("rejected", 0) + report.get("failed", 0)
            if report.get("lockstep_connections"):
                r["lock_step"] = report["lockstep_connections"]
            if "tls" in report:
                r.update(handshakes(report["tls"]))
            if "latency_histogram" in report:
                r["histogram"] = report["latency_histogram"]
            r.update(peer.more(stand.place))
            return r
    except Failed as e:
        return {"failed": str(e)}
