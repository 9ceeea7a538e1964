# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs that are measured side by side, ringpost among them. One class each; `PEERS` is the table.

A peer says which Debian packages it is, how to start it at a `Place` (see stand.py) with a configuration from bench/peers/,
and which scenarios make no sense for it. Everything it starts with `place.spawn()` is pinned, counted and ended.
"""
import os
import re
import shlex
import shutil
import subprocess


def said(argv):
    """What a program prints of its version."""
    try:
        p = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        return p.stdout + p.stderr
    except (OSError, subprocess.TimeoutExpired):
        return ""


def version_in(text):
    m = re.search(r"\d+\.\d+(\.\d+)*", text)
    return m.group(0) if m else ""


class Peer:
    name = ""
    what = ""        # one line for the table of peers
    packages = ()    # Debian packages
    program = ""     # without it the peer cannot run
    proxy = True     # False: the load talks to the sink itself
    parses = False   # reads SMTP
    hooks = False    # an inspection hook is on

    def missing(self):
        """Why it cannot run here, or None."""
        if self.program and not shutil.which(self.program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return "%s is not installed (Debian: %s)" % (self.program, " ".join(self.packages))
        return None

    def version(self):
        return ""

    def unfit(self, scenario):
        """Why this scenario is not run with it, or None."""
        return None

    def start(self, place):
        pass

    def stop(self, place):
        """What has to happen before the group's processes get their signal."""

    def more(self, place):
        """Further figures of its own at the end of a run."""
        return {}


class Direct(Peer):
    name = "direct"
    what = "the load talks to the sink: the ceiling of this set-up"
    proxy = False


class Ringpost(Peer):
    name = "ringpost"
    what = "relay mode, one worker, log on, a plugin that is shown every envelope event"
    parses = hooks = True
    mover = "auto"

    def version(self):
        return "0.1.0"

    def start(self, place):
        conf = place.template("ringpost.yaml", MOVER=self.mover, PLUGIN=place.build + "/tests/plugins/observe.so")
        place.spawn([place.build + "/ringpost", "run", "-c", conf])


class HAProxy(Peer):
    name = "haproxy"
    what = "TCP mode: moves bytes, reads nothing"
    packages = ("haproxy",)
    program = "haproxy"
    options = ""

    def version(self):
        return version_in(said(["haproxy", "-v"]))

    def start(self, place):
        place.spawn(["haproxy", "-db", "-f", place.template("haproxy.cfg", OPTIONS=self.options)])


class HAProxySplice(HAProxy):
    name = "haproxy-splice"
    what = "TCP mode with splice-auto"
    options = "option splice-auto"


class NginxStream(Peer):
    name = "nginx-stream"
    what = "stream module: moves bytes, reads nothing"
    packages = ("nginx-light", "libnginx-mod-stream")
    program = "nginx"

    def version(self):
        return version_in(said(["nginx", "-v"]))

    def start(self, place):
        place.spawn(["nginx", "-p", place.dir, "-e", place.dir + "/error.log", "-c", place.template("nginx-stream.conf")])


class Command(Peer):
    """Any proxy by its command line: words {host} {port} {upstream_host} {upstream_port} {dir} are filled in."""
    what = "by the command line that was given"

    def __init__(self, name, command):
        self.name, self.command = name, command

    def start(self, place):
        words = {"host": place.host, "port": place.port, "upstream_host": place.upstream_host,
                 "upstream_port": place.upstream_port, "dir": place.dir}
        place.spawn([word.format(**words) for word in shlex.split(self.command)])


PEERS = [Direct(), Ringpost(), HAProxy(), HAProxySplice(), NginxStream()]
