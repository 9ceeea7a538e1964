/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The hooks of the simulated worlds that want something: they rewrite envelopes, put fields on top,
 * change and replace messages, discard, see messages and cannot take more of them, object, fail,
 * defer, and answer late or never. Several of them stand behind each other in a listener's list.
 *
 * What each was asked, was shown and has said is written down, in order: with the octets on the
 * sockets it is all that the judge (oracle_hooks.c) knows. Nothing of it is taken from the session.
 */
#ifndef TESTS_SIM_WISHES_H
#define TESTS_SIM_WISHES_H

#include "tests/sim/verdicts.h"

struct wish_edit {
	enum hook_edit_kind kind;
	uint32_t index;
	struct octets name, value; /* owns; lines of a value are divided by CRLF */
};

/* A question, and what was said to it. */
struct wish {
	uint64_t sid, tid;
	uint32_t place; /* of the hook in its listener's list */
	uint32_t ev;	/* events of the record when it was asked */
	enum hook_point point;
	enum hook_verdict_kind kind;
	bool never; /* it was not answered, or failed */
	struct ring_addr client;
	struct octets mailbox, params; /* MAIL, RCPT: as it was asked about; owns */
	struct octets shown;	       /* END_OF_DATA: the message; owns */
	struct wish_edit *edits;       /* owns */
	uint32_t edit_n;
	bool used; /* the judge has met the command */
};

/* Octets of one message that one hook was shown. */
struct wish_shown {
	uint64_t sid, tid;
	uint32_t place;
	bool asked; /* about the end: nothing may come behind that */
	struct octets octets;
};

struct wishes {
	struct wish *all; /* owns, as the next */
	uint32_t n, cap;
	struct wish_shown *shown;
	uint32_t shown_n, shown_cap;
	uint32_t held_max;	 /* octets that may still come when one of them is full */
	struct wish_seat *seats; /* of sessions that have been shown something */
	uint32_t number;	 /* of names and addresses: each is used once */
	bool held_more;		 /* more came */
	char broken[160];	 /* what a hook met that it must never meet; empty: nothing */
};

void wishes_free(struct wishes *w);
/* The class's parts, for hooks other than the one called "seeded". */
enum hook_reach wishes_ask(
	struct verdicts *v, struct hook *h, const struct hook_ask *ask, struct hook_verdict *out);
void wishes_tell(struct verdicts *v, struct hook *h, const struct hook_ask *ask);
void wishes_leave(struct verdicts *v, struct hook_core *c, void *own);
/* Those that are full may take more again: when it is time. */
bool wishes_due(const struct verdicts *v);
uint64_t wishes_next_us(const struct verdicts *v);
/* On the core's own time: nothing of the engine is under way. */
void wishes_take_more(struct verdicts *v);

#endif
