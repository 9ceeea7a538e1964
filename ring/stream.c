/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Streams: what must be true of every connected socket, in one place.
 *
 * Octets out. They are staged as a list of segs, each a leased piece of a receive buffer, a copy,
 * or octets of the owner's that outlast the stream.
 * They leave by send(2) while they are hot (a relayed piece of STREAM_HOT_BYTES or more) or in one
 * gathered call at the end of the turn. What the socket does not take is given to one ring send,
 * never two at once (U8); what is staged meanwhile waits for its completion. The segs that a ring
 * send covers stay where they are until it has completed, whatever happens to the stream.
 *
 * A filter (filter.h) adds a second list: what was staged becomes wire octets, piece by piece, when
 * the socket may take some, and those are what is sent. `out` stays the owner's octets, and
 * out_bytes counts them until the wire octets that carry them have left.
 *
 * Octets in. One multishot receive, capped where the kernel can. It is re-armed when it has ended
 * (U3), never at once after RING_NOBUFS: such a stream parks until buffers come back (U4). Where
 * nothing is expected a poll takes its place (stream_doze()), in the same operation: an armed
 * receive has its message header and its poll in memory of their own.
 *
 * Ends. Input and output fail apart from each other: `ended` is the input's, `broken` the output's
 * (U9: after a failed send the number of octets sent is unknown, so nothing more is sent). Closing
 * is: drop, cancel, count every completion, close, tell (U1), the last two from streams_flush().
 *
 * Who may call back: completions and streams_flush(), nobody else; a callback may do anything to
 * any stream, so the state is looked at again after each one. on_closed() is the last thing that
 * happens to a stream, and nothing here touches it afterwards.
 */
#include "ring/stream.h"

#include <poll.h>

#define SEG_BYTES 512
#define CELL_BYTES 4096
#define IOV_MAX_SEND 64
/* Wire octets made ahead of a send: enough for one large send, no more than a slow peer may keep.
 */
#define WIRE_AHEAD_BYTES (64u << 10)
#define PASS_COPY_BYTES \
	512 /* a relayed piece up to this is copied: cheaper than a lease, pins nothing */

/* A run of staged octets. Owns its lease or its cell. */
struct seg {
	struct list node;
	uint8_t *p;    /* first octet not sent yet */
	uint8_t *cell; /* p lies here; NULL = inline, leased, or lasting elsewhere */
	uint32_t n;
	uint32_t room;	/* octets that may be appended at p + n; 0 for what is not ours */
	int32_t buf;	/* leased receive buffer, or -1 */
	uint32_t plain; /* of a filter's: octets of the owner that are out when all of this is */
	bool as_is;	/* of a filter's: staged before it came; each octet counts for itself */
	uint8_t octets[];
};

#define SEG_INLINE_BYTES (SEG_BYTES - offsetof(struct seg, octets))

/* ---- a core's streams ---- */

bool streams_init(struct streams *ss, struct ring *r, uint32_t segs_max, uint32_t cells_max)
{
	ASSERT(segs_max >= cells_max);
	memset(ss, 0, sizeof(*ss));
	ss->ring = r;
	list_init(&ss->parked);
	list_init(&ss->dirty);
	list_init(&ss->ending);
	list_init(&ss->later);
	if (!slab_init(&ss->segs, "segs", SEG_BYTES, segs_max))
		return false;
	if (!slab_init(&ss->cells, "cells", CELL_BYTES, cells_max))
		goto no_cells;
	ss->piece = malloc(FILTER_PIECE_BYTES);
	if (ss->piece != NULL &&
		slab_init(&ss->zc_holds, "zc-holds", STREAMS_ZC_HOLD_BYTES, STREAMS_ZC_HOLDS_MAX))
		return true;
	free(ss->piece);
	slab_fini(&ss->cells);
no_cells:
	slab_fini(&ss->segs);
	return false;
}

void streams_fini(struct streams *ss)
{
	ASSERT(list_empty(&ss->parked) && list_empty(&ss->dirty));
	ASSERT(list_empty(&ss->ending) && list_empty(&ss->later));
	ASSERT(ss->promised == 0);
	while (ss->zc_holds.used > 0)
		ring_turn(ss->ring, UINT64_MAX);
	slab_fini(&ss->segs);
	slab_fini(&ss->cells);
	slab_fini(&ss->zc_holds);
	free(ss->piece);
}

void streams_defer(struct streams *ss, struct deferred *d)
{
	if (!list_linked(&d->node))
		list_push_back(&ss->later, &d->node);
}

/* Half of the buffers can be filled, the one not counted that is being filled now (it is pinned by
 * the lease in question): leases are no danger to the others. */
static bool pool_healthy(const struct streams *ss)
{
	return ring_bufs_free(ss->ring) * 2 >= ring_bufs_total(ss->ring) + 2;
}

/* ---- segs ---- */

static void seg_free(struct streams *ss, struct seg *g)
{
	list_remove(&g->node);
	if (g->buf >= 0)
		ring_buf_drop(ss->ring, (uint16_t)g->buf);
	if (g->cell != NULL)
		slab_put(&ss->cells, g->cell);
	slab_put(&ss->segs, g);
}

static struct seg *seg_new(struct streams *ss)
{
	struct seg *g = slab_get(&ss->segs);

	if (g == NULL)
		return NULL;
	list_init(&g->node);
	g->cell = NULL;
	g->buf = -1;
	g->plain = 0;
	g->as_is = false;
	g->p = g->octets;
	g->n = 0;
	g->room = SEG_INLINE_BYTES;
	return g;
}

/* An empty seg for copies; in a cell where one is wanted and left, else inline. */
static struct seg *seg_for_copy(struct streams *ss, bool large)
{
	struct seg *g = seg_new(ss);

	if (g == NULL || !large)
		return g;
	g->cell = slab_get(&ss->cells);
	if (g->cell != NULL) {
		g->p = g->cell;
		g->room = CELL_BYTES;
	}
	return g;
}

/* Copies what fits; returns how much that was. */
static size_t seg_append(struct seg *g, struct span data)
{
	size_t n = MIN_OF(data.n, (size_t)g->room);

	memcpy(g->p + g->n, data.p, n);
	g->n += (uint32_t)n;
	g->room -= (uint32_t)n;
	return n;
}

static struct seg *last_of(const struct list *l)
{
	return list_empty(l) ? NULL : CONTAINER_OF(l->prev, struct seg, node);
}

static struct seg *last_seg(const struct stream *s)
{
	return last_of(&s->out);
}

/* What is sent: a filter's octets where there is one. */
static struct list *to_send(struct stream *s)
{
	return s->filter ? &s->filter->wire : &s->out;
}

/* Staged, and not yet given to the filter. */
static uint32_t unsealed(const struct stream *s)
{
	return s->filter ? s->out_bytes - s->filter->sealed : s->out_bytes;
}

/* What is staged may leave; else it waits for as long as the peer likes. */
static bool lets_out(const struct stream *s)
{
	return !s->filter || s->filter->open;
}

/* Something could be sent now. */
static bool has_output(const struct stream *s)
{
	if (!s->filter)
		return s->out_bytes > 0;
	return s->filter->wire_bytes > 0 || (s->filter->open && unsealed(s) > 0);
}

/* `plain` octets of the owner have left. */
static void count_out(struct stream *s, uint32_t plain)
{
	ASSERT(plain <= s->out_bytes);
	s->out_bytes -= plain;
	s->bytes_out += plain;
}

/* The first `n` octets of a list of segs are not needed any more; returns the owner's octets that
 * are out by that (of a filter's list). */
static uint32_t drop_front(struct stream *s, struct list *segs, size_t n)
{
	uint32_t plain = 0;

	while (n > 0) {
		struct seg *g = CONTAINER_OF(segs->next, struct seg, node);

		ASSERT(!list_empty(segs));
		if (n < g->n) {
			g->p += n;
			g->n -= (uint32_t)n;
			if (g->as_is) {
				g->plain -= (uint32_t)n;
				plain += (uint32_t)n;
			}
			break;
		}
		n -= g->n;
		plain += g->plain;
		seg_free(s->core, g);
	}
	return plain;
}

/* The kernel has taken the first `n` octets. */
static void drop_sent(struct stream *s, size_t n)
{
	struct stream_filter *f = s->filter;
	uint32_t plain;

	if (!f) {
		ASSERT(n <= s->out_bytes);
		(void)drop_front(s, &s->out, n);
		count_out(s, (uint32_t)n);
		return;
	}
	ASSERT(n <= f->wire_bytes);
	f->wire_bytes -= (uint32_t)n;
	plain = drop_front(s, &f->wire, n);
	f->sealed -= plain;
	count_out(s, plain);
}

/* Drops all of a list but its first `covered` octets; returns the owner's octets in those. */
static uint32_t keep_front(struct stream *s, struct list *segs, uint32_t covered)
{
	uint32_t plain = 0;

	LIST_FOR_SAFE(it, segs)
	{
		struct seg *g = CONTAINER_OF(it, struct seg, node);

		if (covered == 0) {
			seg_free(s->core, g);
			continue;
		}
		/* Octets appended to the last covered seg go as well. */
		g->n = MIN_OF(g->n, covered);
		g->room = 0;
		if (g->as_is)
			g->plain = g->n;
		covered -= g->n;
		plain += g->plain;
	}
	ASSERT(covered == 0);
	return plain;
}

/* Drops what is staged, except for what the send in flight still reads. */
static void drop_staged(struct stream *s)
{
	uint32_t covered = ring_op_armed(&s->send_op) ? s->sending_bytes : 0;
	struct stream_filter *f = s->filter;

	if (!f) {
		s->out_bytes = covered;
		(void)keep_front(s, &s->out, covered);
		return;
	}
	(void)keep_front(s, &s->out, 0);
	f->wire_bytes = covered;
	f->sealed = s->out_bytes = keep_front(s, &f->wire, covered);
}

/* Drops what the filter has not been given yet. */
static void drop_unsealed(struct stream *s)
{
	(void)keep_front(s, &s->out, 0);
	s->out_bytes = s->filter->sealed;
}

/* The pool is short and this socket slow: copies what is leased. False: there is no room for it. */
static bool unlease(struct stream *s)
{
	LIST_FOR_SAFE(it, &s->out)
	{
		struct seg *g = CONTAINER_OF(it, struct seg, node);

		while (g->buf >= 0 && g->n > 0) {
			struct seg *c = seg_for_copy(s->core, g->n > SEG_INLINE_BYTES);

			if (c == NULL)
				return false;
			size_t n = seg_append(c, span_of(g->p, g->n));
			list_push_back(&g->node, &c->node); /* before g */
			g->p += n;
			g->n -= (uint32_t)n;
		}
		if (g->n == 0)
			seg_free(s->core, g);
	}
	return true;
}

/* ---- sending ---- */

static void report(struct stream *s)
{
	if (!list_linked(&s->ending_node))
		list_push_back(&s->core->ending, &s->ending_node);
}

/* Nothing of it is in the kernel, of ours or of others. */
static bool idle(const struct stream *s)
{
	return s->pins == 0 && !ring_op_armed(&s->recv_op) && !ring_op_armed(&s->send_op) &&
	       !ring_op_armed(&s->dial_op);
}

/* Whatever ends an operation of a closing stream calls this; streams_flush() does the rest. */
static void settle(struct stream *s)
{
	if (s->closing && !s->closed && idle(s))
		report(s);
}

static void fail_send(struct stream *s, enum ring_res why)
{
	if (s->broken)
		return;
	s->broken = true;
	s->broken_why = (uint8_t)why;
	s->blocked = false;
	/* A filter may still look at the piece that it was given. */
	if (!s->filter || !s->filter->sealing)
		drop_staged(s);
	report(s);
}

static bool may_send(const struct stream *s)
{
	return !s->broken && !s->closing && !ring_op_armed(&s->send_op) &&
	       !ring_op_armed(&s->dial_op);
}

static unsigned gather(struct stream *s, struct iovec *iov, size_t *bytes, uint32_t *plain)
{
	struct list *from = to_send(s);
	unsigned k = 0;

	*bytes = 0;
	*plain = 0;
	LIST_FOR(it, from)
	{
		struct seg *g = CONTAINER_OF(it, struct seg, node);

		if (k == IOV_MAX_SEND)
			break;
		iov[k++] = (struct iovec){g->p, g->n};
		*bytes += g->n;
		*plain += g->plain;
	}
	return k;
}

/* The one send in flight. */
static void give_to_ring(struct stream *s)
{
	struct iovec iov[IOV_MAX_SEND];
	uint32_t plain;
	size_t bytes;
	unsigned k;

	k = gather(s, iov, &bytes, &plain);
	ASSERT(may_send(s) && bytes > 0);
	s->sending_bytes = (uint32_t)bytes;
	if (s->filter)
		s->filter->sending_plain = plain;
	ring_send(s->core->ring, &s->send_op, s->fd, iov, k);
}

/* ---- through a filter ---- */

/* Where no cell is left the wire octets lie in segs alone, of which there are more. */
static bool room_for_piece(const struct streams *ss, size_t plain)
{
	size_t wire = plain + (FILTER_PIECE_WIRE_BYTES - FILTER_PIECE_BYTES);

	return ss->segs.used + wire / SEG_INLINE_BYTES + 2 <= ss->segs.count_max;
}

/* The next piece in one run of octets: where it lies, or gathered. */
static struct span next_piece(struct stream *s)
{
	struct seg *first = CONTAINER_OF(s->out.next, struct seg, node);
	size_t n = 0;

	if (first->n >= FILTER_PIECE_BYTES || first->n == unsealed(s))
		return span_of(first->p, MIN_OF(first->n, FILTER_PIECE_BYTES));
	LIST_FOR(it, &s->out)
	{
		struct seg *g = CONTAINER_OF(it, struct seg, node);
		size_t part = MIN_OF((size_t)g->n, FILTER_PIECE_BYTES - n);

		memcpy(s->core->piece + n, g->p, part);
		n += part;
		if (n == FILTER_PIECE_BYTES)
			break;
	}
	return span_of(s->core->piece, n);
}

/* False: the stream has failed. */
static bool seal_piece(struct stream *s)
{
	struct stream_filter *f = s->filter;
	struct span piece = next_piece(s);
	uint32_t before = f->wire_bytes;

	f->sealing = true;
	if (!f->kind->to_wire(f, piece))
		fail_send(s, RING_PROTO);
	f->sealing = false;
	if (s->broken) {
		drop_staged(s);
		return false;
	}
	ASSERT(f->wire_bytes > before && f->wire_bytes - before <= FILTER_PIECE_WIRE_BYTES);
	last_of(&f->wire)->plain += (uint32_t)piece.n;
	last_of(&f->wire)->room = 0; /* the next record's octets do not carry these */
	f->sealed += (uint32_t)piece.n;
	(void)drop_front(s, &s->out, piece.n);
	return true;
}

/* Makes wire octets for the next send. False: the stream has failed. */
static bool seal(struct stream *s)
{
	struct stream_filter *f = s->filter;

	while (f->open && unsealed(s) > 0 && f->wire_bytes < WIRE_AHEAD_BYTES) {
		if (!room_for_piece(s->core, MIN_OF(unsealed(s), FILTER_PIECE_BYTES))) {
			if (f->wire_bytes > 0)
				return true; /* sending it makes room */
			fail_send(s, RING_NOMEM);
			return false;
		}
		if (!seal_piece(s))
			return false;
	}
	return true;
}

/* ---- sending on ---- */

/* Everything that is staged, now; the rest, if any, by the ring. */
static void push(struct stream *s)
{
	struct iovec iov[IOV_MAX_SEND];
	enum ring_res res;
	size_t asked, n;
	uint32_t plain;
	unsigned k;

	ASSERT(may_send(s));
	while (has_output(s)) {
		if (s->filter && !seal(s))
			return;
		k = gather(s, iov, &asked, &plain);
		res = RING_OK;
		n = ring_send_now(s->core->ring, s->fd, iov, k, &res);
		drop_sent(s, n);
		if (n == asked)
			continue;
		if (n == 0 && res != RING_AGAIN) {
			fail_send(s, res == RING_OK ? RING_IO : res);
			return;
		}
		s->blocked = true;
		/* Else it could keep the last buffers from everybody for as long as it likes. */
		if (!pool_healthy(s->core) && !unlease(s))
			fail_send(s, RING_NOMEM);
		else
			give_to_ring(s);
		return;
	}
}

/* True once per backlog: the owner is to be told. Never while a send is in flight: what it carries
 * counts as backlog. */
static bool take_drained(struct stream *s)
{
	bool owed = s->blocked && s->out_bytes <= STREAM_LOW_BYTES;

	if (ring_op_armed(&s->send_op))
		return false;
	owed = owed || (s->want_flushed && stream_flushed(s));
	if (!owed)
		return false;
	s->blocked = false;
	if (stream_flushed(s))
		s->want_flushed = false;
	return true;
}

static bool speaks(const struct stream *s)
{
	return !s->closing && !s->finishing;
}

/* Nothing is left to wait for before the descriptor may be closed in good order. */
static bool all_out(const struct stream *s)
{
	return s->broken || (stream_flushed(s) && list_empty(&s->lent));
}

/* The filter's last words, behind all that was staged. True: there is nothing (more) to say. */
static bool say_last_words(struct stream *s)
{
	struct stream_filter *f = s->filter;

	if (!f || f->finished || s->broken)
		return true;
	if (!stream_flushed(s))
		return false;
	f->kind->finish(f);
	f->finished = true;
	return stream_flushed(s);
}

/* After octets left, from a completion or streams_flush() only. */
static void after_out(struct stream *s, bool drained)
{
	if (s->finishing && !s->closing && say_last_words(s) && all_out(s))
		stream_close(s);
	else if (drained && speaks(s) && !s->broken)
		s->ev->on_drained(s);
}

static void send_more(struct stream *s)
{
	if (!has_output(s) || !may_send(s))
		return;
	if (!s->core->ring_sends)
		push(s);
	else if (!s->filter || seal(s))
		give_to_ring(s);
}

static void send_done(struct ring_op *op, const struct ring_done *d)
{
	struct stream *s = CONTAINER_OF(op, struct stream, send_op);
	bool drained;

	ASSERT(!d->more && d->n <= s->sending_bytes);
	drop_sent(s, d->n);
	s->sending_bytes = 0;
	if (s->filter)
		s->filter->sending_plain = 0;
	if (s->closing || s->broken) {
		drop_staged(s);
		settle(s);
		after_out(s, false);
		return;
	}
	/* A short count is no error yet: the next send will say what it is. */
	if (d->res != RING_OK || d->n == 0) {
		fail_send(s, d->res == RING_OK ? RING_IO : d->res);
		after_out(s, false);
		return;
	}
	/* Asked before: a new send may go out at once, and the owner need not wait for it. Asked
	 * after: everything may have gone. */
	drained = take_drained(s);
	send_more(s);
	if (take_drained(s))
		drained = true;
	after_out(s, drained);
}

/* End of the turn, for one stream that has staged something. */
static void flush_one(struct stream *s)
{
	bool drained;

	if (!may_send(s))
		return; /* a completion or the report of the failure goes on from there */
	send_more(s);
	drained = take_drained(s);
	after_out(s, drained);
}

/* ---- staging ---- */

/* An empty seg at the end. When the slab is empty, sending what is staged may give one back. */
static struct seg *stage_seg(struct stream *s, bool lease, bool large)
{
	struct seg *g = NULL;

	for (int attempt = 0; g == NULL && attempt < 2; attempt++) {
		if (attempt == 1 && may_send(s))
			push(s);
		if (s->broken)
			return NULL;
		g = lease ? seg_new(s->core) : seg_for_copy(s->core, large);
	}
	if (g == NULL)
		fail_send(s, RING_NOMEM);
	else
		list_push_back(&s->out, &g->node);
	return g;
}

static void stage_copy(struct stream *s, struct span data)
{
	struct seg *g = last_seg(s);
	bool second = g != NULL && g->buf < 0;

	while (data.n > 0) {
		if (g == NULL || g->room == 0) {
			g = stage_seg(s, false, second || data.n > SEG_INLINE_BYTES);
			if (g == NULL)
				return;
		}
		size_t n = seg_append(g, data);
		s->out_bytes += (uint32_t)n;
		data = span_drop(data, n);
		second = true;
	}
}

static void stage_lease(struct stream *s, struct span data, int32_t buf)
{
	struct seg *g = last_seg(s);

	if (g == NULL || g->buf != buf || g->p + g->n != data.p) {
		g = stage_seg(s, true, false);
		if (g == NULL)
			return;
		ring_buf_keep(s->core->ring, (uint16_t)buf);
		g->buf = buf;
		g->p = (uint8_t *)(uintptr_t)data.p; /* read only from here on */
		g->room = 0;
	}
	g->n += (uint32_t)data.n;
	s->out_bytes += (uint32_t)data.n;
}

static void stage_lasting(struct stream *s, struct span data)
{
	struct seg *g = stage_seg(s, false, false);

	if (g == NULL)
		return;
	g->p = (uint8_t *)(uintptr_t)data.p; /* read only from here on */
	g->n = (uint32_t)data.n;
	g->room = 0;
	s->out_bytes += (uint32_t)data.n;
}

static void staged(struct stream *s)
{
	if (s->broken)
		return;
	if (s->out_bytes > STREAM_HIGH_BYTES)
		s->blocked = true;
	if (may_send(s) && has_output(s) && !list_linked(&s->dirty_node))
		list_push_back(&s->core->dirty, &s->dirty_node);
}

void stream_put(struct stream *s, struct span data)
{
	if (s->broken || !speaks(s) || data.n == 0)
		return;
	ASSERT(data.n < UINT32_MAX - s->out_bytes);
	stage_copy(s, data);
	staged(s);
}

void stream_put_lasting(struct stream *s, struct span data)
{
	if (s->broken || !speaks(s) || data.n == 0)
		return;
	ASSERT(data.n < UINT32_MAX - s->out_bytes);
	stage_lasting(s, data);
	staged(s);
}

void stream_pass(struct stream *s, struct span data, int32_t buf)
{
	bool hot, healthy;

	if (s->broken || !speaks(s) || data.n == 0)
		return;
	ASSERT(data.n < UINT32_MAX - s->out_bytes);
	hot = may_send(s) && lets_out(s) && s->out_bytes + data.n >= STREAM_HOT_BYTES;
	healthy = lets_out(s) && pool_healthy(s->core);
	/* A hot piece leaves at once, so leasing it is harmless; push() copies what stays behind.
	 */
	if (buf >= 0 && data.n > PASS_COPY_BYTES && (hot || healthy))
		stage_lease(s, data, buf);
	else
		stage_copy(s, data);
	if (hot && may_send(s))
		push(s);
	staged(s);
}

/* ---- receiving ---- */

void stream_wait_begin(struct stream *s)
{
	s->wait_began_us = ring_now_us(s->core->ring);
}

void stream_wait_end(struct stream *s)
{
	s->waited_us = stream_waited_us(s);
	s->wait_began_us = 0;
}

uint64_t stream_waited_us(const struct stream *s)
{
	uint64_t now = ring_now_us(s->core->ring);

	return s->waited_us + (s->wait_began_us ? now - s->wait_began_us : 0);
}

/* What one with this cap may bring, in cells. */
static uint32_t cells_of(uint32_t cap)
{
	return 2 * cap / CELL_BYTES;
}

/* A large receive may bring all of it after the socket that it is for has ceased to take any, so
 * there is a cell for each octet that is still to come. A quarter of the cells is for whoever asks
 * first; as much again for those that have shown that they make use of it. */
static uint32_t next_cap(const struct stream *s)
{
	const struct streams *ss = s->core;
	uint32_t room = ss->cells.count_max / (s->bulk ? 2 : 4), cap = STREAM_RECV_CAP_BYTES;

	if (!pool_healthy(ss))
		return STREAM_RECV_SCARCE_BYTES;
	while (cap > STREAM_RECV_SCARCE_BYTES &&
		ss->cells.used + ss->promised + cells_of(cap) > room)
		cap /= 2;
	return cap;
}

static void promise(struct stream *s, uint32_t cap)
{
	s->promised = cap > STREAM_RECV_SCARCE_BYTES ? (uint16_t)cells_of(cap) : 0;
	s->core->promised += s->promised;
}

static void promise_over(struct stream *s)
{
	s->core->promised -= s->promised;
	s->promised = 0;
}

static void doze_done(struct ring_op *op, const struct ring_done *d);

static void arm_recv(struct stream *s)
{
	uint32_t cap;

	if (!s->want_read || s->ended || s->receiving || !speaks(s))
		return;
	if (ring_op_armed(&s->recv_op) || ring_op_armed(&s->dial_op) ||
		list_linked(&s->parked_node))
		return;
	stream_wait_begin(s);
	if (s->dozing) {
		s->recv_op.done = doze_done;
		ring_poll(s->core->ring, &s->recv_op, s->fd, POLLIN);
		return;
	}
	cap = next_cap(s);
	promise(s, cap);
	ring_recv(s->core->ring, &s->recv_op, s->fd, cap);
}

static void tell_quiet(struct stream *s)
{
	if (!s->quiet_owed || !speaks(s) || !stream_quiet(s))
		return;
	s->quiet_owed = false;
	if (s->ev->on_quiet != NULL)
		s->ev->on_quiet(s);
}

static void input_over(struct stream *s, enum ring_res why)
{
	if (s->ended)
		return;
	s->ended = true;
	s->want_read = false;
	if (speaks(s))
		s->ev->on_end(s, why);
}

static void park(struct stream *s)
{
	if (s->want_read && speaks(s))
		list_push_back(&s->core->parked, &s->parked_node);
}

/* The receive has ended: again, later, or never. */
static void recv_ended(struct stream *s, enum ring_res res)
{
	s->cancelling = false;
	s->receiving = false;
	if (s->closing) {
		settle(s);
		return;
	}
	switch (res) {
	case RING_OK:
	case RING_CANCELED:
		break;
	case RING_NOBUFS:
		park(s);
		break;
	default:
		input_over(s, res);
		break;
	}
	arm_recv(s);
	tell_quiet(s);
}

/* The input side of ending: no receive, no waiting for one. */
static void stop_input(struct stream *s)
{
	s->want_read = false;
	list_remove(&s->parked_node);
	if (ring_op_armed(&s->recv_op) && !s->cancelling) {
		s->cancelling = true;
		ring_cancel(s->core->ring, &s->recv_op);
	}
}

static void take_in(struct stream *s, struct span data, int32_t buf)
{
	if (s->filter) {
		if (filter_listens(s->filter))
			s->filter->kind->from_wire(s->filter, data);
		return;
	}
	s->bytes_in += data.n;
	if (speaks(s) && !s->ended)
		s->ev->on_bytes(s, data, buf);
}

static void recv_done(struct ring_op *op, const struct ring_done *d)
{
	struct stream *s = CONTAINER_OF(op, struct stream, recv_op);

	stream_wait_end(s);
	if (d->more)
		stream_wait_begin(s);
	if (d->res != RING_CANCELED)
		s->dozing = false;
	s->receiving = !d->more;
	if (!d->more) {
		promise_over(s);
		s->bulk = d->res == RING_OK && d->data.n > 0;
	}
	if (d->data.n > 0)
		take_in(s, d->data, d->buf_held ? (int32_t)d->buf : -1);
	if (!d->more)
		recv_ended(s, d->res);
}

static void doze_done(struct ring_op *op, const struct ring_done *d)
{
	op->done = recv_done;
	recv_done(op, d);
}

void stream_doze(struct stream *s)
{
	if (s->dozing || s->cancelling || !s->want_read || !ring_op_armed(&s->recv_op))
		return;
	s->dozing = s->cancelling = true;
	ring_cancel(s->core->ring, &s->recv_op);
}

void stream_read(struct stream *s, bool on)
{
	if (s->taken) {
		s->read_later = on;
		return;
	}
	if (!speaks(s) || s->ended || s->want_read == on)
		return;
	s->want_read = on;
	s->dozing = false;
	if (on) {
		s->quiet_owed = false;
		arm_recv(s);
		return;
	}
	list_remove(&s->parked_node);
	s->quiet_owed = true;
	if (!ring_op_armed(&s->recv_op)) {
		report(s);
	} else if (!s->cancelling) {
		s->cancelling = true;
		ring_cancel(s->core->ring, &s->recv_op);
	}
}

/* Oldest first, and no more of them than there are buffers: the others would only come back. */
static void unpark(struct streams *ss)
{
	unsigned least = MAX_OF(1u, ring_bufs_total(ss->ring) / 8);
	unsigned n = ring_bufs_free(ss->ring);
	struct list *it;

	if (n < least)
		return;
	while (n-- > 0 && (it = list_pop_front(&ss->parked)) != NULL)
		arm_recv(CONTAINER_OF(it, struct stream, parked_node));
}

/* ---- filters ---- */

bool filter_listens(const struct stream_filter *f)
{
	return !f->over && speaks(f->s) && !f->s->ended;
}

/* Nothing follows the last words. A peer that makes the filter answer and never reads the answers
 * must not have all of the core's memory for them. */
void filter_emit(struct stream_filter *f, struct span wire)
{
	struct stream *s = f->s;

	if (f->finished)
		return;
	if (wire.n > FILTER_WIRE_BYTES_MAX - MIN_OF(f->wire_bytes, FILTER_WIRE_BYTES_MAX)) {
		fail_send(s, RING_NOMEM);
		return;
	}
	while (wire.n > 0 && !s->broken && !s->closing) {
		struct seg *g = last_of(&f->wire);

		if (g == NULL || g->room == 0) {
			g = seg_for_copy(s->core, wire.n > SEG_INLINE_BYTES);
			if (g == NULL) {
				fail_send(s, RING_NOMEM);
				return;
			}
			list_push_back(&f->wire, &g->node);
		}
		size_t n = seg_append(g, wire);
		f->wire_bytes += (uint32_t)n;
		wire = span_drop(wire, n);
	}
	staged(s);
}

void filter_deliver(struct stream_filter *f, struct span plain)
{
	ASSERT(plain.n > 0);
	f->s->bytes_in += plain.n;
	if (filter_listens(f))
		f->s->ev->on_bytes(f->s, plain, -1);
}

void filter_open(struct stream_filter *f)
{
	ASSERT(!f->open);
	f->open = true;
	staged(f->s);
	if (speaks(f->s))
		f->s->ev->on_open(f->s);
}

void filter_over(struct stream_filter *f, enum ring_res why)
{
	struct stream *s = f->s;

	if (!filter_listens(f))
		return;
	f->over = true;
	stop_input(s);
	if (why != RING_EOF && !s->broken) {
		/* The words that say why (an alert), and nothing behind them. */
		drop_unsealed(s);
		if (may_send(s))
			push(s);
		if (!s->broken)
			fail_send(s, RING_OK);
	}
	input_over(s, why);
}

void stream_set_filter(struct stream *s, struct stream_filter *f)
{
	ASSERT(s->filter == NULL && !s->taken && list_empty(&s->lent));
	*f = (struct stream_filter){.kind = f->kind, .s = s};
	list_init(&f->wire);
	/* What was staged before leaves as it is. */
	LIST_FOR(it, &s->out)
	{
		struct seg *g = CONTAINER_OF(it, struct seg, node);

		g->plain = g->n;
		g->as_is = true;
		g->room = 0;
	}
	list_splice_back(&f->wire, &s->out);
	f->wire_bytes = f->sealed = s->out_bytes;
	f->sending_plain = s->sending_bytes;
	s->filter = f;
}

void stream_feed_filter(struct stream *s, struct span wire)
{
	ASSERT(s->filter != NULL);
	s->bytes_in -= wire.n; /* what they carry is counted when it is delivered */
	take_in(s, wire, -1);
}

bool stream_shut(struct stream *s)
{
	if (!stream_flushed(s) || !say_last_words(s)) {
		stream_tell_flushed(s);
		return false;
	}
	if (!s->broken)
		ring_shut(s->core->ring, s->fd);
	return true;
}

/* ---- beginning ---- */

static void dial_done(struct ring_op *op, const struct ring_done *d)
{
	struct stream *s = CONTAINER_OF(op, struct stream, dial_op);

	ASSERT(!d->more);
	s->peer = NULL;
	if (s->closing) {
		settle(s);
		return;
	}
	if (d->res != RING_OK) {
		/* Neither direction will ever work; on_connect() says so, nothing else does. */
		s->broken = s->ended = true;
		s->want_read = false;
		drop_staged(s);
	}
	if (s->finishing) {
		flush_one(s);
		after_out(s, false);
		return;
	}
	if (d->res == RING_OK) {
		arm_recv(s);
		staged(s);
	}
	s->ev->on_connect(s, d->res);
}

static void stream_init(struct stream *s, struct streams *ss, const struct stream_events *ev)
{
	memset(s, 0, sizeof(*s));
	s->core = ss;
	s->ev = ev;
	s->fd = RING_FD_NONE;
	s->recv_op.done = recv_done;
	s->send_op.done = send_done;
	s->dial_op.done = dial_done;
	list_init(&s->out);
	list_init(&s->parked_node);
	list_init(&s->dirty_node);
	list_init(&s->ending_node);
	list_init(&s->lent);
}

void stream_adopt(
	struct stream *s, struct streams *ss, const struct stream_events *ev, struct ring_fd fd)
{
	ASSERT(ring_fd_ok(fd));
	stream_init(s, ss, ev);
	s->fd = fd;
}

enum ring_res stream_dial(struct stream *s, struct streams *ss, const struct stream_events *ev,
	const struct ring_addr *peer, const struct ring_addr *src)
{
	enum ring_res res;

	stream_init(s, ss, ev);
	res = ring_socket(ss->ring, peer, src, &s->fd);
	if (res != RING_OK) {
		s->fd = RING_FD_NONE;
		s->broken = s->ended = s->closing = s->closed = true;
		return res;
	}
	s->peer = peer;
	ring_connect(ss->ring, &s->dial_op, s->fd, peer);
	return RING_OK;
}

/* ---- end ---- */

void stream_pin(struct stream *s)
{
	ASSERT(!s->closed && s->pins < UINT16_MAX);
	s->pins++;
}

void stream_unpin(struct stream *s)
{
	ASSERT(s->pins > 0);
	s->pins--;
	settle(s);
}

void stream_lend(struct stream *s, struct list *n)
{
	ASSERT(!s->closed);
	list_push_back(&s->lent, n);
}

void stream_unlend(struct stream *s, struct list *n)
{
	list_remove(n);
	after_out(s, false);
}

void stream_take(struct stream *s)
{
	bool on = s->want_read;

	ASSERT(!s->taken);
	stream_read(s, false);
	s->taken = true;
	s->read_later = on;
}

void stream_give_back(struct stream *s)
{
	ASSERT(s->taken);
	s->taken = false;
	if (s->read_later)
		stream_read(s, true);
}

void stream_mark_broken(struct stream *s)
{
	if (s->broken || s->closing)
		return;
	fail_send(s, RING_OK); /* RING_OK: there is nothing to tell */
}

/* Dropped in mid-stream: the filter's last words leave if nothing stands in their way, so that the
 * peer can tell this from a cut. */
static void say_goodbye(struct stream *s)
{
	struct iovec iov[IOV_MAX_SEND];
	enum ring_res res;
	uint32_t plain;
	size_t asked;
	unsigned k;

	if (!s->filter || s->filter->finished || !may_send(s) || !stream_flushed(s))
		return;
	(void)say_last_words(s);
	k = gather(s, iov, &asked, &plain);
	if (k > 0)
		(void)ring_send_now(s->core->ring, s->fd, iov, k, &res);
}

void stream_close(struct stream *s)
{
	struct ring *r = s->core->ring;

	if (s->closing)
		return;
	stop_input(s);
	say_goodbye(s);
	s->closing = true;
	list_remove(&s->dirty_node);
	drop_staged(s);
	if (ring_op_armed(&s->send_op))
		ring_cancel(r, &s->send_op);
	if (ring_op_armed(&s->dial_op))
		ring_cancel(r, &s->dial_op);
	settle(s);
}

void stream_finish(struct stream *s)
{
	if (!speaks(s))
		return;
	stop_input(s);
	s->finishing = true;
	/* Without input it will never open. */
	if (!lets_out(s))
		drop_unsealed(s);
	if (say_last_words(s) && all_out(s))
		stream_close(s);
}

void stream_reset(struct stream *s)
{
	if (!s->closed)
		ring_linger_reset(s->core->ring, s->fd);
	stream_close(s);
}

/* ---- the end of a turn ---- */

/* What a stream has to say, one thing after the other: each may close it or start it again. */
static void report_one(struct stream *s)
{
	enum ring_res why = s->broken_why;

	if (s->closing) {
		if (!idle(s))
			return; /* settle() lists it again */
		if (!list_empty(&s->lent))
			ring_linger_reset(s->core->ring, s->fd);
		while (list_pop_front(&s->lent) != NULL)
			;
		ring_close_fd(s->core->ring, &s->fd);
		s->closed = true;
		if (s->filter)
			s->filter->kind->gone(s->filter);
		s->filter = NULL;
		s->ev->on_closed(s);
		return;
	}
	s->broken_why = RING_OK;
	if (s->finishing && s->broken)
		stream_close(s);
	else if (why != RING_OK && speaks(s))
		s->ev->on_broken(s, why);
	tell_quiet(s);
}

static void flush_dirty(struct streams *ss)
{
	struct list now, *n;

	list_init(&now);
	list_splice_back(&now, &ss->dirty);
	while ((n = list_pop_front(&now)) != NULL)
		flush_one(CONTAINER_OF(n, struct stream, dirty_node));
}

static void run_later(struct streams *ss)
{
	struct list now, *n;

	list_init(&now);
	list_splice_back(&now, &ss->later);
	while ((n = list_pop_front(&now)) != NULL) {
		struct deferred *d = CONTAINER_OF(n, struct deferred, node);

		d->run(d);
	}
}

static void report_ending(struct streams *ss)
{
	struct list now, *n;

	list_init(&now);
	list_splice_back(&now, &ss->ending);
	while ((n = list_pop_front(&now)) != NULL)
		report_one(CONTAINER_OF(n, struct stream, ending_node));
}

void streams_flush(struct streams *ss)
{
	ASSERT(!ss->flushing);
	ss->flushing = true;
	/* A callback may stage, fail or close more. That ends by itself: each round needs an owner
	 * that reacts, and a socket takes only so much. */
	while (!list_empty(&ss->dirty) || !list_empty(&ss->later) || !list_empty(&ss->ending)) {
		flush_dirty(ss);
		run_later(ss);
		report_ending(ss);
	}
	unpark(ss);
	ss->flushing = false;
}
