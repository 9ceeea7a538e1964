/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who is connected, over all workers: the process-wide number of sessions, and per client address
 * the open sessions and the connects of the running window. A client's connections land on any
 * core, so this is one table with striped locks, touched once when a connection comes and once when
 * it goes; never on the data path. IPv6 clients are told apart by their /64. Unix socket clients
 * are not counted.
 *
 * Thread: any.
 */
#ifndef CORE_CLIENTS_H
#define CORE_CLIENTS_H

#include "engine/session/session.h"

struct clients;

struct clients *clients_new(uint32_t sessions_max); /* NULL: no memory */
void clients_free(struct clients *c);
/* As struct sess_admission wants them; arg is the struct clients. */
int clients_admit(void *arg, const struct conf_listener *lis, const struct ring_addr *client,
	uint64_t now_ms);
void clients_release(void *arg, const struct ring_addr *client);
uint32_t clients_sessions(const struct clients *c);
uint32_t clients_sessions_max(const struct clients *c);

#endif
