# SPDX-License-Identifier: GPL-3.0-or-later
"""Many sessions that all wait for a hook at the same time: what each takes, and what becomes of them."""
import contextlib
import os
import resource
import select
import socket
import time

from hooked import LOAD_CPU, Hooked, check, cpu_us, end, plugin, stand_with

QUIET_US = 2000  # of CPU in a look: its clocks tick on
LOOK_S = 0.2


class Crowd:
    """Sessions of one thread; commands to all of them, then a reply of each."""

    BATCH = 1000  # connections that may wait to be accepted
    OF_EACH = 5000  # connections from one source address: ports are few

    def __init__(self, address):
        self.address, self.socks, self.bad = address, [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in self.socks:
            s.close()

    def grow(self, n):
        """n more sessions, each behind its EHLO."""
        end_at = len(self.socks) + n
        while len(self.socks) < end_at:
            fresh = [self.connection(i) for i in range(len(self.socks), min(end_at, len(self.socks) + self.BATCH))]
            self.socks += fresh
            self.replies(b"2", fresh)
            self.say(b"EHLO idle.example\r\n", fresh)
            self.replies(b"2", fresh)

    def connection(self, i):
        s = socket.create_connection(self.address, source_address=("127.0.0.%d" % (2 + i // self.OF_EACH), 0))
        s.settimeout(60)
        return s

    def say(self, line, socks=None):
        for s in self.socks if socks is None else socks:
            with contextlib.suppress(OSError):  # replies() sees why
                s.send(line)

    def replies(self, good, socks=None):
        """How many were as they should be; the others go to .bad."""
        n = 0
        for s in self.socks if socks is None else socks:
            said = self.reply(s)
            if said.startswith(good):
                n += 1
            else:
                self.bad.append(said)
        return n

    @staticmethod
    def reply(s):
        said = b""
        try:
            while said[-1:] != b"\n" or said.split(b"\r\n")[-2][3:4] == b"-":
                more = s.recv(4096)
                if not more:
                    break
                said += more
        except OSError as e:
            said = str(e).encode()
        return said

    def nothing_said(self):
        """The oldest question, which is answered first, is still open."""
        poll = select.poll()
        poll.register(self.socks[0], select.POLLIN)
        return not poll.poll(0)


class Steps:
    """What the process has at each step, when it does next to nothing."""

    def __init__(self, stand):
        self.stand, self.taken = stand, []

    def note(self, what, sessions):
        for _ in range(100):
            before = cpu_us(self.stand)
            time.sleep(LOOK_S)
            if cpu_us(self.stand) - before < QUIET_US:
                break
        group = self.stand.place.group
        self.taken.append((what, sessions, group.anon_kib(), group.threads()))


@contextlib.contextmanager
def on_cpu(cpu):
    """This thread."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def sessions_possible():
    """Two descriptors each in ringpost, and some for itself."""
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2


def climb(crowd, steps, n):
    """Idle, in a transaction, waiting, answered, gone."""
    crowd.grow(100)
    steps.note("before", 0)
    crowd.grow(n - 100)
    steps.note("idle", n - 100)
    crowd.say(b"MAIL FROM:<s@idle.example>\r\n")
    crowd.replies(b"250")
    steps.note("in a transaction", n)
    began = time.monotonic()
    crowd.say(b"RCPT TO:<r@sink.example>\r\n")
    steps.note("pending", n)
    at_once = crowd.nothing_said()
    said = time.monotonic() - began
    answered = crowd.replies(b"250")
    took = time.monotonic() - began
    steps.note("answered", n)
    crowd.say(b"QUIT\r\n")
    left = crowd.replies(b"221")
    check(at_once, "answers came before all had asked: --hold-ms is too short for this machine (%.1f s)" % said)
    check(answered == n, "%d of %d sessions were answered" % (answered, n))
    check(left == n and not crowd.bad, "%d of %d sessions ended in order; %r" % (left, n, crowd.bad[:3]))
    return answered, took


def all_at_once(a):
    """Anonymous memory of each session: idle, with a transaction, with a question that waits."""
    n = min(a.sessions, sessions_possible())
    if n < a.sessions:
        print("%d sessions, not %d: RLIMIT_NOFILE allows no more" % (n, a.sessions))
    # Near the limit of descriptors ringpost would shorten the timeouts of the sessions that are idle.
    peer = Hooked(plugin("later", "stream", "{at: rcpt, ms: '%d'}" % a.hold_ms), options="limits: {pressure: off}")
    with stand_with(a.build, peer) as stand:
        steps = Steps(stand)
        with on_cpu(LOAD_CPU), Crowd(stand.address) as crowd:
            answered, took = climb(crowd, steps, n)
        _, counters = end(stand)
    check(counters["asked"] == n, "%d of %d sessions asked" % (counters["asked"], n))
    threads = [count for _, _, _, count in steps.taken]
    check(len(set(threads)) == 1, "threads: %r" % threads)
    return show(n, steps.taken, answered, len(crowd.bad), took)


def show(n, steps, answered, bad, took):
    print("pending: %d sessions wait at RCPT at the same time: %d answered, %d refused or lost, the last answer after %.1f s"
          % (n, answered, bad, took))
    print("%-18s%12s%22s%10s" % ("", "anon KiB", "KiB for each session", "threads"))
    base, out = steps[0][2], {}
    for i, (what, sessions, kib, count) in enumerate(steps):
        # What is there for each is what came since the step before, over the sessions that took it.
        each = (kib - steps[i - 1][2]) / sessions if sessions else 0
        out[what] = {"anon_kib": kib, "kib_more_each": each, "threads": count}
        print("%-18s%12d%22s%10d" % (what, kib, "%+.2f" % each if i else "", count), flush=True)
    out.update(sessions=n, answered=answered, refused=bad, base_kib=base, seconds=took)
    return out
