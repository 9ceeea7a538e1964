/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See bytes_ring.h. A turn takes the connections that have something to deliver and delivers all of
 * it; what comes up meanwhile is for the next turn, as with a kernel. Programming errors of the
 * caller assert, as far as they would be noticed here.
 */
#include "bench/micro/bytes_ring.h"

#include "ring/list.h"
#include "ring/listen.h"

#include <time.h>

#define CONNS_MAX 256
#define QUEUED_MAX 8 /* pieces a far end may have said before the near end reads */
#define BUFS 64
#define NO_BUF 0 /* all octets lie in scripts: one number serves for all of them */

enum op_kind { OP_RECV, OP_SEND, OP_DIAL, OP_KINDS };

/* A walk through a script. */
struct walk {
	const struct bytes_script *script;
	uint32_t step;
	uint64_t round;
};

struct conn {
	struct ring *r;
	struct list ready; /* linked: has something to deliver */
	struct ring_op *op[OP_KINDS];
	struct walk says;     /* the far end */
	uint64_t owed, after; /* octets that came and count for the next step; see bytes_step */
	struct walk should;   /* what the far end should get, when verified */
	size_t should_at;     /* in that step's octets */
	struct span queue[QUEUED_MAX];
	uint32_t first, queued;
	uint32_t cap; /* octets that the receive may still give */
	bool in_use, open, end, cancel;
	uint32_t sent; /* by the send that was given to the ring */
};

struct ring_bell {
	struct list node;
	void (*rung)(void *arg);
	void *arg;
	bool rings;
};

struct ring {
	struct conn conn[CONNS_MAX];
	struct list ready, bells;
	uint32_t used, idle, leases;
	uint32_t free[CONNS_MAX], free_n;
	uint64_t now_us, wall_offset_us, seed, wrong;
	const struct bytes_script *client, *server;
	bool verify;
	struct ring_addr peer, local; /* of every connection */
	struct ring_stats stats;
};

/* ---- walks ---- */

static bool walk_over(const struct walk *w)
{
	return w->step == w->script->count;
}

static void walk_on(struct walk *w)
{
	w->step++;
	if (w->step == w->script->loop_to && ++w->round < w->script->rounds)
		w->step = w->script->loop_from;
}

/* ---- far ends ---- */

static void make_ready(struct conn *c)
{
	if (!list_linked(&c->ready))
		list_push_back(&c->r->ready, &c->ready);
}

static void far_goes_on(struct conn *c)
{
	while (!walk_over(&c->says)) {
		const struct bytes_step *s = &c->says.script->steps[c->says.step];

		if (c->owed < c->after + s->before)
			return;
		c->owed -= c->after + s->before;
		c->after = s->after;
		if (s->say.n) {
			ASSERT(c->queued < QUEUED_MAX);
			c->queue[(c->first + c->queued++) % QUEUED_MAX] = s->say;
		}
		c->end = s->end;
		walk_on(&c->says);
		make_ready(c);
	}
}

static void far_verifies(struct conn *c, struct span got)
{
	while (got.n) {
		while (!walk_over(&c->should) &&
			c->should_at == c->should.script->steps[c->should.step].say.n) {
			walk_on(&c->should);
			c->should_at = 0;
		}
		if (walk_over(&c->should)) {
			c->r->wrong += got.n;
			return;
		}
		struct span rest =
			span_drop(c->should.script->steps[c->should.step].say, c->should_at);
		size_t n = MIN_OF(rest.n, got.n);

		c->r->wrong += memcmp(rest.p, got.p, n) != 0;
		c->should_at += n;
		got = span_drop(got, n);
	}
}

static size_t far_takes(struct conn *c, const struct iovec *iov, unsigned count)
{
	size_t n = 0;

	for (unsigned i = 0; i < count; i++) {
		if (c->r->verify)
			far_verifies(c, span_of(iov[i].iov_base, iov[i].iov_len));
		n += iov[i].iov_len;
	}
	c->owed += n;
	c->r->stats.send_bytes += n;
	far_goes_on(c);
	return n;
}

/* ---- connections ---- */

static struct conn *conn_of(struct ring *r, struct ring_fd fd)
{
	ASSERT(fd.v >= 0 && fd.v < CONNS_MAX && r->conn[fd.v].in_use);
	return &r->conn[fd.v];
}

static struct ring_fd conn_new(
	struct ring *r, const struct bytes_script *says, const struct bytes_script *should)
{
	ASSERT(r->free_n > 0);
	uint32_t i = r->free[--r->free_n];
	struct conn *c = &r->conn[i];

	memset(c, 0, sizeof(*c));
	c->r = r;
	c->in_use = true;
	c->says.script = says;
	c->should.script = should;
	list_init(&c->ready);
	r->used++;
	return (struct ring_fd){(int)i};
}

void bytes_ring_scripts(struct ring *r, const struct bytes_script *client,
	const struct bytes_script *server, bool verify)
{
	ASSERT(r->used == 0);
	r->client = client;
	r->server = server;
	r->verify = verify;
}

struct ring_fd bytes_ring_client(struct ring *r)
{
	struct ring_fd fd = conn_new(r, r->client, r->server);

	r->conn[fd.v].open = true;
	far_goes_on(&r->conn[fd.v]);
	return fd;
}

uint32_t bytes_ring_open(const struct ring *r)
{
	return r->used;
}

uint32_t bytes_ring_idle(const struct ring *r)
{
	return r->idle;
}

uint64_t bytes_ring_wrong(const struct ring *r)
{
	return r->wrong;
}

/* ---- operations ---- */

static void arm(struct ring *r, struct ring_op *op, struct conn *c, enum op_kind kind)
{
	ASSERT(!ring_op_armed(op) && !c->op[kind]);
	op->slot = (uint32_t)(c - r->conn) * OP_KINDS + kind + 1;
	c->op[kind] = op;
	r->stats.sqes++;
}

static void complete(struct conn *c, enum op_kind kind, const struct ring_done *d)
{
	struct ring_op *op = c->op[kind];

	c->r->stats.cqes++;
	if (!d->more) {
		op->slot = 0;
		c->op[kind] = NULL;
	}
	op->done(op, d);
}

void ring_recv(struct ring *r, struct ring_op *op, struct ring_fd fd, uint32_t cap)
{
	struct conn *c = conn_of(r, fd);

	arm(r, op, c, OP_RECV);
	r->stats.rearms++;
	c->cap = cap ? cap : UINT32_MAX;
	c->cancel = false;
	if (c->queued || c->end)
		make_ready(c);
}

void ring_send(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct iovec *iov,
	unsigned iov_count)
{
	struct conn *c = conn_of(r, fd);

	arm(r, op, c, OP_SEND);
	r->stats.sends_ring++;
	c->sent = (uint32_t)far_takes(c, iov, iov_count);
	make_ready(c);
}

size_t ring_send_now(struct ring *r, struct ring_fd fd, const struct iovec *iov, unsigned iov_count,
	enum ring_res *res)
{
	r->stats.sends_now++;
	*res = RING_OK;
	return far_takes(conn_of(r, fd), iov, iov_count);
}

void ring_connect(
	struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_addr *peer)
{
	struct conn *c = conn_of(r, fd);

	(void)peer;
	arm(r, op, c, OP_DIAL);
	r->stats.connects++;
	make_ready(c);
}

void ring_cancel(struct ring *r, struct ring_op *op)
{
	if (!ring_op_armed(op))
		return;
	struct conn *c = &r->conn[(op->slot - 1) / OP_KINDS];

	r->stats.cancels++;
	/* The others complete in the next turn anyway. */
	c->cancel = c->cancel || c->op[OP_RECV] == op;
	make_ready(c);
}

/* ---- a turn ---- */

static void deliver_piece(struct conn *c)
{
	struct span *s = &c->queue[c->first];
	struct ring_done d = {.res = RING_OK, .buf_held = true, .buf = NO_BUF};

	d.data = span_of(s->p, MIN_OF(s->n, (size_t)c->cap));
	*s = span_drop(*s, d.data.n);
	if (s->n == 0) {
		c->first = (c->first + 1) % QUEUED_MAX;
		c->queued--;
	}
	c->cap = d.data.n < c->cap ? c->cap - (uint32_t)d.data.n : 0;
	d.more = c->cap > 0;
	c->r->stats.recvs++;
	c->r->stats.recv_bytes += d.data.n;
	complete(c, OP_RECV, &d);
}

static void deliver(struct conn *c)
{
	if (c->op[OP_DIAL]) {
		c->open = true;
		far_goes_on(c);
		complete(c, OP_DIAL, &(struct ring_done){.res = RING_OK});
	}
	if (c->op[OP_SEND])
		complete(c, OP_SEND, &(struct ring_done){.res = RING_OK, .n = c->sent});
	/* Linked again: a receive that was armed anew, or what came up meanwhile, is for the next
	 * turn. */
	while (c->op[OP_RECV] && !list_linked(&c->ready)) {
		if (c->cancel)
			complete(c, OP_RECV, &(struct ring_done){.res = RING_CANCELED});
		else if (c->queued)
			deliver_piece(c);
		else if (c->end)
			complete(c, OP_RECV, &(struct ring_done){.res = RING_EOF});
		else
			return;
	}
}

static void read_clock(struct ring *r)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	r->now_us = (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void ring_bells(struct ring *r)
{
	LIST_FOR_SAFE(it, &r->bells)
	{
		struct ring_bell *b = CONTAINER_OF(it, struct ring_bell, node);

		if (!b->rings)
			continue;
		b->rings = false;
		b->rung(b->arg);
	}
}

void ring_turn(struct ring *r, uint64_t deadline_us)
{
	struct list ready, *it;

	(void)deadline_us; /* what is there is there: nothing to wait for */
	read_clock(r);
	r->stats.enters++;
	r->idle = list_empty(&r->ready) ? r->idle + 1 : 0;
	list_init(&ready);
	list_splice_back(&ready, &r->ready);
	while ((it = list_pop_front(&ready)) != NULL)
		deliver(CONTAINER_OF(it, struct conn, ready));
	ring_bells(r);
}

/* ---- sockets ---- */

enum ring_res ring_socket(struct ring *r, const struct ring_addr *peer, const struct ring_addr *src,
	struct ring_fd *out)
{
	(void)peer;
	(void)src;
	*out = conn_new(r, r->server, r->client);
	return RING_OK;
}

enum ring_res ring_peer_addr(struct ring *r, struct ring_fd fd, struct ring_addr *out)
{
	conn_of(r, fd);
	*out = r->peer;
	return RING_OK;
}

enum ring_res ring_local_addr(struct ring *r, struct ring_fd fd, struct ring_addr *out)
{
	conn_of(r, fd);
	*out = r->local;
	return RING_OK;
}

void ring_shut(struct ring *r, struct ring_fd fd)
{
	conn_of(r, fd);
}

void ring_linger_reset(struct ring *r, struct ring_fd fd)
{
	conn_of(r, fd);
}

void ring_close_fd(struct ring *r, struct ring_fd *fd)
{
	struct conn *c = conn_of(r, *fd);

	ASSERT(!c->op[OP_RECV] && !c->op[OP_SEND] && !c->op[OP_DIAL]);
	r->wrong += !walk_over(&c->says);
	r->stats.closes++;
	c->in_use = false;
	list_remove(&c->ready);
	r->free[r->free_n++] = (uint32_t)fd->v;
	r->used--;
	*fd = RING_FD_NONE;
}

/* ---- buffers ---- */

void ring_buf_keep(struct ring *r, uint16_t buf)
{
	ASSERT(buf == NO_BUF);
	r->leases++;
}

void ring_buf_drop(struct ring *r, uint16_t buf)
{
	ASSERT(buf == NO_BUF && r->leases > 0);
	r->leases--;
}

unsigned ring_bufs_free(const struct ring *r)
{
	(void)r;
	return BUFS;
}

unsigned ring_bufs_total(const struct ring *r)
{
	(void)r;
	return BUFS;
}

/* ---- the ring ---- */

struct ring *ring_open(const struct ring_conf *conf, struct ring_barrier *why)
{
	struct ring *r = calloc(1, sizeof(*r));

	(void)conf;
	if (!r) {
		*why = (struct ring_barrier){"no memory", "make some room"};
		return NULL;
	}
	list_init(&r->ready);
	list_init(&r->bells);
	for (uint32_t i = CONNS_MAX; i-- > 0;)
		r->free[r->free_n++] = i;
	r->seed = 20260101;
	r->wall_offset_us = 1767225600000000ull;
	bool parsed = addr_parse(SPAN_LIT("192.0.2.25:40712"), &r->peer) &&
		      addr_parse(SPAN_LIT("192.0.2.1:25"), &r->local);
	ASSERT(parsed);
	read_clock(r);
	return r;
}

void ring_close(struct ring *r)
{
	ASSERT(r->used == 0 && r->leases == 0 && list_empty(&r->bells));
	free(r);
}

uint32_t ring_features(const struct ring *r)
{
	(void)r;
	return RING_FEAT_PBUF_INC | RING_FEAT_RECV_CAP;
}

struct ring_stats *ring_stats(struct ring *r)
{
	return &r->stats;
}

uint64_t ring_now_us(const struct ring *r)
{
	return r->now_us;
}

uint64_t ring_wall_us(const struct ring *r)
{
	return r->now_us + r->wall_offset_us;
}

uint64_t ring_random(struct ring *r)
{
	return r->seed = r->seed * 6364136223846793005ull + 1442695040888963407ull;
}

struct ring_bell *ring_bell_open(struct ring *r, void (*rung)(void *arg), void *arg)
{
	struct ring_bell *b = calloc(1, sizeof(*b));

	ASSERT(b);
	b->rung = rung;
	b->arg = arg;
	list_init(&b->node);
	list_push_back(&r->bells, &b->node);
	return b;
}

void ring_bell_ring(struct ring_bell *b)
{
	b->rings = true;
}

void ring_bell_close(struct ring *r, struct ring_bell *b)
{
	(void)r;
	list_remove(&b->node);
	free(b);
}
