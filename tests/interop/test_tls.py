# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS with real software on both legs: every client and every server, STARTTLS and TLS from the first octet, TLS 1.2 and
1.3; each message whole at the far end, and in the log what both sides agreed on. Sessions that are resumed."""
import os
import socket
import subprocess

from kit import bodies, clients, exim, servers, tls
from kit.clients import RawClient
from kit.tls import CELLS, CLIENTS, NAME, SERVERS, label
from lib.core import cases, test

BODIES = ("dots", "medium", "eight-bit")


def jobs(tag, cells=CELLS, names=BODIES):
    """Recipients are at a domain of the cell: some programs choose their way by it."""
    return {c: [("%s-%s-%s@from.test" % (tag, label(c), n), ["to@%s.test" % label(c)], bodies.USUAL[n]) for n in names]
            for c in cells}


def whole(t, up, program, work):
    """Every message of the work is there as it was sent. {sender: message}."""
    want = {m[0].encode(): m for messages in work.values() for m in messages}
    got = up.by_sender(len(want), 20)
    t.equal(sorted(got), sorted(want), "the senders")
    for sender, (_, rcpts, content) in want.items():
        m = got[sender]
        t.equal(servers.without_received(m.content), up.shown(program.sends(content)), "the body of %r" % sender)
        t.equal(m.rcpts, [r.encode() for r in rcpts], "the recipients of %r" % sender)
    return got


def agreed(t, rec, leg, version):
    """A record's fields of one leg, `` or `upstream_`: the version asked for, and a cipher that is worth it."""
    t.equal(rec.get(leg + "tls"), "TLSv" + version, "the version in the record %r" % rec)
    cipher = rec.get(leg + "tls_cipher") or ""
    t.check(tls.GOOD[version].match(cipher), "the cipher in the record %r" % rec)
    return cipher


# ---- the client leg ----

@cases(CLIENTS, timeout=60)
def client_leg(t, program):
    up = servers.Sink(t)
    rp = tls.doors(t, up)
    program = program(t)
    work = jobs("m")
    said = program.deliver(rp, work)
    whole(t, up, program, work)
    for (mode, version), messages in work.items():
        for sender, _, _ in messages:
            rec = tls.session_of(t, rp, sender)
            cipher = agreed(t, rec, "", version)
            t.equal(rec["listener"], "in" if mode == "starttls" else "smtps", "the listener of %s" % sender)
            t.check("upstream_tls" not in rec, "TLS to a sink: %r" % rec)
        words = said[mode, version]
        t.check(version in words, "the version, as the client says: %s" % words[-1500:])
        if program.ciphers:
            t.check(cipher in words or tls.openssl_name(cipher) in words,
                    "the log has %s; the client says: %s" % (cipher, words[-1500:]))
    stop = rp.stop_now()
    t.equal([stop.get(n) for n in ("tls_failed", "tls_timeouts", "tls_truncated")], [0, 0, 0],
            "failed, timeouts, truncated in the stop record")
    t.check(stop["tls_handshakes"] >= len(work), "handshakes in the stop record: %d" % stop["tls_handshakes"])


KINDS = {"%s-%s" % (kind, v): (kind, v) for kind in ("ecdsa", "rsa") for v in tls.VERSIONS}


@cases(KINDS, timeout=20)
def both_kinds_of_certificates(t, how):
    """A client that can use one kind only gets that kind."""
    kind, version = how
    up = servers.Sink(t)
    rp = tls.doors(t, up)
    certs = tls.Certs(t)
    only = {"ecdsa-1.2": ["-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], "rsa-1.2": ["-cipher", "ECDHE-RSA-AES256-GCM-SHA384"],
            "ecdsa-1.3": ["-sigalgs", "ECDSA+SHA256"], "rsa-1.3": ["-sigalgs", "rsa_pss_rsae_sha256"]}["%s-%s" % how]
    for mode in tls.MODES:
        c = tls.s_client(t, tls.door(rp, mode), mode, "-tls" + version.replace(".", "_"), "-CAfile", certs.ca,
                         "-verify_return_error", *only)
        tls.talk(c, mode + "@from.test", ["to@rcpt.test"], bodies.USUAL["dots"])
        sort = {"ecdsa": "ECDSA", "rsa": "RSA"}[kind]
        t.check(any(line.startswith("Signature type: ") and line.split(": ")[1].startswith(sort)
                    for line in c.said().splitlines()), "openssl says:\n" + c.said())
        rec = tls.session_of(t, rp, mode + "@from.test")
        agreed(t, rec, "", version)
        t.equal(rec.get("tls_sni"), NAME, "the name asked for in the record")
    t.equal(len(up.wait(2)), 2, "the messages")


@test(timeout=30)
def keys_updated(t):
    """s_client's `K`, both ways, between commands and in the middle of a body."""
    up = servers.Sink(t)
    rp = tls.doors(t, up)
    c = tls.s_client(t, tls.door(rp, "starttls"), "starttls", "-tls1_3", commands=True)

    def update():
        before = c.said().count("KEYUPDATE")
        c.sock.sendall(b"K\n")
        t.until(lambda: c.said().count("KEYUPDATE") > before, "s_client updates the keys: " + c.said())
    c.ehlo()
    update()
    update()
    c.say(b"mail from:<k@from.test>\r\n", b"250")
    c.say(b"rcpt to:<to@rcpt.test>\r\n", b"250")
    c.say(b"data\r\n", b"354")
    piece = (b"x" * 70 + b"\r\n") * 50
    c.sock.sendall(b"Subject: x\r\n\r\n")
    for _ in range(5):
        c.sock.sendall(piece)
        update()
    c.say(b"zz\r\n.\r\n", b"250")
    update()
    c.say(b"noop\r\n", b"250")
    c.quit()
    t.equal(up.wait(1)[0].content, b"Subject: x\r\n\r\n" + piece * 5 + b"zz\r\n", "the body")
    agreed(t, tls.session_of(t, rp, "k@from.test"), "", "1.3")


@test(timeout=30)
def no_renegotiation(t):
    """s_client's `R` in TLS 1.2."""
    rp = tls.doors(t, servers.Sink(t))
    c = tls.s_client(t, tls.door(rp, "starttls"), "starttls", "-tls1_2", commands=True)
    c.ehlo()
    c.sock.sendall(b"R\n")
    try:
        c.sock.sendall(b"noop\r\n")
        heard = c.sock.recv(4096)
    except OSError:
        heard = b""
    t.equal(heard, b"", "what is answered behind it")
    rec = rp.record("session")
    t.equal((rec["reason"], rec["cause"], rec["tls"]), ("client-reset", "tls-protocol", "TLSv1.2"), "the end in the record")
    c.finish()  # its status says what it was doing when the connection went
    t.check("RENEGOTIATING" in c.said(), "s_client says:\n" + c.said())


# ---- the upstream leg ----

def to_upstream(certs, mode, **more):
    return dict({"mode": "verify", "implicit": mode == "implicit", "name": NAME, "ca": certs.ca}, **more)


@cases({"%s-%s" % (s, pair): (s, pair) for s in SERVERS for pair in ("ecdsa", "rsa")}, timeout=60)
def upstream_leg(t, how):
    """Verified: the chain and the name. By DATA, and by BDAT where the server has it."""
    server, pair = how
    up = SERVERS[server](t, pair)
    certs = tls.Certs(t)
    rp, ports = tls.front(t, {label(c): (port, to_upstream(certs, c[0])) for c, port in up.doors.items()})
    work = {}
    for cell in up.doors:
        c = RawClient(t, ports[label(cell)])
        chunking = b"CHUNKING" in c.ehlo()
        t.equal(chunking, server != "aiosmtpd", "CHUNKING is shown")
        (dots, medium) = jobs("m", [cell], ("dots", "medium"))[cell]
        c.data(dots[0], dots[1], clients.stuffed(dots[2]) + b".\r\n")
        if chunking:
            c.bdat(*medium, size=70000, pipelined=False)
        else:
            c.data(medium[0], medium[1], clients.stuffed(medium[2]) + b".\r\n")
        c.quit()
        work[cell] = [dots, medium]
    got = whole(t, up, tls.Program, work)
    for (mode, version), messages in work.items():
        for sender, _, _ in messages:
            rec = tls.session_of(t, rp, sender)
            cipher = agreed(t, rec, "upstream_", version)
            t.check(rec.get("upstream_tls_verified") is True, "not verified: %r" % rec)
            t.check("tls" not in rec, "TLS of a client that had none: %r" % rec)
            seen = got[sender.encode()].tls
            if seen is not None:
                t.check("1." + version[2] in seen, "the server says %s" % seen)
            if seen is not None and server != "exim":
                t.check(cipher in seen or tls.openssl_name(cipher) in seen,
                        "the log has %s, the server says %s" % (cipher, seen))
    t.equal(rp.stop_now()["tls_upstream_handshakes"], len(work), "handshakes in the stop record")


BOTH = {"%s-to-%s" % (label(a), label(b)): (a, b) for a, b in (
    (("starttls", "1.3"), ("starttls", "1.3")), (("starttls", "1.2"), ("implicit", "1.3")),
    (("implicit", "1.3"), ("starttls", "1.2")), (("implicit", "1.2"), ("implicit", "1.2")))}


@test(timeout=60)
def both_legs(t):
    """Postfix and Exim on either side, another TLS on each leg."""
    up = tls.PostfixServer(t)
    certs = tls.Certs(t)
    for name, (near, far) in BOTH.items():
        rp = tls.doors(t, "127.0.0.1:%d" % up.doors[far], up={"tls": to_upstream(certs, far[0])})
        work = jobs(name, [near], ("medium",))
        sender = work[near][0][0]
        tls.Swaks(t).deliver(rp, work)
        t.until(lambda: any(m.sender == sender.encode() for m in up.messages()), "the message of %s" % sender, 10)
        m = next(m for m in up.messages() if m.sender == sender.encode())
        t.equal(m.content, tls.Swaks.sends(work[near][0][2]), "the body of %s" % sender)
        rec = tls.session_of(t, rp, sender)
        agreed(t, rec, "", near[1])
        agreed(t, rec, "upstream_", far[1])


LEGS = {"%s-to-%s" % (a, b): (a, b) for a in ("clear", "tls") for b in ("clear", "tls")}


@cases(LEGS, timeout=60)
def large_messages(t, legs):
    """20 MB by DATA and by BDAT, over every combination of the two legs; nothing in between that mends newlines."""
    near, far = legs
    cell = ("implicit", "1.3")
    up = tls.SServer(t) if far == "tls" else servers.Sink(t)
    more = {"tls": to_upstream(tls.Certs(t), "implicit")} if far == "tls" else {}
    rp = tls.doors(t, "127.0.0.1:%d" % (up.doors[cell] if far == "tls" else up.port), up=more)
    c = tls.PythonClient(t, tls.door(rp, "implicit"), cell) if near == "tls" else RawClient(t, tls.door(rp, "starttls"))
    content = bodies.big(bodies.BIG)
    c.ehlo()
    c.data("data@from.test", ["to@rcpt.test"], clients.stuffed(content) + b".\r\n")
    c.bdat("bdat@from.test", ["to@rcpt.test"], content, size=3000017, pipelined=False)
    c.quit()
    for how, m in up.by_sender(2, 20).items():
        t.equal(m.content, content, "the body by %r" % how)
    rec = tls.session_of(t, rp, "bdat@from.test")
    t.equal((rec.get("tls"), rec.get("upstream_tls")), tuple("TLSv1.3" if leg == "tls" else None for leg in legs), "TLS")


@test(timeout=60)
def exim_to_postfix(t):
    """Nothing of ours at either end."""
    up = tls.PostfixServer(t)
    rp = tls.doors(t, "127.0.0.1:%d" % up.doors["starttls", "1.3"], up={"tls": to_upstream(tls.Certs(t), "starttls")})
    work = jobs("m")
    program = tls.Exim(t)
    program.deliver(rp, work)
    whole(t, up, program, work)


@test(timeout=60)
def postfix_to_exim(t):
    up = tls.EximServer(t)
    rp = tls.doors(t, "127.0.0.1:%d" % up.doors["implicit", "1.3"], up={"tls": to_upstream(tls.Certs(t), "implicit")})
    work = jobs("m")
    program = tls.Postfix(t)
    program.deliver(rp, work)
    whole(t, up, program, work)


# ---- sessions that are resumed ----

def resumed(rp, count, listener=None):
    """Of the session records, in order, when there are so many: was the TLS of the client resumed?"""
    match = {"listener": listener} if listener else {}
    rp.record("session", count, **match)
    return [rec.get("tls_resumed", False) for rec in rp.records("session", **match)]


def visit(t, rp, mode, *options):
    """EHLO and QUIT; what s_client says."""
    c = tls.s_client(t, tls.door(rp, mode), mode, *options)
    c.ehlo()
    c.quit()
    return c.said()


@cases({v: v for v in tls.VERSIONS}, timeout=40)
def ticket_of_another_worker(t, version):
    """One ticket shown a dozen times: with two workers that take turns it comes to both. Then to processes that were
    started later: those with the same file of keys take it, others do not mind it."""
    up = servers.Sink(t)
    keys = {"one": t.path("keys-one"), "two": t.path("keys-two")}
    for name, path in keys.items():
        with open(path, "wb") as f:
            f.write(os.urandom(80))
        os.chmod(path, 0o600)
    ticket, only = t.path("ticket"), "-tls" + version.replace(".", "_")

    def shows(rp, count):
        for _ in range(count):
            visit(t, rp, "starttls", only, "-sess_in", ticket)
        return resumed(rp, count + 1 if rp is first else count)[-count:]
    first = tls.doors(t, up, workers=2, conf={"tls": {"ticket-keys": keys["one"]}})
    visit(t, first, "starttls", only, "-sess_out", ticket)
    t.equal(resumed(first, 1), [False], "the first session is resumed")
    t.equal(shows(first, 12), [True] * 12, "resumed, with two workers")
    t.equal(first.stop_now()["tls_resumed"], 12, "resumed in the stop record")
    for name, want in (("one", True), ("two", False), (None, False)):
        later = tls.doors(t, up, conf={"tls": {"ticket-keys": keys[name]}} if name else None)
        t.equal(shows(later, 1), [want], "resumed after a restart with keys %s" % name)
        later.finish()


def by_gnutls(t, rp, cell):
    """It connects, takes the ticket, hangs up, and comes again."""
    certs = tls.Certs(t)
    log = t.path("gnutls-%s" % label(cell))
    argv = [servers.tool("gnutls-cli"), "--resume", "--port=%d" % tls.door(rp, cell[0]), "--x509cafile=" + certs.ca,
            "--sni-hostname=" + NAME, "--verify-hostname=" + NAME, "--priority=" + tls.GNUTLS[cell[1]], "127.0.0.1"]
    argv += ["--starttls-proto=smtp"] if cell[0] == "starttls" else []
    with open(log, "wb") as f:
        subprocess.run(argv, input=b"ehlo x\r\nquit\r\n", stdout=f, stderr=f, timeout=20 * t.slow)
    t.check("This is a resumed session" in servers.tail(log, 20000), "gnutls-cli says:\n" + servers.tail(log))


def by_python(t, rp, cell):
    c, old = tls.context(tls.Certs(t), cell[1]), None
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", tls.door(rp, cell[0])), 15 * t.slow) as s:
            if cell[0] == "starttls":
                for line in (b"EHLO x\r\n", b"STARTTLS\r\n"):
                    s.recv(4096)
                    s.sendall(line)
                s.recv(4096)
            with c.wrap_socket(s, server_hostname=NAME, session=old) as w:
                if cell[0] == "starttls":
                    w.sendall(b"EHLO x\r\n")
                w.recv(4096)
                again, old = w.session_reused, w.session
                w.sendall(b"QUIT\r\n")
                w.recv(4096)
    t.check(again, "Python says that it is a new session")


def by_java(t, rp, cell):
    tls.Java(t).deliver(rp, jobs("j", [cell], ("dots", "blank-lines")))


def by_postfix(t, rp, cell):
    """Its cache of sessions: two deliveries, one after the other."""
    program = tls.Postfix(t)
    own = program.instance(
        {"x.test": "smtp:[127.0.0.1]:%d" % tls.door(rp, cell[0])},
        main={"smtp_tls_session_cache_database": "btree:${{data_directory}}/smtp_scache",
              "smtp_tls_mandatory_protocols": "TLSv" + cell[1],
              "smtp_tls_wrappermode": "yes" if cell[0] == "implicit" else "no"})
    for n in (1, 2):
        own.inject([("p%d@from.test" % n, ["to@x.test"], bodies.USUAL["dots"])])
        tls.statuses(t, own, n, "sent")


def by_exim(t, rp, cell):
    own = exim.Client(t, {"x": (tls.door(rp, cell[0]), exim.transport(*cell, "  tls_resumption_hosts = *\n"))})
    for n in (1, 2):
        own.send("e%d@from.test" % n, ["to@x.test"], bodies.USUAL["dots"])
    lines = own.logged(r"^.* => .* X=(\S+) ")
    t.equal([x.endswith("*") for x in lines], [False, True], "resumed, as Exim says: %r" % lines)


RESUMES = {"%s-%s" % (name, label(cell)): (by, cell) for name, by, cells in (
    ("gnutls-cli", by_gnutls, CELLS), ("python", by_python, CELLS), ("java", by_java, CELLS[:2]),
    ("postfix", by_postfix, [CELLS[0], CELLS[3]]), ("exim", by_exim, CELLS[:2])) for cell in cells}


@cases(RESUMES, timeout=40)
def resumed_by(t, how):
    by, cell = how
    rp = tls.doors(t, servers.Sink(t))
    by(t, rp, cell)
    t.equal(resumed(rp, 2), [False, True], "resumed in the records")
    for rec in rp.records("session"):
        agreed(t, rec, "", cell[1])


@cases({s: SERVERS[s] for s in ("postfix", "exim", "aiosmtpd")}, timeout=60)
def resumed_upstream(t, server):
    """ringpost resumes its own sessions with a server, and each upstream's apart."""
    up = server(t)
    certs = tls.Certs(t)
    ways = {label(c): (port, to_upstream(certs, c[0])) for c, port in up.doors.items()}
    ways["other"] = (up.doors[CELLS[1]], to_upstream(certs, "starttls", name="localhost"))
    rp, ports = tls.front(t, ways)
    for name, port in ports.items():
        for n in range(3):
            c = RawClient(t, port)
            c.ehlo()
            c.data("%s-%d@from.test" % (name, n), ["to@rcpt.test"], bodies.USUAL["plain"] + b".\r\n")
            c.quit()
            rp.record("session", n + 1, listener=name)
    again = 0
    for name in ports:
        recs = rp.records("session", listener=name)
        seen = [r.get("upstream_tls_resumed", False) for r in recs]
        again += sum(seen)
        # In TLS 1.2 never. In 1.3 one ticket is good for one connection, and Postfix gives no new one to a session that
        # was resumed.
        new = recs[0]["upstream_tls"] == "TLSv1.3"
        want = [False, new, new and server is not tls.PostfixServer]
        t.equal(seen, want, "resumed at %s" % name)
        t.check(all(r.get("upstream_tls_verified") is True for r in recs), "a resumed session is verified too: %r" % recs)
        if server is tls.Aiosmtpd:
            got = up.by_sender(3 * len(ports))
            t.equal([got[b"%s-%d@from.test" % (name.encode(), n)].reused for n in range(3)], want, "resumed, as the server says")
    t.equal(rp.stop_now()["tls_upstream_resumed"], again, "resumed in the stop record")


@test(timeout=60)
def server_that_forgot(t):
    """A Postfix that was restarted has other ticket keys: what it is shown makes a whole handshake, and no mail waits."""
    up = tls.PostfixServer(t)
    certs = tls.Certs(t)
    rp, ports = tls.front(t, {label(c): (port, to_upstream(certs, c[0])) for c, port in up.doors.items()})
    count = 0
    for _ in range(2):
        for n in range(2):
            for name, port in ports.items():
                clients.Smtplib(t).send(port, [("%d@from.test" % count, ["to@rcpt.test"], bodies.USUAL["plain"])])
                count += 1
                rp.record("session", count)
        up.stop()
        up.start()
    t.equal(len(up.wait(count, 15)), count, "the messages")
    for (mode, version) in CELLS:
        recs = rp.records("session", listener=label((mode, version)))
        t.equal([r.get("upstream_tls_resumed", False) for r in recs], [False, version == "1.3"] * 2, "resumed at %s %s" % (mode, version))
