/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Replies of our own (engine/smtp/local.h): whatever goes in, one line of at most
 * LOCAL_REPLY_BYTES_MAX octets comes out.
 */
#include <criterion/criterion.h>

#include "engine/smtp/local.h"
#include "engine/smtp/reply.h"

static const struct {
	struct local_reply reply;
	const char *detail, *want;
} rows[] = {
	{{250, "2.0.0", "Ok", "ok"}, NULL, "250 2.0.0 Ok\r\n"},
	{{354, NULL, "go ahead", "go"}, NULL, "354 go ahead\r\n"},
	{{550, "5.7.1", "no", "rule"}, "not you", "550 5.7.1 no not you\r\n"},
	{{421, "4.3.2", "bye", "bye"}, "", "421 4.3.2 bye \r\n"},
	{{501, "5.5.4", "bad", "bad"}, "a\r\nb\tc\x7f\x01\xc3\xa9",
		"501 5.5.4 bad a??b?c??\xc3\xa9\r\n"},
	{{200, NULL, "", "x"}, NULL, "200 \r\n"},
	{{599, "5.0.0", "x\ny", "x"}, NULL, "599 5.0.0 x?y\r\n"},
};

Test(local, rows)
{
	uint8_t out[LOCAL_REPLY_BYTES_MAX];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		size_t n = local_reply_write(&rows[i].reply, rows[i].detail, out);

		cr_expect(span_eq(span_of(out, n), span_str(rows[i].want)), "row %zu: %.*s", i,
			(int)n, (const char *)out);
	}
}

/* Every length of text and detail around the limit: cut, never over, and still one reply. */
Test(local, cut_to_fit)
{
	static char text[LOCAL_REPLY_BYTES_MAX + 8], detail[LOCAL_REPLY_BYTES_MAX + 8];
	uint8_t out[LOCAL_REPLY_BYTES_MAX];

	for (size_t n = 0; n < sizeof(text); n++) {
		struct local_reply r = {.code = 550, .enhanced = "5.7.1", .text = text};
		size_t whole = strlen("550 5.7.1 ") + 2 * n + 1 + 2, got, used;
		struct reply_scan rs = {0};
		struct smtp_reply back;

		memset(text, 't', n);
		memset(detail, 'd', n);
		got = local_reply_write(&r, detail, out);
		cr_assert_eq(got, MIN_OF(whole, (size_t)LOCAL_REPLY_BYTES_MAX));
		cr_assert(smtp_reply_scan(span_of(out, got), &rs, &back, &used) == REPLY_OK);
		cr_assert(used == got && back.lines == 1 && back.code == 550);
	}
}
