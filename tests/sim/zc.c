/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Registered buffers and zero-copy sends of the simulated kernel.
 *
 * A buffer is lent to the kernel from the call that arms a send until its last completion. Its
 * octets are summed up at both ends: whoever changes them in between is stopped (U7). While a
 * receive writes into one, and while nobody has it, it is poisoned. The notification comes when the
 * far side has read the octets or the connection is gone, later by chance (FAULT_ZC_LATE).
 */
#include "tests/sim/kernel_int.h"

#define ZC_IDLE UINT8_MAX
#define GAP 64u

static uint8_t *octets_of(const struct zc_pool *z, uint16_t i)
{
	return z->mem + i * z->stride;
}

void zc_open(struct ring *r, const struct ring_conf *c)
{
	struct zc_pool *z = &r->zc;

	if (c->zc_count == 0 || !(r->features & RING_FEAT_SEND_ZC))
		return;
	ASSERT(c->zc_count <= UINT16_MAX);
	z->count = c->zc_count;
	z->bytes = c->zc_bytes;
	z->stride = (z->bytes + GAP + 63) / 64 * 64;
	z->mem = malloc(z->count * z->stride);
	z->idle = calloc(z->count, sizeof(*z->idle));
	z->dirty = calloc(z->count, sizeof(*z->dirty));
	z->lent = malloc(z->count);
	ASSERT(z->mem && z->idle && z->dirty && z->lent);
	memset(z->mem, SIM_OVERWRITE, z->count * z->stride);
	POISON(z->mem, z->count * z->stride);
	memset(z->lent, ZC_IDLE, z->count);
	for (unsigned i = 0; i < z->count; i++)
		z->idle[z->idle_count++] = (uint16_t)(z->count - 1 - i);
}

void zc_close(struct ring *r)
{
	struct zc_pool *z = &r->zc;

	ASSERT(z->idle_count == z->count); /* a buffer outlives the ring */
	if (z->mem)
		UNPOISON(z->mem, z->count * z->stride);
	free(z->mem);
	free(z->idle);
	free(z->dirty);
	free(z->lent);
}

bool ring_zc_get(struct ring *r, struct ring_zcbuf *out)
{
	struct zc_pool *z = &r->zc;
	uint16_t i;

	if (z->idle_count == 0 || sim_strikes(r->k, FAULT_NO_ZC, REC_NO_SOCK))
		return false;
	i = z->idle[--z->idle_count];
	z->lent[i] = 0;
	UNPOISON(octets_of(z, i), z->bytes);
	*out = (struct ring_zcbuf){octets_of(z, i), z->bytes, i};
	return true;
}

void ring_zc_put(struct ring *r, const struct ring_zcbuf *b)
{
	struct zc_pool *z = &r->zc;

	ASSERT(b->idx < z->count && b->p == octets_of(z, b->idx));
	ASSERT(z->lent[b->idx] == 0); /* not idle, nothing armed on it */
	memset(b->p, SIM_OVERWRITE, z->dirty[b->idx]);
	z->dirty[b->idx] = 0;
	z->lent[b->idx] = ZC_IDLE;
	POISON(b->p, z->bytes);
	z->idle[z->idle_count++] = b->idx;
}

static struct row *arm(struct ring *r, struct ring_op *op, enum op_kind kind, struct ring_fd fd,
	const struct ring_zcbuf *b, uint32_t off, uint32_t n)
{
	struct zc_pool *z = &r->zc;
	struct conn *c = conn_of_fd(r->k, fd);
	struct row *o = op_arm(r, op, kind, &c->file, c);

	ASSERT(n > 0 && off <= b->bytes && n <= b->bytes - off);
	ASSERT(b->idx < z->count && z->lent[b->idx] == 0);
	z->lent[b->idx]++;
	z->dirty[b->idx] = MAX_OF(z->dirty[b->idx], off + n);
	o->buf = b->idx;
	o->off = off;
	o->n = n;
	return o;
}

/* ---- receive ---- */

void ring_zc_recv(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_zcbuf *b,
	uint32_t n)
{
	arm(r, op, OP_ZC_RECV, fd, b, 0, n);
	POISON(b->p, b->bytes);
}

bool zc_recv_ready(struct sim_kernel *k, struct row *o)
{
	return conn_in_event(o->conn);
}

void zc_recv_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	const struct zc_pool *z = &k->ring->zc;
	struct conn *c = o->conn;
	uint32_t n = MIN_OF(o->n, c->in.arrived);
	uint8_t *p = octets_of(z, o->buf);

	if (taken_back) {
		op_post_res(k, o, RING_CANCELED, 0);
	} else if (n == 0) {
		op_post_res(k, o, conn_in_end(c), 0);
	} else {
		n = sim_short(k, FAULT_SHORT_RECV, c->file.rec_sock, n);
		UNPOISON(p, z->bytes);
		conn_take(k, c, p, n);
		POISON(p, z->bytes);
		op_post_res(k, o, RING_OK, n);
	}
}

void zc_recv_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	struct zc_pool *z = &k->ring->zc;

	z->lent[o->buf]--;
	UNPOISON(octets_of(z, o->buf), z->bytes);
	rec_told_in(k, o->conn, d->res);
	if (d->n == 0)
		return;
	d->data = span_of(octets_of(z, o->buf), d->n);
	k->ring->stats.recvs++;
	k->ring->stats.recv_bytes += d->n;
	record_octets(k->rec, k->now_us, o->file->rec_sock, REC_IN, d->data);
}

/* ---- send ---- */

uint64_t sim_sum(const uint8_t *p, uint32_t n)
{
	uint64_t h = n, v;

	for (; n >= sizeof(v); n -= sizeof(v), p += sizeof(v)) {
		memcpy(&v, p, sizeof(v));
		h = (h ^ v) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	while (n-- > 0)
		h = (h ^ *p++) * 0x100000001b3u;
	return h;
}

static uint64_t sum_of(const struct zc_pool *z, const struct row *o)
{
	return sim_sum(octets_of(z, o->buf) + o->off, o->n);
}

void ring_zc_send(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_zcbuf *b,
	uint32_t off, uint32_t n)
{
	struct row *o = arm(r, op, OP_ZC_SEND, fd, b, off, n);

	o->sum = sum_of(&r->zc, o);
	conn_offered(r->k, o->conn, n);
	r->stats.zc_sends++;
}

static bool let_go(const struct row *o)
{
	const struct conn *c = o->conn;

	return c->dead || c->far_dead || c->out.read >= o->mark;
}

bool zc_send_ready(struct sim_kernel *k, struct row *o)
{
	if (!o->counted)
		return conn_out_event(k, o->conn);
	return o->due_us <= k->now_us && let_go(o);
}

/* The first completion. Without octets there may be no second one. */
static void count(struct sim_kernel *k, struct row *o, enum ring_res res)
{
	const struct queue *q = &o->conn->out;
	bool more = o->taken > 0 || tape_pick(k->t, 2);

	if (o->taken)
		res = RING_OK;
	o->mark = o->taken ? q->read + q->n : 0;
	o->counted = more;
	o->cancel_us = SIM_NEVER;
	if (more && sim_strikes(k, FAULT_ZC_LATE, o->file->rec_sock)) {
		o->due_us = k->now_us + sim_delay(k);
		sim_due(k, o->due_us);
	}
	op_post(k, o,
		&(struct cqe){
			.res = (uint8_t)res, .n = (uint32_t)o->taken, .fd = -1, .more = more});
}

void zc_send_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	struct conn *c = o->conn;
	uint32_t left = o->n - (uint32_t)o->taken, n = MIN_OF(left, queue_room(k, &c->out));
	const uint8_t *p = octets_of(&k->ring->zc, o->buf) + o->off + o->taken;
	enum ring_res res = RING_CANCELED;

	ASSERT(sum_of(&k->ring->zc, o) == o->sum); /* somebody wrote into a buffer that is lent */
	if (o->counted) {
		op_post_res(k, o, RING_OK, 0);
		return;
	}
	if (!taken_back)
		res = o->taken && c->dead ? RING_PIPE : conn_out_fault(c);
	if (res == RING_OK && o->taken == 0 && sim_strikes(k, FAULT_ZC_NOMEM, c->file.rec_sock))
		res = RING_NOMEM;
	if (res != RING_OK) {
		count(k, o, res);
		return;
	}
	n = sim_short(k, FAULT_SHORT_SEND, c->file.rec_sock, n);
	conn_give(k, c, p, n);
	o->taken += n;
	if (n == left)
		count(k, o, RING_OK);
}

void zc_send_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	if (!d->more)
		k->ring->zc.lent[o->buf]--;
	if (o->left)
		return; /* the notification */
	k->ring->stats.send_bytes += d->n;
	k->ring->stats.zc_fallbacks += d->res == RING_NOMEM;
	rec_told_out(k, o->conn, d->res);
}
