/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the running kernel offers, found by trying, never by version number. `ringpost doctor`
 * prints these rows. Any thread, before rings exist; makes and drops its own small rings.
 */
#ifndef RING_FEAT_H
#define RING_FEAT_H

#include "ring/ring.h"

struct feat_row {
	enum ring_feat bit;  /* 0 for a requirement without a bit of its own */
	const char *name;    /* "incremental receive buffers" */
	const char *since;   /* "6.12" */
	const char *without; /* what is used instead; NULL = ringpost does not run without it */
	bool (*try_it)(void);
};

extern const struct feat_row feat_rows[];
extern const size_t feat_row_count;

/* All RING_FEAT_* bits that work here. False and *why when no ring can be made at all. */
bool feat_probe(uint32_t *bits, struct ring_barrier *why);

/* Locked memory in bytes that one ring of this shape is charged (kernel 6.x charges the rings
 * themselves), and the limits of this process. */
uint64_t feat_memlock_needed(const struct ring_conf *c);
uint64_t feat_memlock_limit(void); /* UINT64_MAX = unlimited or CAP_IPC_LOCK */
uint64_t feat_nofile_limit(void);
/* Turns a failed io_uring_setup(2) into words: sysctl, seccomp, memlock, nofile, old kernel. */
void feat_explain(int err, const struct ring_conf *c, struct ring_barrier *why);

#endif
