# SPDX-License-Identifier: GPL-3.0-or-later
"""Scanners of other people at ringpost's doors: what it offers, and what it does not. Each scanner is also shown a server
that offers what is bad, and has to find that."""
import re
import subprocess
import xml.etree.ElementTree as ET

from kit import servers, tls
from lib.core import Failure, cases

FINE = re.compile(r"(TLS_(AES|CHACHA20)|(TLS_)?ECDHE[-_](ECDSA|RSA)[-_](WITH_)?(AES_?(128|256)[-_]GCM|CHACHA20))")


def run(t, *argv):
    p = subprocess.run([servers.tool(argv[0])] + list(argv[1:]), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=60 * t.slow)
    if p.returncode:
        raise Failure("%s ended with status %d:\n%s" % (argv[0], p.returncode, p.stdout + p.stderr))
    return p.stdout


def sslscan(t, port, mode):
    """What is wrong with this port, in words."""
    out = run(t, "sslscan", "--no-colour", "--show-sigs", "--xml=-", "--no-cipher-details",
              *(["--starttls-smtp"] if mode == "starttls" else []), "127.0.0.1:%d" % port)
    test_ = ET.fromstring(out[out.index("<?xml"):]).find("ssltest")
    if test_ is None:
        raise Failure("sslscan:\n" + out)
    bad = []
    for p in test_.iter("protocol"):
        name, on = "%sv%s" % (p.get("type").upper(), p.get("version")), p.get("enabled") == "1"
        if on != (name in ("TLSv1.2", "TLSv1.3")):
            bad.append("%s is %s" % (name, "on" if on else "off"))
    ciphers = [c for c in test_.iter("cipher")]
    bad += ["%s %s" % (c.get("sslversion"), c.get("cipher")) for c in ciphers if not FINE.match(c.get("cipher"))]
    for want in ("TLSv1.2", "TLSv1.3"):
        if sum(c.get("sslversion") == want for c in ciphers) < 3:
            bad.append("fewer than three ciphers of %s" % want)
    bad += ["compression"] if any(c.get("supported") != "0" for c in test_.iter("compression")) else []
    bad += ["renegotiation"] if any(r.get("supported") != "0" for r in test_.iter("renegotiation")) else []
    bad += ["heartbleed"] if any(h.get("vulnerable") != "0" for h in test_.iter("heartbleed")) else []
    return bad


def nmap(t, port, mode):
    """It has ciphers that OpenSSL has forgotten."""
    out = run(t, "nmap", "-Pn", "-n", "-p", str(port), "--script", "+ssl-enum-ciphers", "-oX", "-", "127.0.0.1")
    tables = {v.get("key"): [e.text for e in v.iter("elem") if e.get("key") == "name"]
              for s in ET.fromstring(out).iter("script") for v in s.findall("table")}
    bad = ["%s is on" % v for v in tables if v not in ("TLSv1.2", "TLSv1.3")]
    bad += ["%s is off" % v for v in ("TLSv1.2", "TLSv1.3") if v not in tables]
    bad += ["%s %s" % (v, c) for v, names in tables.items() for c in names
            if not FINE.match(c.replace("TLS_AKE_WITH", "TLS"))]
    compressors = [e.text for s in ET.fromstring(out).iter("script") for v in s.findall("table")
                   for c in v.findall("table") if c.get("key") == "compressors" for e in c.findall("elem")]
    return bad + ["compression " + c for c in compressors if c != "NULL"]


SCANS = {"sslscan-starttls": (sslscan, "starttls"), "sslscan-implicit": (sslscan, "implicit"),
         "nmap-implicit": (nmap, "implicit")}


@cases(SCANS, timeout=90)
def offers_nothing_bad(t, how):
    scan, mode = how
    rp = tls.doors(t, servers.Sink(t), limits={"per-client-sessions": "0"})
    bad = scan(t, tls.door(rp, mode), mode)
    t.equal(bad, [], "what is wrong")


@cases({"sslscan": sslscan, "nmap": nmap}, timeout=90)
def finds_what_is_bad(t, scan):
    port = servers.free_port()
    certs = tls.Certs(t)
    with open(t.path("lax.err"), "wb") as err:
        lax = subprocess.Popen([servers.tool("openssl"), "s_server", "-accept", "127.0.0.1:%d" % port, "-quiet",
                                "-cert", certs.chain("rsa"), "-key", certs.key("rsa"), "-no_tls1_3", "-cipher",
                                "ALL:@SECLEVEL=0"], stdin=subprocess.DEVNULL, stdout=err, stderr=err)
    try:
        t.until(lambda: tls.listens(port), "openssl s_server listens", 10)
        bad = scan(t, port, "implicit")
    finally:
        lax.kill()
        lax.wait()
    for word in ("TLSv1.1 is on", "TLSv1.3 is off", "CBC" if scan is nmap else "AES128-SHA"):
        t.check(any(word in b for b in bad), "%s is not among %r" % (word, bad))
