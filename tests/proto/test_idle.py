# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions of which nobody has said anything for longer than 5 s: they wait with polls instead of receives, and what
ends the silence is heard as ever."""
import signal
import time

from lib.core import test
from lib.smtp import BODY, GO, TAKEN, data_open, message, opened, quit_, relinked, step

SILENCE = 5.6  # behind DOZE_MS of settle.c
NOOP = b"NOOP\r\n"


def a_command(t, rp, up, c, u):
    step(c, u, NOOP, b"250 still here\r\n")
    message(c, u)
    quit_(c, u)


def two_in_pieces(t, rp, up, c, u):
    """The first octets end the wait; no octet gets lost behind them."""
    c.send_octets(NOOP + NOOP)
    u.expect(NOOP + NOOP)
    u.send_octets(b"250 one\r\n250-two\r\n250 lines\r\n")
    c.expect(b"250 one\r\n250-two\r\n250 lines\r\n")


def a_large_message(t, rp, up, c, u):
    body = b"0123456789abcd\r\n" * (1 << 16) + b".\r\n"
    c.loud = u.loud = False
    data_open(c, u)
    c.send_async(body)
    t.equal(u.recv_exact(len(body)), body, "the message")
    u.send(TAKEN)
    c.expect(TAKEN)


def upstream_says_421(t, rp, up, c, u):
    u.send(b"421 4.4.2 idle too long\r\n").close()
    c.expect(b"421 4.4.2 idle too long\r\n")
    c.ended()


def upstream_closes(t, rp, up, c, u):
    u.close()
    u = relinked(up, c)
    message(c, u)


def upstream_resets(t, rp, up, c, u):
    u.reset()
    u = relinked(up, c)
    message(c, u)


def client_closes_its_side(t, rp, up, c, u):
    c.half_close()
    c.ended()
    u.gone()


def client_says_quit_and_closes_its_side(t, rp, up, c, u):
    c.send(b"QUIT\r\n").half_close()
    u.expect(b"QUIT\r\n").send(b"221 bye\r\n")
    c.expect(b"221 bye\r\n")
    c.ended()


def client_resets(t, rp, up, c, u):
    c.reset()
    u.gone()


def in_a_transaction(t, rp, up, c, u):
    """Silent between RCPT and DATA."""
    step(c, u, b"DATA\r\n", GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)


HOW = (a_command, two_in_pieces, a_large_message, upstream_says_421, upstream_closes, upstream_resets, client_closes_its_side,
       client_says_quit_and_closes_its_side, client_resets, in_a_transaction)


@test(timeout=40)
def what_ends_a_long_silence(t):
    up = t.upstream()
    rp = t.ringpost(up)
    sessions = [opened(t, rp, up) for _ in HOW]
    c, u = sessions[HOW.index(in_a_transaction)]
    step(c, u, b"MAIL FROM:<a@x.test>\r\n", b"250 ok\r\n")
    step(c, u, b"RCPT TO:<b@y.test>\r\n", b"250 ok\r\n")
    time.sleep(SILENCE)
    for how, (c, u) in zip(HOW, sessions):
        t.round(how.__name__)
        how(t, rp, up, c, u)


@test(timeout=40)
def they_do_wait_with_polls(t):
    """Both sockets of each session had their receive taken back, and the upstream's its poll at the end. TERM finds
    those that wait so."""
    up = t.upstream()
    rp = t.ringpost(up)
    sessions = [opened(t, rp, up) for _ in range(11)]
    time.sleep(SILENCE)
    for c, u in sessions[1:]:
        c.close()
        u.gone()
    rp.signal(signal.SIGTERM)
    c, u = sessions[0]
    c.reply(b"421 4.3.2")
    c.ended().close()
    u.gone()
    cancels = rp.stop_now()["ring_cancels"]
    t.check(cancels >= 30, "%d operations were taken back" % cancels)


@test(timeout=40)
def the_command_time_goes_on(t):
    """Neither does the wait with a poll begin it anew, nor does it stop it."""
    up = t.upstream()
    rp = t.ringpost(up, listener={"timeouts": {"command": "7s"}})
    c, u = opened(t, rp, up)
    began = time.monotonic()
    c.reply(b"421 4.4.2", seconds=20)
    t.check(time.monotonic() - began >= 6, "it ended too early")
    c.ended()
    rp.record("session", reason="client-timeout")
