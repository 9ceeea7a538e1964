/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One upstream connection: see link.h. Happy path: pick a server, connect, greeting, replies.
 * Failures: every server refuses or is silent (LINK_UNREACHABLE), end of input or reset (what was
 * read before it is handed on first), a reply that is none, silence. A send that fails is not yet
 * the end: the server's last words (552, 421) may already be in the receive queue, so the link
 * waits BROKEN_LINGER_MS for its end of input.
 */
#include "engine/upstream/link.h"

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

static uint64_t now_ms(const struct upstreams *u)
{
	return ring_now_us(u->streams->ring) / 1000;
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
		u->states[i].next = (uint32_t)(ring_random(u->streams->ring) % up->server_count);
		if (!u->states[i].down_until_ms)
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
	for (uint32_t i = 0; u->states && i < u->state_count; i++)
		free(u->states[i].down_until_ms);
	free(u->states);
	slab_fini(&u->links);
}

/* ---- waiting ---- */

static void set_deadline(struct link *l, uint64_t at_ms)
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
	set_deadline(l, ms ? now_ms(l->core) + ms : 0);
}

/* ---- ending ---- */

static void release(struct link *l)
{
	struct upstreams *u = l->core;

	timer_stop(u->timers, &l->timer);
	stash_clear(&l->in, u->stashes);
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

static void lost(struct link *l, enum link_end why)
{
	const struct link_events *ev = l->ev;
	void *who = l->who;

	if (l->state == LINK_GONE)
		return;
	if (why == LINK_TIMEOUT)
		STAT_INC(l->core->stats, timeouts_upstream);
	if (why == LINK_BAD_REPLY)
		STAT_INC(l->core->stats, upstream_bad_replies);
	if (ev) {
		/* The borrower may still read l->server and l->why_connect. */
		l->ev = NULL;
		ev->on_lost(who, why);
	}
	let_go(l);
}

/* ---- dialling ---- */

static void log_server(struct link *l, const char *state, enum ring_res why)
{
	struct log_rec rec;

	if (!log_begin(&rec, l->core->log, LOG_EV_UPSTREAM, ring_wall_us(l->core->streams->ring)))
		return;
	log_cstr(&rec, "upstream", l->up->name);
	log_cstr(&rec, "server", l->server->text);
	log_cstr(&rec, "state", state);
	if (why != RING_OK)
		log_cstr(&rec, "reason", ring_res_word(why));
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

/* Told once per change of state, not once per session. */
static void server_failed(struct link *l, enum ring_res why)
{
	l->why_connect = (uint8_t)why;
	STAT_INC(l->core->stats, link_failures);
	if (!servers_fault(why))
		return;
	if (*server_down(l) == 0)
		log_server(l, "down", why);
	*server_down(l) = now_ms(l->core) + l->up->retry_down_ms;
}

static void server_reached(struct link *l)
{
	if (*server_down(l) != 0)
		log_server(l, "up", RING_OK);
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

		if ((last_resort || down_until[i] <= now_ms(l->core)) && mark_tried(l, i))
			return &up->servers[i];
	}
	return NULL;
}

static void dial_next(struct link *l)
{
	const struct conf_server *server;

	while ((server = pick_server(l)) != NULL) {
		l->server = server;
		l->state = LINK_DIALLING;
		enum ring_res res = stream_dial(&l->st, l->core->streams, &link_stream_events,
			&server->addr, l->up->source);
		if (res == RING_OK) {
			l->deadline_ms = 0;
			set_deadline(l, now_ms(l->core) + l->up->timeouts.connect);
			return;
		}
		server_failed(l, res);
	}
	/* Told from the timer: the borrower gets no event from inside link_open(). */
	l->state = LINK_UNREACHED;
	timer_set(l->core->timers, &l->timer, 0);
}

static void dial_failed(struct link *l, enum ring_res why)
{
	server_failed(l, why);
	l->state = LINK_REDIAL;
	stream_close(&l->st);
}

static void link_connected(struct stream *st, enum ring_res res)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (l->state != LINK_DIALLING)
		return;
	if (res != RING_OK) {
		dial_failed(l, res);
		return;
	}
	server_reached(l);
	STAT_INC(l->core->stats, links);
	l->state = LINK_GREETING;
	link_await(l, l->up->timeouts.greeting);
	stream_read(&l->st, true);
}

static void link_closed(struct stream *st)
{
	struct link *l = CONTAINER_OF(st, struct link, st);

	if (l->state == LINK_REDIAL)
		dial_next(l);
	else
		release(l);
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

static void replay_ready(struct link *l)
{
	l->state = LINK_UP;
	l->replay = false;
	link_await(l, 0);
	l->ev->on_ready(l->who);
}

static void replay_reply(struct link *l, const struct smtp_reply *r)
{
	if (l->state == LINK_GREETING) {
		if (r->code != 220) {
			lost(l, LINK_REFUSED_GREETING);
		} else if (l->hello.line.n == 0) {
			replay_ready(l);
		} else {
			l->state = LINK_HELLO;
			stream_put(&l->st, l->hello.line);
			link_await(l, l->up->timeouts.reply);
		}
		return;
	}
	if (r->code == 250 && l->hello.ehlo)
		smtp_ehlo_read(r, &l->caps);
	if (r->code != 250 || (l->hello.ehlo && l->caps.hash != l->hello.caps_hash))
		lost(l, LINK_DIFFERS);
	else
		replay_ready(l);
}

/* ---- replies ---- */

static bool take_reply(struct link *l, const struct smtp_reply *r)
{
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
			lost(l, LINK_BAD_REPLY);
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
		lost(l, LINK_NO_MEMORY);
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
		lost(l, LINK_NO_MEMORY);
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
	else
		lost(l, why == RING_EOF ? LINK_EOF : LINK_RESET);
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

	if (!l->ev)
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

	if (!l->ev)
		return;
	l->ev->on_broken(l->who, why);
	if (!l->ev || l->state == LINK_OPAQUE)
		return;
	l->deadline_ms = 0;
	set_deadline(l, now_ms(l->core) + BROKEN_LINGER_MS);
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
	uint64_t now = now_ms(l->core);

	if (l->state == LINK_UNREACHED) {
		lost(l, LINK_UNREACHABLE);
		return;
	}
	if (l->deadline_ms == 0)
		return;
	if (l->deadline_ms > now) {
		timer_set(l->core->timers, t, l->deadline_ms);
		return;
	}
	if (l->state == LINK_DIALLING)
		dial_failed(l, RING_TIMEDOUT);
	else if (l->st.broken)
		lost(l, LINK_RESET);
	else if (!l->st.want_read)
		set_deadline(l, now + NOT_READING_MS); /* the client is slow, not the server */
	else if (!stream_flushed(&l->st) && l->st.bytes_out != l->sent_mark)
		link_await(
			l, l->up->timeouts.send); /* octets that still leave are a sign of life */
	else
		lost(l, LINK_TIMEOUT);
}

static const struct stream_events link_stream_events = {
	.on_connect = link_connected,
	.on_bytes = link_bytes,
	.on_end = link_end,
	.on_quiet = link_quiet,
	.on_drained = link_drained,
	.on_broken = link_broken,
	.on_closed = link_closed,
};
