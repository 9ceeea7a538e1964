/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The simulated kernel's table of operations: arming, taking back, running a step, completing,
 * delivering. What a kind does is in op_ways[] and where its calls are.
 *
 * A completion in the queue stays there whatever happens to its operation. What is taken back after
 * its last completion was queued is not there any more, as far as the kernel goes. A row is used
 * again at once, for whatever comes next, like the slots of the real ring.
 */
#include "tests/sim/kernel_int.h"

const struct op_way op_ways[OP_KIND_COUNT] = {
	[OP_ACCEPT] = {accept_ready, accept_step, accept_finish, .multishot = true},
	[OP_CONNECT] = {connect_ready, connect_step, connect_finish, .reads = false},
	[OP_RECV] = {recv_ready, recv_step, recv_finish, .multishot = true, .reads = true},
	[OP_SEND] = {send_ready, send_step, send_finish, .writes = true},
	[OP_POLL] = {poll_ready, poll_step, poll_finish, .reads = false},
	[OP_SPLICE_IN] = {splice_in_ready, splice_in_step, splice_in_finish, .reads = true},
	[OP_SPLICE_OUT] = {splice_out_ready, splice_out_step, splice_out_finish, .writes = true},
	[OP_ZC_RECV] = {zc_recv_ready, zc_recv_step, zc_recv_finish, .reads = true},
	[OP_ZC_SEND] = {zc_send_ready, zc_send_step, zc_send_finish, .writes = true},
	[OP_BELL] = {bell_ready, bell_step, bell_finish, .reads = false},
	/* Several at once on one file are fine. */
	[OP_FILE_WRITE] = {file_write_ready, file_write_step, file_write_finish, .writes = false},
	[OP_FILE_READ] = {file_read_ready, file_read_step, file_read_finish, .reads = false},
};

/* ---- rows ---- */

static uint32_t row_take(struct sim_kernel *k)
{
	uint32_t i = k->row_free;

	if (i) {
		k->row_free = k->row[i].next;
		return i;
	}
	i = k->row_n;
	*SIM_PUSH(k, row) = (struct row){0};
	return i;
}

static void row_clear(struct row *o)
{
	struct iovec *iov = o->iov;
	uint32_t gen = o->gen;

	*o = (struct row){.iov = iov, .gen = gen, .cancel_us = SIM_NEVER};
}

struct row *op_arm(
	struct ring *r, struct ring_op *op, enum op_kind kind, struct file *f, struct conn *c)
{
	struct sim_kernel *k = r->k;
	const struct op_way *w = &op_ways[kind];
	struct row *o;
	uint32_t i;

	ASSERT(!ring_op_armed(op) && op->done);
	ASSERT(k->armed < r->ops_max);
	/* Two at once: the order of the octets would be anybody's guess (U8). */
	ASSERT(!w->reads || f->readers == 0);
	ASSERT(!w->writes || f->writers == 0);
	i = row_take(k);
	o = &k->row[i];
	row_clear(o);
	o->op = op;
	o->file = f;
	o->conn = c;
	o->kind = (uint8_t)kind;
	op->slot = i;
	k->armed++;
	f->rows++;
	f->armed++;
	f->readers += w->reads;
	f->writers += w->writes;
	*SIM_PUSH(k, submit) = (struct submit){i, o->gen, false};
	return o;
}

void ring_cancel(struct ring *r, struct ring_op *op)
{
	struct sim_kernel *k = r->k;

	if (!ring_op_armed(op))
		return;
	ASSERT(op->slot < k->row_n && k->row[op->slot].op == op);
	r->stats.cancels++;
	*SIM_PUSH(k, submit) = (struct submit){op->slot, k->row[op->slot].gen, true};
}

/* ---- becoming ready ---- */

static void ready_remove(struct sim_kernel *k, struct row *o)
{
	uint32_t last;

	if (o->ready == 0)
		return;
	last = k->ready[--k->ready_n];
	k->ready[o->ready - 1] = last;
	k->row[last].ready = o->ready;
	o->ready = 0;
}

static bool could_move(struct sim_kernel *k, struct row *o)
{
	if (!o->seen || o->ended || o->hold_us > k->now_us)
		return false;
	return o->cancel_us <= k->now_us || op_ways[o->kind].ready(k, o);
}

void op_look(struct sim_kernel *k, uint32_t i)
{
	struct row *o = &k->row[i];

	if (o->ready || !could_move(k, o))
		return;
	*SIM_PUSH(k, ready) = i;
	o->ready = k->ready_n;
}

void ops_look(struct sim_kernel *k, struct file *f)
{
	for (uint32_t i = f->first; i; i = k->row[i].next)
		op_look(k, i);
}

static void due_of_row(struct sim_kernel *k, const struct row *o)
{
	const uint64_t times[] = {o->hold_us, o->cancel_us, o->due_us};

	for (unsigned i = 0; i < ARRAY_LEN(times); i++)
		if (times[i] > k->now_us)
			sim_due(k, times[i]);
}

void ops_look_all(struct sim_kernel *k)
{
	k->due_us = SIM_NEVER;
	for (uint32_t i = 0; i < k->conn_n; i++) {
		struct conn *c = k->conn[i];

		if (c == NULL)
			continue;
		if (c->err_us && c->err_us <= k->now_us)
			conn_dies(k, c, c->err_later);
		else if (c->err_us)
			sim_due(k, c->err_us);
		conn_moves(k, c);
	}
	for (uint32_t i = 1; i < k->row_n; i++) {
		struct row *o = &k->row[i];

		if (o->op == NULL || !o->seen || o->ended)
			continue;
		due_of_row(k, o);
		op_look(k, i);
	}
}

/* ---- what the engine hands over ---- */

static void take_back(struct sim_kernel *k, struct row *o)
{
	uint64_t at = k->now_us;

	if (o->ended || o->counted)
		return; /* not found */
	if (o->kind != OP_BELL && sim_strikes(k, FAULT_CANCEL_LATE, o->file->rec_sock))
		at += sim_delay(k);
	o->cancel_us = MIN_OF(o->cancel_us, at);
	o->hold_us = 0;
	if (at > k->now_us)
		sim_due(k, at);
}

static void see(struct sim_kernel *k, struct row *o, uint32_t i)
{
	o->seen = true;
	o->next = o->file->first;
	o->file->first = i;
}

void ops_submit(struct sim_kernel *k)
{
	k->ring->stats.sqes += k->submit_n;
	for (uint32_t s = 0; s < k->submit_n; s++) {
		const struct submit *sub = &k->submit[s];
		struct row *o = &k->row[sub->row];

		/* Ended meanwhile, and armed again for something else perhaps (U2). */
		if (o->gen != sub->gen || o->op == NULL)
			continue;
		if (sub->cancel)
			take_back(k, o);
		else
			see(k, o, sub->row);
		op_look(k, sub->row);
	}
	k->submit_n = 0;
}

/* ---- running ---- */

void op_run(struct sim_kernel *k, uint32_t i)
{
	struct row *o = &k->row[i];
	bool back = o->cancel_us <= k->now_us;

	ready_remove(k, o);
	if (!could_move(k, o))
		return;
	if (!back && sim_strikes(k, FAULT_LATE, o->file->rec_sock)) {
		o->hold_us = k->now_us + sim_delay(k);
		sim_due(k, o->hold_us);
		return;
	}
	op_ways[o->kind].step(k, o, back);
	op_look(k, i);
}

static void unlink_row(struct sim_kernel *k, struct row *o)
{
	uint32_t i = (uint32_t)(o - k->row), *at = &o->file->first;

	while (*at != i)
		at = &k->row[*at].next;
	*at = o->next;
}

/* The queue is full, or is said to be: what comes is kept elsewhere, and multishots end with it
 * (U3, U5). */
static bool overflows(struct sim_kernel *k, bool multishot)
{
	if (k->cq_n < k->cq_max && !k->overflowed &&
		!(multishot && k->cq_n > 0 && sim_strikes(k, FAULT_SMALL_CQ, REC_NO_SOCK)))
		return false;
	if (!k->overflowed)
		k->ring->stats.overflows++;
	k->overflowed = true;
	return true;
}

void op_post(struct sim_kernel *k, struct row *o, const struct cqe *c)
{
	bool multishot = op_ways[o->kind].multishot, over = overflows(k, multishot);
	struct cqe *q = SIM_PUSH(k, cq);

	ASSERT(!o->ended);
	*q = *c;
	q->row = (uint32_t)(o - k->row);
	if (over && multishot)
		q->more = false;
	if (q->more)
		return;
	o->ended = true;
	ready_remove(k, o);
	unlink_row(k, o);
}

void op_post_res(struct sim_kernel *k, struct row *o, enum ring_res res, uint32_t n)
{
	op_post(k, o, &(struct cqe){.res = (uint8_t)res, .n = n, .fd = -1});
}

/* ---- delivering ---- */

static void leave_file(struct row *o)
{
	if (o->left)
		return;
	o->left = true;
	o->file->armed--;
	o->file->readers -= op_ways[o->kind].reads;
	o->file->writers -= op_ways[o->kind].writes;
}

static void row_give(struct sim_kernel *k, struct row *o)
{
	uint32_t i = (uint32_t)(o - k->row);
	struct conn *c = o->conn;

	leave_file(o);
	o->file->rows--;
	o->op->slot = 0;
	o->op = NULL;
	o->gen++;
	o->next = k->row_free;
	k->row_free = i;
	k->armed--;
	/* A zero-copy send may have outlived its socket. */
	if (c != NULL && c->fd < 0)
		conn_settle(k, c);
}

static void deliver_one(struct ring *r, const struct cqe *c)
{
	struct sim_kernel *k = r->k;
	struct row *o = &k->row[c->row];
	struct ring_op *op = o->op;
	struct ring_done d = {
		.res = (enum ring_res)c->res,
		.more = c->more,
		.n = c->n,
		.fd = RING_FD_NONE,
	};

	ASSERT(op && op->slot == c->row);
	op_ways[o->kind].finish(k, o, c, &d);
	if (o->counted && d.more)
		leave_file(o);
	if (!d.more)
		row_give(k, o);
	op->done(op, &d);
	if (d.buf_held)
		ring_buf_drop(r, d.buf);
}

void ops_deliver(struct ring *r)
{
	struct sim_kernel *k = r->k;

	r->stats.cqes += k->cq_n;
	k->completions += k->cq_n;
	for (uint32_t i = 0; i < k->cq_n; i++) {
		struct cqe c = k->cq[i];

		deliver_one(r, &c);
	}
	k->cq_n = 0;
	k->overflowed = false;
}
