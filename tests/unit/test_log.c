/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Log records: their exact text, time stamps against gmtime_r, escaping against an independent
 * decoder (a strict JSON and logfmt reader below, mbrtowc for UTF-8), limits; the buffer between
 * two threads; the sink with real files, pipes and full devices.
 */
#include "engine/obs/log_buf.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#define BUF_BYTES 65536
#define NOON_US UINT64_C(1795654923456789) /* 2026-11-26T01:02:03.456789Z */

/* ---- helpers ---- */

static struct log_buf *new_buf(size_t bytes, enum conf_log_format format, enum conf_log_level level)
{
	const struct conf_log conf = {.format = format, .level = level};
	struct log_buf *b = log_buf_new(bytes, &conf);

	cr_assert(b != NULL);
	return b;
}

/* Takes everything out of the buffer as a string. */
static size_t take_text(struct log_buf *b, char *out, size_t max)
{
	struct iovec iov[2];
	size_t n = log_buf_peek(b, iov);

	cr_assert_lt(n, max);
	memcpy(out, iov[0].iov_base, iov[0].iov_len);
	memcpy(out + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
	out[n] = '\0';
	log_buf_take(b, n);
	return n;
}

static uint32_t rnd_state = 2463534242u;

static uint32_t rnd(uint32_t below)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 17;
	rnd_state ^= rnd_state << 5;
	return rnd_state % below;
}

/* ---- a strict reader ---- */

struct reader {
	const char *p, *end;
};

#define TEXT_MAX 2048
struct text {
	uint32_t point[TEXT_MAX];
	size_t n;
};

static bool take_char(struct reader *r, char c)
{
	if (r->p == r->end || *r->p != c)
		return false;
	r->p++;
	return true;
}

static bool take_word(struct reader *r, const char *w)
{
	size_t n = strlen(w);

	if ((size_t)(r->end - r->p) < n || memcmp(r->p, w, n) != 0)
		return false;
	r->p += n;
	return true;
}

static bool take_point(struct reader *r, uint32_t *c)
{
	mbstate_t st = {0};
	wchar_t w;
	size_t n = mbrtowc(&w, r->p, (size_t)(r->end - r->p), &st);

	if (n == 0 || n > 4 || w > 0x10ffff) /* glibc takes lead octets up to 0xf7 */
		return false;
	r->p += n;
	*c = (uint32_t)w;
	return true;
}

static bool take_escape(struct reader *r, uint32_t *c)
{
	if (take_char(r, '"') || take_char(r, '\\')) {
		*c = (uint8_t)r->p[-1];
		return true;
	}
	if (!take_char(r, 'u') || r->end - r->p < 4)
		return false;
	*c = 0;
	for (int i = 0; i < 4; i++) {
		const char *digits = "0123456789abcdef", *d = strchr(digits, *r->p++);

		if (!d || !*d)
			return false;
		*c = *c * 16 + (uint32_t)(d - digits);
	}
	return true;
}

/* Characters that a record must never show as they are. */
static bool hidden(uint32_t c)
{
	static const uint32_t odd[] = {0x61c, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202b,
		0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069};

	for (size_t i = 0; i < ARRAY_LEN(odd); i++)
		if (c == odd[i])
			return true;
	return c < 0x20 || (c >= 0x7f && c <= 0x9f);
}

static bool take_string(struct reader *r, struct text *t)
{
	t->n = 0;
	if (!take_char(r, '"'))
		return false;
	while (!take_char(r, '"')) {
		uint32_t c;

		if (take_char(r, '\\')) {
			if (!take_escape(r, &c))
				return false;
		} else if (!take_point(r, &c) || hidden(c)) {
			return false;
		}
		cr_assert_lt(t->n, (size_t)TEXT_MAX);
		t->point[t->n++] = c;
	}
	return true;
}

static bool take_digits(struct reader *r)
{
	const char *start = r->p;

	while (r->p < r->end && *r->p >= '0' && *r->p <= '9')
		r->p++;
	return r->p > start;
}

static bool take_number(struct reader *r)
{
	const char *start = r->p;

	if (!take_digits(r) || (*start == '0' && r->p - start > 1))
		return false;
	return !take_char(r, '.') || take_digits(r);
}

/* A bare logfmt value. */
static bool take_bare(struct reader *r, struct text *t)
{
	t->n = 0;
	while (r->p<r->end && * r->p> ' ' && *r->p < 0x7f && !strchr("\"\\='", *r->p))
		t->point[t->n++] = (uint8_t)*r->p++;
	return t->n > 0;
}

static bool take_key(struct reader *r)
{
	const char *start = r->p;

	while (r->p < r->end && ((*r->p >= 'a' && *r->p <= 'z') || *r->p == '_'))
		r->p++;
	return r->p > start;
}

/* One record, newline included. `last`: the last string or bare value in it. */
static bool take_json(struct reader *r, struct text *last)
{
	if (!take_char(r, '{'))
		return false;
	do {
		if (!take_char(r, '"') || !take_key(r) || !take_char(r, '"') || !take_char(r, ':'))
			return false;
		if (!(r->p < r->end && *r->p == '"'
				    ? take_string(r, last)
				    : take_word(r, "true") || take_word(r, "false") ||
					      take_number(r)))
			return false;
	} while (take_char(r, ','));
	return take_char(r, '}') && take_char(r, '\n');
}

static bool take_logfmt(struct reader *r, struct text *last)
{
	do {
		if (!take_key(r) || !take_char(r, '='))
			return false;
		if (!(r->p < r->end && *r->p == '"' ? take_string(r, last) : take_bare(r, last)))
			return false;
	} while (take_char(r, ' '));
	return take_char(r, '\n');
}

static bool take_record(struct reader *r, enum conf_log_format format, struct text *last)
{
	return format == LOG_JSON ? take_json(r, last) : take_logfmt(r, last);
}

/* What a value must read back as: characters, and each octet that is none as itself. */
static void expected_text(struct span v, struct text *t)
{
	t->n = 0;
	for (size_t i = 0; i < v.n;) {
		struct reader r = {(const char *)v.p + i, (const char *)v.p + v.n};
		uint32_t c = v.p[i];

		if (c != 0 && take_point(&r, &c))
			i = (size_t)(r.p - (const char *)v.p);
		else
			i++;
		t->point[t->n++] = c;
	}
}

static void use_utf8(void)
{
	cr_assert(setlocale(LC_CTYPE, "C.UTF-8") != NULL);
}

TestSuite(log, .init = use_utf8);

/* ---- records ---- */

static void build_one_of_each(struct log_buf *b, struct stat_table *st)
{
	struct log_rec r;

	cr_assert(log_begin(&r, b, LOG_EV_TRANSACTION, NOON_US));
	log_id(&r, "session", 0x0123456789abcdef);
	log_str(&r, "from", SPAN_LIT("a@example.org"));
	log_cstr(&r, "reply", "250 2.0.0 Ok: \"q\\1\"");
	log_cstr(&r, "absent", NULL);
	log_str(&r, "helo", SPAN_NONE);
	log_u64(&r, "bytes", 18446744073709551615u);
	log_u64(&r, "rcpts", 0);
	log_ms(&r, "took", 1234567);
	log_ms(&r, "queue", 7);
	log_bool(&r, "tls", false);
	log_bool(&r, "sent", true);
	log_end(&r, st);
}

Test(log, json_text)
{
	struct log_buf *b = new_buf(4096, LOG_JSON, LOG_INFO);
	struct stat_table st = {0};
	char text[4096];

	build_one_of_each(b, &st);
	take_text(b, text, sizeof(text));
	cr_assert_str_eq(text,
		"{\"ts\":\"2026-11-26T01:02:03.456789Z\",\"ev\":\"transaction\",\"level\":\"info\","
		"\"session\":\"0123456789abcdef\",\"from\":\"a@example.org\","
		"\"reply\":\"250 2.0.0 Ok: \\\"q\\\\1\\\"\",\"helo\":\"\","
		"\"bytes\":18446744073709551615,\"rcpts\":0,\"took\":1234.567,\"queue\":0.007,"
		"\"tls\":false,\"sent\":true}\n");
	log_buf_free(b);
}

Test(log, logfmt_text)
{
	struct log_buf *b = new_buf(4096, LOG_LOGFMT, LOG_INFO);
	struct stat_table st = {0};
	char text[4096];

	build_one_of_each(b, &st);
	take_text(b, text, sizeof(text));
	cr_assert_str_eq(text,
		"ts=2026-11-26T01:02:03.456789Z ev=transaction level=info session=0123456789abcdef "
		"from=a@example.org reply=\"250 2.0.0 Ok: \\\"q\\\\1\\\"\" helo=\"\" "
		"bytes=18446744073709551615 rcpts=0 took=1234.567 queue=0.007 tls=false "
		"sent=true\n");
	log_buf_free(b);
}

Test(log, every_event_has_its_word_and_level)
{
	static const char *const levels[] = {"error", "warn", "info", "debug"};
	static const struct {
		const char *word;
		enum conf_log_level level;
	} want[] = {
#define X(id, word, level) [id] = {word, level},
		LOG_EVENTS(X)
#undef X
	};
	struct stat_table st = {0};

	for (int level = LOG_ERROR; level <= LOG_DEBUG; level++) {
		struct log_buf *b = new_buf(4096, LOG_LOGFMT, (enum conf_log_level)level);

		for (int ev = 0; ev < LOG_EV_COUNT; ev++) {
			struct log_rec r;
			char text[256], wanted[128];

			cr_assert_eq(log_begin(&r, b, (enum log_event)ev, 0),
				(int)want[ev].level <= level);
			if ((int)want[ev].level > level)
				continue;
			log_end(&r, &st);
			take_text(b, text, sizeof(text));
			snprintf(wanted, sizeof(wanted),
				"ts=1970-01-01T00:00:00.000000Z ev=%s level=%s\n", want[ev].word,
				levels[want[ev].level]);
			cr_assert_str_eq(text, wanted);
		}
		log_buf_free(b);
	}
}

static void check_time(struct log_buf *b, uint64_t second, uint32_t us)
{
	time_t t = (time_t)second;
	char text[256], date[32], wanted[64];
	struct stat_table st = {0};
	struct log_rec r;
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(wanted, sizeof(wanted), "ts=%s.%06uZ ", date, us);
	cr_assert(log_begin(&r, b, LOG_EV_NOTE, second * 1000000 + us));
	log_end(&r, &st);
	take_text(b, text, sizeof(text));
	cr_assert(strncmp(text, wanted, strlen(wanted)) == 0, "%s instead of %s", text, wanted);
}

Test(log, time_stamps_agree_with_gmtime)
{
	struct log_buf *b = new_buf(4096, LOG_LOGFMT, LOG_INFO);

	for (uint64_t day = 0; day < 80 * 366; day++)
		check_time(b, day * 86400 + rnd(86400), rnd(1000000));
	for (int i = 0; i < 20000; i++) /* up to the year 9999 */
		check_time(b, ((uint64_t)rnd(1u << 31) << 7 | rnd(128)) % 253402300800u, 999999);
	for (uint64_t s = 1709164799; s < 1709164803; s++) /* into 29 February 2024, twice each */
		for (int i = 0; i < 2; i++)
			check_time(b, s, rnd(1000000));
	check_time(b, 253402300799, 999999);
	log_buf_free(b);
}

Test(log, time_beyond_four_digit_years_is_held)
{
	struct log_buf *b = new_buf(4096, LOG_LOGFMT, LOG_INFO);
	struct stat_table st = {0};
	struct log_rec r;
	char text[256];

	cr_assert(log_begin(&r, b, LOG_EV_NOTE, UINT64_MAX));
	log_end(&r, &st);
	take_text(b, text, sizeof(text));
	cr_assert_str_eq(text, "ts=9999-12-31T23:59:59.999999Z ev=note level=info\n");
	log_buf_free(b);
}

Test(log, numbers)
{
	struct log_buf *b = new_buf(BUF_BYTES, LOG_LOGFMT, LOG_INFO);
	struct stat_table st = {0};
	char text[512], wanted[256];

	for (int i = 0; i < 20000; i++) {
		uint64_t v = ((uint64_t)rnd(UINT32_MAX) << 32 | rnd(UINT32_MAX)) >> rnd(64);
		struct log_rec r;

		cr_assert(log_begin(&r, b, LOG_EV_NOTE, 0));
		log_u64(&r, "n", v);
		log_ms(&r, "t", v);
		log_id(&r, "id", v);
		log_end(&r, &st);
		take_text(b, text, sizeof(text));
		snprintf(wanted, sizeof(wanted), "n=%lu t=%lu.%03lu id=%016lx\n", v, v / 1000,
			v % 1000, v);
		cr_assert_str_eq(strstr(text, "n="), wanted + 0);
	}
	log_buf_free(b);
}

/* ---- escaping ---- */

Test(log, escapes)
{
	static const struct {
		struct span in;
		const char *json, *logfmt;
	} rows[] = {
		{SPAN_LIT(""), "\"\"", "\"\""},
		{SPAN_LIT("plain"), "\"plain\"", "plain"},
		{SPAN_LIT("two words"), "\"two words\"", "\"two words\""},
		{SPAN_LIT("a=b"), "\"a=b\"", "\"a=b\""},
		{SPAN_LIT("o'neil"), "\"o'neil\"", "\"o'neil\""},
		{SPAN_LIT("<x+y@[::1]>;{}`|^~!#$%&*,.:?/"), "\"<x+y@[::1]>;{}`|^~!#$%&*,.:?/\"",
			"<x+y@[::1]>;{}`|^~!#$%&*,.:?/"},
		{SPAN_LIT("\"\\"), "\"\\\"\\\\\"", "\"\\\"\\\\\""},
		{SPAN_LIT("a\r\nev=fake"), "\"a\\u000d\\u000aev=fake\"",
			"\"a\\u000d\\u000aev=fake\""},
		{SPAN_LIT("\0\x1b[31m\x7f\t"), "\"\\u0000\\u001b[31m\\u007f\\u0009\"",
			"\"\\u0000\\u001b[31m\\u007f\\u0009\""},
		{SPAN_LIT("gr\xc3\xbc\xc3\x9f"), "\"gr\xc3\xbc\xc3\x9f\"",
			"\"gr\xc3\xbc\xc3\x9f\""},
		{SPAN_LIT("\xf0\x9f\x93\xa8"), "\"\xf0\x9f\x93\xa8\"", "\"\xf0\x9f\x93\xa8\""},
		{SPAN_LIT("\xc2\x85\xc2\x9b\xc2\xa0"), "\"\\u0085\\u009b\xc2\xa0\"",
			"\"\\u0085\\u009b\xc2\xa0\""},
		{SPAN_LIT("\xff\xc3"), "\"\\u00ff\\u00c3\"", "\"\\u00ff\\u00c3\""},
		{SPAN_LIT("\xc0\xaf"), "\"\\u00c0\\u00af\"", "\"\\u00c0\\u00af\""},
		{SPAN_LIT("\xe0\x80\x8a"), "\"\\u00e0\\u0080\\u008a\"",
			"\"\\u00e0\\u0080\\u008a\""},
		{SPAN_LIT("\xed\xa0\x80"), "\"\\u00ed\\u00a0\\u0080\"",
			"\"\\u00ed\\u00a0\\u0080\""},
		{SPAN_LIT("\xf4\x90\x80\x80"), "\"\\u00f4\\u0090\\u0080\\u0080\"",
			"\"\\u00f4\\u0090\\u0080\\u0080\""},
		{SPAN_LIT("\xe2\x80\xa8\xe2\x80\xae\xe2\x81\xa6\xd8\x9c\xe2\x80\x8e"),
			"\"\\u2028\\u202e\\u2066\\u061c\\u200e\"",
			"\"\\u2028\\u202e\\u2066\\u061c\\u200e\""},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char out[256] = {0};
		size_t n = log_escape_json(out, sizeof(out), rows[i].in);

		cr_assert(n == strlen(rows[i].json) && memcmp(out, rows[i].json, n) == 0,
			"row %zu: %.*s", i, (int)n, out);
		n = log_escape_logfmt(out, sizeof(out), rows[i].in);
		cr_assert(n == strlen(rows[i].logfmt) && memcmp(out, rows[i].logfmt, n) == 0,
			"row %zu: %.*s", i, (int)n, out);
	}
}

/* Octets that make trouble more often than chance would. */
static size_t random_value(uint8_t *out, size_t max)
{
	static const char *const pieces[] = {"\r\n", "\"", "\\", "\\u0041", "=", " ",
		"\xe2\x80\xae", "\xe2\x80\xa8", "\xc2\x9b", "\xf0\x9f\x93", "\xf0\x9f\x93\xa8",
		"\xed\xbf\xbf", "\xc3", "\xbf", "\xff", "user@example.org",
		"\xe6\x97\xa5\xe6\x9c\xac", "\x7f", "{\"a\":1}"};
	size_t n = 0, want = rnd((uint32_t)max + 1);

	while (n < want) {
		const char *piece = pieces[rnd(ARRAY_LEN(pieces))];
		size_t len = MIN_OF(strlen(piece), want - n);

		if (rnd(2))
			out[n++] = rnd(2) ? (uint8_t)rnd(256) : (uint8_t)(0x20 + rnd(0x5f));
		else
			memcpy(out + n, piece, len), n += len;
	}
	return n;
}

static void check_value(struct span v, enum conf_log_format format, struct log_buf *b)
{
	static struct text got, want;
	struct stat_table st = {0};
	struct log_rec r;
	char text[LOG_RECORD_BYTES_MAX + 1];
	struct reader in = {text, text};

	cr_assert(log_begin(&r, b, LOG_EV_NOTE, NOON_US));
	log_str(&r, "v", v);
	log_end(&r, &st);
	in.end += take_text(b, text, sizeof(text));
	cr_assert(take_record(&in, format, &got) && in.p == in.end, "not a record: %s", text);
	expected_text(v, &want);
	cr_assert(got.n == want.n && memcmp(got.point, want.point, 4 * got.n) == 0,
		"reads back as something else: %s", text);
}

Test(log, any_octets_make_one_record_that_reads_back)
{
	struct log_buf *b[] = {
		new_buf(BUF_BYTES, LOG_JSON, LOG_INFO), new_buf(BUF_BYTES, LOG_LOGFMT, LOG_INFO)};

	for (int i = 0; i < 30000; i++) {
		uint8_t raw[LOG_VALUE_BYTES_MAX];
		struct span v = span_of(raw, random_value(raw, sizeof(raw)));

		check_value(v, LOG_JSON, b[0]);
		check_value(v, LOG_LOGFMT, b[1]);
	}
	log_buf_free(b[0]);
	log_buf_free(b[1]);
}

Test(log, every_character_reads_back)
{
	struct log_buf *b = new_buf(BUF_BYTES, LOG_JSON, LOG_INFO);

	for (uint32_t c = 1; c <= 0x10ffff; c += c < 0x3000 ? 1 : 97) {
		char raw[16];
		mbstate_t st = {0};
		size_t n = wcrtomb(raw, (wchar_t)c, &st);

		if (n != (size_t)-1)
			check_value(span_of(raw, n), LOG_JSON, b);
	}
	log_buf_free(b);
}

typedef size_t escape_fn(char *out, size_t max, struct span v);

/* Whatever the room: never more than it, never half a character, and a prefix of the whole. */
static void check_room(escape_fn *escape, struct span v, size_t whole_n)
{
	for (size_t max = 0; max <= whole_n; max++) {
		char *out = malloc(max + 1); /* exact, for ASan */
		size_t n;
		struct text t;
		struct reader r = {out, out};

		out[max] = 'X';
		n = escape(out, max, v);
		cr_assert_leq(n, max);
		cr_assert_eq(out[max], 'X');
		r.end += n;
		if (n > 0 && out[0] == '"')
			cr_assert(take_string(&r, &t) && r.p == r.end);
		if (max == whole_n)
			cr_assert_eq(n, whole_n);
		free(out);
	}
}

Test(log, escaping_into_little_room)
{
	for (int i = 0; i < 500; i++) {
		uint8_t *v;
		uint8_t raw[40];
		char out[256];
		size_t n = random_value(raw, sizeof(raw));

		v = malloc(n + !n);
		memcpy(v, raw, n);
		check_room(
			log_escape_json, span_of(v, n), log_escape_json(out, 256, span_of(v, n)));
		check_room(log_escape_logfmt, span_of(v, n),
			log_escape_logfmt(out, 256, span_of(v, n)));
		free(v);
	}
}

/* ---- limits ---- */

Test(log, long_values_are_cut_between_characters)
{
	static const char *const fill[] = {"x", "\xc3\xbc", "\xe6\x97\xa5", "\xf0\x9f\x93\xa8"};
	struct log_buf *b = new_buf(BUF_BYTES, LOG_JSON, LOG_INFO);
	struct stat_table st = {0};

	for (size_t kind = 0; kind < ARRAY_LEN(fill); kind++)
		for (size_t shift = 0; shift < 8; shift++) {
			size_t len = strlen(fill[kind]), n = shift, kept;
			char raw[600], text[4096], *value;
			struct log_rec r;

			memset(raw, 'a', shift);
			for (; n + len <= 400; n += len)
				memcpy(raw + n, fill[kind], len);
			cr_assert(log_begin(&r, b, LOG_EV_NOTE, 0));
			log_str(&r, "v", span_of(raw, n));
			log_end(&r, &st);
			take_text(b, text, sizeof(text));
			value = strstr(text, "\"v\":\"") + 5;
			kept = strlen(value) - strlen("...\"}\n");
			cr_assert_str_eq(value + kept, "...\"}\n");
			cr_assert_eq(memcmp(value, raw, kept), 0);
			cr_assert_eq((kept - shift) % len, 0);
			cr_assert(kept + 3 <= LOG_VALUE_BYTES_MAX &&
				  kept + 3 + len > LOG_VALUE_BYTES_MAX);
		}
	log_buf_free(b);
}

Test(log, a_value_of_the_limit_is_whole_and_junk_is_cut_too)
{
	struct log_buf *b = new_buf(BUF_BYTES, LOG_LOGFMT, LOG_INFO);
	char raw[LOG_VALUE_BYTES_MAX + 1], text[4096];
	struct stat_table st = {0};

	for (size_t n = LOG_VALUE_BYTES_MAX; n <= LOG_VALUE_BYTES_MAX + 1; n++) {
		struct log_rec r;

		memset(raw, 'y', sizeof(raw));
		cr_assert(log_begin(&r, b, LOG_EV_NOTE, 0));
		log_str(&r, "v", span_of(raw, n));
		memset(raw, 0xbf, sizeof(raw)); /* nothing but continuation octets */
		log_str(&r, "w", span_of(raw, n));
		log_end(&r, &st);
		take_text(b, text, sizeof(text));
		cr_assert_eq(strstr(text, "...") != NULL, n > LOG_VALUE_BYTES_MAX);
		cr_assert_eq(strcspn(strstr(text, " v=") + 1, " "), LOG_VALUE_BYTES_MAX + 2);
		cr_assert_eq(strlen(strstr(text, "w=\"")),
			n > LOG_VALUE_BYTES_MAX ? 253 * 6 + 3 + 5 : 256 * 6 + 5);
	}
	log_buf_free(b);
}

static void add_random_field(struct log_rec *r)
{
	uint8_t raw[300];

	switch (rnd(6)) {
	case 0:
		log_u64(r, "number", (uint64_t)rnd(UINT32_MAX) << rnd(32));
		break;
	case 1:
		log_ms(r, "time", UINT64_MAX >> rnd(64));
		break;
	case 2:
		log_id(r, "id", rnd(1000));
		break;
	case 3:
		log_bool(r, "flag", rnd(2));
		break;
	default:
		log_str(r, "some_key", span_of(raw, random_value(raw, sizeof(raw))));
	}
}

Test(log, records_stay_within_their_limit)
{
	unsigned cut = 0;

	for (int round = 0; round < 4000; round++) {
		enum conf_log_format format = rnd(2) ? LOG_JSON : LOG_LOGFMT;
		struct log_buf *b = new_buf(4096, format, LOG_INFO);
		char text[LOG_RECORD_BYTES_MAX + 1];
		struct reader in = {text, text};
		struct stat_table st = {0};
		static struct text last;
		struct log_rec r;

		cr_assert(log_begin(&r, b, LOG_EV_SESSION, NOON_US));
		for (uint32_t n = rnd(60); n > 0; n--)
			add_random_field(&r);
		cut += r.truncated;
		if (r.truncated)
			cr_assert_gt(r.n, (size_t)LOG_RECORD_BYTES_MAX / 2);
		log_end(&r, &st);
		cr_assert_eq(st.log_dropped, 0);
		in.end += take_text(b, text, sizeof(text));
		cr_assert(take_record(&in, format, &last) && in.p == in.end, "%s", text);
		log_buf_free(b);
	}
	cr_assert_gt(cut, 100u);
}

Test(log, a_record_that_was_cut_says_so_and_keeps_what_fits)
{
	static const char *const mark[] = {",\"truncated\":true}\n", " truncated=true\n"};

	for (int format = LOG_JSON; format <= LOG_LOGFMT; format++) {
		struct log_buf *b = new_buf(4096, (enum conf_log_format)format, LOG_INFO);
		char raw[LOG_VALUE_BYTES_MAX], text[LOG_RECORD_BYTES_MAX + 1];
		struct stat_table st = {0};
		struct log_rec r;

		memset(raw, 1, sizeof(raw));
		cr_assert(log_begin(&r, b, LOG_EV_SESSION, NOON_US));
		for (int i = 0; i < 3; i++)
			log_str(&r, "big", span_of(raw, sizeof(raw)));
		cr_assert(r.truncated);
		log_u64(&r, "small", 7);
		log_end(&r, &st);
		take_text(b, text, sizeof(text));
		cr_assert_str_eq(text + strlen(text) - strlen(mark[format]), mark[format]);
		cr_assert(strstr(text, "small") != NULL);
		cr_assert(strstr(strstr(strstr(text, "big") + 1, "big") + 1, "big") == NULL);
		log_buf_free(b);
	}
}

/* ---- the buffer ---- */

static void put_note(struct log_buf *b, struct stat_table *st, uint64_t seq)
{
	struct log_rec r;

	cr_assert(log_begin(&r, b, LOG_EV_NOTE, seq));
	log_u64(&r, "seq", seq);
	log_id(&r, "check", seq * 0x9e3779b97f4a7c15u);
	log_end(&r, st);
}

/* Checks one line and returns its number. */
static uint64_t check_note(const char *line, size_t n)
{
	char wanted[160], copy[256];
	unsigned long seq;

	cr_assert_lt(n, sizeof(copy));
	memcpy(copy, line, n);
	copy[n] = '\0';
	cr_assert(strstr(copy, "seq=") != NULL, "torn: %s", copy);
	seq = strtoul(strstr(copy, "seq=") + 4, NULL, 10);
	snprintf(wanted, sizeof(wanted),
		"ts=1970-01-01T00:00:%02lu.%06luZ ev=note level=info seq=%lu check=%016lx",
		seq / 1000000, seq % 1000000, seq, seq * 0x9e3779b97f4a7c15u);
	cr_assert_str_eq(copy, wanted);
	return seq;
}

Test(log, a_full_buffer_drops_whole_records_and_counts)
{
	struct log_buf *b = new_buf(4096, LOG_LOGFMT, LOG_INFO);
	struct stat_table st = {0};
	uint64_t seq = 0, next = 0;

	for (int round = 0; round < 300; round++) { /* wraps at every offset */
		uint64_t dropped = st.log_dropped, first = seq;
		char text[4097], *line = text, *end;
		unsigned kept = 0;

		while (st.log_dropped == dropped)
			put_note(b, &st, seq++);
		cr_assert_gt(take_text(b, text, sizeof(text)), (size_t)4096 - 160);
		for (; (end = strchr(line, '\n')); line = end + 1, kept++)
			cr_assert_eq(check_note(line, (size_t)(end - line)), first + kept);
		cr_assert_eq(*line, '\0');
		cr_assert_eq(kept, seq - first - 1);
		next = seq;
	}
	cr_assert_eq(st.log_dropped, 300);
	cr_assert_gt(next, 300u);
	log_buf_free(b);
}

#define THREAD_RECORDS 1000000

struct producing {
	struct log_buf *b;
	struct stat_table st;
	uint64_t tries;
};

/* A dropped record is offered again, so that all of them must arrive. */
static void *produce(void *arg)
{
	struct producing *p = arg;

	for (uint64_t seq = 0; seq < THREAD_RECORDS; p->tries++) {
		uint64_t dropped = p->st.log_dropped;
		struct log_rec r;

		log_begin(&r, p->b, LOG_EV_NOTE, seq);
		log_u64(&r, "seq", seq);
		log_end(&r, &p->st);
		if (p->st.log_dropped == dropped)
			seq++;
		else
			sched_yield();
	}
	return NULL;
}

static const char *next_line(struct log_buf *b, char line[256], struct iovec iov[2], size_t *used)
{
	size_t n = 0;

	for (;; n++, ++*used) {
		size_t at = *used, first = iov[0].iov_len;

		cr_assert(n < 255 && at < first + iov[1].iov_len, "torn record");
		line[n] = at < first ? ((char *)iov[0].iov_base)[at]
				     : ((char *)iov[1].iov_base)[at - first];
		if (line[n] == '\n')
			break;
	}
	line[n] = '\0';
	++*used;
	return line;
}

Test(log, a_million_records_between_two_threads, .timeout = 300)
{
	struct producing p = {.b = new_buf(BUF_BYTES, LOG_LOGFMT, LOG_INFO)};
	uint64_t next = 0;
	pthread_t th;

	cr_assert_eq(pthread_create(&th, NULL, produce, &p), 0);
	while (next < THREAD_RECORDS) {
		struct iovec iov[2];
		size_t n = log_buf_peek(p.b, iov), used = 0;
		char line[256], wanted[64];

		for (; used < n; next++) {
			next_line(p.b, line, iov, &used);
			snprintf(wanted, sizeof(wanted), ".%06luZ ev=note level=info seq=%lu",
				next % 1000000, next);
			if (strcmp(line + 22, wanted) != 0)
				cr_assert_fail("record %lu: %s", next, line);
		}
		log_buf_take(p.b, n);
		if (n == 0)
			sched_yield();
	}
	pthread_join(th, NULL);
	cr_assert_eq(p.tries, THREAD_RECORDS + p.st.log_dropped);
	log_buf_free(p.b);
}

/* ---- the sink ---- */

static char dir[] = "/tmp/ringpost-test-log-XXXXXX";
static char path[64], moved[64];

static void make_dir(void)
{
	use_utf8();
	umask(022);
	cr_assert(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/log", dir);
	snprintf(moved, sizeof(moved), "%s/log.1", dir);
}

static void remove_dir(void)
{
	unlink(path);
	unlink(moved);
	rmdir(dir);
}

TestSuite(log_sink, .init = make_dir, .fini = remove_dir, .timeout = 60);

static struct log_sink *open_sink(const char *where)
{
	const struct conf_log conf = {.path = where};
	struct log_sink *s = log_sink_open(&conf, stderr);

	cr_assert(s != NULL);
	return s;
}

/* The notes in a file must be first, first + 1, ... Returns how many. */
static uint64_t notes_in(const char *file, uint64_t first)
{
	char line[512];
	uint64_t n = 0;
	FILE *f = fopen(file, "r");

	cr_assert(f != NULL);
	for (; fgets(line, sizeof(line), f); n++)
		cr_assert_eq(check_note(line, strcspn(line, "\n")), first + n);
	fclose(f);
	return n;
}

Test(log_sink, appends_to_a_file_and_reopens_it)
{
	struct log_buf *b = new_buf(8192, LOG_LOGFMT, LOG_INFO);
	struct log_sink *s = open_sink(path);
	struct stat_table t = {0};
	struct stat st;

	for (uint64_t i = 0; i < 500; i++) { /* many wraps */
		put_note(b, &t, i);
		if (i % 30 == 29 || i == 499)
			cr_assert_gt(log_sink_drain(s, b), 70u);
	}
	cr_assert_eq(log_sink_drain(s, b), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0640);
	cr_assert_eq(notes_in(path, 0), 500);
	cr_assert_eq(rename(path, moved), 0);
	put_note(b, &t, 500);
	log_sink_drain(s, b); /* still the old file */
	cr_assert(log_sink_reopen(s));
	put_note(b, &t, 501);
	log_sink_drain(s, b);
	cr_assert_eq(notes_in(moved, 0), 501);
	cr_assert_eq(notes_in(path, 501), 1);
	log_sink_close(s);
	s = open_sink(path);
	put_note(b, &t, 502);
	log_sink_drain(s, b);
	cr_assert_eq(notes_in(path, 501), 2);
	cr_assert_eq(log_sink_lost(s) + t.log_dropped, 0);
	log_sink_close(s);
	log_buf_free(b);
}

Test(log_sink, a_file_that_cannot_be_opened_is_said)
{
	char text[256] = {0}, bad[96];
	struct conf_log conf = {.path = bad};
	FILE *err = fmemopen(text, sizeof(text), "w");

	snprintf(bad, sizeof(bad), "%s/no/log", dir);
	cr_assert(log_sink_open(&conf, err) == NULL);
	fclose(err);
	cr_assert(strstr(text, "/no/log: No such file or directory\n") != NULL, "%s", text);
}

Test(log_sink, a_failed_reopen_keeps_the_old_file)
{
	struct log_buf *b = new_buf(4096, LOG_LOGFMT, LOG_INFO);
	struct log_sink *s = open_sink(path);
	struct stat_table t = {0};

	cr_assert_eq(rename(path, moved), 0);
	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert(!log_sink_reopen(s));
	put_note(b, &t, 0);
	cr_assert_gt(log_sink_drain(s, b), 0u);
	cr_assert_eq(rmdir(path), 0);
	cr_assert_eq(notes_in(moved, 0), 1);
	log_sink_close(s);
	log_buf_free(b);
}

/* RLIMIT_FSIZE makes write(2) short, then failing, as a full disk does. */
Test(log_sink, a_full_disk_loses_whole_records_only_and_recovers)
{
	struct log_buf *b = new_buf(8192, LOG_LOGFMT, LOG_INFO);
	struct log_sink *s = open_sink(path);
	struct rlimit lim = {1000, RLIM_INFINITY};
	struct stat_table t = {0};
	char text[4096] = {0}, *line = text, *end;
	unsigned good = 0, bad = 0;
	int fd;

	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
	for (uint64_t i = 0; i < 20; i++)
		put_note(b, &t, i);
	cr_assert_eq(log_sink_drain(s, b), 1000);
	lim.rlim_cur = RLIM_INFINITY;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
	for (uint64_t i = 20; i < 25; i++)
		put_note(b, &t, i);
	cr_assert_gt(log_sink_drain(s, b), 5 * 70u);
	fd = open(path, O_RDONLY);
	cr_assert_gt(read(fd, text, sizeof(text) - 1), 1400);
	close(fd);
	for (; (end = strchr(line, '\n')); line = end + 1) {
		*end = '\0';
		if (end - line > 70 && strstr(line, "check=") && end[-1] != '=' &&
			strlen(strstr(line, "check=")) == 22)
			good++;
		else
			bad++;
	}
	cr_assert_eq(*line, '\0');
	cr_assert_leq(bad, 1u);
	cr_assert_eq(good + log_sink_lost(s), 25);
	log_sink_close(s);
	log_buf_free(b);
}

Test(log_sink, a_device_that_fails_is_counted_and_not_tried_again)
{
	struct log_buf *b = new_buf(65536, LOG_LOGFMT, LOG_INFO);
	struct log_sink *s = open_sink("/dev/full");
	struct stat_table t = {0};

	for (uint64_t i = 0; i < 200; i++)
		put_note(b, &t, i);
	cr_assert_eq(log_sink_drain(s, b), 0);
	cr_assert_eq(log_sink_lost(s), 200);
	cr_assert_eq(log_sink_drain(s, b), 0);
	cr_assert_eq(log_sink_lost(s), 200);
	log_sink_close(s);
	log_buf_free(b);
}

/* Puts a pipe in the place of standard error; returns its reading end. */
static int pipe_as_stderr(void)
{
	int fds[2];

	cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
	cr_assert_eq(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
	cr_assert_eq(fcntl(fds[1], F_SETPIPE_SZ, 16384), 16384);
	cr_assert_eq(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
	close(fds[1]);
	return fds[0];
}

Test(log_sink, a_full_pipe_does_not_block_and_keeps_the_records)
{
	struct log_buf *b[2] = {
		new_buf(32768, LOG_LOGFMT, LOG_INFO), new_buf(4096, LOG_LOGFMT, LOG_INFO)};
	int keep = dup(STDERR_FILENO), in = pipe_as_stderr();
	struct log_sink *s = open_sink(NULL);
	struct stat_table t = {0};
	char *text = calloc(1, 65536), *line = text, *end;
	size_t got = 0;
	uint64_t seq = 0;

	for (; seq < 300; seq++)
		put_note(b[0], &t, seq);
	put_note(b[1], &t, 0);
	cr_assert_leq(log_sink_drain(s, b[0]), (size_t)16384);
	cr_assert_eq(log_sink_drain(s, b[0]), 0);
	cr_assert_eq(log_sink_drain(s, b[1]), 0);
	for (int i = 0; i < 6; i++) {
		ssize_t n = read(in, text + got, 16384);

		got += n > 0 ? (size_t)n : 0;
		log_sink_drain(s, b[0]);
	}
	dup2(keep, STDERR_FILENO); /* the last writer goes: end of file follows */
	for (ssize_t n; (n = read(in, text + got, 16384)) > 0;)
		got += (size_t)n;
	for (seq = 0; (end = strchr(line, '\n')); line = end + 1, seq++)
		cr_assert_eq(check_note(line, (size_t)(end - line)), seq);
	cr_assert_eq(seq, 300);
	cr_assert_eq(log_sink_lost(s) + t.log_dropped, 0);
	log_sink_close(s);
	log_buf_free(b[0]);
	log_buf_free(b[1]);
	free(text);
}

Test(log_sink, a_pipe_without_reader_loses_and_counts)
{
	struct log_buf *b = new_buf(4096, LOG_LOGFMT, LOG_INFO);
	int keep = dup(STDERR_FILENO), in = pipe_as_stderr();
	struct log_sink *s = open_sink(NULL);
	struct stat_table t = {0};

	close(in);
	put_note(b, &t, 0);
	put_note(b, &t, 1);
	cr_assert_eq(log_sink_drain(s, b), 0);
	dup2(keep, STDERR_FILENO);
	cr_assert_eq(log_sink_lost(s), 2);
	cr_assert(log_sink_reopen(s));
	put_note(b, &t, 2);
	cr_assert_gt(log_sink_drain(s, b), 70u); /* to the real standard error */
	log_sink_close(s);
	log_buf_free(b);
}

static bool rung(const struct log_sink *s)
{
	struct pollfd p = {.fd = log_sink_fd(s), .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

Test(log_sink, the_bell_rings_once_past_half_full)
{
	struct log_buf *b[2] = {
		new_buf(8192, LOG_LOGFMT, LOG_INFO), new_buf(8192, LOG_LOGFMT, LOG_INFO)};
	struct log_sink *s = open_sink(path);
	struct stat_table t = {0};

	log_buf_wake(b[0], log_sink_fd(s));
	log_buf_wake(b[1], log_sink_fd(s));
	for (int round = 0; round < 3; round++) {
		uint64_t count;

		for (uint64_t i = 0; i < 40; i++)
			put_note(b[0], &t, i); /* about 3.6 KB of 8 */
		cr_assert(!rung(s));
		for (uint64_t i = 0; i < 400; i++)
			put_note(b[i % 2], &t, i);
		cr_assert(rung(s));
		log_sink_drain(s, b[0]);
		cr_assert(rung(s), "the other buffer still waits");
		log_sink_drain(s, b[1]);
		cr_assert(!rung(s));
		cr_assert_eq(read(log_sink_fd(s), &count, sizeof(count)), -1);
	}
	cr_assert_gt(t.log_dropped, 0u);
	log_sink_close(s);
	log_buf_free(b[0]);
	log_buf_free(b[1]);
}

/* The consumer runs between a record and its ring: the count that comes then is taken by the next
 * drain, and whoever polls does not find it for ever. */
Test(log_sink, a_bell_that_rings_late)
{
	struct log_buf *b = new_buf(8192, LOG_LOGFMT, LOG_INFO);
	struct log_sink *s = open_sink(path);
	struct stat_table t = {0};
	uint64_t count;

	log_buf_wake(b, log_sink_fd(s));
	for (uint64_t i = 0; i < 60; i++)
		put_note(b, &t, i);
	cr_assert_eq(read(log_sink_fd(s), &count, sizeof(count)), (ssize_t)sizeof(count));
	log_sink_drain(s, b); /* not rung yet */
	cr_assert_eq(write(log_sink_fd(s), &count, sizeof(count)), (ssize_t)sizeof(count));
	cr_assert(rung(s));
	log_sink_drain(s, b);
	cr_assert(!rung(s));
	for (uint64_t i = 0; i < 60; i++)
		put_note(b, &t, i);
	cr_assert(rung(s), "it rings again");
	log_sink_close(s);
	log_buf_free(b);
}

#define SINK_RECORDS 100000

static void *produce_some(void *arg)
{
	struct producing *p = arg;

	for (uint64_t seq = 0; seq < SINK_RECORDS; seq++)
		put_note(p->b, &p->st, seq);
	return NULL;
}

/* A producer that does not wait, a consumer woken by the bell or its timer: what is not dropped is
 * in the file, in order. */
Test(log_sink, drains_while_a_worker_writes)
{
	struct producing p = {.b = new_buf(BUF_BYTES, LOG_LOGFMT, LOG_INFO)};
	struct log_sink *s = open_sink(path);
	uint64_t lines = 0, last = 0;
	char line[512];
	pthread_t th;
	FILE *f;

	log_buf_wake(p.b, log_sink_fd(s));
	cr_assert_eq(pthread_create(&th, NULL, produce_some, &p), 0);
	for (int quiet = 0; quiet < 5;) {
		struct pollfd bell = {.fd = log_sink_fd(s), .events = POLLIN};
		int n = poll(&bell, 1, 20);

		quiet = n + (log_sink_drain(s, p.b) > 0) > 0 ? 0 : quiet + 1;
	}
	pthread_join(th, NULL);
	log_sink_drain(s, p.b);
	f = fopen(path, "r");
	for (; fgets(line, sizeof(line), f); lines++) {
		uint64_t seq = check_note(line, strcspn(line, "\n"));

		cr_assert(lines == 0 || seq > last);
		last = seq;
	}
	fclose(f);
	cr_assert_eq(lines + p.st.log_dropped, SINK_RECORDS);
	cr_assert_eq(log_sink_lost(s), 0);
	log_sink_close(s);
	log_buf_free(p.b);
}
