# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost-blast: against ringpost-sink where numbers are to agree, against a scripted server where the order of things
matters, against lib/autoserver where connections are looked at. No ringpost is between them."""
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import time

from lib.autoserver import AutoServer
from lib.core import cases, test
from lib.tools import Blast, Sink

WAYS = {"lock-step": (), "pipelining": ("--pipelining",), "bdat": ("--bdat",), "chunks": ("--bdat", "--chunk", "1000"),
        "pipelined-chunks": ("--bdat", "--chunk", "1000", "--pipelining")}


def greet(c):
    c.send(b"220 hello\r\n")
    c.expect(b"EHLO blast.example\r\n")
    c.send(b"250 hello\r\n")


def until_dot(c):
    """One message in lock-step, up to its dot."""
    for want, reply in ((rb"MAIL FROM:<[^>]*>", b"250 ok\r\n"), (rb"RCPT TO:<[^>]*>", b"250 ok\r\n"), (rb"DATA", b"354 go\r\n")):
        line = c.line()
        if not re.match(want, line):
            c.t.fail("%r instead of %r" % (line, want))
        c.send(reply)
    while c.line().strip() != b".":
        pass


def taken_up_to_dot(up):
    """A client with its first message, which has no answer yet."""
    c = up.accept()
    greet(c)
    until_dot(c)
    return c


def bye(c):
    c.expect(b"QUIT\r\n")
    c.send(b"221 bye\r\n")
    c.close()


# ---- the same octets on every way ----

@cases(WAYS, quick=True)
def every_way(t, way):
    """What was accepted has arrived, whole."""
    sink = Sink(t, "--hash")
    got = Blast(t, sink, "--connections", 5, "--messages", 200, "--size", 5000, "--hash", *way).report()
    t.equal((got["sent"], got["accepted"], got["bytes"]), (200, 200, 200 * 5000), "sent, accepted, octets")
    stats = sink.stats()
    t.equal((stats["messages"], stats["hash_ok"], stats["errors"], stats["early_input"]), (200, 200, 0, 0), "in the sink")


@cases(WAYS, quick=True)
def every_way_with_sizes(t, way):
    """Sizes are those of the table, and those of the same seed."""
    with open(t.path("sizes"), "w") as f:
        f.write("# weight size\n5 1000\n3 20k\n\n1 300000\n")
    seen = []
    for seed in (7, 7, 8):
        sink = Sink(t, "--hash", "--print")
        got = Blast(t, sink, "--connections", 5, "--messages", 100, "--sizes", t.path("sizes"), "--seed", seed, "--hash",
                    "--from", "m%m@blast.example", *way).report()
        t.equal(sink.stats()["hash_ok"], 100, "whole messages")
        sizes = {m["from"]: m["bytes"] for m in sink.messages()}
        t.equal(sum(sizes.values()), got["bytes"], "octets in the report")
        t.equal(set(sizes.values()), {1000, 20 << 10, 300000}, "sizes")
        seen.append(sizes)
    t.equal(seen[0], seen[1], "the same seed")
    t.check(seen[0] != seen[2], "another seed made the same sizes")


def fills(c):
    """Waits until what comes stops coming: the other side has sent all it can."""
    before, waiting = -1, 0
    while waiting != before or waiting == 0:
        time.sleep(0.1)
        before, waiting = waiting, struct.unpack("i", fcntl.ioctl(c.sock, termios.FIONREAD, b"\0" * 4))[0]


@cases({"octets": (1, 60000), "copied": (4095, 800000), "not-copied": (4096, 800000)}, quick=True)
def many_chunks_at_once(t, how):
    """Chunks are sent ahead of a server that does not read, until the socket is full, and all arrive when it does."""
    chunk, size = how
    up = t.upstream(address="unix:" + t.path("up"))
    blast = Blast(t, up.address, "--bdat", "--chunk", chunk, "--pipelining", "--size", size)
    c = up.accept()
    c.send(b"220 hello\r\n")
    c.expect(b"EHLO blast.example\r\n")
    c.send(b"250-hello\r\n250-CHUNKING\r\n250 PIPELINING\r\n")
    fills(c)
    for verb in (b"MAIL", b"RCPT"):
        t.equal(c.line()[:4], verb, "command")
    c.send(b"250 ok\r\n250 ok\r\n")
    c.loud = False
    left = size
    while left:
        n = int(c.line().split()[1])
        c.recv_exact(n)
        left -= n
        c.send(b"250 ok\r\n")
    bye(c)
    t.equal(blast.report()["bytes"], size, "octets")


@test(quick=True)
def sizes_like_mail(t):
    sink = Sink(t, "--hash")
    got = Blast(t, sink, "--connections", 4, "--messages", 60, "--sizes", "real", "--hash").report()
    t.equal((got["accepted"], sink.stats()["hash_ok"]), (60, 60), "accepted, whole")
    t.equal(got["message_bytes"], 127844, "octets on average")


# ---- the measuring window ----

@cases({"closed": (), "open": ("--rate", 400), "new": ("--per-connection", 1)}, quick=True)
def window_by_time(t, how):
    """Marks come in order, what they say is what the report says, and every message is in one of three counts."""
    sink = Sink(t)
    blast = Blast(t, sink, "--connections", 4, "--size", 2000, "--warm-up", 0.3, "--duration", 0.5, "--marks", *how)
    blast.mark("measuring")
    mark = blast.mark("measured")
    got = blast.report()
    t.equal(len(blast.lines), 3, "lines")
    t.equal((mark["messages"], mark["bytes"], mark["seconds"]), (got["accepted"], got["bytes"], got["seconds"]), "mark and report")
    t.equal(mark["bytes"], 2000 * mark["messages"], "octets")
    t.check(mark["seconds"] >= 0.5, "the window was shorter than asked for")
    t.equal(got["latency_us"]["count"], got["accepted"], "latencies")
    parts = [got["warm_up"]["accepted"], got["accepted"], got["late"]["accepted"]]
    t.check(parts[0] > 0 and parts[1] > 0, "nothing in a phase: %s" % parts)
    t.check(got["late"]["sent"] <= 4 + got["backlog_max"], "begun behind the window: %d late" % got["late"]["sent"])
    t.equal(sum(parts), sink.stats()["messages"], "warm-up, measured and late in the sink: %s" % parts)


@test(quick=True)
def window_by_messages(t):
    """It closes long before its time; what ends in the same turn belongs to it."""
    sink = Sink(t)
    blast = Blast(t, sink, "--connections", 3, "--warm-up", "10ms", "--duration", 3600, "--messages", 50, "--marks")
    got = blast.report()
    t.check(50 <= got["accepted"] <= 52, "%d messages" % got["accepted"])
    t.equal(got["unsent"], 0, "never sent")


@test(quick=True)
def begun_before_ended_behind(t):
    """A message belongs to the phase in which it ends: begun in the warm-up, it is measured; begun in the window, it is
    late, and when it is refused then the status tells."""
    up = t.upstream()
    blast = Blast(t, up.address, "--warm-up", 0.3, "--messages", 1, "--marks")
    c = taken_up_to_dot(up)
    blast.mark("measuring")
    c.send(b"250 taken\r\n")
    until_dot(c)
    mark = blast.mark("measured")
    t.equal((mark["messages"], mark["bytes"]), (1, 4096), "in the mark")
    c.send(b"451 no more\r\n")
    bye(c)
    got = blast.report(status=1)
    t.equal((got["warm_up"]["sent"], got["sent"], got["accepted"], got["late"]["sent"]), (0, 1, 1, 1), "warm-up, sent, accepted, late")
    t.equal((got["rejected"], got["failed"], got["late_failed"]), (0, 0, 1), "rejected, failed, late_failed")
    t.equal([(k["stage"], k["code"]) for k in got["late"]["kinds"]], [("dot", 451)], "why")


@test(quick=True)
def late_but_well(t):
    """What is finished behind the window and taken is no failure, and the connection is given up in order."""
    up = t.upstream()
    blast = Blast(t, up.address, "--messages", 1, "--marks")
    blast.mark("measuring")
    c = taken_up_to_dot(up)
    c.send(b"250 taken\r\n")
    until_dot(c)
    blast.mark("measured")
    c.send(b"250 taken\r\n")
    bye(c)
    got = blast.report()
    t.equal((got["accepted"], got["late"]["accepted"], got["late_failed"]), (1, 1, 0), "accepted, late, late_failed")


@test(quick=True)
def a_signal_closes_the_window(t):
    """Whoever waits for the marks gets them; what was cut off counts as late and failed."""
    up = t.upstream()
    blast = Blast(t, up.address, "--duration", 3600, "--marks")
    blast.mark("measuring")
    c = taken_up_to_dot(up)
    blast.process.send_signal(signal.SIGTERM)
    t.equal(blast.mark("measured")["messages"], 0, "messages")
    t.equal(blast.report(status=1)["late_failed"], 1, "late_failed")
    c.close()


@test(quick=True)
def a_window_that_never_opens(t):
    up = t.upstream(listen=False)
    blast = Blast(t, up.address, "--connections", 2, "--warm-up", 3600, "--duration", 1, "--marks", "--give-up", 3, "--retry-pause", 0)
    got = blast.report(status=1)
    t.equal(len(blast.lines), 1, "lines")
    t.equal((got["sent"], got["warm_up"]["accepted"]), (0, 0), "sent, accepted in the warm-up")
    t.check(got["warm_up"]["failed"] >= 3, "failed: %d" % got["warm_up"]["failed"])


@test(quick=True)
def without_a_window_all_is_counted(t):
    """As it was before there was one."""
    sink = Sink(t)
    got = Blast(t, sink, "--connections", 4, "--duration", 0.3).report()
    t.equal(got["accepted"], sink.stats()["messages"], "messages")
    t.check("warm_up" not in got and "late_failed" not in got, "parts of a window")


# ---- connections that are different ----

@test(quick=True)
def slow_ones_are_counted_apart(t):
    """3000 octets take a second at least when 3000 leave in one, give or take a beat."""
    sink = Sink(t, "--hash")
    got = Blast(t, sink, "--connections", 3, "--slow", 2, "--slow-rate", 3000, "--size", 3000, "--hash", "--duration", 4,
                "--pipelining").report()
    t.check(got["slow"]["accepted"] >= 1, "no slow message was accepted")
    t.check(got["slow"]["latency_us"]["p50"] >= 900000, "too fast: %s" % got["slow"]["latency_us"])
    t.equal((got["connected"], got["slow"]["connected"]), (1, 2), "connections")
    t.equal(got["latency_us"]["count"], got["accepted"], "latencies of the others")
    stats = sink.stats()
    t.equal(stats["messages"], got["accepted"] + got["slow"]["accepted"], "in the sink")
    t.equal((stats["hash_bad"], stats["hash_none"], stats["errors"]), (0, 0, 0), "hash_bad, hash_none, errors")


@test(quick=True)
def slow_chunks(t):
    sink = Sink(t, "--hash")
    got = Blast(t, sink, "--connections", 2, "--slow", 1, "--slow-rate", 20000, "--size", 1500, "--bdat", "--chunk", 400,
                "--hash", "--duration", 3, "--per-connection", 2).report()
    stats = sink.stats()
    t.check(got["slow"]["accepted"] >= 1, "no slow message was accepted")
    t.equal((stats["messages"], stats["hash_bad"]), (got["accepted"] + got["slow"]["accepted"], 0), "in the sink")


@test(quick=True)
def a_slow_one_is_cut_off(t):
    """What it was at when the load is over is not a failure."""
    auto = AutoServer(t)
    got = Blast(t, auto.address, "--connections", 2, "--slow", 1, "--slow-rate", 5, "--messages", 5).report()
    t.equal((got["accepted"], got["slow"]["sent"], got["slow"]["connected"]), (5, 0, 1), "accepted, slow ones, connected")
    t.equal(len(auto.messages), 5, "messages")


@test(quick=True)
def idle_beside_load(t):
    """They are open before the first message and until the last."""
    auto = AutoServer(t)
    open_at_mail = []
    auto.on_command = lambda peer, line: open_at_mail.append(auto.connections) if line.upper().startswith(b"MAIL") else None
    blast = Blast(t, auto.address, "--connections", 2, "--idle-also", 20, "--messages", 10)
    got = blast.report()
    t.equal((got["accepted"], got["connected"] + got["idle"]["connected"], got["idle"]["idle_lost"]), (10, auto.connections, 0),
            "accepted, connected, lost")
    t.equal(got["idle"]["connected"], 20, "idle ones")
    t.check(open_at_mail[0] >= 21, "the first message came when %d were open" % open_at_mail[0])


@test(quick=True)
def a_lost_idle_one(t):
    """It makes the status 1, beside load and alone."""
    for options in (("--idle-also", 1, "--messages", 1), ("--idle", 1, "--duration", 3600)):
        up = t.upstream()
        blast = Blast(t, up.address, *options)
        c = up.accept()
        greet(c)
        if "--idle-also" in options:
            load = up.accept()
            greet(load)
            c.close()
            until_dot(load)
            load.send(b"250 ok\r\n")
            bye(load)
            t.equal(blast.report(status=1)["idle"]["idle_lost"], 1, "lost")
        else:
            c.close()
            t.equal(blast.report(status=1)["idle_lost"], 1, "lost")


@test(quick=True)
def idle_alone_has_marks(t):
    """They frame the time in which all sessions are open."""
    auto = AutoServer(t)
    blast = Blast(t, auto.address, "--idle", 30, "--duration", 0.2, "--marks")
    blast.mark("measuring")
    t.equal(auto.connections, 30, "open when measuring begins")
    t.equal(blast.mark("measured")["messages"], 0, "messages")
    got = blast.report()
    t.equal((got["mode"], got["connections"], got["connected"], got["idle_lost"]), ("idle", 30, 30, 0), "report")


@test(quick=True)
def sources(t):
    """Connections come from all addresses of a range and of a prefix, in turn."""
    auto = AutoServer(t)
    seen = []
    auto.on_command = lambda peer, line: seen.append(peer.sock.getpeername()[0]) if line.upper().startswith(b"EHLO") else None
    Blast(t, auto.address, "--source", "127.0.0.2-127.0.0.4,127.8.8.0/30", "--messages", 10, "--per-connection", 1).report()
    want = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.8.8.1", "127.8.8.2"]
    t.equal(seen, want + want, "addresses")


# ---- what it says ----

@test(quick=True)
def histogram(t):
    """All of it: ascending, adds up, and the percentiles are in it."""
    sink = Sink(t)
    got = Blast(t, sink, "--connections", 4, "--messages", 500, "--histogram").report()
    rows = got["latency_histogram"]
    t.equal(sum(n for _, n in rows), 500, "messages in it")
    t.check(all(a[0] < b[0] for a, b in zip(rows, rows[1:])) and all(n > 0 for _, n in rows), "order: %s" % rows)
    at = 0
    for top, n in rows:
        at += n
        if at >= 250:
            break
    t.equal(got["latency_us"]["p50"], min(top, got["latency_us"]["max"]), "p50")


@test(quick=True)
def backlog(t):
    """An open loop with too few connections says how far it was behind, and still sends all."""
    sink = Sink(t, "--delay-dot", "50")
    got = Blast(t, sink, "--connections", 1, "--rate", 1000, "--messages", 12).report()
    t.equal((got["accepted"], got["unsent"]), (12, 0), "accepted, never sent")
    t.check(got["backlog_max"] >= 5, "backlog_max: %d" % got["backlog_max"])


@test(quick=True)
def progress_on_a_terminal(t):
    """Share, rate and time left, on standard error and only if that is a terminal."""
    sink = Sink(t)
    ours, theirs = pty.openpty()
    blast = Blast(t, sink, "--connections", 2, "--warm-up", 1, "--duration", 1, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while True:
            text += os.read(ours, 65536)
    except OSError:  # the other side is closed
        os.close(ours)
    blast.report()
    t.check(re.search(rb"\r +\d+ %  \d+ done  \d+/s  2 connections .*warm-up  \d+ s left", text), "progress: %r" % text)
    quiet = Blast(t, sink, "--connections", 2, "--duration", 1)
    quiet.report()
    t.equal(quiet.complaint(), "", "standard error that is a file")


@cases({"to": (), "window": ("--warm-up", 1), "marks": ("--marks",), "both-sizes": ("--size", 1, "--sizes", "real"),
        "no-file": ("--sizes", "/nonexistent"), "all-slow": ("--connections", 2, "--slow", 2),
        "idle-and-load": ("--idle", 1, "--messages", 1), "idle-and-slow": ("--idle", 1, "--slow", 1),
        "idle-twice": ("--idle", 1, "--idle-also", 1), "rate": ("--rate", 5), "source": ("--source", "127.0.0.9-127.0.0.1"),
        "prefix": ("--source", "127.0.0.1/99")}, quick=True)
def usage(t, options):
    """One line, status 64, and nothing is sent."""
    blast = Blast(t, "unix:/nonexistent" if options else "nowhere", *options)
    t.equal(blast.end(), 64, "status")
    t.equal((blast.lines, blast.complaint().count("\n")), ([], 1), "output")


@test(quick=True)
def a_bad_table(t):
    with open(t.path("sizes"), "w") as f:
        f.write("1 1k\n1k 1\n")
    blast = Blast(t, "127.0.0.1:1", "--sizes", t.path("sizes"))
    t.equal(blast.end(), 64, "status")
    t.check("line 2" in blast.complaint(), "complaint: %s" % blast.complaint())
