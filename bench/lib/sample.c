/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See sample.h.
 */
#include "bench/lib/sample.h"

#define GROW_MIN 2.0
#define GROW_MAX 64.0
#define MARGIN 1.1 /* the next reading shall not be just short of it again */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct spread sample_spread(double *v, size_t n)
{
	ASSERT(n >= 1);
	qsort(v, n, sizeof(*v), by_value);
	return (struct spread){
		.median = (v[(n - 1) / 2] + v[n / 2]) / 2, .min = v[0], .max = v[n - 1]};
}

uint64_t sample_rounds(uint64_t rounds, double took_ns, double want_ns)
{
	double grow = took_ns > 0 ? want_ns * MARGIN / took_ns : GROW_MAX;

	if (took_ns >= want_ns)
		return rounds;
	return (uint64_t)((double)rounds * MIN_OF(MAX_OF(grow, GROW_MIN), GROW_MAX));
}
