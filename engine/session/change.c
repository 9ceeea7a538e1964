/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What hooks have changed of an envelope: the command as the upstream is told it, and header fields
 * that go on top of the message. Each change is a line in the log; the transaction's record names
 * what the upstream was told.
 *
 * Failure modes: a command that has become too long, no room for the fields: the command is refused
 * (nothing is passed on half changed).
 */
#include "engine/session/session_int.h"

#define LINE_BYTES_MAX 4096 /* as limits.command-line at most */

static void record(
	struct session *s, uint64_t tid, enum hook_edit_kind kind, struct span was, struct span now)
{
	struct log_rec rec;

	STAT_INC(s->core->stats, hook_changes);
	if (!log_begin(&rec, s->core->log, LOG_EV_CHANGE, ring_wall_us(s->core->ring)))
		return;
	log_id(&rec, "sid", s->id);
	log_id(&rec, "tid", tid);
	log_cstr(&rec, "what", hook_edit_word(kind));
	if (was.p)
		log_str(&rec, "was", was);
	log_str(&rec, "now", now);
	log_end(&rec, s->core->stats);
}

static void record_path(struct session *s, const struct smtp_path *was, const struct smtp_path *now)
{
	/* A second MAIL is another transaction than the one that is there. */
	uint64_t tid = s->mail_id ? s->mail_id : s->txn->id;
	struct hook_edit e;

	if (hook_edits_last(s->edits, EDIT_ADDRESS, &e))
		record(s, tid, EDIT_ADDRESS, was->mailbox, now->mailbox);
	if (hook_edits_last(s->edits, EDIT_PARAMS, &e))
		record(s, tid, EDIT_PARAMS, was->params, now->params);
}

void change_record(struct session *s, const struct hook_edit *e)
{
	/* A field's value can be long and private, a body is both: the name says enough. */
	bool header = e->name.n > 0 && e->kind != EDIT_SENDER && e->kind != EDIT_RCPT_ADD;

	if (e->kind != EDIT_BODY)
		record(s, s->txn->id, e->kind, SPAN_NONE, header ? e->name : e->value);
}

bool change_path(struct session *s, bool is_rcpt, struct span *line, struct smtp_path *path)
{
	struct span verb = is_rcpt ? SPAN_LIT("RCPT ") : SPAN_LIT("MAIL ");
	uint8_t *out = s->core->scratch;
	struct smtp_path was = *path;
	size_t n;

	if (LIKELY(!s->edits) ||
		!(hook_edits_kinds(s->edits) & (1u << EDIT_ADDRESS | 1u << EDIT_PARAMS)))
		return true;
	memcpy(out, verb.p, verb.n);
	n = hook_changed_args(s->edits, &was, is_rcpt, out + verb.n, LINE_BYTES_MAX - verb.n - 2);
	/* Each change was judged when it was made; both together may still be too much. */
	if (n == 0 || smtp_path_parse(span_of(out + verb.n, n), is_rcpt, path) != PATH_OK)
		return false;
	record_path(s, &was, path);
	n += verb.n;
	memcpy(out + n, "\r\n", 2);
	*line = span_of(out, n + 2);
	return true;
}

/* In front of *top. */
static bool put_in_front(struct stash_pools *pools, struct stash *top, const struct hook_edit *e)
{
	const struct span parts[] = {
		e->name, SPAN_LIT(":"), e->value, SPAN_LIT("\r\n"), stash_span(top)};
	struct stash all = {0};
	bool fits = true;

	for (size_t i = 0; fits && i < ARRAY_LEN(parts); i++)
		fits = parts[i].n == 0 || stash_add(&all, pools, parts[i]);
	stash_clear(fits ? top : &all, pools);
	if (fits)
		*top = all;
	return fits;
}

bool change_headers(struct session *s, struct txn *t)
{
	struct stash_pools *pools = &s->core->stashes;
	struct stash top = {0};
	struct hook_edit e;

	if (LIKELY(!s->edits) || !(hook_edits_kinds(s->edits) & 1u << EDIT_HEADER_INSERT))
		return true;
	/* All of them or none. The newest goes on top: as if each had been put in front of what was
	 * there. */
	bool fits = t->headers.len == 0 || stash_add(&top, pools, stash_span(&t->headers));
	for (size_t at = 0; fits && hook_edits_next(s->edits, &at, &e);)
		fits = e.kind != EDIT_HEADER_INSERT || put_in_front(pools, &top, &e);
	stash_clear(fits ? &t->headers : &top, pools);
	if (!fits)
		return false;
	t->headers = top;
	for (size_t at = 0; hook_edits_next(s->edits, &at, &e);)
		if (e.kind == EDIT_HEADER_INSERT)
			record(s, t->id, EDIT_HEADER_INSERT, SPAN_NONE, e.name);
	return true;
}

void change_data_undone(struct session *s, struct txn *t)
{
	stash_drop(&t->headers, &s->core->stashes, t->data_fields);
	t->data_fields = 0;
}
