/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the sink keeps of one message when somebody will look at it (--print, --store, --hash): its
 * envelope, its hash and id, its file. Allocates, a message at a time. Thread: the sink's.
 */
#ifndef BENCH_KEEP_H
#define BENCH_KEEP_H

#include "bench/lib/content.h"
#include "bench/lib/json.h"
#include "bench/lib/store.h"

#define KEEP_ENVELOPE_BYTES_MAX (1u << 20)

struct keep {
	struct content content;
	struct unstuff unstuff;
	struct store_file file;
	struct store *store; /* borrowed; NULL: not stored */
	char *env; /* "MAIL mailbox", "MAIL-PARAMETERS ...", "RCPT mailbox", ... a line; owns */
	size_t env_len, env_cap;
	bool begun; /* the file is open */
};

/* `whole` and `check` as in content.h. NULL: no memory. */
struct keep *keep_new(struct store *store, bool whole, bool check);
void keep_free(struct keep *m); /* takes an unfinished file back; NULL is fine */

/* `what` is MAIL or RCPT; an empty mailbox is the null sender. True when m is NULL. False: no
 * memory, or it would pass KEEP_ENVELOPE_BYTES_MAX. */
bool keep_path(
	struct keep *m, const char *what, struct span mailbox, struct span parameters) MUST_USE;
/* Body octets in order; `dots`: dot-stuffed and with the final dot. */
void keep_body(struct keep *m, struct span in, bool dots);
/* The message is whole. False: it could not be stored. */
bool keep_commit(struct keep *m) MUST_USE;
/* "from", "parameters" and "to" */
void keep_print_envelope(struct json *j, const struct keep *m);

#endif
