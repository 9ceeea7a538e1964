/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Messages kept as files: DIR/00000001.eml with the content exactly as it was sent (dot-stuffing
 * undone), and DIR/00000001.env beside it with the envelope, one "NAME value" a line. Numbers go on
 * from the highest found at start; one writer to a directory. A message appears under its name only
 * when it is complete (rename(2)), its .env first. Plain blocking writes; a write that fails makes
 * store_commit() false and leaves nothing behind.
 */
#ifndef BENCH_STORE_H
#define BENCH_STORE_H

#include "ring/base.h"

struct store {
	int dir; /* owns */
	uint64_t next;
};

struct store_file {
	int fd; /* owns; -1 = none */
	uint64_t number;
	bool failed;
};

/* Makes the directory when it is not there. False: errno says why. */
bool store_open(struct store *s, const char *path) MUST_USE;
void store_close(struct store *s);

void store_begin(struct store *s, struct store_file *f);
void store_write(struct store_file *f, struct span piece);
bool store_commit(struct store *s, struct store_file *f, struct span envelope) MUST_USE;
void store_abort(struct store *s, struct store_file *f); /* idempotent */

#endif
