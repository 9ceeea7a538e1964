/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See tape.h. A recording holds the values themselves, little-endian, not the generator's output:
 * so a tool that cuts a recording can see what it does.
 */
#include "tests/sim/tape.h"

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t next(struct tape *t)
{
	uint64_t z = t->rng += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

void tape_from_seed(struct tape *t, uint64_t seed)
{
	*t = (struct tape){.rng = seed};
}

void tape_from_bytes(struct tape *t, const void *p, size_t n)
{
	*t = (struct tape){.n = n, .cap = n, .replay = true};
	if (n == 0)
		return;
	t->p = malloc(n);
	ASSERT(t->p);
	memcpy(t->p, p, n);
}

void tape_record_into(struct tape *t, uint8_t *copy, size_t max, size_t *n)
{
	t->copy = copy;
	t->copy_max = max;
	t->copy_n = n;
	*n = 0;
}

void tape_free(struct tape *t)
{
	free(t->p);
	*t = (struct tape){0};
}

static void put(struct tape *t, uint32_t v, unsigned octets)
{
	if (t->n + octets > t->cap) {
		t->cap = MAX_OF(4096u, t->cap * 2);
		t->p = realloc(t->p, t->cap);
		ASSERT(t->p);
	}
	for (unsigned i = 0; i < octets; i++) {
		t->p[t->n++] = (uint8_t)(v >> (8 * i));
		if (t->copy && *t->copy_n < t->copy_max)
			t->copy[(*t->copy_n)++] = (uint8_t)(v >> (8 * i));
	}
}

static uint32_t get(struct tape *t, unsigned octets)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < octets && t->at < t->n; i++)
		v |= (uint32_t)t->p[t->at++] << (8 * i);
	return v;
}

uint32_t tape_pick(struct tape *t, uint32_t n)
{
	unsigned octets = n <= 1u << 8 ? 1 : n <= 1u << 16 ? 2 : 4;
	uint32_t v;

	ASSERT(n >= 1);
	if (n == 1)
		return 0;
	if (t->replay)
		return get(t, octets) % n;
	v = (uint32_t)((next(t) >> 32) * n >> 32);
	put(t, v, octets);
	return v;
}

bool tape_chance(struct tape *t, uint8_t rate)
{
	return rate > 0 && tape_pick(t, 256) >= 256u - rate;
}

uint32_t tape_small(struct tape *t, uint32_t max)
{
	static const uint8_t shifts[8] = {8, 6, 5, 4, 3, 2, 1, 0};
	unsigned shift = shifts[tape_pick(t, 8)];

	return tape_pick(t, (max >> shift) + 1);
}
