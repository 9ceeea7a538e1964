# SPDX-License-Identifier: GPL-3.0-or-later
"""Log records: one line per event whatever a peer says, joined by their ids."""
import json

from lib.core import test
from lib.smtp import (BODY, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, envelope, message, opened, pair, quit_, step)


@test(quick=True)
def transaction_fields(t):
    rp, up, c, u = pair(t)
    message(c, u)
    quit_(c, u)
    r = rp.record("transaction")
    for key in ("sid", "tid", "listener", "upstream", "server", "client", "helo", "from", "to", "rcpts", "rcpts_refused", "bytes",
                "body", "result", "stage", "code", "enhanced", "text", "by", "ms_total"):
        t.check(key in r, "the field %s is missing in %r" % (key, r))
    t.equal((r["listener"], r["upstream"], r["server"], r["helo"]), ("in", "mta", up.address, "client.test"), "names")
    t.equal((len(r["sid"]), len(r["tid"])), (16, 16), "ids have 16 digits")
    t.check(r["client"].startswith("127.0.0.1"), "client %r" % r["client"])
    t.equal(r["text"], "queued as 4711", "text")


@test(quick=True)
def session_fields(t):
    rp, up, c, u = pair(t)
    message(c, u)
    quit_(c, u)
    s = rp.record("session")
    for key in ("sid", "listener", "upstream", "client", "helo", "messages", "commands", "errors", "bytes_in", "bytes_out", "reason", "ms"):
        t.check(key in s, "the field %s is missing in %r" % (key, s))
    t.equal((s["messages"], s["commands"], s["errors"], s["reason"]), (1, 5, 0, "quit"), "numbers")


@test(quick=True)
def one_record_each(t):
    """However a session ends: one session record, one record per transaction."""
    up = t.upstream()
    rp = t.ringpost(up)
    for how in ("close", "reset", "quit"):
        c, u = opened(t, rp, up)
        message(c, u)
        data_open(c, u)
        c.send(b"part\r\n")
        u.expect(b"part")
        if how == "quit":
            c.send(b".\r\n")
            u.expect(b"\r\n.\r\n").send(b"550 no\r\n")
            c.expect(b"550 no\r\n")
            quit_(c, u)
        else:
            getattr(c, how)()
            u.rest()
        c.close()
        u.close()
    rp.record("session", 3)
    rp.record("transaction", 6)
    rp.stop_now()
    t.equal((len(rp.records("session")), len(rp.records("transaction"))), (3, 6), "records")
    sids = {r["sid"] for r in rp.records("session")}
    t.equal(len(sids), 3, "session ids")
    t.equal(len({r["tid"] for r in rp.records("transaction")}), 6, "transaction ids")
    t.equal({r["sid"] for r in rp.records("transaction")}, sids, "every transaction belongs to a session")


@test(quick=True)
def results_of_every_kind(t):
    rp, up, c, u = pair(t)
    step(c, u, MAIL, b"550 5.1.8 bad sender\r\n")
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, b"550 5.1.1 unknown\r\n")
    step(c, u, b"RSET\r\n", b"250 ok\r\n")
    envelope(c, u)
    step(c, u, b"DATA\r\n", b"451 4.3.0 later\r\n")
    step(c, u, b"RSET\r\n", b"250 ok\r\n")
    data_open(c, u)
    c.send(BODY)
    u.expect(BODY).send(b"554 5.6.0 bad\r\n")
    c.expect(b"554 5.6.0 bad\r\n")
    c.close()
    u.gone()
    rp.record("session")
    recs = rp.records("transaction")
    t.equal([(r["result"], r["stage"], r.get("code")) for r in recs][-1], ("rejected", "final", 554), "the last")
    t.check(all(r["result"] in ("rejected", "aborted") for r in recs), "results: %r" % [r["result"] for r in recs])


NASTY = [b"a\"b\\c", b"\xc3\xa4\xe2\x82\xac", b"\xff\xfe\x80", b"\xe2\x80\xaeright-to-left", b"\xe2\x80\xa8line", b"tab\there",
         b"{\"ev\":\"stop\"}", b"%s%n%x", b"\xc2\x9b31m"]


@test(quick=True)
def what_peers_say_cannot_break_a_line(t):
    up = t.upstream()
    rp = t.ringpost(up)
    for text in NASTY:
        t.round(text)
        c = rp.client()
        u = up.accept()
        u.send(b"220 x\r\n")
        c.expect(b"220 x\r\n")
        step(c, u, b"HELO " + text.replace(b"\t", b"") + b"\r\n", b"250 ok\r\n")
        step(c, u, b"MAIL FROM:<\"" + text.replace(b"\"", b"").replace(b"\\", b"").replace(b"\t", b"") + b"\"@x.test> SMTPUTF8\r\n", OK_MAIL)
        step(c, u, RCPT, OK_RCPT)
        step(c, u, b"DATA\r\n", GO)
        c.send(b".\r\n")
        u.expect(b".\r\n").send(b"550 5.7.1 " + text + b"\r\n")
        c.expect(b"550 5.7.1 " + text + b"\r\n")
        c.close()
        u.gone()
        u.close()
    rp.record("session", len(NASTY))
    raw = rp.raw_log()
    for line in raw.splitlines():
        json.loads(line)
    for bad in (b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\x9b", b"\xff"):
        t.check(bad not in raw.replace(b"\xc2\x9b", b"") if bad != b"\x9b" else b"\xc2\x9b" not in raw, "%r is in the log unescaped" % bad)
    t.equal(len(raw.splitlines()), len(rp.records()), "lines and records")


@test(quick=True)
def long_values_are_cut(t):
    rp, up, c, u = pair(t)
    long = b"x" * 600 + b"@y.test"
    step(c, u, b"MAIL FROM:<" + long + b">\r\n", OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    c.send(b".\r\n")
    u.expect(b".\r\n").send(TAKEN)
    c.expect(TAKEN)
    r = rp.record("transaction")
    t.check(200 <= len(r["from"]) <= 260, "length %d" % len(r["from"]))


@test(quick=True)
def logfmt(t):
    up = t.upstream()
    rp = t.ringpost(up, conf={"log": {"format": "logfmt", "to": "file:" + t.path("lf.log")}}, cold=True)
    rp.log_path = t.path("lf.log")
    rp.records = lambda ev=None, **m: [parse_logfmt(x) for x in rp.raw_log().split(b"\n")[:-1]
                                       if ev is None or parse_logfmt(x).get("ev") == ev]
    rp.check_stop_record = lambda: None
    rp.start()
    c, u = opened(t, rp, up)
    step(c, u, b"MAIL FROM:<\"a b=c\"@x.test>\r\n", OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    c.send(BODY)
    u.expect(BODY).send(TAKEN)
    c.expect(TAKEN)
    r = t.until(lambda: rp.records("transaction"), "the record")[0]
    t.equal((r["result"], r["to"], r["from"]), ("accepted", "b@y.test", "\"a b=c\"@x.test"), "fields")


def parse_logfmt(line):
    out, i, s = {}, 0, line.decode()
    while i < len(s):
        eq = s.index("=", i)
        key = s[i:eq]
        i = eq + 1
        if i < len(s) and s[i] == '"':
            j = i + 1
            while s[j] != '"':
                j += 2 if s[j] == "\\" else 1
            value = json.loads(s[i:j + 1])
            i = j + 2
        else:
            j = s.find(" ", i)
            j = len(s) if j < 0 else j
            value = s[i:j]
            i = j + 1
        out[key] = value
    return out
