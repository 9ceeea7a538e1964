/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Messages as a simulated server takes them: DATA up to its end of data, BDAT by count. The end of
 * data is CRLF.CRLF, and for a lax server every other spelling it is configured to take for one.
 * Failure modes, all on purpose: giving up early, refusing, dying before and after the message was
 * taken.
 */
#include "tests/sim/server_int.h"

#define MID_BYTES_MAX 3000u

/* ---- the end of data ---- */

static bool ends_message(uint32_t lax, unsigned before, unsigned behind)
{
	static const uint8_t spellings[4][4] = {
		[EOD_LF][EOD_LF] = SRV_LAX_LF_DOT_LF,
		[EOD_LF][EOD_CRLF] = SRV_LAX_LF_DOT_CRLF,
		[EOD_CRLF][EOD_LF] = SRV_LAX_CRLF_DOT_LF,
		[EOD_CR][EOD_CR] = SRV_LAX_CR_DOT_CR,
		[EOD_CR][EOD_CRLF] = SRV_LAX_CR_DOT_CRLF,
		[EOD_CRLF][EOD_CR] = SRV_LAX_CRLF_DOT_CR,
	};

	if (before == EOD_CRLF && behind == EOD_CRLF)
		return true;
	return (lax & spellings[before][behind]) != 0;
}

static void line_ended(struct eod *e, enum eod_line_end how)
{
	e->line_end = (uint8_t)how;
	e->dot = e->cr = false;
}

/* The octet behind a CR. 1: the message ends with it; -1: the message ended before it; 0: neither;
 * *lf: it was the LF of a CRLF. */
static int behind_cr(struct eod *e, uint32_t lax, uint8_t b, bool *lf)
{
	*lf = b == '\n';
	if (e->dot && *lf && ends_message(lax, e->line_end, EOD_CRLF))
		return 1;
	if (e->dot && ends_message(lax, e->line_end, EOD_CR))
		return -1;
	line_ended(e, *lf ? EOD_CRLF : EOD_CR);
	return 0;
}

static void inside_line(struct eod *e, uint8_t b)
{
	if (b == '.' && e->line_end != EOD_OTHER && !e->dot) {
		e->dot = true;
	} else {
		e->line_end = EOD_OTHER;
		e->dot = false;
	}
}

size_t srv_eod(struct eod *e, uint32_t lax, struct span in, bool *ended)
{
	*ended = true;
	for (size_t i = 0; i < in.n; i++) {
		uint8_t b = in.p[i];
		bool lf = false;

		if (b == 0 && (lax & SRV_LAX_NUL))
			continue;
		if (e->cr) {
			int end = behind_cr(e, lax, b, &lf);

			if (end)
				return end > 0 ? i + 1 : i;
		}
		if (lf)
			continue;
		if (b == '\r') {
			e->cr = true;
		} else if (b == '\n') {
			if (e->dot && ends_message(lax, e->line_end, EOD_LF))
				return i + 1;
			line_ended(e, EOD_LF);
		} else {
			inside_line(e, b);
		}
	}
	*ended = false;
	return in.n;
}

/* ---- DATA ---- */

static enum srv_mid choose_mid(struct talk *t)
{
	static const struct actor_whim rows[] = {
		[MID_NONE] = {0, SRV_POLITE},
		[MID_EARLY] = {12, SRV_RARE},
		[MID_NAP] = {10, SRV_RARE},
		[MID_LIE] = {8, SRV_HOSTILE},
	};

	if (t->a->death == DEATH_BODY)
		return MID_DEATH;
	if (t->p->calm || t->p->conf.manners == SRV_POLITE)
		return MID_NONE;
	return (enum srv_mid)actor_whim(t->p->t, rows, ARRAY_LEN(rows), t->p->conf.manners);
}

void srv_data_begin(struct talk *t)
{
	struct srv_actor *a = t->a;

	srv_say(t, SRV_ANSWER, 354, "go ahead");
	a->phase = PHASE_DATA;
	a->cmd_off = t->off;
	a->cmd_n = t->n;
	a->body_off = a->at;
	a->answered = false;
	a->eod = (struct eod){.line_end = EOD_CRLF};
	a->mid = (uint8_t)choose_mid(t);
	if (a->mid != MID_NONE)
		a->mid_at = tape_small(t->p->t, MID_BYTES_MAX);
}

static void about_body(struct talk *t)
{
	t->off = t->a->cmd_off;
	t->n = t->a->cmd_n;
}

/* It has had enough: this is its answer, and there will be no other at the end. */
static void give_up(struct talk *t)
{
	static const uint16_t codes[] = {552, 451, 421, 554};
	unsigned code = codes[tape_pick(t->p->t, ARRAY_LEN(codes))];

	t->a->answered = true;
	srv_say(t, SRV_EARLY, code, "stop it");
	t->a->closing = code == 421 || tape_chance(t->p->t, 128);
}

static void mid_body(struct talk *t)
{
	enum srv_mid what = (enum srv_mid)t->a->mid;

	t->a->mid = MID_NONE;
	about_body(t);
	if (what == MID_EARLY)
		give_up(t);
	else if (what == MID_NAP)
		t->a->wake_us = sim_now_us(t->p->k) + actor_nap_us(t->p->t);
	else if (what == MID_LIE)
		srv_lie(t, tape_pick(t->p->t, 2) ? 354 : 250);
	else
		srv_dies(t, DEATH_BODY);
}

void srv_data(struct talk *t)
{
	struct srv_actor *a = t->a;
	struct span in = span_of(t->c->read.p + a->at, t->c->read.n - a->at);
	bool ended, mid = false;

	if (a->mid != MID_NONE && a->at + in.n >= a->body_off + a->mid_at) {
		in.n = a->body_off + a->mid_at - a->at;
		mid = true;
	}
	a->at += srv_eod(&a->eod, t->p->conf.lax, in, &ended);
	if (ended) {
		octets_add(&a->body, t->c->read.p + a->body_off, a->at - a->body_off);
		a->mid = MID_NONE;
		a->phase = PHASE_END;
	} else if (mid) {
		mid_body(t);
	}
}

/* ---- BDAT ---- */

void srv_chunk_begin(struct talk *t, uint64_t n, bool last)
{
	struct srv_actor *a = t->a;

	a->cmd_off = t->off;
	a->cmd_n = t->n;
	a->chunk_left = n;
	a->chunk_last = last;
	a->chunk_swallow = !a->mail || a->rcpts == 0 || a->spoiled;
	a->chunked |= a->mail;
	a->answered = false;
	a->phase = n ? PHASE_CHUNK : PHASE_CHUNK_END;
	a->mid = MID_NONE;
	if (n > 0 && !a->chunk_swallow && t->p->conf.manners != SRV_POLITE && !t->p->calm)
		a->mid = tape_chance(t->p->t, 8) ? MID_EARLY : MID_NONE;
}

/* Refused before all of it is there: what is left of it is thrown away. */
static void refuse_early(struct talk *t)
{
	t->a->mid = MID_NONE;
	t->a->answered = t->a->spoiled = t->a->chunk_swallow = true;
	about_body(t);
	srv_say(t, SRV_EARLY, tape_pick(t->p->t, 2) ? 452 : 554, "enough");
}

void srv_chunk(struct talk *t)
{
	struct srv_actor *a = t->a;
	size_t n = (size_t)MIN_OF(a->chunk_left, (uint64_t)(t->c->read.n - a->at));

	if (!a->chunk_swallow)
		octets_add(&a->body, t->c->read.p + a->at, n);
	a->at += n;
	a->chunk_left -= n;
	if (a->chunk_left == 0)
		a->phase = PHASE_CHUNK_END;
	else if (a->mid == MID_EARLY)
		refuse_early(t);
	else if (a->death == DEATH_BODY)
		srv_dies(t, DEATH_BODY);
}

static void refuse_chunk(struct talk *t)
{
	t->a->spoiled = true;
	srv_say(t, SRV_ANSWER, t->whim == WHIM_REFUSE_4 ? 452 : 554, "not this one");
}

void srv_chunk_end(struct talk *t)
{
	struct srv_actor *a = t->a;

	about_body(t);
	if (!a->chunk_swallow && a->chunk_last) {
		a->phase = PHASE_END;
		return;
	}
	if (a->answered) {
		a->phase = PHASE_COMMANDS;
		return;
	}
	if (srv_dies(t, DEATH_COMMAND))
		return;
	srv_roll(t);
	if (srv_strays(t, SRV_ANSWER)) {
		if (!a->wake_us)
			a->phase = PHASE_COMMANDS;
		return;
	}
	a->phase = PHASE_COMMANDS;
	if (a->chunk_swallow)
		srv_say(t, SRV_ANSWER, 503, "RCPT first");
	else if (t->whim == WHIM_REFUSE_4 || t->whim == WHIM_REFUSE_5)
		refuse_chunk(t);
	else
		srv_say(t, SRV_ANSWER, 250, "octets taken");
	srv_whim_after(t);
}

/* ---- the end of a message ---- */

static struct srv_message *write_down(struct talk *t)
{
	struct servers *s = t->s;
	struct srv_actor *a = t->a;
	struct srv_message *m;

	s->messages = actor_grow(s->messages, s->message_count, sizeof(*s->messages));
	t->message = s->message_count;
	m = &s->messages[s->message_count++];
	*m = (struct srv_message){
		.conn = t->conn,
		.bdat = a->chunked,
		.end_off = (uint32_t)a->at,
		.from = a->from,
		.to = a->to,
		.body = a->body,
	};
	/* The octets have a new owner. */
	a->from = a->to = a->body = (struct octets){0};
	return m;
}

static void verdict(struct talk *t, struct srv_message *m, bool valid)
{
	if (!valid) {
		srv_say(t, SRV_FINAL, 554, "no recipients");
	} else if (t->whim == WHIM_REFUSE_4) {
		srv_say(t, SRV_FINAL, 451, "not today");
	} else if (t->whim == WHIM_REFUSE_5) {
		srv_say(t, SRV_FINAL, 554, "never");
	} else {
		m->committed = true;
		if (!srv_dies(t, DEATH_AFTER_TAKEN))
			srv_say(t, SRV_FINAL, 250, "taken");
	}
}

void srv_message_end(struct talk *t)
{
	struct srv_actor *a = t->a;
	bool answered = a->answered, valid = a->rcpts > 0;
	struct srv_message *m;

	about_body(t);
	if (!answered)
		srv_roll(t);
	/* It sleeps over it, and nothing has been decided. */
	if ((t->whim == WHIM_SLOW || t->whim == WHIM_MUTE) && srv_strays(t, SRV_FINAL))
		return;
	a->phase = PHASE_COMMANDS;
	m = write_down(t);
	srv_reset(a);
	if (answered || srv_dies(t, DEATH_BEFORE_TAKEN))
		return;
	/* Taken, and then it says something that nobody understands. */
	m->committed = t->whim == WHIM_MALFORMED && valid;
	if (srv_strays(t, SRV_FINAL))
		return;
	verdict(t, m, valid);
	srv_whim_after(t);
}
