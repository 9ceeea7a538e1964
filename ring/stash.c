/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Octets kept for later, in one contiguous run. Failure modes: more than STASH_LARGE_BYTES, or no
 * cell left; both leave the stash as it was, and the caller answers the peer.
 *
 * A stash may hold an AUTH exchange. Growing therefore wipes the cell it leaves, and stash_wipe()
 * wipes the whole cell, not only the octets that are still counted: a drop from the front and the
 * closing up of a gap leave copies behind.
 */
#include "ring/stash.h"

bool stash_pools_init(struct stash_pools *p, uint32_t small_max, uint32_t large_max)
{
	if (!slab_init(&p->small, "stash-small", STASH_SMALL_BYTES, small_max))
		return false;
	if (slab_init(&p->large, "stash-large", STASH_LARGE_BYTES, large_max))
		return true;
	slab_fini(&p->small);
	return false;
}

void stash_pools_fini(struct stash_pools *p)
{
	slab_fini(&p->small);
	slab_fini(&p->large);
}

static struct slab *pool_of(const struct stash *s, struct stash_pools *p)
{
	return s->cap == STASH_SMALL_BYTES ? &p->small : &p->large;
}

static void give_back(struct stash *s, struct stash_pools *p)
{
	slab_put(pool_of(s, p), s->cell);
	*s = (struct stash){0};
}

/* A cell for `need` octets; when no small one is left a large one serves. */
static uint8_t *take_cell(struct stash_pools *p, size_t need, uint32_t *cap)
{
	uint8_t *cell = NULL;

	*cap = STASH_SMALL_BYTES;
	if (need <= STASH_SMALL_BYTES)
		cell = slab_get(&p->small);
	if (cell == NULL) {
		*cap = STASH_LARGE_BYTES;
		cell = slab_get(&p->large);
	}
	return cell;
}

/* Moves what is held into a cell that has room for `need`. */
static bool move_to_larger(struct stash *s, struct stash_pools *p, size_t need)
{
	uint32_t cap, len = s->len;
	uint8_t *cell = take_cell(p, need, &cap);

	if (cell == NULL)
		return false;
	if (s->cell != NULL) {
		memcpy(cell, s->cell + s->start, len);
		explicit_bzero(s->cell, s->cap);
		give_back(s, p);
	}
	*s = (struct stash){.cell = cell, .len = len, .cap = cap};
	return true;
}

bool stash_add(struct stash *s, struct stash_pools *p, struct span more)
{
	size_t need = (size_t)s->len + more.n;

	if (more.n == 0)
		return true;
	if (more.n > STASH_LARGE_BYTES || need > STASH_LARGE_BYTES)
		return false;
	if (s->cell == NULL || need > s->cap) {
		if (!move_to_larger(s, p, need))
			return false;
	} else if (s->start + need > s->cap) {
		memmove(s->cell, s->cell + s->start, s->len);
		s->start = 0;
	}
	memcpy(s->cell + s->start + s->len, more.p, more.n);
	s->len += (uint32_t)more.n;
	return true;
}

void stash_drop(struct stash *s, struct stash_pools *p, size_t n)
{
	ASSERT(n <= s->len);
	s->start += (uint32_t)n;
	s->len -= (uint32_t)n;
	if (s->len == 0 && s->cell != NULL)
		give_back(s, p);
}

void stash_wipe(struct stash *s, struct stash_pools *p)
{
	if (s->cell == NULL)
		return;
	explicit_bzero(s->cell, s->cap);
	give_back(s, p);
}
