# SPDX-License-Identifier: GPL-3.0-or-later
"""A far network on one machine: three hosts in network namespaces, and a long way between two of them.

    client ----- ringpost-wire ----- proxy ----- server        far="client" (the default)
    client ----- proxy ----- ringpost-wire ----- server        far="server"

    with Network(wire="build/release/ringpost-wire", delay_ms=10, loss=0.005, seed=1) as net:
        sink = subprocess.Popen(net.server.command(["ringpost-sink", "--listen", net.server.address + ":2525"]))
        ... net.proxy.command([...]) listens on net.proxy.address and goes to net.server.address
        subprocess.run(net.client.command(["ringpost-blast", "--to", net.proxy.address + ":2525"]))
        with net.client.inside():      # this thread's new sockets, and /proc/thread-self/net, are the client's
            socket.create_connection((net.proxy.address, 2525))
        print(net.stats()["a_to_b"]["lost"])

delay_ms is one way: the round trip takes twice that. loss is the share of frames lost in each direction, by dice of the
seed. Without a proxy ("direct") the client reaches net.server.address through the proxy's kernel, which forwards.
prefix is what command() puts in front of a command: ip(8) becomes the command, so its process id is the command's. /sys
is the namespace's own there: control groups are to be entered before. After the end `final` has the wire's last
statistics (a_to_b goes towards the server), and spoiled() says in words what makes a measurement worthless.

All interfaces have an MTU of 1500 and cut their segments themselves (TSO off), so frames are what an Ethernet would see;
checksums are left to the card that is not there. Inside, ports from 1024 on are free for connections and TIME-WAIT ones
are used again. The machine's own namespace is not touched: no interface, route or setting of it changes.

Needs root, ip(8), veth and packet sockets: missing() says in words what is not there. Names carry this process's id. All
is gone after close(), which `with`, the end of the interpreter, SIGTERM and SIGHUP bring about; what is still running in
the namespaces is killed. After a SIGKILL the wire ends by itself, and the next Network removes the names.
"""
import array
import atexit
import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

MTU = 1500
PATIENCE_S = 20
ROLES = ("client", "proxy", "server", "wire")
NAME = re.compile(r"ringpost-(\d+)-\d+-(%s)$" % "|".join(ROLES))
# 198.18.0.0/15 is for benchmarks (RFC 2544): the left network has the client, the right one the server.
LEFT, RIGHT = "198.18.0.%d", "198.19.0.%d"
SETTINGS = {
    "net/ipv4/ip_local_port_range": "1024 65535",
    "net/ipv4/tcp_tw_reuse": "1",
    "net/ipv6/conf/all/disable_ipv6": "1",  # nothing on the wire but what is measured
    "net/ipv6/conf/default/disable_ipv6": "1",
}
SIOCETHTOOL, ETHTOOL_GTSO, ETHTOOL_STSO = 0x8946, 0x1E, 0x1F
CLONE_NEWNET = 0x40000000
_serial = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class NetworkError(Exception):
    """What went wrong, in words."""


def _ip(*words):
    done = subprocess.run(["ip"] + list(words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise NetworkError("ip %s: %s" % (" ".join(words), done.stderr.strip() or "status %d" % done.returncode))
    return done.stdout


def _names():
    """Network namespaces with a name of ours, of whatever process."""
    return [n for n in (line.split()[0] for line in _ip("netns", "list").splitlines() if line) if NAME.match(n)]


def _processes(namespace):
    return [int(pid) for pid in _ip("netns", "pids", namespace).split()]


def _kill_all_in(namespace):
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        pids = _processes(namespace)
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _remove(namespace):
    _kill_all_in(namespace)
    # At once, not when the kernel gets round to it: each pair goes with either of its ends.
    for link in json.loads(_ip("-n", namespace, "-j", "link", "show", "type", "veth") or "[]"):
        with contextlib.suppress(NetworkError):
            _ip("-n", namespace, "link", "del", "dev", link["ifname"])
    _ip("netns", "del", namespace)


def _remove_orphans():
    """What runners left behind that were killed."""
    for name in _names():
        if not os.path.exists("/proc/" + NAME.match(name).group(1)):
            with contextlib.suppress(NetworkError):  # another runner may be doing the same
                _remove(name)


def missing(wire):
    """What this machine lacks for a Network: a list of sentences, empty when nothing."""
    lacks = []
    if not os.access(wire, os.X_OK):
        lacks.append("there is no program %s: `make` builds it" % wire)
    if not shutil.which("ip"):
        lacks.append("there is no ip(8): install iproute2")
    if os.geteuid() != 0:
        return lacks + ["network namespaces need root"]
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except OSError as e:
        lacks.append("no packet sockets (CONFIG_PACKET, CAP_NET_RAW): %s" % e)
    if shutil.which("ip"):
        lacks += _missing_kernel_parts()
    return lacks


def _missing_kernel_parts():
    name = "ringpost-%d-%d-wire" % (os.getpid(), next(_serial))
    try:
        _ip("netns", "add", name)
    except NetworkError as e:
        return ["no network namespaces (CONFIG_NET_NS, CAP_SYS_ADMIN): %s" % e]
    try:
        _ip("-n", name, "link", "add", "name", "a", "type", "veth", "peer", "name", "b")
        return []
    except NetworkError as e:
        return ["no veth interfaces (CONFIG_VETH): %s" % e]
    finally:
        _remove(name)


def _ethtool(interface, command, value=0):
    """The old ioctl: switches (or reads) one feature of an interface of this thread's namespace."""
    data = array.array("I", [command, value])
    request = struct.pack("16sP", interface.encode(), data.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCETHTOOL, request)
    return data[1]


class Host:
    """A namespace. `address` is where others reach it: of the proxy, where its clients do."""

    def __init__(self, namespace, address=None):
        self.namespace, self.address = namespace, address
        self.prefix = ["ip", "netns", "exec", namespace]

    def command(self, argv):
        return self.prefix + list(argv)

    @contextlib.contextmanager
    def inside(self):
        """This thread is there meanwhile; sockets made in it stay there. Child processes are born there, too."""
        with open("/proc/thread-self/ns/net") as home, open("/run/netns/" + self.namespace) as there:
            self._enter(there)
            try:
                yield self
            finally:
                self._enter(home)

    def _enter(self, namespace):
        if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise NetworkError("cannot enter %s: %s" % (self.namespace, os.strerror(ctypes.get_errno())))

    def _set_up(self):
        _ip("netns", "add", self.namespace)
        _ip("-n", self.namespace, "link", "set", "dev", "lo", "up")
        with self.inside():
            for path, value in SETTINGS.items():
                self.setting(path, value)

    def setting(self, path, value):
        """A file below /proc/sys, as this namespace has it; those that the kernel was built without do not matter."""
        with self.inside(), contextlib.suppress(FileNotFoundError), open("/proc/sys/" + path, "w") as f:
            f.write(value)

    def _switch_on(self, interface, address=None):
        with self.inside():
            _ethtool(interface, ETHTOOL_STSO, 0)
            if _ethtool(interface, ETHTOOL_GTSO):
                raise NetworkError("%s in %s keeps its TSO: frames would not be real ones" % (interface, self.namespace))
        if address:
            _ip("-n", self.namespace, "address", "add", address + "/24", "dev", interface)
        _ip("-n", self.namespace, "link", "set", "dev", interface, "mtu", str(MTU), "up")

    def _hardware_address(self, interface):
        return json.loads(_ip("-n", self.namespace, "-j", "link", "show", "dev", interface))[0]["address"]

    def _knows(self, interface, address, hardware_address):
        """Nobody has to ask for it (ARP), and so no question can be lost."""
        _ip("-n", self.namespace, "neigh", "replace", address, "lladdr", hardware_address, "dev", interface, "nud", "permanent")


class Network:
    """See above. More: jitter_ms, rate ("100m": bits a second), queue ("256k": octets before it) and ring ("64m": memory
    for what is under way) as ringpost-wire --help has them; wire_cpu pins the wire; realtime=False leaves it among the
    usual processes, where it is late when they are busy."""

    def __init__(self, wire, delay_ms=10, loss=0.0, seed=1, far="client", jitter_ms=0, rate=None, queue=None, ring=None,
                 wire_cpu=None, realtime=True):
        if far not in ("client", "server"):
            raise ValueError("far is client or server")
        lacks = missing(wire)
        if lacks:
            raise NetworkError("; ".join(lacks))
        self._argv = [os.path.abspath(wire), "--a", "a", "--b", "b", "--until-eof", "--delay", "%.6fms" % delay_ms,
                      "--jitter", "%.6fms" % jitter_ms, "--loss", "%.9f" % loss, "--seed", str(seed)]
        for option, value in (("--rate", rate), ("--queue", queue), ("--ring", ring), ("--cpu", wire_cpu)):
            self._argv += [option, str(value)] if value is not None else []
        self._argv += ["--realtime"] if realtime else []
        number = next(_serial)
        names = {role: "ringpost-%d-%d-%s" % (os.getpid(), number, role) for role in ROLES}
        self.far = far
        self.client = Host(names["client"], LEFT % 1)
        self.proxy = Host(names["proxy"], LEFT % 2)
        self.server = Host(names["server"], RIGHT % 1)
        self._between = Host(names["wire"])
        self._hosts = (self.client, self.proxy, self.server, self._between)
        self._wire = None
        self._owner = os.getpid()
        self._handlers = {}
        self.final = None
        self._open = False

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    # ---- making ----

    def start(self):
        self._open = True
        atexit.register(self.close)
        self._catch_signals()
        try:
            _remove_orphans()
            for host in self._hosts:
                host._set_up()
            self._connect(self.client, LEFT % 1, self.proxy, LEFT % 2, "left", self.far == "client")
            self._connect(self.proxy, RIGHT % 2, self.server, RIGHT % 1, "right", self.far == "server")
            _ip("-n", self.client.namespace, "route", "add", "default", "via", LEFT % 2)
            _ip("-n", self.server.namespace, "route", "add", "default", "via", RIGHT % 2)
            self.proxy.setting("net/ipv4/ip_forward", "1")
            self._start_wire()
            return self
        except BaseException:
            self.close()
            raise

    def _connect(self, host, address, other, other_address, interface, far):
        """A cable between two hosts, or two cables with the wire in the middle."""
        if far:
            self._pair(host, interface, self._between, "a")
            self._pair(self._between, "b", other, interface)
            self._between._switch_on("a")
            self._between._switch_on("b")
        else:
            self._pair(host, interface, other, interface)
        host._switch_on(interface, address)
        other._switch_on(interface, other_address)
        host._knows(interface, other_address, other._hardware_address(interface))
        other._knows(interface, address, host._hardware_address(interface))

    @staticmethod
    def _pair(host, interface, other, other_interface):
        _ip("link", "add", "name", interface, "netns", host.namespace, "type", "veth",
            "peer", "name", other_interface, "netns", other.namespace)

    def _start_wire(self):
        self._wire = subprocess.Popen(self._between.command(self._argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE)
        self._buffer = b""
        self._line("ready")

    def _line(self, ev):
        """The wire's next line of that kind."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                said = json.loads(line)
                if said.pop("ev") == ev:
                    return said
            if select.select([self._wire.stdout], [], [], 1)[0]:
                data = os.read(self._wire.stdout.fileno(), 65536)
                if not data:
                    raise NetworkError("the wire ended: " + self._wire.stderr.read().decode("utf-8", "replace").strip())
                self._buffer += data
        raise NetworkError("the wire does not answer")

    # ---- while it is there ----

    def stats(self):
        """What the wire has counted so far: {"a_to_b": {...}, "b_to_a": {...}, "late_us": {...}, "cpu_s": ...}."""
        self._wire.send_signal(signal.SIGUSR1)
        return self._line("stats")

    @staticmethod
    def spoiled(stats):
        """Sentences; empty when the wire carried all that it was to carry."""
        causes = {"foreign": "were too large for an Ethernet (TSO on at an end)", "failed": "were not taken by the other end",
                  "overruns": "found the wire's memory full (ring)"}
        return ["%s: %d frames %s" % (way, stats[way][count], words) for way in ("a_to_b", "b_to_a")
                for count, words in causes.items() if stats[way][count]]

    # ---- the end ----

    def close(self):
        """Ends the wire, kills what still runs inside, removes all. Once is enough; more does no harm. In a forked child:
        nothing."""
        if not self._open or os.getpid() != self._owner:
            return
        self._open = False
        # A second signal must not leave half of it behind.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})
        try:
            self._stop_wire()
            there = set(_names())
            for host in self._hosts:
                if host.namespace in there:
                    _remove(host.namespace)
        finally:
            self._release_signals()
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            atexit.unregister(self.close)

    def _stop_wire(self):
        if not self._wire:
            return
        try:
            self._wire.terminate()
            with contextlib.suppress(NetworkError):
                self.final = self._line("stats")
            self._wire.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._wire.kill()
            self._wire.wait()
        finally:
            for pipe in (self._wire.stdin, self._wire.stdout, self._wire.stderr):
                pipe.close()

    def _catch_signals(self):
        """Where nobody else has taken them, SIGTERM and SIGHUP end the interpreter the tidy way."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number, _frame):
        if os.getpid() != self._owner:  # a forked child
            os._exit(128 + number)
        raise SystemExit(128 + number)

    def _release_signals(self):
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
