# SPDX-License-Identifier: GPL-3.0-or-later
"""What a measurement is made of, without measuring: which CPUs, counters at two moments, command lines, files that stay."""
import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import time
import unittest
from types import SimpleNamespace
from unittest import mock

import group
import idle
import machine
import measure
import postfix
from peers import Command
from scenarios import BOTH, CLIENT
from stand import Failed, Load, Stand, sessions_for

spec = importlib.util.spec_from_file_location("bench_compare", os.path.join(os.path.dirname(machine.__file__), "__main__.py"))
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)


class Cpus(unittest.TestCase):
    def pair(self, allowed, cores=(), caches=(), **asked):
        """On a machine with these cores and caches, as sets of CPUs."""
        def of(sets):
            return lambda cpu: next((s for s in sets if cpu in s), {cpu})
        with mock.patch("os.sched_getaffinity", return_value=set(allowed)), mock.patch("machine.same_core", of(cores)), \
                mock.patch("machine.same_cache", of(caches)), contextlib.redirect_stderr(io.StringIO()):
            return machine.pair(**asked)

    def test_two_cores_not_two_threads_of_one(self):
        self.assertEqual(self.pair({0, 1, 2, 3}, [{0, 1}, {2, 3}]), (0, 2))
        self.assertEqual(self.pair({0, 1}, [{0, 1}]), (0, 1))

    def test_near_where_that_can_be_had(self):
        self.assertEqual(self.pair({0, 1, 8, 9}, [{0, 1}, {8}, {9}], [{0, 1, 9}, {8}]), (0, 9))

    def test_only_what_may_be_used(self):
        self.assertEqual(self.pair({4, 7}), (4, 7))

    def test_what_was_asked_for(self):
        self.assertEqual(self.pair({0, 1, 2}, proxy=2), (2, 0))
        self.assertEqual(self.pair({0, 1, 2}, load=0), (1, 0))
        self.assertEqual(self.pair({0, 1}, [{0, 1}], proxy=1, load=0), (1, 0))

    def test_refused_in_words_not_in_a_trace(self):
        for allowed, asked in (({0}, {}), ({0, 1}, {"proxy": 2}), ({0, 1}, {"load": -1}), ({0, 1}, {"proxy": 1, "load": 1})):
            with self.subTest(asked), self.assertRaises(SystemExit) as e:
                self.pair(allowed, **asked)
            self.assertEqual(e.exception.code, machine.EX_UNAVAILABLE)

    def test_lists_of_the_kernel(self):
        with tempfile.NamedTemporaryFile("w") as f:
            for text, cpus in (("0-2,8\n", {0, 1, 2, 8}), ("3", {3}), ("\n", set())):
                f.seek(0)
                f.truncate()
                f.write(text)
                f.flush()
                self.assertEqual(machine._listed(f.name), cpus)
        self.assertEqual(machine._listed("/nonexistent"), set())


class Counting(unittest.TestCase):
    def core(self, at, rest, stolen=0.0, interrupts=0.0):
        return machine.Core(at, rest, stolen, interrupts)

    def test_busy_is_what_is_neither_rest_nor_stolen(self):
        self.assertAlmostEqual(self.core(12, 101, 5.5).busy_since(self.core(10, 100, 5)), 0.5)
        self.assertEqual(self.core(10, 102).busy_since(self.core(9, 100)), 0)

    def test_of_this_machine(self):
        cpu = min(os.sched_getaffinity(0))
        a, b = machine.core(cpu), machine.core(cpu)
        self.assertGreater(b.at, a.at)
        self.assertGreaterEqual(b.rest, a.rest)
        with self.assertRaises(ValueError):
            machine.core(1 << 20)

    def test_interrupts_are_apart_when_no_probe_has_it_all(self):
        for shares, apart in (([0.8, 0.85], True), ([0.8, None, 0.99], False), ([None], False), ([], False)):
            with self.subTest(shares):
                self.assertEqual(machine.processes_only(shares), apart)

    def test_a_probe_leaves_the_thread_where_it_was(self):
        before = os.sched_getaffinity(0)
        self.assertIn(machine.interrupts_apart(min(before)), (True, False))
        self.assertEqual(os.sched_getaffinity(0), before)

    def record(self, switches):
        """Of two seconds: the proxy's core was busy for 1.3 of them, and the proxy had 1."""
        def at(t, cpu, switches, proxy, load):
            return SimpleNamespace(at=t, cpu=cpu, user=cpu / 4, system=cpu * 3 / 4, segments=100 * t, switches=switches,
                                   proxy_core=proxy, load_core=load)
        a = at(10.0, 1.0, 7, self.core(10, 0, 0), self.core(10, 0))
        b = at(12.0, 2.0, 7 + switches, self.core(12, 0.5, 0.2), self.core(12, 0.2))
        latency = dict.fromkeys(("p50", "p90", "p99", "p999", "max"), 7)
        return measure.record(a, b, 1000, {"latency_us": latency})

    def test_a_record(self):
        r = self.record(0)
        for name, value in (("cpu_ms", 1.0), ("user_ms", 0.25), ("rate", 500), ("segments", 0.2), ("busy_proxy", 0.65),
                            ("foreign", 0.15), ("stolen", 0.1), ("busy_load", 0.9)):
            self.assertAlmostEqual(r[name], value, msg=name)

    def test_waking_up_is_nobodys_work(self):
        self.assertAlmostEqual(self.record(40000)["foreign"], 0.15 - 40000 * 0.35 * measure.WAKE_S / 2)

    def test_how_far_the_two_windows_are_apart(self):
        for a, b, seconds, share in ((0, 1.5, 1.5, 0), (0, 1.53, 1.5, 0.02), (0, 1.47, 1.5, 0.02), (0, 1, 0, 0)):
            self.assertAlmostEqual(measure.edge(SimpleNamespace(at=a), SimpleNamespace(at=b), {"seconds": seconds}), share)


class Loads(unittest.TestCase):
    """What a load says is read whatever comes together."""

    def load(self, script):
        stand = SimpleNamespace(address=("127.0.0.1", 1), place=SimpleNamespace(
            build="", load_cpu=0, network=SimpleNamespace(client=SimpleNamespace(prefix=[sys.executable, "-c", script]))))
        load = Load(stand, [])
        self.addCleanup(load.p.stdout.close)
        self.addCleanup(load.p.stderr.close)
        self.addCleanup(load.kill)
        return load

    def test_marks_and_report_at_once(self):
        load = self.load(r"""print('{"ev":"measuring"}\n{"ev":"measured","messages":3}\n{"accepted":3}')""")
        load.p.wait()
        load.begin()
        self.assertEqual((load.end(1)["messages"], load.report()["accepted"]), (3, 3))

    def test_who_ends_early_says_why(self):
        load = self.load("import sys; print('{\"ev\":\"measuring\"}'); sys.exit('no room')")
        load.begin()
        with self.assertRaisesRegex(Failed, "the load ended: no room"):
            load.end(1)

    def test_no_report(self):
        with self.assertRaisesRegex(Failed, "no report from the load: no room"):
            self.load("import sys; sys.exit('no room')").report()

    def test_who_does_not_end_is_killed(self):
        load = self.load("import time; time.sleep(600)")
        with self.assertRaisesRegex(Failed, "did not end"):
            load.report(0.1)
        self.assertIsNotNone(load.p.poll())


class Ends(unittest.TestCase):
    def test_what_was_started_goes_with_a_runner_that_was_killed(self):
        runner_to_kill = """if 1:
            import os, signal, subprocess, sys
            from stand import goes_with_us
            p = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=goes_with_us)
            print(p.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)"""
        said = subprocess.run([sys.executable, "-B", "-c", runner_to_kill], stdout=subprocess.PIPE, text=True,
                              cwd=os.path.dirname(machine.__file__)).stdout
        end = time.monotonic() + 60
        while os.path.exists("/proc/%d/exe" % int(said)) and time.monotonic() < end:
            time.sleep(0.01)
        self.assertFalse(os.path.exists("/proc/%d/exe" % int(said)))


class Asked(unittest.TestCase):
    def test_only_its_own_words_are_filled_in(self):
        started = []
        place = SimpleNamespace(host="h", port=1, upstream_host="u", upstream_port=2, dir="/d", spawn=started.append)
        Command("mine", "x -l {host}:{port} '{\"to\": \"{upstream_host}:{upstream_port}\"}' {dir}/log {other}").start(place)
        self.assertEqual(started, [["x", "-l", "h:1", '{"to": "u:2"}', "/d/log", "{other}"]])

    def test_a_program_that_is_not_there_is_missing(self):
        self.assertIn("/nonexistent/x", Command("mine", "/nonexistent/x a").missing())
        self.assertIsNone(Command("mine", sys.executable + " a").missing())

    def test_names_are_their_own(self):
        self.assertEqual([(p.name, p.command) for p in runner.commands(["a=x y=z", "b=c"])], [("a", ["x", "y=z"]), ("b", ["c"])])
        for wrong in (["haproxy=x"], ["a=x", "a=y"], ["a"], ["=x"], ["a/b=x"], ["a="]):
            with self.subTest(wrong), self.assertRaises(SystemExit):
                runner.commands(wrong)

    def test_named_twice_is_run_once(self):
        self.assertEqual([s.name for s in runner.choose(runner.SCENARIOS, ["c1", "new-1k", "c1"], "scenario", False)],
                         ["c1", "new-1k"])

    def test_long_rows_have_fewer_rounds(self):
        def scenario(name, **more):
            return runner.SCENARIOS[0].__class__(name, "", "load", **more)
        everywhere = SimpleNamespace(name="p", unfit=lambda s: None)
        never = SimpleNamespace(name="q", unfit=lambda s: "no")
        rows = [scenario("a"), scenario("b", rounds=2), scenario("c", quick_rounds=1)]
        def counts(*how):
            names = [s.name for _, s, _ in runner.runs(rows, [everywhere, never], *how)]
            return [names.count(s.name) for s in rows]
        self.assertEqual((counts(3, False), counts(3, True), counts(1, False)), ([3, 2, 3], [3, 2, 1], [1, 1, 1]))

    def test_one_run_that_breaks_does_not_end_the_others(self):
        def breaks(*_):
            raise FileNotFoundError(2, "no such file")
        with mock.patch.dict(runner.KINDS, {"load": breaks}):
            r = runner.one_run(None, SimpleNamespace(kind="load"), None)
        self.assertIn("FileNotFoundError", r["failed"])

    def test_the_last_results_stay(self):
        with tempfile.TemporaryDirectory() as folder:
            for text in ("first", "second"):
                with open(runner.fresh(os.path.join(folder, "out")), "w") as f:
                    f.write(text)
            with open(runner.fresh(os.path.join(folder, "out")), "w"):
                pass
            with open(os.path.join(folder, "out", "runs.before.jsonl")) as f:
                self.assertEqual(f.read(), "second")


class Tls(unittest.TestCase):
    """Which legs have it is the scenario's; who takes part is the peer's."""

    def rows(self):
        return {s.name: s for s in runner.SCENARIOS if s.tls}

    def test_the_load_asks_for_it(self):
        rows = self.rows()
        self.assertEqual(rows["tls-new-10k"].words, "--connections 500 --per-connection 1 --size 10k --starttls --tls-insecure".split())
        self.assertEqual(rows["tls-new-1k-resumed"].words[-1], "--resume")
        self.assertEqual(rows["tls-idle-10000"].words, ["--starttls", "--tls-insecure"])
        self.assertEqual([s.words for s in runner.SCENARIOS if not s.tls], [s.load.split() for s in runner.SCENARIOS if not s.tls])

    def test_who_takes_part(self):
        peers = {p.name: p for p in runner.PEERS}
        def fit(row):
            return {name for name, p in peers.items() if p.unfit(self.rows()[row]) is None}
        self.assertEqual(fit("tls-new-10k"), {"direct", "ringpost", "nginx-mail"})
        self.assertEqual(fit("tls-both-kept-75k"), {"direct", "ringpost"})
        self.assertEqual(fit("tls-both-idle-10000"), {"ringpost"})

    def test_a_server_has_it_where_somebody_asks_it(self):
        def asked(tls, proxy):
            return Stand(SimpleNamespace(name="x", proxy=proxy), "build", tls=tls)
        wanted = {("", True): False, ("", False): False, (CLIENT, True): False, (CLIENT, False): True, (BOTH, True): True}
        for how, there in wanted.items():
            with self.subTest(how):
                stand = asked(*how)
                stand.place.close()
                self.assertEqual(stand.sink_tls, there)

    def test_what_the_peers_are_told(self):
        peers = {p.name: p for p in runner.PEERS}
        def place(tls):
            return SimpleNamespace(tls=tls, certificate=lambda: ("c", "k"))
        lines = {tls: peers["ringpost"].tls_lines(place(tls)) for tls in ("", CLIENT, BOTH)}
        self.assertEqual(set(lines[""].values()), {""})
        self.assertEqual([[bool(lines[tls][k]) for k in ("LISTENER_TLS", "UPSTREAM_TLS", "CERTIFICATES")] for tls in (CLIENT, BOTH)],
                         [[True, False, True], [True, True, True]])
        self.assertIn("starttls off", peers["nginx-mail"].starttls(place("")))
        self.assertIn("ssl_certificate_key k;", peers["nginx-mail"].starttls(place(CLIENT)))

    def test_a_certificate_is_made_once(self):
        stand = Stand(SimpleNamespace(name="x", proxy=True), "build", tls=CLIENT)
        self.addCleanup(stand.place.close)
        chain, key = stand.place.certificate()
        with open(chain) as f:
            first = f.read()
        self.assertIn("BEGIN CERTIFICATE", first)
        self.assertEqual(os.stat(key).st_mode & 0o077, 0)
        stand.place.certificate()
        with open(chain) as f:
            self.assertEqual(f.read(), first)

    def test_without_openssl_it_is_said(self):
        stand = Stand(SimpleNamespace(name="x", proxy=True), "build", tls=CLIENT)
        self.addCleanup(stand.place.close)
        with mock.patch("subprocess.run", side_effect=FileNotFoundError(2, "no openssl")), self.assertRaisesRegex(Failed, "openssl"):
            stand.place.certificate()

    def test_what_a_load_says_of_it(self):
        said = {"handshakes": 200, "resumed": 150, "handshakes_per_second": 100.0, "version": "TLSv1.3", "cipher": "C",
                "handshake_us": {"p50": 7}}
        self.assertEqual(measure.handshakes(said), {"handshakes": 100.0, "resumed": 0.75, "handshake_us": 7, "tls": "TLSv1.3 C"})
        self.assertEqual(measure.handshakes({**said, "handshakes": 0, "resumed": 0})["resumed"], 0)


class Limits(unittest.TestCase):
    def test_peers_are_set_up_for_what_the_descriptors_allow(self):
        asked = (50, 1 << 20), (7500, 20000), (50, 4096), (900, 1024)
        self.assertEqual([sessions_for(*x) for x in asked], [6000, 7516, 1365, 916])

    def test_postfix_has_processes_for_all_sessions_of_an_idle_row(self):
        self.assertGreater(postfix.PROCESSES_SPARE, idle.WARM_SESSIONS + 1)

    def test_kernel_memory_that_shrank_is_nobodys(self):
        for slabs, charged, sessions, wrong in ((-2.23, 1.47, 1000, True), (4.2, 1.47, 1000, False), (-4.6, 0.0, 50, False),
                                                (None, 1.47, 1000, False), (4.2, None, 1000, False)):
            with self.subTest((slabs, charged)):
                self.assertEqual(idle.shrank(slabs, charged, sessions), wrong)

    def test_as_many_descriptors_as_a_program_can_make_tables_of(self):
        with mock.patch("builtins.open", mock.mock_open(read_data="1073741816")), \
                mock.patch("resource.getrlimit", return_value=(1024, 1073741816)), mock.patch("resource.setrlimit") as set_to:
            self.assertEqual(machine.raise_descriptors(), machine.DESCRIPTORS_MOST)
        self.assertEqual(set_to.call_args.args[1][0], machine.DESCRIPTORS_MOST)


class Orphans(unittest.TestCase):
    def test_groups_of_dead_runners_are_removed_and_no_others(self):
        with tempfile.TemporaryDirectory() as root, mock.patch("group.ROOT", root), mock.patch("os.kill") as kill:
            for name in ("ringpost-bench.%d.haproxy" % os.getpid(), "memory/ringpost-bench.999999999.nginx",
                         "ringpost-bench.999999999.haproxy", "other"):
                os.makedirs(os.path.join(root, name))
                with open(os.path.join(root, name, "cgroup.procs"), "w") as f:  # in a real one it goes with the folder
                    f.write("4194305\n4194306\n" if name.endswith("999.haproxy") else "")
            with mock.patch("os.rmdir") as gone:
                group.remove_orphans()
        self.assertEqual(sorted(call.args[0][len(root):] for call in gone.call_args_list),
                         ["/memory/ringpost-bench.999999999.nginx", "/ringpost-bench.999999999.haproxy"])
        self.assertEqual([call.args[0] for call in kill.call_args_list], [4194305, 4194306])
