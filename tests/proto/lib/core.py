# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests, their failures and their transcript.

A test is a plain function `def name(t)` under @test(...). `t` (class T) makes the peers and the
ringpost process, notes every octet that passes between them, and takes everything down at the end,
when it also checks what must hold after every test: no octets nobody read, no connection nobody
expected, all of ringpost's sockets closed, exit status 0, no sanitizer report, sane log lines.

Failure modes: a broken expectation raises Failure; a missing precondition of the machine (no IPv6,
not root) raises Skip. Everything that waits is bounded: t.wait seconds times the slow factor.
"""
import os
import shutil
import subprocess
import tempfile
import time

CERTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "certs.sh")
TESTS = []


class Failure(AssertionError):
    """An expectation did not hold."""


class Skip(Exception):
    """The machine cannot run this test; the text says why."""


class Test:
    def __init__(self, fn, quick, timeout, serial, modes):
        self.fn = fn
        area = fn.__module__.rsplit(".", 1)[-1]
        self.name = area.replace("test_", "", 1) + "." + fn.__name__
        self.quick = quick
        self.timeout = timeout
        self.serial = serial
        self.modes = modes


def test(quick=False, timeout=20, serial=False, modes=None):
    """quick: part of `make check`. timeout: seconds for the whole test. serial: alone on the machine
    (load, memory). modes: the build modes it makes sense in (None = all)."""
    def mark(fn):
        TESTS.append(Test(fn, quick, timeout, serial, modes))
        return fn
    return mark


def cases(values, **how):
    """One test per value: @cases({"copy": "copy", ...}, quick=True) def body(t, value)."""
    def mark(fn):
        for label, value in values.items():
            def one(t, value=value):
                return fn(t, value)
            one.__name__ = "%s[%s]" % (fn.__name__, label)
            one.__module__ = fn.__module__
            one.__doc__ = fn.__doc__
            test(**how)(one)
        return fn
    return mark


def show(data, limit=160):
    """Octets as a person reads them; long ones cut in the middle."""
    if len(data) > limit:
        head, tail = data[:limit * 2 // 3], data[-limit // 4:]
        return "%s ... %s (%d octets)" % (repr(head)[1:], repr(tail)[1:], len(data))
    return repr(bytes(data))[1:]


class Transcript:
    """What passed, both sides beside each other. Only the last KEEP events are kept."""
    KEEP = 240

    def __init__(self):
        self.t0 = time.monotonic()
        self.rows = []
        self.label = None

    def note(self, who, what, right=False):
        self.rows.append((time.monotonic() - self.t0, who, what, right))
        if len(self.rows) > 2 * self.KEEP:
            del self.rows[:self.KEEP]

    def restart(self, label):
        """A new round of a loop: forget the earlier ones."""
        self.label = label
        self.rows = []

    def text(self):
        out = []
        if self.label is not None:
            out.append("round: %s" % (self.label,))
        if len(self.rows) > self.KEEP:
            out.append("... %d earlier events" % (len(self.rows) - self.KEEP))
        for when, who, what, right in self.rows[-self.KEEP:]:
            out.append("%8.3f %s%-4s %s" % (when, " " * 36 if right else "", who, what))
        return "\n".join(out)


class T:
    """One running test."""

    def __init__(self, test_, build, slow, mode, shared=None):
        self.test = test_
        self.build = build
        self.slow = slow
        self.mode = mode
        self.shared = shared  # directory of the whole run, or None
        self.made = None
        self.log = Transcript()
        self.wait = 5.0 * slow
        self.dir = tempfile.mkdtemp(prefix="ringpost-proto.")
        os.chmod(self.dir, 0o755)
        self.upstreams = []
        self.conns = []
        self.processes = []
        self.servers = []

    # ---- making things (imports late: the modules below use this one) ----

    def upstream(self, **kw):
        from lib.peers import ScriptedUpstream
        return ScriptedUpstream(self, **kw)

    def auto(self, **kw):
        from lib.autoserver import AutoServer
        return AutoServer(self, **kw)

    def ringpost(self, *servers, **kw):
        from lib.ringpost import Ringpost
        return Ringpost(self, servers, **kw)

    def certs(self):
        """The directory that tests/certs.sh makes, once per run."""
        if self.made:
            return self.made
        made = os.path.join(self.shared or self.dir, "certs")
        done = subprocess.run(["sh", CERTS, made], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise Failure("no certificates: %s" % done.stderr)
        self.made = made
        return made

    def path(self, name):
        return os.path.join(self.dir, name)

    def round(self, label):
        self.log.restart(label)

    def note(self, text):
        self.log.note("--", text)

    def fail(self, text):
        raise Failure(text)

    def check(self, ok, text):
        if not ok:
            raise Failure(text)

    def equal(self, got, want, what):
        if got != want:
            if isinstance(got, (bytes, bytearray)) and isinstance(want, (bytes, bytearray)):
                raise Failure("%s:\n  %s" % (what, difference(bytes(want), bytes(got))))
            raise Failure("%s:\n  expected %r\n  got      %r" % (what, want, got))

    def until(self, holds, what, seconds=None):
        """Polls until holds() is true; its value is returned."""
        end = time.monotonic() + (seconds * self.slow if seconds else self.wait)
        while True:
            value = holds()
            if value:
                return value
            if time.monotonic() > end:
                raise Failure("never came true: " + what)
            time.sleep(0.005)

    # ---- the end ----

    def close(self, failed):
        """Takes everything down. The checks only after a test that went well so far: the first
        failure is the interesting one."""
        problems = []

        def attempt(fn):
            try:
                fn()
            except Failure as e:
                problems.append(str(e))
        if not failed:
            for c in self.conns:
                attempt(c.check_nothing_left)
            for u in self.upstreams:
                attempt(u.check_nobody_waits)
        for c in self.conns:
            c.shut()
        for u in self.upstreams:
            u.shut()
        for s in self.servers:
            attempt(s.stop)
        for p in self.processes:
            attempt(lambda p=p: p.finish(checks=not failed))
        if os.environ.get("PROTO_KEEP") and (failed or problems):
            self.note("kept: " + self.dir)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        if problems and not failed:
            raise Failure("\n".join(problems))
        return problems


def difference(want, got):
    """Where two octet strings part, with what is around it."""
    n = min(len(want), len(got))
    at = next((i for i in range(n) if want[i] != got[i]), n) if want[:n] != got[:n] else n
    lo = max(0, at - 30)
    return "differ at octet %d (expected %d in all, got %d)\n  expected ...%s\n  got      ...%s" % (
        at, len(want), len(got), show(want[lo:at + 90], 200), show(got[lo:at + 90], 200))
