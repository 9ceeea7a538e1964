/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The oracle's own reading of command lines, written from docs/SMTP.md and RFC 5321. It is not a
 * full parser: where the documents leave a spelling open it says neither "surely good" nor "surely
 * bad", and both answers to such a line are allowed.
 */
#include "tests/sim/oracle_int.h"

static const char *const verb_words[] = {
#define X(id, word) word,
	ORACLE_VERBS(X)
#undef X
};

static bool is_alpha(uint8_t c)
{
	c = ascii_lower(c);
	return c >= 'a' && c <= 'z';
}

static bool is_digit(uint8_t c)
{
	return c >= '0' && c <= '9';
}

static bool is_blank(uint8_t c)
{
	return c == ' ' || c == '\t';
}

bool span_has(struct span s, const char *word)
{
	struct span w = span_str(word);

	if (!word)
		return false;
	for (size_t i = 0; i + w.n <= s.n; i++)
		if (span_ieq(span_of(s.p + i, w.n), w))
			return true;
	return false;
}

/* Cuts the next line, with its LF, out of `in`. False: there is none; u->n is what is there. */
bool smtp_read_line(struct span in, uint32_t off, struct unit *u)
{
	const uint8_t *p = in.p + off;
	const uint8_t *lf = in.n > off ? memchr(p, '\n', in.n - off) : NULL;

	u->off = off;
	u->n = lf ? (uint32_t)(lf - p) + 1 : (uint32_t)(in.n - off);
	if (!lf)
		return false;
	bool crlf = u->n >= 2 && lf[-1] == '\r';
	u->bare_lf = !crlf;
	u->line = span_of(p, u->n - 1 - crlf);
	return true;
}

static void look_for_control(struct unit *u)
{
	for (size_t i = 0; i < u->line.n && !u->control; i++)
		u->control = (u->line.p[i] < 0x20 && u->line.p[i] != '\t') || u->line.p[i] == 0x7f;
}

static void read_verb(struct unit *u)
{
	struct span l = u->line;
	size_t n = 0, k = 0;

	while (n < l.n && (is_alpha(l.p[n]) || (n && (is_digit(l.p[n]) || l.p[n] == '-'))))
		n++;
	while (k < l.n && is_blank(l.p[k]))
		k++;
	u->verb = V_OTHER;
	u->odd_verb = n == 0 || (n < l.n && !is_blank(l.p[n]));
	u->no_verb = n == 0 && (k == 0 || k == l.n);
	u->arg = span_drop(l, n);
	if (u->odd_verb)
		return;
	for (enum verb v = 0; v < V_OTHER; v++)
		if (span_ieq(span_of(l.p, n), span_str(verb_words[v])))
			u->verb = v;
}

static struct span skip_blanks(struct span s)
{
	while (s.n && is_blank(s.p[0]))
		s = span_drop(s, 1);
	return s;
}

static bool read_digits(struct span *s, uint64_t *out)
{
	size_t n = 0;

	*out = 0;
	for (; n < s->n && is_digit(s->p[n]) && n < 19; n++)
		*out = *out * 10 + (uint64_t)(s->p[n] - '0');
	bool good = n > 0 && (n == s->n || !is_digit(s->p[n]));
	*s = span_drop(*s, n);
	return good;
}

/* Only a space: a server that knows its verbs by the space behind them would see another verb. */
static struct span skip_spaces(struct span s)
{
	while (s.n && s.p[0] == ' ')
		s = span_drop(s, 1);
	return s;
}

static void read_bdat(struct unit *u)
{
	struct span s = skip_spaces(u->arg);

	u->sized = s.p != u->arg.p && read_digits(&s, &u->size);
	if (s.n && s.p[0] != ' ')
		u->sized = false;
	s = skip_spaces(s);
	if (s.n >= 4 && span_ieq(span_of(s.p, 4), SPAN_LIT("LAST"))) {
		u->last = true;
		s = skip_spaces(span_drop(s, 4));
	}
	if (s.n)
		u->sized = false;
}

static void read_size(struct unit *u)
{
	static const char word[] = " SIZE=";

	for (size_t i = 0; i + 6 < u->arg.n; i++) {
		struct span s = span_drop(u->arg, i);

		if (!span_ieq(span_of(s.p, 6), span_str(word)))
			continue;
		s = span_drop(s, 6);
		u->sized = read_digits(&s, &u->size);
		return;
	}
}

void smtp_read_command(const struct oracle_listener *lis, struct unit *u)
{
	look_for_control(u);
	read_verb(u);
	u->too_long = u->n > (u->verb == V_AUTH ? AUTH_LINE_MAX : lis->command_line_max);
	if (u->verb == V_BDAT)
		read_bdat(u);
	else if (u->verb == V_MAIL)
		read_size(u);
}

bool smtp_is_bdat(const struct unit *u)
{
	return u->verb == V_BDAT && !u->too_long && !u->bare_lf && !u->control;
}

void smtp_read_auth_line(struct unit *u)
{
	look_for_control(u);
	u->verb = V_NONE;
	u->too_long = u->n > AUTH_LINE_MAX;
}

/* ---- paths and parameters ---- */

static struct span behind_keyword(const struct unit *u)
{
	struct span s = skip_blanks(u->arg);
	struct span k = u->verb == V_MAIL ? SPAN_LIT("FROM:") : SPAN_LIT("TO:");

	if (s.n < k.n || !span_ieq(span_of(s.p, k.n), k))
		return SPAN_NONE;
	return span_drop(s, k.n);
}

bool smtp_no_path(const struct unit *u)
{
	return behind_keyword(u).p == NULL;
}

struct span smtp_address(struct span line)
{
	const uint8_t *a = memchr(line.p, '<', line.n);
	const uint8_t *b = a ? memchr(a, '>', line.n - (size_t)(a - line.p)) : NULL;

	return b ? span_of(a + 1, (size_t)(b - a) - 1) : SPAN_NONE;
}

static bool plain_word(struct span s, const char *more)
{
	for (size_t i = 0; i < s.n; i++)
		if (!is_alpha(s.p[i]) && !is_digit(s.p[i]) && !strchr(more, s.p[i]))
			return false;
	return s.n > 0 && s.p[0] != '.' && s.p[s.n - 1] != '.' && !span_has(s, "..");
}

/* The plainest form only: <local@domain>, or <> for MAIL. */
bool smtp_clean_path(const struct unit *u)
{
	struct span s = behind_keyword(u);
	const uint8_t *gt = s.n ? memchr(s.p, '>', s.n) : NULL;

	if (!gt || s.p[0] != '<' || (gt + 1 < s.p + s.n && gt[1] != ' '))
		return false;
	struct span path = span_of(s.p + 1, (size_t)(gt - s.p) - 1);
	if (path.n == 0)
		return u->verb == V_MAIL;
	const uint8_t *at = memchr(path.p, '@', path.n);
	if (!at || path.n > 200 || at - path.p > 60)
		return false;
	struct span domain = span_drop(path, (size_t)(at - path.p) + 1);
	return plain_word(span_of(path.p, (size_t)(at - path.p)), ".+") &&
	       plain_word(domain, ".") && domain.n < 60;
}

static bool one_of(struct span s, const char *const *words)
{
	for (; *words; words++)
		if (span_ieq(s, span_str(*words)))
			return true;
	return false;
}

/* Parameters that RFC 1870, 6152, 6531 and 3461 give these very values. */
static bool clean_param(enum verb v, struct span p)
{
	static const char *const mail[] = {
		"BODY=7BIT", "BODY=8BITMIME", "SMTPUTF8", "RET=FULL", "RET=HDRS", "AUTH=<>", NULL};
	static const char *const rcpt[] = {"NOTIFY=NEVER", "NOTIFY=SUCCESS", "NOTIFY=FAILURE",
		"NOTIFY=DELAY", "NOTIFY=SUCCESS,FAILURE", "NOTIFY=SUCCESS,DELAY",
		"NOTIFY=FAILURE,DELAY", NULL};
	uint64_t n;

	if (v == V_MAIL && p.n > 5 && span_ieq(span_of(p.p, 5), SPAN_LIT("SIZE="))) {
		p = span_drop(p, 5);
		return read_digits(&p, &n) && p.n == 0;
	}
	return one_of(p, v == V_MAIL ? mail : rcpt);
}

bool smtp_clean_params(const struct unit *u)
{
	const uint8_t *gt = memchr(u->arg.p, '>', u->arg.n);
	const char *seen[] = {"SIZE=", "BODY=", "SMTPUTF8", "RET=", "NOTIFY=", "AUTH="};

	if (!gt)
		return false;
	struct span s = span_drop(u->arg, (size_t)(gt - u->arg.p) + 1);
	for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
		struct span rest = s;
		unsigned times = 0;

		for (; rest.n >= strlen(seen[i]); rest = span_drop(rest, 1))
			times += span_ieq(span_of(rest.p, strlen(seen[i])), span_str(seen[i]));
		if (times > 1)
			return false;
	}
	while (s.n) {
		if (s.p[0] != ' ')
			return false;
		s = span_drop(s, 1);
		const uint8_t *sp = s.n ? memchr(s.p, ' ', s.n) : NULL;
		size_t n = sp ? (size_t)(sp - s.p) : s.n;
		if (!clean_param(u->verb, span_of(s.p, n)))
			return false;
		s = span_drop(s, n);
	}
	return true;
}

/* A mechanism, and at most one initial response. */
bool smtp_clean_auth(const struct unit *u)
{
	struct span s = u->arg;
	unsigned words = 0;

	while (s.n && words < 3) {
		if (s.p[0] != ' ' || s.n == 1 || is_blank(s.p[1]))
			return false;
		s = span_drop(s, 1);
		for (words++; s.n && !is_blank(s.p[0]); s = span_drop(s, 1))
			if (!is_alpha(s.p[0]) && !is_digit(s.p[0]) && !strchr("-_+/=", s.p[0]))
				return false;
	}
	return words == 1 || words == 2;
}
