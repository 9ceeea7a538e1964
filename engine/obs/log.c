/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Log records: building one line in the caller's struct log_rec and escaping what goes into it.
 * Once per mail on a worker, so no printf family, no gmtime, no allocation: digits are written by
 * hand and the calendar part of the time stamp (RFC 3339, UTC) is kept for as long as the second.
 *
 * What holds for any input: a record is one line of printable, valid UTF-8 (RFC 3629: no overlong
 * forms, no surrogates) in at most LOG_RECORD_BYTES_MAX octets; a JSON record is an object by RFC
 * 8259. Control characters, octets that are not UTF-8, and characters that reorder or break a
 * displayed line (bidirectional controls, U+2028, U+2029) appear as \uXXXX, an invalid octet as
 * \u00XX. logfmt values are bare when they are plain ASCII words, else quoted with the escapes of
 * JSON.
 *
 * Failure: a field that does not fit is left out and the record says "truncated":true; a record
 * that does not fit into the buffer is dropped and counted. Thread: the producer's.
 */
#include "engine/obs/log_buf.h"

/* Levels as words; pasted onto the level's name in LOG_EVENTS. */
#define WORD_LOG_ERROR "error"
#define WORD_LOG_WARN "warn"
#define WORD_LOG_INFO "info"
#define WORD_LOG_DEBUG "debug"

/* What stands between the time stamp and the first field. */
static const struct event_row {
	enum conf_log_level level;
	struct span json, logfmt;
} events[] = {
#define X(id, word, level)                                                                 \
	[id] = {level, SPAN_LIT("Z\",\"ev\":\"" word "\",\"level\":\"" WORD_##level "\""), \
		SPAN_LIT("Z ev=" word " level=" WORD_##level)},
	LOG_EVENTS(X)
#undef X
};

static const struct span opening[] = {SPAN_LIT("ts="), SPAN_LIT("{\"ts\":\"")};
static const struct span cut_mark[] = {
	SPAN_LIT(" truncated=true"), SPAN_LIT(",\"truncated\":true")};
static const struct span closing[] = {SPAN_LIT("\n"), SPAN_LIT("}\n")};
#define ENDING_BYTES_MAX (sizeof(",\"truncated\":true}\n") - 1)
#define FIELDS_END (LOG_RECORD_BYTES_MAX - ENDING_BYTES_MAX)

#define U64_DIGITS_MAX 20
#define ID_DIGITS 16
#define ESCAPE_BYTES 6 /* \uXXXX */

/* ---- characters ---- */

enum {
	CH_QUOTED = 1, /* may stand in a quoted string as it is */
	CH_BARE = 2,   /* may stand in an unquoted logfmt value */
};

static const uint8_t chars[256] = {
	[' '] = CH_QUOTED,
	['!'] = CH_QUOTED | CH_BARE,
	['#' ... '&'] = CH_QUOTED | CH_BARE,
	['\''] = CH_QUOTED, /* quoted, for readers that split like a shell */
	['(' ... '<'] = CH_QUOTED | CH_BARE,
	['='] = CH_QUOTED,
	['>' ... '['] = CH_QUOTED | CH_BARE,
	[']' ... '~'] = CH_QUOTED | CH_BARE,
};

static size_t run_of(struct span v, uint8_t kind)
{
	size_t n = 0;

	while (n < v.n && (chars[v.p[n]] & kind))
		n++;
	return n;
}

/* Length of the multi-octet character that starts at v.p[0], 0 when it is not one (RFC 3629 4). */
static size_t utf8_take(struct span v, uint32_t *point)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint8_t lead = v.p[0];
	size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
	uint32_t c = lead & (0x7fu >> n);

	if (lead < 0xc2 || lead > 0xf4 || v.n < n)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((v.p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (v.p[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*point = c;
	return n;
}

/* Valid, but not to be shown: C1 controls, bidirectional marks and embeddings, separators. */
static bool must_hide(uint32_t c)
{
	return (c >= 0x80 && c <= 0x9f) || c == 0x061c || c == 0x200e || c == 0x200f ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

static const char hex[] = "0123456789abcdef";

/* One character that is not CH_QUOTED, at v.p[0], as it stands in a quoted string: at most
 * ESCAPE_BYTES octets. Returns their number; *used: octets of v. */
static size_t escape_one(char *out, struct span v, size_t *used)
{
	uint32_t c = v.p[0];

	*used = 1;
	if (c == '"' || c == '\\') {
		out[0] = '\\';
		out[1] = (char)c;
		return 2;
	}
	if (c >= 0x80) {
		size_t n = utf8_take(v, &c);

		if (n > 0)
			*used = n;
		if (n > 0 && !must_hide(c)) {
			memcpy(out, v.p, n);
			return n;
		}
	}
	out[0] = '\\';
	out[1] = 'u';
	for (int i = 0; i < 4; i++)
		out[2 + i] = hex[c >> (12 - 4 * i) & 15];
	return ESCAPE_BYTES;
}

/* A quoted string of at most `max` octets: always whole characters and both quotes, or nothing when
 * max < 2. *used: octets of v that are in it. */
static size_t quote(char *out, size_t max, struct span v, size_t *used)
{
	size_t n = 1, i = 0;

	*used = 0;
	if (max < 2)
		return 0;
	max--; /* the closing quote's */
	out[0] = '"';
	while (i < v.n) {
		size_t run = run_of(span_of(v.p + i, MIN_OF(v.n - i, max - n)), CH_QUOTED);
		char piece[ESCAPE_BYTES];
		size_t taken, put;

		memcpy(out + n, v.p + i, run);
		n += run;
		i += run;
		if (i == v.n || n == max)
			break;
		put = escape_one(piece, span_drop(v, i), &taken);
		if (put > max - n)
			break;
		memcpy(out + n, piece, put);
		n += put;
		i += taken;
	}
	out[n++] = '"';
	*used = i;
	return n;
}

/* A logfmt value: bare when that is unambiguous. */
static size_t quote_if_needed(char *out, size_t max, struct span v, size_t *used)
{
	if (v.n == 0 || run_of(v, CH_BARE) < v.n)
		return quote(out, max, v, used);
	*used = MIN_OF(v.n, max);
	memcpy(out, v.p, *used);
	return *used;
}

size_t log_escape_json(char *out, size_t max, struct span v)
{
	size_t used;

	return quote(out, max, v, &used);
}

size_t log_escape_logfmt(char *out, size_t max, struct span v)
{
	size_t used;

	return quote_if_needed(out, max, v, &used);
}

/* ---- numbers and time ---- */

static void put_digits(char *out, unsigned count, uint64_t v)
{
	while (count > 0) {
		out[--count] = (char)('0' + v % 10);
		v /= 10;
	}
}

static size_t put_u64(char *out, uint64_t v)
{
	char text[U64_DIGITS_MAX];
	size_t at = sizeof(text);

	do {
		text[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v > 0);
	memcpy(out, text + at, sizeof(text) - at);
	return sizeof(text) - at;
}

/* Days since 1970-01-01 in the Gregorian calendar, counted in years that begin on 1 March so that
 * the leap day is a year's last: 146,097 days are 400 years, and (153 m + 2) / 5 days precede month
 * m. */
static void put_date(char *out, uint64_t days)
{
	uint64_t d = days + 719468; /* since 0000-03-01 */
	uint64_t era = d / 146097, of_era = d % 146097;
	uint64_t years = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	uint64_t of_year = of_era - (365 * years + years / 4 - years / 100);
	uint64_t m = (5 * of_year + 2) / 153;
	uint64_t month = m < 10 ? m + 3 : m - 9;

	put_digits(out, 4, era * 400 + years + (month <= 2));
	put_digits(out + 5, 2, month);
	put_digits(out + 8, 2, of_year - (153 * m + 2) / 5 + 1);
	out[4] = out[7] = '-';
}

static void put_second(char *out, uint64_t second)
{
	uint64_t of_day = second % 86400;

	put_date(out, second / 86400);
	put_digits(out + 11, 2, of_day / 3600);
	put_digits(out + 14, 2, of_day / 60 % 60);
	put_digits(out + 17, 2, of_day % 60);
	out[10] = 'T';
	out[13] = out[16] = ':';
}

/* ---- records ---- */

static void put_span(struct log_rec *r, struct span s)
{
	ASSERT(s.n <= sizeof(r->text) - r->n);
	memcpy(r->text + r->n, s.p, s.n);
	r->n += s.n;
}

static void put_time(struct log_rec *r, uint64_t wall_us)
{
	const uint64_t last_us = 253402300799999999u; /* 9999-12-31: RFC 3339 has four digits */
	uint64_t us = MIN_OF(wall_us, last_us), second = us / 1000000;
	struct log_buf *b = r->buf;

	if (b->second != second) {
		put_second(b->second_text, second);
		b->second = second;
	}
	put_span(r, span_of(b->second_text, LOG_SECOND_TEXT_BYTES));
	r->text[r->n] = '.';
	put_digits(r->text + r->n + 1, 6, us % 1000000);
	r->n += 7;
}

bool log_begin(struct log_rec *r, struct log_buf *b, enum log_event ev, uint64_t wall_us)
{
	ASSERT((unsigned)ev < LOG_EV_COUNT);
	const struct event_row *row = &events[ev];

	if (row->level > b->level)
		return false;
	r->buf = b;
	r->json = b->json;
	r->truncated = false;
	r->n = 0;
	put_span(r, opening[r->json]);
	put_time(r, wall_us);
	put_span(r, r->json ? row->json : row->logfmt);
	return true;
}

/* Writes the key and returns where the value goes, at most `value_max` octets; NULL when that does
 * not fit. The caller adds what it wrote to r->n. */
static char *open_field(struct log_rec *r, const char *key, size_t value_max)
{
	size_t len = strlen(key), around = r->json ? 4 : 2;
	char *p = r->text + r->n;

	if (around + len + value_max > FIELDS_END - r->n) {
		r->truncated = true;
		return NULL;
	}
	*p++ = r->json ? ',' : ' ';
	if (r->json)
		*p++ = '"';
	memcpy(p, key, len);
	p += len;
	if (r->json)
		*p++ = '"';
	*p++ = r->json ? ':' : '=';
	r->n += around + len;
	return p;
}

/* Where to cut a long value: within `max`, and not inside a character. */
static size_t cut_at(struct span v, size_t max)
{
	for (size_t back = 1; back <= 3; back++) {
		uint32_t point;
		size_t n = utf8_take(span_drop(v, max - back), &point);

		if (n > 0)
			return n > back ? max - back : max;
	}
	return max;
}

void log_str(struct log_rec *r, const char *key, struct span value)
{
	char cut[LOG_VALUE_BYTES_MAX];
	size_t mark = r->n, used, n;

	if (value.n > LOG_VALUE_BYTES_MAX) {
		n = cut_at(value, LOG_VALUE_BYTES_MAX - 3);
		memcpy(cut, value.p, n);
		memcpy(cut + n, "...", 3);
		value = span_of(cut, n + 3);
	}
	if (!open_field(r, key, 2))
		return;
	if (r->json)
		n = quote(r->text + r->n, FIELDS_END - r->n, value, &used);
	else
		n = quote_if_needed(r->text + r->n, FIELDS_END - r->n, value, &used);
	if (used < value.n) {
		r->n = mark;
		r->truncated = true;
		return;
	}
	r->n += n;
}

void log_cstr(struct log_rec *r, const char *key, const char *value)
{
	if (value)
		log_str(r, key, span_str(value));
}

void log_u64(struct log_rec *r, const char *key, uint64_t value)
{
	char *p = open_field(r, key, U64_DIGITS_MAX);

	if (p)
		r->n += put_u64(p, value);
}

void log_ms(struct log_rec *r, const char *key, uint64_t us)
{
	char *p = open_field(r, key, U64_DIGITS_MAX + 1);
	size_t n;

	if (!p)
		return;
	n = put_u64(p, us / 1000);
	p[n] = '.';
	put_digits(p + n + 1, 3, us % 1000);
	r->n += n + 4;
}

void log_bool(struct log_rec *r, const char *key, bool value)
{
	struct span word = value ? SPAN_LIT("true") : SPAN_LIT("false");

	if (open_field(r, key, word.n))
		put_span(r, word);
}

void log_id(struct log_rec *r, const char *key, uint64_t id)
{
	char *p = open_field(r, key, ID_DIGITS + 2);
	size_t n = 0;

	if (!p)
		return;
	if (r->json)
		p[n++] = '"';
	for (unsigned shift = 64; shift > 0; shift -= 4)
		p[n++] = hex[id >> (shift - 4) & 15];
	if (r->json)
		p[n++] = '"';
	r->n += n;
}

void log_end(struct log_rec *r, struct stat_table *stats)
{
	ASSERT(r->buf && stats);
	if (r->truncated)
		put_span(r, cut_mark[r->json]);
	put_span(r, closing[r->json]);
	if (!log_buf_push(r->buf, r->text, r->n))
		STAT_INC(stats, log_dropped);
	r->buf = NULL; /* ends once */
}
