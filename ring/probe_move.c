/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Conformance scripts: pipes and splices, registered buffers and zero-copy. See probe.h.
 */
#include "ring/probe_int.h"

#include <poll.h>

/* ---- splice(2) ---- */

/* Waits until there is input. */
static bool input_there(struct lab *l, struct lab_end *e)
{
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	struct watch *w = lab_watch(l, NULL, WATCH_MASK);
	unsigned turns = 0;

	ring_poll(l->r, &w->op, e->fd, POLLIN);
	while (!watch_ended(w))
		if (!lab_turn(l, limit, &turns))
			return false;
	return true;
}

static void say_in(struct lab *l, struct lab_end *e, size_t n)
{
	enum ring_res res;
	size_t k = ring_splice_in(l->r, e->fd, l->pipe, n, &res);

	lab_say(l, k ? "in %zu" : "in %zu %s", k, ring_res_word(res));
}

/* The next n octets, however they come. */
static bool take_in(struct lab *l, struct lab_end *e, size_t n)
{
	enum ring_res res = RING_OK;

	for (size_t k, left = n; left > 0; left -= k) {
		if (!input_there(l, e))
			return false;
		k = ring_splice_in(l->r, e->fd, l->pipe, left, &res);
		if (k == 0)
			return false;
	}
	lab_say(l, "in %zu", n);
	return true;
}

static void say_out(struct lab *l, struct lab_end *e, size_t n)
{
	enum ring_res res;
	size_t k = ring_splice_out(l->r, l->pipe, e->fd, n, &res);

	lab_say(l, k ? "out %zu" : "out %zu %s", k, ring_res_word(res));
}

/* Two connections; what comes in on the first is sent on the second. */
static bool relay(struct lab *l, struct lab_end **in, struct lab_end **out)
{
	*in = lab_pairs(l, 2);
	if (!*in)
		return false;
	*out = (*in)->next;
	(*out)->seed = (*in)->seed;
	l->pipe = ring_pipe_get(l->r);
	return l->pipe != NULL;
}

static void splice_moves(struct lab *l)
{
	struct lab_end *in, *out;

	LAB_HAVE(l, relay(l, &in, &out));
	say_in(l, in, 100);
	say_out(l, out, 100);
	LAB_HAVE(l, lab_far_send(l, in, 10));
	LAB_HAVE(l, take_in(l, in, 6) && take_in(l, in, 4));
	lab_say(l, "%zu inside", ring_pipe_bytes(l->pipe));
	say_out(l, out, 3);
	say_out(l, out, 7);
	LAB_UNTIL(l, (lab_far_read(l, out), out->far_got == 10));
	lab_say_far(l, out);
	lab_far_shut(l, in);
	LAB_HAVE(l, input_there(l, in));
	say_in(l, in, 100);
}

static void small_pipe(struct ring_conf *c)
{
	c->pipe_bytes = 64u << 10;
}

/* A pipe holds pages: small pieces fill it with room left, and an empty one takes on again. */
static void small_pieces(struct lab *l)
{
	struct lab_end *in, *out;
	enum ring_res res = RING_OK;
	size_t inside, k = 1;

	LAB_HAVE(l, relay(l, &in, &out));
	for (unsigned i = 0; k > 0 && i < 1000; i++) {
		LAB_HAVE(l, lab_far_send(l, in, 10));
		LAB_HAVE(l, input_there(l, in));
		k = ring_splice_in(l->r, in->fd, l->pipe, 4096, &res);
	}
	lab_say(l, "%s, %s", ring_res_word(res),
		ring_pipe_room(l->pipe) > 4096 ? "room left" : "FULL");
	inside = ring_pipe_bytes(l->pipe);
	/* Exactly what is inside: asked for more, Linux keeps the last piece for 200 ms, in case
	 * more comes (MSG_MORE). */
	for (size_t left = inside; left > 0; left = ring_pipe_bytes(l->pipe))
		LAB_HAVE(l, ring_splice_out(l->r, l->pipe, out->fd, left, &res) > 0);
	LAB_UNTIL(l, (lab_far_read(l, out), out->far_got == inside));
	lab_say(l, ring_splice_in(l->r, in->fd, l->pipe, 4096, &res) > 0 ? "again" : "NO MORE");
}

/* The far side does not read: AGAIN with octets in the pipe, until it does. */
static void splice_to_full(struct lab *l)
{
	struct lab_end *in, *out;
	enum ring_res res = RING_OK;
	size_t k, sent = 0;
	struct watch *w;

	LAB_HAVE(l, relay(l, &in, &out));
	for (unsigned i = 0; i < 1000 && res != RING_AGAIN; i++) {
		LAB_HAVE(l, lab_far_send(l, in, 16384));
		LAB_HAVE(l, input_there(l, in));
		LAB_HAVE(l, ring_splice_in(l->r, in->fd, l->pipe, 16384, &res) > 0);
		do {
			k = ring_splice_out(l->r, l->pipe, out->fd, 16384, &res);
			sent += k;
		} while (k > 0 && ring_pipe_bytes(l->pipe));
		if (res == RING_AGAIN)
			lab_settle(l);
	}
	lab_say(l, "%s, %s", ring_res_word(res), ring_pipe_bytes(l->pipe) ? "inside" : "EMPTY");
	w = lab_watch(l, "poll", WATCH_MASK);
	ring_poll(l->r, &w->op, out->fd, POLLOUT);
	LAB_UNTIL(l, (lab_far_read(l, out), watch_ended(w)));
	while (ring_pipe_bytes(l->pipe)) {
		k = ring_splice_out(l->r, l->pipe, out->fd, 16384, &res);
		LAB_HAVE(l, k > 0);
		sent += k;
	}
	LAB_UNTIL(l, (lab_far_read(l, out), out->far_got == sent));
	lab_say(l, "all of it");
}

static void one_pipe(struct ring_conf *c)
{
	c->pipe_count_max = 1;
}

/* What a session left inside must not come out for the next. */
static void pipe_put_full(struct lab *l)
{
	struct lab_end *in, *out;

	LAB_HAVE(l, relay(l, &in, &out));
	LAB_HAVE(l, lab_far_send(l, in, 6));
	LAB_HAVE(l, take_in(l, in, 6));
	ring_pipe_put(l->r, l->pipe);
	l->pipe = ring_pipe_get(l->r);
	LAB_HAVE(l, l->pipe);
	lab_say(l, "%zu inside", ring_pipe_bytes(l->pipe));
	say_out(l, out, 100);
	LAB_HAVE(l, lab_far_send(l, in, 4));
	LAB_HAVE(l, take_in(l, in, 4));
	say_out(l, out, 4);
	out->far_got = 6; /* the pattern goes on behind what was thrown away */
	LAB_UNTIL(l, (lab_far_read(l, out), out->far_got == 10));
	lab_say_far(l, out);
}

/* The far side is gone: an error, not a signal. */
static void splice_to_nobody(struct lab *l)
{
	struct lab_end *in, *out;

	LAB_HAVE(l, relay(l, &in, &out));
	LAB_HAVE(l, lab_far_send(l, in, 6));
	LAB_HAVE(l, take_in(l, in, 3));
	lab_far_reset(l, out);
	LAB_HAVE(l, input_there(l, out));
	say_out(l, out, 3);
	say_out(l, out, 3);
	lab_say(l, "%zu inside", ring_pipe_bytes(l->pipe));
}

/* The same by an operation: it does not wait either. */
static void splice_by_ring(struct lab *l)
{
	struct watch *w = lab_watch(l, "splice", WATCH_COUNT);
	struct lab_end *in, *out;

	LAB_HAVE(l, relay(l, &in, &out));
	ring_splice_in_op(l->r, &w->op, in->fd, l->pipe, 100);
	LAB_UNTIL(l, watch_ended(w));
	LAB_HAVE(l, lab_far_send(l, in, 5));
	w->name = NULL; /* in one piece or in several */
	while (ring_pipe_bytes(l->pipe) < 5) {
		LAB_HAVE(l, input_there(l, in));
		ring_splice_in_op(l->r, &w->op, in->fd, l->pipe, 100);
		LAB_UNTIL(l, watch_ended(w));
		LAB_HAVE(l, w->last.n > 0);
	}
	w->name = "splice";
	lab_say(l, "%zu inside", ring_pipe_bytes(l->pipe));
	ring_splice_out_op(l->r, &w->op, l->pipe, out->fd, 5);
	LAB_UNTIL(l, watch_ended(w) && (lab_far_read(l, out), out->far_got == 5));
	lab_say(l, "%zu inside", ring_pipe_bytes(l->pipe));
	lab_far_shut(l, in);
	LAB_HAVE(l, input_there(l, in));
	ring_splice_in_op(l->r, &w->op, in->fd, l->pipe, 100);
	LAB_UNTIL(l, watch_ended(w));
}

/* ---- zero-copy ---- */

static void four_registered(struct ring_conf *c)
{
	c->zc_count = 4;
	c->zc_bytes = 256u << 10;
}

static struct watch *send_registered(struct lab *l, struct lab_end *e, uint32_t n)
{
	struct watch *w = lab_watch(l, "zc", WATCH_COUNT);
	const uint8_t *from = lab_octets(l, e->seed, 0);

	memcpy(l->zc.p, from, n);
	w->lent = true;
	ring_zc_send(l->r, &w->op, e->fd, &l->zc, 0, n);
	return w;
}

/* Without the locked memory for registered buffers everybody copies: nothing to try. */
static bool registered(struct lab *l)
{
	l->zc_got = ring_zc_get(l->r, &l->zc);
	l->left_out = !l->zc_got && ring_stats(l->r)->zc_fallbacks > 0;
	return l->zc_got;
}

/* First the count, then the release. */
static void zc_send(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e && registered(l));
	w = send_registered(l, e, 40000);
	LAB_UNTIL(l, (lab_far_read(l, e), watch_ended(w)) && e->far_got == 40000);
	lab_say_far(l, e);
}

static void zc_receive(struct lab *l)
{
	struct watch *w = lab_watch(l, NULL, WATCH_WORD);
	struct lab_end *e = lab_pair(l);

	LAB_HAVE(l, e && registered(l));
	w->seed = e->seed;
	ring_zc_recv(l->r, &w->op, e->fd, &l->zc, l->zc.bytes);
	lab_settle(l);
	lab_say(l, w->dones ? "AT ONCE" : "waits");
	LAB_HAVE(l, lab_far_send(l, e, 300));
	LAB_UNTIL(l, w->dones == 1);
	while (w->n < 300) { /* in one piece or in several */
		LAB_HAVE(l, watch_saw(w, RING_OK));
		ring_zc_recv(l->r, &w->op, e->fd, &l->zc, l->zc.bytes);
		LAB_UNTIL(l, watch_ended(w));
	}
	lab_say(l, "%zu, %s", w->n, watch_ended(w) ? "ended" : "GOES ON");
	w->name = "recv";
	lab_far_shut(l, e);
	ring_zc_recv(l->r, &w->op, e->fd, &l->zc, l->zc.bytes);
	LAB_UNTIL(l, watch_ended(w));
}

/* The far side never reads: the buffer stays lent until the connection is closed with a reset. */
static void zc_reset_releases(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e && registered(l));
	w = send_registered(l, e, 256u << 10);
	LAB_UNTIL(l, w->dones == 1);
	lab_settle(l);
	lab_say(l, watch_ended(w) ? "RELEASED" : "lent");
	ring_linger_reset(l->r, e->fd);
	lab_close(l, e);
	LAB_UNTIL(l, watch_ended(w));
}

/* Taken back while it waits for room: it ends once, and the count is no lie. */
static void zc_cancelled(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	enum ring_res res;
	struct watch *w;
	struct iovec v;
	size_t full;

	LAB_HAVE(l, e && registered(l));
	v = lab_out(l, e, PROBE_BIG_BYTES);
	do {
		lab_settle(l);
	} while (ring_send_now(l->r, e->fd, &v, 1, &res) > 0);
	w = lab_watch(l, NULL, WATCH_COUNT);
	w->lent = true;
	ring_zc_send(l->r, &w->op, e->fd, &l->zc, 0, 256u << 10);
	lab_settle(l);
	lab_say(l, w->dones ? "AT ONCE" : "waits");
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, w->dones > 0);
	full = w->last.n;
	lab_say(l, full == 256u << 10 ? "ALL" : "not all");
	ring_linger_reset(l->r, e->fd);
	lab_close(l, e);
	LAB_UNTIL(l, watch_ended(w));
	lab_settle(l);
	lab_say(l, "ended %u, %llu stale", w->ends, (unsigned long long)ring_stats(l->r)->stale);
}

#define ZC .needs = RING_FEAT_SEND_ZC, .conf = four_registered

const struct probe_script probe_move_scripts[] = {
	{"splice", "U12", "octets through a pipe, at once", .run = splice_moves,
		.expect = "in 0 EAGAIN; out 0 EAGAIN; in 6; in 4; 10 inside; out 3; out 7; "
			  "far 10; in 0 EOF"},
	{"splice-pages", "", "small pieces fill a pipe with room left", .conf = small_pipe,
		.run = small_pieces, .expect = "EAGAIN, room left; again"},
	{"splice-full", "", "a splice to a full connection moves nothing, then all",
		.world = {.room = PROBE_SMALL}, .run = splice_to_full,
		.expect = "EAGAIN, inside; poll OUT; all of it"},
	{"splice-gone", "", "a splice to nobody is an error", .run = splice_to_nobody,
		.expect = "in 3; out 0 ECONNRESET; out 0 EPIPE; 3 inside"},
	{"splice-put", "", "what is left in a pipe never comes out", .conf = one_pipe,
		.run = pipe_put_full,
		.expect = "in 6; 0 inside; out 0 EAGAIN; in 4; out 4; far 10"},
	{"splice-ring", "U12", "a splice by the ring does not wait", .run = splice_by_ring,
		.expect = "splice EAGAIN end; 5 inside; splice 5 end; 0 inside; "
			  "splice 0 end"},
	{"zc-send", "U7", "a zero-copy send: the count, then the release", ZC, .run = zc_send,
		.expect = "zc 40000 more; zc 0 end; far 40000"},
	{"zc-recv", "", "a receive into a registered buffer", ZC, .run = zc_receive,
		.expect = "waits; 300, ended; recv EOF end"},
	{"zc-lent", "U7", "a buffer stays lent until it is read, or there is a reset", ZC,
		.world = {.room = PROBE_TIGHT}, .run = zc_reset_releases,
		.expect = "zc 262144 more; lent; zc 0 end"},
	{"zc-cancel", "U7", "a zero-copy send that is taken back ends once", ZC,
		.world = {.room = PROBE_TIGHT}, .run = zc_cancelled,
		.expect = "waits; not all; ended 1, 0 stale"},
	{0},
};
