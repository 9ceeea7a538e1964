/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Log records: log_escape_json, log_escape_logfmt, and whole records by log_str and its sisters.
 * Claimed, for any value:
 *  - what comes out is printable UTF-8 without a control, a line end or a character that reorders
 *    the line; a JSON string by RFC 8259, a bare word or such a string for logfmt;
 *  - read back, it is the value: each character, and for each octet that is none U+00XX; cut only
 *    between characters, and only when the next one would not fit;
 *  - never more than asked for is written;
 *  - a record is one line of at most LOG_RECORD_BYTES_MAX octets, a JSON object or logfmt pairs
 * with the fields that were put in, or without some and then with "truncated". Input: octet 0 the
 * room for one value (0: plenty), octet 1 the length of a field, the rest is the value; a record
 * has it in pieces, as several fields.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/obs/log_buf.h"

#define VALUE_BYTES_MAX 4096
#define POINTS_MAX VALUE_BYTES_MAX

struct points {
	uint32_t v[POINTS_MAX];
	size_t n;
};

static void add_point(struct points *a, uint32_t c)
{
	ASSERT(a->n < POINTS_MAX);
	a->v[a->n++] = c;
}

/* ---- UTF-8, by trying ---- */

static size_t encode(uint32_t c, uint8_t out[4])
{
	static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
	size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (size_t i = n; i-- > 0; c >>= 6)
		out[i] = (uint8_t)(n == 1 ? c : 0x80 | (c & 0x3f));
	if (n > 1)
		out[0] = (uint8_t)(lead[n] | (out[0] & 0x3f));
	return n;
}

/* The character that s starts with: the one whose encoding stands there. Its length, 0 for none. */
static size_t decode(struct span s, uint32_t *c)
{
	static const uint8_t keep[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
	uint8_t again[4];

	for (size_t n = 1; n <= 4 && n <= s.n; n++) {
		*c = s.p[0] & keep[n];
		for (size_t i = 1; i < n; i++)
			*c = *c << 6 | (s.p[i] & 0x3f);
		if (*c <= 0x10ffff && (*c < 0xd800 || *c > 0xdfff) && encode(*c, again) == n &&
			memcmp(again, s.p, n) == 0)
			return n;
	}
	return 0;
}

/* What a value means. */
static void read_value(struct span v, struct points *out)
{
	uint32_t c;

	for (out->n = 0; v.n > 0;) {
		size_t n = decode(v, &c);

		add_point(out, n > 0 ? c : v.p[0]);
		v = span_drop(v, n > 0 ? n : 1);
	}
}

/* ---- reading back ---- */

static bool shown_as_it_is(uint32_t c)
{
	static const uint32_t hidden[][2] = {{0, 0x1f}, {0x7f, 0x9f}, {0x61c, 0x61c},
		{0x200e, 0x200f}, {0x2028, 0x202e}, {0x2066, 0x2069}};

	for (size_t i = 0; i < ARRAY_LEN(hidden); i++)
		if (c >= hidden[i][0] && c <= hidden[i][1])
			return false;
	return true;
}

static uint32_t read_escape(struct span *s)
{
	uint8_t c;
	char digits[5] = "";

	ASSERT(s->n >= 2);
	c = s->p[1];
	if (c != 'u') {
		ASSERT(c == '"' || c == '\\');
		*s = span_drop(*s, 2);
		return c;
	}
	ASSERT(s->n >= 6);
	memcpy(digits, s->p + 2, 4);
	ASSERT(strspn(digits, "0123456789abcdef") == 4);
	*s = span_drop(*s, 6);
	return (uint32_t)strtoul(digits, NULL, 16);
}

/* The quoted string that *s starts with; moves behind it. */
static void read_quoted(struct span *s, struct points *out)
{
	uint32_t c;

	out->n = 0;
	ASSERT(s->n >= 2 && s->p[0] == '"');
	for (*s = span_drop(*s, 1); s->n > 0 && s->p[0] != '"';) {
		if (s->p[0] == '\\') {
			add_point(out, read_escape(s));
			continue;
		}
		size_t n = decode(*s, &c);

		ASSERT(n > 0 && shown_as_it_is(c));
		add_point(out, c);
		*s = span_drop(*s, n);
	}
	ASSERT(s->n > 0);
	*s = span_drop(*s, 1);
}

/* A logfmt value: up to a blank, or quoted. */
static void read_logfmt(struct span *s, struct points *out)
{
	if (s->n > 0 && s->p[0] == '"') {
		read_quoted(s, out);
		return;
	}
	for (out->n = 0; s->n > 0 && s->p[0] != ' ' && s->p[0] != '\n'; *s = span_drop(*s, 1)) {
		ASSERT(s->p[0] > ' ' && s->p[0] < 0x7f && !strchr("\"'=\\", s->p[0]));
		add_point(out, s->p[0]);
	}
}

static bool starts_with(const struct points *whole, const struct points *part)
{
	return part->n <= whole->n && memcmp(part->v, whole->v, part->n * sizeof(part->v[0])) == 0;
}

/* ---- one value ---- */

static struct points want, got;

/* Octets that the next character would have taken, at most. */
#define ONE_MORE 6

static void check_escape(bool json, struct span v, size_t max)
{
	char *out = malloc(max > 0 ? max : 1);
	size_t n;
	struct span s;

	ASSERT(out);
	n = json ? log_escape_json(out, max, v) : log_escape_logfmt(out, max, v);
	ASSERT(n <= max);
	s = span_of(out, n);
	read_value(v, &want);
	if (n == 0) {
		ASSERT(max < 2);
	} else {
		if (json)
			read_quoted(&s, &got);
		else
			read_logfmt(&s, &got);
		ASSERT(s.n == 0 && starts_with(&want, &got));
		ASSERT(got.n == want.n || n + ONE_MORE > max);
	}
	free(out);
}

/* ---- records ---- */

static const char *const keys[] = {"a", "client", "from", "text"};

static void expect_octets(struct span *s, struct span what)
{
	ASSERT(s->n >= what.n && memcmp(s->p, what.p, what.n) == 0);
	*s = span_drop(*s, what.n);
}

static bool takes(struct span *s, const char *what)
{
	size_t n = strlen(what);

	if (s->n < n || memcmp(s->p, what, n) != 0)
		return false;
	*s = span_drop(*s, n);
	return true;
}

/* ` "key":` or ` key=`; false when the next field is another one. */
static bool takes_key(struct span *s, bool json, const char *key)
{
	char text[32];

	snprintf(text, sizeof(text), json ? ",\"%s\":" : " %s=", key);
	return takes(s, text);
}

/* Octets of whole characters in v[0..max). */
static size_t whole_within(struct span v, size_t max)
{
	size_t at = 0;
	uint32_t c;

	for (;;) {
		size_t n = MAX_OF(decode(span_drop(v, at), &c), 1u);

		if (at + n > max)
			return at;
		at += n;
	}
}

/* `got` is the value; a long one is cut between characters and ends in three dots. */
static void check_value(struct span v)
{
	bool cut = v.n > LOG_VALUE_BYTES_MAX;

	if (cut)
		v.n = whole_within(v, LOG_VALUE_BYTES_MAX - 3);
	read_value(v, &want);
	for (int i = 0; cut && i < 3; i++)
		add_point(&want, '.');
	ASSERT(got.n == want.n && starts_with(&want, &got));
}

static void check_record(struct span s, bool json, const struct span *values, size_t count)
{
	static const struct span heads[] = {
		SPAN_LIT("ts=2001-09-09T01:46:40.000000Z ev=session level=info"),
		SPAN_LIT("{\"ts\":\"2001-09-09T01:46:40.000000Z\",\"ev\":\"session\",\"level\":"
			 "\"info\"")};
	size_t left_out = 0;

	ASSERT(s.n <= LOG_RECORD_BYTES_MAX);
	expect_octets(&s, heads[json]);
	for (size_t i = 0; i < count; i++) {
		if (!takes_key(&s, json, keys[i])) {
			left_out++;
			continue;
		}
		if (json)
			read_quoted(&s, &got);
		else
			read_logfmt(&s, &got);
		check_value(values[i]);
	}
	if (takes_key(&s, json, "n"))
		expect_octets(&s, SPAN_LIT("18446744073709551615"));
	else
		left_out++;
	if (takes_key(&s, json, "ms"))
		expect_octets(&s, SPAN_LIT("1.002"));
	else
		left_out++;
	ASSERT(takes(&s, json ? ",\"truncated\":true" : " truncated=true") == (left_out > 0));
	expect_octets(&s, json ? SPAN_LIT("}\n") : SPAN_LIT("\n"));
	ASSERT(s.n == 0);
}

static void check_records(bool json, struct span v, size_t length)
{
	const struct conf_log conf = {.format = json ? LOG_JSON : LOG_LOGFMT, .level = LOG_INFO};
	struct log_buf *b = log_buf_new(2 * LOG_RECORD_BYTES_MAX, &conf);
	struct stat_table stats = {0};
	struct span values[ARRAY_LEN(keys)];
	struct iovec iov[2];
	struct log_rec r;
	size_t count = 0;

	ASSERT(b && log_begin(&r, b, LOG_EV_SESSION, 1000000000u * (uint64_t)1000000));
	for (; count < ARRAY_LEN(keys) && v.n > 0; count++) {
		values[count] = span_of(v.p, MIN_OF(v.n, length));
		v = span_drop(v, values[count].n);
		log_str(&r, keys[count], values[count]);
	}
	log_u64(&r, "n", UINT64_MAX);
	log_ms(&r, "ms", 1002);
	log_end(&r, &stats);
	ASSERT(stats.log_dropped == 0);
	ASSERT(log_buf_peek(b, iov) == iov[0].iov_len);
	check_record(span_of(iov[0].iov_base, iov[0].iov_len), json, values, count);
	log_buf_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct span in = span_of(p, n), v;
	size_t room = take_octet(&in), length = take_octet(&in);

	if (in.n > VALUE_BYTES_MAX)
		return 0;
	v = exact_copy(in);
	for (int json = 0; json < 2; json++) {
		check_escape(json, v, room > 0 ? room : 6 * v.n + 2);
		check_records(json, v, 1 + 8 * length);
	}
	exact_free(v);
	return 0;
}
