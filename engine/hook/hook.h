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
#include "engine/hook/edits.h"
#include "engine/obs/log_buf.h"
#include "engine/obs/stat.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/local.h"
#include "ring/mbox.h"
#include "ring/slab.h"
#include "ring/stream.h"
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
	X(HOOK_CLOSE, "close")             \
	X(HOOK_BODY, "body")

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
	HOOK_CLIENT_GONE,
	HOOK_DISCARDED
};

/* TLS of the client's leg, when its handshake is done. */
struct hook_tls {
	struct span version, cipher; /* "TLSv1.3", "TLS_AES_128_GCM_SHA256" */
	uint32_t bits;		     /* of the cipher's key */
	struct span sni;	     /* the name that the client asked for; may be empty */
	bool certified;		     /* the client showed a certificate */
	bool verified;		     /* ... and it is good */
	struct span subject;	     /* of it: any octets, TLS_SUBJECT_MAX at most; may be empty */
	struct span sha256;	     /* of it: 32 octets, or none */
};

struct hook_event {
	enum hook_point point;
	/* As the log shows them. tid 0: no transaction; MAIL: the one it is going to be. */
	uint64_t sid, tid;
	const struct ring_addr *client;
	const struct ring_addr *server; /* where the client has come in */
	const struct hook_tls *tls;	/* NULL: in clear, or carried unread */
	struct span helo;	      /* EHLO: the name being said; later: the one that was said */
	const struct smtp_path *path; /* MAIL, RCPT */
	bool ehlo;		      /* the hello is (or was) an EHLO */
	/* AUTH: what it asks for, and who it says it is if its line tells already. Later: how and
	 * as whom the client has authenticated itself; empty when it has not. */
	struct span mechanism, identity;
	struct span sender;	   /* RCPT, DATA, END_OF_DATA: as the upstream was told it */
	struct span only_rcpt;	   /* DATA, END_OF_DATA: when there is exactly one, else empty */
	uint32_t recipients;	   /* accepted so far */
	uint64_t bytes;		   /* END_OF_DATA, TRANSACTION */
	enum hook_outcome outcome; /* TRANSACTION */
	uint32_t code;		   /* TRANSACTION: of the reply that decided; 0: none did */
	struct span data;	   /* BODY: octets of the message, not dot-stuffed */
};

/* ---- verdicts ---- */

enum hook_verdict_kind {
	VERDICT_PASS,
	VERDICT_REJECT,
	VERDICT_TEMPFAIL,
	VERDICT_DROP,
	VERDICT_DISCARD,	/* the client is told that it was taken, and nobody gets it */
	VERDICT_DEFER_IF_PASS,	/* VERDICT_TEMPFAIL, unless a later hook refuses for good */
	VERDICT_DEFER_IF_REJECT /* goes on; a later VERDICT_REJECT becomes VERDICT_TEMPFAIL */
};

#define HOOK_TEXT_MAX 200

/* What a hook says. Either a reply that lives as long as the configuration, or the parts of one;
 * parts that are empty are filled in by the kind. */
struct hook_verdict {
	enum hook_verdict_kind kind;
	const struct local_reply *reply;
	uint16_t code;
	char enhanced[10], text[HOOK_TEXT_MAX];
	/* VERDICT_PASS: what is to be changed; owned by the verdict, so by whoever has it. */
	struct hook_edits *edits;
};

/* 1 << enum hook_edit_kind of those that can be honoured when a hook of that mode says them there.
 * Of EDIT_HEADER_INSERT before END_OF_DATA: only with index 0, as no field is known yet; whoever
 * takes the edits sees to that. */
uint32_t hook_edits_possible(enum hook_point point, enum conf_hook_mode mode);

/* Sets text and enhanced code from untrusted ones: printable, of the code's class, cut to fit. */
void hook_verdict_words(
	struct hook_verdict *v, uint32_t code, const char *enhanced, const char *text);

/* ---- the hooks of a process ---- */

struct hook_set;

/* Opens all hooks of the configuration: loads plugins and hands them their options. NULL when one
 * of them cannot be had; every reason has been written to `err`, with the place in the
 * configuration. `c` stays until hook_set_close(). */
struct hook_set *hook_set_open(const struct conf *c, uint32_t workers, FILE *err) MUST_USE;
/* All workers have ended: waits for threads that still work for hooks. NULL: none does any more.
 * Else the name of a hook that does not come back within wait_ms; hook_set_close() would wait for
 * it. */
const char *hook_set_settle(struct hook_set *set, uint32_t wait_ms);
/* All workers have ended. */
void hook_set_close(struct hook_set *set);
/* Any thread: the counters that a hook keeps for itself, by index; NULL behind the last one. `hook`
 * as in the configuration. */
const char *hook_set_counter(
	const struct hook_set *set, uint32_t hook, uint32_t index, uint64_t *value);

/* ---- a worker ---- */

struct hook_seat;

struct hook_core {
	struct hook_set *set;
	const uint32_t *wants; /* by conf_listener.index: 1 << enum hook_point; the set's */
	struct ring *ring;
	struct streams *streams;
	struct timers *timers;
	struct stat_table *stats;
	struct log_buf *log;
	void **shares; /* by hook: what its class keeps for this worker; owns the array */
	/* Not a slab: a late answer looks into a call that was given back. */
	struct hook_call *calls; /* calls_max of them; owns */
	uint32_t calls_max, calls_fresh;
	struct hook_call *calls_free;
	struct slab replies; /* of struct hook_reply: what hooks said, while somebody may say it */
	struct slab owns;    /* hooks' own pointer per session */
	struct mbox *box;    /* answers from other threads; NULL when no hook needs it */
	uint32_t worker, sessions_max;
	uint64_t *quiet_until_us; /* by hook: no complaint before; owns */
	/* The question of this seat was answered, or its deadline has passed, or hook_full() is no
	 * longer so. Never from inside a call of the session's. */
	void (*wake)(struct hook_seat *seat);
};

struct hook_worker_conf {
	struct hook_set *set;
	uint32_t worker;
	uint32_t sessions_max;
	void (*wake)(struct hook_seat *seat);
};

bool hook_core_init(struct hook_core *c, const struct hook_worker_conf *wc, struct streams *streams,
	struct timers *timers, struct stat_table *stats, struct log_buf *log) MUST_USE;
/* No seat is left: winds up what hooks have on the ring. True when nothing is; else call it again
 * behind the next turn. */
bool hook_core_idle(struct hook_core *c);
/* hook_core_idle() has said so. From here on answers for this worker are refused. */
void hook_core_fini(struct hook_core *c);
/* Connections that the hooks of a worker may have open at the same time, for so many sessions. */
uint32_t hook_connections_max(const struct conf *c, uint32_t sessions_max);

/* ---- a session ---- */

struct hook_call;
struct hook_reply;

/* Zeroed. */
struct hook_seat {
	struct hook_call *call;	  /* the question that is open, or whose answer was not fetched */
	struct hook_reply *said;  /* replies that the session may still point to */
	void **own;		  /* one for each hook of the set; NULL until one wants it */
	struct hook_edits *edits; /* of the open question, or not taken yet; owns */
	const struct local_reply *deferred; /* of the open question: VERDICT_DEFER_IF_PASS */
	uint8_t soften;			    /* of the open question: VERDICT_DEFER_IF_REJECT */
	uint8_t full;			    /* hooks that cannot take more of the message now */
	uint8_t feeding;		    /* behind HOOK_FEED: who gets the message, + 1 */
};

enum hook_said {
	HOOK_PASS,    /* hook_take_edits() has what is to be changed */
	HOOK_NO,      /* word->reply is what the client is told */
	HOOK_DISCARD, /* the same; it is a 250 */
	HOOK_LATER,   /* ask again, with the same event, when the seat was woken */
	/* END_OF_DATA: the next hook wants to see the message as it is by now. Apply
	 * hook_take_edits(), hook_show() all octets, and ask again. Only of hooks of mode hold-all.
	 */
	HOOK_FEED,
};

/* Does anybody ask for it? What every event costs that nobody wants. */
static inline bool hook_wanted(
	const struct hook_core *c, const struct conf_listener *lis, enum hook_point point)
{
	return (c->wants[lis->index] & 1u << point) != 0;
}

/* Of HOOK_NO and HOOK_DISCARD. */
struct hook_word {
	const struct local_reply *reply; /* stays until hook_forget_replies() */
	bool drop;			 /* the last thing the client is told */
};

/* Where nobody asks for the event nothing happens; a caller that has something to prepare looks at
 * hook_wanted() first. */
enum hook_said hook_ask(struct hook_core *c, struct hook_seat *seat,
	const struct conf_listener *lis, const struct hook_event *ev, struct hook_word *word);
/* What the hooks have asked for since the last time, in their order; NULL: nothing. The caller's.
 */
static inline struct hook_edits *hook_take_edits(struct hook_seat *seat)
{
	struct hook_edits *e = seat->edits;

	seat->edits = NULL;
	return e;
}

/* The arguments of MAIL or RCPT behind EDIT_ADDRESS and EDIT_PARAMS: "FROM:<a@b> SIZE=1" into
 * out[0..max). Returns its length; 0: it does not fit. */
#define HOOK_PARAMS_BYTES_MAX 3072 /* edits.c takes no more */
size_t hook_changed_args(const struct hook_edits *edits, const struct smtp_path *was, bool is_rcpt,
	uint8_t *out, size_t max);

/* What the listener's hooks need of a message. */
enum conf_hook_mode hook_mode(const struct hook_core *c, const struct conf_listener *lis);
/* HOOK_BODY: octets of the message that comes in, to the hooks of mode hold-end that want them;
 * behind HOOK_FEED, to the one that is to be fed. All of ev->data is taken. */
void hook_show(struct hook_core *c, struct hook_seat *seat, const struct conf_listener *lis,
	const struct hook_event *ev);
/* One of them has as much waiting as it should: no more, if it can be helped, until wake(). */
static inline bool hook_full(const struct hook_seat *seat)
{
	return seat->full > 0;
}

/* News: from HOOK_QUESTIONS on, but HOOK_BODY. */
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
/* The question is void, if there is one: the command it was about will not be read again. Changes
 * that were not taken are forgotten with it. */
void hook_forget(struct hook_core *c, struct hook_seat *seat);
/* The session ends; HOOK_CLOSE was told. */
void hook_leave(struct hook_core *c, struct hook_seat *seat);

#endif
