/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See policy_pool.h. A question is in one of three places: it waits for a connection (in
 * `waiting`), it has one (`conn`), or it rests before its next try or its end (its timer). A
 * connection is being made (no born_ms), asked (q), idle (in `idle`) or closing. Whenever a place
 * may have come free, serve() takes up as many of those that wait as it can, so what waits has
 * nothing to wait for but an event of some connection.
 *
 * Failures of a try are always told from the timer: stream_dial() may fail at once, inside a call
 * of the owner's.
 */
#include "engine/hook/policy/policy_pool.h"

struct policy_question {
	struct policy_pool *pool;
	struct policy_asker who;
	struct policy_conn *conn; /* that carries it; NULL: none yet */
	struct list node;
	struct timer timer;
	const char *what; /* the last failure: static, with why */
	enum ring_res why;
	uint8_t failures; /* of new connections */
	bool fresh;	  /* only a new connection will do */
	uint32_t bytes;
	uint8_t request[POLICY_REQUEST_BYTES_MAX];
};

struct policy_conn {
	struct stream st;
	struct policy_pool *pool;
	struct policy_question *q; /* that it carries */
	struct list node;
	struct timer timer; /* connecting; idle */
	uint64_t born_ms;   /* 0: not connected yet */
	bool reused;	    /* it has answered before */
	uint32_t got;
	uint8_t in[POLICY_REPLY_BYTES_MAX]; /* a reply that is not complete */
};

static void serve(struct policy_pool *p);

static uint64_t now_ms(const struct policy_pool *p)
{
	return ring_now_us(p->streams->ring) / 1000;
}

/* ---- questions ---- */

static void release(struct policy_question *q)
{
	ASSERT(!q->conn);
	list_remove(&q->node);
	timer_stop(q->pool->timers, &q->timer);
	slab_put(&q->pool->questions, q);
}

static void give_up(struct policy_question *q)
{
	const struct policy_pool *p = q->pool;
	const struct policy_asker who = q->who;
	char why[128];

	snprintf(why, sizeof(why), "%s%s%s", q->what, q->why == RING_OK ? "" : ": ",
		q->why == RING_OK ? "" : ring_res_text(q->why));
	release(q);
	p->ev->on_failed(&who, why);
}

static void rested(struct timer *t)
{
	struct policy_question *q = CONTAINER_OF(t, struct policy_question, timer);

	if (q->failures >= POLICY_TRIES) {
		give_up(q);
		return;
	}
	STAT_INC(q->pool->stats, policy_retries);
	list_push_front(&q->pool->waiting, &q->node);
	serve(q->pool);
}

/* `tries`: how many this failure is worth. */
static void failed(struct policy_question *q, uint8_t tries, const char *what, enum ring_res why)
{
	struct policy_pool *p = q->pool;

	q->failures += tries;
	q->what = what;
	q->why = why;
	timer_set(p->timers, &q->timer,
		now_ms(p) + (q->failures < POLICY_TRIES ? POLICY_RETRY_MS : 0));
}

static void again_at_once(struct policy_question *q)
{
	STAT_INC(q->pool->stats, policy_retries);
	q->fresh = true;
	list_push_front(&q->pool->waiting, &q->node);
	serve(q->pool);
}

/* ---- connections ---- */

/* Its place comes free with on_closed(). Returns the question it carried, which is without one. */
static struct policy_question *drop(struct policy_conn *c)
{
	struct policy_question *q = c->q;

	c->q = NULL;
	if (q)
		q->conn = NULL;
	list_remove(&c->node);
	timer_stop(c->pool->timers, &c->timer);
	c->pool->closing++;
	stream_close(&c->st);
	return q;
}

static void conn_closed(struct stream *st)
{
	struct policy_conn *c = CONTAINER_OF(st, struct policy_conn, st);
	struct policy_pool *p = c->pool;

	p->closing--;
	slab_put(&p->conns, c);
	serve(p);
}

/* The connection has ended by itself. Nobody can tell whether the server has seen a question that
 * it did not answer; asking again is what Postfix does. */
static void lost(struct policy_conn *c, enum ring_res why)
{
	bool reused = c->reused;
	struct policy_question *q = drop(c);

	if (q && reused)
		again_at_once(q);
	else if (q)
		failed(q, 1, "the policy server closed the connection without an answer",
			why == RING_EOF ? RING_OK : why);
}

static void unreachable(struct policy_conn *c, enum ring_res why)
{
	failed(drop(c), 1, "the policy server cannot be reached", why);
}

static void conn_timer(struct timer *t)
{
	struct policy_conn *c = CONTAINER_OF(t, struct policy_conn, timer);

	if (c->born_ms == 0)
		unreachable(c, RING_TIMEDOUT);
	else
		drop(c);
}

static void say(struct policy_conn *c)
{
	c->got = 0;
	stream_put(&c->st, span_of(c->q->request, c->q->bytes));
}

static void conn_connected(struct stream *st, enum ring_res res)
{
	struct policy_conn *c = CONTAINER_OF(st, struct policy_conn, st);

	if (res != RING_OK) {
		unreachable(c, res);
		return;
	}
	STAT_INC(c->pool->stats, policy_connections);
	timer_stop(c->pool->timers, &c->timer);
	c->born_ms = now_ms(c->pool);
	stream_read(st, true);
	say(c);
}

static void conn_end(struct stream *st, enum ring_res why)
{
	lost(CONTAINER_OF(st, struct policy_conn, st), why);
}

static void conn_drained(struct stream *st)
{
}

/* Kept, unless it is too old. */
static void rest(struct policy_conn *c)
{
	struct policy_pool *p = c->pool;
	uint64_t now = now_ms(p), end = c->born_ms + p->conf->ttl_ms;

	if (now >= end) {
		drop(c);
		return;
	}
	c->reused = true;
	list_push_front(&p->idle, &c->node);
	timer_set(p->timers, &c->timer, MIN_OF(end, now + p->conf->idle_ms));
}

/* `in_step`: there was nothing behind the reply. */
static void answered(struct policy_conn *c, const struct policy_reply *r, bool in_step)
{
	struct policy_pool *p = c->pool;
	struct policy_question *q = c->q;
	const struct policy_asker who = q->who;

	if (in_step) {
		c->q = NULL;
		q->conn = NULL;
		rest(c);
	} else {
		drop(c);
	}
	release(q);
	serve(p);
	/* The reply lies in c->in: whatever became of c, nothing is received during this call. */
	p->ev->on_reply(&who, r);
}

static void conn_bytes(struct stream *st, struct span data, int32_t buf)
{
	struct policy_conn *c = CONTAINER_OF(st, struct policy_conn, st);
	size_t n = MIN_OF(data.n, sizeof(c->in) - c->got), used = 0;
	struct policy_reply r;
	enum policy_res res;

	if (!c->q) {
		drop(c);
		return;
	}
	memcpy(c->in + c->got, data.p, n);
	c->got += (uint32_t)n;
	res = policy_read(span_of(c->in, c->got), &used, &r);
	if (res == POLICY_OK)
		answered(c, &r, used == c->got && n == data.n);
	else if (res != POLICY_MORE)
		failed(drop(c), POLICY_TRIES, policy_res_text(res), RING_OK);
}

static const struct stream_events conn_events = {
	.on_connect = conn_connected,
	.on_bytes = conn_bytes,
	.on_end = conn_end,
	.on_drained = conn_drained,
	.on_broken = conn_end,
	.on_closed = conn_closed,
};

/* There is a place for another one. */
static void dial(struct policy_pool *p, struct policy_question *q)
{
	struct policy_conn *c = slab_get(&p->conns);
	enum ring_res res;

	ASSERT(c);
	c->pool = p;
	c->q = q;
	c->born_ms = 0;
	c->reused = false;
	c->got = 0;
	list_init(&c->node);
	timer_init(&c->timer, conn_timer);
	list_remove(&q->node);
	res = stream_dial(&c->st, p->streams, &conn_events, &p->conf->endpoint.addr, NULL);
	if (res != RING_OK) {
		slab_put(&p->conns, c);
		failed(q, 1, "the policy server cannot be reached", res);
		return;
	}
	q->conn = c;
	timer_set(p->timers, &c->timer, now_ms(p) + p->conf->connect_ms);
}

/* ---- who gets which ---- */

static void use(struct policy_conn *c, struct policy_question *q)
{
	list_remove(&c->node);
	list_remove(&q->node);
	timer_stop(c->pool->timers, &c->timer);
	c->q = q;
	q->conn = c;
	say(c);
}

static bool serve_one(struct policy_pool *p, struct policy_question *q)
{
	if (!q->fresh && !list_empty(&p->idle)) {
		use(CONTAINER_OF(p->idle.next, struct policy_conn, node), q);
		return true;
	}
	if (p->conns.used < p->conns.count_max) {
		dial(p, q);
		return true;
	}
	/* Only a new one will do, and all places are taken: the one that was idle longest goes. */
	if (q->fresh && p->closing == 0 && !list_empty(&p->idle))
		drop(CONTAINER_OF(p->idle.prev, struct policy_conn, node));
	return false;
}

static void serve(struct policy_pool *p)
{
	while (!list_empty(&p->waiting))
		if (!serve_one(p, CONTAINER_OF(p->waiting.next, struct policy_question, node)))
			return;
}

/* ---- the owner's calls ---- */

bool policy_pool_init(struct policy_pool *p, const struct conf_hook *conf, uint32_t askers,
	const struct policy_pool_events *ev, struct streams *ss, struct timers *ts,
	struct stat_table *stats)
{
	*p = (struct policy_pool){
		.conf = conf, .ev = ev, .streams = ss, .timers = ts, .stats = stats};
	list_init(&p->idle);
	list_init(&p->waiting);
	return slab_init(&p->conns, "policy connections", sizeof(struct policy_conn),
		       conf->connections) &&
	       slab_init(&p->questions, "policy questions", sizeof(struct policy_question),
		       MIN_OF(askers, conf->connections + conf->queue));
}

struct policy_question *policy_pool_ask(
	struct policy_pool *p, const struct policy_request *r, const struct policy_asker *who)
{
	struct policy_question *q = slab_get(&p->questions);

	if (!q) {
		STAT_INC(p->stats, policy_queue_full);
		return NULL;
	}
	STAT_INC(p->stats, policy_questions);
	q->pool = p;
	q->who = *who;
	q->conn = NULL;
	q->failures = 0;
	q->fresh = false;
	list_init(&q->node);
	timer_init(&q->timer, rested);
	q->bytes = (uint32_t)policy_write(r, q->request, sizeof(q->request));
	ASSERT(q->bytes > 0);
	list_push_back(&p->waiting, &q->node);
	serve(p);
	return q;
}

void policy_pool_forget(struct policy_pool *p, struct policy_question *q)
{
	/* The answer may still come, and would be taken for the next one's. */
	if (q->conn)
		drop(q->conn);
	release(q);
}

bool policy_pool_wind_up(struct policy_pool *p)
{
	ASSERT(p->questions.used == 0);
	while (!list_empty(&p->idle))
		drop(CONTAINER_OF(p->idle.next, struct policy_conn, node));
	return p->conns.used == 0;
}

void policy_pool_fini(struct policy_pool *p)
{
	slab_fini(&p->conns);
	slab_fini(&p->questions);
}
