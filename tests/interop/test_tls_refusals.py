# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS that must not come about, or not so: bad certificates, missing STARTTLS, old versions, client certificates. What a
real client is told, what it makes of that, and what the log says."""
import re
import smtplib

from kit import bodies, clients, exim, servers, tls
from kit.clients import HELO
from kit.tls import NAME, label
from lib.core import Failure, cases, test

PLAIN = bodies.USUAL["plain"]


class Table:
    """Cells that are wrong; all of them are told of."""

    def __init__(self, t):
        self.t = t
        self.bad = []

    def equal(self, cell, what, got, want):
        if got != want:
            self.bad.append("%s: %s is %r, not %r" % (cell, what, got, want))

    def check(self, cell, ok, text):
        if not ok:
            self.bad.append("%s: %s" % (cell, text))

    def end(self):
        self.t.check(not self.bad, "\n".join(self.bad))


# ---- the upstream leg ----

BAD = {  # certificate of the server: the word for it
    "other-name": "tls-name",
    "expired": "tls-expired",
    "selfsigned": "tls-self-signed",
    "unknown-ca": "tls-unknown-ca",
}


def servers_of_all_kinds(t):
    """(a Postfix, {kind: port}): an smtpd for each bad certificate, one without STARTTLS, one that stops at TLS 1.2, one
    with a good certificate."""
    certs = tls.Certs(t)
    ports = {kind: servers.free_port() for kind in list(BAD) + ["good", "old", "stripped", "wrapped"]}
    files = {k + ".pem": certs.both(k) for k in BAD}
    files["good.pem"] = certs.both("ecdsa")
    chain = {k: "$config_directory/%s.pem" % (k if k in BAD else "good") for k in ports}
    services = "".join(tls.smtpd(ports[k], smtpd_tls_chain_files=chain[k], smtpd_tls_security_level="may")
                       for k in list(BAD) + ["good"])
    services += tls.smtpd(ports["old"], smtpd_tls_chain_files=chain["good"], smtpd_tls_security_level="may",
                          smtpd_tls_protocols="TLSv1.2")
    services += tls.smtpd(ports["stripped"], smtpd_tls_security_level="none")
    services += tls.smtpd(ports["wrapped"], smtpd_tls_chain_files=chain["expired"], smtpd_tls_wrappermode="yes")
    main = {"smtpd_tls_received_header": "yes", "smtpd_tls_loglevel": "1"}
    return servers.Postfix(t, main=main, files=files, services=services), ports


def policies(certs, ports):
    """{label: (kind, policy, word that the log and the client get, or None: mail passes)}."""
    strict = {"mode": "verify", "name": NAME, "ca": certs.ca}
    out = {"verify-" + kind: (kind, strict, word) for kind, word in BAD.items()}
    out["verify-good"] = ("good", strict, None)
    out["verify-stripped"] = ("stripped", strict, "tls-missing")
    out["verify-old"] = ("old", dict(strict, **{"min-version": "1.3"}), "tls-version")
    out["pinned-other"] = ("good", {"mode": "verify", "pins": [certs.sha256("rsa")]}, "tls-pin")
    out["pinned"] = ("selfsigned", {"mode": "verify", "pins": [certs.sha256("rsa"), certs.sha256("selfsigned")]}, None)
    out["require-stripped"] = ("stripped", {"mode": "require"}, "tls-missing")
    out["require-old"] = ("old", {"mode": "require", "min-version": "1.3"}, "tls-version")
    for kind in BAD:
        out["require-" + kind] = (kind, {"mode": "require", "name": NAME, "ca": certs.ca}, None)
    for kind in list(BAD) + ["good", "stripped"]:
        out["may-" + kind] = (kind, {"mode": "opportunistic", "ca": certs.ca}, None)
    out["may-old"] = ("old", {"mode": "opportunistic", "min-version": "1.3"}, None)
    return out


def told(rp, name):
    """Everything in the log about one upstream, as text."""
    return " ".join(str(r) for r in rp.records() if name in (r.get("upstream"), r.get("listener")))


@test(timeout=60)
def upstream_outcomes(t):
    """Postfix on both sides: mail that must not go stays in its queue, deferred, with the reason; all other arrives, by
    TLS or in clear as the policy allows. Its smtp(8) asks twice (EHLO, then HELO)."""
    up, ports = servers_of_all_kinds(t)
    certs = tls.Certs(t)
    table, cells = Table(t), policies(certs, ports)
    rp, doors = tls.front(t, {name: (ports[kind], how) for name, (kind, how, _) in cells.items()})
    own = tls.Postfix(t).instance({n + ".test": "smtp:[127.0.0.1]:%d" % doors[n] for n in cells},
                                  main={"smtp_tls_security_level": "none", "minimal_backoff_time": "600s"})
    own.inject([("%s@from.test" % n, ["to@%s.test" % n], PLAIN) for n in cells])
    became = {to.partition("@")[2][:-5]: (status, words) for to, status, words in tls.statuses(t, own, len(cells))}
    passed = [n for n, (_, _, word) in cells.items() if word is None]
    got = {m.sender.decode().partition("@")[0]: m for m in up.sink.wait(len(passed), 15)}
    table.equal("all", "what arrived", sorted(got), sorted(passed))
    for name, (kind, how, word) in cells.items():
        status, words = became[name]
        rec = rp.record("session", listener=name)
        if word:
            table.equal(name, "the status", status, "deferred")
            table.check(name, "454 4.7.5 upstream TLS" in words and word in words, "Postfix says %s" % words)
            table.check(name, word in told(rp, name), "the log does not say %s: %s" % (word, told(rp, name)))
            table.equal(name, "upstream_tls in the record", rec.get("upstream_tls"), None)
            continue
        table.equal(name, "the status", (status, words[:40]) if status != "sent" else "sent", "sent")
        clear = kind == "stripped" or how.get("min-version") == "1.3"
        version = None if clear else "TLSv1.3" if kind != "old" else "TLSv1.2"
        table.equal(name, "upstream_tls in the record", rec.get("upstream_tls"), version)
        # Without a name in the policy it is about the chain alone, and a pin is not about it.
        good = kind == "good" or (kind == "other-name" and "name" not in how)
        table.equal(name, "verified", bool(rec.get("upstream_tls_verified")), good)
        if name in got:
            table.equal(name, "TLS, as the server says", b"(using TLS" in got[name].content, not clear)
            table.equal(name, "the body", servers.without_received(got[name].content), PLAIN)
    table.end()
    stop = rp.stop_now()
    t.check(stop["tls_upstream_failed"] and stop["tls_upstream_missing"], "failed and missing in the stop record")
    t.equal(stop["tls_upstream_fallbacks"], 1, "fallbacks in the stop record")


@test(timeout=60)
def upstream_outcomes_by_swaks(t):
    """The replies themselves: 454 to EHLO and to HELO, nothing of the server's words, and its status 22 (HELO)."""
    up, ports = servers_of_all_kinds(t)
    certs = tls.Certs(t)
    cells = {n: c for n, c in policies(certs, ports).items() if c[2] and not n.startswith("require-old")}
    table = Table(t)
    rp, doors = tls.front(t, {name: (ports[kind], how) for name, (kind, how, _) in cells.items()})
    for name, (_, _, word) in cells.items():
        swaks = clients.Swaks(t)
        status, out = swaks.run(swaks.argv(doors[name], "a@from.test", ["to@rcpt.test"], PLAIN), ok=None)
        table.equal(name, "the status of swaks", status, 22)
        table.equal(name, "refused hellos", len(re.findall(r"^<\*\* 454 4\.7\.5 upstream TLS: \S*%s" % word, out, re.M)), 2)
        table.equal(name, "the end", rp.record("session", listener=name)["reason"], "quit")
    table.end()
    t.equal(up.messages(), [], "the messages")


@test(timeout=60)
def implicit_upstream_outcomes(t):
    """No greeting before the handshake: the client is told as of a server that is away. TLS to a port without it, and
    the other way round."""
    up, ports = servers_of_all_kinds(t)
    certs = tls.Certs(t)
    strict = {"mode": "verify", "implicit": True, "name": NAME, "ca": certs.ca}
    cells = {"expired": ("wrapped", strict, "tls-expired"), "clear": ("good", strict, "tls-not-tls"),
             "pinned": ("wrapped", {"mode": "verify", "implicit": True, "pins": [certs.sha256("ecdsa")]}, "tls-pin")}
    table = Table(t)
    rp, doors = tls.front(t, {name: (ports[kind], how) for name, (kind, how, _) in cells.items()})
    for name, (_, _, word) in cells.items():
        swaks = clients.Swaks(t)
        status, out = swaks.run(swaks.argv(doors[name], "a@from.test", ["to@rcpt.test"], PLAIN), ok=None)
        table.equal(name, "the status of swaks", status, 21)
        rp.record("session", listener=name)
        table.check(name, re.search(r"^<\*\* 421 4\.4\.1 .*%s" % word, out, re.M), "swaks hears:\n" + out)
        table.check(name, word in told(rp, name), "the log does not say %s: %s" % (word, told(rp, name)))
    table.end()
    t.equal(up.messages(), [], "the messages")


# ---- the client leg: what clients make of our certificates ----

def by_curl(t, port, certs):
    curl = tls.Curl(t).client(("starttls", "1.3"))
    status, _ = curl.run(["curl"] + curl.argv(port, "a@from.test", ["to@rcpt.test"], PLAIN), ok=None)
    return status == 60


def by_swaks(t, port, certs):
    swaks = clients.Swaks(t, *tls.Swaks(t).options(("starttls", "1.2")))
    return swaks.run(swaks.argv(port, "a@from.test", ["to@rcpt.test"], PLAIN), ok=None)[0] == 29


def by_gnutls(t, port, certs):
    try:
        tls.gnutls_cli(t, certs, port, ("starttls", "1.3")).ehlo()
        return False
    except (Failure, OSError):
        return True


def by_openssl(t, port, certs):
    c = tls.s_client(t, port, "starttls", "-CAfile", certs.ca, "-verify_hostname", NAME, "-verify_return_error")
    try:
        c.ehlo()
        return False
    except (Failure, OSError):
        return "verify error" in c.said() or "certificate verify failed" in c.said()


def by_java(t, port, certs):
    status, out = tls.java(t, certs.ca, NAME, "starttls:TLSv1.3:%d:a@from.test:to@rcpt.test:%s" % (
        port, clients.Client(t).file(PLAIN)))
    return status == 1 and "SSLHandshakeException" in out


def by_smtplib(t, port, certs):
    try:
        with smtplib.SMTP("localhost", port, HELO, timeout=20 * t.slow) as s:
            s.starttls(context=tls.context(certs))
        return False
    except OSError as e:
        return "CERTIFICATE_VERIFY_FAILED" in str(e)


CHECKING = {"curl": by_curl, "swaks": by_swaks, "gnutls-cli": by_gnutls, "openssl": by_openssl, "java": by_java,
            "smtplib": by_smtplib}


@cases(BAD, timeout=60)
def bad_certificate_of_ours(t, word):
    """Each client refuses it, and the log has the client's word."""
    kind = next(k for k in BAD if BAD[k] == word)
    certs, table = tls.Certs(t), Table(t)
    up = servers.Sink(t)
    rp = tls.doors(t, up, pairs=(kind,))
    count = 0
    for name, refuses in CHECKING.items():
        if name == "swaks" and kind == "other-name":
            continue  # it checks no names
        table.check(name, refuses(t, tls.door(rp, "starttls"), certs), "it accepts the certificate")
        count += 1
        rec = rp.record("session", count)
        # TLS 1.2 clients, and those that look at the name later, may hang up behind a whole handshake.
        table.check(name, (rec["reason"], rec.get("cause")) == ("tls-failed", "tls-certificate-refused")
                    or rec.get("tls") and rec["reason"].startswith("client-"), "the record %r" % rec)
    table.end()
    t.check(any(r.get("cause") == "tls-certificate-refused" for r in rp.records("session")), "no record says why")
    t.equal(up.messages(), [], "the messages")


@test(timeout=60)
def bad_certificates_and_the_queue(t):
    """Postfix's and Exim's own clients keep the mail."""
    up = servers.Sink(t)
    ports, rps = {}, {}
    for kind in BAD:
        rps[kind] = tls.doors(t, up, pairs=(kind,))
        ports[kind] = tls.door(rps[kind], "starttls")
    own = tls.Postfix(t).instance({k + ".test": "smtp:[127.0.0.1]:%d" % ports[k] for k in BAD},
                                  main={"minimal_backoff_time": "600s"})
    own.inject([("p@from.test", ["to@%s.test" % k], PLAIN) for k in BAD])
    for to, status, words in tls.statuses(t, own, len(BAD)):
        t.check(status == "deferred" and "Server certificate not" in words, "Postfix says of %s: %s %s" % (to, status, words))
    out = exim.Client(t, {k: (ports[k], exim.transport("starttls", "1.3")) for k in BAD})
    for kind in BAD:
        out.send("e@from.test", ["to@%s.test" % kind], PLAIN)
    t.equal(len(out.logged(r" == to@\S+ .*TLS session: .*certificate")), len(BAD), "deferred by Exim:\n" + out.log())
    t.equal(up.messages(), [], "the messages")


# ---- the client leg: without TLS, and with an old one ----

def refused_530(t, port):
    swaks = clients.Swaks(t)
    status, out = swaks.run(swaks.argv(port, "a@from.test", ["to@rcpt.test"], PLAIN), ok=None)
    t.equal(status, 23, "the status of swaks (23: MAIL)")
    t.check("530 5.7.0" in out, "swaks hears:\n" + out)


@test(timeout=40)
def no_mail_without_tls(t):
    """`require`: swaks without TLS is refused at MAIL; Postfix that speaks none bounces or keeps it; with TLS both pass."""
    up = servers.Sink(t)
    rp = tls.doors(t, up, starttls={"mode": "require"})
    port = tls.door(rp, "starttls")
    refused_530(t, port)
    own = tls.Postfix(t).instance({w + ".test": "%s:[127.0.0.1]:%d" % (w, port) for w in ("clear", "may")}, services=(
        "clear unix - - n - - smtp\n  -o smtp_tls_security_level=none\n"
        "may unix - - n - - smtp\n  -o smtp_tls_security_level=may\n"))
    own.inject([("p@from.test", ["to@clear.test"], PLAIN), ("q@from.test", ["to@may.test"], PLAIN)])
    got = {to: (status, words) for to, status, words in tls.statuses(t, own, 2)}
    t.check(got["to@clear.test"][0] == "bounced" and "530 5.7.0" in got["to@clear.test"][1], "Postfix says %r" % (got,))
    t.equal(got["to@may.test"][0], "sent", "what Postfix says of may.test")
    m = [m for m in up.wait(1) if m.sender == b"q@from.test"]
    t.equal([m.sender for m in up.messages()], [b"q@from.test"], "the senders")
    t.equal(servers.without_received(m[0].content), PLAIN, "the body")
    t.check(rp.stop_now()["tls_required_refusals"] >= 2, "refusals in the stop record")


def openssl_old(t, port, mode):
    return ends_unheard(tls.s_client(t, port, mode, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", greets=False))


def gnutls_old(t, port, mode):
    argv = ["gnutls-cli", "--port=%d" % port, "--insecure", "--priority=" + tls.GNUTLS["1.1"] + ":%COMPAT:+SHA1:+SIGN-ALL",
            "--logfile=" + t.path("gnutls-old-%d" % port)] + (["--starttls-proto=smtp"] if mode == "starttls" else [])
    return ends_unheard(tls.PipeClient(t, argv + ["127.0.0.1"], False))


def ends_unheard(c):
    """Did the program end without a word from the other side?"""
    try:
        octets = c.sock.recv(100)
    except OSError:
        octets = b"(silence)"
    if octets:
        c.proc.kill()
    c.finish()
    return not octets


@cases({"openssl": openssl_old, "gnutls-cli": gnutls_old}, timeout=30)
def tls_1_1_refused(t, old):
    """And the same program gets through to a server that has it: openssl s_server."""
    up = servers.Sink(t)
    rp = tls.doors(t, up)
    for n, mode in enumerate(tls.MODES):
        t.check(old(t, tls.door(rp, mode), mode), "TLS 1.1 by %s" % mode)
        rec = rp.record("session", n + 1)
        t.equal((rec["reason"], rec.get("cause"), rec.get("tls")), ("tls-failed", "tls-version", None), "the record %r" % rec)
    lax = tls.SServer(t)
    port = lax.listen("ecdsa", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    t.check(not old(t, port, "implicit"), "the program cannot do TLS 1.1 at all")


@test(timeout=40)
def downgraded_clients(t):
    """min-version 1.3 and a Postfix that stops at 1.2: kept where it must have TLS, in clear where it may go without (from
    its second attempt on)."""
    up = servers.Sink(t)
    rp = tls.doors(t, up, tls={"min-version": "1.3"})
    port = tls.door(rp, "starttls")
    own = tls.Postfix(t).instance({w + ".test": "%s:[127.0.0.1]:%d" % (w, port) for w in ("must", "may")}, services="".join(
        "%s unix - - n - - smtp\n  -o smtp_tls_security_level=%s\n  -o smtp_tls_%sprotocols=TLSv1.2\n" % w
        for w in (("must", "encrypt", "mandatory_"), ("may", "may", ""))))
    own.inject([("p@from.test", ["to@must.test"], PLAIN), ("q@from.test", ["to@may.test"], PLAIN)])
    got = {to: (status, words) for to, status, words in tls.statuses(t, own, 2)}
    t.check(got["to@must.test"][0] == "deferred" and "TLS" in got["to@must.test"][1], "Postfix says %r" % (got,))
    t.equal([m.sender for m in up.wait(1, 20)], [b"q@from.test"], "the senders")
    t.check("tls" not in tls.session_of(t, rp, "q@from.test"), "the record says TLS")
    t.equal({r.get("cause") for r in rp.records("session", reason="tls-failed")}, {"tls-version"}, "the causes")


# ---- client certificates ----

SUBJECTS = {"nothing": (None, None), "good": ("client.example.com", True), "unknown": (NAME, False)}


def send_openssl(t, port, pair):
    c = tls.s_client(t, port, "starttls", *(["-cert", pair["chain"], "-key", pair["key"]] if pair else []))
    try:
        tls.talk(c, "a@from.test", ["to@rcpt.test"], PLAIN)
    except (Failure, OSError):
        return False
    return True


def send_swaks(t, port, pair):
    swaks = clients.Swaks(t, "--tls", *(["--tls-cert", pair["chain"], "--tls-key", pair["key"]] if pair else []))
    return swaks.run(swaks.argv(port, "a@from.test", ["to@rcpt.test"], PLAIN), ok=None)[0] == 0


def send_curl(t, port, pair):
    curl = clients.Curl(t, "--ssl-reqd", "--insecure", *(["--cert", pair["chain"], "--key", pair["key"]] if pair else []))
    return curl.run(["curl"] + curl.argv(port, "a@from.test", ["to@rcpt.test"], PLAIN), ok=None)[0] == 0


@cases({"openssl": send_openssl, "swaks": send_swaks, "curl": send_curl}, timeout=40)
def client_certificates(t, send):
    """None asked for, optional, required; none shown, a good one, one of an unknown CA."""
    certs, table = tls.Certs(t), Table(t)
    up = servers.Sink(t)
    shown = {"nothing": None, "good": certs.pair("client"), "unknown": certs.pair("unknown-ca")}
    for mode in ("none", "optional", "require"):
        more = {"client-certificates": mode, "client-ca": certs.chain("client-ca")} if mode != "none" else {}
        rp = tls.doors(t, up, tls=more)
        for count, (what, pair) in enumerate(shown.items(), 1):
            cell = "%s, %s shown" % (mode, what)
            passes = mode != "require" or what == "good"
            table.equal(cell, "passed", send(t, tls.door(rp, "starttls"), pair), passes)
            rec = rp.record("session", count)
            if passes:
                table.equal(cell, "subject and verified", (rec.get("tls_subject"), rec.get("tls_verified")),
                            SUBJECTS[what] if mode != "none" else (None, None))
            else:
                word = {"nothing": "tls-no-certificate", "unknown": "tls-unknown-ca"}[what]
                table.equal(cell, "the end", (rec["reason"], rec.get("cause")), ("tls-failed", word))
        rp.finish()
    table.end()
    up.wait(7)


@test(timeout=40)
def our_certificate(t):
    """Postfix asks for ringpost's certificate, which has one or has not."""
    certs = tls.Certs(t)
    up = tls.PostfixServer(t, main={"smtpd_tls_ask_ccert": "yes", "smtpd_tls_CAfile": certs.chain("client-ca")})
    strict = {"mode": "verify", "name": NAME, "ca": certs.ca}
    ways = {label(c) + how: (up.doors[c], dict(strict, implicit=c[0] == "implicit", **more))
            for c in tls.CELLS for how, more in (("-with", {"certificate": "own"}), ("-without", {}))}
    rp, ports = tls.front(t, ways, conf={"certificates": {"own": certs.pair("client")}})
    for name, port in ports.items():
        clients.Smtplib(t).send(port, [("%s@from.test" % name, ["to@rcpt.test"], PLAIN)])
    up.wait(len(ways), 15)
    for m in up.messages():
        t.equal('(Client CN "client.example.com", Issuer "Test client CA" (verified OK))' in m.tls,
                m.sender.endswith(b"-with@from.test"), "our certificate, as Postfix says for %r: %s" % (m.sender, m.tls))
