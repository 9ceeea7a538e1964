/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A ring without a kernel: the third implementation of ring.h, for measuring what is above it. The
 * far ends of its connections are scripts: octets that are there already, said when enough octets
 * came in. A receive hands out a piece of the script itself, a send takes all and only counts: no
 * octet is copied, nothing fails, nothing waits.
 *
 * It has no pipes, no registered buffers and no files, which ring.h allows (the callers copy, or do
 * without): their operations cannot be reached.
 *
 * Thread: one. One ring at a time.
 */
#ifndef BENCH_BYTES_RING_H
#define BENCH_BYTES_RING_H

#include "ring/ring.h"

/* Said when `before` octets came in since the last step was done; then `after` more must come
 * before the next step may begin. */
struct bytes_step {
	uint64_t before;
	struct span say;
	uint64_t after;
	bool end; /* no more octets behind this */
};

/* Steps 0 to loop_from - 1 once, loop_from to loop_to - 1 `rounds` times, the others once. */
struct bytes_script {
	const struct bytes_step *steps;
	uint32_t count, loop_from, loop_to;
	uint64_t rounds;
};

/* Both borrowed by the ring. With `verify` what each side gets must be what the other's script
 * says, octet for octet: bytes_ring_wrong() counts what is not. */
void bytes_ring_scripts(struct ring *r, const struct bytes_script *client,
	const struct bytes_script *server, bool verify);

/* A new connection of a client, as from an accept. */
struct ring_fd bytes_ring_client(struct ring *r);

uint32_t bytes_ring_open(const struct ring *r); /* connections */
/* Turns in a row that had nothing to deliver: a session hangs. */
uint32_t bytes_ring_idle(const struct ring *r);
/* Octets that were not what they should be, and scripts that were not said to their end. */
uint64_t bytes_ring_wrong(const struct ring *r);

#endif
