# SPDX-License-Identifier: GPL-3.0-or-later
"""Greetings, upstreams that cannot be had, addresses of every family."""
import os
import socket
import time

from lib.core import Skip, cases, test
from lib.smtp import BYE, CAPS, EHLO, GREETING, ehlo_reply, greet, hello, keywords, message, opened, quit_, step

FAST = {"timeouts": {"connect": "400ms", "greeting": "1s", "reply": "1s"}, "retry-down": "300s"}


@test(quick=True)
def greeting_as_it_is(t):
    up = t.upstream()
    rp = t.ringpost(up)
    for text in (b"220 mx.example.org ESMTP Postfix (Debian/GNU)\r\n", b"220 x\r\n", b"220\r\n", b"220 \r\n",
                 b"220-first line\r\n220-\r\n220-third  line \r\n220 last\r\n", b"220 8-bit \xc3\xa4\xff\r\n"):
        t.round(text)
        c = rp.client()
        u = up.accept()
        c.quiet(0.02)
        u.send(text)
        c.expect(text)
        step(c, u, b"NOOP\r\n", b"250 ok\r\n")
        c.close()
        u.gone()
        u.close()


@test(quick=True)
def multi_line_greeting_is_shown_only_whole(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    u.send(b"220-one\r\n220-two\r\n220 thr")
    c.quiet()
    u.send(b"ee\r\n")
    c.expect(b"220-one\r\n220-two\r\n220 three\r\n")


@test(quick=True)
def greeting_554_relayed_session_goes_on(t):
    """RFC 5321 3.1: after 554 the client may only QUIT; the upstream decides."""
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    u.send(b"554-no service here\r\n554 5.7.1 go away\r\n")
    c.expect(b"554-no service here\r\n554 5.7.1 go away\r\n")
    c.send(b"QUIT\r\n")
    u.expect(b"QUIT\r\n").send(BYE)
    c.expect(BYE)
    u.close()
    c.ended()


@cases({"421": b"421 4.3.2 closing down\r\n", "521": b"521 5.3.2 does not take mail\r\n"}, quick=True)
def greeting_that_ends(t, text):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    u.send(text)
    c.expect(text)
    c.ended()
    u.gone()


@test(quick=True)
def client_octets_before_the_greeting_wait(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    c.send(EHLO)
    u = up.accept()
    u.quiet()
    u.send(GREETING)
    u.expect(EHLO)
    c.expect(GREETING)
    u.send(ehlo_reply())
    c.reply(b"250")


@test(quick=True)
def refused_is_told_in_smtp(t):
    up = t.upstream(listen=False)
    rp = t.ringpost(up, up=FAST)
    c = rp.client()
    want = b"421 4.4.1 upstream mta %s: ECONNREFUSED\r\n" % up.address.encode()
    c.expect(want)
    c.ended()
    rp.sockets_back()
    t.equal(rp.stop_now().get("upstream_unreachable"), 1, "counter upstream_unreachable")


@test(quick=True)
def missing_unix_socket_is_told_in_smtp(t):
    rp = t.ringpost("unix:" + t.path("nobody.sock"), up=FAST)
    c = rp.client()
    got = c.reply(b"421 4.4.1 ")
    t.check(b"ENOENT" in got, "the reason is missing: %r" % got)
    c.ended()


@test(quick=True)
def next_server_is_tried(t):
    dead, up = t.upstream(listen=False), t.upstream()
    rp = t.ringpost(dead, up, up=FAST)
    for _ in range(4):
        c = rp.client()
        u = up.accept()
        greet(c, u)
        c.close()
        u.gone()
        u.close()
    t.check(rp.stop_now()["link_failures"] in (1, 2, 3, 4), "link_failures are counted")


@test(quick=True)
def all_servers_refuse(t):
    dead = [t.upstream(listen=False) for _ in range(3)]
    rp = t.ringpost(*dead, up=FAST)
    for _ in range(3):
        c = rp.client()
        got = c.reply(b"421 4.4.1 upstream mta ")
        t.check(b"ECONNREFUSED" in got, "the reason is missing: %r" % got)
        c.ended()


@test(quick=True)
def round_robin(t):
    ups = [t.upstream() for _ in range(3)]
    rp = t.ringpost(*ups)
    order = []
    for _ in range(9):
        c = rp.client()
        t.until(lambda: any(u.waiting() for u in ups), "somebody is connected to")
        i = next(i for i, u in enumerate(ups) if u.waiting())
        order.append(i)
        u = ups[i].accept()
        greet(c, u)
        c.close()
        u.gone()
        u.close()
    for i in range(3):
        t.equal(order[i::3], [order[i]] * 3, "the order %s" % order)
    t.equal(sorted(order[:3]), [0, 1, 2], "every server once in a round, order %s" % order)


@test(quick=True)
def server_that_was_down_is_used_again(t):
    back, up = t.upstream(listen=False), t.upstream()
    rp = t.ringpost(back, up, up={"timeouts": {"connect": "400ms"}, "retry-down": "1s"})
    up.any_number = True
    for _ in range(2):
        c = rp.client()
        u = up.accept()
        greet(c, u)
        c.close()
        u.close()
    back.listen()
    time.sleep(1.1)

    def reached():
        c = rp.client()
        t.until(lambda: back.waiting() or up.waiting(), "somebody is connected to")
        hit = back.waiting()
        u = (back if hit else up).accept()
        greet(c, u)
        c.close()
        u.close()
        return hit
    t.until(reached, "the server that came back gets a session")


@test(quick=True)
def connect_that_hangs(t):
    slow, up = t.upstream(full=True), t.upstream()
    rp = t.ringpost(slow, up, up=FAST)
    c = rp.client()
    u = up.accept()
    greet(c, u)


@test(quick=True)
def connect_that_hangs_nobody_else(t):
    slow = t.upstream(full=True)
    rp = t.ringpost(slow, up=FAST)
    c = rp.client()
    c.reply(b"421 4.4.1 ")
    c.ended()


@test(quick=True)
def silent_greeting(t):
    up = t.upstream()
    rp = t.ringpost(up, up=FAST)
    c = rp.client()
    u = up.accept()
    c.reply(b"421 4.4.2 ")
    c.ended()
    u.gone()


@test(quick=True)
def silent_client_behind_the_greeting(t):
    """The limit for the greeting ends with the greeting: the link waits for as long as the client may."""
    up = t.upstream()
    rp = t.ringpost(up, up=FAST)
    c, u = rp.client(), up.accept()
    greet(c, u)
    time.sleep(1.5)
    hello(c, u)
    message(c, u)


@test(quick=True)
def half_a_greeting_then_silence(t):
    up = t.upstream()
    rp = t.ringpost(up, up=FAST)
    c = rp.client()
    u = up.accept()
    u.send(b"220-half\r\n220 a gree")
    c.reply(b"421 4.4.2 ")
    c.ended()
    u.gone()


@cases({"close": "close", "reset": "reset"}, quick=True)
def half_a_greeting_then(t, how):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    u.send(b"220-half\r\n220 a gree")
    u.settle()
    getattr(u, how)()
    c.reply(b"421 4.4.")
    c.ended()


@cases({"close": "close", "reset": "reset"}, quick=True)
def upstream_ends_without_a_word(t, how):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    getattr(up.accept(), how)()
    c.reply(b"421 4.4.")
    c.ended()


@cases({"words": b"hello there\r\n", "no-code": b"2x0 foo\r\n", "mixed": b"220-a\r\n250 b\r\n", "nul": b"220 a\0b\r\n",
        "code-1xx": b"120 wait\r\n", "code-6xx": b"620 what\r\n"}, quick=True)
def greeting_that_is_none(t, text):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    u.send(text)
    got = c.reply(b"421 4.")
    t.check(text.strip() not in got, "the bad greeting must not be shown: %r" % got)
    c.ended()
    u.gone()


@test(quick=True)
def greeting_with_bare_lf_is_rewritten(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    u.send(b"220-one\n220 two\n")
    c.expect(b"220-one\r\n220 two\r\n")
    c.send(b"NOOP\r\n")
    u.expect(b"NOOP\r\n").send(b"250 ok\n")
    c.expect(b"250 ok\r\n")


@test(quick=True)
def client_leaves_before_the_greeting(t):
    up = t.upstream()
    rp = t.ringpost(up)
    for how in ("close", "reset"):
        c = rp.client()
        u = up.accept()
        getattr(c, how)()
        u.gone()
        u.close()
    rp.sockets_back()


@test(quick=True)
def client_leaves_while_connecting(t):
    slow = t.upstream(full=True)
    rp = t.ringpost(slow, up={"timeouts": {"connect": "60s"}})
    for how in ("close", "reset"):
        c = rp.client()
        time.sleep(0.05)
        getattr(c, how)()
        rp.sockets_back()


@test(quick=True)
def unix_upstream(t):
    up = t.upstream(address="unix:" + t.path("mta.sock"))
    rp = t.ringpost(up)
    c, u = opened(t, rp, up)
    message(c, u)
    quit_(c, u)


@test(quick=True)
def unix_listener(t):
    up = t.upstream()
    path = "unix:" + t.path("in.sock")
    rp = t.ringpost(up, bind=path)
    c = rp.client(path)
    u = up.accept()
    greet(c, u)
    hello(c, u)
    message(c, u)
    quit_(c, u)


@test(quick=True)
def unix_listener_again_after_a_kill(t):
    """A socket file that a killed process left behind is no reason not to start."""
    path = "unix:" + t.path("in.sock")
    up = t.upstream()
    rp = t.ringpost(up, bind=path)
    rp.proc.kill()
    rp.proc.wait()
    rp.want_status = -9
    t.check(os.path.exists(path[5:]), "the file is left")
    rp2 = t.ringpost(up, bind=path)
    c = rp2.client(path)
    greet(c, up.accept())


def need_ipv6(t):
    s = socket.socket(socket.AF_INET6)
    try:
        s.bind(("::1", 0))
    except OSError:
        raise Skip("no IPv6 on loopback")
    finally:
        s.close()


@test(quick=True)
def ipv6_both_sides(t):
    need_ipv6(t)
    up = t.upstream(address="[::1]:0")
    rp = t.ringpost(up, bind="[::1]:0")
    t.check(rp.address.startswith("[::1]:"), "the start record shows %s" % rp.address)
    c, u = opened(t, rp, up)
    message(c, u)
    quit_(c, u)
    rec = rp.record("transaction")
    t.check("::1" in rec["client"], "the client in the record: %r" % rec["client"])


@test(quick=True)
def ipv6_refused_text(t):
    need_ipv6(t)
    up = t.upstream(address="[::1]:0", listen=False)
    rp = t.ringpost(up)
    c = rp.client()
    c.expect(b"421 4.4.1 upstream mta %s: ECONNREFUSED\r\n" % up.address.encode())
    c.ended()


@test(quick=True)
def several_addresses_of_one_listener(t):
    up = t.upstream()
    rp = t.ringpost(up, bind=["127.0.0.1:0", "127.0.0.2:0", "unix:" + t.path("s.sock")])
    t.equal(len(rp.addresses), 3, "addresses in the start record")
    for address in rp.addresses:
        c = rp.client(address)
        u = up.accept()
        greet(c, u)
        c.close()
        u.gone()
        u.close()


@test(quick=True)
def two_listeners_two_upstreams(t):
    a, b = t.upstream(), t.upstream()
    rp = t.ringpost(a, conf={
        "listeners": {"other": {"bind": "127.0.0.1:0", "upstream": "second"}},
        "upstreams": {"second": {"servers": b.address}}})
    for address, up in zip(rp.addresses, (a, b)):
        c = rp.client(address)
        u = up.accept()
        greet(c, u)
        step(c, u, b"NOOP\r\n", b"250 ok\r\n")


@test(quick=True)
def source_address(t):
    up = t.upstream()
    rp = t.ringpost(up, up={"source": "127.0.0.9"})
    c = rp.client()
    u = up.accept()
    t.equal(u.sock.getpeername()[0], "127.0.0.9", "the address ringpost connects from")
    greet(c, u)


@test(quick=True)
def upstream_ends_with_421_while_idle(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c, u = opened(t, rp, up)
    u.send(b"421 4.4.2 idle too long\r\n").close()
    c.expect(b"421 4.4.2 idle too long\r\n")
    c.ended()


@test(quick=True)
def ehlo_as_the_upstream_says(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    caps = CAPS + (b"SIZE 12345", b"DSN", b"VRFY", b"ETRN", b"AUTH PLAIN LOGIN", b"AUTH=PLAIN", b"X-SOMETHING new one",
                   b"XCLIENT NAME ADDR", b"XFORWARD NAME", b"STARTTLS", b"BURL imap", b"ATRN", b"REQUIRETLS", b"PRDR",
                   b"CHECKPOINT", b"X-EXPS GSSAPI", b"XEXCH50", b"X-ANONYMOUSTLS", b"TURN")
    shown = hello(c, u, caps)
    for gone in (b"XCLIENT", b"XFORWARD", b"STARTTLS", b"BURL", b"ATRN", b"REQUIRETLS", b"PRDR", b"CHECKPOINT",
                 b"X-EXPS", b"XEXCH50", b"X-ANONYMOUSTLS", b"TURN"):
        t.check(gone not in shown, "%s must be stripped: %r" % (gone, shown))
    for name, args in {b"SIZE": b"12345", b"DSN": b"", b"AUTH": b"PLAIN LOGIN", b"X-SOMETHING": b"new one",
                       b"PIPELINING": b"", b"8BITMIME": b"", b"CHUNKING": b"", b"ETRN": b""}.items():
        t.equal(shown.get(name), args, "%r in the list" % name)


@test(quick=True)
def ehlo_pipelining_is_added_size_is_the_smaller(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": {"message": 5000}})
    for theirs, want in ((b"SIZE 100", b"100"), (b"SIZE 100000", b"5000"), (b"SIZE 0", b"5000"), (b"SIZE", b"5000"),
                         (None, b"5000")):
        t.round(theirs)
        c = rp.client()
        u = up.accept()
        greet(c, u)
        shown = hello(c, u, (b"8BITMIME",) + ((theirs,) if theirs else ()))
        t.check(b"PIPELINING" in shown, "PIPELINING must be added: %r" % shown)
        if theirs is not None:
            t.equal(shown.get(b"SIZE"), want, "SIZE for the upstream's %r" % theirs)
        c.close()
        u.close()


@test(quick=True)
def ehlo_extension_policy_by_configuration(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"extensions": {"8BITMIME": "strip", "X-OWN": "strip", "PRDR": "strip",
                                                 "CHUNKING": "strip"}})
    c = rp.client()
    u = up.accept()
    greet(c, u)
    shown = hello(c, u, CAPS + (b"X-OWN", b"X-OTHER", b"DSN", b"BINARYMIME"))
    t.equal(sorted(shown), [b"DSN", b"ENHANCEDSTATUSCODES", b"PIPELINING", b"X-OTHER"], "shown")


@test(quick=True)
def ehlo_one_line_only(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    c.send(EHLO)
    u.expect(EHLO)
    u.send(b"250 up.test\r\n")
    got = c.reply(b"250")
    t.equal(keywords(got), {b"PIPELINING": b""}, "shown")


@test(quick=True)
def ehlo_refused_then_helo(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    greet(c, u)
    step(c, u, EHLO, b"502 5.5.1 not here\r\n")
    step(c, u, b"HELO client.test\r\n", b"250 up.test\r\n")
    message(c, u)
