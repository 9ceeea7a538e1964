/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bench's handful of measurements: median and range, and how many rounds to try next.
 */
#include "bench/lib/sample.h"

#include <criterion/criterion.h>

Test(sample, median_and_range)
{
	double one[] = {3}, odd[] = {5, 1, 9}, even[] = {4, 1, 2, 100};
	struct spread s = sample_spread(one, 1);

	cr_assert(s.median == 3 && s.min == 3 && s.max == 3);
	s = sample_spread(odd, 3);
	cr_assert(s.median == 5 && s.min == 1 && s.max == 9);
	s = sample_spread(even, 4);
	cr_assert(s.median == 3 && s.min == 1 && s.max == 100);
}

/* It ends, with enough and not much more, whatever a round takes. */
Test(sample, rounds_grow_until_it_is_enough)
{
	for (double round_ns = 0.3; round_ns < 1e9; round_ns *= 3.7) {
		const double want = 50e6, clock_ns = 400; /* the reading of the clock is in it */
		uint64_t n = 1, next;
		unsigned tries = 0;

		while ((next = sample_rounds(n, clock_ns + round_ns * (double)n, want)) != n) {
			cr_assert_gt(next, n);
			n = next;
			cr_assert_lt(++tries, 12);
		}
		cr_assert(clock_ns + round_ns * (double)n >= want);
		cr_assert(n == 1 || round_ns * (double)n <= want * 2.3, "%g: %lu", round_ns, n);
	}
}

Test(sample, a_clock_that_stands_still_is_not_divided_by)
{
	cr_assert_eq(sample_rounds(10, 0, 1e6), 640);
	cr_assert_eq(sample_rounds(10, 0, 0), 10);
}
