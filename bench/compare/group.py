# SPDX-License-Identifier: GPL-3.0-or-later
"""What a proxy and all its children cost: a control group, or the tree of processes where there are no groups.

A group counts what its processes used after they have gone, too (Postfix and its daemons), and it is charged for the
kernel's memory that works for them (sockets, files, page tables). `open_group()` takes the best that this machine has:
cgroup v2, cgroup v1 (cpuacct and memory), or a walk through /proc, which needs no root and knows no kernel memory.
"""
import errno
import glob
import os
import re
import signal
import time

ROOT = "/sys/fs/cgroup"
NAME, OURS = "ringpost-bench.%d.%s", re.compile(r"ringpost-bench\.(\d+)\.")


def _read(path):
    with open(path) as f:
        return f.read()


def _write(path, text):
    with open(path, "w") as f:
        f.write(text)


def _fields(path):
    """`name number` lines as a mapping."""
    return {line.split()[0]: int(line.split()[1]) for line in _read(path).splitlines() if len(line.split()) == 2}


def _each(pids, name):
    """The text of /proc/PID/NAME of those that still live; a `*` in it is each thread."""
    for pid in pids:
        for path in glob.glob("/proc/%d/%s" % (pid, name)):
            try:
                yield _read(path)
            except (FileNotFoundError, ProcessLookupError):
                pass


def _sum(pids, file, *names):
    """Of the `Name: number` lines with these names."""
    return sum(int(line.split()[1]) for text in _each(pids, file) for line in text.splitlines() if line.split(":")[0] in names)


class Group:
    """One proxy. `kind` goes into the results: what was counted, and how."""
    kind = "processes"

    def __init__(self):
        self.roots = []

    def enter(self):
        """Called in the child between fork and exec."""

    def add(self, pid):
        self.roots.append(pid)

    def pids(self):
        """The processes that were started and what they have started, as far as its parents live."""
        children, alive = {}, set()
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                pid, rest = _read(path).split(" (", 1)
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent = rest.rsplit(")", 1)[1].split()[:2]
            if state not in "ZX":  # who has ended and is not waited for yet does not run
                alive.add(int(pid))
                children.setdefault(int(parent), []).append(int(pid))
        found, todo = [], [pid for pid in self.roots if pid in alive]
        while todo:
            found.append(todo.pop())
            todo += children.get(found[-1], [])
        return found

    def cpu_s(self):
        """(all, user, system) seconds so far. Children that have gone and were waited for count, to a clock tick; `all` of
        what runs is finer where the kernel has it (but it forgets threads that have ended: then the ticks are more)."""
        user = system = gone = 0
        for text in _each(self.pids(), "stat"):
            f = text.rsplit(")", 1)[1].split()
            user, system = user + int(f[11]) + int(f[13]), system + int(f[12]) + int(f[14])
            gone += int(f[13]) + int(f[14])
        tick = os.sysconf("SC_CLK_TCK")
        fine = sum(int(text.split()[0]) for text in _each(self.pids(), "task/*/schedstat")) / 1e9 + gone / tick
        return max((user + system) / tick, fine), user / tick, system / tick

    def switches(self):
        """Context switches of the processes that live."""
        return _sum(self.pids(), "task/*/status", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")

    def user_kib(self):
        """Memory of its own, shared pages in shares (PSS)."""
        return _sum(self.pids(), "smaps_rollup", "Pss")

    def anon_kib(self):
        """The part of it that no file stands behind."""
        return _sum(self.pids(), "status", "RssAnon")

    def threads(self):
        return _sum(self.pids(), "status", "Threads")

    def charged_kib(self):
        """(all, kernel), or None where nobody counts."""
        return None

    def _signal(self, number):
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def end(self, patience_s=5):
        """Nothing of it runs behind this."""
        until = time.monotonic() + patience_s
        self._signal(signal.SIGTERM)
        while self.pids() and time.monotonic() < until:
            time.sleep(0.02)
        while self.pids():
            self._signal(signal.SIGKILL)
            time.sleep(0.02)
        self.close()

    def close(self):
        pass


class _Folders(Group):
    """A group that is one folder in each of some hierarchies."""

    def __init__(self, folders):
        super().__init__()
        self.folders = folders
        made = []
        try:
            for folder in folders:
                os.mkdir(folder)
                made.append(folder)
        except OSError:
            for folder in made:
                os.rmdir(folder)
            raise

    def enter(self):
        for folder in self.folders:
            _write(folder + "/cgroup.procs", "0")

    def pids(self):
        return [int(pid) for pid in set(_read(self.folders[0] + "/cgroup.procs").split())]

    def close(self):
        for folder in self.folders:
            _remove(folder)


def _remove(folder):
    for _ in range(100):  # the last process may still be on its way out
        try:
            os.rmdir(folder)
            return
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            time.sleep(0.02)


class GroupV2(_Folders):
    kind = "cgroup v2"

    def __init__(self, name):
        super().__init__([ROOT + "/" + name])

    def cpu_s(self):
        f = _fields(self.folders[0] + "/cpu.stat")
        return tuple(f[k] / 1e6 for k in ("usage_usec", "user_usec", "system_usec"))

    def charged_kib(self):
        f = _fields(self.folders[0] + "/memory.stat")
        return int(_read(self.folders[0] + "/memory.current")) // 1024, (f["kernel"] + f["sock"]) // 1024


class GroupV1(_Folders):
    kind = "cgroup v1"

    def __init__(self, name):
        super().__init__([ROOT + "/cpuacct/" + name, ROOT + "/memory/" + name])

    def cpu_s(self):
        return tuple(int(_read(self.folders[0] + "/cpuacct." + k)) / 1e9 for k in ("usage", "usage_user", "usage_sys"))

    def charged_kib(self):
        folder = self.folders[1]
        kernel = int(_read(folder + "/memory.kmem.usage_in_bytes")) + int(_read(folder + "/memory.kmem.tcp.usage_in_bytes"))
        return int(_read(folder + "/memory.usage_in_bytes")) // 1024, kernel // 1024


def remove_orphans():
    """Ends what runners left that were killed: each group has its runner's process id in its name."""
    for folder in glob.glob(ROOT + "/ringpost-bench.*") + glob.glob(ROOT + "/*/ringpost-bench.*"):
        ours = OURS.match(os.path.basename(folder))
        if not ours or os.path.exists("/proc/" + ours.group(1)):
            continue
        try:
            for pid in _read(folder + "/cgroup.procs").split():
                os.kill(int(pid), signal.SIGKILL)
            _remove(folder)
        except OSError:
            pass  # not ours to remove, or another runner has just done it


def open_group(name):
    for kind, needs in ((GroupV2, ROOT + "/cgroup.controllers"), (GroupV1, ROOT + "/cpuacct/cpuacct.usage")):
        if not os.path.exists(needs):
            continue
        try:
            if kind is GroupV2:
                _write(ROOT + "/cgroup.subtree_control", "+cpu +memory")
            return kind(NAME % (os.getpid(), name))
        except OSError:
            pass  # not root, or a container that may not make groups
    return Group()
