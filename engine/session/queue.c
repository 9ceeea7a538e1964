/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands in flight, paired with their replies, in order (RFC 2920 3.2: replies in the order of
 * the commands). Happy path: push at the tail when a command goes up or is refused here, pop at the
 * head when its reply arrives; local replies leave when they reach the head. The slots are leased
 * from the core while there are any: an idle session holds none.
 */
#include "engine/session/session_int.h"

static struct slot *slot_at(const struct session *s, unsigned i)
{
	return &s->queue[(uint8_t)(s->q_head + i)];
}

struct slot *queue_head(const struct session *s)
{
	return s->q_count ? slot_at(s, 0) : NULL;
}

struct slot *queue_tail(const struct session *s)
{
	return s->q_count ? slot_at(s, s->q_count - 1u) : NULL;
}

bool queue_full(const struct session *s)
{
	return s->q_count >= s->lis->limits.pipeline;
}

bool queue_owes(const struct session *s)
{
	for (unsigned i = 0; i < s->q_count; i++)
		if (slot_at(s, i)->kind != SLOT_DISCARD)
			return true;
	return false;
}

bool queue_has_final(const struct session *s)
{
	for (unsigned i = 0; i < s->q_count; i++)
		if (slot_at(s, i)->kind == SLOT_FINAL && !slot_at(s, i)->local)
			return true;
	return false;
}

bool queue_has_committed(const struct session *s)
{
	for (unsigned i = 0; i < s->q_count; i++) {
		const struct slot *slot = slot_at(s, i);

		if (slot->kind == SLOT_FINAL && !slot->local && txn_committed(s, slot))
			return true;
	}
	return false;
}

bool queue_sync(const struct session *s)
{
	/* Input stops behind a command that must be waited for, so it can only be the last. */
	const struct slot *tail = queue_tail(s);

	return tail && tail->sync;
}

/* How long the upstream may take for the oldest thing it owes (RFC 5321 4.5.3.2). */
static uint32_t patience_ms(const struct session *s, const struct slot *slot)
{
	const struct conf_upstream_timeouts *t = &s->lis->upstream->timeouts;

	if (slot->out_mark == UINT64_MAX)
		return 0; /* its octets are still coming */
	switch (slot->kind) {
	case SLOT_FINAL:
		return t->final_reply;
	case SLOT_DATA:
	case SLOT_HELD_DATA:
		return t->data_init;
	default:
		return t->reply;
	}
}

void queue_await(struct session *s)
{
	if (!s->link)
		return;
	for (unsigned i = 0; i < s->q_count; i++)
		if (!slot_at(s, i)->local) {
			link_await(s->link, patience_ms(s, slot_at(s, i)));
			return;
		}
	link_await(s->link, 0);
}

static struct slot *push(struct session *s, enum slot_kind kind, struct txn *t)
{
	if (!s->queue) {
		/* One per session is there by construction: the slab is as large as that of the
		 * sessions. */
		s->queue = slab_get(&s->core->queues);
		ASSERT(s->queue);
		s->q_head = 0;
	}
	ASSERT(s->q_count < QUEUE_SLOTS);
	struct slot *slot = slot_at(s, s->q_count++);

	*slot = (struct slot){.kind = (uint8_t)kind, .txn = t ? txn_ref(t) : NULL};
	return slot;
}

void queue_upstream(struct session *s, enum slot_kind kind, bool sync, struct txn *t)
{
	struct slot *slot = push(s, kind, t);

	ASSERT(s->link);
	slot->sync = sync;
	slot->out_mark = link_out_mark(s->link);
	if (s->q_upstream++ == 0)
		queue_await(s);
}

void queue_hold_tail(struct session *s)
{
	queue_tail(s)->out_mark = UINT64_MAX;
	queue_await(s);
}

void queue_release_tail(struct session *s)
{
	struct slot *slot = queue_tail(s);

	/* Its reply may have come already (a refusal in mid-chunk); then nothing is held. */
	if (!s->link || !slot || slot->local || slot->out_mark != UINT64_MAX)
		return;
	slot->out_mark = link_out_mark(s->link);
	queue_await(s);
}

void queue_local(struct session *s, const struct local_reply *r)
{
	push(s, SLOT_COMMAND, NULL)->local = r;
	STAT_INC(s->core->stats, commands_local);
}

void queue_pop(struct session *s)
{
	struct slot *slot = queue_head(s);
	struct txn *t = slot->txn;
	bool upstream = !slot->local;

	s->q_head++;
	if (--s->q_count == 0) {
		slab_put(&s->core->queues, s->queue);
		s->queue = NULL;
		sess_client_turn(s);
	}
	if (upstream) {
		s->q_upstream--;
		queue_await(s);
	}
	if (t)
		txn_unref(t);
}

/* A reply given, or due to nobody: nothing is left to do but to leave the queue. */
static bool slot_silent(const struct slot *slot)
{
	return slot->kind == SLOT_DISCARD;
}

/* Commands of our own are not in the client's order: what is behind them need not wait for their
 * replies. */
static struct slot *next_to_emit(struct session *s)
{
	for (unsigned i = 0; i < s->q_count; i++) {
		struct slot *slot = slot_at(s, i);

		if (slot_silent(slot))
			continue;
		return slot->local ? slot : NULL;
	}
	return NULL;
}

static void pop_silent(struct session *s)
{
	struct slot *slot;

	while ((slot = queue_head(s)) && slot_silent(slot) && slot->local)
		queue_pop(s);
}

static void recast(struct session *s, const struct txn *t, enum slot_kind from, enum slot_kind to)
{
	for (unsigned i = 0; i < s->q_count; i++) {
		struct slot *slot = slot_at(s, i);

		if (slot->kind == from && slot->txn == t)
			slot->kind = (uint8_t)to;
	}
}

void queue_disown_final(struct session *s, const struct txn *t)
{
	recast(s, t, SLOT_FINAL, SLOT_DISCARD);
}

void queue_own_part(struct session *s, const struct txn *t)
{
	recast(s, t, SLOT_PART, SLOT_LAST_UNSAID);
}

void queue_emit_local(struct session *s)
{
	struct slot *slot;

	while ((slot = next_to_emit(s)) != NULL) {
		const struct local_reply *r = slot->local;
		bool bye = slot->kind == SLOT_QUIT;

		slot->kind = SLOT_DISCARD;
		slot->sync = false;
		sess_say(s, r, NULL);
		sess_count_reply(s, r->code);
		pop_silent(s);
		if (bye)
			sess_end(s, END_QUIT);
	}
	pop_silent(s);
}

static const struct local_reply *fail_final(struct session *s, struct slot *slot)
{
	if (!txn_committed(s, slot)) {
		txn_abort(slot->txn, "body", s->lost_word);
		return &sess_replies[REPLY_LOST];
	}
	txn_in_doubt(slot->txn, s->lost_word);
	return &sess_replies[REPLY_IN_DOUBT];
}

static const struct local_reply *fail_slot(struct session *s, struct slot *slot)
{
	switch (slot->kind) {
	case SLOT_FINAL:
		return fail_final(s, slot);
	case SLOT_QUIT:
		return &sess_replies[REPLY_BYE];
	default:
		/* What it belongs to is decided elsewhere: it may have got further than this
		 * command. */
		return &sess_replies[REPLY_LOST];
	}
}

/* One of our own; a last chunk that is whole is answered by the verdict on its end. */
static bool answered_elsewhere(const struct session *s, const struct slot *slot)
{
	bool coming = s->phase == PHASE_CHUNK && s->txn == slot->txn;

	return slot->kind == SLOT_REPLAY || slot->kind == SLOT_HELD_DATA ||
	       (slot->kind == SLOT_PART && !coming);
}

void queue_fail(struct session *s)
{
	for (unsigned i = 0; i < s->q_count; i++) {
		struct slot *slot = slot_at(s, i);

		if (slot->local)
			continue;
		slot->local = fail_slot(s, slot);
		if (answered_elsewhere(s, slot))
			slot->kind = SLOT_DISCARD;
		slot->sync = false;
		s->q_upstream--;
	}
}

void queue_clear(struct session *s)
{
	while (s->q_count)
		queue_pop(s);
}
