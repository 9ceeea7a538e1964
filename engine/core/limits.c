/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sizing: see limits.h. A session needs two descriptors, and what its hooks and a message that is
 * kept for them take; what does not fit is refused with 421 while a reserve of descriptors lasts to
 * say so.
 */
#include "engine/core/limits.h"

#include "engine/hook/hook.h"
#include "ring/feat.h"
#include "ring/spool.h"

#include <sys/resource.h>

#define PIPES_PER_WORKER 32
#define ZC_BUFFERS 16
#define ZC_BUFFER_BYTES (64u << 10)
#define FDS_PER_WORKER 8 /* ring, bell, eventfd, turned-away clients */
#define FDS_OF_PROCESS 24
#define OPS_PER_SOCKET 4 /* receive, send, dial or mover, and the cancel of each */
#define OPS_PER_WORKER 1024

static void raise_nofile(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &r);
	}
}

static bool any_mover(const struct conf *c, enum mover m)
{
	for (uint32_t i = 0; i < c->upstream_count; i++)
		if (c->upstreams[i].mover == m)
			return true;
	return false;
}

uint32_t limits_addresses(const struct conf *c)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->listener_count; i++)
		n += c->listeners[i].bind_count;
	return n;
}

static bool keeps_messages(const struct conf *c)
{
	for (uint32_t i = 0; i < c->listener_count; i++)
		for (uint32_t j = 0; j < c->listeners[i].hook_count; j++)
			if (c->listeners[i].hooks[j]->mode == HOOK_HOLD_ALL)
				return true;
	return false;
}

/* Of all workers, for so many spools. One has a file when its front has filled its part of the
 * memory. */
static uint64_t files_max(const struct conf *c, uint64_t spools)
{
	if (!keeps_messages(c) || c->hold.disk == 0)
		return 0;
	return MIN_OF(c->hold.memory / MAX_OF(c->hold.spill, SPOOL_BLOCK_BYTES), spools);
}

/* Of all workers. Most connections of hooks are open when all of them have equally many sessions. A
 * second file, of a body that a hook has made, is rare enough to be left out. */
static uint64_t descriptors(const struct conf *c, uint64_t reserve, uint32_t sessions)
{
	uint32_t share = (sessions + c->cpu_count - 1) / c->cpu_count;

	return reserve + 2ull * sessions + files_max(c, sessions) +
	       (uint64_t)hook_connections_max(c, share) * c->cpu_count;
}

/* Of one worker, which may get all of the sessions, each with a message and a body that a hook has
 * made. An operation on a file needs a block. */
static uint64_t operations(const struct conf *c, uint32_t sessions)
{
	uint64_t sockets = 2ull * sessions + hook_connections_max(c, sessions);
	uint64_t files = files_max(c, 2ull * sessions) * SPOOL_OPS_MAX;
	uint64_t blocks = c->hold.memory / c->cpu_count / SPOOL_BLOCK_BYTES;

	return sockets * OPS_PER_SOCKET + MIN_OF(files, blocks) + OPS_PER_WORKER;
}

/* The most that fit, one at least. Both sums grow with the number of sessions. */
static void plan_sessions(const struct conf *c, uint64_t reserve, struct process_limits *out)
{
	uint32_t fit = 1, above = c->limits.sessions + 1;

	while (above - fit > 1) {
		uint32_t mid = fit + (above - fit) / 2;

		if (descriptors(c, reserve, mid) > out->nofile)
			out->cut = LIMITS_NOFILE;
		else if (operations(c, mid) > RING_OPS_MAX)
			out->cut = LIMITS_RING;
		else {
			fit = mid;
			continue;
		}
		above = mid;
	}
	out->sessions = fit;
	out->nofile_needed = descriptors(c, reserve, 1);
	out->ring.ops_max = (unsigned)MIN_OF(operations(c, fit), RING_OPS_MAX);
}

void limits_plan_with(const struct conf *c, uint64_t nofile, struct process_limits *out)
{
	uint64_t reserve;

	memset(out, 0, sizeof(*out));
	out->nofile = nofile;
	ring_conf_defaults(&out->ring);
	/* Few descriptors: fewer pipes, copying instead. */
	out->ring.pipe_count_max = (unsigned)MIN_OF(PIPES_PER_WORKER, nofile / 64 / c->cpu_count);
	out->ring.zc_count = any_mover(c, MOVER_ZERO_COPY) ? ZC_BUFFERS : 0;
	out->ring.zc_bytes = ZC_BUFFER_BYTES;
	reserve = FDS_OF_PROCESS + limits_addresses(c) * c->cpu_count +
		  (uint64_t)c->cpu_count * (FDS_PER_WORKER + 2 * out->ring.pipe_count_max);
	plan_sessions(c, reserve, out);
	out->worker.sessions_max = out->sessions;
	out->worker.memory_bytes = c->limits.memory / c->cpu_count;
	out->memlock_needed = feat_memlock_needed(&out->ring) * c->cpu_count;
	out->memlock_limit = feat_memlock_limit();
}

void limits_plan(const struct conf *c, struct process_limits *out)
{
	raise_nofile();
	limits_plan_with(c, feat_nofile_limit(), out);
}
