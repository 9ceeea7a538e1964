/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * engine/core/limits: how many sessions fit into what the process may have, and what the hooks'
 * connections and files of kept messages take of it.
 */
#include "engine/core/limits.h"
#include "ring/spool.h"

#include <criterion/criterion.h>
#include <sys/resource.h>

#define HEAD                                                                      \
	"workers: 4\nlisteners:\n  in: {bind: 127.0.0.1:2525, upstream: mta%s}\n" \
	"upstreams: {mta: {servers: 10.0.0.10:25}}\n%s"
#define POLICY "{type: policy, endpoint: 127.0.0.1:1, connections: 10}"
#define MILTER "{type: milter, endpoint: 127.0.0.1:2, connections: 5}"
#define KEEPER "{type: lua, file: /x, mode: hold-all}"

/* Named: what the listener names of `rest`. */
static struct conf *conf_with(const char *named, const char *rest)
{
	char text[1024], *said = NULL;
	size_t said_n = 0;
	FILE *err = open_memstream(&said, &said_n);
	int n = snprintf(text, sizeof(text), HEAD, named, rest);
	struct conf *c = conf_load_text("t.yaml", text, (size_t)n, err);

	fclose(err);
	cr_assert_not_null(c, "%s", said);
	free(said);
	return c;
}

static struct process_limits plan(const struct conf *c, uint64_t nofile)
{
	struct process_limits l;

	limits_plan_with(c, nofile, &l);
	cr_assert_eq(l.nofile, nofile);
	return l;
}

/* Of the process, for each worker its address, itself and its pipes. */
static uint64_t reserve(const struct process_limits *l)
{
	return 24 + 4 * (1 + 8 + 2ull * l->ring.pipe_count_max);
}

/* So many sessions, which take so many descriptors beyond two each and what is always kept. */
static void check_room(
	const char *named, const char *rest, uint64_t nofile, uint32_t sessions, uint64_t more)
{
	struct conf *c = conf_with(named, rest);
	struct process_limits l = plan(c, nofile);

	cr_expect_eq(l.sessions, sessions, "%u sessions of %s", l.sessions, rest);
	cr_expect_leq(reserve(&l) + 2ull * sessions + more, nofile, "%s", rest);
	cr_expect_eq(l.cut, LIMITS_NOFILE);
	cr_expect_eq(l.worker.sessions_max, sessions);
	conf_free(c);
}

Test(limits, without_hooks_a_session_is_two_descriptors)
{
	struct conf *c = conf_with("", "limits: {sessions: 100}");
	struct process_limits l = plan(c, 1024);

	cr_assert(l.sessions == 100 && l.cut == LIMITS_FIT);
	cr_assert_eq(l.nofile_needed, reserve(&l) + 2);
	cr_assert_eq(l.ring.ops_max, 100u * 8 + 1024);
	conf_free(c);
	check_room("", "", 1024, 466, 0);
	check_room("", "", 1025, 466, 0);
	check_room("", "", 1026, 467, 0);
}

Test(limits, connections_of_hooks_are_counted)
{
	/* 466 * 2 = 932 descriptors, as above. */
	check_room(", hooks: p", "hooks: {p: " POLICY "}", 1024, 446, 40);
	check_room(", hooks: m", "hooks: {m: " MILTER "}", 1024, 456, 20);
	check_room(", hooks: [m, p]", "hooks: {m: " MILTER ", p: " POLICY "}", 1024, 436, 60);
	/* Nobody asks it. */
	check_room("", "hooks: {p: " POLICY "}", 1024, 466, 0);
	/* Less than the 500 of each worker: one for each session of four equal shares, 78. */
	check_room(
		", hooks: m", "hooks: {m: {type: milter, endpoint: 127.0.0.1:2}}", 1024, 310, 312);
}

Test(limits, a_hook_of_two_listeners_is_counted_once)
{
	struct conf *c = conf_with(", hooks: p}\n  two: {bind: 127.0.0.1:2526, upstream: mta, "
				   "hooks: p",
		"hooks: {p: " POLICY "}");

	cr_assert_eq(hook_connections_max(c, 1000), 10u);
	conf_free(c);
}

Test(limits, milters_have_no_more_connections_than_sessions)
{
	struct conf *c = conf_with(", hooks: [p, m]", "hooks: {m: " MILTER ", p: " POLICY "}");

	cr_assert_eq(hook_connections_max(c, 1000), 15u);
	cr_assert_eq(hook_connections_max(c, 5), 15u);
	cr_assert_eq(hook_connections_max(c, 3), 13u);
	cr_assert_eq(hook_connections_max(c, 0), 10u);
	conf_free(c);
}

Test(limits, kept_messages_have_files)
{
	/* One for each session, but no more than messages whose fronts fill the memory: 64m / 1m.
	 */
	check_room(", hooks: k", "hooks: {k: " KEEPER "}", 1024, 310, 310);
	check_room(", hooks: k", "hold: {memory: 64m, spill: 1m}\nhooks: {k: " KEEPER "}", 1024,
		434, 64);
	check_room(", hooks: k",
		"hold: {disk: 0, memory: 512m, spill: 50m}\nhooks: {k: " KEEPER "}", 1024, 466, 0);
	check_room("", "hooks: {k: " KEEPER "}", 1024, 466, 0);
}

Test(limits, operations_for_all_sockets_and_files)
{
	struct conf *c = conf_with(", hooks: [p, m, k]",
		"limits: {sessions: 100}\nhold: {memory: 64m, spill: 8m}\n"
		"hooks: {k: " KEEPER ", p: " POLICY ", m: " MILTER "}");
	struct process_limits l = plan(c, 1024);

	/* 8 files */
	cr_assert(l.sessions == 100 && l.cut == LIMITS_FIT);
	cr_assert_eq(l.ring.ops_max, (200u + 15) * 4 + 8 * SPOOL_OPS_MAX + 1024);
	conf_free(c);
	/* 100 of them would have more, but there are only 16 blocks of 16k */
	c = conf_with(", hooks: k", "limits: {sessions: 100}\n"
				    "hold: {memory: 1m, spill: 16k}\nhooks: {k: " KEEPER "}");
	l = plan(c, 1024);
	cr_assert_eq(l.ring.ops_max, 200u * 4 + 16 + 1024);
	conf_free(c);
	/* A message and a made body of the one session there is. */
	c = conf_with(", hooks: k", "limits: {sessions: 1}\nhooks: {k: " KEEPER "}");
	l = plan(c, 1024);
	cr_assert_eq(l.ring.ops_max, 2u * 4 + 2 * SPOOL_OPS_MAX + 1024);
	conf_free(c);
}

Test(limits, too_few_descriptors_for_one_session)
{
	struct conf *c = conf_with(", hooks: p", "hooks: {p: " POLICY "}");
	struct process_limits l = plan(c, 101);

	cr_assert(l.nofile_needed == 24 + 4 + 4 * 8 + 40 + 2 && l.nofile_needed > l.nofile);
	cr_assert(l.sessions == 1 && l.cut == LIMITS_NOFILE);
	l = plan(c, 102);
	cr_assert(l.nofile_needed == l.nofile && l.sessions == 1);
	conf_free(c);
}

Test(limits, no_ring_serves_four_million_sessions)
{
	struct conf *c = conf_with("", "limits: {sessions: 4m}");
	struct process_limits l = plan(c, UINT64_MAX);

	cr_assert(l.cut == LIMITS_RING && l.sessions == (RING_OPS_MAX - 1024) / 8);
	cr_assert_leq(l.ring.ops_max, RING_OPS_MAX);
	conf_free(c);
}

Test(limits, the_real_limit_is_raised_first)
{
	struct conf *c = conf_with("", "");
	struct rlimit r = {.rlim_cur = 512, .rlim_max = 1024};
	struct process_limits l;

	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &r), 0);
	limits_plan(c, &l);
	cr_assert(l.nofile == 1024 && l.cut == LIMITS_NOFILE);
	conf_free(c);
}
