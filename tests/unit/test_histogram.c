/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bench's histogram: every bucket's bounds, the promised error, percentiles against sorting.
 */
#include "bench/lib/histogram.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

Test(histogram, buckets_tile_the_range)
{
	uint64_t next = 0;

	for (unsigned i = 0; i + 1 < HIST_BUCKETS; i++) {
		cr_assert_eq(hist_bucket(next), i, "bucket %u starts at %lu", i, next);
		cr_assert_eq(hist_bucket(hist_bucket_top(i)), i);
		next = hist_bucket_top(i) + 1;
	}
	cr_assert_eq(hist_bucket_top(HIST_BUCKETS - 1) + 1, 1ull << HIST_TOP_BITS);
	cr_assert_eq(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1u);
}

Test(histogram, error_is_at_most_one_in_64)
{
	for (uint64_t v = 1; v < 1ull << 39; v = v + v / 7 + 1) {
		uint64_t top = hist_bucket_top(hist_bucket(v));

		cr_assert_geq(top, v);
		cr_assert_leq((top - v) * 64, v, "%lu read back as %lu", v, top);
	}
}

Test(histogram, empty_and_one)
{
	struct histogram h;

	hist_init(&h);
	cr_assert_eq(hist_at(&h, 0.5), 0);
	hist_add(&h, 12345);
	cr_assert_eq(hist_at(&h, 0), 12345);
	cr_assert_eq(hist_at(&h, 0.5), 12345);
	cr_assert_eq(hist_at(&h, 1), 12345);
	cr_assert_eq(h.min, 12345);
}

Test(histogram, nearest_rank_where_values_are_exact)
{
	struct histogram h;

	hist_init(&h);
	for (uint64_t v = 100; v >= 1; v--)
		hist_add(&h, v);
	cr_assert_eq(hist_at(&h, 0.5), 50);
	cr_assert_eq(hist_at(&h, 0.9), 90);
	cr_assert_eq(hist_at(&h, 0.99), 99);
	cr_assert_eq(hist_at(&h, 0.991), 100);
	cr_assert_eq(hist_at(&h, 1), 100);
	cr_assert(hist_mean(&h) > 50.4 && hist_mean(&h) < 50.6);
}

Test(histogram, values_beyond_the_range_are_kept_as_maximum)
{
	struct histogram h;

	hist_init(&h);
	hist_add(&h, 1ull << 50);
	hist_add(&h, 3);
	cr_assert_eq(hist_at(&h, 1), 1ull << 50);
	cr_assert_eq(hist_at(&h, 0.5), 3);
	cr_assert_eq(h.count, 2);
}
