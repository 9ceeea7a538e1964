/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TLS of an actor: one side of TLS 1.3 over a far end, by wolfSSL itself. The actor says and reads
 * plain octets; what crosses to the engine are records, cut anywhere. The secrets are written into
 * the record of the world, so that the oracle can read what crossed (see.h).
 *
 * Failure modes, on purpose: octets changed on the way, words in clear among the records, an alert,
 * a second handshake (renegotiation), key updates, ends without close_notify (the actor's choice).
 * Thread: one. wolfSSL's time and randomness are the world's: virtual.c.
 */
#ifndef TESTS_SIM_VEIL_H
#define TESTS_SIM_VEIL_H

#include "tests/sim/kernel.h"

/* What a veil does wrong, once. */
enum veil_foul {
	FOUL_NONE,
	FOUL_GARBLE,	  /* an octet of a flight is another one */
	FOUL_CLEAR,	  /* words in clear before it */
	FOUL_ALERT,	  /* a fatal alert in clear behind it */
	FOUL_RENEGOTIATE, /* a ClientHello in clear behind it */
	FOUL_COUNT
};

struct veil_conf {
	bool server;
	bool fouls;	    /* may do something wrong */
	bool renews;	    /* updates its keys now and then */
	bool fouled;	    /* something was said in clear that may not be */
	uint32_t in_clear;  /* octets that were given to the engine before, of this connection */
	uint32_t out_clear; /* ... taken of it */
	uint32_t in_kept, out_kept; /* of those: seen by the oracle, at the front */
};

struct veil;

struct veil *veil_new(struct sim_kernel *k, struct tape *t, int far, const struct veil_conf *conf);
void veil_free(struct veil *v); /* NULL: nothing */
void veil_calm(struct veil *v); /* nothing wrong from here on */

/* Something can be moved between the connection and the veil. */
bool veil_may_take(const struct veil *v);
bool veil_may_give(const struct veil *v);
/* Moves some of it; `all`: all that can be moved. */
void veil_take(struct veil *v, bool all);
void veil_give(struct veil *v, bool all);

size_t veil_room(const struct veil *v); /* plain octets that may be said now */
size_t veil_send(struct veil *v, const void *p, size_t n);
size_t veil_readable(const struct veil *v);
size_t veil_recv(struct veil *v, void *p, size_t n);
bool veil_open(const struct veil *v);
/* Nothing more will ever be readable: the end was said, or the connection has ended, or TLS failed.
 */
bool veil_over(const struct veil *v);
void veil_bye(struct veil *v);	      /* close_notify; nothing may be said afterwards */
bool veil_idle(const struct veil *v); /* all that was said was given to the connection */

/* The test certificate and its key, PEM. */
extern const char veil_cert[], veil_key[];

#endif
