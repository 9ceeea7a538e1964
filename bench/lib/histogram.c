/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See histogram.h. Values below 2^(SUB+1) have a bucket each; above, the top SUB+1 bits choose it.
 */
#include "bench/lib/histogram.h"

#define SUB_COUNT (1u << HIST_SUB_BITS)

void hist_init(struct histogram *h)
{
	memset(h, 0, sizeof(*h));
	h->min = UINT64_MAX;
}

unsigned hist_bucket(uint64_t value)
{
	if (value >= 1ull << HIST_TOP_BITS)
		return HIST_BUCKETS - 1;
	if (value < 2 * SUB_COUNT)
		return (unsigned)value;
	unsigned shift = 63 - (unsigned)__builtin_clzll(value) - HIST_SUB_BITS;
	/* value >> shift is in [SUB, 2 SUB): octave `shift` starts at (shift + 1) * SUB. */
	return (shift << HIST_SUB_BITS) + (unsigned)(value >> shift);
}

uint64_t hist_bucket_top(unsigned bucket)
{
	if (bucket < 2 * SUB_COUNT)
		return bucket;
	unsigned shift = (bucket >> HIST_SUB_BITS) - 1;
	uint64_t first = (uint64_t)(SUB_COUNT + (bucket & (SUB_COUNT - 1))) << shift;
	return first + (1ull << shift) - 1;
}

void hist_add(struct histogram *h, uint64_t value)
{
	h->bucket[hist_bucket(value)]++;
	h->count++;
	h->sum += value;
	h->min = MIN_OF(h->min, value);
	h->max = MAX_OF(h->max, value);
}

uint64_t hist_at(const struct histogram *h, double share)
{
	uint64_t rank, seen = 0;

	if (h->count == 0)
		return 0;
	/* Nearest rank: the ceiling, but 0.999 * 1000 shall not become 1000 by its last binary
	 * digit. */
	double exact = share * (double)h->count;
	rank = (uint64_t)exact;
	if (exact - (double)rank > 1e-6)
		rank++;
	rank = MAX_OF(rank, 1);
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= rank)
			return i == HIST_BUCKETS - 1 ? h->max : MIN_OF(hist_bucket_top(i), h->max);
	}
	return h->max;
}

double hist_mean(const struct histogram *h)
{
	return h->count ? (double)h->sum / (double)h->count : 0;
}
