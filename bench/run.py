#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost by itself on loopback: what one message costs.

Each row starts a fresh ringpost (one worker on CPU 0) before a fresh ringpost-sink and lets ringpost-blast send (both on
CPU 1). Printed per message: CPU time of the ringpost process (user and kernel), its io_uring_enter calls, receive
completions and send calls, and all TCP segments of the machine (both legs, both directions). Counts are exact, times are
the median of the rounds with their range. The last rows are anonymous memory per idle session. A rule hook is on, as it
would be at work; its lists match nothing.
"""
import argparse
import atexit
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROWS = (
    ("new 1 KB", "--connections 64 --per-connection 1 --size 1k", 6000),
    ("new 10 KB", "--connections 64 --per-connection 1 --size 10k", 6000),
    ("kept 4 KB lock-step", "--connections 64 --size 4k", 20000),
    ("kept 4 KB pipelined", "--connections 64 --size 4k --pipelining", 40000),
    ("kept 75 KB", "--connections 64 --size 75k", 6000),
    ("new 1 MB", "--connections 8 --per-connection 1 --size 1m", 400),
    ("new 10 MB", "--connections 8 --per-connection 1 --size 10m", 40),
    ("BDAT 1 MB", "--connections 8 --per-connection 1 --size 1m --bdat", 400),
    ("BDAT 10 MB", "--connections 8 --per-connection 1 --size 10m --bdat", 40),
)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit("nothing answers on port %d" % port)


def cpu_s(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def anon_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon"))


def segments():
    with open("/proc/net/snmp") as f:
        names, values = [line.split()[1:] for line in f if line.startswith("Tcp:")]
    return dict(zip(names, map(int, values)))["OutSegs"]


RULES = "{type: rules, reject-senders: ['@blocked.test'], reject-recipients: ['@blocked.test']}"


class Stand:
    """A sink and a ringpost before it. `hooks`: name and mapping (YAML), asked in this order; `more`: other lines."""

    def __init__(self, build, mover="auto", hooks={"rules": RULES}, more=""):
        self.dir = tempfile.TemporaryDirectory(prefix="ringpost-bench.")
        self.sink_port, self.port = free_port(), free_port()
        self.log = os.path.join(self.dir.name, "log")
        conf = os.path.join(self.dir.name, "ringpost.yaml")
        with open(conf, "w") as f:
            f.write("workers: 0-0\nlog: {to: 'file:%s'}\n"
                    "listeners:\n  in: {bind: '127.0.0.1:%d', upstream: sink, hooks: [%s], limits: {per-client-sessions: 0}}\n"
                    "upstreams:\n  sink: {servers: '127.0.0.1:%d', mover: %s}\n"
                    "hooks: {%s}\n%s" % (self.log, self.port, ", ".join(hooks), self.sink_port, mover,
                                      ", ".join("%s: %s" % h for h in hooks.items()), more))
        os.chmod(conf, 0o644)
        self.sink = subprocess.Popen([build + "/ringpost-sink", "--quiet", "--cpu", "1", "--listen",
                                      "127.0.0.1:%d" % self.sink_port])
        atexit.register(self.kill)
        wait_for(self.sink_port)
        self.proxy = subprocess.Popen([build + "/ringpost", "run", "-c", conf])
        wait_for(self.port)

    def kill(self):
        """What still runs when a measurement has failed."""
        for process in (self.sink, getattr(self, "proxy", None)):
            if process and process.poll() is None:
                process.kill()
                process.wait()

    def stop(self):
        self.proxy.send_signal(signal.SIGTERM)
        self.proxy.wait(30)
        self.sink.send_signal(signal.SIGTERM)
        self.sink.wait(30)
        atexit.unregister(self.kill)
        with open(self.log) as f:  # a line for each message and session is in it, too
            self.records = [json.loads(line) for line in f if '"ev":"stop"' in line or '"ev":"hook' in line]
        self.dir.cleanup()
        return next(r for r in self.records if r["ev"] == "stop")


def blast(build, port, arguments, messages):
    """Its report."""
    out = subprocess.run([build + "/ringpost-blast", "--json", "--cpu", "1", "--to", "127.0.0.1:%d" % port,
                          "--messages", str(messages)] + arguments.split(), capture_output=True, text=True, timeout=120)
    if out.returncode != 0:
        sys.exit("ringpost-blast %s: %s%s" % (arguments, out.stdout, out.stderr))
    return json.loads(out.stdout)


def measure(build, row, mover):
    name, arguments, messages = row
    stand = Stand(build, mover)
    blast(build, stand.port, arguments, max(messages // 20, 4))  # warm
    cpu, seg, began = cpu_s(stand.proxy.pid), segments(), time.monotonic()
    blast(build, stand.port, arguments, messages)
    took = time.monotonic() - began
    cpu, seg = cpu_s(stand.proxy.pid) - cpu, segments() - seg
    stop = stand.stop()
    n = stop["messages_accepted"]
    return {"cpu_ms": cpu * 1000 / messages, "rate": messages / took, "segments": seg / messages,
            "enters": stop["ring_enters"] / n, "recvs": stop["ring_recvs"] / n,
            "sends": (stop["ring_sends_now"] + stop["ring_sends_ring"]) / n}


def idle(build, count):
    stand = Stand(build, "auto")
    held = []

    def hold(n):
        for _ in range(n):
            s = socket.create_connection(("127.0.0.1", stand.port))
            s.recv(512)
            s.send(b"EHLO idle.example\r\n")
            s.recv(4096)
            held.append(s)

    hold(100)
    before = anon_kib(stand.proxy.pid)
    hold(count)
    time.sleep(0.5)
    kib = (anon_kib(stand.proxy.pid) - before) / count
    for s in held:
        s.close()
    stand.stop()
    return kib


def raise_descriptors():
    """10,000 sessions are 20,000 descriptors in ringpost; only root may go beyond the hard limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for most in (max(hard, 65536), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            return
        except (ValueError, OSError):
            pass


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--build", default="build/release")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--mover", default="auto")
    p.add_argument("--idle", type=int, action="append", help="idle sessions; may be repeated (1000 and 10000)")
    a = p.parse_args()
    raise_descriptors()
    print("CPU 0: ringpost, CPU 1: blast and sink; %d rounds; mover %s; Linux %s" % (a.rounds, a.mover, os.uname().release))
    print("%-22s %28s %9s %8s %8s %8s %8s" % ("row", "CPU ms/message (range)", "msg/s", "enters", "recvs", "sends", "segments"))
    results = {row[0]: [] for row in ROWS}
    for _ in range(a.rounds):  # interleaved: drift of the machine hits all rows alike
        for row in ROWS:
            results[row[0]].append(measure(a.build, row, a.mover))
    for name, runs in results.items():
        med = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
        cpu = sorted(r["cpu_ms"] for r in runs)
        print("%-22s %10.4f (%.4f..%.4f) %9.0f %8.2f %8.2f %8.2f %8.2f" % (
            name, med["cpu_ms"], cpu[0], cpu[-1], med["rate"], med["enters"], med["recvs"], med["sends"], med["segments"]))
    for count in a.idle or (1000, 10000):
        print("%-22s %10.2f KiB of anonymous memory each" % ("%d idle sessions" % count, idle(a.build, count)))


if __name__ == "__main__":
    main()
