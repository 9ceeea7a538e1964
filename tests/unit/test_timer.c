/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/timer.h: never early, never late by more than a tick when run in time, whatever the
 * distance; stop and set from fire(); a naive list as reference.
 */
#include "ring/timer.h"

#include <criterion/criterion.h>

static struct timers ts;
static uint64_t now;
static unsigned fired;

struct probe {
	struct timer t;
	unsigned count;
	uint64_t at;	    /* when it fired */
	struct timer *stop; /* stop this one */
	uint64_t again;	    /* set itself to now + again */
};

static void fire(struct timer *t)
{
	struct probe *p = CONTAINER_OF(t, struct probe, t);

	cr_assert_not(timer_armed(t));
	cr_assert(
		t->at_ms <= now, "early: %lu at %lu", (unsigned long)t->at_ms, (unsigned long)now);
	p->count++;
	p->at = now;
	fired++;
	if (p->stop != NULL)
		timer_stop(&ts, p->stop);
	if (p->again != 0)
		timer_set(&ts, t, now + p->again - 1);
}

static void probe_init(struct probe *p)
{
	*p = (struct probe){0};
	timer_init(&p->t, fire);
}

static unsigned run(uint64_t at)
{
	now = at;
	return timers_run(&ts, at);
}

/* As a core does it: sleeps until the wheel says, runs, until `end`. */
static unsigned run_until(uint64_t end)
{
	unsigned turns = 0;

	for (;;) {
		uint64_t next = timers_next_ms(&ts);

		if (next > end)
			break;
		run(MAX_OF(next, now));
		turns++;
	}
	run(end);
	return turns;
}

Test(timer, fires_in_its_tick_at_every_distance)
{
	static const uint64_t far[] = {1, 7, 8, 9, 500, 511, 512, 513, 4095, 4096, 32767, 32768,
		32769, 300000, 630000, 2097151, 2097152, 2097153, 86400000, 134217727, 134217728,
		134217729, 200000000, 1000000000};

	for (unsigned i = 0; i < ARRAY_LEN(far); i++)
		for (uint64_t start = 1000000007; start < 1000000007 + 8 * 70; start += 37) {
			struct probe p;

			timers_init(&ts, start);
			now = start;
			probe_init(&p);
			timer_set(&ts, &p.t, start + far[i]);
			run_until(start + far[i] + TIMER_TICK_MS);
			cr_assert_eq(p.count, 1, "%lu from %lu", (unsigned long)far[i],
				(unsigned long)start);
			cr_assert(p.at < start + far[i] + TIMER_TICK_MS);
			cr_assert_eq(ts.armed, 0);
			cr_assert_eq(timers_next_ms(&ts), UINT64_MAX);
		}
}

Test(timer, one_late_run_fires_everything_that_is_due)
{
	static struct probe p[3000];

	timers_init(&ts, 5000);
	now = 5000;
	for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
		probe_init(&p[i]);
		timer_set(&ts, &p[i].t, 5000 + i * 96);
	}
	cr_assert_eq(run(5000 + 1500 * 96), 1501);
	for (unsigned i = 0; i < ARRAY_LEN(p); i++)
		cr_assert_eq(p[i].count, i <= 1500, "%u", i);
	run(UINT32_MAX);
	cr_assert_eq(fired, ARRAY_LEN(p));
}

Test(timer, the_past_fires_on_the_next_run_once)
{
	struct probe p;

	timers_init(&ts, 5003);
	probe_init(&p);
	timer_set(&ts, &p.t, 10);
	cr_assert(timers_next_ms(&ts) <= 5003);
	cr_assert_eq(run(5003), 1);
	cr_assert_eq(run(5003), 0);
	/* Set again for now in fire(): the run after, not the same one for ever. */
	p.again = 1;
	timer_set(&ts, &p.t, 10);
	cr_assert_eq(run(5003), 1);
	p.again = 0;
	run(5003 + TIMER_TICK_MS);
	cr_assert_eq(p.count, 3);
	cr_assert_eq(ts.armed, 0);
}

Test(timer, stop_and_move)
{
	struct probe p, q;

	timers_init(&ts, 0);
	now = 0;
	probe_init(&p);
	probe_init(&q);
	timer_stop(&ts, &p.t);
	timer_set(&ts, &p.t, 1000);
	timer_set(&ts, &p.t, 100000);
	timer_set(&ts, &q.t, 1000);
	cr_assert_eq(ts.armed, 2);
	run(50000);
	cr_assert_eq(p.count, 0);
	cr_assert_eq(q.count, 1);
	timer_stop(&ts, &p.t);
	timer_stop(&ts, &p.t);
	cr_assert_eq(ts.armed, 0);
	cr_assert_eq(timers_next_ms(&ts), UINT64_MAX); /* a stopped timer wakes nobody */
	run(200000);
	cr_assert_eq(p.count, 0);
}

Test(timer, fire_may_stop_one_that_is_due_as_well)
{
	struct probe p, q;

	timers_init(&ts, 0);
	probe_init(&p);
	probe_init(&q);
	timer_set(&ts, &p.t, 800);
	timer_set(&ts, &q.t, 800);
	p.stop = &q.t;
	cr_assert_eq(run(800), 1);
	cr_assert_eq(q.count, 0);
	cr_assert_eq(ts.armed, 0);
}

Test(timer, an_idle_day_is_crossed_in_a_few_steps)
{
	struct probe p;

	timers_init(&ts, 0);
	now = 0;
	probe_init(&p);
	timer_set(&ts, &p.t, 86400000);
	cr_assert(run_until(86400000) <= TIMER_LEVELS + 1);
	cr_assert_eq(p.count, 1);
}

Test(timer, agrees_with_a_naive_list)
{
	enum { N = 400 };
	static struct probe p[N];
	static uint64_t due[N]; /* 0 = not set */
	uint64_t x = 88172645463325252u, t = 123456789;

	timers_init(&ts, t);
	now = t;
	for (unsigned i = 0; i < N; i++)
		probe_init(&p[i]);
	for (unsigned step = 0; step < 60000; step++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		unsigned i = (unsigned)(x >> 20) % N;

		switch (x % 4) {
		case 0:
		case 1:
			due[i] = t + 1 + (x >> 32) % (1u << (x >> 40) % 28);
			timer_set(&ts, &p[i].t, due[i]);
			break;
		case 2:
			due[i] = 0;
			timer_stop(&ts, &p[i].t);
			break;
		default:
			t += (x >> 32) % (1u << (x >> 40) % 18);
			for (unsigned k = 0; k < N; k++)
				p[k].count = 0;
			cr_assert(timers_next_ms(&ts) == UINT64_MAX || ts.armed > 0);
			run(t);
			for (unsigned k = 0; k < N; k++) {
				bool must = due[k] != 0 && due[k] + TIMER_TICK_MS <= t + 1;

				cr_assert(p[k].count <= 1);
				cr_assert(p[k].count || !must, "%u is late", k);
				cr_assert(!p[k].count || (due[k] != 0 && due[k] <= t),
					"%u is early", k);
				if (p[k].count)
					due[k] = 0;
			}
		}
		/* Never told to sleep past the earliest. */
		uint64_t first = UINT64_MAX;
		unsigned armed = 0;
		for (unsigned k = 0; k < N; k++)
			if (due[k] != 0) {
				first = MIN_OF(first, due[k]);
				armed++;
			}
		cr_assert_eq(ts.armed, armed);
		if (first != UINT64_MAX)
			cr_assert(timers_next_ms(&ts) < first + TIMER_TICK_MS);
	}
}
