/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The rows of the counter table, for whoever shows all of them (exposition, `ringpost top`, tests).
 * Made from counters.def, so a counter cannot exist without its sentence.
 *
 * Any thread. A reader sees each counter whole (64-bit relaxed loads do not tear), but not all of
 * them at one instant: sums over several counters may be off by what happened in between.
 */
#include "engine/obs/stat.h"

const struct stat_row stat_rows[] = {
#define X(name, text) {#name, text, offsetof(struct stat_table, name)},
#include "engine/obs/counters.def"
#undef X
};

const size_t stat_row_count = ARRAY_LEN(stat_rows);

_Static_assert(sizeof(struct stat_table) == ARRAY_LEN(stat_rows) * sizeof(uint64_t),
	"struct stat_table holds counters and nothing else");

uint64_t stat_read(const struct stat_table *t, size_t row)
{
	ASSERT(row < stat_row_count);
	const char *at = (const char *)t + stat_rows[row].offset;

	return __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
}
