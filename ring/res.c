/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The one place where errno values become results (res.def). Pure; any thread.
 */
#include "ring/ring_int.h"

#include <errno.h>

static const struct {
	int err;
	const char *word, *text;
} rows[RING_RES_COUNT] = {
#define X(name, err, word, text) [name] = {err, word, text},
#include "ring/res.def"
#undef X
};

const char *ring_res_word(enum ring_res r)
{
	ASSERT((unsigned)r < RING_RES_COUNT);
	return rows[r].word;
}

const char *ring_res_text(enum ring_res r)
{
	ASSERT((unsigned)r < RING_RES_COUNT);
	return rows[r].text;
}

enum ring_res ring_res_of(int err)
{
	if (err == 0)
		return RING_OK;
	/* A worker thread that was interrupted because its splice was cancelled. */
	if (err == EINTR)
		return RING_CANCELED;
	for (unsigned i = 0; i < RING_RES_COUNT; i++)
		if (rows[i].err == err)
			return (enum ring_res)i;
	return RING_IO;
}
