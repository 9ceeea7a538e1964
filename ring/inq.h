/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Input that arrived and must wait: a chain of 4 KiB cells. A stalled reader turns receiving off,
 * but what the kernel had already completed still comes (as much as a whole receive buffer where it
 * cannot cap receives), and receive buffers are shared and must not be pinned; so it is copied
 * here.
 *
 * Thread: the core that owns the cell slab.
 */
#ifndef RING_INQ_H
#define RING_INQ_H

#include "ring/list.h"
#include "ring/slab.h"

#define INQ_CELL_BYTES 4096

struct inq {
	struct list cells; /* owns */
	uint32_t bytes;
};

void inq_init(struct inq *q);
/* False, and nothing changed, when the cells do not suffice. */
bool inq_add(struct inq *q, struct slab *cells, struct span more) MUST_USE;
/* The oldest octets that lie together; valid until the next drop or clear. */
struct span inq_front(const struct inq *q);
void inq_drop(struct inq *q, struct slab *cells, size_t n); /* n <= inq_front().n */
void inq_clear(struct inq *q, struct slab *cells);

#endif
