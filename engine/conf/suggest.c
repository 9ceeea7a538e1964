/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * "Did you mean": the nearest known word by edit distance (insert, delete, replace, swap of two
 * neighbours: optimal string alignment), ASCII case and the kind of dash ignored. Pure.
 */
#include "engine/conf/conf_int.h"

#define WORD_BYTES_MAX 64 /* longer words are never near anything */

static uint8_t folded(char c)
{
	return c == '_' ? '-' : ascii_lower((uint8_t)c);
}

unsigned edit_distance(const char *a, const char *b)
{
	unsigned rows[3][WORD_BYTES_MAX + 1]; /* the row before the last, the last, this one */
	unsigned *before = rows[0], *last = rows[1], *now = rows[2];
	size_t n = strlen(a), m = strlen(b);

	if (n > WORD_BYTES_MAX || m > WORD_BYTES_MAX)
		return WORD_BYTES_MAX;
	for (size_t j = 0; j <= m; j++)
		before[j] = last[j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++) {
		unsigned *spare = before;

		now[0] = (unsigned)i;
		for (size_t j = 1; j <= m; j++) {
			bool same = folded(a[i - 1]) == folded(b[j - 1]);
			unsigned best = last[j - 1] + (same ? 0 : 1);

			best = MIN_OF(best, MIN_OF(last[j], now[j - 1]) + 1);
			if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) &&
				folded(a[i - 2]) == folded(b[j - 1]))
				best = MIN_OF(best, before[j - 2] + 1);
			now[j] = best;
		}
		before = last;
		last = now;
		now = spare;
	}
	return last[m];
}

const char *suggest(const char *word, const char *const *words, size_t count)
{
	const char *found = NULL;
	/* A third of the word may differ, and never more than three letters. */
	unsigned near = (unsigned)MIN_OF(MAX_OF(strlen(word) / 3, (size_t)1), (size_t)3) + 1;

	for (size_t i = 0; i < count; i++) {
		unsigned d = edit_distance(word, words[i]);

		if (d < near) {
			near = d;
			found = words[i];
		}
	}
	return found;
}
