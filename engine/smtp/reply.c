/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Replies (RFC 5321 4.2). A line is judged when it is complete, so the result depends on the octets
 * received, not on how they came in pieces. Every failure is a typed result; after one the
 * connection cannot be trusted to be in step any more.
 */
#include "engine/smtp/reply.h"

#include "engine/smtp/line.h"
#include "engine/smtp/octets.h"

const char *reply_res_text(enum reply_res r)
{
	static const char *const text[] = {
		[REPLY_MORE] = "incomplete reply",
		[REPLY_OK] = "reply",
		[REPLY_BAD_CODE] = "reply does not start with a code",
		[REPLY_MIXED] = "reply changes its code between lines",
		[REPLY_LONG_LINE] = "reply line too long",
		[REPLY_LONG] = "reply too long",
		[REPLY_BAD_OCTET] = "NUL or bare CR in a reply",
	};

	ASSERT((unsigned)r < ARRAY_LEN(text));
	return text[r];
}

/* The code that `line` starts with; 0 when it does not. */
static unsigned line_code(struct span line)
{
	if (line.n < 3 || !span_all(span_of(line.p, 3), OCTET_DIGIT))
		return 0;
	if (line.p[0] < '2' || line.p[0] > '5')
		return 0;
	if (line.n > 3 && line.p[3] != ' ' && line.p[3] != '-')
		return 0;
	return (line.p[0] - '0') * 100u + (line.p[1] - '0') * 10u + (line.p[2] - '0');
}

static struct span line_text(struct span line)
{
	return span_drop(line, MIN_OF(line.n, (size_t)4));
}

static bool bad_octet(struct span line)
{
	return line.n > 0 && (memchr(line.p, '\0', line.n) || memchr(line.p, '\r', line.n));
}

/* One complete line. REPLY_MORE: the reply goes on behind it. */
static enum reply_res take_line(struct span line, struct reply_scan *rs)
{
	unsigned code = line_code(line);

	if (code == 0)
		return REPLY_BAD_CODE;
	if (rs->lines > 0 && code != rs->code)
		return REPLY_MIXED;
	if (bad_octet(line))
		return REPLY_BAD_OCTET;
	rs->code = (uint16_t)code;
	rs->lines++;
	if (line.n == 3 || line.p[3] == ' ')
		return REPLY_OK;
	return rs->lines == SMTP_REPLY_LINES_MAX ? REPLY_LONG : REPLY_MORE;
}

enum reply_res smtp_reply_scan(
	struct span in, struct reply_scan *rs, struct smtp_reply *out, size_t *used)
{
	enum reply_res res = REPLY_MORE;
	struct span line;
	size_t next;

	ASSERT(rs->at <= in.n);
	while (res == REPLY_MORE) {
		size_t room = SMTP_REPLY_BYTES_MAX - rs->at, seen = rs->seen;
		size_t max = MIN_OF(room, (size_t)SMTP_REPLY_LINE_BYTES_MAX);
		enum line_res got = smtp_line(span_drop(in, rs->at), &seen, max, &line, &next);

		rs->seen = (uint32_t)seen;
		*used = 0;
		if (got == LINE_MORE)
			return REPLY_MORE;
		if (got == LINE_LONG)
			return room < SMTP_REPLY_LINE_BYTES_MAX ? REPLY_LONG : REPLY_LONG_LINE;
		rs->bare_lf |= got == LINE_BARE_LF;
		res = take_line(line, rs);
		rs->at += (uint32_t)next;
	}
	if (res != REPLY_OK)
		return res;
	*used = rs->at;
	*out = (struct smtp_reply){.code = rs->code,
		.lines = rs->lines,
		.bare_lf = rs->bare_lf,
		.raw = span_of(in.p, rs->at),
		.text = line_text(line)};
	out->enhanced = span_of(out->text.p, smtp_enhanced_len(out->text));
	return REPLY_OK;
}

bool smtp_reply_line(struct span *rest, struct span *text)
{
	size_t seen = 0, next;
	struct span line;

	/* A complete reply: the limit only has to be out of reach. */
	if (rest->n == 0 || smtp_line(*rest, &seen, SIZE_MAX, &line, &next) == LINE_MORE)
		return false;
	*rest = span_drop(*rest, next);
	*text = line_text(line);
	return true;
}

/* One to three digits at s.p[*at]; moves behind them. */
static bool take_number(struct span s, size_t *at)
{
	size_t from = *at;

	while (*at < s.n && *at - from < 4 && octet_is(s.p[*at], OCTET_DIGIT))
		++*at;
	return *at - from >= 1 && *at - from <= 3;
}

size_t smtp_enhanced_len(struct span s)
{
	size_t at = 1;

	if (s.n < 5 || (s.p[0] != '2' && s.p[0] != '4' && s.p[0] != '5'))
		return 0;
	for (int part = 0; part < 2; part++) {
		if (at >= s.n || s.p[at++] != '.' || !take_number(s, &at))
			return 0;
	}
	return at == s.n || s.p[at] == ' ' ? at : 0;
}
