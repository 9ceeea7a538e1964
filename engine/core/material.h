/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From the files that a configuration names to TLS material: every certificate is tried by itself,
 * then each listener and upstream gets what it needs, and every mistake is told in one go, with its
 * place in the configuration. Blocks (files, up to 10 ms for a directory of CAs): never on a
 * worker. Needs tls_library_init().
 */
#ifndef CORE_MATERIAL_H
#define CORE_MATERIAL_H

#include "engine/conf/conf.h"
#include "tls/material.h"

/* What an operator is told of a file. Borrowed until the call returns. */
struct material_note {
	const char *where; /* "file:line:column" of who names it */
	const char *whose; /* "certificates", "listener", "upstream" or "tls" */
	const char *name;  /* of that one; "" when there is but one */
	const char *file;  /* NULL: it is none of the files */
	const char *text;
};

struct material_teller {
	void (*tell)(void *arg, const struct material_note *n);
	void *arg;
};

/* When a certificate ends. The strings are the configuration's. */
struct material_end {
	const char *where, *name, *file;
	int64_t at_s; /* seconds of 1970 */
};

struct material {
	struct tls_material *tls;  /* one reference */
	struct material_end *ends; /* of every certificate, used or not; owns */
	uint32_t end_count;
	struct material *next; /* the owner's */
};

/* Is there anything in it that could be read again? */
bool material_needed(const struct conf *c);
/* Everything that is wrong has been told when NULL comes back. The configuration, `keys` and `log`
 * (both may be NULL) have to outlive it and every connection that was made with it. */
struct material *material_new(const struct conf *c, struct tls_keys *keys, struct tls_keylog *log,
	const struct material_teller *t) MUST_USE;
void material_free(struct material *m); /* NULL: nothing. Gives its reference back */

/* The ring of ticket keys, NULL where there shall be none. False: told. */
bool material_keys(
	const struct conf *c, struct tls_keys **out, const struct material_teller *t) MUST_USE;

/* What is no mistake, but a worry: keys that everybody can read; files that this process, as who it
 * is by now, could not read again. */
void material_worries(const struct conf *c, const struct material_teller *t);

/* How many certificates have ended, or will within tls.expiry-warning. Each of them is told of when
 * its whole days have changed since `before_s` (0: in any case), so once a day. */
uint32_t material_expiring(const struct material *m, const struct conf *c, int64_t now_s,
	int64_t before_s, const struct material_teller *t);

/* A line for each certificate: until when it is good. */
void material_list(const struct material *m, int64_t now_s, FILE *out);

/* A teller for people: "where: whose `name`: file: text", preceded by `before` ("" or "warning: ").
 */
struct material_print {
	FILE *out;
	const char *before;
};
void material_print(void *print, const struct material_note *n);

#endif
