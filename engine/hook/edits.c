/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a hook wants changed: see edits.h. A list is one block that grows: a head, then records of
 * lengths and octets, one behind the other.
 *
 * What is judged here ends up in SMTP commands and in header fields, so nothing that could end one
 * of those early gets in: addresses and parameters are composed into the arguments that they would
 * be and read by the parser that reads clients' commands; lines of a header value are put together
 * anew.
 *
 * Failure modes: false, and the list is as it was; a kind that there is none asserts.
 */
#include "engine/hook/edits.h"

#include "engine/hook/hook.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/header.h"
#include "engine/smtp/line.h"
#include "engine/smtp/octets.h"

struct hook_edits {
	size_t n, max;	/* octets of data[] */
	size_t last;	/* where the last record starts */
	size_t bytes;	/* for HOOK_EDITS_BYTES_MAX */
	uint32_t count; /* for HOOK_EDITS_COUNT_MAX */
	uint8_t data[];
};

/* In data[], at any address; name and value follow. */
struct record {
	size_t name, value; /* octets */
	uint32_t kind, index;
};

/* ---- tables ---- */

#define BIT(kind) (1u << (kind))

const char *hook_edit_word(enum hook_edit_kind k)
{
	static const char *const words[] = {
#define X(id, word) [id] = word,
		HOOK_EDIT_KINDS(X)
#undef X
	};

	ASSERT((unsigned)k < ARRAY_LEN(words));
	return words[k];
}

/* What a kind uses of struct hook_edit. */
enum { INDEX = 1, NAME = 2, VALUE = 4 };

static const uint8_t uses[EDIT_KIND_COUNT] = {
	[EDIT_ADDRESS] = VALUE,
	[EDIT_PARAMS] = VALUE,
	[EDIT_HEADER_INSERT] = INDEX | NAME | VALUE,
	[EDIT_HEADER_APPEND] = NAME | VALUE,
	[EDIT_HEADER_CHANGE] = INDEX | NAME | VALUE,
	[EDIT_HEADER_DELETE] = INDEX | NAME,
	[EDIT_SENDER] = NAME | VALUE,
	[EDIT_RCPT_ADD] = NAME | VALUE,
	[EDIT_RCPT_DELETE] = VALUE,
	[EDIT_BODY] = VALUE,
};

#define HEADER_KINDS                                                                   \
	(BIT(EDIT_HEADER_INSERT) | BIT(EDIT_HEADER_APPEND) | BIT(EDIT_HEADER_CHANGE) | \
		BIT(EDIT_HEADER_DELETE))

uint32_t hook_edits_possible(enum hook_point point, enum conf_hook_mode mode)
{
	switch (point) {
	case HOOK_MAIL:
	case HOOK_RCPT:
		return BIT(EDIT_ADDRESS) | BIT(EDIT_PARAMS) | BIT(EDIT_HEADER_INSERT);
	case HOOK_DATA:
		return BIT(EDIT_HEADER_INSERT);
	case HOOK_END_OF_DATA:
		return mode == HOOK_HOLD_ALL
			       ? HEADER_KINDS | BIT(EDIT_SENDER) | BIT(EDIT_RCPT_ADD) |
					 BIT(EDIT_RCPT_DELETE) | BIT(EDIT_BODY)
			       : 0;
	default:
		return 0;
	}
}

/* ---- judging ---- */

/* So that the longest address and the longest parameters fit into a command. */
#define PARAMS_BYTES_MAX \
	(SMTP_COMMAND_BYTES_MAX - SMTP_PATH_BYTES_MAX - sizeof("MAIL FROM:<> \r\n") + 1)

static size_t put(uint8_t *to, size_t at, struct span s)
{
	if (s.n > 0)
		memcpy(to + at, s.p, s.n);
	return at + s.n;
}

/* "FROM:<mailbox> params" is what the parser of commands takes, and takes for just that. */
static bool path_good(struct span mailbox, struct span params, bool is_rcpt)
{
	uint8_t args[SMTP_COMMAND_BYTES_MAX];
	struct smtp_mail_params values;
	struct smtp_path path;
	struct span bad;
	size_t n;

	if (mailbox.n > SMTP_PATH_BYTES_MAX || params.n > PARAMS_BYTES_MAX)
		return false;
	n = put(args, 0, is_rcpt ? SPAN_LIT("TO:<") : SPAN_LIT("FROM:<"));
	n = put(args, n, mailbox);
	n = put(args, n, SPAN_LIT("> "));
	n = put(args, n, params);
	/* "a@b> SIZE=1" and "@relay:a@b" are no mailboxes. */
	if (smtp_path_parse(span_of(args, n), is_rcpt, &path) != PATH_OK ||
		!span_eq(path.mailbox, mailbox))
		return false;
	return is_rcpt ? smtp_rcpt_params(path.params, &bad)
		       : smtp_mail_params(path.params, &values, &bad);
}

/* The next line of *rest, without its LF or CRLF; *more: another one follows. */
static struct span take_line(struct span *rest, bool *more)
{
	struct span line = *rest;
	const uint8_t *lf = line.n > 0 ? memchr(line.p, '\n', line.n) : NULL;

	*more = lf != NULL;
	if (!lf)
		return line;
	line.n = (size_t)(lf - line.p);
	*rest = span_drop(*rest, line.n + 1);
	if (line.n > 0 && line.p[line.n - 1] == '\r')
		line.n--;
	return line;
}

static bool has_octet(struct span s, uint8_t c)
{
	return s.n > 0 && memchr(s.p, c, s.n);
}

/* A line of nothing but blanks is refused: who drops blanks at the ends of lines would see the
 * header's end there. Only the first may be so, as it has the name in front. *n: octets of the
 * value with CRLF between its lines. */
bool hook_edits_value_valid(struct span value, size_t *n)
{
	bool more = true;

	*n = 0;
	for (bool first = true; more; first = false) {
		struct span line = take_line(&value, &more);

		if (has_octet(line, '\0') || has_octet(line, '\r'))
			return false;
		if (!first && (line.n == 0 || !octet_is(line.p[0], OCTET_BLANK) ||
				      span_trim(line).n == 0))
			return false;
		*n += line.n + (more ? 2 : 0);
	}
	return true;
}

static bool header_good(const struct hook_edit *e, size_t *n)
{
	bool counts = e->kind == EDIT_HEADER_CHANGE || e->kind == EDIT_HEADER_DELETE;

	return e->index >= counts && e->index <= HOOK_EDIT_INDEX_MAX &&
	       header_name_valid(e->name) && hook_edits_value_valid(e->value, n);
}

/* *n: octets that the value will have. */
static bool edit_good(const struct hook_edit *e, bool for_rcpt, size_t *n)
{
	struct span someone = for_rcpt ? SPAN_LIT("postmaster") : SPAN_NONE;

	*n = e->value.n;
	switch (e->kind) {
	case EDIT_ADDRESS:
		return path_good(e->value, SPAN_NONE, for_rcpt);
	case EDIT_PARAMS:
		return path_good(someone, e->value, for_rcpt);
	case EDIT_SENDER:
		return path_good(e->value, e->name, false);
	case EDIT_RCPT_ADD:
	case EDIT_RCPT_DELETE:
		return path_good(e->value, e->name, true);
	case EDIT_BODY:
		return true;
	default:
		return header_good(e, n);
	}
}

/* ---- the list ---- */

static bool within_bounds(const struct hook_edits *list, size_t count, size_t bytes)
{
	return count <= HOOK_EDITS_COUNT_MAX - list->count &&
	       bytes <= HOOK_EDITS_BYTES_MAX - list->bytes;
}

/* Room for n more octets. */
static bool reserve(struct hook_edits **list, size_t n)
{
	enum { FIRST_ROOM = 256 };
	struct hook_edits *l = *list;
	size_t max, head = sizeof(*l);

	if (n > SIZE_MAX / 4 || l->n > SIZE_MAX / 4)
		return false;
	if (n <= l->max - l->n)
		return true;
	max = MAX_OF((size_t)FIRST_ROOM, MAX_OF(l->n + n, 2 * l->max));
	l = realloc(l, head + max);
	if (!l)
		return false;
	l->max = max;
	*list = l;
	return true;
}

static struct record record_at(const struct hook_edits *list, size_t at)
{
	struct record r;

	memcpy(&r, list->data + at, sizeof(r));
	return r;
}

static size_t record_bytes(const struct record *r)
{
	return sizeof(*r) + r->name + r->value;
}

/* With CRLF between lines. */
static size_t put_lines(uint8_t *to, size_t at, struct span value)
{
	bool more = true;

	while (more) {
		at = put(to, at, take_line(&value, &more));
		if (more)
			at = put(to, at, SPAN_LIT("\r\n"));
	}
	return at;
}

static void append(struct hook_edits *list, const struct hook_edit *e, const struct record *r)
{
	size_t n = list->n;

	list->last = n;
	n = put(list->data, n, span_of(r, sizeof(*r)));
	n = put(list->data, n, e->name);
	n = BIT(e->kind) & HEADER_KINDS ? put_lines(list->data, n, e->value)
					: put(list->data, n, e->value);
	ASSERT(n == list->n + record_bytes(r));
	list->n = n;
	if (e->kind != EDIT_BODY) {
		list->count++;
		list->bytes += r->name + r->value;
	}
}

/* A piece of the body behind another one. */
static void lengthen(struct hook_edits *list, struct span piece)
{
	struct record r = record_at(list, list->last);

	r.value += piece.n;
	put(list->data, list->last, span_of(&r, sizeof(r)));
	list->n = put(list->data, list->n, piece);
}

static bool add(struct hook_edits **list, const struct hook_edit *e, size_t value_bytes)
{
	struct record r = {e->name.n, value_bytes, (uint32_t)e->kind, e->index};

	if (e->kind == EDIT_BODY) {
		if (!reserve(list, sizeof(r) + value_bytes))
			return false;
		if ((*list)->n > 0 && record_at(*list, (*list)->last).kind == EDIT_BODY) {
			lengthen(*list, e->value);
			return true;
		}
	} else if (!within_bounds(*list, 1, r.name + r.value) || !reserve(list, record_bytes(&r))) {
		return false;
	}
	append(*list, e, &r);
	return true;
}

bool hook_edits_add(struct hook_edits **list, const struct hook_edit *e, bool for_rcpt)
{
	struct hook_edit clean = *e;
	struct hook_edits *l = *list;
	size_t n;
	bool good;

	ASSERT((unsigned)e->kind < EDIT_KIND_COUNT);
	clean.index = uses[e->kind] & INDEX ? e->index : 0;
	clean.name = uses[e->kind] & NAME ? e->name : SPAN_NONE;
	clean.value = uses[e->kind] & VALUE ? e->value : SPAN_NONE;
	/* Before it is read: what is too long need not be. */
	if (e->kind != EDIT_BODY &&
		(clean.name.n > HOOK_EDITS_BYTES_MAX || clean.value.n > HOOK_EDITS_BYTES_MAX))
		return false;
	if (!edit_good(&clean, for_rcpt, &n))
		return false;
	if (!l)
		l = calloc(1, sizeof(*l));
	good = l && add(&l, &clean, n);
	if (good || *list) /* `l` may have moved in either case */
		*list = l;
	else
		free(l);
	return good;
}

/* Takes the bodies out. `last` is the caller's to set. */
static void drop_bodies(struct hook_edits *list)
{
	size_t to = 0;

	for (size_t at = 0, bytes; at < list->n; at += bytes) {
		struct record r = record_at(list, at);

		bytes = record_bytes(&r);
		if (r.kind == EDIT_BODY)
			continue;
		memmove(list->data + to, list->data + at, bytes);
		to += bytes;
	}
	list->n = to;
}

bool hook_edits_join(struct hook_edits **list, struct hook_edits *more)
{
	bool good;

	if (!more)
		return true;
	if (!*list) {
		*list = more;
		return true;
	}
	good = within_bounds(*list, more->count, more->bytes) && reserve(list, more->n);
	if (good) {
		struct hook_edits *l = *list;

		if (hook_edits_kinds(more) & BIT(EDIT_BODY))
			drop_bodies(l);
		memcpy(l->data + l->n, more->data, more->n);
		l->last = l->n + more->last;
		l->n += more->n;
		l->count += more->count;
		l->bytes += more->bytes;
	}
	free(more);
	return good;
}

void hook_edits_free(struct hook_edits *list)
{
	free(list);
}

/* ---- reading ---- */

bool hook_edits_next(const struct hook_edits *list, size_t *at, struct hook_edit *out)
{
	struct record r;
	const uint8_t *p;

	if (!list || *at >= list->n)
		return false;
	r = record_at(list, *at);
	p = list->data + *at + sizeof(r);
	*out = (struct hook_edit){
		.kind = (enum hook_edit_kind)r.kind,
		.index = r.index,
		.name = span_of(p, r.name),
		.value = span_of(p + r.name, r.value),
	};
	*at += record_bytes(&r);
	return true;
}

uint32_t hook_edits_kinds(const struct hook_edits *list)
{
	struct hook_edit e;
	uint32_t kinds = 0;

	for (size_t at = 0; hook_edits_next(list, &at, &e);)
		kinds |= BIT(e.kind);
	return kinds;
}

bool hook_edits_last(const struct hook_edits *list, enum hook_edit_kind kind, struct hook_edit *out)
{
	struct hook_edit e;
	bool found = false;

	for (size_t at = 0; hook_edits_next(list, &at, &e);) {
		if (e.kind != kind)
			continue;
		*out = e;
		found = true;
	}
	return found;
}
