/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a plugin says: its verdict, with the words of a refusal or the changes of a pass, copied.
 * Nothing of it is believed. Pure: no state, any thread.
 *
 * Failure modes: a verdict that is none; a change that is not well-formed, too many of them, no
 * memory to copy them to: told, and nothing is left allocated. Whether a change can be made at that
 * event is judged where all hooks' are (hook.c).
 */
#include "engine/hook/plugin/plugin_int.h"

#define SAME(edit, change) _Static_assert((int)(edit) + 1 == (int)(change), #edit)
SAME(EDIT_ADDRESS, RINGPOST_CHANGE_ADDRESS);
SAME(EDIT_PARAMS, RINGPOST_CHANGE_PARAMS);
SAME(EDIT_HEADER_INSERT, RINGPOST_INSERT_HEADER);
SAME(EDIT_HEADER_APPEND, RINGPOST_ADD_HEADER);
SAME(EDIT_HEADER_CHANGE, RINGPOST_CHANGE_HEADER);
SAME(EDIT_HEADER_DELETE, RINGPOST_DELETE_HEADER);
SAME(EDIT_SENDER, RINGPOST_CHANGE_SENDER);
SAME(EDIT_RCPT_ADD, RINGPOST_ADD_RECIPIENT);
SAME(EDIT_RCPT_DELETE, RINGPOST_DELETE_RECIPIENT);
SAME(EDIT_BODY, RINGPOST_REPLACE_BODY);
SAME(EDIT_KIND_COUNT - 1, RINGPOST_REPLACE_BODY);

/* ---- changes ---- */

static bool in_span(struct ringpost_span s, struct span *out)
{
	*out = span_of(s.data, s.size);
	return s.data || s.size == 0;
}

static bool has_field_value(enum hook_edit_kind k)
{
	return k == EDIT_HEADER_INSERT || k == EDIT_HEADER_APPEND || k == EDIT_HEADER_CHANGE;
}

/* In the list a value is all that stands behind the colon; a plugin leaves out the usual blank. */
static bool add_field(struct hook_edits **list, struct hook_edit *e)
{
	uint8_t *text;
	bool good;

	if (e->value.n > HOOK_EDITS_BYTES_MAX || !(text = malloc(e->value.n + 1)))
		return false;
	text[0] = ' ';
	if (e->value.n > 0)
		memcpy(text + 1, e->value.p, e->value.n);
	e->value = span_of(text, e->value.n + 1);
	good = hook_edits_add(list, e, false);
	free(text);
	return good;
}

static bool add_change(struct hook_edits **list, const struct ringpost_change *c, bool for_rcpt)
{
	struct hook_edit e;

	if (c->kind < RINGPOST_CHANGE_ADDRESS || c->kind > RINGPOST_REPLACE_BODY)
		return false;
	e = (struct hook_edit){.kind = (enum hook_edit_kind)(c->kind - 1), .index = c->index};
	if (!in_span(c->name, &e.name) || !in_span(c->value, &e.value))
		return false;
	return has_field_value(e.kind) ? add_field(list, &e) : hook_edits_add(list, &e, for_rcpt);
}

static enum plugin_said take_changes(
	const struct ringpost_answer *a, enum hook_point point, struct hook_verdict *v)
{
	bool good = a->change_count == 0 || a->changes;

	for (size_t i = 0; good && i < a->change_count; i++)
		good = add_change(&v->edits, &a->changes[i], point == HOOK_RCPT);
	if (good)
		return PLUGIN_SAID;
	hook_edits_free(v->edits);
	v->edits = NULL;
	return PLUGIN_WRONG;
}

/* ---- verdicts ---- */

enum plugin_said plugin_verdict(uint32_t verdict, const struct ringpost_answer *answer,
	enum hook_point point, struct hook_verdict *v)
{
	static const enum hook_verdict_kind kinds[] = {[RINGPOST_PASS] = VERDICT_PASS,
		[RINGPOST_REJECT] = VERDICT_REJECT,
		[RINGPOST_TEMPFAIL] = VERDICT_TEMPFAIL,
		[RINGPOST_DROP] = VERDICT_DROP,
		[RINGPOST_DISCARD] = VERDICT_DISCARD};
	struct ringpost_answer a = {0};

	if (verdict >= ARRAY_LEN(kinds) || verdict == RINGPOST_PENDING)
		return PLUGIN_NONE;
	/* One that was compiled before there were changes ends before them. */
	if (answer && answer->size < offsetof(struct ringpost_answer, changes))
		return PLUGIN_NONE;
	if (answer)
		memcpy(&a, answer, MIN_OF(sizeof(a), (size_t)answer->size));
	v->kind = kinds[verdict];
	if (v->kind == VERDICT_PASS)
		return take_changes(&a, point, v);
	/* The code of a drop is 421 and that of a discard 250, and nothing else. */
	if (v->kind != VERDICT_DISCARD)
		hook_verdict_words(v, v->kind == VERDICT_DROP ? 0 : a.code, a.enhanced, a.text);
	return PLUGIN_SAID;
}
