/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Movers. Every move starts by copying, because the owner already holds octets of it. Where another
 * way is wanted and enough is left, the source is made quiet and the target flushed (so that
 * nothing overtakes anything); then the mover works on the two descriptors itself:
 *
 *   COPY -> SETTLE -> RUN -> ENDING -> OVER	 a way that cannot be had: SETTLE -> COPY
 *     \_______\_______________________/
 *
 * In RUN exactly one operation is armed, or two while one of them is being taken back; the next is
 * armed from its completion. splice(2) runs only after a poll said so, and the pipe is emptied
 * before it is filled, so that EAGAIN on the way in can only mean an empty socket. IORING_OP_SPLICE
 * is given readiness first as well: otherwise it would sit in a worker thread (U12).
 *
 * Failure modes: the source ends or fails, the target fails, the owner stops it. Each is recorded,
 * armed operations are taken back and counted (U1, U7), and on_end() is called from
 * streams_flush(). Both streams are pinned while an operation or a report is due.
 */
#include "ring/mover.h"

#include <poll.h>

enum phase {
	PH_COPY,
	PH_SETTLE, /* waits for a quiet source and a flushed target, still copying */
	PH_RUN,
	PH_ENDING, /* on_end() is due */
	PH_OVER,
};

const char *const mover_names[MOVER_COUNT] = {
	[MOVER_AUTO] = "auto",
	[MOVER_COPY] = "copy",
	[MOVER_SPLICE] = "splice",
	[MOVER_RING_SPLICE] = "ring-splice",
	[MOVER_ZERO_COPY] = "zero-copy",
};

#define POLL_FAILED (POLLERR | POLLHUP | POLLNVAL)

static struct ring *ring_of(const struct move *m)
{
	return m->from->core->ring;
}

static void hold(struct move *m)
{
	if (m->held)
		return;
	m->held = true;
	stream_pin(m->from);
	stream_pin(m->to);
}

static void unhold(struct move *m)
{
	if (!m->held)
		return;
	m->held = false;
	stream_unpin(m->from);
	stream_unpin(m->to);
}

static void defer(struct move *m)
{
	hold(m);
	streams_defer(m->from->core, &m->later);
}

/* ---- registered buffers ---- */

/* A registered buffer and the send that reads it. Owned by the core, neither by the move nor by the
 * target: the kernel may need it for as long as the peer does not read (U7), and nobody should have
 * to wait for that. Until its count is seen the move is there and holds the target; from then on
 * the target knows it as lent, for as long as there is a target. */
struct zc_hold {
	struct ring_op op;
	struct ring_zcbuf buf;
	struct streams *ss; /* borrowed */
	struct move *m;	    /* NULL: given up by its move */
	struct stream *to;  /* valid while `lent` is linked */
	struct list lent;   /* in to->lent */
	struct list node;   /* in m->zc_gone */
	uint32_t at, len;   /* octets sent, octets received into it */
	bool counted;	    /* the send's count was seen */
	uint8_t res;	    /* and its result */
};

_Static_assert(sizeof(struct zc_hold) <= STREAMS_ZC_HOLD_BYTES, "sized in stream.h");

static void zc_sent(struct ring_op *op, const struct ring_done *d);

static struct zc_hold *hold_new(struct move *m)
{
	struct streams *ss = m->to->core;
	struct zc_hold *h;

	if (m->zc_out == MOVE_ZC_BUFFERS_MAX)
		return NULL;
	h = slab_get(&ss->zc_holds);
	if (h == NULL)
		return NULL;
	memset(h, 0, sizeof(*h));
	if (!ring_zc_get(ss->ring, &h->buf)) {
		slab_put(&ss->zc_holds, h);
		return NULL;
	}
	h->op.done = zc_sent;
	h->ss = ss;
	h->m = m;
	h->to = m->to;
	list_init(&h->lent);
	list_init(&h->node);
	m->zc_out++;
	return h;
}

static void hold_free(struct zc_hold *h)
{
	struct streams *ss = h->ss;

	ASSERT(!ring_op_armed(&h->op) && !list_linked(&h->lent));
	list_remove(&h->node);
	if (h->m != NULL)
		h->m->zc_out--;
	ring_zc_put(ss->ring, &h->buf);
	slab_put(&ss->zc_holds, h);
}

/* The move goes; what the kernel still reads comes back by itself. */
static void holds_give_up(struct move *m)
{
	struct list *n;

	if (m->zc != NULL && ring_op_armed(&m->zc->op))
		list_push_back(&m->zc_gone, &m->zc->node);
	else if (m->zc != NULL)
		hold_free(m->zc);
	m->zc = NULL;
	while ((n = list_pop_front(&m->zc_gone)) != NULL)
		CONTAINER_OF(n, struct zc_hold, node)->m = NULL;
	m->zc_out = 0;
}

/* Octets taken from the source that will never reach the target. */
static bool has_hole(const struct move *m)
{
	return (m->pipe != NULL && ring_pipe_bytes(m->pipe) > 0) ||
	       (m->zc != NULL && m->zc->at < m->zc->len);
}

/* Gives back what RUN needed. A target with a hole never sends again (U9). */
static void release(struct move *m)
{
	if (has_hole(m))
		stream_mark_broken(m->to);
	holds_give_up(m);
	if (m->pipe != NULL)
		ring_pipe_put(ring_of(m), m->pipe);
	m->pipe = NULL;
	if (m->took) {
		m->took = false;
		stream_give_back(m->from);
	}
}

/* ---- ending ---- */

/* Operations that touch a descriptor; a buffer whose send was counted is none. */
static bool in_kernel(const struct move *m)
{
	return ring_op_armed(&m->in_op) || ring_op_armed(&m->out_op) ||
	       (m->zc != NULL && ring_op_armed(&m->zc->op) && !m->zc->counted);
}

/* Every completion asks this first: true = the move is ending and the caller has nothing to do. */
static bool ending(struct move *m)
{
	if (!m->stopping)
		return false;
	if (m->phase != PH_ENDING && !in_kernel(m)) {
		m->phase = PH_ENDING;
		defer(m);
	}
	return true;
}

/* The first reason stands. */
static void conclude(struct move *m, enum ring_res why, bool at_to)
{
	struct ring *r = ring_of(m);

	if (m->stopping)
		return;
	m->stopping = true;
	m->why = (uint8_t)why;
	m->at_to = at_to;
	if (at_to && m->phase == PH_RUN)
		stream_mark_broken(m->to);
	if (ring_op_armed(&m->in_op))
		ring_cancel(r, &m->in_op);
	if (ring_op_armed(&m->out_op))
		ring_cancel(r, &m->out_op);
	if (m->zc != NULL && ring_op_armed(&m->zc->op) && !m->zc->counted)
		ring_cancel(r, &m->zc->op);
	ending(m);
}

static void over(struct move *m)
{
	list_remove(&m->later.node);
	release(m);
	m->phase = PH_OVER;
	m->now = MOVER_COUNT;
	m->ended = true;
	unhold(m);
}

static void report_end(struct move *m)
{
	enum ring_res why = m->why;

	if (why != RING_OK && m->took)
		stream_read(m->from, false); /* the note: not when it is given back either */
	over(m);
	m->ev->on_end(m, why, m->at_to);
}

/* ---- running: what every way does ---- */

static void took_in(struct move *m, size_t n)
{
	ASSERT(n <= m->left);
	m->from->bytes_in += n;
	m->moved += n;
	if (m->left != MOVE_OPAQUE)
		m->left -= n;
	if (m->ev->on_progress != NULL)
		m->ev->on_progress(m, n);
}

static size_t at_most(const struct move *m, size_t n)
{
	return m->left < n ? (size_t)m->left : n;
}

static void poll_done(struct ring_op *op, struct move *m, const struct ring_done *d);

static void in_poll_done(struct ring_op *op, const struct ring_done *d)
{
	struct move *m = CONTAINER_OF(op, struct move, in_op);

	stream_wait_end(m->from);
	poll_done(op, m, d);
}

static void out_poll_done(struct ring_op *op, const struct ring_done *d)
{
	poll_done(op, CONTAINER_OF(op, struct move, out_op), d);
}

static void wait_in(struct move *m)
{
	m->in_op.done = in_poll_done;
	ring_poll(ring_of(m), &m->in_op, m->from->fd, POLLIN);
	stream_wait_begin(m->from);
}

static void wait_out(struct move *m)
{
	m->out_op.done = out_poll_done;
	ring_poll(ring_of(m), &m->out_op, m->to->fd, POLLOUT);
}

/* Nothing moved although the poll had reported a failure: polling again would spin. */
static void would_block(struct move *m, bool at_to)
{
	if (m->poll_failed)
		conclude(m, at_to ? RING_PIPE : RING_RESET, at_to);
	else if (at_to)
		wait_out(m);
	else
		wait_in(m);
}

/* A transfer that did not move anything: 0 octets is the end of input, or a target that took none.
 */
static void moved_nothing(struct move *m, enum ring_res res, bool at_to)
{
	if (res == RING_AGAIN)
		would_block(m, at_to);
	else if (res != RING_OK)
		conclude(m, res, at_to);
	else
		conclude(m, at_to ? RING_IO : RING_EOF, at_to);
}

/* ---- splice(2) after a poll ---- */

static bool pipe_get(struct move *m)
{
	m->pipe = ring_pipe_get(ring_of(m));
	return m->pipe != NULL;
}

/* Empties the pipe into the target. False: it waits, or the move is ending. */
static bool splice_drain(struct move *m)
{
	enum ring_res res = RING_OK;
	size_t n, inside;

	while ((inside = ring_pipe_bytes(m->pipe)) > 0) {
		n = ring_splice_out(ring_of(m), m->pipe, m->to->fd, inside, &res);
		if (n == 0) {
			moved_nothing(m, res, true);
			return false;
		}
		m->to->bytes_out += n;
		m->poll_failed = false;
	}
	return true;
}

static void splice_go(struct move *m)
{
	enum ring_res res = RING_OK;
	size_t done = 0, n;

	for (;;) {
		if (!splice_drain(m))
			return;
		if (m->left == 0) {
			conclude(m, RING_OK, false);
			return;
		}
		if (done >= MOVE_TURN_BYTES) {
			wait_in(m);
			return;
		}
		n = at_most(m, MIN_OF(ring_pipe_room(m->pipe), MOVE_TURN_BYTES));
		n = ring_splice_in(ring_of(m), m->from->fd, m->pipe, n, &res);
		if (n == 0) {
			moved_nothing(m, res, false);
			return;
		}
		done += n;
		m->poll_failed = false;
		took_in(m, n);
		if (m->stopping)
			return; /* the owner stopped it in on_progress() */
	}
}

/* ---- IORING_OP_SPLICE after a poll ---- */

static void ring_splice_go(struct move *m);

static void ring_splice_in_done(struct ring_op *op, const struct ring_done *d)
{
	struct move *m = CONTAINER_OF(op, struct move, in_op);

	/* Counted even when the move is being stopped: `left` stays true. */
	if (d->n > 0)
		took_in(m, d->n);
	if (ending(m))
		return;
	if (d->n == 0) {
		moved_nothing(m, d->res, false);
		return;
	}
	m->poll_failed = false;
	ring_splice_go(m);
}

static void ring_splice_out_done(struct ring_op *op, const struct ring_done *d)
{
	struct move *m = CONTAINER_OF(op, struct move, out_op);

	m->to->bytes_out += d->n;
	if (ending(m))
		return;
	if (d->n == 0) {
		moved_nothing(m, d->res, true);
		return;
	}
	m->poll_failed = false;
	ring_splice_go(m);
}

static void ring_splice_go(struct move *m)
{
	struct ring *r = ring_of(m);
	size_t inside = ring_pipe_bytes(m->pipe);

	if (inside > 0) {
		m->out_op.done = ring_splice_out_done;
		ring_splice_out_op(r, &m->out_op, m->pipe, m->to->fd, inside);
	} else if (m->left == 0) {
		conclude(m, RING_OK, false);
	} else {
		wait_in(m);
	}
}

/* The poll of either side has come: out of the pipe first, then into it. */
static void ring_splice_ready(struct move *m)
{
	size_t n = at_most(m, MIN_OF(ring_pipe_room(m->pipe), MOVE_TURN_BYTES));

	if (ring_pipe_bytes(m->pipe) > 0) {
		ring_splice_go(m);
		return;
	}
	m->in_op.done = ring_splice_in_done;
	ring_splice_in_op(ring_of(m), &m->in_op, m->from->fd, m->pipe, n);
}

/* ---- registered buffers: receive, SEND_ZC ---- */

static void copy_again(struct move *m);
static void zc_go(struct move *m);

static bool zc_get(struct move *m)
{
	if ((ring_features(ring_of(m)) & RING_FEAT_SEND_ZC) == 0)
		return false;
	m->zc = hold_new(m);
	return m->zc != NULL;
}

static void zc_received(struct ring_op *op, const struct ring_done *d)
{
	struct move *m = CONTAINER_OF(op, struct move, in_op);

	stream_wait_end(m->from);
	if (d->n > 0) {
		m->zc->len = d->n;
		took_in(m, d->n);
	}
	if (ending(m))
		return;
	if (d->n == 0) {
		moved_nothing(m, d->res, false);
		return;
	}
	m->poll_failed = false;
	zc_go(m);
}

/* The kernel cannot pin pages (U7, U18) or the socket does not know the operation (Unix sockets):
 * copies what it refused. Should the error be a true one, the stream finds it again. */
static void zc_refused(struct move *m)
{
	struct zc_hold *h = m->zc;

	stream_put(m->to, span_of(h->buf.p + h->at, h->len - h->at));
	h->at = h->len;
	m->gave_up = true;
	if (m->left == 0)
		conclude(m, RING_OK, false);
	else
		copy_again(m);
}

static bool zc_unavailable(enum ring_res res)
{
	return res == RING_NOMEM || res == RING_NOBUFS || res == RING_INVAL || res == RING_NOSYS ||
	       res == RING_OPNOTSUPP;
}

/* The current send is over and its buffer back: the next step for what it said. */
static void zc_back(struct move *m)
{
	enum ring_res res = m->zc->res;

	m->zc->counted = false;
	if (ending(m))
		return;
	if (res == RING_OK)
		zc_go(m);
	else if (zc_unavailable(res))
		zc_refused(m);
	else
		moved_nothing(m, res, true);
}

/* The count of a send; its buffer stays with the kernel if `more`. */
static void zc_counted(struct zc_hold *h, const struct ring_done *d)
{
	struct move *m = h->m;

	ASSERT(m != NULL && d->n <= h->len - h->at);
	h->counted = true;
	h->res = d->res == RING_OK && d->n == 0 ? RING_IO : d->res;
	h->at += d->n;
	m->to->bytes_out += d->n;
	if (d->more)
		stream_lend(m->to, &h->lent);
	if (!d->more || ending(m))
		return;
	if (h->res == RING_OK && h->at == h->len) {
		/* All of it is on its way: go on with another buffer. */
		list_push_back(&m->zc_gone, &h->node);
		m->zc = NULL;
		zc_go(m);
	}
}

static void zc_sent(struct ring_op *op, const struct ring_done *d)
{
	struct zc_hold *h = CONTAINER_OF(op, struct zc_hold, op);
	struct move *m = h->m;

	if (!h->counted)
		zc_counted(h, d);
	if (d->more)
		return; /* the buffer is the kernel's until the second completion (U7) */
	if (list_linked(&h->lent))
		stream_unlend(h->to, &h->lent);
	if (m != NULL && m->zc == h) {
		zc_back(m);
		return;
	}
	hold_free(h);
	/* It may be the one that the move was waiting for. */
	if (m != NULL && !m->stopping && m->zc == NULL && m->phase == PH_RUN)
		zc_go(m);
}

/* No operation of the move is armed; buffers of earlier sends may be out. */
static void zc_go(struct move *m)
{
	struct ring *r = ring_of(m);
	struct zc_hold *h = m->zc;

	if (h != NULL && h->at < h->len) {
		ring_zc_send(r, &h->op, m->to->fd, &h->buf, h->at, h->len - h->at);
		return;
	}
	if (m->left == 0) {
		conclude(m, RING_OK, false);
		return;
	}
	if (h == NULL)
		h = m->zc = hold_new(m);
	if (h != NULL) {
		h->at = h->len = 0;
		m->in_op.done = zc_received;
		ring_zc_recv(
			r, &m->in_op, m->from->fd, &h->buf, (uint32_t)at_most(m, h->buf.bytes));
		stream_wait_begin(m->from);
	} else if (list_empty(&m->zc_gone)) {
		m->gave_up = true;
		copy_again(m);
	}
	/* else a buffer of our own is out: zc_sent() goes on when it is back. */
}

/* ---- choosing and switching ---- */

struct way {
	bool (*get)(struct move *m);   /* what it needs; false = copy */
	void (*go)(struct move *m);    /* nothing is armed: the next step */
	void (*ready)(struct move *m); /* a poll has come */
};

static const struct way ways[MOVER_COUNT] = {
	[MOVER_SPLICE] = {pipe_get, wait_in, splice_go},
	[MOVER_RING_SPLICE] = {pipe_get, ring_splice_go, ring_splice_ready},
	[MOVER_ZERO_COPY] = {zc_get, zc_go, zc_go},
};

static void poll_done(struct ring_op *op, struct move *m, const struct ring_done *d)
{
	if (ending(m))
		return;
	if (d->res != RING_OK) {
		conclude(m, d->res, op == &m->out_op);
		return;
	}
	m->poll_failed = (d->n & POLL_FAILED) != 0;
	ways[m->now].ready(m);
}

static enum mover chosen(const struct move *m)
{
	/* DESIGN 4.4: splice(2) after a poll is the cheapest of the three wherever it was measured.
	 */
	return m->way == MOVER_AUTO ? MOVER_SPLICE : m->way;
}

static bool wants_switch(const struct move *m)
{
	/* Octets that a filter has to see pass through this process. */
	if (m->gave_up || m->way == MOVER_COPY || m->from->filter || m->to->filter)
		return false;
	if (m->way != MOVER_AUTO)
		return m->left >= MOVE_ASKED_MIN_BYTES;
	return (m->left == MOVE_OPAQUE ? m->moved : m->left) >= MOVE_SPLICE_MIN_BYTES;
}

/* The owner may have stopped reading before it was taken from it, and what would have made it go on
 * again passed it by. There is room: the target was flushed before any way but copying began. */
static void copy_again(struct move *m)
{
	m->phase = PH_COPY;
	m->now = MOVER_COPY;
	if (m->took)
		stream_read(m->from, true);
	release(m);
	unhold(m);
}

static void run(struct move *m)
{
	hold(m);
	m->poll_failed = false;
	m->now = chosen(m);
	if (!ways[m->now].get(m)) {
		m->gave_up = true;
		copy_again(m);
		return;
	}
	m->phase = PH_RUN;
	ways[m->now].go(m);
}

/* Ends a move that no event will end any more. */
static bool concluded(struct move *m)
{
	if (m->from->closing || m->to->closing)
		conclude(m, RING_CANCELED, false);
	else if (m->to->broken)
		conclude(m, RING_PIPE, true);
	else if (m->from->ended)
		conclude(m, RING_EOF, false);
	return m->stopping;
}

/* Called whenever one of the two conditions may have come true. */
static void try_switch(struct move *m)
{
	if (m->phase != PH_SETTLE || concluded(m))
		return;
	if (!stream_quiet(m->from))
		return; /* on_quiet is to come */
	if (!stream_flushed(m->to)) {
		stream_tell_flushed(m->to);
		return;
	}
	/* Much may have come through on_bytes() while it settled. */
	if (m->left >= MOVE_ASKED_MIN_BYTES)
		run(m);
	else
		copy_again(m);
}

static void later(struct deferred *d)
{
	struct move *m = CONTAINER_OF(d, struct move, later);

	if (m->phase == PH_ENDING) {
		report_end(m);
		return;
	}
	if (m->phase == PH_COPY && !concluded(m) && wants_switch(m)) {
		/* From now on the owner cannot turn reading on again, or it might never settle. */
		m->phase = PH_SETTLE;
		m->took = true;
		stream_take(m->from);
	}
	try_switch(m);
	if (m->phase == PH_COPY || m->phase == PH_SETTLE)
		unhold(m); /* on_quiet or on_drained goes on from here */
}

/* ---- the owner's calls ---- */

void move_start(struct move *m, const struct move_events *ev, enum mover way, struct stream *from,
	struct stream *to, uint64_t left)
{
	ASSERT(left > 0 && way < MOVER_COUNT && from != to && from->core == to->core);
	memset(m, 0, sizeof(*m));
	m->ev = ev;
	m->from = from;
	m->to = to;
	m->way = way;
	m->now = MOVER_COPY;
	m->left = left;
	list_init(&m->zc_gone);
	deferred_init(&m->later, later);
	/* Not now: the owner offers what it has first, and that may be all. */
	defer(m);
}

size_t move_bytes(struct move *m, struct span data, int32_t buf)
{
	size_t n = m->left < data.n ? (size_t)m->left : data.n;

	ASSERT(move_running(m) && m->phase != PH_RUN);
	m->moved += n;
	if (m->left != MOVE_OPAQUE)
		m->left -= n;
	/* Also while its end is due: what was taken is handed on, or the target would have a hole.
	 */
	stream_pass(m->to, span_of(data.p, n), buf);
	if (m->stopping)
		return n;
	if (m->left == 0) {
		over(m);
	} else if (m->phase == PH_COPY && m->left == MOVE_OPAQUE && wants_switch(m)) {
		defer(m);
	}
	return n;
}

void move_from_quiet(struct move *m)
{
	if (move_running(m))
		try_switch(m);
}

void move_to_drained(struct move *m)
{
	if (move_running(m))
		try_switch(m);
}

void move_from_end(struct move *m, enum ring_res why)
{
	if (move_running(m))
		conclude(m, why, false);
}

void move_to_broken(struct move *m, enum ring_res why)
{
	if (move_running(m))
		conclude(m, why, true);
}

void move_stop(struct move *m)
{
	if (move_running(m))
		conclude(m, RING_CANCELED, false);
}

bool move_maybe_done(const struct move *m)
{
	bool splicing = ring_op_armed(&m->out_op) && m->out_op.done == ring_splice_out_done;
	bool sending = m->zc != NULL && ring_op_armed(&m->zc->op) && !m->zc->counted;

	return m->left == 0 && !m->to->broken && (splicing || sending || !has_hole(m));
}

bool move_holds(const struct move *m)
{
	return (m->pipe != NULL && ring_pipe_bytes(m->pipe) > 0) ||
	       (m->zc != NULL && m->zc->at < m->zc->len) || !list_empty(&m->zc_gone);
}
