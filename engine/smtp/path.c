/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Paths and parameters of MAIL and RCPT (RFC 5321 4.1.2, and the RFCs of each parameter). Pure;
 * every failure is a typed result. A path is read only when there is one way to read it: what a
 * hook is shown must be what the server behind will take.
 */
#include "engine/smtp/cmd.h"

#include "engine/smtp/octets.h"

/* ---- paths ---- */

/* Length of the quoted string that s starts with; 0 when it does not close. */
static size_t quoted_len(struct span s)
{
	for (size_t i = 1; i < s.n; i++) {
		if (s.p[i] == '"')
			return i + 1;
		if (s.p[i] == '\\')
			i++;
		if (i == s.n || s.p[i] < ' ' || s.p[i] == 127)
			return 0;
	}
	return 0;
}

/* Length of the local part that s starts with: words (atoms or quoted strings) with dots between
 * them; dots may be doubled, first or last. 0 when there is none. */
static size_t local_len(struct span s)
{
	enum { WORD, ATOM, AFTER_QUOTED } at = WORD;
	size_t i = 0, quoted;

	while (i < s.n) {
		if (s.p[i] == '.') {
			at = WORD;
			i++;
		} else if (s.p[i] == '"' && at == WORD) {
			quoted = quoted_len(span_drop(s, i));
			if (quoted == 0)
				return 0;
			at = AFTER_QUOTED;
			i += quoted;
		} else if (octet_is(s.p[i], OCTET_ATEXT) && at != AFTER_QUOTED) {
			at = ATOM;
			i++;
		} else {
			break;
		}
	}
	return i;
}

/* Length of the domain or address literal that s starts with; 0 when there is none. */
static size_t domain_len(struct span s)
{
	bool literal = s.n > 0 && s.p[0] == '[';
	size_t i = literal;

	for (; i < s.n; i++) {
		bool plain = octet_is(s.p[i], OCTET_ATEXT) || s.p[i] == '.';

		if (!plain && !(literal && s.p[i] == ':'))
			break;
	}
	if (!literal)
		return i;
	return i > 1 && i < s.n && s.p[i] == ']' ? i + 1 : 0;
}

/* Length of a source route "@a,@b:" (RFC 5321 C: to be ignored); 0 when it is not one. */
static size_t route_len(struct span s)
{
	size_t i = 0, n;

	while (i < s.n && s.p[i] == '@') {
		n = domain_len(span_drop(s, i + 1));
		i += 1 + n;
		if (n == 0 || i == s.n)
			return 0;
		if (s.p[i] == ':')
			return i + 1;
		if (s.p[i] != ',')
			return 0;
		i++;
	}
	return 0;
}

/* Reads the mailbox that s starts with into *out. False: there is none. */
static bool take_mailbox(struct span s, struct smtp_path *out)
{
	size_t n = local_len(s);

	if (n == 0)
		return false;
	out->local = span_of(s.p, n);
	out->domain = SPAN_NONE;
	if (n < s.n && s.p[n] == '@') {
		out->domain = span_of(s.p + n + 1, domain_len(span_drop(s, n + 1)));
		if (out->domain.n == 0)
			return false;
		n += 1 + out->domain.n;
	} else if (span_eq(out->local, SPAN_LIT("\"\""))) {
		return false; /* some would take it for <> */
	}
	out->mailbox = span_of(s.p, n);
	for (size_t i = 0; i < n; i++)
		out->utf8 = out->utf8 || s.p[i] > 127;
	return true;
}

/* Reads the path that *rest starts with and moves *rest behind it. */
static enum path_res take_path(struct span *rest, struct smtp_path *out)
{
	struct span s = *rest;
	bool bracket = s.n > 0 && s.p[0] == '<';
	size_t route = 0;

	if (bracket)
		s = span_drop(s, 1);
	if (bracket && s.n > 0 && s.p[0] == '>') {
		out->null = true;
		*rest = span_drop(s, 1);
		return PATH_OK;
	}
	if (bracket && s.n > 0 && s.p[0] == '@') {
		route = route_len(s);
		if (route == 0)
			return PATH_BAD;
		s = span_drop(s, route);
	}
	if (!take_mailbox(s, out))
		return PATH_BAD;
	s = span_drop(s, out->mailbox.n);
	if (bracket && (s.n == 0 || s.p[0] != '>'))
		return PATH_BAD;
	*rest = bracket ? span_drop(s, 1) : s;
	return route + out->mailbox.n > SMTP_PATH_BYTES_MAX || out->domain.n > SMTP_DOMAIN_BYTES_MAX
		       ? PATH_TOO_LONG
		       : PATH_OK;
}

static bool param_syntax(const struct smtp_param *p)
{
	if (p->name.n == 0 || p->name.p[0] == '-' || !span_all(p->name, OCTET_KEYWORD))
		return false;
	return !p->value.p || (p->value.n > 0 && span_all(p->value, OCTET_VALUE));
}

static bool params_syntax(struct span params)
{
	struct smtp_param p;

	for (unsigned n = 0; smtp_param_next(&params, &p); n++)
		if (n == SMTP_PARAMS_MAX || !param_syntax(&p))
			return false;
	return true;
}

enum path_res smtp_path_parse(struct span args, bool is_rcpt, struct smtp_path *out)
{
	struct span keyword = is_rcpt ? SPAN_LIT("TO:") : SPAN_LIT("FROM:"), rest;
	enum path_res res;

	*out = (struct smtp_path){0};
	if (args.n < keyword.n || !span_ieq(span_of(args.p, keyword.n), keyword))
		return PATH_NO_KEYWORD;
	rest = span_trim(span_drop(args, keyword.n));
	res = take_path(&rest, out);
	if (res == PATH_BAD || (out->null && is_rcpt))
		return PATH_BAD;
	if (rest.n > 0 && !octet_is(rest.p[0], OCTET_BLANK))
		return PATH_BAD;
	if (res != PATH_OK)
		return res;
	out->params = span_trim(rest);
	return params_syntax(out->params) ? PATH_OK : PATH_BAD_PARAM;
}

bool smtp_param_next(struct span *rest, struct smtp_param *out)
{
	struct span word = span_take_word(rest);

	*out = (struct smtp_param){0};
	if (word.n == 0)
		return false;
	out->name = span_split(word, '=', &out->value);
	return true;
}

/* ---- values ---- */

bool smtp_xtext_valid(struct span s)
{
	for (size_t i = 0; i < s.n; i++) {
		if (octet_is(s.p[i], OCTET_XCHAR))
			continue;
		if (s.p[i] != '+' || s.n - i < 3 || !octet_is(s.p[i + 1], OCTET_HEX) ||
			!octet_is(s.p[i + 2], OCTET_HEX))
			return false;
		i += 2;
	}
	return true;
}

static bool one_of(struct span s, const char *const *words, size_t n, size_t *which)
{
	for (*which = 0; *which < n; ++*which)
		if (span_ieq(s, span_str(words[*which])))
			return true;
	return false;
}

/* Two digits at s.p[at], from lo to hi. */
static bool two_digits(struct span s, size_t at, unsigned lo, unsigned hi)
{
	uint64_t v;

	return span_number(span_of(s.p + at, 2), hi, &v) && v >= lo;
}

/* RFC 3339 date-time. */
static bool date_time(struct span s)
{
	static const char shape[] = "0000-00-00T00:00:00";
	size_t i = 0;

	for (; shape[i]; i++) {
		bool digit = shape[i] == '0';

		if (i == s.n || (digit && !octet_is(s.p[i], OCTET_DIGIT)))
			return false;
		if (!digit && ascii_lower(s.p[i]) != ascii_lower((uint8_t)shape[i]))
			return false;
	}
	if (!two_digits(s, 5, 1, 12) || !two_digits(s, 8, 1, 31) || !two_digits(s, 11, 0, 23) ||
		!two_digits(s, 14, 0, 59) || !two_digits(s, 17, 0, 60))
		return false;
	if (i + 1 < s.n && s.p[i] == '.' && octet_is(s.p[i + 1], OCTET_DIGIT))
		for (i++; i < s.n && octet_is(s.p[i], OCTET_DIGIT); i++)
			;
	if (s.n - i == 1)
		return (s.p[i] | 0x20) == 'z';
	return s.n - i == 6 && (s.p[i] == '+' || s.p[i] == '-') && s.p[i + 3] == ':' &&
	       two_digits(s, i + 1, 0, 23) && two_digits(s, i + 4, 0, 59);
}

static bool no_value(struct span v, bool *flag)
{
	*flag = true;
	return !v.p;
}

static bool value_size(struct span v, struct smtp_mail_params *out)
{
	out->has_size = true;
	return span_number(v, UINT64_MAX, &out->size);
}

static bool value_body(struct span v, struct smtp_mail_params *out)
{
	static const char *const words[] = {"7BIT", "8BITMIME", "BINARYMIME"};
	size_t which;

	if (!one_of(v, words, ARRAY_LEN(words), &which))
		return false;
	out->body = BODY_7BIT + which;
	return true;
}

static bool value_smtputf8(struct span v, struct smtp_mail_params *out)
{
	return no_value(v, &out->smtputf8);
}

static bool value_requiretls(struct span v, struct smtp_mail_params *out)
{
	return no_value(v, &out->requiretls);
}

static bool value_ret(struct span v, struct smtp_mail_params *out)
{
	static const char *const words[] = {"FULL", "HDRS"};
	size_t which;

	out->has_ret = true;
	return one_of(v, words, ARRAY_LEN(words), &which);
}

static bool value_envid(struct span v, struct smtp_mail_params *out)
{
	out->has_envid = true;
	return v.n > 0 && v.n <= 100 && smtp_xtext_valid(v);
}

static bool value_auth(struct span v, struct smtp_mail_params *out)
{
	out->has_auth = true;
	return v.n > 0 && smtp_xtext_valid(v); /* "<>" is xtext */
}

/* by-value = ["-" / "+"] 1*9DIGIT ";" ("N" / "R") ["T"] */
static bool value_by(struct span v, struct smtp_mail_params *out)
{
	struct span mode, seconds = span_split(v, ';', &mode);
	uint64_t n;

	out->has_by = true;
	if (seconds.n > 0 && (seconds.p[0] == '-' || seconds.p[0] == '+'))
		seconds = span_drop(seconds, 1);
	if (seconds.n > 9 || !span_number(seconds, UINT64_MAX, &n) || mode.n < 1 || mode.n > 2)
		return false;
	if ((mode.p[0] | 0x20) != 'n' && (mode.p[0] | 0x20) != 'r')
		return false;
	return mode.n == 1 || (mode.p[1] | 0x20) == 't';
}

/* HOLDFOR and HOLDUNTIL exclude each other (RFC 4865 5). */
static bool hold_once(struct smtp_mail_params *out)
{
	bool first = !out->has_hold;

	out->has_hold = true;
	return first;
}

static bool value_holdfor(struct span v, struct smtp_mail_params *out)
{
	uint64_t n;

	return hold_once(out) && v.n <= 9 && span_number(v, UINT64_MAX, &n);
}

static bool value_holduntil(struct span v, struct smtp_mail_params *out)
{
	return hold_once(out) && date_time(v);
}

/* -9 to 9, without a plus or a leading zero (RFC 6710 6). */
static bool value_priority(struct span v, struct smtp_mail_params *out)
{
	bool minus = v.n == 2 && v.p[0] == '-';

	out->has_priority = true;
	if (v.n != (minus ? 2u : 1u) || !octet_is(v.p[minus], OCTET_DIGIT))
		return false;
	return !minus || v.p[1] != '0';
}

/* A list of SUCCESS, FAILURE, DELAY, or NEVER alone. */
static bool value_notify(struct span v, struct smtp_mail_params *unused)
{
	static const char *const words[] = {"SUCCESS", "FAILURE", "DELAY"};
	size_t which;

	(void)unused;
	if (span_ieq(v, SPAN_LIT("NEVER")))
		return true;
	do {
		struct span word = span_split(v, ',', &v);

		if (!one_of(word, words, ARRAY_LEN(words), &which))
			return false;
	} while (v.p);
	return true;
}

/* addr-type ";" xtext, 500 octets (RFC 3461 4.2); after "utf-8" also raw UTF-8 (RFC 6533 3). */
static bool value_orcpt(struct span v, struct smtp_mail_params *unused)
{
	struct span addr, type = span_split(v, ';', &addr);

	(void)unused;
	if (v.n > 500 || type.n == 0 || addr.n == 0 || !span_all(type, OCTET_ATEXT))
		return false;
	if (span_ieq(type, SPAN_LIT("utf-8")))
		return span_all(addr, OCTET_VALUE);
	return smtp_xtext_valid(addr);
}

/* date-time [";" ("C" / "R")] (RFC 7293 3.1) */
static bool value_rrvs(struct span v, struct smtp_mail_params *unused)
{
	struct span action, when = span_split(v, ';', &action);

	(void)unused;
	if (action.p &&
		(action.n != 1 || ((action.p[0] | 0x20) != 'c' && (action.p[0] | 0x20) != 'r')))
		return false;
	return date_time(when);
}

/* ---- what is known ---- */

struct param_rule {
	const char *name;
	bool (*value)(struct span v, struct smtp_mail_params *out);
};

static const struct param_rule mail_rules[] = {
	{"SIZE", value_size},
	{"BODY", value_body},
	{"SMTPUTF8", value_smtputf8},
	{"RET", value_ret},
	{"ENVID", value_envid},
	{"AUTH", value_auth},
	{"REQUIRETLS", value_requiretls},
	{"BY", value_by},
	{"HOLDFOR", value_holdfor},
	{"HOLDUNTIL", value_holduntil},
	{"MT-PRIORITY", value_priority},
};

static const struct param_rule rcpt_rules[] = {
	{"NOTIFY", value_notify},
	{"ORCPT", value_orcpt},
	{"RRVS", value_rrvs},
};

/* Is there a parameter of p's name before p? */
static bool has_twin(struct span params, const struct smtp_param *p)
{
	struct smtp_param q;

	while (smtp_param_next(&params, &q) && q.name.p != p->name.p)
		if (span_ieq(q.name, p->name))
			return true;
	return false;
}

static bool obeys(const struct smtp_param *p, const struct param_rule *rules, size_t n,
	struct smtp_mail_params *out)
{
	for (size_t i = 0; i < n; i++)
		if (span_ieq(p->name, span_str(rules[i].name)))
			return rules[i].value(p->value, out);
	return true;
}

static bool check_params(struct span params, const struct param_rule *rules, size_t n,
	struct smtp_mail_params *out, struct span *bad)
{
	struct span rest = params;
	struct smtp_param p;

	for (unsigned k = 0; smtp_param_next(&rest, &p); k++) {
		if (k < SMTP_PARAMS_MAX && !has_twin(params, &p) && obeys(&p, rules, n, out))
			continue;
		*bad = span_of(p.name.p, p.name.n + (p.value.p ? 1 + p.value.n : 0));
		return false;
	}
	*bad = SPAN_NONE;
	return true;
}

bool smtp_mail_params(struct span params, struct smtp_mail_params *out, struct span *bad)
{
	*out = (struct smtp_mail_params){0};
	return check_params(params, mail_rules, ARRAY_LEN(mail_rules), out, bad);
}

bool smtp_rcpt_params(struct span params, struct span *bad)
{
	struct smtp_mail_params none;

	return check_params(params, rcpt_rules, ARRAY_LEN(rcpt_rules), &none, bad);
}
