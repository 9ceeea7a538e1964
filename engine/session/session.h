/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One client connection and the upstream link it borrows: what core/ needs of it. The rest is in
 * session_int.h. Thread: the core that accepted it, for its whole life.
 */
#ifndef SESSION_SESSION_H
#define SESSION_SESSION_H

#include "engine/hook/hook.h"
#include "engine/upstream/link.h"
#include "ring/inq.h"
#include "ring/spool.h"
#include "tls/material.h"

/* Asked once per connection; a process-wide table behind it (core/clients.h). */
struct sess_admission {
	/* RING_OK-like verdicts: 0 admitted, else which limit. The pair of release() is due when
	 * admitted. */
	int (*admit)(void *arg, const struct conf_listener *lis, const struct ring_addr *client,
		uint64_t now_ms);
	void (*release)(void *arg, const struct ring_addr *client);
	void *arg;
};
enum { ADMIT_OK, ADMIT_PER_CLIENT, ADMIT_FULL };

/* What all sessions of one core share. Owned by core/worker. */
struct sess_core {
	struct ring *ring;
	struct streams streams;
	struct timers timers;
	struct stash_pools stashes;
	struct upstreams upstreams;
	struct tls_core tls;
	struct tls_site *const *sites; /* by conf_listener.index; borrowed */
	struct hook_core hooks;
	struct spools spools; /* of messages that are kept */
	struct slab sessions, txns, queues, moves, helds;
	uint64_t hold_message_max;
	struct ring_addr event_server; /* of the event that hooks are asked about now */
	struct list all;	       /* of struct session */
	struct stat_table *stats;
	struct log_buf *log;
	struct sess_admission admission;
	uint64_t next_id;
	bool draining;
	bool pressure;	     /* shortened limits */
	uint64_t seen_cqes;  /* at the last turn, and ... */
	uint32_t busy_turns; /* ... since handshakes that wait went on */
	uint8_t *scratch;    /* SCRATCH_BYTES, for rewriting one reply at a time; owns */
};

struct sess_core_conf {
	uint32_t sessions_max;	/* of this core */
	uint64_t memory_bytes;	/* staging and waiting octets of this core */
	struct hook_set *hooks; /* borrowed */
	uint32_t worker, workers;
};

bool sess_core_init(struct sess_core *c, const struct conf *conf, const struct sess_core_conf *cc,
	struct ring *r, struct stat_table *stats, struct log_buf *log,
	const struct sess_admission *adm) MUST_USE;
void sess_core_fini(struct sess_core *c); /* no session may be left */

/* What TLS of the sessions and links that begin from now on is made of; `m` stays until it is
 * replaced, or the core is gone. Due before the first session where the configuration has TLS. */
void sess_core_material(struct sess_core *c, const struct tls_material *m);

/* One turn of the core's loop: waits for completions until the next timer and delivers them, sends
 * what they produced, runs timers, sends what those produced. */
void sess_core_turn(struct sess_core *c);

/* Takes over an accepted socket. Full pools are answered and counted here. */
void sess_accept(struct sess_core *c, const struct conf_listener *lis, struct ring_fd fd);
/* Ends what is idle, marks the rest: no transaction is cut. */
void sess_drain_all(struct sess_core *c);
void sess_kill_all(struct sess_core *c);
static inline bool sess_none_left(const struct sess_core *c)
{
	return list_empty(&c->all) && list_empty(&c->upstreams.all);
}
/* No session is left: winds up what hooks and kept messages have on the ring. True when nothing is;
 * else again behind the next turn. */
bool sess_core_idle(struct sess_core *c);

#endif
