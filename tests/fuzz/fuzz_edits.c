/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What hooks want changed: engine/hook/edits.h. Claimed, for any octets:
 *  - a header field is taken exactly when the grammar here has it, and then its lines have CRLF
 *    between them and are otherwise as they were;
 *  - an address or parameters that are taken make a command line that is one, and is read as what
 *    was meant; parameters are refused only when the parser of commands refuses them, too;
 *  - a list gives back what was taken and nothing else, in order, pieces of a body joined; joining
 *    two lists is as if all had been added to one.
 * Input: edits, one behind the other: octet 0 its kind (bit 7: for RCPT, bit 6: the second list),
 * octet 1 the index, octets 2 and 3 the lengths of name and value, then these.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/hook/edits.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/line.h"

#define EDITS_MAX 64
#define VALUE_MAX 512

static struct grammar g_name = GRAMMAR("^[!-9;-~]+$");
static struct grammar g_value = GRAMMAR("^[^\r\n]*(\r?\n[ \t]+[^ \t\r\n][^\r\n]*)*$");
/* What is behind a name, no matter who reads it, can only be this field. */
static struct grammar g_kept = GRAMMAR("^[^\r\n]*(\r\n[ \t]+[^ \t\r\n][^\r\n]*)*$");

struct kept {
	enum hook_edit_kind kind;
	uint32_t index;
	size_t name_n, n;
	uint8_t name[256], value[EDITS_MAX * 256 + VALUE_MAX];
};

struct model {
	unsigned count;
	struct kept edits[EDITS_MAX];
};

static bool is_header(enum hook_edit_kind k)
{
	return k == EDIT_HEADER_INSERT || k == EDIT_HEADER_APPEND || k == EDIT_HEADER_CHANGE ||
	       k == EDIT_HEADER_DELETE;
}

static bool has_name(enum hook_edit_kind k)
{
	return is_header(k) || k == EDIT_SENDER || k == EDIT_RCPT_ADD;
}

/* ---- what is taken ---- */

static bool header_good(const struct hook_edit *e)
{
	bool counts = e->kind == EDIT_HEADER_CHANGE || e->kind == EDIT_HEADER_DELETE;

	if (!grammar_has(&g_name, e->name) || (counts && e->index == 0))
		return false;
	if (e->kind == EDIT_HEADER_DELETE)
		return true;
	return !(e->value.n > 0 && memchr(e->value.p, 0, e->value.n)) &&
	       grammar_has(&g_value, e->value);
}

/* A line made of it is a command, and its parts are what they were. */
static bool command_good(struct span mailbox, struct span params, bool is_rcpt)
{
	static char line[2048];
	struct span trimmed = params, bad;
	struct smtp_mail_params values;
	struct smtp_path path;
	struct smtp_cmd cmd;
	int n = snprintf(line, sizeof(line), "%s:<", is_rcpt ? "RCPT TO" : "MAIL FROM");
	size_t len = (size_t)n;

	memcpy(line + len, mailbox.p ? mailbox.p : (const uint8_t *)"", mailbox.n);
	len += mailbox.n;
	line[len++] = '>';
	line[len++] = ' ';
	memcpy(line + len, params.p ? params.p : (const uint8_t *)"", params.n);
	len += params.n;
	while (trimmed.n > 0 && strchr(" \t", trimmed.p[0]) && trimmed.p[0])
		trimmed = span_drop(trimmed, 1);
	while (trimmed.n > 0 && strchr(" \t", trimmed.p[trimmed.n - 1]) && trimmed.p[trimmed.n - 1])
		trimmed.n--;
	if (!smtp_line_clean(span_of(line, len)) || !smtp_cmd_parse(span_of(line, len), &cmd))
		return false;
	if (smtp_path_parse(cmd.args, is_rcpt, &path) != PATH_OK)
		return false;
	if (path.null != (mailbox.n == 0) || !span_eq(path.mailbox, mailbox) ||
		!span_eq(path.params, trimmed))
		return false;
	return is_rcpt ? smtp_rcpt_params(path.params, &bad)
		       : smtp_mail_params(path.params, &values, &bad);
}

static bool expect_good(const struct hook_edit *e, bool for_rcpt)
{
	switch (e->kind) {
	case EDIT_ADDRESS:
		return command_good(e->value, SPAN_NONE, for_rcpt);
	case EDIT_PARAMS:
		return command_good(SPAN_LIT("a@b"), e->value, for_rcpt);
	case EDIT_SENDER:
		return command_good(e->value, e->name, false);
	case EDIT_RCPT_ADD:
		return command_good(e->value, e->name, true);
	case EDIT_RCPT_DELETE:
		return command_good(e->value, SPAN_NONE, true);
	case EDIT_BODY:
		return true;
	default:
		return header_good(e);
	}
}

/* ---- what is kept ---- */

static void keep_octet(struct kept *k, uint8_t c)
{
	ASSERT(k->n < sizeof(k->value));
	k->value[k->n++] = c;
}

static void keep(struct model *m, const struct hook_edit *e)
{
	struct kept *k = m->count > 0 ? &m->edits[m->count - 1] : NULL;

	if (!k || k->kind != EDIT_BODY || e->kind != EDIT_BODY) {
		ASSERT(m->count < EDITS_MAX);
		k = &m->edits[m->count++];
		k->kind = e->kind;
		k->index = is_header(e->kind) && e->kind != EDIT_HEADER_APPEND ? e->index : 0;
		k->name_n = has_name(e->kind) ? e->name.n : 0;
		memcpy(k->name, e->name.p, k->name_n);
		k->n = 0;
	}
	for (size_t i = 0; e->kind != EDIT_HEADER_DELETE && i < e->value.n; i++) {
		if (is_header(e->kind) && e->value.p[i] == '\n' &&
			(i == 0 || e->value.p[i - 1] != '\r'))
			keep_octet(k, '\r');
		keep_octet(k, e->value.p[i]);
	}
}

static void check_list(const struct hook_edits *list, const struct model *m)
{
	uint32_t kinds = 0;
	struct hook_edit e;
	size_t at = 0;

	for (unsigned i = 0; i < m->count; i++) {
		const struct kept *k = &m->edits[i];

		ASSERT(hook_edits_next(list, &at, &e));
		ASSERT(e.kind == k->kind && e.index == k->index);
		ASSERT(span_eq(e.name, span_of(k->name, k->name_n)));
		ASSERT(span_eq(e.value, span_of(k->value, k->n)));
		if (is_header(e.kind))
			ASSERT(grammar_has(&g_kept, e.value));
		kinds |= 1u << e.kind;
	}
	ASSERT(!hook_edits_next(list, &at, &e));
	ASSERT(hook_edits_kinds(list) == kinds);
	for (int k = 0; k < EDIT_KIND_COUNT; k++)
		ASSERT(hook_edits_last(list, (enum hook_edit_kind)k, &e) == (kinds >> k & 1));
}

/* `to` as hook_edits_join() makes it. */
static void join_models(struct model *to, const struct model *more)
{
	bool body = false;
	unsigned n = 0;

	for (unsigned i = 0; i < more->count; i++)
		body |= more->edits[i].kind == EDIT_BODY;
	for (unsigned i = 0; i < to->count; i++) {
		if (body && to->edits[i].kind == EDIT_BODY)
			continue;
		if (n != i)
			to->edits[n] = to->edits[i];
		n++;
	}
	ASSERT(n + more->count <= EDITS_MAX);
	memcpy(to->edits + n, more->edits, more->count * sizeof(*more->edits));
	to->count = n + more->count;
}

/* ---- input ---- */

static struct span take(struct span *in, size_t n)
{
	struct span s = exact_copy(span_of(in->p, MIN_OF(n, in->n)));

	*in = span_drop(*in, s.n);
	return s;
}

static void one_edit(struct span *in, struct hook_edits **lists, struct model *models)
{
	uint8_t what = take_octet(in);
	bool for_rcpt = what & 128, second = what & 64, good;
	struct hook_edit e = {.kind = what % 64 % EDIT_KIND_COUNT, .index = take_octet(in)};
	size_t name = take_octet(in), value = take_octet(in);

	e.name = take(in, name);
	e.value = take(in, value);
	good = hook_edits_add(&lists[second], &e, for_rcpt);
	ASSERT(good == expect_good(&e, for_rcpt));
	if (good)
		keep(&models[second], &e);
	exact_free(e.name);
	exact_free(e.value);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct model models[2];
	struct hook_edits *lists[2] = {NULL, NULL};
	struct span in = span_of(p, n);

	models[0].count = models[1].count = 0;
	for (unsigned i = 0; i < EDITS_MAX && in.n > 0; i++)
		one_edit(&in, lists, models);
	check_list(lists[0], &models[0]);
	check_list(lists[1], &models[1]);
	ASSERT(hook_edits_join(&lists[0], lists[1]));
	join_models(&models[0], &models[1]);
	check_list(lists[0], &models[0]);
	hook_edits_free(lists[0]);
	return 0;
}
