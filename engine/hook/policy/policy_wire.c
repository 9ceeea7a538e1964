/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Policy delegation: see policy_wire.h. Whatever a client put into a value, the request stays one
 * request; whatever a policy server puts into a text, it stays one line. Writing fails when there
 * is no room (0), reading with a typed result.
 */
#include "engine/hook/policy/policy_wire.h"

#include "engine/smtp/cmd.h"
#include "engine/smtp/header.h"
#include "engine/smtp/line.h"
#include "engine/smtp/octets.h"
#include "engine/smtp/reply.h"

#include <inttypes.h>

_Static_assert(POLICY_TEXT_VALUE_BYTES_MAX >= SMTP_PATH_BYTES_MAX, "a cut address is another one");

/* ---- writing ---- */

enum attribute_kind { FIXED, STATE, TEXT, NUMBER };

struct attribute {
	struct span name; /* with its '=' */
	enum attribute_kind kind;
	size_t at; /* of its member */
	unsigned states;
};

#define AT_FIXED(name) 0
#define AT_STATE(name) offsetof(struct policy_request, name)
#define AT_TEXT(name) offsetof(struct policy_request, name)
#define AT_NUMBER(name) offsetof(struct policy_request, name)

static const struct attribute attributes[] = {
#define X(name, kind, states) {SPAN_LIT(#name "="), kind, AT_##kind(name), states},
	POLICY_ATTRIBUTES(X)
#undef X
};

static const char *const state_names[POLICY_STATE_COUNT] = {
#define X(id, name) [id] = name,
	POLICY_STATES(X)
#undef X
};

struct sink {
	uint8_t *out;
	size_t n, max;
	bool full; /* stays so: a request with a hole is none */
};

static void put(struct sink *s, struct span text)
{
	if (s->full || text.n > s->max - s->n) {
		s->full = true;
		return;
	}
	if (text.n > 0)
		memcpy(s->out + s->n, text.p, text.n);
	s->n += text.n;
}

/* SMTPD_POLICY_README forbids NUL and LF in a value. The other controls go the same way: servers
 * are often line readers of a script language, which end lines at more than LF. */
static void put_value(struct sink *s, struct span value)
{
	size_t from = s->n;

	value.n = MIN_OF(value.n, (size_t)POLICY_TEXT_VALUE_BYTES_MAX);
	put(s, value);
	for (size_t i = from; i < s->n; i++)
		if (s->out[i] < 0x20 || s->out[i] == 0x7f)
			s->out[i] = '?';
}

/* SMTPD_POLICY_README: behind RCPT there is a recipient only when one alone was accepted. */
static bool has_value(const struct policy_request *r, const struct attribute *a)
{
	if ((a->states >> r->protocol_state & 1) == 0)
		return false;
	if (a->at == offsetof(struct policy_request, recipient) &&
		(POLICY_IN_BODY >> r->protocol_state & 1) != 0)
		return r->recipient_count == 1;
	return true;
}

static void put_attribute(struct sink *s, const struct policy_request *r, const struct attribute *a)
{
	const void *member = (const uint8_t *)r + a->at;
	char digits[POLICY_NUMBER_VALUE_BYTES_MAX + 1];

	put(s, a->name);
	switch (a->kind) {
	case FIXED:
		put(s, SPAN_LIT(POLICY_FIXED_VALUE));
		break;
	case STATE:
		put(s, span_str(state_names[r->protocol_state]));
		break;
	case TEXT:
		if (has_value(r, a))
			put_value(s, *(const struct span *)member);
		break;
	case NUMBER:
		snprintf(digits, sizeof(digits), "%" PRIu64,
			has_value(r, a) ? *(const uint64_t *)member : 0);
		put(s, span_str(digits));
		break;
	}
	put(s, SPAN_LIT("\n"));
}

size_t policy_write(const struct policy_request *r, uint8_t *out, size_t max)
{
	struct sink s = {.out = out, .max = max};

	ASSERT((unsigned)r->protocol_state < POLICY_STATE_COUNT);
	for (size_t i = 0; i < ARRAY_LEN(attributes); i++)
		put_attribute(&s, r, &attributes[i]);
	put(&s, SPAN_LIT("\n"));
	return s.full ? 0 : s.n;
}

/* ---- what an action means ---- */

#define DENIED "Access denied"
#define UNAVAILABLE "Service unavailable"

/* access(5). RELAY is an OK that Postfix's relay maps use; DELAY is of its snapshots. */
static const struct action {
	const char *name;
	enum policy_kind kind;
	uint16_t code;	  /* of a refusal: access_map_reject_code, access_map_defer_code */
	const char *text; /* of a refusal that brings none */
} actions[] = {
	{"OK", POLICY_PASS, 0, NULL},
	{"RELAY", POLICY_PASS, 0, NULL},
	{"PERMIT", POLICY_PASS, 0, NULL},
	{"DUNNO", POLICY_PASS, 0, NULL},
	{"REJECT", POLICY_REJECT, 554, DENIED},
	{"DEFER", POLICY_TEMPFAIL, 450, DENIED},
	{"DEFER_IF_PERMIT", POLICY_DEFER_IF_PERMIT, 450, UNAVAILABLE},
	{"DEFER_IF_REJECT", POLICY_DEFER_IF_REJECT, 450, UNAVAILABLE},
	{"DISCARD", POLICY_DISCARD, 0, NULL},
	{"PREPEND", POLICY_PREPEND, 0, NULL},
	{"WARN", POLICY_WARN, 0, NULL},
	{"INFO", POLICY_INFO, 0, NULL},
	{"HOLD", POLICY_UNSUPPORTED, 0, NULL},
	{"FILTER", POLICY_UNSUPPORTED, 0, NULL},
	{"REDIRECT", POLICY_UNSUPPORTED, 0, NULL},
	{"BCC", POLICY_UNSUPPORTED, 0, NULL},
	{"DELAY", POLICY_UNSUPPORTED, 0, NULL},
};

static const struct action *find_action(struct span word)
{
	for (size_t i = 0; i < ARRAY_LEN(actions); i++)
		if (span_ieq(word, span_str(actions[i].name)))
			return &actions[i];
	return NULL;
}

/* RFC 5321 4.2 wants printable ASCII in a reply's text; a CR here would be the start of a line
 * there. */
static void set_text(struct policy_reply *out, struct span text)
{
	size_t n = MIN_OF(text.n, (size_t)POLICY_TEXT_BYTES_MAX);

	for (size_t i = 0; i < n; i++) {
		uint8_t c = text.p[i];

		out->text[i] = (char)(c < 0x20 || c > 0x7e ? '?' : c);
	}
	out->text[n] = 0;
}

/* "5.7.1" at the front of *text is taken off, if its class is the code's: a client that
 * reads "550 4.7.1" may retry or give up. */
static void set_enhanced(struct policy_reply *out, struct span *text)
{
	struct span rest = *text, first = span_take_word(&rest);
	char digit = (char)('0' + out->code / 100);

	if (smtp_enhanced_len(first) > 0 && first.p[0] == (uint8_t)digit) {
		ASSERT(first.n <= POLICY_ENHANCED_BYTES_MAX);
		memcpy(out->enhanced, first.p, first.n);
		out->enhanced[first.n] = 0;
		*text = span_trim(rest);
		return;
	}
	snprintf(out->enhanced, sizeof(out->enhanced), "%c.7.1", digit);
}

static void refuse(struct policy_reply *out, unsigned code, const char *default_text)
{
	struct span text = out->argument;

	out->code = (uint16_t)code;
	set_enhanced(out, &text);
	set_text(out, text.n > 0 ? text : span_str(default_text));
}

/* RFC 5322 3.6.8 and 2.2: a name of printable ASCII right before a colon, then anything but
 * controls. HT is white space there, not a control. */
static bool header_valid(struct span s)
{
	struct span value, name = span_split(s, ':', &value);

	return s.n <= POLICY_HEADER_BYTES_MAX && value.p && header_name_valid(name) &&
	       smtp_line_clean(value);
}

static void prepend(struct policy_reply *out)
{
	if (!header_valid(out->argument)) {
		out->kind = POLICY_BAD_HEADER;
		return;
	}
	out->header = out->argument;
	for (size_t i = 0; i < out->header.n; i++)
		out->header_8bit |= out->header.p[i] > 127;
}

/* Digits, with something behind them or not: see policy_wire.h on "550". No digits at all once
 * meant OK, and for Postfix still does. */
static void judge_number(struct policy_reply *out, bool alone)
{
	struct span word = out->word;

	if (alone) {
		out->kind = POLICY_PASS;
		return;
	}
	if (word.n != 3 || (word.p[0] != '4' && word.p[0] != '5'))
		return;
	out->kind = POLICY_CODE;
	refuse(out, (word.p[0] - '0') * 100u + (word.p[1] - '0') * 10u + (word.p[2] - '0'), DENIED);
}

static void judge(struct span value, struct policy_reply *out)
{
	struct span rest = value, word = span_take_word(&rest);
	const struct action *action = find_action(word);

	*out = (struct policy_reply){.kind = POLICY_UNKNOWN, .name = "", .word = word};
	out->argument = span_trim(rest);
	set_text(out, out->argument);
	if (span_all(word, OCTET_DIGIT))
		judge_number(out, rest.n == 0);
	if (!action)
		return;
	out->kind = action->kind;
	out->name = action->name;
	if (action->code > 0)
		refuse(out, action->code, action->text);
	else if (action->kind == POLICY_PREPEND)
		prepend(out);
}

/* ---- reading ---- */

const char *policy_res_text(enum policy_res r)
{
	static const char *const text[] = {
		[POLICY_MORE] = "incomplete policy reply",
		[POLICY_OK] = "policy reply",
		[POLICY_NO_ACTION] = "policy reply without an action",
		[POLICY_NO_PAIR] = "policy reply with a line that is not name=value",
		[POLICY_TWO_ACTIONS] = "policy reply with two actions",
		[POLICY_NUL] = "NUL in a policy reply",
		[POLICY_TOO_LONG] = "policy reply too long",
	};

	ASSERT((unsigned)r < ARRAY_LEN(text));
	return text[r];
}

/* One line that is not empty. *action has p NULL until it came. */
static enum policy_res take_line(struct span line, struct span *action)
{
	struct span value, name = span_split(line, '=', &value);

	if (memchr(line.p, '\0', line.n))
		return POLICY_NUL;
	if (name.n == 0 || !value.p)
		return POLICY_NO_PAIR;
	if (!span_eq(name, SPAN_LIT("action")))
		return POLICY_OK;
	if (action->p)
		return POLICY_TWO_ACTIONS;
	*action = value;
	return POLICY_OK;
}

enum policy_res policy_read(struct span in, size_t *used, struct policy_reply *out)
{
	struct span line, action = SPAN_NONE;
	size_t at = 0, next = 0;

	*used = 0;
	for (;; at += next) {
		size_t seen = 0, room = POLICY_REPLY_BYTES_MAX - at;
		enum line_res got = smtp_line(span_drop(in, at), &seen, room, &line, &next);
		enum policy_res res;

		if (got == LINE_MORE)
			return POLICY_MORE;
		if (got == LINE_LONG)
			return POLICY_TOO_LONG;
		if (line.n == 0)
			break;
		res = take_line(line, &action);
		if (res != POLICY_OK)
			return res;
	}
	if (!action.p)
		return POLICY_NO_ACTION;
	*used = at + next;
	judge(action, out);
	return POLICY_OK;
}
