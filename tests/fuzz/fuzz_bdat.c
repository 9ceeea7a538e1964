/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Framing of a pipelined stream with BDAT: commands are lines, chunks are counted (RFC 3030 2), and
 * where one ends the other begins. The reader here uses smtp_line, smtp_cmd_parse and
 * smtp_bdat_parse on a stream that arrives in pieces. Claimed, for any octets:
 *  - the sequence of commands and chunks does not depend on the pieces: whole, octet by octet, cut
 *    as the input says;
 *  - it is that of a naive reader with the whole stream before it;
 *  - commands and chunks follow each other without a gap and without an overlap: nothing inside a
 *    chunk is ever taken for a command.
 * Input: octets 0 to 3 the sizes of the pieces, in turn; the rest is the stream.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/smtp/cmd.h"
#include "engine/smtp/line.h"

/* A line has three octets at least and makes two parts at most: no input fills the table. */
#define STREAM_MAX 8192u
#define PARTS_MAX 6000

struct part {
	enum { PART_COMMAND, PART_CHUNK, PART_REFUSED } kind;
	size_t off, n; /* a chunk's: as far as it is there */
	bool last;
};

struct parts {
	struct part v[PARTS_MAX];
	size_t count;
};

static bool add(struct parts *a, struct part p)
{
	ASSERT(a->count < PARTS_MAX);
	a->v[a->count++] = p;
	return p.kind != PART_REFUSED;
}

/* ---- in pieces ---- */

struct reader {
	struct parts parts;
	size_t at;	/* of what is not yet used */
	size_t seen;	/* of an unfinished line */
	uint64_t chunk; /* octets of the chunk that are to come */
	bool over;
};

static void take_line(struct reader *r, struct span line, size_t next)
{
	struct part p = {PART_COMMAND, r->at, next, false};
	struct smtp_cmd cmd;
	uint64_t size;
	bool last;

	if (!smtp_line_clean(line) || !smtp_cmd_parse(line, &cmd))
		p.kind = PART_REFUSED;
	else if (cmd.verb == SMTP_BDAT && !smtp_bdat_parse(cmd.args, &size, &last))
		p.kind = PART_REFUSED;
	r->over = !add(&r->parts, p);
	r->at += next;
	if (r->over || cmd.verb != SMTP_BDAT)
		return;
	r->chunk = size;
	r->over = !add(&r->parts, (struct part){PART_CHUNK, r->at, 0, last});
}

static void take_octets(struct reader *r, size_t have)
{
	size_t n = MIN_OF(have - r->at, r->chunk);

	r->parts.v[r->parts.count - 1].n += n;
	r->chunk -= n;
	r->at += n;
}

/* in[0..n) is there. */
static void grow(struct reader *r, struct span in, size_t have)
{
	while (!r->over && r->at < have) {
		struct span line;
		size_t next;
		enum line_res res;

		if (r->chunk > 0) {
			take_octets(r, have);
			continue;
		}
		res = smtp_line(span_of(in.p + r->at, have - r->at), &r->seen,
			SMTP_COMMAND_BYTES_MAX, &line, &next);
		if (res == LINE_MORE)
			return;
		if (res == LINE_OK)
			take_line(r, line, next);
		else
			r->over = true;
	}
}

/* The table itself need not be cleared: it is large. */
static void reset(struct reader *r)
{
	r->parts.count = r->at = r->seen = 0;
	r->chunk = 0;
	r->over = false;
}

static void read_pieces(struct reader *r, struct span in, const uint8_t sizes[4])
{
	size_t have = 0;

	reset(r);
	for (unsigned i = 0; have < in.n; i++) {
		have = MIN_OF(in.n, have + 1 + sizes[i % 4]);
		grow(r, in, have);
	}
}

/* ---- naively ---- */

static void read_naively(struct parts *a, struct span in)
{
	static struct grammar clean = GRAMMAR("^[A-Za-z][\t -~\x80-\xff]*\r\n$");
	static struct grammar bdat = GRAMMAR_ANY_CASE("^BDAT([ \t]|\r)");
	static struct grammar good =
		GRAMMAR_ANY_CASE("^BDAT[ \t]+[0-9]{1,20}([ \t]+LAST)?[ \t]*\r\n$");
	static struct grammar last = GRAMMAR_ANY_CASE("[ \t]LAST[ \t]*\r\n$");
	size_t at = 0;

	for (a->count = 0; at < in.n;) {
		const uint8_t *lf = memchr(in.p + at, '\n', in.n - at);
		size_t n = lf ? (size_t)(lf - in.p) + 1 - at : 0;
		struct span line = span_of(in.p + at, n);
		unsigned long size;
		bool refused, with_size;

		if (n == 0 || n > SMTP_COMMAND_BYTES_MAX || n < 2 || line.p[n - 2] != '\r')
			return;
		with_size = grammar_has(&bdat, line);
		size = with_size && grammar_has(&good, line)
			       ? strtoul((const char *)line.p + 5, NULL, 10)
			       : 0;
		refused = !grammar_has(&clean, line) ||
			  (with_size && (!grammar_has(&good, line) || size > SMTP_BDAT_BYTES_MAX));
		if (!add(a, (struct part){refused ? PART_REFUSED : PART_COMMAND, at, n, false}))
			return;
		at += n;
		if (!with_size)
			continue;
		n = MIN_OF(size, in.n - at);
		if (!add(a, (struct part){PART_CHUNK, at, n, grammar_has(&last, line)}))
			return;
		at += n;
	}
}

/* ---- claims ---- */

static void expect_same(const struct parts *got, const struct parts *want)
{
	ASSERT(got->count == want->count);
	for (size_t i = 0; i < want->count; i++) {
		ASSERT(got->v[i].kind == want->v[i].kind && got->v[i].off == want->v[i].off);
		ASSERT(got->v[i].n == want->v[i].n && got->v[i].last == want->v[i].last);
	}
}

static void expect_no_gap(const struct parts *a)
{
	size_t at = 0;

	for (size_t i = 0; i < a->count; i++) {
		ASSERT(a->v[i].off == at);
		at += a->v[i].n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const uint8_t single[4] = {0, 0, 0, 0};
	static struct parts want;
	static struct reader r;
	struct span in = span_of(p, n), all;
	uint8_t sizes[4];

	for (int i = 0; i < 4; i++)
		sizes[i] = take_octet(&in);
	in.n = MIN_OF(in.n, STREAM_MAX);
	all = exact_copy(in);
	read_naively(&want, all);
	read_pieces(&r, all, sizes);
	expect_same(&r.parts, &want);
	read_pieces(&r, all, single);
	expect_same(&r.parts, &want);
	reset(&r);
	grow(&r, all, all.n);
	expect_same(&r.parts, &want);
	expect_no_gap(&want);
	exact_free(all);
	return 0;
}
