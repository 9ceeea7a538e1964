# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine: what it is, its counters, and a network namespace of our own to measure in.

In a namespace of its own loopback carries nothing but the load, so that packets can be counted; and the range of ports
can be widened without touching the machine's settings. Without root the measurement runs in the machine's namespace.
"""
import datetime
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time

INSIDE = "RINGPOST_BENCH_NAMESPACE"
FIRST_PORT = 20000  # proxies and sinks listen from here on; clients' ports begin above
PORTS = 2000


def isolate():
    """Starts this program again in a network namespace; returns in the copy, or where that cannot be had."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as f:
            f.write("%d 65535" % (FIRST_PORT + PORTS))
        return
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        return
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, "-B"] + sys.argv)


def raise_descriptors():
    """As many as root, or the hard limit, allows. Returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with open("/proc/sys/fs/nr_open") as f:
        most = int(f.read())
    for n in (most, 262144, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (n, max(n, hard)))
            return n
        except (ValueError, OSError):
            pass
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def cpu_model():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def describe():
    """The first line of a file of results."""
    with open("/proc/meminfo") as f:
        mem = int(f.readline().split()[1])
    return {"ev": "machine", "date": datetime.date.today().isoformat(), "cpu": cpu_model(), "cpus": len(os.sched_getaffinity(0)),
            "memory_gib": round(mem / (1 << 20), 1), "kernel": platform.release(), "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "namespace": bool(os.environ.get(INSIDE))}


def segments():
    """TCP segments sent in this thread's namespace so far: both legs, both directions."""
    with open("/proc/thread-self/net/snmp") as f:
        names, values = [line.split()[1:] for line in f if line.startswith("Tcp:")]
    return dict(zip(names, map(int, values)))["OutSegs"]


def busy_s(cpu):
    """Seconds in which this CPU was not idle (stolen time left out)."""
    with open("/proc/stat") as f:
        for line in f:
            if line.startswith("cpu%d " % cpu):
                user, nice, system, _, _, irq, softirq = map(int, line.split()[1:8])
                return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    raise ValueError("no CPU %d" % cpu)


PACE_LOOPS = 200000  # some 10 ms


def pace(cpu):
    """How fast this CPU is just now: loops of fixed work for each millisecond of CPU time. Neighbours of a virtual machine and
    changing clocks slow a core down for seconds, and no counter of the guest says so."""
    was = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    began = time.thread_time()
    for _ in range(PACE_LOOPS):
        pass
    took = time.thread_time() - began
    os.sched_setaffinity(0, was)
    return PACE_LOOPS / took / 1000


_next_port = FIRST_PORT


def free_port():
    global _next_port
    while True:
        _next_port = FIRST_PORT + (_next_port + 1 - FIRST_PORT) % PORTS
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", _next_port))
                return _next_port
            except OSError:
                pass
