/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Runs the conformance scripts: makes the lab of each, compares what it said with what is right,
 * and takes everything back. See probe.h.
 *
 * Failure modes: no memory, no ring, no connection: said in the trace, so the script fails.
 */
#include "ring/probe_int.h"

#include <poll.h>
#include <stdarg.h>

static const struct probe_script *const lists[] = {
	probe_recv_scripts,
	probe_send_scripts,
	probe_conn_scripts,
	probe_queue_scripts,
	probe_move_scripts,
	probe_file_scripts,
};

const struct probe_script *probe_script(size_t at)
{
	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		for (const struct probe_script *s = lists[i]; s->name; s++)
			if (at-- == 0)
				return s;
	return NULL;
}

size_t probe_script_count(void)
{
	size_t n = 0;

	while (probe_script(n))
		n++;
	return n;
}

/* ---- the trace ---- */

static void add(struct lab *l, const char *fmt, va_list ap)
{
	size_t room = PROBE_TRACE_BYTES - l->trace_n;
	int n;

	if (l->trace_n > 0 && room > 2) {
		memcpy(l->trace + l->trace_n, "; ", 3);
		l->trace_n += 2;
		room -= 2;
	}
	n = vsnprintf(l->trace + l->trace_n, room, fmt, ap);
	l->trace_n += n < 0 ? 0 : MIN_OF((size_t)n, room - 1);
}

static void PRINTF_LIKE(2, 3) add_words(struct lab *l, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(l, fmt, ap);
	va_end(ap);
}

/* The octets of one receive are said as one, however they were cut. */
static void say_pieces(struct lab *l, const char *word)
{
	if (l->piece_of)
		add_words(l, "%s %zu %s", l->piece_of->name, l->pieces, word);
	l->piece_of = NULL;
	l->pieces = 0;
}

void lab_say(struct lab *l, const char *fmt, ...)
{
	va_list ap;

	say_pieces(l, "more");
	va_start(ap, fmt);
	add(l, fmt, ap);
	va_end(ap);
}

static void mask_words(uint32_t mask, char out[64])
{
	static const struct {
		uint32_t bit;
		const char *word;
	} bits[] = {{POLLIN, " IN"}, {POLLOUT, " OUT"}, {POLLRDHUP, " RDHUP"}, {POLLHUP, " HUP"},
		{POLLERR, " ERR"}};
	size_t n = 0;

	out[0] = 0;
	for (size_t i = 0; i < ARRAY_LEN(bits); i++)
		if (mask & bits[i].bit)
			n += (size_t)snprintf(out + n, 64 - n, "%s", bits[i].word);
}

static void say_done(struct watch *w, const struct ring_done *d)
{
	struct lab *l = w->lab;
	char mask[64];

	if (d->data.n) {
		if (l->piece_of != w)
			say_pieces(l, "more");
		l->piece_of = w;
		l->pieces += d->data.n;
		if (!d->more)
			say_pieces(l, "end");
		return;
	}
	if (ring_fd_ok(d->fd)) {
		lab_say(l, "%s fd %s", w->name, d->more ? "more" : "end");
	} else if (d->res != RING_OK || w->shape == WATCH_WORD) {
		lab_say(l, "%s %s %s", w->name, ring_res_word(d->res), d->more ? "more" : "end");
	} else if (w->shape == WATCH_MASK) {
		mask_words(d->n, mask);
		lab_say(l, "%s%s", w->name, mask);
	} else {
		lab_say(l, "%s %u %s", w->name, d->n, d->more ? "more" : "end");
	}
}

/* ---- turning ---- */

bool lab_turn(struct lab *l, uint64_t limit_us, unsigned *turns)
{
	if (ring_now_us(l->r) >= limit_us || ++*turns > PROBE_TURNS_MAX)
		return false;
	ring_turn(l->r, ring_now_us(l->r) + PROBE_STEP_US);
	return true;
}

void lab_settle(struct lab *l)
{
	for (unsigned i = 0; i < 100; i++) {
		uint64_t until = ring_now_us(l->r) + PROBE_IDLE_US;
		unsigned before = l->dones;

		ring_turn(l->r, until);
		if (l->dones == before && ring_now_us(l->r) >= until)
			return;
	}
}

/* ---- octets ---- */

static uint8_t *pattern_new(void)
{
	size_t n = PROBE_BIG_BYTES + PROBE_PERIOD;
	uint8_t *p = malloc(n);

	if (!p)
		return NULL;
	for (size_t i = 0; i < PROBE_PERIOD; i++)
		p[i] = (uint8_t)((uint32_t)i * 2654435761u >> 13);
	for (size_t i = PROBE_PERIOD; i < n; i += PROBE_PERIOD)
		memcpy(p + i, p, MIN_OF((size_t)PROBE_PERIOD, n - i));
	return p;
}

const uint8_t *lab_octets(const struct lab *l, uint32_t seed, size_t at)
{
	return l->pattern + (at + (size_t)seed * 977) % PROBE_PERIOD;
}

static void check(struct lab *l, const char *who, uint32_t seed, size_t at, struct span s)
{
	while (s.n) {
		size_t n = MIN_OF(s.n, (size_t)PROBE_BIG_BYTES);

		if (memcmp(s.p, lab_octets(l, seed, at), n) != 0) {
			lab_say(l, "WRONG OCTETS to %s behind %zu", who, at);
			return;
		}
		at += n;
		s = span_drop(s, n);
	}
}

uint32_t lab_chance(struct lab *l, uint32_t n)
{
	l->chance = l->chance * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)(l->chance >> 8) * n >> 24);
}

/* ---- operations ---- */

static void lease(struct watch *w, const struct ring_done *d)
{
	if (!d->buf_held || w->keep == 0 || w->kept_count == PROBE_KEPT_MAX)
		return;
	w->keep--;
	ring_buf_keep(w->lab->r, d->buf);
	if (w->kept_count == 0)
		w->held = d->data;
	w->kept[w->kept_count++] = d->buf;
}

/* The newest connection without a socket of ours is the last that was dialled: clients are taken
 * in the order of the backlog, so this walks from the oldest. */
static void adopt(struct watch *w)
{
	struct lab_end *oldest = NULL;

	for (struct lab_end *e = w->lab->ends; e; e = e->next)
		if (!ring_fd_ok(e->fd) && e->far >= 0 && e->seed > w->seed)
			oldest = e;
	if (!oldest) { /* a connection that nobody dialled */
		ring_close_fd(w->lab->r, &w->last.fd);
		return;
	}
	oldest->fd = w->last.fd;
	w->n++;
}

static void keep_socket(struct watch *w)
{
	struct lab *l = w->lab;

	ASSERT(l->accepted_count < ARRAY_LEN(l->accepted));
	l->accepted[l->accepted_count++] = w->last.fd;
}

static void watch_done(struct ring_op *op, const struct ring_done *d)
{
	struct watch *w = CONTAINER_OF(op, struct watch, op);
	struct lab *l = w->lab;

	l->dones++;
	w->dones++;
	w->ends += !d->more;
	w->last = *d;
	if (d->data.n)
		check(l, w->name ? w->name : "one of many", w->seed, w->n, d->data);
	w->n += d->data.n ? d->data.n : d->n;
	lease(w, d);
	if (ring_fd_ok(d->fd))
		(w->adopts ? adopt : keep_socket)(w);
	if (w->name)
		say_done(w, d);
	if (w->then)
		w->then(w);
}

struct watch *lab_watch(struct lab *l, const char *name, enum watch_shape shape)
{
	struct watch *w = calloc(1, sizeof(*w));

	ASSERT(w);
	w->op.done = watch_done;
	w->lab = l;
	w->name = name;
	w->shape = shape;
	w->next = l->watches;
	l->watches = w;
	return w;
}

struct watch *lab_recv(struct lab *l, const char *name, struct lab_end *e, uint32_t cap)
{
	struct watch *w = lab_watch(l, name, WATCH_WORD);

	w->end = e;
	w->seed = e->seed;
	ring_recv(l->r, &w->op, e->fd, cap);
	return w;
}

void lab_recv_again(struct watch *w, uint32_t cap)
{
	ring_recv(w->lab->r, &w->op, w->end->fd, cap);
}

void lab_drop_leases(struct watch *w)
{
	while (w->kept_count)
		ring_buf_drop(w->lab->r, w->kept[--w->kept_count]);
	w->held = SPAN_NONE;
}

/* ---- connections ---- */

struct lab_end *lab_end_new(struct lab *l)
{
	struct lab_end *e = calloc(1, sizeof(*e));

	ASSERT(e);
	*e = (struct lab_end){.next = l->ends, .fd = RING_FD_NONE, .far = -1, .seed = ++l->seeds};
	l->ends = e;
	return e;
}

static bool accept_all(struct lab *l, struct watch *acc, unsigned n)
{
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	unsigned turns = 0;

	while (acc->n < n) {
		if (watch_ended(acc))
			ring_accept(l->r, &acc->op, l->listener);
		if (!lab_turn(l, limit, &turns))
			break;
	}
	ring_cancel(l->r, &acc->op);
	while (!watch_ended(acc))
		if (!lab_turn(l, limit, &turns))
			return false;
	return acc->n == n;
}

struct lab_end *lab_pairs(struct lab *l, unsigned n)
{
	struct watch *acc = lab_watch(l, NULL, WATCH_WORD);

	acc->seed = l->seeds; /* connections from before are not waited for */
	acc->adopts = true;
	if (!ring_fd_ok(l->listener) && !l->far->listen(l->far->arg, &l->listener))
		return NULL;
	for (unsigned i = 0; i < n; i++) {
		struct lab_end *e = lab_end_new(l);

		e->far = l->far->dial(l->far->arg, l->listener);
		if (e->far < 0)
			return NULL;
	}
	return accept_all(l, acc, n) ? l->ends : NULL;
}

void lab_close(struct lab *l, struct lab_end *e)
{
	ring_close_fd(l->r, &e->fd);
}

bool lab_far_send(struct lab *l, struct lab_end *e, size_t n)
{
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	unsigned turns = 0;

	while (n) {
		size_t k =
			l->far->send(l->far->arg, e->far, lab_octets(l, e->seed, e->far_sent), n);

		e->far_sent += k;
		n -= k;
		if (n && k == 0 && !lab_turn(l, limit, &turns))
			return false;
	}
	return true;
}

size_t lab_far_read(struct lab *l, struct lab_end *e)
{
	static const size_t most = 64u << 10;
	uint8_t *in = malloc(most);
	size_t n = 0, k;

	ASSERT(in);
	while (e->far >= 0 && e->sight == PROBE_OPEN &&
		(k = l->far->recv(l->far->arg, e->far, in, most, &e->sight)) > 0) {
		check(l, "the far side", e->seed, e->far_got, span_of(in, k));
		e->far_got += k;
		n += k;
	}
	free(in);
	return n;
}

void lab_far_shut(struct lab *l, struct lab_end *e)
{
	l->far->shut(l->far->arg, e->far);
}

void lab_far_close(struct lab *l, struct lab_end *e)
{
	l->far->close(l->far->arg, e->far);
	e->far = -1;
}

void lab_far_reset(struct lab *l, struct lab_end *e)
{
	l->far->reset(l->far->arg, e->far);
	e->far = -1;
}

void lab_say_far(struct lab *l, const struct lab_end *e)
{
	static const char *const words[] = {
		[PROBE_OPEN] = "", [PROBE_SAW_EOF] = " EOF", [PROBE_SAW_RESET] = " reset"};

	lab_say(l, "far %zu%s", e->far_got, words[e->sight]);
}

struct iovec lab_out(const struct lab *l, const struct lab_end *e, size_t n)
{
	ASSERT(n <= PROBE_BIG_BYTES);
	return (struct iovec){(void *)(uintptr_t)lab_octets(l, e->seed, e->sent), n};
}

bool lab_server(struct lab *l, enum probe_server mode)
{
	return l->far->serve(l->far->arg, mode, &l->at);
}

/* ---- one script ---- */

static void probe_conf(struct ring_conf *c)
{
	ring_conf_defaults(c);
	c->sq_entries = 128;
	c->cq_entries = 1024;
	c->ops_max = 8192;
	c->pipe_count_max = 2;
}

/* Takes back what is still armed. False: something never ends. */
static bool end_all(struct lab *l)
{
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	unsigned turns = 0;

	for (struct watch *w = l->watches; w; w = w->next) {
		w->name = NULL;
		w->then = NULL;
		w->keep = 0;
		lab_drop_leases(w);
		ring_cancel(l->r, &w->op);
	}
	for (struct watch *w = l->watches; w; w = w->next) {
		while (!watch_ended(w) && !(w->lent && w->dones))
			if (!lab_turn(l, limit, &turns))
				return false;
	}
	return true;
}

static void close_ends(struct lab *l)
{
	for (struct lab_end *e = l->ends; e; e = e->next) {
		if (ring_fd_ok(e->fd)) {
			ring_linger_reset(l->r, e->fd);
			ring_close_fd(l->r, &e->fd);
		}
		if (e->far >= 0)
			lab_far_reset(l, e);
	}
	while (l->accepted_count)
		ring_close_fd(l->r, &l->accepted[--l->accepted_count]);
	if (ring_fd_ok(l->listener))
		l->far->unlisten(l->far->arg, &l->listener);
}

static bool all_ended(struct lab *l)
{
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	unsigned turns = 0;

	for (struct watch *w = l->watches; w; w = w->next)
		while (!watch_ended(w))
			if (!lab_turn(l, limit, &turns))
				return false;
	return true;
}

static void free_lists(struct lab *l)
{
	struct lab_end *e;
	struct watch *w;

	while ((e = l->ends)) {
		l->ends = e->next;
		free(e);
	}
	while ((w = l->watches)) {
		l->watches = w->next;
		free(w);
	}
}

/* False: the ring has to be left behind, and with it what it may still write to. */
static bool take_back(struct lab *l)
{
	if (!end_all(l))
		return false;
	close_ends(l);
	if (!all_ended(l))
		return false;
	if (l->bell)
		ring_bell_close(l->r, l->bell);
	if (l->pipe)
		ring_pipe_put(l->r, l->pipe);
	if (l->zc_got)
		ring_zc_put(l->r, &l->zc);
	ring_close(l->r);
	free_lists(l);
	free(l->room);
	free((void *)(uintptr_t)l->pattern);
	free(l);
	return true;
}

static struct lab *lab_new(const struct probe_script *s, const struct probe_far *far,
	uint32_t features_off, struct probe_result *out)
{
	struct lab *l = calloc(1, sizeof(*l));
	struct ring_barrier why = {{0}, {0}};
	struct ring_conf c;

	ASSERT(l);
	probe_conf(&c);
	if (s->conf)
		s->conf(&c);
	c.features_off |= s->off | features_off;
	*l = (struct lab){.far = far, .listener = RING_FD_NONE, .chance = 1, .trace = out->seen};
	l->pattern = pattern_new();
	ASSERT(l->pattern);
	l->r = ring_open(&c, &why);
	if (l->r)
		return l;
	lab_say(l, "NO RING: %s", why.what);
	free((void *)(uintptr_t)l->pattern);
	free(l);
	return NULL;
}

void probe_run(const struct probe_script *s, const struct probe_far *far, uint32_t features_off,
	struct probe_result *out)
{
	struct lab *l;
	bool left = false;

	*out = (struct probe_result){.verdict = PROBE_FAILED};
	if (!far->begin(far->arg, &s->world)) {
		snprintf(out->seen, sizeof(out->seen), "NO far side");
		return;
	}
	l = lab_new(s, far, features_off, out);
	if (l) {
		out->features = ring_features(l->r);
		if ((s->needs & ~out->features) == 0) {
			s->run(l);
			say_pieces(l, "more");
			if (l->left_out)
				out->verdict = PROBE_SKIPPED;
			else if (strcmp(out->seen, s->expect) == 0)
				out->verdict = PROBE_PASSED;
		} else {
			out->verdict = PROBE_SKIPPED;
		}
		left = !take_back(l);
		if (left)
			lab_say(l, "and an operation that never ends");
	}
	far->end(far->arg, left);
	if (left)
		out->verdict = PROBE_FAILED;
}

uint32_t probe_blame(const struct probe_script *s, const struct probe_far *far,
	const struct probe_result *failed)
{
	struct probe_result without;

	if (s->needs)
		return s->needs;
	for (uint32_t bit = 1; bit && bit <= failed->features; bit <<= 1) {
		if (!(failed->features & bit))
			continue;
		probe_run(s, far, bit, &without);
		if (without.verdict == PROBE_PASSED)
			return bit;
	}
	return 0;
}
