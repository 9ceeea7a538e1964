/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Between the files of this room: link.c has the life of a link and its replies, secure.c its TLS.
 */
#ifndef UPSTREAM_LINK_INT_H
#define UPSTREAM_LINK_INT_H

#include "engine/upstream/link.h"
#include "tls/tls.h"

/* ---- link.c ---- */

/* The one way to end by itself. Nothing of the link may be used afterwards. */
void link_lose(struct link *l, enum link_end why);
/* What is waited for has to be there by then; 0: nothing is waited for. */
void link_set_deadline(struct link *l, uint64_t at_ms);
uint64_t link_now_ms(const struct link *l);
void link_log(struct link *l, const char *state, const char *reason); /* NULL: without */
/* Connected, as its upstream wants it: the greeting is due. */
void link_reached(struct link *l);
/* It is as if it could not be reached: the next server. */
void link_dial_failed(struct link *l, enum ring_res why);
/* The same server again, in clear. */
void link_dial_plain(struct link *l);
/* Secured: a replacement says its hello, anybody else is up. */
void link_go_on(struct link *l);

/* ---- secure.c ---- */

/* Connected to an upstream that is TLS from the first octet. */
void link_tls_implicit(struct link *l);
/* A reply in LINK_TLS_HELLO, LINK_TLS_START; `behind`: octets have come behind it. */
void link_tls_reply(struct link *l, const struct smtp_reply *r, bool behind);
/* TLS or the way to it ends here with the stream (on_end, on_broken), or with the time. False: that
 * is not where the link is, or nothing that is TLS's. */
bool link_tls_ended(struct link *l, enum ring_res why);
bool link_tls_timer(struct link *l, bool late);
void link_tls_opened(struct link *l); /* on_open */
void link_tls_broken(struct link *l); /* a secured link has got what is no TLS, or an alert */

#endif
