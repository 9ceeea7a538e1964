/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Local addresses to connect from: single ones, ranges and prefixes, so that many connections do
 * not run out of ports (about 28,000 to one destination from each). Pure; fixed size; IPv4 and
 * IPv6.
 */
#ifndef BENCH_SOURCES_H
#define BENCH_SOURCES_H

#include "ring/listen.h"

#define SOURCES_MAX 64		     /* ranges */
#define SOURCES_RANGE_MAX (1u << 24) /* addresses in one of them */

struct source_range {
	struct ring_addr first; /* port 0: the kernel chooses it */
	uint64_t count;
};

struct sources {
	struct source_range range[SOURCES_MAX];
	unsigned ranges;
	uint64_t count; /* of addresses, in all ranges */
};

/* Adds "ADDR", "FIRST-LAST" or "ADDR/BITS", more of them behind commas. Of an IPv4 prefix shorter
 * than 31 bits the first and the last address are left out: those of the network and its broadcast.
 * False: not that, or too many; what was added before stays. */
bool sources_add(struct sources *s, const char *text) MUST_USE;
/* Number `i`, counted round and round; there is at least one. */
void sources_at(const struct sources *s, uint64_t i, struct ring_addr *out);

#endif
