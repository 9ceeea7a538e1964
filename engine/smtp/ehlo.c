/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The EHLO reply (RFC 5321 4.1.1.1): reading what the server offers, writing what the client sees.
 * A line passes octet by octet unless a policy says otherwise. Cannot fail but for lack of room.
 */
#include "engine/smtp/ehlo.h"

#include "engine/smtp/octets.h"

static const struct {
	struct span word;
	enum ext_policy policy;
} exts[EXT_COUNT] = {
#define X(id, keyword, policy, why) \
	[id] = {{(const uint8_t *)(keyword), sizeof(keyword) - 1}, policy},
#include "engine/smtp/extensions.def"
#undef X
	[EXT_OTHER] = {{NULL, 0}, EXT_PASS},
};

const char *const ext_keywords[EXT_COUNT] = {
#define X(id, keyword, policy, why) [id] = keyword,
#include "engine/smtp/extensions.def"
#undef X
	[EXT_OTHER] = "*",
};

_Static_assert(EXT_COUNT <= 64, "struct ehlo_caps has one bit for each");

enum smtp_ext ext_find(struct span keyword)
{
	for (unsigned e = 0; e < EXT_OTHER; e++)
		if (span_ieq(keyword, exts[e].word))
			return (enum smtp_ext)e;
	return EXT_OTHER;
}

enum ext_policy ext_default(enum smtp_ext e)
{
	ASSERT((unsigned)e < EXT_COUNT);
	return exts[e].policy;
}

/* The keyword of a line's text; *args is what follows it. "AUTH=LOGIN" is AUTH: a form from before
 * RFC 2554 that clients and servers still use. */
static struct span line_keyword(struct span text, struct span *args)
{
	struct span word, behind;

	*args = text;
	word = span_split(span_take_word(args), '=', &behind);
	if (behind.p)
		*args = span_of(behind.p, behind.n + args->n);
	*args = span_trim(*args);
	return word;
}

/* FNV-1a. It tells two lists of one server apart; nobody gains by a collision. */
static uint64_t hash_add(uint64_t h, struct span s)
{
	for (size_t i = 0; i < s.n; i++)
		h = (h ^ s.p[i]) * 0x100000001b3u;
	return (h ^ '\n') * 0x100000001b3u;
}

/* SIZE without a number, or with 0, names no limit (RFC 1870 4). Of two, the smaller. */
static void read_size(struct span args, struct ehlo_caps *out)
{
	uint64_t size;

	if (!span_number(args, UINT64_MAX, &size))
		return;
	out->has_size_value = true;
	if (out->size == 0 || (size != 0 && size < out->size))
		out->size = size;
}

void smtp_ehlo_read(const struct smtp_reply *r, struct ehlo_caps *out)
{
	struct span rest = r->raw, text, args;

	*out = (struct ehlo_caps){.hash = 0xcbf29ce484222325u};
	if (!smtp_reply_line(&rest, &text))
		return;
	while (smtp_reply_line(&rest, &text)) {
		enum smtp_ext e = ext_find(line_keyword(text, &args));

		out->hash = hash_add(out->hash, text);
		out->bits |= (uint64_t)1 << e;
		if (e == EXT_SIZE)
			read_size(args, out);
	}
}

/* ---- writing ---- */

struct writer {
	uint8_t *out;
	size_t n, max;
	size_t last; /* where the last line starts */
	bool full;
	char code[3];
};

static void put(struct writer *w, struct span s)
{
	if (s.n > w->max - w->n) {
		w->full = true;
		return;
	}
	if (s.n > 0)
		memcpy(w->out + w->n, s.p, s.n);
	w->n += s.n;
}

/* Every line gets '-'; whichever turns out to be the last is given its ' ' at the end. */
static void put_line(struct writer *w, struct span text)
{
	w->last = w->n;
	put(w, span_of(w->code, sizeof(w->code)));
	put(w, SPAN_LIT("-"));
	put(w, text);
	put(w, SPAN_LIT("\r\n"));
}

static enum ext_policy named_policy(const struct ehlo_policy *pol, struct span keyword)
{
	for (unsigned i = 0; i < pol->named_count; i++)
		if (span_ieq(keyword, pol->named[i].keyword))
			return pol->named[i].policy;
	return pol->policy[EXT_OTHER];
}

/* Is a line that the server sent shown? */
static bool shown(enum smtp_ext e, struct span keyword, const struct ehlo_caps *caps,
	const struct ehlo_policy *pol)
{
	enum ext_policy p = e == EXT_OTHER ? named_policy(pol, keyword) : pol->policy[e];

	switch (e) {
	case EXT_STARTTLS:
		return p != EXT_STRIP && pol->show_starttls && !pol->own_starttls;
	case EXT_AUTH:
		return p != EXT_STRIP && !pol->hide_auth;
	case EXT_XCLIENT:
	case EXT_XFORWARD:
		return pol->trusted;
	case EXT_BINARYMIME: /* nothing but BDAT can carry it (RFC 3030 3) */
		return p != EXT_STRIP && caps_has(caps, EXT_CHUNKING) &&
		       pol->policy[EXT_CHUNKING] != EXT_STRIP;
	default:
		return p != EXT_STRIP;
	}
}

/* The smaller of the server's limit and ours; the line as it is when ours does not lower it. */
static void put_size(struct writer *w, struct span text, const struct ehlo_caps *caps,
	const struct ehlo_policy *pol)
{
	char line[32];
	int n;

	if (pol->policy[EXT_SIZE] != EXT_OWN || pol->size_max == 0 ||
		(caps->size != 0 && caps->size <= pol->size_max)) {
		put_line(w, text);
		return;
	}
	n = snprintf(line, sizeof(line), "SIZE %llu", (unsigned long long)pol->size_max);
	put_line(w, span_of(line, (size_t)n));
}

size_t smtp_ehlo_write(const struct smtp_reply *r, const struct ehlo_caps *caps,
	const struct ehlo_policy *pol, uint8_t *out, size_t max)
{
	struct span rest = r->raw, text = SPAN_NONE, args;
	struct writer w = {.out = out, .max = max};

	ASSERT(r->raw.n >= sizeof(w.code));
	memcpy(w.code, r->raw.p, sizeof(w.code));
	smtp_reply_line(&rest, &text);
	put_line(&w, text);
	while (smtp_reply_line(&rest, &text)) {
		struct span keyword = line_keyword(text, &args);
		enum smtp_ext e = ext_find(keyword);

		if (!shown(e, keyword, caps, pol))
			continue;
		if (e == EXT_SIZE)
			put_size(&w, text, caps, pol);
		else
			put_line(&w, text);
	}
	if (pol->policy[EXT_PIPELINING] == EXT_OWN && !caps_has(caps, EXT_PIPELINING))
		put_line(&w, SPAN_LIT("PIPELINING"));
	if (pol->own_starttls)
		put_line(&w, SPAN_LIT("STARTTLS"));
	if (w.full)
		return 0;
	out[w.last + 3] = ' ';
	return w.n;
}
