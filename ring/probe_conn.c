/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Conformance scripts: accepting, connecting, closing. See probe.h.
 */
#include "ring/probe_int.h"

/* ---- closing ---- */

/* While a receive is armed the descriptor is in use: the end is sent when it was taken back. */
static void close_sends_fin(struct lab *l)
{
	struct lab_end *e = lab_pair(l);
	struct watch *w;

	LAB_HAVE(l, e);
	w = lab_recv(l, "recv", e, 0);
	lab_settle(l);
	lab_far_read(l, e);
	lab_say_far(l, e);
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
	lab_close(l, e);
	LAB_UNTIL(l, (lab_far_read(l, e), e->sight != PROBE_OPEN));
	lab_say_far(l, e);
}

static void linger_reset(struct lab *l)
{
	struct lab_end *e = lab_pair(l);

	LAB_HAVE(l, e);
	ring_linger_reset(l->r, e->fd);
	lab_close(l, e);
	LAB_UNTIL(l, (lab_far_read(l, e), e->sight != PROBE_OPEN));
	lab_say_far(l, e);
}

/* What the far side sent was not read: it must not take the end for a good one. */
static void close_unread(struct lab *l)
{
	struct lab_end *e = lab_pair(l);

	LAB_HAVE(l, e);
	LAB_HAVE(l, lab_far_send(l, e, 10));
	lab_settle(l);
	lab_close(l, e);
	LAB_UNTIL(l, (lab_far_read(l, e), e->sight != PROBE_OPEN));
	lab_say_far(l, e);
}

/* ---- accepting ---- */

static bool listen_only(struct lab *l)
{
	return l->far->listen(l->far->arg, &l->listener);
}

static struct lab_end *client(struct lab *l)
{
	struct lab_end *e = lab_end_new(l);

	e->far = l->far->dial(l->far->arg, l->listener);
	return e->far >= 0 ? e : NULL;
}

/* The script looks after the socket from here on. */
static void take_accepted(struct lab *l, struct lab_end *e)
{
	e->fd = l->accepted[--l->accepted_count];
}

static struct watch *accept_on(struct lab *l)
{
	struct watch *w = lab_watch(l, "accept", WATCH_WORD);

	ring_accept(l->r, &w->op, l->listener);
	return w;
}

/* The next connection has the number of the one before: each has its own octets. The client is
 * there already when the number becomes free, so accepting is what takes it. */
static void number_used_again(struct lab *l)
{
	struct lab_end *a = lab_pair(l), *b;
	struct watch *wa, *wb;

	LAB_HAVE(l, a);
	b = client(l);
	LAB_HAVE(l, b);
	wa = lab_recv(l, "old", a, 0);
	lab_settle(l);
	ring_cancel(l->r, &wa->op);
	LAB_UNTIL(l, watch_ended(wa));
	lab_close(l, a);
	accept_on(l)->name = NULL;
	LAB_UNTIL(l, l->accepted_count == 1);
	take_accepted(l, b);
	wb = lab_recv(l, "new", b, 0);
	(void)l->far->send(l->far->arg, a->far, "late", 4);
	LAB_HAVE(l, lab_far_send(l, b, 100));
	LAB_UNTIL(l, wb->n == 100);
	lab_settle(l);
	lab_say(l, "%llu stale", (unsigned long long)ring_stats(l->r)->stale);
}

static void accept_many(struct lab *l)
{
	struct watch *w;

	LAB_HAVE(l, listen_only(l));
	LAB_HAVE(l, client(l) && client(l));
	w = accept_on(l);
	LAB_UNTIL(l, l->accepted_count == 2);
	LAB_HAVE(l, client(l));
	LAB_UNTIL(l, l->accepted_count == 3);
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
}

/* Who comes while nobody accepts waits. */
static void accept_cancelled(struct lab *l)
{
	struct watch *w;
	struct lab_end *e;
	struct ring_addr peer;

	LAB_HAVE(l, listen_only(l));
	w = accept_on(l);
	lab_settle(l);
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
	e = client(l);
	LAB_HAVE(l, e);
	lab_settle(l);
	lab_far_read(l, e);
	lab_say_far(l, e);
	ring_accept(l->r, &w->op, l->listener);
	LAB_UNTIL(l, l->accepted_count == 1);
	lab_say(l, "peer %s", ring_res_word(ring_peer_addr(l->r, l->accepted[0], &peer)));
}

/* The client sent, and left, before it was accepted. */
static void accept_after_fin(struct lab *l)
{
	struct lab_end *e;
	struct watch *in;

	LAB_HAVE(l, listen_only(l));
	e = client(l);
	LAB_HAVE(l, e);
	LAB_HAVE(l, lab_far_send(l, e, 5));
	lab_far_close(l, e);
	lab_settle(l);
	accept_on(l);
	LAB_UNTIL(l, l->accepted_count == 1);
	take_accepted(l, e);
	in = lab_recv(l, "recv", e, 0);
	LAB_UNTIL(l, watch_ended(in));
}

static void accept_after_reset(struct lab *l)
{
	struct ring_addr peer;
	struct lab_end *e;
	struct watch *in;

	LAB_HAVE(l, listen_only(l));
	e = client(l);
	LAB_HAVE(l, e);
	lab_far_reset(l, e);
	lab_settle(l);
	accept_on(l);
	LAB_UNTIL(l, l->accepted_count == 1);
	take_accepted(l, e);
	lab_say(l, "peer %s",
		ring_peer_addr(l->r, e->fd, &peer) == RING_OK ? "KNOWN" : "not known");
	in = lab_recv(l, "recv", e, 0);
	LAB_UNTIL(l, watch_ended(in));
}

/* No descriptor left: accepting ends, the client waits and is served later. */
static void accept_without_files(struct lab *l)
{
	struct lab_end *e;
	struct watch *w;

	LAB_HAVE(l, listen_only(l));
	e = client(l);
	LAB_HAVE(l, e);
	lab_settle(l);
	l->far->few_files(l->far->arg, true);
	w = accept_on(l);
	lab_settle(l);
	l->far->few_files(l->far->arg, false);
	lab_far_read(l, e);
	lab_say_far(l, e);
	LAB_UNTIL(l, watch_ended(w));
	ring_accept(l->r, &w->op, l->listener);
	LAB_UNTIL(l, l->accepted_count == 1);
}

/* ---- connecting ---- */

/* The socket is the lab's; NULL: there is none. */
static struct watch *connect_to(struct lab *l, struct lab_end *e)
{
	struct watch *w = lab_watch(l, "connect", WATCH_WORD);

	if (ring_socket(l->r, &l->at, NULL, &e->fd) != RING_OK)
		return NULL;
	ring_connect(l->r, &w->op, e->fd, &l->at);
	return w;
}

static void connect_ok(struct lab *l)
{
	struct lab_end *e = lab_end_new(l);
	struct iovec v = lab_out(l, e, 5);
	struct ring_addr peer, mine;
	enum ring_res res;
	struct watch *w, *in;

	LAB_HAVE(l, lab_server(l, PROBE_ANSWERS));
	w = connect_to(l, e);
	LAB_HAVE(l, w);
	LAB_UNTIL(l, watch_ended(w) && (e->far = l->far->answer(l->far->arg)) >= 0);
	lab_say(l, "peer %s, own %s", ring_res_word(ring_peer_addr(l->r, e->fd, &peer)),
		ring_res_word(ring_local_addr(l->r, e->fd, &mine)));
	in = lab_recv(l, "recv", e, 0);
	LAB_HAVE(l, lab_far_send(l, e, 9));
	LAB_UNTIL(l, in->n == 9);
	LAB_HAVE(l, ring_send_now(l->r, e->fd, &v, 1, &res) == 5);
	LAB_UNTIL(l, (lab_far_read(l, e), e->far_got == 5));
	lab_say_far(l, e);
}

static void connect_refused(struct lab *l)
{
	struct lab_end *e = lab_end_new(l);
	struct watch *w;

	LAB_HAVE(l, lab_server(l, PROBE_REFUSES));
	w = connect_to(l, e);
	LAB_HAVE(l, w);
	LAB_UNTIL(l, watch_ended(w));
}

static void connect_cancelled(struct lab *l)
{
	struct lab_end *e = lab_end_new(l);
	struct watch *w;

	LAB_HAVE(l, lab_server(l, PROBE_HANGS));
	w = connect_to(l, e);
	LAB_HAVE(l, w);
	lab_settle(l);
	lab_say(l, watch_ended(w) ? "AT ONCE" : "waits");
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
	lab_close(l, e);
}

const struct probe_script probe_conn_scripts[] = {
	{"close-fin", "U1", "taken back, counted, closed: the far side sees the end",
		.run = close_sends_fin, .expect = "far 0; recv ECANCELED end; far 0 EOF"},
	{"close-number", "U2", "a descriptor's number used again has its own octets only",
		.run = number_used_again, .expect = "old ECANCELED end; new 100 more; 0 stale"},
	{"close-linger", "", "a reset where a reset was asked for", .run = linger_reset,
		.expect = "far 0 reset"},
	{"close-unread", "", "octets that were not read make the end a reset", .run = close_unread,
		.expect = "far 0 reset"},
	{"accept-many", "", "one accept serves many", .run = accept_many,
		.expect = "accept fd more; accept fd more; accept fd more; accept ECANCELED end"},
	{"accept-cancel", "U1", "whom nobody accepts waits", .run = accept_cancelled,
		.expect = "accept ECANCELED end; far 0; accept fd more; peer ok"},
	{"accept-fin", "", "a client that left has left its octets", .run = accept_after_fin,
		.expect = "accept fd more; recv 5 more; recv EOF end"},
	{"accept-reset", "", "a client that was gone with a reset", .run = accept_after_reset,
		.expect = "accept fd more; peer not known; recv ECONNRESET end"},
	{"accept-emfile", "U14", "no descriptor left: the client waits in the backlog",
		.world = {.few_files = true}, .run = accept_without_files,
		.expect = "accept EMFILE end; far 0; accept fd more"},
	{"connect", "", "a connection of ours", .run = connect_ok,
		.expect = "connect ok end; peer ok, own ok; recv 9 more; far 5"},
	{"connect-refused", "", "nobody listens", .run = connect_refused,
		.expect = "connect ECONNREFUSED end"},
	{"connect-cancel", "U1", "a connect that hangs can be taken back", .run = connect_cancelled,
		.expect = "waits; connect ECANCELED end"},
	{0},
};
