/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What hostile clients do to the grammar: commands nobody may pass, floods, lines without end,
 * sizes that are none, flipped bits. A client that did any of it is blind from then on: it no
 * longer believes that it knows which reply is whose, and goes on after a while without. A mutation
 * never touches a digit or what stands between two, so that no mark becomes somebody else's.
 */
#include "tests/sim/client_int.h"

#define JUNK_MAX 140u
#define LINE_MAX 14000u
#define MUTATIONS_MAX 4u

void cli_junk(struct cli *c)
{
	static const char *const junk[] = {
		"NOOP\r\n", "RSET\r\n", "VRFY x\r\n", "GET / HTTP/1.0\r\n", "\r\n", "EXPN y\r\n"};
	struct tape *t = c->all->t;
	const char *same = junk[tape_pick(t, ARRAY_LEN(junk))];

	for (uint32_t i = 2 + tape_small(t, JUNK_MAX); i > 0; i--) {
		octets_str(&c->out, same);
		cli_piece(c, EXPECT_OTHER, 0);
	}
}

void cli_foreign_verb(struct cli *c)
{
	static const char *const commands[] = {
		"XCLIENT ADDR=192.0.2.7 HELO=evil.example\r\n",
		"XFORWARD ADDR=192.0.2.7 SOURCE=LOCAL\r\n",
		"TURN\r\n",
		"LHLO evil.example\r\n",
		"BURL imap://evil.example/x LAST\r\n",
		"ATRN dest.example\r\n",
		"XEXCH50 20 2\r\n",
		"STARTTLS\r\n",
		"XCLIENT NAME=evil.example\r\n",
	};
	uint32_t i = tape_pick(c->all->t, ARRAY_LEN(commands));

	enum cli_expect expect = EXPECT_OTHER;

	if (actor_begins(span_str(commands[i]), "XCLIENT"))
		expect = EXPECT_XCLIENT;
	if (actor_begins(span_str(commands[i]), "STARTTLS"))
		expect = EXPECT_TLS;
	c->blind |= expect == EXPECT_TLS;
	octets_str(&c->out, commands[i]);
	cli_piece(c, expect, tape_pick(c->all->t, 2) ? 0 : PIECE_SYNC);
}

void cli_bad_chunk(struct cli *c)
{
	static const char *const chunks[] = {
		"BDAT\r\n",
		"BDAT -1\r\n",
		"BDAT 99999999999999999999 LAST\r\n",
		"BDAT 2147483647\r\n",
		"BDAT 5 LAST LAST\r\n",
		"BDAT five LAST\r\n",
		"BDAT\t5 LAST\r\n",
		"BDAT 0x5 LAST\r\n",
		"BDAT 5 FIRST\r\n",
		"BDAT 4294967301 LAST\r\n",
	};

	octets_str(&c->out, chunks[tape_pick(c->all->t, ARRAY_LEN(chunks))]);
	octets_fmt(&c->out, "c%um%u\r\nNOOP\r\n", c->no, c->message);
	cli_piece(c, EXPECT_FINAL, PIECE_CHUNK | PIECE_MUST);
	c->blind = true;
}

void cli_endless_line(struct cli *c)
{
	static const char *const begins[] = {"NOOP ", "AUTH PLAIN ", "MAIL FROM:<", ""};
	struct tape *t = c->all->t;

	octets_str(&c->out, begins[tape_pick(t, ARRAY_LEN(begins))]);
	octets_letters(&c->out, c->no, 400 + tape_pick(t, LINE_MAX));
	octets_str(&c->out, "\r\n");
	cli_piece(c, EXPECT_OTHER, 0);
}

/* ---- mutations ---- */

static bool is_digit(uint8_t b)
{
	return b >= '0' && b <= '9';
}

/* Digits must stay what they are, and apart. */
static bool untouchable(const struct octets *o, uint32_t at)
{
	return is_digit(o->p[at]) || (at > 0 && is_digit(o->p[at - 1])) ||
	       (at + 1 < o->n && is_digit(o->p[at + 1]));
}

static void replace(struct cli *c, uint32_t at, uint8_t b)
{
	if (!is_digit(b))
		c->out.p[at] = b;
}

static void insert(struct cli *c, uint32_t at, uint8_t b)
{
	octets_add(&c->out, &b, 1);
	memmove(c->out.p + at + 1, c->out.p + at, c->out.n - 1 - at);
	c->out.p[at] = b;
	for (uint32_t i = 0; i < c->piece_count; i++)
		c->pieces[i].end += c->pieces[i].end > at;
}

static void cut_out(struct cli *c, uint32_t at)
{
	memmove(c->out.p + at, c->out.p + at + 1, c->out.n - 1 - at);
	c->out.n--;
	for (uint32_t i = 0; i < c->piece_count; i++)
		c->pieces[i].end -= c->pieces[i].end > at;
}

/* Line ends are where the interesting mistakes are. */
static uint32_t find_cr(const struct octets *o, uint32_t from)
{
	const uint8_t *cr = memchr(o->p + from, '\r', o->n - from);

	return cr ? (uint32_t)(cr - o->p) : from;
}

static void mutate_once(struct cli *c, uint32_t from)
{
	static const uint8_t strange[] = {
		0, '\n', '\r', ' ', '\t', 0x7f, 0x1b, 0xff, '>', ':', '.'};
	struct tape *t = c->all->t;
	uint32_t at = from + tape_small(t, (uint32_t)c->out.n - 1 - from);
	uint32_t what = tape_pick(t, 8);

	if (what >= 5)
		at = find_cr(&c->out, at);
	if (untouchable(&c->out, at))
		return;
	switch (what) {
	case 0:
	case 1:
		replace(c, at, c->out.p[at] ^ (uint8_t)(1u << tape_pick(t, 8)));
		break;
	case 2:
	case 5:
		insert(c, at, strange[tape_pick(t, ARRAY_LEN(strange))]);
		break;
	case 3:
	case 6:
		cut_out(c, at);
		break;
	default:
		replace(c, at, strange[tape_pick(t, ARRAY_LEN(strange))]);
	}
}

void cli_mutate(struct cli *c, uint32_t from)
{
	c->blind = true;
	for (uint32_t i = 1 + tape_pick(c->all->t, MUTATIONS_MAX); i > 0; i--)
		if (c->out.n > from + 1)
			mutate_once(c, from);
}
