/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Fixed-capacity object pools over one lazily touched reservation (MAP_NORESERVE: address space
 * costs nothing until used, and nothing is ever locked). Failure modes: the reservation is refused
 * (slab_init says so, at start), the slab is full (slab_get says so and counts it).
 *
 * Under AddressSanitizer a free object is poisoned whole, so a use after slab_put() and a second
 * slab_put() are both reported where they happen.
 */
#include "ring/slab.h"

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define SLAB_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLAB_POISONS 1
#endif
#endif

#ifdef SLAB_POISONS
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#define SLAB_ALIGN 64

bool slab_init(struct slab *s, const char *name, size_t item_bytes, uint32_t count_max)
{
	void *p;
	size_t bytes;

	ASSERT(item_bytes > 0 && count_max > 0);
	memset(s, 0, sizeof(*s));
	if (item_bytes > SIZE_MAX / 2)
		return false;
	item_bytes = (item_bytes + SLAB_ALIGN - 1) & ~(size_t)(SLAB_ALIGN - 1);
	if (__builtin_mul_overflow(item_bytes, (size_t)count_max, &bytes))
		return false;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		-1, 0);
	if (p == MAP_FAILED)
		return false;
	s->name = name;
	s->item_bytes = item_bytes;
	s->count_max = count_max;
	s->base = p;
	return true;
}

void slab_fini(struct slab *s)
{
	size_t bytes = s->item_bytes * s->count_max;

	if (s->base == NULL)
		return;
	ASSERT(s->used == 0);
	/* Whoever gets these addresses next must find them clean. */
	UNPOISON(s->base, bytes);
	munmap(s->base, bytes);
	memset(s, 0, sizeof(*s));
}

static void *take_free(struct slab *s)
{
	void *item = s->free;

	UNPOISON(item, s->item_bytes);
	memcpy(&s->free, item, sizeof(s->free));
	return item;
}

void *slab_get(struct slab *s)
{
	void *item;

	if (s->free != NULL) {
		item = take_free(s);
	} else if (s->fresh < s->count_max) {
		item = s->base + s->item_bytes * s->fresh++;
	} else {
		s->refused++;
		return NULL;
	}
	s->used++;
	if (s->used > s->high)
		s->high = s->used;
	return item;
}

void slab_put(struct slab *s, void *item)
{
	ASSERT(slab_owns(s, item));
	ASSERT(s->used > 0);
	ASSERT(item != s->free); /* the cheapest half of the double puts, without a sanitizer */
	memcpy(item, &s->free, sizeof(s->free));
	POISON(item, s->item_bytes);
	s->free = item;
	s->used--;
}

bool slab_owns(const struct slab *s, const void *item)
{
	const uint8_t *p = item;

	if (s->base == NULL || p < s->base)
		return false;
	size_t off = (size_t)(p - s->base);
	return off < s->item_bytes * s->fresh && off % s->item_bytes == 0;
}
