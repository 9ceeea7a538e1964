# SPDX-License-Identifier: GPL-3.0-or-later
"""Octets in clear around the words that begin TLS (CVE-2011-0411, CVE-2021-38371 and their kin), cut everywhere, on
both legs: not one crosses. What each peer has seen in the end is compared as a whole."""
import itertools
import re

from lib.core import cases, test
from lib.smtp import BYE, CAPS, EHLO, GREETING, MAIL, OK_MAIL, ehlo_reply, keywords, step
from lib.tls import (ALERT, GO_TLS, NAME, STARTTLS, Bed, alert, client_context, first_flight, only_records, server_context,
                     start_tls, tls_conf)

EVIL = b"RSET\r\nMAIL FROM:<evil@x.test>\r\n"
BEHIND = b"501 5.5.1 data behind STARTTLS; closing connection\r\n"
MANY = {"errors": 1000000, "per-client-sessions": 0}
PIECES = {"two": 1, "three": 2}


def all_cuts(n, count):
    """Every way to cut n octets at so many places."""
    return list(itertools.combinations(range(1, n), count))


def parts(count, shares):
    """Cases that share the work: the runner does some at a time."""
    return {"%s,%d" % (name, i): (n, i, shares if n == 2 else 1) for name, n in PIECES.items() for i in range(shares if n == 2 else 1)}


# ---- the client's leg ----

def say(c, data, cuts):
    """As send_split(), to one that may end in the middle of it."""
    try:
        c.send_split(data, *cuts)
    except OSError:
        pass
    return c.rest()


class Door:
    """Sessions up to their EHLO, one after the other, before a server that notes every octet."""

    def __init__(self, t, upstream="plain", mode="offer"):
        self.t = t
        self.srv = t.auto(tls=server_context(t) if upstream != "plain" else None, implicit=upstream == "implicit")
        conf = tls_conf(t, "starttls", upstream, site={"mode": mode})
        conf["listener"]["limits"] = MANY
        self.rp = t.ringpost(self.srv, **conf)

    def session(self):
        c = self.rp.client()
        c.reply(b"220")
        c.send(EHLO)
        self.t.check(b"STARTTLS" in keywords(c.reply(b"250")), "STARTTLS is offered")
        return c

    def seen(self, c):
        """What the server got of this session, when both connections are over: the lines, whichever way they came."""
        c.close()
        peer = self.srv.peers[-1]
        self.t.until(lambda: peer.gone, "the upstream's connection is over")
        self.t.check(not self.srv.behind_starttls, "octets behind our own STARTTLS: %r" % self.srv.behind_starttls)
        return b"".join(line + b"\r\n" for line in peer.commands) + bytes(peer.buf)


def verdict(t, got, at_boundary):
    """What the client may have been told in all. True: in the 220."""
    if not at_boundary:
        t.equal(got, BEHIND, "what the client got")
        return False
    if got == b"":  # both pieces were there before the 220 had left
        return False
    t.check(got.startswith(GO_TLS), "the client got %r" % got)
    only_records(t, got[len(GO_TLS):], "behind the 220", kinds=(ALERT,))
    return True


def client_round(t, door, stream, cuts, expect=EHLO):
    t.round("%r cut at %r" % (stream, cuts))
    c = door.session()
    told = verdict(t, say(c, stream, cuts), len(STARTTLS) in cuts)
    t.check(door.seen(c) in (expect, expect + b"QUIT\r\n"), "the server got %r" % (door.srv.peers[-1].commands,))
    return told


@cases(parts(PIECES, 3), timeout=120)
def commands_behind_starttls(t, case):
    """In the same read: 501 and the end. Later: they are no hello of TLS."""
    count, share, shares = case
    door = Door(t)
    stream = STARTTLS + EVIL
    rounds = [client_round(t, door, stream, cuts) for cuts in all_cuts(len(stream), count)[share::shares]]
    t.check(any(rounds), "the 220 was never seen")
    stop = door.rp.stop_now()
    t.equal(stop["starttls_injection"] + stop["tls_failed"], len(rounds), "starttls_injection and tls_failed")
    t.equal((stop["tls_failed"], stop["tls_handshakes"]), (sum(rounds), 0), "of them told 220; handshakes")


@cases({"offer": "offer", "require": "require"}, quick=True)
def commands_behind_starttls_in_brief(t, mode):
    for upstream in ("plain", "starttls"):
        door = Door(t, upstream, mode)
        expect = EHLO if upstream == "plain" else EHLO + STARTTLS + EHLO
        for evil in (b"M", b"\n", b"\r\n", b"\x16", EVIL):
            client_round(t, door, STARTTLS + evil, (), expect)
        for cuts in ((10,), (9,), (11,), (10, 12), (4, 10), (9, 10)):
            client_round(t, door, STARTTLS + EVIL, cuts, expect)


@test(quick=True)
def a_hello_of_tls_behind_starttls(t):
    """The client did not wait for the 220. In the same read it is an injection like any; behind the 220 it is a hello."""
    door = Door(t)
    context = client_context(t)
    for cuts in [()] + [(n,) for n in range(1, 20)] + [(10, n) for n in range(11, 40, 4)]:
        t.round("cut at %r" % (cuts,))
        c = door.session()
        tls, hello = first_flight(context)
        if len(STARTTLS) not in cuts:
            t.equal(say(c, STARTTLS + hello, cuts), BEHIND, "what the client got")
            t.check(door.seen(c) in (EHLO, EHLO + b"QUIT\r\n"), "what the server got")
            continue
        try:
            c.send_split(STARTTLS + hello, *cuts)
            c.expect(GO_TLS)
        except AssertionError:
            t.check(c.rest() == b"", "neither a 220 nor an end")  # both were there before the 220 had left
            c.close()
            continue
        c.tls, early, c.buf = tls, c.buf, b""
        if early:
            c._came(early)
        c.handshake()
        c.send(b"NOOP\r\n")
        t.check(c.reply()[:3] in (b"503", b"250"), "the reply to NOOP")
        c.send(EHLO)
        c.reply(b"250")
        c.send(b"QUIT\r\n")
        c.reply(b"221")
        c.ended()


@test(quick=True)
def commands_and_a_hello_of_tls_behind_the_220(t):
    """What a wire between would do: its own commands first, then the client's handshake. They are not thrown away in silence:
    the handshake fails."""
    door = Door(t)
    context = client_context(t)
    for evil in (b"M", b"\r\n", b"NOOP\r\n", EVIL, b"\x16", b"\x16\x03", b"\x17\x03\x03\0\1x", b"\0"):
        t.round(evil)
        c = door.session()
        _tls, hello = first_flight(context)
        got = say(c, STARTTLS + evil + hello, (10, 10 + len(evil)))
        if got:
            t.check(got.startswith(GO_TLS), "the client got %r" % got)
            only_records(t, got[len(GO_TLS):], "behind the 220", kinds=(ALERT,))
        t.check(door.seen(c) in (EHLO, EHLO + b"QUIT\r\n"), "what the server got")
    t.equal(door.rp.stop_now()["tls_handshakes"], 0, "handshakes")


@test(quick=True)
def commands_that_race_with_the_220(t):
    """Two segments, the second not held back: whichever way it goes, one of the documented ends."""
    door = Door(t)
    for i in range(60):
        t.round(i)
        c = door.session()
        c.sock.sendall(STARTTLS)
        try:
            c.sock.sendall(EVIL)
        except OSError:
            pass
        got = c.rest()
        if got not in (b"", BEHIND):
            t.check(got.startswith(GO_TLS), "the client got %r" % got)
            only_records(t, got[len(GO_TLS):], "behind the 220", kinds=(ALERT,))
        t.check(door.seen(c) in (EHLO, EHLO + b"QUIT\r\n"), "what the server got")
    stop = door.rp.stop_now()
    t.equal((stop["starttls_injection"] + stop["tls_failed"], stop["tls_handshakes"]), (60, 0), "injections and failures; handshakes")


@test(quick=True)
def commands_before_the_220(t):
    """STARTTLS waits for the reply to the command before it; what comes meanwhile was said in clear behind it."""
    b = Bed(t, "starttls", listener={"limits": MANY})
    for n in list(range(1, len(EVIL) + 1)):
        t.round("%d octets" % n)
        c = b.arrive()
        u = b.link()
        c.expect(GREETING)
        b.hello(c, u)
        c.send(b"NOOP x\r\n" + STARTTLS)
        u.expect(b"NOOP x\r\n")
        c.send(EVIL[:n]).settle()
        u.send(b"250 ok\r\n")
        t.equal(c.rest(), b"250 ok\r\n" + BEHIND, "what the client got")
        u.gone()
        c.close()
        u.close()
    t.equal(b.rp.stop_now()["starttls_injection"], len(EVIL), "counter")


@test(quick=True)
def commands_of_clear_times_are_forgotten(t):
    """What was said before TLS, in due order, counts no more behind it: neither sender nor recipients nor the hello."""
    b = Bed(t, "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING)
    b.hello(c, u)
    step(c, u, MAIL, OK_MAIL)
    step(c, u, b"RCPT TO:<evil@x.test>\r\n", b"250 ok\r\n")
    c.send(STARTTLS)
    c.expect(GO_TLS)
    c.handshake(b.clients, name=NAME)
    u.expect(b"RSET\r\n").send(b"250 flushed\r\n")
    c.send(b"RCPT TO:<v@y.test>\r\nDATA\r\n" + MAIL)
    c.replies(b"503", b"503", b"503")
    b.hello(c, u)
    step(c, u, MAIL, OK_MAIL)


# ---- the upstream's leg ----

WORDS = {b"upstream-injection", b"tls-not-tls", b"tls-protocol", b"tls-record", b"tls-version"}
GO = b"220 go\r\n"
LATER = b"250-evil.test\r\n250 XEVIL\r\n"
UPSTREAM_TLS = re.compile(rb"454 4\.7\.5 upstream TLS: (\S+)\r\n")


def no_session(t, u, what):
    """The rest of what this connection of the upstream saw: at most a hello of TLS and an alert, no data, no word."""
    got = u.rest()
    if got not in (b"", b"QUIT\r\n"):
        only_records(t, got, what)
    return got


class Inside:
    """Sessions whose upstream is by STARTTLS, before a server that is under somebody else's hand."""

    def __init__(self, t, mode):
        self.t, self.mode = t, mode
        self.b = Bed(t, "plain", "starttls", to={"mode": mode}, listener={"limits": MANY})

    def begin(self):
        """Up to where STARTTLS has come."""
        c = self.b.rp.client()
        u = self.b.up.accept()
        u.send(GREETING)
        c.expect(GREETING).send(EHLO)
        u.expect(EHLO)
        return c, u

    def refused(self, c):
        """The client's hello is answered 454; nothing of the server's octets is in it."""
        m = UPSTREAM_TLS.fullmatch(c.reply())
        self.t.check(m and m.group(1) in WORDS, "the client got %r" % (m and m.group(0)))
        c.send(b"QUIT\r\n")
        c.expect(b"221 2.0.0 bye\r\n").ended()
        return m.group(1)

    def in_clear(self, c):
        """The fallback of `opportunistic`: the same server again, without TLS; its words are the client's."""
        u = self.b.up.accept()
        u.send(GREETING).expect(EHLO).send(ehlo_reply((b"XCLEAR",)))
        got = c.reply(b"250")
        self.t.check(b"evil" not in got.lower() and b"XCLEAR" in got, "the client was shown %r" % got)
        c.send(b"QUIT\r\n")
        u.expect(b"QUIT\r\n").send(BYE)
        c.expect(BYE).ended()
        u.close()


def upstream_round(t, inside, stream, cuts):
    """`stream`: the 220 and what stands behind it. Returns the word that the client was told."""
    t.round("%r cut at %r" % (stream, cuts))
    c, u = inside.begin()
    u.send(ehlo_reply((b"STARTTLS",))).expect(STARTTLS)
    try:
        u.send_split(stream, *cuts)
    except OSError:
        pass
    seen = no_session(t, u, "what the server got behind STARTTLS")
    early = len(GO) not in cuts
    t.check(not early or not seen.startswith(b"\x16"), "a handshake was begun: %r" % seen)
    word = None
    if early or inside.mode != "opportunistic":
        word = inside.refused(c)
        t.check(not early or word == b"upstream-injection", "the word %r" % word)
    elif inside.b.up.waiting(0.2) or not c.pending():
        inside.in_clear(c)
    else:
        word = inside.refused(c)  # both pieces had come before the handshake began
    t.equal(u.clear[:len(EHLO + STARTTLS)], EHLO + STARTTLS, "what the server got in clear")
    c.close()
    u.close()
    return word


@cases({"%s,%s" % (mode, name): (mode,) + case for mode in ("require", "opportunistic") for name, case in parts(PIECES, 3).items()},
       timeout=120)
def replies_behind_the_220(t, case):
    mode, count, share, shares = case
    inside = Inside(t, mode)
    stream = GO + LATER
    words = [upstream_round(t, inside, stream, cuts) for cuts in all_cuts(len(stream), count)[share::shares]]
    stop = inside.b.rp.stop_now()
    t.equal(stop["starttls_injection"], words.count(b"upstream-injection"), "starttls_injection")
    t.equal(stop["tls_upstream_handshakes"], 0, "handshakes")


@cases({mode: mode for mode in ("require", "verify", "opportunistic")}, quick=True)
def replies_behind_the_220_in_brief(t, mode):
    inside = Inside(t, mode)
    for behind in (b"2", b"\r", b"\n", b"\r\n", b"\0", b"\x16", b"\x16\x03\x03\0\1", LATER, GO, b"250 XEVIL\r\n" * 500):
        upstream_round(t, inside, GO + behind, ())
    for cuts in ((8,), (7,), (9,), (8, 10), (3, 8), (7, 8)):
        upstream_round(t, inside, GO + LATER, cuts)


@test(quick=True)
def a_whole_handshake_behind_an_injection(t):
    """The wire between puts its replies behind the 220 and then lets the real server speak. There is no handshake."""
    for mode in ("require", "opportunistic"):
        inside = Inside(t, mode)
        t.round(mode)
        c, u = inside.begin()
        u.send(ehlo_reply((b"STARTTLS",))).expect(STARTTLS)
        u.send(GO + LATER)
        got = u.rest()
        t.check(got in (b"", b"QUIT\r\n"), "the server got %r" % got)
        t.equal(inside.refused(c), b"upstream-injection", "the word")
        u.close()
        c.close()


@cases({"require": "require", "opportunistic": "opportunistic"}, quick=True)
def a_220_before_it_is_asked_for(t, mode):
    """Behind the reply to EHLO, in the same read, cut everywhere: the server cannot have seen STARTTLS."""
    inside = Inside(t, mode)
    reply = ehlo_reply((b"STARTTLS",))
    stream = reply + GO
    for cut in [0] + [n for n in range(1, len(stream)) if n != len(reply)]:
        t.round("cut at %d of %d" % (cut, len(stream)))
        c, u = inside.begin()
        try:
            u.send_split(stream, *([cut] if cut else []))
        except OSError:
            pass
        t.check(u.rest() in (b"", b"QUIT\r\n"), "what the server got behind EHLO")
        t.equal(inside.refused(c), b"upstream-injection", "the word")
        c.close()
        u.close()


@test(quick=True)
def what_the_server_says_in_clear_is_not_the_clients(t):
    """Capabilities of clear times, and a reply to STARTTLS with lines: none is shown; those behind TLS are."""
    b = Bed(t, "plain", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    start_tls(u, caps=(b"XEVIL", b"AUTH PLAIN", b"SIZE 17"), reply=b"220-2.0.0 XEVIL\r\n220 2.0.0 go\r\n")
    u.handshake(b.servers, server=True)
    u.expect(EHLO).send(ehlo_reply(CAPS + (b"XGOOD",)))
    shown = keywords(c.reply(b"250"))
    t.check(b"XGOOD" in shown and not {b"XEVIL", b"AUTH", b"SIZE", b"STARTTLS"} & set(shown), "shown: %r" % shown)
    t.equal(u.clear, EHLO + STARTTLS, "what came in clear")


@test(quick=True)
def an_alert_behind_the_220(t):
    """It is a record, but it comes before our hello: octets behind the 220."""
    inside = Inside(t, "require")
    upstream_round(t, inside, GO + alert(40), ())


@test(quick=True)
def replies_before_starttls_is_answered(t):
    """A reply too many in clear: which one is the answer to STARTTLS cannot be known."""
    inside = Inside(t, "require")
    for extra in (b"250 XEVIL\r\n", b"454 no\r\n", b"250-evil\r\n250 STARTTLS\r\n"):
        t.round(extra)
        c, u = inside.begin()
        u.send(ehlo_reply((b"STARTTLS",)) + extra)
        got = u.rest()
        t.check(b"\x16\x03" not in got, "the server got %r" % got)
        t.check(c.reply()[:1] == b"4", "the client's hello is refused")
        c.reset()
        u.close()


@test(quick=True)
def both_legs_in_one_session(t):
    """An injection on the one leg is not seen on the other, which is TLS already."""
    b = Bed(t, "implicit", "starttls")
    c = b.arrive()
    u = b.link()
    c.expect(GREETING).send(EHLO)
    u.expect(EHLO).send(ehlo_reply((b"STARTTLS",))).expect(STARTTLS).send(GO + LATER)
    t.check(UPSTREAM_TLS.fullmatch(c.reply()) is not None, "454")
    u.gone()
    u.close()
    c.send(EHLO)
    u = b.link()
    b.secure(u).expect(EHLO).send(ehlo_reply())
    t.check(b"XEVIL" not in c.reply(b"250"), "what the client was shown")
    c.send(MAIL)
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
