/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Counters: one table per worker, written by that worker only, read by anybody with relaxed loads.
 */
#ifndef OBS_STAT_H
#define OBS_STAT_H

#include "ring/base.h"

struct stat_table {
#define X(name, text) uint64_t name;
#include "engine/obs/counters.def"
#undef X
};

/* Only the owning worker adds; a plain increment that other threads may watch. */
#define STAT_ADD(t, name, n)         \
	__atomic_store_n(&(t)->name, \
		__atomic_load_n(&(t)->name, __ATOMIC_RELAXED) + (uint64_t)(n), __ATOMIC_RELAXED)
#define STAT_INC(t, name) STAT_ADD(t, name, 1)
#define STAT_DEC(t, name) STAT_ADD(t, name, -1)
#define STAT_SET(t, name, v) __atomic_store_n(&(t)->name, (uint64_t)(v), __ATOMIC_RELAXED)

struct stat_row {
	const char *name, *text;
	size_t offset;
};
extern const struct stat_row stat_rows[];
extern const size_t stat_row_count;
uint64_t stat_read(const struct stat_table *t, size_t row);

#endif
