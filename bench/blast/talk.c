/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What one connection says and hears: commands, and a handler for the reply of each stage.
 *
 * Never ahead of what RFC 2920 allows: a pipelining group ends with DATA; the body, its dot and
 * QUIT are the next one. BDAT chunks may follow at once (RFC 3030 4.2). PIPELINING not offered:
 * lock-step, noted in the report.
 */
#include "bench/blast/blast_int.h"

#include "engine/smtp/ehlo.h"

#include <stdarg.h>

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
	client_message_over(
		c, OUT_REJECTED, (enum stage)c->bad_stage, NULL, c->bad_code, c->bad_text);
}

/* ---- commands ---- */

void put_format(struct client *c, const char *format, ...)
{
	char text[COMMAND_BYTES];
	va_list ap;

	va_start(ap, format);
	int n = vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	ASSERT(n > 0 && (size_t)n < sizeof(text));
	client_put(c, span_of(text, (size_t)n));
}

/* Templates were tried at start with the largest numbers, so they fit. */
static const char *address(
	const struct client *c, const char *tmpl, uint64_t rcpt, char out[COMMAND_BYTES])
{
	bool fits = template_expand(tmpl, c->message, rcpt, c->number, out, ADDRESS_BYTES);

	ASSERT(fits);
	return out;
}

static void put_mail(struct client *c)
{
	const char *more = c->blast->opt.parameters;
	char from[COMMAND_BYTES];

	put_format(c, "MAIL FROM:<%s>%s%s\r\n", address(c, c->blast->opt.from, 0, from),
		*more ? " " : "", more);
}

static void put_rcpt(struct client *c, uint64_t i)
{
	char rcpt[COMMAND_BYTES];

	put_format(c, "RCPT TO:<%s>\r\n", address(c, c->blast->opt.rcpt, i, rcpt));
}

void talk_quit(struct client *c)
{
	client_put(c, SPAN_LIT("QUIT\r\n"));
	c->quit_sent = true;
}

/* ---- messages ---- */

bool talk_make_group(struct blast *b)
{
	char out[COMMAND_BYTES];
	FILE *f;

	if (!b->opt.pipelining || template_varies(b->opt.from) || template_varies(b->opt.rcpt))
		return true;
	f = open_memstream(&b->group, &b->group_len);
	if (!f || !template_expand(b->opt.from, 0, 0, 0, out, sizeof(out)))
		return false;
	fprintf(f, "MAIL FROM:<%s>%s%s\r\n", out, *b->opt.parameters ? " " : "", b->opt.parameters);
	for (uint64_t i = 0; i < b->opt.recipients; i++) {
		if (!template_expand(b->opt.rcpt, 0, i, 0, out, sizeof(out)))
			return false;
		fprintf(f, "RCPT TO:<%s>\r\n", out);
	}
	if (!b->opt.bdat)
		fputs("DATA\r\n", f);
	return fclose(f) == 0;
}

void talk_message(struct client *c)
{
	struct blast *b = c->blast;

	c->bad_code = 0;
	c->rcpt_at = c->rcpts_ok = 0;
	c->open = c->body = false;
	c->on_conn++;
	if (b->opt.rate == 0)
		c->start_us = now_us(b);
	client_enter(c, ST_MAIL);
	if (!c->pipelining) {
		put_mail(c);
		return;
	}
	if (b->group) {
		stream_put_lasting(&c->st, span_of(b->group, b->group_len));
	} else {
		put_mail(c);
		for (uint64_t i = 0; i < b->opt.recipients; i++)
			put_rcpt(c, i);
		if (!b->opt.bdat)
			client_put(c, SPAN_LIT("DATA\r\n"));
	}
	if (b->opt.bdat)
		body_start(c);
}

/* The transaction is over: reset what the server still holds, go on, or leave. */
static void next_step(struct client *c)
{
	struct blast *b = c->blast;

	if (c->quit_sent) {
		client_enter(c, ST_QUIT);
	} else if (c->open) {
		client_put(c, SPAN_LIT("RSET\r\n"));
		client_enter(c, ST_RSET);
	} else if ((b->opt.per_connection && c->on_conn >= b->opt.per_connection) ||
		   load_all_begun(b)) {
		talk_quit(c);
		client_enter(c, ST_QUIT);
	} else if (load_goes_on(c)) {
		load_take(c);
		talk_message(c);
	} else {
		client_rest(c);
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
		tally_add(client_tally(c), OUT_REJECTED, stage_names[st], NULL, r->code, r->text);
	client_drop(c);
}

void talk_hello(struct client *c)
{
	client_enter(c, ST_EHLO);
	put_format(c, "EHLO %s\r\n", c->blast->opt.helo);
}

static void on_greeting(struct client *c, const struct smtp_reply *r)
{
	struct blast *b = c->blast;

	hist_add(&client_tally(c)->greeting, now_us(b) - c->dialed_us);
	c->bad_code = 0;
	if (r->code != 220) {
		refused_early(c, r);
		return;
	}
	c->greeted = true;
	b->connecting--;
	talk_hello(c);
}

/* What is offered in clear counts for nothing else. */
static void start_tls(struct client *c, const struct ehlo_caps *caps)
{
	if (!caps_has(caps, EXT_STARTTLS)) {
		client_fail(c, "STARTTLS is not offered");
		return;
	}
	client_put(c, SPAN_LIT("STARTTLS\r\n"));
	client_enter(c, ST_STARTTLS);
}

static void on_starttls(struct client *c, const struct smtp_reply *r)
{
	if (r->code == 220)
		client_enter(c, ST_HANDSHAKE);
	else
		refused_early(c, r);
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
	if (b->opt.starttls && !c->secure) {
		start_tls(c, &caps);
		return;
	}
	c->pipelining = b->opt.pipelining && !c->drip && caps_has(&caps, EXT_PIPELINING);
	b->tally[PART_MEASURED].lockstep += b->opt.pipelining && !c->drip && !c->pipelining;
	if (b->opt.bdat && !caps_has(&caps, EXT_CHUNKING)) {
		client_fail(c, "CHUNKING is not offered");
	} else if (c->role == ROLE_IDLE) {
		client_rest(c);
		b->idle_opened++;
	} else {
		talk_message(c);
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
	client_enter(c, ST_RCPT);
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
	client_enter(c, b->opt.bdat ? ST_BDAT : ST_DATA);
	if (c->pipelining)
		return; /* sent already */
	if (b->opt.bdat)
		body_start(c);
	else
		client_put(c, SPAN_LIT("DATA\r\n"));
}

static void on_rcpt(struct client *c, const struct smtp_reply *r)
{
	struct blast *b = c->blast;

	if (positive(r)) {
		c->rcpts_ok++;
	} else {
		client_tally(c)->rcpts_refused++;
		if (c->rcpts_ok == 0 && c->rcpt_at + 1 == b->opt.recipients)
			note_bad(c, ST_RCPT, r);
	}
	if (++c->rcpt_at == b->opt.recipients)
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
	client_enter(c, ST_DOT);
	if (c->bad_code) /* RFC 2920 3.1: a server that takes DATA without recipients gets an empty
			    message */
		client_put(c, SPAN_LIT(".\r\n"));
	else
		body_start(c);
}

/* The answer to all of it: a dot, or a message in one chunk. */
static void message_answered(struct client *c, const struct smtp_reply *r)
{
	if (!positive(r))
		note_bad(c, ST_DOT, r);
	if (c->bad_code)
		message_rejected(c);
	else
		client_message_over(c, OUT_ACCEPTED, ST_DOT, NULL, r->code, "");
	next_step(c);
}

static void on_dot(struct client *c, const struct smtp_reply *r)
{
	if (!c->body) {
		c->open = false;
		message_answered(c, r);
		return;
	}
	/* An answer in mid-body: there is no way to end it but to leave. */
	note_bad(c, ST_BODY, r);
	message_rejected(c);
	client_drop(c);
}

static void on_bdat(struct client *c, const struct smtp_reply *r)
{
	bool whole = !c->body && c->chunks == 1;

	if (whole) {
		c->chunks = 0;
		c->open = !positive(r) && c->open;
		message_answered(c, r);
		return;
	}
	c->chunks--;
	if (!positive(r))
		note_bad(c, ST_BDAT, r);
	client_enter(c, ST_BDAT);
	if (c->pipelining)
		return;
	if (c->bad_code) {
		c->body = false;
		rejected_in_lockstep(c);
	} else {
		body_next_chunk(c);
	}
}

static void on_rset(struct client *c, const struct smtp_reply *r)
{
	c->open = false;
	if (positive(r))
		next_step(c);
	else
		client_drop(c);
}

static void on_quit(struct client *c, const struct smtp_reply *r)
{
	client_enter(c, ST_CLOSE); /* the server closes first: TIME_WAIT is on its side */
}

static reply_handler *const on_reply[STAGE_COUNT] = {
	[ST_GREETING] = on_greeting,
	[ST_EHLO] = on_ehlo,
	[ST_STARTTLS] = on_starttls,
	[ST_MAIL] = on_mail,
	[ST_RCPT] = on_rcpt,
	[ST_DATA] = on_data,
	[ST_BDAT] = on_bdat,
	[ST_DOT] = on_dot,
	[ST_RSET] = on_rset,
	[ST_QUIT] = on_quit,
};

void talk_reply(struct client *c, const struct smtp_reply *r)
{
	if (r->code != 421 || c->stage == ST_GREETING) {
		if (on_reply[c->stage])
			on_reply[c->stage](c, r);
		else
			client_fail(c, "a reply that nothing asked for");
		return;
	}
	if (!c->busy) {
		client_fail(c, "421");
		return;
	}
	note_bad(c, client_seen_stage(c), r);
	message_rejected(c);
	client_drop(c);
}
