/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A handful of measurements of one thing, and how many times a thing must be done to be measured.
 * Pure; any thread.
 */
#ifndef BENCH_SAMPLE_H
#define BENCH_SAMPLE_H

#include "ring/base.h"

struct spread {
	double median, min, max;
};

/* Sorts v[0..n), n >= 1. Of an even number the median is the mean of the two in the middle. */
struct spread sample_spread(double *v, size_t n);

/* `rounds` (>= 1) took `took_ns`, and it should be at least `want_ns`: how many rounds to try next.
 * `rounds` itself: it is enough. Grows by 2 to 64 times, so a first reading that is all clock
 * cannot mislead it far. */
uint64_t sample_rounds(uint64_t rounds, double took_ns, double want_ns);

#endif
