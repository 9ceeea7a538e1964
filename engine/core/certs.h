/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The TLS of a running process: material, ticket keys, key log; made at the start, renewed at HUP,
 * watched for certificates that end. Control thread only; workers get their references from it.
 */
#ifndef CORE_CERTS_H
#define CORE_CERTS_H

#include "engine/core/material.h"
#include "engine/obs/log.h"

struct certs {
	const struct conf *conf;
	struct log_buf *log;	   /* borrowed */
	struct stat_table *stats;  /* borrowed */
	struct tls_keys *keys;	   /* owns; NULL: no tickets */
	struct tls_keylog *keylog; /* owns; NULL: none */
	struct material *now;	   /* owns */
	struct material *old;	   /* replaced ones that a worker still has; owns */
	int64_t watched_s;	   /* the last look at what expires */
};

/* Reads all files, as who started us: keys may be root's alone. False: everything that is wrong has
 * been printed; certs_close() is due all the same. */
bool certs_open(struct certs *s, const struct conf *c, FILE *err) MUST_USE;
/* Privileges are dropped, and there is a log: says what is worth a warning. */
void certs_begin(struct certs *s, struct log_buf *log, struct stat_table *stats);
/* HUP: reads certificates, keys and CAs of the same configuration anew. True: workers have to be
 * given what certs_current() says now; false: the old stays, and the log says why. */
bool certs_renew(struct certs *s);
struct tls_material *certs_current(const struct certs *s); /* no reference of the caller's */
/* Now and then: ticket keys that are due, what expires (once an hour), what no worker has any more.
 */
void certs_turn(struct certs *s);
void certs_close(struct certs *s); /* no worker is left */

#endif
