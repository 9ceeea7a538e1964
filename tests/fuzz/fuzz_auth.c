/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who a client says he is: smtp_auth_identity. Claimed, for any octets:
 *  - something is told exactly when the line is base64 and the response is of the grammar here, and
 *    then it is the part of it that is the identity, cut, its escapes decoded;
 *  - no more is told than there is room for, and no control octet;
 *  - only the first response tells.
 * Input: octet 0 which mechanism, and with bit 7 the rest is the line as it is, else it is put into
 * base64; the rest is the response.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/smtp/auth.h"
#include "engine/smtp/line.h"

#define TEXT_MAX 4096

/* NUL is 0x02 here: regcomp() cannot name it. */
#define GS2 "^([ny]|p=[^,]+),"

static struct rule {
	const char *mechanism;
	struct grammar all;
	const char *before, *behind; /* what stands around the identity; NULL: see part_of() */
} rules[] = {
	{"PLAIN", GRAMMAR("^[^\x02]*\x02[^\x02]+\x02"), "\x02", "\x02"},
	{"LOGIN", GRAMMAR("."), NULL, NULL},
	{"EXTERNAL", GRAMMAR("."), NULL, NULL},
	{"CRAM-MD5", GRAMMAR("^.+ [0-9A-Fa-f]{32}$"), NULL, NULL},
	{"XOAUTH2", GRAMMAR("^user=[^\x01]+\x01"), "user=", "\x01"},
	{"OAUTHBEARER", GRAMMAR(GS2 "a=([^,=]|=(2C|2c|3D|3d))+,\x01"), ",a=", ","},
	{"SCRAM-SHA-256", GRAMMAR(GS2 "(a=[^,]+)?,n=([^,=]|=(2C|2c|3D|3d))+,"), ",n=", ","},
};
static struct grammar g_base64 =
	GRAMMAR("^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$");
static struct grammar g_control = GRAMMAR("[\x01-\x1f\x7f]");

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static struct span encode(struct span in)
{
	static uint8_t out[TEXT_MAX / 3 * 4 + 8];
	size_t n = 0;

	for (size_t i = 0; i < in.n; i += 3) {
		uint8_t three[3] = {0};
		unsigned bits;

		memcpy(three, in.p + i, MIN_OF(in.n - i, 3u));
		bits = (unsigned)(three[0] << 16 | three[1] << 8 | three[2]);
		for (unsigned k = 0; k < 4; k++)
			out[n++] = k > in.n - i ? '=' : (uint8_t)digits[bits >> (18 - 6 * k) & 63];
	}
	return span_of(out, n);
}

static struct span decode(struct span in)
{
	static uint8_t out[TEXT_MAX];
	unsigned bits = 0, have = 0;
	size_t n = 0;

	for (size_t i = 0; i < in.n && in.p[i] != '='; i++) {
		bits = bits << 6 | (unsigned)(strchr(digits, in.p[i]) - digits);
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n++] = (uint8_t)(bits >> have);
		}
	}
	return span_of(out, n);
}

/* NUL and 0x02 change places. */
static struct span swapped(struct span s)
{
	static uint8_t out[TEXT_MAX];

	for (size_t i = 0; i < s.n; i++)
		out[i] = s.p[i] == 0 ? 2 : s.p[i] == 2 ? 0 : s.p[i];
	return span_of(out, s.n);
}

static const uint8_t *find(struct span s, const char *text)
{
	return memmem(s.p, s.n, text, strlen(text));
}

/* The identity in a response that is of the grammar. */
static struct span part_of(struct span s, const struct rule *rule)
{
	if (rule->before) {
		s = span_drop(s, (size_t)(find(s, rule->before) - s.p) + strlen(rule->before));
		s.n = (size_t)(find(s, rule->behind) - s.p);
	} else if (strcmp(rule->mechanism, "CRAM-MD5") == 0) {
		s.n -= 33;
	}
	return s;
}

static size_t unescape(struct span s, bool escapes, uint8_t *out)
{
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++) {
		out[n] = s.p[i];
		if (escapes && s.p[i] == '=') {
			out[n] = s.p[i + 1] == '2' ? ',' : '=';
			i += 2;
		}
		n++;
	}
	return n;
}

static struct span expect(struct span line, struct rule *rule)
{
	static uint8_t out[TEXT_MAX];
	struct span s;
	size_t n;

	if (!grammar_has(&g_base64, line))
		return SPAN_NONE;
	s = swapped(decode(line));
	if (!grammar_has(&rule->all, s))
		return SPAN_NONE;
	s = part_of(s, rule);
	n = unescape(s, rule->before && rule->behind[0] == ',', out);
	s = span_of(out, n);
	/* 0x02 was a NUL; a NUL was 0x02, and grammars do not see it. */
	if (grammar_has(&g_control, s) || (n > 0 && memchr(out, 0, n)))
		return SPAN_NONE;
	return span_of(out, MIN_OF(n, (size_t)SMTP_AUTH_IDENTITY_MAX));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	uint8_t out[SMTP_AUTH_IDENTITY_MAX + 1], choice;
	struct span in = span_of(p, n), line, want;
	struct rule *rule;
	size_t got;

	choice = take_octet(&in);
	rule = &rules[choice % 128 % ARRAY_LEN(rules)];
	if (in.n > TEXT_MAX - 3)
		return 0;
	line = exact_copy(choice & 128 ? in : encode(in));
	want = expect(line, rule);
	out[SMTP_AUTH_IDENTITY_MAX] = '#';
	got = smtp_auth_identity(span_str(rule->mechanism), 0, line, out);
	ASSERT(out[SMTP_AUTH_IDENTITY_MAX] == '#');
	ASSERT(span_eq(span_of(out, got), want));
	ASSERT(smtp_auth_identity(span_str(rule->mechanism), 1, line, out) == 0);
	exact_free(line);
	return 0;
}
