/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Addresses as operators write them, and listening sockets made at start (before privileges are
 * dropped). Not part of the data path: plain system calls.
 */
#ifndef RING_LISTEN_H
#define RING_LISTEN_H

#include "ring/ring.h"

#define ADDR_TEXT_BYTES 128

/* "127.0.0.1:25", "[::1]:25", "unix:/path", "unix:@abstract". False: not an address literal. */
bool addr_parse(struct span text, struct ring_addr *out);
/* The inverse, into buf[ADDR_TEXT_BYTES]; returns buf. */
char *addr_text(const struct ring_addr *a, char *buf);
/* Four octets as "192.0.2.1", without a NUL; returns the end. At most 15 octets. */
char *addr_put_v4(char *to, const uint8_t *octets);
bool addr_equal(const struct ring_addr *a, const struct ring_addr *b);
bool addr_is_loopback(const struct ring_addr *a); /* 127/8, ::1, ::ffff:127/104, Unix sockets */
uint16_t addr_port(const struct ring_addr *a);	  /* 0 for Unix */
bool addr_is_wildcard(const struct ring_addr *a);

/* SO_REUSEPORT where `reuseport` (one per worker), SO_REUSEADDR, TCP_NODELAY (inherited by what it
 * accepts), IPV6_V6ONLY, non-blocking, close-on-exec. A stale Unix socket file is replaced. On
 * failure errno-free: the reason. */
enum ring_res listen_open(
	const struct ring_addr *a, int backlog, bool reuseport, struct ring_fd *out);
void listen_close(struct ring_fd *fd);
/* The address it is bound to (port 0 was a question). */
void listen_addr(struct ring_fd fd, struct ring_addr *out);

#endif
