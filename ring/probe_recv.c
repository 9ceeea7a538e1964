/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Conformance scripts: receiving, receive buffers, and taking a receive back. See probe.h.
 *
 * The scripts about buffers run twice, with incremental buffers and with plain ones.
 */
#include "ring/probe_int.h"

/* ---- data and how it ends ---- */

static void data_then_fin(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, "recv", e, 0);
	lab_settle(l);
	LAB_HAVE(l, lab_far_send(l, e, 5));
	lab_far_shut(l, e);
	LAB_UNTIL(l, watch_ended(w));
}

static void fin_only(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, "recv", e, 0);
	lab_settle(l);
	lab_far_shut(l, e);
	LAB_UNTIL(l, watch_ended(w));
}

static void data_before_arm(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	LAB_HAVE(l, lab_far_send(l, e, 100));
	lab_far_shut(l, e);
	lab_settle(l);
	w = lab_recv(l, "recv", e, 0);
	LAB_UNTIL(l, watch_ended(w));
}

static void reset_idle(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, "recv", e, 0);
	lab_settle(l);
	lab_far_reset(l, e);
	LAB_UNTIL(l, watch_ended(w));
}

static void reset_behind_data(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	LAB_HAVE(l, lab_far_send(l, e, 5));
	lab_settle(l);
	lab_far_reset(l, e);
	lab_settle(l);
	w = lab_recv(l, "recv", e, 0);
	LAB_UNTIL(l, watch_ended(w));
}

static void many_pieces(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, "recv", e, 0);
	for (size_t i = 1; i <= 50; i++) {
		LAB_HAVE(l, lab_far_send(l, e, 20));
		LAB_UNTIL(l, w->n == 20 * i);
	}
	lab_far_shut(l, e);
	LAB_UNTIL(l, watch_ended(w));
}

/* ---- the cap ---- */

/* It ends with the piece that reaches the cap, and what comes behind it waits. */
static void cap_reached(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, "recv", e, 3000);
	for (size_t i = 1; i <= 3; i++) {
		LAB_HAVE(l, lab_far_send(l, e, 1000));
		LAB_UNTIL(l, w->n == 1000 * i);
	}
	LAB_UNTIL(l, watch_ended(w));
	LAB_HAVE(l, lab_far_send(l, e, 500));
	lab_settle(l);
	lab_recv_again(w, 3000);
	LAB_UNTIL(l, w->n == 3500);
	lab_far_shut(l, e);
	LAB_UNTIL(l, watch_ended(w));
}

/* More is there than the cap: no more than one piece too much comes, and nothing is lost. */
static void cap_passed(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;
	size_t most = 0, before;

	LAB_HAVE(l, e);
	LAB_HAVE(l, lab_far_send(l, e, 150000));
	lab_far_shut(l, e);
	lab_settle(l);
	w = lab_recv(l, NULL, e, 10000);
	LAB_UNTIL(l, watch_ended(w));
	most = w->n;
	lab_say(l, "%s", w->last.res == RING_OK && most >= 10000 ? "ended by the cap" : "no cap");
	for (unsigned i = 0; i < 100 && w->last.res == RING_OK; i++) {
		before = w->n;
		lab_recv_again(w, 10000);
		LAB_UNTIL(l, watch_ended(w));
		most = MAX_OF(most, w->n - before);
	}
	lab_say(l, "%s", most < 20000 ? "a piece too much at most" : "more");
	lab_say(l, "%zu in all, %s", w->n, ring_res_word(w->last.res));
}

/* ---- buffers ---- */

static void two_buffers(struct ring_conf *c)
{
	c->buf_count = 2;
	c->buf_bytes = 4096;
}

static void four_buffers(struct ring_conf *c)
{
	c->buf_count = 4;
	c->buf_bytes = 4096;
}

static void sixteen_buffers(struct ring_conf *c)
{
	c->buf_count = 16;
	c->buf_bytes = 1024;
}

/* Arms again what ended for want of buffers, or for no reason. */
static bool rest_is_in(struct watch *w)
{
	if (watch_saw(w, RING_EOF))
		return true;
	if (watch_ended(w) && ring_bufs_free(w->lab->r) > 0)
		lab_recv_again(w, 0);
	return false;
}

/* The same until n octets are there. */
static bool grown_to(struct watch *w, size_t n)
{
	if (w->n < n && watch_ended(w) && ring_bufs_free(w->lab->r) > 0)
		lab_recv_again(w, 0);
	return w->n >= n;
}

static void collect_rest(struct lab *l, struct watch *w)
{
	LAB_UNTIL(l, rest_is_in(w));
	lab_say(l, "%zu in all, %s", w->n, ring_res_word(w->last.res));
}

/* Fills both buffers, leases them, and receives no more. */
static bool hold_all(struct lab *l, struct lab_end *e, struct watch *w)
{
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	unsigned turns = 0;

	w->keep = PROBE_KEPT_MAX;
	if (!lab_far_send(l, e, 8192))
		return false;
	while (ring_bufs_free(l->r) > 0)
		if (!lab_turn(l, limit, &turns))
			return false;
	w->keep = 0;
	ring_cancel(l->r, &w->op);
	while (!watch_ended(w))
		if (!lab_turn(l, limit, &turns))
			return false;
	return true;
}

/* An empty pool ends a receive at once, though nothing was sent yet. */
static void no_buffer_to_arm(struct lab *l)
{
	struct lab_end *a = lab_pair(l), *b = lab_pair(l);
	struct watch *wa, *wb;

	LAB_HAVE(l, a && b);
	wa = lab_recv(l, NULL, a, 0);
	LAB_HAVE(l, hold_all(l, a, wa));
	wb = lab_recv(l, "recv", b, 0);
	LAB_UNTIL(l, watch_ended(wb));
	lab_drop_leases(wa);
	lab_say(l, "%u free", ring_bufs_free(l->r));
	wb->name = NULL;
	LAB_HAVE(l, lab_far_send(l, b, 10));
	LAB_UNTIL(l, grown_to(wb, 10));
	lab_say(l, "%zu octets", wb->n);
}

/* A receive waits, the pool runs dry, the far side ends: that, too, needs a buffer to be told. */
static void no_buffer_for_fin(struct lab *l)
{
	struct lab_end *a = lab_pair(l), *b = lab_pair(l);
	struct watch *wa, *wb;

	LAB_HAVE(l, a && b);
	wb = lab_recv(l, "recv", b, 0);
	lab_settle(l);
	wa = lab_recv(l, NULL, a, 0);
	LAB_HAVE(l, hold_all(l, a, wa));
	lab_far_shut(l, b);
	LAB_UNTIL(l, watch_ended(wb));
	lab_drop_leases(wa);
	lab_recv_again(wb, 0);
	LAB_UNTIL(l, watch_ended(wb));
}

/* The pool runs dry in the middle: an end without octets, and the rest comes later. */
static void no_buffer_midway(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	LAB_HAVE(l, lab_far_send(l, e, 20000));
	lab_far_shut(l, e);
	lab_settle(l);
	w = lab_recv(l, "recv", e, 0);
	w->keep = PROBE_KEPT_MAX;
	LAB_UNTIL(l, watch_ended(w));
	lab_say(l, "%u free", ring_bufs_free(l->r));
	w->keep = 0;
	lab_drop_leases(w);
	w->name = NULL;
	collect_rest(l, w);
}

/* A lease keeps its octets where they are, while the buffers around it are used again. */
static void lease_holds(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;
	bool intact;

	LAB_HAVE(l, e);
	w = lab_recv(l, NULL, e, 0);
	w->keep = 1;
	LAB_HAVE(l, lab_far_send(l, e, 1000));
	LAB_UNTIL(l, grown_to(w, 1000));
	for (size_t i = 1; i <= 10; i++) {
		LAB_HAVE(l, lab_far_send(l, e, 3000));
		LAB_UNTIL(l, grown_to(w, 1000 + 3000 * i));
	}
	intact = w->held.n && memcmp(w->held.p, lab_octets(l, e->seed, 0), w->held.n) == 0;
	lab_say(l, "%s, %u free", intact ? "intact" : "OVERWRITTEN", ring_bufs_free(l->r));
	lab_drop_leases(w);
	lab_say(l, "%u free", ring_bufs_free(l->r));
	lab_far_shut(l, e);
	collect_rest(l, w);
}

/* Leases end in another order than they began, round after round. */
static void leases_in_any_order(struct lab *l)
{
	enum { HELD = 15 };
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, NULL, e, 0);
	for (unsigned round = 0; round < 20; round++) {
		w->keep = HELD;
		for (unsigned i = 0; i < HELD; i++) {
			size_t before = w->n;

			LAB_HAVE(l, lab_far_send(l, e, 1024));
			LAB_UNTIL(l, grown_to(w, before + 1024));
		}
		w->keep = 0;
		/* 0, 7, 14, 6, ... */
		for (unsigned i = 0; i < w->kept_count; i++)
			ring_buf_drop(l->r, w->kept[i * 7 % w->kept_count]);
		w->kept_count = 0;
	}
	lab_far_shut(l, e);
	collect_rest(l, w);
	lab_say(l, "%u free", ring_bufs_free(l->r));
}

/* ---- many sockets, one group ---- */

static void shared_group(struct ring_conf *c)
{
	c->sq_entries = 1024;
	c->cq_entries = 8192;
	/* Small: buffers turn over often and end in the middle of a receive. */
	c->buf_bytes = 16u << 10;
}

enum { CROWD = 1000, CROWD_EACH = 2000 };

struct crowd {
	struct lab_end *e[CROWD];
	struct watch *w[CROWD];
	unsigned n;
};

static void crowd_sends(struct lab *l, struct crowd *c, unsigned round)
{
	for (unsigned i = 0; i < c->n; i++) {
		size_t some = 1 + lab_chance(l, 700);
		size_t n = MIN_OF(some, CROWD_EACH - c->e[i]->far_sent);

		if (n && lab_chance(l, 3))
			(void)lab_far_send(l, c->e[i], n);
		c->w[i]->keep = round % 8 == 0 && i % 128 == 0;
		if (round % 8 == 4)
			lab_drop_leases(c->w[i]);
	}
}

/* False when one of them has an end that is none of a crowd's. */
static bool crowd_arms(struct lab *l, struct crowd *c, unsigned *left)
{
	*left = 0;
	for (unsigned i = 0; i < c->n; i++) {
		struct watch *w = c->w[i];

		*left += w->n < CROWD_EACH;
		if (!watch_ended(w) || w->n == CROWD_EACH)
			continue;
		if (w->last.res != RING_OK && w->last.res != RING_NOBUFS)
			return false;
		if (ring_bufs_free(l->r))
			lab_recv_again(w, 0);
	}
	return true;
}

static void crowd_run(struct lab *l, struct crowd *c)
{
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	unsigned left = c->n, turns = 0;

	for (unsigned round = 0; left; round++) {
		crowd_sends(l, c, round);
		LAB_HAVE(l, lab_turn(l, limit, &turns));
		LAB_HAVE(l, crowd_arms(l, c, &left));
	}
	lab_say(l, "all octets of all");
}

static void thousand_sockets(struct lab *l)
{
	struct crowd *c = calloc(1, sizeof(*c));
	struct lab_end *e;

	ASSERT(c);
	c->n = MIN_OF((unsigned)CROWD, l->far->pairs_max(l->far->arg));
	e = lab_pairs(l, c->n);
	for (unsigned i = 0; e && i < c->n; i++, e = e->next) {
		c->e[i] = e;
		c->w[i] = lab_recv(l, NULL, e, 0);
	}
	if (c->n > 0 && c->w[c->n - 1])
		crowd_run(l, c);
	else
		lab_say(l, "NO connections");
	free(c);
}

/* ---- taking back ---- */

static void cancel_idle(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, "recv", e, 0);
	lab_settle(l);
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
	lab_settle(l);
}

/* In one submission with the receive, twice, and once more when it is over: one end. */
static void cancel_twice(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, "recv", e, 0);
	ring_cancel(l->r, &w->op);
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
	lab_settle(l);
	ring_cancel(l->r, &w->op);
	lab_settle(l);
	lab_say(l, "%llu stale", (unsigned long long)ring_stats(l->r)->stale);
}

/* Either the octets come first or the end does; a receive armed later has the rest. */
static void cancel_with_data(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, NULL, e, 0);
	lab_settle(l);
	LAB_HAVE(l, lab_far_send(l, e, 100));
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
	lab_say(l, "ended %u", w->ends);
	LAB_HAVE(l, lab_far_send(l, e, 50));
	lab_far_shut(l, e);
	collect_rest(l, w);
}

#define INC RING_FEAT_PBUF_INC
#define ALL_EOF "recv 100 more; recv EOF end"

const struct probe_script probe_recv_scripts[] = {
	{"recv-data-fin", "U3", "octets come before the end of input", .run = data_then_fin,
		.expect = "recv 5 more; recv EOF end"},
	{"recv-data-fin-plain", "U3", "the same with plain buffers", .off = INC,
		.run = data_then_fin, .expect = "recv 5 more; recv EOF end"},
	{"recv-fin", "", "an end without octets", .run = fin_only, .expect = "recv EOF end"},
	{"recv-late", "", "what came before the receive was armed is not lost",
		.run = data_before_arm, .expect = ALL_EOF},
	{"recv-reset", "", "a reset is told", .run = reset_idle, .expect = "recv ECONNRESET end"},
	{"recv-data-reset", "", "octets that came before a reset are given first",
		.run = reset_behind_data, .expect = "recv 5 more; recv ECONNRESET end"},
	{"recv-pieces", "U3", "a multishot receive survives many pieces", .run = many_pieces,
		.expect = "recv 1000 more; recv EOF end"},
	{"recv-pieces-plain", "U3", "the same with plain buffers", .off = INC, .run = many_pieces,
		.expect = "recv 1000 more; recv EOF end"},
	{"recv-cap", "", "a capped receive ends with the piece that reaches the cap",
		.needs = RING_FEAT_RECV_CAP, .run = cap_reached,
		.expect = "recv 3000 end; recv 500 more; recv EOF end"},
	{"recv-cap-passed", "", "a cap is passed by one piece at most", .needs = RING_FEAT_RECV_CAP,
		.run = cap_passed,
		.expect = "ended by the cap; a piece too much at most; 150000 in all, EOF"},
	{"nobufs-arm", "U4", "an empty pool ends a receive at once", .needs = INC,
		.conf = two_buffers, .run = no_buffer_to_arm,
		.expect = "recv ENOBUFS end; 2 free; 10 octets"},
	{"nobufs-arm-plain", "U4", "the same with plain buffers", .off = INC, .conf = two_buffers,
		.run = no_buffer_to_arm, .expect = "recv ENOBUFS end; 2 free; 10 octets"},
	{"nobufs-fin", "U4", "with an empty pool the end of input waits", .needs = INC,
		.conf = two_buffers, .run = no_buffer_for_fin,
		.expect = "recv ENOBUFS end; recv EOF end"},
	{"nobufs-fin-plain", "U4", "the same with plain buffers", .off = INC, .conf = two_buffers,
		.run = no_buffer_for_fin, .expect = "recv ENOBUFS end; recv EOF end"},
	{"nobufs-midway", "U4", "a pool that runs dry loses nothing", .needs = INC,
		.conf = two_buffers, .run = no_buffer_midway,
		.expect = "recv 8192 more; recv ENOBUFS end; 0 free; 20000 in all, EOF"},
	{"nobufs-midway-plain", "U4", "the same with plain buffers", .off = INC,
		.conf = two_buffers, .run = no_buffer_midway,
		.expect = "recv 8192 more; recv ENOBUFS end; 0 free; 20000 in all, EOF"},
	{"lease", "U22", "leased octets stay, and the buffer comes back", .needs = INC,
		.conf = four_buffers, .run = lease_holds,
		.expect = "intact, 3 free; 4 free; 31000 in all, EOF"},
	{"lease-plain", "U21", "the same with plain buffers", .off = INC, .conf = four_buffers,
		.run = lease_holds, .expect = "intact, 3 free; 4 free; 31000 in all, EOF"},
	{"lease-order", "U22", "buffers come back in any order", .needs = INC,
		.conf = sixteen_buffers, .run = leases_in_any_order,
		.expect = "307200 in all, EOF; 16 free"},
	{"lease-order-plain", "U21", "the same with plain buffers", .off = INC,
		.conf = sixteen_buffers, .run = leases_in_any_order,
		.expect = "307200 in all, EOF; 16 free"},
	{"thousand", "U22", "1,000 sockets share one group of incremental buffers", .needs = INC,
		.conf = shared_group, .run = thousand_sockets, .expect = "all octets of all"},
	{"thousand-again", "U22", "the same a second time", .needs = INC, .conf = shared_group,
		.run = thousand_sockets, .expect = "all octets of all"},
	{"thousand-plain", "U21", "1,000 sockets share one group of plain buffers", .off = INC,
		.conf = shared_group, .run = thousand_sockets, .expect = "all octets of all"},
	{"cancel-idle", "U1", "a receive that is taken back ends once", .run = cancel_idle,
		.expect = "recv ECANCELED end"},
	{"cancel-twice", "U2", "taking back twice is harmless", .run = cancel_twice,
		.expect = "recv ECANCELED end; 0 stale"},
	{"cancel-data", "", "taking back loses no octets", .run = cancel_with_data,
		.expect = "ended 1; 150 in all, EOF"},
	{0},
};
