/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Lines (engine/smtp/line.h): ends, limits, and that a line is found the same however it came in.
 */
#include <criterion/criterion.h>

#include "engine/smtp/line.h"

static const struct {
	const char *in;
	size_t n, max;
	enum line_res res;
	const char *line;
	size_t next;
} rows[] = {
#define ROW(in, max, res, line, next)                    \
	{                                                \
		in, sizeof(in) - 1, max, res, line, next \
	}
	ROW("", 10, LINE_MORE, "", 0),
	ROW("NOOP", 10, LINE_MORE, "", 0),
	ROW("NOOP\r", 10, LINE_MORE, "", 0),
	ROW("NOOP\r\n", 10, LINE_OK, "NOOP", 6),
	ROW("\r\n", 10, LINE_OK, "", 2),
	ROW("\n", 10, LINE_BARE_LF, "", 1),
	ROW("NOOP\n", 10, LINE_BARE_LF, "NOOP", 5),
	ROW("NOOP\r\nRSET\r\n", 20, LINE_OK, "NOOP", 6),
	ROW("NOOP\nRSET\r\n", 20, LINE_BARE_LF, "NOOP", 5),
	ROW("a\r\r\n", 10, LINE_OK, "a\r", 4), /* for smtp_line_clean to refuse */
	ROW("a\rb\r\n", 10, LINE_OK, "a\rb", 5),
	ROW("12345678\r\n", 10, LINE_OK, "12345678", 10),
	ROW("123456789\r\n", 10, LINE_LONG, "", 0),
	ROW("123456789\n", 10, LINE_BARE_LF, "123456789", 10),
	ROW("123456789", 10, LINE_MORE, "", 0),
	ROW("1234567890", 10, LINE_LONG, "", 0),
	ROW("12345678901234567890", 10, LINE_LONG, "", 0),
	ROW("x", 0, LINE_LONG, "", 0),
#undef ROW
};

static enum line_res check(size_t i, size_t n, size_t *seen)
{
	struct span line;
	size_t next;
	enum line_res res = smtp_line(span_of(rows[i].in, n), seen, rows[i].max, &line, &next);

	if (res == LINE_MORE)
		cr_expect(*seen == n, "row %zu: seen %zu of %zu", i, *seen, n);
	else
		cr_expect(*seen == 0, "row %zu", i);
	if (res == LINE_OK || res == LINE_BARE_LF)
		cr_expect(span_eq(line, span_str(rows[i].line)) && next == rows[i].next, "row %zu",
			i);
	else
		cr_expect(line.n == 0 && next == 0, "row %zu", i);
	return res;
}

Test(line, whole)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		size_t seen = 0;

		cr_expect(check(i, rows[i].n, &seen) == rows[i].res, "row %zu", i);
	}
}

/* Octet by octet, and in two pieces at every place: the result is there as early as it can be. */
Test(line, in_pieces)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		enum line_res res = LINE_MORE;
		size_t seen = 0;

		for (size_t n = 0; n <= rows[i].n && res == LINE_MORE; n++)
			res = check(i, n, &seen);
		cr_expect(res == rows[i].res, "row %zu", i);
		for (size_t cut = 0; cut <= rows[i].n; cut++) {
			seen = 0;
			if (check(i, cut, &seen) == LINE_MORE)
				cr_expect(check(i, rows[i].n, &seen) == rows[i].res, "row %zu", i);
		}
	}
}

/* What was searched is not searched again. */
Test(line, seen_is_believed)
{
	struct span line;
	size_t seen = 3, next;

	cr_expect(smtp_line(SPAN_LIT("a\nb\r\n"), &seen, 99, &line, &next) == LINE_OK);
	cr_expect(span_eq(line, SPAN_LIT("a\nb")) && next == 5);
}

/* AUTH's limit was in force while the first part of the next command came. */
Test(line, limit_shrinks)
{
	static uint8_t in[SMTP_AUTH_BYTES_MAX];
	struct span line;
	size_t seen = 0, next;

	memset(in, 'x', sizeof(in));
	cr_expect(smtp_line(span_of(in, 6000), &seen, SMTP_AUTH_BYTES_MAX, &line, &next) ==
		  LINE_MORE);
	cr_expect(seen == 6000);
	cr_expect(smtp_line(span_of(in, 6001), &seen, SMTP_COMMAND_BYTES_MAX, &line, &next) ==
		  LINE_LONG);
}

Test(line, clean)
{
	for (unsigned c = 0; c < 256; c++) {
		uint8_t text[3] = {'a', (uint8_t)c, 'b'};
		bool want = c == '\t' || (c >= ' ' && c != 127);

		for (size_t from = 0; from < 2; from++)
			cr_expect(smtp_line_clean(span_of(text + from, 2)) == want, "%u", c);
	}
	cr_expect(smtp_line_clean(SPAN_NONE));
}
