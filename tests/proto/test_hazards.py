# SPDX-License-Identifier: GPL-3.0-or-later
"""The io_uring hazards U1 to U25 (docs: reliability, section 3.1) as far as they show from outside, on the
real kernel. Each name says which. Others are held by the unit tests of ring/: U3, U6, U9, U19, U21, U23."""
import os
import random
import select
import signal
import socket
import subprocess
import time

from lib.core import cases, test
from lib.peers import sockaddr
from lib.ringpost import as_nobody
from lib.smtp import EHLO, MAIL, OK_MAIL, RCPT, TAKEN, data_open, greet, message, opened, pair, step

OPEN = {"per-client-sessions": 0}
GO_TLS = b"220 2.0.0 go\r\n"


@test(quick=True)
def u01_both_sides_see_the_end(t):
    """close does not cancel: whichever side ends, in whatever state, the other one sees it at once."""
    up = t.upstream()
    rp = t.ringpost(up)
    for state in ("greeting", "idle", "open", "body"):
        for side in ("client", "upstream"):
            for how in ("close", "reset"):
                t.round("%s: the %s %ss" % (state, side, how))
                c = rp.client()
                u = up.accept()
                if state != "greeting":
                    greet(c, u)
                    c.send(EHLO)
                    u.expect(EHLO).send(b"250 x\r\n")
                    c.reply(b"250")
                if state == "open":
                    c.send(MAIL)
                    u.expect(MAIL)
                if state == "body":
                    data_open(c, u)
                if side == "client":
                    getattr(c, how)()
                    if state == "open" and how == "close":
                        u.send(OK_MAIL)  # it may have closed its sending side only: the reply is due
                    u.gone()
                else:
                    getattr(u, how)()
                    if state == "body":
                        c.send(b"x\r\n.\r\n")
                        c.reply(b"451")
                    elif state == "open":
                        c.reply(b"451")
                    elif state == "greeting":
                        c.reply(b"421")
                        c.ended()
                c.close()
                u.close()
    rp.sockets_back()


@test(quick=True, timeout=60)
def u02_descriptors_are_used_again_at_once(t):
    """Sessions end and begin so fast that descriptor numbers repeat: no octet of one shows in the next."""
    up = t.upstream()
    rp = t.ringpost(up)
    up.any_number = True
    for i in range(300):
        t.round(i)
        c = rp.client()
        u = up.accept()
        mark = b"220 session-%d\r\n" % i
        u.send(mark)
        c.expect(mark)
        c.send(b"NOOP canary-%d\r\n" % i)
        u.expect(b"NOOP canary-%d\r\n" % i)
        u.sock.sendall(b"250 late-%d\r\n" % i)
        if i % 3 == 0:
            c.reset()
        elif i % 3 == 1:
            c.close()
        else:
            u.reset()
            c.ignore_rest = True
            c.close()
        u.close()


@test(timeout=60)
def u04_more_data_than_buffers(t):
    """600 sessions have a body waiting at once behind upstreams that do not read, then all are let go."""
    n = 600 if t.slow == 1 else 150
    up = t.upstream(rcvbuf=8192)
    rp = t.ringpost(up, listener={"limits": OPEN})
    pairs = []
    body = b"0123456789abcd\r\n" * 8192 + b".\r\n"
    for _ in range(n):
        c, u = opened(t, rp, up)
        data_open(c, u)
        c.loud = u.loud = False
        pairs.append((c, u))
    rest = {}
    for c, _u in pairs:
        c.sock.setblocking(False)
        try:
            sent = c.sock.send(body)
        except BlockingIOError:
            sent = 0
        rest[c] = sent
    time.sleep(0.3)
    for i, (c, u) in enumerate(pairs):
        c.sock.setblocking(True)
        c.send_async(body[rest[c]:])
        t.equal(u.recv_exact(len(body)), body, "body of session %d" % i)
        u.send(TAKEN)
        c.expect(TAKEN)


@test(timeout=60, serial=True)
def u05_a_flood_of_completions(t):
    """1,000 sessions answer at the same moment: all are served, the queue does not overflow."""
    n = 1000 if t.slow == 1 else 300
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": OPEN})
    pairs = [opened(t, rp, up) for _ in range(n)]
    for c, u in pairs:
        c.loud = u.loud = False
    for round_ in range(3):
        rp.proc.send_signal(signal.SIGSTOP)
        for c, _u in pairs:
            c.sock.sendall(b"NOOP\r\n")
        rp.proc.send_signal(signal.SIGCONT)
        for _c, u in pairs:
            u.expect(b"NOOP\r\n")
        rp.proc.send_signal(signal.SIGSTOP)
        for _c, u in pairs:
            u.sock.sendall(b"250 ok\r\n")
        rp.proc.send_signal(signal.SIGCONT)
        for c, _u in pairs:
            c.expect(b"250 ok\r\n")


@test(quick=True)
def u07_zero_copy_to_a_peer_that_does_not_read(t):
    """Pinned buffers come back when the peer resets; the next session is served."""
    up = t.upstream(rcvbuf=8192)
    rp = t.ringpost(up, up={"mover": "zero-copy", "timeouts": {"send": "60s"}})
    for _ in range(6):
        c, u = opened(t, rp, up)
        step(c, u, MAIL, OK_MAIL)
        step(c, u, RCPT, b"250 ok\r\n")
        c.send_async(b"BDAT 8388608 LAST\r\n" + random.Random(3).randbytes(8 << 20))
        u.recv_exact(100000)
        time.sleep(0.1)
        u.reset()
        c.reply(b"451", seconds=10)
        c.join_sender()
        c.close()
    rp.sockets_back()


@test(quick=True)
def u08_replies_and_octets_do_not_interleave(t):
    """Local replies, relayed replies and a slow reader: the order of the octets holds."""
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": {"errors": 100000, "soft-errors": 100000, "junk": 100000}})
    c, u = opened(t, rp, up)
    want = b""
    for i in range(300):
        big = b"250-%d\r\n" % i + b"250-" + b"x" * 900 + b"\r\n250 end %d\r\n" % i
        c.send(b"HELP %d\r\nLHLO\r\n" % i)
        u.expect(b"HELP %d\r\n" % i).send(big)
        want += big + b"502 5.5.1 command not implemented\r\n"
    t.equal(c.recv_exact(len(want)), want, "all replies")


@cases({"ring-splice": "ring-splice", "splice": "splice"}, quick=True)
def u12_idle_splices_block_nobody(t, mover):
    """64 opaque sessions that are silent, one that is not."""
    up = t.upstream()
    rp = t.ringpost(up, listener={"starttls": "passthrough", "limits": OPEN}, up={"mover": mover})
    pairs = []
    for _ in range(65):
        c = rp.client()
        u = up.accept()
        c.loud = u.loud = False
        greet(c, u)
        c.send(EHLO)
        u.expect(EHLO).send(b"250-x\r\n250 STARTTLS\r\n")
        c.reply(b"250")
        step(c, u, b"STARTTLS\r\n", GO_TLS)
        c.send(b"hello")
        u.expect(b"hello")
        pairs.append((c, u))
    c, u = pairs[-1]
    t0 = time.monotonic()
    data = random.Random(9).randbytes(4 << 20)
    c.send_async(data)
    t.equal(u.recv_exact(len(data)), data, "octets")
    u.send(b"x" * 1000)
    c.expect(b"x" * 1000)
    t.check(time.monotonic() - t0 < 2 * t.slow, "took %.2f s" % (time.monotonic() - t0))


@test(quick=True)
def u14_accept_pauses_and_comes_back(t):
    """Descriptors run out: whoever is connected is served, whoever waits is served later."""
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": OPEN}, nofile=64)
    up.any_number = True
    early = [opened(t, rp, up) for _ in range(5)]
    waiting = []
    for _ in range(120):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(sockaddr(rp.address))
        waiting.append(s)
    time.sleep(0.5)
    for c, u in early:
        message(c, u)
    for s in waiting:
        s.close()
    up_drain(up)
    rp.t.until(lambda: rp.sockets() <= rp.base_sockets + 10, "descriptors come back", 10)
    up_drain(up)
    c = rp.client()
    end = time.monotonic() + t.wait
    while time.monotonic() < end:
        u = up.accept()
        u.sock.sendall(b"220 late %d\r\n" % u.sock.getpeername()[1])
        if select.select([c.sock], [], [], 0.2)[0]:
            break
        u.close()
    c.reply(b"220 late")
    for c, u in early:
        message(c, u)


def up_drain(up):
    up.sock.setblocking(False)
    try:
        while True:
            s, _ = up.sock.accept()
            s.close()
    except OSError:
        pass
    up.sock.setblocking(True)


@test(quick=True)
def u16_no_descriptor_is_inherited(t):
    """Every descriptor is close-on-exec."""
    rp, up, c, u = pair(t)
    base = "/proc/%d/fdinfo" % rp.pid
    for fd in os.listdir(base):
        if int(fd) <= 2:
            continue
        with open(os.path.join(base, fd)) as f:
            flags = int(next(x for x in f if x.startswith("flags:")).split()[1], 8)
        t.check(flags & os.O_CLOEXEC, "descriptor %s (%s) has no O_CLOEXEC" % (fd, os.readlink("/proc/%d/fd/%s" % (rp.pid, fd))))


@test(quick=True)
def u17_stop_and_continue(t):
    """SIGSTOP and SIGCONT in mid-body: waits are interrupted, nothing is lost."""
    rp, up, c, u = pair(t)
    body = b"0123456789abcd\r\n" * 100000 + b".\r\n"
    data_open(c, u)
    c.send_async(body)
    for _ in range(20):
        rp.proc.send_signal(signal.SIGSTOP)
        time.sleep(0.005)
        rp.proc.send_signal(signal.SIGCONT)
        time.sleep(0.005)
    t.equal(u.recv_exact(len(body)), body, "body")
    u.send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def u18_too_little_locked_memory_is_named(t):
    """As nobody with 64 KiB: it starts within the bound, or says what it needs and exits 77."""

    prefix, copy = as_nobody(t, memlock=64 << 10)
    up = t.upstream()
    rp = t.ringpost(up, workers=2, prefix=prefix, program=copy, cold=True)
    p = subprocess.Popen(prefix + [copy, "run", "-c", rp.conf_path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        out, _ = p.communicate(timeout=2 * t.slow)
        t.equal(p.returncode, 77, "exit status, with %r" % out)
        t.check(b"RLIMIT_MEMLOCK" in out or b"MEMLOCK" in out.upper(), "the barrier is named: %r" % out)
    except subprocess.TimeoutExpired:
        p.terminate()
        p.communicate(timeout=10)
        t.equal(p.returncode, 0, "it ran; exit status")


@test(quick=True)
def u20_idle_is_idle(t):
    """No wake-ups without a reason: context switches of an idle process."""
    up = t.upstream()
    rp = t.ringpost(up, workers=2)
    held = [opened(t, rp, up) for _ in range(10)]
    time.sleep(0.2)
    before = switches(rp.pid)
    time.sleep(1.0)
    n = switches(rp.pid) - before
    t.check(n <= 60, "%d context switches in an idle second" % n)
    del held


def switches(pid):
    n = 0
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/status" % (pid, task)) as f:
            n += sum(int(x.split()[1]) for x in f if "ctxt_switches" in x)
    return n


@test(quick=True)
def u22_shared_buffers_keep_their_order(t):
    """1,000 sessions on one buffer group, small pieces from all of them in turn: no octet out of order or of another."""
    n = 300
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": OPEN})
    pairs = [opened(t, rp, up) for _ in range(n)]
    for c, u in pairs:
        c.loud = u.loud = False
        data_open(c, u)
    for round_ in range(10):
        for i, (c, _u) in enumerate(pairs):
            c.sock.sendall(b"s%d r%d " % (i, round_) + b"%d" % i * (i % 50) + b"\r\n")
    for i, (c, u) in enumerate(pairs):
        want = b"".join(b"s%d r%d " % (i, r) + b"%d" % i * (i % 50) + b"\r\n" for r in range(10)) + b".\r\n"
        c.sock.sendall(b".\r\n")
        u.expect(want).send(TAKEN)
        c.expect(TAKEN)


@test(quick=True)
def u25_both_workers_accept(t):
    """SO_REUSEPORT: sessions spread, none is lost when the process goes down with clients in its queue."""
    srv = t.auto()
    rp = t.ringpost(srv, workers=2, listener={"limits": OPEN})
    socks = [socket.create_connection(sockaddr(rp.address)) for _ in range(60)]
    for s in socks:
        s.settimeout(t.wait)
        t.check(s.recv(100).startswith(b"220"), "greeting")
    rp.signal(signal.SIGTERM)
    for s in socks:
        data = b""
        while True:
            part = s.recv(4096)
            if not part:
                break
            data += part
        t.check(data.startswith(b"421 4.3.2"), "last words: %r" % data)
        s.close()
    t.equal(rp.stop_now()["sessions"], 60, "counter")
