/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Connections of the simulated kernel: descriptors, backlogs, the two queues of octets, and the
 * network between them.
 *
 * What a side sends goes into a queue and is on its way until net_move() makes it arrive, all of it
 * or a part; the end (FIN) or the reset travels behind it. Room comes back when the reader has
 * read. As on Linux: octets that arrived before a reset may still be read; then the error is told
 * once, to whoever asks first, and from then on reading gives EOF and writing EPIPE; whoever closes
 * with unread octets, or gets more after closing, resets.
 *
 * Failure modes: a reset of either side, the network that breaks (FAULT_NET_DIES).
 */
#include "tests/sim/kernel_int.h"

#include "ring/listen.h"

/* Far above what a process may have: should such a number reach a system call, nothing happens. */
#define FD_FIRST 0x10000000

/* ---- descriptors ---- */

struct ring_fd fd_new(struct sim_kernel *k, enum fd_kind kind, uint32_t index)
{
	uint32_t i;

	/* The number that was closed last is used first, so that a mix-up shows (U2). */
	if (k->fd_free_n > 0) {
		i = k->fd_free[--k->fd_free_n];
	} else {
		i = k->fd_n;
		*SIM_PUSH(k, fd) = (struct fd_row){FD_FREE, 0};
	}
	k->fd[i] = (struct fd_row){kind, index};
	return (struct ring_fd){FD_FIRST + (int)i};
}

void fd_give(struct sim_kernel *k, int fd)
{
	uint32_t i = (uint32_t)(fd - FD_FIRST);

	k->fd[i].kind = FD_FREE;
	*SIM_PUSH(k, fd_free) = i;
}

static const struct fd_row *fd_row(const struct sim_kernel *k, struct ring_fd fd, enum fd_kind kind)
{
	uint32_t i = (uint32_t)(fd.v - FD_FIRST);

	ASSERT(fd.v >= FD_FIRST && i < k->fd_n && k->fd[i].kind == kind);
	return &k->fd[i];
}

struct conn *conn_of_fd(const struct sim_kernel *k, struct ring_fd fd)
{
	return k->conn[fd_row(k, fd, FD_CONN)->index];
}

struct listener *listener_of_fd(const struct sim_kernel *k, struct ring_fd fd)
{
	return k->listener[fd_row(k, fd, FD_LISTENER)->index];
}

bool fd_is_file(const struct sim_kernel *k, struct ring_fd fd)
{
	uint32_t i = (uint32_t)(fd.v - FD_FIRST);

	return fd.v >= FD_FIRST && i < k->fd_n && k->fd[i].kind == FD_FILE;
}

struct disk_file *disk_of_fd(const struct sim_kernel *k, struct ring_fd fd)
{
	return k->disk[fd_row(k, fd, FD_FILE)->index];
}

/* ---- connections ---- */

struct conn *conn_new(struct sim_kernel *k)
{
	struct conn *c = calloc(1, sizeof(*c));

	ASSERT(c);
	if (k->conn_free_n > 0) {
		c->index = k->conn_free[--k->conn_free_n];
	} else {
		c->index = k->conn_n;
		*SIM_PUSH(k, conn) = NULL;
	}
	k->conn[c->index] = c;
	c->fd = -1;
	c->who = UINT32_MAX;
	c->file.rec_sock = REC_NO_SOCK;
	return c;
}

static void conn_free(struct conn *c)
{
	free(c->in.p);
	free(c->out.p);
	free(c->veil);
	free(c);
}

static void stop_moving(struct sim_kernel *k, struct queue *q);

void conn_settle(struct sim_kernel *k, struct conn *c)
{
	if (c->fd >= 0 || c->queued || c->far_there || c->file.rows > 0)
		return;
	stop_moving(k, &c->in);
	stop_moving(k, &c->out);
	k->conn[c->index] = NULL;
	*SIM_PUSH(k, conn_free) = c->index;
	conn_free(c);
}

void conns_free(struct sim_kernel *k)
{
	for (uint32_t i = 0; i < k->conn_n; i++)
		if (k->conn[i])
			conn_free(k->conn[i]);
}

void backlog_put(struct sim_kernel *k, struct conn *c, uint32_t *first, uint32_t *last)
{
	c->queued = true;
	c->next = 0;
	if (*last)
		k->conn[*last - 1]->next = c->index + 1;
	else
		*first = c->index + 1;
	*last = c->index + 1;
}

struct conn *backlog_take(struct sim_kernel *k, uint32_t *first, uint32_t *last)
{
	struct conn *c;

	if (*first == 0)
		return NULL;
	c = k->conn[*first - 1];
	*first = c->next;
	if (*first == 0)
		*last = 0;
	c->queued = false;
	return c;
}

struct server *server_at(struct sim_kernel *k, const struct ring_addr *at)
{
	for (uint32_t i = 0; i < k->server_n; i++)
		if (addr_equal(&k->server[i].at, at))
			return &k->server[i];
	return NULL;
}

/* ---- queues ---- */

uint32_t queue_room(const struct sim_kernel *k, const struct queue *q)
{
	return k->conf.send_queue_bytes - q->n;
}

void queue_put(struct sim_kernel *k, struct queue *q, const void *p, uint32_t n)
{
	uint32_t size = k->conf.send_queue_bytes, tail, first;

	ASSERT(n <= size - q->n);
	if (q->p == NULL) {
		q->p = malloc(size);
		ASSERT(q->p);
	}
	tail = (q->head + q->n) % size;
	first = MIN_OF(n, size - tail);
	memcpy(q->p + tail, p, first);
	memcpy(q->p, (const uint8_t *)p + first, n - first);
	q->n += n;
}

void queue_get(struct sim_kernel *k, struct queue *q, void *dst, uint32_t n)
{
	uint32_t size = k->conf.send_queue_bytes, first = MIN_OF(n, size - q->head);

	ASSERT(n <= q->arrived && q->arrived <= q->n);
	if (dst != NULL && n > 0) {
		memcpy(dst, q->p + q->head, first);
		memcpy((uint8_t *)dst + first, q->p, n - first);
	}
	q->head = (q->head + n) % size;
	q->n -= n;
	q->arrived -= n;
	q->read += n;
}

/* ---- what is on its way ---- */

static bool on_its_way(const struct queue *q)
{
	return q->n > q->arrived || (q->fin && !q->fin_arrived) || q->rst;
}

static void start_moving(struct sim_kernel *k, struct queue *q, uint32_t which)
{
	*SIM_PUSH(k, moving) = which;
	q->moving = k->moving_n;
}

static struct queue *queue_of(struct sim_kernel *k, uint32_t which)
{
	struct conn *c = k->conn[which >> 1];

	return which & 1 ? &c->out : &c->in;
}

static void stop_moving(struct sim_kernel *k, struct queue *q)
{
	uint32_t last;

	if (q->moving == 0)
		return;
	last = k->moving[--k->moving_n];
	k->moving[q->moving - 1] = last;
	queue_of(k, last)->moving = q->moving;
	q->moving = 0;
}

static void queue_moves(struct sim_kernel *k, struct conn *c, struct queue *q)
{
	bool now = !c->cut && on_its_way(q);

	if (now && q->hold_us > k->now_us) {
		sim_due(k, q->hold_us);
		now = false;
	}
	if (!now)
		stop_moving(k, q);
	else if (q->moving == 0)
		start_moving(k, q, c->index << 1 | (q == &c->out));
}

void conn_moves(struct sim_kernel *k, struct conn *c)
{
	queue_moves(k, c, &c->in);
	queue_moves(k, c, &c->out);
}

/* Octets that have not arrived, and the end behind them, never will. */
static void lose_the_way(struct queue *q)
{
	q->n = q->arrived;
	q->fin = q->fin && q->fin_arrived;
	q->rst = false;
}

static void lose_unread(struct sim_kernel *k, struct queue *q)
{
	queue_get(k, q, NULL, q->arrived);
}

/* A reset may overtake what its sender had not got rid of yet. An end behind octets that never
 * arrive does not arrive either. */
void queue_maybe_overtaken(struct sim_kernel *k, struct queue *q)
{
	if (q->n > q->arrived && !k->conf.loopback && tape_pick(k->t, 2)) {
		q->n = q->arrived;
		q->fin = q->fin && q->fin_arrived;
	}
}

/* Linux lets the reader have what had arrived; other systems do not. The reset is then all there
 * is: octets never vanish in front of an orderly end. */
static void maybe_lose_unread(struct sim_kernel *k, struct queue *q)
{
	if (q->arrived == 0 || k->conf.loopback || tape_pick(k->t, 4) != 3)
		return;
	lose_unread(k, q);
	q->fin = q->fin_arrived = false;
}

/* ---- ends ---- */

void conn_dies(struct sim_kernel *k, struct conn *c, enum ring_res why)
{
	c->err_us = 0;
	c->cut = false;
	if (c->dead)
		return;
	c->dead = true;
	lose_the_way(&c->in);
	lose_the_way(&c->out);
	maybe_lose_unread(k, &c->in);
	c->err = (uint8_t)(why == RING_RESET && c->in.fin_arrived ? RING_PIPE : why);
	conn_moves(k, c);
	ops_look(k, &c->file);
	k->env_awake = true;
}

static void far_dies(struct sim_kernel *k, struct conn *c)
{
	if (c->far_dead)
		return;
	c->far_dead = true;
	maybe_lose_unread(k, &c->out);
	k->env_awake = true;
}

void conn_broken(struct sim_kernel *k, struct conn *c, enum ring_res why)
{
	struct rec_sock *s = rec_of(k, c);

	if (s != NULL)
		s->net_dead = true;
	rec_note(k, c, REC_NET_DEAD, why, 0);
	far_dies(k, c);
	if (why == RING_TIMEDOUT) {
		/* Neither side hears of the other again; it takes a while until ours gives up. */
		lose_the_way(&c->in);
		c->cut = true;
		c->err_later = (uint8_t)why;
		c->err_us = k->now_us + 1000000u * (1 + (uint64_t)tape_small(k->t, 255));
		sim_due(k, c->err_us);
		conn_moves(k, c);
	} else {
		conn_dies(k, c, why);
	}
}

void conn_offered(struct sim_kernel *k, const struct conn *c, size_t n)
{
	struct rec_sock *s = rec_of(k, c);

	if (s) {
		s->offered = MAX_OF(s->offered, s->out.n + n);
		record_event(k->rec, k->now_us, (uint32_t)(s - k->rec->socks), REC_OFFER, RING_OK,
			(uint32_t)s->out.n, (uint32_t)n);
	}
}

void conn_reset_by_engine(struct sim_kernel *k, struct conn *c)
{
	bool there = c->connected && !c->dead && !c->cut, again = c->dead;

	c->dead = true;
	c->err_us = 0;
	lose_the_way(&c->in);
	lose_unread(k, &c->in);
	/* More octets for nobody: the reset is on its way already. */
	if (again)
		return;
	if (there && !c->far_dead && !c->far_closed) {
		queue_maybe_overtaken(k, &c->out);
		c->out.rst = true;
	} else {
		lose_the_way(&c->out);
	}
	conn_moves(k, c);
	ops_look(k, &c->file);
}

/* ---- arriving ---- */

static void arrived_in(struct sim_kernel *k, struct conn *c)
{
	if (c->fd < 0 && !c->queued) {
		/* Nobody is there any more. */
		conn_reset_by_engine(k, c);
		return;
	}
	ops_look(k, &c->file);
}

static void arrived_out(struct sim_kernel *k, struct conn *c)
{
	k->env_awake = true;
	if (!c->far_closed && !c->far_dead)
		return;
	lose_unread(k, &c->out);
	if (c->far_closed && !c->far_dead) {
		c->far_dead = true;
		c->in.rst = true;
	}
	ops_look(k, &c->file);
}

static void arrived_end(struct sim_kernel *k, struct conn *c, struct queue *q)
{
	bool in = q == &c->in;

	if (q->fin && !q->fin_arrived) {
		q->fin_arrived = true;
		k->env_awake = true;
		ops_look(k, &c->file);
		return;
	}
	q->rst = false;
	if (in) {
		conn_dies(k, c, RING_RESET);
	} else {
		far_dies(k, c);
		lose_the_way(&c->in);
		ops_look(k, &c->file);
	}
}

/* How much of what is on its way arrives now; *end: and its end with it. */
static uint32_t part_of(struct sim_kernel *k, uint32_t flight, bool *end)
{
	uint32_t how = flight && !k->conf.loopback ? tape_pick(k->t, 4) : 0;

	*end = how == 0;
	if (how < 2)
		return flight;
	return how == 2 ? (flight + 1) / 2 : 1 + tape_pick(k->t, MIN_OF(flight, 64u));
}

void net_move(struct sim_kernel *k, uint32_t which)
{
	struct queue *q = queue_of(k, which);
	struct conn *c = k->conn[which >> 1];
	uint32_t n;
	bool end;

	if (!c->far_dead && !c->dead && sim_strikes(k, FAULT_NET_DIES, c->file.rec_sock)) {
		static const uint8_t why[] = {RING_RESET, RING_TIMEDOUT, RING_HOSTUNREACH};

		conn_broken(k, c, why[tape_pick(k->t, ARRAY_LEN(why))]);
		return;
	}
	if (sim_strikes(k, FAULT_LATE, c->file.rec_sock)) {
		q->hold_us = k->now_us + sim_delay(k);
		queue_moves(k, c, q);
		return;
	}
	n = part_of(k, q->n - q->arrived, &end);
	q->arrived += n;
	if (n > 0 && which & 1)
		arrived_out(k, c);
	else if (n > 0)
		arrived_in(k, c);
	if (end && q->n == q->arrived && on_its_way(q))
		arrived_end(k, c, q);
	conn_moves(k, c);
	conn_settle(k, c);
}

/* ---- what the engine's side can do ---- */

bool conn_in_event(const struct conn *c)
{
	return c->in.arrived > 0 || c->in.fin_arrived || c->err != RING_OK || c->dead;
}

enum ring_res conn_in_end(struct conn *c)
{
	enum ring_res err = c->err;

	if (c->in.fin_arrived)
		return RING_EOF;
	if (err != RING_OK) {
		c->err = RING_OK;
		return err;
	}
	return c->dead ? RING_EOF : RING_AGAIN;
}

bool conn_out_event(const struct sim_kernel *k, const struct conn *c)
{
	return c->dead || c->out.fin || queue_room(k, &c->out) > 0;
}

enum ring_res conn_out_fault(struct conn *c)
{
	enum ring_res err = c->err;

	if (err != RING_OK) {
		c->err = RING_OK;
		return err;
	}
	return c->dead || c->out.fin || !c->connected ? RING_PIPE : RING_OK;
}

void conn_take(struct sim_kernel *k, struct conn *c, void *dst, uint32_t n)
{
	queue_get(k, &c->in, dst, n);
	k->env_awake = true; /* there is room for more */
}

void conn_give(struct sim_kernel *k, struct conn *c, const void *p, uint32_t n)
{
	queue_put(k, &c->out, p, n);
	record_octets(k->rec, k->now_us, c->file.rec_sock, REC_OUT, span_of(p, n));
	conn_moves(k, c);
}

/* ---- records ---- */

struct rec_sock *rec_of(struct sim_kernel *k, const struct conn *c)
{
	return c->file.rec_sock == REC_NO_SOCK ? NULL : &k->rec->socks[c->file.rec_sock];
}

void rec_note(struct sim_kernel *k, const struct conn *c, enum rec_kind kind, enum ring_res res,
	uint32_t n)
{
	record_event(k->rec, k->now_us, c->file.rec_sock, kind, res, 0, n);
}

static bool is_end(enum ring_res res)
{
	return res != RING_OK && res != RING_AGAIN && res != RING_CANCELED && res != RING_NOBUFS &&
	       res != RING_NOMEM;
}

void rec_told_in(struct sim_kernel *k, const struct conn *c, enum ring_res res)
{
	struct rec_sock *s = rec_of(k, c);

	if (!is_end(res) || s->in_end)
		return;
	s->in_end = true;
	s->in_end_res = (uint8_t)res;
	rec_note(k, c, REC_IN_END, res, 0);
}

void rec_told_out(struct sim_kernel *k, const struct conn *c, enum ring_res res)
{
	struct rec_sock *s = rec_of(k, c);

	if (!is_end(res) || s->out_err)
		return;
	s->out_err = true;
	s->out_err_res = (uint8_t)res;
	rec_note(k, c, REC_OUT_ERR, res, 0);
}
