/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The conversation of a simulated client: which group of pieces comes next, when a piece may be
 * sent, what the replies mean for what follows. Replies are read loosely: the code of the last line
 * counts. Failure modes: 421, 221 and a greeting that is none end the session; a blind client goes
 * on whatever it hears.
 */
#include "tests/sim/client_int.h"

#define OPAQUE_BYTES_MAX 6000u
#define HELLOS_MAX 3u
#define TIRED_MAX 50u

/* ---- pieces ---- */

void cli_piece(struct cli *c, enum cli_expect expect, unsigned flags)
{
	c->pieces = actor_grow(c->pieces, c->piece_count, sizeof(*c->pieces));
	c->pieces[c->piece_count++] =
		(struct cli_piece){(uint32_t)c->out.n, (uint8_t)expect, (uint8_t)flags};
}

static void say(struct cli *c, enum cli_expect expect, unsigned flags, const char *text)
{
	octets_str(&c->out, text);
	cli_piece(c, expect, flags);
}

static bool answered(const struct cli *c)
{
	return c->expect_at == c->expects.n;
}

static bool may_go_on(const struct cli *c)
{
	return (answered(c) && c->sent == c->released) || c->impatient;
}

/* What the replies so far have made useless. */
static bool pointless(const struct cli *c, const struct cli_piece *p)
{
	if (c->blind || (p->flags & PIECE_MUST))
		return false;
	switch ((enum cli_expect)p->expect) {
	case EXPECT_RCPT:
		return !c->mail_ok;
	case EXPECT_DATA:
		return !c->mail_ok || c->rcpts_ok == 0;
	case EXPECT_CHUNK:
		return !c->mail_ok || c->rcpts_ok == 0 || c->spoiled;
	case EXPECT_FINAL:
		if (p->flags & PIECE_CHUNK)
			return !c->mail_ok || c->rcpts_ok == 0 || c->spoiled;
		return !c->go;
	default:
		return false;
	}
}

/* Where one dies in a body, or behind its end. */
static void plan_death(struct cli *c, const struct cli_piece *p)
{
	bool end = c->death == DEATH_END;
	uint64_t begin = c->sent_ever + (c->released - c->sent);

	if (p->expect != EXPECT_FINAL || (!end && c->death != DEATH_BODY))
		return;
	if (c->death_after > 0)
		c->death_after--;
	else if (end)
		c->death_at = begin + (p->end - c->released);
	else
		c->death_at = begin + tape_pick(c->all->t, p->end - c->released);
}

static void release(struct cli *c, const struct cli_piece *p)
{
	plan_death(c, p);
	if (p->expect != EXPECT_NOTHING)
		octets_add(&c->expects, &p->expect, 1);
	if (p->flags & PIECE_SHUT)
		c->shut_at = p->end;
	c->released = p->end;
	c->piece_at++;
}

/* RFC 2920 3.1: 354 and no valid recipient: a lone dot. */
static void skip_to_dot(struct cli *c, const struct cli_piece *p)
{
	if (!c->blind && p->expect == EXPECT_FINAL && !(p->flags & PIECE_CHUNK) && c->go &&
		c->rcpts_ok == 0 && p->end - c->released >= 3)
		c->sent = c->released = p->end - 3;
}

static bool next_piece(struct cli *c)
{
	const struct cli_piece *p = &c->pieces[c->piece_at];

	if ((p->flags & PIECE_APART) && c->sent < c->released)
		return false;
	if (!(p->flags & PIECE_SYNC)) {
		release(c, p);
		return true;
	}
	if (!may_go_on(c))
		return false;
	c->impatient = false;
	if (c->sent == c->released) {
		if (pointless(c, p)) {
			c->sent = c->released = p->end;
			c->piece_at++;
			return true;
		}
		skip_to_dot(c, p);
	}
	release(c, p);
	return true;
}

/* ---- what to say next ---- */

static void hello(struct cli *c)
{
	const struct clients_conf *conf = &c->all->conf;
	const char *verb = c->helo_only ? "HELO" : "EHLO";

	if (conf->bad_ehlo && !c->name_was_bad && !c->all->calm && tape_chance(c->all->t, 16)) {
		c->name_was_bad = true;
		octets_fmt(&c->out, "%s %s\r\n", verb, conf->bad_ehlo);
	} else {
		octets_fmt(&c->out, "%s c%u.example\r\n", verb, c->no);
	}
	cli_piece(c, EXPECT_HELLO, 0);
}

/* Base64 by its alphabet, if not by its meaning. */
static void secret(struct cli *c)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "c%uSecret", c->no);

	octets_str(&c->out, text);
	for (; n % 4 != 0; n++)
		octets_str(&c->out, "A");
}

static void auth(struct cli *c)
{
	static const char *const begins[] = {"AUTH PLAIN ", "AUTH PLAIN", "AUTH LOGIN",
		"AUTH LOGIN ", "AUTH PLAIN =", "AUTH XOAUTH2 "};
	uint32_t n = c->all->conf.manners == CLI_POLITE ? 4 : 6;
	const char *begin = begins[tape_pick(c->all->t, n)];

	c->wants_auth = false;
	octets_str(&c->out, begin);
	if (begin[strlen(begin) - 1] == ' ')
		secret(c);
	say(c, EXPECT_AUTH, 0, "\r\n");
}

static void auth_line(struct cli *c)
{
	bool rude = c->all->conf.manners != CLI_POLITE && !c->all->calm;
	uint32_t what = rude ? tape_pick(c->all->t, 16) : 0;

	c->challenged = false;
	if (what == 15)
		octets_str(&c->out, "*");
	else if (what == 14 && c->all->conf.manners == CLI_HOSTILE)
		octets_letters(&c->out, c->no, 13000);
	else if (what == 13 && c->all->conf.manners == CLI_HOSTILE)
		octets_add(&c->out, "AA\0\x1b\nAA", 7);
	else
		secret(c);
	say(c, EXPECT_AUTH, 0, "\r\n");
}

/* Plain octets behind STARTTLS: in the same write, or in the next one, whole lines or not. */
static void rush_starttls(struct cli *c)
{
	static const char *const ends[] = {"\r\n", "", "\r"};
	struct tape *t = c->all->t;
	bool apart = tape_pick(t, 2);

	if (apart)
		cli_piece(c, EXPECT_TLS, 0);
	octets_fmt(&c->out, "NOOP c%u-behind%s", c->no, ends[tape_pick(t, ARRAY_LEN(ends))]);
	cli_piece(c, apart ? EXPECT_OTHER : EXPECT_TLS, apart ? PIECE_APART : 0);
	c->blind = true;
}

static void starttls(struct cli *c)
{
	const struct clients_conf *conf = &c->all->conf;

	c->wants_tls = false;
	octets_str(&c->out, "STARTTLS\r\n");
	if (!c->all->calm && ((conf->manners == CLI_HOSTILE && tape_chance(c->all->t, 80)) ||
				     (conf->starttls_rushed && tape_pick(c->all->t, 2))))
		rush_starttls(c);
	else
		cli_piece(c, EXPECT_TLS, 0);
}

static void quit(struct cli *c)
{
	bool shut = c->all->calm ? c->blind
				 : c->all->conf.manners != CLI_POLITE && tape_chance(c->all->t, 30);

	c->quit_said = true;
	say(c, EXPECT_QUIT, shut ? PIECE_SHUT : 0, "QUIT\r\n");
}

static bool wants_mail(const struct cli *c)
{
	return c->message < c->messages && !c->all->calm &&
	       (c->hello || c->blind || c->all->conf.manners != CLI_POLITE);
}

/* Makes the next pieces; false: there is nothing more to say. */
static bool compose(struct cli *c)
{
	if (c->quit_said || c->opaque)
		return false;
	if (c->challenged)
		auth_line(c);
	else if (!c->hello && c->hellos_refused < HELLOS_MAX && !c->all->calm)
		hello(c);
	else if (c->wants_tls && c->hello)
		starttls(c);
	else if (c->wants_auth && c->hello)
		auth(c);
	else if (c->need_rset && !c->greedy && wants_mail(c)) {
		c->need_rset = false;
		say(c, EXPECT_OTHER, 0, "RSET\r\n");
	} else if (wants_mail(c))
		cli_mail(c);
	else
		quit(c);
	return true;
}

/* Everything was sent: the next pieces begin at the front again. */
static void begin_anew(struct cli *c)
{
	ASSERT(c->shut_at == UINT32_MAX);
	c->out.n = 0;
	c->sent = c->released = 0;
	c->piece_count = c->piece_at = 0;
}

void cli_advance(struct cli *c)
{
	if (c->far < 0 || c->shut || c->leaving)
		return;
	for (;;) {
		if (c->piece_at < c->piece_count) {
			if (!next_piece(c))
				return;
			continue;
		}
		if (c->sent < c->released || (!answered(c) && !c->impatient && !c->greedy))
			return;
		/* A hello that was not answered is not said again and again. */
		if (c->impatient && !answered(c))
			c->hellos_refused += !c->hello;
		if (c->shut_at != UINT32_MAX)
			return;
		c->impatient = false;
		begin_anew(c);
		if (!compose(c))
			return;
	}
}

bool cli_may_tire(const struct cli *c)
{
	if (!c->blind || c->shut || c->leaving || c->opaque || c->tired > TIRED_MAX)
		return false;
	return c->piece_at < c->piece_count || !c->quit_said;
}

/* ---- replies ---- */

static void read_offers(struct cli *c, struct span reply)
{
	static const struct {
		const char *keyword;
		uint32_t offer;
	} known[] = {
		{"CHUNKING", OFFERS_CHUNKING},
		{"STARTTLS", OFFERS_STARTTLS},
		{"AUTH ", OFFERS_AUTH},
		{"SIZE", OFFERS_SIZE},
		{"8BITMIME", OFFERS_8BITMIME},
		{"SMTPUTF8", OFFERS_SMTPUTF8},
		{"DSN", OFFERS_DSN},
		{"BINARYMIME", OFFERS_BINARYMIME},
	};
	struct span l;

	c->offers = 0;
	while ((l = actor_line(reply)).n) {
		reply = span_drop(reply, l.n);
		for (size_t i = 0; l.n > 4 && i < ARRAY_LEN(known); i++)
			if (actor_begins(span_drop(l, 4), known[i].keyword))
				c->offers |= known[i].offer;
	}
}

static void on_hello(struct cli *c, unsigned code, struct span reply)
{
	bool again = c->hello;

	if (code == 250) {
		c->hello = true;
		if (!c->helo_only)
			read_offers(c, reply);
		c->wants_tls &= (c->offers & OFFERS_STARTTLS) != 0;
		/* Some say it all the same. */
		c->wants_auth &= (c->offers & OFFERS_AUTH) ||
				 (c->door->tls != SIM_CLEAR && c->all->conf.manners == CLI_HOSTILE);
		return;
	}
	if (again)
		return;
	/* HELO for those who do not know EHLO; three are enough. */
	c->hellos_refused++;
	c->helo_only |= c->hellos_refused == 2;
	if (c->hellos_refused >= HELLOS_MAX)
		c->messages = 0;
}

static void leave(struct cli *c)
{
	c->leaving = true;
	c->released = c->sent;
	c->piece_at = c->piece_count;
}

/* 554: there is no mail service, only QUIT is left to say (RFC 5321 3.1). */
static void on_greeting(struct cli *c, unsigned code)
{
	if (code == 554) {
		c->messages = 0;
		c->hellos_refused = HELLOS_MAX;
	} else if (code != 220) {
		leave(c);
	}
}

static void go_opaque(struct cli *c)
{
	c->opaque = true;
	c->blind = false;
	c->heard_at = c->line_at = c->heard.n;
	c->opaque_left = c->all->calm ? 0 : 1 + tape_small(c->all->t, OPAQUE_BYTES_MAX);
	c->expect_at = c->expects.n = 0;
	c->piece_at = c->piece_count;
	c->shut_at = UINT32_MAX;
	octets_opaque(&c->out, c->no * 7919u, c->opaque_left);
	cli_piece(c, EXPECT_NOTHING, PIECE_SHUT);
}

/* All that was learnt so far counts no more; what was not said yet is not said in clear. */
static void go_secure(struct cli *c)
{
	c->released = c->sent;
	c->piece_at = c->piece_count;
	c->shut_at = UINT32_MAX;
	c->expect_at = c->expects.n = 0;
	c->heard_at = c->line_at = c->heard.n;
	c->blind = c->hello = c->helo_only = false;
	c->hellos_refused = 0;
	c->offers = 0;
	/* Some think that what they said in clear still holds. */
	c->hello =
		c->all->conf.manners != CLI_POLITE && !c->all->calm && tape_chance(c->all->t, 40);
	cli_veil(c);
}

static void on_expected(struct cli *c, enum cli_expect what, unsigned code, struct span reply)
{
	bool ok = code >= 200 && code < 300;

	switch (what) {
	case EXPECT_GREETING:
		on_greeting(c, code);
		break;
	case EXPECT_HELLO:
		on_hello(c, code, reply);
		break;
	case EXPECT_MAIL:
		c->mail_ok = ok;
		break;
	case EXPECT_RCPT:
		c->rcpts_ok += ok;
		break;
	case EXPECT_DATA:
		c->go = code == 354;
		break;
	case EXPECT_CHUNK:
		c->spoiled |= !ok;
		break;
	case EXPECT_FINAL:
		c->need_rset &= !ok;
		break;
	case EXPECT_AUTH:
		c->challenged = code == 334;
		break;
	case EXPECT_TLS:
		if (code == 220 && c->door->tls == SIM_STARTTLS)
			go_secure(c);
		else if (code == 220)
			go_opaque(c);
		break;
	case EXPECT_XCLIENT:
		if (code == 220)
			c->hello = false;
		break;
	case EXPECT_QUIT:
		leave(c);
		break;
	default:
		break;
	}
}

static void on_reply(struct cli *c, struct span reply, struct span last)
{
	uint64_t code = last.n >= 3 ? actor_number(span_of(last.p, 3)) : 0;
	enum cli_expect what = EXPECT_NOTHING;

	c->replies++;
	if (c->expect_at < c->expects.n)
		what = (enum cli_expect)c->expects.p[c->expect_at++];
	if (answered(c))
		c->expect_at = c->expects.n = 0;
	/* Both say that nothing follows. */
	if (code == 421 || code == 521)
		leave(c);
	else
		on_expected(c, what, (unsigned)MIN_OF(code, (uint64_t)999), reply);
}

static bool continues(struct span l)
{
	return l.n > 3 && l.p[3] == '-' && actor_number(span_of(l.p, 3)) != UINT64_MAX;
}

void cli_listen(struct cli *c)
{
	while (!c->opaque) {
		struct span l =
			actor_line(span_of(c->heard.p + c->line_at, c->heard.n - c->line_at));
		size_t begin = c->heard_at;

		if (l.n == 0)
			return;
		c->line_at += l.n;
		if (continues(l))
			continue;
		c->heard_at = c->line_at;
		on_reply(c, span_of(c->heard.p + begin, c->line_at - begin), l);
	}
}
