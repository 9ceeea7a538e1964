/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Between the two halves of the plugin hook: plugin_load.c brings a shared object in and judges it,
 * plugin.c talks to it.
 */
#ifndef HOOK_PLUGIN_INT_H
#define HOOK_PLUGIN_INT_H

#include "engine/hook/hook_int.h"
#include "engine/hook/ringpost.h"

#define PLUGIN_NAME_BYTES_MAX 64

struct plugin {
	struct hook *hook;
	void *object; /* of dlopen() */
	int fd;	      /* of the file; open as long as the object is there */
	const struct ringpost_plugin *says;
	struct ringpost_host host; /* its handle is this struct */
	void *self;		   /* the plugin's own */
};

/* Opens and checks the file, loads it, finds and checks its descriptor. False with the reason;
 * nothing is left open then. */
bool plugin_load(struct plugin *p, const char *file, char *why, size_t why_max) MUST_USE;
void plugin_unload(struct plugin *p);

#define PLUGIN_CLIENT_BYTES 48
/* "192.0.2.1", "2001:db8::1" (RFC 5952; no scope, a mapped IPv4 address as IPv4), "unix:"; returns
 * its length. inet_ntop() would cost more than all the rest of an event. */
size_t plugin_client_text(const struct ring_addr *a, char out[PLUGIN_CLIENT_BYTES]);

#endif
