/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A distribution of message sizes: up to SIZES_MAX sizes with weights, and which of them a message
 * has. Pure but for reading the file. A message's size depends on its number and the seed alone.
 */
#ifndef BENCH_SIZES_H
#define BENCH_SIZES_H

#include "ring/base.h"

#define SIZES_MAX 64
#define SIZES_BYTES_MAX (1u << 30) /* of one message */

struct size_row {
	uint64_t weight; /* of `sizes.weight`; at least 1 */
	uint64_t bytes;
};

struct sizes {
	struct size_row row[SIZES_MAX];
	unsigned count;
	uint64_t weight; /* of all rows */
};

/* One size for all. */
void sizes_single(struct sizes *s, uint64_t bytes);
/* The built-in mixture, see README.md: made up in the shape of mail. */
void sizes_real(struct sizes *s);
/* Lines "WEIGHT SIZE", weights whole numbers up to 10^9, sizes like 4096, 75k, 10m; empty lines and
 * those that begin with # are passed over. NULL, or what is wrong (static) and in *line where. */
const char *sizes_read(struct sizes *s, FILE *f, unsigned *line) MUST_USE;

/* Which row message `number` has. */
unsigned sizes_pick(const struct sizes *s, uint64_t seed, uint64_t number);
/* What a message has on average, and the size that half of them do not exceed. */
double sizes_mean(const struct sizes *s);
uint64_t sizes_median(const struct sizes *s);

#endif
