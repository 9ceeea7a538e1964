# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine: what it is, its counters, and a network namespace of our own to measure in.

In a namespace of its own loopback carries nothing but the load, so that packets can be counted; and the range of ports
can be widened without touching the machine's settings. Without root the measurement runs in the machine's namespace.
"""
import datetime
import functools
import glob
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

INSIDE = "RINGPOST_BENCH_NAMESPACE"
FIRST_PORT = 20000  # proxies and sinks listen from here on; clients' ports begin above
PORTS = 2000
# systemd allows a process a thousand million descriptors, and some programs make tables of as many as they may have.
DESCRIPTORS_MOST = 1 << 20
EX_UNAVAILABLE = 69
PROBES, PROBE_S = 50, 0.004
PROCESSES_SHARE = 0.93  # of a probe's time: with less, interrupts were not in it


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


def end_by_signals():
    """As an exception, so that what was started is taken down. Who ignores the end of a terminal (nohup) goes on."""
    def end(*_):
        sys.exit("ended by a signal")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def raise_descriptors():
    """As many as root, or the hard limit, allows. Returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with open("/proc/sys/fs/nr_open") as f:
        most = min(int(f.read()), DESCRIPTORS_MOST)
    for n in (most, 262144, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (n, max(n, hard)))
            return n
        except (ValueError, OSError):
            pass
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


# ---- which CPUs ----

def _listed(path):
    """The CPUs of a list like 0-3,8; none where the kernel does not say."""
    found = set()
    try:
        with open(path) as f:
            words = f.read().strip().split(",")
    except OSError:
        return found
    for word in filter(None, words):
        first, _, last = word.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def same_core(cpu):
    """The threads of its core, itself included."""
    return _listed("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % cpu) | {cpu}


def same_cache(cpu):
    """Who shares its last level of cache."""
    levels = sorted(glob.glob("/sys/devices/system/cpu/cpu%d/cache/index*/shared_cpu_list" % cpu))
    return (_listed(levels[-1]) if levels else set()) | {cpu}


def pair(proxy=None, load=None):
    """The CPUs of the proxy and of load and sink: those that were asked for, else the first one that we may use and another
    core, near it where that can be had. Ends the program where there are no two."""
    allowed = sorted(os.sched_getaffinity(0))
    for cpu in (proxy, load):
        if cpu is not None and cpu not in allowed:
            _no("CPU %d is not one that may be used here (%s)" % (cpu, " ".join(map(str, allowed))))
    if len(allowed) < 2:
        _no("this takes two CPUs: one for the proxy, one for load and sink")
    if proxy is None:
        proxy = next(cpu for cpu in allowed if cpu != load)
    if load is None:
        core, cache = same_core(proxy), same_cache(proxy)
        load = min((cpu for cpu in allowed if cpu != proxy), key=lambda cpu: (cpu in core, cpu not in cache, cpu))
    if proxy == load:
        _no("the proxy needs a CPU of its own, not that of load and sink")
    return proxy, load


def _no(words):
    print(words, file=sys.stderr)
    sys.exit(EX_UNAVAILABLE)


# ---- what it is ----

def cpu_model():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def setting(path):
    """A word that the kernel says; empty where it does not."""
    try:
        with open(path) as f:
            return f.read().strip()
    except OSError:
        return ""


def describe(proxy_cpu, load_cpu):
    """The first line of a file of results."""
    with open("/proc/meminfo") as f:
        mem = int(f.readline().split()[1])
    return {"ev": "machine", "date": datetime.date.today().isoformat(), "cpu": cpu_model(), "cpus": len(os.sched_getaffinity(0)),
            "memory_gib": round(mem / (1 << 20), 1), "kernel": platform.release(), "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "namespace": bool(os.environ.get(INSIDE)), "proxy_cpu": proxy_cpu, "load_cpu": load_cpu,
            "one_core": load_cpu in same_core(proxy_cpu), "governor": setting(
                "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor" % proxy_cpu),
            "congestion_control": setting("/proc/sys/net/ipv4/tcp_congestion_control"),
            "interrupts": "apart" if interrupts_apart(proxy_cpu) else "within"}


# ---- counters ----

def segments():
    """TCP segments sent in this thread's namespace so far: both legs, both directions."""
    with open("/proc/thread-self/net/snmp") as f:
        names, values = [line.split()[1:] for line in f if line.startswith("Tcp:")]
    return dict(zip(names, map(int, values)))["OutSegs"]


@dataclass(frozen=True)
class Core:
    """Seconds of one CPU so far. What it is not idle for is not asked for by its columns of work: those are samples of the
    timer's tick on most kernels, and miss work that begins behind each tick (of delayed acknowledgements, say)."""
    at: float
    rest: float        # idle, or waiting for a disk
    stolen: float      # the host of this virtual machine ran somebody else
    interrupts: float  # hard and soft ones

    def busy_since(self, before):
        return max(self.at - before.at - (self.rest - before.rest) - (self.stolen - before.stolen), 0)


def core(cpu):
    with open("/proc/stat") as f:
        for line in f:
            if line.startswith("cpu%d " % cpu):
                _, _, _, idle, iowait, irq, softirq, stolen = (int(x) / os.sysconf("SC_CLK_TCK") for x in line.split()[1:9])
                return Core(time.monotonic(), idle + iowait, stolen, irq + softirq)
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


@functools.lru_cache(maxsize=None)
def interrupts_apart(cpu):
    """Does this kernel keep the time of interrupts out of the processes' (CONFIG_IRQ_TIME_ACCOUNTING)? On loopback a soft
    interrupt in the sender's call is what receives, so that would leave out a good part of what a proxy costs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
            s.connect(s.getsockname())
            return processes_only(_probe(s) for _ in range(PROBES))
    finally:
        os.sched_setaffinity(0, before)


def _probe(s):
    """The share of a while that this thread is told it has worked, of one that it worked through; None: it was interrupted."""
    def switches():
        u = resource.getrusage(resource.RUSAGE_THREAD)
        return u.ru_nvcsw + u.ru_nivcsw
    switched, began, cpu = switches(), time.monotonic(), time.thread_time()
    while time.monotonic() - began < PROBE_S:
        s.send(b"x")
        s.recv(1)
    share = (time.thread_time() - cpu) / (time.monotonic() - began)
    return share if switches() == switched else None


def processes_only(shares):
    """The best of them tells: a host that stole makes a share smaller, nothing makes it larger."""
    whole = [share for share in shares if share is not None]
    return bool(whole) and max(whole) < PROCESSES_SHARE


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
