/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One connection: dialling, the deadline of each stage, input up to whole replies, its end. What
 * the replies mean is talk.c's.
 */
#include "bench/blast/blast_int.h"

const char *const stage_names[STAGE_COUNT] = {
#define X(id, name) name,
	STAGES(X)
#undef X
};

#define CLOSE_WAIT_MS 1000

/* ---- stages and their deadlines ---- */

/* The timer is moved only when it would come too late: most replies only push `due_ms` on. */
static void deadline(struct client *c, uint64_t ms)
{
	struct blast *b = c->blast;

	c->due_ms = rig_now_ms(&b->rig) + ms;
	if (!timer_armed(&c->timer) || c->timer.at_ms > c->due_ms)
		timer_set(&b->rig.timers, &c->timer, c->due_ms);
}

void client_deadline(struct client *c)
{
	deadline(c, c->blast->opt.timeout_us / 1000);
}

void client_put(struct client *c, struct span data)
{
	if (c->drip)
		drip_put(c, data);
	else
		stream_put(&c->st, data);
}

void client_enter(struct client *c, enum stage st)
{
	c->stage = (uint8_t)st;
	deadline(c, st == ST_CLOSE ? CLOSE_WAIT_MS : c->blast->opt.timeout_us / 1000);
}

void client_rest(struct client *c)
{
	struct blast *b = c->blast;

	c->stage = ST_WARM;
	timer_stop(&b->rig.timers, &c->timer);
	list_push_back(&b->warm[c->role], &c->node);
}

enum stage client_seen_stage(const struct client *c)
{
	if (c->stage != ST_DOT && c->stage != ST_BDAT)
		return (enum stage)c->stage;
	if (c->body || !stream_flushed(&c->st))
		return ST_BODY;
	return c->stage == ST_DOT || c->chunks <= 1 ? ST_DOT : ST_BDAT;
}

/* ---- what becomes of a message ---- */

struct tally *client_tally(const struct client *c)
{
	struct blast *b = c->blast;

	switch (c->role) {
	case ROLE_SLOW:
		return &b->tally[PART_SLOW];
	case ROLE_IDLE:
		return &b->tally[PART_IDLE];
	default:
		return &b->tally[b->window.phase];
	}
}

static void log_message(const struct client *c, enum outcome o, const char *stage, uint16_t code)
{
	char id[CONTENT_ID_BYTES];

	if (!c->blast->log)
		return;
	maker_id(c->maker, c->message, id);
	fprintf(c->blast->log, "%s %s %s %u\n", id, outcome_words[o], stage, code);
}

void client_message_over(struct client *c, enum outcome o, enum stage st, const char *why,
	uint16_t code, const char *text)
{
	struct tally *t = client_tally(c);

	ASSERT(c->busy);
	c->busy = false;
	if (o == OUT_ACCEPTED) {
		hist_add(&t->latency, now_us(c->blast) - c->start_us);
		t->bytes += maker_bytes(c->maker);
	}
	log_message(c, o, stage_names[st], code);
	tally_add(t, o, stage_names[st], why, code, span_str(text));
}

/* ---- its end ---- */

void client_drop(struct client *c)
{
	if (c->stage != ST_CLOSE && !c->greeted)
		c->blast->connecting--;
	c->stage = ST_CLOSE;
	stream_close(&c->st);
}

void client_cut(struct client *c)
{
	c->busy = false;
	list_remove(&c->node);
	client_drop(c);
}

/* It cost the message, or the session that should have become idle. */
static void count_failure(struct client *c, enum stage st, const char *why)
{
	struct tally *t = client_tally(c);

	c->lost = true;
	if (st == ST_CONNECT) {
		t->connect_failed++;
		c->blast->fails_in_row++;
	}
	if (st == ST_WARM)
		t->idle_lost++;
	if (c->busy)
		client_message_over(c, OUT_FAILED, st, why, 0, "");
	else if (c->role == ROLE_IDLE && st < ST_MAIL)
		tally_add(t, OUT_FAILED, stage_names[st], why, 0, SPAN_NONE);
}

void client_fail(struct client *c, const char *why)
{
	if (c->stage != ST_CLOSE) {
		count_failure(c, client_seen_stage(c), why);
		list_remove(&c->node);
	}
	client_drop(c);
}

/* ---- input ---- */

/* Takes complete replies off `in`; octets used. */
static size_t read_replies(struct client *c, struct span in)
{
	size_t at = 0, used;
	struct smtp_reply r;

	while (at < in.n && c->stage != ST_CLOSE && c->stage != ST_COLD) {
		enum reply_res res = smtp_reply_scan(span_drop(in, at), &c->scan, &r, &used);

		if (res == REPLY_MORE)
			return at;
		memset(&c->scan, 0, sizeof(c->scan));
		if (res != REPLY_OK) {
			client_fail(c, reply_res_text(res));
			return in.n;
		}
		at += used;
		talk_reply(c, &r);
		if (c->stage == ST_HANDSHAKE) {
			/* What came in clear was not sealed by anybody: it must not be read as if
			 * it were. */
			if (at < in.n)
				client_fail(c, "octets behind the reply to STARTTLS");
			else
				secure_begin(c);
			return in.n;
		}
	}
	return in.n;
}

static void on_bytes(struct stream *st, struct span data, int32_t buf)
{
	struct client *c = CONTAINER_OF(st, struct client, st);
	struct stash_pools *pools = &c->blast->rig.stashes;

	if (c->stash.len == 0)
		data = span_drop(data, read_replies(c, data));
	while (data.n && c->stage != ST_CLOSE) {
		/* Rarely: a reply came in pieces. A whole reply fits, and what is behind it comes
		 * next. */
		size_t n = MIN_OF(data.n, STASH_LARGE_BYTES - c->stash.len);

		if (n == 0 || !stash_add(&c->stash, pools, span_of(data.p, n))) {
			client_fail(c, "too many octets of replies");
			return;
		}
		data = span_drop(data, n);
		stash_drop(&c->stash, pools, read_replies(c, stash_span(&c->stash)));
	}
	if (c->drip && c->stage != ST_CLOSE)
		stream_read(st, false); /* until the next beat */
}

static void on_end(struct stream *st, enum ring_res why)
{
	struct client *c = CONTAINER_OF(st, struct client, st);

	client_fail(c, secure_why(c, why));
}

static void on_drained(struct stream *st)
{
	struct client *c = CONTAINER_OF(st, struct client, st);

	if (c->body)
		client_deadline(c); /* a long body is no long wait for a reply */
	body_pump(c);
}

static void on_broken(struct stream *st, enum ring_res why)
{
	/* A reply may be waiting to be read that says why: the end of input, or the deadline,
	 * comes. */
	struct client *c = CONTAINER_OF(st, struct client, st);

	if (c->stage == ST_CLOSE)
		client_drop(c);
	else if (why == RING_PROTO)
		client_fail(c, secure_why(c, why));
}

static void on_connect(struct stream *st, enum ring_res res)
{
	struct client *c = CONTAINER_OF(st, struct client, st);

	if (res != RING_OK) {
		client_fail(c, ring_res_word(res));
		return;
	}
	client_tally(c)->connected++;
	c->blast->fails_in_row = 0;
	if (c->blast->opt.tls)
		secure_begin(c);
	else
		client_enter(c, ST_GREETING);
	if (c->stage == ST_CLOSE)
		return;
	if (c->drip)
		drip_begin(c);
	else
		stream_read(st, true);
}

static void on_open(struct stream *st)
{
	struct client *c = CONTAINER_OF(st, struct client, st);

	if (c->stage != ST_HANDSHAKE)
		return;
	secure_opened(c);
	if (c->greeted)
		talk_hello(c);
	else
		client_enter(c, ST_GREETING);
}

/* Its connection is gone. */
static void cool(struct client *c)
{
	struct blast *b = c->blast;

	c->stage = ST_COLD;
	b->active[c->role]--;
	timer_stop(&b->rig.timers, &c->timer);
	if (c->drip)
		drip_end(c);
	if (c->lost && b->opt.retry_us)
		timer_set(&b->rig.timers, &c->timer, rig_now_ms(&b->rig) + b->opt.retry_us / 1000);
	else
		list_push_back(&b->cold[c->role], &c->node);
}

static void on_closed(struct stream *st)
{
	struct client *c = CONTAINER_OF(st, struct client, st);

	stash_clear(&c->stash, &c->blast->rig.stashes);
	secure_end(c);
	cool(c);
}

static const struct stream_events client_events = {
	.on_connect = on_connect,
	.on_bytes = on_bytes,
	.on_end = on_end,
	.on_drained = on_drained,
	.on_broken = on_broken,
	.on_open = on_open,
	.on_closed = on_closed,
};

static void on_timer(struct timer *t)
{
	struct client *c = CONTAINER_OF(t, struct client, timer);
	struct blast *b = c->blast;

	if (c->stage == ST_COLD)
		list_push_back(&b->cold[c->role], &c->node); /* the pause after a failure is over */
	else if (c->due_ms > rig_now_ms(&b->rig))
		timer_set(&b->rig.timers, t, c->due_ms);
	else
		client_fail(c, "timeout");
}

/* ---- its beginning ---- */

void client_init(struct client *c, struct blast *b, enum role role)
{
	c->blast = b;
	c->role = (uint8_t)role;
	list_init(&c->node);
	timer_init(&c->timer, on_timer);
	list_push_back(&b->cold[role], &c->node);
}

static enum ring_res dial(struct client *c)
{
	struct blast *b = c->blast;
	const struct blast_options *o = &b->opt;
	struct ring_addr src;

	if (o->sources.count)
		sources_at(&o->sources, c->number, &src);
	return stream_dial(
		&c->st, &b->rig.streams, &client_events, &o->to, o->sources.count ? &src : NULL);
}

void client_dial(struct client *c)
{
	struct blast *b = c->blast;

	c->number = b->next_number++;
	c->on_conn = 0;
	c->bad_code = 0;
	c->quit_sent = c->body = c->open = c->lost = c->greeted = false;
	memset(&c->scan, 0, sizeof(c->scan));
	c->dialed_us = now_us(b);
	b->active[c->role]++;
	b->connecting++;
	client_enter(c, ST_CONNECT);
	enum ring_res res = dial(c);
	if (res == RING_OK)
		return;
	/* The stream is closed already: no on_closed() will come. */
	b->connecting--;
	count_failure(c, ST_CONNECT, ring_res_word(res));
	cool(c);
}
