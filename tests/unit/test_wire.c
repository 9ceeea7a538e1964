/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bench's wire as arithmetic: delays and their order, the loss dice, the bottleneck and its
 * queue, the option values.
 */
#include "bench/wire/lane.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#define MS 1000000ull
#define SLOTS 64

static struct lane lane_with(struct lane_conf conf, uint32_t slots)
{
	struct lane l;

	cr_assert(lane_init(&l, &conf, slots));
	return l;
}

Test(wire, a_frame_is_due_after_the_delay_and_not_before)
{
	struct lane l = lane_with((struct lane_conf){.delay_ns = 10 * MS}, SLOTS);
	struct lane_due d[2];

	cr_assert_eq(lane_next_ns(&l), LANE_NEVER);
	cr_assert_eq(lane_arrive(&l, 7, 5 * MS, 100), LANE_QUEUED);
	cr_assert_eq(lane_next_ns(&l), 15 * MS);
	cr_assert_eq(lane_take(&l, 15 * MS - 1, d, 2), 0);
	cr_assert_eq(lane_take(&l, 15 * MS, d, 2), 1);
	cr_assert_eq(d[0].slot, 7);
	cr_assert_eq(d[0].due_ns, 15 * MS);
	cr_assert_eq(lane_next_ns(&l), LANE_NEVER);
	lane_fini(&l);
}

Test(wire, frames_come_out_in_order_and_no_more_than_asked_for)
{
	struct lane l = lane_with((struct lane_conf){.delay_ns = MS}, SLOTS);
	struct lane_due d[SLOTS];
	uint32_t in = 0, out = 0;

	/* Around the ring of slots several times, with various numbers waiting. */
	for (uint64_t now = 0; out < 10 * SLOTS; now += MS) {
		for (uint32_t i = 0; i < 1 + now / MS % SLOTS / 2; i++, in++)
			cr_assert_eq(lane_arrive(&l, in % SLOTS, now, 60), LANE_QUEUED);
		uint32_t n = lane_take(&l, now + MS / 2, d, 5);
		cr_assert_leq(n, 5);
		for (;;) {
			for (uint32_t i = 0; i < n; i++, out++)
				cr_assert_eq(d[i].slot, out % SLOTS);
			if (n < 5)
				break;
			n = lane_take(&l, now + MS / 2, d, 5);
		}
	}
	cr_assert_leq(l.count_max, SLOTS);
	cr_assert_eq(in, out + l.count);
	lane_fini(&l);
}

Test(wire, jitter_stays_in_its_bounds_and_nobody_overtakes)
{
	struct lane l =
		lane_with((struct lane_conf){.delay_ns = 10 * MS, .jitter_ns = 4 * MS}, 1000);
	struct lane_due d[1000];
	unsigned early = 0, late = 0;

	for (uint32_t i = 0; i < 1000; i++)
		cr_assert_eq(lane_arrive(&l, i, i * 20 * MS, 60), LANE_QUEUED);
	cr_assert_eq(lane_take(&l, LANE_NEVER, d, 1000), 1000);
	for (uint32_t i = 0; i < 1000; i++) {
		uint64_t took = d[i].due_ns - i * 20 * MS;

		cr_assert_geq(took, 10 * MS);
		cr_assert_lt(took, 14 * MS);
		early += took < 11 * MS;
		late += took >= 13 * MS;
	}
	cr_assert(early > 180 && early < 320, "%u of 1000 in the first quarter", early);
	cr_assert(late > 180 && late < 320, "%u of 1000 in the last quarter", late);
	/* Close together: the jitter is larger than the gaps. */
	for (uint32_t i = 0; i < 1000; i++)
		cr_assert_eq(lane_arrive(&l, i, 30000 * MS + i * 1000, 60), LANE_QUEUED);
	cr_assert_eq(lane_take(&l, LANE_NEVER, d, 1000), 1000);
	for (uint32_t i = 1; i < 1000; i++)
		cr_assert(d[i].due_ns >= d[i - 1].due_ns && d[i].slot == i);
	lane_fini(&l);
}

/* Which of `count` frames are lost, as a hash; *lost is how many. */
static uint64_t losses(uint64_t seed, double loss, uint32_t count, uint32_t *lost)
{
	struct lane l = lane_with((struct lane_conf){.loss = loss, .seed = seed}, 1);
	struct lane_due d;
	uint64_t hash = 0xcbf29ce484222325ull;

	*lost = 0;
	for (uint32_t i = 0; i < count; i++) {
		if (lane_arrive(&l, 0, i, 60) == LANE_QUEUED) {
			cr_assert_eq(lane_take(&l, i, &d, 1), 1);
			continue;
		}
		(*lost)++;
		hash = (hash ^ i) * 0x100000001b3ull;
	}
	lane_fini(&l);
	return hash;
}

Test(wire, loss_is_a_share_that_the_seed_repeats)
{
	uint32_t a, b, c;
	uint64_t one = losses(1, 0.005, 200000, &a);

	/* 1000 expected, standard deviation 32 */
	cr_assert(a > 840 && a < 1160, "%u of 200000 lost", a);
	cr_assert_eq(losses(1, 0.005, 200000, &b), one);
	cr_assert_neq(losses(2, 0.005, 200000, &c), one);
	cr_assert_eq(losses(0, 0, 1000, &a), losses(1, 0, 1000, &b));
	cr_assert(a == 0 && b == 0);
	losses(1, 1, 1000, &a);
	cr_assert_eq(a, 1000);
}

/* 1000 octets with their overhead: 8 ms at 1 Mbit/s. */
#define FRAME (1000 - LANE_FRAME_OVERHEAD)

Test(wire, the_bottleneck_sends_one_frame_after_the_other)
{
	struct lane_conf conf = {.delay_ns = 10 * MS, .rate_bps = 1000000, .queue_bytes = 1 << 20};
	struct lane l = lane_with(conf, SLOTS);
	struct lane_due d[4];

	for (uint32_t i = 0; i < 3; i++)
		cr_assert_eq(lane_arrive(&l, i, 100 * MS, FRAME), LANE_QUEUED);
	/* After a pause the bottleneck is free: nothing is owed, nothing was saved up. */
	cr_assert_eq(lane_arrive(&l, 3, 200 * MS, FRAME), LANE_QUEUED);
	cr_assert_eq(lane_take(&l, LANE_NEVER, d, 4), 4);
	cr_assert_eq(d[0].due_ns, 118 * MS);
	cr_assert_eq(d[1].due_ns, 126 * MS);
	cr_assert_eq(d[2].due_ns, 134 * MS);
	cr_assert_eq(d[3].due_ns, 218 * MS);
	cr_assert_eq(lane_queue_max(&l), 3000);
	lane_fini(&l);
}

Test(wire, the_queue_before_the_bottleneck_is_bounded_in_octets)
{
	struct lane_conf conf = {.rate_bps = 1000000, .queue_bytes = 3000};
	struct lane l = lane_with(conf, SLOTS);
	struct lane_due d;

	for (uint32_t i = 0; i < 3; i++)
		cr_assert_eq(lane_arrive(&l, i, 0, FRAME), LANE_QUEUED);
	cr_assert_eq(lane_arrive(&l, 3, 0, FRAME), LANE_DROPPED);
	cr_assert_eq(lane_arrive(&l, 3, 8 * MS - 1, FRAME), LANE_DROPPED);
	/* What was dropped took no time of the bottleneck. */
	cr_assert_eq(lane_arrive(&l, 3, 8 * MS, FRAME), LANE_QUEUED);
	cr_assert_eq(lane_queue_max(&l), 3000);
	cr_assert_eq(lane_take(&l, 8 * MS, &d, 1), 1);
	cr_assert_eq(d.slot, 0);
	lane_fini(&l);
}

Test(wire, a_lost_frame_took_its_time_of_the_bottleneck)
{
	struct lane_conf conf = {.rate_bps = 1000000, .queue_bytes = 3000, .loss = 1};
	struct lane l = lane_with(conf, SLOTS);

	for (uint32_t i = 0; i < 3; i++)
		cr_assert_eq(lane_arrive(&l, i, 0, FRAME), LANE_LOST);
	cr_assert_eq(lane_arrive(&l, 3, 0, FRAME), LANE_DROPPED);
	lane_fini(&l);
}

Test(wire, a_gigabit_is_exact_over_many_frames)
{
	struct lane_conf conf = {.rate_bps = 1000000000, .queue_bytes = 1ull << 32};
	struct lane l = lane_with(conf, 100000);
	struct lane_due d;

	/* 1538 octets take 12304 ns. */
	for (uint32_t i = 0; i < 100000; i++)
		cr_assert_eq(lane_arrive(&l, i, 0, 1514), LANE_QUEUED);
	for (uint32_t i = 0; i < 100000; i++)
		cr_assert_eq(lane_take(&l, LANE_NEVER, &d, 1), 1);
	cr_assert_eq(d.due_ns, 100000 * 12304ull);
	lane_fini(&l);
}

Test(wire, shares)
{
	static const char *const bad[] = {
		"", "x", "-1", "1.1", "101%", "0.5%%", "5 %", "nan", "inf", "%", "0.5x", "+0", "."};
	double v;

	cr_assert(lane_share("0", &v) && v == 0);
	cr_assert(lane_share("0.005", &v) && v == 0.005);
	cr_assert(lane_share(".5", &v) && v == 0.5);
	cr_assert(lane_share("0.5%", &v) && v == 0.005);
	cr_assert(lane_share("100%", &v) && v == 1);
	cr_assert(lane_share("1", &v) && v == 1);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_not(lane_share(bad[i], &v), "%s", bad[i]);
}

Test(wire, rates)
{
	static const char *const bad[] = {
		"", "0", "0.5", "-1", "1t", "1gbit", "2000g", "x", "nan", "1 m", "+1"};
	uint64_t v;

	cr_assert(lane_rate("1", &v) && v == 1);
	cr_assert(lane_rate("100m", &v) && v == 100000000);
	cr_assert(lane_rate("2.5G", &v) && v == 2500000000ull);
	cr_assert(lane_rate("56k", &v) && v == 56000);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert_not(lane_rate(bad[i], &v), "%s", bad[i]);
}
