# SPDX-License-Identifier: GPL-3.0-or-later
"""What hooks are told of a client's TLS: a plugin, a script, a policy server and a milter at the same listener, each in
its own words, and none of them anything where there is none."""
import os
import ssl
import subprocess

from lib.core import cases, test
from lib.milter import Milter, reply
from lib.policy import PolicyServer
from lib.ringpost import merge
from lib.smtp import CAPS, GREETING, MAIL, OK_MAIL, RCPT, envelope, greet, message, opened, step
from lib.tls import GO_TLS, NAME, STARTTLS, Bed, client_context, der, pem, pin

SCRIPT = """
local function tell(ev)
  print(ev.kind, ev.tls_version, ev.tls_cipher, ev.tls_bits, ev.tls_sni, ev.tls_verified, ev.tls_sha256, ev.tls_subject)
end
connect, ehlo, mail, rcpt, data, starttls, transaction, close = tell, tell, tell, tell, tell, tell, tell, tell
"""
FIELDS = ("version", "cipher", "bits", "sni", "verified", "sha256", "subject")
CLEAR = dict.fromkeys(FIELDS, "nil") | {"verified": "false"}
CLIENT = "client.example.com"  # in the certificate
IANA = {"ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}


def put_script(t):
    os.makedirs(t.path("scripts"), 0o755)
    os.chmod(t.path("scripts"), 0o755)
    path = t.path("scripts/told.lua")
    with open(path, "w") as f:
        f.write(SCRIPT)
    os.chmod(path, 0o644)
    return path


class Watched:
    """The four hooks: .hooks for the configuration, and what each was told."""

    def __init__(self, t, **milter):
        self.t = t
        self.policy = PolicyServer(t)
        self.milter = Milter(t, **milter)
        self.audit = t.path("audit")
        plugin = os.path.join(os.path.abspath(t.build), "docs/examples/audit-plugin.so")
        self.hooks = {
            "a": {"type": "plugin", "file": plugin, "options": {"path": self.audit}},
            "l": {"type": "lua", "file": put_script(t)},
            "p": {"type": "policy", "endpoint": self.policy.address, "events": ["connect", "ehlo", "mail", "rcpt", "data"]},
            "m": {"type": "milter", "endpoint": self.milter.address, "mode": "stream"},
        }

    def bed(self, client="starttls", ask="optional", context=None, listener=None):
        site = {"client-certificates": ask, "client-ca": pem(self.t, "client-ca")} if ask != "none" else {}
        bed = Bed(self.t, client=client, clients=context or client_context(self.t), site=site, conf={"hooks": self.hooks},
                  listener=merge({"hooks": list(self.hooks)}, listener))
        self.rp = bed.rp
        return bed

    def script(self, kind, n=1):
        """What the script was told at the n-th event of this kind."""
        def said():
            lines = [r["text"].split() for r in self.rp.records("hook", hook="l")]
            return [dict(zip(FIELDS, words[1:])) for words in lines if words[0] == kind][n - 1:n]
        return self.t.until(said, "event %d of kind %s in the script" % (n, kind))[0]

    def policed(self, state, n=1):
        """... the policy server."""
        def asked():
            return [r for r in list(self.policy.requests) if r["protocol_state"] == state][n - 1:n]
        r = self.t.until(asked, "request %d at %s" % (n, state))[0]
        return {key: value for key, value in r.items() if key.startswith(("ccert_", "encryption_", "tls_"))}

    def audited(self, word, n=1):
        """... the plugin: the part of its n-th line with this word that speaks of TLS."""
        def lines():
            if not os.path.exists(self.audit):
                return []
            with open(self.audit) as f:
                return [line for line in f.read().split("\n") if word in line][n - 1:n]
        line = self.t.until(lines, "line %d of the plugin with %r" % (n, word))[0]
        return line[:line.index(word)].split(" client=127.0.0.1")[1].strip()


def policy_words(facts, known=True):
    """... what the policy server has to be told then."""
    out = dict.fromkeys(("ccert_subject", "ccert_issuer", "ccert_fingerprint", "ccert_pubkey_fingerprint", "encryption_protocol",
                         "encryption_cipher", "tls_sni"), "") | {"encryption_keysize": "0"}
    if facts is CLEAR:
        return out
    out |= {"encryption_protocol": facts["version"], "encryption_cipher": facts["cipher"], "encryption_keysize": facts["bits"],
            "tls_sni": facts["sni"]}
    if facts["sha256"] != "nil":
        sum_ = facts["sha256"].upper()
        out["ccert_fingerprint"] = ":".join(sum_[i:i + 2] for i in range(0, 64, 2))
    if facts["verified"] == "true":
        out["ccert_subject"] = facts["subject"]
    return out


def macros(facts, verify):
    out = {"{tls_version}": facts["version"], "{cipher}": facts["cipher"], "{cipher_bits}": facts["bits"], "{verify}": verify}
    if facts["verified"] == "true":
        out["{cert_subject}"] = facts["subject"]
    return {key.encode(): value.encode() for key, value in out.items()}


def audit_words(facts):
    if facts is CLEAR:
        return ""
    out = "tls=%(version)s cipher=%(cipher)s bits=%(bits)s" % facts
    if facts["sha256"] != "nil":
        out += " cert=" + facts["sha256"]
    if facts["verified"] == "true":
        out += " verified=<%s>" % facts["subject"]
    return out


def facts_of(c, cert=None, subject="nil", verified=False):
    """As Python's side of the connection has them."""
    name, _version, bits = c.tls.obj.cipher()
    return {"version": c.tls.obj.version(), "cipher": IANA.get(name, name), "bits": str(bits), "sni": NAME, "subject": subject,
            "verified": "true" if verified else "false", "sha256": cert or "nil"}


def all_told(w, facts, verify=None, ehlo=1):
    """All four, of one message that was sent when these were the facts. `ehlo`: which one was the last."""
    t = w.t
    t.equal(w.script("ehlo", ehlo), facts, "the script at EHLO")
    t.equal(w.policed("EHLO", ehlo), policy_words(facts), "the policy server at EHLO")
    for kind, state in (("mail", "MAIL"), ("rcpt", "RCPT"), ("data", "DATA")):
        t.equal(w.script(kind), facts, "the script at " + state)
        t.equal(w.policed(state), policy_words(facts), "the policy server at " + state)
    t.equal(w.script("transaction"), facts, "the script, of the transaction")
    for word in (" from=<a@x.test>", " to=<b@y.test>", " result=accepted"):
        t.equal(w.audited(word), audit_words(facts), "the plugin:" + word)
    k = w.milter.connection()
    t.equal(k.macros.get("H"), macros(facts, verify) if verify else None, "the milter at HELO")


def clear_before(w, ehlo=True):
    t = w.t
    t.equal(w.script("connect"), CLEAR, "the script at CONNECT")
    t.equal(w.policed("CONNECT"), policy_words(CLEAR), "the policy server at CONNECT")
    if ehlo:
        t.equal(w.script("ehlo"), CLEAR, "the script at the first EHLO")
        t.equal(w.policed("EHLO"), policy_words(CLEAR), "the policy server at the first EHLO")
        t.equal(w.script("starttls"), CLEAR, "the script at STARTTLS")


def done(w, c, facts):
    c.close()
    w.t.equal(w.script("close"), facts, "the script at the end")


# ---- with TLS ----

LEGS = {
    "starttls-1.3": ("starttls", "1.3", None),
    "starttls-1.2": ("starttls", "1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    "implicit-1.3": ("implicit", "1.3", None),
    "implicit-1.2": ("implicit", "1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
}


@cases(LEGS, quick=True)
def a_good_certificate(t, leg):
    how, version, ciphers = leg
    w = Watched(t)
    bed = w.bed(how, context=client_context(t, low=version, high=version, ciphers=ciphers, name="client"))
    c, u = bed.connect()
    message(c, u)
    facts = facts_of(c, pin(t, "client"), CLIENT, True)
    t.equal(facts["version"], "TLSv" + version, "the version that Python sees")
    ehlo = 2 if how == "starttls" else 1
    clear_before(w, ehlo == 2)
    all_told(w, facts, "OK", ehlo)
    w.milter.saw("OC" + "H" * ehlo + "MRTA")
    done(w, c, facts)


@test(quick=True)
def a_certificate_that_nobody_vouches_for(t):
    """Its digest is told, and its name where `verified` stands beside it; a policy server and a milter are told no name."""
    w = Watched(t)
    c, u = w.bed(context=client_context(t, name="selfsigned")).connect()
    message(c, u)
    facts = facts_of(c, pin(t, "selfsigned"), NAME, False)
    clear_before(w)
    all_told(w, facts, "FAIL", 2)
    done(w, c, facts)


def tlv(der, at):
    """Of the element of DER that begins there: where its value begins and ends."""
    n, head = der[at + 1], 2
    if n & 0x80:
        head += n & 0x7f
        n = int.from_bytes(der[at + 2:at + head], "big")
    return at + head, at + head + n


def element(tag, value):
    n = len(value)
    size = bytes([n]) if n < 128 else b"\x82" + n.to_bytes(2, "big")
    return bytes([tag]) + size + value


def with_a_nul(t):
    """The client's certificate, signed again with a NUL in its name: no tool makes one."""
    whole = der(t, "client")
    at, _ = tlv(whole, 0)
    _, end = tlv(whole, at)
    _, last = tlv(whole, end)
    body = whole[at:end].replace(b"client.example", b"client\0example", 1)
    sign = ["openssl", "dgst", "-sha256", "-sign", os.path.join(t.certs(), "client-ca.key")]
    signature = subprocess.run(sign, input=body, check=True, capture_output=True).stdout
    path = t.path("nul.pem")
    with open(path, "w") as f:
        f.write(ssl.DER_cert_to_PEM_cert(element(0x30, body + whole[end:last] + element(3, b"\0" + signature))))
    return path


@test(quick=True)
def a_name_with_a_nul(t):
    """Who reads it as a C string would take the client for another one: it has no name then, however good it is."""
    w = Watched(t)
    context = client_context(t)
    context.load_cert_chain(with_a_nul(t), os.path.join(t.certs(), "client.key"))
    c, u = w.bed(context=context).connect()
    message(c, u)
    told = w.script("mail")
    t.equal((told["verified"], told["subject"]), ("true", "nil"), "the script")
    t.equal(w.policed("MAIL")["ccert_subject"], "", "the policy server")
    k = w.milter.connection()
    t.equal((k.macros["H"].get(b"{verify}"), k.macros["H"].get(b"{cert_subject}")), (b"OK", None), "the milter")
    t.check(w.audited(" from=<a@x.test>").endswith(" verified=<>"), "the plugin")
    c.close()


@cases({"asked-for": ("optional", "NO"), "not-asked-for": ("none", "NOT")}, quick=True)
def no_certificate(t, case):
    ask, verify = case
    w = Watched(t)
    c, u = w.bed(ask=ask).connect()
    message(c, u)
    facts = facts_of(c)
    clear_before(w)
    all_told(w, facts, verify, 2)
    done(w, c, facts)


@cases({"no-certificates": ("none", True), "certificates": ("optional", False)}, quick=True)
def a_second_session(t, case):
    """Resumed or not, it tells the same. One that is resumed shows no certificate: who wants to see them resumes none."""
    ask, resumes = case
    w = Watched(t)
    bed = w.bed("implicit", ask=ask, context=client_context(t, name="client"))
    c, u = bed.connect()
    message(c, u)
    facts = facts_of(c, pin(t, "client"), CLIENT, True) if ask != "none" else facts_of(c)
    ticket = c.tls.obj.session
    c.close()
    c, u = bed.connect(session=ticket)
    t.equal(c.tls.obj.session_reused, resumes, "resumed")
    message(c, u)
    for kind in ("ehlo", "mail", "rcpt", "data", "transaction"):
        t.equal(w.script(kind, 2), facts, "the script at " + kind)
    done(w, c, facts)


# ---- without ----

@test(quick=True)
def in_clear(t):
    """STARTTLS was offered, and the client does not want it."""
    w = Watched(t)
    bed = w.bed()
    c = bed.arrive()
    u = bed.up.accept()
    greet(c, u)
    bed.hello(c, u)
    message(c, u)
    all_told(w, CLEAR)
    done(w, c, CLEAR)


@test(quick=True)
def carried_unread(t):
    """The upstream's own STARTTLS: it is news, and nothing is known of what follows. A filter hears no more."""
    w = Watched(t)
    up = t.upstream()
    w.rp = t.ringpost(up, listener={"starttls": "passthrough", "hooks": list(w.hooks)}, conf={"hooks": w.hooks})
    c, u = opened(t, w.rp, up, caps=CAPS + (b"STARTTLS",))
    step(c, u, STARTTLS, b"220 go\r\n")
    c.send(b"\x16\x03\x01 unread")
    u.expect(b"\x16\x03\x01 unread")
    w.milter.saw("OCHQ")
    t.equal(w.script("starttls"), CLEAR, "the script at STARTTLS")
    u.close()
    c.gone()
    done(w, c, CLEAR)


@test(quick=True)
def a_handshake_that_fails(t):
    """STARTTLS was told of, and the session ends without one fact."""
    w = Watched(t)
    bed = w.bed()
    c = bed.arrive()
    u = bed.up.accept()
    greet(c, u)
    bed.hello(c, u)
    c.send(STARTTLS).expect(GO_TLS)
    c.send(b"EHLO in clear\r\n" * 10)
    c.rest()
    u.gone()
    clear_before(w)
    done(w, c, CLEAR)


# ---- what becomes of what was told before ----

@test(quick=True)
def a_transaction_in_clear_before_starttls(t):
    """Its end is told as what it was: nothing of it was protected. The filter is told that it is over, and of the client anew."""
    w = Watched(t)
    bed = w.bed(context=client_context(t, name="client"))
    c = bed.arrive()
    u = bed.up.accept()
    greet(c, u)
    bed.hello(c, u)
    envelope(c, u)
    bed.upgrade(c)
    u.expect(b"RSET\r\n").send(b"250 flushed\r\n")
    bed.hello(c, u)
    facts = facts_of(c, pin(t, "client"), CLIENT, True)
    for kind in ("mail", "rcpt", "starttls", "transaction"):
        t.equal(w.script(kind), CLEAR, "the script at %s, in clear" % kind)
    t.equal(w.audited(" result=aborted"), "", "the plugin, of the transaction in clear")
    t.equal(w.script("ehlo", 2), facts, "the script at EHLO")
    message(c, u)
    for kind in ("mail", "rcpt", "transaction"):
        t.equal(w.script(kind, 2), facts, "the script at %s" % kind)
    t.equal(w.policed("RCPT", 2), policy_words(facts), "the policy server at RCPT")
    w.milter.saw("OCHMRAHMRTA")
    done(w, c, facts)


@test(quick=True)
def filters_refuse_behind_starttls(t):
    """Who has spoken STARTTLS has not got rid of them."""
    w = Watched(t, say={"R": reply("y", "550 5.7.1 no")})
    c, u = w.bed().connect()
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    c.expect(b"550 5.7.1 no\r\n")
    c.close()
    u.gone()


@test(quick=True)
def xclient_keeps_it(t):
    """Who the proxy says the client is changes nothing about the connection, which is the proxy's."""
    w = Watched(t)
    bed = w.bed(context=client_context(t, name="client"), listener={"trusted": ["127.0.0.0/8"]})
    c, u = bed.connect(caps=CAPS + (b"XCLIENT NAME ADDR",))
    step(c, u, b"XCLIENT NAME=spike.test ADDR=1.2.3.4\r\n", GREETING)
    bed.hello(c, u)
    message(c, u)
    facts = facts_of(c, pin(t, "client"), CLIENT, True)
    all_told(w, facts, "OK", 3)
    done(w, c, facts)
