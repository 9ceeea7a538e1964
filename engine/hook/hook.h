/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Where inspection happens: the session tells each event of a mail session here, in order, and acts
 * on the verdict. A listener without hooks costs one branch per event. Built-in rules are the first
 * user; verdicts are immediate so far.
 *
 * Thread: the core's. Spans of an event are valid during the call only.
 */
#ifndef HOOK_HOOK_H
#define HOOK_HOOK_H

#include "engine/conf/conf.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/local.h"

/* X(id, name): the events of DESIGN 6. */
#define HOOK_POINTS(X)                     \
	X(HOOK_CONNECT, "connect")         \
	X(HOOK_EHLO, "ehlo")               \
	X(HOOK_STARTTLS, "starttls")       \
	X(HOOK_AUTH, "auth")               \
	X(HOOK_MAIL, "mail")               \
	X(HOOK_RCPT, "rcpt")               \
	X(HOOK_DATA, "data")               \
	X(HOOK_END_OF_DATA, "end-of-data") \
	X(HOOK_RESET, "reset")             \
	X(HOOK_CLOSE, "close")             \
	X(HOOK_TRANSACTION, "transaction")

enum hook_point {
#define X(id, name) id,
	HOOK_POINTS(X)
#undef X
		HOOK_POINT_COUNT
};

struct hook_event {
	enum hook_point point;
	const struct ring_addr *client;
	struct span helo;	      /* EHLO: the name being said; later: the one that was said */
	const struct smtp_path *path; /* MAIL, RCPT */
	struct span mechanism;	      /* AUTH */
};

/* NULL: pass. Else the refusal (4xx or 5xx), static or part of the snapshot. */
const struct local_reply *hook_ask(const struct conf_listener *lis, const struct hook_event *ev);

#endif
