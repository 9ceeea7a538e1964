/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The EHLO reply: smtp_ehlo_read and smtp_ehlo_write. Claimed, for any 250 reply and any policy:
 *  - what is written is what a second, plain writer makes of the same lines by the rules in ehlo.h
 *    (it works on copies, line by line, and looks everything up anew each time);
 *  - it is a reply by grammar: the server's code, CRLF everywhere, one last line;
 *  - exactly its length is needed: one octet less, and nothing is written;
 *  - reading it again gives the capabilities that the client is shown, SIZE the smaller limit, and
 *    writing that again changes nothing;
 *  - the hash covers the lines behind the first and nothing else.
 * Input: 3 octets of switches and our SIZE, 8 of policies, then the reply.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/smtp/ehlo.h"
#include "engine/smtp/line.h"

#include <strings.h>

#define OUT_BYTES_MAX (SMTP_REPLY_BYTES_MAX + SMTP_REPLY_LINES_MAX + 64)

struct text {
	uint8_t p[OUT_BYTES_MAX];
	size_t n;
};

/* ---- choices ---- */

static void take_policy(struct span *in, struct ehlo_policy *pol)
{
	uint8_t switches = take_octet(in);

	*pol = (struct ehlo_policy){.show_starttls = switches & 1, .trusted = switches & 2};
	pol->size_max = take_octet(in);
	pol->size_max <<= take_octet(in) % 40;
	for (unsigned e = 0; e < EXT_COUNT; e += 4) {
		uint8_t bits = take_octet(in);

		for (unsigned i = e; i < EXT_COUNT && i < e + 4; i++, bits >>= 2)
			pol->policy[i] = bits & 2 ? (bits & 1) ? EXT_STRIP : EXT_PASS
						  : (uint8_t)ext_default((enum smtp_ext)i);
	}
	if (switches & 4) {
		pol->named[0].keyword = SPAN_LIT("X-ONE");
		pol->named[0].policy = EXT_PASS;
		pol->named[1].keyword = SPAN_LIT("x-two");
		pol->named[1].policy = EXT_STRIP;
		pol->named_count = 2;
	}
}

/* ---- the plain writer ---- */

static void add(struct text *t, const void *p, size_t n)
{
	ASSERT(n <= sizeof(t->p) - t->n);
	if (n > 0)
		memcpy(t->p + t->n, p, n);
	t->n += n;
}

/* The keyword of a line's text as a string, in upper case; cut when absurdly long. */
static const char *keyword_of(struct span text, char out[64])
{
	size_t n = 0;

	while (text.n > 0 && (text.p[0] == ' ' || text.p[0] == '\t'))
		text = span_drop(text, 1);
	while (n < 63 && n < text.n && !strchr(" \t=", text.p[n])) {
		out[n] = (char)(text.p[n] >= 'a' && text.p[n] <= 'z' ? text.p[n] - 32 : text.p[n]);
		n++;
	}
	out[n] = 0;
	return out;
}

static unsigned number_of(const char *keyword)
{
	for (unsigned e = 0; e < EXT_OTHER; e++)
		if (strcmp(ext_keywords[e], keyword) == 0)
			return e;
	return EXT_OTHER;
}

/* Does a line behind the first have this keyword? */
static bool offers(const struct smtp_reply *r, const char *keyword)
{
	struct span rest = r->raw, text;
	char word[64];

	smtp_reply_line(&rest, &text);
	while (smtp_reply_line(&rest, &text))
		if (strcmp(keyword_of(text, word), keyword) == 0)
			return true;
	return false;
}

static bool stripped(const struct ehlo_policy *pol, const char *keyword)
{
	unsigned e = number_of(keyword);

	for (unsigned i = 0; e == EXT_OTHER && i < pol->named_count; i++)
		if (pol->named[i].keyword.n == strlen(keyword) &&
			strncasecmp((const char *)pol->named[i].keyword.p, keyword,
				strlen(keyword)) == 0)
			return pol->named[i].policy == EXT_STRIP;
	return pol->policy[e] == EXT_STRIP;
}

static bool to_be_shown(
	const char *keyword, const struct smtp_reply *r, const struct ehlo_policy *pol)
{
	if (strcmp(keyword, "XCLIENT") == 0 || strcmp(keyword, "XFORWARD") == 0)
		return pol->trusted;
	if (strcmp(keyword, "STARTTLS") == 0 && !pol->show_starttls)
		return false;
	if (strcmp(keyword, "BINARYMIME") == 0 &&
		(stripped(pol, "CHUNKING") || !offers(r, "CHUNKING")))
		return false;
	return !stripped(pol, keyword);
}

/* What the server's SIZE lines say: the smallest that is a limit; 0 = none. */
static uint64_t size_said(const struct smtp_reply *r)
{
	static struct grammar form =
		GRAMMAR_ANY_CASE("^[ \t]*SIZE([ \t]+|=)[ \t]*[0-9]{1,20}[ \t]*$");
	struct span rest = r->raw, text;
	uint64_t least = 0;

	smtp_reply_line(&rest, &text);
	while (smtp_reply_line(&rest, &text)) {
		unsigned __int128 v = 0;

		if (!grammar_has(&form, text))
			continue;
		for (size_t i = 0; i < text.n; i++)
			if (text.p[i] >= '0' && text.p[i] <= '9')
				v = v * 10 + (unsigned)(text.p[i] - '0');
		if (v > 0 && v <= UINT64_MAX && (least == 0 || v < least))
			least = (uint64_t)v;
	}
	return least;
}

/* Ours when it is the smaller one; 0: the server's lines stay. */
static uint64_t size_to_say(const struct smtp_reply *r, const struct ehlo_policy *pol)
{
	uint64_t said = size_said(r);

	if (pol->policy[EXT_SIZE] != EXT_OWN || pol->size_max == 0)
		return 0;
	return said == 0 || said > pol->size_max ? pol->size_max : 0;
}

static void write_plainly(
	const struct smtp_reply *r, const struct ehlo_policy *pol, struct text *out)
{
	static struct text lines[SMTP_REPLY_LINES_MAX + 1];
	struct span rest = r->raw, text;
	size_t count = 0;
	char word[64], size[32];

	while (smtp_reply_line(&rest, &text)) {
		const char *keyword = keyword_of(text, word);

		if (count > 0 && !to_be_shown(keyword, r, pol))
			continue;
		lines[count].n = 0;
		if (count > 0 && strcmp(keyword, "SIZE") == 0 && size_to_say(r, pol) > 0) {
			snprintf(
				size, sizeof(size), "SIZE %lu", (unsigned long)size_to_say(r, pol));
			text = span_str(size);
		}
		add(&lines[count++], text.p, text.n);
	}
	if (pol->policy[EXT_PIPELINING] == EXT_OWN && !offers(r, "PIPELINING")) {
		lines[count].n = 0;
		add(&lines[count++], "PIPELINING", 10);
	}
	out->n = 0;
	for (size_t i = 0; i < count; i++) {
		add(out, r->raw.p, 3);
		add(out, i + 1 < count ? "-" : " ", 1);
		add(out, lines[i].p, lines[i].n);
		add(out, "\r\n", 2);
	}
}

/* ---- claims ---- */

static void check_grammar(struct span s, unsigned *lines)
{
	static struct grammar line = GRAMMAR("^250[ -][^\r\n]*$");

	for (*lines = 0; s.n > 0; ++*lines) {
		const uint8_t *lf = memchr(s.p, '\n', s.n);
		size_t n;

		ASSERT(lf && lf > s.p && lf[-1] == '\r');
		n = (size_t)(lf - s.p) - 1;
		ASSERT(grammar_has(&line, span_of(s.p, n)));
		ASSERT((s.p[3] == ' ') == (n + 2 == s.n));
		s = span_drop(s, n + 2);
	}
}

/* Writes into a block of exactly `max` octets. */
static struct span write_into(size_t max, const struct smtp_reply *r, const struct ehlo_caps *caps,
	const struct ehlo_policy *pol)
{
	uint8_t *out = malloc(max > 0 ? max : 1);

	ASSERT(out);
	return span_of(out, smtp_ehlo_write(r, caps, pol, out, max));
}

/* What was written, read and written again. */
static void check_again(struct span written, unsigned lines, const struct smtp_reply *first,
	const struct ehlo_policy *pol)
{
	struct smtp_reply r = {.code = 250, .lines = (uint16_t)lines, .raw = written};
	uint64_t size = size_to_say(first, pol);
	struct ehlo_caps caps;
	struct span again;

	smtp_ehlo_read(&r, &caps);
	for (unsigned e = 0; e < EXT_OTHER; e++)
		ASSERT(caps_has(&caps, (enum smtp_ext)e) == offers(&r, ext_keywords[e]));
	if (caps_has(&caps, EXT_SIZE))
		ASSERT(caps.size == (size > 0 ? size : size_said(first)));
	again = write_into(written.n, &r, &caps, pol);
	ASSERT(span_eq(again, written));
	exact_free(again);
}

static void check_hash(struct smtp_reply r, const struct ehlo_caps *caps)
{
	struct span copy = exact_copy(r.raw);
	struct ehlo_caps other;
	uint8_t *p = (uint8_t *)(uintptr_t)copy.p;

	r.raw = copy;
	if (r.raw.n > 4 && p[4] != '\r' && p[4] != '\n') {
		p[4] ^= 0x40; /* the first line is not in it */
		if (p[4] != '\n') {
			smtp_ehlo_read(&r, &other);
			ASSERT(other.hash == caps->hash && other.bits == caps->bits);
		}
	}
	exact_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct text want;
	struct span in = span_of(p, n), all, out;
	struct ehlo_policy pol;
	struct reply_scan rs = {0};
	struct smtp_reply r;
	struct ehlo_caps caps;
	unsigned lines;
	size_t used;

	take_policy(&in, &pol);
	if (smtp_reply_scan(in, &rs, &r, &used) != REPLY_OK || r.code != 250)
		return 0;
	all = exact_copy(r.raw);
	r.raw = all;
	smtp_ehlo_read(&r, &caps);
	ASSERT(caps.size == size_said(&r));
	write_plainly(&r, &pol, &want);
	out = write_into(want.n, &r, &caps, &pol);
	ASSERT(span_eq(out, span_of(want.p, want.n)));
	check_grammar(out, &lines);
	check_again(out, lines, &r, &pol);
	check_hash(r, &caps);
	exact_free(out);
	out = write_into(want.n - 1, &r, &caps, &pol);
	ASSERT(out.n == 0);
	exact_free(out);
	exact_free(all);
	return 0;
}
