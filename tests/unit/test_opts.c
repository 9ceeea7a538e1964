/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bench's option values.
 */
#include "bench/lib/opts.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

Test(opts, counts)
{
	uint64_t v;

	cr_assert(opt_count("0", &v) && v == 0);
	cr_assert(opt_count("18446744073709551615", &v) && v == UINT64_MAX);
	cr_assert_not(opt_count("18446744073709551616", &v));
	cr_assert_not(opt_count("-1", &v));
	cr_assert_not(opt_count("+1", &v));
	cr_assert_not(opt_count(" 1", &v));
	cr_assert_not(opt_count("1x", &v));
	cr_assert_not(opt_count("", &v));
}

Test(opts, sizes)
{
	uint64_t v;

	cr_assert(opt_size("75", &v) && v == 75);
	cr_assert(opt_size("75k", &v) && v == 75u << 10);
	cr_assert(opt_size("10M", &v) && v == 10u << 20);
	cr_assert(opt_size("3g", &v) && v == 3ull << 30);
	cr_assert_not(opt_size("17179869184g", &v));
	cr_assert_not(opt_size("1kb", &v));
	cr_assert_not(opt_size("k", &v));
	cr_assert_not(opt_size("1.5k", &v));
}

Test(opts, seconds)
{
	uint64_t v;

	cr_assert(opt_seconds("1", &v) && v == 1000000);
	cr_assert(opt_seconds("0.25", &v) && v == 250000);
	cr_assert(opt_seconds("200ms", &v) && v == 200000);
	cr_assert(opt_seconds("7us", &v) && v == 7);
	cr_assert(opt_seconds("2m", &v) && v == 120000000);
	cr_assert(opt_seconds("1h", &v) && v == 3600000000ull);
	cr_assert_not(opt_seconds("1d", &v));
	cr_assert_not(opt_seconds("nan", &v));
	cr_assert_not(opt_seconds("-1", &v));
	cr_assert_not(opt_seconds("", &v));
}
