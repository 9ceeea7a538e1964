# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory per idle session: what a peer and the kernel on its behalf hold for clients that have said EHLO and nothing since.

A peer that holds a session has two descriptors for it, and a client or a server one; what is beyond the limits of one process
(or beyond the ports between two addresses) is spread over copies of the peer, each with a sink and a load of its own, and all
copies in one group. The first reading is taken of a peer that has worked and holds some sessions, so that what is allocated
once is not counted; the second when the asked number came to them and the figures stand still.

The kernel charges a group for some of what it allocates for it: what is missing on Linux 6.18 is as much as one TCP socket of
the two of a session, and what a ring keeps for an armed receive. So the kernel's share is also taken from its slab caches, which are the whole machine's: what the sessions of
load and sink take there is seen first without the peer, and left out.
"""
import contextlib
import os
import re
import resource
import select
import smtplib
import subprocess
import time

from group import open_group
from machine import INSIDE
from stand import Failed, Stand, goes_with_us

OTHER_DESCRIPTORS = 200
# Of what a process could hold: near their limits some begin to close idle sessions (ringpost's `pressure`: above 80 %), and
# 20,000 sessions is ringpost's own limit by default.
SHARE, MOST_EACH = 0.75, 15000
WARM_LOAD = ("--connections", "2", "--messages", "8", "--size", "1m")  # more than any pool of receive buffers
WARM_SESSIONS = 300  # more than the load dials at the same time; they stay, or others would come into what they leave
SOURCES = 8          # client addresses of each copy
OPENING_PATIENCE_S, ENDING_PATIENCE_S = 120, 60
SILENCE_S = 6        # before each reading: ringpost's sessions wait in another way after 5 s
SHRUNK_KIB = 1024    # of all sessions: caches come and go
SETTLE_STEP_S, SETTLE_STEPS, SETTLED_KIB, SETTLED_SHARE = 0.3, 20, 64, 0.001


def ports():
    """Connections that fit between an address and an address with a port."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        first, last = map(int, f.read().split())
    return last - first + 1


def sessions_each():
    """The most sessions for one copy."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, int(SHARE * min((descriptors - OTHER_DESCRIPTORS) // 2, ports(), MOST_EACH / SHARE)))


def shares(sessions, most):
    """As few as need be, none more than one larger than another."""
    copies = -(-sessions // most)
    return [sessions // copies + (i < sessions % copies) for i in range(copies)]


def sockets(pid):
    folder = "/proc/%d/fd" % pid
    return sum(os.readlink("%s/%s" % (folder, fd)).startswith("socket:") for fd in os.listdir(folder))


class Sleepers:
    """A ringpost-blast whose sessions say EHLO and nothing else; `opened` of those that were asked for."""

    def __init__(self, stand, port, sessions, copy=0, words=()):
        p = stand.place
        sources = ",".join("127.1.%d.%d" % (copy, i + 1) for i in range(SOURCES))
        self.p = subprocess.Popen([p.build + "/ringpost-blast", "--cpu", str(p.load_cpu), "--idle", str(sessions), "--duration",
                                   "10h", "--source", sources, "--to", "127.0.0.1:%d" % port, *words],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=goes_with_us)
        try:
            self.opened = self._wait()
        except BaseException:
            self.end()
            raise

    def _wait(self):
        if not select.select([self.p.stdout], [], [], OPENING_PATIENCE_S)[0]:
            raise Failed("the sessions were not open in %d s" % OPENING_PATIENCE_S)
        line = self.p.stdout.readline()
        said = re.match(r"idle: (\d+) sessions open", line)
        if not said:
            raise Failed("the load ended: " + (line + self.p.stdout.read()).strip()[-300:])
        return int(said.group(1))

    def alive(self):
        """Its sockets: it closes one as soon as the other side does."""
        return sockets(self.p.pid)

    def end(self):
        self.p.terminate()
        try:
            self.p.communicate(timeout=ENDING_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.communicate()


class Witness:
    """One session from before the first reading to the end: it shows that sessions can still be used."""

    def __init__(self, stand):
        self.smtp = smtplib.SMTP(*stand.address, "witness.example", timeout=30)
        self.smtp.ehlo()

    def end(self):
        with contextlib.suppress(OSError, smtplib.SMTPException):
            if self.smtp.noop()[0] == 250:
                self.smtp.quit()
                return
        self.smtp.close()
        raise Failed("a session that was idle does not answer any more")


def work(stand, words):
    """Fills the pools that are filled once."""
    p = stand.place
    load = subprocess.run([p.build + "/ringpost-blast", "--quiet", "--cpu", str(p.load_cpu), "--to", "%s:%d" % stand.address,
                           *WARM_LOAD, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=OPENING_PATIENCE_S)
    if load.returncode != 0:
        raise Failed("messages were not accepted: " + load.stderr.strip()[-300:])


def threads(pids):
    """How many they have; of those that live."""
    n = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            n += len(os.listdir("/proc/%d/task" % pid))
    return n


def counts(cache):
    """Not closed connections that wait, and not files: both are somebody else's or come and go."""
    return cache == "sock_inode_cache" or not (cache.startswith("tw_sock") or cache.endswith("inode_cache"))


def slabs_kib():
    """The kernel's small objects, or None where they cannot be read. By objects in use, not by pages: pages that others left half
    empty would count as ours, or hide what is."""
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("2")  # names of files that nobody has open, of /proc above all
        with open("/proc/slabinfo") as f:
            rows = [line.split() for line in f.readlines()[2:]]
    except OSError:
        return None
    # name, objects in use, all, octets of one, objects in a slab, pages of a slab
    return sum(int(r[1]) * int(r[5]) * resource.getpagesize() / int(r[4]) for r in rows if counts(r[0])) / 1024


def tables_kib(pids):
    """Page tables and kernel stacks of these processes."""
    tables = 0
    for pid in pids:
        with contextlib.suppress(OSError), open("/proc/%d/status" % pid) as f:
            tables += sum(int(line.split()[1]) for line in f if line.startswith("VmPTE:"))
    with open("/proc/meminfo") as f:
        stacks = next(int(line.split()[1]) for line in f if line.startswith("KernelStack:"))
    with open("/proc/loadavg") as f:
        everybody = int(f.read().split()[3].split("/")[1])
    return tables + threads(pids) * round(stacks / everybody)


def read(group):
    """KiB: the peer's own, what the kernel charges it for, what the kernel uses in all; None: cannot be had. Page cache, such
    as of the peer's log, is in none of them."""
    charged, slabs = group.charged_kib(), slabs_kib()
    return (group.user_kib(), charged[1] if charged else None,
            slabs + tables_kib(group.pids()) if slabs is not None else None)


def settled(group):
    """The same, once two readings in a row are as good as equal: what was freed goes back a while later."""
    last = None
    for _ in range(SETTLE_STEPS):
        time.sleep(SETTLE_STEP_S)
        now = read(group)
        if last and all(abs(a - b) <= max(SETTLED_KIB, a * SETTLED_SHARE) for a, b in zip(last, now) if a is not None):
            break
        last = now
    return now


def each_of(sessions, before, after):
    return [(b - a) / max(sessions, 1) if a is not None else None for a, b in zip(before, after)]


def shrank(slabs, charged, sessions):
    """What a group is charged is a part of what the kernel uses for it. With less used than charged, somebody else's memory
    went away meanwhile (of a thousand processes that had just ended, say), and the figure is nobody's."""
    return slabs is not None and charged is not None and (charged - slabs) * sessions > SHRUNK_KIB


@contextlib.contextmanager
def asleep(stands, ports_of_them, each, words):
    """All sessions, one copy after the other: dialling at the same rate whatever the number of copies."""
    with contextlib.ExitStack() as stack:
        held = []
        for i, (stand, port, n) in enumerate(zip(stands, ports_of_them, each)):
            held.append(Sleepers(stand, port, n, i, words))
            stack.callback(held[-1].end)
        yield held


@contextlib.contextmanager
def no_waiting():
    """In a network namespace of ours closed connections do not wait: their ports would be found half set up by the next."""
    path = "/proc/sys/net/ipv4/tcp_max_tw_buckets"
    if not os.environ.get(INSIDE):
        yield
        return
    with open(path, "r+") as f:
        was = f.read()
        f.seek(0)
        f.write("0")
    try:
        yield
    finally:
        with open(path, "w") as f:
            f.write(was)


def measure(peer, scenario, options, group, each):
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_waiting())
        stands = [stack.enter_context(Stand(peer, options.build, options.proxy_cpu, options.load_cpu,
                                            sessions=n + WARM_SESSIONS + 1, group=group, tls=scenario.tls)) for n in each]
        for stand in stands:
            work(stand, scenario.tls_words)
        entrances = [s.address[1] for s in stands]
        witnesses = [Witness(s) for s in stands]
        some = stack.enter_context(asleep(stands, entrances, [WARM_SESSIONS] * len(stands), scenario.tls_words))
        with asleep(stands, [s.place.upstream_port for s in stands], each, ()):
            without_peer = settled(group)
        # Only now: the sinks' rings keep operations that they have used for the next.
        time.sleep(SILENCE_S)
        before, began = settled(group), time.monotonic()
        others = sum(sockets(s.sink.pid) for s in stands)
        held = stack.enter_context(asleep(stands, entrances, each, scenario.tls_words))
        opening_s = time.monotonic() - began
        time.sleep(SILENCE_S)
        after = settled(group)
        alive = sum(h.alive() for h in held)
        if any(h.alive() != WARM_SESSIONS for h in some):
            raise Failed("sessions were lost before there were many")
        for w in witnesses:
            w.end()
        user, charged, slabs = each_of(alive, before, after)
        if slabs is not None:
            # Of the load's and the sink's share the latter only as far as the peer has connected upstream.
            upstream = sum(sockets(s.sink.pid) for s in stands) - others
            slabs -= each_of(sum(each), before, without_peer)[2] * (alive + upstream) / (2 * alive)
        if shrank(slabs, charged, alive):
            raise Failed("the machine's kernel memory shrank meanwhile: %.2f KiB for each, and the group alone was charged %.2f" % (
                slabs, charged))
        kernel = slabs if slabs is not None else charged
        pids = group.pids()
        return {"sessions": sum(each), "alive": alive, "copies": len(each), "processes": len(pids), "threads": threads(pids),
                "user_kib": user, "kernel_kib": kernel, "all_kib": user + (kernel or 0), "charged_kib": charged,
                "base_kib": before[0], "charged": group.kind, "kernel_from": "slabs" if slabs is not None else group.kind,
                "opening_s": round(opening_s, 3), "opened_per_s": round(sum(each) / opening_s, 1)}


def run(peer, scenario, options):
    """A record; {"failed": words} when the peer could not do it."""
    group = open_group(peer.name + "-idle")
    try:
        return measure(peer, scenario, options, group, shares(scenario.sessions, sessions_each()))
    except Failed as e:
        return {"failed": str(e)}
    except (OSError, subprocess.SubprocessError) as e:  # a session or a load that did not come about
        return {"failed": "%s: %s" % (type(e).__name__, e)}
    finally:
        group.end()
