# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs that are measured side by side, ringpost among them. One class each; `PEERS` is the table.

A peer says which Debian packages it is, how to start it at a `Place` (see stand.py) with a configuration from bench/peers/,
and which scenarios make no sense for it. Everything it starts with `place.spawn()` is pinned, counted and ended.
"""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess

from peer import Peer, said, version_in
from postfix import PostfixFilter, PostfixRelay
from scenarios import BOTH, CLIENT
from stand import Failed, TEMPLATES


class Direct(Peer):
    name = "direct"
    what = "the load talks to the sink: the ceiling of this set-up"
    proxy = False
    tls = (CLIENT, BOTH)


class Ringpost(Peer):
    name = "ringpost"
    what = "relay mode, one worker, log on, a plugin that is shown every envelope event"
    parses = hooks = True
    tls = (CLIENT, BOTH)
    mover = "auto"
    options = ""  # further lines of its configuration
    COUNTED = ("ring_enters", "ring_recvs", "ring_sends_now", "ring_sends_ring")
    END_PATIENCE_S = 20
    TAIL_OCTETS = 1 << 16

    def version(self, build):
        return version_in(said([build + "/ringpost", "--version"]))

    def hook(self, place):
        """The listener's hook, as YAML; empty: none."""
        return "{type: plugin, file: '%s/tests/plugins/observe.so'}" % place.build

    def start(self, place):
        hook = self.hook(place)
        conf = place.template("ringpost.yaml", MOVER=self.mover, ASKED="hook" if hook else "",
                              HOOKS="hook: " + hook if hook else "", OPTIONS=self.options, **self.tls_lines(place))
        place.spawn([place.build + "/ringpost", "run", "-c", conf])

    @staticmethod
    def tls_lines(place):
        """What of its configuration TLS is."""
        return {"LISTENER_TLS": ", starttls: {mode: offer, certificates: bench}" if place.tls else "",
                "UPSTREAM_TLS": ", tls: require" if place.tls == BOTH else "",
                "CERTIFICATES": "certificates: {bench: {chain: '%s', key: '%s'}}" % place.certificate() if place.tls else ""}

    def last_records(self, place):
        """Ends it; the last record of each kind near the end of its log, by its `ev`."""
        place.processes[0].send_signal(signal.SIGTERM)
        try:
            place.processes[0].wait(self.END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Failed("ringpost does not end") from None
        with open(place.dir + "/log", "rb") as f:  # a line for each message and session is in it, too
            f.seek(max(0, f.seek(0, os.SEEK_END) - self.TAIL_OCTETS))
            lines = f.read().splitlines()[1:]  # the first may have lost its beginning
        records = {record["ev"]: record for record in map(json.loads, lines)}
        if "stop" not in records:
            raise Failed("ringpost ended with status %d, without its last record" % place.processes[0].returncode)
        return records

    def more(self, place):
        """Ends it: its last record has the ring's counters of its whole life, here for each message it accepted."""
        record = self.last_records(place)["stop"]
        return {name: record[name] / max(record["messages_accepted"], 1) for name in self.COUNTED}


class RingpostBare(Ringpost):
    name = "ringpost-bare"
    like = "ringpost"
    what = "without a hook"
    hooks = False
    tls = ()

    def hook(self, place):
        return ""


class RingpostMover(Ringpost):
    """The rows that compare ways of moving a chunk; without a chunk there is nothing to move."""

    def __init__(self, mover):
        self.mover = mover
        self.name, self.what = "ringpost-" + mover, "BDAT chunks by the mover " + mover

    def unfit(self, scenario):
        return super().unfit(scenario) if scenario.bdat else "only BDAT makes a difference"


class HAProxy(Peer):
    name = "haproxy"
    what = "TCP mode: moves bytes, reads nothing"
    packages = ("haproxy",)
    program = "haproxy"
    options = ""
    buffer = 16384
    PIPES_MAX = 2000
    ITS_OWN = 100  # descriptors that are not those of sessions

    def version(self, build):
        return version_in(said(["haproxy", "-v"]))

    def start(self, place):
        left = place.descriptors - 2 * place.sessions - self.ITS_OWN  # it does not start when there are too few
        place.spawn(["haproxy", "-db", "-f", place.template("haproxy.cfg", OPTIONS=self.options, BUFFER=self.buffer,
                                                            PIPES=min(self.PIPES_MAX, max(left // 2, 1)))])


class HAProxySplice(HAProxy):
    name = "haproxy-splice"
    like = "haproxy"
    what = "TCP mode with splice-auto"
    options = "option splice-auto"


class HAProxy64k(HAProxy):
    name = "haproxy-64k"
    like = "haproxy"
    what = "TCP mode with buffers of 64k: large mail is cheaper, each busy session larger"
    buffer = 65536


class Nginx(Peer):
    """A module of nginx, loaded from a file or built in."""
    program = "nginx"
    module = ""
    FOLDERS = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")

    def load_module(self):
        """The line that loads it; empty when it is built in, None when it is not there."""
        for folder in self.FOLDERS:
            path = "%s/ngx_%s_module.so" % (folder, self.module)
            if os.path.exists(path):
                return "load_module %s;" % path
        return "" if "--with-%s" % self.module in said(["nginx", "-V"]).split() else None

    def missing(self):
        why = super().missing()
        if not why and self.load_module() is None:
            why = "nginx has no %s module (Debian: %s)" % (self.module, " ".join(self.packages))
        return why

    def version(self, build):
        return version_in(said(["nginx", "-v"]))

    def spawn(self, place, conf, counted=True, **words):
        place.spawn(["nginx", "-p", place.dir, "-e", place.dir + "/error.log", "-c", place.template(conf, **words)], counted)


class NginxStream(Nginx):
    name = "nginx-stream"
    what = "stream module: moves bytes, reads nothing"
    packages = ("nginx", "libnginx-mod-stream")
    module = "stream"
    buffer = "16k"

    def start(self, place):
        self.spawn(place, "nginx-stream.conf", MODULE=self.load_module(), BUFFER=self.buffer)


class NginxStream64k(NginxStream):
    name = "nginx-stream-64k"
    like = "nginx-stream"
    what = "stream module with buffers of 64k: large mail is cheaper, each session larger"
    buffer = "64k"


class NginxMail(Nginx):
    name = "nginx-mail"
    what = "mail module, buffer 64k; auth_http is answered by a second nginx on the load's core that is not counted"
    packages = ("nginx", "libnginx-mod-mail")
    module = "mail"
    parses = True
    buffer = "64k"
    tls = (CLIENT,)

    @staticmethod
    def starttls(place):
        """What of its configuration TLS is."""
        if not place.tls:
            return "starttls off;"
        return "starttls on; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate %s; ssl_certificate_key %s;" % place.certificate()

    def start(self, place):
        self.spawn(place, "nginx-auth.conf", counted=False)
        self.spawn(place, "nginx-mail.conf", MODULE=self.load_module(), BUFFER=self.buffer, STARTTLS=self.starttls(place))


class NginxMail4k(NginxMail):
    name = "nginx-mail-4k"
    like = "nginx-mail"
    what = "mail module with its default buffer: bodies beyond it wait for acknowledgements"
    buffer = "4k"
    tls = ()


class Aiosmtpd(Peer):
    name = "aiosmtpd"
    what = "a proxy of a hundred lines on aiosmtpd and uvloop: a message is read whole, then sent"
    packages = ("python3-aiosmtpd", "python3-uvloop")
    parses = True
    slow = whole = True
    no_bdat = "it knows no CHUNKING"
    PYTHON = "/usr/bin/python3"  # Debian's, whatever comes first in PATH

    def missing(self):
        if not self.version(None):
            return "aiosmtpd or uvloop is not installed (Debian: %s)" % " ".join(self.packages)
        return None

    def version(self, build):
        return version_in(said([self.PYTHON, "-c", "import aiosmtpd, uvloop; print(aiosmtpd.__version__)"]))

    def start(self, place):
        place.spawn([self.PYTHON, "-B", os.path.join(TEMPLATES, "aiosmtpd-proxy.py"), place.host, str(place.port),
                     place.upstream_host, str(place.upstream_port)])


class Command(Peer):
    """Any proxy by its command line: words {host} {port} {upstream_host} {upstream_port} {dir} are filled in."""
    what = "by the command line that was given"
    whole = True  # nobody knows how fast it is
    no_bdat = "nobody knows whether it takes BDAT"

    WORDS = re.compile(r"\{(host|port|upstream_host|upstream_port|dir)\}")  # other braces are the command's own

    def __init__(self, name, command):
        self.name, self.command = name, shlex.split(command)

    def missing(self):
        if not self.command or not shutil.which(self.command[0]):
            return "there is no program %s" % (self.command or [""])[0]
        return None

    def start(self, place):
        words = {"host": place.host, "port": place.port, "upstream_host": place.upstream_host,
                 "upstream_port": place.upstream_port, "dir": place.dir}
        place.spawn([self.WORDS.sub(lambda m: str(words[m.group(1)]), word) for word in self.command])


PEERS = [Direct(), Ringpost(), RingpostBare(), *map(RingpostMover, ("copy", "splice", "ring-splice", "zero-copy")),
         HAProxy(), HAProxySplice(), HAProxy64k(), NginxStream(), NginxStream64k(), NginxMail(), NginxMail4k(), PostfixFilter(),
         PostfixRelay(), Aiosmtpd()]
QUICK = ("direct", "ringpost", "haproxy", "nginx-stream", "nginx-stream-64k", "nginx-mail", "postfix-filter")
for peer in PEERS:
    peer.quick = peer.name in QUICK
