/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The connections of one worker to one policy server. The protocol is strictly request and reply,
 * so a connection carries one question at a time; it is opened when it is needed, kept, and used
 * again, the one used last first. Questions that find no connection free wait in their order.
 *
 * Two tries, as Postfix has them: a server that closes a kept connection instead of answering (it
 * was restarted, or had enough of it) gets the question again at once, on a new one. When a new
 * connection fails or cannot be made, there is one more try POLICY_RETRY_MS later. How long a
 * question may take in all is its asker's affair: see policy_pool_forget().
 *
 * Owner: one hook's share of one worker; all calls and callbacks on that worker's thread. Memory is
 * reserved once, for all questions that may be under way.
 *
 * Failure modes: no room (NULL, counted); the server cannot be reached or closes on both tries, or
 * what it says is no reply: on_failed(). After a reply that is none, or with octets behind it, or
 * without anybody who waits for it, the connection is out of step: closed.
 */
#ifndef HOOK_POLICY_POOL_H
#define HOOK_POLICY_POOL_H

#include "engine/conf/conf.h"
#include "engine/hook/policy/policy_wire.h"
#include "engine/obs/stat.h"
#include "ring/slab.h"
#include "ring/stream.h"
#include "ring/timer.h"

#define POLICY_TRIES 2
#define POLICY_RETRY_MS 1000

struct policy_pool;
struct policy_question;

/* Who asked; the pool hands it back and looks at nothing of it. */
struct policy_asker {
	void *call;
	uint64_t sid, tid;
};

/* Never from inside a call of the owner's. The question is gone already; the pool may be asked
 * again from here. */
struct policy_pool_events {
	/* Spans of `r` are valid during the call, until the pool is asked again. */
	void (*on_reply)(const struct policy_asker *who, const struct policy_reply *r);
	void (*on_failed)(const struct policy_asker *who, const char *why);
};

struct policy_pool {
	const struct conf_hook
		*conf; /* endpoint, connections, queue, connect_ms, idle_ms, ttl_ms */
	const struct policy_pool_events *ev; /* static */
	struct streams *streams;
	struct timers *timers;
	struct stat_table *stats;
	struct slab conns, questions;
	struct list idle;    /* of struct policy_conn: the one used last in front */
	struct list waiting; /* of struct policy_question: for a connection, the oldest in front */
	uint32_t closing;    /* connections that are about to give their place free */
};

/* At most connections + queue questions, and no more than `askers`. `conf` stays. False: no memory;
 * policy_pool_fini() is still to be called. */
bool policy_pool_init(struct policy_pool *p, const struct conf_hook *conf, uint32_t askers,
	const struct policy_pool_events *ev, struct streams *ss, struct timers *ts,
	struct stat_table *stats) MUST_USE;
/* NULL: as many questions are under way as may be. Else one of the two events follows, or the owner
 * takes the question back. */
struct policy_question *policy_pool_ask(
	struct policy_pool *p, const struct policy_request *r, const struct policy_asker *who);
void policy_pool_forget(struct policy_pool *p, struct policy_question *q);
/* No question is left, and none comes any more. True: no connection is open; else to be called
 * again behind the next turn. */
bool policy_pool_wind_up(struct policy_pool *p);
void policy_pool_fini(struct policy_pool *p); /* wind_up() has said true */

#endif
