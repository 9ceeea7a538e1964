/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Fixed-capacity pools of one kind of object, sized at start. The whole capacity is reserved as
 * address space when the slab is made; pages are touched as they are first used, and the last
 * object given back is the next one handed out, so a quiet core stays small and warm. Nothing is
 * allocated afterwards: a full slab is a counted refusal.
 *
 * Thread: the core that owns it. Objects come back on the core that took them.
 */
#ifndef RING_SLAB_H
#define RING_SLAB_H

#include "ring/base.h"

struct slab {
	const char *name; /* static */
	size_t item_bytes;
	uint32_t count_max, used, high; /* high: most ever in use */
	uint32_t fresh;			/* objects never handed out yet start here */
	uint64_t refused;		/* gets that found it full */
	void *free;			/* LIFO through the first word of each object */
	uint8_t *base;			/* owns */
};

/* False when the address space cannot be had. item_bytes is rounded up to 64 (a cache line). */
bool slab_init(struct slab *s, const char *name, size_t item_bytes, uint32_t count_max) MUST_USE;
void slab_fini(struct slab *s); /* asserts that everything came back */
/* NULL when full (counted). The object is not cleared. */
void *slab_get(struct slab *s);
void slab_put(struct slab *s, void *item);
/* True if `item` is an object of this slab (assertions). */
bool slab_owns(const struct slab *s, const void *item);

#endif
