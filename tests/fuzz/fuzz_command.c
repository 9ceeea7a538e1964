/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From octets to a command: smtp_line, smtp_line_clean, smtp_cmd_parse, and the arguments that
 * change framing (BDAT, AUTH). Claimed, for any octets:
 *  - lines are found at the same places whether the stream comes whole, octet by octet, or in
 *    pieces, and where a naive search finds them; an over-long one is noticed in any case;
 *  - a clean line is one without controls; verb and arguments are what the grammar says;
 *  - BDAT and AUTH arguments are taken exactly when the grammar has them, with the value that the
 *    digits say;
 *  - everything handed out lies inside the line.
 * Input: octet 0 the limit of a line, octet 1 the size of the pieces, the rest is the stream.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/smtp/cmd.h"
#include "engine/smtp/line.h"

#include <strings.h>

struct found {
	enum line_res res;
	struct span line;
	size_t next;
};

/* The first line of `in`, which comes in pieces of `step` octets. */
static struct found find_by(struct span in, size_t max, size_t step)
{
	struct found f;
	size_t seen = 0, have = 0;

	do {
		have = MIN_OF(in.n, have + step);
		f.res = smtp_line(span_of(in.p, have), &seen, max, &f.line, &f.next);
		ASSERT(seen == (f.res == LINE_MORE ? have : 0));
	} while (f.res == LINE_MORE && have < in.n);
	return f;
}

static struct found find_naively(struct span in, size_t max)
{
	for (size_t i = 0; i < in.n && i < max; i++) {
		if (in.p[i] != '\n')
			continue;
		if (i > 0 && in.p[i - 1] == '\r')
			return (struct found){LINE_OK, span_of(in.p, i - 1), i + 1};
		return (struct found){LINE_BARE_LF, span_of(in.p, i), i + 1};
	}
	return (struct found){in.n < max ? LINE_MORE : LINE_LONG, span_of(in.p, 0), 0};
}

static void expect_same(struct found a, struct found b)
{
	ASSERT(a.res == b.res && a.next == b.next);
	ASSERT(a.line.n == b.line.n && (a.line.n == 0 || a.line.p == b.line.p));
}

/* ---- one line ---- */

static const char *const verbs[] = {
#define X(id, verb, flags, rfc) [id] = verb,
#include "engine/smtp/verbs.def"
#undef X
};

static enum smtp_verb verb_of(struct span word)
{
	for (unsigned v = 0; v < ARRAY_LEN(verbs); v++)
		if (strlen(verbs[v]) == word.n &&
			strncasecmp(verbs[v], (const char *)word.p, word.n) == 0)
			return (enum smtp_verb)v;
	return SMTP_OTHER;
}

/* More digits than fit are UINT64_MAX. */
static uint64_t number_in(struct span args)
{
	uint64_t v = 0;

	for (size_t i = 0; i < args.n; i++)
		if (args.p[i] >= '0' && args.p[i] <= '9' && v < UINT64_MAX / 10)
			v = v * 10 + (uint64_t)(args.p[i] - '0');
	return v;
}

static void check_bdat(struct span args)
{
	static struct grammar form = GRAMMAR_ANY_CASE("^[ \t]*[0-9]{1,20}([ \t]+LAST)?[ \t]*$");
	static struct grammar with_last = GRAMMAR_ANY_CASE("LAST");
	uint64_t size;
	bool last, good = smtp_bdat_parse(args, &size, &last);

	ASSERT(good == (grammar_has(&form, args) && number_in(args) <= SMTP_BDAT_BYTES_MAX));
	if (good) {
		ASSERT(size == number_in(args));
		ASSERT(last == grammar_has(&with_last, args));
	}
}

static void check_auth(struct span args)
{
	static struct grammar form = GRAMMAR("^[ \t]*[A-Za-z0-9_-]{1,20}([ \t]+[^ \t]+)?[ \t]*$");
	static struct grammar two_words = GRAMMAR("[^ \t][ \t]+[^ \t]");
	struct span mechanism;
	bool initial, good = smtp_auth_parse(args, &mechanism, &initial);

	ASSERT(lies_in(mechanism, args));
	ASSERT(good == grammar_has(&form, args));
	if (good)
		ASSERT(initial == grammar_has(&two_words, args));
}

static void check_path(struct span args, bool is_rcpt)
{
	struct smtp_path path;

	if (smtp_path_parse(args, is_rcpt, &path) != PATH_OK)
		return;
	ASSERT(lies_in(path.mailbox, args) && lies_in(path.params, args));
	ASSERT(lies_in(path.local, path.mailbox) && lies_in(path.domain, path.mailbox));
}

static bool blank(uint8_t c)
{
	return c == ' ' || c == '\t';
}

static void check_line(struct span line)
{
	static struct grammar clean = GRAMMAR("^[\t -~\x80-\xff]*$");
	static struct grammar command = GRAMMAR("^[A-Za-z]");
	struct smtp_cmd cmd;
	size_t word = 0;

	ASSERT(smtp_line_clean(line) == grammar_has(&clean, line));
	ASSERT(smtp_cmd_parse(line, &cmd) == grammar_has(&command, line));
	if (!grammar_has(&command, line))
		return;
	while (word < line.n && !blank(line.p[word]))
		word++;
	ASSERT(cmd.word.p == line.p && cmd.word.n == word);
	ASSERT(cmd.verb == verb_of(cmd.word));
	ASSERT(lies_in(cmd.args, line));
	if (cmd.args.n > 0) {
		ASSERT(!blank(cmd.args.p[0]) && !blank(cmd.args.p[cmd.args.n - 1]));
		for (const uint8_t *p = line.p + word; p < cmd.args.p; p++)
			ASSERT(blank(*p));
		for (const uint8_t *p = cmd.args.p + cmd.args.n; p < line.p + line.n; p++)
			ASSERT(blank(*p));
	}
	check_bdat(cmd.args);
	check_auth(cmd.args);
	check_path(cmd.args, cmd.verb == SMTP_RCPT);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const size_t limits[] = {SMTP_COMMAND_BYTES_MAX, SMTP_AUTH_BYTES_MAX, 512, 16};
	struct span in = span_of(p, n);
	size_t max = limits[take_octet(&in) % ARRAY_LEN(limits)];
	size_t step = 1 + take_octet(&in);
	struct span all = exact_copy(in), rest = all;

	for (;;) {
		struct found f = find_naively(rest, max);

		expect_same(find_by(rest, max, MAX_OF(rest.n, 1u)), f);
		expect_same(find_by(rest, max, step), f);
		expect_same(find_by(rest, max, 1), f);
		if (f.res == LINE_MORE || f.res == LINE_LONG)
			break;
		check_line(f.line);
		rest = span_drop(rest, f.next);
	}
	exact_free(all);
	return 0;
}
