/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One end of the wire: a network interface, its frames in a ring that the kernel fills (packet(7),
 * TPACKET_V2), and a way to send frames out of it. A frame stays in its slot until port_release(),
 * so that waiting for its time costs nothing, and is sent from there without a copy in between.
 *
 * Frames carry their offload header (virtio_net_hdr): a checksum that the sender left to its
 * network card stays left out, and whoever gets the frame is told so. One thread.
 */
#ifndef BENCH_WIRE_PORT_H
#define BENCH_WIRE_PORT_H

#include "ring/base.h"

#include <sys/uio.h>

struct port {
	const char *name; /* of the interface; borrowed */
	int fd;		  /* owns */
	uint8_t *ring;	  /* owns, mapped */
	size_t ring_bytes;
	uint32_t slot_bytes, slots;
	uint32_t next; /* the slot that the kernel fills next */
	uint32_t frame_max;
	uint64_t overruns; /* frames that found the ring full */
};

struct port_frame {
	uint64_t arrival_ns; /* CLOCK_REALTIME, taken by the kernel */
	uint32_t slot;
	uint32_t bytes;
	bool foreign; /* not to be carried: larger than the MTU, still to be cut, or with a VLAN tag
		       */
};

/* Opens the interface of that name. False: `why` says so, errno is set. */
MUST_USE bool port_open(struct port *p, const char *name, uint64_t ring_bytes, const char **why);
void port_close(struct port *p);

/* The next frame that came, if there is one; its slot is the caller's until port_release(). */
bool port_next(struct port *p, struct port_frame *f);
void port_release(struct port *p, uint32_t slot);

/* The frame in a slot, as port_send() of another port takes it. */
struct iovec port_octets(const struct port *p, uint32_t slot);

#define PORT_SEND_MAX 64

/* Sends up to PORT_SEND_MAX frames. Returns how many of the first ones went; 0: the first could not
 * be sent (errno). */
unsigned port_send(struct port *p, const struct iovec *frames, unsigned count);

void port_count_overruns(struct port *p); /* brings `overruns` up to date */

#endif
