/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From the configuration and what this process may have (descriptors, locked memory, CPUs) to what
 * each worker gets. Control thread, at start.
 */
#ifndef CORE_LIMITS_H
#define CORE_LIMITS_H

#include "engine/conf/conf.h"
#include "engine/session/session.h"

struct process_limits {
	uint32_t sessions;		/* effective, of the process */
	bool sessions_cut;		/* fewer than configured, for want of descriptors */
	uint64_t nofile, nofile_needed; /* to serve anybody at all */
	struct ring_conf ring;		/* per worker */
	struct sess_core_conf worker;
	uint64_t memlock_needed, memlock_limit;
};

/* Raises RLIMIT_NOFILE to its hard limit first. */
void limits_plan(const struct conf *c, struct process_limits *out);
uint32_t limits_addresses(const struct conf *c); /* bound by all listeners together */

#endif
