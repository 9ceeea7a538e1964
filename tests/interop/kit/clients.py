# SPDX-License-Identifier: GPL-3.0-or-later
"""The real clients. Each has send(port, [(sender, rcpts, content)]) and raises Failure when it says that a message
was not taken. addresses are str, contents octets (before dot-stuffing).

RawClient is ours: no client of Debian 12 sends BDAT. It also sends DATA exactly as told.
"""
import contextlib
import re
import smtplib
import socket
import subprocess

from lib.core import Failure, show
from kit.servers import PostfixInstance, tool

HELO = "client.test"


def port_of(rp):
    return int(rp.address.rpartition(":")[2])


class Client:
    """A program that is started once for each message."""

    def __init__(self, t):
        self.t = t
        self.files = 0

    def file(self, content):
        self.files += 1
        path = self.t.path("%s-%d.data" % (type(self).__name__, self.files))
        with open(path, "wb") as f:
            f.write(content)
        return path

    @staticmethod
    def sends(content):
        """What the program makes of it."""
        return content

    def run(self, argv, ok=(0,)):
        """(status, output); Failure when the status is not one of `ok`."""
        try:
            p = subprocess.run([tool(argv[0])] + argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, timeout=30 * self.t.slow)
        except subprocess.TimeoutExpired as e:
            raise Failure("%s does not end; it said:\n%s" % (argv[0], (e.stdout or b"").decode("utf-8", "replace")[-3000:]))
        out = p.stdout.decode("utf-8", "replace")
        if ok is not None and p.returncode not in ok:
            raise Failure("%s ended with status %d:\n%s" % (" ".join(argv), p.returncode, out[-3000:]))
        return p.returncode, out

    def send(self, port, messages):
        for m in messages:
            self.one(port, *m)


class Swaks(Client):
    """Dot-stuffs, turns every kind of newline into CRLF, ends the last line whether it has an end or not.
    A last line of one dot it takes for the end that it would add itself. A file that is empty it does not open."""

    @staticmethod
    def sends(content):
        return content[:-3] if content.endswith(b"\r\n.\r\n") else content + b"\r\n"

    def __init__(self, t, *options):
        super().__init__(t)
        self.options = list(options)

    def argv(self, port, sender, rcpts, content, *more):
        return ["swaks", "--server", "127.0.0.1", "--port", str(port), "--ehlo", HELO, "--from", sender or "<>",
                "--to", ",".join(rcpts), "--data", "@" + self.file(content), "--suppress-data",
                "--timeout", "%ds" % (20 * self.t.slow)] + self.options + list(more)

    def one(self, port, sender, rcpts, content):
        return self.run(self.argv(port, sender, rcpts, content))[1]


class Curl(Client):
    """Dot-stuffs, adds a last CRLF. Several messages to one address in one session: --next."""

    def __init__(self, t, *options, scheme="smtp", host="127.0.0.1"):
        super().__init__(t)
        self.options = list(options)
        self.scheme, self.host = scheme, host  # a name is looked up here

    def argv(self, port, sender, rcpts, content):
        argv = ["--silent", "--show-error", "--max-time", str(25 * self.t.slow), "--upload-file", self.file(content),
                "--mail-from", sender, "%s://%s:%d/%s" % (self.scheme, self.host, port, HELO),
                "--resolve", "%s:%d:127.0.0.1" % (self.host, port)]
        for r in rcpts:
            argv += ["--mail-rcpt", r]
        return argv + self.options

    def one(self, port, sender, rcpts, content):
        return self.run(["curl"] + self.argv(port, sender, rcpts, content))[1]

    def send(self, port, messages):
        argv = ["curl"]
        for i, m in enumerate(messages):
            argv += (["--next"] if i else []) + self.argv(port, *m)
        self.run(argv)


class Smtplib(Client):
    """Dot-stuffs octets, leaves newlines as they are, adds a last CRLF. One session for all."""

    def send(self, port, messages):
        with smtplib.SMTP("127.0.0.1", port, HELO, timeout=20 * self.t.slow) as c:
            for m in messages:
                self.one(c, *m)

    @staticmethod
    def one(c, sender, rcpts, content):
        try:
            options = []
            c.ehlo_or_helo_if_needed()
            if c.has_extn("smtputf8") and not (sender + "".join(rcpts)).isascii():
                options = ["SMTPUTF8", "BODY=8BITMIME"]
            refused = c.sendmail(sender, rcpts, content, options)
        except (smtplib.SMTPException, OSError) as e:
            raise Failure("smtplib: %r" % e)
        if refused:
            raise Failure("smtplib: refused %r" % refused)


class SmtpSource(Client):
    """HELO, no pipelining; stuffs dots, ends each line of the file with CRLF, sends an empty line more."""

    @staticmethod
    def sends(content):
        return content + b"\r\n"

    def one(self, port, sender, rcpts, content):
        self.run(["smtp-source", "-c", "-f", sender, "-t", rcpts[0], "-M", HELO, "-F",
                  self.file(content.replace(b"\r\n", b"\n")), "127.0.0.1:%d" % port])

    def load(self, port, sessions, count, sender, *options):
        """(texts of the 250s to final dots, its status, what it said). Its own counter (-c) counts a message as soon as
        its body is sent, so the replies are read from its verbose output, where each DATA is answered by a 354."""
        status, out = self.run(["smtp-source", "-v", "-f", sender, "-t", "to@load.test", "-M", HELO, "-s", str(sessions),
                                "-m", str(count)] + list(options) + ["127.0.0.1:%d" % port], ok=None)
        return re.findall(r"<<< 250 (2\.0\.0 .*(?:queued as|taken).*|2\.0\.0 Ok)$", out, re.M), status, out


class PostfixClient(Client):
    """Postfix's smtp(8): a second private instance that has ringpost as its relayhost. It takes the messages by its
    own smtpd; what it says of their delivery is in its log."""

    def __init__(self, t, main=None):
        super().__init__(t)
        self.main = main
        self.instance = None
        self.sent = 0

    def send(self, port, messages):
        if self.instance is None:
            self.instance = PostfixInstance(self.t, port, main=self.main, name="postfix-client")
        self.instance.inject(messages)
        self.sent += sum(len(rcpts) for _, rcpts, _ in messages)
        self.t.until(lambda: len(self.statuses()) >= self.sent,
                     "Postfix's client has delivered all: %s" % self.instance.complaint(), 20)
        bad = [s for s in self.statuses() if s[0] != "sent"]
        if bad:
            raise Failure("Postfix's client says %r\n%s" % (bad[0], self.instance.complaint()))

    def statuses(self):
        return self.instance.logged(r"postfix/smtp\[\d+\]: .* status=(\w+) (.*)")


class RawClient:
    """A client of sockets for BDAT, and for DATA without any help."""

    def __init__(self, t, port, greets=True):
        self.t = t
        self.sock = socket.create_connection(("127.0.0.1", port), 15 * t.slow)
        self.sock.settimeout(15 * t.slow)
        self.file = self.sock.makefile("rb")
        if greets:
            self.expect(b"220")

    def reply(self):
        lines = []
        while True:
            line = self.file.readline()
            if not line.endswith(b"\r\n"):
                raise Failure("no whole reply: %s" % show(b"".join(lines) + line))
            lines.append(line)
            if line[3:4] != b"-":
                return b"".join(lines)

    def expect(self, *codes):
        out = []
        for code in codes:
            out.append(self.reply())
            if not out[-1].startswith(code):
                raise Failure("expected %s, got %s" % (show(code), show(out[-1])))
        return out[-1]

    def say(self, data, *codes):
        self.sock.sendall(data)
        return self.expect(*codes) if codes else None

    def ehlo(self):
        return self.say(b"EHLO " + HELO.encode() + b"\r\n", b"250")

    @staticmethod
    def envelope(sender, rcpts, params=b""):
        return b"MAIL FROM:<%s>%s\r\n" % (sender.encode(), params) + b"".join(
            b"RCPT TO:<%s>\r\n" % r.encode() for r in rcpts)

    @staticmethod
    def chunks(content, size):
        """BDAT commands with their octets; the last one says LAST (of nothing when there is nothing)."""
        pieces = [content[i:i + size] for i in range(0, len(content), size)] or [b""]
        return [b"BDAT %d%s\r\n" % (len(p), b" LAST" if i == len(pieces) - 1 else b"") + p for i, p in enumerate(pieces)]

    def bdat(self, sender, rcpts, content, size, pipelined, params=b""):
        """A whole message by BDAT."""
        commands = self.chunks(content, size)
        steps = [(self.envelope(sender, rcpts, params), [b"250"] * (1 + len(rcpts)))]
        steps += [(c, [b"250"]) for c in commands]
        if pipelined:
            self.sock.sendall(b"".join(s[0] for s in steps))
            return self.expect(*[code for s in steps for code in s[1]])
        for data, codes in steps:
            last = self.say(data, *codes)
        return last

    def data(self, sender, rcpts, raw, final=b"250"):
        """`raw` is what goes over the wire between the 354 and the final reply."""
        self.say(self.envelope(sender, rcpts), *[b"250"] * (1 + len(rcpts)))
        self.say(b"DATA\r\n", b"354")
        return self.say(raw, final)

    def close(self):
        self.file.close()
        self.sock.close()

    def quit(self):
        self.say(b"QUIT\r\n", b"221")
        if self.sock.recv(1):
            raise Failure("octets behind the reply to QUIT")
        self.close()


class Reply:
    """What decided about a message: the last reply to it, or the first that was neither 2xx nor 3xx. step: `connect`,
    a command, or `end`."""

    def __init__(self, step, raw):
        self.step, self.raw = step, raw
        self.code = int(raw[:3])
        self.text = raw[4:].rstrip(b"\r\n").decode("utf-8", "replace")

    def __repr__(self):
        return "%s: %d %s" % (self.step, self.code, self.text)


def attempt(t, port, sender, rcpts, content, chunk=None):
    """One message in a session of its own, by BDAT in chunks of that size or by DATA. A refused recipient decides only
    when none is left."""
    with contextlib.closing(RawClient(t, port, greets=False)) as c:
        def ask(step, octets):
            if octets:
                c.sock.sendall(octets)
            return Reply(step, c.reply())

        steps = [("connect", b""), ("ehlo", b"EHLO " + HELO.encode() + b"\r\n"), ("mail", c.envelope(sender, ()))]
        for step, octets in steps:
            reply = ask(step, octets)
            if reply.code >= 400:
                return reply
        heard = [ask("rcpt", b"RCPT TO:<%s>\r\n" % r.encode()) for r in rcpts]
        if all(r.code >= 400 for r in heard):
            return heard[0]
        if chunk:
            for octets in c.chunks(content, chunk):
                reply = ask("end", octets)
                if reply.code >= 400:
                    return reply
        else:
            reply = ask("data", b"DATA\r\n")
            if reply.code >= 400:
                return reply
            reply = ask("end", stuffed(content) + b".\r\n")
        return reply


def stuffed(content):
    """RFC 5321 4.5.2: only a dot that begins a line, and only CRLF ends one."""
    out = content.replace(b"\r\n.", b"\r\n..")
    return b"." + out if out.startswith(b".") else out


KINDS = {"swaks": Swaks, "curl": Curl, "smtplib": Smtplib, "postfix-client": PostfixClient, "smtp-source": SmtpSource}
