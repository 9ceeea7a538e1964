/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Accepting on one listening socket for one core: a multishot accept that hands each connection to
 * sess_accept(). When descriptors or memory run out it pauses; the backlog keeps the clients (U14).
 * Thread: the core's.
 */
#ifndef CORE_ACCEPTOR_H
#define CORE_ACCEPTOR_H

#include "engine/session/session.h"

struct acceptor {
	struct ring_op op;
	struct timer retry;
	struct sess_core *core;		 /* borrowed */
	const struct conf_listener *lis; /* borrowed */
	struct ring_fd fd;		 /* the caller's to open and close */
	bool stopped;
};

/* `lis` and `fd` are filled in. */
void acceptor_start(struct acceptor *a, struct sess_core *core);
/* Accepts no more; over when acceptor_busy() says no. */
void acceptor_stop(struct acceptor *a);
static inline bool acceptor_busy(const struct acceptor *a)
{
	return ring_op_armed(&a->op);
}

#endif
