/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Memory of one configuration: handed out piece by piece, freed at once.
 *
 * Failure mode: none that is reported. A file is at most 1 MiB and its tree at most CONF_NODES_MAX
 * nodes, so an arena stays below some tens of MiB; a host that cannot give them is not one to serve
 * mail, and the process stops. Under AddressSanitizer each piece is a block of its own, so that an
 * octet read behind a piece is seen.
 */
#include "engine/conf/conf_int.h"

#include <stdarg.h>

#ifdef __SANITIZE_ADDRESS__
#define ARENA_CHUNK_BYTES 0
#else
#define ARENA_CHUNK_BYTES 32768
#endif

struct chunk {
	struct chunk *next;
	size_t used, bytes;
	_Alignas(max_align_t) unsigned char data[];
};

struct arena {
	struct chunk *chunks; /* owns; the newest first */
};

struct arena *arena_new(void)
{
	struct arena *a = calloc(1, sizeof(*a));

	ASSERT(a != NULL);
	return a;
}

void arena_free(struct arena *a)
{
	if (a == NULL)
		return;
	while (a->chunks != NULL) {
		struct chunk *c = a->chunks;

		a->chunks = c->next;
		free(c);
	}
	free(a);
}

void *arena_alloc(struct arena *a, size_t n)
{
	size_t need = n;
	struct chunk *c = a->chunks;
	void *p;

	if (ARENA_CHUNK_BYTES > 0)
		need = (n + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
	if (c == NULL || c->bytes - c->used < need || ARENA_CHUNK_BYTES == 0) {
		size_t bytes = MAX_OF(need, (size_t)ARENA_CHUNK_BYTES);

		c = calloc(1, sizeof(*c) + bytes);
		ASSERT(c != NULL);
		c->bytes = bytes;
		c->next = a->chunks;
		a->chunks = c;
	}
	p = c->data + c->used;
	c->used += need;
	return p;
}

char *arena_text(struct arena *a, const char *p, size_t n)
{
	char *s = arena_alloc(a, n + 1);

	if (n > 0)
		memcpy(s, p, n);
	return s;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	ASSERT(n >= 0);
	s = arena_alloc(a, (size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(s, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return s;
}
