/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The EHLO reply: what the server offers, and what the client is shown. Pure.
 */
#ifndef SMTP_EHLO_H
#define SMTP_EHLO_H

#include "engine/smtp/reply.h"

enum smtp_ext {
#define X(id, keyword, policy, why) id,
#include "engine/smtp/extensions.def"
#undef X
	EXT_OTHER,
	EXT_COUNT
};

enum ext_policy { EXT_PASS, EXT_STRIP, EXT_OWN };

extern const char *const ext_keywords[EXT_COUNT]; /* EXT_OTHER: "*" */
enum smtp_ext ext_find(struct span keyword);	  /* any case; EXT_OTHER */
enum ext_policy ext_default(enum smtp_ext e);

#define EXT_NAMED_MAX 32 /* extensions not in the table that a configuration names */

/* What a listener shows; a part of the configuration snapshot. */
struct ehlo_policy {
	uint8_t policy[EXT_COUNT]; /* enum ext_policy; EXT_OTHER = the rest */
	struct {
		struct span keyword; /* borrowed from the snapshot; any case */
		uint8_t policy;
	} named[EXT_NAMED_MAX];
	uint8_t named_count;
	bool show_starttls; /* starttls: passthrough (the server must offer it too) */
	bool own_starttls;  /* ours is offered; the server's never is then. Set per session */
	bool hide_auth;	    /* not on this leg, not now. Set per session */
	bool trusted;	    /* XCLIENT and XFORWARD pass when the server offers them */
	uint64_t size_max;  /* our own limit on a message; 0 = none */
};

struct ehlo_caps {
	uint64_t bits;	     /* 1 << enum smtp_ext, as the server said */
	bool has_size_value; /* a number, be it 0 */
	uint64_t size;	     /* the server's SIZE; 0 = no limit known */
	uint64_t hash; /* of all lines but the first, order kept: is a new link like the old one? */
};

static inline bool caps_has(const struct ehlo_caps *c, enum smtp_ext e)
{
	return (c->bits >> e & 1) != 0;
}

/* Reads a complete 250 reply to EHLO. */
void smtp_ehlo_read(const struct smtp_reply *r, struct ehlo_caps *out);

/* Writes the reply as the client shall see it into out[0..max): CRLF everywhere, the server's first
 * line as it is, lines by policy, PIPELINING added when EXT_OWN (also behind a reply of one line,
 * so not for the reply to HELO). Returns its length; 0 when it does not fit. Rules that go before
 * the policy: SIZE is the smaller limit but never added, as a server without it refuses MAIL's
 * SIZE=; the server's STARTTLS needs show_starttls, and with own_starttls ours is the last line;
 * AUTH goes with hide_auth; XCLIENT and XFORWARD are shown exactly when trusted; BINARYMIME goes
 * when CHUNKING does, and when the server has no CHUNKING. EXT_OWN elsewhere is EXT_PASS. */
size_t smtp_ehlo_write(const struct smtp_reply *r, const struct ehlo_caps *caps,
	const struct ehlo_policy *pol, uint8_t *out, size_t max);

#endif
