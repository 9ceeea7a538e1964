/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The listeners: they take connections while the sink runs, and say where they are (--port-file). A
 * listener that cannot be had ends the program (69).
 */
#include "bench/sink/sink_int.h"

#include <errno.h>
#include <sys/un.h>
#include <unistd.h>

#define ACCEPT_RETRY_MS 100

static void on_accept(struct ring_op *op, const struct ring_done *d)
{
	struct door *o = CONTAINER_OF(op, struct door, op);
	struct sink *k = o->sink;

	if (d->res == RING_OK && ring_fd_ok(d->fd))
		session_open(k, d->fd);
	if (d->more || rig_stopped())
		return;
	/* Out of descriptors and the like: the backlog waits, sessions that end make room (U14). */
	if (d->res != RING_OK)
		k->n.accept_failed++;
	if (d->res == RING_OK || d->res == RING_CONNABORTED)
		ring_accept(k->rig.ring, op, o->fd);
	else
		timer_set(&k->rig.timers, &o->retry, rig_now_ms(&k->rig) + ACCEPT_RETRY_MS);
}

static void on_retry(struct timer *t)
{
	struct door *o = CONTAINER_OF(t, struct door, retry);

	ring_accept(o->sink->rig.ring, &o->op, o->fd);
}

void door_open(struct sink *k, struct door *o)
{
	char text[ADDR_TEXT_BYTES];
	enum ring_res res = listen_open(&o->addr, 4096, k->reuseport, &o->fd);

	if (res != RING_OK) {
		fprintf(stderr, PROGRAM ": cannot listen on %s: %s (%s)\n",
			addr_text(&o->addr, text), ring_res_text(res), ring_res_word(res));
		exit(RIG_EXIT_UNAVAILABLE);
	}
	if (ring_local_addr(k->rig.ring, o->fd, &o->addr) != RING_OK)
		exit(RIG_EXIT_UNAVAILABLE);
	o->sink = k;
	o->op.done = on_accept;
	timer_init(&o->retry, on_retry);
	ring_accept(k->rig.ring, &o->op, o->fd);
	if (!k->quiet)
		printf("listening on %s\n", addr_text(&o->addr, text));
}

/* Under its name only when complete. */
void doors_write_ports(const struct sink *k)
{
	char part[4096], text[ADDR_TEXT_BYTES];

	snprintf(part, sizeof(part), "%s.part", k->port_file);
	FILE *f = fopen(part, "w");
	for (unsigned i = 0; f && i < k->door_count; i++) {
		const struct ring_addr *a = &k->door[i].addr;

		if (addr_port(a))
			fprintf(f, "%u\n", addr_port(a));
		else
			fprintf(f, "%s\n", addr_text(a, text));
	}
	if (!f || fclose(f) != 0 || rename(part, k->port_file) != 0) {
		fprintf(stderr, PROGRAM ": cannot write %s: %s\n", k->port_file, strerror(errno));
		exit(RIG_EXIT_UNAVAILABLE);
	}
}

void doors_close(struct sink *k)
{
	for (unsigned i = 0; i < k->door_count; i++) {
		struct door *o = &k->door[i];

		timer_stop(&k->rig.timers, &o->retry);
		if (ring_op_armed(&o->op))
			ring_cancel(k->rig.ring, &o->op);
	}
}

bool doors_busy(const struct sink *k)
{
	for (unsigned i = 0; i < k->door_count; i++)
		if (ring_op_armed(&k->door[i].op))
			return true;
	return false;
}

void doors_fini(struct sink *k)
{
	for (unsigned i = 0; i < k->door_count; i++) {
		const struct sockaddr_un *un = (const void *)&k->door[i].addr.ss;

		listen_close(&k->door[i].fd);
		if (un->sun_family == AF_UNIX && un->sun_path[0])
			unlink(un->sun_path);
	}
}
