# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runner asks of a program that is measured."""
import re
import resource
import shutil
import subprocess

from scenarios import BOTH, IDLE, RATE

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


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
    what = ""          # one line for the table of peers
    packages = ()      # Debian packages
    program = ""       # without it the peer cannot run
    quick = False      # part of the quick set, too
    proxy = True       # False: the load talks to the sink itself
    parses = False     # reads SMTP
    hooks = False      # an inspection hook is on
    no_bdat = ""       # why it takes no BDAT
    tls = ()           # the legs on which it is measured with TLS: CLIENT, BOTH
    sessions_max = 0   # the most sessions at once that it is asked to hold (0: any number), and why
    sessions_why = ""
    like = ""          # the peer that it is a variant of, where that makes no difference to idle sessions
    slow = False       # cannot follow the schedules of the latency scenarios on one core
    # Figures over a whole load, until nothing is under way, in place of a window of it: where so few messages end in a
    # window that its edges count, and where messages are delivered behind their acceptance.
    whole = False

    def missing(self):
        """Why it cannot run here, or None."""
        if self.program and not shutil.which(self.program, path=PATH):
            return "%s is not installed (Debian: %s)" % (self.program, " ".join(self.packages))
        return None

    def version(self, build):
        """Of the program that is run; `build` is where ringpost's are."""
        return ""

    def unfit(self, scenario):
        """Why this scenario is not run with it, or None."""
        if scenario.bdat and self.no_bdat:
            return self.no_bdat
        if scenario.tls and scenario.tls not in self.tls:
            return "not measured with STARTTLS%s" % (" upstream" if scenario.tls == BOTH and self.tls else "")
        if self.sessions_max and scenario.at_once > self.sessions_max:
            return "at most %d sessions at once: %s" % (self.sessions_max, self.sessions_why)
        needed, may = 2 * scenario.at_once, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if self.proxy and needed > may and scenario.kind != IDLE:  # idle sessions are spread over copies
            return "%d sessions need %d descriptors, a process may have %d here" % (scenario.at_once, needed, may)
        if scenario.kind == RATE and self.slow:
            return "one core of it cannot follow the schedule"
        if scenario.kind == IDLE and not self.proxy:
            return "no proxy"
        if scenario.kind == IDLE and self.like:
            return "holds idle sessions as %s does" % self.like
        return None

    def start(self, place):
        pass

    def drain(self, place):
        """Returns when everything that it has accepted is in the sink."""

    def stop(self, place):
        """What has to happen before the group's processes get their signal."""

    def more(self, place):
        """Further figures of its own. Asked when all is measured: it may end its processes for them."""
        return {}
