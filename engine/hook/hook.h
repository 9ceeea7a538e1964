/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Where inspection happens: the session tells each event of a mail session here, in order, and acts
 * on the verdict. The hooks of a listener are asked one after the other; the first objection
 * stands, later ones are not asked. An event that no hook of the listener wants costs one branch.
 *
 * A hook answers at once or later. Later, only the asking session waits: it keeps a seat, the open
 * question is a call, and whoever knows the answer finds the call by its token, on whatever thread.
 * Each call has a deadline; what its passing means is configured (`on-failure`).
 *
 * Threads: a hook_set is made and closed by the main thread and read by all; a hook_core belongs to
 * its worker. hook_answer() is for any thread. Spans of an event are valid during the call only.
 */
#ifndef HOOK_HOOK_H
#define HOOK_HOOK_H

#include "engine/conf/conf.h"
#include "engine/obs/log_buf.h"
#include "engine/obs/stat.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/local.h"
#include "ring/mbox.h"
#include "ring/slab.h"
#include "ring/timer.h"

/* X(id, name): the events of DESIGN 6. */
#define HOOK_POINTS(X)                     \
	X(HOOK_CONNECT, "connect")         \
	X(HOOK_EHLO, "ehlo")               \
	X(HOOK_AUTH, "auth")               \
	X(HOOK_MAIL, "mail")               \
	X(HOOK_RCPT, "rcpt")               \
	X(HOOK_DATA, "data")               \
	X(HOOK_END_OF_DATA, "end-of-data") \
	X(HOOK_STARTTLS, "starttls")       \
	X(HOOK_RESET, "reset")             \
	X(HOOK_TRANSACTION, "transaction") \
	X(HOOK_CLOSE, "close")

enum hook_point {
#define X(id, name) id,
	HOOK_POINTS(X)
#undef X
		HOOK_POINT_COUNT
};
#define HOOK_QUESTIONS HOOK_STARTTLS /* from here on nobody waits for an answer */

/* As ringpost.h numbers them (plugin.c). */
enum hook_outcome {
	HOOK_NO_OUTCOME,
	HOOK_ACCEPTED,
	HOOK_REJECTED,
	HOOK_ABORTED,
	HOOK_IN_DOUBT,
	HOOK_CLIENT_GONE
};

struct hook_event {
	enum hook_point point;
	uint64_t sid, tid; /* as the log shows them; tid 0: no transaction */
	const struct ring_addr *client;
	struct span helo;	      /* EHLO: the name being said; later: the one that was said */
	const struct smtp_path *path; /* MAIL, RCPT */
	struct span mechanism;	      /* AUTH */
	uint32_t recipients;	      /* accepted so far */
	uint64_t bytes;		      /* END_OF_DATA, TRANSACTION */
	enum hook_outcome outcome;    /* TRANSACTION */
	uint32_t code;		      /* TRANSACTION: of the reply that decided; 0: none did */
};

/* ---- verdicts ---- */

enum hook_verdict_kind { VERDICT_PASS, VERDICT_REJECT, VERDICT_TEMPFAIL, VERDICT_DROP };

#define HOOK_TEXT_MAX 200

/* What a hook says. Either a reply that lives as long as the configuration, or the parts of one;
 * parts that are empty are filled in by the kind. */
struct hook_verdict {
	enum hook_verdict_kind kind;
	const struct local_reply *reply;
	uint16_t code;
	char enhanced[10], text[HOOK_TEXT_MAX];
};

/* Sets text and enhanced code from untrusted ones: printable, of the code's class, cut to fit. */
void hook_verdict_words(
	struct hook_verdict *v, uint32_t code, const char *enhanced, const char *text);

/* ---- the hooks of a process ---- */

struct hook_set;

/* Opens all hooks of the configuration: loads plugins and hands them their options. NULL when one
 * of them cannot be had; every reason has been written to `err`, with the place in the
 * configuration. `c` stays until hook_set_close(). */
struct hook_set *hook_set_open(const struct conf *c, uint32_t workers, FILE *err) MUST_USE;
/* All workers have ended. */
void hook_set_close(struct hook_set *set);

/* ---- a worker ---- */

struct hook_seat;

struct hook_core {
	struct hook_set *set;
	const uint32_t *wants; /* by conf_listener.index: 1 << enum hook_point; the set's */
	struct ring *ring;
	struct timers *timers;
	struct stat_table *stats;
	struct log_buf *log;
	/* Not a slab: a late answer looks into a call that was given back. */
	struct hook_call *calls; /* calls_max of them; owns */
	uint32_t calls_max, calls_fresh;
	struct hook_call *calls_free;
	struct slab replies; /* of struct hook_reply: what hooks said, while somebody may say it */
	struct slab users;   /* plugins' own pointer per session */
	struct mbox *box;    /* answers from other threads; NULL when no hook needs it */
	uint32_t worker;
	uint64_t *quiet_until_us; /* by hook: no complaint before; owns */
	/* The question of this seat was answered, or its deadline has passed. */
	void (*wake)(struct hook_seat *seat);
};

struct hook_worker_conf {
	struct hook_set *set;
	uint32_t worker;
	uint32_t sessions_max;
	void (*wake)(struct hook_seat *seat);
};

bool hook_core_init(struct hook_core *c, const struct hook_worker_conf *wc, struct ring *r,
	struct timers *timers, struct stat_table *stats, struct log_buf *log) MUST_USE;
/* No seat is left. From here on answers for this worker are refused. */
void hook_core_fini(struct hook_core *c);

/* ---- a session ---- */

struct hook_call;
struct hook_reply;

/* Zeroed. */
struct hook_seat {
	struct hook_call *call;	 /* the question that is open, or whose answer was not fetched */
	struct hook_reply *said; /* replies that the session may still point to */
	void **user;		 /* one for each hook of the set; NULL until a plugin is asked */
};

enum hook_said {
	HOOK_PASS,
	HOOK_NO,    /* *no says what the client is told */
	HOOK_LATER, /* ask again, with the same event, when the seat was woken */
};

/* Does anybody ask for it? What every event costs that nobody wants. */
static inline bool hook_wanted(
	const struct hook_core *c, const struct conf_listener *lis, enum hook_point point)
{
	return (c->wants[lis->index] & 1u << point) != 0;
}

/* Where nobody asks for the event nothing happens; a caller that has something to prepare looks at
 * hook_wanted() first. *drop: it is the last thing the client is told. *no stays until
 * hook_forget_replies(). */
enum hook_said hook_ask(struct hook_core *c, struct hook_seat *seat,
	const struct conf_listener *lis, const struct hook_event *ev, const struct local_reply **no,
	bool *drop);
/* News: from HOOK_QUESTIONS on. */
void hook_tell(struct hook_core *c, struct hook_seat *seat, const struct conf_listener *lis,
	const struct hook_event *ev);

static inline bool hook_waits(const struct hook_seat *seat)
{
	return seat->call != NULL;
}
/* ... and hook_ask() would go on. */
bool hook_answered(const struct hook_seat *seat);

/* Nothing of the session points to a reply of a hook any more. */
void hook_forget_replies(struct hook_core *c, struct hook_seat *seat);
/* The question is void: the command it was about will not be read again. */
void hook_forget_call(struct hook_core *c, struct hook_seat *seat);
/* The session ends; HOOK_CLOSE was told. */
void hook_leave(struct hook_core *c, struct hook_seat *seat);

#endif
