/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bodies of simulated messages. Every line that has any letters begins with its owner's mark,
 * "c<client>m<message> ". A body that smuggles holds a spelling that some servers take for the end
 * of data, and behind it a transaction of its own; what ends it for a strict server is the end of
 * that one.
 */
#include "tests/sim/client_int.h"

#define LINE_BYTES_MAX 70u

struct body {
	struct octets *o;
	struct cli *c;
	uint32_t seed;
};

static uint32_t pick(struct body *b, uint32_t n)
{
	return tape_pick(b->c->all->t, n);
}

static void mark(struct body *b)
{
	octets_fmt(b->o, "c%um%u ", b->c->no, b->c->message);
	b->seed = b->seed * 1664525u + 1013904223u;
}

static void line(struct body *b, const char *prefix, const char *end)
{
	octets_str(b->o, prefix);
	mark(b);
	octets_letters(b->o, b->seed >> 8, b->seed >> 16 & 63);
	octets_str(b->o, end);
}

/* ---- kinds ---- */

static void short_one(struct body *b)
{
	for (uint32_t i = 1 + pick(b, 4); i > 0; i--)
		line(b, "", "\r\n");
}

static void empty(struct body *b)
{
}

static void dots(struct body *b)
{
	static const char *const prefixes[] = {".", "..", "...", ". "};

	for (uint32_t i = 1 + pick(b, 6); i > 0; i--) {
		line(b, prefixes[i % ARRAY_LEN(prefixes)], "\r\n");
		octets_str(b->o, i % 3 ? ".\r\n" : "..\r\n");
	}
}

static void eight_bit(struct body *b)
{
	for (unsigned i = 0; i < 4; i++) {
		mark(b);
		for (unsigned v = 0; v < 64; v++)
			octets_add(b->o, &(uint8_t){(uint8_t)(0x80 + (i * 37 + v) % 128)}, 1);
		octets_str(b->o, "\r\n");
	}
}

/* Small ones mostly, but what is large must come as well: movers begin at 16 KiB. */
static size_t some_bytes(struct body *b)
{
	uint32_t max = b->c->all->conf.body_bytes;

	return b->c->all->conf.bulky || tape_pick(b->c->all->t, 3) == 2
		       ? tape_pick(b->c->all->t, max)
		       : tape_small(b->c->all->t, max);
}

static void large(struct body *b)
{
	size_t end = b->o->n + some_bytes(b);

	while (b->o->n + LINE_BYTES_MAX < end)
		line(b, b->seed >> 28 ? "" : ".", "\r\n");
	line(b, "", "\r\n");
}

static void long_line(struct body *b)
{
	mark(b);
	octets_letters(b->o, b->seed, some_bytes(b));
	octets_str(b->o, "\r\n");
}

static void bare_lf(struct body *b)
{
	for (uint32_t i = 1 + pick(b, 6); i > 0; i--)
		line(b, "", i % 2 ? "\n" : "\r\n");
}

static void bare_cr(struct body *b)
{
	for (uint32_t i = 1 + pick(b, 6); i > 0; i--) {
		line(b, "", i % 2 ? "\r" : "\r\n");
		line(b, "", i % 3 ? "\r\r\n" : "\n\r");
	}
}

static void nuls(struct body *b)
{
	for (uint32_t i = 1 + pick(b, 4); i > 0; i--) {
		line(b, "", "");
		octets_add(b->o, "\0\0", 1 + i % 2);
		octets_str(b->o, "\r\n");
	}
}

static void open_end(struct body *b)
{
	line(b, "", "\r\n");
	line(b, ".", pick(b, 2) ? "\r" : "");
}

static void smuggle(struct body *b)
{
	static const char *const ends[] = {"\n", "\r", "\r\n"};
	static const char *const dot[] = {".", "\\.", ".\\"};
	uint32_t spelling = pick(b, 9), nul = pick(b, 6) == 5 ? 1 + pick(b, 2) : 0;
	const char *d = dot[nul];

	/* Dull: LF.LF; never the true end itself. */
	if (spelling == 8 && nul == 0)
		spelling = 2;
	line(b, "", ends[spelling / 3]);
	for (; *d; d++)
		octets_add(b->o, *d == '\\' ? "" : d, 1);
	octets_str(b->o, ends[spelling % 3]);
	octets_fmt(b->o,
		"MAIL FROM:<evil-c%um%u@c%u.example>\r\nRCPT TO:<c%um%ur99@dest.example>\r\n"
		"DATA\r\n",
		b->c->no, b->c->message, b->c->no, b->c->no, b->c->message);
	line(b, "", "\r\n");
}

/* A header, whole or odd, and what may follow it. */
static void letter(struct body *b)
{
	static const char *const fields[] = {"Subject: ", "To:", "Received: ", "subject : ",
		"X-Mark:\t", "Received: by\r\n\t", "X-Dots: .\r\n ."};
	static const char *const seams[] = {
		"\r\n", "", "\r\n.\r\n", "not a field\r\n", " blank\r\n"};
	uint32_t seam = pick(b, 3) ? 0 : pick(b, ARRAY_LEN(seams));

	for (uint32_t i = 1 + pick(b, 5); i > 0; i--)
		line(b, fields[pick(b, ARRAY_LEN(fields))], "\r\n");
	if (pick(b, 16) == 15) {
		line(b, "Last: ", "");
		return;
	}
	octets_str(b->o, seams[seam]);
	for (uint32_t i = pick(b, 4); i > 0; i--)
		line(b, i % 2 ? "" : ".", "\r\n");
}

/* X(id, weight of 256, least manners) */
#define BODIES(X)                    \
	X(short_one, 0, CLI_POLITE)  \
	X(empty, 12, CLI_POLITE)     \
	X(dots, 24, CLI_POLITE)      \
	X(eight_bit, 12, CLI_POLITE) \
	X(large, 50, CLI_POLITE)     \
	X(long_line, 12, CLI_RARE)   \
	X(bare_lf, 12, CLI_RARE)     \
	X(bare_cr, 12, CLI_RARE)     \
	X(nuls, 8, CLI_RARE)         \
	X(open_end, 12, CLI_RARE)

static const struct actor_whim weights[] = {
#define X(id, weight, manners) {weight, manners},
	BODIES(X)
#undef X
};

static void (*const kinds[])(struct body *b) = {
#define X(id, weight, manners) id,
	BODIES(X)
#undef X
};

void cli_body(struct octets *out, struct cli *c, bool smuggles)
{
	struct body b = {out, c, c->no * 2654435761u + c->message * 40503u};

	if (smuggles)
		smuggle(&b);
	else if (c->all->calm)
		short_one(&b);
	else if (c->all->conf.letters && tape_pick(c->all->t, 8) > 2)
		letter(&b);
	else if (c->all->conf.bulky)
		large(&b);
	else
		kinds[actor_whim(c->all->t, weights, ARRAY_LEN(weights), c->all->conf.manners)](&b);
}

void cli_stuff(struct octets *out, struct span body, bool smuggles)
{
	size_t begin = out->n;

	while (!smuggles && body.n) {
		struct span l = actor_line(body);

		if (body.p[0] == '.' &&
			(out->n == begin || (out->n >= begin + 2 && out->p[out->n - 2] == '\r')))
			octets_str(out, ".");
		l = l.n ? l : body;
		octets_add(out, l.p, l.n);
		body = span_drop(body, l.n);
	}
	octets_add(out, body.p, body.n);
	if (out->n > begin && (out->n < begin + 2 || memcmp(out->p + out->n - 2, "\r\n", 2) != 0))
		octets_str(out, "\r\n");
	octets_str(out, ".\r\n");
}
