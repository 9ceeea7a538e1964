/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The session machine, shared by the files of this room.
 *
 *	session.c   life: accept, end, destructor, timeouts, the events of the client's stream
 *	command.c   client -> upstream: one handler per verb
 *	answer.c    upstream -> client: one handler per kind of slot
 *	queue.c     commands in flight paired with their replies, in order
 *	body.c      message octets: DATA, BDAT, and the opaque phase behind STARTTLS
 *	txn.c       transactions and their log records
 *
 * Client input goes through phases:
 *
 *	GREETING -> COMMAND -> BODY  -> COMMAND      DATA answered 354 ... the end of data
 *	                    -> CHUNK -> COMMAND      BDAT n ... n octets
 *	                    -> AUTH  -> COMMAND      334 ... one line
 *	                    -> OPAQUE                STARTTLS answered 220
 *	any -> ENDING                                one destructor: session.c
 *
 * In COMMAND the next line may have to wait (sess_stalled): behind a command whose reply decides
 *what follows, for a link, for room. What waits is in `inq` (copied: receive buffers are shared),
 *an unfinished line in `line`. Every event of either side ends in sess_step(), which takes as much
 *input as may be taken and then derives from the state whether to read, which timer runs, and
 *whether it is over.
 */
#ifndef SESSION_INT_H
#define SESSION_INT_H

#include "engine/hook/hook.h"
#include "engine/session/session.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/line.h"
#include "engine/smtp/local.h"
#include "engine/smtp/scan.h"
#include "ring/mover.h"

#define SCRATCH_BYTES (64u << 10)
#define QUEUE_SLOTS 256	    /* indexes are uint8_t */
#define HELLO_BYTES_MAX 264 /* a longer one is passed, but its link cannot be replaced */
#define TXN_TEXT_MAX 192

enum reply_id {
#define X(id, code, enhanced, text, word) id,
#include "engine/session/replies.def"
#undef X
	REPLY_COUNT
};
extern const struct local_reply sess_replies[REPLY_COUNT];

enum sess_end {
#define X(id, word, reply, text) id,
#include "engine/session/ends.def"
#undef X
	END_COUNT
};

enum sess_phase {
	PHASE_GREETING,
	PHASE_COMMAND,
	PHASE_BODY,
	PHASE_CHUNK,
	PHASE_AUTH,
	PHASE_OPAQUE,
	PHASE_ENDING,
};

/* What becomes of the message octets being received. */
enum body_fate { BODY_PASS, BODY_SWALLOW };

enum slot_kind {
	SLOT_COMMAND, /* any command without a rule of its own below */
	SLOT_HELLO,   /* EHLO, HELO */
	SLOT_MAIL,
	SLOT_RCPT,
	SLOT_DATA,
	SLOT_CHUNK,
	SLOT_FINAL, /* the final dot, or BDAT LAST */
	SLOT_AUTH,
	SLOT_STARTTLS,
	SLOT_XCLIENT,
	SLOT_QUIT,
	SLOT_DISCARD, /* our own command: its reply is for nobody */
	SLOT_KIND_COUNT
};

struct txn;

/* One command and the one reply it is due. */
struct slot {
	const struct local_reply *local; /* ours; NULL = the upstream's */
	struct txn *txn;		 /* counted; may be NULL */
	uint64_t out_mark; /* link bytes_out that means "all of it was taken by the kernel" */
	uint8_t kind;	   /* enum slot_kind */
	bool sync;	   /* input behind it waits */
};

/* A mail transaction: MAIL ... final reply. Counted by the slots that name it and by session.txn.
 */
struct txn {
	struct session *s;
	uint64_t id;
	uint16_t refs;
	bool nested;  /* a second MAIL: it becomes the session's when the upstream takes it */
	bool mail_ok; /* the upstream took MAIL */
	bool chunked; /* BDAT was used */
	bool body_begun;
	bool logged;
	const struct local_reply *refused; /* set: RCPT, DATA, BDAT of it get this */
	uint32_t rcpt_pending, rcpt_ok, rcpt_failed, rcpt_local;
	uint64_t bytes;
	struct scan scan;
	struct stash early; /* the upstream's reply that came in mid-body */
	bool early_bare_lf;
	uint64_t began_us, body_us, dot_us;
	uint16_t code;				  /* of the reply that decided */
	const char *result, *stage, *by, *reason; /* static words */
	const struct conf_server *server;
	uint8_t from_n, to_n, text_n, enhanced_n;
	uint16_t asked_n;
	/* The record names the first recipient that was taken: until there is one, those asked
	 * about wait here as length and octets, oldest first. What does not fit is not named. */
	uint8_t asked[512];
	uint8_t from[255], to[255], text[TXN_TEXT_MAX], enhanced[12];
};

struct session {
	struct sess_core *core;
	const struct conf_listener *lis;
	struct list node; /* in core->all */
	struct stream cli;
	struct link *link; /* borrowed; NULL when there is none */
	struct timer timer;
	uint64_t id;
	uint64_t began_us;
	struct ring_addr client;

	/* client input */
	struct inq inq;	   /* waits */
	struct stash line; /* an unfinished command line */
	size_t line_seen;
	struct move up, down; /* BDAT octets; opaque octets each way */
	const struct local_reply
		*body_reply; /* DATA being swallowed: what the end of it is answered */
	uint64_t chunk_left; /* BDAT octets still to swallow */
	struct txn *txn;     /* being built, or receiving its body; counted */

	/* replies */
	struct slot *queue; /* leased while not empty */
	uint8_t q_head;
	uint16_t q_count;
	uint16_t q_upstream; /* of those, due from the upstream */

	uint64_t client_since_ms; /* the client's turn began, or its last progress */
	uint64_t penalty_until_ms;
	uint64_t seen_out;     /* octets taken by both sides, at the last look */
	struct ehlo_caps caps; /* as told to the client; what a replacement link must offer */
	const struct conf_server *server; /* last used */

	uint64_t link_bytes_in, link_bytes_out; /* of links that are gone */
	uint32_t commands, messages, errors, errors_total, junk;
	uint8_t phase;	       /* enum sess_phase */
	uint8_t fate;	       /* enum body_fate */
	uint8_t end;	       /* enum sess_end; END_NONE while it lives */
	uint8_t end_when_idle; /* enum sess_end: due when no reply is */
	bool ehlo : 1;	       /* EHLO rather than HELO, and accepted */
	bool hello_ok : 1;     /* EHLO or HELO was accepted: repeat it on a new link */
	bool bound : 1;	       /* AUTH, XCLIENT or the like: the link cannot be replaced */
	bool chunk_last : 1;   /* the BDAT being received is the LAST one */
	bool said_ehlo : 1;    /* the last hello that was said */
	bool discard_line : 1; /* rest of a line that was too long */
	bool lingering : 1; /* ending: the last words are out, the client may still be talking */
	bool asked : 1;	       /* the hooks have passed the line that waits */
	bool line_waits : 1;   /* `line` holds a complete line that said LATER */
	bool client_eof : 1;
	bool client_gone : 1; /* reset, or cannot be written to: nobody reads our replies */
	bool client_open : 1; /* its stream is not closed yet */
	bool admitted : 1;
	bool trusted : 1;
	bool up_ended, down_ended; /* opaque: that direction is over, all its octets staged */
	bool up_told, down_told;   /* and the other side was told */
	char auth_mech[20];
	uint16_t auth_code;
	uint16_t hello_n;
	uint8_t hello[HELLO_BYTES_MAX]; /* "EHLO name\r\n" as it was said */
};

/* The name in the hello that was said; empty before. */
static inline struct span sess_helo(const struct session *s)
{
	return s->hello_n > 7 ? span_of(s->hello + 5, s->hello_n - 7u) : SPAN_NONE;
}

static inline uint64_t sess_now_ms(const struct session *s)
{
	return ring_now_us(s->core->ring) / 1000;
}

/* ---- session.c ---- */
/* Runs input, then settles reading, timers and endings. Safe to call from any event; nests
 * harmlessly. */
void sess_step(struct session *s);
/* The one way out. The reply of the row (ends.def) is given unless the client is gone. Idempotent.
 */
void sess_end(struct session *s, enum sess_end why);
void sess_say(struct session *s, const struct local_reply *r,
	const char *detail);		  /* to the client, at once */
void sess_client_turn(struct session *s); /* the client's clock starts anew */
struct link *sess_need_link(
	struct session *s); /* NULL: not yet (being opened) or the session ended */
void sess_drop_link(
	struct session *s); /* closed without a word; what it owes is answered by us, in place */
void sess_client_gone(struct session *s, enum sess_end why); /* nobody is there to answer */

/* ---- command.c ---- */
/* Takes command lines from `in`; octets used. Fewer than in.n means: wait. */
size_t sess_take_commands(struct session *s, struct span in);
size_t sess_take_auth_line(struct session *s, struct span in);

/* ---- answer.c ---- */
bool sess_on_reply(struct session *s, const struct smtp_reply *r); /* false: not yet */
/* A whole reply of the upstream to the client, in the form a client may see. */
void sess_put_reply(struct session *s, struct span raw, bool bare_lf);
void sess_count_reply(struct session *s, unsigned code);
void sess_count_error(struct session *s); /* what errors and soft-errors limit */

/* ---- queue.c ---- */
bool queue_full(const struct session *s);
/* A command that went (or goes now) to the upstream. */
void queue_upstream(struct session *s, enum slot_kind kind, bool sync, struct txn *t);
/* A command that ringpost answers itself, in its place. */
void queue_local(struct session *s, const struct local_reply *r);
struct slot *queue_head(const struct session *s);
struct slot *queue_tail(const struct session *s); /* NULL when empty */
void queue_pop(struct session *s);
bool queue_owes(const struct session *s); /* the client waits for a reply */
bool queue_has_final(const struct session *s);
bool queue_has_committed(
	const struct session *s); /* a final reply is due for octets that have all left */
/* The tail's octets are still coming (BDAT): its reply is not due, and not believed, until release.
 */
void queue_hold_tail(struct session *s);
void queue_release_tail(struct session *s);
bool queue_sync(const struct session *s); /* a command is outstanding that input must wait for */
void queue_emit_local(struct session *s); /* local replies that have reached the head */
/* The upstream is gone: what it owes is answered by us, in place. */
void queue_fail(struct session *s);
void queue_clear(struct session *s);

/* ---- body.c ---- */
void body_begin(struct session *s); /* 354 */
size_t body_take(struct session *s, struct span in, int32_t buf);
void body_refuse(struct session *s,
	const struct local_reply *r); /* never ended upstream; the rest is swallowed, then r */
void body_early_reply(struct session *s, const struct smtp_reply *r);
void body_link_lost(struct session *s); /* in BODY, CHUNK: the rest is swallowed */
void chunk_begin(struct session *s, uint64_t n, enum body_fate fate);
size_t chunk_take(struct session *s, struct span in, int32_t buf);
void opaque_begin(struct session *s);
extern const struct move_events body_move_events;

/* ---- txn.c ---- */
struct txn *txn_new(
	struct session *s, const struct smtp_path *from); /* one reference; NULL when full */
struct txn *txn_ref(struct txn *t);
void txn_unref(struct txn *t); /* the last one writes the record */
void txn_rcpt_asked(struct txn *t, const struct smtp_path *to);
void txn_rcpt_answered(
	struct txn *t, const struct smtp_reply *r); /* in the order they were asked */
/* The reply that decided; by: "upstream" or "ringpost". */
void txn_decide(struct txn *t, const char *result, const char *stage, const struct smtp_reply *r,
	const struct local_reply *local);
void txn_end(struct txn *t, const char *result, const char *stage,
	const char *reason); /* without a reply */
bool txn_committed(const struct session *s,
	const struct slot *slot); /* its last octet was taken by the kernel */

#endif
