/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Replies (engine/smtp/reply.h): every row is read whole and grown octet by octet; the result must
 * be the same, and must come with the octet that decides it.
 */
#include <criterion/criterion.h>

#include "engine/smtp/line.h"
#include "engine/smtp/reply.h"

static const struct {
	const char *in;
	size_t n;
	enum reply_res res;
	size_t used; /* for an error: the octet that decided */
	unsigned code, lines;
	const char *text, *enhanced;
	bool bare_lf;
} rows[] = {
#define ROW(in, ...)                            \
	{                                       \
		in, sizeof(in) - 1, __VA_ARGS__ \
	}
	ROW("220 mx.example.org ESMTP\r\n", REPLY_OK, 26, 220, 1, "mx.example.org ESMTP", "",
		false),
	ROW("250\r\n", REPLY_OK, 5, 250, 1, "", "", false),
	ROW("250 \r\n", REPLY_OK, 6, 250, 1, "", "", false),
	ROW("250\n", REPLY_OK, 4, 250, 1, "", "", true),
	ROW("250 2.0.0 OK\r\n", REPLY_OK, 14, 250, 1, "2.0.0 OK", "2.0.0", false),
	ROW("550 5.7.1\r\n", REPLY_OK, 11, 550, 1, "5.7.1", "5.7.1", false),
	ROW("550-5.7.1 no\r\n550 5.7.2 never\r\nx", REPLY_OK, 31, 550, 2, "5.7.2 never", "5.7.2",
		false),
	ROW("250-a\r\n250-b\r\n250 c\r\n", REPLY_OK, 21, 250, 3, "c", "", false),
	ROW("250-a\r\n250\r\n", REPLY_OK, 12, 250, 2, "", "", false),
	ROW("250-\r\n250 \r\n", REPLY_OK, 12, 250, 2, "", "", false),
	ROW("250-a\n250-b\r\n250 c\r\n", REPLY_OK, 20, 250, 3, "c", "", true),
	ROW("250-a\n250 c\n", REPLY_OK, 12, 250, 2, "c", "", true),
	ROW("250 a\r\n250 b\r\n", REPLY_OK, 7, 250, 1, "a", "", false),
	ROW("250 \xc3\xa9\xff\r\n", REPLY_OK, 9, 250, 1, "\xc3\xa9\xff", "", false),
	ROW("250 a\tb\r\n", REPLY_OK, 9, 250, 1, "a\tb", "", false),
	ROW("354 go\r\n", REPLY_OK, 8, 354, 1, "go", "", false),
	ROW("599 x\r\n", REPLY_OK, 7, 599, 1, "x", "", false),
	ROW("299-x\r\n299-y\r\n299 z\r\n", REPLY_OK, 21, 299, 3, "z", "", false),
	ROW("", REPLY_MORE, 0, 0, 0, "", "", false),
	ROW("250", REPLY_MORE, 0, 0, 0, "", "", false),
	ROW("250 ok\r", REPLY_MORE, 0, 0, 0, "", "", false),
	ROW("250-a\r\n250-b\r\n", REPLY_MORE, 0, 0, 0, "", "", false),
	ROW("250-a\r\n250", REPLY_MORE, 0, 0, 0, "", "", false),
	ROW("\r\n", REPLY_BAD_CODE, 2, 0, 0, "", "", false),
	ROW("\n", REPLY_BAD_CODE, 1, 0, 0, "", "", false),
	ROW("25\r\n", REPLY_BAD_CODE, 4, 0, 0, "", "", false),
	ROW("2500\r\n", REPLY_BAD_CODE, 6, 0, 0, "", "", false),
	ROW("250_ok\r\n", REPLY_BAD_CODE, 8, 0, 0, "", "", false),
	ROW("250\tok\r\n", REPLY_BAD_CODE, 8, 0, 0, "", "", false),
	ROW(" 250 ok\r\n", REPLY_BAD_CODE, 9, 0, 0, "", "", false),
	ROW("150 ok\r\n", REPLY_BAD_CODE, 8, 0, 0, "", "", false),
	ROW("650 ok\r\n", REPLY_BAD_CODE, 8, 0, 0, "", "", false),
	ROW("000 ok\r\n", REPLY_BAD_CODE, 8, 0, 0, "", "", false),
	ROW("-50 ok\r\n", REPLY_BAD_CODE, 8, 0, 0, "", "", false),
	ROW("2a0 ok\r\n", REPLY_BAD_CODE, 8, 0, 0, "", "", false),
	ROW("250\r\r\n", REPLY_BAD_CODE, 6, 0, 0, "", "", false),
	ROW("HTTP/1.1 400 Bad Request\r\n", REPLY_BAD_CODE, 26, 0, 0, "", "", false),
	ROW("\x16\x03\x01\x02\n", REPLY_BAD_CODE, 5, 0, 0, "", "", false),
	ROW("250-a\r\nb\r\n", REPLY_BAD_CODE, 10, 0, 0, "", "", false),
	ROW("250-a\r\n\r\n", REPLY_BAD_CODE, 9, 0, 0, "", "", false),
	ROW("250-a\r\n251 b\r\n", REPLY_MIXED, 14, 0, 0, "", "", false),
	ROW("250-a\r\n250-b\r\n550 c\r\n", REPLY_MIXED, 21, 0, 0, "", "", false),
	ROW("250 a\0b\r\n", REPLY_BAD_OCTET, 9, 0, 0, "", "", false),
	ROW("250 a\rb\r\n", REPLY_BAD_OCTET, 9, 0, 0, "", "", false),
	ROW("250 a\r\r\n", REPLY_BAD_OCTET, 8, 0, 0, "", "", false),
	ROW("250-a\0\r\n250 b\r\n", REPLY_BAD_OCTET, 8, 0, 0, "", "", false),
#undef ROW
};

static void check_ok(size_t i, const struct smtp_reply *r, size_t used)
{
	cr_expect(used == rows[i].used, "row %zu: used %zu", i, used);
	cr_expect(r->code == rows[i].code && r->lines == rows[i].lines, "row %zu", i);
	cr_expect(r->bare_lf == rows[i].bare_lf, "row %zu", i);
	cr_expect(span_eq(r->raw, span_of(rows[i].in, used)), "row %zu", i);
	cr_expect(span_eq(r->text, span_str(rows[i].text)), "row %zu", i);
	cr_expect(span_eq(r->enhanced, span_str(rows[i].enhanced)), "row %zu", i);
}

Test(reply, whole)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct reply_scan rs = {0};
		struct smtp_reply r;
		size_t used = 99;
		enum reply_res res =
			smtp_reply_scan(span_of(rows[i].in, rows[i].n), &rs, &r, &used);

		cr_expect(res == rows[i].res, "row %zu: %s", i, reply_res_text(res));
		if (res == REPLY_OK)
			check_ok(i, &r, used);
		else
			cr_expect(used == 0, "row %zu", i);
	}
}

Test(reply, octet_by_octet)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct reply_scan rs = {0};
		enum reply_res res = REPLY_MORE;
		struct smtp_reply r;
		size_t used, n = 0;

		for (; n <= rows[i].n && res == REPLY_MORE; n++)
			res = smtp_reply_scan(span_of(rows[i].in, n), &rs, &r, &used);
		cr_expect(res == rows[i].res, "row %zu: %s", i, reply_res_text(res));
		if (res != REPLY_MORE)
			cr_expect(n - 1 == rows[i].used, "row %zu: at %zu", i, n - 1);
		if (res == REPLY_OK)
			check_ok(i, &r, used);
	}
}

Test(reply, two_pieces)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (size_t cut = 0; cut <= rows[i].n; cut++) {
			struct reply_scan rs = {0};
			struct smtp_reply r;
			size_t used;
			enum reply_res res =
				smtp_reply_scan(span_of(rows[i].in, cut), &rs, &r, &used);

			if (res == REPLY_MORE)
				res = smtp_reply_scan(
					span_of(rows[i].in, rows[i].n), &rs, &r, &used);
			cr_expect(res == rows[i].res, "row %zu cut %zu", i, cut);
			if (res == REPLY_OK)
				check_ok(i, &r, used);
		}
	}
}

/* ---- limits, each at its last good and its first bad value ---- */

static uint8_t big[SMTP_REPLY_BYTES_MAX * 2];

/* Writes a line of `n` octets with its end at big[at]. */
static size_t put_line(size_t at, char sep, size_t n)
{
	memset(big + at, 'x', n);
	memcpy(big + at, "250", 3);
	big[at + 3] = (uint8_t)sep;
	memcpy(big + at + n - 2, "\r\n", 2);
	return at + n;
}

static enum reply_res scan_big(size_t n, size_t *used)
{
	struct reply_scan rs = {0};
	struct smtp_reply r;

	return smtp_reply_scan(span_of(big, n), &rs, &r, used);
}

Test(reply, long_line)
{
	size_t used, n = put_line(0, ' ', SMTP_REPLY_LINE_BYTES_MAX);

	cr_expect(scan_big(n - 1, &used) == REPLY_MORE);
	cr_expect(scan_big(n, &used) == REPLY_OK && used == n);
	n = put_line(0, ' ', SMTP_REPLY_LINE_BYTES_MAX + 1);
	cr_expect(
		scan_big(n - 2, &used) == REPLY_MORE || scan_big(n - 2, &used) == REPLY_LONG_LINE);
	cr_expect(scan_big(n - 1, &used) == REPLY_LONG_LINE);
	cr_expect(scan_big(n, &used) == REPLY_LONG_LINE);
}

Test(reply, many_lines)
{
	size_t used, n = 0;

	for (int i = 0; i < SMTP_REPLY_LINES_MAX - 1; i++)
		n = put_line(n, '-', 10);
	cr_expect(scan_big(n, &used) == REPLY_MORE);
	cr_expect(scan_big(put_line(n, ' ', 10), &used) == REPLY_OK);
	cr_expect(scan_big(put_line(n, '-', 10), &used) == REPLY_LONG);
}

Test(reply, many_octets)
{
	size_t used, n = 0, rest;

	while (n + SMTP_REPLY_LINE_BYTES_MAX < SMTP_REPLY_BYTES_MAX)
		n = put_line(n, '-', SMTP_REPLY_LINE_BYTES_MAX);
	rest = SMTP_REPLY_BYTES_MAX - n;
	cr_assert(rest > 10);
	cr_expect(scan_big(put_line(n, ' ', rest), &used) == REPLY_OK);
	cr_expect(used == SMTP_REPLY_BYTES_MAX);
	cr_expect(scan_big(put_line(n, ' ', rest + 1), &used) == REPLY_LONG);
	cr_expect(scan_big(put_line(put_line(n, '-', rest), ' ', 10), &used) == REPLY_LONG);
	cr_expect(scan_big(put_line(n, '-', rest), &used) == REPLY_LONG, "no room for the last");
}

/* ---- the iterator, the enhanced code, the names ---- */

Test(reply, lines)
{
	struct span rest = SPAN_LIT("250-mx hello\n250-\r\n250-SIZE 10\r\n250\r\n"), text;
	static const char *const want[] = {"mx hello", "", "SIZE 10", ""};

	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		cr_assert(smtp_reply_line(&rest, &text));
		cr_expect(span_eq(text, span_str(want[i])), "line %zu", i);
	}
	cr_expect(!smtp_reply_line(&rest, &text));
}

static const struct {
	const char *text;
	size_t len;
} enhanced[] = {
	{"2.0.0 OK", 5},
	{"5.7.1", 5},
	{"4.999.123 x", 9},
	{"5.7.1x", 0},
	{"5.7.1.2", 0},
	{"5.7", 0},
	{"5.7.", 0},
	{"5..1 x", 0},
	{"3.0.0 x", 0},
	{"1.0.0 x", 0},
	{"25.0.0 x", 0},
	{"5.1234.1 x", 0},
	{"5.1.1234 x", 0},
	{"", 0},
	{"5", 0},
	{" 5.7.1", 0},
	{"5.7.1-x", 0},
	{"5.7.1\tx", 0},
	{"2.1.5 ", 5},
	{"a.b.c", 0},
};

Test(reply, enhanced_codes)
{
	for (size_t i = 0; i < ARRAY_LEN(enhanced); i++)
		cr_expect(smtp_enhanced_len(span_str(enhanced[i].text)) == enhanced[i].len, "%s",
			enhanced[i].text);
}

Test(reply, names)
{
	for (unsigned r = 0; r <= REPLY_BAD_OCTET; r++)
		cr_expect(strlen(reply_res_text((enum reply_res)r)) > 3);
}

Test(reply, good_byes)
{
	for (unsigned code = 200; code < 600; code++)
		cr_expect(smtp_says_goodbye(code) == (code == 421 || code == 521), "%u", code);
}
