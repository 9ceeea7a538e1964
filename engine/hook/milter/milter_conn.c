/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Connections to a filter: at most `connections` of a worker, sessions beyond wait in a queue;
 * dialling, the octets that come in cut into packets, the end.
 *
 * A connection belongs to its session until one of them ends, then to its stream until that has
 * closed. One that had its farewell may take LINGER_MS to get it out: its place is taken so long.
 *
 * Failure modes: nobody listens, silence, end of input, what is no packet: milter_fail() when the
 * session needs its filter now; else it only has no connection any more. A filter that hangs up in
 * the negotiation says nothing else when it does not like what it was offered: the log line says
 * what may be the matter.
 */
#include "engine/hook/milter/milter_int.h"

#define LINGER_MS 2000
/* A Unix socket whose queue is full refuses at once; one of TCP waits in the kernel. */
#define AGAIN_MS 24
/* Replaced bodies are cut by every filter that was seen, and may be sent whole by others. */
#define PACKET_BYTES_MAX (1u << 20)
#define BUF_BYTES_MIN 512

static const struct stream_events milter_stream_events;

/* ---- octets ---- */

bool milter_buf_add(struct milter_buf *b, struct span octets)
{
	size_t keep = b->n - b->at;
	size_t max = MAX_OF(b->max, (size_t)BUF_BYTES_MIN);
	uint8_t *p;

	if (octets.n == 0)
		return true;
	if (b->at > 0 && b->n + octets.n > b->max) {
		memmove(b->p, b->p + b->at, keep);
		b->at = 0;
		b->n = keep;
	}
	if (b->n + octets.n > b->max) {
		while (max < b->n + octets.n)
			max *= 2;
		p = realloc(b->p, max);
		if (!p)
			return false;
		b->p = p;
		b->max = max;
	}
	memcpy(b->p + b->n, octets.p, octets.n);
	b->n += octets.n;
	return true;
}

void milter_buf_take(struct milter_buf *b, size_t n)
{
	ASSERT(n <= b->n - b->at);
	b->at += n;
	if (b->at == b->n)
		b->at = b->n = 0;
}

void milter_buf_free(struct milter_buf *b)
{
	free(b->p);
	*b = (struct milter_buf){0};
}

/* ---- names ---- */

const char *milter_step_name(enum milter_step step)
{
	static const enum milter_command commands[] = {
#define X(id, command, no, nr, since) [id] = command,
		MILTER_STEPS(X)
#undef X
	};

	return milter_command_name((uint8_t)commands[step]);
}

static uint64_t now_ms(const struct milter_share *sh)
{
	return ring_now_us(sh->core->ring) / 1000;
}

/* ---- the end ---- */

static void release(struct milter_conn *k)
{
	struct milter_share *sh = k->share;
	struct list *next;

	timer_stop(sh->core->timers, &k->timer);
	milter_buf_free(&k->in);
	milter_buf_free(&k->lists);
	slab_put(&sh->conns, k);
	STAT_DEC(sh->core->stats, milters_now);
	next = list_pop_front(&sh->waiting);
	if (!next)
		return;
	struct milter_session *s = CONTAINER_OF(next, struct milter_session, waiting);

	sh->waiting_count--;
	if (!milter_seek(s))
		milter_report(s);
}

static void detach(struct milter_conn *k)
{
	list_remove(&k->node);
	if (k->sess)
		k->sess->conn = NULL;
	k->sess = NULL;
	k->state = MILTER_CLOSING;
	timer_stop(k->share->core->timers, &k->timer);
}

/* There is none between two attempts, nor when there was no descriptor for it. */
static bool has_stream(const struct milter_conn *k)
{
	return !k->st.closed;
}

/* Without a word, as soon as nothing is armed. */
static void drop(struct milter_conn *k)
{
	detach(k);
	if (has_stream(k))
		stream_close(&k->st);
	else
		/* Released where nobody is in the middle of something. */
		timer_set(k->share->core->timers, &k->timer, 0);
}

void milter_part(struct milter_session *s, bool quit)
{
	struct milter_conn *k = s->conn;
	struct milter_out o = {.p = s->share->scratch, .max = sizeof(s->share->scratch)};

	if (list_linked(&s->waiting)) {
		list_remove(&s->waiting);
		s->share->waiting_count--;
	}
	if (!k)
		return;
	if (!quit || k->state != MILTER_UP || k->waits || !milter_put(&o, MILTER_C_QUIT)) {
		drop(k);
		return;
	}
	stream_put(&k->st, span_of(o.p, o.n));
	detach(k);
	stream_finish(&k->st);
	timer_set(k->share->core->timers, &k->timer, now_ms(k->share) + LINGER_MS);
}

bool milter_conns_close(struct milter_share *sh)
{
	while (!list_empty(&sh->open))
		drop(CONTAINER_OF(sh->open.next, struct milter_conn, node));
	return sh->conns.used == 0;
}

static void failed(struct milter_session *s, const char *what)
{
	hook_complain(s->share->core, s->share->h, s->point, what);
	milter_part(s, false);
	milter_content_drop(s);
	s->owed = 0;
	if (s->message == MESSAGE_OPEN)
		s->message = MESSAGE_FAILED;
	if (s->question == QUESTION_OPEN)
		s->question = QUESTION_FAILED;
}

void milter_fail(struct milter_session *s, const char *what)
{
	STAT_INC(s->share->core->stats, milter_failures);
	failed(s, what);
}

void milter_report(struct milter_session *s)
{
	struct hook_call *call = s->call;
	enum milter_question q = s->question;
	struct hook_verdict v;

	if (!call || q == QUESTION_OPEN)
		return;
	s->call = NULL;
	s->question = QUESTION_NONE;
	v = s->verdict;
	s->verdict.edits = NULL;
	if (q == QUESTION_FAILED)
		hook_settle_failed(call);
	else
		hook_settle(call, &v);
}

/* Does anybody need the filter now? Between messages it may come and go. */
static bool needed(const struct milter_session *s)
{
	return s->question == QUESTION_OPEN || s->message == MESSAGE_OPEN;
}

/* The connection of a session is of no more use. */
static void lost(struct milter_conn *k, const char *what)
{
	struct milter_session *s = k->sess;

	if (!needed(s)) {
		drop(k);
		return;
	}
	milter_fail(s, what);
	milter_report(s);
}

/* ---- dialling ---- */

static void milter_timer(struct timer *t);

static enum ring_res dial(struct milter_conn *k)
{
	const struct conf_server *to = &k->share->h->conf->endpoint;

	k->state = MILTER_DIALLING;
	timer_set(k->share->core->timers, &k->timer, k->dial_by_ms);
	return stream_dial(&k->st, k->share->core->streams, &milter_stream_events, &to->addr, NULL);
}

static const char *no_connection(enum ring_res res, char line[96])
{
	snprintf(line, 96, "cannot connect to the filter: %s", ring_res_word(res));
	return line;
}

static void dial_failed(struct milter_conn *k, enum ring_res res)
{
	char line[96];

	lost(k, no_connection(res, line));
}

static bool wait_for_one(struct milter_session *s)
{
	struct milter_share *sh = s->share;

	if (sh->waiting_count == sh->h->conf->queue) {
		STAT_INC(sh->core->stats, milter_full);
		failed(s, "all connections to the filter are taken, and the queue is full");
		return false;
	}
	list_push_back(&sh->waiting, &s->waiting);
	sh->waiting_count++;
	return true;
}

static struct milter_conn *conn_of(struct milter_session *s)
{
	struct milter_share *sh = s->share;
	struct milter_conn *k = slab_get(&sh->conns);

	ASSERT(k);
	memset(k, 0, sizeof(*k));
	k->share = sh;
	k->dial_by_ms = now_ms(sh) + sh->h->conf->connect_ms;
	timer_init(&k->timer, milter_timer);
	list_init(&k->node);
	list_push_back(&sh->open, &k->node);
	STAT_INC(sh->core->stats, milters_now);
	k->sess = s;
	s->conn = k;
	return k;
}

bool milter_seek(struct milter_session *s)
{
	struct milter_share *sh = s->share;
	enum ring_res res;
	char line[96];

	ASSERT(!s->conn && !list_linked(&s->waiting));
	/* A new connection knows nothing yet. */
	s->owed |= MILTER_OWES(MILTER_AT_CONNECT);
	if (s->words[WORD_HELO].n > 0)
		s->owed |= MILTER_OWES(MILTER_AT_HELO);
	if (sh->conns.used == sh->conns.count_max)
		return wait_for_one(s);
	res = dial(conn_of(s));
	if (res != RING_OK)
		milter_fail(s, no_connection(res, line));
	return res == RING_OK;
}

static void offer(struct milter_conn *k)
{
	const struct milter *m = k->share->h->self;
	struct milter_out o = {.p = k->share->scratch, .max = sizeof(k->share->scratch)};
	bool fits = milter_put_optneg(&o, &m->offer);

	ASSERT(fits);
	STAT_INC(k->share->core->stats, milter_connections);
	timer_stop(k->share->core->timers, &k->timer);
	k->state = MILTER_NEGOTIATING;
	k->waits = true;
	stream_put(&k->st, span_of(o.p, o.n));
	stream_read(&k->st, true);
}

static void on_connect(struct stream *st, enum ring_res res)
{
	struct milter_conn *k = CONTAINER_OF(st, struct milter_conn, st);

	if (k->state != MILTER_DIALLING)
		return;
	if (res == RING_OK) {
		offer(k);
	} else if (res == RING_AGAIN) {
		k->state = MILTER_AGAIN;
		stream_close(&k->st);
	} else {
		dial_failed(k, res);
	}
}

static void on_closed(struct stream *st)
{
	struct milter_conn *k = CONTAINER_OF(st, struct milter_conn, st);

	if (k->state == MILTER_AGAIN)
		timer_set(k->share->core->timers, &k->timer, now_ms(k->share) + AGAIN_MS);
	else
		release(k);
}

/* ---- packets ---- */

static void packet_taken(struct milter_conn *k, const struct milter_packet *p)
{
	struct milter_session *s = k->sess;

	if (k->state == MILTER_NEGOTIATING)
		milter_take_optneg(s, p);
	else
		milter_take(s, p);
	milter_go_on(s);
	milter_report(s);
}

static void not_a_packet(struct milter_conn *k, enum milter_res res)
{
	char line[96];

	snprintf(line, sizeof(line), "the filter breaks the protocol: %s", milter_res_text(res));
	lost(k, line);
}

/* All complete packets of `in`; returns the octets used. Each may be the last thing that the
 * session sees of this connection. */
static size_t take_packets(struct milter_conn *k, struct span in)
{
	size_t at = 0, used;

	while (k->sess) {
		struct milter_packet p;
		enum milter_res res = milter_read(span_drop(in, at), PACKET_BYTES_MAX, &p, &used);

		if (res == MILTER_MORE)
			break;
		if (res != MILTER_OK) {
			not_a_packet(k, res);
			break;
		}
		at += used;
		packet_taken(k, &p);
	}
	return at;
}

static void on_bytes(struct stream *st, struct span data, int32_t buf)
{
	struct milter_conn *k = CONTAINER_OF(st, struct milter_conn, st);
	size_t used;

	if (!k->sess)
		return;
	if (k->in.n == 0) {
		used = take_packets(k, data);
		data = span_drop(data, used);
	}
	if (!k->sess)
		return;
	if (!milter_buf_add(&k->in, data)) {
		lost(k, "no memory for what the filter says");
		return;
	}
	milter_buf_take(&k->in, take_packets(k, milter_buf_span(&k->in)));
}

/* ---- the other events of the stream ---- */

static void hung_up(struct milter_conn *k, const char *how)
{
	const enum conf_hook_mode mode = k->share->h->conf->mode;
	char line[112];

	if (k->state == MILTER_NEGOTIATING)
		snprintf(line, sizeof(line), "the filter hung up in the negotiation (%s)%s", how,
			mode == HOOK_STREAM	? ": it may need mode hold-end or hold-all"
			: mode == HOOK_HOLD_END ? ": it may need mode hold-all"
						: "");
	else
		snprintf(line, sizeof(line), "the filter hung up at %s (%s)",
			k->waits	    ? milter_step_name(k->step)
			: k->sess->owed > 0 ? "a step of the message"
					    : "the middle of a message",
			how);
	lost(k, line);
}

static void on_end(struct stream *st, enum ring_res why)
{
	struct milter_conn *k = CONTAINER_OF(st, struct milter_conn, st);

	if (k->sess)
		hung_up(k, ring_res_word(why));
}

/* Its last words, if there are any, come before the end of its input. */
static void on_broken(struct stream *st, enum ring_res why)
{
	struct milter_conn *k = CONTAINER_OF(st, struct milter_conn, st);

	if (!k->sess)
		return;
	if (why == RING_NOMEM)
		lost(k, "no memory for what the filter is sent");
	else
		timer_set(k->share->core->timers, &k->timer, now_ms(k->share) + LINGER_MS);
}

static void on_drained(struct stream *st)
{
	struct milter_conn *k = CONTAINER_OF(st, struct milter_conn, st);
	struct milter_session *s = k->sess;

	if (!s || k->state != MILTER_UP)
		return;
	if (!k->waits)
		timer_stop(k->share->core->timers, &k->timer);
	milter_go_on(s);
	milter_report(s);
}

static void again(struct milter_conn *k)
{
	enum ring_res res = RING_AGAIN;

	if (now_ms(k->share) < k->dial_by_ms)
		res = dial(k);
	if (res != RING_OK)
		dial_failed(k, res);
}

static void too_late(struct milter_conn *k)
{
	char line[96];

	if (k->st.broken) {
		hung_up(k, "it reads no more");
		return;
	}
	STAT_INC(k->share->core->stats, hook_deadlines);
	snprintf(line, sizeof(line), "no answer before its deadline to %s",
		k->waits ? milter_step_name(k->step) : "the message: it reads nothing");
	lost(k, line);
}

static void milter_timer(struct timer *t)
{
	struct milter_conn *k = CONTAINER_OF(t, struct milter_conn, timer);

	switch (k->state) {
	case MILTER_DIALLING:
		dial_failed(k, RING_TIMEDOUT);
		break;
	case MILTER_AGAIN:
		again(k);
		break;
	case MILTER_NEGOTIATING:
	case MILTER_UP:
		too_late(k);
		break;
	case MILTER_CLOSING:
		if (has_stream(k))
			stream_close(&k->st);
		else
			release(k);
		break;
	}
}

static const struct stream_events milter_stream_events = {
	.on_connect = on_connect,
	.on_bytes = on_bytes,
	.on_end = on_end,
	.on_drained = on_drained,
	.on_broken = on_broken,
	.on_closed = on_closed,
};
