/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Conformance scripts: sending, at once and by the ring, and polling. See probe.h.
 */
#include "ring/probe_int.h"

#include <poll.h>

static struct watch *send_by_ring(struct lab *l, struct lab_end *e, size_t n)
{
	struct watch *w = lab_watch(l, "send", WATCH_COUNT);
	struct iovec v = lab_out(l, e, n);

	ring_send(l->r, &w->op, e->fd, &v, 1);
	return w;
}

static size_t send_at_once(struct lab *l, struct lab_end *e, size_t n, enum ring_res *res)
{
	struct iovec v = lab_out(l, e, n);
	size_t k = ring_send_now(l->r, e->fd, &v, 1, res);

	e->sent += k;
	return k;
}

static struct watch *poll_for(struct lab *l, struct lab_end *e, short events)
{
	struct watch *w = lab_watch(l, "poll", WATCH_MASK);

	ring_poll(l->r, &w->op, e->fd, events);
	return w;
}

/* The iovec is the caller's again at once; the octets are read where they lie. */
static void gathered(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w = lab_watch(l, "send", WATCH_COUNT);
	struct iovec v[3];

	LAB_HAVE(l, e);
	for (unsigned i = 0; i < 3; i++) {
		v[i] = lab_out(l, e, 7);
		e->sent += 7;
	}
	ring_send(l->r, &w->op, e->fd, v, 3);
	memset(v, 0, sizeof(v));
	LAB_UNTIL(l, watch_ended(w) && (lab_far_read(l, e), e->far_got >= 21));
	lab_say_far(l, e);
}

/* More than the connection holds: one completion, when the far side has read most of it. */
static void waits_for_all(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = send_by_ring(l, e, PROBE_BIG_BYTES);
	lab_settle(l);
	lab_say(l, watch_ended(w) ? "AT ONCE" : "waits");
	LAB_UNTIL(l, (lab_far_read(l, e), watch_ended(w)) && e->far_got == PROBE_BIG_BYTES);
	lab_say_far(l, e);
}

/* As much as there is room for, then AGAIN, then room when the far side has read. */
static void at_once_until_full(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *w;
	unsigned calls = 0;
	size_t k;

	LAB_HAVE(l, e);
	k = send_at_once(l, e, PROBE_BIG_BYTES, &res);
	lab_say(l, "%s %s", k > 0 && k < PROBE_BIG_BYTES ? "short" : "NOT SHORT",
		ring_res_word(res));
	do {
		/* What moved on to the far side in the meantime makes room. */
		if (k == 0)
			lab_settle(l);
		k = send_at_once(l, e, PROBE_BIG_BYTES, &res);
	} while (k > 0 && ++calls < 1000);
	lab_say(l, "%zu %s", k, ring_res_word(res));
	w = poll_for(l, e, POLLOUT);
	LAB_UNTIL(l, (lab_far_read(l, e), watch_ended(w)) && e->far_got == e->sent);
	lab_say(l, "%s", send_at_once(l, e, 1, &res) == 1 ? "room" : "NO ROOM");
	LAB_UNTIL(l, (lab_far_read(l, e), e->far_got == e->sent));
}

/* The connection was reset: once that, and then that nobody reads. */
static void at_once_to_nobody(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *w;

	LAB_HAVE(l, e);
	w = poll_for(l, e, POLLIN);
	w->name = NULL;
	lab_far_reset(l, e);
	LAB_UNTIL(l, watch_ended(w));
	for (unsigned i = 0; i < 3; i++) {
		size_t n = send_at_once(l, e, 10, &res);

		lab_say(l, "%zu %s", n, ring_res_word(res));
	}
}

/* In the middle of a send the far side resets: what was taken is told, or why nothing was. */
static void reset_midway(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *w;

	LAB_HAVE(l, e);
	w = send_by_ring(l, e, PROBE_BIG_BYTES);
	w->name = NULL;
	lab_settle(l);
	lab_say(l, watch_ended(w) ? "AT ONCE" : "waits");
	lab_far_reset(l, e);
	LAB_UNTIL(l, watch_ended(w));
	lab_say(l, "%s", w->last.n > 0 && w->last.n < PROBE_BIG_BYTES ? "a part" : "ALL OR NONE");
	(void)send_at_once(l, e, 10, &res);
	lab_say(l, "%s", res == RING_PIPE || res == RING_RESET ? "no more" : "GOES ON");
	(void)send_at_once(l, e, 10, &res);
	lab_say(l, "%s", ring_res_word(res));
}

/* Taken back in the middle: the count is what the far side gets. */
static void cancel_midway(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = send_by_ring(l, e, PROBE_BIG_BYTES);
	w->name = NULL;
	lab_settle(l);
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
	lab_say(l, "ended %u, %s %s", w->dones, ring_res_word(w->last.res),
		w->last.n > 0 && w->last.n < PROBE_BIG_BYTES ? "a part" : "ALL OR NONE");
	lab_close(l, e);
	LAB_UNTIL(l, (lab_far_read(l, e), e->sight != PROBE_OPEN));
	lab_say(l, "%s", e->far_got == w->last.n ? "the far side has that part" : "A WRONG COUNT");
}

/* ---- half-closed ---- */

static void far_shut_we_send(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *in, *out;

	LAB_HAVE(l, e);
	in = lab_recv(l, "recv", e, 0);
	lab_far_shut(l, e);
	LAB_UNTIL(l, watch_ended(in));
	out = send_by_ring(l, e, 1000);
	LAB_UNTIL(l, watch_ended(out) && (lab_far_read(l, e), e->far_got == 1000));
	lab_say_far(l, e);
}

static void we_shut_far_sends(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *in;

	LAB_HAVE(l, e);
	in = lab_recv(l, "recv", e, 0);
	LAB_HAVE(l, send_at_once(l, e, 5000, &res) == 5000);
	ring_shut(l->r, e->fd);
	LAB_UNTIL(l, (lab_far_read(l, e), e->sight != PROBE_OPEN));
	lab_say_far(l, e);
	LAB_HAVE(l, lab_far_send(l, e, 7));
	LAB_UNTIL(l, in->n == 7);
	(void)send_at_once(l, e, 10, &res);
	lab_say(l, "send %s", ring_res_word(res));
}

/* The far side said its last and closed; what we send is taken, and answered with a reset. What it
 * said is still there, and so is its end. */
static void send_to_closed(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *in;

	LAB_HAVE(l, e);
	LAB_HAVE(l, lab_far_send(l, e, 5));
	lab_far_close(l, e);
	lab_settle(l);
	lab_say(l, "send %zu", send_at_once(l, e, 10, &res));
	lab_settle(l);
	(void)send_at_once(l, e, 10, &res);
	lab_say(l, "send %s", ring_res_word(res));
	in = lab_recv(l, "recv", e, 0);
	LAB_UNTIL(l, watch_ended(in));
}

/* The same while a receive is armed that has told of the end. */
static void send_behind_eof(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *in;

	LAB_HAVE(l, e);
	in = lab_recv(l, "recv", e, 0);
	lab_far_close(l, e);
	LAB_UNTIL(l, watch_ended(in));
	lab_say(l, "send %zu", send_at_once(l, e, 10, &res));
	lab_settle(l);
	(void)send_at_once(l, e, 10, &res);
	lab_say(l, "send %s", ring_res_word(res));
	lab_recv_again(in, 0);
	LAB_UNTIL(l, watch_ended(in));
}

/* The far side closes without having read what we sent: a reset, behind what it said. */
static void closed_unread(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *in;

	LAB_HAVE(l, e);
	lab_say(l, "send %zu", send_at_once(l, e, 10, &res));
	lab_settle(l);
	in = lab_recv(l, "recv", e, 0);
	LAB_HAVE(l, lab_far_send(l, e, 5));
	LAB_UNTIL(l, in->n == 5);
	lab_far_close(l, e);
	LAB_UNTIL(l, watch_ended(in));
	(void)send_at_once(l, e, 10, &res);
	lab_say(l, "send %s", ring_res_word(res));
}

/* ---- poll ---- */

static void poll_in(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = poll_for(l, e, POLLIN);
	lab_settle(l);
	lab_say(l, watch_ended(w) ? "AT ONCE" : "waits");
	LAB_HAVE(l, lab_far_send(l, e, 5));
	LAB_UNTIL(l, watch_ended(w));
	/* One-shot, and of what is, not of what changes. */
	w = poll_for(l, e, POLLIN);
	LAB_UNTIL(l, watch_ended(w));
}

static void poll_out(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *w;

	LAB_HAVE(l, e);
	w = poll_for(l, e, POLLOUT);
	LAB_UNTIL(l, watch_ended(w));
	do {
		while (send_at_once(l, e, PROBE_BIG_BYTES, &res) > 0)
			;
		lab_settle(l);
	} while (send_at_once(l, e, PROBE_BIG_BYTES, &res) > 0);
	w = poll_for(l, e, POLLOUT);
	lab_settle(l);
	lab_say(l, watch_ended(w) ? "AT ONCE" : "waits");
	LAB_UNTIL(l, (lab_far_read(l, e), watch_ended(w)));
}

static void poll_fin(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = poll_for(l, e, POLLIN | POLLRDHUP);
	lab_far_shut(l, e);
	LAB_UNTIL(l, watch_ended(w));
	ring_shut(l->r, e->fd);
	LAB_UNTIL(l, (lab_far_read(l, e), e->sight != PROBE_OPEN));
	lab_settle(l);
	w = poll_for(l, e, POLLIN | POLLRDHUP);
	LAB_UNTIL(l, watch_ended(w));
}

static void poll_reset(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = poll_for(l, e, POLLIN | POLLRDHUP);
	lab_settle(l);
	lab_far_reset(l, e);
	LAB_UNTIL(l, watch_ended(w));
}

static void poll_cancelled(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = poll_for(l, e, POLLIN);
	lab_settle(l);
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
}

#define SMALL .world = {.room = PROBE_SMALL}

const struct probe_script probe_send_scripts[] = {
	{"send-gather", "U8", "a gathered send, its iovec gone at once", .run = gathered,
		.expect = "send 21 end; far 21"},
	{"send-all", "U8", "a send by the ring ends when all of it was taken", SMALL,
		.run = waits_for_all, .expect = "waits; send 2097152 end; far 2097152"},
	{"send-now", "", "a send at once is short, then AGAIN, then there is room", SMALL,
		.run = at_once_until_full, .expect = "short ok; 0 EAGAIN; poll OUT; room"},
	{"send-now-reset", "", "a send to a reset connection tells of it once",
		.run = at_once_to_nobody, .expect = "0 ECONNRESET; 0 EPIPE; 0 EPIPE"},
	{"send-reset", "U9", "a reset in the middle of a send", SMALL, .run = reset_midway,
		.expect = "waits; a part; no more; EPIPE"},
	{"send-cancel", "U9", "a send that is taken back tells what was taken", SMALL,
		.run = cancel_midway, .expect = "ended 1, ok a part; the far side has that part"},
	{"half-close-far", "", "the far side has ended its input and still reads",
		.run = far_shut_we_send, .expect = "recv EOF end; send 1000 end; far 1000"},
	{"half-close-ours", "", "the far side reads all, then the end, and still sends",
		.run = we_shut_far_sends, .expect = "far 5000 EOF; recv 7 more; send EPIPE"},
	{"send-closed", "", "what the far side said before it closed survives our sending",
		.run = send_to_closed, .expect = "send 10; send EPIPE; recv 5 more; recv EOF end"},
	{"send-behind-eof", "", "sending behind the end of input", .run = send_behind_eof,
		.expect = "recv EOF end; send 10; send EPIPE; recv EOF end"},
	{"closed-unread", "", "the far side closes with octets of ours unread",
		.run = closed_unread,
		.expect = "send 10; recv 5 more; recv ECONNRESET end; send EPIPE"},
	{"poll-in", "", "a poll for input", .run = poll_in, .expect = "waits; poll IN; poll IN"},
	{"poll-out", "", "a poll for room", SMALL, .run = poll_out,
		.expect = "poll OUT; waits; poll OUT"},
	{"poll-fin", "", "a poll tells of the ends of both directions", .run = poll_fin,
		.expect = "poll IN RDHUP; poll IN RDHUP HUP"},
	{"poll-reset", "", "a poll tells of a reset", .run = poll_reset,
		.expect = "poll IN RDHUP HUP ERR"},
	{"poll-cancel", "U1", "a poll can be taken back", .run = poll_cancelled,
		.expect = "poll ECANCELED end"},
	{0},
};
