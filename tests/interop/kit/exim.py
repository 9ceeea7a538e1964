# SPDX-License-Identifier: GPL-3.0-or-later
"""Exim beside Postfix, which no Debian machine can have as packages: the program alone is taken out of its package
(the Makefile's need-exim), and runs on a copy of it and a configuration of its own.

It insists on an account that its package would have made: nss_wrapper lets it see that name for the account it runs
as, which is nobody's when the tests run as root, the tester's otherwise. It needs no other rights.
"""
import os
import re
import shutil
import subprocess

from kit import servers
from lib.core import Failure

MAIN = """\
TRUSTED = {dir}/ca.pem
primary_hostname = exim.test
spool_directory = {dir}/spool
log_file_path = {dir}/log/%slog
exim_path = {dir}/exim4
keep_environment = LD_PRELOAD : NSS_WRAPPER_PASSWD : NSS_WRAPPER_GROUP
deliver_drop_privilege = true
received_header_text =
disable_ipv6 = true
dns_dnssec_ok = 0
host_lookup =
rfc1413_query_timeout = 0s
local_from_check = false
message_size_limit = 60M
log_selector = +tls_cipher +tls_certificate_verified +tls_resumption
acl_smtp_rcpt = take
acl_not_smtp_start = as_it_is
{more}
begin acl
take:
  accept
as_it_is:
  accept control = suppress_local_fixups
begin routers
{routers}
begin transports
{transports}
begin retry
* * F,1h,1m
"""

ROUTER = """\
{name}:
  driver = manualroute
  domains = {domain}.test
  route_list = * localhost::{port} byname
  self = send
  transport = {name}
"""

TRANSPORT = """\
  driver = smtp
  protocol = {protocol}
  hosts_require_tls = *
  tls_require_ciphers = NORMAL:-VERS-ALL:+VERS-TLS{version}
  tls_verify_certificates = TRUSTED
  tls_verify_hosts = *
  tls_sni = mx.example.org
  hosts_try_dane =
  dnssec_request_domains =
"""


def word(name):
    """What Exim takes for a name."""
    return name.replace("-", "_")


def transport(mode, version, more=""):
    return TRANSPORT.format(protocol="smtps" if mode == "implicit" else "smtp", version=version) + more


class Exim(servers.Server):
    def __init__(self, t, name):
        super().__init__(t, name)
        self.dir = t.path(self.name)
        for sub in ("", "/spool", "/log", "/out"):
            os.mkdir(self.dir + sub)
        self.ids = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        private = os.path.join(os.path.dirname(t.build), "exim", "exim4")
        shutil.copyfile(private if os.path.exists(private) else servers.tool("exim4"), self.dir + "/exim4")
        shutil.copyfile(t.certs() + "/ca.pem", self.dir + "/ca.pem")
        os.chmod(self.dir + "/exim4", 0o755)
        self.write("passwd", "root:x:0:0::/:/bin/false\nDebian-exim:x:%d:%d::/:/bin/false\n" % self.ids)
        self.write("group", "root:x:0:\nDebian-exim:x:%d:\nmail:x:8:\n" % self.ids[1])

    def write(self, name, text):
        with open(self.dir + "/" + name, "w") as f:
            f.write(text)

    def configure(self, routers, transports, more=""):
        self.write("conf", MAIN.format(dir=self.dir, routers=routers, transports=transports, more=more))
        for path, _, names in os.walk(self.dir):
            for name in [path] + [os.path.join(path, n) for n in names]:
                os.chown(name, *self.ids)

    def command(self, *arguments):
        own = [self.dir + "/exim4", "-C", self.dir + "/conf"] + list(arguments)
        if os.geteuid() != 0:
            return own
        return [servers.tool("setpriv"), "--reuid=%d" % self.ids[0], "--regid=%d" % self.ids[1], "--clear-groups"] + own

    def environment(self):
        return dict(os.environ, LD_PRELOAD="libnss_wrapper.so", NSS_WRAPPER_PASSWD=self.dir + "/passwd",
                    NSS_WRAPPER_GROUP=self.dir + "/group")

    def log(self):
        return servers.tail(self.dir + "/log/mainlog", 1 << 20) + servers.tail(self.dir + "/log/paniclog")

    def logged(self, pattern):
        return re.findall(pattern, self.log(), re.M)

    def complaint(self):
        return super().complaint() + self.log()[-3000:]


class Client(Exim):
    """ways: {name: (port, transport)}: mail for NAME.test goes by that transport to that port."""

    def __init__(self, t, ways):
        super().__init__(t, "exim-client")
        self.configure("".join(ROUTER.format(name=word(n), domain=n, port=p) for n, (p, _) in ways.items()),
                       "".join(word(n) + ":\n" + text for n, (_, text) in ways.items()))

    def send(self, sender, rcpts, content):
        """Delivers before it ends; what became of the message is in its log."""
        p = subprocess.run(self.command("-odf", "-oi", "-f", sender, *rcpts), input=content.replace(b"\r\n", b"\n"),
                           capture_output=True, env=self.environment(), cwd="/", timeout=40 * self.t.slow)
        if p.returncode:
            raise Failure("exim ended with status %d:\n%s%s" % (p.returncode, (p.stdout + p.stderr).decode(), self.log()))


FILE = """\
file:
  driver = appendfile
  directory = {dir}/out
  maildir_format = true
  use_crlf = true
  message_prefix = "$sender_address $local_part@$domain $tls_in_cipher\\r\\n"
  message_suffix =
"""


class Server(Exim):
    """A daemon with a port for each of `cells`."""

    def __init__(self, t, certs, pair, cells):
        super().__init__(t, "exim")
        self.doors = {cell: servers.free_port() for cell in cells}
        shutil.copyfile(certs.chain(pair), self.dir + "/chain.pem")
        shutil.copyfile(certs.key(pair), self.dir + "/key.pem")
        old = [str(p) for (_, version), p in self.doors.items() if version == "1.2"]
        self.configure("all:\n  driver = accept\n  transport = file\n", FILE.format(dir=self.dir), "\n".join((
            "local_interfaces = 127.0.0.1",
            "daemon_smtp_ports = " + " : ".join(map(str, self.doors.values())),
            "tls_on_connect_ports = " + " : ".join(str(p) for (mode, _), p in self.doors.items() if mode == "implicit"),
            "tls_advertise_hosts = *", "tls_resumption_hosts = *",
            "tls_certificate = %s/chain.pem" % self.dir,
            "tls_privatekey = %s/key.pem" % self.dir,
            "tls_require_ciphers = NORMAL:-VERS-ALL:+VERS-TLS${if match{$received_port}{\\N^(%s)$\\N}{1.2}{1.3}}" % "|".join(old),
            "pid_file_path = %s/pid" % self.dir)))
        with open(t.path(self.name + ".err"), "ab") as err:
            self.proc = subprocess.Popen(self.command("-bdf"), stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                         env=self.environment(), cwd="/")
        t.until(self.listens, "Exim starts", 15)

    def listens(self):
        from kit import tls
        if self.proc.poll() is not None:
            raise Failure("Exim ended at once:\n" + self.complaint())
        return all(tls.listens(p) for p in self.doors.values())

    def files(self):
        new = self.dir + "/out/new"
        return sorted(os.path.join(new, f) for f in os.listdir(new)) if os.path.isdir(new) else []

    def count(self):
        return len(self.files())

    def messages(self):
        out = []
        for path in self.files():
            with open(path, "rb") as f:
                words, _, content = f.read().partition(b"\r\n")
            sender, rcpt, cipher = words.split(b" ", 2)
            m = servers.Message(sender, [rcpt], content)
            m.tls = cipher.decode()
            out.append(m)
        return out
