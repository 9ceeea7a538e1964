/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bells of the simulated kernel: rings add up until the kernel looks, the call comes in a later
 * turn. All of it on one thread.
 */
#include "tests/sim/kernel_int.h"

struct ring_bell {
	struct ring *r; /* borrowed */
	struct file file;
	struct ring_op op;
	void (*rung)(void *arg);
	void *arg;
	uint64_t rings;
	bool closing;
};

static void listen_for_rings(struct ring_bell *b)
{
	op_arm(b->r, &b->op, OP_BELL, &b->file, NULL)->with = b;
}

static void on_ring(struct ring_op *op, const struct ring_done *d)
{
	struct ring_bell *b = CONTAINER_OF(op, struct ring_bell, op);

	if (!b->closing) {
		listen_for_rings(b);
		b->rung(b->arg); /* may close the bell */
		return;
	}
	b->r->bells_closing--;
	free(b);
}

struct ring_bell *ring_bell_open(struct ring *r, void (*rung)(void *arg), void *arg)
{
	struct ring_bell *b = calloc(1, sizeof(*b));

	ASSERT(b);
	b->r = r;
	b->file.rec_sock = REC_NO_SOCK;
	b->rung = rung;
	b->arg = arg;
	b->op.done = on_ring;
	listen_for_rings(b);
	return b;
}

void ring_bell_ring(struct ring_bell *b)
{
	b->rings++;
	ops_look(b->r->k, &b->file);
}

void ring_bell_close(struct ring *r, struct ring_bell *b)
{
	ASSERT(b->r == r && !b->closing);
	b->closing = true;
	r->bells_closing++;
	ring_cancel(r, &b->op);
}

bool bell_ready(struct sim_kernel *k, struct row *o)
{
	return ((struct ring_bell *)o->with)->rings > 0;
}

void bell_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	((struct ring_bell *)o->with)->rings = 0;
	op_post_res(k, o, taken_back ? RING_CANCELED : RING_OK, 0);
}

void bell_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
}
