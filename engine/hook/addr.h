/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Addresses as hooks are told them. Pure, any thread; nothing can fail.
 */
#ifndef HOOK_ADDR_H
#define HOOK_ADDR_H

#include "ring/ring.h"

#define HOOK_ADDR_BYTES 48

/* "192.0.2.1", "2001:db8::1" (RFC 5952; no scope, no port, a mapped IPv4 address as IPv4), without
 * a NUL; returns its length, 0 when the address is none of the Internet. inet_ntop() would cost
 * more than all the rest of a plugin's event. */
size_t hook_addr_text(const struct ring_addr *a, char out[HOOK_ADDR_BYTES]);

#endif
