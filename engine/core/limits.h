/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From the configuration and what this process may have (descriptors, locked memory, CPUs) to what
 * each worker gets. Control thread, at start.
 */
#ifndef CORE_LIMITS_H
#define CORE_LIMITS_H

#include "engine/conf/conf.h"
#include "engine/session/session.h"

enum limits_cut {
	LIMITS_FIT,
	LIMITS_NOFILE, /* for want of descriptors */
	LIMITS_RING,   /* a ring has no more operations */
};

struct process_limits {
	uint32_t sessions;		/* effective, of the process */
	enum limits_cut cut;		/* why they are fewer than configured */
	uint64_t nofile, nofile_needed; /* to serve anybody at all */
	struct ring_conf ring;		/* per worker */
	struct sess_core_conf worker;
	uint64_t memlock_needed, memlock_limit;
};

/* Raises RLIMIT_NOFILE to its hard limit first. */
void limits_plan(const struct conf *c, struct process_limits *out);
/* The same with so many descriptors, whatever the process may have. */
void limits_plan_with(const struct conf *c, uint64_t nofile, struct process_limits *out);
uint32_t limits_addresses(const struct conf *c); /* bound by all listeners together */

#endif
