# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages through TLS: each leg plain, by STARTTLS or implicit. Octet for octet, whatever the records are; ends that
were said, and ends that were not; peers that are slow, and that break off."""
import hashlib
import itertools
import random
import time

from lib.core import cases, test
from lib.crowd import OPEN, Crowd, ledger
from lib.smtp import (BODY, BYE, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, envelope, message, no_end_seen, quit_, step)
from lib.tls import LEGS, Bed, client_context, enter, record, server_context, tls_conf

CHUNK_OK = b"250 2.0.0 chunk ok\r\n"
PART = b"Subject: x\r\n\r\nthe first part\r\n"
WAYS = {"%s-%s" % way: way for way in itertools.product(LEGS, LEGS)}
SOME = {name: WAYS[name] for name in ("starttls-starttls", "implicit-implicit", "plain-starttls", "starttls-plain")}
BOTH = ("starttls", "starttls")
VERSIONS = ("1.2", "1.3")


def bdat(data, last=False):
    return b"BDAT %d%s\r\n" % (len(data), b" LAST" if last else b"") + data


def noise(size, seed=4711):
    """8-bit octets in lines, no bare CR or LF, dots as a client doubles them."""
    data = random.Random(seed).randbytes(size)
    return data.replace(b"\r", b"r").replace(b"\n", b"\r\n").replace(b"\n.", b"\n..")


def bed(t, way, version=None, **kw):
    """`version`: the only one that both our peers know."""
    if version:
        kw["clients"] = client_context(t, version, version)
        kw["servers"] = server_context(t, low=version, high=version)
    return Bed(t, *way, **kw)


# ---- bodies ----

def by_data(t, c, u, body):
    body += b"\r\n.\r\n"
    data_open(c, u)
    c.send_async(body)
    got = u.recv_exact(len(body))
    u.send(TAKEN)
    c.expect(TAKEN)
    return body, got


def by_bdat(t, c, u, body):
    """Three chunks, pipelined."""
    a, b = len(body) // 3, len(body) // 2
    stream = bdat(body[:a]) + bdat(body[a:b]) + bdat(body[b:], last=True)
    envelope(c, u)
    c.send_async(stream)
    got = u.recv_exact(len(stream))
    u.send(CHUNK_OK * 2 + TAKEN)
    c.expect(CHUNK_OK * 2 + TAKEN)
    return stream, got


HOW = {"data": by_data, "bdat": by_bdat}
TRANSFERS = {"%s,%s" % (name, how): (way, how) for (name, way), how in itertools.product(WAYS.items(), HOW)}
FOUR = {"%s,%s" % (name, how): (WAYS[name], how) for name, how in itertools.product(
    ("plain-plain", "starttls-plain", "plain-implicit", "implicit-starttls"), HOW)}


def transfer(t, way, how, size, version):
    b = bed(t, way, version)
    c, u = b.connect()
    body = noise(size)
    grown = []
    for _ in range(4):
        sent, got = HOW[how](t, c, u, body)
        t.equal(hashlib.sha256(got).hexdigest(), hashlib.sha256(sent).hexdigest(), "hash of what came")
        c.join_sender()
        grown.append(b.rp.rss_anon())
    if t.mode == "release" and size > 4 << 20:
        t.check(grown[3] - grown[2] < 1024 * t.slow, "RssAnon grows: %r KiB" % grown)
    quit_(c, u)
    b.rp.record("transaction", 4, result="accepted")
    rec = b.rp.record("session")
    want = "TLSv" + version
    t.equal((rec.get("tls"), rec.get("upstream_tls")), tuple(None if leg == "plain" else want for leg in way), "versions in the record")


@cases(TRANSFERS, timeout=60)
def twenty_megabytes(t, case):
    transfer(t, *case, 20 << 20, "1.3")


@cases(FOUR, quick=True)
def half_a_megabyte(t, case):
    transfer(t, *case, 1 << 19, "1.2")


BODIES = {
    "empty": b".\r\n",
    "only-crlf": b"\r\n.\r\n",
    "dots": b"..\r\n...\r\n..x\r\n.x\r\n..\r\n.\r\n",
    "crs-before-the-end": b"a\r\r\n.\r\n",
    "8-bit": bytes(range(128, 256)) + b"\r\n.\r\n",
    "control": bytes(b for b in range(1, 32) if b not in (10, 13)) + b"\x7f\r\n.\r\n",
    "200000-octet-line": b"x" * 200000 + b"\r\n.\r\n",
    "many-lines": b"..\r\n" * 30000 + b".\r\n",
    "like-a-record": record(21, b"\2\0") * 100 + b"\r\n.\r\n",
}


@cases(SOME, quick=True)
def bodies_untouched(t, way):
    b = bed(t, way)
    c, u = b.connect()
    for name, body in BODIES.items():
        t.round(name)
        data_open(c, u)
        c.send_async(body)
        t.equal(u.recv_exact(len(body)), body, "the body")
        c.join_sender()
        u.send(TAKEN)
        c.expect(TAKEN)
    step(c, u, b"NOOP\r\n", b"250 ok\r\n")


@cases(SOME, quick=True)
def tiny_messages(t, way):
    client, upstream = way
    srv = t.auto(tls=server_context(t) if upstream != "plain" else None, implicit=upstream == "implicit")
    rp = t.ringpost(srv, **tls_conf(t, client, upstream))
    c = rp.client()
    enter(c, client_context(t), client)
    c.loud = False
    for i in range(200):
        c.send(MAIL + RCPT + b"DATA\r\n")
        c.replies(b"250", b"250", b"354")
        c.send(b"%d\r\n.\r\n" % i)
        c.reply(b"250 2.0.0 taken as %d" % (i + 1))
    t.equal([m.body for m in srv.messages], [b"%d\r\n.\r\n" % i for i in range(200)], "bodies")
    c.close()
    t.equal(rp.stop_now()["messages_accepted"], 200, "counter")


@cases(SOME, quick=True)
def envelopes_and_chunks_in_one_record(t, way):
    """Fifty messages, all their commands and octets in one write."""
    client, upstream = way
    srv = t.auto(tls=server_context(t) if upstream != "plain" else None, implicit=upstream == "implicit")
    rp = t.ringpost(srv, **tls_conf(t, client, upstream))
    c = rp.client()
    enter(c, client_context(t), client)
    c.send(b"".join(MAIL + RCPT + bdat(b"message %d\r\n.\r\nQUIT\r\n" % i, last=True) for i in range(50)) + b"QUIT\r\n")
    for i in range(50):
        c.replies(b"250", b"250", b"250 2.0.0 taken as %d" % (i + 1))
    c.expect(b"221 2.0.0 bye\r\n").ended()
    t.equal([m.body for m in srv.messages], [b"message %d\r\n.\r\nQUIT\r\n" % i for i in range(50)], "bodies")


MOVERS = ("auto", "copy", "splice", "ring-splice", "zero-copy")


@cases({"%s,%s" % (name, m): (SOME[name], m) for name, m in itertools.product(("starttls-starttls", "plain-starttls", "starttls-plain"), MOVERS)},
       quick=True)
def every_mover(t, case):
    """Where TLS is, a mover that leaves octets to the kernel has to copy."""
    way, mover = case
    b = bed(t, way, up={"mover": mover})
    c, u = b.connect()
    for size in (100, 1 << 20):
        sent, got = by_bdat(t, c, u, noise(size))
        t.equal(hashlib.sha256(got).hexdigest(), hashlib.sha256(sent).hexdigest(), "hash of what came")
        c.join_sender()
    message(c, u)


# ---- records ----

@cases({"%s,%s" % (name, v): (way, v) for (name, way), v in itertools.product(SOME.items(), VERSIONS)}, quick=True)
def records_of_one_octet(t, case):
    b = bed(t, *case)
    c, u = b.connect()
    for stream, replies in ((MAIL + RCPT + b"DATA\r\n", OK_MAIL + OK_RCPT + b"354 go\r\n"), (BODY, TAKEN), (b"NOOP\r\n", b"250 ok\r\n")):
        c.send_octets(stream)
        u.expect(stream).send_octets(replies)
        c.expect(replies)


@test(quick=True)
def records_of_one_octet_in_one_segment(t):
    """A thousand records in one read, on both legs."""
    b = bed(t, BOTH)
    c, u = b.connect()
    body = b"0123456789abcd\r\n" * 60 + b".\r\n"
    data_open(c, u)
    c.wire(c.records(*(body[i:i + 1] for i in range(len(body)))))
    u.expect(body)
    u.wire(u.records(*(TAKEN[i:i + 1] for i in range(len(TAKEN)))))
    c.expect(TAKEN)


ENDS = (b"ab\r\n.\r\n", b".\r\n", b"..\r\n.\r\n", b"\r\n\r\n.\r\n")


def try_cuts(t, b, c, u, stream, cuts):
    """The same cuts as records of their own, in one segment and each in its own."""
    for apart in (False, True):
        t.round("%r cut at %r, %s" % (stream, cuts, "apart" if apart else "together"))
        data_open(c, u)
        if apart:
            c.send_split(stream, *cuts)
        else:
            at = [0] + list(cuts) + [len(stream)]
            c.wire(c.records(*(stream[x:y] for x, y in zip(at, at[1:]))))
        u.expect(stream).send(TAKEN + b"250 ok\r\n")
        c.expect(TAKEN + b"250 ok\r\n")


@test(quick=True)
def every_record_boundary_around_the_end(t):
    b = bed(t, BOTH)
    c, u = b.connect()
    stream = ENDS[0] + b"NOOP\r\n"
    for cut in range(1, len(stream)):
        try_cuts(t, b, c, u, stream, (cut,))


@cases({"%s,%d" % (v, i): (v, i) for v in VERSIONS for i in range(2)}, timeout=60)
def every_two_record_boundaries_around_the_end(t, case):
    version, half = case
    b = bed(t, BOTH, version)
    c, u = b.connect()
    for body in ENDS[half::2]:
        stream = body + b"NOOP\r\n"
        for cuts in itertools.combinations(range(1, len(stream)), 2):
            try_cuts(t, b, c, u, stream, cuts)


@cases({v: v for v in VERSIONS}, quick=True)
def a_record_cut_at_every_wire_octet(t, version):
    """Head, body and tag of a record in two reads: commands, an end of data, and the replies."""
    b = bed(t, BOTH, version)
    c, u = b.connect()
    stream, replies = ENDS[0] + b"NOOP\r\n", TAKEN + b"250 ok\r\n"
    data_open(c, u)
    wire = c.records(stream)
    for at in range(1, len(wire)):
        t.round("cut at wire octet %d of %d" % (at, len(wire)))
        c.wire_split(wire, at)
        u.expect(stream)
        answer = u.records(replies)
        u.wire_split(answer, at % (len(answer) - 1) + 1)
        c.expect(replies)
        data_open(c, u)
        wire = c.records(stream)
    c.wire(wire)
    u.expect(stream).send(replies)
    c.expect(replies)


@test(quick=True)
def records_of_the_largest_size(t):
    """2^14 octets and around; the last one holds the end of data."""
    b = bed(t, BOTH)
    c, u = b.connect()
    for n in (16383, 16384, 16385, 32768):
        body = b"x" * (n - 5) + b"\r\n.\r\n"
        data_open(c, u)
        c.send(body)
        t.equal(u.recv_exact(n), body, "body of %d octets" % n)
        u.send(TAKEN)
        c.expect(TAKEN)


# ---- key updates, renegotiation ----

@cases({"answer": True, "alone": False}, quick=True)
def key_updates_of_the_client_in_mid_body(t, answer):
    b = bed(t, BOTH, "1.3")
    c, u = b.connect()
    data_open(c, u)
    pieces = [b"piece %d\r\n" % i * (i % 40 + 1) for i in range(60)]
    for piece in pieces:
        c.wire(c.tls.key_update(answer) + c.records(piece))
    c.send(b".\r\n")
    u.expect(b"".join(pieces) + b".\r\n").send(TAKEN)
    c.expect(TAKEN)
    c.wire(c.tls.key_update(answer))
    message(c, u)


@cases({"answer": True, "alone": False}, quick=True)
def key_updates_of_the_upstream_in_mid_body(t, answer):
    b = bed(t, BOTH, "1.3")
    c, u = b.connect()
    data_open(c, u)
    body = b""
    for i in range(24):
        piece = b"piece %d\r\n" % i * 40
        body += piece
        u.wire(u.tls.key_update(answer))
        c.send(piece)
    c.send(b".\r\n")
    u.expect(body + b".\r\n")
    u.wire(u.tls.key_update(answer) + u.records(TAKEN))
    c.expect(TAKEN)
    message(c, u)


@test(quick=True)
def key_updates_while_megabytes_are_on_their_way(t):
    """The upstream asks for new keys in the middle of what it gets; the answer must not mix with the data."""
    b = bed(t, BOTH, "1.3")
    c, u = b.connect()
    body = noise(4 << 20) + b"\r\n.\r\n"
    data_open(c, u)
    c.send_async(body)
    got = b""
    while len(got) < len(body):
        got += u.recv_exact(min(200000, len(body) - len(got)))
        u.wire(u.tls.key_update())
    t.equal(hashlib.sha256(got).hexdigest(), hashlib.sha256(body).hexdigest(), "hash of what came")
    c.join_sender()
    u.send(TAKEN)
    c.expect(TAKEN)
    message(c, u)


@cases({"client": "client", "upstream": "upstream"}, quick=True)
def a_flood_of_key_updates(t, who):
    """Each has to be answered and brings nothing: there is an end of it."""
    b = bed(t, BOTH, "1.3")
    c, u = b.connect()
    conn = c if who == "client" else u
    wire = b"".join(conn.tls.key_update() for _ in range(2000))
    try:
        conn.sock.sendall(wire)
    except OSError:
        pass
    conn.cut_off()
    if who == "client":
        u.gone()
        rec = b.rp.record("session")
        t.check(rec.get("cause", "").startswith("tls-"), "record: %r" % rec)
        return
    c.send(MAIL)
    u = b.replayed()
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)


@test(quick=True)
def renegotiation_is_refused(t):
    """A second handshake inside TLS 1.2 ends the session; nothing of it becomes a command."""
    b = bed(t, BOTH, "1.2")
    c, u = b.connect()
    c.wire(c.tls.renegotiate())
    got = u.rest()
    t.check(got in (b"", b"QUIT\r\n"), "the upstream got %r" % got)
    c.rest()
    rec = b.rp.record("session")
    t.check(rec.get("cause", "").startswith("tls-"), "record: %r" % rec)


# ---- ends ----

def truncated(t, rp, count):
    t.equal(rp.stop_now()["tls_truncated"], count, "tls_truncated")


BREAKS = {"close_notify": "half_close", "truncation": "truncate", "reset": "reset"}
PLACES = {"data": (b"DATA\r\n", b"354 go\r\n", PART), "bdat": (b"BDAT 1000\r\n", b"", PART),
          "inside-the-end": (b"DATA\r\n", b"354 go\r\n", PART + b".\r")}


@cases({v: v for v in VERSIONS}, quick=True)
def client_gone_in_mid_body(t, version):
    """However it goes: no end of the message is made of it."""
    b = bed(t, BOTH, version)
    for n, (place, how) in enumerate(itertools.product(PLACES, BREAKS)):
        t.round("%s, %s" % (place, how))
        c, u = b.connect()
        envelope(c, u)
        command, reply, part = PLACES[place]
        if reply:
            step(c, u, command, reply)
            c.send(part)
            u.expect(PART[:-2])
        else:
            c.send(command + part)
            u.expect(command + PART[:-2])
        getattr(c, BREAKS[how])()
        got = u.rest()
        t.check((PART[-2:] + part[len(PART):]).startswith(got), "after the client was gone the upstream got %r" % got)
        no_end_seen(u, PART[:-2] + got)
        c.close()
        u.close()
        t.equal(b.rp.record("transaction", n + 1)["result"], "aborted", "record")
        rec = b.rp.record("session", n + 1)
        t.equal(rec.get("cause") == "tls-truncated", how == "truncation", "cause tls-truncated, in %r" % rec)
    b.rp.no_record("in-doubt")
    truncated(t, b.rp, len(PLACES))


@cases(BREAKS, quick=True)
def client_gone_between_messages(t, how):
    b = bed(t, BOTH)
    c, u = b.connect()
    message(c, u)
    getattr(c, how)()
    u.gone()
    rec = b.rp.record("session")
    t.equal((rec["messages"], rec.get("cause") == "tls-truncated"), (1, how == "truncate"), "record: %r" % rec)
    c.close()
    truncated(t, b.rp, how == "truncate")


@cases(BREAKS, quick=True)
def client_gone_inside_a_record(t, how):
    """Half a record says nothing, not even the octets that came."""
    b = bed(t, BOTH)
    c, u = b.connect()
    data_open(c, u)
    c.send(PART)
    u.expect(PART[:-2])
    wire = c.records(b"more\r\n.\r\n")
    c.wire(wire[:-1])
    c.settle()
    if how == "half_close":
        c.truncate()
    else:
        getattr(c, how)()
    got = u.rest()
    t.check(got in (b"", b"\r\n"), "the upstream got %r" % got)
    t.equal(b.rp.record("transaction")["result"], "aborted", "record")


@cases({"close_notify": "half_close", "truncation": "truncate"}, quick=True)
def client_ends_behind_the_dot(t, how):
    """The reply is still due, and the outcome is in the log."""
    b = bed(t, BOTH)
    c, u = b.connect()
    data_open(c, u)
    c.send(BODY)
    getattr(c, how)()
    u.expect(BODY).quiet(0.1)
    u.send(TAKEN)
    t.check(b.rp.record("transaction")["result"] in ("accepted", "client-gone"), "record")
    t.check(c.rest() in (TAKEN, b""), "the reply")
    u.gone()


@cases(SOME, quick=True)
def half_close_behind_quit(t, way):
    b = bed(t, way)
    c, u = b.connect()
    c.send(b"NOOP\r\nQUIT\r\n").half_close()
    u.expect(b"NOOP\r\nQUIT\r\n").send(b"250 ok\r\n" + BYE)
    c.expect(b"250 ok\r\n" + BYE).ended()
    u.close()


@test(quick=True)
def data_behind_close_notify_is_none(t):
    """What comes behind the word that it ends is nobody's."""
    b = bed(t, BOTH)
    c, u = b.connect()
    wire = c.records(b"NOOP\r\n")
    c.close_notify()
    try:
        c.sock.sendall(wire)
    except OSError:
        pass
    t.check(u.rest() in (b"", b"QUIT\r\n"), "what the upstream got")
    c.ignore_rest = True


@cases({"%s,%s" % (how, v): (how, v) for how, v in itertools.product(BREAKS, VERSIONS)}, quick=True)
def upstream_gone_in_mid_body(t, case):
    how, version = case
    b = bed(t, BOTH, version)
    c, u = b.connect()
    data_open(c, u)
    c.send(PART)
    u.expect(PART[:-2])
    u.half_close() if how == "close_notify" else None
    u.reset() if how == "reset" else u.shut()
    c.quiet(0.05)
    c.send(b"more of it\r\n")
    c.quiet(0.05)
    c.send(b".\r\n")
    c.reply(b"451 4.4.2")
    b.rp.no_record("in-doubt")
    c.send(MAIL)
    u = b.replayed()
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)


@cases(BREAKS, quick=True)
def upstream_gone_at_the_dot(t, how):
    b = bed(t, BOTH)
    c, u = b.connect()
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY)
    getattr(u, how)()
    u.shut()
    c.reply(b"451 4.4.2")
    b.rp.record("in-doubt")


@cases({"half_close": "half_close", "truncate": "truncate"}, quick=True)
def upstream_truncates_its_final_reply(t, how):
    """Half a reply is none; nor is one in half a record."""
    for cut in ("in-the-text", "in-the-record"):
        t.round(cut)
        b = bed(t, BOTH)
        c, u = b.connect()
        data_open(c, u)
        c.send(BODY)
        u.expect(BODY)
        if cut == "in-the-text":
            u.send(b"250-2.0.0 nearly\r\n250 2.0")
        else:
            u.wire(u.records(TAKEN)[:-1])
        u.truncate() if how == "truncate" or cut == "in-the-record" else u.half_close()
        u.shut()
        c.reply(b"451 4.4.2")
        b.rp.record("in-doubt")
        c.close()


@test(quick=True)
def a_whole_reply_before_a_truncation_counts(t):
    b = bed(t, BOTH)
    c, u = b.connect()
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY).send(TAKEN).settle()
    u.shut()
    c.expect(TAKEN)
    b.rp.record("transaction", result="accepted")
    b.rp.no_record("in-doubt")


@cases(BREAKS, quick=True)
def upstream_gone_while_idle(t, how):
    """The next command gets a new link: greeting, STARTTLS, TLS, and the EHLO that it compares."""
    b = bed(t, BOTH)
    c, u = b.connect()
    message(c, u)
    getattr(u, how)()
    u.shut()
    c.quiet(0.05)
    c.send(MAIL)
    u = b.replayed()
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    step(c, u, RCPT, OK_RCPT)


# ---- records that are none ----

def broken(wire):
    """Its last octet changed: of the tag."""
    return wire[:-1] + bytes([wire[-1] ^ 1])


BAD_RECORDS = {
    "changed": lambda c: broken(c.records(b"more\r\n.\r\n")),
    "twice": lambda c: (lambda w: w + w)(c.records(b"more\r\n")),
    "oversize": lambda c: record(23, b"x" * 20000),
    "no-type": lambda c: record(99, b"x" * 50),
    "clear-data": lambda c: record(23, b"\r\n.\r\n"),
    "clear-octets": lambda c: b"\r\n.\r\nQUIT\r\n",
    "short": lambda c: record(23, b""),
    "alert-in-clear": lambda c: record(21, b"\2\50"),
    "hello-in-clear": lambda c: record(22, b"\1\0\0\0"),
}


@cases({v: v for v in VERSIONS}, quick=True)
def a_bad_record_in_mid_body(t, version):
    """The session is over; what was in it is no part of the message, and no end."""
    b = bed(t, BOTH, version)
    for n, (bad, octets) in enumerate(BAD_RECORDS.items()):
        t.round(bad)
        c, u = b.connect()
        data_open(c, u)
        c.send(PART)
        u.expect(PART[:-2])
        c.wire(octets(c))
        got = u.rest()
        t.check(got in (b"", b"\r\n") or bad == "twice" and b"\r\nmore\r\n".startswith(got), "the upstream got %r" % got)
        t.equal(c.rest(), b"", "what the client got")
        c.close()
        u.close()
        t.equal(b.rp.record("transaction", n + 1)["result"], "aborted", "record")
        rec = b.rp.record("session", n + 1)
        t.check(rec.get("cause", "").startswith("tls-"), "record: %r" % rec)


@cases({v: v for v in VERSIONS}, quick=True)
def a_bad_record_of_the_upstream(t, version):
    """Where the final reply is due: nobody knows, so 451."""
    b = bed(t, BOTH, version)
    for n, (bad, octets) in enumerate(BAD_RECORDS.items()):
        t.round(bad)
        c, u = b.connect()
        data_open(c, u)
        c.send(BODY)
        u.expect(BODY)
        u.wire(broken(u.records(TAKEN)) if bad == "changed" else octets(u))
        c.reply(b"451 4.4.2")
        u.gone()
        b.rp.record("in-doubt", n + 1)
        c.close()
        u.close()


@test(quick=True)
def an_alert_of_the_client_in_mid_body(t):
    """It could not read what we sent: its alert comes sealed."""
    b = bed(t, BOTH)
    c, u = b.connect()
    data_open(c, u)
    c.send(PART)
    u.expect(PART[:-2])
    c.tls.feed(record(23, b"x" * 40))
    t.check(c.tls.error is not None, "our own library takes anything")
    c.wire(c.tls.take())
    got = u.rest()
    t.check(got in (b"", b"\r\n"), "the upstream got %r" % got)
    rec = b.rp.record("session")
    t.check(rec.get("cause", "").startswith("tls-"), "record: %r" % rec)


# ---- slow peers ----

def grown(t, rp, before, kib=3072):
    if t.mode == "release":
        t.check(rp.rss_anon() - before < kib, "RssAnon grew from %d to %d KiB" % (before, rp.rss_anon()))


@cases({name: WAYS[name] for name in ("starttls-starttls", "plain-implicit", "implicit-plain")}, quick=True, timeout=60)
def back_pressure_a_slow_upstream(t, way):
    """The client is stopped, not stored."""
    b = bed(t, way, rcvbuf=8192)
    c, u = b.connect()
    c.loud = u.loud = False
    by_data(t, c, u, noise(4 << 20))
    c.join_sender()
    before = b.rp.rss_anon()
    data_open(c, u)
    body = b"".join(b"%014d\r\n" % i for i in range(1 << 19)) + b".\r\n"
    c.send_async(body)
    time.sleep(0.5)
    grown(t, b.rp, before)
    t.equal(u.recv_exact(len(body), 30 * t.slow), body, "the body")
    u.send(TAKEN)
    c.expect(TAKEN)


@cases({name: WAYS[name] for name in ("starttls-starttls", "plain-implicit", "implicit-plain")}, quick=True, timeout=60)
def back_pressure_a_slow_client(t, way):
    """It asks and asks and does not read: neither side's octets are stored."""
    client, upstream = way
    text = b"250-" + b"x" * 900 + b"\r\n"
    big = text * 3 + b"250 end\r\n"
    srv = t.auto(tls=server_context(t) if upstream != "plain" else None, implicit=upstream == "implicit",
                 on_command=lambda p, line: big if line == b"HELP" else None)
    conf = tls_conf(t, client, upstream)
    conf["listener"]["limits"] = {"junk": 100000}
    rp = t.ringpost(srv, **conf)
    c = rp.client(rcvbuf=8192)
    enter(c, client_context(t), client)
    c.loud = False
    for n, count in enumerate((500, 4000)):
        before = rp.rss_anon()
        c.send_async(b"HELP\r\n" * count)
        if n:
            time.sleep(0.5)
            grown(t, rp, before)
        t.equal(c.recv_exact(len(big) * count, 30 * t.slow), big * count, "all replies")
        c.join_sender()


# ---- many at once ----

@cases({"starttls": "starttls", "implicit": "implicit"}, timeout=60)
def crowd_through_both_legs(t, how):
    """Forty clients at once on two workers: each message once, under its own envelope."""
    servers = [t.auto(tls=server_context(t), implicit=how == "implicit") for _ in range(2)]
    conf = tls_conf(t, how, how)
    conf["listener"]["limits"] = OPEN
    rp = t.ringpost(*servers, workers=2, **conf)
    crowd = Crowd(t, rp.address, 40, fill=noise(20000), tls=client_context(t), implicit=how == "implicit")
    crowd.start()
    crowd.run(2.0)
    crowd.finish(10 * t.slow)
    ledger(t, crowd, servers)
    t.check(len(crowd.acked) > 40 and not crowd.tls_errors, "%d taken, errors %r" % (len(crowd.acked), crowd.tls_errors[:3]))
    t.equal([s.behind_starttls for s in servers], [[], []], "octets in clear where TLS was to begin")


@cases({"starttls": "starttls", "implicit": "implicit"}, timeout=60)
def crowd_while_upstreams_die(t, how):
    """Links break at any moment: nothing is acknowledged that no server has."""
    servers = [t.auto(tls=server_context(t), implicit=how == "implicit") for _ in range(2)]
    conf = tls_conf(t, how, how)
    conf["listener"]["limits"] = OPEN
    conf["up"]["retry-down"] = "100ms"
    rp = t.ringpost(*servers, workers=2, **conf)
    crowd = Crowd(t, rp.address, 30, fill=noise(20000), tls=client_context(t), implicit=how == "implicit")
    crowd.start()
    for n in range(4):
        crowd.run(0.4)
        servers[n % 2].stop(reset=n > 1)
        crowd.run(0.2)
        servers[n % 2].start()
    crowd.run(0.4)
    crowd.finish(10 * t.slow)
    ledger(t, crowd, servers, in_doubt=len(rp.records("in-doubt")))
    t.check(len(crowd.acked) > 10, "%d taken" % len(crowd.acked))
