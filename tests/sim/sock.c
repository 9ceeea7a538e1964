/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The socket calls of ring.h on the simulated kernel: accept, connect, receive, send, poll, and
 * those that take effect at once.
 *
 * Failure modes: what the other side and the network do (conn.c), and the faults of faults.def.
 */
#include "tests/sim/kernel_int.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/un.h>

/* ---- addresses ---- */

/* An address of ours that a connection to `peer` could have. */
static struct ring_addr own_addr(const struct ring_addr *peer, uint16_t port)
{
	struct ring_addr a = {0};

	if (peer->sa.sa_family == AF_INET6) {
		struct sockaddr_in6 in = {
			.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

		in.sin6_port = htons(port);
		memcpy(&a.ss, &in, a.len = sizeof(in));
	} else if (peer->sa.sa_family == AF_INET) {
		struct sockaddr_in in = {.sin_family = AF_INET};

		in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		in.sin_port = htons(port);
		memcpy(&a.ss, &in, a.len = sizeof(in));
	} else {
		a.ss.ss_family = AF_UNIX;
		a.len = sizeof(sa_family_t);
	}
	return a;
}

enum ring_res ring_peer_addr(struct ring *r, struct ring_fd fd, struct ring_addr *out)
{
	struct sim_kernel *k = r->k;
	struct conn *c = conn_of_fd(k, fd);

	memset(out, 0, sizeof(*out));
	if (c->connected && !c->dead && !c->dialled &&
		sim_strikes(k, FAULT_PEER_GONE, c->file.rec_sock))
		conn_broken(k, c, RING_RESET);
	/* ENOTCONN has no row of its own in res.def. */
	if (c->dead || !c->connected)
		return RING_IO;
	*out = c->peer;
	return RING_OK;
}

enum ring_res ring_local_addr(struct ring *r, struct ring_fd fd, struct ring_addr *out)
{
	*out = conn_of_fd(r->k, fd)->local;
	return RING_OK;
}

/* ---- accept ---- */

void ring_accept(struct ring *r, struct ring_op *op, struct ring_fd listener)
{
	struct listener *l = listener_of_fd(r->k, listener);

	op_arm(r, op, OP_ACCEPT, &l->file, NULL)->with = l;
}

bool accept_ready(struct sim_kernel *k, struct row *o)
{
	return ((struct listener *)o->with)->first != 0;
}

static void accept_fails(struct sim_kernel *k, struct row *o, struct listener *l)
{
	static const uint8_t why[] = {RING_MFILE, RING_NFILE, RING_NOMEM, RING_CONNABORTED};
	enum ring_res res = why[tape_pick(k->t, ARRAY_LEN(why))];

	if (res == RING_CONNABORTED) {
		struct conn *c = backlog_take(k, &l->first, &l->last);

		conn_broken(k, c, RING_RESET);
		conn_settle(k, c);
	}
	op_post_res(k, o, res, 0);
}

void accept_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	struct listener *l = o->with;
	struct conn *c;

	if (taken_back) {
		op_post_res(k, o, RING_CANCELED, 0);
		return;
	}
	if (sim_strikes(k, FAULT_ACCEPT_FAILS, REC_NO_SOCK)) {
		accept_fails(k, o, l);
		return;
	}
	c = backlog_take(k, &l->first, &l->last);
	c->fd = fd_new(k, FD_CONN, c->index).v;
	c->local = own_addr(&c->peer, (uint16_t)(25 + l->number));
	op_post(k, o,
		&(struct cqe){
			.res = RING_OK,
			.fd = c->fd,
			.more = !sim_strikes(k, FAULT_ACCEPT_ENDS, REC_NO_SOCK),
		});
}

static void record_new(struct sim_kernel *k, struct conn *c)
{
	uint32_t i = record_sock(k->rec);
	struct rec_sock *s = &k->rec->socks[i];

	c->file.rec_sock = i;
	k->rec->socks[i].veil = c->veil;
	c->veil = NULL;
	s->dialled = c->dialled;
	s->who = c->who;
	s->listener = c->number;
	s->peer = c->peer;
	s->far_shut = c->in.fin && !c->far_closed;
	s->far_closed = c->far_closed && !c->far_was_reset;
	s->far_reset = c->far_was_reset;
	s->net_dead = c->cut || (c->far_dead && !c->far_closed);
}

static void record_open(struct sim_kernel *k, struct conn *c)
{
	struct rec_sock *s = rec_of(k, c);

	s->open = true;
	s->open_us = k->now_us;
	rec_note(k, c, REC_OPEN, RING_OK, 0);
}

void accept_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	struct conn *conn;

	if (c->fd < 0)
		return;
	d->fd.v = c->fd;
	conn = conn_of_fd(k, d->fd);
	record_new(k, conn);
	record_open(k, conn);
	k->ring->stats.accepts++;
	k->env_awake = true;
}

/* ---- socket, connect ---- */

enum ring_res ring_socket(struct ring *r, const struct ring_addr *peer, const struct ring_addr *src,
	struct ring_fd *out)
{
	static const uint8_t why[] = {RING_MFILE, RING_NFILE, RING_NOMEM, RING_ADDRNOTAVAIL};
	struct sim_kernel *k = r->k;
	struct conn *c;

	*out = RING_FD_NONE;
	if (sim_strikes(k, FAULT_SOCKET_FAILS, REC_NO_SOCK))
		return why[tape_pick(k->t, src ? 4 : 3)];
	c = conn_new(k);
	c->dialled = true;
	c->peer = *peer;
	c->local = src ? *src : own_addr(peer, (uint16_t)(32768 + c->index % 28000));
	*out = fd_new(k, FD_CONN, c->index);
	c->fd = out->v;
	return RING_OK;
}

void ring_connect(
	struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_addr *peer)
{
	struct sim_kernel *k = r->k;
	struct conn *c = conn_of_fd(k, fd);
	struct server *s = server_at(k, peer);

	ASSERT(c->dialled && !c->connected && c->file.rec_sock == REC_NO_SOCK);
	c->who = s ? s->who : UINT32_MAX;
	c->peer = *peer;
	record_new(k, c);
	rec_note(k, c, REC_DIAL, RING_OK, 0);
	op_arm(r, op, OP_CONNECT, &c->file, c)->with = (void *)(uintptr_t)peer;
}

bool connect_ready(struct sim_kernel *k, struct row *o)
{
	return o->due_us <= k->now_us;
}

static void hang(struct sim_kernel *k, struct row *o)
{
	o->due_us = k->now_us + SIM_DIAL_TIMEOUT_US;
	sim_due(k, o->due_us);
}

static enum ring_res dial_fault(struct sim_kernel *k)
{
	static const uint8_t why[] = {RING_REFUSED, RING_HOSTUNREACH, RING_NETUNREACH,
		RING_TIMEDOUT, RING_ADDRNOTAVAIL, RING_RESET};

	return why[tape_pick(k->t, ARRAY_LEN(why))];
}

/* What the network says to the first packet. RING_AGAIN: nothing. */
static enum ring_res dial(struct sim_kernel *k, struct conn *c, const struct ring_addr *peer)
{
	struct server *s = server_at(k, peer); /* `peer` has to be there still */

	if (sim_strikes(k, FAULT_DIAL_FAILS, c->file.rec_sock))
		return dial_fault(k);
	if (sim_strikes(k, FAULT_DIAL_HANGS, c->file.rec_sock))
		return RING_AGAIN;
	if (s == NULL)
		return peer->sa.sa_family == AF_UNIX ? RING_NOENT : RING_REFUSED;
	switch (s->mode) {
	case FAR_REFUSES:
		return RING_REFUSED;
	case FAR_HANGS:
		return RING_AGAIN;
	case FAR_NO_ROUTE:
		return tape_pick(k->t, 2) ? RING_NETUNREACH : RING_HOSTUNREACH;
	case FAR_ANSWERS:
		break;
	}
	c->connected = c->far_there = true;
	backlog_put(k, c, &s->first, &s->last);
	k->env_awake = true;
	return RING_OK;
}

void connect_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	enum ring_res res = RING_CANCELED;

	if (!taken_back)
		res = o->due_us ? RING_TIMEDOUT : dial(k, o->conn, o->with);
	if (res == RING_AGAIN)
		hang(k, o);
	else
		op_post_res(k, o, res, 0);
}

void connect_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	if (d->res == RING_OK) {
		record_open(k, o->conn);
		k->ring->stats.connects++;
		return;
	}
	rec_of(k, o->conn)->dial_res = (uint8_t)d->res;
	rec_note(k, o->conn, REC_DIAL_FAILED, d->res, 0);
}

/* ---- receive ---- */

void ring_recv(struct ring *r, struct ring_op *op, struct ring_fd fd, uint32_t cap)
{
	struct conn *c = conn_of_fd(r->k, fd);
	struct row *o = op_arm(r, op, OP_RECV, &c->file, c);

	o->cap = r->features & RING_FEAT_RECV_CAP ? cap : 0;
	o->fresh = true;
	r->stats.rearms++;
}

bool recv_ready(struct sim_kernel *k, struct row *o)
{
	if (o->lost)
		return false;
	/* A buffer is looked for first, also where there is nothing to receive yet. */
	if (o->fresh && !bufs_left(k->ring))
		return true;
	o->fresh = false;
	return conn_in_event(o->conn);
}

static void recv_piece(struct sim_kernel *k, struct row *o)
{
	struct conn *c = o->conn;
	uint32_t n = MIN_OF(c->in.arrived, bufs_piece(k->ring));
	struct cqe q = {.fd = -1, .res = RING_OK, .more = true};

	if (o->cap)
		n = MIN_OF(n, o->cap);
	n = sim_short(k, FAULT_SHORT_RECV, c->file.rec_sock, n);
	bufs_fill(k->ring, c, n, &q);
	o->got += n;
	if ((o->cap && o->got >= o->cap) || sim_strikes(k, FAULT_RECV_ENDS, c->file.rec_sock))
		q.more = false;
	op_post(k, o, &q);
}

void recv_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	struct conn *c = o->conn;

	if (taken_back) {
		op_post_res(k, o, RING_CANCELED, 0);
		return;
	}
	if (!o->fresh && sim_strikes(k, FAULT_LOST_WAKEUP, c->file.rec_sock)) {
		o->lost = true;
		rec_of(k, c)->stuck = true;
		return;
	}
	if (!bufs_left(k->ring) || sim_strikes(k, FAULT_NOBUFS, c->file.rec_sock))
		op_post_res(k, o, RING_NOBUFS, 0);
	else if (c->in.arrived > 0)
		recv_piece(k, o);
	else
		op_post_res(k, o, conn_in_end(c), 0);
}

void recv_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	struct ring *r = k->ring;

	if (c->has_buf) {
		bufs_deliver(r, c, d);
		r->stats.recvs++;
		r->stats.recv_bytes += c->n;
		record_octets(k->rec, k->now_us, o->file->rec_sock, REC_IN, d->data);
	}
	if (d->res == RING_NOBUFS)
		r->stats.nobufs++;
	rec_told_in(k, o->conn, d->res);
}

/* ---- send ---- */

static size_t iov_bytes(const struct iovec *iov, unsigned count)
{
	size_t n = 0;

	for (unsigned i = 0; i < count; i++)
		n += iov[i].iov_len;
	return n;
}

void ring_send(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct iovec *iov,
	unsigned iov_count)
{
	struct conn *c = conn_of_fd(r->k, fd);
	struct row *o;

	ASSERT(iov_count > 0 && iov_count <= SIM_IOV_MAX);
	o = op_arm(r, op, OP_SEND, &c->file, c);
	if (o->iov == NULL)
		o->iov = malloc(SIM_IOV_MAX * sizeof(*iov));
	ASSERT(o->iov);
	memcpy(o->iov, iov, iov_count * sizeof(*iov));
	o->iov_count = iov_count;
	conn_offered(r->k, c, iov_bytes(iov, iov_count));
	r->stats.sends_ring++;
}

bool send_ready(struct sim_kernel *k, struct row *o)
{
	return conn_out_event(k, o->conn);
}

/* Takes `n` octets off the front of the iovec, piece by piece. Reads them now and not before: what
 * was given back too early is seen. */
static void give_iov(struct sim_kernel *k, struct conn *c, const struct iovec *iov, uint32_t *at,
	size_t *off, size_t n)
{
	while (n > 0) {
		size_t piece = MIN_OF(n, iov[*at].iov_len - *off);

		if (piece > 0)
			conn_give(k, c, (const uint8_t *)iov[*at].iov_base + *off, (uint32_t)piece);
		n -= piece;
		*off += piece;
		if (*off == iov[*at].iov_len) {
			++*at;
			*off = 0;
		}
	}
}

static uint32_t sendable(struct sim_kernel *k, struct conn *c, size_t want)
{
	uint32_t n = (uint32_t)MIN_OF(want, (size_t)queue_room(k, &c->out));

	return sim_short(k, FAULT_SHORT_SEND, c->file.rec_sock, n);
}

/* All, or what went out before it could not go on. */
static void send_over(struct sim_kernel *k, struct row *o, enum ring_res res)
{
	op_post_res(k, o, o->taken ? RING_OK : res, (uint32_t)o->taken);
}

void send_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	struct conn *c = o->conn;
	size_t left = iov_bytes(o->iov, o->iov_count) - o->taken;
	enum ring_res res = RING_CANCELED;
	uint32_t n;

	/* The error is kept for the next send where this one has something to say. */
	if (!taken_back)
		res = o->taken && c->dead ? RING_PIPE : conn_out_fault(c);
	if (res != RING_OK) {
		send_over(k, o, res);
		return;
	}
	n = sendable(k, c, left);
	give_iov(k, c, o->iov, &o->iov_at, &o->iov_off, n);
	o->taken += n;
	if (n == left)
		send_over(k, o, RING_OK);
}

void send_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
	k->ring->stats.send_bytes += d->n;
	rec_told_out(k, o->conn, d->res);
}

size_t ring_send_now(struct ring *r, struct ring_fd fd, const struct iovec *iov, unsigned iov_count,
	enum ring_res *res)
{
	struct sim_kernel *k = r->k;
	struct conn *c = conn_of_fd(k, fd);
	uint32_t at = 0, n;
	size_t off = 0;

	ASSERT(iov_count > 0 && iov_count <= SIM_IOV_MAX);
	ASSERT(c->file.writers == 0); /* U8 */
	r->stats.sends_now++;
	*res = conn_out_fault(c);
	if (*res != RING_OK) {
		rec_told_out(k, c, *res);
		return 0;
	}
	*res = RING_AGAIN;
	if (queue_room(k, &c->out) == 0 || sim_strikes(k, FAULT_SEND_AGAIN, c->file.rec_sock))
		return 0;
	*res = RING_OK;
	n = sendable(k, c, iov_bytes(iov, iov_count));
	give_iov(k, c, iov, &at, &off, n);
	r->stats.send_bytes += n;
	return n;
}

/* ---- poll ---- */

void ring_poll(struct ring *r, struct ring_op *op, struct ring_fd fd, short events)
{
	struct conn *c = conn_of_fd(r->k, fd);

	op_arm(r, op, OP_POLL, &c->file, c)->n = (uint16_t)events;
}

/* As tcp_poll() does it; a socket is writable when a third of its queue is free. */
static uint32_t poll_mask(const struct sim_kernel *k, const struct conn *c, uint32_t events)
{
	bool ended = c->in.fin_arrived || c->dead;
	uint32_t m = 0;

	if (c->in.arrived > 0 || ended)
		m |= POLLIN;
	if (ended)
		m |= POLLRDHUP;
	if (c->dead || c->out.fin || queue_room(k, &c->out) >= k->conf.send_queue_bytes / 3 + 1)
		m |= POLLOUT;
	if (c->dead || (ended && c->out.fin))
		m |= POLLHUP;
	if (c->err != RING_OK)
		m |= POLLERR;
	return m & (events | POLLERR | POLLHUP);
}

bool poll_ready(struct sim_kernel *k, struct row *o)
{
	return poll_mask(k, o->conn, o->n) != 0;
}

void poll_step(struct sim_kernel *k, struct row *o, bool taken_back)
{
	if (taken_back)
		op_post_res(k, o, RING_CANCELED, 0);
	else
		op_post_res(k, o, RING_OK, poll_mask(k, o->conn, o->n));
}

void poll_finish(struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
{
}

/* ---- at once ---- */

void ring_shut(struct ring *r, struct ring_fd fd)
{
	struct sim_kernel *k = r->k;
	struct conn *c = conn_of_fd(k, fd);
	struct rec_sock *s = rec_of(k, c);

	if (!c->connected || c->out.fin)
		return;
	if (s != NULL)
		s->shut = true;
	rec_note(k, c, REC_SHUT, RING_OK, 0);
	if (c->dead)
		return;
	c->out.fin = true;
	conn_moves(k, c);
	ops_look(k, &c->file);
}

void ring_linger_reset(struct ring *r, struct ring_fd fd)
{
	conn_of_fd(r->k, fd)->linger = true;
}

static void record_close(struct sim_kernel *k, struct conn *c, bool reset)
{
	struct rec_sock *s = rec_of(k, c);

	if (s == NULL)
		return;
	s->closed = true;
	s->close_us = k->now_us;
	rec_note(k, c, REC_CLOSE, reset ? RING_RESET : RING_OK, 0);
}

static void close_conn(struct sim_kernel *k, struct conn *c)
{
	bool reset;

	/* An armed operation holds the file: the peer would see no FIN (U1). */
	ASSERT(c->file.armed == 0);
	reset = c->connected && !c->dead && (c->linger || c->in.arrived > 0);
	record_close(k, c, reset);
	fd_give(k, c->fd);
	c->fd = -1;
	if (reset) {
		conn_reset_by_engine(k, c);
	} else if (c->connected && !c->dead) {
		c->out.fin = true;
		conn_moves(k, c);
	}
	conn_settle(k, c);
}

void ring_close_fd(struct ring *r, struct ring_fd *fd)
{
	struct sim_kernel *k = r->k;

	ASSERT(ring_fd_ok(*fd));
	if (fd_is_file(k, *fd))
		disk_close(k, *fd);
	else
		close_conn(k, conn_of_fd(k, *fd));
	*fd = RING_FD_NONE;
	r->stats.closes++;
}

uint32_t sim_open_sockets(const struct sim_kernel *k)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < k->fd_n; i++)
		n += k->fd[i].kind == FD_CONN;
	return n;
}
