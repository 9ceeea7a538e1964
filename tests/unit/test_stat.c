/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The counter table: every row names its own counter, and increments by the owner can be watched by
 * another thread without tearing or going back (run under TSan for the race itself).
 */
#include "engine/obs/stat.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>

static size_t row_of(const char *name)
{
	for (size_t i = 0; i < stat_row_count; i++)
		if (strcmp(stat_rows[i].name, name) == 0)
			return i;
	cr_fatal("no counter %s", name);
	return 0;
}

Test(stat, each_row_reads_its_own_counter)
{
	static struct stat_table t;

	for (size_t i = 0; i < stat_row_count; i++)
		((uint64_t *)&t)[i] = 1000 + i;
	for (size_t i = 0; i < stat_row_count; i++) {
		cr_assert(eq(u64, stat_read(&t, i), 1000 + stat_rows[i].offset / 8));
		for (size_t j = 0; j < i; j++)
			cr_assert(ne(str, (char *)stat_rows[i].name, (char *)stat_rows[j].name));
	}
	cr_assert(eq(u64, stat_read(&t, row_of("sessions")), t.sessions));
	cr_assert(eq(u64, stat_read(&t, row_of("log_dropped")), t.log_dropped));
}

Test(stat, names_and_sentences_are_presentable)
{
	for (size_t i = 0; i < stat_row_count; i++) {
		cr_assert(gt(sz, strlen(stat_rows[i].text), 0), "%s", stat_rows[i].name);
		cr_assert(eq(sz, strspn(stat_rows[i].name, "abcdefghijklmnopqrstuvwxyz0123456789_"),
				  strlen(stat_rows[i].name)),
			"%s", stat_rows[i].name);
	}
}

Test(stat, adds_sets_and_takes_back)
{
	struct stat_table t = {0};

	STAT_INC(&t, sessions_now);
	STAT_INC(&t, sessions_now);
	STAT_DEC(&t, sessions_now);
	STAT_ADD(&t, body_bytes, UINT64_C(5) << 30);
	STAT_ADD(&t, body_bytes, UINT64_C(1) << 40);
	STAT_SET(&t, pressure_now, true);
	cr_assert(eq(u64, t.sessions_now, 1));
	cr_assert(eq(u64, t.body_bytes, (UINT64_C(5) << 30) + (UINT64_C(1) << 40)));
	cr_assert(eq(u64, t.pressure_now, 1));
	cr_assert(eq(u64, t.sessions, 0));
}

#define INCREMENTS 1000000

static void *worker(void *arg)
{
	struct stat_table *t = arg;

	for (unsigned i = 0; i < INCREMENTS; i++)
		STAT_INC(t, commands);
	return NULL;
}

Test(stat, another_thread_may_watch, .timeout = 60)
{
	static struct stat_table t;
	size_t row = row_of("commands");
	uint64_t last = 0;
	pthread_t th;

	cr_assert(eq(int, pthread_create(&th, NULL, worker, &t), 0));
	while (last < INCREMENTS) {
		uint64_t now = stat_read(&t, row);

		cr_assert(ge(u64, now, last));
		last = now;
	}
	pthread_join(th, NULL);
	cr_assert(eq(u64, stat_read(&t, row), INCREMENTS));
}
