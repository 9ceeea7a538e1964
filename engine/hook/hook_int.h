/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The inside of the room: one hook, its kind, and an open question.
 */
#ifndef HOOK_HOOK_INT_H
#define HOOK_HOOK_INT_H

#include "engine/hook/hook.h"

#include <pthread.h>

struct hook;

/* A question on its way to one hook. */
struct hook_ask {
	struct hook_core *core;
	struct hook_seat *seat;
	const struct conf_listener *lis;
	const struct hook_event *ev;
};

enum hook_reach {
	REACH_ANSWERED, /* *v says it */
	REACH_PENDING,	/* ask->seat->call was taken by hook_suspend(): somebody will answer */
	REACH_FAILED	/* no answer to be had: as when the deadline passes */
};

/* One row for each kind of hook. What may be NULL does nothing then. */
struct hook_class {
	bool may_wait; /* suspends, or says lines of its own */
	/* Main thread. False with the reason in `why`. Sets self and wants. */
	bool (*open)(struct hook *h, char *why, size_t why_max);
	void (*close)(struct hook *h);
	/* Main thread, no worker runs any more: waits for what threads of ours still do for this
	 * hook. False: they do not come back within wait_ms; close() would wait for them. May be
	 * NULL. */
	bool (*settle)(struct hook *h, uint32_t wait_ms);
	/* Any thread: the hook's own counters, by index; NULL behind the last one. May be NULL. */
	const char *(*counter)(const struct hook *h, uint32_t index, uint64_t *value);

	/* ---- worker's thread from here on; hook_share() is what begin() made ---- */

	/* The worker's share, before its first event. False: no memory. May be NULL. */
	bool (*begin)(struct hook *h, struct hook_core *c, void **share);
	/* No session is left: closes what the share has on the ring; called again each turn until
	 * it says true: nothing is armed. May be NULL: nothing ever is. */
	bool (*wind_up)(struct hook *h, void *share);
	/* Frees it. NULL if begin() is. */
	void (*end)(struct hook *h, void *share);

	enum hook_reach (*ask)(struct hook *h, const struct hook_ask *ask, struct hook_verdict *v);
	/* News, HOOK_BODY among them (all of it is taken: see hook_set_full()). NULL: wants none.
	 */
	void (*tell)(struct hook *h, const struct hook_ask *ask);
	/* An open question of this hook is void: its deadline has passed or its session is gone,
	 * and nobody waits for hook_settle() any more. `call` is given back right behind. May be
	 * NULL. */
	void (*forget)(struct hook *h, struct hook_call *call);
	/* The session is over, HOOK_CLOSE was told if it was wanted: `own` (not NULL) is to be
	 * freed. May be NULL. */
	void (*leave)(struct hook *h, struct hook_core *c, void *own);
};

struct hook {
	const struct conf_hook *conf;
	const struct hook_class *class;
	struct hook_set *set;
	void *self;	/* of its kind */
	uint32_t index; /* in the set */
	uint32_t wants; /* 1 << enum hook_point */
};

struct hook_list {
	uint32_t count;
	struct hook **hooks; /* in the order of the listener; owns the array */
};

struct hook_box {
	pthread_mutex_t lock;
	struct mbox *box; /* borrowed from the worker's core; NULL: closed */
};

struct hook_set {
	const struct conf *conf;
	struct hook *hooks; /* as conf.hooks */
	uint32_t hook_count;
	struct hook_list *lists; /* by conf_listener.index */
	uint32_t *wants;	 /* the same: of any of them, 1 << enum hook_point */
	uint32_t workers;
	enum conf_hook_mode *modes; /* the same: the most that one of them needs */
	bool may_wait;		    /* one of them does */
	uint32_t lines;		    /* on their way to the log; atomic */
	struct hook_box *boxes;	    /* by worker */
	struct helpers *helpers; /* of the plugins that may block (plugin_help.c); NULL: of none */
	uint32_t helpers_users;
};

struct hook_call {
	struct hook_seat *seat; /* NULL: free */
	struct hook_call *next_free;
	struct hook_core *core;
	const struct hook *hook; /* who is asked */
	struct timer timer;
	uint32_t generation;
	void *own; /* the class's, while the question is open */
	uint8_t point;
	uint8_t next; /* hook of the list to go on with */
	bool answered;
	struct hook_verdict verdict;
};

/* Makes the seat wait; the token names it. False: no room. */
struct hook_token {
	uint32_t worker, slot, generation;
};
bool hook_suspend(const struct hook *h, const struct hook_ask *ask, struct hook_token *out);
/* Worker's thread, never from inside ask(): the answer to a question that waits. Takes v->edits.
 * The session goes on at once, so nothing of it may be relied on behind this call. */
void hook_settle(struct hook_call *call, const struct hook_verdict *v);
/* The same when no answer is to be had: counted, `on-failure` is the verdict. */
void hook_settle_failed(struct hook_call *call);
/* The hook is still at it: its deadline begins anew. */
void hook_extend(struct hook_call *call);
/* This hook's own pointer of the session; NULL: no room. Stays in place until leave(). */
void **hook_own(const struct hook *h, const struct hook_ask *ask);
static inline void *hook_share(const struct hook *h, const struct hook_core *c)
{
	return c->shares[h->index];
}
/* Worker's thread: this hook has as much of the message waiting as it should (once for each time it
 * begins and each time it ends; the latter wakes the session, so not from inside ask() or tell()).
 */
void hook_set_full(struct hook_core *c, struct hook_seat *seat, bool full);
/* Worker's thread: takes a suspended question back (the hook answered at once after all). */
void hook_resume(const struct hook_ask *ask);
/* Any thread. */
enum hook_carried {
	CARRIED,
	CARRIED_VOID, /* nobody waits any more as far as can be known here */
	CARRIED_NOT   /* no room now */
};
/* CARRIED: v->edits were taken; else they are still the caller's. v NULL: no answer is to be had,
 * as hook_settle_failed(). */
enum hook_carried hook_answer(
	const struct hook *h, const struct hook_token *t, const struct hook_verdict *v);
/* CARRIED: take(c, arg) will be called on the thread of that worker, not from inside a call of a
 * session's, before hook_core_fini() comes back. */
enum hook_carried hook_carry(const struct hook *h, uint32_t worker,
	void (*take)(struct hook_core *c, void *arg), void *arg);

/* Worker's thread: a line about a hook, one a second at most of each hook and worker. */
void hook_complain(
	struct hook_core *c, const struct hook *h, enum hook_point point, const char *what);
/* Any thread: one line for the log; `level` as in ringpost.h. Dropped when it cannot be carried. */
void hook_log(const struct hook *h, int level, const char *text);

/* What `on-failure` says instead of an answer. */
void hook_failed_verdict(const struct hook *h, struct hook_verdict *v);

/* ---- call.c, for hook.c ---- */
bool hook_calls_init(struct hook_core *c, uint32_t sessions_max);
void hook_calls_fini(struct hook_core *c);
void hook_drop_call(struct hook_seat *seat); /* if there is one: nobody waits for it */
void hook_fetch_call(
	struct hook_seat *seat, struct hook_verdict *v); /* answered; takes the edits */

extern const struct hook_class hook_rules_class, hook_plugin_class, hook_lua_class,
	hook_policy_class, hook_milter_class;

#endif
