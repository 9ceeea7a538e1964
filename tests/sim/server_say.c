/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What simulated servers say: replies with their marks, in the shapes that replies may have, and
 * what is no reply at all. Each is written down before it is queued. Failure modes are the point
 * here: a connection is marked as one that lied before its first lie.
 */
#include "tests/sim/server_int.h"

#define STRIP_RATE 20

/* ---- writing down ---- */

static struct srv_reply *new_reply(struct talk *t, enum srv_why why, unsigned code)
{
	struct servers *s = t->s;
	struct srv_reply *r;

	s->replies = actor_grow(s->replies, s->reply_count, sizeof(*s->replies));
	r = &s->replies[s->reply_count++];
	*r = (struct srv_reply){
		.conn = t->conn,
		.serial = t->a->serial++,
		.code = code,
		.why = why,
		.cmd_off = (uint32_t)t->off,
		.cmd_n = t->n,
		.message = t->message,
	};
	return r;
}

/* What is said in clear from the hello on, before TLS, is nobody's: it is not written down. */
static void queue_reply(struct talk *t, struct srv_reply *r)
{
	octets_add(&t->a->out, r->text.p, r->text.n);
	r->out_end = (uint32_t)t->a->out.n;
	if (!srv_before_tls(t))
		return;
	if (!t->a->clear_hello) {
		(*far_veil(t->p->k, t->a->far))->in_kept = r->out_end;
		return;
	}
	octets_free(&r->text);
	t->s->reply_count--;
	t->a->serial--;
}

/* ---- replies ---- */

static uint32_t extra_lines(const struct talk *t, enum srv_why why)
{
	if (why == SRV_CHALLENGE)
		return 0;
	if (t->whim == WHIM_MULTI)
		return 1 + t->a->serial % 3;
	if (t->whim == WHIM_LONG)
		return 20 + t->a->serial * 7 % 60;
	return 0;
}

/* RFC 2034: not in greetings and replies to EHLO and HELO, and only these classes. */
static const char *enhanced(const struct talk *t, enum srv_why why, unsigned code)
{
	if (!t->p->enhanced || why == SRV_GREETING || code == 220)
		return "";
	return code >= 500 ? "5.0.0 " : code >= 400 ? "4.0.0 " : code < 300 ? "2.0.0 " : "";
}

void srv_say(struct talk *t, enum srv_why why, unsigned code, const char *text)
{
	const char *end = t->whim == WHIM_BARE_LF ? "\n" : "\r\n";
	const char *enh = enhanced(t, why, code);
	uint32_t extra = extra_lines(t, why);
	struct srv_reply *r = new_reply(t, why, code);

	for (uint32_t i = 0; i < extra; i++)
		octets_fmt(&r->text, "%u-%s%s, and more of it k%u.%u%s", code, enh, text, t->conn,
			r->serial, end);
	octets_fmt(&r->text, "%u %s%s k%u.%u%s", code, enh, text, t->conn, r->serial, end);
	queue_reply(t, r);
}

/* What only the list in clear has. Somebody between may have taken STARTTLS out of it. */
static void say_in_clear(struct talk *t, struct srv_reply *r)
{
	bool stripped = t->p->conf.manners == SRV_HOSTILE && !t->p->calm &&
			tape_chance(t->p->t, STRIP_RATE);

	octets_str(&r->text, "250-in-clear.example\r\n250-X-IN-CLEAR\r\n");
	if (!stripped)
		octets_str(&r->text, "250-STARTTLS\r\n");
}

void srv_say_ehlo(struct talk *t)
{
	const char *end = t->whim == WHIM_BARE_LF ? "\n" : "\r\n";
	struct span rest = octets_span(&t->p->extensions);
	bool differs = t->whim == WHIM_EHLO_DIFFERS;
	struct srv_reply *r;

	/* What follows is compared with what another link said. */
	t->c->lied |= differs;
	r = new_reply(t, SRV_ANSWER, 250);
	if (differs)
		octets_fmt(&r->text, "250-other.example k%u.%u\r\n250-X-OTHER\r\n", t->conn,
			r->serial);
	if (srv_before_tls(t))
		say_in_clear(t, r);
	octets_fmt(&r->text, "250%csim.example says hello k%u.%u%s", rest.n ? '-' : ' ', t->conn,
		r->serial, end);
	while (rest.n) {
		struct span line = actor_line(rest);

		rest = span_drop(rest, line.n);
		octets_fmt(&r->text, "250%c%.*s%s", rest.n ? '-' : ' ', (int)line.n - 1,
			(const char *)line.p, end);
	}
	queue_reply(t, r);
}

/* Well-formed, and not to be believed. */
void srv_lie(struct talk *t, unsigned code)
{
	t->c->lied = true;
	srv_say(t, SRV_LIE, code, "surprise");
}

/* ---- what is no reply ---- */

struct garbage {
	const char *before; /* the mark follows */
	const char *behind;
	uint16_t filler; /* so many letters before `behind` */
	uint16_t lines;	 /* "250-" lines first */
};

static const struct garbage garbage[] = {
	{"here we are", "\r\n", 0, 0},
	{"25 short", "\r\n", 0, 0},
	{"250-one", "\r\n550 other\r\n", 0, 0},
	{"650 no such class", "\r\n", 0, 0},
	{"250_", "\r\n", 0, 0},
	{"250 long ", "\r\n", 2500, 0},
	{"", "\r\n", 0, 0},
	{"250-more to come", "\r\n", 0, 0},
	{"250 bare\rreturn", "\r\n", 0, 0},
	{"250 endless", "-\r\n", 0, 1200},
	{"250 no end", "", 0, 0},
	{"-250 minus", "\r\n", 0, 0},
};

void srv_malform(struct talk *t)
{
	uint32_t pick = tape_pick(t->p->t, ARRAY_LEN(garbage) + 1);
	struct srv_reply *r;

	t->c->lied = true;
	r = new_reply(t, SRV_MALFORMED, 0);
	if (pick == ARRAY_LEN(garbage)) {
		octets_add(&r->text, "250 nul\0here", 12);
		octets_fmt(&r->text, " k%u.%u\r\n", t->conn, r->serial);
	} else {
		const struct garbage *g = &garbage[pick];

		for (uint32_t i = 0; i < g->lines; i++)
			octets_fmt(&r->text, "250-on and on k%u.%u\r\n", t->conn, r->serial);
		octets_fmt(&r->text, "%s k%u.%u", g->before, t->conn, r->serial);
		octets_letters(&r->text, r->serial, g->filler);
		octets_str(&r->text, g->behind);
		/* What came behind would be read as its end: a list of extensions without the line
		 * that has the mark. */
		t->a->closing |= g->behind[0] == '\0';
	}
	queue_reply(t, r);
}
