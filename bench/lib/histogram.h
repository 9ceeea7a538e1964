/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Latencies: a log-linear histogram (exact below 128, then 64 steps to each power of two, so a
 * value read back is at most 1.6 % above the true one), up to 2^40 microseconds; larger values
 * count as the largest. Minimum, maximum and sum are exact. Fixed size, no allocation, no failure.
 * Owner's thread.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include "ring/base.h"

#define HIST_SUB_BITS 6
#define HIST_TOP_BITS 40
#define HIST_BUCKETS ((HIST_TOP_BITS - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

struct histogram {
	uint64_t count, sum, min, max;
	uint64_t bucket[HIST_BUCKETS];
};

void hist_init(struct histogram *h);
void hist_add(struct histogram *h, uint64_t value);
/* The value that `share` (0..1) of all values do not exceed, by nearest rank, rounded up to the end
 * of its bucket and never above the maximum; 0 when nothing was added. */
uint64_t hist_at(const struct histogram *h, double share);
double hist_mean(const struct histogram *h);

/* The bucket of a value and the largest value in a bucket (for tests). */
unsigned hist_bucket(uint64_t value);
uint64_t hist_bucket_top(unsigned bucket);

#endif
