# SPDX-License-Identifier: GPL-3.0-or-later
"""One measurement's set-up: a peer on its core, the sink (and, while it runs, the load) on the other.

Owns the processes, the temporary folder and the control group; all are gone after `close()`, also when a start fails.
"""
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import subprocess
import tempfile
import time

import machine
from group import open_group
from scenarios import BOTH

TEMPLATES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "peers")
START_PATIENCE_S, END_PATIENCE_S = 20, 20
SESSIONS = 6000  # what peers with a limit are set up for, unless a scenario needs more or descriptors are short
SPARE = 16


class Failed(Exception):
    """A set-up that did not work, in words for the table."""


def wait_until_answering(host, port, processes, what):
    """Until somebody accepts there and says something (SMTP servers speak first)."""
    until = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < until:
        for p in processes:
            if p.poll() not in (None, 0):
                raise Failed("%s ended with status %d" % (what, p.returncode))
        try:
            with socket.create_connection((host, port), 1) as s:
                s.settimeout(2)
                if s.recv(512).startswith(b"220"):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise Failed("%s does not answer on port %d" % (what, port))


def sessions_for(asked, descriptors):
    """What peers with a limit are set up for: HAProxy does not start where its limit does not fit the descriptors."""
    return max(asked + SPARE, min(SESSIONS, descriptors // 3))


PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def goes_with_us():
    """Called in a child between fork and exec: it is asked to end when this program is gone, however that came."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def ended(p):
    """Not a child any more. Who does not go when asked is killed."""
    try:
        p.wait(END_PATIENCE_S)
    except subprocess.TimeoutExpired:
        p.kill()
        p.wait()


class Here:
    """A host of the machine itself; network.py has others."""
    address, prefix = "127.0.0.1", []
    inside = staticmethod(contextlib.nullcontext)


class Loopback:
    """Client, proxy and server on one machine."""
    client = proxy = server = Here


class Place:
    """Where a peer is to run: what `Peer.start()` gets. Ports are on 127.0.0.1 unless `host` says otherwise. A `group` that is
    given is the caller's, who may let several places share it."""

    def __init__(self, build, cpu, load_cpu, name, sessions=0, group=None, network=Loopback, tls=""):
        self.descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.sessions = sessions_for(sessions, self.descriptors)
        self.build, self.cpu, self.load_cpu = os.path.abspath(build), cpu, load_cpu
        self.tls = tls  # a scenario's legs
        self.interrupts_apart = machine.interrupts_apart(cpu)
        self.folder = tempfile.TemporaryDirectory(prefix="ringpost-bench.", ignore_cleanup_errors=True)
        self.dir = self.folder.name
        os.chmod(self.dir, 0o755)  # peers that change their user read their configuration from it
        self.network = network
        self.host, self.upstream_host = network.proxy.address, network.server.address
        self.port, self.upstream_port = machine.free_port(), machine.free_port()
        self.group_lent = group is not None
        self.group = group or open_group(name)
        self.processes, self.helpers = [], []

    def template(self, name, **more):
        """Writes bench/peers/NAME with its @WORDS@ filled in; returns the path of the copy."""
        words = {"HOST": self.host, "PORT": self.port, "UPSTREAM_HOST": self.upstream_host, "UPSTREAM_PORT": self.upstream_port,
                 "DIR": self.dir, "CPU": self.cpu, "SESSIONS": self.sessions,
                 # a session has two, and one while it asks somebody
                 "SOCKETS": min(3 * self.sessions + 1000, self.descriptors), **more}
        with open(os.path.join(TEMPLATES, name)) as f:
            text = f.read()
        for word, value in words.items():
            text = text.replace("@%s@" % word, str(value))
        path = os.path.join(self.dir, os.path.basename(name))
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o644)
        return path

    def certificate(self):
        """Files of a chain and its key: of localhost, signed by itself, ECDSA with P-256. Made when first asked for."""
        chain, key = self.dir + "/certificate.pem", self.dir + "/certificate.key"
        if not os.path.exists(chain):
            try:
                subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                                "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                                "-keyout", key, "-out", chain], check=True, capture_output=True, timeout=START_PATIENCE_S)
            except (OSError, subprocess.SubprocessError) as e:
                raise Failed("openssl makes no certificate: %s" % e) from None
        return chain, key

    def spawn(self, argv, counted=True, **more):
        """Starts a process of the peer on the proxy's core, in its group; not counted: a server that the peer asks, on the
        load's core."""
        cpu = self.cpu if counted else self.load_cpu

        def enter():
            if counted:
                self.group.enter()
            goes_with_us()
            os.sched_setaffinity(0, {cpu})
        with open(os.path.join(self.dir, "output"), "ab") as out:
            try:
                p = subprocess.Popen(self.network.proxy.prefix + argv, preexec_fn=enter, stdin=subprocess.DEVNULL, stdout=out,
                                     stderr=out, cwd=self.dir, **more)
            except (OSError, subprocess.SubprocessError) as e:
                raise Failed("%s cannot be started: %s" % (argv[0], e)) from None
        (self.processes if counted else self.helpers).append(p)
        if counted:
            self.group.add(p.pid)
        return p

    def cpu_s(self):
        """(all, user, system) seconds of the peer so far. Interrupts that the kernel counts apart are its own, too: on its core
        they are what its sends and the others' replies made."""
        used, user, system = self.group.cpu_s()
        interrupts = machine.core(self.cpu).interrupts if self.interrupts_apart else 0
        return used + interrupts, user, system + interrupts

    def output(self):
        """The last that the peer has said, for the report of a failure."""
        try:
            with open(os.path.join(self.dir, "output"), "rb") as f:
                return f.read()[-600:].decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""

    def close(self):
        ours = self.processes + self.helpers if self.group_lent else self.helpers
        if not self.group_lent:
            self.group.end()
        for p in ours:
            p.terminate()
        for p in self.processes + self.helpers:
            ended(p)
        self.folder.cleanup()


class Stand:
    """`with Stand(peer, build, cpus) as s:` a sink is up, and the peer in front of it answers."""

    def __init__(self, peer, build, proxy_cpu=0, load_cpu=1, sink_options=(), sessions=0, group=None,
                 network=Loopback, tls=""):
        self.peer, self.place = peer, Place(build, proxy_cpu, load_cpu, peer.name, sessions, group, network, tls)
        self.sink_options = list(sink_options)
        self.sink_tls = tls == BOTH or (bool(tls) and not peer.proxy)
        self.sink = None

    def __enter__(self):
        try:
            p = self.place
            if self.sink_tls:
                self.sink_options += ["--starttls", "--tls-cert", p.certificate()[0], "--tls-key", p.certificate()[1]]
            self.sink = subprocess.Popen(p.network.server.prefix + [
                p.build + "/ringpost-sink", "--quiet", "--cpu", str(p.load_cpu), "--listen",
                "%s:%d" % (p.upstream_host, p.upstream_port)] + self.sink_options, stdout=subprocess.PIPE, text=True,
                preexec_fn=goes_with_us)
            with p.network.client.inside():
                wait_until_answering(p.upstream_host, p.upstream_port, [self.sink], "the sink")
                self.peer.start(p)
                wait_until_answering(*self.address, p.processes, self.peer.name)
            return self
        except BaseException as e:
            said = self.place.output()
            self.close()
            if isinstance(e, Failed) and said:
                raise Failed("%s: %s" % (e, said)) from None
            raise

    @property
    def address(self):
        """Where the load goes: (host, port)."""
        p = self.place
        return (p.host, p.port) if self.peer.proxy else (p.upstream_host, p.upstream_port)

    def __exit__(self, *_):
        self.close()

    def end_sink(self):
        """The last that it has printed: with --stats its counters."""
        sink, self.sink = self.sink, None
        sink.terminate()
        try:
            lines = sink.communicate(timeout=END_PATIENCE_S)[0].splitlines()
        except subprocess.TimeoutExpired:
            sink.kill()
            lines = sink.communicate()[0].splitlines()
        return json.loads(lines[-1]) if lines else {}

    def close(self):
        try:
            self.peer.stop(self.place)
            self.place.close()
        finally:
            if self.sink:
                self.end_sink()


class Load:
    """A ringpost-blast at work: `begin()` returns when its measuring window opens, `end()` when it closes, `report()` its
    report. Whoever asks takes counters at those two moments."""

    def __init__(self, stand, arguments, marks=True):
        p = stand.place
        self.argv = p.network.client.prefix + [p.build + "/ringpost-blast", "--json"] + (["--marks"] if marks else []) + [
            "--cpu", str(p.load_cpu), "--to", "%s:%d" % stand.address] + arguments
        self.p = subprocess.Popen(self.argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=goes_with_us)
        self._rest = b""  # of what it has said

    def _more(self, until):
        """Reads what it says next; False: it has said all."""
        if not select.select([self.p.stdout], [], [], max(until - time.monotonic(), 0))[0]:
            return True
        said = os.read(self.p.stdout.fileno(), 1 << 16)
        self._rest += said
        return bool(said)

    def _words(self):
        """What it had to say beside: read when it has ended."""
        return self.p.stderr.read().decode("utf-8", "replace").strip()[-300:]

    def _line(self, ev, patience_s):
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            while b"\n" in self._rest:
                line, self._rest = self._rest.split(b"\n", 1)
                said = json.loads(line)
                if said.get("ev") == ev:
                    return said
            if not self._more(until):
                raise Failed("the load ended: " + self._words())
        self.kill()
        raise Failed("the load did not get to '%s' in %d s" % (ev, patience_s))

    def begin(self, patience_s=60):
        return self._line("measuring", patience_s)

    def end(self, seconds, patience_s=60):
        return self._line("measured", seconds + patience_s)

    def report(self, patience_s=60):
        until = time.monotonic() + patience_s
        while self._more(until):
            if time.monotonic() >= until:
                self.kill()
                raise Failed("the load did not end")
        ended(self.p)
        try:
            return json.loads(self._rest.splitlines()[-1])
        except (IndexError, ValueError):
            raise Failed("no report from the load: " + self._words()) from None

    def kill(self):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGKILL)
            self.p.wait()


def send(stand, arguments, patience_s=60):
    """A whole load; its report."""
    load = Load(stand, arguments, marks=False)
    try:
        return load.report(patience_s)
    finally:
        load.kill()
