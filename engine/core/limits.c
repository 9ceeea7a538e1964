/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sizing: see limits.h. A session needs two descriptors; what does not fit is refused with 421
 * while a reserve of descriptors lasts to say so.
 */
#include "engine/core/limits.h"

#include "ring/feat.h"

#include <sys/resource.h>

#define PIPES_PER_WORKER 32
#define ZC_BUFFERS 16
#define ZC_BUFFER_BYTES (64u << 10)
#define FDS_PER_WORKER 8 /* ring, bell, eventfd, turned-away clients */
#define FDS_OF_PROCESS 24

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

void limits_plan(const struct conf *c, struct process_limits *out)
{
	uint64_t reserve;

	raise_nofile();
	memset(out, 0, sizeof(*out));
	out->nofile = feat_nofile_limit();
	ring_conf_defaults(&out->ring);
	/* Few descriptors: fewer pipes, copying instead. */
	out->ring.pipe_count_max =
		(unsigned)MIN_OF(PIPES_PER_WORKER, out->nofile / 64 / c->cpu_count);
	out->ring.zc_count = any_mover(c, MOVER_ZERO_COPY) ? ZC_BUFFERS : 0;
	out->ring.zc_bytes = ZC_BUFFER_BYTES;
	reserve = FDS_OF_PROCESS + limits_addresses(c) * c->cpu_count +
		  (uint64_t)c->cpu_count * (FDS_PER_WORKER + 2 * out->ring.pipe_count_max);
	out->nofile_needed = reserve + 2;
	out->sessions = c->limits.sessions;
	uint64_t fit = out->nofile > reserve + 2 ? (out->nofile - reserve) / 2 : 1;
	if (fit < out->sessions) {
		out->sessions = (uint32_t)fit;
		out->sessions_cut = true;
	}
	/* Receive, send, dial or mover operations of two sockets, and the cancel of each. */
	out->ring.ops_max = out->sessions * 8 + 1024;
	out->worker.sessions_max = out->sessions;
	out->worker.memory_bytes = c->limits.memory / c->cpu_count;
	out->memlock_needed = feat_memlock_needed(&out->ring) * c->cpu_count;
	out->memlock_limit = feat_memlock_limit();
}
