/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-sink: an SMTP server that takes mail and does with it what it is told: count, check,
 * print, store; answer late, refuse, hang up. One thread, one ring.
 *
 * RFC 5321 (commands, states, 4.5.2), 2920 (the replies of a pipelining group leave in one send),
 * 3030 (BDAT), 3207 (STARTTLS), 4954 (AUTH), 1870, 2034, 3461, 6152, 6531. Strict where laxness
 * would hide a fault of the peer: only CRLF ends a line and only CRLF.CRLF a message.
 *
 * Failures: at start see lib/rig.h; later a session's trouble ends that session.
 */
#include "bench/sink/sink_int.h"

#include <errno.h>
#include <inttypes.h>

/* 4 KiB cells for the replies that one connection may have staged */
#define CELLS_EACH 4

static void start(struct sink *k)
{
	uint32_t allowed = rig_connections_allowed();
	uint32_t n = k->connections_max ? (uint32_t)k->connections_max : MIN_OF(allowed, 65536u);
	const struct rig_conf rc = {
		.program = PROGRAM,
		.connections = n,
		.cells_each =
			k->starttls || k->tls ? 2 * CELLS_EACH : CELLS_EACH, /* as records, too */
		.cpu = k->cpu == UINT64_MAX ? -1 : (int)k->cpu,
	};

	options_texts(k);
	if (k->store_dir && !store_open(&k->store, k->store_dir)) {
		fprintf(stderr, PROGRAM ": cannot use %s: %s\n", k->store_dir, strerror(errno));
		exit(RIG_EXIT_UNAVAILABLE);
	}
	rig_open(&k->rig, &rc);
	if (!slab_init(&k->slab, "sessions", sizeof(struct sess), n)) {
		fprintf(stderr, PROGRAM ": no memory for %" PRIu32 " sessions\n", n);
		exit(RIG_EXIT_UNAVAILABLE);
	}
	secure_start(k, n);
	for (unsigned i = 0; i < k->door_count; i++)
		door_open(k, &k->door[i]);
	if (k->port_file)
		doors_write_ports(k);
	fflush(stdout);
}

static void turn(struct sink *k)
{
	rig_turn(&k->rig, UINT64_MAX);
	streams_flush(&k->rig.streams);
	if (k->printed) {
		k->printed = false;
		fflush(stdout);
	}
}

static void stop(struct sink *k)
{
	doors_close(k);
	LIST_FOR(it, &k->sessions)
	{
		struct sess *s = CONTAINER_OF(it, struct sess, node);

		s->over = true;
		stream_close(&s->st);
	}
	while (doors_busy(k) || !list_empty(&k->sessions)) {
		streams_flush(&k->rig.streams);
		if (!doors_busy(k) && list_empty(&k->sessions))
			break;
		turn(k);
	}
	doors_fini(k);
}

static void print_stats(struct sink *k)
{
	const struct ring_stats *r = ring_stats(k->rig.ring);
	struct json j;

	json_open(&j, stdout, NULL);
	json_str(&j, "ev", SPAN_LIT("stats"));
#define X(name) json_u64(&j, #name, k->n.name);
	SINK_COUNTERS(X)
#undef X
#define X(name, text) json_u64(&j, "ring_" #name, r->name);
	RING_STATS(X)
#undef X
	json_num(&j, "cpu_s", rig_cpu_seconds());
	json_close(&j);
	putchar('\n');
}

int main(int argc, char **argv)
{
	static struct sink sink; /* large; lives as long as the process */
	struct sink *k = &sink;

	options_defaults(k);
	options_read(k, argc, argv);
	start(k);
	while (!rig_stopped())
		turn(k);
	stop(k);
	if (k->stats)
		print_stats(k);
	secure_stop(k);
	rig_close(&k->rig);
	slab_fini(&k->slab);
	if (k->store_dir)
		store_close(&k->store);
	for (unsigned p = 0; p < POINT_COUNT; p++)
		free((void *)(uintptr_t)k->rule[p].reply);
	fflush(stdout);
	return 0;
}
