/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One message of a simulated client, put together as pieces: envelope, DATA or BDAT, body, and what
 * is odd about it. Up to two oddities at once. Those of polite clients are legal and usual, rare
 * ones are legal or merely refused, hostile ones try to confuse.
 */
#include "tests/sim/client_int.h"

#define CHUNKS_MAX 5u
#define STORM_CHUNKS_MAX 120u
#define MANY_RCPTS_MAX 130u

/* X(id, weight of 256, least manners) */
#define ODDITIES(X)                                                               \
	X(ODD_NONE, 0, CLI_POLITE)                                                \
	X(ODD_NULL_SENDER, 16, CLI_POLITE)                                        \
	X(ODD_BAD_SENDER, 8, CLI_POLITE) /* refused by a rule, as the next */     \
	X(ODD_BAD_RCPT, 12, CLI_POLITE)                                           \
	X(ODD_QUIT_BEHIND, 10, CLI_POLITE) /* QUIT in the write with the end */   \
	X(ODD_MANY_RCPTS, 3, CLI_RARE)                                            \
	X(ODD_NO_RCPT, 6, CLI_RARE)                                               \
	X(ODD_NO_MAIL, 4, CLI_RARE)                                               \
	X(ODD_SECOND_MAIL, 6, CLI_RARE)                                           \
	X(ODD_RSET_INSIDE, 6, CLI_RARE)                                           \
	X(ODD_OTHER_INSIDE, 10, CLI_RARE) /* NOOP, VRFY and the like */           \
	X(ODD_BIG_SIZE, 5, CLI_RARE)                                              \
	X(ODD_NO_WAIT, 5, CLI_RARE) /* the body comes with DATA */                \
	X(ODD_SHUT_BEHIND, 5, CLI_RARE)                                           \
	X(ODD_EHLO_AGAIN, 6, CLI_RARE)                                            \
	X(ODD_STORM, 4, CLI_RARE)  /* of tiny chunks */                           \
	X(ODD_MIXED, 4, CLI_RARE)  /* BDAT, then DATA */                          \
	X(ODD_GREEDY, 8, CLI_RARE) /* the next message follows without waiting */ \
	X(ODD_SMUGGLE, 30, CLI_HOSTILE)                                           \
	X(ODD_MUTATE, 24, CLI_HOSTILE)                                            \
	X(ODD_FOREIGN, 10, CLI_HOSTILE)                                           \
	X(ODD_BAD_CHUNK, 7, CLI_HOSTILE)                                          \
	X(ODD_JUNK, 5, CLI_HOSTILE)                                               \
	X(ODD_ENDLESS_LINE, 4, CLI_HOSTILE)                                       \
	X(ODD_BEHIND_QUIT, 5, CLI_HOSTILE)                                        \
	X(ODD_DEAF, 4, CLI_HOSTILE) /* never reads, for many minutes */

enum oddity {
#define X(id, weight, manners) id,
	ODDITIES(X)
#undef X
};

static const struct actor_whim weights[] = {
#define X(id, weight, manners) {weight, manners},
	ODDITIES(X)
#undef X
};

struct mail {
	struct cli *c;
	struct tape *t;
	uint32_t odd; /* 1 << enum oddity */
	bool chunked;
	uint32_t sync_bits; /* which of the next pieces wait, when style is mixed */
	size_t bytes;	    /* of the body */
};

static bool odd(const struct mail *m, enum oddity o)
{
	return (m->odd & 1u << o) != 0;
}

static uint32_t roll(struct mail *m)
{
	const struct sim_clients *all = m->c->all;
	uint32_t o;

	if (all->calm)
		return 0;
	o = 1u << actor_whim(m->t, weights, ARRAY_LEN(weights), all->conf.manners);
	if (all->conf.manners != CLI_POLITE)
		o |= 1u << actor_whim(m->t, weights, ARRAY_LEN(weights), all->conf.manners);
	return o;
}

static unsigned sync(struct mail *m)
{
	if (m->c->style != STYLE_MIXED)
		return m->c->style == STYLE_LOCKSTEP ? PIECE_SYNC : 0;
	if (m->sync_bits <= 1)
		m->sync_bits = 0x100 | tape_pick(m->t, 256);
	m->sync_bits >>= 1;
	return m->sync_bits & 1 ? PIECE_SYNC : 0;
}

/* ---- envelope ---- */

/* Polite clients say only what was offered. */
static bool may_say(const struct mail *m, uint32_t offer)
{
	return (m->c->offers & offer) != 0 || m->c->all->conf.manners != CLI_POLITE;
}

static void mail_params(struct mail *m, uint32_t bits)
{
	struct octets *o = &m->c->out;

	if (odd(m, ODD_BIG_SIZE))
		octets_str(o, " SIZE=99999999999");
	else if ((bits & 1) && may_say(m, OFFERS_SIZE))
		octets_fmt(o, " SIZE=%zu", m->bytes);
	if ((bits & 2) && may_say(m, OFFERS_8BITMIME))
		octets_str(o, bits & 64 ? " BODY=7BIT" : " BODY=8BITMIME");
	else if ((bits & 64) && m->chunked && (m->c->offers & OFFERS_BINARYMIME))
		octets_str(o, " BODY=BINARYMIME");
	if ((bits & 4) && may_say(m, OFFERS_SMTPUTF8))
		octets_str(o, " SMTPUTF8");
	if ((bits & 8) && may_say(m, OFFERS_DSN))
		octets_fmt(o, " RET=%s ENVID=c%um%u+2Bx", bits & 64 ? "FULL" : "HDRS", m->c->no,
			m->c->message);
	if ((bits & 16) && (m->c->offers & OFFERS_AUTH))
		octets_str(o, " AUTH=<>");
}

static void mail_line(struct mail *m)
{
	struct cli *c = m->c;
	const char *bad = c->all->conf.bad_sender;
	uint32_t bits = c->all->calm ? 0 : tape_pick(m->t, 256) & tape_pick(m->t, 256);

	if (odd(m, ODD_BAD_SENDER) && bad)
		octets_fmt(&c->out, "MAIL FROM:<%s>", bad);
	else if (odd(m, ODD_NULL_SENDER))
		octets_str(&c->out, "MAIL FROM:<>");
	else
		octets_fmt(&c->out, "MAIL FROM:<c%um%u%s@c%u.example>", c->no, c->message,
			bits & 4 && may_say(m, OFFERS_SMTPUTF8) ? "\u00e9" : "", c->no);
	mail_params(m, bits);
	octets_str(&c->out, "\r\n");
	cli_piece(c, EXPECT_MAIL, c->greedy ? 0 : PIECE_SYNC);
}

/* Ways to write "RCPT TO:<mailbox>\r\n": what is before and behind the mark. The usual ones first,
 * then what is legal and hardly seen, then what is written wrong. */
static const struct spelling {
	const char *before, *behind;
	uint8_t manners;
} spellings[] = {
	{"RCPT TO:<", "@dest.example>", CLI_POLITE},
	{"RCPT TO:<", "@dest.example>", CLI_POLITE},
	{"rcpt to:<", "@dest.example>", CLI_RARE},
	{"Rcpt To: <", "@dest.example>", CLI_RARE},
	{"RCPT TO:<\"", "\"@dest.example>", CLI_RARE},
	{"RCPT TO:<\"\\\" <>", " x\"@dest.example>", CLI_RARE},
	{"RCPT TO:<@via.example,@dest.example:", "@dest.example>", CLI_RARE},
	{"RCPT TO:<", "@[192.0.2.1]>", CLI_RARE},
	{"RCPT TO:<", "@[IPv6:2001:db8::1]>", CLI_RARE},
	{"RCPT TO:<", "+tag=x/y@Dest.EXAMPLE>", CLI_RARE},
	{"RCPT TO:<", "@dest.example>  ", CLI_RARE},
	{"RCPT  TO:<", "@dest.example>", CLI_HOSTILE},
	{"RCPT TO:", "@dest.example", CLI_HOSTILE},
	{"RCPT TO:<", "@dest.example> X=", CLI_HOSTILE},
	{"RCPT TO:<", "@dest.example", CLI_HOSTILE},
	{"RCPT TO:<", "@dest.example>x", CLI_HOSTILE},
	{"RCPT TO:<", "@>", CLI_HOSTILE},
	{"RCPT\tTO:<", "@dest.example>", CLI_HOSTILE},
};

static const struct spelling *choose_spelling(struct mail *m)
{
	enum cli_manners manners = m->c->all->conf.manners;
	uint32_t n = 0;

	if (m->c->all->calm || manners == CLI_POLITE || !tape_chance(m->t, 40))
		return &spellings[0];
	while (n < ARRAY_LEN(spellings) && spellings[n].manners <= manners)
		n++;
	return &spellings[tape_pick(m->t, n)];
}

static void rcpt_line(struct mail *m, uint32_t n)
{
	struct cli *c = m->c;
	const struct spelling *s = choose_spelling(m);

	octets_fmt(&c->out, "%sc%um%ur%u%s", s->before, c->no, c->message, n, s->behind);
	if (n == 1 && !c->all->calm && may_say(m, OFFERS_DSN) && tape_chance(m->t, 20))
		octets_fmt(&c->out, " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c%um%ur%u@dest.example",
			c->no, c->message, n);
	octets_str(&c->out, "\r\n");
	cli_piece(c, EXPECT_RCPT, sync(m));
}

static void other_command(struct mail *m)
{
	static const char *const commands[] = {"NOOP\r\n", "VRFY c%um%u@dest.example\r\n",
		"HELP\r\n", "EXPN staff\r\n", "NOOP c%um%u idle words\r\n", "ETRN dest.example\r\n",
		"X-c%um%u\r\n"};
	struct cli *c = m->c;
	const char *cmd = commands[tape_pick(m->t, ARRAY_LEN(commands))];
	const char *mark = strstr(cmd, "c%u");

	if (!mark) {
		octets_str(&c->out, cmd);
	} else {
		octets_add(&c->out, cmd, (size_t)(mark - cmd));
		octets_fmt(&c->out, "c%um%u", c->no, c->message);
		octets_str(&c->out, mark + strlen("c%um%u"));
	}
	cli_piece(c, EXPECT_OTHER, sync(m));
}

static void rcpts(struct mail *m)
{
	struct cli *c = m->c;
	uint32_t count = c->all->calm ? 1 : 1 + tape_small(m->t, 4);
	uint32_t bad = UINT32_MAX;

	if (odd(m, ODD_NO_RCPT))
		count = 0;
	else if (odd(m, ODD_MANY_RCPTS))
		count += tape_pick(m->t, MANY_RCPTS_MAX);
	if (odd(m, ODD_BAD_RCPT) && c->all->conf.bad_recipient)
		bad = tape_pick(m->t, count + 1);
	for (uint32_t i = 0; i <= count; i++) {
		if (i == bad) {
			octets_fmt(&c->out, "RCPT TO:<%s>\r\n", c->all->conf.bad_recipient);
			cli_piece(c, EXPECT_RCPT, sync(m));
		}
		if (i < count)
			rcpt_line(m, i + 1);
	}
}

/* ---- bodies ---- */

static unsigned behind_end(struct mail *m)
{
	return odd(m, ODD_SHUT_BEHIND) && !odd(m, ODD_QUIT_BEHIND) ? PIECE_SHUT : 0;
}

static void data(struct mail *m, struct span body)
{
	struct cli *c = m->c;
	bool blind = odd(m, ODD_NO_WAIT);
	unsigned must = odd(m, ODD_NO_RCPT) || odd(m, ODD_NO_MAIL) ? PIECE_MUST : 0;

	octets_str(&c->out, "DATA\r\n");
	cli_piece(c, EXPECT_DATA, sync(m) | must);
	cli_stuff(&c->out, body, odd(m, ODD_SMUGGLE));
	cli_piece(c, EXPECT_FINAL, (blind ? 0 : PIECE_SYNC) | behind_end(m));
	c->blind |= blind;
}

static void chunk(struct mail *m, struct span octets, bool last)
{
	struct cli *c = m->c;
	unsigned must = odd(m, ODD_NO_RCPT) || odd(m, ODD_NO_MAIL) ? PIECE_MUST : 0;

	octets_fmt(&c->out, "BDAT %zu%s\r\n", octets.n, last ? " LAST" : "");
	octets_add(&c->out, octets.p, octets.n);
	cli_piece(c, last ? EXPECT_FINAL : EXPECT_CHUNK,
		PIECE_CHUNK | sync(m) | must | (last ? behind_end(m) : 0));
}

static void storm(struct mail *m, struct span *body)
{
	for (uint32_t i = 0; i < STORM_CHUNKS_MAX && body->n > 1; i++) {
		size_t n = 1 + i % 3;

		n = MIN_OF(n, body->n - 1);
		chunk(m, span_of(body->p, n), false);
		*body = span_drop(*body, n);
	}
}

static void chunks(struct mail *m, struct span body)
{
	uint32_t count = m->c->all->calm ? 0 : tape_small(m->t, CHUNKS_MAX);

	if (odd(m, ODD_STORM))
		storm(m, &body);
	for (; count > 0 && body.n > 0; count--) {
		size_t n = 1 + tape_pick(m->t, (uint32_t)body.n);

		chunk(m, span_of(body.p, n), false);
		body = span_drop(body, n);
	}
	if (odd(m, ODD_MIXED)) {
		data(m, body);
		m->c->blind = true;
	} else {
		chunk(m, body, true);
	}
}

static void body(struct mail *m)
{
	struct octets *o = &m->c->all->body;

	o->n = 0;
	cli_body(o, m->c, odd(m, ODD_SMUGGLE));
	m->bytes = o->n;
}

static bool choose_chunked(struct mail *m)
{
	bool offered = (m->c->offers & OFFERS_CHUNKING) != 0;

	if (m->c->all->calm || odd(m, ODD_SMUGGLE))
		return false;
	if (odd(m, ODD_STORM) || odd(m, ODD_MIXED))
		return true;
	if (!offered)
		return m->c->all->conf.manners != CLI_POLITE && tape_chance(m->t, 10);
	return m->c->all->conf.bulky || m->c->all->conf.chunks || tape_pick(m->t, 5) >= 3;
}

/* ---- the whole ---- */

static void before(struct mail *m)
{
	struct cli *c = m->c;

	if (odd(m, ODD_EHLO_AGAIN)) {
		octets_fmt(&c->out, "EHLO also.c%u.example\r\n", c->no);
		cli_piece(c, EXPECT_HELLO, PIECE_SYNC);
	}
	if (odd(m, ODD_JUNK))
		cli_junk(c);
	if (odd(m, ODD_FOREIGN) || (c->all->conf.binds && !c->all->calm && tape_chance(m->t, 60)))
		cli_foreign_verb(c);
	if (odd(m, ODD_ENDLESS_LINE))
		cli_endless_line(c);
	if (odd(m, ODD_DEAF))
		c->deaf_till_us = sim_now_us(c->all->k) + 720000000ull;
}

static void envelope(struct mail *m)
{
	if (!odd(m, ODD_NO_MAIL))
		mail_line(m);
	if (odd(m, ODD_OTHER_INSIDE))
		other_command(m);
	rcpts(m);
	if (odd(m, ODD_SECOND_MAIL))
		mail_line(m);
	if (odd(m, ODD_RSET_INSIDE)) {
		octets_str(&m->c->out, "RSET\r\n");
		cli_piece(m->c, EXPECT_OTHER, sync(m));
		mail_line(m);
		rcpts(m);
	}
}

static void quit_behind(struct mail *m)
{
	struct cli *c = m->c;

	if (!odd(m, ODD_QUIT_BEHIND) && !odd(m, ODD_BEHIND_QUIT))
		return;
	octets_str(&c->out, "QUIT\r\n");
	if (odd(m, ODD_BEHIND_QUIT)) {
		octets_fmt(&c->out, "MAIL FROM:<evil-c%um%u@c%u.example>\r\nNOOP\r\n", c->no,
			c->message, c->no);
		c->blind = true;
	}
	c->quit_said = true;
	cli_piece(c, EXPECT_QUIT, odd(m, ODD_SHUT_BEHIND) ? PIECE_SHUT : 0);
}

void cli_mail(struct cli *c)
{
	struct mail m = {.c = c, .t = c->all->t};
	uint32_t from = (uint32_t)c->out.n;

	c->message++;
	c->mail_ok = c->go = c->spoiled = false;
	c->rcpts_ok = 0;
	c->need_rset = true;
	m.odd = roll(&m);
	m.chunked = choose_chunked(&m);
	body(&m);
	before(&m);
	envelope(&m);
	if (odd(&m, ODD_BAD_CHUNK))
		cli_bad_chunk(c);
	else if (m.chunked)
		chunks(&m, octets_span(&c->all->body));
	else
		data(&m, octets_span(&c->all->body));
	quit_behind(&m);
	if (odd(&m, ODD_MUTATE))
		cli_mutate(c, from);
	c->greedy = odd(&m, ODD_GREEDY) && c->message < c->messages;
}
