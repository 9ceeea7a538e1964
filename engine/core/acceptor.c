/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See acceptor.h. Failure modes: the accept ends for want of descriptors or memory, or with
 * another error; it is tried again after ACCEPT_RETRY_MS, never at once.
 */
#include "engine/core/acceptor.h"

#define ACCEPT_RETRY_MS 100

static void accept_again(struct timer *t)
{
	struct acceptor *a = CONTAINER_OF(t, struct acceptor, retry);

	if (!a->stopped && !ring_op_armed(&a->op))
		ring_accept(a->core->ring, &a->op, a->fd);
}

static void accepted(struct ring_op *op, const struct ring_done *d)
{
	struct acceptor *a = CONTAINER_OF(op, struct acceptor, op);

	if (d->res == RING_OK)
		sess_accept(a->core, a->lis, d->fd);
	else if (d->res == RING_MFILE || d->res == RING_NFILE || d->res == RING_NOMEM)
		STAT_INC(a->core->stats, accept_pauses);
	if (d->more || a->stopped)
		return;
	if (d->res == RING_OK)
		ring_accept(a->core->ring, &a->op, a->fd);
	else
		timer_set(&a->core->timers, &a->retry,
			ring_now_us(a->core->ring) / 1000 + ACCEPT_RETRY_MS);
}

void acceptor_start(struct acceptor *a, struct sess_core *core)
{
	a->core = core;
	a->stopped = false;
	a->op.done = accepted;
	timer_init(&a->retry, accept_again);
	ring_accept(core->ring, &a->op, a->fd);
}

void acceptor_stop(struct acceptor *a)
{
	a->stopped = true;
	timer_stop(&a->core->timers, &a->retry);
	ring_cancel(a->core->ring, &a->op);
}
