/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A server's reply: smtp_reply_scan, smtp_reply_line, smtp_enhanced_len. Claimed, for any octets:
 *  - the result is the same whether the octets come whole, in two pieces cut anywhere, or one by
 *    one, and comes with the octet that decides it;
 *  - it is the result of a naive reader that walks the octets with two counters;
 *  - code, number of lines, text and enhanced code are what that reader found;
 *  - going through the lines of a good reply gives them all, and every one lies in it.
 * Input: octet 0 how often the first line is there, octet 1 how many times 16 octets are put into
 * it (so that short inputs reach the limits), the rest are the octets.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/smtp/line.h"
#include "engine/smtp/reply.h"

#include <ctype.h>

#define STREAM_BYTES_MAX (SMTP_REPLY_BYTES_MAX + 4096)
#define EVERY_CUT_BYTES_MAX 300

struct outcome {
	enum reply_res res;
	size_t used; /* of a good reply; else where it was decided */
	struct smtp_reply reply;
};

/* ---- the naive reader ---- */

struct naive {
	unsigned code, lines;
	size_t line; /* where the line starts */
	bool bare_lf;
};

/* w[a.line..e) is a line without its LF. */
static enum reply_res naive_line(const uint8_t *w, size_t e, struct naive *a, struct span *text)
{
	static struct grammar good = GRAMMAR("^[2-5][0-9][0-9]([ -]|$)");
	bool crlf = e > a->line && w[e - 1] == '\r';
	struct span line = span_of(w + a->line, e - a->line - crlf);
	char digits[4] = "";

	a->bare_lf |= !crlf;
	if (!grammar_has(&good, line))
		return REPLY_BAD_CODE;
	memcpy(digits, line.p, 3);
	if (a->lines > 0 && a->code != (unsigned)atoi(digits))
		return REPLY_MIXED;
	a->code = (unsigned)atoi(digits);
	for (size_t i = 0; i < line.n; i++)
		if (line.p[i] == 0 || line.p[i] == '\r')
			return REPLY_BAD_OCTET;
	*text = line.n > 3 ? span_drop(line, 4) : SPAN_NONE;
	a->lines++;
	if (line.n == 3 || line.p[3] == ' ')
		return REPLY_OK;
	return a->lines < SMTP_REPLY_LINES_MAX ? REPLY_MORE : REPLY_LONG;
}

static struct outcome read_naively(struct span in)
{
	struct outcome o = {.res = REPLY_MORE};
	struct naive a = {0};
	struct span text = SPAN_NONE;

	for (size_t i = 0; i < in.n && o.res == REPLY_MORE; i++) {
		o.used = i + 1;
		if (in.p[i] == '\n') {
			o.res = naive_line(in.p, i, &a, &text);
			a.line = i + 1;
		} else if (i + 1 - a.line == SMTP_REPLY_LINE_BYTES_MAX) {
			o.res = REPLY_LONG_LINE;
		}
		if (o.res == REPLY_MORE && i + 1 == SMTP_REPLY_BYTES_MAX)
			o.res = REPLY_LONG;
	}
	o.reply = (struct smtp_reply){.code = (uint16_t)a.code,
		.lines = (uint16_t)a.lines,
		.bare_lf = a.bare_lf,
		.text = text};
	return o;
}

/* ---- the scanner ---- */

/* `in` comes as cut[0] octets, then up to cut[1], ... */
static struct outcome read_growing(struct span in, size_t first, size_t step)
{
	struct outcome o = {.res = REPLY_MORE};
	struct reply_scan rs = {0};
	size_t have = MIN_OF(first, in.n);

	for (;; have = MIN_OF(in.n, have + step)) {
		o.res = smtp_reply_scan(span_of(in.p, have), &rs, &o.reply, &o.used);
		if (o.res != REPLY_MORE || have == in.n)
			break;
	}
	if (o.res != REPLY_OK)
		o.used = have;
	return o;
}

static void expect_same(const struct outcome *got, const struct outcome *want, struct span in)
{
	ASSERT(got->res == want->res);
	ASSERT(reply_res_text(got->res)[0] != 0);
	if (want->res != REPLY_OK)
		return;
	ASSERT(got->used == want->used && got->reply.code == want->reply.code);
	ASSERT(got->reply.lines == want->reply.lines && got->reply.bare_lf == want->reply.bare_lf);
	ASSERT(got->reply.raw.p == in.p && got->reply.raw.n == got->used);
	ASSERT(span_eq(got->reply.text, want->reply.text));
}

static void check_good(const struct smtp_reply *r)
{
	static struct grammar enhanced = GRAMMAR("^[245]\\.[0-9]{1,3}\\.[0-9]{1,3}( |$)");
	struct span rest = r->raw, text = SPAN_NONE;
	unsigned lines = 0;

	while (smtp_reply_line(&rest, &text)) {
		lines++;
		ASSERT(lies_in(text, r->raw));
		ASSERT(text.n == 0 || !memchr(text.p, '\n', text.n));
	}
	ASSERT(lines == r->lines && rest.n == 0 && span_eq(text, r->text));
	ASSERT((r->enhanced.n > 0) == grammar_has(&enhanced, r->text));
	if (r->enhanced.n > 0) {
		ASSERT(r->enhanced.p == r->text.p);
		ASSERT(r->enhanced.n == r->text.n || r->text.p[r->enhanced.n] == ' ');
	}
}

/* ---- ---- */

/* The first line `times` times, with `pad` octets behind its fourth; then the rest. */
static struct span inflate(struct span in, size_t times, size_t pad)
{
	static uint8_t out[STREAM_BYTES_MAX];
	const uint8_t *lf = in.n > 0 ? memchr(in.p, '\n', in.n) : NULL;
	size_t line = lf ? (size_t)(lf - in.p) + 1 : in.n, head = MIN_OF(line, (size_t)4), n = 0;

	for (size_t i = 0; i < times && n + line + pad <= sizeof(out); i++) {
		memcpy(out + n, in.p, head);
		memset(out + n + head, 'x', pad);
		memcpy(out + n + head + pad, in.p + head, line - head);
		n += line + pad;
	}
	if (in.n - line <= sizeof(out) - n) {
		memcpy(out + n, in.p + line, in.n - line);
		n += in.n - line;
	}
	return span_of(out, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct span in = span_of(p, n);
	size_t times = 1 + take_octet(&in) % 128, pad = 16 * (size_t)take_octet(&in);
	struct outcome want, got;

	if (in.n == 0 || in.n > SMTP_REPLY_BYTES_MAX)
		return 0;
	in = exact_copy(inflate(in, times, pad));
	want = read_naively(in);
	got = read_growing(in, in.n, in.n);
	expect_same(&got, &want, in);
	got = read_growing(in, 0, 1);
	expect_same(&got, &want, in);
	ASSERT(got.res == REPLY_MORE || got.used == want.used);
	for (size_t cut = 1; cut < MIN_OF(in.n, (size_t)EVERY_CUT_BYTES_MAX); cut++) {
		got = read_growing(in, cut, in.n);
		expect_same(&got, &want, in);
	}
	if (got.res == REPLY_OK)
		check_good(&got.reply);
	exact_free(in);
	return 0;
}
