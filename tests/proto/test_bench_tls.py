# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost-blast and ringpost-sink with TLS: against each other, against OpenSSL (Python's), against who breaks the rules. No
ringpost is between them."""
import os
import smtplib
import socket

from lib import tls
from lib.autoserver import AutoServer
from lib.core import cases, test
from lib.tools import Blast, Sink, Tool

HOW = {"starttls": "--starttls", "implicit": "--tls"}
VERSIONS = ("1.2", "1.3")
WAYS = {"lock-step": (), "pipelining": ("--pipelining",), "chunks": ("--bdat", "--chunk", "20000", "--pipelining")}


def pair(t, name="ecdsa"):
    return "--tls-cert", tls.pem(t, name), "--tls-key", os.path.join(t.certs(), name + ".key")


def trust(t):
    return "--tls-ca", tls.pem(t, "ca"), "--tls-name", tls.NAME


def kinds(report):
    return [(k["outcome"], k["stage"], k["why"], k["code"]) for k in report["kinds"]]


def client(sink):
    """A socket, and a reader of its lines."""
    host, port = sink.address.split(":")
    sock = socket.create_connection((host, int(port)), 20)
    return sock, sock.makefile("rb")


def reply(lines):
    """A whole reply."""
    said = [lines.readline()]
    while said[-1][3:4] == b"-":
        said.append(lines.readline())
    return b"".join(said)


# ---- with each other ----

@cases({"%s-%s-%s" % (how, version, way): (HOW[how], version, WAYS[way]) for how in HOW for version in VERSIONS for way in WAYS},
       quick=True)
def every_way(t, asked):
    """What was accepted has arrived, whole, and each connection was a handshake."""
    how, version, way = asked
    sink = Sink(t, "--hash", how, *pair(t))
    got = Blast(t, sink, how, *trust(t), "--tls-version", version, "--connections", 5, "--messages", 60, "--per-connection", 7,
                "--size", 70000, "--hash", *way).report()
    stats = sink.stats()
    t.equal((got["accepted"], stats["hash_ok"], stats["errors"], stats["early_input"]), (60, 60, 0, 0), "messages")
    t.equal((got["tls"]["handshakes"], got["tls"]["resumed"], got["tls"]["version"]), (got["connected"], 0, "TLSv" + version), "report")
    t.check("AES_128_GCM" in got["tls"]["cipher"], "cipher: " + got["tls"]["cipher"])
    t.equal(got["tls"]["handshake_us"]["count"], got["connected"], "times of handshakes")
    t.equal([stats["tls_" + k] for k in ("handshakes", "resumed", "failed", "truncated")], [got["connected"], 0, 0, 0], "in the sink")


@cases(HOW, quick=True)
def resumed(t, how):
    """All but the first, if that is asked for."""
    for resume in (True, False):
        sink = Sink(t, how, *pair(t))
        got = Blast(t, sink, how, *trust(t), "--tls-version", "1.3", "--messages", 20, "--per-connection", 1,
                    *(("--resume",) if resume else ())).report()
        t.equal((got["accepted"], got["tls"]["handshakes"], got["tls"]["resumed"]), (20, 20, 19 if resume else 0), "report")
        t.equal(sink.stats()["tls_resumed"], 19 if resume else 0, "in the sink")


@cases(HOW, quick=True)
def idle_sessions(t, how):
    sink = Sink(t, how, *pair(t))
    blast = Blast(t, sink, how, "--tls-insecure", "--idle", 30, "--duration", 0.2, "--marks")
    blast.mark("measuring")
    blast.mark("measured")
    got = blast.report()
    t.equal((got["connected"], got["idle_lost"], got["tls"]["handshakes"]), (30, 0, 30), "connected, lost, handshakes")
    stats = sink.stats()
    t.equal((stats["tls_handshakes"], stats["tls_truncated"]), (30, 0), "in the sink")


@cases(HOW, quick=True)
def slow_ones(t, how):
    sink = Sink(t, "--hash", how, *pair(t))
    got = Blast(t, sink, how, "--tls-insecure", "--connections", 2, "--slow", 1, "--slow-rate", 4000, "--size", 500, "--hash",
                "--duration", 3).report()
    t.check(got["slow"]["accepted"] >= 1, "no slow message was accepted")
    t.equal(sink.stats()["messages"], got["accepted"] + got["slow"]["accepted"], "in the sink")


# ---- certificates ----

REFUSED = {"other-name": "tls-name", "expired": "tls-expired", "unknown-ca": "tls-unknown-ca"}


@cases({name: (name, why) for name, why in REFUSED.items()}, quick=True)
def certificate_refused(t, what):
    """No octet of mail leaves; with --tls-insecure it is taken."""
    name, why = what
    sink = Sink(t, "--starttls", *pair(t, name))
    got = Blast(t, sink, "--starttls", *trust(t), "--messages", 1).report(status=1)
    t.equal(kinds(got), [("failed", "handshake", why, 0)], "kinds")
    t.equal(Blast(t, sink, "--starttls", "--tls-insecure", "--messages", 1).report()["accepted"], 1, "accepted")
    stats = sink.stats()
    t.equal((stats["messages"], stats["tls_handshakes"]), (1, 1), "in the sink: messages, handshakes")


# ---- blast and other servers ----

@cases({"%s-%s" % (how, version): (how, version) for how in HOW for version in VERSIONS}, quick=True)
def blast_and_openssl(t, asked):
    how, version = asked
    auto = AutoServer(t, tls=tls.server_context(t, low=version, high=version), implicit=how == "implicit")
    got = Blast(t, auto.address, HOW[how], *trust(t), "--connections", 3, "--messages", 30, "--per-connection", 2, "--size",
                40000).report()
    t.equal((got["accepted"], len(auto.messages), got["tls"]["version"]), (30, 30, "TLSv" + version), "accepted, taken, version")
    t.equal((auto.failed_handshakes, auto.behind_starttls), ([], []), "what the server saw")


@test(quick=True)
def only_the_version_asked_for(t):
    auto = AutoServer(t, tls=tls.server_context(t, low="1.3", high="1.3"))
    got = Blast(t, auto.address, "--starttls", *trust(t), "--tls-version", "1.2").report(status=1)
    t.equal(kinds(got), [("failed", "handshake", "tls-version", 0)], "kinds")


def up_to_starttls(t, answer):
    """A server's side up to its answer to STARTTLS; the blast, and the connection."""
    up = t.upstream()
    blast = Blast(t, up.address, "--starttls", "--tls-insecure")
    c = up.accept()
    c.send(b"220 hello\r\n").expect(b"EHLO blast.example\r\n")
    c.send(b"250-hello\r\n250 STARTTLS\r\n").expect(b"STARTTLS\r\n")
    return blast, c.send(answer)


@cases({"more-behind-it": (b"220 go\r\n250 injected\r\n", b"", ("failed", "handshake", "octets behind the reply to STARTTLS", 0)),
        "refused": (b"454 4.7.0 not now\r\n", b"", ("rejected", "starttls", "reply", 454)),
        "words-in-clear": (b"220 go\r\n", b"250 these are words\r\n", ("failed", "handshake", "tls-not-tls", 0))}, quick=True)
def answers_to_starttls(t, case):
    answer, words, kind = case
    blast, c = up_to_starttls(t, answer)
    if words:
        head = c.recv_exact(5)
        t.equal(head[:2], b"\x16\x03", "a handshake begins")
        c.recv_exact(int.from_bytes(head[3:], "big"))
        c.send(words)
    t.equal(kinds(blast.report(status=1)), [kind], "kinds")


@test(quick=True)
def starttls_that_is_not_offered(t):
    """Nothing is sent in clear."""
    auto = AutoServer(t)
    said = []
    auto.on_command = lambda peer, line: said.append(line.split()[0].upper())
    got = Blast(t, auto.address, "--starttls", "--tls-insecure").report(status=1)
    t.equal(kinds(got), [("failed", "ehlo", "STARTTLS is not offered", 0)], "kinds")
    t.equal(said, [b"EHLO"], "commands")


# ---- the sink and other clients ----

@cases(HOW, quick=True)
def sink_and_openssl(t, how):
    """STARTTLS is shown until it was used."""
    sink = Sink(t, "--auth", how, *pair(t))
    host, port = sink.address.split(":")
    if how == "--tls":
        c = smtplib.SMTP_SSL(host, int(port), "client.example", timeout=20, context=tls.client_context(t))
    else:
        c = smtplib.SMTP(host, int(port), "client.example", timeout=20)
        c.ehlo()
        t.check(c.has_extn("starttls") and c.has_extn("auth"), "before: %s" % c.esmtp_features)
        t.equal(c.starttls(context=tls.client_context(t))[0], 220, "STARTTLS")
        t.equal(c.docmd("MAIL", "FROM:<a@b.example>")[0], 503, "MAIL before another EHLO")
    c.ehlo()
    t.check(not c.has_extn("starttls") and c.has_extn("auth"), "after: %s" % c.esmtp_features)
    t.equal(c.docmd("STARTTLS")[0], 502 if how == "--tls" else 503, "STARTTLS in TLS")
    t.equal(c.sendmail("a@b.example", ["c@d.example"], b"x: y\r\n\r\n" + b"z" * 50000), {}, "refused recipients")
    c.quit()
    stats = sink.stats()
    t.equal((stats["messages"], stats["tls_handshakes"], stats["tls_failed"]), (1, 1, 0), "in the sink")


@test(quick=True)
def nothing_may_follow_starttls(t):
    sink = Sink(t, "--starttls", *pair(t))
    for what in (b"STARTTLS\r\nMAIL FROM:<a@b.example>\r\n", b"STARTTLS\r\n\x16\x03\x01"):
        sock, lines = client(sink)
        t.equal(reply(lines)[:3], b"220", "greeting")
        sock.sendall(b"EHLO c.example\r\n")
        t.check(b"STARTTLS" in reply(lines), "it is offered")
        sock.sendall(what)
        t.equal((reply(lines)[:3], lines.read()), (b"501", b""), "answer, and the rest")
        sock.close()
    stats = sink.stats()
    t.equal((stats["early_input"], stats["tls_handshakes"]), (2, 0), "in the sink")


@test(quick=True)
def words_where_a_handshake_is_due(t):
    sink = Sink(t, "--starttls", *pair(t))
    sock, lines = client(sink)
    reply(lines)
    sock.sendall(b"EHLO c.example\r\n")
    reply(lines)
    sock.sendall(b"STARTTLS\r\n")
    t.equal(reply(lines)[:3], b"220", "STARTTLS")
    sock.sendall(b"EHLO c.example\r\n")
    said = lines.read()
    t.check(b"250" not in said, "words were answered: %r" % said)
    sock.close()
    t.equal(sink.stats()["tls_failed"], 1, "failed handshakes")


@test(quick=True)
def starttls_as_ordered(t):
    """It is a point like the others: late, or refused, and then mail is taken in clear."""
    sink = Sink(t, "--delay-starttls", "50", "--starttls", *pair(t))
    t.equal(Blast(t, sink, "--starttls", "--tls-insecure", "--messages", 3).report()["accepted"], 3, "accepted late")
    sink = Sink(t, "--reply", "starttls=454 4.7.0 not now", "--starttls", *pair(t))
    t.equal(kinds(Blast(t, sink, "--starttls", "--tls-insecure").report(status=1)), [("rejected", "starttls", "reply", 454)], "kinds")
    sock, lines = client(sink)
    reply(lines)
    for line, code in ((b"EHLO c.example", b"250"), (b"STARTTLS", b"454"), (b"STARTTLS now", b"501"), (b"MAIL FROM:<a@b.example>", b"250")):
        sock.sendall(line + b"\r\n")
        t.equal(reply(lines)[:3], code, line.decode())
    sock.close()


# ---- options ----

@cases({"both": ("--tls", "--starttls"), "resume": ("--resume",), "insecure": ("--tls-insecure",), "ca": ("--tls-ca", "x"),
        "ca-and-insecure": ("--tls", "--tls-ca", "x", "--tls-insecure"), "version": ("--tls", "--tls-version", "1.1")}, quick=True)
def usage_of_blast(t, options):
    blast = Blast(t, "127.0.0.1:1", *options)
    t.equal((blast.end(), blast.lines, blast.complaint().count("\n")), (64, [], 1), "status, output, complaints")


@cases({"both": ("--tls", "--starttls", "--tls-cert", "x", "--tls-key", "y"), "no-files": ("--tls",),
        "no-key": ("--starttls", "--tls-cert", "x"), "files-alone": ("--tls-cert", "x", "--tls-key", "y")}, quick=True)
def usage_of_sink(t, options):
    sink = Tool(t, "ringpost-sink", ("--listen", "127.0.0.1:0", *options))
    t.equal((sink.end(), sink.lines, sink.complaint().count("\n")), (64, [], 1), "status, output, complaints")


@test(quick=True)
def files_that_are_none(t):
    """Status 69, and the file is named."""
    for tool in (Blast(t, "127.0.0.1:1", "--tls", "--tls-ca", "/nonexistent/ca.pem"),
                 Tool(t, "ringpost-sink", ("--listen", "127.0.0.1:0", "--tls", "--tls-cert", "/nonexistent/c.pem", "--tls-key", "k"))):
        t.equal(tool.end(), 69, "status")
        t.check("/nonexistent/c" in tool.complaint(), "complaint: %s" % tool.complaint())
