/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/inq.h against a plain array: order, cells that fill and empty, a slab that has no more.
 */
#include "ring/inq.h"

#include <criterion/criterion.h>

#define CELLS 4

static struct slab cells;
static uint8_t octets[CELLS * INQ_CELL_BYTES];

static void set_up(struct inq *q)
{
	cr_assert(slab_init(&cells, "cells", INQ_CELL_BYTES, CELLS));
	inq_init(q);
	for (size_t i = 0; i < sizeof(octets); i++)
		octets[i] = (uint8_t)(i * 7 + i / 256);
}

/* Takes `n` octets off the front; they are octets[at..). */
static void take(struct inq *q, size_t at, size_t n)
{
	while (n > 0) {
		struct span front = inq_front(q);
		size_t now = MIN_OF(front.n, n);

		cr_assert(now > 0);
		cr_assert_arr_eq(front.p, octets + at, now);
		inq_drop(q, &cells, now);
		at += now;
		n -= now;
	}
}

Test(inq, empty_has_no_front)
{
	struct inq q;

	set_up(&q);
	cr_assert_eq(inq_front(&q).n, 0);
	cr_assert(inq_add(&q, &cells, SPAN_NONE));
	inq_drop(&q, &cells, 0);
	inq_clear(&q, &cells);
	cr_assert(q.bytes == 0 && cells.used == 0);
	slab_fini(&cells);
}

Test(inq, order_is_kept_in_pieces_of_any_size)
{
	struct inq q;
	size_t in = 0, out = 0;

	set_up(&q);
	for (size_t step = 1; in < sizeof(octets) - 5000; step = step * 3 % 2003 + 1) {
		cr_assert(inq_add(&q, &cells, span_of(octets + in, step)));
		in += step;
		if (q.bytes > 3000) {
			take(&q, out, 2000);
			out += 2000;
		}
		cr_assert_eq(q.bytes, in - out);
	}
	take(&q, out, in - out);
	cr_assert(q.bytes == 0 && cells.used == 0);
	slab_fini(&cells);
}

Test(inq, no_cells_left_changes_nothing)
{
	struct inq q;
	size_t whole = 0;

	set_up(&q);
	while (inq_add(&q, &cells, span_of(octets + whole, 1)))
		whole++;
	cr_assert_eq(cells.used, CELLS);
	cr_assert_eq(q.bytes, whole);
	cr_assert(!inq_add(&q, &cells, span_of(octets, 1)));
	take(&q, 0, INQ_CELL_BYTES);
	/* A cell is free again, and the last one is full: one cell's worth fits, not two. */
	cr_assert(!inq_add(&q, &cells, span_of(octets, 2 * INQ_CELL_BYTES)));
	cr_assert_eq(q.bytes, whole - INQ_CELL_BYTES);
	cr_assert(inq_add(&q, &cells, span_of(octets, 1)));
	take(&q, INQ_CELL_BYTES, whole - INQ_CELL_BYTES);
	take(&q, 0, 1);
	slab_fini(&cells);
}

Test(inq, clear_gives_all_cells_back)
{
	struct inq q;

	set_up(&q);
	cr_assert(inq_add(&q, &cells, span_of(octets, 2 * INQ_CELL_BYTES)));
	cr_assert_eq(cells.used, 3, "a cell has a head");
	inq_clear(&q, &cells);
	cr_assert(q.bytes == 0 && cells.used == 0 && inq_front(&q).n == 0);
	cr_assert(inq_add(&q, &cells, span_of(octets, 10)));
	take(&q, 0, 10);
	slab_fini(&cells);
}
