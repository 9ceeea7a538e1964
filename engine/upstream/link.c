/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One upstream connection: see link.h. Happy path: pick a server, connect, greeting, replies.
 * Failures: every server refuses or is silent (LINK_UNREACHABLE), end of input or reset (what was
 * read before it is handed on first), a reply that is none, silence. A send that fails is not yet
 * the end: the server's last words (552, 421) may already be in the receive queue, so the link
 * waits BROKEN_LINGER_MS for its end of input.
 */
#include "engine/upstream/link_int.h"

#include "engine/smtp/line.h"

#define BROKEN_LINGER_MS 2000
#define NOT_READING_MS 1000

static const struct stream_events link_stream_events;
static void link_timer(struct timer *t);

const char *link_end_word(enum link_end e)
{
	static const char *const words[] = {
#define X(id, word) word,
		LINK_ENDS(X)
#undef X
	};
	ASSERT(e < LINK_END_COUNT);
	return words[e];
}

uint64_t link_now_ms(const struct link *l)
{
	return ring_now_us(l->core->streams->ring) / 1000;
}

/* ---- the core's share ---- */

static bool states_init(struct upstreams *u, const struct conf *conf)
{
	u->states = calloc(conf->upstream_count, sizeof(*u->states));
	u->state_count = conf->upstream_count;
	if (!u->states)
		return false;
	for (uint32_t i = 0; i < conf->upstream_count; i++) {
		const struct conf_upstream *up = &conf->upstreams[i];

		u->states[i].down_until_ms = calloc(up->server_count, sizeof(uint64_t));
		u->states[i].tls_failed = calloc(up->server_count, sizeof(bool));
		u->states[i].next = (uint32_t)(ring_random(u->streams->ring) % up->server_count);
		if (!u->states[i].down_until_ms || !u->states[i].tls_failed)
			return false;
	}
	return true;
}

bool upstreams_init(struct upstreams *u, const struct conf *conf, struct streams *ss,
	struct timers *ts, struct stash_pools *stashes, struct stat_table *stats,
	struct log_buf *log, uint32_t links_max)
{
	memset(u, 0, sizeof(*u));
	u->streams = ss;
	u->timers = ts;
	u->stashes = stashes;
	u->stats = stats;
	u->log = log;
	list_init(&u->all);
	return slab_init(&u->links, "links", sizeof(struct link), links_max) &&
	       states_init(u, conf);
}

void upstreams_fini(struct upstreams *u)
{
	for (uint32_t i = 0; u->states && i < u->state_count; i++) {
		free(u->states[i].down_until_ms);
		free(u->states[i].tls_failed);
	}
	free(u->states);
	slab_fini(&u->links);
}

/* ---- waiting ---- */

void link_set_deadline(struct link *l, uint64_t at_ms)
{
	l->deadline_ms = at_ms;
	/* A timer that fires early is set again; one that would fire late must move. */
	if (at_ms != 0 && (!timer_armed(&l->timer) || l->timer.at_ms > at_ms))
		timer_set(l->core->timers, &l->timer, at_ms);
}

void link_await(struct link *l, uint32_t ms)
{
	/* Its last words are waited for, and nothing else (link_broken). */
	if (l->st.broken)
		return;
	l->sent_mark = l->st.bytes_out;
	link_set_deadline(l, ms ? link_now_ms(l) + ms : 0);
}

/* ---- ending ---- */

static void drop_tls(struct link *l)
{
	if (l->tls)
		tls_release(l->tls);
	l->tls = NULL;
}

static void release(struct link *l)
{
	struct upstreams *u = l->core;

	timer_stop(u->timers, &l->timer);
	stash_clear(&l->in, u->stashes);
	drop_tls(l);
	list_remove(&l->node);
	STAT_DEC(u->stats, links_now);
	slab_put(&u->links, l);
}

/* Nobody is told anything any more; the memory stays until the stream says closed. */
static void let_go(struct link *l)
{
	bool no_stream = l->state == LINK_UNREACHED;

	l->ev = NULL;
	l->who = NULL;
	l->state = LINK_GONE;
	timer_stop(l->core->timers, &l->timer);
	if (no_stream)
		release(l);
	else
		stream_close(&l->st);
}

void link_drop(struct link *l)
{
	let_go(l);
}

void link_lose(struct link *l, enum link_end why)
{
	const struct link_events *ev = l->ev;
	void *who = l->who;

	if (l->state == LINK_GONE)
		return;
	if (why == LINK_TIMEOUT)
		STAT_INC(l->core->stats, timeouts_upstream);
	if (why == LINK_BAD_REPLY)
		STAT_INC(l->core->stats, upstream_bad_replies);
	if (why == LINK_INJECTION)
		STAT_INC(l->core->stats, starttls_injection);
	if (ev) {
		/* The borrower may still read what it says of itself. */
		l->ev = NULL;
		ev->on_lost(who, why);
	}
	let_go(l);
}

/* ---- dialling ---- */

void link_log(struct link *l, const char *state, const char *reason)
{
	struct log_rec rec;

	if (!log_begin(&rec, l->core->log, LOG_EV_UPSTREAM, ring_wall_us(l->core->streams->ring)))
		return;
	log_cstr(&rec, "upstream", l->up->name);
	log_cstr(&rec, "server", l->server->text);
	log_cstr(&rec, "state", state);
	log_cstr(&rec, "reason", reason);
	log_end(&rec, l->core->stats);
}

static uint64_t *server_down(struct link *l)
{
	return &l->core->states[l->up->index].down_until_ms[l->server - l->up->servers];
}

/* A failure that says something of the server, not of this machine. */
static bool servers_fault(enum ring_res why)
{
	switch (why) {
	case RING_MFILE:
	case RING_NFILE:
	case RING_NOBUFS:
	case RING_NOMEM:
	case RING_ADDRNOTAVAIL:
	case RING_ADDRINUSE:
	case RING_AFNOSUPPORT:
	case RING_PERM:
		return false;
	default:
		return true;
	}
}

const char *link_why_connect(const struct link *l)
{
	if (l->why_connect == RING_PROTO && l->why_tls)
		return l->why_tls;
	return ring_res_word((enum ring_res)l->why_connect);
}

/* Told once per change of state, not once per session. */
static void server_failed(struct link *l, enum ring_res why)
{
	l->why_connect = (uint8_t)why;
	STAT_INC(l->core->stats, link_failures);
	if (!servers_fault(why))
		return;
	if (*server_down(l) == 0)
		link_log(l, "down", link_why_connect(l));
	*server_down(l) = link_now_ms(l) + l->up->retry_down_ms;
}

static void server_reached(struct link *l)
{
	if (*server_down(l) != 0)
		link_log(l, "up", NULL);
	*server_down(l) = 0;
}

static bool mark_tried(struct link *l, uint32_t i)
{
	bool before = l->tried_bits[i / 8] >> (i % 8) & 1;

	l->tried_bits[i / 8] |= (uint8_t)(1u << (i % 8));
	return !before;
}

/* Those not known to be down in turn, then the others; each once. */
static const struct conf_server *pick_server(struct link *l)
{
	const struct conf_upstream *up = l->up;
	const uint64_t *down_until = l->core->states[up->index].down_until_ms;

	for (; l->tried < 2 * up->server_count; l->tried++) {
		uint32_t i = (l->first + l->tried) % up->server_count;
		bool last_resort = l->tried >= up->server_count;

		if ((last_resort || down_until[i] <= link_now_ms(l)) && mark_tried(l, i))
			return &up->servers[i];
	}
	return NULL;
}

/* l->server, as l->plain has it. */
static bool dial(struct link *l)
{
	enum ring_res res;

	l->state = LINK_DIALLING;
	l->secured = l->plain || l->up->tls.mode == CONF_TLS_OFF;
	res = stream_dial(
		&l->st, l->core->streams, &link_stream_events, &l->server->addr, l->up->source);
	if (res != RING_OK) {
		server_failed(l, res);
		return false;
	}
	l->deadline_ms = 0;
	link_set_deadline(l, link_now_ms(l) + l->up->timeouts.connect);
	return true;
}

static void dial_next(struct link *l)
{
	const struct conf_server *server;

	while ((server = pick_server(l)) != NULL) {
		l->server = server;
		l->plain = false;
		if (dial(l))
			return;
	}
	/* Told from the timer: the borrower gets no event from inside link_open(). */
	l->state = LINK_UNREACHED;
	timer_set(l->core->timers, &l->timer, 0);
}

static void redial(struct link *l, enum link_state state)
{
	drop_tls(l);
	stash_clear(&l->in, l->core->stashes);
	memset(&l->rs, 0, sizeof(l->rs));
	l->deadline_ms = 0;
	l->state = (uint8_t)state;
	stream_close(&l->st);
}

void link_dial_failed(struct link *l, enum ring_res why)
{
	server_failed(l, why);
	redial(l, LINK_REDIAL);
}

/* The borrower has had the greeting: that of the new connection is read here. */
void link_dial_plain(struct link *l)
{
	l->plain = l->replay = true;
	redial(l, LINK_AGAIN);
}

static void link_connected(struct stream *st, enum ring_res res)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (l->state != LINK_DIALLING)
		return;
	if (res != RING_OK) {
		link_dial_failed(l, res);
		return;
	}
	STAT_INC(l->core->stats, links);
	stream_read(&l->st, true);
	if (l->up->tls.implicit && !l->secured)
		link_tls_implicit(l);
	else
		link_reached(l);
}

void link_reached(struct link *l)
{
	server_reached(l);
	l->state = LINK_GREETING;
	link_await(l, l->up->timeouts.greeting);
}

static void link_closed(struct stream *st)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (l->state == LINK_REDIAL)
		dial_next(l);
	else if (l->state != LINK_AGAIN)
		release(l);
	else if (!dial(l))
		dial_next(l);
}

struct link *link_open(struct upstreams *u, const struct conf_upstream *up,
	const struct link_events *ev, void *who, const struct link_hello *hello)
{
	struct link *l = slab_get(&u->links);

	if (!l)
		return NULL;
	memset(l, 0, sizeof(*l));
	l->core = u;
	l->up = up;
	l->ev = ev;
	l->who = who;
	l->replay = hello != NULL;
	if (hello)
		l->hello = *hello;
	l->server = &up->servers[0];
	l->first = (uint16_t)(u->states[up->index].next++ % up->server_count);
	timer_init(&l->timer, link_timer);
	list_init(&l->node);
	list_push_back(&u->all, &l->node);
	STAT_INC(u->stats, links_now);
	dial_next(l);
	return l;
}

/* ---- a replacement says what its predecessor said ---- */

static void ready(struct link *l)
{
	l->state = LINK_UP;
	l->replay = false;
	link_await(l, 0);
	l->ev->on_ready(l->who);
}

void link_go_on(struct link *l)
{
	if (!l->replay || l->hello.line.n == 0) {
		ready(l);
		return;
	}
	l->state = LINK_HELLO;
	stream_put(&l->st, l->hello.line);
	link_await(l, l->up->timeouts.reply);
}

static void replay_reply(struct link *l, const struct smtp_reply *r)
{
	if (l->state == LINK_GREETING) {
		if (r->code != 220)
			link_lose(l, LINK_REFUSED_GREETING);
		else if (l->hello.line.n > 0 && !l->secured)
			link_secure(l, l->hello.line);
		else
			link_go_on(l);
		return;
	}
	if (r->code == 250 && l->hello.ehlo)
		smtp_ehlo_read(r, &l->caps);
	if (r->code != 250 || (l->hello.ehlo && l->caps.hash != l->hello.caps_hash))
		link_lose(l, LINK_DIFFERS);
	else
		ready(l);
}

/* ---- replies ---- */

static bool take_reply(struct link *l, const struct smtp_reply *r)
{
	if (l->state == LINK_TLS_HELLO || l->state == LINK_TLS_START) {
		link_tls_reply(l, r, l->unread > 0);
		return true;
	}
	if (l->replay) {
		replay_reply(l, r);
		return true;
	}
	if (l->state == LINK_GREETING) {
		l->state = LINK_UP;
		link_await(l, 0); /* nothing more until a command is passed */
	}
	return l->ev->on_reply(l->who, r);
}

/* All complete replies in `in`; returns the octets used. Stops when the link is gone, opaque or
 * held. */
static size_t take_replies(struct link *l, struct span in)
{
	size_t at = 0;

	while (at < in.n && l->ev && l->state != LINK_OPAQUE) {
		struct smtp_reply r;
		size_t used = 0;
		enum reply_res res = smtp_reply_scan(span_drop(in, at), &l->rs, &r, &used);

		if (res == REPLY_MORE)
			break;
		memset(&l->rs, 0, sizeof(l->rs));
		if (res != REPLY_OK) {
			link_lose(l, LINK_BAD_REPLY);
			break;
		}
		l->unread = in.n - at - used + l->more;
		l->held = !take_reply(l, &r);
		if (l->held)
			break;
		at += used;
	}
	return at;
}

static void keep_rest(struct link *l, struct span rest)
{
	if (rest.n > 0 && l->ev && !stash_add(&l->in, l->core->stashes, rest))
		link_lose(l, LINK_NO_MEMORY);
}

static void take_kept(struct link *l)
{
	size_t used = take_replies(l, stash_span(&l->in));

	stash_drop(&l->in, l->core->stashes, used);
}

/* As much of `data` as makes the unfinished reply finished, or all of it. */
static struct span add_to_kept(struct link *l, struct span data)
{
	size_t n = MIN_OF(data.n, STASH_LARGE_BYTES - (size_t)l->in.len);

	if (n == 0 || !stash_add(&l->in, l->core->stashes, span_of(data.p, n))) {
		link_lose(l, LINK_NO_MEMORY);
		return SPAN_NONE;
	}
	l->more = data.n - n;
	if (!l->held)
		take_kept(l);
	l->more = 0;
	return span_drop(data, n);
}

static void link_bytes(struct stream *st, struct span data, int32_t buf)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	/* In the turn of the 220, but not behind it: see secure.c. */
	if (l->ev && l->state == LINK_TLS_DUE) {
		link_lose(l, LINK_INJECTION);
		return;
	}
	while (data.n > 0 && l->ev && l->state != LINK_OPAQUE && l->in.len > 0)
		data = add_to_kept(l, data);
	if (!l->ev || data.n == 0)
		return;
	if (l->state == LINK_OPAQUE)
		l->ev->on_opaque(l->who, data, buf);
	else
		keep_rest(l, span_drop(data, take_replies(l, data)));
}

static void input_ended(struct link *l, enum ring_res why)
{
	if (l->state == LINK_OPAQUE)
		l->ev->on_opaque_end(l->who, why);
	else if (why == RING_PROTO)
		link_tls_broken(l);
	else
		link_lose(l, why == RING_EOF ? LINK_EOF : LINK_RESET);
}

void link_resume(struct link *l)
{
	ASSERT(l->held);
	l->held = false;
	take_kept(l);
	if (l->ev && !l->held && l->end_held)
		input_ended(l, (enum ring_res)l->end_why);
}

bool link_go_opaque(struct link *l)
{
	bool unread = l->unread > 0;

	l->state = LINK_OPAQUE;
	link_await(l, 0);
	return unread;
}

/* ---- the other events of the stream ---- */

static void link_end(struct stream *st, enum ring_res why)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (!l->ev || link_tls_ended(l, why))
		return;
	/* A complete reply that waits to be read counts, whatever came behind it. */
	l->end_held = l->held;
	l->end_why = (uint8_t)why;
	if (!l->held)
		input_ended(l, why);
}

static void link_broken(struct stream *st, enum ring_res why)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (!l->ev || link_tls_ended(l, why))
		return;
	l->ev->on_broken(l->who, why);
	if (!l->ev || l->state == LINK_OPAQUE)
		return;
	l->deadline_ms = 0;
	link_set_deadline(l, link_now_ms(l) + BROKEN_LINGER_MS);
}

static void link_drained(struct stream *st)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (l->ev)
		l->ev->on_drained(l->who);
}

static void link_quiet(struct stream *st)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (l->ev && l->ev->on_quiet)
		l->ev->on_quiet(l->who);
}

static void link_timer(struct timer *t)
{
	struct link *l = CONTAINER_OF(t, struct link, timer);
	uint64_t now = link_now_ms(l);

	if (l->state == LINK_UNREACHED) {
		link_lose(l, LINK_UNREACHABLE);
		return;
	}
	if (link_tls_timer(l, l->deadline_ms != 0 && l->deadline_ms <= now) || l->deadline_ms == 0)
		return;
	if (l->deadline_ms > now) {
		timer_set(l->core->timers, t, l->deadline_ms);
		return;
	}
	if (l->state == LINK_DIALLING)
		link_dial_failed(l, RING_TIMEDOUT);
	else if (l->st.broken)
		link_lose(l, LINK_RESET);
	else if (!l->st.want_read)
		link_set_deadline(l, now + NOT_READING_MS); /* the client is slow, not the server */
	else if (!stream_flushed(&l->st) && l->st.bytes_out != l->sent_mark)
		link_await(
			l, l->up->timeouts.send); /* octets that still leave are a sign of life */
	else
		link_lose(l, LINK_TIMEOUT);
}

static void link_opened(struct stream *st)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (l->ev)
		link_tls_opened(l);
}

static const struct stream_events link_stream_events = {
	.on_open = link_opened,
	.on_connect = link_connected,
	.on_bytes = link_bytes,
	.on_end = link_end,
	.on_quiet = link_quiet,
	.on_drained = link_drained,
	.on_broken = link_broken,
	.on_closed = link_closed,
};
