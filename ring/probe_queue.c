/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Conformance scripts: the two queues when they are too small, the bell, the clock, and what a
 * done() may do. See probe.h.
 */
#include "ring/probe_int.h"

#include <poll.h>

/* ---- queues ---- */

static void tiny_queues(struct ring_conf *c)
{
	c->sq_entries = 8;
	c->cq_entries = 16;
	c->buf_count = 64;
	c->buf_bytes = 1024;
}

enum { MANY = 60, MANY_EACH = 2500 };

/* All of them have everything waiting: the queue overflows, multishots end with octets. */
static void completions_overflow(struct lab *l)
{
	struct lab_end *e = lab_pairs(l, MANY);
	struct watch *w[MANY];
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	unsigned left = MANY, turns = 0;

	LAB_HAVE(l, e);
	for (unsigned i = 0; i < MANY; i++, e = e->next) {
		LAB_HAVE(l, lab_far_send(l, e, MANY_EACH));
		lab_far_shut(l, e);
		w[i] = lab_recv(l, NULL, e, 0);
	}
	while (left > 0 && lab_turn(l, limit, &turns)) {
		left = 0;
		for (unsigned i = 0; i < MANY; i++) {
			if (watch_saw(w[i], RING_EOF) && w[i]->n == MANY_EACH)
				continue;
			left++;
			if (watch_ended(w[i]) && ring_bufs_free(l->r))
				lab_recv_again(w[i], 0);
		}
	}
	lab_say(l, "%u without their octets", left);
	lab_say(l, ring_stats(l->r)->overflows ? "it overflowed" : "no overflow");
}

static void sq_of_four(struct ring_conf *c)
{
	c->sq_entries = 4;
}

/* Three requests for each of many sockets, in one turn. */
static void requests_overflow(struct lab *l)
{
	struct lab_end *e = lab_pairs(l, MANY), *at;
	struct watch *in[MANY], *out[MANY];
	unsigned sent = 0, ended = 0, read = 0, i;

	LAB_HAVE(l, e);
	for (i = 0, at = e; i < MANY; i++, at = at->next) {
		struct iovec v[2] = {lab_out(l, at, 2), lab_out(l, at, 4)};

		v[1].iov_base = (uint8_t *)v[0].iov_base + 2;
		v[1].iov_len = 2;
		in[i] = lab_recv(l, NULL, at, 0);
		out[i] = lab_watch(l, NULL, WATCH_COUNT);
		ring_send(l->r, &out[i]->op, at->fd, v, 2);
	}
	for (i = 0; i < MANY; i++)
		ring_cancel(l->r, &in[i]->op);
	for (i = 0, at = e; i < MANY; i++, at = at->next) {
		LAB_UNTIL(l, watch_ended(in[i]) && watch_ended(out[i]));
		LAB_UNTIL(l, (lab_far_read(l, at), at->far_got >= 4));
		sent += out[i]->last.n == 4;
		ended += watch_saw(in[i], RING_CANCELED);
		read += at->far_got == 4;
	}
	lab_say(l, "%u sent, %u read, %u taken back", sent, read, ended);
}

/* ---- the bell ---- */

static void on_bell(void *arg)
{
	struct lab *l = arg;

	l->dones++;
	l->rung++;
}

/* Many rings before the ring is looked at are one or a few, never none. */
static void bell(struct lab *l)
{
	l->bell = ring_bell_open(l->r, on_bell, l);
	LAB_HAVE(l, l->bell);
	ring_bell_ring(l->bell);
	LAB_UNTIL(l, l->rung == 1);
	lab_settle(l);
	lab_say(l, "rung %u", l->rung);
	for (unsigned i = 0; i < 100; i++)
		ring_bell_ring(l->bell);
	LAB_UNTIL(l, l->rung > 1);
	lab_settle(l);
	lab_say(l, l->rung <= 101 ? "and again" : "TOO OFTEN");
	l->rung = 0;
	lab_settle(l);
	lab_say(l, "%u for nothing", l->rung);
	ring_bell_ring(l->bell);
	LAB_UNTIL(l, l->rung == 1);
	/* Closed with a ring outstanding: nothing comes of it. */
	ring_bell_ring(l->bell);
	ring_bell_close(l->r, l->bell);
	l->bell = NULL;
	lab_settle(l);
	lab_say(l, "%u after all", l->rung);
}

/* ---- the clock ---- */

static void deadlines(struct lab *l)
{
	uint64_t start = ring_now_us(l->r), until;

	ring_turn(l->r, 0);
	ring_turn(l->r, 1);
	ring_turn(l->r, start);
	lab_say(l, "past deadlines return");
	until = ring_now_us(l->r) + 5000;
	/* A turn may end before its time, but not for ever. */
	for (unsigned i = 0; i < 1000 && ring_now_us(l->r) < until; i++)
		ring_turn(l->r, until);
	lab_say(l, ring_now_us(l->r) >= until ? "a deadline is reached" : "TOO EARLY");
	lab_say(l, ring_now_us(l->r) < until + PROBE_PATIENCE_US ? "in time" : "TOO LATE");
}

/* ---- done() ---- */

/* Closes its descriptor and arms another operation. */
static void move_on(struct watch *w)
{
	struct lab_end *next = w->end->next;

	lab_close(w->lab, w->end);
	lab_recv(w->lab, "recv", next, 0);
}

static void done_arms(struct lab *l)
{
	struct lab_end *a = lab_pairs(l, 2), *b;
	struct watch *w = lab_watch(l, "poll", WATCH_MASK);

	LAB_HAVE(l, a);
	b = a->next;
	w->end = a;
	w->then = move_on;
	LAB_HAVE(l, lab_far_send(l, a, 1) && lab_far_send(l, b, 20));
	ring_poll(l->r, &w->op, a->fd, POLLIN);
	LAB_UNTIL(l, l->watches != w && l->watches->n == 20);
}

const struct probe_script probe_queue_scripts[] = {
	{"cq-overflow", "U5", "a completion queue that overflows loses nothing",
		.conf = tiny_queues, .run = completions_overflow,
		.expect = "0 without their octets; it overflowed"},
	{"sq-full", "U6", "more requests than the submission queue holds", .conf = sq_of_four,
		.run = requests_overflow, .expect = "60 sent, 60 read, 60 taken back"},
	{"bell", "U19", "rings of the bell add up and none is lost", .run = bell,
		.expect = "rung 1; and again; 0 for nothing; 1 after all"},
	{"deadline", "", "a turn ends at its deadline", .run = deadlines,
		.expect = "past deadlines return; a deadline is reached; in time"},
	{"done-arms", "", "a done() may close and arm", .run = done_arms,
		.expect = "poll IN; recv 20 more"},
	{0},
};
