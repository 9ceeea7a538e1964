/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Octets that arrived and cannot be used yet: an unfinished line or reply, or input behind a
 * command whose answer must come first. One contiguous run; small cell first, the large one when it
 * outgrows that, none at all when empty (so an idle session holds nothing). Receive buffers are
 * never kept for this: one slow session would pin a shared buffer.
 *
 * Thread: the core that owns the slabs.
 */
#ifndef RING_STASH_H
#define RING_STASH_H

#include "ring/slab.h"

#define STASH_SMALL_BYTES 512
#define STASH_LARGE_BYTES 32768

struct stash_pools {
	struct slab small, large;
};

struct stash {
	uint8_t *cell; /* leased from small or large, by cap; NULL when empty */
	uint32_t start, len, cap;
};

bool stash_pools_init(struct stash_pools *p, uint32_t small_max, uint32_t large_max) MUST_USE;
void stash_pools_fini(struct stash_pools *p);

static inline struct span stash_span(const struct stash *s)
{
	return (struct span){s->cell + s->start, s->len};
}

/* False, and nothing changed, when it would pass STASH_LARGE_BYTES or no cell is left. */
bool stash_add(struct stash *s, struct stash_pools *p, struct span more) MUST_USE;
void stash_drop(struct stash *s, struct stash_pools *p,
	size_t n); /* from the front; gives the cell back at zero */
void stash_wipe(struct stash *s,
	struct stash_pools *p); /* zeroes what it held (secrets), then gives it back */
static inline void stash_clear(struct stash *s, struct stash_pools *p)
{
	stash_drop(s, p, s->len);
}

#endif
