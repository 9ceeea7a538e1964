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

/* One row for each kind of hook. */
struct hook_class {
	bool may_wait; /* suspends, or says lines of its own */
	/* False with the reason in `why`. Sets self and wants. */
	bool (*open)(struct hook *h, char *why, size_t why_max);
	void (*close)(struct hook *h);
	enum hook_reach (*ask)(struct hook *h, const struct hook_ask *ask, struct hook_verdict *v);
	void (*tell)(struct hook *h, const struct hook_ask *ask); /* NULL: wants no news */
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
	bool may_wait;		/* one of them does */
	uint32_t lines;		/* on their way to the log; atomic */
	struct hook_box *boxes; /* by worker */
};

struct hook_call {
	struct hook_seat *seat; /* NULL: free */
	struct hook_call *next_free;
	struct hook_core *core;
	const struct hook *hook; /* who is asked */
	struct timer timer;
	uint32_t generation;
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
/* Worker's thread: takes a suspended question back (the hook answered at once after all). */
void hook_resume(const struct hook_ask *ask);
/* Any thread. */
enum hook_carried {
	CARRIED,
	CARRIED_VOID, /* nobody waits any more as far as can be known here */
	CARRIED_NOT   /* no room now */
};
enum hook_carried hook_answer(
	const struct hook *h, const struct hook_token *t, const struct hook_verdict *v);

/* Worker's thread: a line about a hook, one a second at most of each hook and worker. */
void hook_complain(
	struct hook_core *c, const struct hook *h, enum hook_point point, const char *what);
/* Any thread: one line for the log; `level` as in ringpost.h. Dropped when it cannot be carried. */
void hook_log(const struct hook *h, int level, const char *text);

extern const struct hook_class hook_rules_class, hook_plugin_class;

#endif
