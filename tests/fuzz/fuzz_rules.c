/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The built-in rules: rules_path_matches, behind smtp_path_parse as in a session. Claimed:
 *  - a list matches exactly when a naive matcher, which writes out what a mailbox means before it
 *    compares, finds one of its patterns;
 *  - a sender does not get past a list by spelling: other case, the local part in quotes with every
 *    octet escaped, a dot behind the domain, a source route, no brackets;
 *  - a longer list matches all that a shorter one does; the null path is never matched.
 * Input: lines. The first is the address between the brackets; each further one a pattern, its
 * first octet the kind: '@' a domain, '.' its subdomains, anything else an address.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/hook/rules.h"

#define PATTERNS_MAX 8
#define TEXT_BYTES_MAX 512 /* of one line */

struct text {
	uint8_t p[4 * TEXT_BYTES_MAX];
	size_t n;
};

static struct span take_line(struct span *in)
{
	const uint8_t *lf = in->n > 0 ? memchr(in->p, '\n', in->n) : NULL;
	struct span line = span_of(in->p, lf ? (size_t)(lf - in->p) : in->n);

	*in = span_drop(*in, MIN_OF(line.n + 1, in->n));
	return line;
}

/* What engine/conf makes of a line of a list: the domain in lower case. */
static bool take_pattern(struct span line, struct text *low, struct conf_pattern *out)
{
	const uint8_t *at = line.n > 1 ? memrchr(line.p, '@', line.n) : NULL;
	struct span domain;

	*out = (struct conf_pattern){.kind = PAT_EXACT};
	if (!at || line.n > TEXT_BYTES_MAX)
		return false;
	domain = span_drop(line, (size_t)(at - line.p) + 1);
	if (line.p[0] == '@' || line.p[0] == '.')
		out->kind = line.p[0] == '@' ? PAT_DOMAIN : PAT_SUBDOMAINS;
	else
		out->local = span_of(line.p, (size_t)(at - line.p));
	if (domain.n == 0 || domain.p[domain.n - 1] == '.')
		return false;
	for (low->n = 0; low->n < domain.n; low->n++)
		low->p[low->n] = ascii_lower(domain.p[low->n]);
	out->domain = span_of(low->p, low->n);
	return true;
}

/* ---- the naive matcher ---- */

/* A local part as it is meant: no quotes, no escapes, lower case. */
static void meaning(struct span local, struct text *out)
{
	bool escaped = false;

	out->n = 0;
	for (size_t i = 0; i < local.n; i++) {
		if (!escaped && local.p[i] == '"')
			continue;
		if (!escaped && local.p[i] == '\\' && i + 1 < local.n) {
			escaped = true;
			continue;
		}
		out->p[out->n++] = ascii_lower(local.p[i]);
		escaped = false;
	}
}

static bool naive_match(const struct conf_pattern *p, const struct smtp_path *path)
{
	static struct text a, b;
	struct span domain = path->domain, tail;

	while (domain.n > 0 && domain.p[domain.n - 1] == '.')
		domain.n--;
	if (p->kind == PAT_SUBDOMAINS) {
		if (domain.n < p->domain.n + 2)
			return false;
		tail = span_drop(domain, domain.n - p->domain.n - 1);
		return tail.p[0] == '.' && span_ieq(span_drop(tail, 1), p->domain);
	}
	if (!span_ieq(domain, p->domain))
		return false;
	if (p->kind == PAT_DOMAIN)
		return true;
	meaning(p->local, &a);
	meaning(path->local, &b);
	return span_eq(span_of(a.p, a.n), span_of(b.p, b.n));
}

/* ---- other spellings ---- */

static void add(struct text *t, const void *p, size_t n)
{
	ASSERT(n <= sizeof(t->p) - t->n);
	if (n > 0)
		memcpy(t->p + t->n, p, n);
	t->n += n;
}

static void add_quoted(struct text *t, struct span local)
{
	static struct text plain;

	meaning(local, &plain);
	add(t, "\"", 1);
	for (size_t i = 0; i < plain.n; i++) {
		add(t, "\\", 1);
		add(t, &plain.p[i], 1);
	}
	add(t, "\"", 1);
}

static bool octet_letter(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

enum spelling { AS_IT_IS, OTHER_CASE, QUOTED, TRAILING_DOT, ROUTED, NO_BRACKETS, SPELLINGS };

static void spell(enum spelling how, const struct smtp_path *path, struct text *out)
{
	bool literal = path->domain.n > 0 && path->domain.p[0] == '[';

	out->n = 0;
	add(out, "TO:", 3);
	if (how != NO_BRACKETS)
		add(out, "<", 1);
	if (how == ROUTED)
		add(out, "@relay.example,@[::1]:", 22);
	if (how == QUOTED)
		add_quoted(out, path->local);
	else
		add(out, path->local.p, path->local.n);
	if (path->domain.n > 0)
		add(out, "@", 1);
	add(out, path->domain.p, path->domain.n);
	if (how == TRAILING_DOT && path->domain.n > 0 && !literal)
		add(out, ".", 1);
	if (how != NO_BRACKETS)
		add(out, ">", 1);
	for (size_t i = 3; how == OTHER_CASE && i < out->n; i++)
		if (octet_letter(out->p[i]))
			out->p[i] ^= 0x20;
}

static void check(const struct conf_pattern *list, uint32_t count, const struct smtp_path *path)
{
	static struct text text;
	struct smtp_path other;
	bool want = false;

	for (uint32_t i = 0; i < count; i++) {
		want |= naive_match(&list[i], path);
		ASSERT(rules_path_matches(list, i + 1, path) == want);
	}
	for (unsigned how = 0; how < SPELLINGS; how++) {
		spell((enum spelling)how, path, &text);
		if (smtp_path_parse(span_of(text.p, text.n), true, &other) == PATH_OK)
			ASSERT(rules_path_matches(list, count, &other) == want);
		else
			ASSERT(how == QUOTED || how == TRAILING_DOT || how == ROUTED);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct text text, low[PATTERNS_MAX];
	struct span in = span_of(p, n), address = take_line(&in);
	struct conf_pattern list[PATTERNS_MAX];
	const struct smtp_path null = {.null = true};
	struct smtp_path path;
	uint32_t count = 0;

	if (address.n > TEXT_BYTES_MAX)
		return 0;
	while (in.n > 0 && count < PATTERNS_MAX)
		count += take_pattern(take_line(&in), &low[count], &list[count]);
	ASSERT(!rules_path_matches(list, count, &null));
	text.n = 0;
	add(&text, "TO:<", 4);
	add(&text, address.p, address.n);
	add(&text, ">", 1);
	if (smtp_path_parse(span_of(text.p, text.n), true, &path) == PATH_OK)
		check(list, count, &path);
	return 0;
}
