# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench's far network: ringpost-wire, and the namespaces of bench/compare/network.py around it. Times are checked
against lower bounds only."""
import functools
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from lib.core import Failure, Skip, cases, test

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODULE = os.path.join(ROOT, "bench", "compare", "network.py")
spec = importlib.util.spec_from_file_location("bench_network", MODULE)
network = importlib.util.module_from_spec(spec)
spec.loader.exec_module(network)

FRAME_MAX = 1514  # an MTU of 1500 and the Ethernet header
SO_RCVBUFFORCE = 33  # socket(7); Python has no name for it
FRAME_HEADERS = 14 + 20 + 8  # Ethernet, IP, UDP


def privileged(fn):
    """As root, or the same test once more by sudo."""
    @functools.wraps(fn)
    def run(t, *value):
        if os.geteuid() == 0:
            return fn(t, *value)
        sudo = shutil.which("sudo")
        if not sudo or subprocess.run([sudo, "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode:
            raise Skip("network namespaces need root or sudo -n")
        again = subprocess.run([sudo, "-n", sys.executable, "-B", os.path.join(ROOT, "tests", "proto", "run.py"), "--build", t.build,
                                "--mode", t.mode, "--filter", t.test.name], capture_output=True, text=True)
        if again.returncode or "# 1 passed, 0 failed, 0 skipped" not in again.stdout:
            raise Failure("as root:\n" + again.stdout + again.stderr)
    return run


def wire(t):
    return os.path.join(t.build, "ringpost-wire")


def far(t, **how):
    return network.Network(wire(t), **how)


def adds_up(t, net):
    """The wire ended well, every frame has had one fate, and all were real ones."""
    t.equal(net._wire.returncode, 0, "status of the wire")
    for way in ("a_to_b", "b_to_a"):
        n = net.final[way]
        t.equal(n["frames"], sum(n[k] for k in ("sent", "lost", "dropped", "foreign", "failed", "waiting")), way + ": frames")
        t.equal((n["foreign"], n["failed"], n["overruns"]), (0, 0, 0), way + ": foreign, failed, overruns")
        t.check(n["frame_max"] <= FRAME_MAX, "%s: a frame of %d octets" % (way, n["frame_max"]))


def listen(host):
    with host.inside():
        return socket.create_server((host.address, 0))


def connect(net, address):
    with net.client.inside():
        return socket.create_connection(address, 30)


def round_trips(net, host, count):
    """Seconds that connections from the client to that host took."""
    out = []
    with listen(host) as door:
        for _ in range(count):
            t0 = time.monotonic()
            connect(net, door.getsockname()).close()
            out.append(time.monotonic() - t0)
    return out


def echo(door):
    c, _ = door.accept()
    with c:
        h = hashlib.sha256()
        while True:
            data = c.recv(1 << 16)
            if not data:
                break
            h.update(data)
        c.sendall(h.digest())


def digest_of_transfer(net, host, data):
    """What the host says that it has got."""
    with listen(host) as door:
        th = threading.Thread(target=echo, args=(door,))
        th.start()
        with connect(net, door.getsockname()) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            digest = s.recv(64, socket.MSG_WAITALL)
        th.join()
    return digest


class Datagrams:
    """Numbered datagrams from the client to the proxy."""

    def __init__(self, net, octets):
        self.net, self.octets, self.sent = net, octets, 0
        with net.proxy.inside():
            self.inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.inbox.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self.inbox.bind((net.proxy.address, 0))
        with net.client.inside():
            self.outbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.outbox.connect(self.inbox.getsockname())

    def send(self, count):
        for _ in range(count):
            self.outbox.send(b"%-*d" % (self.octets, self.sent))
            self.sent += 1
            if self.sent % 100 == 0:
                time.sleep(0.001)

    def carried(self, t):
        """The statistics of their way when all that were sent have had their fate."""
        def idle():
            n = self.net.stats()["a_to_b"]
            return n if n["frames"] + n["overruns"] == self.sent and n["waiting"] == 0 else None
        return t.until(idle, "the wire has carried %d frames" % self.sent, 30)

    def numbers(self, t):
        """Of those that came, in their order, when the wire has no more."""
        sent = self.carried(t)["sent"]
        self.inbox.settimeout(t.wait)
        return [int(self.inbox.recv(2048)) for _ in range(sent)]

    def close(self):
        self.inbox.close()
        self.outbox.close()


# ---- the way ----

@cases({"client": "client", "server": "server"}, timeout=60)
@privileged
def the_round_trip_takes_twice_the_delay(t, side):
    with far(t, delay_ms=10, far=side) as net:
        way = {"client": net.proxy, "server": net.server}[side]
        least = min(round_trips(net, way, 5))
        t.check(least >= 0.020, "a connection took %.6f s" % least)
        if side == "client":  # the proxy forwards: the server is as far
            least = min(round_trips(net, net.server, 3))
            t.check(least >= 0.020, "through the proxy it took %.6f s" % least)
        stats = net.stats()
        t.check(stats["a_to_b"]["sent"] > 0 and stats["b_to_a"]["sent"] > 0, "frames went through the wire: %r" % stats)
    adds_up(t, net)


@test(timeout=60)
@privileged
def jitter_makes_it_longer_and_keeps_the_order(t):
    with far(t, delay_ms=5, jitter_ms=5) as net:
        d = Datagrams(net, 100)
        d.send(1000)
        t.equal(d.numbers(t), list(range(1000)), "order")
        d.close()
        t.check(min(round_trips(net, net.proxy, 3)) >= 0.010, "less than the delay")
    adds_up(t, net)


@test(timeout=60)
@privileged
def without_loss_nothing_is_lost(t):
    data = random.Random(3).randbytes(3 << 20)
    with far(t, delay_ms=2, loss=0) as net:
        t.equal(digest_of_transfer(net, net.proxy, data), hashlib.sha256(data).digest(), "octets that arrived")
        d = net.stats()
        t.check(d["a_to_b"]["frames"] >= len(data) // 1448, "%d frames for 3 MiB" % d["a_to_b"]["frames"])
    t.equal([(net.final[w]["lost"], net.final[w]["dropped"]) for w in ("a_to_b", "b_to_a")], [(0, 0), (0, 0)], "lost, dropped")
    adds_up(t, net)


@test(timeout=120)
@privileged
def with_loss_frames_are_lost_and_tcp_mends_it(t):
    data = random.Random(4).randbytes(2 << 20)
    with far(t, delay_ms=2, loss=0.02, seed=7) as net:
        t.equal(digest_of_transfer(net, net.proxy, data), hashlib.sha256(data).digest(), "octets that arrived")
    t.check(net.final["a_to_b"]["lost"] > 0 and net.final["b_to_a"]["lost"] > 0, "lost: %r" % net.final)
    adds_up(t, net)


@test(timeout=60)
@privileged
def the_seed_says_which_frames_are_lost(t):
    def survivors(seed):
        with far(t, delay_ms=1, loss=0.05, seed=seed) as net:
            d = Datagrams(net, 50)
            d.send(2000)
            got = d.numbers(t)
            d.close()
        t.equal((net.final["a_to_b"]["lost"], net.final["b_to_a"]["frames"]), (2000 - len(got), 0), "lost; frames of others")
        adds_up(t, net)
        return got
    first = survivors(1)
    t.check(1800 < len(first) < 1990, "%d of 2000 arrived" % len(first))
    t.equal(survivors(1), first, "frames that arrive with the same seed")
    t.check(survivors(2) != first, "another seed loses the same frames")


@test(timeout=60)
@privileged
def a_rate_limit_spaces_frames_and_its_queue_is_bounded(t):
    octets = 1000
    with far(t, delay_ms=10, rate="1m", queue="20k") as net:
        d = Datagrams(net, octets)
        t0 = time.monotonic()
        d.send(100)
        got = d.numbers(t)
        took = time.monotonic() - t0
        d.close()
    n = net.final["a_to_b"]
    t.check(n["dropped"] > 0 and n["dropped"] == 100 - len(got), "%d dropped, %d arrived" % (n["dropped"], len(got)))
    t.equal(got, sorted(got), "order")
    on_the_wire = octets + FRAME_HEADERS + 24
    t.check(took >= len(got) * on_the_wire * 8 / 1e6, "%d frames in %.3f s" % (len(got), took))
    t.check(on_the_wire * 10 < n["queue_max"] <= 20480, "a queue of %d octets" % n["queue_max"])
    adds_up(t, net)


@test(timeout=60)
@privileged
def frames_that_find_no_room_are_counted(t):
    with far(t, delay_ms=50, ring="64k") as net:  # 32 frames
        d = Datagrams(net, 100)
        d.send(500)
        got = d.numbers(t)
        n = net.stats()["a_to_b"]
        t.check(n["overruns"] > 0 and n["waiting_max"] <= 32, "%r" % n)
        t.check(got == sorted(set(got)), "frames come twice or out of order")
        d.close()
        t.equal(net.spoiled(net.stats()), ["a_to_b: %d frames found the wire's memory full (ring)" % n["overruns"]], "what is said")
        t.check(min(round_trips(net, net.proxy, 2)) >= 0.1, "afterwards the way is shorter")


@test(timeout=60)
@privileged
def the_ring_goes_round(t):
    """Slots of frames that were sent, lost or dropped are all used again."""
    with far(t, delay_ms=1, loss=0.2, rate="100m", queue="20k", ring="512k") as net:
        d = Datagrams(net, 100)
        for _ in range(40):
            d.send(100)
            d.carried(t)
        d.close()
    n = net.final["a_to_b"]
    t.equal(n["frames"], 4000, "frames in 256 slots")
    t.check(n["sent"] and n["lost"] and n["waiting_max"] <= 256, "%r" % n)
    adds_up(t, net)


@test(timeout=60)
@privileged
def frames_that_are_not_cut_are_turned_away(t):
    with far(t, delay_ms=1) as net:
        with net.client.inside():
            network._ethtool("left", network.ETHTOOL_STSO, 1)
        with listen(net.proxy) as door, connect(net, door.getsockname()) as s:
            s.setblocking(False)
            s.send(bytes(200000))
            t.until(lambda: net.stats()["a_to_b"]["foreign"], "a large frame is seen and counted")
        t.check("TSO" in net.spoiled(net.stats())[0], "nothing is said of it: %r" % net.spoiled(net.stats()))
    t.check(net.final["a_to_b"]["frame_max"] > FRAME_MAX, "no large frame: %r" % net.final)


@test(timeout=120)
@privileged
def mail_passes_from_end_to_end(t):
    def program(host, name, *options):
        return host.command([os.path.join(t.build, name)] + list(options))
    with far(t, delay_ms=3, loss=0.01, seed=5) as net:
        door = net.server.address + ":2525"
        ports = t.path("ports")
        sink = subprocess.Popen(program(net.server, "ringpost-sink", "--listen", door, "--port-file", ports, "--hash", "--quiet"))
        t.until(lambda: os.path.exists(ports), "the sink starts", 20)
        blast = subprocess.run(program(net.client, "ringpost-blast", "--to", door, "--connections", "10", "--messages", "50",
                                       "--size", "20k", "--hash"), capture_output=True, text=True)
        t.equal(blast.returncode, 0, "status of ringpost-blast: " + blast.stdout + blast.stderr)
        t.check(sink.poll() is None, "the sink has gone")
    t.equal(sink.wait(10), -signal.SIGKILL, "what still ran inside was ended")
    t.check(net.final["a_to_b"]["lost"] > 0, "nothing lost")
    adds_up(t, net)


# ---- the program ----

BAD = {
    "nothing": [],
    "one end": ["--a", "x"],
    "same ends": ["--a", "x", "--b", "x"],
    "unknown": ["--a", "x", "--b", "y", "--bogus"],
    "a word": ["--a", "x", "--b", "y", "word"],
    "delay": ["--a", "x", "--b", "y", "--delay", "soon"],
    "delay too long": ["--a", "x", "--b", "y", "--delay", "61s"],
    "loss above 1": ["--a", "x", "--b", "y", "--loss", "1.5"],
    "loss above 100 %": ["--a", "x", "--b", "y", "--loss", "101%"],
    "loss": ["--a", "x", "--b", "y", "--loss", "much"],
    "rate": ["--a", "x", "--b", "y", "--rate", "0"],
    "queue": ["--a", "x", "--b", "y", "--queue", "100"],
    "seed": ["--a", "x", "--b", "y", "--seed", "-1"],
    "no value": ["--a", "x", "--b"],
}


@cases(BAD, quick=True)
def bad_options_are_told_with_status_64(t, argv):
    p = subprocess.run([wire(t)] + argv, capture_output=True, text=True)
    t.equal((p.returncode, p.stdout), (64, ""), "status and output of " + " ".join(argv))
    t.check(p.stderr.startswith("ringpost-wire: ") and p.stderr.count("\n") == 1, "words: " + p.stderr)


@test(timeout=60)
@privileged
def what_cannot_be_joined_is_told_in_words(t):
    p = subprocess.run([wire(t), "--a", "lo", "--b", "no-such-if"], capture_output=True, text=True)
    t.equal(p.returncode, 69, "status without the interface")
    t.check("no-such-if: no such interface" in p.stderr, p.stderr)
    copy = t.path("ringpost-wire")
    shutil.copy(wire(t), copy)
    p = subprocess.run([copy, "--a", "lo", "--b", "lo0"], capture_output=True, text=True, user="nobody", group="nogroup",
                       extra_groups=[])
    t.equal(p.returncode, 77, "status without root")
    t.check("no packet socket" in p.stderr, p.stderr)


@test(timeout=60)
@privileged
def an_interface_that_goes_down_ends_the_wire(t):
    with far(t, delay_ms=1) as net:
        network._ip("-n", net._between.namespace, "link", "set", "dev", "b", "down")
        t.equal(net._wire.wait(20 * t.slow), 69, "status")
        said = net._wire.stderr.read().decode()
        t.check("b: the interface is down" in said, said)


@test(timeout=60)
@privileged
def only_what_comes_in_is_carried(t):
    """Not what the machine of the wire sends out of the same interfaces."""
    with far(t, delay_ms=1) as net:
        with net._between.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
            s.bind(("a", 0))
            s.send(b"\xff" * 6 + b"\x02" + bytes(5) + b"\x88\xb5" + bytes(46))  # to all, of a local experiment (IEEE 802)
        t.equal([net.stats()[way]["frames"] for way in ("a_to_b", "b_to_a")], [0, 0], "frames")


@test(timeout=60)
@privileged
def the_wire_ends_with_its_standard_input(t):
    with far(t, delay_ms=1) as net:
        net._wire.stdin.close()
        t.equal(net._wire.wait(20 * t.slow), 0, "status")
    t.equal(net.final["a_to_b"]["frames"], 0, "its last words: %r" % net.final)


# ---- what is left ----

RUNNER = """
import importlib.util, os, signal, subprocess, sys, time
spec = importlib.util.spec_from_file_location("network", %r)
network = importlib.util.module_from_spec(spec)
spec.loader.exec_module(network)
net = network.Network(sys.argv[1], delay_ms=1)
def told():
    other = subprocess.Popen(net.proxy.command(["sleep", "600"]))
    print(net._wire.pid, other.pid, flush=True)
def error():
    with net:
        told()
        raise KeyError("an error")
def no_close():
    net.start()
    told()
def wait():
    with net:
        told()
        for _ in range(6000):  # a signal just before one long sleep would not end it
            time.sleep(0.1)
{"error": error, "no close": no_close, "wait": wait}[sys.argv[2]]()
""" % MODULE


def names_of(pid):
    return [n for n in os.listdir("/run/netns") if n.startswith("ringpost-%d-" % pid)]


def runs(pid):
    """Zombies, which wait for whoever inherited them, do not."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@cases({"error": ("error", None, 1), "end without close": ("no close", None, 0), "SIGTERM": ("wait", signal.SIGTERM, 143),
        "SIGHUP": ("wait", signal.SIGHUP, 129), "SIGINT": ("wait", signal.SIGINT, -signal.SIGINT),
        "SIGKILL": ("wait", signal.SIGKILL, -signal.SIGKILL)}, timeout=60)
@privileged
def nothing_is_left_behind(t, case):
    how, number, status = case
    with open("/proc/net/dev") as f:
        before = [line.split(":")[0] for line in f]
    with subprocess.Popen([sys.executable, "-B", "-c", RUNNER, wire(t), how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as p:
        wire_pid, other_pid = (int(word) for word in p.stdout.readline().split())
        if number:
            t.equal(len(names_of(p.pid)), 4, "namespaces while it runs")
            p.send_signal(number)
        t.equal(p.wait(20 * t.slow), status, "status of the runner")
    t.until(lambda: not runs(wire_pid), "the wire ends")
    if number == signal.SIGKILL:
        with far(t, delay_ms=1):  # the next one tidies up
            pass
    t.equal(names_of(p.pid), [], "namespaces that are left")
    t.until(lambda: not runs(other_pid), "what ran inside ends")
    with open("/proc/net/dev") as f:
        t.equal([line.split(":")[0] for line in f], before, "interfaces of the machine")


@test(timeout=60)
@privileged
def two_networks_at_once_do_not_meet(t):
    with far(t, delay_ms=1) as one, far(t, delay_ms=15) as two:
        t.check(min(round_trips(two, two.proxy, 2)) >= 0.030, "not the delay of its own network")
        t.equal(one.stats()["a_to_b"]["frames"], 0, "frames of the other network")
    t.equal(names_of(os.getpid()), [], "namespaces that are left")


@test(timeout=60)
@privileged
def what_is_missing_is_told_in_words(t):
    t.equal(network.missing(wire(t)), [], "missing here")
    gone = network.missing(t.path("no-wire"))
    t.check(len(gone) == 1 and "`make` builds it" in gone[0], repr(gone))
    try:
        network.Network(t.path("no-wire"))
    except network.NetworkError as e:
        t.check("`make` builds it" in str(e), str(e))
    else:
        raise Failure("a network without a wire")
