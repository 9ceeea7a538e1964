/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Pipes and splices of the simulated kernel. A pipe holds pages, not octets: every piece that comes
 * in takes whole pages, so small ones fill it early. A full pipe and an empty socket are both
 * RING_AGAIN. IORING_OP_SPLICE runs in a worker: it is always ready, and says AGAIN where splice(2)
 * would.
 */
#include "tests/sim/kernel_int.h"

#define PAGE 4096u
#define PIPE_BYTES_MIN (64u << 10)

void pipes_open(struct ring *r, const struct ring_conf *c)
{
	r->pipe_count = c->pipe_count_max;
	r->pipe_bytes = MAX_OF((size_t)PIPE_BYTES_MIN, (size_t)c->pipe_bytes) / PAGE * PAGE;
	r->pipe = calloc(r->pipe_count + 1u, sizeof(*r->pipe));
	ASSERT(r->pipe);
	for (unsigned i = r->pipe_count; i-- > 0;) {
		r->pipe[i].next = r->pipe_idle;
		r->pipe_idle = &r->pipe[i];
	}
}

static void unmake(struct ring_pipe *p)
{
	free(p->p);
	free(p->page);
	*p = (struct ring_pipe){0};
}

void pipes_close(struct ring *r)
{
	for (unsigned i = 0; i < r->pipe_count; i++)
		unmake(&r->pipe[i]);
	free(r->pipe);
}

/* The user's pipe pages may be used up: then it is as large as pipes are anyway. */
static void make(struct ring *r, struct ring_pipe *p)
{
	p->cap = tape_pick(r->k->t, 4) == 3 ? PIPE_BYTES_MIN : r->pipe_bytes;
	p->p = malloc(p->cap);
	p->page = calloc(p->cap / PAGE, sizeof(*p->page));
	ASSERT(p->p && p->page);
	p->made = true;
}

struct ring_pipe *ring_pipe_get(struct ring *r)
{
	struct ring_pipe *p = r->pipe_idle;

	if (p == NULL || sim_strikes(r->k, FAULT_NO_PIPE, REC_NO_SOCK))
		return NULL;
	r->pipe_idle = p->next;
	if (!p->made)
		make(r, p);
	p->next = NULL;
	return p;
}

void ring_pipe_put(struct ring *r, struct ring_pipe *p)
{
	struct ring_pipe **at = &r->pipe_idle;

	ASSERT(p->armed == 0);
	ASSERT(p->inside == p->n);
	if (p->inside) {
		unmake(p);
		while (*at)
			at = &(*at)->next;
	}
	p->next = *at;
	*at = p;
}

size_t ring_pipe_bytes(const struct ring_pipe *p)
{
	return p->inside;
}

size_t ring_pipe_room(const struct ring_pipe *p)
{
	return p->cap - p->inside;
}

/* ---- pages ---- */

static uint32_t pages_max(const struct ring_pipe *p)
{
	return (uint32_t)(p->cap / PAGE);
}

/* Room for one piece of `n` octets at the end, which has pages of its own. */
static uint8_t *pipe_append(struct ring_pipe *p, uint32_t n)
{
	uint8_t *at;

	if (p->head > 0)
		memmove(p->p, p->p + p->head, p->n);
	p->head = 0;
	at = p->p + p->n;
	p->n += n;
	for (; n > 0; n -= MIN_OF(n, PAGE)) {
		ASSERT(p->pages < pages_max(p));
		p->page[(p->page_head + p->pages++) % pages_max(p)] = (uint16_t)MIN_OF(n, PAGE);
	}
	return at;
}

static void pipe_drop(struct ring_pipe *p, uint32_t n)
{
	p->head += n;
	p->n -= n;
	while (n > 0) {
		uint16_t *page = &p->page[p->page_head], part = (uint16_t)MIN_OF(n, *page);

		*page -= part;
		n -= part;
		if (*page > 0)
			break;
		p->page_head = (p->page_head + 1) % pages_max(p);
		p->pages--;
	}
}

/* ---- the kernel's part ---- */

static uint32_t move_in(
	struct sim_kernel *k, struct conn *c, struct ring_pipe *p, size_t n, enum ring_res *res)
{
	size_t room = (size_t)(pages_max(p) - p->pages) * PAGE;
	uint32_t some = (uint32_t)MIN_OF(MIN_OF(n, room), (size_t)c->in.arrived);
	uint8_t *at;

	*res = RING_AGAIN;
	if (room == 0 || sim_strikes(k, FAULT_SPLICE_AGAIN, c->file.rec_sock))
		return 0;
	if (some == 0) {
		*res = conn_in_end(c);
		return 0;
	}
	*res = RING_OK;
	some = sim_short(k, FAULT_SPLICE_SHORT, c->file.rec_sock, some);
	at = pipe_append(p, some);
	conn_take(k, c, at, some);
	record_octets(k->rec, k->now_us, c->file.rec_sock, REC_IN, span_of(at, some));
	return some;
}

static uint32_t move_out(
	struct sim_kernel *k, struct ring_pipe *p, struct conn *c, size_t n, enum ring_res *res)
{
	uint32_t some = (uint32_t)MIN_OF(MIN_OF(n, p->n), (size_t)queue_room(k, &c->out));

	*res = p->n ? conn_out_fault(c) : RING_AGAIN;
	if (*res != RING_OK)
		return 0;
	*res = RING_AGAIN;
	if (some == 0 || sim_strikes(k, FAULT_SPLICE_AGAIN, c->file.rec_sock))
		return 0;
	*res = RING_OK;
	some = sim_short(k, FAULT_SPLICE_SHORT, c->file.rec_sock, some);
	conn_give(k, c, p->p + p->head, some);
	pipe_drop(p, some);
	return some;
}

/* ---- at once ---- */

size_t ring_splice_in(
	struct ring *r, struct ring_fd from, struct ring_pipe *p, size_t n, enum ring_res *res)
{
	struct conn *c = conn_of_fd(r->k, from);
	uint32_t some;

	ASSERT(p->armed == 0 && c->file.readers == 0);
	r->stats.splices++;
	some = move_in(r->k, c, p, n, res);
	p->inside += some;
	r->stats.recv_bytes += some;
	rec_told_in(r->k, c, *res);
	return some;
}

size_t ring_splice_out(
	struct ring *r, struct ring_pipe *p, struct ring_fd to, size_t n, enum ring_res *res)
{
	struct conn *c = conn_of_fd(r->k, to);
	uint32_t some;

	ASSERT(p->armed == 0 && c->file.writers == 0);
	*res = RING_AGAIN;
	if (p->inside == 0)
		return 0;
	r->stats.splices++;
	some = move_out(r->k, p, c, n, res);
	p->inside -= some;
	r->stats.send_bytes += some;
	rec_told_out(r->k, c, *res);
	return some;
}

/* ---- by the ring ---- */

static void arm(struct ring *r, struct ring_op *op, enum op_kind kind, struct ring_fd fd,
	struct ring_pipe *p, size_t n)
{
	struct conn *c = conn_of_fd(r->k, fd);
	struct row *o = op_arm(r, op, kind, &c->file, c);

	ASSERT(p->armed == 0);
	p->armed++;
	o->with = p;
	o->n = (uint32_t)MIN_OF(n, (size_t)INT32_MAX);
	r->stats.splices++;
}

void ring_splice_in_op(
	struct ring *r, struct ring_op *op, struct ring_fd from, struct ring_pipe *p, size_t n)
{
	arm(r, op, OP_SPLICE_IN, from, p, n);
}

void ring_splice_out_op(
	struct ring *r, struct ring_op *op, struct ring_pipe *p, struct ring_fd to, size_t n)
{
	arm(r, op, OP_SPLICE_OUT, to, p, n);
	conn_offered(r->k, conn_of_fd(r->k, to), MIN_OF(n, (size_t)p->inside));
}

bool splice_in_ready(struct sim_kernel *k, struct row *o)
{
	return true;
}

bool splice_out_ready(struct sim_kernel *k, struct row *o)
{
	return true;
}

void splice_in_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	enum ring_res res = RING_CANCELED;
	uint32_t n = 0;

	if (!taken_back)
		n = move_in(k, o->conn, o->with, o->n, &res);
	/* The end of input is 0 octets and no error (ring.h). */
	op_post_res(k, o, res == RING_EOF ? RING_OK : res, n);
}

void splice_out_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	enum ring_res res = RING_CANCELED;
	uint32_t n = 0;

	if (!taken_back)
		n = move_out(k, o->with, o->conn, o->n, &res);
	op_post_res(k, o, res, n);
}

void splice_in_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	struct ring_pipe *p = o->with;

	p->armed--;
	p->inside += d->n;
	k->ring->stats.recv_bytes += d->n;
	rec_told_in(k, o->conn, d->res == RING_OK && d->n == 0 ? RING_EOF : d->res);
}

void splice_out_finish(
	struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	struct ring_pipe *p = o->with;

	p->armed--;
	p->inside -= d->n;
	k->ring->stats.send_bytes += d->n;
	rec_told_out(k, o->conn, d->res);
}
