/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a world is like, chosen by the tape: its kernel, servers, clients, and what it dwells on.
 * Swarm testing (Groce et al. 2012): a world that leaves things out goes deeper into the others.
 */
#ifndef TESTS_SIM_SWARM_H
#define TESTS_SIM_SWARM_H

#include "tests/sim/client.h"
#include "tests/sim/kernel.h"
#include "tests/sim/server.h"
#include "tests/sim/setup.h"

/* What a few worlds dwell on: what chance alone brings together too rarely. A defect that only
 * they would show is planted for each of them (mutants_table.py). */
enum theme {
	THEME_NONE,
	THEME_STARTTLS, /* every session wants it, many say more before they are answered */
	THEME_KILLED,	/* TERM and a second TERM, close together, while chunks are carried */
	THEME_SLOW,	/* servers sleep longer than clients may, sockets are full for a moment */
	THEME_CARRIED, /* large chunks, ways to carry them that cannot be had, servers that sleep */
	THEME_HOOKS,   /* hooks that see, change, discard and keep messages */
	THEME_BOUND,   /* what binds a session to its link, and links that are lost */
	THEME_TLS,     /* TLS on either leg, or both */
};

enum theme swarm_theme(struct tape *t);
void swarm_kernel(struct tape *t, enum theme theme, struct sim_kernel_conf *c);
/* The listener in use; the one behind it may be as well. */
uint32_t swarm_listener(struct tape *t, enum theme theme, const struct setup *s);
/* `strict`: the end of data has one spelling for them. */
void swarm_servers(struct tape *t, enum theme theme, const struct oracle_listener *l, bool strict,
	struct servers_conf *c);
void swarm_clients(
	struct tape *t, enum theme theme, const struct oracle_listener *l, struct clients_conf *c);

#endif
