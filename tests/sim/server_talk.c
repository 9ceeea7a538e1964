/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands as a simulated server reads them: a strict reader of its own, one handler per verb that
 * does more than answer. A command that is not whole waits. Failure modes: a line that cannot be a
 * command is answered 500; a BDAT whose size cannot be read, and a line without end, close the
 * connection, as what follows cannot be told apart.
 */
#include "tests/sim/server_int.h"

#define LINE_BYTES_MAX 16384u
#define CHAT_BYTES_MAX 1500u
#define DWELL_RATE 60

static const struct actor_whim whims[] = {
#define X(id, weight, manners) {weight, manners},
	SRV_WHIMS(X)
#undef X
};

void srv_roll(struct talk *t)
{
	const struct servers_conf *conf = &t->p->conf;

	t->whim = WHIM_NONE;
	if (!t->p->calm && !t->a->resumed) {
		if (conf->slow && tape_chance(t->p->t, DWELL_RATE))
			t->whim = WHIM_SLOW;
		else if (conf->fickle && tape_chance(t->p->t, DWELL_RATE))
			t->whim = tape_pick(t->p->t, 3) ? WHIM_ODD : WHIM_CLOSE_AFTER;
		else
			t->whim = (enum srv_whim)actor_whim(
				t->p->t, whims, ARRAY_LEN(whims), conf->manners);
	}
	t->a->resumed = false;
}

void srv_reset(struct srv_actor *a)
{
	a->mail = a->chunked = a->spoiled = false;
	a->rcpts = 0;
	a->from.n = a->to.n = a->body.n = 0;
}

/* ---- whims that every command may meet ---- */

static void leave(struct talk *t, enum srv_why why)
{
	if (why == SRV_LEAVING) {
		t->off = t->c->read.n;
		t->n = 0;
	}
	srv_say(t, why, 421, "closing");
	t->a->closing = true;
}

/* The code that cannot come: SRV_FINAL 354, DATA 250, everything else something that only DATA and
 * AUTH get. */
static void lie_about_class(struct talk *t, enum srv_why why)
{
	static const uint16_t codes[] = {354, 350, 399};
	struct span line = span_of(t->c->read.p + t->off, t->n);

	if (why == SRV_ANSWER && actor_begins(line, "DATA"))
		srv_lie(t, 250);
	else
		srv_lie(t, why == SRV_FINAL ? 354 : codes[tape_pick(t->p->t, ARRAY_LEN(codes))]);
}

bool srv_strays(struct talk *t, enum srv_why why)
{
	switch (t->whim) {
	case WHIM_SLOW:
		srv_sleep(t, actor_nap_us(t->p->t));
		break;
	case WHIM_MUTE:
		srv_sleep(t, UINT64_MAX);
		break;
	case WHIM_LEAVE:
		leave(t, why == SRV_ANSWER ? SRV_LEAVING : why);
		break;
	case WHIM_LEAVE_ANSWER:
		leave(t, why);
		break;
	case WHIM_CLASS:
		lie_about_class(t, why);
		break;
	case WHIM_MALFORMED:
		srv_malform(t);
		break;
	default:
		return false;
	}
	return true;
}

void srv_whim_after(struct talk *t)
{
	static const uint16_t codes[] = {250, 550, 354, 220, 334, 221};

	if (t->a->far < 0)
		return;
	if (t->whim == WHIM_EXTRA)
		srv_lie(t, codes[tape_pick(t->p->t, ARRAY_LEN(codes))]);
	else if (t->whim == WHIM_CLOSE_AFTER)
		t->a->closing = true;
	else if (t->whim == WHIM_SHUT_AFTER)
		srv_shut(t);
}

/* ---- commands ---- */

static bool refuses(struct talk *t, unsigned code4, unsigned code5)
{
	if (t->whim != WHIM_REFUSE_4 && t->whim != WHIM_REFUSE_5)
		return false;
	srv_say(t, SRV_ANSWER, t->whim == WHIM_REFUSE_4 ? code4 : code5, "not this time");
	return true;
}

/* Polite servers know how important it is to them to be greeted. */
static bool refuses_hello(struct talk *t)
{
	return t->p->conf.manners != SRV_POLITE && refuses(t, 451, 550);
}

static void on_ehlo(struct talk *t)
{
	if (refuses_hello(t))
		return;
	srv_reset(t->a);
	t->a->hello = true;
	srv_say_ehlo(t);
}

static void on_helo(struct talk *t)
{
	if (refuses_hello(t))
		return;
	srv_reset(t->a);
	t->a->hello = true;
	srv_say(t, SRV_ANSWER, 250, "sim.example");
}

/* "MAIL FROM:<...>": is the path there? */
static bool path_there(struct talk *t, const char *word)
{
	struct span a = t->args;

	while (a.n && a.p[0] == ' ')
		a = span_drop(a, 1);
	if (!actor_begins(a, word))
		return false;
	a = span_drop(a, strlen(word));
	while (a.n && a.p[0] == ' ')
		a = span_drop(a, 1);
	return a.n >= 2 && a.p[0] == '<' && memchr(a.p, '>', a.n);
}

static uint64_t size_said(struct span args)
{
	struct span word;

	while ((word = actor_word(&args)).n)
		if (actor_begins(word, "SIZE="))
			return actor_number(span_drop(word, 5));
	return 0;
}

static void on_mail(struct talk *t)
{
	struct srv_actor *a = t->a;

	if (!a->hello) {
		srv_say(t, SRV_ANSWER, 503, "who are you");
	} else if (a->mail && t->whim != WHIM_ODD) {
		srv_say(t, SRV_ANSWER, 503, "one message at a time");
	} else if (!path_there(t, "FROM:")) {
		srv_say(t, SRV_ANSWER, 501, "no sender there");
	} else if (t->p->size_max && size_said(t->args) > t->p->size_max) {
		srv_say(t, SRV_ANSWER, 552, "too large");
	} else if (!refuses(t, 451, 550)) {
		srv_reset(a);
		a->mail = true;
		octets_add(&a->from, t->c->read.p + t->off, t->n);
		srv_say(t, SRV_ANSWER, 250, "sender ok");
	}
}

static void on_rcpt(struct talk *t)
{
	struct srv_actor *a = t->a;

	if (!a->mail) {
		srv_say(t, SRV_ANSWER, 503, "MAIL first");
	} else if (!path_there(t, "TO:")) {
		srv_say(t, SRV_ANSWER, 501, "no recipient there");
	} else if (!refuses(t, 450, 550)) {
		a->rcpts++;
		octets_add(&a->to, t->c->read.p + t->off, t->n);
		srv_say(t, SRV_ANSWER, t->whim == WHIM_ODD ? 251 : 250, "recipient ok");
	}
}

static void on_rset(struct talk *t)
{
	srv_reset(t->a);
	srv_say(t, SRV_ANSWER, 250, "forgotten");
}

static void on_quit(struct talk *t)
{
	srv_say(t, SRV_ANSWER, 221, "bye");
	t->a->closing = true;
}

/* All these come with the verb: 250 to one it does not know makes it a friend of the client. A word
 * that others read as DATA (a tab behind it) gets what cannot answer DATA. */
static void on_unknown(struct talk *t)
{
	struct span line = span_of(t->c->read.p + t->off, t->n);

	if (t->whim == WHIM_ODD && actor_begins(line, "DATA"))
		srv_lie(t, 250);
	else if (t->whim == WHIM_ODD)
		srv_say(t, SRV_ANSWER, 250, "why not");
	else
		srv_say(t, SRV_ANSWER, t->whim == WHIM_MULTI ? 502 : 500, "what");
}

/* ---- AUTH ---- */

static void auth_verdict(struct talk *t)
{
	t->a->phase = PHASE_COMMANDS;
	if (refuses(t, 454, 535))
		return;
	t->a->authed = true;
	srv_say(t, SRV_ANSWER, 235, "welcome");
}

static void auth_next(struct talk *t)
{
	if (t->a->challenges == 0) {
		auth_verdict(t);
		return;
	}
	t->a->challenges--;
	t->a->phase = PHASE_AUTH;
	srv_say(t, SRV_CHALLENGE, 334, "VXNlcg==");
}

static void on_auth(struct talk *t)
{
	struct span mech = actor_word(&t->args);
	bool initial = actor_word(&t->args).n > 0;

	if (!t->p->conf.auth) {
		srv_say(t, SRV_ANSWER, 502, "nobody logs in here");
		return;
	}
	if (!t->a->hello || t->a->mail || t->a->authed) {
		srv_say(t, SRV_ANSWER, 503, "not now");
		return;
	}
	if (actor_begins(mech, "PLAIN"))
		t->a->challenges = initial ? 0 : 1;
	else if (actor_begins(mech, "LOGIN"))
		t->a->challenges = initial ? 1 : 2;
	else
		t->a->challenges = tape_pick(t->p->t, 3);
	auth_next(t);
}

static void auth_line(struct talk *t, struct span line)
{
	if (line.n == 1 && line.p[0] == '*') {
		t->a->phase = PHASE_COMMANDS;
		srv_say(t, SRV_ANSWER, 501, "as you like");
	} else {
		auth_next(t);
	}
}

/* ---- STARTTLS, XCLIENT ---- */

/* Behind the 220, before the handshake: it would be read as if TLS had carried it. */
static void maybe_inject(struct talk *t)
{
	if (t->p->calm || t->p->conf.manners != SRV_HOSTILE || !tape_chance(t->p->t, 60))
		return;
	t->a->injected = true;
	srv_lie(t, 250);
}

static void on_starttls(struct talk *t)
{
	struct srv_actor *a = t->a;

	if (!t->p->conf.starttls && !srv_before_tls(t)) {
		srv_say(t, SRV_ANSWER, 502, "no TLS here");
		return;
	}
	if (refuses(t, 454, 502))
		return;
	srv_say(t, SRV_ANSWER, 220, "go on");
	if (srv_before_tls(t)) {
		a->secures = true;
		maybe_inject(t);
		return;
	}
	t->c->opaque = true;
	t->c->opaque_off = (uint32_t)a->at;
	a->phase = PHASE_OPAQUE;
	if (t->p->calm)
		return;
	maybe_inject(t);
	a->chat_left = tape_small(t->p->t, CHAT_BYTES_MAX);
}

static void on_xclient(struct talk *t)
{
	if (refuses(t, 450, 550))
		return;
	if (t->whim == WHIM_ODD) {
		srv_say(t, SRV_ANSWER, 250, "noted, go on");
		return;
	}
	srv_reset(t->a);
	t->a->hello = false;
	srv_say(t, SRV_ANSWER, 220, "sim.example, once more");
}

/* ---- bodies ---- */

static void on_data(struct talk *t)
{
	struct srv_actor *a = t->a;

	if (!a->mail || a->chunked) {
		srv_say(t, SRV_ANSWER, 503, "MAIL and RCPT first, and no BDAT");
		return;
	}
	/* RFC 2920: 354 is allowed, the message is refused at its end then. */
	if (a->rcpts == 0 && t->whim != WHIM_ODD) {
		srv_say(t, SRV_ANSWER, 554, "no recipients");
		return;
	}
	if (!refuses(t, 451, 554))
		srv_data_begin(t);
}

static void on_bdat(struct talk *t)
{
	uint64_t n = actor_number(actor_word(&t->args));
	struct span last = actor_word(&t->args);
	bool has_last = last.n == 4 && actor_begins(last, "LAST");

	if (!t->p->chunking) {
		on_unknown(t);
		return;
	}
	if (n == UINT64_MAX || (last.n && !has_last) || actor_word(&t->args).n) {
		srv_say(t, SRV_ANSWER, 501, "no size there");
		t->a->closing = true;
		return;
	}
	srv_chunk_begin(t, n, has_last);
}

/* ---- lines ---- */

static const struct verb {
	const char *word;
	void (*fn)(struct talk *t); /* NULL: `code` and `text` */
	uint16_t code;
	const char *text;
} verbs[] = {
	{"EHLO", on_ehlo, 0, NULL},
	{"HELO", on_helo, 0, NULL},
	{"MAIL", on_mail, 0, NULL},
	{"RCPT", on_rcpt, 0, NULL},
	{"DATA", on_data, 0, NULL},
	{"BDAT", on_bdat, 0, NULL},
	{"RSET", on_rset, 0, NULL},
	{"QUIT", on_quit, 0, NULL},
	{"AUTH", on_auth, 0, NULL},
	{"STARTTLS", on_starttls, 0, NULL},
	{"XCLIENT", on_xclient, 0, NULL},
	{"XFORWARD", NULL, 250, "noted"},
	{"NOOP", NULL, 250, "nothing done"},
	{"VRFY", NULL, 252, "send it and see"},
	{"EXPN", NULL, 550, "no"},
	{"HELP", NULL, 214, "read RFC 5321"},
	{"ETRN", NULL, 250, "started"},
};

static const struct verb *find_verb(struct span word)
{
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (word.n == strlen(verbs[i].word) && actor_begins(word, verbs[i].word))
			return &verbs[i];
	return NULL;
}

static void run_verb(struct talk *t, const struct verb *v)
{
	if (t->a->sour && (!v || v->fn != on_quit))
		srv_say(t, SRV_ANSWER, 503, "no service here");
	else if (!v)
		on_unknown(t);
	else if (v->fn)
		v->fn(t);
	else
		srv_say(t, SRV_ANSWER, v->code, v->text);
}

/* In clear, before TLS: what is said from here on is nobody's. */
static void note_hello(struct talk *t)
{
	if (!srv_before_tls(t) || t->a->clear_hello)
		return;
	t->a->clear_hello = true;
	(*far_veil(t->p->k, t->a->far))->out_kept = (uint32_t)t->off;
}

static void take_command(struct talk *t, struct span line)
{
	const struct verb *v;
	bool bdat;

	t->args = line;
	v = find_verb(actor_word(&t->args));
	/* The octets of a chunk follow whatever is said to it: its whims come behind them. */
	bdat = v && v->fn == on_bdat && !t->a->sour;
	if (v && v->fn == on_ehlo)
		note_hello(t);
	t->a->at += t->n;
	if (srv_dies(t, DEATH_COMMAND))
		return;
	if (!bdat) {
		srv_roll(t);
		if (srv_strays(t, SRV_ANSWER))
			return;
	}
	run_verb(t, v);
	if (!bdat)
		srv_whim_after(t);
}

/* Bare LF ends a line for a lax server only. */
static bool line_ok(const struct servers_conf *conf, struct span raw)
{
	if (conf->lax)
		return true;
	return raw.n >= 2 && raw.p[raw.n - 2] == '\r' && !memchr(raw.p, 0, raw.n);
}

static void too_long(struct talk *t)
{
	t->a->at = t->c->read.n;
	srv_say(t, SRV_ANSWER, 500, "does it ever end");
	t->a->closing = true;
}

static void take_line(struct talk *t)
{
	struct srv_actor *a = t->a;
	struct span rest = span_of(t->c->read.p + a->at, t->c->read.n - a->at);
	struct span raw = actor_line(rest);

	t->off = a->at;
	t->n = (uint32_t)raw.n;
	if (raw.n == 0) {
		a->looked = t->c->read.n;
		if (rest.n > LINE_BYTES_MAX)
			too_long(t);
		return;
	}
	if (!line_ok(&t->p->conf, raw)) {
		a->at += raw.n;
		srv_say(t, SRV_ANSWER, 500, "lines end with CR LF");
	} else if (a->phase == PHASE_AUTH) {
		a->at += raw.n;
		srv_roll(t);
		if (!srv_strays(t, SRV_ANSWER))
			auth_line(t, actor_trim(raw));
		srv_whim_after(t);
	} else {
		take_command(t, actor_trim(raw));
	}
}

/* ---- the beginning, the opaque end ---- */

static void greet(struct talk *t)
{
	static const uint16_t sour[] = {554, 521};
	struct srv_actor *a = t->a;

	if (srv_dies(t, DEATH_ACCEPT))
		return;
	srv_roll(t);
	if (srv_strays(t, SRV_GREETING)) {
		/* Lies and garbage were its greeting. */
		if (!a->wake_us)
			a->phase = PHASE_COMMANDS;
		return;
	}
	a->phase = PHASE_COMMANDS;
	if (t->whim == WHIM_REFUSE_5 && t->p->conf.manners != SRV_POLITE) {
		unsigned code = sour[tape_pick(t->p->t, ARRAY_LEN(sour))];

		a->sour = true;
		a->closing = code == 521;
		srv_say(t, SRV_GREETING, code, "sim.example has no mail");
	} else {
		srv_say(t, SRV_GREETING, 220, "sim.example ESMTP");
	}
	srv_whim_after(t);
}

/* Echoes, and talks of its own accord a little. */
static void opaque(struct talk *t)
{
	struct srv_actor *a = t->a;
	size_t n = t->c->read.n - a->at;

	if (n > 0) {
		octets_add(&a->out, t->c->read.p + a->at, n);
		a->at += n;
	} else {
		n = t->p->calm ? a->chat_left : actor_cut(t->p->t, a->chat_left);
		octets_opaque(&a->out, t->conn * 7919u + a->chat_left, n);
		a->chat_left -= (uint32_t)n;
		if (a->chat_left == 0 && t->p->conf.manners != SRV_POLITE && !t->p->calm)
			a->closing = tape_chance(t->p->t, 60);
	}
}

void srv_talk(struct talk *t)
{
	switch ((enum srv_phase)t->a->phase) {
	case PHASE_GREET:
		greet(t);
		break;
	case PHASE_COMMANDS:
	case PHASE_AUTH:
		take_line(t);
		break;
	case PHASE_DATA:
		srv_data(t);
		break;
	case PHASE_CHUNK:
		srv_chunk(t);
		break;
	case PHASE_CHUNK_END:
		srv_chunk_end(t);
		break;
	case PHASE_END:
		srv_message_end(t);
		break;
	case PHASE_OPAQUE:
		opaque(t);
		break;
	case PHASE_DEAF:
		t->a->at = t->c->read.n;
		break;
	}
}
