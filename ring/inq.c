/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Waiting input in cells: see inq.h. The only failure is a slab without cells.
 */
#include "ring/inq.h"

struct cell {
	struct list node;
	uint32_t start, len;
	uint8_t octets[INQ_CELL_BYTES - sizeof(struct list) - 2 * sizeof(uint32_t)];
};
_Static_assert(sizeof(struct cell) == INQ_CELL_BYTES, "a cell is one slab item");

static struct cell *cell_of(struct list *n)
{
	return CONTAINER_OF(n, struct cell, node);
}

static uint32_t cell_room(const struct cell *c)
{
	return (uint32_t)sizeof(c->octets) - c->start - c->len;
}

void inq_init(struct inq *q)
{
	list_init(&q->cells);
	q->bytes = 0;
}

static bool enough(const struct inq *q, const struct slab *cells, size_t n)
{
	size_t room = list_empty(&q->cells) ? 0 : cell_room(cell_of(q->cells.prev));
	size_t per_cell = sizeof(((struct cell *)0)->octets);
	size_t need = n > room ? (n - room + per_cell - 1) / per_cell : 0;

	return need <= cells->count_max - cells->used;
}

bool inq_add(struct inq *q, struct slab *cells, struct span more)
{
	if (!enough(q, cells, more.n))
		return false;
	while (more.n > 0) {
		struct cell *c = list_empty(&q->cells) ? NULL : cell_of(q->cells.prev);

		if (!c || cell_room(c) == 0) {
			c = slab_get(cells);
			ASSERT(c);
			list_init(&c->node);
			c->start = c->len = 0;
			list_push_back(&q->cells, &c->node);
		}
		size_t n = MIN_OF(more.n, cell_room(c));
		memcpy(c->octets + c->start + c->len, more.p, n);
		c->len += (uint32_t)n;
		q->bytes += (uint32_t)n;
		more = span_drop(more, n);
	}
	return true;
}

struct span inq_front(const struct inq *q)
{
	if (list_empty(&q->cells))
		return SPAN_NONE;
	const struct cell *c = cell_of(q->cells.next);
	return span_of(c->octets + c->start, c->len);
}

void inq_drop(struct inq *q, struct slab *cells, size_t n)
{
	if (n == 0)
		return;
	struct cell *c = cell_of(q->cells.next);
	ASSERT(!list_empty(&q->cells) && n <= c->len);
	c->start += (uint32_t)n;
	c->len -= (uint32_t)n;
	q->bytes -= (uint32_t)n;
	if (c->len == 0) {
		list_remove(&c->node);
		slab_put(cells, c);
	}
}

void inq_clear(struct inq *q, struct slab *cells)
{
	while (!list_empty(&q->cells))
		inq_drop(q, cells, cell_of(q->cells.next)->len);
}
