# SPDX-License-Identifier: GPL-3.0-or-later
"""From lines of a measurement to what its report says: medians, spreads, which runs count, goals, two measurements."""
import json
import os
import tempfile
import unittest

import agree
import goals
import plausible
import report
import results
import tables

MACHINE = {"ev": "machine", "date": "2026-11-27", "cpu": "X", "cpus": 2, "peers": {"ringpost": "0.1.0", "haproxy": "2.6"}}
IDLE = {"sessions": 100000, "alive": 100000, "processes": 1, "threads": 2, "user_kib": 2.4, "kernel_kib": 7.6, "all_kib": 10.4,
        "base_kib": 2048}


def run(scenario, peer, round_=0, **figures):
    return {"ev": "run", "round": round_, "scenario": scenario, "peer": peer, **figures}


def made(*runs):
    """Results of these runs, by way of lines."""
    return results.Results([json.dumps(r) for r in (MACHINE,) + runs])


def costs(scenario, **by_peer):
    """A run for each value in a peer's list, round by round. A pair is a value and the others' work beside it."""
    for peer, values in by_peer.items():
        for i, value in enumerate(values):
            cpu, foreign = value if isinstance(value, tuple) else (value, 0.02)
            yield run(scenario, peer.replace("_", "-"), i, cpu_ms=cpu, foreign=foreign, rate=100, busy_proxy=0.99, busy_load=0.2)


class Reading(unittest.TestCase):
    def test_order_is_that_of_the_runs(self):
        r = made(run("new-1k", "b", cpu_ms=1), run("new-1k", "a", cpu_ms=1), run("c1", "b", cpu_ms=1))
        self.assertEqual((r.scenarios(), r.peers(), r.peers(["c1"]), r.rounds()), (["new-1k", "c1"], ["b", "a"], ["b"], 1))

    def test_a_file_cut_short_is_read_up_to_there(self):
        r = results.Results([json.dumps(MACHINE), json.dumps(run("c1", "a", cpu_ms=1)), '{"ev":"run","rou'])
        self.assertEqual((len(r.runs), r.cut), (1, True))
        self.assertIn("cut short", report.head(r))

    def test_what_is_no_file_of_runs_is_refused_in_words(self):
        machine, one = json.dumps(MACHINE), json.dumps(run("c1", "a", cpu_ms=1))
        for lines, words in (([one], "describes the machine"), ([machine, "{", one], "line 2 is not JSON"),
                             ([machine, one, one], "line 3: round 0 of c1 with a is there twice"),
                             ([machine, machine], "a second machine"), ([machine, '{"ev":"run"}'], "neither"),
                             ([machine, "7"], "neither")):
            with self.subTest(words), self.assertRaisesRegex(results.Broken, words):
                results.Results(lines)


class Samples(unittest.TestCase):
    def test_median_and_spread(self):
        s = made(*costs("c1", a=[1.0, 1.3, 1.1])).sample("c1", "a", "cpu_ms")
        self.assertEqual((s.median, s.low, s.high, s.n), (1.1, 1.0, 1.3, 3))
        self.assertAlmostEqual(s.noise, 0.15 / 1.1)

    def test_one_run_tells_no_spread(self):
        self.assertIsNone(made(*costs("c1", a=[1.0])).sample("c1", "a", "cpu_ms").noise)

    def test_a_disturbed_run_is_left_out(self):
        r = made(*costs("c1", a=[1.0, (5.0, 0.11), 1.2]))
        s = r.sample("c1", "a", "cpu_ms")
        self.assertEqual((s.by_round, s.disturbed, len(r.disturbed())), ({0: 1.0, 2: 1.2}, False, 1))

    def test_a_tenth_of_the_window_is_not_yet_disturbed(self):
        self.assertEqual(made(*costs("c1", a=[1.0, (5.0, 0.10)])).sample("c1", "a", "cpu_ms").n, 2)

    def test_a_run_whose_counters_were_read_late_is_left_out(self):
        r = made(run("c1", "a", 0, cpu_ms=1.0, edge=0.02), run("c1", "a", 1, cpu_ms=5.0, edge=0.021))
        self.assertEqual((r.sample("c1", "a", "cpu_ms").by_round, len(r.disturbed())), ({0: 1.0}, 1))

    def slow(self, *figures):
        """Runs of a cell: CPU, the load's share of its core at 1,000 messages a second, packets."""
        return made(*(run("c1", "a", i, cpu_ms=cpu, busy_load=busy, rate=1000, segments=n) for i, (cpu, busy, n) in enumerate(figures)))

    def test_a_run_while_the_machine_was_slower_is_left_out(self):
        r = self.slow((1.0, 0.7, 8.0), (1.4, 0.98, 8.01), (1.05, 0.76, 8.0))
        self.assertEqual((r.sample("c1", "a", "cpu_ms").by_round, len(r.slowed()), len(r.disturbed())), ({0: 1.0, 2: 1.05}, 1, 0))
        self.assertIn("0 by others' work, 1 while the machine was slower", report.head(r))

    def test_a_proxy_that_was_slower_is_not_the_machine(self):
        self.assertEqual(self.slow((1.0, 0.9, 8.0), (2.0, 0.9, 8.0)).sample("c1", "a", "cpu_ms").n, 2)

    def test_other_packets_are_other_work_for_the_load(self):
        self.assertEqual(self.slow((1.0, 0.7, 8.0), (1.4, 0.98, 9.0)).sample("c1", "a", "cpu_ms").n, 2)

    def test_a_load_with_little_to_do_tells_nothing(self):
        self.assertEqual(self.slow((1.0, 0.3, 8.0), (1.4, 0.45, 8.0)).sample("c1", "a", "cpu_ms").n, 2)

    def test_where_all_are_disturbed_they_count_and_are_marked(self):
        r = made(*costs("c1", a=[(4.0, 0.5), (5.0, 0.5)], ringpost=[1.0, 1.0]))
        self.assertEqual((r.sample("c1", "a", "cpu_ms").median, r.sample("c1", "a", "cpu_ms").disturbed), (4.5, True))
        self.assertEqual(report.cell(r, "c1", "a", "cpu_ms"), "4.50* (4.50)")

    def test_a_failed_run_has_no_figures(self):
        r = made(*costs("c1", ringpost=[1.0]), run("c1", "a", failed="no answer", cpu_ms=9), run("c1", "b", failed="x"),
                 run("c1", "b", 1, cpu_ms=2))
        self.assertIsNone(r.sample("c1", "a", "cpu_ms"))
        self.assertEqual([report.cell(r, "c1", p, "cpu_ms") for p in ("a", "b", "c", "ringpost")],
                         ["failed", "2.00 (2.00)", "-", "1.00"])

    def test_refused_messages_are_marked(self):
        r = made(run("c1", "a", cpu_ms=1, not_accepted=3))
        self.assertEqual(report.cell(r, "c1", "a", "cpu_ms"), "1.00!")

    def test_what_load_and_sink_took(self):
        r = made(run("c1", "ringpost", rate=1000, busy_load=0.5), run("c1", "a", rate=2000, busy_load=0.5), run("c1", "b", rate=0))
        self.assertEqual([report.cell(r, "c1", p, "load_ms") for p in ("ringpost", "a", "b")], ["0.500", "0.250 (0.50)", "-"])

    def test_lock_step_in_a_pipelined_row_is_marked(self):
        r = made(run("kept-4k-pipe", "a", cpu_ms=1, lock_step=50), run("kept-4k-pipe", "b", cpu_ms=1))
        self.assertEqual([report.cell(r, "kept-4k-pipe", p, "cpu_ms") for p in "ab"], ["1.00~", "1.00"])

    def test_figures_one_level_down_and_absent_ones(self):
        r = made(run("c1", "a", latency_us={"p50": 7}), run("c1", "b", all_kib=None))
        self.assertEqual(r.sample("c1", "a", "latency_us.p50").median, 7)
        self.assertIsNone(r.sample("c1", "a", "latency_us.p99"))
        self.assertIsNone(r.sample("c1", "b", "all_kib"))


class Ratios(unittest.TestCase):
    def test_taken_within_each_round(self):
        # The medians alone would say 1.0: the machine was half as fast in the third round, and the peer's second was slow.
        r = made(*costs("c1", a=[1.5, 2.0, 3.0], ringpost=[1.0, 1.0, 2.0]))
        self.assertEqual(r.ratio("c1", "a", "ringpost", "cpu_ms").by_round, {0: 1.5, 1: 2.0, 2: 1.5})
        self.assertEqual(report.cell(r, "c1", "a", "cpu_ms"), "2.00 (1.50)")

    def test_only_rounds_that_both_have(self):
        r = made(*costs("c1", a=[1.0, (9.0, 0.5), 3.0], ringpost=[(7.0, 0.5), 1.0, 2.0]))
        self.assertEqual(r.ratio("c1", "a", "ringpost", "cpu_ms").by_round, {2: 1.5})

    def test_without_a_common_round_of_the_medians(self):
        r = made(*costs("c1", a=[3.0, (9.0, 0.5)], ringpost=[(7.0, 0.5), 2.0]))
        ratio = r.ratio("c1", "a", "ringpost", "cpu_ms")
        self.assertEqual((ratio.median, ratio.n, ratio.disturbed), (1.5, 1, False))

    def test_is_disturbed_when_one_side_is(self):
        self.assertTrue(made(*costs("c1", a=[1.0], ringpost=[(1.0, 0.5)])).ratio("c1", "a", "ringpost", "cpu_ms").disturbed)

    def test_to_nothing_there_is_none(self):
        r = made(*costs("c1", a=[1.0], ringpost=[0.0]))
        self.assertIsNone(r.ratio("c1", "a", "ringpost", "cpu_ms"))
        self.assertIsNone(r.ratio("c1", "a", "nobody", "cpu_ms"))

    def test_latency_is_added_to_that_of_the_same_round(self):
        def at(us):
            return {"p50": us, "p99": us * 2, "p999": us * 3}
        runs = [run("rate-1k", p, i, rate=2000, latency_us=at(us)) for p, all_us in (("direct", (100, 300)), ("a", (150, 370)))
                for i, us in enumerate(all_us)]
        self.assertEqual(made(*runs).added("rate-1k", "a", "direct", "latency_us.p50").by_round, {0: 50, 1: 70})
        row = report.latency_row(made(*runs), "rate-1k", "a")
        self.assertEqual(row, ["rate-1k", "a", "2,000", "260", "520", "780", "+60.0", "+120", "+180"])
        self.assertEqual(report.latency_row(made(*runs), "rate-1k", "direct")[-3:], ["-", "-", "-"])


class Cells(unittest.TestCase):
    def test_numbers(self):
        for x, text in ((0.030149, "0.0301"), (0.158, "0.158"), (9.9, "9.90"), (99.96, "100"), (104.2, "104"), (999.7, "1,000"),
                        (1816.4, "1,816"), (0, "0"), (None, "-"), (-0.5, "-0.500")):
            with self.subTest(x):
                self.assertEqual(tables.short(x), text)

    def test_limits(self):
        for proxy, load, text in ((0.96, 0.5, "P"), (0.5, 0.96, "L"), (0.97, 0.99, "PL"), (0.95, 0.95, ""), (0, 0, "")):
            with self.subTest((proxy, load)):
                self.assertEqual(results.limit(proxy, load), text)
        self.assertEqual(report.rate_cell(made(*costs("c1", a=[1.0])), "c1", "a"), "100 P ")

    def test_every_figure_has_its_ratio_to_ringpost(self):
        def one(peer, x):
            return run("c1", peer, rate=100 * x, segments=20 * x, switches=1,
                       latency_us={k: 50 * x for k in ("p50", "p99", "p999")})
        r = made(one("ringpost", 1), one("a", 2))
        self.assertEqual((report.rate_cell(r, "c1", "a").strip(), report.packets_cell(r, "c1", "a")),
                         ("200 (2.00)", "40.0 (2.00) / 1.00"))
        self.assertEqual(report.latency_row(r, "c1", "a")[3:6], ["100 (2.00)"] * 3)
        self.assertEqual(report.latency_row(r, "c1", "ringpost")[3:6], ["50.0"] * 3)

    def test_the_head_says_what_moves_the_figures(self):
        machine = {**MACHINE, "proxy_cpu": 2, "load_cpu": 3, "one_core": True, "governor": "powersave", "namespace": True,
                   "congestion_control": "bbr", "interrupts": "apart"}
        runs = [run("c1", "a", i, cpu_ms=1, counted="cgroup v2", stolen=x) for i, x in enumerate((0, 0.01, 0.2))]
        text = report.head(results.Results([json.dumps(line) for line in (machine, *runs)]))
        for words in ("proxy on CPU 2, load and sink on 3, two threads of one core, clock: powersave", "of its own, bbr",
                      "cgroup v2, interrupts added", "at most 1.0 %, the worst 20 %"):
            self.assertIn(words, text)

    def test_bold_is_the_cheapest_mover_and_ringpost_not_above_it(self):
        r = made(*costs("new-1k", ringpost=[1.0], haproxy=[1.2], nginx_stream=[1.0], nginx_mail=[0.5]),
                 *costs("new-10k", ringpost=[1.1], haproxy=[1.0], nginx_stream=[1.2]), *costs("c1", ringpost=[1.1]))
        self.assertEqual([report.emphasised(r, s) for s in r.scenarios()], [("nginx-stream", "ringpost"), ("haproxy",), ()])

    def test_who_does_not_keep_up_with_the_schedule(self):
        at = {"latency_us": {"p50": 1, "p99": 1, "p999": 1}}
        r = made(run("rate-1k", "a", rate=1890, **at), run("rate-1k", "b", rate=1910, **at))
        self.assertEqual([report.latency_row(r, "rate-1k", p)[2] for p in "ab"], ["1,890 behind", "1,910"])

    def test_sessions_that_were_not_opened_are_shown(self):
        r = made(run("idle-100000", "ringpost", **IDLE), run("idle-100000", "a", **{**IDLE, "alive": 49000, "all_kib": 20.8}))
        self.assertEqual(report.memory_row(r, "idle-100000", "a"),
                         ["idle-100000", "a", "49,000 of 100,000", "2.40 (1.00)", "7.60 (1.00)", "20.8 (2.00)", "2.00", "1/2"])

    def test_a_handshake_is_what_the_row_takes_more_than_without(self):
        def shaken(scenario, peer, cpu, resumed, round_=0):
            return run(scenario, peer, round_, cpu_ms=cpu, handshakes=5000, resumed=resumed)
        r = made(*costs("new-1k", a=[0.1, 0.2]), shaken("tls-new-1k", "a", 0.2, 0), shaken("tls-new-1k", "a", 0.3, 0, 1),
                 shaken("tls-both-new-1k-resumed", "a", 0.15, 0.995), shaken("tls-new-1k", "direct", 0, 0),
                 shaken("tls-new-10k", "a", 0.2, 0), run("tls-new-1k", "b", failed="x"))
        rows = [report.handshake_row(r, *cell)[2:] for cell in (("tls-new-1k", "a"), ("tls-both-new-1k-resumed", "a"),
                                                                ("tls-new-1k", "direct"), ("tls-new-10k", "a"), ("tls-new-1k", "b"))]
        self.assertEqual(rows, [["5,000", "0.0", "100", "10,000"], ["5,000", "100", "50.0", "20,000"], ["5,000", "0.0", "-", "-"],
                                ["5,000", "0.0", "-", "-"], ["failed", "-", "-", "-"]])

    def test_columns_are_aligned(self):
        lines = tables.table(["a", "bb"], [["long name", "1"], ["x", "1,000"]]).splitlines()
        self.assertEqual(lines, ["| a         |    bb |",
                                 "|:----------|------:|",
                                 "| long name |     1 |",
                                 "| x         | 1,000 |"])

    def test_failures_show_the_first_and_the_last_line(self):
        r = made(run("c1", "a", 0, failed="a ended with status 1: note (17)\nmore\nno | descriptors\n"),
                 run("c1", "a", 1, failed="a ended with status 1: note (18)\nno | descriptors"), run("c1", "b", failed="x" * 200))
        rows = [[c.strip() for c in line.strip("| ").split(" | ")] for line in report.failures(r).splitlines()[2:]]
        self.assertEqual(rows, [["c1", "a", "2", "a ended with status 1: note (18) … no \\| descriptors"],
                                ["c1", "b", "1", "x" * 110 + "…"]])

    def test_histograms_are_added_up(self):
        r = made(run("rate-1k", "a", 0, histogram=[[10, 1], [20, 2]]), run("rate-1k", "a", 1, histogram=[[10, 4], [15, 1]]),
                 run("rate-1k", "a", 2, histogram=[[10, 100]], foreign=0.5))
        self.assertEqual(r.histogram("rate-1k", "a"), [[10, 5], [15, 1], [20, 2]])


class Goals(unittest.TestCase):
    def verdicts(self, *runs):
        return {g.what.split(":")[0]: g.verdict for g in goals.goals(made(*runs))}

    def test_cpu_against_the_cheapest_mover(self):
        v = self.verdicts(*costs("new-1k", ringpost=[0.9, 1.0, 0.9], haproxy=[2, 2, 2], nginx_stream=[1.0, 1.0, 1.0]),
                          *costs("kept-4k", ringpost=[0.9, 1.01, 0.9], haproxy=[1.0, 1.0, 1.0]),
                          *costs("kept-75k", ringpost=[1.1, 1.01, 0.9], haproxy=[1.0, 1.0, 1.0]),
                          *costs("new-10k", ringpost=[0.9], nginx_mail=[2]), *costs("new-100k", haproxy=[1]),
                          run("new-100k", "ringpost", failed="x"), *costs("c500", ringpost=[9], haproxy=[1]))
        self.assertEqual(v, {"CPU, new-1k": "reached", "CPU, kept-4k": "reached within the noise", "CPU, kept-75k": "not reached",
                             "CPU, new-10k": "not measured", "CPU, new-100k": "not reached", "CPU, c500": "not reached",
                             "idle sessions at once": "not measured"})

    def test_a_mover_that_was_tuned_counts(self):
        v = self.verdicts(*costs("new-1k", ringpost=[0.9], haproxy=[1.0], nginx_stream_64k=[0.8]),
                          *costs("new-1m", ringpost=[0.5], haproxy=[1.0], haproxy_64k=[0.6]),
                          *costs("new-10m", ringpost=[0.5], haproxy=[1.0], haproxy_64k=[1.1]))
        self.assertEqual(v, {"CPU, new-1k": "not reached", "CPU, new-1m": "not reached",
                             "CPU, new-1m, default buffers": "reached", "CPU, new-10m": "reached",
                             "idle sessions at once": "not measured"})

    def test_a_large_message_may_cost_little_more_than_half(self):
        v = self.verdicts(*costs("new-1m", ringpost=[0.55], haproxy=[1.0]),
                          *costs("new-10m", ringpost=[0.56], haproxy_splice=[1.0]))
        self.assertEqual((v["CPU, new-1m"], v["CPU, new-10m"]), ("reached", "not reached"))

    def test_the_ratio_is_that_of_each_round(self):
        # By the medians 1.0 over 1.0; by rounds 0.5, 1.1, 1.2.
        r = made(*costs("new-1k", ringpost=[1.0, 0.99, 2.4], haproxy=[2.0, 0.9, 2.0]))
        g = goals.goals(r)[0]
        self.assertEqual((g.value, g.low, g.high, g.n, g.verdict), ("1.100", "0.500", "1.200", 3, "not reached"))

    def test_disturbed_runs_are_marked(self):
        g = goals.goals(made(*costs("new-1k", ringpost=[(0.5, 0.3)], haproxy=[1.0])))[0]
        self.assertEqual((g.value, g.verdict), ("0.500*", "reached"))

    def test_memory_and_sessions(self):
        v = self.verdicts(run("idle-100000", "ringpost", 0, **IDLE),
                          run("idle-100000", "ringpost", 1, **{**IDLE, "user_kib": 2.6}),
                          run("idle-100000", "ringpost", 2, **{**IDLE, "all_kib": 10.5}))
        self.assertEqual(v, {"user memory of a session, idle-100000, KiB": "reached within the noise",
                             "all memory of a session, idle-100000, KiB": "reached", "idle sessions at once": "reached"})

    def test_too_few_sessions(self):
        for figures, verdict in (({**IDLE, "alive": 99999}, "not reached"), ({"failed": "no descriptors"}, "not reached")):
            with self.subTest(figures):
                self.assertEqual(self.verdicts(run("idle-100000", "ringpost", **figures))["idle sessions at once"], verdict)

    def test_memory_that_nobody_counts_is_not_measured(self):
        v = self.verdicts(run("idle-1000", "ringpost", **{**IDLE, "kernel_kib": None, "all_kib": None}))
        self.assertEqual((v["user memory of a session, idle-1000, KiB"], v["all memory of a session, idle-1000, KiB"]),
                         ("reached", "not measured"))

    def test_tls_is_beside_the_one_that_ends_it_there(self):
        v = self.verdicts(*costs("tls-new-10k", ringpost=[0.5, 0.61, 0.5], nginx_mail=[1.0, 1.0, 1.0]),
                          *costs("tls-kept-75k", ringpost=[0.61], nginx_mail=[1.0]),
                          run("tls-idle-10000", "ringpost", **{**IDLE, "user_kib": 8.0}),
                          run("tls-both-idle-10000", "ringpost", **{**IDLE, "user_kib": 14.1}))
        self.assertEqual(v, {"CPU, tls-new-10k": "reached within the noise", "CPU, tls-kept-75k": "not reached",
                             "user memory of a session, tls-idle-10000, KiB": "reached",
                             "user memory of a session, tls-both-idle-10000, KiB": "not reached",
                             "idle sessions at once": "not measured"})

    def test_tls_alone_is_not_measured_beside_anybody(self):
        self.assertEqual(self.verdicts(*costs("tls-new-10k", ringpost=[0.5])),
                         {"CPU, tls-new-10k": "not measured", "idle sessions at once": "not measured"})

    def test_summary(self):
        samples = [None] + [results.Sample({0: x}) for x in (1.0, 2.0, 0.5)]
        found = [goals.at_most("x", s, 1.0, str) for s in samples]
        self.assertEqual(goals.summary(found), "Goals: 2 reached, 1 not reached, 1 not measured.")


class Against(unittest.TestCase):
    def pair(self, a, b, scenario="new-1k"):
        return agree.pairs(made(*costs(scenario, ringpost=[1.0] * len(a), haproxy=a)),
                            made(*costs(scenario, ringpost=[2.0] * len(b), haproxy=[2 * x for x in b])))

    def test_ratios_agree_though_the_machine_is_slower(self):
        (p,) = self.pair([1.5, 1.5, 1.5], [1.5, 1.5, 1.5])
        self.assertEqual((p.scenario, p.peer, p.a, p.b, p.quotient, p.apart, p.in_noise),
                         ("new-1k", "haproxy", 1.5, 1.5, 1.0, 0.0, True))

    def test_within_the_noise_of_both(self):
        (p,) = self.pair([0.95, 1.0, 1.05], [1.05, 1.1, 1.15])
        self.assertAlmostEqual(p.noise, 0.05 + 0.05 / 1.1)
        self.assertFalse(p.in_noise)
        (p,) = self.pair([0.95, 1.0, 1.05], [1.03, 1.08, 1.13])
        self.assertTrue(p.in_noise)

    def test_it_does_not_matter_which_is_named_first(self):
        (x,), (y,) = self.pair([1.0], [1.25]), self.pair([1.25], [1.0])
        self.assertAlmostEqual(x.apart, 0.25)
        self.assertAlmostEqual(x.apart, y.apart)

    def test_one_round_each_states_no_noise(self):
        (p,) = self.pair([1.0], [1.0])
        self.assertIsNone(p.in_noise)

    def test_no_spread_counts_for_less_than_the_typical(self):
        spreads = {"new-1k": [1.0, 1.0], "c1": [0.9, 1.1], "c500": [0.8, 1.2]}
        def measured():
            return made(*(r for s, v in spreads.items() for r in costs(s, ringpost=[1.0, 1.0], haproxy=v)))
        noise = {p.scenario: round(p.noise, 6) for p in agree.pairs(measured(), measured())}
        self.assertEqual(noise, {"new-1k": 0.2, "c1": 0.2, "c500": 0.4})

    def test_memory_of_tls_sessions_is_no_message(self):
        def measured(kib):
            return made(*(run("tls-idle-10000", p, **{**IDLE, "all_kib": x}) for p, x in (("ringpost", 10), ("a", kib))))
        (p,) = agree.pairs(measured(20), measured(40))
        self.assertEqual(p.quotient, 2.0)

    def test_memory_is_compared_by_all_of_it(self):
        def measured(kib):
            return made(run("idle-1000", "ringpost", **IDLE), run("idle-1000", "a", **{**IDLE, "user_kib": 99, "all_kib": kib}))
        (p,) = agree.pairs(measured(10.4), measured(20.8))
        self.assertEqual(p.quotient, 2.0)

    def test_memory_that_was_counted_in_another_way_is_not_compared(self):
        def measured(how):
            return made(*(run("idle-1000", p, **{**IDLE, "kernel_from": how}) for p in ("ringpost", "a")))
        self.assertEqual(len(agree.pairs(measured("slabs"), measured("slabs"))), 1)
        self.assertEqual(agree.pairs(measured("slabs"), measured("cgroup v2")), [])

    def test_what_only_one_has_is_not_compared(self):
        a = made(*costs("new-1k", ringpost=[1.0], haproxy=[1.0], a=[1.0]), *costs("c1", ringpost=[1.0], haproxy=[1.0]))
        b = made(*costs("new-1k", ringpost=[1.0], haproxy=[1.0]), run("c1", "haproxy", failed="x"))
        self.assertEqual([(p.scenario, p.peer) for p in agree.pairs(a, b)], [("new-1k", "haproxy")])
        self.assertIn("Nothing to compare", agree.compare(a, made(*costs("c500", ringpost=[1.0]))))

    def test_the_summary_counts(self):
        P = agree.Pair
        found = [P("s", "a", 1.0, 1.05, 0.02), P("s", "b", 1.0, 1.0, 0.02), P("s", "c", 1.0, 1.5, None)]
        text = agree.agreement(found, 0.10)
        self.assertIn("2 of 3 ratios agree within 10 %; 1 of 2 within their own noise", text)
        self.assertIn("furthest apart: s, c, by 50 %", text)
        self.assertIn("1 of 3 ratios agree within 4.0 %", agree.agreement(found, 0.04))


class Whole(unittest.TestCase):
    def test_every_section_has_its_runs(self):
        res = results.Results([json.dumps(line) for line in plausible.lines()])
        text = report.render(res, "![x](x.svg)")
        titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
        self.assertEqual(titles, ["CPU per message", "Spread of CPU per message", "Messages per second",
                                  "CPU of load and sink", "Packets and context switches", "Latency",
                                  "Memory per idle session", "BDAT", "BDAT, messages per second",
                                  "BDAT, CPU of load and sink", "TLS", "TLS, messages per second",
                                  "TLS, CPU of load and sink", "TLS handshakes", "TLS, memory per idle session", "A far network",
                                  "A far network, messages per second", "A far network, latency", "Goals", "Pictures",
                                  "Runs that failed", "The scenarios"])
        for scenario in res.scenarios():
            self.assertIn("| %s " % scenario, text)
        self.assertIn("AMD EPYC, 2 CPUs, 23.5 GiB", text)
        self.assertIn("only 1000 sessions were opened", text)

    def test_no_section_without_runs(self):
        text = report.render(made(*costs("new-1k", ringpost=[1.0], haproxy=[1.0])))
        for title in ("Latency", "Memory", "BDAT", "TLS", "A far network", "Runs that failed", "Pictures"):
            self.assertNotIn("## " + title, text)
        report.render(made())
        report.brief(made())

    def test_written_with_links_to_the_pictures_that_are_there(self):
        with tempfile.TemporaryDirectory() as folder:
            path, said = os.path.join(folder, "runs.jsonl"), []
            with open(path, "w") as f:
                f.writelines(json.dumps(r) + "\n" for r in (MACHINE, *costs("new-1k", ringpost=[1.0], haproxy=[1.2])))
            open(os.path.join(folder, "memory.svg"), "w").close()
            to = report.write(path, folder, said.append)
            with open(to) as f:
                text = f.read()
        self.assertIn("![memory](memory.svg)", text)
        self.assertNotIn("latency.svg", text)
        self.assertIn("1.20 (1.20)", said[0])
