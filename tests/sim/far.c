/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The far ends of the simulated kernel's connections: what the actors call. See kernel.h. A far end
 * is the number of its connection.
 */
#include "tests/sim/kernel_int.h"

/* ---- listening sockets of the engine ---- */

struct ring_fd sim_listener(struct sim_kernel *k, uint32_t number)
{
	struct listener *l = calloc(1, sizeof(*l));

	ASSERT(l);
	l->number = number;
	l->file.rec_sock = REC_NO_SOCK;
	*SIM_PUSH(k, listener) = l;
	return fd_new(k, FD_LISTENER, k->listener_n - 1);
}

void sim_listener_close(struct sim_kernel *k, struct ring_fd fd)
{
	struct listener *l = listener_of_fd(k, fd);
	struct conn *c;

	ASSERT(l->file.rows == 0);
	while ((c = backlog_take(k, &l->first, &l->last)) != NULL) {
		conn_reset_by_engine(k, c);
		conn_settle(k, c);
	}
	fd_give(k, fd.v);
}

/* ---- beginning ---- */

static struct conn *far_conn(const struct sim_kernel *k, int far)
{
	ASSERT(far >= 0 && (uint32_t)far < k->conn_n && k->conn[far] && k->conn[far]->far_there);
	return k->conn[far];
}

int far_connect(
	struct sim_kernel *k, const struct ring_addr *from, struct ring_fd listener, uint32_t who)
{
	struct listener *l = listener_of_fd(k, listener);
	struct conn *c = conn_new(k);

	c->who = who;
	c->number = l->number;
	c->peer = *from;
	c->connected = c->far_there = true;
	backlog_put(k, c, &l->first, &l->last);
	ops_look(k, &l->file);
	return (int)c->index;
}

static struct server *server_of(struct sim_kernel *k, uint32_t who)
{
	for (uint32_t i = 0; i < k->server_n; i++)
		if (k->server[i].who == who)
			return &k->server[i];
	ASSERT(!"no such server");
	return NULL;
}

void far_listen(struct sim_kernel *k, const struct ring_addr *at, uint32_t who)
{
	ASSERT(server_at(k, at) == NULL);
	*SIM_PUSH(k, server) = (struct server){.at = *at, .who = who, .mode = FAR_ANSWERS};
}

void far_dial_mode(struct sim_kernel *k, uint32_t who, enum far_dial mode)
{
	server_of(k, who)->mode = mode;
}

int far_accept(struct sim_kernel *k, uint32_t who)
{
	struct server *s = server_of(k, who);
	struct conn *c = backlog_take(k, &s->first, &s->last);

	return c ? (int)c->index : -1;
}

uint32_t far_sock(const struct sim_kernel *k, int far)
{
	return far_conn(k, far)->file.rec_sock;
}

struct rec_veil **far_veil(struct sim_kernel *k, int far)
{
	struct conn *c = far_conn(k, far);
	struct rec_sock *s = rec_of(k, c);

	return s ? &s->veil : &c->veil;
}

/* ---- octets ---- */

size_t far_room(const struct sim_kernel *k, int far)
{
	const struct conn *c = far_conn(k, far);

	return c->far_dead || c->far_closed || c->in.fin ? 0 : queue_room(k, &c->in);
}

size_t far_send(struct sim_kernel *k, int far, const void *p, size_t n)
{
	struct conn *c = far_conn(k, far);

	n = MIN_OF(n, far_room(k, far));
	if (n == 0)
		return 0;
	queue_put(k, &c->in, p, (uint32_t)n);
	rec_note(k, c, REC_FAR_OUT, RING_OK, (uint32_t)n);
	conn_moves(k, c);
	return n;
}

size_t far_readable(const struct sim_kernel *k, int far)
{
	const struct conn *c = far_conn(k, far);

	return c->far_closed ? 0 : c->out.arrived;
}

size_t far_recv(struct sim_kernel *k, int far, void *p, size_t n)
{
	struct conn *c = far_conn(k, far);

	n = MIN_OF(n, far_readable(k, far));
	if (n == 0)
		return 0;
	queue_get(k, &c->out, p, (uint32_t)n);
	rec_note(k, c, REC_FAR_IN, RING_OK, (uint32_t)n);
	ops_look(k, &c->file); /* room, and zero-copy octets that are not needed any more */
	return n;
}

bool far_eof(const struct sim_kernel *k, int far)
{
	const struct conn *c = far_conn(k, far);

	return c->out.arrived == 0 && c->out.fin_arrived;
}

bool far_dead(const struct sim_kernel *k, int far)
{
	return far_conn(k, far)->far_dead;
}

/* ---- ends ---- */

void far_shut(struct sim_kernel *k, int far)
{
	struct conn *c = far_conn(k, far);
	struct rec_sock *s = rec_of(k, c);

	if (c->far_dead || c->far_closed || c->in.fin)
		return;
	c->in.fin = true;
	if (s != NULL)
		s->far_shut = true;
	rec_note(k, c, REC_FAR_SHUT, RING_OK, 0);
	conn_moves(k, c);
}

/* The far end vanishes with a reset, unless the connection is gone anyway. */
static void send_reset(struct sim_kernel *k, struct conn *c)
{
	if (!c->far_dead && !c->dead) {
		queue_maybe_overtaken(k, &c->in);
		c->in.rst = true;
	}
	c->far_dead = true;
	queue_get(k, &c->out, NULL, c->out.arrived);
	ops_look(k, &c->file);
	conn_moves(k, c);
}

void far_close(struct sim_kernel *k, int far)
{
	struct conn *c = far_conn(k, far);
	struct rec_sock *s = rec_of(k, c);

	if (c->far_closed)
		return;
	c->far_closed = true;
	if (s != NULL)
		s->far_closed = true;
	rec_note(k, c, REC_FAR_CLOSE, RING_OK, 0);
	if (c->out.arrived > 0) {
		send_reset(k, c);
		return;
	}
	if (!c->far_dead)
		c->in.fin = true;
	conn_moves(k, c);
}

void far_reset(struct sim_kernel *k, int far)
{
	struct conn *c = far_conn(k, far);
	struct rec_sock *s = rec_of(k, c);

	if (c->far_closed)
		return;
	c->far_closed = c->far_was_reset = true;
	if (s != NULL)
		s->far_reset = true;
	rec_note(k, c, REC_FAR_RESET, RING_OK, 0);
	send_reset(k, c);
}

void far_free(struct sim_kernel *k, int far)
{
	struct conn *c = far_conn(k, far);

	ASSERT(c->far_closed || c->far_dead);
	c->far_closed = true;
	c->far_there = false;
	conn_settle(k, c);
}
