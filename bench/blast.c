/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-blast: an SMTP client that sends made-up messages as fast as it is let (closed loop), by
 * a schedule that does not wait for answers (--rate), or holds idle sessions (--idle). One thread,
 * one ring.
 *
 * Each connection is a slot: cold (none), busy with one message, or warm (open, nothing to do). A
 * message is taken before its connection is opened, so a connection that fails costs the message
 * and every run ends: each wait for a reply has a deadline, and after --give-up failed connections
 * in a row nothing new is begun.
 *
 * Never ahead of what RFC 2920 allows: a pipelining group ends with DATA; the body, its dot and
 * QUIT are the next one. BDAT chunks may follow at once (RFC 3030 4.2). PIPELINING not offered:
 * lock-step, noted in the report.
 *
 * Failures: start: see lib/rig.h. Exit 0: all messages accepted; 1: not all.
 */
#include "bench/lib/content.h"
#include "bench/lib/opts.h"
#include "bench/lib/rig.h"
#include "bench/lib/tally.h"
#include "engine/smtp/ehlo.h"
#include "engine/smtp/line.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <unistd.h>

#define PROGRAM "ringpost-blast"
#define SOURCES_MAX 64
#define CONNECTING_MAX 256 /* dials under way: more only overflow the listener's queue */
#define CELLS_EACH 28	   /* staged at once: above STREAM_HIGH_BYTES by a piece, in 4 KiB cells */
#define PIECE_BYTES (32u << 10)
#define COMMAND_BYTES 1536
#define CLOSE_WAIT_MS 1000
#define PROGRESS_US 500000

/* What a connection waits for. */
#define STAGES(X)                  \
	X(ST_COLD, "cold")         \
	X(ST_CONNECT, "connect")   \
	X(ST_GREETING, "greeting") \
	X(ST_EHLO, "ehlo")         \
	X(ST_MAIL, "mail")         \
	X(ST_RCPT, "rcpt")         \
	X(ST_DATA, "data")         \
	X(ST_BODY, "body")         \
	X(ST_BDAT, "bdat")         \
	X(ST_DOT, "dot")           \
	X(ST_RSET, "rset")         \
	X(ST_QUIT, "quit")         \
	X(ST_CLOSE, "close")       \
	X(ST_WARM, "idle")

enum stage {
#define X(id, name) id,
	STAGES(X)
#undef X
		STAGE_COUNT
};

static const char *const stage_names[STAGE_COUNT] = {
#define X(id, name) name,
	STAGES(X)
#undef X
};

struct blast;

/* One slot. */
struct client {
	struct stream st;
	struct blast *blast;
	struct list node; /* in cold or warm, or in none */
	struct stash stash;
	struct reply_scan scan;
	struct timer timer; /* of the stage; of the pause while cold */
	uint64_t due_ms;
	uint64_t number; /* of the connection */
	uint64_t dialed_us, start_us;
	uint64_t message; /* number */
	size_t pos, end;  /* body octets handed to the stream; end of the chunk (of the body) */
	uint32_t on_conn; /* messages begun on this connection */
	uint32_t rcpt_at, rcpts_ok;
	uint32_t chunks;   /* BDAT replies to come */
	uint16_t bad_code; /* the reply that refused the message */
	uint8_t bad_stage, stage;
	bool busy; /* has a message */
	bool pipelining;
	bool open; /* the server holds a transaction */
	bool body; /* the body is on its way */
	bool quit_sent, lost;
	char bad_text[TALLY_TEXT_BYTES];
	char head[MAKER_HEAD_BYTES];
	size_t head_len;
};

struct blast {
	struct rig rig;
	struct client *clients; /* owns; connections of them */
	struct list cold, warm;
	struct maker maker;
	struct tally tally;
	uint64_t started, total;	     /* messages taken; to take */
	uint64_t began_us, ended_us, end_us; /* end_us: nothing is begun after it */
	uint64_t active, connecting, fails_in_row, next_number;
	uint64_t warm_count;
	uint64_t progress_us, progress_count;
	char *group; /* MAIL, RCPTs and DATA when they are the same for each message; owns */
	size_t group_len;
	struct ring_addr to, source[SOURCES_MAX];
	unsigned source_count;
	FILE *log;
	bool gave_up, idle_full, tty;
	/* options */
	const char *to_text, *from, *rcpt, *parameters, *helo, *run, *log_file;
	uint64_t connections, messages, duration_us, per_connection, size, chunk, recipients, idle,
		timeout_us, retry_us, give_up, cpu;
	double rate;
	bool pipelining, bdat, hash, json, quiet;
};

static void next_step(struct client *c);
static void pump_body(struct client *c);

static uint64_t now_us(const struct blast *b)
{
	return rig_now_us(&b->rig);
}

/* ---- stages and their deadlines ---- */

/* The timer is moved only when it would come too late: most replies only push `due_ms` on. */
static void deadline(struct client *c, uint64_t ms)
{
	struct blast *b = c->blast;

	c->due_ms = rig_now_ms(&b->rig) + ms;
	if (!timer_armed(&c->timer) || c->timer.at_ms > c->due_ms)
		timer_set(&b->rig.timers, &c->timer, c->due_ms);
}

static void enter(struct client *c, enum stage st)
{
	c->stage = (uint8_t)st;
	if (st == ST_WARM)
		timer_stop(&c->blast->rig.timers, &c->timer);
	else
		deadline(c, st == ST_CLOSE ? CLOSE_WAIT_MS : c->blast->timeout_us / 1000);
}

/* What the outside would call the stage: the body is still on its way, or its answer is awaited. */
static enum stage seen_stage(const struct client *c)
{
	if (c->stage != ST_DOT && c->stage != ST_BDAT)
		return (enum stage)c->stage;
	if (c->body || !stream_flushed(&c->st))
		return ST_BODY;
	return c->stage == ST_DOT || c->chunks <= 1 ? ST_DOT : ST_BDAT;
}

/* ---- what becomes of a message ---- */

static void log_message(const struct client *c, enum outcome o, const char *stage, uint16_t code)
{
	char id[CONTENT_ID_BYTES];

	if (!c->blast->log)
		return;
	maker_id(&c->blast->maker, c->message, id);
	fprintf(c->blast->log, "%s %s %s %u\n", id, outcome_words[o], stage, code);
}

static void message_over(struct client *c, enum outcome o, enum stage st, const char *why,
	uint16_t code, const char *text)
{
	struct blast *b = c->blast;

	ASSERT(c->busy);
	c->busy = false;
	if (o == OUT_ACCEPTED)
		hist_add(&b->tally.latency, now_us(b) - c->start_us);
	log_message(c, o, stage_names[st], code);
	tally_add(&b->tally, o, stage_names[st], why, code, span_str(text));
}

/* The connection is of no use any more. */
static void drop(struct client *c)
{
	if (c->stage == ST_CONNECT || c->stage == ST_GREETING)
		c->blast->connecting--;
	c->stage = ST_CLOSE;
	stream_close(&c->st);
}

/* It broke, or took too long. */
static void fail(struct client *c, const char *why)
{
	struct blast *b = c->blast;
	enum stage st = seen_stage(c);

	if (c->stage == ST_CLOSE) {
		drop(c);
		return;
	}
	c->lost = true;
	if (st == ST_CONNECT) {
		b->tally.connect_failed++;
		b->fails_in_row++;
	}
	if (st == ST_WARM)
		b->tally.idle_lost++;
	if (c->busy)
		message_over(c, OUT_FAILED, st, why, 0, "");
	else if (b->idle && st < ST_MAIL)
		tally_add(&b->tally, OUT_FAILED, stage_names[st], why, 0, SPAN_NONE);
	list_remove(&c->node);
	drop(c);
}

/* The first refusal decides what a message is counted as. */
static void note_bad(struct client *c, enum stage st, const struct smtp_reply *r)
{
	size_t n = MIN_OF(r->text.n, sizeof(c->bad_text) - 1);

	if (c->bad_code)
		return;
	c->bad_code = r->code;
	c->bad_stage = (uint8_t)st;
	memcpy(c->bad_text, r->text.p, n);
	c->bad_text[n] = '\0';
}

static void message_rejected(struct client *c)
{
	message_over(c, OUT_REJECTED, (enum stage)c->bad_stage, NULL, c->bad_code, c->bad_text);
}

/* ---- commands ---- */

static void put_format(struct client *c, const char *format, ...) PRINTF_LIKE(2, 3);
static void put_format(struct client *c, const char *format, ...)
{
	char text[COMMAND_BYTES];
	va_list ap;

	va_start(ap, format);
	int n = vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	ASSERT(n > 0 && (size_t)n < sizeof(text));
	stream_put(&c->st, span_of(text, (size_t)n));
}

/* Templates were tried at start with the largest numbers, so they fit. */
static const char *address(
	const struct client *c, const char *tmpl, uint64_t rcpt, char out[COMMAND_BYTES])
{
	bool fits = template_expand(tmpl, c->message, rcpt, c->number, out, COMMAND_BYTES - 512);

	ASSERT(fits);
	return out;
}

static void put_mail(struct client *c)
{
	const char *more = c->blast->parameters;
	char from[COMMAND_BYTES];

	put_format(c, "MAIL FROM:<%s>%s%s\r\n", address(c, c->blast->from, 0, from),
		*more ? " " : "", more);
}

static void put_rcpt(struct client *c, uint64_t i)
{
	char rcpt[COMMAND_BYTES];

	put_format(c, "RCPT TO:<%s>\r\n", address(c, c->blast->rcpt, i, rcpt));
}

static void put_quit(struct client *c)
{
	stream_put(&c->st, SPAN_LIT("QUIT\r\n"));
	c->quit_sent = true;
}

/* ---- bodies ---- */

static size_t body_bytes(const struct client *c)
{
	const struct maker *m = &c->blast->maker;

	return c->head_len + (c->blast->bdat ? m->raw_len : m->wire_len);
}

/* Octets from c->pos on that lie together, at most to c->end. */
static struct span body_piece(const struct client *c)
{
	const struct maker *m = &c->blast->maker;
	size_t left = MIN_OF(c->end - c->pos, PIECE_BYTES);

	if (c->pos < c->head_len)
		return span_of(c->head + c->pos, MIN_OF(left, c->head_len - c->pos));
	return span_of((c->blast->bdat ? m->raw : m->wire) + (c->pos - c->head_len), left);
}

/* Nothing more will be asked of this connection: QUIT can go with the end of the body. */
static bool last_on_connection(const struct client *c)
{
	const struct blast *b = c->blast;

	return (b->per_connection && c->on_conn >= b->per_connection) || b->started >= b->total;
}

static void chunk_next(struct client *c)
{
	const struct blast *b = c->blast;
	size_t left = body_bytes(c) - c->pos;
	size_t n = b->chunk ? MIN_OF(b->chunk, left) : left;

	put_format(c, "BDAT %zu%s\r\n", n, n == left ? " LAST" : "");
	c->end = c->pos + n;
	c->chunks++;
}

static void body_sent(struct client *c)
{
	c->body = false;
	if (c->pipelining && last_on_connection(c))
		put_quit(c);
}

/* As much as the stream should hold; goes on in on_drained(). */
static void pump_body(struct client *c)
{
	while (c->body && stream_backlog(&c->st) <= STREAM_HIGH_BYTES) {
		if (c->pos < c->end) {
			struct span piece = body_piece(c);

			stream_put(&c->st, piece);
			c->pos += piece.n;
		} else if (c->end == body_bytes(c)) {
			body_sent(c);
		} else if (c->pipelining) {
			chunk_next(c);
		} else {
			return; /* the next chunk waits for the reply to this one */
		}
	}
}

static void body_start(struct client *c)
{
	c->pos = c->end = c->chunks = 0;
	c->head_len = c->blast->hash ? maker_head(&c->blast->maker, c->message, c->head) : 0;
	c->body = true;
	if (c->blast->bdat)
		chunk_next(c);
	else
		c->end = body_bytes(c);
	pump_body(c);
}

/* ---- messages ---- */

static void message_begin(struct client *c)
{
	struct blast *b = c->blast;

	c->bad_code = 0;
	c->rcpt_at = c->rcpts_ok = 0;
	c->open = c->body = false;
	c->on_conn++;
	if (b->rate == 0)
		c->start_us = now_us(b);
	enter(c, ST_MAIL);
	if (!c->pipelining) {
		put_mail(c);
		return;
	}
	if (b->group) {
		stream_put(&c->st, span_of(b->group, b->group_len));
	} else {
		put_mail(c);
		for (uint64_t i = 0; i < b->recipients; i++)
			put_rcpt(c, i);
		if (!b->bdat)
			stream_put(&c->st, SPAN_LIT("DATA\r\n"));
	}
	if (b->bdat)
		body_start(c);
}

static uint64_t scheduled_us(const struct blast *b, uint64_t message)
{
	return b->began_us + (uint64_t)((double)message / b->rate * 1e6);
}

/* A message may be begun now. */
static bool due(const struct blast *b)
{
	if (b->started >= b->total || b->gave_up || rig_stopped() || now_us(b) >= b->end_us)
		return false;
	return b->rate == 0 || scheduled_us(b, b->started) <= now_us(b);
}

/* Nothing will be begun any more. */
static bool all_begun(const struct blast *b)
{
	return b->started >= b->total || b->gave_up || rig_stopped() || now_us(b) >= b->end_us;
}

static void take_message(struct client *c)
{
	struct blast *b = c->blast;

	c->message = b->started++;
	c->busy = !b->idle;
	if (b->rate > 0)
		c->start_us = scheduled_us(b, c->message);
}

/* The transaction is over: reset what the server still holds, go on, or leave. */
static void next_step(struct client *c)
{
	struct blast *b = c->blast;

	if (c->quit_sent) {
		enter(c, ST_QUIT);
	} else if (c->open) {
		stream_put(&c->st, SPAN_LIT("RSET\r\n"));
		enter(c, ST_RSET);
	} else if ((b->per_connection && c->on_conn >= b->per_connection) || all_begun(b)) {
		put_quit(c);
		enter(c, ST_QUIT);
	} else if (due(b)) {
		take_message(c);
		message_begin(c);
	} else {
		enter(c, ST_WARM);
		list_push_back(&b->warm, &c->node);
	}
}

/* ---- replies: one handler for each stage ---- */

typedef void reply_handler(struct client *c, const struct smtp_reply *r);

static bool positive(const struct smtp_reply *r)
{
	return r->code / 100 == 2;
}

/* Before any message could be sent. */
static void refused_early(struct client *c, const struct smtp_reply *r)
{
	enum stage st = (enum stage)c->stage;

	note_bad(c, st, r);
	if (c->busy)
		message_rejected(c);
	else
		tally_add(&c->blast->tally, OUT_REJECTED, stage_names[st], NULL, r->code, r->text);
	drop(c);
}

static void on_greeting(struct client *c, const struct smtp_reply *r)
{
	struct blast *b = c->blast;

	hist_add(&b->tally.greeting, now_us(b) - c->dialed_us);
	c->bad_code = 0;
	if (r->code != 220) {
		refused_early(c, r);
		return;
	}
	b->connecting--;
	enter(c, ST_EHLO);
	put_format(c, "EHLO %s\r\n", b->helo);
}

static void on_ehlo(struct client *c, const struct smtp_reply *r)
{
	struct blast *b = c->blast;
	struct ehlo_caps caps;

	if (!positive(r)) {
		refused_early(c, r);
		return;
	}
	smtp_ehlo_read(r, &caps);
	c->pipelining = b->pipelining && caps_has(&caps, EXT_PIPELINING);
	b->tally.lockstep += b->pipelining && !c->pipelining;
	if (b->bdat && !caps_has(&caps, EXT_CHUNKING)) {
		fail(c, "CHUNKING is not offered");
	} else if (b->idle) {
		enter(c, ST_WARM);
		list_push_back(&b->warm, &c->node);
		b->warm_count++;
	} else {
		message_begin(c);
	}
}

static void rejected_in_lockstep(struct client *c)
{
	message_rejected(c);
	next_step(c);
}

static void on_mail(struct client *c, const struct smtp_reply *r)
{
	c->open = positive(r);
	if (!c->open)
		note_bad(c, ST_MAIL, r);
	if (!c->open && !c->pipelining) {
		rejected_in_lockstep(c);
		return;
	}
	enter(c, ST_RCPT);
	if (!c->pipelining)
		put_rcpt(c, 0);
}

/* All recipients were answered. */
static void after_rcpts(struct client *c)
{
	const struct blast *b = c->blast;

	if (!c->pipelining && c->rcpts_ok == 0) {
		rejected_in_lockstep(c);
		return;
	}
	enter(c, b->bdat ? ST_BDAT : ST_DATA);
	if (c->pipelining)
		return; /* sent already */
	if (b->bdat)
		body_start(c);
	else
		stream_put(&c->st, SPAN_LIT("DATA\r\n"));
}

static void on_rcpt(struct client *c, const struct smtp_reply *r)
{
	struct blast *b = c->blast;

	if (positive(r)) {
		c->rcpts_ok++;
	} else {
		b->tally.rcpts_refused++;
		if (c->rcpts_ok == 0 && c->rcpt_at + 1 == b->recipients)
			note_bad(c, ST_RCPT, r);
	}
	if (++c->rcpt_at == b->recipients)
		after_rcpts(c);
	else if (!c->pipelining)
		put_rcpt(c, c->rcpt_at);
}

static void on_data(struct client *c, const struct smtp_reply *r)
{
	if (r->code != 354) {
		note_bad(c, ST_DATA, r);
		message_rejected(c);
		next_step(c);
		return;
	}
	enter(c, ST_DOT);
	if (c->bad_code) /* RFC 2920 3.1: a server that takes DATA without recipients gets an empty
			    message */
		stream_put(&c->st, SPAN_LIT(".\r\n"));
	else
		body_start(c);
}

static void message_answered(struct client *c, const struct smtp_reply *r)
{
	c->open = false;
	if (!positive(r))
		note_bad(c, ST_DOT, r);
	if (c->bad_code)
		message_rejected(c);
	else
		message_over(c, OUT_ACCEPTED, ST_DOT, NULL, r->code, "");
	next_step(c);
}

static void on_dot(struct client *c, const struct smtp_reply *r)
{
	if (!c->body) {
		message_answered(c, r);
		return;
	}
	/* An answer in mid-body: there is no way to end it but to leave. */
	note_bad(c, ST_BODY, r);
	message_rejected(c);
	drop(c);
}

static void on_bdat(struct client *c, const struct smtp_reply *r)
{
	bool whole = !c->body && c->chunks == 1;

	if (whole) {
		c->chunks = 0;
		c->open = !positive(r) && c->open;
		if (!positive(r))
			note_bad(c, ST_DOT, r);
		if (c->bad_code)
			message_rejected(c);
		else
			message_over(c, OUT_ACCEPTED, ST_DOT, NULL, r->code, "");
		next_step(c);
		return;
	}
	c->chunks--;
	if (!positive(r))
		note_bad(c, ST_BDAT, r);
	enter(c, ST_BDAT);
	if (c->pipelining)
		return;
	if (c->bad_code) {
		c->body = false;
		rejected_in_lockstep(c);
	} else if (c->pos == c->end) {
		chunk_next(c);
		pump_body(c);
	}
}

static void on_rset(struct client *c, const struct smtp_reply *r)
{
	c->open = false;
	if (positive(r))
		next_step(c);
	else
		drop(c);
}

static void on_quit(struct client *c, const struct smtp_reply *r)
{
	enter(c, ST_CLOSE); /* the server closes first: TIME_WAIT is on its side */
}

static reply_handler *const on_reply[STAGE_COUNT] = {
	[ST_GREETING] = on_greeting,
	[ST_EHLO] = on_ehlo,
	[ST_MAIL] = on_mail,
	[ST_RCPT] = on_rcpt,
	[ST_DATA] = on_data,
	[ST_BDAT] = on_bdat,
	[ST_DOT] = on_dot,
	[ST_RSET] = on_rset,
	[ST_QUIT] = on_quit,
};

static void reply(struct client *c, const struct smtp_reply *r)
{
	if (r->code != 421 || c->stage == ST_GREETING) {
		if (on_reply[c->stage])
			on_reply[c->stage](c, r);
		else
			fail(c, "a reply that nothing asked for");
		return;
	}
	if (!c->busy) {
		fail(c, "421");
		return;
	}
	note_bad(c, seen_stage(c), r);
	message_rejected(c);
	drop(c);
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
			fail(c, reply_res_text(res));
			return in.n;
		}
		at += used;
		reply(c, &r);
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
			fail(c, "too many octets of replies");
			return;
		}
		data = span_drop(data, n);
		stash_drop(&c->stash, pools, read_replies(c, stash_span(&c->stash)));
	}
}

static void on_end(struct stream *st, enum ring_res why)
{
	struct client *c = CONTAINER_OF(st, struct client, st);

	fail(c, why == RING_EOF ? "closed by the server" : ring_res_word(why));
}

static void on_drained(struct stream *st)
{
	pump_body(CONTAINER_OF(st, struct client, st));
}

static void on_broken(struct stream *st, enum ring_res why)
{
	/* A reply may be waiting to be read that says why: the end of input, or the deadline,
	 * comes. */
	struct client *c = CONTAINER_OF(st, struct client, st);

	if (c->stage == ST_CLOSE)
		drop(c);
}

static void on_connect(struct stream *st, enum ring_res res)
{
	struct client *c = CONTAINER_OF(st, struct client, st);

	if (res != RING_OK) {
		fail(c, ring_res_word(res));
		return;
	}
	c->blast->tally.connected++;
	c->blast->fails_in_row = 0;
	enter(c, ST_GREETING);
	stream_read(st, true);
}

static void cool(struct client *c)
{
	struct blast *b = c->blast;

	c->stage = ST_COLD;
	b->active--;
	timer_stop(&b->rig.timers, &c->timer);
	if (c->lost && b->retry_us)
		timer_set(&b->rig.timers, &c->timer, rig_now_ms(&b->rig) + b->retry_us / 1000);
	else
		list_push_back(&b->cold, &c->node);
}

static void on_closed(struct stream *st)
{
	struct client *c = CONTAINER_OF(st, struct client, st);

	stash_clear(&c->stash, &c->blast->rig.stashes);
	cool(c);
}

static const struct stream_events client_events = {
	.on_connect = on_connect,
	.on_bytes = on_bytes,
	.on_end = on_end,
	.on_drained = on_drained,
	.on_broken = on_broken,
	.on_closed = on_closed,
};

static void on_timer(struct timer *t)
{
	struct client *c = CONTAINER_OF(t, struct client, timer);
	struct blast *b = c->blast;

	if (c->stage == ST_COLD)
		list_push_back(&b->cold, &c->node); /* the pause after a failure is over */
	else if (c->due_ms > rig_now_ms(&b->rig))
		timer_set(&b->rig.timers, t, c->due_ms);
	else
		fail(c, "timeout");
}

/* ---- the run ---- */

static void dial(struct client *c)
{
	struct blast *b = c->blast;
	const struct ring_addr *src = NULL;

	take_message(c);
	c->number = b->next_number++;
	if (b->source_count)
		src = &b->source[c->number % b->source_count];
	c->on_conn = 0;
	c->quit_sent = c->lost = c->body = c->open = false;
	memset(&c->scan, 0, sizeof(c->scan));
	c->dialed_us = c->start_us = b->rate > 0 && !b->idle ? c->start_us : now_us(b);
	c->dialed_us = now_us(b);
	b->active++;
	b->connecting++;
	enter(c, ST_CONNECT);
	enum ring_res res = stream_dial(&c->st, &b->rig.streams, &client_events, &b->to, src);
	if (res == RING_OK)
		return;
	/* The stream is closed already: no on_closed() will come. */
	b->connecting--;
	b->tally.connect_failed++;
	b->fails_in_row++;
	c->lost = true;
	if (c->busy)
		message_over(c, OUT_FAILED, ST_CONNECT, ring_res_word(res), 0, "");
	else
		tally_add(&b->tally, OUT_FAILED, stage_names[ST_CONNECT], ring_res_word(res), 0,
			SPAN_NONE);
	cool(c);
}

static bool can_begin(const struct blast *b)
{
	if (!list_empty(&b->warm) && !b->idle)
		return true;
	return !list_empty(&b->cold) && b->connecting < CONNECTING_MAX;
}

static void begin_what_is_due(struct blast *b)
{
	while (due(b) && can_begin(b)) {
		struct list *n = b->idle ? NULL : list_pop_front(&b->warm);

		if (n) {
			struct client *c = CONTAINER_OF(n, struct client, node);

			take_message(c);
			message_begin(c);
		} else {
			dial(CONTAINER_OF(list_pop_front(&b->cold), struct client, node));
		}
	}
	if (b->give_up && b->fails_in_row >= b->give_up)
		b->gave_up = true;
}

/* Warm connections that will not be needed any more. */
static void dismiss_warm(struct blast *b)
{
	struct list *n;

	while ((n = list_pop_front(&b->warm)) != NULL) {
		struct client *c = CONTAINER_OF(n, struct client, node);

		put_quit(c);
		enter(c, ST_QUIT);
	}
}

/* --idle: once all are open (or have failed) the time starts. */
static void mind_idle(struct blast *b)
{
	bool opening = !all_begun(b) || b->connecting ||
		       b->warm_count + b->tally.count[OUT_FAILED] + b->tally.count[OUT_REJECTED] <
			       b->started;

	if (!b->idle_full && !opening) {
		b->idle_full = true;
		b->end_us = now_us(b) + b->duration_us;
		if (!b->quiet && !b->json) {
			printf("idle: %" PRIu64 " sessions open\n", b->warm_count);
			fflush(stdout);
		}
	}
	if (rig_stopped() || (b->idle_full && now_us(b) >= b->end_us))
		dismiss_warm(b);
}

static void progress(struct blast *b)
{
	uint64_t n = b->tally.count[OUT_ACCEPTED] + b->tally.count[OUT_REJECTED] +
		     b->tally.count[OUT_FAILED];
	uint64_t now = now_us(b), took = now - b->progress_us;

	if (!b->tty || took < PROGRESS_US)
		return;
	double rate = (double)(n - b->progress_count) / ((double)took / 1e6);
	double mean = (double)n / ((double)(now - b->began_us) / 1e6);
	double eta = b->total != UINT64_MAX && mean > 0 ? (double)(b->total - n) / mean : 1e9;

	if (b->end_us != UINT64_MAX && !b->idle)
		eta = MIN_OF(eta, b->end_us > now ? (double)(b->end_us - now) / 1e6 : 0);
	fprintf(stderr, "\r%" PRIu64 " done  %.0f/s  %" PRIu64 " connections", n, rate, b->active);
	if (eta < 1e8)
		fprintf(stderr, "  %.0f s left", eta);
	fprintf(stderr, "\033[K");
	b->progress_us = now;
	b->progress_count = n;
}

/* When something is to be done even if nothing happens. */
static uint64_t wake_us(const struct blast *b)
{
	uint64_t at = b->tty ? b->progress_us + PROGRESS_US : UINT64_MAX;

	if (due(b) && can_begin(b))
		return 0;
	if (!all_begun(b) && b->rate > 0)
		at = MIN_OF(at, MAX_OF(scheduled_us(b, b->started), now_us(b) + 1));
	if (b->end_us > now_us(b))
		at = MIN_OF(at, b->end_us);
	return at;
}

static void stop_all(struct blast *b)
{
	for (uint64_t i = 0; i < b->connections; i++) {
		struct client *c = &b->clients[i];

		if (c->stage != ST_COLD && c->stage != ST_CLOSE)
			fail(c, "stopped by a signal");
	}
}

static bool over(const struct blast *b)
{
	return b->active == 0 && (b->idle ? b->idle_full || rig_stopped() : all_begun(b));
}

static void run(struct blast *b)
{
	bool stopped = false;

	for (;;) {
		begin_what_is_due(b);
		if (b->idle)
			mind_idle(b);
		else if (all_begun(b))
			dismiss_warm(b);
		if (rig_stopped() && !stopped) {
			stopped = true;
			stop_all(b);
		}
		streams_flush(&b->rig.streams);
		if (over(b))
			break;
		rig_turn(&b->rig, wake_us(b));
		progress(b);
	}
	if (b->tty)
		fprintf(stderr, "\r\033[K");
}

/* ---- options ---- */

static bool opt_to(void *ctx, const struct opt *row, const char *arg)
{
	struct blast *b = ctx;

	b->to_text = arg;
	return addr_parse(span_str(arg), &b->to);
}

/* ADDR[,ADDR...]: addresses without ports; the kernel chooses those. */
static bool opt_source(void *ctx, const struct opt *row, const char *arg)
{
	struct blast *b = ctx;

	while (*arg) {
		size_t n = strcspn(arg, ",");
		char text[ADDR_TEXT_BYTES];
		bool v6 = memchr(arg, ':', n) != NULL;

		if (b->source_count == SOURCES_MAX || n == 0 || n > 100)
			return false;
		snprintf(text, sizeof(text), v6 ? "[%.*s]:0" : "%.*s:0", (int)n, arg);
		if (!addr_parse(span_str(text), &b->source[b->source_count++]))
			return false;
		arg += n + (arg[n] == ',');
	}
	return b->source_count > 0;
}

static const char about[] = "Sends made-up messages and measures how they are taken. Closed loop: "
			    "each connection sends its next message when\n"
			    "the last one was answered. --rate R: by schedule, whatever the "
			    "answers do; a message's time counts from when it\n"
			    "was due. --idle N: opens N sessions and leaves them alone. Templates: "
			    "%m message, %r recipient, %c connection.\n"
			    "Exit status 0: every message was accepted.";

static const char examples[] =
	"  ringpost-blast --to 127.0.0.1:2525\n"
	"  ringpost-blast --to 127.0.0.1:2525 --connections 50 --messages 100000 --pipelining "
	"--size 4k\n"
	"  ringpost-blast --to '[::1]:2525' --connections 200 --rate 2000 --duration 30 --json\n"
	"  ringpost-blast --to unix:/tmp/sink --bdat --chunk 64k --size 10m --messages 100 --hash\n"
	"  ringpost-blast --to 127.0.0.1:2525 --idle 10000 --duration 60 --source "
	"127.0.0.2,127.0.0.3\n";

static void defaults(struct blast *b)
{
	memset(b, 0, sizeof(*b));
	list_init(&b->cold);
	list_init(&b->warm);
	b->connections = 1;
	b->size = 4096;
	b->recipients = 1;
	b->from = "sender@blast.example";
	b->rcpt = "rcpt%r@sink.example";
	b->parameters = "";
	b->helo = "blast.example";
	b->timeout_us = 60 * 1000000ull;
	b->retry_us = 100000;
	b->give_up = 1000;
	b->cpu = UINT64_MAX;
}

static void check_options(struct blast *b, const struct opts *o)
{
	char out[COMMAND_BYTES];

	if (!b->to_text)
		opts_die(o, "--to is missing");
	if (!template_expand(b->from, UINT64_MAX, UINT64_MAX, UINT64_MAX, out, COMMAND_BYTES - 512))
		opts_die(o, "--from: too long, or an unknown letter behind %%");
	if (!template_expand(b->rcpt, UINT64_MAX, UINT64_MAX, UINT64_MAX, out, COMMAND_BYTES - 512))
		opts_die(o, "--rcpt: too long, or an unknown letter behind %%");
	if (strlen(b->parameters) > 400 || strlen(b->helo) > 1000)
		opts_die(o, "--helo or --parameters is too long");
	if (b->run && (strlen(b->run) == 0 || strlen(b->run) > 16))
		opts_die(o, "--run takes 1 to 16 characters");
	if (b->idle && (b->messages || b->rate > 0))
		opts_die(o, "--idle sends nothing: no --messages, no --rate");
	if (b->idle)
		b->connections = b->idle;
	if (b->rate > 0 && !b->messages && !b->duration_us)
		opts_die(o, "--rate needs --messages or --duration");
	if (b->connections > rig_connections_allowed())
		opts_die(o, "%" PRIu64 " connections: the descriptor limit allows %" PRIu32,
			b->connections, rig_connections_allowed());
}

static const struct opt option_rows[] = {
	OPT_HEADING("Where"),
	OPT_FUNC("to", "ADDR", opt_to, "127.0.0.1:25, [::1]:25, unix:/path"),
	OPT_FUNC("source", "ADDR[,ADDR]", opt_source, "local addresses to connect from, in turn"),
	OPT_VALUE("helo", "NAME", OPT_TEXT, struct blast, helo, "in EHLO (blast.example)"),
	OPT_BOUNDED("cpu", "N", OPT_COUNT, struct blast, cpu, 0, 4095, "pin to this CPU"),
	OPT_HEADING("How much"),
	OPT_BOUNDED("connections", "N", OPT_COUNT, struct blast, connections, 1, 1000000,
		"at once (1)"),
	OPT_BOUNDED("messages", "N", OPT_COUNT, struct blast, messages, 1, 1e15,
		"in all (1, or no limit with --duration)"),
	OPT_BOUNDED("duration", "S", OPT_SECONDS, struct blast, duration_us, 0.001, 864000,
		"nothing is begun after this time: 30, 500ms, 2m"),
	OPT_BOUNDED("per-connection", "N", OPT_COUNT, struct blast, per_connection, 1, 1e9,
		"messages on one connection, then a new one (no limit)"),
	OPT_BOUNDED("rate", "R", OPT_REAL, struct blast, rate, 0.001, 1e7,
		"messages a second by schedule (open loop), on at most --connections"),
	OPT_BOUNDED("idle", "N", OPT_COUNT, struct blast, idle, 1, 1000000,
		"open N sessions, EHLO, stay silent for --duration, QUIT"),
	OPT_HEADING("Messages"),
	OPT_BOUNDED("size", "N", OPT_SIZE, struct blast, size, 0, 1u << 30,
		"octets of a message with its header lines: 4096, 75k, 10m (4k)"),
	OPT_BOUNDED("recipients", "N", OPT_COUNT, struct blast, recipients, 1, 100000,
		"of each message (1)"),
	OPT_VALUE("from", "TEMPLATE", OPT_TEXT, struct blast, from,
		"sender, without brackets (sender@blast.example)"),
	OPT_VALUE("rcpt", "TEMPLATE", OPT_TEXT, struct blast, rcpt,
		"recipient (rcpt%r@sink.example)"),
	OPT_VALUE("parameters", "TEXT", OPT_TEXT, struct blast, parameters,
		"behind MAIL FROM:<...>, such as \"BODY=8BITMIME SIZE=4096\""),
	OPT_VALUE("hash", NULL, OPT_FLAG, struct blast, hash,
		"each message has an id and a hash that ringpost-sink --hash checks"),
	OPT_VALUE("run", "NAME", OPT_TEXT, struct blast, run, "first part of the ids (made up)"),
	OPT_HEADING("How"),
	OPT_VALUE("pipelining", NULL, OPT_FLAG, struct blast, pipelining,
		"MAIL, RCPT and DATA in one send; the last body, its dot and QUIT in one"),
	OPT_VALUE("bdat", NULL, OPT_FLAG, struct blast, bdat, "BDAT instead of DATA"),
	OPT_BOUNDED("chunk", "N", OPT_SIZE, struct blast, chunk, 1, 1u << 30,
		"octets of a chunk (the whole message)"),
	OPT_BOUNDED("timeout", "S", OPT_SECONDS, struct blast, timeout_us, 0.01, 86400,
		"longest wait for each reply (60)"),
	OPT_BOUNDED("retry-pause", "S", OPT_SECONDS, struct blast, retry_us, 0, 3600,
		"before a slot connects again after its connection failed (100ms)"),
	OPT_BOUNDED("give-up", "N", OPT_COUNT, struct blast, give_up, 0, 1e15,
		"failed connects in a row that end the run, 0 = never (1000)"),
	OPT_HEADING("Output"),
	OPT_VALUE("json", NULL, OPT_FLAG, struct blast, json, "the report as one JSON line"),
	OPT_VALUE("log", "FILE", OPT_TEXT, struct blast, log_file,
		"a line for each message: id, outcome, stage, code"),
	OPT_VALUE("quiet", NULL, OPT_FLAG, struct blast, quiet, "no report; the exit status tells"),
};

static void read_options(struct blast *b, int argc, char **argv)
{
	const struct opts o = {PROGRAM, "--to ADDR [options]", about, examples, option_rows,
		ARRAY_LEN(option_rows), b};

	opts_read(&o, argc, argv);
	check_options(b, &o);
}

/* ---- the whole ---- */

/* MAIL, RCPTs and DATA once and for all, if they are the same for each message. */
static bool make_group(struct blast *b)
{
	char out[COMMAND_BYTES];
	FILE *f;

	if (!b->pipelining || template_varies(b->from) || template_varies(b->rcpt))
		return true;
	f = open_memstream(&b->group, &b->group_len);
	if (!f || !template_expand(b->from, 0, 0, 0, out, sizeof(out)))
		return false;
	fprintf(f, "MAIL FROM:<%s>%s%s\r\n", out, *b->parameters ? " " : "", b->parameters);
	for (uint64_t i = 0; i < b->recipients; i++) {
		if (!template_expand(b->rcpt, 0, i, 0, out, sizeof(out)))
			return false;
		fprintf(f, "RCPT TO:<%s>\r\n", out);
	}
	if (!b->bdat)
		fputs("DATA\r\n", f);
	return fclose(f) == 0;
}

__attribute__((noreturn)) static void no_memory(void)
{
	fprintf(stderr, PROGRAM ": no memory\n");
	exit(RIG_EXIT_UNAVAILABLE);
}

static void set_limits(struct blast *b)
{
	b->total = b->idle ? b->idle : b->messages ? b->messages : b->duration_us ? UINT64_MAX : 1;
	b->began_us = b->progress_us = now_us(b);
	b->end_us = UINT64_MAX;
	if (b->idle)
		return;
	if (b->rate > 0 && b->duration_us)
		b->total =
			MIN_OF(b->total, (uint64_t)(b->rate * (double)b->duration_us / 1e6 + 0.5));
	if (b->rate > 0) /* arrivals that found no free connection have this long to find one */
		b->end_us = scheduled_us(b, b->total) + b->timeout_us;
	else if (b->duration_us)
		b->end_us = b->began_us + b->duration_us;
}

static void start(struct blast *b)
{
	const struct rig_conf rc = {
		.program = PROGRAM,
		.connections = (uint32_t)b->connections,
		/* a group of commands for many recipients is staged at once */
		.cells_each = CELLS_EACH + (uint32_t)(b->recipients * COMMAND_BYTES / 4096),
		.cpu = b->cpu == UINT64_MAX ? -1 : (int)b->cpu,
	};
	char run_name[17];

	rig_open(&b->rig, &rc);
	snprintf(run_name, sizeof(run_name), "%08" PRIx32, (uint32_t)ring_random(b->rig.ring));
	tally_init(&b->tally);
	b->clients = calloc(b->connections, sizeof(*b->clients));
	if (!b->clients || !maker_init(&b->maker, b->size, b->hash, b->run ? b->run : run_name) ||
		!make_group(b))
		no_memory();
	for (uint64_t i = 0; i < b->connections; i++) {
		struct client *c = &b->clients[i];

		c->blast = b;
		list_init(&c->node);
		timer_init(&c->timer, on_timer);
		list_push_back(&b->cold, &c->node);
	}
	if (b->log_file && !(b->log = fopen(b->log_file, "w"))) {
		fprintf(stderr, PROGRAM ": cannot write %s: %s\n", b->log_file, strerror(errno));
		exit(RIG_EXIT_UNAVAILABLE);
	}
	b->tty = isatty(STDERR_FILENO) && !b->quiet;
	set_limits(b);
}

static void report(struct blast *b)
{
	char mode[128];
	const struct tally_run r = {
		.to = b->to_text,
		.mode = mode,
		.connections = b->connections,
		.message_bytes = maker_bytes(&b->maker),
		.seconds = (double)(b->ended_us - b->began_us) / 1e6,
		.cpu_seconds = rig_cpu_seconds(),
		.open_loop = b->rate > 0,
	};

	if (b->idle)
		snprintf(mode, sizeof(mode), "idle");
	else
		snprintf(mode, sizeof(mode), "%s%s%s", b->pipelining ? "pipelining" : "lock-step",
			b->bdat ? ", BDAT" : "", b->rate > 0 ? ", open loop" : "");
	if (b->quiet)
		return;
	if (b->json)
		tally_json(&b->tally, &r, stdout);
	else
		tally_print(&b->tally, &r, stdout);
}

static bool all_well(const struct blast *b)
{
	const uint64_t *n = b->tally.count;

	if (n[OUT_REJECTED] || n[OUT_FAILED] || n[OUT_UNSENT])
		return false;
	return b->idle ? b->warm_count == b->idle && b->tally.idle_lost == 0 : n[OUT_ACCEPTED] > 0;
}

static void finish(struct blast *b)
{
	for (uint64_t i = 0; i < b->connections; i++)
		timer_stop(&b->rig.timers, &b->clients[i].timer);
	rig_close(&b->rig);
	if (b->log && fclose(b->log) != 0)
		fprintf(stderr, PROGRAM ": %s is not complete: %s\n", b->log_file, strerror(errno));
	maker_fini(&b->maker);
	free(b->clients);
	free(b->group);
}

int main(int argc, char **argv)
{
	static struct blast blast; /* large; lives as long as the process */
	struct blast *b = &blast;

	defaults(b);
	read_options(b, argc, argv);
	start(b);
	run(b);
	b->ended_us = now_us(b);
	if (b->total != UINT64_MAX)
		b->tally.count[OUT_UNSENT] = b->total - b->started;
	if (b->duration_us && b->rate == 0 && !b->gave_up && !rig_stopped())
		b->tally.count[OUT_UNSENT] = 0; /* the time was the limit, as asked */
	report(b);
	bool well = all_well(b);
	finish(b);
	return well ? 0 : 1;
}
