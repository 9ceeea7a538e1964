# SPDX-License-Identifier: GPL-3.0-or-later
"""Many sessions at once, and everything that goes wrong while they run: nothing lost, nothing
acknowledged falsely, memory flat, descriptors back to base. All of them run alone (serial)."""
import random
import socket
import threading
import time

from lib.core import Failure, test
from lib.crowd import OPEN, Crowd, ledger
from lib.peers import sockaddr
from lib.smtp import EHLO, data_open, warm_up_auto


REST_KIB = 256


def memory_comes_to_rest(rp, crowd, messages, rounds):
    """Pools grow until most sessions have been there at once, which takes as long as it takes; a leak grows for ever. RssAnon
    behind each so many messages, until it has stopped growing."""
    peaks = []
    for _ in range(rounds):
        before = len(crowd.acked)
        crowd.until(lambda: len(crowd.acked) >= before + messages, 60 * rp.t.slow)
        peaks.append(rp.rss_anon())
        if len(peaks) > 2 and peaks[-1] - peaks[-2] < REST_KIB and peaks[-2] - peaks[-3] < REST_KIB:
            break
    return peaks


@test(serial=True, timeout=120)
def two_thousand_sessions(t):
    srv = t.auto()
    rp = t.ringpost(srv, workers=2, listener={"limits": OPEN})
    n = 2000 if t.slow == 1 else 500
    crowd = Crowd(t, rp.address, n, per_session=3)
    crowd.start()
    peaks = memory_comes_to_rest(rp, crowd, 2 * n, 12)
    crowd.finish(60 * t.slow)
    ledger(t, crowd, [srv])
    t.equal((len(crowd.refused), crowd.lost, crowd.told_421), (0, 0, 0), "refused, lost, told 421")
    t.check(len(crowd.acked) >= 6 * n, "%d messages" % len(crowd.acked))
    if t.mode == "release":
        t.check(peaks[-1] - peaks[-2] < REST_KIB, "RssAnon after each %d messages: %r KiB" % (2 * n, peaks))
    rp.sockets_back()
    t.equal(rp.stop_now()["messages_accepted"], len(crowd.acked), "counter")


@test(serial=True, timeout=120)
def upstream_killed_and_restarted_under_load(t):
    srv = t.auto()
    rp = t.ringpost(srv, workers=2, listener={"limits": OPEN}, up={"timeouts": {"connect": "2s"}, "retry-down": "100ms"})
    n = 400 if t.slow == 1 else 100
    crowd = Crowd(t, rp.address, n, per_session=20)
    crowd.start()
    for round_ in range(4):
        before = len(crowd.acked)
        t.check(crowd.until(lambda: len(crowd.acked) >= before + n // 2, 30 * t.slow), "messages flow in round %d" % round_)
        srv.stop(reset=round_ % 2 == 1)
        crowd.run(0.4)
        srv.start()
    before = len(crowd.acked)
    t.check(crowd.until(lambda: len(crowd.acked) >= before + n, 30 * t.slow), "messages flow at the end")
    crowd.finish(60 * t.slow)
    doubts = rp.records("in-doubt")
    ledger(t, crowd, [srv], in_doubt=len(doubts))
    t.check(crowd.told_421 > 0 or len(crowd.refused) > 0, "the clients noticed nothing of four restarts")
    rp.sockets_back()
    stop = rp.stop_now()
    t.equal(stop["messages_in_doubt"], len(rp.records("in-doubt")), "in-doubt counter and records")
    t.equal(stop["messages_accepted"], len(crowd.acked), "counter of accepted messages")


@test(serial=True, timeout=120)
def clients_that_reset_in_mid_data_under_load(t):
    srv = t.auto()
    rp = t.ringpost(srv, workers=2, listener={"limits": OPEN})
    crowd = Crowd(t, rp.address, 100, per_session=20)
    crowd.start()
    rnd = random.Random(5)
    cut = b"MAIL FROM:<cut@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n"
    for round_ in range(30):
        socks = []
        for _ in range(20):
            s = socket.create_connection(sockaddr(rp.address))
            s.sendall(EHLO + cut + b"never complete\r\n" * rnd.randrange(1, 3000))
            socks.append(s)
        crowd.run(0.03)
        for s in socks:
            if rnd.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.close()
    crowd.finish(60 * t.slow)
    t.check(not any(b"cut@" in m.sender for m in srv.messages), "a message that was cut came through")
    ledger(t, crowd, [srv])
    t.equal((len(crowd.refused), crowd.lost, crowd.told_421), (0, 0, 0), "others: refused, lost, told 421")
    rp.sockets_back()


@test(serial=True, timeout=120)
def readers_that_stop_under_load(t):
    """100 clients and 100 upstream connections that read nothing; the others do not notice; memory is bounded."""
    srv = t.auto()
    up = t.upstream(rcvbuf=4096)
    rp = t.ringpost(srv, workers=2, listener={"limits": OPEN}, conf={
        "listeners": {"slow": {"bind": "127.0.0.1:0", "upstream": "slow", "limits": OPEN}},
        "upstreams": {"slow": {"servers": up.address}}})
    stuck = []
    block = b"0123456789abcd\r\n" * 4096
    before = rp.rss_anon()
    for _ in range(100):
        c, u = rp.client(rp.addresses[1]), up.accept()
        u.send(b"220 x\r\n")
        c.reply(b"220")
        data_open(c, u)
        c.sock.setblocking(False)
        c.loud = u.loud = False
        c.ignore_rest = u.ignore_rest = True
        stuck.append((c, u))
    for _ in range(40):
        for c, _u in stuck:
            try:
                c.sock.send(block)
            except OSError:
                pass
        time.sleep(0.005)
    grown = rp.rss_anon() - before
    t.check(grown < 100 * 128 + 8192 or t.mode not in ("release", "debug"), "RssAnon grew by %d KiB for 100 stuck sessions" % grown)
    crowd = Crowd(t, rp.address, 200, per_session=5)
    t0 = time.monotonic()
    crowd.start()
    t.check(crowd.until(lambda: len(crowd.acked) >= 1000, 30 * t.slow), "the others: %d messages" % len(crowd.acked))
    t.note("1000 messages beside 100 stuck sessions in %.2f s" % (time.monotonic() - t0))
    crowd.finish(60 * t.slow)
    ledger(t, crowd, [srv])
    for c, u in stuck:
        c.close()
        u.close()
    rp.sockets_back()


@test(serial=True, timeout=90)
def few_descriptors_many_connections(t):
    """ulimit -n 256 and 1,000 connections: some are served, the rest wait or are told; afterwards all is well."""
    srv = t.auto()
    rp = t.ringpost(srv, listener={"limits": OPEN}, nofile=256)
    socks = []
    for _ in range(1000):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(sockaddr(rp.address))
        socks.append(s)
    time.sleep(1.0)
    t.check(rp.alive(), "alive")
    cpu0 = cpu_ticks(rp)
    time.sleep(1.0)
    spent = cpu_ticks(rp) - cpu0
    t.check(spent < 50, "it spins: %d ticks of CPU in one idle second" % spent)
    served = told = 0
    for s in socks:
        try:
            data = s.recv(4096)
        except OSError:
            data = b""
        served += data.startswith(b"220")
        told += data.startswith(b"421")
    t.note("%d served, %d told 421 of 1000 with 256 descriptors" % (served, told))
    t.check(served >= 20, "only %d sessions were served" % served)
    for s in socks:
        s.close()
    rp.sockets_back(20)
    t.until(lambda: greeted(rp), "a client is greeted again", 10)
    crowd = Crowd(t, rp.address, 50, per_session=2)
    crowd.start()
    t.check(crowd.until(lambda: len(crowd.acked) >= 100, 20 * t.slow), "messages afterwards: %d" % len(crowd.acked))
    crowd.finish(20 * t.slow)
    ledger(t, crowd, [srv])


def greeted(rp):
    """Dead connections of the flood may still stand in the backlog before us."""
    c = rp.client()
    got = c.reply()
    c.ignore_rest = True
    c.close()
    return got.startswith(b"220")


def cpu_ticks(rp):
    with open("/proc/%d/stat" % rp.pid) as f:
        words = f.read().rsplit(")", 1)[1].split()
    return int(words[11]) + int(words[12])


@test(serial=True, timeout=60, modes=("release",))
def memory_of_an_idle_session(t):
    """User memory per idle session after EHLO, both legs: at most 2.5 KiB."""
    srv = t.auto()
    rp = t.ringpost(srv, listener={"limits": OPEN})
    warm = idle_sessions(rp, 50)
    before = rp.rss_anon()
    more = idle_sessions(rp, 1000)
    each = (rp.rss_anon() - before) / 1000.0
    t.note("%.2f KiB for an idle session" % each)
    t.check(each <= 2.5, "%.2f KiB for an idle session (RssAnon %d -> %d KiB)" % (each, before, rp.rss_anon()))
    for s in warm + more:
        s.close()


def idle_sessions(rp, n):
    out = []
    for _ in range(n):
        s = socket.create_connection(sockaddr(rp.address))
        s.settimeout(10)
        s.sendall(EHLO)
        data = b""
        while b"\r\n250 " not in data:
            part = s.recv(65536)
            if not part:
                raise Failure("a session ended: %r" % data)
            data += part
        out.append(s)
    return out


@test(serial=True, timeout=60)
def memory_after_many_sessions(t):
    """Flat: 3,000 short sessions after the first 500 leave nothing behind."""
    srv = t.auto()
    rp = t.ringpost(srv, listener={"limits": OPEN})

    def some(n):
        crowd = Crowd(t, rp.address, 50, per_session=1)
        crowd.start()
        t.check(crowd.until(lambda: len(crowd.acked) >= n, 60 * t.slow), "%d of %d messages" % (len(crowd.acked), n))
        crowd.finish(30 * t.slow)
    some(500)
    before = warm_up_auto(rp)
    some(3000)
    if t.mode in ("release", "debug"):
        t.check(rp.rss_anon() - before < 1024 * t.slow, "RssAnon %d -> %d KiB" % (before, rp.rss_anon()))
    rp.sockets_back()


@test(serial=True, timeout=60, modes=("release", "debug"))
def no_heap_allocation_per_message(t):
    """The workers' threads allocate at start and never again: 2,000 messages cost what 2 do."""
    def allocated(n):
        rp = t.ringpost(t.auto(), listener={"limits": OPEN})
        crowd = Crowd(t, rp.address, 20, per_session=4)
        crowd.start()
        t.check(crowd.until(lambda: len(crowd.acked) >= n, 60 * t.slow), "%d of %d messages" % (len(crowd.acked), n))
        crowd.finish(30 * t.slow)
        stop = rp.stop_now()
        t.check(stop["messages_accepted"] >= n, "messages")
        return stop["heap_bytes"]
    few, many = allocated(2), allocated(2000)
    t.note("%d octets allocated with a few messages, %d with 2,000" % (few, many))
    t.check(few > 0, "counted at all")
    t.equal(many, few, "octets allocated by the workers")


@test(serial=True, timeout=60)
def idle_costs_no_time(t):
    srv = t.auto()
    rp = t.ringpost(srv, workers=2, listener={"limits": OPEN})
    socks = idle_sessions(rp, 200)
    time.sleep(0.3)
    cpu0 = cpu_ticks(rp)
    time.sleep(3)
    spent = cpu_ticks(rp) - cpu0
    t.check(spent <= 6, "%d ticks of CPU in three idle seconds" % spent)
    for s in socks:
        s.close()


@test(serial=True, timeout=90)
def big_messages_side_by_side(t):
    """40 bodies of 2 MB at once through two workers and one receive pool each: every octet in its place (U4)."""
    srv = t.auto()
    rp = t.ringpost(srv, workers=2, listener={"limits": OPEN})
    bodies, threads, errors = [], [], []

    def one(i):
        try:
            c = rp.client()
            c.loud = False
            c.sock.settimeout(60)
            t_wait = 60 * t.slow
            c.reply(b"220", t_wait)
            c.send(EHLO + b"MAIL FROM:<m%d@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n" % i)
            for want in (b"250", b"250", b"250", b"354"):
                c.reply(want, t_wait)
            c.sock.sendall(bodies[i])
            c.reply(b"250", t_wait)
        except Exception as e:
            errors.append("%d: %s" % (i, e))
    for i in range(40):
        line = random.Random(i).randbytes(300).hex().encode()
        bodies.append((b"%d " % i + line + b"\r\n") * 3300 + b".\r\n")
        threads.append(threading.Thread(target=one, args=(i,), daemon=True))
    for th in threads:
        th.start()
    for th in threads:
        th.join(80 * t.slow)
    t.check(not errors, "\n".join(errors[:5]))
    t.equal(len(srv.messages), 40, "messages")
    for m in srv.messages:
        i = int(m.sender[len(b"FROM:<m"):].split(b"@")[0])
        t.equal(m.body, bodies[i], "body %d" % i)
